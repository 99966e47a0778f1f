"""Thresholds, ROC curves and their areas with intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from kaldi_uq.detector import (
    auroc,
    auroc_ci,
    roc,
    threshold_at_fpr,
    tpr_at_fpr,
)


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_auroc_equals_sklearn_and_counts_pairs() -> None:
    generator = draws(16)
    benign, attack = generator.integers(0, 6, 50).astype(float), generator.integers(2, 8, 70).astype(float)
    labels, scores = np.repeat([0, 1], [50, 70]), np.concatenate([benign, attack])
    pairs = (attack[:, None] > benign).mean() + 0.5 * (attack[:, None] == benign).mean()
    assert auroc(benign, attack) == pytest.approx(roc_auc_score(labels, scores))
    assert auroc(benign, attack) == pytest.approx(pairs)


def test_auroc_accepts_infinite_scores() -> None:
    assert auroc([0.0, 1.0], [np.inf, 2.0]) == 1.0
    with pytest.raises(ValueError, match="attack_scores has NaN at index 1"):
        auroc([0.0], [1.0, np.nan])


def test_roc_is_monotone_from_corner_to_corner() -> None:
    fpr, tpr = roc(draws(17).normal(0, 1, 80), draws(18).normal(1, 1, 60))
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all()


@pytest.mark.parametrize("fpr", [0.0, 0.01, 0.05, 0.29, 0.5])
@pytest.mark.parametrize("num_utts", [3, 20, 100, 333])
def test_threshold_never_lets_more_than_fpr_through_and_is_the_lowest_such(fpr: float, num_utts: int) -> None:
    scores = draws(19).integers(0, 50, num_utts).astype(float)  # with ties
    threshold = threshold_at_fpr(scores, fpr)
    assert (scores > threshold).mean() <= fpr + 1e-12
    lower = scores[scores < threshold]
    if len(lower):
        assert (scores > lower.max()).mean() > fpr
    if fpr == 0.29 and num_utts == 100:
        assert (np.arange(100.0) > threshold_at_fpr(np.arange(100.0), fpr)).sum() == 29


def test_tpr_at_fpr_is_the_highest_point_of_the_roc_curve() -> None:
    benign, attack = draws(20).normal(0, 1, 150), draws(21).normal(1.5, 1, 130)
    fpr, tpr, _ = roc_curve(np.repeat([0, 1], [150, 130]), np.concatenate([benign, attack]), drop_intermediate=False)
    for limit in (0.01, 0.05, 0.2):
        assert tpr_at_fpr(benign, attack, limit) == pytest.approx(tpr[fpr <= limit].max())


def test_bootstrap_interval_equals_a_plain_bootstrap() -> None:
    benign, attack = draws(22).normal(0, 1, 40).round(1), draws(23).normal(0.7, 1, 30).round(1)
    lo, hi = auroc_ci(benign, attack, num_bootstrap=4000, generator=draws(24))
    generator = draws(25)
    areas = []
    for _ in range(4000):
        b, a = generator.choice(benign, 40), generator.choice(attack, 30)
        areas.append((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean())
    # the quantiles of 4000 resamples scatter by about 0.002
    np.testing.assert_allclose([lo, hi], np.quantile(areas, [0.025, 0.975]), atol=0.01)
    assert lo < auroc(benign, attack) < hi


def test_bootstrap_interval_covers_the_true_area() -> None:
    truth = stats.norm.cdf(1 / np.sqrt(2))  # two unit normals one apart
    generator = draws(26)
    covered = 0
    for _ in range(200):
        lo, hi = auroc_ci(
            generator.normal(0, 1, 80), generator.normal(1, 1, 80), num_bootstrap=300, generator=generator
        )
        covered += lo <= truth <= hi
    # 95 % nominal; 3.5 standard errors of 200 trials and the percentile bootstrap's small optimism
    assert 0.88 <= covered / 200 <= 0.995


def test_bootstrap_in_blocks_uses_the_whole_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    benign, attack = draws(27).normal(0, 1, 60), draws(28).normal(1, 1, 60)
    whole = auroc_ci(benign, attack, num_bootstrap=500, generator=draws(29))
    monkeypatch.setattr("kaldi_uq.detector.curves._BOOTSTRAP_CELLS", 1000)
    parts = auroc_ci(benign, attack, num_bootstrap=500, generator=draws(29))
    np.testing.assert_allclose(whole, parts, atol=0.03)


def test_perfect_separation_gives_an_interval_of_ones() -> None:
    assert auroc_ci([0.0, 1.0], [2.0, 3.0], generator=draws(0)) == (1.0, 1.0)


# The rows
