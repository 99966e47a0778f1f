"""Detectors against scipy, scikit-learn and closed forms; thresholds, intervals, files.

One file: what holds for one class of detector is asked of all of them, by the same list.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from kaldi_uq.detector import (
    GaussianDetector,
    IsolationForestDetector,
    KernelDensityDetector,
    MultivariateGaussianDetector,
    OneClassDetector,
    auroc,
    base,
    density,
    evaluate_detection,
    fit_detectors,
    load_detector,
    load_detectors,
    register,
    save_detector,
    save_detectors,
)
from kaldi_uq.detector.fit import detectors_of
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
    two, one = GaussianDetector().fit(fit), GaussianDetector(two_sided=False).fit(fit)
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


def test_kernel_density_of_many_utterances_is_made_of_some_that_are_evenly_spread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each score takes as long as the fitting set is large, and so does loading each score of that set."""
    fit, new = draws(14).normal(size=5000), draws(15).normal(size=300)
    whole = KernelDensityDetector(["x"]).fit(fit[: density.MAX_CENTRES])
    assert whole.benign is not None and len(whole.benign) == density.MAX_CENTRES
    monkeypatch.setattr(density, "MAX_CENTRES", 500)
    detector = KernelDensityDetector(["x"]).fit(fit)
    assert detector.benign is not None and detector.benign.shape == (500, 1)
    assert (detector.benign[[0, -1], 0] == fit[[0, -1]]).all() and np.isin(detector.benign, fit).all()
    assert stats.pearsonr(detector.score(new), whole.score(new)).statistic > 0.9
    detector.calibrate(0.05)
    assert np.mean(detector.score(new) > detector.threshold) == pytest.approx(0.05, abs=0.04)
    save_detector(detector, tmp_path / "x.json")
    np.testing.assert_array_equal(load_detector(tmp_path / "x.json").score(new), detector.score(new))


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
    rows = evaluate_detection(fit_detectors(fit), benign, attack, seed=0, num_bootstrap=100)
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
    detectors = fit_detectors(two_statistics(33, 50))
    rows = evaluate_detection(detectors, two_statistics(34, 50), two_statistics(35, 50), seed=0, num_bootstrap=10)
    keys = [(row["detector"], row["sided"], row["statistic"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert [key[:2] for key in keys[:2]] == [("gaussian", "two")] * 2
    assert {key[0] for key in keys} == {"gaussian", "joint", "kde", "mahalanobis"}
    assert ("mahalanobis", "two", "all") in keys
    json.dumps(rows, allow_nan=False)


def test_evaluation_is_reproducible_and_a_row_does_not_depend_on_others() -> None:
    fit, benign, attack = two_statistics(36, 60), two_statistics(37, 60), two_statistics(38, 60, shift=0.5)
    detectors = fit_detectors(fit)
    rows = evaluate_detection(detectors, benign, attack, seed=3, num_bootstrap=50)
    assert rows == evaluate_detection(detectors, benign, attack, seed=3, num_bootstrap=50)
    name = "mean_mutual_information"
    one = fit_detectors({name: fit[name]}, compare=False)
    alone = evaluate_detection(one, benign, attack, seed=3, num_bootstrap=50)
    assert alone == [
        row for row in rows if (row["statistic"], row["sided"], row["detector"]) == (name, "two", "gaussian")
    ]
    assert rows != evaluate_detection(detectors, benign, attack, seed=4, num_bootstrap=50)


def test_evaluation_names_the_set_of_a_bad_value() -> None:
    fit = two_statistics(39, 20)
    attack = two_statistics(40, 20)
    attack["max_predictive_entropy"][7] = np.nan
    detectors = fit_detectors(fit)
    with pytest.raises(DataError, match="attack set: statistic 'max_predictive_entropy' of utterance index 7"):
        evaluate_detection(detectors, fit, attack, seed=0)
    with pytest.raises(DataError, match="the benign set has no statistic 'mean_mutual_information'"):
        evaluate_detection(detectors, {"max_predictive_entropy": [1.0]}, fit, seed=0)
    with pytest.raises(DataError, match="the attack set has no utterances"):
        evaluate_detection(detectors, fit, {name: [] for name in fit}, seed=0)
    with pytest.raises(ValueError, match="call calibrate"):
        evaluate_detection({"x": GaussianDetector(statistic="x").fit([1.0, 2.0])}, {"x": [1.0]}, {"x": [1.0]}, seed=0)


# Scores for attacks, quantiles of the benign scores, scikit-learn's words


@pytest.mark.parametrize("make", ALL_DETECTORS[:-1])
def test_score_for_attacks_is_the_score_and_has_its_gradient(make: Any, tmp_path: Path) -> None:
    detector: OneClassDetector = make().fit(two_statistics(50, 80))
    save_detector(detector, tmp_path / "detector.json")
    new = two_statistics(51, 20, shift=0.8)
    for one in (detector, load_detector(tmp_path / "detector.json")):
        assert one.differentiable
        values = {name: torch.tensor(column, requires_grad=True) for name, column in new.items()}
        scores = one.tensor_score(values)
        np.testing.assert_allclose(scores.detach().numpy(), one.score(new), rtol=1e-9)
        scores.sum().backward()
        for name in one.statistics:
            step = 1e-6 * new[name].std()  # a central difference: its error is of the order of the step squared
            up, down = (one.score({**new, name: new[name] + sign * step}) for sign in (1, -1))
            np.testing.assert_allclose(values[name].grad.numpy(), (up - down) / (2 * step), rtol=1e-4, atol=1e-4)
        assert (
            one.tensor_score({n: torch.tensor(c, dtype=torch.float32) for n, c in new.items()}).dtype == torch.float32
        )
        with pytest.raises(DataError, match=f"statistic '{one.statistics[0]}' is missing"):
            one.tensor_score({"other": torch.zeros(2)})


def test_gaussian_score_for_attacks_is_exactly_its_formula() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for two_sided in (True, False):
        detector = GaussianDetector(two_sided=two_sided).fit([0.1, 0.9, 0.4])
        z = (values - detector.mean) / detector.std
        assert torch.equal(detector.tensor_score({"value": values}), z.abs() if two_sided else z)


def test_detector_without_a_gradient_gives_attacks_its_distance_from_the_benign_mean(tmp_path: Path) -> None:
    fit, new = two_statistics(52, 100), two_statistics(53, 10, shift=1.0)
    detector = IsolationForestDetector(num_trees=10).fit(fit)
    assert not detector.differentiable
    z = np.stack([(new[name] - fit[name].mean()) / fit[name].std() for name in fit])
    save_detector(detector, tmp_path / "detector.json")
    for one in (detector, load_detector(tmp_path / "detector.json")):
        score = one.tensor_score({name: torch.tensor(column) for name, column in new.items()})
        np.testing.assert_allclose(score.numpy(), np.sqrt((z**2).mean(0)))


@pytest.mark.parametrize("make", ALL_DETECTORS)
def test_benign_scores_are_exact_at_whole_per_cents(make: Any, tmp_path: Path) -> None:
    benign = two_statistics(54, 77)
    detector: OneClassDetector = make().fit(benign)
    save_detector(detector, tmp_path / "detector.json")
    for one in (detector, load_detector(tmp_path / "detector.json")):
        for q in (0.0, 0.01, 0.29, 0.5, 0.57, 0.99, 1.0):
            assert one.benign_score(q) == np.quantile(detector.score(benign), q)
        assert one.benign_score(0.98) <= one.benign_score(0.985) <= one.benign_score(0.99)
    with pytest.raises(ValueError, match=r"q must be in \[0, 1\], got 50"):
        detector.benign_score(50)


def test_scikit_learns_words_mean_what_they_mean_there() -> None:
    detector = GaussianDetector().fit([-1.0, 0.0, 1.0]).calibrate(0.05)
    values = [0.0, 3.0, -9.0]
    np.testing.assert_array_equal(detector.score_samples(values), -detector.score(values))
    assert detector.predict(values).tolist() == [1, -1, -1]
    assert detector.is_attack(values).tolist() == [False, True, True]


# Classes of others, files of an early release, directories


class NearestDetector(OneClassDetector):
    """Distance to the nearest benign value."""

    kind = "nearest"

    def _is_fitted(self) -> bool:
        return hasattr(self, "values")

    def _fit(self, matrix: np.ndarray) -> None:
        self.values = matrix

    def _score(self, matrix: np.ndarray) -> np.ndarray:
        return np.linalg.norm(matrix[:, None] - self.values, axis=2).min(1)

    def _p_value(self, scores: np.ndarray) -> np.ndarray:
        return np.ones_like(scores)

    def _model_threshold(self, fpr: float) -> float:
        return 1.0

    def state(self) -> dict[str, Any]:
        return {"values": self.values.tolist()}

    @classmethod
    def from_state(cls, statistics: Sequence[str], state: Mapping[str, Any]) -> NearestDetector:
        detector = cls(statistics)
        detector.values = np.array(state["values"])
        return detector


def test_class_of_others_is_saved_loaded_attacked_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benign, new = two_statistics(55, 30), two_statistics(56, 10, shift=1.0)
    detector = NearestDetector(["max_predictive_entropy"]).fit(benign).calibrate(0.1, benign)
    with pytest.raises(ValueError, match="NearestDetector is not registered: put @register above the class"):
        save_detector(detector, tmp_path / "mine.json")
    monkeypatch.setitem(base.KINDS, "nearest", NearestDetector)
    assert register(NearestDetector) is NearestDetector
    save_detector(detector, tmp_path / "mine.json")
    loaded = load_detectors(tmp_path)
    np.testing.assert_array_equal(loaded["mine"].score(new), detector.score(new))
    assert loaded["mine"].benign_score(1.0) == 0
    values = torch.tensor(new["max_predictive_entropy"])
    z = (values - benign["max_predictive_entropy"].mean()) / benign["max_predictive_entropy"].std()
    torch.testing.assert_close(loaded["mine"].tensor_score({"max_predictive_entropy": values}), z.abs())
    (row,) = evaluate_detection(loaded, new, new, seed=0, num_bootstrap=2)
    assert (row["statistic"], row["detector"], row["fpr"]) == ("max_predictive_entropy", "nearest", 0.1)

    class Other(NearestDetector):
        pass

    with pytest.raises(ValueError, match="kind 'nearest' is NearestDetector already: choose another kind"):
        register(Other)


@pytest.mark.parametrize("make", ALL_DETECTORS)
def test_file_of_an_early_release_is_read(make: Any, tmp_path: Path) -> None:
    benign, new = two_statistics(57, 40), two_statistics(58, 10)
    detector: OneClassDetector = make().fit(benign).calibrate(0.1, benign)
    save_detector(detector, tmp_path / "detector.json")
    content = json.loads((tmp_path / "detector.json").read_text())
    content.pop("benign")  # what those files did not have
    (tmp_path / "detector.json").write_text(json.dumps(content))
    loaded = load_detector(tmp_path / "detector.json")
    np.testing.assert_array_equal(loaded.score(new), detector.score(new))
    assert loaded.threshold == detector.threshold
    values = {name: torch.tensor(column) for name, column in new.items()}
    torch.testing.assert_close(loaded.tensor_score(values), detector.tensor_score(values))
    if isinstance(detector, (KernelDensityDetector, IsolationForestDetector)):  # their files hold the benign values
        assert loaded.benign_score(0.5) == detector.benign_score(0.5)
    else:
        with pytest.raises(DataError, match=r"without the scores of its benign set: fit it again"):
            loaded.benign_score(0.5)
    save_detector(loaded, tmp_path / "again.json")
    np.testing.assert_array_equal(load_detector(tmp_path / "again.json").score(new), detector.score(new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.0, 1.0]}, r"'scores' must have shape \(101,\)"),
        ({"mean": [[0.0]]}, "'mean' must have shape"),
        ({"std": [0.0]}, "'std' must be >= 1e-08"),
        ({"more": 1}, "expected the fields mean, scores, std"),
    ],
)
def test_damaged_benign_part_of_a_file_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "detector.json"
    save_detector(GaussianDetector().fit([1.0, 2.0]), path)
    content = json.loads(path.read_text())
    for benign in (content["benign"] | change, [1]):
        path.write_text(json.dumps(content | {"benign": benign}))
        with pytest.raises(DataError, match=message if isinstance(benign, dict) else "'benign' must be an object"):
            load_detector(path)


