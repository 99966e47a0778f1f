"""What all detectors share: checked input, a threshold at a false-positive rate, decisions, a score for attacks."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from kaldi_uq.detector.curves import threshold_at_fpr
from kaldi_uq.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

FloatArray: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike]
DetectorT = TypeVar("DetectorT", bound="OneClassDetector")

# The paper's code adds this to the standard deviation; here it is a floor.  Either way a statistic that is constant
# over the benign set makes any other value infinitely suspicious in spirit, and 1e8 deviations away in numbers.
STD_FLOOR = 1e-8
QUANTILES = np.arange(101) / 100  # of the benign scores that a detector keeps

KINDS: dict[str, type[OneClassDetector]] = {}


def as_values(values: npt.ArrayLike, name: str) -> FloatArray:
    """One statistic of some utterances as float64 ``(B,)``, every value finite.

    Raises:
        DataError: a value is NaN or infinite; the message names the statistic and the utterance index.
        ValueError: not a vector of numbers.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"statistic {name!r} must be a vector of numbers, one per utterance") from None
    if array.ndim != 1:
        raise ValueError(f"statistic {name!r} must be (B,), one number per utterance, got shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise DataError(
            f"statistic {name!r} of utterance index {bad[0]} is {array[bad[0]]} ({len(bad)} of {len(array)} are not "
            "finite); score that utterance again or leave it out"
        )
    return array


def stack(values: Values, names: Sequence[str]) -> FloatArray:
    """Named statistics as one float64 matrix ``(B, K)``, columns in the order of ``names``.

    Args:
        values: ``(B,)`` per name; a bare vector will do if there is one name.
        names: the K statistics wanted; others in ``values`` are not looked at.

    Raises:
        DataError: a statistic is absent or not finite, or the statistics differ in length.
        ValueError: a bare array where several statistics are needed.
    """
    if not isinstance(values, Mapping):
        if len(names) != 1:
            raise ValueError(f"expected a mapping with the statistics {', '.join(names)}, got {type(values).__name__}")
        return as_values(values, names[0])[:, None]
    absent = [name for name in names if name not in values]
    if absent:
        raise DataError(f"statistic {absent[0]!r} is missing; there are {', '.join(sorted(values)) or 'none'}")
    columns = [as_values(values[name], name) for name in names]
    for name, column in zip(names, columns, strict=True):
        if len(column) != len(columns[0]):
            raise DataError(
                f"statistic {name!r} has {len(column)} utterances, {names[0]!r} has {len(columns[0])}; "
                "they must be of the same utterances"
            )
    return np.stack(columns, axis=1)


def register(cls: type[DetectorT]) -> type[DetectorT]:
    """Class decorator: files of the class's ``kind`` can be saved and loaded.

    Raises:
        ValueError: another class has this kind.
    """
    known = KINDS.setdefault(cls.kind, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"detector kind {cls.kind!r} is {known.__qualname__} already: choose another kind")
    KINDS[cls.kind] = cls  # where a module is imported again, the newer
    return cls


