"""Waveforms of a data directory, one after the other or in padded batches, in an order that only the data decide.

All are read and checked once, before anything is computed, and read again when they are needed, so that the memory does
not grow with their number.  What costs more to read again than its samples are worth is kept in a temporary file
(``TMPDIR``), as 16 bit where that is exact: parts of recordings, and the output of programs, which run once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.pipes import programs_started
from kaldi_uq.io.resample import Resampler
from kaldi_uq.io.spool import Spool
from kaldi_uq.io.wav import INT16_SCALE, read_channels, read_wav, to_int16

MAX_BATCH_SAMPLES = 1 << 21  # padded samples of a batch: about 130 s of 16 kHz audio, 100 MB in the front end
HELD_BYTES = 1 << 25  # of waveforms, mostly of 16 bit, that stay in memory where all are asked for many times
CPU_BATCH_SAMPLES = 1 << 18  # on a CPU, where what a batch computes should stay in the cache: half the time


@dataclass(frozen=True)
class WaveBatch:
    """Waveforms of different length, padded with zeros.

    Attributes:
        utts: utterance ids, B of them.
        wav: waveforms, (B, N) float32 in [-1, 1].
        num_samples: number of samples of each utterance, (B,) int64.
    """

    utts: tuple[str, ...]
    wav: np.ndarray
    num_samples: np.ndarray


class Waves(Mapping[str, np.ndarray]):
    """Waveforms that are read each time they are asked for; what is known of all is how long they are.

    Args:
        lengths: utt -> number of samples, in order.
        read: gives the samples of one, (N,) float32 in [-1, 1].
        digest: what :func:`waves_digest` gives, if that is known.
    """

    def __init__(self, lengths: Mapping[str, int], read: Callable[[str], np.ndarray], digest: str = "") -> None:
        self.lengths, self.digest, self._read = lengths, digest, read

    @classmethod
    def of(cls, waves: Mapping[str, Any]) -> Waves:
        """Waveforms that may be in memory, or long recordings in their files, as such ones."""
        return waves if isinstance(waves, Waves) else cls({u: len(w) for u, w in waves.items()}, waves.__getitem__)

    def __getitem__(self, utt: str) -> np.ndarray:
        expected = self.lengths[utt]
        samples = self._read(utt)
        if len(samples) != expected:
            raise DataError(f"utterance {utt!r}: its file was changed: {len(samples)} samples, there were {expected}")
        return samples

    def __iter__(self) -> Iterator[str]:
        return iter(self.lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __contains__(self, utt: object) -> bool:
        return utt in self.lengths

    def subset(self, utts: Iterable[str]) -> Waves:
        """Some of the waveforms, in the order given."""
        lengths = {utt: self.lengths[utt] for utt in utts}
        return Waves(lengths, self._read, self.digest if list(lengths) == list(self.lengths) else "")

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> Waves:
        """The waveforms after a change that keeps their length, made each time one is read."""
        return Waves(self.lengths, lambda utt: change(self[utt]))

    def held(self) -> Waves:
        """The same; what is read first stays in memory, up to ``HELD_BYTES``."""
        held, left = dict[str, np.ndarray](), HELD_BYTES

        def read(utt: str) -> np.ndarray:
            nonlocal left
            if utt in held:
                return expanded(held[utt])
            samples = self[utt]
            small = compact(samples)
            if small.nbytes <= left:
                held[utt] = small
                left -= small.nbytes
            return samples

        return Waves(self.lengths, read, self.digest)


def plan_batches(lengths: Sequence[int], max_samples: int = MAX_BATCH_SAMPLES) -> list[list[int]]:
    """Group items of similar length so that little is padding.

    Args:
        lengths: number of samples of each item.
        max_samples: largest number of padded samples in a batch; a longer item is a batch of its own.

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
    data: DataDir,
    *,
    sample_rate: float,
    min_samples: int = 1,
    utts: Collection[str] | None = None,
    allow_pipes: bool = False,
    resample: bool = False,
) -> Waves:
    """Read the waveforms of a data directory, with ``segments`` the parts of the recordings, and check them all.

    Args:
        data: the directory.
        sample_rate: sample rate in Hz that every file must have.
        min_samples: number of samples of the shortest waveform that can be used.
        utts: utterances to read; only their recordings are opened.  All utterances by default.
        allow_pipes: run the lines of ``wav.scp`` that are commands.
        resample: resample what has another rate, and log how much that was; parts of recordings after they are cut.

    Returns:
        utt -> (N,) float32 in [-1, 1], in the directory's order; read again when they are asked for.

    Raises:
        DataError: audio that is missing or unfit; the message names line, file and fault.
        ValueError: an utterance that the directory does not have.
    """
    table = data.segments or data.wav_scp
    unknown = [utt for utt in utts or () if utt not in table]
    if unknown:
        raise ValueError(f"utterance {unknown[0]!r} is not in {data.path}")
    chosen = set(table if utts is None else utts)
    wanted = [utt for utt in table if utt in chosen]
    recordings = _recordings(data, wanted)
    resampler = Resampler(sample_rate) if resample else None
    kept, lengths, checksum = Spool(), dict[str, int](), hashlib.sha256()
    for recording in recordings:
        programs = programs_started()
        for utt, samples in _utterances(recording, data, sample_rate, allow_pipes, resampler):
            lengths[utt] = len(samples)
            _count_in(checksum, utt, samples)
            if data.segments or programs_started() > programs:
                kept.put(utt, compact(samples))
    for utt in wanted:
        _check_length(data, utt, lengths[utt], sample_rate, min_samples)
    if resampler:
        resampler.report(str(data.path), len(wanted))
    of_utt = {utt: recording for recording in recordings for utt in recording.utts if utt not in kept}

    def read(utt: str) -> np.ndarray:
        if utt in kept:
            return expanded(kept[utt])
        again = Resampler(sample_rate) if resample else None  # whose counts nobody reports
        return next(_utterances(of_utt[utt], data, sample_rate, allow_pipes, again))[1]

    in_order = list(lengths) == wanted  # or else recordings and utterances are sorted differently
    return Waves({utt: lengths[utt] for utt in wanted}, read, checksum.hexdigest() if in_order else "")


