"""Telephone audio, a byte a sample: mu-law and A-law as 16-bit samples.

Source: ITU-T G.711.
"""

from __future__ import annotations

import numpy as np


def _ulaw() -> np.ndarray:
    """Complemented bits are sign, exponent (3), mantissa (4); bias 33 on the 14-bit scale."""
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = (((code & 0x0F).astype(np.int32) * 2 + 33) << ((code >> 4) & 7)) - 33
    return (np.where(code & 0x80, -magnitude, magnitude) * 4).astype(np.int16)


def _alaw() -> np.ndarray:
    """Bits, every other one complemented, are sign (set: positive), exponent (3), mantissa (4) on the 13-bit scale."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = ((code >> 4) & 7).astype(np.int32), (code & 0x0F).astype(np.int32)
    magnitude = np.where(exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << np.maximum(exponent - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) * 8).astype(np.int16)


ULAW, ALAW = _ulaw(), _alaw()  # (256,) int16 each: the sample of each byte
