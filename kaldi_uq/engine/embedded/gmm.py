"""Maximum-likelihood training of the GMMs of all pdfs, in NumPy: statistics over the frames of a pdf at once.

Source: Kaldi ``src/gmm/mle-diag-gmm.cc`` (floors, removal of Gaussians with few frames), ``src/gmm/am-diag-gmm.cc``
(where Gaussians are added).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kaldi_uq.io.kaldi_model import DiagGmmSet

MIN_VARIANCE, MIN_WEIGHT = 0.001, 1e-5  # Kaldi's floors


@dataclass
class _Sums:
    """What a pdf's frames add up to: of each Gaussian the occupancy (G,), and sums of x and x^2 (G, D), float64."""

    occupancy: np.ndarray
    first: np.ndarray
    second: np.ndarray
    frames: int = 0


def reestimate(
    gmms: DiagGmmSet, blocks: Iterable[tuple[np.ndarray, np.ndarray]], *, min_occupancy: float
) -> tuple[DiagGmmSet, np.ndarray, float]:
    """One maximum-likelihood update; returns the GMMs, the number of frames of each pdf, the total log-likelihood.

    Args:
        gmms: the GMMs.
        blocks: all frames in parts, of which one is held at a time: features (T, D) float32 and pdfs (T,).
        min_occupancy: frames that a Gaussian needs to be kept.

    Source: Kaldi ``src/gmm/mle-diag-gmm.cc`` (floors, removal of Gaussians with few frames).
    """
    sums = [_Sums(np.zeros(len(m)), np.zeros(m.shape), np.zeros(m.shape)) for m in gmms.means_invvars]
    total = sum(_accumulate(gmms, sums, frames, pdfs) for frames, pdfs in blocks)
    updated = []
    for old, of_pdf in zip(zip(gmms.weights, gmms.means_invvars, gmms.inv_vars, strict=True), sums, strict=True):
        found = (of_pdf.occupancy, of_pdf.first, of_pdf.second)
        updated.append(_update_gmm(old, *found, min_occupancy) if of_pdf.frames else old)
    weights, means, variances = zip(*updated, strict=True)
    return DiagGmmSet(weights, means, variances), np.array([float(one.frames) for one in sums]), total


def _accumulate(gmms: DiagGmmSet, sums: list[_Sums], frames: np.ndarray, pdfs: np.ndarray) -> float:
    """Add the frames of a block to the sums of their pdfs; returns the log-likelihood of the block."""
    order = np.argsort(pdfs, kind="stable")
    bounds = np.searchsorted(pdfs[order], np.arange(len(sums) + 1))
    total = 0.0
    for pdf, gconst in enumerate(gmms.gconsts):
        mean, variance = gmms.means_invvars[pdf], gmms.inv_vars[pdf]
        x = frames[order[bounds[pdf] : bounds[pdf + 1]]].astype(np.float64)
        if not len(x):
            continue
        squares = x * x
        scores = gconst + x @ mean.T.astype(np.float64) - 0.5 * squares @ variance.T.astype(np.float64)
        peak = scores.max(1, keepdims=True)
        gamma = np.exp(scores - peak)
        norm = gamma.sum(1, keepdims=True)
        total += float((peak + np.log(norm)).sum())
        gamma /= norm
        of_pdf = sums[pdf]
        of_pdf.occupancy += gamma.sum(0)
        of_pdf.first += gamma.T @ x
        of_pdf.second += gamma.T @ squares
        of_pdf.frames += len(x)
    return total


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
