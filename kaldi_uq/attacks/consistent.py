"""The attack that knows of rejection by consistency: the target has to be heard in everything near the example, too.

After the attack as it is configured there are rounds.  In each, the defender's search finds what is heard as something
else near the best example so far, and the attack goes on from that example with the sum of the target's loss at it and
at points near it: the one that the search found, and random ones.  With each step of the attack every point takes a
step of its own, to where the target's loss is larger: a game of two, whose inner side is the defender's.

The search itself can be stalled: with ``stall`` the attack makes the gradient small with which a search begins at the
example, by what the loss can rise within the defender's radius, to first order.

Source: Tramèr et al. 2020, "On adaptive attacks to adversarial example defenses"; Shafahi et al. 2019, "Adversarial
training for free!" (one gradient for both sides).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.attacks.adaptive import take_better
from kaldi_uq.attacks.attack import ATTACKS, Attack, random_starts
from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.config import AttackConfig, ConsistentConfig
from kaldi_uq.attacks.consistency import Consistency, search
from kaldi_uq.attacks.constraints import Constraint, make_constraint
from kaldi_uq.attacks.goal import Goal
from kaldi_uq.attacks.loop import AttackResult, Judge, Shares, Verdict
from kaldi_uq.recogniser.base import BaseRecogniser

_POINT_STEP = 0.25  # of the defender's radius
_PROBE = 0.05  # of it, over which the change of the gradient is looked at
_LOST = 1e4  # rank from which on the words are not what is wanted
_FIRST = 1 << 10  # number of the first start of a point: they are none of the attack's own


@ATTACKS.register("consistent")
class Consistent(Attack):
    """The attack as it is configured, then rounds that hold the target near the example.

    Args:
        config, options: ``search_eps`` has to be positive; those of the defender's search that this is made to pass.

    Raises:
        ValueError: also if ``search_eps`` is 0.
    """

    Config = ConsistentConfig
    asked_by = "search_eps"

    def __init__(self, config: AttackConfig | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        if not self.own.search_eps:
            raise ValueError("an attack that knows of a search needs its radius: search_eps, such as half of eps")

    @property
    def own(self) -> ConsistentConfig:
        """The options, with those of the search."""
        assert isinstance(self.config, ConsistentConfig)
        return self.config

    def prepare(
        self, recogniser: BaseRecogniser, waves: Mapping[str, np.ndarray], goal: Goal
    ) -> tuple[Goal, dict[str, list[str]]]:
        """As of :meth:`Attack.prepare`.

        Raises:
            ValueError: also for an attack away from the words, and for fixed draws or stall on a random recogniser.
        """
        if goal.away:
            raise ValueError("an attack that knows of a search holds a target: give it one, or no --untargeted")
        if recogniser.is_random and self.config.eot_draws == "fixed":
            raise ValueError("the rounds go on with some utterances of a batch: eot_draws must be fresh")
        if recogniser.is_random and self.own.stall:
            raise ValueError(
                "stall goes by how the gradient changes, which fresh draws hide: leave it 0 for this model"
            )
        return super().prepare(recogniser, waves, goal)

    def on_batch(self, batch: Batch) -> tuple[AttackResult, Mapping[str, Sequence[Any]]]:
        """Attack a batch.

        Returns:
            the best examples, and the columns ``rounds``, ``consistency`` (what the search finds) and ``passes``.
        """
        config = self.own
        rows = torch.arange(len(batch.utts), device=batch.wav.device)
        rounds = torch.ones_like(rows)
        later = replace(config, num_steps=config.hold_steps, num_starts=1, early_stop=False)
        if later.step_rule == "apgd":
            later = replace(later, step_rule="cosine")
        best = batch.run(judge=self.judge(batch))
        for number in range(config.hold_rounds):
            going = rows[~best.success & (batch.constraint.eps > 0)]
            if not len(going):
                break
            part, wav = batch.select(going), best.wav[going]
            within, points = self._points(part, wav, number)
            held = best.rank[going] < _LOST  # the others have to reach their target first
            found = part.run(
                later,
                judge=self.judge(part),
                start_delta=wav - part.wav,
                gradient=Nearby(points, within, weight=held * config.nearby_weight, stall=held * config.stall),
            )
            take_better(best, found, going, found.rank < best.rank[going])
            rounds[going] += 1
        last = self._search(batch, best.wav, rows)[0]
        values = [one.value for one in last]
        passes = [one.errors <= config.search_words for one in last]
        return best, {"rounds": rounds.tolist(), "consistency": values, "passes": passes}

    def judge(self, batch: Batch) -> Judge:
        """The decoder and the search together: the best has the target's words, and the fewest that change near it."""

        def judge(wav: Tensor, rows: Tensor) -> Verdict:
            words = batch.verdict(batch.hear(wav, rows)[0], rows)
            rank, passes = _LOST + words.rank, torch.zeros_like(words.success)
            reached = words.success.nonzero()[:, 0]  # of the others it does not matter what is near
            if len(reached):
                found = self._search(batch, wav[reached], rows[reached])[0]
                rank[reached] = torch.tensor([one.value for one in found]).to(rank)
                passes[reached] = torch.tensor([one.errors <= self.own.search_words for one in found]).to(passes)
            return Verdict(passes, rank)

        return judge

    def _search(self, batch: Batch, wav: Tensor, rows: Tensor) -> tuple[list[Consistency], Tensor]:
        """The defender's search near candidates of some rows."""
        utts = [batch.utts[row] for row in rows.tolist()]
        return search(batch.recogniser, utts, wav, batch.num_samples[rows], self.own.search)

    def _points(self, batch: Batch, wav: Tensor, number: int) -> tuple[Constraint, Tensor]:
        """What the defender may change of the examples (B, N), and what is added at each of the points of a round."""
        config, sizes = self.own, batch.num_samples
        within = make_constraint(config.search.attack, wav, sizes, batch.recogniser.sample_rate)
        worst = self._search(batch, wav, torch.arange(len(wav), device=wav.device))[1]
        points = [worst - wav]
        for index in range(1, config.nearby):
            start = _FIRST + number * config.nearby + index
            noise = random_starts(batch.utts, sizes.tolist(), config.seed, start, width=wav.shape[1])
            points.append(within.start(torch.from_numpy(noise).to(wav)))
        return within, torch.stack(points)


