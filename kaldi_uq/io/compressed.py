"""Kaldi's compressed matrices, the form in which ``steps/make_mfcc.sh`` of Kaldi writes features.

``kaldi_io`` 0.9.8 knows one of the three formats, and not with NumPy 2.4 or later.

Source: Kaldi ``src/matrix/compressed-matrix.h`` and ``.cc``.
"""

from __future__ import annotations

import struct
from typing import IO

import numpy as np

from kaldi_uq.io.reading import take

FORMATS = (b"CM ", b"CM2 ", b"CM3 ")
_STEPS_16_BIT, _STEPS_8_BIT = 65535.0, 255.0


def read_compressed(stream: IO[bytes], token: bytes) -> np.ndarray:
    """Read what follows the token.

    Args:
        stream: the archive, behind the token.
        token: format, one of ``FORMATS``: a byte a value with four percentiles a column, two bytes, one byte.

    Returns:
        (T, D) float32.

    Raises:
        ValueError: the archive is cut off or its header is impossible.
    """
    low, span, rows, cols = struct.unpack("<ffii", take(stream, 16))
    if rows < 0 or cols < 0:
        raise ValueError(f"{rows} rows, {cols} columns")
    if not abs(low) + abs(span) <= float(np.finfo(np.float32).max):
        raise ValueError(f"values from {low:g} on, over a span of {span:g}, are no finite numbers")
    if token != FORMATS[0]:
        dtype, steps = ("<u2", _STEPS_16_BIT) if token == FORMATS[1] else ("u1", _STEPS_8_BIT)
        codes = np.frombuffer(take(stream, rows * cols * np.dtype(dtype).itemsize), dtype).reshape(rows, cols)
        return (low + codes * np.float32(span / steps)).astype(np.float32)
    corners = np.frombuffer(take(stream, cols * 8), "<u2").reshape(cols, 4).astype(np.float32)
    p0, p25, p75, p100 = (low + corners * np.float32(span / _STEPS_16_BIT)).T
    code = np.frombuffer(take(stream, rows * cols), "u1").reshape(cols, rows).T.astype(np.float32)
    values = np.where(code <= 64, p0 + (p25 - p0) * code / 64, p25 + (p75 - p25) * (code - 64) / 128)
    return np.where(code <= 192, values, p75 + (p100 - p75) * (code - 192) / 63).astype(np.float32)


def compress(matrix: np.ndarray) -> bytes:
    """Write a matrix in the format for speech features, token included; the same bytes as Kaldi's ``copy-feats`` makes.

    Args:
        matrix: real and finite numbers, (T, D).

    Raises:
        ValueError: the matrix is empty, or has a value that is not finite.
    """
    values = matrix.astype(np.float32)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"only a matrix of finite numbers can be compressed, got {matrix.shape} {matrix.dtype}")
    low, high = values.min(), values.max()
    if low == high:
        high = np.float32(low + (1.0 + abs(float(low))))
    span = np.float32(high - low)
    corners = _corners(np.sort(values, axis=0), low, span)
    p0, p25, p75, p100 = (low + span * np.float32(1 / _STEPS_16_BIT) * corners.astype(np.float32)).astype(np.float32)
    first = np.clip(_codes((values - p0) / (p25 - p0), 64), 0, 64)
    middle = np.clip(64 + _codes((values - p25) / (p75 - p25), 128), 64, 192)
    last = np.clip(192 + _codes((values - p75) / (p100 - p75), 63), 192, 255)
    code = np.where(values < p25, first, np.where(values < p75, middle, last)).astype("u1")
    head = FORMATS[0] + struct.pack("<ffii", low, span, *values.shape)
    return head + corners.T.astype("<u2").tobytes() + code.T.tobytes()


def _codes(shares: np.ndarray, steps: int) -> np.ndarray:
    """Shares of a part of the range in whole steps, rounded as Kaldi rounds them there."""
    return np.trunc((shares * np.float32(steps)).astype(np.float64) + 0.5).astype(np.int32)


def _corners(ordered: np.ndarray, low: np.floating, span: np.floating) -> np.ndarray:
    """Quartiles of each column on the 16-bit scale, (4, D), strictly ascending; of a sorted matrix."""
    rows = len(ordered)
    quarter = rows // 4
    places = (0, quarter, 3 * quarter, rows - 1) if rows >= 5 else range(min(rows, 4))
    shares = [np.clip((ordered[place] - low) / span, 0, 1) * np.float32(_STEPS_16_BIT) for place in places]
    codes = [np.trunc(share.astype(np.float64) + 0.499).astype(np.int32) for share in shares]
    while len(codes) < 4:
        codes.append(np.zeros_like(codes[0]))
    corners = [np.minimum(codes[0], 65532)]
    corners.append(np.minimum(np.maximum(codes[1], corners[0] + 1), 65533))
    corners.append(np.minimum(np.maximum(codes[2], corners[1] + 1), 65534))
    corners.append(np.maximum(codes[3], corners[2] + 1))
    return np.stack(corners)
