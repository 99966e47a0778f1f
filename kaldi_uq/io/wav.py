"""Mono WAV files, strictly: what is not plainly good audio is an error that says what is wrong."""

from __future__ import annotations

import io
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
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    channels, rate = parse_wav(data, str(path), expected_rate=expected_rate)
    return only_channel(channels, str(path)), rate


def only_channel(channels: np.ndarray, name: str) -> np.ndarray:
    """The samples (N,) of a recording (channels, N) that has one channel and is not silent.

    Raises:
        DataError: more channels, or all samples are zero.
    """
    if len(channels) != 1:
        raise DataError(
            f"{name}: {len(channels)} channels, expected 1; choose one, e.g. with sox {name} out.wav remix 1"
        )
    if not np.any(channels):
        raise DataError(f"{name}: silent: all {channels.shape[1]} samples are zero; remove the utterance")
    return channels[0]


def parse_wav(
    data: bytes, name: str, *, expected_rate: float | None = None, streamed: bool = False
) -> tuple[np.ndarray, int]:
    """Read a WAV file from memory.

    Args:
        data: the file.
        name: of the file, for messages.
        expected_rate: Hz; another rate is an error.
        streamed: a program wrote it to a pipe, and may not have known the length.

    Returns:
        ``(channels, rate)``: (channels, N) float32 in [-1, 1], and Hz.

    Raises:
        DataError: empty, truncated, not WAV, another rate, NaN or beyond full scale.
    """
    data = _checked_length(name, data, streamed=streamed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that carry no audio
        try:
            rate, values = wavfile.read(io.BytesIO(data))
        except _MALFORMED as error:
            raise DataError(f"{name}: not a readable WAV file ({error})") from None
    if expected_rate is not None and rate != expected_rate:
        raise DataError(
            f"{name}: sample rate {rate} Hz, expected {expected_rate:g} Hz (--sample-frequency of the feature "
            "configuration); resample the audio or change the configuration"
        )
    return _to_float(name, np.atleast_2d(values.T)), int(rate)


def _to_float(path: str, data: np.ndarray) -> np.ndarray:
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


def _checked_length(path: str, data: bytes, *, streamed: bool) -> bytes:
    """Refuse a header that promises more bytes than there are: a copy or a write was cut off.

    Where a program could not know the length, the header gets the true one.
    """
    size = len(data)
    if size < 12 or data[:4] not in (b"RIFF", b"RIFX", b"RF64") or data[8:12] != b"WAVE":
        raise DataError(f"{path}: not a WAV file ({size} bytes; no RIFF/WAVE header)")
    order = ">" if data[:4] == b"RIFX" else "<"
    at = 12
    while True:
        if at + 8 > size:
            raise DataError(f"{path}: truncated: no data chunk in {size} bytes; copy the file again")
        length = struct.unpack_from(order + "I", data, at + 4)[0]
        at += 8
        if data[at - 8 : at - 4] == b"data":
            break
        at += length + length % 2
    present = size - at
    unknown = length >= STREAM_LENGTH or (streamed and length == 0)
    if length == 0 and not (streamed and present):
        raise DataError(f"{path}: no samples; remove the utterance")
    if present < length and not unknown:
        raise DataError(f"{path}: truncated: the header promises {length} bytes, {present} are there; copy it again")
    if unknown and data[:4] != b"RF64":
        return b"".join([data[: at - 4], struct.pack(order + "I", present), data[at:]])
    return data
