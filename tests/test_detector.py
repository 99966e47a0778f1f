"""Detectors against scipy, scikit-learn and closed forms; thresholds, intervals, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from kaldi_uq.detector import (
    GaussianDetector,
    IsolationForestDetector,
    KernelDensityDetector,
    MultivariateGaussianDetector,
    OneClassDetector,
    auroc,
    evaluate_detection,
    load_detector,
    save_detector,
)
from kaldi_uq.errors import DataError


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def two_statistics(seed: int, num_utts: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    generator = draws(seed)
    return {
        "max_predictive_entropy": generator.normal(2.0 + shift, 0.5, num_utts),
        "mean_mutual_information": generator.normal(1e-3 * (1 + shift), 1e-4, num_utts),
    }


ALL_DETECTORS = [
    lambda: GaussianDetector(statistic="max_predictive_entropy"),
    lambda: GaussianDetector(two_sided=False, statistic="max_predictive_entropy"),
    MultivariateGaussianDetector,
    KernelDensityDetector,
    lambda: KernelDensityDetector(["max_predictive_entropy"], bandwidth=0.3),
    lambda: IsolationForestDetector(num_trees=20, seed=7),
]


# The Gaussian of the paper


def test_gaussian_fit_is_maximum_likelihood() -> None:
    values = draws(0).normal(3, 2, 100)
    detector = GaussianDetector().fit(values)
    assert (detector.mean, detector.std) == pytest.approx(stats.norm.fit(values))
    assert detector.std == pytest.approx(values.std(ddof=0))


def test_two_sided_auroc_is_that_of_the_papers_density() -> None:
    generator = draws(1)
    fit, benign, attack = generator.normal(0, 1, 400), generator.normal(0, 1, 300), generator.normal(0.5, 2, 300)
    detector = GaussianDetector().fit(fit)
    density = stats.norm.pdf(np.concatenate([benign, attack]), *stats.norm.fit(fit))
    labels = np.repeat([1, 0], 300)  # the paper's code scores benign as positive
    expected = roc_auc_score(labels, density)
    # 1e-6, not 1e-12: a density of float64 ties a few pairs that |z| still orders
    assert auroc(detector.score(benign), detector.score(attack)) == pytest.approx(expected, abs=1e-6)


def test_two_sided_catches_small_values_and_one_sided_does_not() -> None:
    fit, benign = draws(2).normal(0, 1, 500), draws(3).normal(0, 1, 500)
    more_certain = draws(4).normal(-4, 0.3, 500)
    two, one = GaussianDetector().fit(fit), GaussianDetector(two_sided=False).fit(fit)
    assert auroc(two.score(benign), two.score(more_certain)) > 0.99
    assert auroc(one.score(benign), one.score(more_certain)) < 0.01


def test_far_outliers_keep_their_order_where_a_density_underflows() -> None:
    detector = GaussianDetector().fit([-1.0, 1.0])
    scores = detector.score([50.0, 60.0])
    assert stats.norm.pdf(50.0) == stats.norm.pdf(60.0) == 0
    assert scores[1] > scores[0]


def test_gaussian_p_values_and_thresholds_are_the_normals() -> None:
    fit = draws(5).normal(0, 1, 50)
    two, one = GaussianDetector().fit(fit), GaussianDetector(False).fit(fit)
    x = np.array([two.mean + 1.959964 * two.std])
    assert two.p_value(x)[0] == pytest.approx(0.05, abs=1e-6)
    assert one.p_value(x)[0] == pytest.approx(0.025, abs=1e-6)
    assert two.threshold_at(0.01) == pytest.approx(2.575829, abs=1e-6)
    assert one.threshold_at(0.01) == pytest.approx(2.326348, abs=1e-6)
    for detector in (two, one):
        assert stats.norm.sf(detector.threshold_at(0.2)) * (2 if detector.two_sided else 1) == pytest.approx(0.2)


def test_constant_statistic_gives_finite_scores_and_flags_any_other_value() -> None:
    detector = GaussianDetector().fit(np.full(20, 0.1)).calibrate(0.01)
    assert np.isfinite(detector.score([0.1, 0.2, 1e6])).all()
    assert detector.is_attack([0.1, 0.2, -5.0]).tolist() == [False, True, True]


# Several statistics, other models


def test_mahalanobis_score_is_the_quadratic_form_of_its_covariance() -> None:
    fit = two_statistics(6, 300)
    detector = MultivariateGaussianDetector().fit(fit)
    new = two_statistics(7, 10, shift=1.0)
    z = (np.stack(list(new.values()), axis=1) - detector.mean) / detector.std
    expected = np.einsum("bi,ij,bj->b", z, np.linalg.inv(detector.covariance), z)
    np.testing.assert_allclose(detector.score(new), expected, rtol=1e-9)
    np.testing.assert_allclose(detector.p_value(new), stats.chi2.sf(expected, 2), rtol=1e-7)


def test_mahalanobis_sees_a_broken_correlation_that_no_single_statistic_shows() -> None:
    def correlated(generator: np.random.Generator, sign: float) -> dict[str, np.ndarray]:
        x = generator.normal(size=500)
        return {"a": x, "b": sign * x + 0.1 * generator.normal(size=500)}

    fit, benign, attack = (correlated(draws(s), sign) for s, sign in ((8, 1.0), (9, 1.0), (10, -1.0)))
    joint = MultivariateGaussianDetector().fit(fit)
    single = GaussianDetector(statistic="b").fit(fit)
    assert auroc(joint.score(benign), joint.score(attack)) > 0.9
    assert 0.4 < auroc(single.score(benign), single.score(attack)) < 0.6


def test_kernel_density_score_is_the_mean_of_kernels() -> None:
    fit = np.array([0.0, 1.0, 3.0])
    detector = KernelDensityDetector(["x"], bandwidth=0.5).fit(fit)
    z, new = (fit - fit.mean()) / fit.std(), (2.0 - fit.mean()) / fit.std()
    assert detector.score([2.0])[0] == pytest.approx(-np.log(stats.norm.pdf(new, z, 0.5).mean()))


def test_kernel_density_scores_its_fitting_set_leaving_each_out() -> None:
    fit = draws(11).normal(size=6)
    detector = KernelDensityDetector(["x"], bandwidth=0.5).fit(fit)
    z = (fit - fit.mean()) / fit.std()
    expected = [-np.log(stats.norm.pdf(z[i], np.delete(z, i), 0.5).mean()) for i in range(6)]
    # the largest score of the six is the threshold if fewer than one in six may exceed it
    assert detector.threshold_at(0.01) == pytest.approx(max(expected), rel=1e-7)


@pytest.mark.parametrize("make", ALL_DETECTORS[2:])
def test_p_values_of_benign_utterances_are_roughly_uniform(make: Any) -> None:
    detector = make().fit(two_statistics(12, 1000))
    p = detector.p_value(two_statistics(13, 1000))
    assert ((p >= 0) & (p <= 1)).all()
    assert stats.kstest(p, "uniform").statistic < 0.1


@pytest.mark.parametrize("make", ALL_DETECTORS)
def test_constant_statistics_do_not_break_a_detector(make: Any) -> None:
    constant = {name: np.full(30, 0.3) for name in two_statistics(0, 1)}
    detector = make().fit(constant)
    assert np.isfinite(detector.score(constant)).all()
    assert np.isfinite(detector.threshold_at(0.05))


# What goes in


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_named_with_statistic_and_index(bad: float) -> None:
    values = np.array([1.0, 2.0, bad, 4.0])
    with pytest.raises(DataError, match=r"statistic 'q95_variance' of utterance index 2 is -?(nan|inf)"):
        GaussianDetector(statistic="q95_variance").fit(values)
    detector = GaussianDetector(statistic="q95_variance").fit([1.0, 2.0])
    with pytest.raises(DataError, match="utterance index 2"):
        detector.score(values)


def test_fewer_than_two_utterances_are_an_error() -> None:
    for values in ([], [1.0]):
        with pytest.raises(DataError, match=f"at least 2 benign utterances, got {len(values)}"):
            GaussianDetector().fit(values)


def test_missing_statistic_and_unequal_lengths_are_named() -> None:
    detector = MultivariateGaussianDetector().fit(two_statistics(0, 10))
    with pytest.raises(DataError, match="statistic 'mean_mutual_information' is missing"):
        detector.score({"max_predictive_entropy": [1.0]})
    with pytest.raises(DataError, match="'mean_mutual_information' has 2 utterances"):
        detector.score({"max_predictive_entropy": [1.0], "mean_mutual_information": [1.0, 2.0]})
    with pytest.raises(ValueError, match="must be \\(B,\\)"):
        GaussianDetector().fit(np.zeros((3, 2)))


def test_use_before_fit_or_calibrate_is_an_error() -> None:
    with pytest.raises(ValueError, match="not fitted"):
        GaussianDetector().score([1.0])
    with pytest.raises(ValueError, match="call calibrate"):
        GaussianDetector().fit([1.0, 2.0]).is_attack([1.0])


def test_refitting_forgets_the_old_threshold() -> None:
    detector = GaussianDetector().fit([1.0, 2.0]).calibrate(0.1)
    assert detector.fit([1.0, 3.0]).threshold is None


# Files


@pytest.mark.parametrize("make", ALL_DETECTORS)
def test_saved_detector_scores_and_decides_the_same(make: Any, tmp_path: Path) -> None:
    benign, new = two_statistics(14, 100), two_statistics(15, 40, shift=0.8)
    detector: OneClassDetector = make().fit(benign).calibrate(0.05, benign)
    save_detector(detector, tmp_path / "detector.json")
    loaded = load_detector(tmp_path / "detector.json")
    assert type(loaded) is type(detector) and loaded.statistics == detector.statistics
    assert (loaded.sided, loaded.fpr, loaded.threshold) == (detector.sided, 0.05, detector.threshold)
    np.testing.assert_array_equal(loaded.score(new), detector.score(new))
    np.testing.assert_array_equal(loaded.p_value(new), detector.p_value(new))
    np.testing.assert_array_equal(loaded.is_attack(new), detector.is_attack(new))


def damaged(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "format": "kaldi-uq-detector",
        "version": 1,
        "kind": "gaussian",
        "statistics": ["x"],
        "fpr": None,
        "threshold": None,
        "model": {"two_sided": True, "mean": 0.0, "std": 1.0},
    }
    return {**content, **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "not a detector file"),
        (damaged(format="other"), "not a detector file"),
        (damaged(version=2), "version 2"),
        (damaged(kind="os.system"), "'kind' must be one of"),
        (damaged(kind=["gaussian"]), "'kind' must be one of"),
        (damaged(surprise=1), "expected the fields"),
        (damaged(statistics="x"), "'statistics' must be a list of names"),
        (damaged(statistics=["x", "x"]), "names a statistic twice"),
        (damaged(statistics=["x", "y"]), "has one statistic, got 2"),
        (damaged(threshold=1.0), "both be numbers or both be null"),
        (damaged(threshold="1", fpr=0.1), "'threshold' must be a finite number"),
        (damaged(model=[]), "'model' must be an object"),
        (damaged(model={"mean": 0.0, "std": 1.0}), "expected the fields mean, std, two_sided"),
        (damaged(model={"two_sided": 1, "mean": 0.0, "std": 1.0}), "'two_sided' must be true or false"),
        (damaged(model={"two_sided": True, "mean": "0", "std": 1.0}), "'mean' must be a finite number"),
        (damaged(model={"two_sided": True, "mean": 10**400, "std": 1.0}), "'mean' must be a finite number"),
        (damaged(model={"two_sided": True, "mean": 0.0, "std": 0.0}), "'std' must be in"),
        (damaged(kind="kde", model={"bandwidth": 0, "benign": [[1.0], [2.0, 3.0]]}), "must be a table of numbers"),
        (damaged(kind="kde", model={"bandwidth": 0, "benign": [["1"], ["2"]]}), "must hold numbers only"),
        (damaged(kind="kde", model={"bandwidth": 0, "benign": [[1.0]]}), "must have shape"),
        (
            damaged(kind="isolation-forest", model={"num_trees": 10**9, "seed": 0, "benign": [[1.0], [2.0]]}),
            "'num_trees' must be an integer in",
        ),
        (
            damaged(kind="mahalanobis", model={"mean": [0.0], "std": [1.0], "covariance": [[-1.0]]}),
            "not positive definite",
        ),
    ],
)
def test_damaged_file_is_refused_with_its_name(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "detector.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        load_detector(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"format": 1e999}', "[" * 200_000])
def test_what_is_not_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "detector.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"detector\.json"):
        load_detector(path)


# ROC


def test_evaluation_rows_equal_a_computation_by_hand() -> None:
    fit, benign, attack = two_statistics(30, 200), two_statistics(31, 150), two_statistics(32, 120, shift=1.0)
    rows = evaluate_detection(fit, benign, attack, seed=0, num_bootstrap=100)
    row = rows[0]
    assert (row["statistic"], row["detector"], row["sided"]) == ("max_predictive_entropy", "gaussian", "two")
    mean, std = stats.norm.fit(fit["max_predictive_entropy"])
    z = [np.abs((table["max_predictive_entropy"] - mean) / std) for table in (fit, benign, attack)]
    assert row["auroc"] == pytest.approx(roc_auc_score(np.repeat([0, 1], [150, 120]), np.concatenate(z[1:])))
    assert row["threshold"] == pytest.approx(np.sort(z[0])[-3])  # 1 % of 200: two may exceed it
    assert row["fpr_at_threshold"] == pytest.approx((z[1] > row["threshold"]).mean())
    assert row["tpr_at_threshold"] == pytest.approx((z[2] > row["threshold"]).mean())
    assert row["tpr_at_fpr_1pct"] == pytest.approx((z[2] > np.sort(z[1])[-2]).mean())
    lo, hi = row["auroc_ci95"]
    assert lo < row["auroc"] < hi


def test_evaluation_lists_each_detector_once_and_the_papers_first() -> None:
    rows = evaluate_detection(
        two_statistics(33, 50), two_statistics(34, 50), two_statistics(35, 50), seed=0, num_bootstrap=10
    )
    keys = [(row["detector"], row["sided"], row["statistic"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert [key[:2] for key in keys[:2]] == [("gaussian", "two")] * 2
    assert {key[0] for key in keys} == {"gaussian", "kde", "mahalanobis"}
    assert ("mahalanobis", "two", "all") in keys
    json.dumps(rows, allow_nan=False)


def test_evaluation_is_reproducible_and_a_row_does_not_depend_on_others() -> None:
    fit, benign, attack = two_statistics(36, 60), two_statistics(37, 60), two_statistics(38, 60, shift=0.5)
    rows = evaluate_detection(fit, benign, attack, seed=3, num_bootstrap=50)
    assert rows == evaluate_detection(fit, benign, attack, seed=3, num_bootstrap=50)
    name = "mean_mutual_information"
    alone = evaluate_detection({name: fit[name]}, benign, attack, seed=3, num_bootstrap=50, compare=False)
    assert alone == [
        row for row in rows if (row["statistic"], row["sided"], row["detector"]) == (name, "two", "gaussian")
    ]
    assert rows != evaluate_detection(fit, benign, attack, seed=4, num_bootstrap=50)


def test_evaluation_names_the_set_of_a_bad_value() -> None:
    fit = two_statistics(39, 20)
    attack = two_statistics(40, 20)
    attack["max_predictive_entropy"][7] = np.nan
    with pytest.raises(DataError, match="attack set: statistic 'max_predictive_entropy' of utterance index 7"):
        evaluate_detection(fit, fit, attack, seed=0)
    with pytest.raises(DataError, match="the benign set has no statistic 'mean_mutual_information'"):
        evaluate_detection(fit, {"max_predictive_entropy": [1.0]}, fit, seed=0)
    with pytest.raises(DataError, match="the attack set has no utterances"):
        evaluate_detection(fit, fit, {name: [] for name in fit}, seed=0)
