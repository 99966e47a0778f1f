"""What is normal in one frame: quantiles of the measures over benign frames, and the stretches of audio above them.

The file ``frame_quantiles.json`` is plain JSON that is checked value by value and can never run code.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import read_json, write_json
from kaldi_uq.results.names import PROBABILITIES as PROBABILITIES

FILE_NAME = "frame_quantiles.json"
FORMAT = "kaldi-uq-frame-quantiles"
VERSION = 1
MIN_FRAMES = 2  # one frame alone above a quantile is what chance gives; a state of the HMM lasts for several
MAX_GAP = 1  # windows of 25 ms every 10 ms: those on both sides of one frame share audio

# Bins of the sketch: 0.1 % wide, from what is 0 for every purpose to more than a divergence of floored posteriors.
_LOW, _HIGH, _GROWTH = 1e-9, 1e4, 1.001
_NUM_BINS = math.ceil(math.log(_HIGH / _LOW) / math.log(_GROWTH)) + 1


class QuantileSketch:
    """Quantiles of any number of values from counts in logarithmic bins: memory does not grow with the values.

    The order in which values are added does not matter.

    >>> sketch = QuantileSketch()
    >>> sketch.add(np.arange(1.0, 101.0))
    >>> round(sketch.quantile(0.9), 1), sketch.quantile(1.0)
    (90.0, 100.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self._bins = np.zeros(_NUM_BINS, dtype=np.int64)
        self._max = -math.inf

    def add(self, values: np.ndarray) -> None:
        """Count values: finite numbers of any shape, up to 1e4; what is below 1e-9 counts as 1e-9.

        Raises:
            ValueError: a value is not finite.
        """
        values = np.asarray(values, dtype=np.float64).ravel()
        if not len(values):
            return
        if not np.isfinite(values).all():
            raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite")
        index = np.ceil(np.log(np.maximum(values, _LOW) / _LOW) / math.log(_GROWTH)).astype(np.int64)
        np.add.at(self._bins, np.minimum(index, _NUM_BINS - 1), 1)
        self._max = max(self._max, float(values.max()))
        self.count += len(values)

    def quantile(self, probability: float) -> float:
        """A value that a share of at most ``1 - probability`` of the values exceeds, at most 0.1 % above the lowest.

        Args:
            probability: share of the values at or below it, in (0, 1].

        Raises:
            ValueError: there are no values.
        """
        if not self.count:
            raise ValueError("no values: add() must be called before quantile()")
        rank = max(1, math.ceil(probability * self.count - 1e-9))  # 0.07 * 100 is 7.000000000000001
        index = int(np.searchsorted(np.cumsum(self._bins), rank))
        return self._max if index == _NUM_BINS - 1 else min(_LOW * _GROWTH**index, self._max)


@dataclass(frozen=True)
class FrameQuantiles:
    """Quantiles of the measures over the frames of a benign set.

    Attributes:
        model: SHA-256, in hex, of the model file that measured them.
        num_frames: frames of the set.
        probabilities: rising, in (0, 1).
        measures: measure -> its quantiles, in the order of ``probabilities``.
    """

    model: str
    num_frames: int
    probabilities: tuple[float, ...]
    measures: dict[str, tuple[float, ...]]

    def threshold(self, measure: str, probability: float) -> float:
        """The value that a share of at most ``1 - probability`` of the benign frames exceeds.

        Raises:
            DataError: the measure or the probability is not in the table.
        """
        if measure not in self.measures:
            raise DataError(f"no quantiles of {measure!r}; there are {', '.join(sorted(self.measures))}")
        if probability not in self.probabilities:
            known = ", ".join(f"{p:g}" for p in self.probabilities)
            raise DataError(f"no quantile {probability:g}; there are {known}")
        return self.measures[measure][self.probabilities.index(probability)]


@dataclass(frozen=True)
class Normal:
    """What is normal in one frame.

    Attributes:
        measure: name of the measure.
        probability: share of the benign frames at or below ``threshold``.
        threshold: a frame above it is suspicious.
    """

    measure: str
    probability: float
    threshold: float


class FrameCounter:
    """Gathers :class:`FrameQuantiles` utterance by utterance, in bounded memory."""

    def __init__(self) -> None:
        self._sketches: dict[str, QuantileSketch] = {}

    def add(self, frames: Mapping[str, np.ndarray]) -> None:
        """Count the frames of an utterance: measure -> (T,)."""
        for name, values in frames.items():
            self._sketches.setdefault(name, QuantileSketch()).add(values)

    def result(self, *, model: str) -> FrameQuantiles:
        """The quantiles of what was added; ``model`` is the digest of the model file."""
        measures = {name: tuple(map(sketch.quantile, PROBABILITIES)) for name, sketch in self._sketches.items()}
        num_frames = max((sketch.count for sketch in self._sketches.values()), default=0)
        return FrameQuantiles(model, num_frames, PROBABILITIES, measures)


def save_frame_quantiles(quantiles: FrameQuantiles, path: str | os.PathLike[str]) -> None:
    """Write the quantiles atomically."""
    write_json(
        path,
        {
            "format": FORMAT,
            "version": VERSION,
            "model": quantiles.model,
            "num_frames": quantiles.num_frames,
            "probabilities": list(quantiles.probabilities),
            "measures": {name: list(values) for name, values in quantiles.measures.items()},
        },
    )


def load_frame_quantiles(path: str | os.PathLike[str]) -> FrameQuantiles:
    """Read a file of :func:`save_frame_quantiles`.

    Raises:
        DataError: the file is missing, is something else, or holds a value that no quantile has.
    """
    try:
        content = read_json(path)
    except (RecursionError, ValueError):  # lists nested too deep, or an integer of too many digits
        raise DataError(f"{path}: not a file of frame quantiles") from None
    if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
        raise DataError(f'{path}: expected an object with "format": "{FORMAT}", "version": {VERSION}')
    model, num_frames, table = (content.get(name) for name in ("model", "num_frames", "measures"))
    if not isinstance(model, str):
        raise DataError(f"{path}: field 'model' must be the digest of a model file, got {_shown(model)}")
    if type(num_frames) is not int or num_frames < 1:
        raise DataError(f"{path}: field 'num_frames' must be a positive integer, got {_shown(num_frames)}")
    probabilities = _rising(path, "probabilities", content.get("probabilities"))
    if not (0 < probabilities[0] and probabilities[-1] < 1 and len(set(probabilities)) == len(probabilities)):
        raise DataError(f"{path}: field 'probabilities' must rise within (0, 1), got {list(probabilities)}")
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path}: field 'measures' must be an object with at least one measure, got {_shown(table)}")
    measures = {name: _rising(path, name, values) for name, values in table.items()}
    for name, values in measures.items():
        if len(values) != len(probabilities):
            raise DataError(f"{path}: {name!r} has {len(values)} quantiles, expected {len(probabilities)}")
    return FrameQuantiles(model, num_frames, probabilities, measures)


