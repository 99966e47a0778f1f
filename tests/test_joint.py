"""The default detector: both sides, its rate on unseen speech, files, gradient, and what is said of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.covariance import LedoitWolf

from kaldi_uq.attacks.sentries import TYPICAL, Sentry
from kaldi_uq.cli.main import main
from kaldi_uq.detector import (
    GaussianDetector,
    JointDetector,
    fit_detectors,
    load_detector,
    save_detector,
    save_detectors,
    threshold_at_fpr,
)
from kaldi_uq.detector.fit import detectors_of
from kaldi_uq.detector.joint import NUM_FOLDS
from kaldi_uq.errors import DataError
from kaldi_uq.results.gate import gate_lines
from kaldi_uq.results.names import GATE
from kaldi_uq.results.table import Results
from tests.test_detector import write_scores

NAMES = ("max_predictive_entropy", "mean_predictive_entropy", "max_akld", "mean_akld")
Table = dict[str, np.ndarray]


def benign(seed: int, num_utts: int, names: Sequence[str] = NAMES) -> Table:
    """Statistics as a recogniser has them: never negative, skewed, and strongly correlated."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=(num_utts, 1))
    z = 0.85 * common + np.sqrt(1 - 0.85**2) * generator.normal(size=(num_utts, len(names)))
    spread = np.linspace(0.3, 0.6, len(names))
    return dict(zip(names, np.exp(spread * z - 1).T, strict=True))


def median_of(table: Table) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in table.items()}


# What it is


def test_score_is_the_harmonic_mean_of_the_p_values_by_scipy() -> None:
    fit, new = benign(1, 90), benign(2, 30)
    detector = JointDetector().fit(fit)

    def logarithms(table: Table) -> np.ndarray:
        return np.stack([np.log(table[name] + 1e-6 * fit[name].mean()) for name in NAMES], 1)

    median = np.median(logarithms(fit), axis=0)
    shift = logarithms(fit) - median
    low, high = (
        np.sqrt([np.mean(s[w] ** 2) for s, w in zip(shift.T, side.T, strict=True)]) for side in (shift < 0, shift > 0)
    )

    def deviations(table: Table) -> np.ndarray:
        shift = logarithms(table) - median
        return np.where(shift < 0, shift / low, shift / high)

    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(deviations(fit)).covariance_)
    z = deviations(new)
    joint = stats.chi2.sf(np.einsum("bi,ij,bj->b", z, inverse, z), len(NAMES))
    single = 2 * stats.norm.sf(np.abs(z))
    expected = np.log(0.5 / joint + 0.5 * (1 / single).mean(1))
    np.testing.assert_allclose(detector.deviations(new), z, rtol=1e-6)
    np.testing.assert_allclose(detector.score(new), expected, atol=0.05)  # of the cube-root approximation
    assert detector.sided == "two" and detector.differentiable


@pytest.mark.long
def test_p_values_of_unseen_benign_speech_are_uniform() -> None:
    values = np.concatenate([JointDetector().fit(benign(s, 100)).p_value(benign(1000 + s, 400)) for s in range(30)])
    for level in (0.01, 0.05, 0.1, 0.3, 0.5, 0.8):
        assert np.mean(values <= level) == pytest.approx(level, abs=0.3 * level)


def test_p_value_falls_with_the_score_and_threshold_is_its_inverse() -> None:
    detector = JointDetector().fit(benign(3, 80))
    scores = np.linspace(-1, 40, 2000)
    assert (np.diff(detector._p_value(scores)) <= 0).all() and (detector._p_value(scores) > 0).all()
    for fpr in (1e-4, 0.01, 0.05):  # in the tail
        assert detector._p_value(np.array([detector.threshold_at(fpr)]))[0] == pytest.approx(fpr)
    for fpr in (0.3, 0.5, 0.9):  # above a threshold there is no larger p-value
        above = np.nextafter(detector.threshold_at(fpr), np.inf)
        assert fpr - 1 / 81 <= detector._p_value(np.array([above]))[0] <= fpr + 1e-12