def waves_of_files(files: Mapping[str, Path], sample_rate: float) -> Waves:
    """Files of one channel: utt -> (N,) float32 in [-1, 1].  All are read and checked, and read again when asked for.

    Raises:
        DataError: a file that cannot be used, or of another sample rate.
    """

    def read(utt: str) -> np.ndarray:
        return read_wav(files[utt], expected_rate=sample_rate)[0]

    return Waves({utt: len(read(utt)) for utt in files}, read)


def unusable(
    data: DataDir,
    *,
    sample_rate: float | None,
    min_samples: int = 1,
    allow_pipes: bool = False,
    resample: bool = False,
) -> dict[str, DataError]:
    """The utterances whose audio :func:`read_waves` would refuse, and why; all audio is read, and none is kept.

    Args:
        data: the directory.
        sample_rate: sample rate in Hz that every file must have; ``None``: that of most files.
        min_samples, allow_pipes, resample: as of :func:`read_waves`.
    """
    found: dict[str, DataError] = {}
    rates: dict[str, int] = {}
    resampler = Resampler(sample_rate) if resample and sample_rate else None
    for recording in _recordings(data, list(data.segments or data.wav_scp)):
        try:
            samples, rate = _read(recording, data, None if resampler else sample_rate, allow_pipes)
        except DataError as error:
            found |= dict.fromkeys(recording.utts, error)
            continue
        for utt in recording.utts:
            try:
                part = _part(data, utt, samples, rate)
                part = resampler(part, rate, recording.source) if resampler else part
                rates[utt] = int(resampler.rate) if resampler else rate
                _check_length(data, utt, len(part), rates[utt], min_samples)
            except DataError as error:
                found[utt] = error
    if resample:
        return found
    counts = Counter(rates.values())
    for utt, rate in rates.items():
        usual = counts.most_common(1)[0][0]
        if rate != usual:
            reason = f"{data.source(utt)}: sample rate {rate} Hz, expected {usual} Hz, that of most files"
            found.setdefault(utt, DataError(reason))
    return found


@dataclass(frozen=True)
class _Recording:
    """A line of ``wav.scp``, read once for all its utterances.

    Attributes:
        source: file or pipe.
        where: file and number of the line.
        utts: its utterances.
    """

    source: str
    where: str
    utts: list[str]


def _recordings(data: DataDir, utts: Iterable[str]) -> list[_Recording]:
    """The recordings of some utterances."""
    places = {reco: f"{data.path / 'wav.scp'}:{line}" for line, reco in enumerate((data.whole or data).wav_scp, 1)}
    found: dict[str, _Recording] = {}
    for utt in utts:
        reco = data.segments[utt].reco if data.segments else utt
        found.setdefault(reco, _Recording(data.wav_scp[reco], places[reco], [])).utts.append(utt)
    return list(found.values())


def _utterances(
    recording: _Recording, data: DataDir, sample_rate: float, allow_pipes: bool, resampler: Resampler | None
) -> Iterator[tuple[str, np.ndarray]]:
    """The utterances of a recording, (N,) float32 each."""
    samples, rate = _read(recording, data, None if resampler else sample_rate, allow_pipes)
    for utt in recording.utts:
        part = _part(data, utt, samples, rate)
        yield utt, resampler(part, rate, recording.source) if resampler else part