def normal_of(
    path: str | os.PathLike[str], statistic: str, probability: float, *, model_dir: str | os.PathLike[str], model: str
) -> Normal:
    """What is normal in a frame for the measure of a statistic.

    Args:
        path: a file of :func:`save_frame_quantiles`.
        statistic: an aggregate of that measure, such as ``max_predictive_entropy``.
        probability: of the quantile that a suspicious frame exceeds, one of ``PROBABILITIES``.
        model_dir: the model that listens, for messages.
        model: its key.

    Raises:
        DataError: the file is of another model, or has neither this measure nor this quantile.
    """
    quantiles = load_frame_quantiles(path)
    if quantiles.model != model:
        raise DataError(
            f"{path}: measured with another model than that of {model_dir}, so that its detectors do not fit; fit "
            "them again (kaldi-uq fit-detector)"
        )
    measure = next((name for name in quantiles.measures if statistic.endswith(f"_{name}")), None)
    if measure is None:  # of this very model, as we know now
        raise DataError(
            f"{path}: the detector looks at {statistic!r:.60}, but {model_dir} measures only "
            f"{', '.join(sorted(quantiles.measures))}"
        )
    try:
        return Normal(measure, probability, quantiles.threshold(measure, probability))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _rising(path: str | os.PathLike[str], name: str, values: Any) -> tuple[float, ...]:
    numbers = isinstance(values, list) and all(type(v) in (int, float) and abs(v) <= _HIGH for v in values)
    if not numbers or not values or sorted(values) != values:
        raise DataError(f"{path}: {name!r} must be a list of rising finite numbers, got {_shown(values)}")
    return tuple(map(float, values))


def _shown(value: Any) -> str:
    return json.dumps(value)[:40]


@dataclass(frozen=True)
class Stretch:
    """A part of the audio whose frames are above a threshold.

    Attributes:
        start_s, end_s: seconds from the beginning of the audio.
        peak: the largest value of the measure in it.
    """

    start_s: float
    end_s: float
    peak: float


def stretches_above(
    values: np.ndarray,
    threshold: float,
    frame_shift_s: float,
    *,
    min_frames: int = MIN_FRAMES,
    max_gap: int = MAX_GAP,
) -> list[Stretch]:
    """Where a measure exceeds a threshold for several frames on end.

    Args:
        values: (T,) of one measure.
        threshold: a frame must be above it.
        frame_shift_s: seconds from one frame to the next; frame t is taken to last from t to t + 1 of these.
        min_frames: shorter stretches are left out.
        max_gap: stretches with at most so many frames between them are one.

    >>> stretches_above(np.array([0.0, 2.0, 3.0, 0.0, 0.0, 2.0]), 1.0, 0.01)
    [Stretch(start_s=0.01, end_s=0.03, peak=3.0)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values > threshold, [False]]).astype(np.int8)))
    runs = edges.reshape(-1, 2)
    runs = runs[runs[:, 1] - runs[:, 0] >= min_frames]
    first = np.ones(len(runs), dtype=bool)  # of the runs that make one stretch
    first[1:] = runs[1:, 0] - runs[:-1, 1] > max_gap
    bounds = zip(runs[first, 0].tolist(), runs[np.roll(first, -1), 1].tolist(), strict=True)
    return [
        Stretch(round(a * frame_shift_s, 6), round(b * frame_shift_s, 6), float(values[a:b].max())) for a, b in bounds
    ]
