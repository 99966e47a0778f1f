"""Detectors without the normal assumption, for comparison with the paper's.

Their files hold the benign values they were fitted on, the hyper-parameters and the seed, and loading fits again.
That needs no pickle, so that a file from elsewhere cannot run code.  A forest fitted by another version of
scikit-learn can differ in detail; a kernel density cannot.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kaldi_uq.detector.base import STD_FLOOR, FloatArray, OneClassDetector, register
from kaldi_uq.detector.curves import threshold_at_fpr
from kaldi_uq.detector.fields import read_count, read_matrix, read_number, require_fields

if TYPE_CHECKING:
    from torch import Tensor


MAX_CENTRES = 2000  # utterances that a kernel density is made of


class _RefittedDetector(OneClassDetector):
    """Keeps its benign values; p-values and thresholds come from the scores of these."""

    def __init__(self, statistics: Sequence[str]) -> None:
        super().__init__(statistics)
        self.benign: FloatArray | None = None  # (B, K)

    def _is_fitted(self) -> bool:
        return self.benign is not None

    def _fit(self, matrix: FloatArray) -> None:
        self.benign = matrix
        self.__dict__.pop("_benign_scores", None)
        self._fit_model(matrix)

    @abc.abstractmethod
    def _fit_model(self, matrix: FloatArray) -> None:
        """Fit the density to (B, K)."""

    @abc.abstractmethod
    def _own_scores(self, matrix: FloatArray) -> FloatArray:
        """Scores (B,) of the utterances (B, K) that the density was fitted to."""

    @functools.cached_property
    def _benign_scores(self) -> FloatArray:
        """(B,), ascending; a verdict needs none of them, and they take longer than all else."""
        assert self.benign is not None
        return np.sort(self._own_scores(self.benign))

    def _p_value(self, scores: FloatArray) -> FloatArray:
        # (1 + number of benign scores at least as high) / (B + 1): never 0, valid for exchangeable utterances
        ascending = self._benign_scores
        at_least = len(ascending) - np.searchsorted(ascending, scores, side="left")
        return np.asarray((1 + at_least) / (len(ascending) + 1), dtype=np.float64)

    def _model_threshold(self, fpr: float) -> float:
        return threshold_at_fpr(self._benign_scores, fpr)

    def _refit(self, matrix: FloatArray) -> None:
        """Fit as before to the values of a file, which says the rest of them itself."""
        self._require_enough(matrix)
        self._fit(matrix)

    def describe_again(self) -> None:
        assert self.benign is not None
        self._describe(self.benign)

    def _benign_values(self) -> list[list[float]]:
        self._require_fitted()
        assert self.benign is not None
        values: list[list[float]] = self.benign.tolist()
        return values


@register
class KernelDensityDetector(_RefittedDetector):
    """Gaussian kernel density of standardised statistics; the score is the negative log density.

    Every score is a sum over the fitting set, so that of a large one ``MAX_CENTRES`` utterances, evenly spread, stand
    for all: with all of them the time to fit, and to load, would be the square of their number.  The fitting set is
    scored leaving each utterance out of its own density, so that its scores are comparable with those of new ones.

    Args:
        statistics: names; empty: all statistics of the mapping given to ``fit``.
        bandwidth: width of the kernel in standard deviations; 0: Scott's rule, B ** (-1 / (K + 4)).
    """

    kind = "kde"

    def __init__(self, statistics: Sequence[str] = (), *, bandwidth: float = 0.0) -> None:
        super().__init__(statistics)
        if not bandwidth >= 0:
            raise ValueError(f"bandwidth must be >= 0 (0: Scott's rule), got {bandwidth}")
        self.bandwidth = bandwidth

    def _fit(self, matrix: FloatArray) -> None:
        chosen = np.linspace(0, len(matrix) - 1, min(len(matrix), MAX_CENTRES)).round().astype(np.int64)
        super()._fit(matrix[chosen])

    def _fit_model(self, matrix: FloatArray) -> None:
        from sklearn.neighbors import KernelDensity

        num_utts, dim = matrix.shape
        self._mean, self._std = matrix.mean(axis=0), np.maximum(matrix.std(axis=0), STD_FLOOR)
        self._width = self.bandwidth or float(num_utts ** (-1.0 / (dim + 4)))
        self._model = KernelDensity(bandwidth=self._width, rtol=1e-10).fit((matrix - self._mean) / self._std)

    def _own_scores(self, matrix: FloatArray) -> FloatArray:
        # density without the utterance itself: (B f(x) - kernel at 0) / (B - 1), in units of the kernel at 0.  What
        # is left for an utterance far from all others is rounding error below the floor (8.5 bandwidths).
        num_utts, dim = matrix.shape
        log_peak = -0.5 * dim * np.log(2 * np.pi) - dim * np.log(self._width)
        relative = num_utts * np.exp(-self._score(matrix) - log_peak) - 1
        left_out = np.log(np.maximum(relative, np.finfo(np.float64).eps)) + log_peak - np.log(num_utts - 1)
        return np.asarray(-left_out, dtype=np.float64)

    def _score(self, matrix: FloatArray) -> FloatArray:
        log_density = self._model.score_samples((matrix - self._mean) / self._std) if len(matrix) else np.empty(0)
        return -np.asarray(log_density, dtype=np.float64)

    def _tensor_score(self, x: Tensor) -> Tensor:
        import torch

        assert self.benign is not None
        num_utts, dim = self.benign.shape
        mean, std = x.new_tensor(self._mean), x.new_tensor(self._std)
        centres = x.new_tensor((self.benign - self._mean) / self._std)
        kernels = -0.5 * (((x - mean) / std)[:, None] - centres).square().sum(2) / self._width**2
        log_norm = math.log(num_utts) + dim * math.log(self._width) + 0.5 * dim * math.log(2 * math.pi)
        return log_norm - torch.logsumexp(kernels, 1)

    def state(self) -> dict[str, Any]:
        return {"bandwidth": self.bandwidth, "benign": self._benign_values()}

    @classmethod
    def from_state(cls, statistics: Sequence[str], state: Mapping[str, Any]) -> KernelDensityDetector:
        require_fields(state, ("bandwidth", "benign"))
        detector = cls(statistics, bandwidth=read_number(state, "bandwidth", low=0.0))
        detector._refit(read_matrix(state, "benign", (-1, len(statistics))))
        return detector


@register
class IsolationForestDetector(_RefittedDetector):
    """Isolation forest of scikit-learn; the score is its anomaly score.

    Its thresholds without a benign set are in-sample, hence slightly too low: pass held-out benign utterances.

    Args:
        statistics: names; empty: all statistics of the mapping given to ``fit``.
        num_trees: trees of the forest.
        seed: seed of the forest; the same seed gives the same forest.
    """

    kind = "isolation-forest"
    max_trees = 10_000

    def __init__(self, statistics: Sequence[str] = (), *, num_trees: int = 100, seed: int = 0) -> None:
        super().__init__(statistics)
        if not 1 <= num_trees <= self.max_trees:
            raise ValueError(f"num_trees must be in [1, {self.max_trees}], got {num_trees}")
        self.num_trees, self.seed = num_trees, seed

    def _fit_model(self, matrix: FloatArray) -> None:
        from sklearn.ensemble import IsolationForest

        self._model = IsolationForest(n_estimators=self.num_trees, random_state=self.seed).fit(matrix)

    def _own_scores(self, matrix: FloatArray) -> FloatArray:
        return self._score(matrix)

    def _score(self, matrix: FloatArray) -> FloatArray:
        scores = self._model.score_samples(matrix) if len(matrix) else np.empty(0)
        return -np.asarray(scores, dtype=np.float64)

    def state(self) -> dict[str, Any]:
        return {"num_trees": self.num_trees, "seed": self.seed, "benign": self._benign_values()}

    @classmethod
    def from_state(cls, statistics: Sequence[str], state: Mapping[str, Any]) -> IsolationForestDetector:
        require_fields(state, ("num_trees", "seed", "benign"))
        num_trees = read_count(state, "num_trees", low=1, high=cls.max_trees)
        detector = cls(statistics, num_trees=num_trees, seed=read_count(state, "seed", low=0, high=2**32 - 1))
        detector._refit(read_matrix(state, "benign", (-1, len(statistics))))
        return detector