@pytest.mark.long
@pytest.mark.parametrize("num_utts", [30, 60, 100])
def test_false_alarm_rate_on_unseen_speech_is_the_nominal_one_with_few_utterances(num_utts: int) -> None:
    names = [f"mean_{i}" for i in range(12)]
    joint, own = [], []
    for seed in range(25):
        detector = JointDetector().fit(benign(seed, num_utts, names)).calibrate(0.02)
        scores = detector.score(benign(500 + seed, 400, names))
        joint.append(np.mean(scores > detector.require_threshold()))
        own.append(np.mean(scores > threshold_at_fpr(detector.score(benign(seed, num_utts, names)), 0.02)))
    assert 0.008 < np.mean(joint) < 0.032
    assert np.mean(own) > 0.04  # by the scores of the fitting set itself


@pytest.mark.parametrize("sign", [-1, 1])
def test_three_benign_deviations_are_seen_on_either_side(sign: int) -> None:
    fit = benign(4, 200)
    detector, typical = JointDetector().fit(fit).calibrate(0.01), median_of(fit)
    side = {name: np.sign(sign) * (np.log(values / np.median(values))) for name, values in fit.items()}
    spread = {name: sign * float(np.sqrt(np.mean(shift[shift > 0] ** 2))) for name, shift in side.items()}
    for name in NAMES:
        shifted = {**typical, name: typical[name] * np.exp(3 * spread[name])}
        assert detector.is_attack({n: [v] for n, v in shifted.items()})[0], name
    # as benign speech varies too, only less
    assert detector.is_attack({n: [v * np.exp(3.5 * spread[n])] for n, v in typical.items()})[0]
    assert not detector.is_attack({n: [v] for n, v in typical.items()})[0]


def test_certainty_is_seen_where_no_lower_threshold_of_a_gaussian_can_be() -> None:
    fit = benign(5, 100)
    name = "mean_akld"
    gaussian = GaussianDetector(statistic=name).fit(fit).calibrate(0.01)
    certain = {**fit, name: fit[name] * 0}
    assert gaussian.mean - gaussian.require_threshold() * gaussian.std < 0 and not gaussian.is_attack(certain).all()
    assert JointDetector([name]).fit(fit).calibrate(0.01).is_attack(certain).all()


def test_score_goes_on_growing_beyond_all_benign_speech_on_both_sides() -> None:
    fit = benign(6, 60)
    level = {"level_db": np.random.default_rng(6).normal(-30, 5, 60)}  # has no floor, and is taken as it is
    detector, typical = JointDetector().fit(fit | level), median_of(fit | level)
    for name in (*NAMES, "level_db"):
        for steps in (np.geomspace(3, 1e4, 20), -np.geomspace(3, 1e4, 20)):
            moved = (
                typical[name] + 5 * steps
                if name == "level_db"
                else typical[name] * np.exp(0.001 * np.sign(steps) * np.arange(1000, 9000, 400))
            )
            table = {n: np.full(20, v) for n, v in typical.items()} | {name: moved}
            scores = detector.score(table)
            assert np.isfinite(scores).all() and (np.diff(scores) > 0).all(), (name, scores)


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 1.0], [0.0] * 30])
def test_few_or_constant_values_give_finite_scores(values: list[float]) -> None:
    table = {"a": np.array(values), "b": np.array(values[::-1])}
    detector = JointDetector().fit(table).calibrate(0.01)
    far = {"a": [1e6, 0.0], "b": [0.0, 1e6]}
    for numbers in (detector.score(table), detector.score(far), detector.p_value(far), detector.benign_scores):
        assert np.isfinite(numbers).all()
    assert (detector.score(far) > detector.score(table).max()).all()


# Files


def test_saved_detector_scores_and_decides_the_same(tmp_path: Path) -> None:
    detector = JointDetector().fit(benign(7, 60)).calibrate(0.02)
    save_detector(detector, tmp_path / "joint.json")
    loaded, new = load_detector(tmp_path / "joint.json"), benign(8, 40)
    assert isinstance(loaded, JointDetector) and loaded.statistics == NAMES
    assert (loaded.fpr, loaded.threshold) == (0.02, detector.threshold)
    assert loaded.threshold_at(0.003) == detector.threshold_at(0.003)
    for method in ("score", "p_value", "is_attack", "deviations"):
        np.testing.assert_array_equal(getattr(loaded, method)(new), getattr(detector, method)(new))
    for q in (0.0, 0.5, 1.0):  # of scores by a fit without the utterance
        assert loaded.benign_score(q) == np.quantile(detector.held_out, q)
    assert detector.held_out.mean() > detector.score(benign(7, 60)).mean()


