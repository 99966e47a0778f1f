"""Bounds of log mel energies over all changes of the waveform within eps.

The energy of a mel filter in one frame is a quadratic form x'Gx of the frame's samples, as each step before it (mean,
pre-emphasis, window, Fourier transform) is linear.  Under a change d its value is E + g'd + d'Gd with g = 2Gx: the
linear part is known exactly, the rest lies between 0 and the form's maximum over the box.  A frame's log energy is such
a form too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kaldi_uq.feats import framing
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.mfcc import ENERGY_EPS, INT16_SCALE
from kaldi_uq.feats.spectrum import windowed_frames
from kaldi_uq.feats.torchaudio_mfcc import TorchaudioMfcc

# A cell keeps its linear part if this share of that part, beside what the linear form leaves open, is less than the
# cell's whole range: over many cells the linear parts, of the same samples, add up to less than the ranges do.
LINEAR_SHARE = 0.3
MAX_ERROR = 1e-6  # of features in float64


@dataclass(frozen=True)
class CellBounds:
    """What the log energies of an utterance's cells can be: ``centre + linear @ d + radius * [-1, 1]``.

    Attributes:
        low: smallest value, (T, M) float64.
        high: largest value, (T, M).
        centre: (T, M).
        linear: coefficients of the change of each sample of the frame, (T, M, L).
        radius: what the linear form leaves open, (T, M), at least 0.
    """

    low: Tensor
    high: Tensor
    centre: Tensor
    linear: Tensor
    radius: Tensor


def peak_bound(forms: Tensor) -> Tensor:
    """Upper bounds of the maxima of quadratic forms over the box [-1, 1]^L.

    For any positive v, ``d'Gd <= lambda_max(V^-1/2 G V^-1/2) * sum(v)``.  With the row sums of |G| as v this is at most
    the sum of |G|, and for mel filters 1.1 times, in amplitude, what is attained.

    Args:
        forms: positive semi-definite, (M, L, L) float64.

    Returns:
        (M,) float64.

    Source: feasible points of the dual of the semi-definite relaxation (Nesterov 1998, Quality of semidefinite
        relaxation for nonconvex quadratic optimization).
    """
    weight = forms.abs().sum(-1)
    weight = weight + 1e-9 * weight.sum(-1, keepdim=True) / weight.shape[-1]  # positive where a window begins with 0
    root = weight.rsqrt()
    scaled = forms * root.unsqueeze(-1) * root.unsqueeze(-2)
    return torch.linalg.eigvalsh(scaled)[:, -1] * weight.sum(-1) * (1 + 1e-9)  # for the rounding of the eigenvalues


class Cells:
    """The cells of a front end: mel filters, and the frame's energy where the features have it.

    Args:
        front_end: of the kind ``kaldi`` or ``fbank``, in float64.
        offsets: what is added to each cell's energy before the logarithm, (M,) or a number.

    Raises:
        ValueError: a front end that has no certificate.

    Attributes:
        forms: quadratic form of each cell, (M, L, L) float64, on samples in [-1, 1].
        peaks: upper bounds of the forms over the box [-1, 1]^L, (M,).
        compose: from log energies to cepstra or filter banks, (M, D).
    """

    def __init__(self, front_end: FrontEnd, offsets: Tensor | float = 0.0) -> None:
        check_front_end(front_end.config)
        cepstra = front_end.cepstra
        assert not isinstance(cepstra, TorchaudioMfcc)
        self.config = config = cepstra.config
        self.shift = cepstra.shift
        length = len(cepstra.window)
        each = torch.eye(length, dtype=torch.float64, device=cepstra.window.device) * INT16_SCALE
        frames, _ = windowed_frames(
            each,
            cepstra.window.double(),
            shift=cepstra.shift,
            fft_size=cepstra.fft_size,
            preemphasis=config.preemphasis_coefficient,
            remove_dc=config.remove_dc_offset,
        )
        spectrum = torch.fft.rfft(frames[:, 0])
        parts = torch.cat([spectrum.real, spectrum.imag], dim=1)
        weights = cepstra.filters.double().repeat(2, 1)
        self.forms = torch.stack([(parts * weight) @ parts.t() for weight in weights.t()])
        if config.use_energy and config.raw_energy:
            mean = 1 / length if config.remove_dc_offset else 0.0
            raw = (torch.eye(length).to(each) - mean) * INT16_SCALE**2
            self.forms = torch.cat([self.forms, raw.unsqueeze(0)])
        self.peaks = peak_bound(self.forms)
        count = len(self.forms)
        self.floors = torch.full((count,), ENERGY_EPS).to(each)
        if config.use_energy:
            self.floors[-1] = max(ENERGY_EPS, config.energy_floor)
        self.offsets = torch.as_tensor(offsets).to(each).expand(count)
        # The features are linear in the logarithms: what they are at one logarithm of 1 and all others 0.
        logs = torch.eye(count).to(each)
        energy = logs[:, -1:] if config.use_energy else None
        self.compose = cepstra._compose(logs[:, : config.num_mel_bins].exp(), energy)

    def frames(self, wav: Tensor) -> Tensor:
        """The samples of each frame of an utterance: (N,) float64 in [-1, 1] to (T, L).

        Frames beyond the ends of the audio hold its mirror image, as if that could change on its own: what is bounded
        includes every change of the audio.
        """
        config, length = self.config, self.forms.shape[-1]
        signal, size = wav.unsqueeze(0), torch.tensor([len(wav)], device=wav.device)
        if not config.snip_edges:
            first = framing.first_sample(config)
            beyond = max(0, length - length // 2 - self.shift + 2 * (self.shift // 2))
            signal = framing.reflect_ends(signal, size, max(0, -first), beyond, repeat_edge=True)[:, max(0, first) :]
        return signal[0].unfold(0, length, self.shift)[: framing.num_frames(len(wav), config)]

    def check(self, front_end: FrontEnd, wav: Tensor) -> None:
        """Refuse a front end whose features of an utterance, (N,) float64, are not made of these cells.

        Raises:
            ValueError: a step before the logarithm is not known here.
        """
        cepstra, _ = front_end.cepstra_of(wav.unsqueeze(0), torch.tensor([len(wav)], device=wav.device))
        expected = self.bounds(self.frames(wav), 0.0).centre @ self.compose
        error = float((cepstra[0] - expected).abs().max())
        if not error < MAX_ERROR:
            raise ValueError(
                f"no certificate: features differ by {error:g} from what is bounded; before the logarithm there "
                "is a step that has no bounds"
            )

    def bounds(self, frames: Tensor, eps: float) -> CellBounds:
        """Bounds of the log energies over all changes of at most ``eps`` a sample.

        By Minkowski's inequality the root of the energy changes by at most eps times the root of the form's peak; to
        first order the energy changes by at most eps times the sum of \\|g\\|.  The tighter of both holds.

        Args:
            frames: samples of each frame, (T, L) float64.
            eps: largest change, full scale 1.
        """
        half = torch.einsum("mlk,tk->tml", self.forms, frames)
        energy = (half * frames.unsqueeze(1)).sum(-1).clamp_min(0)
        first_order = 2 * eps * half.abs().sum(-1)
        second_order = eps**2 * self.peaks
        root, step = energy.sqrt(), second_order.sqrt()
        lowest = torch.maximum((root - step).clamp_min(0).square(), energy - first_order).clamp_min(0) + self.offsets
        highest = torch.minimum((root + step).square(), energy + first_order + second_order) + self.offsets
        low, high = (torch.maximum(value, self.floors).log() for value in (lowest, highest))
        at = energy + self.offsets  # the energy is at + g'd + [0, second_order]
        # The logarithm lies above its chord and below the tangent of the same slope.
        width = highest - lowest
        flat = width <= 1e-12 * highest
        slope = torch.where(flat, 1 / highest, (highest / lowest).log() / width)
        below = lowest.log() + slope * (at - lowest)
        above = slope * (at + second_order) - slope.log() - 1
        rest = ((above - below) / 2).clamp_min(0)
        linear = (lowest > self.floors) & (2 * rest + LINEAR_SHARE * 2 * slope * first_order < high - low)
        return CellBounds(
            low=low,
            high=high,
            centre=torch.where(linear, (above + below) / 2, (high + low) / 2),
            linear=torch.where(linear, 2 * slope, 0).unsqueeze(-1) * half,
            radius=torch.where(linear, rest, (high - low) / 2),
        )


def check_front_end(config: FrontEndConfig) -> None:
    """Refuse a front end that has no certificate.

    Raises:
        ValueError: says what it has.
    """
    problem = ""
    if config.kind == "torchaudio":
        problem = "normalises by the loudest sample (frontend torchaudio)"
    elif config.kind == "fbank" and not config.fbank.use_log_fbank:
        problem = "has filter banks without logarithm (use_log_fbank false)"
    elif config.cmvn == "speaker":
        problem = "normalises by statistics of the speaker (cmvn speaker)"
    elif config.cmvn != "none" and config.norm_vars:
        problem = "divides by the utterance's deviation (norm_vars)"
    if problem:
        raise ValueError(f"no certificate: the front end {problem}; certify a model with kind kaldi or fbank and means "
                         "alone, of the utterance or of the training set")  # fmt: skip
