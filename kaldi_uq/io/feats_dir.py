"""Features of a data directory as a GMM system reads them: archive, speaker CMVN, derivatives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kaldi_uq.io.ark import read_matrix
from kaldi_uq.io.datadir import DataDir


def speaker_means(data: DataDir) -> dict[str, np.ndarray]:
    """spk -> (D,) float64 mean of the features, from ``cmvn.scp``."""
    stats = {spk: read_matrix(rx, dtype=np.float64) for spk, rx in data.cmvn_scp.items()}
    return {spk: s[0, :-1] / s[0, -1] for spk, s in stats.items()}


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


def gmm_features(data: DataDir) -> Iterator[tuple[str, np.ndarray]]:
    """Features of each utterance, (T, 3 D) float32: speaker mean subtracted, derivatives appended."""
    means = speaker_means(data)
    for utt, rxfilename in data.feats_scp.items():
        yield utt, with_deltas((read_matrix(rxfilename) - means[data.utt2spk[utt]]).astype(np.float32))