class OneClassDetector(abc.ABC):
    """A model of benign statistics.

    ``fit``, ``predict`` and ``score_samples`` mean what they mean in scikit-learn.  The class is no subclass of its
    ``OutlierMixin``, since importing that takes a second.

    A subclass has a ``kind``, the methods ``_fit``, ``_score``, ``_is_fitted``, ``_p_value``, ``_model_threshold``,
    ``state`` and ``from_state``, and :func:`register` above it.  With ``_tensor_score`` an attack can follow its score.

    Attributes:
        kind: the detector's name in files and tables.
        sided: "one" if only large values of the statistic are suspicious, else "two".
        statistics: the names of its K statistics.
        fpr: the false-positive rate that ``threshold`` was chosen for, or None.
        threshold: a score above it is an attack; None until :meth:`calibrate`.
        benign_mean: ``(K,)``, mean of each statistic over the fitting set; empty until fitted.
        benign_std: ``(K,)``, its standard deviation, likewise.
        benign_scores: ``(101,)``, quantiles of the scores of the fitting set at 0, 1, ..., 100 %; empty until fitted.
            Of a detector that is fitted in folds, each score is by a fit without the utterance.
    """

    kind: ClassVar[str]
    sided: str = "two"

    def __init__(self, statistics: Sequence[str]) -> None:
        self.statistics: tuple[str, ...] = tuple(statistics)
        if len(set(self.statistics)) != len(self.statistics):
            raise ValueError(f"statistics must differ, got {', '.join(self.statistics)}")
        self.fpr: float | None = None
        self.threshold: float | None = None
        self.benign_mean: FloatArray = np.empty(0)
        self.benign_std: FloatArray = np.empty(0)
        self.benign_scores: FloatArray = np.empty(0)

    def fit(self: DetectorT, benign: Values) -> DetectorT:
        """Fit on benign utterances.

        Args:
            benign: ``(B,)`` per statistic, at least 2 utterances; no other set should be mixed in.

        Returns:
            The detector itself.

        Raises:
            DataError: fewer than 2 utterances, or a value that is not finite.
        """
        if not self.statistics:
            if not isinstance(benign, Mapping) or not benign:
                raise ValueError("benign must be a mapping from names of statistics to values")
            self.statistics = tuple(benign)
        matrix = stack(benign, self.statistics)
        self._require_enough(matrix)
        self.fpr = self.threshold = None
        self._fit(matrix)
        self._describe(matrix)
        return self

    def _require_enough(self, matrix: FloatArray) -> None:
        if len(matrix) < 2:
            raise DataError(
                f"fitting {', '.join(map(repr, self.statistics))} needs at least 2 benign utterances, got "
                f"{len(matrix)}; score a larger benign set"
            )

    def _describe(self, matrix: FloatArray) -> None:
        """Keep what is told of the fitting set (B, K)."""
        self.benign_mean, self.benign_std = matrix.mean(axis=0), np.maximum(matrix.std(axis=0), STD_FLOOR)
        self.benign_scores = np.quantile(self._benign(matrix), QUANTILES)

    def describe_again(self) -> None:  # noqa: B027 - most detectors know no more than their file
        """Find out what a file of an early release does not say of the fitting set, where that is known."""

    def score(self, values: Values) -> FloatArray:
        """Suspicion of each utterance, ``(B,)`` float64; higher is more suspicious."""
        self._require_fitted()
        return self._score(stack(values, self.statistics))

    def score_samples(self, values: Values) -> FloatArray:
        """Normality of each utterance, as in scikit-learn: minus :meth:`score`."""
        return -self.score(values)

    def benign_score(self, q: float) -> float:
        """Quantile of the scores of the fitting set, exact at whole per cents and interpolated between them.

        Args:
            q: share of these scores at or below it, in [0, 1].

        Raises:
            DataError: the detector's file is of an early release, which did not keep these scores.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be in [0, 1], got {q}")
        self._require_fitted()
        if not len(self.benign_scores):
            raise self._without_benign("the scores")
        return float(np.interp(q, QUANTILES, self.benign_scores))

    @property
    def differentiable(self) -> bool:
        """Whether :meth:`tensor_score` is the score itself, and no surrogate."""
        return type(self)._tensor_score is not OneClassDetector._tensor_score

    @property
    def center(self) -> float | None:
        """The benign mean of the statistic; ``None`` of several statistics, or if it is not known."""
        return float(self.benign_mean[0]) if len(self.benign_mean) == 1 else None

    def tensor_score(self, statistics: Mapping[str, Tensor]) -> Tensor:
        """The score for attacks: differentiable.

        A detector without a differentiable score gives a surrogate: the root mean square of the statistics, each in
        standard deviations from its benign mean.

        Args:
            statistics: ``(B,)`` per statistic; others than the detector's are not looked at.

        Returns:
            ``(B,)``, in the type of the statistics.

        Raises:
            DataError: a statistic is absent.
        """
        import torch

        self._require_fitted()
        absent = [name for name in self.statistics if name not in statistics]
        if absent:
            raise DataError(f"statistic {absent[0]!r} is missing; there are {', '.join(sorted(statistics)) or 'none'}")
        return self._tensor_score(torch.stack([statistics[name] for name in self.statistics], 1))

    def _tensor_score(self, x: Tensor) -> Tensor:
        """The score of statistics (B, K), as :meth:`_score` but differentiable."""
        return self._deviations(x).norm(dim=1) / len(self.statistics) ** 0.5

    def _deviations(self, x: Tensor) -> Tensor:
        """:meth:`deviation` of all statistics (B, K)."""
        import torch

        return torch.stack([self.deviation(column, index) for index, column in enumerate(x.unbind(1))], 1)

    def deviation(self, values: Tensor, index: int) -> Tensor:
        """Values of a statistic, or of frames of its measure, in benign deviations from the benign centre; signed.

        Args:
            values: any shape.
            index: of the statistic among ``statistics``.

        Raises:
            DataError: the detector's file is of an early release, which did not keep mean and standard deviation.
        """
        if not len(self.benign_mean):
            raise self._without_benign("mean and standard deviation")
        return (values - float(self.benign_mean[index])) / float(self.benign_std[index])

    def _benign(self, matrix: FloatArray) -> FloatArray:
        """Scores of the fitting set (B, K), to compare new ones with."""
        return self._score(matrix)

    def _without_benign(self, what: str) -> DataError:
        return DataError(
            f"the {self.kind} detector of {', '.join(self.statistics)} was saved without {what} of its benign set: fit "
            "it again (kaldi-uq fit-detector)"
        )

    def deviations(self, values: Values) -> FloatArray:
        """How far each statistic is from the benign centre, ``(B, K)``, as :meth:`deviation` counts it."""
        import torch

        self._require_fitted()
        return np.asarray(self._deviations(torch.from_numpy(stack(values, self.statistics))).numpy(), dtype=np.float64)

    def p_value(self, values: Values) -> FloatArray:
        """Probability, under the benign model, of a score at least as high: ``(B,)`` in [0, 1]."""
        return self._p_value(self.score(values))

    def threshold_at(self, fpr: float, benign: Values | None = None) -> float:
        """The threshold for a false-positive rate.

        Args:
            fpr: wanted rate, in (0, 1).
            benign: benign utterances to take the empirical quantile of (see :func:`threshold_at_fpr`); without them
                the detector's own benign model says: the analytic quantile for the Gaussian detectors, the quantile
                of the scores of the fitting set for the others.
        """
        if not 0 < fpr < 1:
            raise ValueError(f"fpr must be in (0, 1), got {fpr}")
        self._require_fitted()
        return self._model_threshold(fpr) if benign is None else threshold_at_fpr(self.score(benign), fpr)

    def calibrate(self: DetectorT, fpr: float = 0.01, benign: Values | None = None) -> DetectorT:
        """Choose and keep the threshold of :meth:`is_attack`; the arguments are those of :meth:`threshold_at`."""
        self.threshold = self.threshold_at(fpr, benign)
        self.fpr = float(fpr)
        return self

    def is_attack(self, values: Values) -> npt.NDArray[np.bool_]:
        """Whether each utterance's score is above the threshold, ``(B,)`` bool."""
        return self.score(values) > self.require_threshold()

    def require_threshold(self) -> float:
        """The threshold.

        Raises:
            ValueError: there is none yet.
        """
        if self.threshold is None:
            raise ValueError(f"{type(self).__name__} has no threshold; call calibrate() first")
        return self.threshold

    def predict(self, values: Values) -> npt.NDArray[np.int64]:
        """The decision as in scikit-learn, ``(B,)``: 1 is benign, -1 an attack."""
        return np.where(self.is_attack(values), -1, 1)

    def _require_fitted(self) -> None:
        if not self._is_fitted():
            raise ValueError(f"{type(self).__name__} is not fitted; call fit() with benign values first")

    @abc.abstractmethod
    def _is_fitted(self) -> bool: ...

    @abc.abstractmethod
    def _fit(self, matrix: FloatArray) -> None: ...

    @abc.abstractmethod
    def _score(self, matrix: FloatArray) -> FloatArray: ...

    @abc.abstractmethod
    def _p_value(self, scores: FloatArray) -> FloatArray: ...

    @abc.abstractmethod
    def _model_threshold(self, fpr: float) -> float: ...

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """The fitted model as JSON-able values; :meth:`from_state` takes it back."""

    @classmethod
    @abc.abstractmethod
    def from_state(cls: type[DetectorT], statistics: Sequence[str], state: Mapping[str, Any]) -> DetectorT:
        """A fitted detector from checked-as-it-goes JSON values.

        Raises:
            DataError: a value is absent, of another type, or out of range.
        """
