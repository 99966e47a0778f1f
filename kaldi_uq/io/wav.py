"""Audio, strictly: what is not plainly good audio is an error that says what is wrong.

One reader for whatever a line of ``wav.scp`` or the name of a file stands for: WAV, NIST SPHERE, FLAC, Ogg or MP3, as
their contents say and not their names; a file, a place in an archive of files, or a pipe, of which those that only
decode a file are not run; and a check for audio that comes from Python.
"""

from __future__ import annotations

import os
import shlex
import wave
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt

from kaldi_uq.errors import DataError, OtherAudioError
from kaldi_uq.io.commands import Decoding, decoding_of
from kaldi_uq.io.encoded import encoded_kind, parse_encoded
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.pipes import MAX_OUTPUT, is_pipe, no_leave, pipes_allowed, read_pipe
from kaldi_uq.io.reading import open_file, read_up_to
from kaldi_uq.io.resample import Resampler
from kaldi_uq.io.riff import STREAM_LENGTH, parse_wav
from kaldi_uq.io.rxfile import open_rxfile
from kaldi_uq.io.sphere import MAGIC, parse_sphere

Source: TypeAlias = str | os.PathLike[str] | IO[bytes]

INT16_SCALE = 32768.0
EXCESS = 1e-6  # how far rounding may carry samples of good audio beyond full scale


