"""The default detector: all statistics together, unlike benign speech on either side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kaldi_uq.detector.base import STD_FLOOR, FloatArray, OneClassDetector, register
from kaldi_uq.detector.fields import read_matrix, require_fields
from kaldi_uq.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

NUM_FOLDS = 10
TAIL = 0.2  # share of the benign scores that the tail is fitted on
_NEAR_ZERO = 1e-6  # of the benign mean of a statistic: values below it are as good as 0


@register
class JointDetector(OneClassDetector):
    """Several statistics, each on both sides and all together, with a threshold that holds for unseen benign speech.

    A statistic that is never negative is taken as its logarithm, so that values ever nearer to 0 are ever more
    suspicious: no lower bound lies where it cannot go.  Deviations from the median are counted in the root mean square
    of the benign ones *on that side*, by which a skewed statistic is as sensitive below as above.  Of K deviations z,
    with R their correlation after Ledoit-Wolf shrinkage, there are K + 1 p-values: ``2 Phi(-|z_k|)`` of each, and that
    of ``z' R^-1 z`` as chi-square with K degrees of freedom, by the cube-root approximation to the normal.  Singly they
    see a shift that all statistics make together, which benign speech makes too, only less; the joint one sees a
    combination that benign speech never has.  The score is ``log(mean of 1/p)``, half of the weight on the joint one:
    the harmonic mean of dependent p-values, smooth, and growing without end on every side.

    Threshold and p-value are of scores that benign utterances get from a fit on the others, in folds: a score of the
    fitting set itself is too low, the more so the fewer utterances there are.  The highest fifth of them is continued
    by an exponential tail with its rate unknown, so that p-values are smooth and small ones are no promise that a few
    utterances cannot give.

    Args:
        statistics: names; empty: all statistics of the mapping given to ``fit``, in its order.

    Source: Wilson 2019, "The harmonic mean p-value for combining dependent tests"; Wilson and Hilferty 1931, "The
    distribution of chi-square"; Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
    matrices".  Of an exponential tail, a new excess x over the mean of k others has an F distribution with 2 and 2 k
    degrees of freedom, so that a larger one has the probability ``(1 + x / sum)^-k``.
    """

    kind = "joint"

    def __init__(self, statistics: Sequence[str] = ()) -> None:
        super().__init__(statistics)
        # empty until fitted
        self.floor: FloatArray = np.empty(0)  # (K,), added before the logarithm; 0: of a statistic taken as it is
        self.median: FloatArray = np.empty(0)  # (K,), of the logarithms
        self.scale: FloatArray = np.empty((0, 0))  # (2, K), below and above the median
        self.covariance: FloatArray = np.empty((0, 0))  # (K, K), of the deviations
        self.held_out: FloatArray = np.empty(0)  # (B,), ascending: benign scores by a fit without the utterance
        self._factor: FloatArray = np.empty((0, 0))  # lower Cholesky factor of the covariance

    def _is_fitted(self) -> bool:
        return len(self.held_out) > 0

    def _fit(self, matrix: FloatArray) -> None:
        fold = np.arange(len(matrix)) % NUM_FOLDS
        scores = np.empty(len(matrix))
        for number in np.unique(fold):
            others = matrix[fold != number]
            # of two utterances, one alone is no fit
            self._fit_model(others if len(others) > 1 else matrix)
            scores[fold == number] = self._score(matrix[fold == number])
        self._fit_model(matrix)
        self.held_out = np.sort(scores)

    def _fit_model(self, matrix: FloatArray) -> None:
        from sklearn.covariance import LedoitWolf

        floor = np.where((matrix >= 0).all(axis=0), np.maximum(_NEAR_ZERO * matrix.mean(axis=0), STD_FLOOR), 0.0)
        straight = np.where(floor > 0, np.log(np.maximum(matrix, 0) + np.where(floor > 0, floor, 1)), matrix)
        median = np.median(straight, axis=0)
        shift = straight - median
        sides = np.stack([np.minimum(shift, 0), np.maximum(shift, 0)])
        scale = np.sqrt(np.square(sides).sum(axis=1) / np.maximum((sides != 0).sum(axis=1), 1))
        # where benign values lie on one side alone, the other one counts as that does
        scale = np.maximum(np.where(scale > 0, scale, scale[::-1]), STD_FLOOR)
        deviations = np.where(shift < 0, shift / scale[0], shift / scale[1])
        covariance = LedoitWolf(assume_centered=True).fit(deviations).covariance_
        # a constant statistic, or all of them, leaves zeros that no shrinkage lifts
        self._set(floor, median, scale, covariance + STD_FLOOR * np.eye(len(median)))

    def _set(self, floor: FloatArray, median: FloatArray, scale: FloatArray, covariance: FloatArray) -> None:
        try:
            self._factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        except np.linalg.LinAlgError:
            raise DataError("the covariance of the statistics is not positive definite; fit again") from None
        self.floor, self.median, self.scale, self.covariance = floor, median, scale, covariance

    def _benign(self, matrix: FloatArray) -> FloatArray:
        return self.held_out

    def _score(self, matrix: FloatArray) -> FloatArray:
        import torch

        return np.asarray(self._tensor_score(torch.from_numpy(matrix)).numpy(), dtype=np.float64)

    def _tensor_score(self, x: Tensor) -> Tensor:
        import torch

        size = len(self.statistics)
        z = self._deviations(x)
        single = torch.logsumexp(-math.log(2) - torch.special.log_ndtr(-z.abs()), 1) - math.log(size)
        distance = torch.linalg.solve_triangular(x.new_tensor(self._factor), z.T, upper=False).square().sum(0)
        # the cube root has no gradient at 0, where every statistic is at its median
        root = (distance / size).clamp(min=STD_FLOOR) ** (1 / 3)
        joint = -torch.special.log_ndtr((1 - 2 / (9 * size) - root) / math.sqrt(2 / (9 * size)))
        return torch.logaddexp(single, joint) - math.log(2)

    def deviation(self, values: Tensor, index: int) -> Tensor:
        floor = float(self.floor[index])
        straight = (values.clamp(min=0) + floor).log() if floor else values
        shift = straight - float(self.median[index])
        low, high = (float(side[index]) for side in self.scale)
        return shift.clamp(max=0) / low + shift.clamp(min=0) / high

    def _tail(self) -> tuple[float, int, float]:
        """Score at which the tail begins, number of benign scores in it, sum of their excesses."""
        size = max(1, round(TAIL * len(self.held_out)))
        start = float(self.held_out[-size - 1])
        return start, size, max(float((self.held_out[-size:] - start).sum()), STD_FLOOR)

    def _p_value(self, scores: FloatArray) -> FloatArray:
        start, size, total = self._tail()
        count = len(self.held_out)
        # (1 + number of benign scores at least as high) / (B + 1): valid for exchangeable utterances
        at_least = count - np.searchsorted(self.held_out, scores, side="left")
        tail = (1 + size) * (1 + np.maximum(scores - start, 0) / total) ** -float(size)
        return np.asarray(np.where(scores > start, tail, 1 + at_least) / (count + 1), dtype=np.float64)

    def _model_threshold(self, fpr: float) -> float:
        start, size, total = self._tail()
        count = len(self.held_out)
        share = (1 + size) / (count + 1)
        if fpr < share:
            return start + total * float((share / fpr) ** (1 / size) - 1)
        allowed = min(int(fpr * (count + 1) + 1e-9) - 1, count - 1)  # 0.29 * 100 is 28.999...
        return float(self.held_out[count - 1 - allowed])

    def state(self) -> dict[str, Any]:
        self._require_fitted()
        return {name: getattr(self, name).tolist() for name in ("floor", "median", "scale", "covariance", "held_out")}

    @classmethod
    def from_state(cls, statistics: Sequence[str], state: Mapping[str, Any]) -> JointDetector:
        require_fields(state, ("floor", "median", "scale", "covariance", "held_out"))
        detector, size = cls(statistics), len(statistics)
        floor, scale = read_matrix(state, "floor", (size,)), read_matrix(state, "scale", (2, size))
        if (floor < 0).any():
            raise DataError(f"field 'floor' must be >= 0, got {floor.min()}")
        if (scale < STD_FLOOR).any():
            raise DataError(f"field 'scale' must be >= {STD_FLOOR}, got {scale.min()}")
        covariance = read_matrix(state, "covariance", (size, size))
        if not np.allclose(covariance, covariance.T):
            raise DataError("field 'covariance' must be symmetric")
        detector._set(floor, read_matrix(state, "median", (size,)), scale, covariance)
        detector.held_out = read_matrix(state, "held_out", (-1,))
        if (np.diff(detector.held_out) < 0).any():
            raise DataError("field 'held_out' must rise")
        return detector
