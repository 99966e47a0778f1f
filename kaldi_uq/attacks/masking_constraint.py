"""Perturbations that the audio itself masks: their short-time spectrum stays below the masking threshold, or nearly."""

from __future__ import annotations

import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import CONSTRAINTS, Constraint, utterance_eps
from kaldi_uq.audio.masking import HOPS, ShortTime, margin, masking_threshold

PASSES = 4  # between the spectra below the threshold and the spectra of signals
# From the second pass on a cell is cut by so many times its excess, in dB: resynthesis gives back most of what is cut.
# Measured on 80 utterances, with noise of eps 0.05 and with steps twice too long: 0.7 to 1.8 % of the cells end more
# than 1 dB above the threshold (5 to 8 % without it), the highest cell of an utterance by 16 to 21 dB.
OVERCUT = 3.0


class Masking(Constraint):
    """In each cell of time and frequency the perturbation has at most the magnitude that the audio masks, and a margin.

    The unit of steps is the threshold itself: a step of size 1 moves each cell by what is allowed there, in the phase
    of the gradient.  That is the steepest direction in the norm max |cell| / threshold.

    Spectra of overlapping windows depend on each other: after cells are cut to the threshold, the nearest signal has
    slightly different ones.  A few passes bring them together; what is left is measured, not assumed (see
    :func:`kaldi_uq.audio.quality.masking_margin`).

    Args:
        wav, num_samples, eps: as of :class:`kaldi_uq.attacks.constraints.Constraint`.
        masking_db: how far above the threshold the perturbation may be, one number or (B,); 0: fully masked.
        sample_rate: Hz.
        threshold: (B, K, F) of the audio, if it is known already.

    Source: Schoenherr et al. 2019 (spectra cut at the threshold plus a margin); Qin et al. 2019 (the threshold).
    """

    def __init__(
        self,
        wav: Tensor,
        num_samples: Tensor,
        eps: float | Tensor,
        *,
        masking_db: float | Tensor = 0.0,
        sample_rate: float,
        threshold: Tensor | None = None,
    ) -> None:
        super().__init__(wav, num_samples, eps)
        self._frames = ShortTime(sample_rate)
        self._threshold = masking_threshold(wav, sample_rate) if threshold is None else threshold
        self._gain = self._threshold.new_ones(len(wav), 1, 1)
        self.set_margin(torch.as_tensor(masking_db, dtype=wav.dtype, device=wav.device))

    @property
    def threshold(self) -> Tensor:
        """(B, K, F) the masking threshold of the audio, without the margin."""
        return self._threshold

    def set_margin(self, masking_db: Tensor) -> None:
        """Allow another margin above the threshold, dB, () or (B,)."""
        self._gain = (10.0 ** (masking_db / 20.0)).expand(len(self.num_samples))[:, None, None]

    def radius(self) -> Tensor:
        return torch.ones_like(self.num_samples, dtype=torch.float32)

    def direction(self, gradient: Tensor) -> Tensor:
        cells = self._frames.analyse(gradient)
        cells = cells * (self._allowed() / cells.abs().clamp(min=1e-20))
        return self._signal(cells, gradient).clamp(-self.eps[:, None], self.eps[:, None])

    def _shrink(self, delta: Tensor) -> Tensor:
        allowed = self._allowed()
        for number in range(PASSES):
            cells = self._frames.analyse(delta)
            share = (allowed / cells.abs().clamp(min=1e-20)).clamp(max=1.0)
            cells = cells * (share**OVERCUT if number else share)
            delta = self._signal(cells, delta).clamp(-self.eps[:, None], self.eps[:, None])
        return delta

    def _allowed(self) -> Tensor:
        return self._threshold * self._gain

    def ratio_db(self, delta: Tensor) -> Tensor:
        """(B,) the mean of the cells' powers over the threshold's, in dB (the noise-to-mask ratio)."""
        return margin(delta, self._threshold, self.num_samples, self._frames.rate).mean_db

    def _signal(self, cells: Tensor, like: Tensor) -> Tensor:
        return self._frames.synthesise(cells, like.shape[1]) * self.inside


class NoiseToMask(Masking):
    """The mean over cells of power / masked power, the noise-to-mask ratio, is bounded; single cells may be above.

    The bound is ``masking_db``, and the unit of steps.  Where :class:`Masking` moves every cell by what is allowed
    there, this moves the most those that matter most to the loss.  Arguments as of :class:`Masking`.
    """

    def direction(self, gradient: Tensor) -> Tensor:
        cells = self._frames.analyse(gradient / gradient.abs().amax(1, keepdim=True).clamp(min=1e-30))
        allowed = self._allowed()
        weight = (allowed / allowed.amax((1, 2), keepdim=True)) ** 2
        step = self._signal(cells * weight, gradient)
        return step / self._size(step).clamp(min=1e-20)

    def _shrink(self, delta: Tensor) -> Tensor:
        delta = delta.clamp(-self.eps[:, None], self.eps[:, None]) * self.inside
        return delta / self._size(delta).clamp(min=1.0)

    def _size(self, delta: Tensor) -> Tensor:
        """(B, 1) the norm in which the set is a ball of radius 1."""
        cells = self._frames.analyse(delta).abs() / self._allowed()
        counts = ((self.num_samples - 1) // self._frames.hop + HOPS) * cells.shape[2]
        return ((cells**2).sum((1, 2)) / counts).sqrt()[:, None]


@CONSTRAINTS.register("masking")
def _masking(config: AttackConfig, wav: Tensor, num_samples: Tensor, sample_rate: float) -> Masking:
    eps = utterance_eps(config, wav, num_samples)
    return Masking(wav, num_samples, eps, masking_db=config.masking_db, sample_rate=sample_rate)