def write_wav(path: str | os.PathLike[str], samples: npt.ArrayLike, sample_rate: int) -> None:
    """Write a mono 16-bit PCM file atomically.

    Args:
        path: the file.
        samples: waveform, (N,) int16, or real numbers in [-1, 1], which are rounded to the 16-bit grid as
            :func:`to_int16` does: :func:`read_wav` gives audio that is on it, such as an attack's, exactly as it was.
        sample_rate: sample rate in Hz.

    Raises:
        ValueError: as of :func:`as_float`; nothing is written.
    """
    data = np.asarray(samples) if isinstance(samples, np.ndarray) else None
    if data is None or data.dtype != np.int16 or data.ndim != 1:
        data = to_int16(as_float(samples, name=os.fspath(path)))
    with atomic_write(path, "wb") as stream, wave.open(stream, "wb") as writer:
        writer.setparams((1, 2, int(sample_rate), len(data), "NONE", ""))
        writer.writeframesraw(data.astype("<i2", copy=False).tobytes())


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Round float samples in [-1, 1] to the 16-bit grid.

    Args:
        samples: waveform, (N,) float; 1.0 becomes 32767, the largest value of the grid.

    >>> to_int16(np.array([-1.0, 0.5, 1.0])).tolist()
    [-32768, 16384, 32767]
    """
    return np.clip(np.rint(samples * INT16_SCALE), -32768, 32767).astype(np.int16)


def on_grid(samples: np.ndarray) -> np.ndarray:
    """The nearest samples that a 16-bit file can hold, (N,) float32; samples from such a file do not change.

    >>> on_grid(np.array([0.5, 1.0])).tolist()
    [0.5, 0.999969482421875]
    """
    return (to_int16(samples) / np.float32(INT16_SCALE)).astype(np.float32)


def as_float(samples: npt.ArrayLike, *, name: str = "audio") -> np.ndarray:
    """Check audio that comes from Python, and give it the form that all functions of this package take.

    Args:
        samples: waveform, (N,) int16 or real numbers in [-1, 1]: an array, a list or a PyTorch tensor on the CPU.
        name: name of the audio, for messages.

    Returns:
        (N,) float32 in [-1, 1].

    Raises:
        ValueError: more than one channel, another integer type, beyond full scale, NaN or infinity, no samples.

    >>> as_float(np.array([-32768, 16384], dtype=np.int16)).tolist()
    [-1.0, 0.5]
    >>> as_float([0.25, 1.0]).tolist()
    [0.25, 1.0]
    >>> as_float([120.0, -900.0], name="call 7")
    Traceback (most recent call last):
    ValueError: call 7: samples reach 900, expected at most 1: looks like 16-bit values; divide by 32768
    """
    if isinstance(samples, (str, os.PathLike)):
        raise ValueError(f"{name}: a path, expected samples; read it first, read_wav(path)[0] or read_wavs")
    if isinstance(samples, tuple) and len(samples) == 2 and np.ndim(samples[0]) and not np.ndim(samples[1]):
        raise ValueError(f"{name}: samples and their rate, expected samples: take the first, read_wav(path)[0]")
    detach = getattr(samples, "detach", None)  # a tensor that takes part in a computation of gradients
    data = np.asarray(detach() if callable(detach) else samples)
    if data.ndim != 1:
        first = "samples[0]" if data.ndim == 2 and len(data) <= data.shape[1] else "samples[:, 0]"
        raise ValueError(f"{name}: shape {data.shape}, expected one channel, (N,); pick one, for example {first}")
    if not data.size:
        raise ValueError(f"{name}: no samples")
    if data.dtype.kind == "i" and data.dtype.itemsize == 2:
        return np.asarray(data / np.float32(INT16_SCALE), np.float32)
    if data.dtype.kind in "iu":
        half = 2 ** (8 * data.dtype.itemsize - 1)
        scaled = f"(samples - {half}.0) / {half}" if data.dtype.kind == "u" else f"samples / {half}.0"
        raise ValueError(
            f"{name}: samples are {data.dtype}, expected int16 or float; give {scaled}, or samples.astype('int16') if "
            "they are 16-bit values"
        )
    if data.dtype.kind != "f":
        raise ValueError(f"{name}: samples are {data.dtype}, expected int16 or float")
    bad = np.flatnonzero(~np.isfinite(data))
    if bad.size:
        raise ValueError(
            f"{name}: {bad.size} samples are NaN or infinite, the first at {bad[0]}; repair or convert the audio again"
        )
    peak = float(np.max(np.abs(data)))
    if peak > 1.0 + EXCESS:
        remedy = "looks like 16-bit values; divide by 32768" if peak >= 2 else "scale it down (16-bit values by 32768)"
        raise ValueError(f"{name}: samples reach {peak:.7g}, expected at most 1: {remedy}")
    return np.clip(data, -1.0, 1.0).astype(np.float32)


def read_wav(
    source: Source,
    *,
    expected_rate: float | None = None,
    where: str = "",
    allow_pipes: bool = False,
    max_bytes: int | None = None,
    resampler: Resampler | None = None,
) -> tuple[np.ndarray, int]:
    """Read audio of one channel.

    Args:
        source: a file, ``file.ark:offset`` or a pipe, as in a line of ``wav.scp``, or an open stream; WAV, SPHERE,
            FLAC, Ogg (Vorbis, Opus) or MP3.
        expected_rate: sample rate in Hz; another rate is an error.
        where: file and line that the source comes from, or the name of the stream, for messages.
        allow_pipes: run a pipe that does more than decode a file, see :func:`kaldi_uq.io.pipes.pipes_allowed`.
        max_bytes: length of the longest file, unpacked and as 16 bit; a longer one is an error.
        resampler: brings the audio to its rate, in place of ``expected_rate``.

    Returns:
        ``(samples, rate)``: (N,) float32 in [-1, 1], and Hz.

    Raises:
        DataError: missing, empty, truncated, not audio, not mono, another rate, NaN or beyond full scale, all zero; a
            pipe that is not allowed or fails.
        MissingDependencyError: a SPHERE file is compressed and ``sph2pipe`` is not there, or soundfile is not
            installed.
    """
    channels, rate = read_channels(
        source,
        expected_rate=None if resampler else expected_rate,
        where=where,
        allow_pipes=allow_pipes,
        max_bytes=max_bytes,
    )
    return only_channel(channels, rate, source_name(source, where), resampler)


def only_channel(
    channels: np.ndarray, rate: int, name: str, resampler: Resampler | None = None
) -> tuple[np.ndarray, int]:
    """The channel (N,) of audio (channels, N) that has just one, resampled if there is a resampler, and its rate.

    Raises:
        DataError: more than one, silence, or a rate that cannot be resampled; see also
            :class:`kaldi_uq.io.conversion.Conversion`.
    """
    if resampler:
        channels = resampler.one_channel(channels, rate, name)
    if len(channels) != 1:
        command = f"sox {shlex.quote(name)} out.wav remix 1"
        how = f": {command}" if os.path.isfile(name) else ", for example with remix 1 of sox or -c 1 of sph2pipe"
        raise DataError(f"{name}: {len(channels)} channels, expected 1; choose one{how}")
    if not np.any(channels):
        raise DataError(f"{name}: silent: all {channels.shape[1]} samples are zero; remove the utterance")
    return (resampler(channels[0], rate, name), int(resampler.rate)) if resampler else (channels[0], rate)


def read_channels(
    source: Source,
    *,
    expected_rate: float | None = None,
    where: str = "",
    allow_pipes: bool = False,
    max_bytes: int | None = None,
) -> tuple[np.ndarray, int]:
    """Read audio of any number of channels, silent or not; it takes the arguments of :func:`read_wav`.

    Returns:
        ``(channels, rate)``: (channels, N) float32 in [-1, 1], and Hz.
    """
    command = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    decoding = decoding_of(command)
    if decoding and not decoding.of_bytes:
        values, rate, name = _decoded(decoding, command, where, allow_pipes, max_bytes)
        return _checked(values, rate, name, expected_rate)
    data, name = contents(source, where, allow_pipes, max_bytes), source_name(source, where)
    return channels_of(data, name, expected_rate=expected_rate, streamed=is_streamed(source), max_bytes=max_bytes)


def channels_of(
    data: bytes, name: str, *, expected_rate: float | None, streamed: bool, max_bytes: int | None
) -> tuple[np.ndarray, int]:
    """The same of a file in memory; ``streamed`` as of :func:`kaldi_uq.io.riff.parse_wav`."""
    values, rate = _parse(data, name, streamed=streamed, max_bytes=max_bytes)
    return _checked(values, rate, name, expected_rate)


def _checked(values: np.ndarray, rate: int, name: str, expected_rate: float | None) -> tuple[np.ndarray, int]:
    """Channels and rate as of :func:`_parse` as those of :func:`read_channels`."""
    check_rate(rate, expected_rate, name)
    try:
        return scaled(values, name), rate
    except ValueError as error:
        raise DataError(str(error)) from None


def check_rate(rate: int, expected: float | None, name: str) -> None:
    """Refuse another sample rate than the expected one, both in Hz.

    Raises:
        DataError: they differ.
    """
    if expected is not None and rate != expected:
        raise OtherAudioError(
            f"{name}: sample rate {rate} Hz, expected {expected:g} Hz (--sample-frequency of the feature "
            "configuration); resample the audio, or have it resampled with --resample (in Python read_wavs(..., "
            "resample=True) of a recogniser, or resampler= of read_wav), or change the configuration",
            ("--resample",),
        )


def scaled(values: np.ndarray, name: str) -> np.ndarray:
    """The samples of a file, in the types of :func:`kaldi_uq.io.riff.parse_wav`, as float32 in [-1, 1], checked.

    Raises:
        ValueError: as of :func:`as_float`.
    """
    if values.dtype == np.uint8:
        values = (values - np.float32(128.0)) / np.float32(128.0)
    elif values.dtype.kind == "i" and values.dtype.itemsize != 2:
        values = values / -float(np.iinfo(values.dtype).min)
    channels = [as_float(channel, name=name) for channel in values]
    return channels[0][None] if len(channels) == 1 else np.stack(channels)  # one channel without a copy


def _parse(data: bytes, name: str, *, streamed: bool, max_bytes: int | None) -> tuple[np.ndarray, int]:
    """The channels, (channels, N) of any type over its full range, and the rate of a file, by its contents."""
    if data.startswith(MAGIC):
        return parse_sphere(data, name)
    if encoded_kind(data):
        return parse_encoded(data, name, max_bytes)
    return parse_wav(data, name, streamed=streamed)


def _decoded(
    decoding: Decoding, command: str, where: str, allow_pipes: bool, max_bytes: int | None
) -> tuple[np.ndarray, int, str]:
    """What a command makes of its file: channels and rate as of :func:`_parse`, and the name for messages.

    It is run where more is to be done than reading, and that is allowed.
    """
    name = decoding.file
    with open_file(name, hint=f" ({where})" if where else "", unpack=False) as stream:
        data = _bounded(stream, None, name, max_bytes)
    kind = "SPHERE" if data.startswith(MAGIC) else encoded_kind(data) or "WAV"
    if decoding.kind not in ("", kind):
        raise DataError(f"{name}: no {decoding.kind} file, as {decoding.program} takes it ({where}); correct the line")
    values, rate = _parse(data, name, streamed=False, max_bytes=max_bytes)
    bits = None if values.dtype.kind == "f" else 8 * values.dtype.itemsize
    if why := decoding.obstacle(rate=rate, channels=len(values), bits=bits):
        if not pipes_allowed(allow_pipes):
            raise no_leave(command, where or "input", why)
        name = source_name(command, where)
        data = read_pipe(command, where=where or "input", allow_pipes=True, max_bytes=max_bytes or MAX_OUTPUT)
        return *_parse(data, name, streamed=True, max_bytes=max_bytes), name
    if decoding.channel is None:
        return values, rate, name
    if decoding.channel >= len(values):
        raise DataError(f"{name}: no channel {decoding.channel + 1}, there are {len(values)} ({where})")
    return values[decoding.channel :][:1], rate, name


def is_streamed(source: Source) -> bool:
    """Whether the audio comes from a program, which may not have known its length."""
    return not isinstance(source, (str, os.PathLike)) or is_pipe(os.fspath(source))


def source_name(source: Source, where: str) -> str:
    """The name of a source for messages."""
    if not isinstance(source, (str, os.PathLike)):
        return where
    source = os.fspath(source)
    return f"{where}: output of {source!r}" if is_pipe(source) else source


def contents(source: Source, where: str, allow_pipes: bool, max_bytes: int | None) -> bytes:
    """The bytes of the audio file that a source stands for."""
    if not isinstance(source, (str, os.PathLike)):
        return _bounded(source, None, where, max_bytes)
    with open_rxfile(os.fspath(source), where=where, allow_pipes=allow_pipes, max_bytes=max_bytes) as stream:
        if not stream.tell():
            return _bounded(stream, None, source_name(source, where), max_bytes)
        head = stream.read(8)  # one of the WAV files of an archive: as long as its header says
        if kind := encoded_kind(head):
            raise DataError(f"{source_name(source, where)}: {kind} in an archive; expected WAV or SPHERE there")
        size = int.from_bytes(head[4:], "big" if head.startswith(b"RIFX") else "little")
        if head[:4] in (b"RIFF", b"RIFX") and not 0 < size < STREAM_LENGTH:
            raise DataError(f"{source_name(source, where)}: a WAV file of unknown length in an archive; write it again")
        return head + _bounded(stream, size, source_name(source, where), max_bytes)


def _bounded(stream: IO[bytes], size: int | None, name: str, max_bytes: int | None) -> bytes:
    """The next ``size`` bytes, or fewer at the end, or all that there are; more than ``max_bytes`` are an error."""
    if max_bytes is None:
        return stream.read() if size is None else read_up_to(stream, size)
    data = read_up_to(stream, max_bytes + 1 if size is None else min(size, max_bytes + 1))
    if len(data) > max_bytes:
        raise DataError(
            f"{name}: more than {max_bytes / 1e6:g} MB, the most that is taken; cut the recording into parts"
        )
    return data
