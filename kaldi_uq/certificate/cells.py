"""Bounds of log mel energies over all changes of the waveform within eps.

The energy of a mel filter in one frame is a quadratic form x'Gx of the frame's samples, as each step before it (mean,
pre-emphasis, window, Fourier transform) is linear.  Under a change d its value is E + g'd + d'Gd with g = 2Gx: the
linear part is known exactly, the rest lies between 0 and the form's maximum over the box.  A frame's log energy is such
a form too.

So is the power P of the utterance, x'Cx / N + a constant, which a front end with a ``level`` divides by: C takes the
mean away, therefore the rest d'Cd / N is at most eps^2.  With an offset c of each energy the cell is
log(level^2 E / P + c) = 2 log(level) + log(E + c / level^2 P) - log P.  The change of P is common to all cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kaldi_uq.feats import framing
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.level import SMALLEST_LEVEL
from kaldi_uq.feats.mfcc import ENERGY_EPS, INT16_SCALE
from kaldi_uq.feats.spectrum import windowed_frames
from kaldi_uq.feats.torchaudio_mfcc import TorchaudioMfcc

# A cell keeps its linear part if this share of that part, beside what the linear form leaves open, is less than the
# cell's whole range: over many cells the linear parts, of the same samples, add up to less than the ranges do.
LINEAR_SHARE = 0.3
MAX_ERROR = 1e-6  # of features in float64


@dataclass(frozen=True)
class CellBounds:
    """What the log energies of an utterance's cells can be.

    They are ``centre + linear @ d + shared @ (power @ d + power_radius * u, v) + radius * e`` with d the change of the
    samples, u and v unknowns in [-1, 1] that all cells have in common, and each cell's own e in [-1, 1].

    Attributes:
        low: smallest value, (T, M) float64.
        high: largest value, (T, M).
        centre: (T, M).
        linear: coefficients of the change of each sample of the frame, (T, M, L).
        radius: what the linear form leaves open, (T, M), at least 0.
        shared: coefficients of the change of the utterance's power, and of what log P leaves open, (T, M, 2).
        power: change of the power with each sample of the utterance, (N,).
        power_radius: what that leaves open, ().
    """

    low: Tensor
    high: Tensor
    centre: Tensor
    linear: Tensor
    radius: Tensor
    shared: Tensor
    power: Tensor
    power_radius: Tensor


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

    Raises:
        ValueError: a front end that has no certificate.

    Attributes:
        forms: quadratic form of each cell, (M, L, L) float64, on samples in [-1, 1].
        peaks: upper bounds of the forms over the box [-1, 1]^L, (M,).
        offsets: what the noise floor adds to each energy, (M,).
        level: root mean square that utterances are scaled to; 0: they are not.
        compose: from log energies to cepstra or filter banks, (M, D).
    """

    def __init__(self, front_end: FrontEnd) -> None:
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
        noise = [cepstra.mel_noise, cepstra.energy_noise.view(1)] if config.use_energy else [cepstra.mel_noise]
        self.offsets = torch.cat(noise).to(each)
        self.level = front_end.config.level
        # The features are linear in the logarithms: what they are at one logarithm of 1 and all others 0.
        logs = torch.eye(count).to(each)
        energy = logs[:, -1:] if config.use_energy else None
        self.compose = cepstra._compose(logs[:, : config.num_mel_bins].exp(), energy)

    def frames(self, wav: Tensor) -> Tensor:
        """The samples of each frame of an utterance: (N,) float64 in [-1, 1] to (T, L).

        Frames beyond the ends of the audio hold its mirror image, as if that could change on its own: what is bounded
        includes every change of the audio.
        """
        left, right = self._beyond
        signal, size = wav.unsqueeze(0), torch.tensor([len(wav)], device=wav.device)
        if not self.config.snip_edges:
            signal = framing.reflect_ends(signal, size, max(0, left), right, repeat_edge=True)[:, max(0, -left) :]
        return signal[0].unfold(0, self.forms.shape[-1], self.shift)[: framing.num_frames(len(wav), self.config)]

    def place(self, values: Tensor) -> Tensor:
        """Values of each sample of an utterance, (N,), to where frames look for them; 0 where they see mirror images.

        Frame t begins at t times the shift.
        """
        return torch.nn.functional.pad(values, self._beyond)

    @property
    def _beyond(self) -> tuple[int, int]:
        """Samples before the utterance that frames see, less than 0 if they begin in it, and those behind its end."""
        length = self.forms.shape[-1]
        if self.config.snip_edges:
            return 0, 0
        return -framing.first_sample(self.config), max(0, length - length // 2 - self.shift + 2 * (self.shift // 2))

    def check(self, front_end: FrontEnd, wav: Tensor) -> None:
        """Refuse a front end whose features of an utterance, (N,) float64, are not made of these cells.

        Raises:
            ValueError: a step before the logarithm is not known here.
        """
        cepstra, _ = front_end.cepstra_of(wav.unsqueeze(0), torch.tensor([len(wav)], device=wav.device))
        expected = self.bounds(wav, 0.0).centre @ self.compose
        error = float((cepstra[0] - expected).abs().max())
        if not error < MAX_ERROR:
            raise ValueError(
                f"no certificate: features differ by {error:g} from what is bounded; before the logarithm there "
                "is a step that has no bounds"
            )

    def bounds(self, wav: Tensor, eps: float) -> CellBounds:
        """Bounds of the log energies over all changes of at most ``eps`` a sample.

        By Minkowski's inequality the root of the energy changes by at most eps times the root of the form's peak; to
        first order the energy changes by at most eps times the sum of \\|g\\|.  The tighter of both holds.

        Args:
            wav: one utterance, (N,) float64 in [-1, 1].
            eps: largest change, full scale 1.
        """
        frames = self.frames(wav)
        half = torch.einsum("mlk,tk->tml", self.forms, frames)
        energy = _Range.of_form((half * frames.unsqueeze(1)).sum(-1).clamp_min(0), half.abs().sum(-1), self.peaks, eps)
        slope_of_power = (wav - wav.mean()) / len(wav)
        if self.level:
            value = len(wav) * slope_of_power.square().sum()
            power = _Range.of_form(value, slope_of_power.abs().sum(), torch.ones_like(value), eps)
            power = power.plus(torch.full_like(value, SMALLEST_LEVEL**2))
            scale = self.level**2
        else:  # a constant
            slope_of_power = torch.zeros_like(wav)
            one, none = torch.ones_like(wav[0]), torch.zeros_like(wav[0])
            power, scale = _Range(one, one, one, none, none), 1.0
        low = torch.maximum(scale * energy.low / power.high + self.offsets, self.floors).log()
        high = torch.maximum(scale * energy.high / power.low + self.offsets, self.floors).log()
        weight = self.offsets / scale
        both = energy.plus(weight * power.at, weight * power.low, weight * power.high)
        slope, below, above = both.line()
        power_slope, power_below, power_above = power.line()
        shared = slope * weight - power_slope  # of a change of the power
        radius = (slope * energy.second_order + above - below).clamp_min(0) / 2
        power_rest = (power_above - power_below).clamp_min(0) / 2
        centre = math.log(scale) + slope * (both.at + energy.second_order / 2) + (above + below) / 2
        centre = centre - power_slope * power.at + shared * power.second_order / 2 - (power_above + power_below) / 2
        rest = 2 * (radius + power_rest) + shared.abs() * power.second_order
        moves = slope * energy.first_order + shared.abs() * power.first_order
        linear = scale * energy.low / power.high + self.offsets > self.floors
        linear = linear & (rest + LINEAR_SHARE * 2 * moves < high - low)
        return CellBounds(
            low=low,
            high=high,
            centre=torch.where(linear, centre, (high + low) / 2),
            linear=torch.where(linear, 2 * slope, 0).unsqueeze(-1) * half,
            radius=torch.where(linear, radius, (high - low) / 2),
            shared=torch.stack([torch.where(linear, shared, 0), torch.where(linear, power_rest, 0)], dim=-1),
            power=2 * slope_of_power,
            power_radius=power.second_order / 2,
        )


@dataclass(frozen=True)
class _Range:
    """What positive values can become: ``at`` plus at most ``first_order`` either way plus [0, ``second_order``]."""

    at: Tensor
    low: Tensor
    high: Tensor
    first_order: Tensor
    second_order: Tensor

    @classmethod
    def of_form(cls, value: Tensor, gradient: Tensor, peak: Tensor, eps: float) -> _Range:
        """The range of a quadratic form with this value, sum of half the \\|gradient\\|, and peak over the box."""
        first_order, second_order = 2 * eps * gradient, eps**2 * peak
        root, step = value.sqrt(), second_order.sqrt()
        low = torch.maximum((root - step).clamp_min(0).square(), value - first_order).clamp_min(0)
        high = torch.minimum((root + step).square(), value + first_order + second_order)
        return cls(value, low, high, first_order, second_order)

    def plus(self, at: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> _Range:
        """The sum with a value that can itself be between ``low`` and ``high``."""
        low, high = self.low + (at if low is None else low), self.high + (at if high is None else high)
        return _Range(self.at + at, low, high, self.first_order, self.second_order)

    def line(self) -> tuple[Tensor, Tensor, Tensor]:
        """A slope, and the bounds of what the logarithm adds to slope times value.

        The logarithm lies above its chord and below the tangent of the same slope.
        """
        width = self.high - self.low
        flat = width <= 1e-12 * self.high
        slope = torch.where(flat, 1 / self.high, (self.high / self.low).log() / width)
        return slope, self.low.log() - slope * self.low, -slope.log() - 1


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
    elif config.lda_dim or config.fmllr:
        problem = "transforms features (final.mat, fMLLR)"
    elif config.ivector_dim:
        problem = "takes i-vectors"
    elif config.frame_subsampling_factor > 1:
        problem = "leaves out frames (frame_subsampling_factor)"
    elif config.cmvn != "none" and config.norm_vars:
        problem = "divides by the utterance's deviation (norm_vars)"
    if problem:
        raise ValueError(f"no certificate: the front end {problem}; certify a model with kind kaldi or fbank and means "
                         "alone, of the utterance or of the training set")  # fmt: skip