def test_each_benign_score_is_by_a_fit_without_its_utterance() -> None:
    fit = benign(9, 35)
    fold = np.arange(35) % NUM_FOLDS
    expected = [
        JointDetector().fit({n: v[fold != k] for n, v in fit.items()}).score({n: v[fold == k] for n, v in fit.items()})
        for k in range(NUM_FOLDS)
    ]
    np.testing.assert_allclose(JointDetector().fit(fit).held_out, np.sort(np.concatenate(expected)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "expected the fields covariance, floor, held_out, median, scale"),
        ({"floor": [-1.0, 0.0]}, "'floor' must be >= 0"),
        ({"floor": [0.0]}, "'floor' must have shape"),
        ({"median": ["0", "0"]}, "'median' must hold numbers only"),
        ({"scale": [[1.0, 1.0], [0.0, 1.0]]}, "'scale' must be >= 1e-08"),
        ({"scale": [1.0, 1.0]}, "'scale' must have shape"),
        ({"covariance": [[1.0, 0.5], [0.0, 1.0]]}, "'covariance' must be symmetric"),
        ({"covariance": [[1.0, 2.0], [2.0, 1.0]]}, "not positive definite"),
        ({"held_out": [1.0]}, "'held_out' must have shape"),
        ({"held_out": [2.0, 1.0]}, "'held_out' must rise"),
        ({"held_out": [1.0, 1e999]}, "'held_out' has a value that is not finite"),
    ],
)
def test_damaged_file_is_refused_with_its_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "joint.json"
    save_detector(JointDetector().fit(benign(10, 20, NAMES[:2])), path)
    content = json.loads(path.read_text())
    content["model"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        load_detector(path)
    assert str(error.value).startswith(f"{path}: ")


# For attacks that know it


@pytest.mark.parametrize("factor", [1e-3, 0.3, 1.0, 3.0, 1e3])
def test_gradient_is_that_of_finite_differences_near_and_far(factor: float) -> None:
    fit, new = benign(11, 60), {name: factor * values for name, values in benign(12, 20).items()}
    detector = JointDetector().fit(fit)
    values = {name: torch.tensor(column, requires_grad=True) for name, column in new.items()}
    scores = detector.tensor_score(values)
    np.testing.assert_array_equal(scores.detach().numpy(), detector.score(new))
    scores.sum().backward()
    for name in NAMES:
        step = 1e-6 * new[name]
        up, down = (detector.score({**new, name: new[name] + sign * step}) for sign in (1, -1))
        np.testing.assert_allclose(values[name].grad.numpy() * new[name], (up - down) / 2e-6, rtol=1e-3, atol=1e-5)


def test_gradient_is_finite_at_the_medians_and_at_zero() -> None:
    fit = benign(13, 41)
    detector = JointDetector().fit(fit)
    for dtype in (torch.float32, torch.float64):
        typical = [torch.tensor([v, 0.0], dtype=dtype, requires_grad=True) for v in median_of(fit).values()]
        score = detector.tensor_score(dict(zip(NAMES, typical, strict=True)))
        score.sum().backward()
        assert score.isfinite().all() and score.dtype == dtype
        assert all(bool(value.grad.isfinite().all()) for value in typical if value.grad is not None)
        upwards = [float(v.grad[1]) * f for v, f in zip(typical, detector.floor, strict=True) if v.grad is not None]
        assert len(upwards) == len(NAMES) and sum(upwards) < -1  # from zero, all together


def test_penalty_of_frames_is_by_the_detectors_map_and_pulls_from_both_sides() -> None:
    fit = {"q95_akld": benign(14, 100)["max_akld"]}
    sentry = Sentry.of(JointDetector().fit(fit).calibrate(0.01), 0.5)
    detector, valid = sentry.detector, torch.arange(40)[None] < 40
    for middle, sign in ((1e-3, -1), (50.0, 1)):
        frames = (middle * torch.linspace(1, 2, 40, dtype=torch.float64))[None].requires_grad_(True)
        statistic = torch.quantile(frames, 0.95, dim=1)
        penalty = sentry.penalty({"akld": frames}, {"q95_akld": statistic}, valid)
        z = detector.deviation(frames, 0)
        far = (sign * z - TYPICAL).relu()
        top = frames >= statistic[:, None] if sign < 0 else frames > 0
        expected = (detector.tensor_score({"q95_akld": statistic}) - sentry.aim).relu() + far[top].mean()
        torch.testing.assert_close(penalty, expected)
        (slope,) = torch.autograd.grad(penalty.sum(), frames)
        assert (slope.sign() == torch.where(top, sign, 0)).sum() >= top.sum()  # every one of them is moved
    usual = torch.full((1, 40), float(np.median(fit["q95_akld"])), dtype=torch.float64)
    assert sentry.penalty({"akld": usual}, {"q95_akld": usual[:, 0]}, valid).item() == 0


# The default


def test_it_judges_by_default_and_an_earlier_directory_falls_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = fit_detectors(benign(15, 40))
    assert isinstance(found[GATE], JointDetector) and found[GATE].threshold == found[GATE].threshold_at(0.01)
    save_detectors(tmp_path / "detector", found)
    with caplog.at_level(logging.WARNING):
        assert load_detector(tmp_path).kind == "joint" and not caplog.records
        assert load_detector(tmp_path, "max_akld").statistics == ("max_akld",)
        (tmp_path / "detector" / f"{GATE}.json").unlink()
        assert load_detector(tmp_path).statistics == ("mean_predictive_entropy",)
    (record,) = caplog.records
    assert record.getMessage().endswith(
        f"{GATE}.json: no such detector; mean_predictive_entropy.json, of one statistic, judges instead: fit again for "
        "it"
    )
    (tmp_path / "detector/mean_predictive_entropy.json").unlink()
    with pytest.raises(DataError, match=f"{GATE}.json: no such detector; kaldi-uq fit-detector makes it"):
        load_detector(tmp_path)


def test_detectors_of_an_early_release_are_fitted_again_where_their_scores_are_at_hand(tmp_path: Path) -> None:
    scores, place = write_scores(tmp_path / "score/results.jsonl", benign(16, 30)), tmp_path / "detector"
    detectors_of(place, scores)
    (place / f"{GATE}.json").unlink()
    assert GATE in detectors_of(place, scores)


def test_one_statistic_has_a_joint_detector_too() -> None:
    assert list(fit_detectors({"x": [1.0, 2.0, 3.0]})) == ["x", "x-one-sided", "x-kde", GATE]


# What it catches


def test_detection_says_what_the_default_catches_and_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = write_scores(tmp_path / "fit.jsonl", benign(17, 100))
    test = write_scores(tmp_path / "test.jsonl", benign(18, 100))
    attacked = benign(19, 10)
    for name in NAMES:
        attacked[name][:4] *= 1e-3  # four are caught
    lines = [json.loads(line) for line in write_scores(tmp_path / "attack.jsonl", attacked).read_text().splitlines()]
    one, none = ({"ins": 0, "del": 0, "sub": n, "num_words": 1} for n in (1, 0))
    lines = [
        {**line, "eps": 0.1, "original": "two", "target": "one", "original_errors": one}
        | {"target_errors": none if number < 8 else one}
        for number, line in enumerate(lines)
    ]
    (tmp_path / "attack.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--fit", fit, "--benign", test, "--attacked", tmp_path / "attack.jsonl"]
    words += ["--model", "dnn", "--attack", "pgd", "--eps", "0.1", "--results", tmp_path / "results.json"]
    assert main(["nnet-detect", *map(str, words)]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    said = " ".join(out.split())
    assert f"reach their target, and the default detector ({GATE}, 1 % false alarms) catches 0.50 of these." in said
    assert "WARNING: the default detector of dnn catches fewer than 0.9 of what pgd at eps 0.1 reaches" in said
    row = next(
        row for row in Results(tmp_path / "results.json").read()["detection_other"] if row["detector"] == "joint"
    )
    assert (row["statistic"], row["sided"], row["reached"], row["evasion"]) == ("all", "two", 0.8, 0.4)


def test_there_is_no_warning_where_enough_or_nothing_is_to_be_caught() -> None:
    where: dict[str, Any] = {"model": "dnn", "attack": "pgd", "eps": 0.1}
    (line,) = gate_lines({"reached": 0.5, "evasion": 0.05, "fpr": 0.01}, **where)
    assert "catches 0.90 of these" in line
    (line,) = gate_lines({"reached": 0.0, "evasion": 0.0, "fpr": 0.01}, **where)
    assert "no utterance reaches its target" in line
