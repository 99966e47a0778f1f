"""Receiver operating characteristics: how well scores tell attacked from benign utterances.

All functions take scores that are higher for the more suspicious utterance.  An utterance is called an attack when its
score is strictly above a threshold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# Cells of the resampling tables held at once in the bootstrap: 32 MB of float64.
_BOOTSTRAP_CELLS = 4_000_000


def _scores(values: npt.ArrayLike, name: str) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"{name} must be (B,) with at least one score, got shape {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"{name} has NaN at index {int(np.flatnonzero(np.isnan(scores))[0])}")
    return scores


def _labelled(benign: npt.ArrayLike, attack: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], FloatArray]:
    benign, attack = _scores(benign, "benign_scores"), _scores(attack, "attack_scores")
    labels = np.repeat(np.array([0, 1], dtype=np.int64), [len(benign), len(attack)])
    scores = np.concatenate([benign, attack])
    if np.isinf(scores).any():
        # order is all that counts, and scikit-learn takes finite scores only
        scores = np.unique(scores, return_inverse=True)[1].astype(np.float64)
    return labels, scores


def threshold_at_fpr(benign_scores: npt.ArrayLike, fpr: float) -> float:
    """The lowest threshold that at most a share ``fpr`` of the benign scores exceeds.

    It is one of the scores, never interpolated: of n scores at most ``floor(fpr * n)`` are strictly above it.  With
    fewer than ``1 / fpr`` scores it is their maximum.  On other benign utterances the rate scatters around ``fpr``.

    Args:
        benign_scores: ``(B,)``.
        fpr: false-positive rate in [0, 1).

    >>> threshold_at_fpr([3.0, 1.0, 2.0, 4.0], 0.25)
    3.0
    """
    scores = _scores(benign_scores, "benign_scores")
    if not 0 <= fpr < 1:
        raise ValueError(f"fpr must be in [0, 1), got {fpr}")
    allowed = int(np.floor(fpr * len(scores) + 1e-9))  # 0.29 * 100 is 28.999...
    return float(np.sort(scores)[len(scores) - 1 - allowed])


def roc(benign_scores: npt.ArrayLike, attack_scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The ROC curve.

    Returns:
        False-positive rates and true-positive rates, both rising from 0 to 1.
    """
    from sklearn.metrics import roc_curve

    fpr, tpr, _ = roc_curve(*_labelled(benign_scores, attack_scores))
    return np.asarray(fpr, dtype=np.float64), np.asarray(tpr, dtype=np.float64)


def auroc(benign_scores: npt.ArrayLike, attack_scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: the probability that an attack scores above a benign utterance, ties counting half.

    >>> auroc([0.0, 1.0], [1.0, 2.0])
    0.875
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(benign_scores, attack_scores)))


def tpr_at_fpr(benign_scores: npt.ArrayLike, attack_scores: npt.ArrayLike, fpr: float = 0.01) -> float:
    """Share of attacks above the threshold that at most a share ``fpr`` of the benign scores exceeds.

    >>> tpr_at_fpr([0.0, 1.0, 2.0], [1.5, 3.0], 0.01)
    0.5
    """
    threshold = threshold_at_fpr(benign_scores, fpr)
    return float(np.mean(_scores(attack_scores, "attack_scores") > threshold))


def auroc_ci(
    benign_scores: npt.ArrayLike,
    attack_scores: npt.ArrayLike,
    *,
    num_bootstrap: int = 1000,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """95 % interval of the AUROC, stratified percentile bootstrap over utterances.

    Benign and attacked utterances are resampled apart, each to its own number.  The AUROC of a resample is its
    Mann-Whitney statistic, computed from how often each distinct score was drawn, for many resamples at once.  Scores
    that separate perfectly give (1, 1), whatever their number: the interval says nothing about a gap never seen.

    Args:
        benign_scores: ``(B0,)``.
        attack_scores: ``(B1,)``.
        num_bootstrap: resamples.
        generator: source of the resampling.

    Returns:
        The 2.5 % and 97.5 % quantiles.
    """
    benign, attack = _scores(benign_scores, "benign_scores"), _scores(attack_scores, "attack_scores")
    if num_bootstrap < 1:
        raise ValueError(f"num_bootstrap must be >= 1, got {num_bootstrap}")
    distinct, ranks = np.unique(np.concatenate([benign, attack]), return_inverse=True)
    benign_ranks, attack_ranks = ranks[: len(benign)], ranks[len(benign) :]
    block = max(1, _BOOTSTRAP_CELLS // (len(ranks) + 2 * len(distinct)))
    areas = np.empty(num_bootstrap)
    for start in range(0, num_bootstrap, block):
        rows = min(block, num_bootstrap - start)
        drawn_benign = _draw_counts(benign_ranks, len(distinct), rows, generator)
        drawn_attack = _draw_counts(attack_ranks, len(distinct), rows, generator)
        below = np.cumsum(drawn_benign, axis=1) - 0.5 * drawn_benign  # ties count half
        areas[start : start + rows] = (drawn_attack * below).sum(axis=1)
    lo, hi = np.quantile(areas / (len(benign) * len(attack)), [0.025, 0.975])
    return float(lo), float(hi)


def _draw_counts(
    ranks: npt.NDArray[np.int64], num_distinct: int, rows: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """How often each distinct score comes up when ``ranks`` is drawn with replacement: ``(rows, num_distinct)``."""
    drawn = ranks[generator.integers(0, len(ranks), size=(rows, len(ranks)))]
    cells = drawn + np.arange(rows)[:, None] * num_distinct
    return np.bincount(cells.ravel(), minlength=rows * num_distinct).reshape(rows, num_distinct)
