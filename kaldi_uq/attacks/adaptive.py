"""The adaptive attack: it knows the detector as well as the model, and must pass the one to count with the other.

It minimises ``target loss + lambda * penalty``.  The penalty is 0 where every detector's score is at the level that is
aimed at, which lies below the threshold: a random model is scored again with other draws, and an example that only just
passes does not pass again.  Lambda is searched for each utterance: where the decoder still writes the target and the
score is above the aim, it grows; where the target is lost, it shrinks.

Source: Carlini and Wagner 2017, "Adversarial examples are not easily detected"; Tramèr et al. 2020, "On adaptive
attacks to adversarial example defenses".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kaldi_uq.attacks.config import AdaptiveConfig
from kaldi_uq.attacks.loop import AttackResult, Judge, Penalty, Verdict
from kaldi_uq.attacks.problem import Problem
from kaldi_uq.detector import GaussianDetector
from kaldi_uq.errors import DataError
from kaldi_uq.uncertainty import MEASURES, NEED_DRAWS, measures_from_draws, utterance_statistics

GROWTH = 10.0  # of lambda while only one side of it is known; after that, the geometric mean of both
_LOST = 2.5  # rank from which on the words are not what is wanted


@dataclass(frozen=True)
class Sentry:
    """A calibrated detector of one statistic, and the score that the attack aims at.

    Attributes:
        detector: with its threshold.
        aim: score, at most the threshold.
    """

    detector: GaussianDetector
    aim: float

    @property
    def statistic(self) -> str:
        return self.detector.statistics[0]

    @property
    def measure(self) -> str:
        """The measure of frames that the statistic is made of."""
        return self.statistic.partition("_")[2]

    @property
    def threshold(self) -> float:
        if self.detector.threshold is None:
            raise ValueError(f"the detector of {self.statistic} has no threshold; call calibrate() first")
        return self.detector.threshold

    def score(self, values: Tensor) -> Tensor:
        """The detector's score, differentiable and in the values' own type."""
        z = (values - self.detector.mean) / self.detector.std
        return z.abs() if self.detector.two_sided else z

    def penalty(self, measures: Mapping[str, Tensor], statistics: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        """How far an utterance is above the aim, in standard deviations of the benign statistic, ``(B,)``.

        A maximum or a quantile is the value of one or two frames, and a gradient that moves only these makes others
        the largest.  So the mean over frames of what lies above the aimed value is added.
        """
        excess = (self.score(statistics[self.statistic]) - self.aim).relu()
        if self.statistic.startswith("mean_"):
            return excess
        z = (measures[self.measure] - self.detector.mean) / self.detector.std
        above = (z - self.aim).relu().masked_fill(~valid, 0.0)
        return excess + above.sum(1) / valid.sum(1)


@dataclass(frozen=True)
class Sentries:
    """Several detectors: an utterance passes if none of them calls it an attack."""

    members: tuple[Sentry, ...]

    @classmethod
    def fit(cls, benign: Mapping[str, npt.ArrayLike], config: AdaptiveConfig) -> Sentries:
        """Fit the detectors that a configuration asks for, as the defender does.

        Args:
            benign: ``(B,)`` per statistic, of the set that the defender fits on.
            config: ``statistics``, ``sided``, ``fpr``, ``aim``.

        Raises:
            DataError: a statistic that the model does not have.
        """
        names = tuple(benign) if config.statistics == "all" else config.names
        absent = [name for name in names if name not in benign]
        if absent:
            raise DataError(f"the model has no statistic {absent[0]!r}; it has {', '.join(benign)}")
        members = []
        for name in names:
            for two_sided in {"one": (False,), "two": (True,), "both": (True, False)}[config.sided]:
                detector = GaussianDetector(two_sided, statistic=name).fit(benign).calibrate(config.fpr, benign)
                aim = float(np.quantile(detector.score(benign), config.aim))
                members.append(Sentry(detector, min(aim, float(detector.threshold or 0.0))))
        return cls(tuple(members))

    @property
    def measures(self) -> set[str]:
        """The measures that the statistics are made of."""
        return {member.measure for member in self.members}

    def penalty(self, draws: Tensor, lengths: Tensor) -> Tensor:
        """The sum of the penalties, differentiable in the draws.

        Args:
            draws: (M, B, T, C) log-posteriors.
            lengths: (B,) int64, frames.

        Returns:
            (B,); 0 where every score is at the aim or below.
        """
        found = measures_from_draws([draws])
        measures = {name: found[name] for name in MEASURES if name in self.measures}
        statistics = utterance_statistics(measures, lengths)
        valid = torch.arange(draws.shape[2], device=draws.device) < lengths[:, None]
        return torch.stack([member.penalty(measures, statistics, valid) for member in self.members]).sum(0)

    def excess(self, statistics: Mapping[str, Tensor], *, aim: bool = False) -> Tensor:
        """The largest score above its threshold, or above its aim, ``(B,)``; 0 or less: all detectors pass it."""
        scores = [m.score(statistics[m.statistic].double()) - (m.aim if aim else m.threshold) for m in self.members]
        return torch.stack(scores).amax(0)

    def record(self, statistics: Mapping[str, float]) -> dict[str, Any]:
        """What the detectors decide about one utterance: ``excess`` of the largest score, and ``passes``."""
        values = {member.statistic: np.array([statistics[member.statistic]]) for member in self.members}
        excess = max(float(m.detector.score(values)[0]) - m.threshold for m in self.members)
        return {"excess": excess, "passes": not any(bool(m.detector.is_attack(values)[0]) for m in self.members)}


@dataclass(frozen=True)
class Adaptive:
    """The strategy: the attack as it is configured, without penalty, then rounds in which lambda is searched.

    So it is never weaker than the attack that does not know the detector, but for the draws of a random model.  The
    rounds are shorter and begin at the best example so far, with steps that decay from eps/32: larger ones lose it.  As
    long as an utterance has not reached its target, its lambda is 0.

    Attributes:
        sentries: the detectors.
        config: the search.
    """

    sentries: Sentries
    config: AdaptiveConfig

    def __call__(self, problem: Problem) -> tuple[AttackResult, Mapping[str, Sequence[Any]]]:
        """Attack a batch.

        Returns:
            the best examples, and the columns ``lambda`` (of the round that made the example), ``rounds``, ``excess``
            (of the largest score over its threshold) and ``passes``, as the judge heard them.

        Raises:
            ValueError: a statistic of several draws where the attack uses one, or fixed draws.
        """
        network = problem.recogniser.model.network
        needs_draws = sorted(self.sentries.measures & NEED_DRAWS)
        if network.is_random and problem.config.eot_samples < 2 and needs_draws:
            raise ValueError(f"{needs_draws[0]} is of several draws: set eot_samples to 2 or more, 10 is good")
        if network.is_random and problem.config.eot_draws == "fixed":
            raise ValueError("the rounds go on with some utterances of a batch: eot_draws must be fresh")
        size, device = len(problem.utts), problem.wav.device
        rows = torch.arange(size, device=device)
        search = LambdaSearch(size, self.config, device)
        used = torch.zeros(size, device=device)  # lambda of the best example
        rounds = torch.zeros(size, dtype=torch.int64, device=device)
        later = replace(problem.config, num_steps=self.config.round_steps, num_starts=1)
        if later.step_rule == "apgd":
            later = replace(later, step_rule="cosine")
        best = problem.run(judge=self.judge(problem))
        going, found = rows, best
        for number in range(self.config.num_rounds):
            if number:
                part = problem.select(going)
                weight = search.weight[going]
                start = best.wav[going] - part.wav
                found = part.run(later, penalty=self._penalty(weight), judge=self.judge(part), start_delta=start)
                better = found.rank < best.rank[going]
                _take(best, found, going, better)
                used[going[better]] = weight[better]
            rounds[going] += 1
            search.update(going, found.rank < _LOST)
            going = going[found.rank > 0]  # the others have all that is aimed at
            if not len(going):
                break
        excess = self.sentries.excess(problem.hear(best.wav, rows).statistics)
        return best, {
            "lambda": used.tolist(),
            "rounds": rounds.tolist(),
            "excess": excess.tolist(),
            "passes": (excess <= 0).tolist(),
        }

    def judge(self, problem: Problem) -> Judge:
        """The decoder and the detectors together; success is to have the words and to pass.

        The best of those is the one that is nearest to the aim, of the others that are heard as the target the one
        nearest to passing, and then the one with the fewest word errors.  The worst of several scorings counts, or the
        best example would be the one with the luckiest draws.
        """

        def judge(wav: Tensor, rows: Tensor) -> Verdict:
            heard = problem.hear(wav, rows)
            words = problem.verdict(heard, rows)
            tables = [heard.statistics]
            if problem.recogniser.model.network.is_random:
                tables += [problem.measure(wav, rows)[1] for _ in range(self.config.num_scorings - 1)]
            excess = torch.stack([self.sentries.excess(table) for table in tables]).amax(0)
            aimed = torch.stack([self.sentries.excess(table, aim=True) for table in tables]).amax(0)
            reached = torch.where(excess <= 0, _squash(aimed), 1 + _squash(excess))
            rank = torch.where(words.success, reached, _LOST + 1 + words.rank)
            return Verdict(words.success & (excess <= 0), rank.float())

        return judge

    def _penalty(self, weight: Tensor) -> Penalty:
        return lambda draws, lengths, rows: weight[rows] * self.sentries.penalty(draws, lengths)


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


def _take(best: AttackResult, found: AttackResult, rows: Tensor, better: Tensor) -> None:
    """Replace the better ones among some rows of a batch, and count the work on all of them."""
    for name in ("wav", "last_loss", "success", "rank"):
        getattr(best, name)[rows[better]] = getattr(found, name)[better]
    best.live[rows] |= found.live
    best.steps[rows] += found.steps


def _squash(values: Tensor) -> Tensor:
    """Into (-1, 1), in the same order and with the same signs."""
    return values / (1 + values.abs())
