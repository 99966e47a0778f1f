"""Features of a data directory as a GMM system reads them: archive, speaker CMVN, derivatives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.ark import read_matrix
from kaldi_uq.io.datadir import DataDir


def speaker_means(data: DataDir, *, allow_pipes: bool = False) -> dict[str, np.ndarray]:
    """spk -> (D,) float64 mean of the features, from ``cmvn.scp``."""
    return {spk: s[0, :-1] / s[0, -1] for spk, s in cmvn_stats(data, allow_pipes=allow_pipes).items()}


def cmvn_stats(data: DataDir, *, allow_pipes: bool = False) -> dict[str, np.ndarray]:
    """spk -> (2, D + 1) float64 statistics, from ``cmvn.scp``.

    Raises:
        DataError: an archive is missing or damaged, or a matrix has another shape; names file and line.
    """
    found = {}
    for line, (spk, rxfilename) in enumerate(data.cmvn_scp.items(), 1):
        where = f"{data.path / 'cmvn.scp'}:{line}"
        stats = read_matrix(rxfilename, dtype=np.float64, where=where, allow_pipes=allow_pipes)
        if len(stats) != 2 or stats.shape[1] < 2 or not stats[0, -1] > 0:
            raise DataError(f"{where}: {spk!r}: not statistics of features: {stats.shape}, expected (2, D + 1)")
        found[spk] = stats
    return found


def features(data: DataDir, *, allow_pipes: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """Features of each utterance, (T, D) float32, as ``feats.scp`` has them.

    Raises:
        DataError: an archive is missing or damaged, or a pipe that is not allowed; names file and line.
    """
    for line, (utt, rxfilename) in enumerate(data.feats_scp.items(), 1):
        where = f"{data.path / 'feats.scp'}:{line}"
        yield utt, read_matrix(rxfilename, where=where, allow_pipes=allow_pipes)


def with_deltas(feats: np.ndarray, window: int = 2, order: int = 2) -> np.ndarray:
    """Append derivatives, (T, D) -> (T, (order + 1) D), as Kaldi's ``add-deltas``: one filter, frames clamped.

    Source: Kaldi ``src/feat/feature-functions.cc``, ``DeltaFeatures``.
    """
    ramp = np.arange(-window, window + 1, dtype=np.float64) / (2.0 * sum(j * j for j in range(1, window + 1)))
    parts, kernel = [feats], np.ones(1)
    for _ in range(order):
        kernel = np.convolve(kernel, ramp)
        reach = len(kernel) // 2
        rows = np.clip(np.arange(len(feats))[:, None] + np.arange(-reach, reach + 1), 0, len(feats) - 1)
        parts.append(np.einsum("tkd,k->td", feats[rows], kernel.astype(np.float32)))
    return np.concatenate(parts, axis=1).astype(np.float32)


def gmm_features(data: DataDir, *, allow_pipes: bool = False) -> Iterator[tuple[str, np.ndarray]]:
    """Features of each utterance, (T, 3 D) float32: speaker mean subtracted, derivatives appended."""
    means = speaker_means(data, allow_pipes=allow_pipes)
    for utt, feats in features(data, allow_pipes=allow_pipes):
        yield utt, with_deltas((feats - means[data.utt2spk[utt]]).astype(np.float32))
