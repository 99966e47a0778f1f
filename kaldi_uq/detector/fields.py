"""Checked reading of JSON values: a detector file may come from a stranger."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kaldi_uq.detector.base import FloatArray
from kaldi_uq.errors import DataError


def require_fields(state: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check that ``state`` has exactly these fields."""
    if set(state) != set(names):
        raise DataError(f"expected the fields {', '.join(sorted(names))}, found {', '.join(sorted(map(str, state)))}")


def read_flag(state: Mapping[str, Any], name: str) -> bool:
    """A JSON true or false."""
    value = state[name]
    if not isinstance(value, bool):
        raise DataError(f"field {name!r} must be true or false, got {value!r:.40}")
    return value


def read_number(state: Mapping[str, Any], name: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in [low, high]."""
    value = state[name]
    # the size first: an integer beyond float64 cannot be asked whether it is finite
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise DataError(f"field {name!r} must be a finite number, got {value!r:.40}")
    if not low <= value <= high:
        raise DataError(f"field {name!r} must be in [{low:g}, {high:g}], got {value:g}")
    return float(value)


def read_count(state: Mapping[str, Any], name: str, *, low: int, high: int) -> int:
    """An integer in [low, high]."""
    value = state[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DataError(f"field {name!r} must be an integer in [{low}, {high}], got {value!r:.40}")
    return value


def read_matrix(state: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> FloatArray:
    """Nested lists of finite numbers as float64; -1 in ``shape`` stands for any length of at least 2."""
    array = _to_array(state[name], name)
    if array.ndim != len(shape) or any(n != m and (m != -1 or n < 2) for n, m in zip(array.shape, shape, strict=True)):
        raise DataError(f"field {name!r} must have shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"field {name!r} has a value that is not finite")
    return array


def _to_array(value: Any, name: str) -> FloatArray:
    try:
        array = np.array(value)
    except ValueError:  # lists of different lengths
        raise DataError(f"field {name!r} must be a table of numbers") from None
    if array.dtype.kind not in "fi":
        raise DataError(f"field {name!r} must hold numbers only")
    return array.astype(np.float64)
