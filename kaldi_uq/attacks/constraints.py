"""How far an attack may move the audio: sets of admissible perturbations, for a batch of utterances.

Whatever the constraint, no sample moves further than ``eps`` or leaves the range of 16-bit audio.  Each utterance has
an eps of its own, which is the same for all unless it goes by their level (:func:`level_scale`).
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.io.wav import INT16_SCALE
from kaldi_uq.registry import Registry

ConstraintT = TypeVar("ConstraintT", bound="Constraint")

_ROUNDING = 1e-6  # steps: of a float64 that stands for a whole number of them

CONSTRAINTS: Registry[Callable[..., Constraint]] = Registry("constraint", "kaldi_uq.attacks")


def whole_steps(eps: float) -> int:
    """How many steps of 16-bit audio a sample may move.

    >>> whole_steps(0.02), whole_steps(1 / 32768), whole_steps(3e-5)
    (655, 1, 0)
    """
    return math.floor(eps * INT16_SCALE + _ROUNDING)


def level_scale(config: AttackConfig, wav: Tensor, num_samples: Tensor) -> Tensor:
    """By how much the budget of each utterance is scaled: its root mean square over ``config.eps_level``.

    Args:
        config: ``eps_level``; 0: the budget is the same for all.
        wav: (B, N) in [-1, 1], zero on padding.
        num_samples: (B,) int64.

    Returns:
        (B,) float64.

    >>> wav = torch.tensor([[0.1, -0.1, 0.1], [0.01, 0.01, 0.0]])
    >>> level_scale(AttackConfig(eps_level=0.05), wav, torch.tensor([3, 2]))
    tensor([2.0000, 0.2000], dtype=torch.float64)
    """
    if not config.eps_level:
        return torch.ones(len(wav), dtype=torch.float64, device=wav.device)
    return (wav.double().square().sum(1) / num_samples).sqrt() / config.eps_level


def utterance_eps(config: AttackConfig, wav: Tensor, num_samples: Tensor) -> Tensor:
    """The largest change (B,) of a sample of each utterance, float64, full scale 1; arguments of :func:`level_scale`.

    One that has less than a step of 16-bit audio cannot be attacked.
    """
    return (config.eps * level_scale(config, wav, num_samples)).clamp(max=1.0)


class Constraint(abc.ABC):
    """The admissible perturbations of a batch.

    Args:
        wav: (B, N) float32 in [-1, 1] on the 16-bit grid (k / 32768).
        num_samples: (B,) int64; what lies behind is padding and stays 0.
        eps: largest change of a sample, full scale 1: one number, or (B,), one an utterance.

    Attributes:
        eps: (B,) float32, the largest change on the 16-bit grid, so that rounding cannot lead out of the set; 0: the
            utterance cannot be attacked.
        inside: (B, N) bool, False on padding.
    """

    def __init__(self, wav: Tensor, num_samples: Tensor, eps: float | Tensor) -> None:
        self.inside = torch.arange(wav.shape[1], device=wav.device) < num_samples[:, None]
        self.num_samples = num_samples
        wide = torch.as_tensor(eps, dtype=torch.float64, device=wav.device).expand(len(wav))
        self.eps = (torch.floor(wide * INT16_SCALE + _ROUNDING) / INT16_SCALE).float()
        zero = torch.zeros((), device=wav.device)
        bound = self.eps[:, None]
        self._low = torch.where(self.inside, torch.maximum(-1.0 - wav, -bound), zero)
        self._high = torch.where(self.inside, torch.minimum(1.0 - 1.0 / INT16_SCALE - wav, bound), zero)

    @abc.abstractmethod
    def radius(self) -> Tensor:
        """(B,) the unit of step sizes: a step of this size in :meth:`direction` reaches the edge of the set."""

    @abc.abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest ascent (B, N) for the gradient (B, N), in the constraint's norm, of size 1."""

    @abc.abstractmethod
    def _shrink(self, delta: Tensor) -> Tensor:
        """Bring a perturbation (B, N) into the set; the cap of each sample comes after it."""

    def project(self, delta: Tensor) -> Tensor:
        """The perturbation (B, N), moved into the set."""
        return torch.clamp(self._shrink(delta), self._low, self._high)

    def start(self, noise: Tensor) -> Tensor:
        """A random start from uniform noise (B, N) in [-1, 1]."""
        return self.project(self.eps[:, None] * noise)

    def select(self: ConstraintT, rows: Tensor) -> ConstraintT:
        """The constraint of some utterances of the batch, int64 (b,)."""
        part = object.__new__(type(self))
        for name, value in vars(self).items():
            is_batch = isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(self.num_samples)
            setattr(part, name, value[rows] if is_batch else value)
        return part


class LInf(Constraint):
    """No sample moves further than ``eps``: the paper's constraint."""

    def radius(self) -> Tensor:
        return self.eps

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def _shrink(self, delta: Tensor) -> Tensor:
        return delta


class L2(Constraint):
    """The Euclidean norm of the perturbation is bounded.

    Args:
        wav, num_samples, eps: as of :class:`Constraint`.
        norms: (B,) the bounds; a little less is used, by what rounding to 16 bit can add.
    """

    def __init__(self, wav: Tensor, num_samples: Tensor, eps: float | Tensor, norms: Tensor) -> None:
        super().__init__(wav, num_samples, eps)
        rounding = 0.5 / INT16_SCALE * num_samples.to(norms).sqrt()
        self._norms = (norms - rounding).clamp(min=0.0)

    def radius(self) -> Tensor:
        return self._norms

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient / _norm(gradient)

    def _shrink(self, delta: Tensor) -> Tensor:
        return delta * (self._norms[:, None] / _norm(delta)).clamp(max=1.0)

    def start(self, noise: Tensor) -> Tensor:
        return self.project(noise * (self._norms[:, None] / _norm(noise * self.inside)))


def _norm(values: Tensor) -> Tensor:
    return values.norm(dim=1, keepdim=True).clamp(min=1e-20)


def make_constraint(config: AttackConfig, wav: Tensor, num_samples: Tensor, sample_rate: float) -> Constraint:
    """The constraint of a configuration for a batch.

    Args:
        config: ``constraint``, a registered name, and the numbers that belong to it.
        wav: (B, N) float32 in [-1, 1] on the 16-bit grid.
        num_samples: (B,) int64.
        sample_rate: sample rate of the audio, Hz.
    """
    return CONSTRAINTS.get(config.constraint)(config, wav, num_samples, sample_rate)


@CONSTRAINTS.register("linf")
def _linf(config: AttackConfig, wav: Tensor, num_samples: Tensor, sample_rate: float) -> LInf:
    return LInf(wav, num_samples, utterance_eps(config, wav, num_samples))


@CONSTRAINTS.register("l2")
def _l2(config: AttackConfig, wav: Tensor, num_samples: Tensor, sample_rate: float) -> L2:
    rms = config.rms * level_scale(config, wav, num_samples).to(wav.dtype)
    return L2(wav, num_samples, utterance_eps(config, wav, num_samples), rms * num_samples.to(wav.dtype).sqrt())


@CONSTRAINTS.register("snr")
def _snr(config: AttackConfig, wav: Tensor, num_samples: Tensor, sample_rate: float) -> L2:
    norms = wav.norm(dim=1) * 10.0 ** (-config.snr_db / 20.0)
    return L2(wav, num_samples, utterance_eps(config, wav, num_samples), norms)
