"""What all detectors share: checked input, a threshold at a false-positive rate, decisions."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from kaldi_uq.detector.curves import threshold_at_fpr
from kaldi_uq.errors import DataError

FloatArray: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike]
DetectorT = TypeVar("DetectorT", bound="OneClassDetector")

# The paper's code adds this to the standard deviation; here it is a floor.  Either way a statistic that is constant
# over the benign set makes any other value infinitely suspicious in spirit, and 1e8 deviations away in numbers.
STD_FLOOR = 1e-8


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


class OneClassDetector(abc.ABC):
    """A model of benign statistics.

    Attributes:
        kind: the detector's name in files and tables.
        statistics: the names of its K statistics.
        fpr: the false-positive rate that ``threshold`` was chosen for, or None.
        threshold: a score above it is an attack; None until :meth:`calibrate`.
    """

    kind: ClassVar[str]
    sided: str = "two"

    def __init__(self, statistics: Sequence[str]) -> None:
        self.statistics: tuple[str, ...] = tuple(statistics)
        if len(set(self.statistics)) != len(self.statistics):
            raise ValueError(f"statistics must differ, got {', '.join(self.statistics)}")
        self.fpr: float | None = None
        self.threshold: float | None = None

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
        if len(matrix) < 2:
            raise DataError(
                f"fitting {', '.join(map(repr, self.statistics))} needs at least 2 benign utterances, got "
                f"{len(matrix)}; score a larger benign set"
            )
        self.fpr = self.threshold = None
        self._fit(matrix)
        return self

    def score(self, values: Values) -> FloatArray:
        """Suspicion of each utterance, ``(B,)`` float64; higher is more suspicious."""
        self._require_fitted()
        return self._score(stack(values, self.statistics))

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
        if self.threshold is None:
            raise ValueError(f"{type(self).__name__} has no threshold; call calibrate() first")
        return self.score(values) > self.threshold

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
