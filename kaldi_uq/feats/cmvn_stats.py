"""Statistics for mean and variance normalisation.  Without PyTorch, whose import would take longer than the work."""

from __future__ import annotations

import numpy as np

from kaldi_uq.errors import DataError


def accumulate_cmvn_stats(feats: np.ndarray) -> np.ndarray:
    """Statistics of one utterance; the statistics of a speaker are their sum over utterances.

    Args:
        feats: features, ``(T, D)``, real.

    Returns:
        ``(2, D + 1)`` float64: sums and, last in row 0, the number of frames; sums of squares, and 0.

    Raises:
        ValueError: the shape is not (T, D).
        DataError: a value is NaN or infinite.

    Source: Kaldi ``AccCmvnStats`` (``src/transform/cmvn.cc``).

    >>> accumulate_cmvn_stats(np.array([[1.0], [3.0]])).tolist()
    [[4.0, 2.0], [10.0, 0.0]]
    """
    if feats.ndim != 2 or not feats.size:
        raise ValueError(f"feats must be (T, D) with at least one frame, got {feats.shape}")
    feats = feats.astype(np.float64)
    if not np.isfinite(feats).all():
        frame, dim = np.argwhere(~np.isfinite(feats))[0]
        raise DataError(f"feature {dim} of frame {frame} is {feats[frame, dim]}; check the waveform")
    stats = np.zeros((2, feats.shape[1] + 1))
    stats[0, :-1] = feats.sum(axis=0)
    stats[1, :-1] = (feats**2).sum(axis=0)
    stats[0, -1] = len(feats)
    return stats
