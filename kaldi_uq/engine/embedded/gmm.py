"""Maximum-likelihood training of the GMMs of all pdfs, in NumPy: statistics over all frames of a pdf at once.

Source: Kaldi ``src/gmm/mle-diag-gmm.cc`` (floors, removal of Gaussians with few frames), ``src/gmm/am-diag-gmm.cc``
(where Gaussians are added).
"""

from __future__ import annotations

import numpy as np

from kaldi_uq.io.kaldi_model import DiagGmmSet

MIN_VARIANCE, MIN_WEIGHT = 0.001, 1e-5  # Kaldi's floors


def reestimate(
    gmms: DiagGmmSet, frames: np.ndarray, pdfs: np.ndarray, *, min_occupancy: float
) -> tuple[DiagGmmSet, np.ndarray, float]:
    """One maximum-likelihood update; returns the GMMs, the number of frames of each pdf, the total log-likelihood.

    Source: Kaldi ``src/gmm/mle-diag-gmm.cc`` (floors, removal of Gaussians with few frames).
    """
    order = np.argsort(pdfs, kind="stable")
    bounds = np.searchsorted(pdfs[order], np.arange(len(gmms.weights) + 1))
    weights, means, variances = [], [], []
    total = 0.0
    for pdf, gconst in enumerate(gmms.gconsts):
        weight, mean, variance = gmms.weights[pdf], gmms.means_invvars[pdf], gmms.inv_vars[pdf]
        x = frames[order[bounds[pdf] : bounds[pdf + 1]]].astype(np.float64)
        if len(x):
            scores = gconst + x @ mean.T.astype(np.float64) - 0.5 * (x**2) @ variance.T.astype(np.float64)
            peak = scores.max(1, keepdims=True)
            gamma = np.exp(scores - peak)
            norm = gamma.sum(1, keepdims=True)
            total += float((peak + np.log(norm)).sum())
            gamma /= norm
            weight, mean, variance = _update_gmm(
                (weight, mean, variance), gamma.sum(0), gamma.T @ x, gamma.T @ x**2, min_occupancy
            )
        weights.append(weight)
        means.append(mean)
        variances.append(variance)
    return DiagGmmSet(tuple(weights), tuple(means), tuple(variances)), np.diff(bounds).astype(np.float64), total


def _update_gmm(
    old: tuple[np.ndarray, np.ndarray, np.ndarray],
    occupancy: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    min_occupancy: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    share = occupancy / occupancy.sum()
    keep = (occupancy > min_occupancy) & (share > MIN_WEIGHT)
    if not keep.any():  # too few frames for any Gaussian: the old model is the better guess
        return old
    mean = first[keep] / occupancy[keep, None]
    variance = np.maximum(second[keep] / occupancy[keep, None] - mean**2, MIN_VARIANCE)
    weight = share[keep] / share[keep].sum()
    inverse = 1.0 / variance
    return weight.astype(np.float32), (mean * inverse).astype(np.float32), inverse.astype(np.float32)


def split(gmms: DiagGmmSet, counts: np.ndarray, target: int, power: float, rng: np.random.Generator) -> DiagGmmSet:
    """Add Gaussians up to ``target``, where the count to ``power`` per Gaussian is largest; split the heaviest ones."""
    sizes = np.array([len(w) for w in gmms.weights])
    scaled = np.maximum(counts, 0.0) ** power
    min_count = 20.0  # frames a Gaussian should have after the split, as in Kaldi
    while sizes.sum() < target:
        score = np.where(counts > min_count * (sizes + 1), scaled / sizes, 0.0)
        best = int(np.argmax(score))
        if score[best] <= 0:
            break
        sizes[best] += 1
    weights, means, variances = list(gmms.weights), list(gmms.means_invvars), list(gmms.inv_vars)
    for pdf, size in enumerate(sizes):
        while len(weights[pdf]) < size:
            heaviest = int(np.argmax(weights[pdf]))
            halved = weights[pdf].copy()
            halved[heaviest] /= 2
            offset = 0.01 * rng.standard_normal(means[pdf].shape[1]) * np.sqrt(variances[pdf][heaviest])
            moved = means[pdf].copy()
            moved[heaviest] -= offset.astype(np.float32)
            weights[pdf] = np.append(halved, halved[heaviest])
            means[pdf] = np.vstack([moved, means[pdf][heaviest] + offset.astype(np.float32)])
            variances[pdf] = np.vstack([variances[pdf], variances[pdf][heaviest]])
    return DiagGmmSet(tuple(weights), tuple(means), tuple(variances))
