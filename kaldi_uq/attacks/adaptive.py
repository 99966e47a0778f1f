"""The adaptive attack: it knows the detector as well as the model, and must pass the one to count with the other.

It minimises ``target loss + lambda * penalty``.  The penalty is 0 where every detector's score is at the level that is
aimed at, which lies below the threshold: a random model is scored again with other draws, and an example that only just
passes does not pass again.  Lambda is searched for each utterance: where the decoder still writes the target and the
score is above the aim, it grows; where the target is lost, it shrinks.  There are two ways without a lambda, which
descend one of the two at a time (:mod:`kaldi_uq.attacks.penalised`).

Source: Carlini and Wagner 2017, "Adversarial examples are not easily detected"; Tramèr et al. 2020, "On adaptive
attacks to adversarial example defenses".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kaldi_uq.attacks.attack import ATTACKS, Attack
from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.constraints import LInf
from kaldi_uq.attacks.goal import BatchGoal
from kaldi_uq.attacks.loop import AttackResult, Gradient, Judge, Verdict
from kaldi_uq.attacks.penalised import OneAtATime, Penalised, one_gradient
from kaldi_uq.attacks.sentries import Sentries
from kaldi_uq.detector import OneClassDetector
from kaldi_uq.io.files import digest

GROWTH = 10.0  # of lambda while only one side of it is known; after that, the geometric mean of both
_LOST = 2.5  # rank from which on the words are not what is wanted


@ATTACKS.register("adaptive")
class Adaptive(Attack):
    """The attack as it is configured, without penalty, then rounds in which lambda is searched.

    So it is never weaker than the attack that does not know the detector, but for the draws of a random model.  The
    rounds are shorter and begin at the best example so far, with steps that decay from eps/32: larger ones lose it.  As
    long as an utterance has not reached its target, its lambda is 0.  ``orthogonal`` and ``selective`` have the same
    rounds, judge and best example, and no lambda: it stays 0.

    Args:
        detectors: detectors with a threshold, of any class, all of which have to be passed.
        config, options: options of the attack without penalty.
        search: options of the search.

    Raises:
        TypeError: no list of detectors.
    """

    asked_by = "statistics"
    asking = AdaptiveConfig

    def __init__(
        self,
        detectors: Sequence[OneClassDetector],
        config: AttackConfig | None = None,
        *,
        search: AdaptiveConfig | None = None,
        **options: Any,
    ) -> None:
        if isinstance(detectors, OneClassDetector):
            raise TypeError(f"detectors must be a list: Adaptive([detector]); got one {type(detectors).__name__}")
        if isinstance(detectors, Mapping):
            raise TypeError(
                f"detectors must be a list, got a mapping: take some of {', '.join(map(str, detectors)):.200}"
            )
        super().__init__(config, **options)
        self.search = search or AdaptiveConfig()
        self.sentries = Sentries.of(detectors, aim=self.search.aim)

    def _parts(self) -> list[str]:
        watched = [sentry.detector.statistics for sentry in self.sentries.members]
        names = ", ".join(some[0] if len(some) == 1 else f"{len(some)} statistics" for some in watched[:3])
        more = f", and {len(watched) - 3} more" if len(watched) > 3 else ""
        return [f"[{names}{more}]", f"way={self.search.way!r}", *super()._parts()]

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "adaptive": self.search.to_dict(), "detectors": digest(self.sentries.state)}

    def record(self, statistics: Mapping[str, float]) -> dict[str, Any]:
        return self.sentries.record(statistics)

    def on_batch(self, batch: Batch) -> tuple[AttackResult, Mapping[str, Sequence[Any]]]:
        """Attack a batch.

        Returns:
            the best examples, and the columns ``lambda`` (of the round that made the example), ``rounds``, ``excess``
            (of the largest score over its threshold) and ``passes``, as the judge heard them.

        Raises:
            ValueError: a statistic of several draws where the attack uses one, or fixed draws.
        """
        is_random, needs_draws = batch.recogniser.is_random, self.sentries.need_draws
        if is_random and batch.config.eot_samples < 2 and needs_draws:
            raise ValueError(f"{needs_draws[0]} is of several draws: set eot_samples to 2 or more, 10 is good")
        if is_random and batch.config.eot_draws == "fixed":
            raise ValueError("the rounds go on with some utterances of a batch: eot_draws must be fresh")
        size, device = len(batch.utts), batch.wav.device
        rows = torch.arange(size, device=device)
        search = LambdaSearch(size, self.search, device)
        used = torch.zeros(size, device=device)  # lambda of the best example
        rounds = torch.zeros(size, dtype=torch.int64, device=device)
        later = replace(batch.config, num_steps=self.search.round_steps, num_starts=1)
        if later.step_rule == "apgd":
            later = replace(later, step_rule="cosine")
        best = batch.run(judge=self.judge(batch))
        going, found = rows, best
        for number in range(self.search.num_rounds):
            if number:
                part = batch.select(going)
                weight = search.weight[going]
                goal, gradient = self.pull(part, weight)
                start = best.wav[going] - part.wav
                found = part.run(later, goal=goal, judge=self.judge(part), start_delta=start, gradient=gradient)
                better = found.rank < best.rank[going]
                take_better(best, found, going, better)
                used[going[better]] = weight[better]
            rounds[going] += 1
            if self.search.way == "penalty":
                search.update(going, found.rank < _LOST)
            going = going[found.rank > 0]  # the others have all that is aimed at
            if not len(going):
                break
        excess = self.sentries.excess(batch.hear(best.wav, rows)[1])
        return best, {
            "lambda": used.tolist(),
            "rounds": rounds.tolist(),
            "excess": excess.tolist(),
            "passes": (excess <= 0).tolist(),
        }

    def pull(self, batch: Batch, weight: Tensor) -> tuple[BatchGoal, Gradient | None]:
        """What a round with the detectors descends, and how, by ``way``; ``weight`` is lambda (B,)."""
        if self.search.way == "penalty":
            return Penalised(batch.goal, self.sentries, weight), None
        gradient = one_gradient(orthogonal=self.search.way == "orthogonal", signs=isinstance(batch.constraint, LInf))
        return OneAtATime(batch.goal, self.sentries, batch), gradient

    def judge(self, batch: Batch) -> Judge:
        """The decoder and the detectors together; success is to have the words and to pass.

        The best of those is the one that is nearest to the aim, of the others that are heard as the target the one
        nearest to passing, and then the one with the fewest word errors.  The worst of several scorings counts, or the
        best example would be the one with the luckiest draws.
        """

        def judge(wav: Tensor, rows: Tensor) -> Verdict:
            heard, statistics = batch.hear(wav, rows)
            words = batch.verdict(heard, rows)
            tables = [statistics]
            if batch.recogniser.is_random:
                tables += [batch.measure(wav, rows)[1] for _ in range(self.search.num_scorings - 1)]
            excess = torch.stack([self.sentries.excess(table) for table in tables]).amax(0)
            aimed = torch.stack([self.sentries.excess(table, aim=True) for table in tables]).amax(0)
            reached = torch.where(excess <= 0, _squash(aimed), 1 + _squash(excess))
            rank = torch.where(words.success, reached, _LOST + 1 + words.rank)
            return Verdict(words.success & (excess <= 0), rank.float())

        return judge


class LambdaSearch:
    """The weight of the penalty for each utterance of a batch.

    Attributes:
        weight: (B,) lambda of the next round; 0 in the first.

    >>> search = LambdaSearch(1, AdaptiveConfig(lambda_start=1), torch.device("cpu"))
    >>> for reached in (True, True, False, False):
    ...     search.update(torch.tensor([0]), torch.tensor([reached]))
    ...     print(round(search.weight.item(), 2))
    1.0
    10.0
    3.16
    1.78
    """

    def __init__(self, size: int, config: AdaptiveConfig, device: torch.device) -> None:
        self._config = config
        self.weight = torch.zeros(size, device=device)
        self._low = torch.zeros(size, device=device)  # the largest with which the target was reached
        self._high = torch.full((size,), torch.inf, device=device)  # the smallest with which it was lost

    def update(self, rows: Tensor, reached: Tensor) -> None:
        """More where the target was reached (and the score too high), less where it was lost; both (b,)."""
        config, weight = self._config, self.weight[rows]
        low = torch.where(reached, weight, self._low[rows])
        # a target that is lost without any penalty says nothing about lambda: first it has to be reached
        lost = ~reached & (weight > 0)
        high = torch.where(lost, weight, self._high[rows])
        first = torch.where(reached, config.lambda_start, 0.0)
        raised = torch.where(low > 0, low * GROWTH, first)
        between = torch.where(low > 0, (low * high).sqrt(), high / GROWTH)
        self.weight[rows] = torch.where(high.isinf(), raised, between).clamp(max=config.lambda_max)
        self._low[rows], self._high[rows] = low, high


def take_better(best: AttackResult, found: AttackResult, rows: Tensor, better: Tensor) -> None:
    """Replace the better ones among some rows of a batch, and count the work on all of them."""
    for name in ("wav", "last_loss", "success", "rank"):
        getattr(best, name)[rows[better]] = getattr(found, name)[better]
    best.live[rows] |= found.live
    best.steps[rows] += found.steps


def _squash(values: Tensor) -> Tensor:
    """Into (-1, 1), in the same order and with the same signs."""
    return values / (1 + values.abs())
