"""Waveforms of a data directory in padded batches, in an order that depends on nothing but the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.pipes import is_pipe, read_pipe
from kaldi_uq.io.segments import by_recording
from kaldi_uq.io.wav import only_channel, parse_wav

MAX_BATCH_SAMPLES = 1 << 21  # padded samples of a batch: about 130 s of 16 kHz audio, 100 MB in the front end


@dataclass(frozen=True)
class WaveBatch:
    """Waveforms of different length, padded with zeros.

    Attributes:
        utts: B utterance ids.
        wav: (B, N) float32 in [-1, 1].
        num_samples: (B,) int64.
    """

    utts: tuple[str, ...]
    wav: np.ndarray
    num_samples: np.ndarray


def plan_batches(lengths: Sequence[int], max_samples: int = MAX_BATCH_SAMPLES) -> list[list[int]]:
    """Group items of similar length so that little is padding.

    Args:
        lengths: samples of each item.
        max_samples: the most padded samples in a batch; an item longer than that is a batch of its own.

    Returns:
        Indices into ``lengths``, longest batch first, so that a batch too large for the memory fails at once.

    >>> plan_batches([3, 9, 4, 8], max_samples=18)
    [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_samples:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def read_waves(
    data: DataDir, *, sample_rate: float, min_samples: int, allow_pipes: bool = False
) -> dict[str, np.ndarray]:
    """Read every waveform of a data directory; with ``segments`` the parts of the recordings.

    Args:
        data: the directory.
        sample_rate: Hz that every file must have.
        min_samples: the shortest waveform that the model can use.
        allow_pipes: run the lines of ``wav.scp`` that are commands.

    Returns:
        utt -> (N,) float32 in [-1, 1], in the directory's order.

    Raises:
        DataError: names the utterance's line, the file and what is wrong with it.
    """
    if data.segments:
        cut = _read_segments(data, sample_rate, allow_pipes)
        waves = {utt: cut[utt] for utt in data.segments}
    else:
        waves = {}
        for line, (utt, source) in enumerate(data.wav_scp.items(), 1):
            where = f"{data.path / 'wav.scp'}:{line}"
            channels, name = read_recording(source, where, sample_rate, allow_pipes)
            waves[utt] = only_channel(channels, name)
    for utt, samples in waves.items():
        if len(samples) < min_samples:
            where = data.where("segments", utt) if data.segments else data.wav_scp[utt]
            raise DataError(
                f"{where}: utterance {utt!r} has {len(samples)} samples ({len(samples) / sample_rate:.3f} s), "
                f"the shortest that can be used is {min_samples}; delete its line in "
                f"{'segments' if data.segments else 'wav.scp'} and run utils/fix_data_dir.sh {data.path}"
            )
    return waves


def _read_segments(data: DataDir, sample_rate: float, allow_pipes: bool) -> dict[str, np.ndarray]:
    """The segments, one recording after the other: only one whole recording is in memory."""
    cut: dict[str, np.ndarray] = {}
    lines = {reco: line for line, reco in enumerate(data.wav_scp, 1)}
    for reco, parts in by_recording(data.segments):
        source = data.wav_scp[reco]
        channels, _ = read_recording(source, f"{data.path / 'wav.scp'}:{lines[reco]}", sample_rate, allow_pipes)
        for line, utt, segment in parts:
            where = f"{data.path / 'segments'}:{line}"
            if segment.channel is None and len(channels) > 1:
                raise DataError(
                    f"{where}: {utt!r}: recording {reco!r} has {len(channels)} channels; add one to the line"
                )
            if (segment.channel or 0) >= len(channels):
                raise DataError(
                    f"{where}: {utt!r}: no channel {segment.channel} in {reco!r}, which has {len(channels)}"
                )
            try:
                start, end = segment.samples(channels.shape[1], int(sample_rate))
            except ValueError as error:
                raise DataError(
                    f"{where}: {utt!r}: {error}; delete or correct the line and run utils/fix_data_dir.sh {data.path}"
                ) from None
            samples = channels[segment.channel or 0, start:end]
            if not np.any(samples):
                raise DataError(f"{where}: {utt!r}: silent: all {len(samples)} samples are zero; remove the utterance")
            cut[utt] = samples.copy()  # not a view, which would keep the recording in memory
    return cut


def sample_rate_of(data: DataDir, *, allow_pipes: bool = False) -> int:
    """The sample rate in Hz of a directory's first recording, for a step that takes any.

    Raises:
        DataError: as of :func:`read_waves`.
    """
    where = f"{data.path / 'wav.scp'}:1"
    source = next(iter(data.wav_scp.values()))
    contents, name = _contents(source, where, allow_pipes)
    return parse_wav(contents, name, streamed=is_pipe(source))[1]


def read_recording(source: str, where: str, sample_rate: float, allow_pipes: bool) -> tuple[np.ndarray, str]:
    """Read what a line of ``wav.scp`` stands for: a file, a place in an archive of WAV files, or a pipe.

    Args:
        source: the line without its key.
        where: file and line, for messages.
        sample_rate: Hz that it must have.
        allow_pipes: run a pipe.

    Returns:
        (channels, N) float32 in [-1, 1], and its name for messages.

    Raises:
        DataError: it cannot be read, or has another sample rate.
    """
    contents, name = _contents(source, where, allow_pipes)
    channels, _ = parse_wav(contents, name, expected_rate=sample_rate, streamed=is_pipe(source))
    return channels, name


def _contents(source: str, where: str, allow_pipes: bool) -> tuple[bytes, str]:
    """The WAV file that a line stands for, and its name for messages."""
    if is_pipe(source):
        return read_pipe(source, where=where, allow_pipes=allow_pipes), f"{where}: output of {source!r}"
    file, _, offset = source.rpartition(":")
    in_archive = bool(file) and offset.isdigit() and not Path(source).is_file()
    try:
        with open(file if in_archive else source, "rb") as stream:
            stream.seek(int(offset) if in_archive else 0)
            return (_one_wav(stream) if in_archive else stream.read()), source
    except FileNotFoundError:
        raise DataError(f"{source}: no such file ({where})") from None


def _one_wav(stream: IO[bytes]) -> bytes:
    """A WAV file in an archive of them: as long as its header says."""
    head = stream.read(8)
    size = int.from_bytes(head[4:], "little")
    return head + stream.read(size)


def waves_digest(waves: dict[str, np.ndarray]) -> str:
    """SHA-256, in hex, of utterances and samples: what a step's output depends on, wherever the files lie."""
    checksum = hashlib.sha256()
    for utt, samples in waves.items():
        checksum.update(f"{utt} {len(samples)}\n".encode())
        checksum.update(np.ascontiguousarray(samples).data)
    return checksum.hexdigest()


def pad(waves: dict[str, np.ndarray], utts: Sequence[str]) -> WaveBatch:
    """Pad the chosen waveforms into one batch."""
    num_samples = np.array([len(waves[u]) for u in utts], dtype=np.int64)
    wav = np.zeros((len(utts), int(num_samples.max())), dtype=np.float32)
    for row, utt in enumerate(utts):
        wav[row, : num_samples[row]] = waves[utt]
    return WaveBatch(tuple(utts), wav, num_samples)


def wave_batches(waves: dict[str, np.ndarray], max_samples: int = MAX_BATCH_SAMPLES) -> Iterator[WaveBatch]:
    """All waveforms in padded batches."""
    utts = list(waves)
    for indices in plan_batches([len(waves[u]) for u in utts], max_samples):
        yield pad(waves, [utts[i] for i in indices])