class Nearby:
    """The gradient of the loss at an example and at points near it, which move to where the loss is larger.

    Args:
        points: (K, B, N) what is added to the example at each point.
        within: what may be added.
        weight: (B,) of the mean of the points' losses, against the loss of the example itself.
        stall: (B,) weight of what the loss can rise from the example within the constraint, to first order.
    """

    def __init__(self, points: Tensor, within: Constraint, *, weight: Tensor, stall: Tensor) -> None:
        self.points, self._within, self._weight, self._stall = points, within, weight, stall

    def __call__(self, shares_of: Shares, delta: Tensor) -> tuple[Tensor, Tensor]:
        loss, slope = self._at_example(shares_of, delta)
        moved = []
        for point in self.points:
            near, pull = _gradient(shares_of, delta + point)
            step = _POINT_STEP * self._within.radius()[:, None]
            moved.append(self._within.project(point + step * self._within.direction(pull)))
            share = self._weight / len(self.points)
            loss, slope = loss + share * near, slope + share[:, None] * pull
        self.points = torch.stack(moved)
        return loss, slope

    def _at_example(self, shares_of: Shares, delta: Tensor) -> tuple[Tensor, Tensor]:
        loss, slope = _gradient(shares_of, delta)
        if not bool(self._stall.any()):
            return loss, slope
        # What the loss can rise is the radius times the sum of |slope|.  Its gradient is a second derivative along the
        # signs of the slope, which is taken from two first ones: the front end is differentiable once.
        radius, step = self._within.radius(), _PROBE * self._within.radius()[:, None]
        _, ahead = _gradient(shares_of, delta + step * slope.sign())
        weight = self._stall * radius
        return loss + weight * slope.abs().sum(1), slope + weight[:, None] * (ahead - slope) / step


def _gradient(shares_of: Shares, delta: Tensor) -> tuple[Tensor, Tensor]:
    """The loss (b,) and its gradient (b, N), 0 where it is no number."""
    at = delta.detach().requires_grad_(True)
    loss = shares_of(at).sum(1)
    (slope,) = torch.autograd.grad(loss.sum(), at)
    return loss.detach(), torch.where(slope.isnan(), 0.0, slope)