def compact(samples: np.ndarray) -> np.ndarray:
    """Samples as int16 if :func:`expanded` makes the same bits of them."""
    small = to_int16(samples)
    return small if np.array_equal(expanded(small).view(np.int32), samples.view(np.int32)) else samples


def expanded(samples: np.ndarray) -> np.ndarray:
    """The samples that :func:`compact` was given."""
    return samples if samples.dtype == np.float32 else (samples / np.float32(INT16_SCALE)).astype(np.float32)


def _read(
    recording: _Recording, data: DataDir, expected_rate: float | None, allow_pipes: bool
) -> tuple[np.ndarray, int]:
    """Samples, (N,) or with ``segments`` (channels, N) float32, and rate in Hz of a recording."""
    read = read_channels if data.segments else read_wav
    try:
        return read(recording.source, expected_rate=expected_rate, where=recording.where, allow_pipes=allow_pipes)
    except OSError as error:
        raise DataError(f"{recording.source}: {error.strerror or error} ({recording.where})") from None


def _part(data: DataDir, utt: str, samples: np.ndarray, rate: int) -> np.ndarray:
    """The samples (N,) of an utterance, from those of its recording."""
    return _cut(data, utt, samples, rate) if data.segments else samples


def _check_length(data: DataDir, utt: str, size: int, rate: float, min_samples: int) -> None:
    if size < min_samples:
        name, where = ("segments", data.where("segments", utt)) if data.segments else ("wav.scp", data.wav_scp[utt])
        raise DataError(
            f"{where}: utterance {utt!r} has {size} samples ({size / rate:.3f} s), the shortest that can be "
            f"used is {min_samples}; delete its line in {name} and run utils/fix_data_dir.sh {data.path}"
        )


def _cut(data: DataDir, utt: str, channels: np.ndarray, rate: int) -> np.ndarray:
    """The samples of a segment; not a view, which would keep the recording in memory."""
    segment = data.segments[utt]

    def fail(problem: str) -> DataError:
        return DataError(f"{data.where('segments', utt)}: {utt!r}: {problem}")

    if segment.channel is None and len(channels) > 1:
        raise fail(f"recording {segment.reco!r} has {len(channels)} channels; add one to the line")
    if (segment.channel or 0) >= len(channels):
        raise fail(f"no channel {segment.channel} in {segment.reco!r}, which has {len(channels)}")
    try:
        start, end = segment.samples(channels.shape[1], rate)
    except ValueError as error:
        raise fail(f"{error}; delete or correct the line and run utils/fix_data_dir.sh {data.path}") from None
    samples = channels[segment.channel or 0, start:end]
    if not np.any(samples):
        raise fail(f"silent: all {len(samples)} samples are zero; remove the utterance")
    return samples.copy()


def sample_rate_of(data: DataDir, *, allow_pipes: bool = False) -> int:
    """The sample rate in Hz of a directory's first recording, for a step that takes any.

    Raises:
        DataError: the recording cannot be read.
    """
    source = next(iter(data.wav_scp.values()))
    return read_channels(source, where=f"{data.path / 'wav.scp'}:1", allow_pipes=allow_pipes)[1]


def waves_digest(waves: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hex, of utterances and samples: what a step's output depends on, wherever the files lie."""
    if isinstance(waves, Waves) and waves.digest:
        return waves.digest
    checksum = hashlib.sha256()
    for utt, samples in waves.items():
        _count_in(checksum, utt, samples)
    return checksum.hexdigest()


def _count_in(checksum: hashlib._Hash, utt: str, samples: np.ndarray) -> None:
    checksum.update(f"{utt} {len(samples)}\n".encode())
    checksum.update(np.ascontiguousarray(samples).data)


def pad(waves: Mapping[str, np.ndarray], utts: Sequence[str]) -> WaveBatch:
    """Pad the chosen waveforms into one batch."""
    waves = Waves.of(waves)
    num_samples = np.array([waves.lengths[u] for u in utts], dtype=np.int64)
    wav = np.zeros((len(utts), int(num_samples.max())), dtype=np.float32)
    for row, utt in enumerate(utts):
        wav[row, : num_samples[row]] = waves[utt][:]
    return WaveBatch(tuple(utts), wav, num_samples)


def plan_waves(waves: Mapping[str, Any], max_samples: int = MAX_BATCH_SAMPLES) -> list[list[str]]:
    """The utterances of each padded batch, see :func:`plan_batches`."""
    lengths = Waves.of(waves).lengths
    utts = list(lengths)
    return [[utts[i] for i in indices] for indices in plan_batches(list(lengths.values()), max_samples)]


def wave_batches(waves: Mapping[str, np.ndarray], max_samples: int = MAX_BATCH_SAMPLES) -> Iterator[WaveBatch]:
    """All waveforms in padded batches, each read when it is asked for."""
    waves = Waves.of(waves)
    return (pad(waves, utts) for utts in plan_waves(waves, max_samples))