def test_detectors_of_a_directory_come_back_by_name_and_in_their_order(tmp_path: Path) -> None:
    fit = two_statistics(59, 60)
    detectors = fit_detectors(fit, 0.05)
    names = list(fit)
    assert list(detectors) == [
        *(f"{name}{form}" for form in ("", "-one-sided", "-kde") for name in names),
        *("all-joint", "all-mahalanobis", "all-kde"),
    ]
    assert list(fit_detectors({"x": [1.0, 2.0]})) == ["x", "x-one-sided", "x-kde", "all-joint"]
    assert list(fit_detectors(fit, compare=False)) == names
    with pytest.raises(DataError, match="no statistic to fit"):
        fit_detectors({})
    with pytest.raises(DataError, match="no detectors; kaldi-uq fit-detector makes them"):
        load_detectors(tmp_path)
    save_detectors(tmp_path, detectors)
    save_detector(detectors[names[0]], tmp_path / "extra.json")
    loaded = load_detectors(tmp_path)
    assert list(loaded) == [*detectors, "extra"]
    for name, detector in detectors.items():
        assert (loaded[name].threshold, loaded[name].fpr) == (detector.threshold, 0.05)


def write_scores(path: Path, table: dict[str, np.ndarray]) -> Path:
    counts = {"ins": 0, "del": 0, "sub": 0, "num_words": 1}
    lines = []
    for number in range(len(next(iter(table.values())))):
        statistics = {name: float(values[number]) for name, values in table.items()}
        line = {"utt": f"u{number:03}", "text": "one", "hypothesis": "one", "errors": counts, "statistics": statistics}
        lines.append(json.dumps(line) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path


def test_detectors_are_fitted_again_only_on_other_scores_or_for_another_rate(tmp_path: Path) -> None:
    scores, place = write_scores(tmp_path / "score/results.jsonl", two_statistics(60, 40)), tmp_path / "detector"
    file = place / "max_predictive_entropy.json"
    first = detectors_of(place, scores)
    made = file.stat().st_mtime_ns
    save_detector(first["all-kde"], place / "mine.json")
    assert list(detectors_of(place, scores)) == [*first, "mine"] and file.stat().st_mtime_ns == made
    for other in (detectors_of(place, scores, 0.1, keep=False), detectors_of(None, scores, 0.1)):
        assert list(other) == list(first) and other["all-kde"].fpr == 0.1
    assert file.stat().st_mtime_ns == made
    assert detectors_of(place, scores, 0.1)["max_predictive_entropy"].fpr == load_detector(file).fpr == 0.1
    assert file.stat().st_mtime_ns > made
    # scores of a model with fewer statistics: what looks at others is left out
    write_scores(scores, {"max_predictive_entropy": np.arange(20.0)})
    names = [f"max_predictive_entropy{form}" for form in ("", "-one-sided", "-kde")]
    assert list(detectors_of(place, scores)) == [*names, "all-joint"]


def test_import_and_judgement_need_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from kaldi_uq.detector import *; d = GaussianDetector().fit([1.0, 2.0]).calibrate(); "
        "d.is_attack([3.0]); print([name for name in ('torch', 'sklearn', 'scipy.stats') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
