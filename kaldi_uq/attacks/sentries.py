"""The detectors that an attack knows of, and has to pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.detector import GaussianDetector, JointDetector, OneClassDetector
from kaldi_uq.uncertainty import NEED_DRAWS, Statistic, measures_from_draws, utterance_statistics, valid_frames

TYPICAL = 0.67  # standard deviations within which half of the benign values lie, where scores have another unit


@dataclass(frozen=True)
class Sentry:
    """A detector with its threshold, and the score that the attack aims at.

    Attributes:
        detector: any detector with a threshold.
        aim: score, at most the threshold.
    """

    detector: OneClassDetector
    aim: float

    @classmethod
    def of(cls, detector: OneClassDetector, aim: float) -> Sentry:
        """A sentry that aims at a quantile of the benign scores.

        Args:
            detector: a detector with a threshold.
            aim: share of the benign scores below the score that is aimed at, in (0, 1).
        """
        return cls(detector, min(detector.benign_score(aim), detector.require_threshold()))

    @property
    def statistics(self) -> list[Statistic]:
        return [Statistic.parse(name) for name in self.detector.statistics]

    def score(self, statistics: Mapping[str, Tensor]) -> Tensor:
        """The detector's score (B,), of statistics in double precision."""
        wide = {name: values.double() for name, values in statistics.items()}
        if self.detector.differentiable:
            return self.detector.tensor_score(wide)
        first = next(iter(wide.values()))
        return torch.from_numpy(self.detector.score({n: v.cpu().numpy() for n, v in wide.items()})).to(first.device)

    def penalty(self, measures: Mapping[str, Tensor], statistics: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        """How far an utterance is above the aim, (B,); of a Gaussian in standard deviations of the benign statistic.

        A maximum or a quantile is the value of one or two frames, and a gradient that moves only these makes others
        the largest.  So the mean over frames of what lies above the aimed value is added; for the joint detector, to
        which too low a statistic is as suspicious, also that of what its largest frames lack.

        Args:
            measures: measure -> (B, T).
            statistics: statistic -> (B,).
            valid: (B, T) bool.
        """
        detector = self.detector
        total = (detector.tensor_score(statistics) - (self.aim if detector.differentiable else TYPICAL)).relu()
        aim = self.aim if isinstance(detector, GaussianDetector) else TYPICAL
        for index, statistic in enumerate(self.statistics):
            if statistic.aggregate == "mean":
                continue
            frames = measures[statistic.measure]
            z = detector.deviation(frames, index)
            above = (z - aim).relu().masked_fill(~valid, 0.0)
            total = total + above.sum(1) / valid.sum(1)
            if isinstance(detector, JointDetector):
                top = valid & (frames >= statistics[statistic.name].detach()[:, None])
                below = (-aim - z).relu().masked_fill(~top, 0.0)
                total = total + below.sum(1) / top.sum(1).clamp(min=1)
        return total


@dataclass(frozen=True)
class Sentries:
    """Several detectors: an utterance passes if none of them calls it an attack."""

    members: tuple[Sentry, ...]

    @classmethod
    def of(cls, detectors: Sequence[OneClassDetector], *, aim: float = 0.5) -> Sentries:
        """All of some detectors; ``aim`` as of :meth:`Sentry.of`."""
        if not detectors:
            raise ValueError("an adaptive attack needs at least one detector to pass")
        return cls(tuple(Sentry.of(detector, aim) for detector in detectors))

    @property
    def state(self) -> list[tuple[Any, ...]]:
        """JSON-able values that the decisions depend on, detector by detector."""
        found = [(member.detector, member.aim) for member in self.members]
        return [(d.kind, d.statistics, d.state(), d.require_threshold(), aim) for d, aim in found]

    @property
    def measures(self) -> set[str]:
        """The measures that the statistics are made of."""
        return {statistic.measure for member in self.members for statistic in member.statistics}

    @property
    def need_draws(self) -> list[str]:
        """Those of the measures that take several draws."""
        return sorted(self.measures & set(NEED_DRAWS))

    def penalty(self, draws: Tensor, lengths: Tensor) -> Tensor:
        """The sum of the penalties, differentiable in the draws.

        Args:
            draws: (M, B, T, C) log-posteriors.
            lengths: (B,) int64, frames.

        Returns:
            (B,); 0 where every score is at the aim or below.
        """
        found = measures_from_draws([draws])
        measures = {name: values for name, values in found.items() if name in self.measures}
        statistics = utterance_statistics(measures, lengths)
        valid = valid_frames(lengths, draws.shape[2])
        return torch.stack([member.penalty(measures, statistics, valid) for member in self.members]).sum(0)

    def excess(self, statistics: Mapping[str, Tensor], *, aim: bool = False) -> Tensor:
        """The largest score above its threshold, or above its aim, ``(B,)``; 0 or less: all detectors pass it."""
        limits = [m.aim if aim else m.detector.require_threshold() for m in self.members]
        scores = [m.score(statistics) - limit for m, limit in zip(self.members, limits, strict=True)]
        return torch.stack(scores).amax(0)

    def record(self, statistics: Mapping[str, float]) -> dict[str, Any]:
        """What the detectors decide about one utterance: ``excess`` of the largest score, and ``passes``."""
        table = {name: np.array([value]) for name, value in statistics.items()}
        detectors = [member.detector for member in self.members]
        excess = max(float(d.score(table)[0]) - d.require_threshold() for d in detectors)
        return {"excess": excess, "passes": not any(bool(d.is_attack(table)[0]) for d in detectors)}
