"""What an attack minimises: per-frame losses of the target pdfs, one number an utterance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CONFIDENCE = 5.0  # nats by which the margin loss wants the target ahead: more brings no more words, only more noise


def mean_log_post(draws: Tensor) -> Tensor:
    """Logarithm of the mean posterior of draws ``(M, B, T, C)``: ``(B, T, C)``."""
    return draws[0] if len(draws) == 1 else torch.logsumexp(draws, 0) - math.log(len(draws))


def frame_losses(log_post: Tensor, targets: Tensor, kind: str, *, away: bool = False) -> Tensor:
    """Loss of each frame and draw.

    Args:
        log_post: (M, B, T, C) natural logarithms.
        targets: (B, T) int64 pdf-ids.
        kind: ``cross_entropy``, -log P(target), in nats; or ``margin``, how much the best other pdf is ahead of the
            target, in nats, down to minus ``CONFIDENCE``.
        away: away from the targets: minus the loss, without a bound.  A bound would leave frames without a gradient,
            those that are sure of what is spoken or those that have lost it, and made the attack weaker.

    Returns:
        (M, B, T).

    Source: eq. 1 of the paper; Carlini and Wagner 2017, eq. 6 (f_6, on log-posteriors, whose differences are those of
    the logits).
    """
    index = targets[None, :, :, None].expand(len(log_post), -1, -1, 1)
    chosen = log_post.gather(3, index)[..., 0]
    if kind == "cross_entropy":
        return chosen if away else -chosen
    lead = chosen - log_post.scatter(3, index, -math.inf).amax(3)
    return lead if away else (-lead).clamp(min=-CONFIDENCE)


def target_loss(
    draws: Tensor,
    targets: Tensor,
    valid: Tensor,
    kind: str = "cross_entropy",
    *,
    of_mean: bool = False,
    away: bool = False,
) -> Tensor:
    """Mean loss over the valid frames of each utterance.

    Args:
        draws: (M, B, T, C) log-posteriors.
        targets: (B, T) int64 pdf-ids; padded frames are not read.
        valid: (B, T) bool, at least one frame an utterance.
        kind: see :func:`frame_losses`.
        of_mean: the loss of the mean posterior, as for an ensemble that is one model; otherwise the mean over draws of
            their losses, the expectation over a random model.
        away: of an untargeted attack, whose targets are what is spoken; see :func:`frame_losses`.

    Returns:
        (B,) nats a frame.
    """
    return target_shares(draws, targets, valid, kind, of_mean=of_mean, away=away).sum(1)


def target_shares(
    draws: Tensor,
    targets: Tensor,
    valid: Tensor,
    kind: str = "cross_entropy",
    *,
    of_mean: bool = False,
    away: bool = False,
) -> Tensor:
    """What each frame adds to :func:`target_loss`: (B, T), zero on padding; the arguments are the same."""
    losses = frame_losses(mean_log_post(draws)[None] if of_mean else draws, targets, kind, away=away).mean(0)
    return losses.masked_fill(~valid, 0.0) / valid.sum(1, keepdim=True)
