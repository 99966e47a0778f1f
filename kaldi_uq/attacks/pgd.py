"""Targeted projected gradient descent at the waveform (step 2 of the paper).

The attacked function is anything that maps waveforms to log-posteriors; the loss is the cross-entropy of the target's
pdf in every frame.  Source: section 2.1 of the paper; Madry et al. 2018.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.io.wav import INT16_SCALE
from kaldi_uq.types import AttackConfig

# (wav (B, N), num_samples (B,)) -> log-posteriors (M, B, T, C): M draws or members
LogPost = Callable[[Tensor, Tensor], Tensor]
# (log of the mean posterior (B, T, C)) -> new targets (B, T)
Realign = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PgdResult:
    """Perturbed waveforms and what happened.

    Attributes:
        wav: (B, N) float32, on the grid of 16-bit audio, within eps of the original.
        first_loss, last_loss: (B,) mean cross-entropy a frame before the first and at the last step, nats.
        live_samples: (B,) share of the samples that had a gradient other than zero in at least one step.
    """

    wav: Tensor
    first_loss: Tensor
    last_loss: Tensor
    live_samples: Tensor


def pgd(
    log_post: LogPost,
    wav: Tensor,
    num_samples: Tensor,
    targets: Tensor,
    lengths: Tensor,
    config: AttackConfig,
    *,
    start: Tensor | None = None,
    realign: Realign | None = None,
) -> PgdResult:
    """Move each waveform towards its target, within eps of where it was.

    Args:
        log_post: the model.  For a random one each call draws anew; average over more draws by returning M of them.
        wav: (B, N) float32 in [-1, 1], on the 16-bit grid (k / 32768).
        num_samples: (B,) int64.
        targets: (B, T) int64 pdf-ids; padded frames are not read.
        lengths: (B,) int64, frames.
        config: eps, steps, step rule.
        start: (B, N) in [-1, 1], the random start as a share of eps; ``None`` starts at the original.
        realign: gives new targets for the current posteriors, every ``config.realign_every`` steps.

    Returns:
        the perturbed waveforms, rounded to 16 bit inside the ball, and the losses.
    """
    inside = torch.arange(wav.shape[1], device=wav.device) < num_samples[:, None]
    eps = whole_steps(config.eps) / INT16_SCALE  # on the grid: after rounding no sample may be further away than eps
    low, high = (wav - eps).clamp_(min=-1.0), (wav + eps).clamp_(max=1.0 - 1.0 / INT16_SCALE)
    valid = torch.arange(targets.shape[1], device=wav.device) < lengths[:, None]
    adversarial = wav if start is None or not config.random_start else torch.clamp(wav + eps * start, low, high)
    adversarial = torch.where(inside, adversarial, torch.zeros_like(wav))
    first = last = torch.zeros(len(wav), device=wav.device)
    live = torch.zeros_like(inside)
    for step in range(config.num_steps if eps > 0 else 0):
        adversarial.requires_grad_(True)
        draws = log_post(adversarial, num_samples)
        if realign is not None and config.realign_every and step and step % config.realign_every == 0:
            targets = realign(torch.logsumexp(draws.detach(), 0) - math.log(len(draws)))
        loss = target_loss(draws, targets, valid)
        (gradient,) = torch.autograd.grad(loss.sum(), adversarial)
        last = loss.detach()
        first = last if step == 0 else first
        gradient = torch.where(gradient.isnan(), 0.0, gradient)  # counted as none, which the checks find
        live |= gradient != 0
        size = step_size(config, eps, step)
        adversarial = torch.clamp(adversarial.detach() - size * gradient.sign(), low, high)
        adversarial = torch.where(inside, adversarial, torch.zeros_like(wav))
    rounded = torch.round(adversarial.detach() * INT16_SCALE) / INT16_SCALE
    share = (live & inside).sum(1) / num_samples
    return PgdResult(torch.where(inside, torch.clamp(rounded, low, high), wav), first, last, share)


def whole_steps(eps: float) -> int:
    """How many steps of 16-bit audio a sample may move.

    >>> whole_steps(0.02), whole_steps(1 / 32768), whole_steps(3e-5)
    (655, 1, 0)
    """
    return math.floor(eps * INT16_SCALE + 1e-6)


def target_loss(draws: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of the target pdfs, averaged over draws and over the valid frames of each utterance.

    Args:
        draws: (M, B, T, C) log-posteriors.
        targets: (B, T) int64.
        valid: (B, T) bool.

    Returns:
        (B,) nats a frame.
    """
    chosen = draws.gather(3, targets[None, :, :, None].expand(len(draws), -1, -1, 1))[..., 0].mean(0)
    return -(chosen * valid).sum(1) / valid.sum(1)


def step_size(config: AttackConfig, eps: float, step: int) -> float:
    """The size of a step: constant, or decaying along half a cosine to nearly zero.

    >>> [round(step_size(AttackConfig(num_steps=4), 0.08, k), 4) for k in range(4)]
    [0.01, 0.0085, 0.005, 0.0015]
    """
    initial = config.step_size or eps / 8
    if config.step_rule == "fixed":
        return initial
    return initial * 0.5 * (1.0 + math.cos(math.pi * step / config.num_steps))


def random_starts(utts: Sequence[str], num_samples: Sequence[int], seed: int) -> np.ndarray:
    """Uniform noise in [-1, 1] for each utterance, the same whatever batch it is in; zero padding.

    Args:
        utts: B utterance ids.
        num_samples: samples of each.
        seed: of the noise.

    Returns:
        (B, N) float32.
    """
    starts = np.zeros((len(utts), max(num_samples)), dtype=np.float32)
    for row, (utt, size) in enumerate(zip(utts, num_samples, strict=True)):
        rng = np.random.default_rng([seed, 1, zlib.crc32(utt.encode())])
        starts[row, :size] = rng.uniform(-1.0, 1.0, size)
    return starts
