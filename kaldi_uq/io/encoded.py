"""FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, CAF and Wave64, decoded by libsndfile, checked more strictly than it does.

FLAC is lossless: its samples are those of the WAV file that it was made of, and its digest of them has to be right.
The others are decoded to 16 bit, as the decoders of Kaldi's recipes do, and peaks that the coding made are clipped.

Source: RFC 9639 (FLAC), 8.2.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from kaldi_uq.errors import DataError, MissingDependencyError
from kaldi_uq.io.containers import check_container, container_kind
from kaldi_uq.io.mp3 import frame_at, mp3_frames, skip_id3
from kaldi_uq.io.ogg import MAGIC as OGG
from kaldi_uq.io.ogg import check_ogg
from kaldi_uq.io.reading import ALWAYS_UNPACKED, MAX_RATIO

FLAC = b"fLaC"
_STREAMINFO = b"\0\0\0\x22"  # header of FLAC's first block, unless it is the last one
_INT16_SCALE = 32768.0
_DTYPES = {"PCM_24": "int32", "PCM_32": "int32", "FLOAT": "float64", "DOUBLE": "float64"}  # of codings; others: int16
_REDIRECTED = threading.Lock()  # standard error is one for all threads
_LIBRARY = (b"libmpg123", b"Warning: Xing")  # what its lines have, one or the other


def encoded_kind(data: bytes) -> str:
    """The kind of audio, ``"FLAC"``, ``"Ogg"``, ``"MP3"``, ``"AIFF"``, ..., by its content; empty if it is no such."""
    if kind := container_kind(data):
        return kind
    if data.startswith(OGG):
        return "Ogg"
    begin = skip_id3(data)
    if data[begin : begin + 4] == FLAC:
        return "FLAC"
    return "MP3" if begin or frame_at(data, begin) else ""


def parse_encoded(data: bytes, name: str, max_bytes: int | None = None) -> tuple[np.ndarray, int]:
    """The channels and the rate of a file from memory.

    Args:
        data: the file.
        name: name of the file, for messages.
        max_bytes: the most that the samples may take as 16 bit; by default 250 times the size of the file.

    Returns:
        ``(channels, rate)``: (channels, N) int16, or int32 of files with more bits, over the full range of the type, or
        float64 of those with floating point; Hz.

    Raises:
        DataError: truncated, damaged, too long, or of a coding that is not read.
        MissingDependencyError: soundfile is not installed.
    """
    kind = encoded_kind(data)
    limit = max(ALWAYS_UNPACKED, MAX_RATIO * len(data)) if max_bytes is None else max_bytes
    if kind == "FLAC":
        return _flac(data[skip_id3(data) :], name, limit)
    if container_kind(data):
        check_container(data, kind, name)
        return _decode(data, name, "", limit)
    if kind == "Ogg":
        check_ogg(data, name)
    else:
        data = mp3_frames(data, name)
    with _said_by_decoders() as said:
        samples, rate = _decode(data, name, "float32", limit)
    if said:
        raise DataError(f"{name}: damaged: the decoder says {said[0][:200]!r}; copy or convert the file again")
    if not np.isfinite(samples).all():
        raise DataError(f"{name}: damaged: it decodes to NaN or infinity; copy or convert the file again")
    samples *= _INT16_SCALE  # in place: an hour of audio has hundreds of megabytes
    return np.clip(np.rint(samples, out=samples), -32768, 32767, out=samples).astype(np.int16), rate


@contextmanager
def _said_by_decoders() -> Iterator[list[str]]:
    """Collect the errors that libmpg123 writes to standard error, the only way in which it tells them; no other lines.

    The list is filled at the end.  Lines of others, of another thread perhaps, are passed on.
    """
    errors: list[str] = []
    with _REDIRECTED, tempfile.TemporaryFile() as kept:
        try:
            own = os.dup(2)
        except OSError:  # there is no standard error
            yield errors
            return
        os.dup2(kept.fileno(), 2)
        try:
            yield errors
        finally:
            os.dup2(own, 2)
            os.close(own)
            kept.seek(0)
            for line in kept:
                if not any(mark in line for mark in _LIBRARY):
                    os.write(2, line)
                elif b"error: " in line:
                    errors.append(line.decode(errors="replace").partition("error: ")[2].strip())


@dataclass(frozen=True)
class StreamInfo:
    """What the first block of a FLAC file says.

    Attributes:
        bits: bits of a sample.
        num_samples: samples of a channel; 0 if the encoder did not know.
        md5: of the samples; zero if the encoder did not say.
    """

    bits: int
    num_samples: int
    md5: bytes

    @classmethod
    def parse(cls, data: bytes, name: str) -> StreamInfo:
        """Read it."""
        if len(data) < 42 or data[4] & 0x7F or data[5:8] != _STREAMINFO[1:]:
            raise DataError(f"{name}: truncated or damaged: no STREAMINFO of a FLAC file; copy the file again")
        fields = int.from_bytes(data[18:26], "big")
        return cls((fields >> 36 & 31) + 1, fields & (1 << 36) - 1, data[26:42])


def _flac(data: bytes, name: str, limit: int) -> tuple[np.ndarray, int]:
    info = StreamInfo.parse(data, name)
    if not info.num_samples:
        raise DataError(
            f"{name}: a FLAC stream that does not say its length, so that nobody could tell if it is whole; decode it "
            "and encode it again"
        )
    second = data.find(FLAC + _STREAMINFO, 4)
    if second > 0:
        raise DataError(f"{name}: a second FLAC file begins at byte {second}; expected one")
    samples, rate = _decode(data, name, "int16" if info.bits <= 16 else "int32", limit)
    if samples.shape[1] != info.num_samples:
        raise DataError(
            f"{name}: truncated: {samples.shape[1]} of {info.num_samples} samples of FLAC; copy the file again"
        )
    if any(info.md5) and _md5(samples, info.bits) != info.md5:
        raise DataError(f"{name}: damaged: its samples are not those that were encoded (MD5); copy the file again")
    return samples, rate


def _md5(channels: np.ndarray, bits: int) -> bytes:
    """The digest that FLAC keeps: of the samples, interleaved, in as few bytes as hold them."""
    size = channels.dtype.itemsize
    values = np.ascontiguousarray((channels >> (8 * size - bits)).T, f"<i{size}")
    used = values.view(np.uint8).reshape(-1, size)[:, : (bits + 7) // 8]
    return hashlib.md5(np.ascontiguousarray(used).data, usedforsecurity=False).digest()


def _decode(data: bytes, name: str, dtype: str, limit: int) -> tuple[np.ndarray, int]:
    """All samples, (channels, N), and the rate; as many as libsndfile says beforehand, and no more than the limit.

    Without a ``dtype``, in the one that holds the samples of the file.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its library is not there
        raise MissingDependencyError(
            f"{name}: all audio but WAV and SPHERE is read with the package soundfile, which does not import "
            f"({error}): pip install soundfile, or convert the audio to WAV"
        ) from None
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if 2 * file.frames * file.channels > limit:
                raise DataError(
                    f"{name}: {file.frames} samples of {file.channels} channels in {len(data)} bytes, more than "
                    f"{limit / 1e6:g} MB as 16 bit, the most that is taken; cut the recording into parts"
                )
            dtype = dtype or _DTYPES.get(file.subtype, "int16")
            samples, frames, rate = file.read(dtype=dtype, always_2d=True), file.frames, file.samplerate
    except soundfile.SoundFileError as error:
        raise DataError(f"{name}: truncated or damaged ({_last(error)}); copy or convert the file again") from None
    if len(samples) != frames or not frames:
        raise DataError(f"{name}: truncated or damaged: {len(samples)} of {frames} samples; copy the file again")
    return np.ascontiguousarray(samples.T), int(rate)


def _last(error: Exception) -> str:
    """What libsndfile says, without the name of the stream in memory."""
    return str(error).rpartition(">: ")[2].rstrip(".")
