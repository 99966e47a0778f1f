"""Losses with two parts, what is wanted of the words and the detectors' penalty, and ways to descend both.

The sum of the two has a weight that has to be found, and where their gradients disagree each undoes what the other won.
Without a sum: an utterance that has not reached its target descends the loss, one that has descends the penalty.  With
orthogonal projection it moves, to first order, only in directions that leave the other part as it is.

Source: Bryniarski, Hingun, Pachuca, Wang and Carlini 2021, "Evading adversarial example detection defenses with
orthogonal projected gradient descent", sections 3.1 (selective) and 3.2 (orthogonal).
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.goal import BatchGoal, mean_log_post
from kaldi_uq.attacks.loop import Gradient, Shares
from kaldi_uq.attacks.sentries import Sentries
from kaldi_uq.uncertainty import valid_frames

TwoPartsT = TypeVar("TwoPartsT", bound="_TwoParts")


class _TwoParts(BatchGoal):
    """A goal, and the detectors.

    Args:
        goal: what is wanted of the words.
        sentries: the detectors.
    """

    def __init__(self, goal: BatchGoal, sentries: Sentries) -> None:
        super().__init__(goal.lengths, away=goal.away, of_mean=goal.of_mean)
        self.goal, self.sentries = goal, sentries
        self.follows = goal.follows

    @classmethod
    def of_words(cls, *args: Any, **options: Any) -> _TwoParts:
        raise TypeError(f"a penalised goal is made of another one: {cls.__name__}(goal, sentries, ...)")

    def begin(self) -> None:
        self.goal.begin()

    def follow(self, log_mean_post: Tensor, rows: Tensor) -> None:
        self.goal.follow(log_mean_post, rows)

    def penalty(self, draws: Tensor, rows: Tensor, weight: Tensor | float) -> Tensor:
        """The penalty times a weight, (b, T): it is of the whole utterance, and every frame has the same part in it."""
        lengths = self.lengths[rows]
        penalty = weight * self.sentries.penalty(draws, lengths)
        return valid_frames(lengths, draws.shape[2]) * (penalty / lengths)[:, None]

    def select(self: TwoPartsT, rows: Tensor) -> TwoPartsT:
        part = copy.copy(super().select(rows))
        part.goal = self.goal.select(rows)
        return part


class Penalised(_TwoParts):
    """The sum of both, with a weight for each utterance.

    Args:
        goal, sentries: what is wanted of the words, and the detectors.
        weight: (B,) lambda.
    """

    def __init__(self, goal: BatchGoal, sentries: Sentries, weight: Tensor) -> None:
        super().__init__(goal, sentries)
        self.weight = weight

    def shares(self, draws: Tensor, rows: Tensor) -> Tensor:
        return self.goal.shares(draws, rows) + self.penalty(draws, rows, self.weight[rows])

    def select(self, rows: Tensor) -> Penalised:
        part = super().select(rows)
        part.weight = self.weight[rows]
        return part


class OneAtATime(_TwoParts):
    """Both parts apart, and which of them each utterance is to descend; for :func:`one_gradient` alone.

    An utterance has reached its target if the decoder writes it from the mean posterior of the step's own draws.

    Args:
        goal, sentries: what is wanted of the words, and the detectors.
        batch: the batch, whose recogniser decodes.
    """

    def __init__(self, goal: BatchGoal, sentries: Sentries, batch: Batch) -> None:
        super().__init__(goal, sentries)
        self._batch = batch

    def shares(self, draws: Tensor, rows: Tensor) -> Tensor:
        """The target's loss, the penalty, and 1 in every frame of an utterance that has reached its target:

        (3, b, T).
        """
        loss = self.goal.shares(draws, rows)
        penalty = self.penalty(draws, rows, 1.0).to(loss.dtype)
        return torch.stack([loss, penalty, self._reached(draws, rows)[:, None].expand_as(loss).to(loss.dtype)])

    def _reached(self, draws: Tensor, rows: Tensor) -> Tensor:
        batch = self._batch
        with torch.no_grad():
            return batch.verdict(batch.words_of(mean_log_post(draws), rows), rows).success

    def select(self, rows: Tensor) -> OneAtATime:
        part = super().select(rows)
        part._batch = self._batch.select(rows)
        return part


def one_gradient(*, orthogonal: bool, signs: bool = False) -> Gradient:
    """The gradient of one part of an :class:`OneAtATime` for each utterance.

    Of the penalty where the target is reached and something is left of it, else of the target's loss.

    Args:
        orthogonal: only what is orthogonal to the gradient of the other part.
        signs: as of :func:`without`.

    Returns:
        a function for ``run_attack(gradient=...)``; the loss it gives is the target's.
    """

    def gradient(shares_of: Shares, delta: Tensor) -> tuple[Tensor, Tensor]:
        delta = delta.detach().requires_grad_(True)
        loss, penalty, reached = shares_of(delta).sum(2)
        (of_loss,) = torch.autograd.grad(loss.sum(), delta, retain_graph=True)
        (of_penalty,) = torch.autograd.grad(penalty.sum(), delta)
        quiet = ((reached > 0) & (penalty > 0))[:, None]
        own, other = torch.where(quiet, of_penalty, of_loss), torch.where(quiet, of_loss, of_penalty)
        return loss.detach(), without(own, other, signs=signs) if orthogonal else own

    return gradient


def without(gradient: Tensor, other: Tensor, *, signs: bool = False) -> Tensor:
    """A gradient minus so much of another one that what is left is orthogonal to it, utterance by utterance.

    Where steps are of signs, as within a bound on each sample, those of an orthogonal gradient are not orthogonal to
    anything.  There the signs have to be: the steepest of these steps is that of ``gradient - share * other``, with the
    median of ``gradient / other``, weighted with ``|other|``, for the share.

    Args:
        gradient, other: (B, N).
        signs: the signs of the result are orthogonal to ``other`` (but for one sample), instead of the result.

    Returns:
        (B, N).

    >>> one, other = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    >>> without(one, other), without(torch.tensor([[3.0, 2.0, 1.0]]), torch.ones(1, 3), signs=True)
    (tensor([[1., 0.]]), tensor([[ 1.,  0., -1.]]))
    """
    wide, along = gradient.double(), other.double()
    along = along / along.norm(dim=1, keepdim=True).clamp(min=1e-300)
    if signs:
        ratios, order = torch.where(along == 0, 0.0, wide / along).sort(dim=1)
        weights = along.abs().gather(1, order).cumsum(1)
        share = ratios.gather(1, (weights < weights[:, -1:] / 2).sum(1, keepdim=True))
    else:
        share = (wide * along).sum(1, keepdim=True)
    return (wide - share * along).to(gradient.dtype)
