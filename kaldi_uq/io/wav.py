"""Mono WAV files, strictly: what is not plainly good audio is an error that says what is wrong."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import atomic_write

INT16_SCALE = 32768.0

# A program that writes to a pipe cannot know the length and writes a maximum, the smallest of which is SoX's.
STREAM_LENGTH = 0x7FFFF000

# what scipy raises on a damaged header; UnboundLocalError where the size of the file is one that cannot be
_MALFORMED = (ValueError, struct.error, EOFError, ArithmeticError, TypeError, UnboundLocalError)


def write_wav(path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int) -> None:
    """Write a mono 16-bit PCM file atomically.

    Args:
        path: the file.
        samples: (N,) int16.  Converting from float is the caller's decision; see :func:`to_int16`.
        sample_rate: Hz.
    """
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise TypeError(f"samples must be (N,) int16, got {samples.shape} {samples.dtype}")
    with atomic_write(path, "wb") as stream:
        wavfile.write(stream, int(sample_rate), samples)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Round float samples in [-1, 1] to the 16-bit grid.

    Args:
        samples: (N,) float; 1.0 becomes 32767, the largest value of the grid.

    >>> to_int16(np.array([-1.0, 0.5, 1.0])).tolist()
    [-32768, 16384, 32767]
    """
    return np.clip(np.rint(samples * INT16_SCALE), -32768, 32767).astype(np.int16)


def on_grid(samples: np.ndarray) -> np.ndarray:
    """The nearest samples that a 16-bit file can hold, (N,) float32; those of a 16-bit file are returned as they are.

    >>> on_grid(np.array([0.5, 1.0])).tolist()
    [0.5, 0.999969482421875]
    """
    return (to_int16(samples) / np.float32(INT16_SCALE)).astype(np.float32)


def read_wav(path: str | os.PathLike[str], *, expected_rate: float | None = None) -> tuple[np.ndarray, int]:
    """Read a mono WAV file (PCM or float).

    Args:
        path: the file.
        expected_rate: Hz; another rate is an error.

    Returns:
        ``(samples, rate)``: (N,) float32 in [-1, 1], and Hz.

    Raises:
        DataError: missing, empty, truncated, not WAV, not mono, another rate, NaN or beyond full scale, all zero.
    """
    path = Path(path)
    _check_length(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that carry no audio
        try:
            rate, data = wavfile.read(path)
        except _MALFORMED as error:
            raise DataError(f"{path}: not a readable WAV file ({error})") from None
    if data.ndim != 1:
        raise DataError(
            f"{path}: {data.shape[1]} channels, expected 1; choose one, e.g. with sox {path} out.wav remix 1"
        )
    if expected_rate is not None and rate != expected_rate:
        raise DataError(
            f"{path}: sample rate {rate} Hz, expected {expected_rate:g} Hz (--sample-frequency of the feature "
            "configuration); resample the audio or change the configuration"
        )
    samples = _to_float(path, data)
    if not np.any(samples):
        raise DataError(f"{path}: silent: all {len(samples)} samples are zero; remove the utterance")
    return samples, int(rate)


def _to_float(path: Path, data: np.ndarray) -> np.ndarray:
    if data.dtype == np.uint8:
        return ((data.astype(np.float32) - 128.0) / 128.0).astype(np.float32)
    if np.issubdtype(data.dtype, np.integer):
        return (data / np.float64(-np.iinfo(data.dtype).min)).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(data))
    if bad.size:
        raise DataError(
            f"{path}: {bad.size} samples are NaN or infinite, the first at {bad[0]}; convert the file again"
        )
    peak = float(np.max(np.abs(data), initial=0.0))
    if peak > 1.0:
        raise DataError(f"{path}: float samples reach {peak:.4g}, expected at most 1; scale the audio")
    return data.astype(np.float32)


def _check_length(path: Path) -> None:
    """A header that promises more bytes than the file has means a copy or a write was cut off."""
    try:
        size = path.stat().st_size
        stream = open(path, "rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    with stream:
        head = stream.read(12)
        if len(head) < 12 or head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:12] != b"WAVE":
            raise DataError(f"{path}: not a WAV file ({size} bytes; no RIFF/WAVE header)")
        order = ">" if head[:4] == b"RIFX" else "<"
        while True:
            chunk = stream.read(8)
            if len(chunk) < 8:
                raise DataError(f"{path}: truncated: no data chunk in {size} bytes; copy the file again")
            name, length = chunk[:4], struct.unpack(order + "I", chunk[4:])[0]
            if name == b"data":
                break
            stream.seek(length + length % 2, os.SEEK_CUR)
        present = size - stream.tell()
    if length == 0:
        raise DataError(f"{path}: no samples; remove the utterance")
    if present < length < STREAM_LENGTH:
        raise DataError(f"{path}: truncated: the header promises {length} bytes, {present} are there; copy it again")
