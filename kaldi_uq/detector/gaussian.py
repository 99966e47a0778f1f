"""Normal distributions fitted to benign statistics: the paper's detector, and its form for several statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kaldi_uq.detector.base import STD_FLOOR, FloatArray, OneClassDetector, register
from kaldi_uq.detector.fields import read_flag, read_matrix, read_number, require_fields
from kaldi_uq.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@register
class GaussianDetector(OneClassDetector):
    """One statistic, one normal distribution, fitted by maximum likelihood.

    Two-sided, as in the paper, an utterance is suspicious where the density is low: the score is abs(z), which orders
    utterances as the density does, but does not underflow far from the mean.  One-sided only large values are
    suspicious and the score is z.  The two differ when an attack makes the recogniser *more certain* than clean speech
    does: that is suspicious only to the two-sided detector.

    Args:
        statistic: name of the statistic.
        two_sided: whether small values are suspicious too.

    Source: section 4.3 of the paper (``scipy.stats.norm.fit`` and ``norm.pdf`` in its published code).

    >>> detector = GaussianDetector().fit([1.0, 3.0])
    >>> [float(score) for score in detector.score([2.0, 0.0, 4.0])]
    [0.0, 2.0, 2.0]
    >>> round(detector.threshold_at(0.05), 2)
    1.96
    """

    kind = "gaussian"

    def __init__(self, statistic: str = "value", *, two_sided: bool = True) -> None:
        super().__init__((statistic,))
        self.two_sided = two_sided
        self.sided = "two" if two_sided else "one"
        self.mean = math.nan  # until fitted
        self.std = math.nan

    def _is_fitted(self) -> bool:
        return not math.isnan(self.mean)

    @property
    def center(self) -> float | None:
        return self.mean  # which files of every release hold

    def _fit(self, matrix: FloatArray) -> None:
        mean, std = matrix[:, 0].mean(), matrix[:, 0].std()
        self.mean, self.std = float(mean), max(float(std), STD_FLOOR)

    def _score(self, matrix: FloatArray) -> FloatArray:
        z: FloatArray = (matrix[:, 0] - self.mean) / self.std
        return np.abs(z) if self.two_sided else z

    def _tensor_score(self, x: Tensor) -> Tensor:
        z = (x[:, 0] - self.mean) / self.std
        return z.abs() if self.two_sided else z

    def _p_value(self, scores: FloatArray) -> FloatArray:
        from scipy.special import ndtr

        return np.asarray((2 if self.two_sided else 1) * ndtr(-scores), dtype=np.float64)

    def _model_threshold(self, fpr: float) -> float:
        from scipy.special import ndtri

        return float(-ndtri(fpr / 2 if self.two_sided else fpr))

    def state(self) -> dict[str, Any]:
        self._require_fitted()
        return {"two_sided": self.two_sided, "mean": self.mean, "std": self.std}

    @classmethod
    def from_state(cls, statistics: Sequence[str], state: Mapping[str, Any]) -> GaussianDetector:
        require_fields(state, ("two_sided", "mean", "std"))
        if len(statistics) != 1:
            raise DataError(f"a gaussian detector has one statistic, got {len(statistics)}")
        detector = cls(statistics[0], two_sided=read_flag(state, "two_sided"))
        detector.mean = read_number(state, "mean")
        detector.std = read_number(state, "std", low=STD_FLOOR)
        return detector


@register
class MultivariateGaussianDetector(OneClassDetector):
    """Several statistics, one normal distribution; the score is the squared Mahalanobis distance.

    The statistics are standardised first, since their scales differ by orders of magnitude and the Ledoit-Wolf
    shrinkage pulls all variances towards one value.  Under the benign model the score is chi-square with K degrees of
    freedom, which gives the p-value and the analytic threshold.

    Args:
        statistics: names; empty: all statistics of the mapping given to ``fit``, in its order.
    """

    kind = "mahalanobis"

    def __init__(self, statistics: Sequence[str] = ()) -> None:
        super().__init__(statistics)
        # empty until fitted
        self.mean: FloatArray = np.empty(0)  # (K,)
        self.std: FloatArray = np.empty(0)  # (K,)
        self.covariance: FloatArray = np.empty((0, 0))  # (K, K), of the standardised statistics
        self._factor: FloatArray = np.empty((0, 0))  # lower Cholesky factor of the covariance

    def _is_fitted(self) -> bool:
        return len(self.mean) > 0

    def _fit(self, matrix: FloatArray) -> None:
        from sklearn.covariance import LedoitWolf

        mean, std = matrix.mean(axis=0), np.maximum(matrix.std(axis=0), STD_FLOOR)
        covariance = LedoitWolf(assume_centered=True).fit((matrix - mean) / std).covariance_
        # a constant statistic, or all of them, leaves zeros that no shrinkage lifts
        self._set(mean, std, covariance + STD_FLOOR * np.eye(len(mean)))

    def _set(self, mean: FloatArray, std: FloatArray, covariance: FloatArray) -> None:
        try:
            self._factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        except np.linalg.LinAlgError:
            raise DataError("the covariance of the statistics is not positive definite; fit again") from None
        self.mean, self.std, self.covariance = mean, std, covariance

    def _score(self, matrix: FloatArray) -> FloatArray:
        whitened = np.linalg.solve(self._factor, ((matrix - self.mean) / self.std).T)
        return np.asarray(np.square(whitened).sum(axis=0), dtype=np.float64)

    def _tensor_score(self, x: Tensor) -> Tensor:
        import torch

        z = (x - x.new_tensor(self.mean)) / x.new_tensor(self.std)
        whitened = torch.linalg.solve_triangular(x.new_tensor(self._factor), z.T, upper=False)
        return whitened.square().sum(0)

    def _p_value(self, scores: FloatArray) -> FloatArray:
        from scipy.special import chdtrc

        return np.asarray(chdtrc(len(self.statistics), scores), dtype=np.float64)

    def _model_threshold(self, fpr: float) -> float:
        from scipy.special import chdtri

        return float(chdtri(len(self.statistics), fpr))

    def state(self) -> dict[str, Any]:
        self._require_fitted()
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "covariance": self.covariance.tolist()}

    @classmethod
    def from_state(cls, statistics: Sequence[str], state: Mapping[str, Any]) -> MultivariateGaussianDetector:
        require_fields(state, ("mean", "std", "covariance"))
        detector, size = cls(statistics), len(statistics)
        std = read_matrix(state, "std", (size,))
        if (std < STD_FLOOR).any():
            raise DataError(f"field 'std' must be >= {STD_FLOOR}, got {std.min()}")
        covariance = read_matrix(state, "covariance", (size, size))
        if not np.allclose(covariance, covariance.T):
            raise DataError("field 'covariance' must be symmetric")
        detector._set(read_matrix(state, "mean", (size,)), std, covariance)
        return detector
