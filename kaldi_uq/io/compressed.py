"""Kaldi's compressed matrices, the form in which ``steps/make_mfcc.sh`` of Kaldi writes features.

``kaldi_io`` 0.9.8 knows one of the three formats, and not with NumPy 2.4 or later.

Source: Kaldi ``src/matrix/compressed-matrix.h`` and ``.cc``.
"""

from __future__ import annotations

import struct
from typing import IO

import numpy as np

FORMATS = (b"CM ", b"CM2 ", b"CM3 ")
_STEPS_16_BIT, _STEPS_8_BIT = 65535.0, 255.0


def read_compressed(stream: IO[bytes], token: bytes) -> np.ndarray:
    """Read what follows the token.

    Args:
        stream: behind the token.
        token: one of ``FORMATS``: a byte a value with four percentiles a column, two bytes, one byte.

    Returns:
        (T, D) float32.

    Raises:
        ValueError: the archive is cut off or its header cannot be.
    """
    low, span, rows, cols = struct.unpack("<ffii", _take(stream, 16))
    if rows < 0 or cols < 0:
        raise ValueError(f"{rows} rows, {cols} columns")
    if token != FORMATS[0]:
        dtype, steps = ("<u2", _STEPS_16_BIT) if token == FORMATS[1] else ("u1", _STEPS_8_BIT)
        codes = np.frombuffer(_take(stream, rows * cols * np.dtype(dtype).itemsize), dtype).reshape(rows, cols)
        return (low + codes * np.float32(span / steps)).astype(np.float32)
    corners = np.frombuffer(_take(stream, cols * 8), "<u2").reshape(cols, 4).astype(np.float32)
    p0, p25, p75, p100 = (low + corners * np.float32(span / _STEPS_16_BIT)).T
    code = np.frombuffer(_take(stream, rows * cols), "u1").reshape(cols, rows).T.astype(np.float32)
    values = np.where(code <= 64, p0 + (p25 - p0) * code / 64, p25 + (p75 - p25) * (code - 64) / 128)
    return np.where(code <= 192, values, p75 + (p100 - p75) * (code - 192) / 63).astype(np.float32)


def _take(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError(f"{len(data)} of {size} bytes")
    return data
