"""Long recordings that stay in their file: samples are decoded when they are asked for, a stretch at a time."""

from __future__ import annotations

import os
from typing import IO

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.commands import decoding_of
from kaldi_uq.io.reading import open_file
from kaldi_uq.io.resample import Resampler
from kaldi_uq.io.riff import Contents, Layout, is_wav, layout_of
from kaldi_uq.io.rxfile import split_offset
from kaldi_uq.io.wav import (
    Source,
    channels_of,
    check_rate,
    contents,
    is_streamed,
    only_channel,
    read_wav,
    scaled,
    source_name,
)

_CHECKED_AT_ONCE = 1 << 20  # samples


class Recording:
    """The samples of a WAV file of one channel; a slice of it is an array (n,) float32 in [-1, 1].

    Args:
        data: the file.
        layout: where its audio is.
        name: name of the file, for messages.
    """

    def __init__(self, data: Contents, layout: Layout, name: str) -> None:
        self._data, self._layout, self._name = data, layout, name

    def __len__(self) -> int:
        return self._layout.num_samples

    def __getitem__(self, place: slice, /) -> np.ndarray:
        start, stop, step = place.indices(len(self))
        if step != 1:
            raise ValueError(f"a stretch of successive samples is expected, got every {step}th")
        if start >= stop:
            return np.zeros(0, np.float32)
        return scaled(self._layout.channels(self._data, start, stop), self._name)[0]

    def is_sound(self) -> bool:
        """Whether all samples are real numbers in [-1, 1], and not all of them zero."""
        heard = False
        for start in range(0, len(self), _CHECKED_AT_ONCE):
            try:
                heard |= bool(np.any(self[start : start + _CHECKED_AT_ONCE]))
            except ValueError:
                return False
        return heard


def open_recording(
    source: Source,
    longest: int,
    *,
    expected_rate: float | None = None,
    where: str = "",
    allow_pipes: bool = False,
    max_bytes: int | None = None,
    resampler: Resampler | None = None,
) -> np.ndarray | Recording:
    """Read audio of one channel, or leave it where it is if it is long.

    A WAV file stays where it is.  One that comes through a pipe, is gzipped or lies in an archive is kept as it comes,
    which takes less memory than its samples.  Audio of other formats, of another rate that is to be resampled, and what
    a command decodes that need not run, is always read.

    Args:
        source: as of :func:`kaldi_uq.io.wav.read_wav`.
        longest: samples of the longest audio that is read.
        expected_rate, where, allow_pipes, max_bytes, resampler: as of :func:`kaldi_uq.io.wav.read_wav`.

    Returns:
        (N,) float32 in [-1, 1], or a recording of more than ``longest`` samples.

    Raises:
        as :func:`kaldi_uq.io.wav.read_wav`.
    """
    if _is_decoded(source):
        return read_wav(
            source,
            expected_rate=expected_rate,
            where=where,
            allow_pipes=allow_pipes,
            max_bytes=max_bytes,
            resampler=resampler,
        )[0]
    name, streamed = source_name(source, where), is_streamed(source)
    expected_rate = None if resampler else expected_rate
    data: bytes | _File = _open(source, longest, where, max_bytes) or contents(source, where, allow_pipes, max_bytes)
    if is_wav(data):
        layout = layout_of(data, name, streamed=streamed)
        check_rate(layout.format.rate, expected_rate, name)
        as_it_is = layout.format.channels == 1 and (resampler is None or layout.format.rate == resampler.rate)
        recording = Recording(data, layout, name)
        if as_it_is and len(recording) > longest and recording.is_sound():
            return recording
    # short, to be decoded or resampled, or with something wrong, which is best said of the whole
    channels, rate = channels_of(data[:], name, expected_rate=expected_rate, streamed=streamed, max_bytes=max_bytes)
    return only_channel(channels, rate, name, resampler)[0]


def _is_decoded(source: Source) -> bool:
    """Whether it is a command that is not run, because it only decodes a file."""
    decoding = decoding_of(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else None
    return decoding is not None and not decoding.of_bytes


class _File:
    """The bytes of an open file, which must stay as it is.

    Args:
        stream: the file.
        name: its name, for messages.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name
        self._state = self._now()

    def _now(self) -> tuple[int, int]:
        found = os.fstat(self._stream.fileno())
        return found.st_size, found.st_mtime_ns

    def __len__(self) -> int:
        return self._state[0]

    def __getitem__(self, place: slice, /) -> bytes:
        start, stop, _ = place.indices(len(self))
        self._stream.seek(start)
        found = self._stream.read(max(0, stop - start))
        if self._now() != self._state:
            raise DataError(f"{self._name}: it changes while it is read; wait until it is whole")
        return found


def _open(source: Source, longest: int, where: str, max_bytes: int | None) -> _File | None:
    """A file that may be long enough to stay one, unpacked and of an allowed size; ``None`` for anything else."""
    if is_streamed(source):
        return None
    path = os.fspath(source)  # type: ignore[arg-type]  # no stream
    if path.endswith(".gz") or split_offset(path)[1]:
        return None
    stream = open_file(path, hint=f" ({where})" if where else "")
    file = _File(stream, path)
    if longest < len(file) <= (len(file) if max_bytes is None else max_bytes):  # a sample has a byte or more
        return file
    stream.close()
    return None
