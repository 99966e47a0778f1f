"""Waveforms of a data directory in padded batches, in an order that depends on nothing but the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.wav import read_wav

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


def read_waves(data: DataDir, *, sample_rate: float, min_samples: int) -> dict[str, np.ndarray]:
    """Read every waveform of a data directory.

    Args:
        data: the directory.
        sample_rate: Hz that every file must have.
        min_samples: the shortest waveform that the model can use.

    Returns:
        utt -> (N,) float32 in [-1, 1], in the directory's order.

    Raises:
        DataError: names the utterance's line, the file and what is wrong with it.
    """
    waves = {}
    for number, (utt, path) in enumerate(data.wav_scp.items(), 1):
        if path.endswith("|"):
            raise DataError(f"{data.path / 'wav.scp'}:{number}: {utt!r} is a pipe, expected the path of a WAV file")
        samples, rate = read_wav(path, expected_rate=sample_rate)
        if len(samples) < min_samples:
            raise DataError(
                f"{path}: utterance {utt!r} has {len(samples)} samples ({len(samples) / rate:.3f} s), "
                f"the shortest that can be used is {min_samples}; delete its line in wav.scp and run "
                f"utils/fix_data_dir.sh {data.path}"
            )
        waves[utt] = samples
    return waves


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
