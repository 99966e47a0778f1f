"""The part of the report on the threat model: tables, sentences and figures say what the numbers say, and no more.

One file: the tables, sentences and the page are of the same made-up results.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.detector import GaussianDetector, evaluate_detection, fit_detectors
from kaldi_uq.report import threat, threat_tables
from kaldi_uq.report.build import build_report
from kaldi_uq.report.curves import evasion_figure, steps_figure, success_figure
from kaldi_uq.report.findings import evasion_points, findings, headlines
from kaldi_uq.report.summary import results_text
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import AttackRecord
from kaldi_uq.results.word_errors import ErrorRate
from tests.test_report import Page, attack_row, detection_row

PAPER, MEAN, MI = "max_predictive_entropy", "mean_predictive_entropy", "max_mutual_information"
EPS = (0.005, 0.02)
# (model, statistic) -> share that reaches the target and passes under the attack that knows the detector, by eps
EVASION = {
    ("dnn", PAPER): (0.62, 0.9),
    ("ensemble", PAPER): (0.3, 0.7),
    ("ensemble", MI): (0.05, 0.4),
}


def attack(results: Results, model: str, name: str, eps: float, success: float, **more: Any) -> None:
    row = attack_row(model, name, eps, target=success + 0.01) | {
        "target_success": success,
        "options": {"num_steps": 40},
    }
    results.add_attack(row | more)


def detection(results: Results, model: str, name: str, eps: float, statistic: str, area: float, **more: Any) -> None:
    results.add_detection([detection_row(model, name, eps, statistic, area, **more)])


def fill(results: Results) -> None:
    """Two models: the paper's detector breaks, the ensemble's disagreement holds."""
    for (model, statistic), shares in EVASION.items():
        for eps, share in zip(EPS, shares, strict=True):
            attack(results, model, "pgd", eps, 0.9 if eps > 0.01 else 0.6)
            attack(results, model, f"adaptive-{statistic}", eps, share + 0.05)
            detection(results, model, "pgd", eps, statistic, 0.97, evasion=0.02)
            detection(results, model, f"adaptive-{statistic}", eps, statistic, 0.8 - share / 2, evasion=share)
    for source in ("dnn", "ensemble"):
        for model in ("dnn", "ensemble"):
            share = 0.9 if source == model else 0.125
            row = {"source": source, "model": model, "attack": "pgd", "eps": 0.02, "num_utts": 80}
            results.add_transfer(row | {"target_accuracy": 0.5, "target_success": share, "original_accuracy": 0.3})


def content(tmp_path: Path) -> dict[str, Any]:
    results = Results(tmp_path / "results.json")
    fill(results)
    return results.read()


def row_of(table: Any, *begin: str) -> dict[str, Any]:
    rows = [row for row in table.rows if row[: len(begin)] == begin]
    assert len(rows) == 1, (begin, table.rows)
    return dict(zip(table.columns, rows[0], strict=True))


class TestEvasion:
    def test_is_the_share_that_succeeds_and_passes(self) -> None:
        fit = {"s": np.linspace(-1, 1, 201)}
        scores = np.array([0.0, 0.1, 9.0, 9.0])
        success = [True, False, True, False]
        row = evaluate_detection(
            fit_detectors(fit, compare=False), fit, {"s": scores}, seed=0, success=success, num_bootstrap=2
        )[0]
        threshold = GaussianDetector(statistic="s").fit(fit).threshold_at(0.01, fit)
        assert row["threshold"] == threshold
        assert row["evasion"] == 0.25  # the first alone: the second fails, the third is caught
        assert row["tpr_at_threshold"] == 0.5
        plain = evaluate_detection(fit_detectors(fit, compare=False), fit, {"s": scores}, seed=0, num_bootstrap=2)[0]
        assert "evasion" not in plain
        assert {name: row[name] for name in plain} == plain

    def test_score_at_the_threshold_passes(self) -> None:
        fit = {"s": np.array([-1.0, 1.0])}  # scores are 1, and so is the threshold
        row = evaluate_detection(
            fit_detectors(fit, compare=False), fit, fit, seed=0, success=[True, True], num_bootstrap=2
        )[0]
        assert (row["threshold"], row["evasion"]) == (1.0, 1.0)

    @pytest.mark.parametrize("success", [[True], [1, 0], [[True, False]]])
    def test_mask_that_does_not_fit_is_refused(self, success: Any) -> None:
        fit = {"s": [-1.0, 1.0]}
        with pytest.raises(ValueError, match=r"success must be bool \(2,\)"):
            evaluate_detection(fit_detectors(fit, compare=False), fit, fit, seed=0, success=success)

    def test_success_of_a_record_is_every_word_of_the_target_or_any_other_than_what_was_said(self) -> None:
        def record(target: ErrorRate | None, original: ErrorRate) -> AttackRecord:
            return AttackRecord("u", 0.02, "", "", "", target, original, None, {})

        right, wrong = ErrorRate(num_words=2, num_utts=1), ErrorRate(substitutions=1, num_words=2, num_utts=1)
        assert record(right, wrong).success and record(right, right).success
        assert not record(wrong, wrong).success
        assert record(None, wrong).success and not record(None, right).success


class TestAdaptiveTables:
    def test_numbers_stand_beside_those_of_the_attack_that_knows_no_detector(self, tmp_path: Path) -> None:
        evasion, auroc = threat_tables.adaptive_tables(content(tmp_path))
        row = row_of(evasion, "deep ensemble", "max mutual information")
        assert [row[f"eps {eps:g}: {who}"] for eps in EPS for who in ("pgd", "adaptive")] == [0.02, 0.05, 0.02, 0.4]
        assert row_of(auroc, "fNN (dnn)", "max predictive entropy")["eps 0.02: adaptive"] == pytest.approx(0.35)
        at_least_half = {(r, c) for r, row in enumerate(evasion.rows) for c, x in enumerate(row[2:], 2) if x >= 0.5}
        assert evasion.strong == at_least_half and len(at_least_half) == 3
        every = threat_tables.adaptive_table(content(tmp_path))
        assert len(every.rows) == 6
        row = row_of(every, "0.02", "fNN (dnn)", "max predictive entropy")
        assert (row["pgd: reach"], row["adaptive: reach"]) == (0.9, pytest.approx(0.95))
        assert row["adaptive: AUROC"].value == pytest.approx(0.35)

    def test_several_detectors_at_once_are_as_the_attack_says(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        fill(results)
        attack(results, "ensemble", f"adaptive-{PAPER}+{MI}", 0.02, 0.5, evasion=0.11)
        evasion, auroc = threat_tables.adaptive_tables(results.read())
        row = row_of(evasion, "deep ensemble", "max predictive entropy and max mutual information")
        assert row["eps 0.02: adaptive"] == 0.11 and row["eps 0.02: pgd"] is None
        assert len(auroc.rows) == 3
        assert evasion_points(results.read())[f"{PAPER}+{MI}"] == {"ensemble": [(0.02, 0.11)]}


class TestSentences:
    def test_paper_detector_breaks_where_half_reach_and_pass(self, tmp_path: Path) -> None:
        sentence = findings(content(tmp_path))[0]
        assert sentence.startswith(
            "The paper's detector (max predictive entropy, two-sided) breaks for fNN (dnn) at eps 0.005; deep ensemble "
            "at eps 0.02: there, under adaptive-max_predictive_entropy,"
        )
        assert "(0.62 to 0.70, AUROC 0.450 to 0.490)" in sentence and "It does not" not in sentence

    def test_model_that_holds_is_said_to_hold(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        fill(results)
        for eps in EPS:
            detection(results, "ensemble", f"adaptive-{PAPER}", eps, PAPER, 0.9, evasion=0.1)
        assert "It does not for deep ensemble up to eps 0.02 (0.10 reach" in findings(results.read())[0]
        for eps in EPS:
            detection(results, "dnn", f"adaptive-{PAPER}", eps, PAPER, 0.9, evasion=0.2)
        sentence = findings(results.read())[0]
        assert "does not break" in sentence and "fNN (dnn) and deep ensemble up to eps 0.02 (0.10 to 0.20" in sentence

    def test_what_held_longest_is_named(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        fill(results)
        sentence = findings(results.read())[1]
        assert "max mutual information of deep ensemble held longest: it never breaks" in sentence
        assert "at eps 0.02, the largest tried, 0.40 of" in sentence
        detection(results, "ensemble", f"adaptive-{MI}", 0.02, MI, 0.4, evasion=0.65)
        sentence = findings(results.read())[1]
        assert "max mutual information of deep ensemble held longest: it breaks at eps 0.02" in sentence
        assert "the first of them at eps 0.005" in sentence
        for model, statistic in EVASION:
            detection(results, model, f"adaptive-{statistic}", 0.005, statistic, 0.4, evasion=0.8)
        assert "breaks at the smallest eps at which any does, 0.005" in findings(results.read())[1]

    def test_what_was_not_tried_did_not_hold(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        fill(results)
        attack(results, "ensemble", "adaptive-max_akld", 0.005, 0.1)  # at one eps alone, and it held there
        detection(results, "ensemble", "adaptive-max_akld", 0.005, "max_akld", 0.9, evasion=0.0)
        sentence = findings(results.read())[1]
        assert "Of the 3 pairs" in sentence and "max mutual information of deep ensemble held longest" in sentence

    def test_attack_without_a_target_reaches_none(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        results.add_attack(attack_row("dnn", "untargeted", 0.02, target=None) | {"target_success": None})
        detection(results, "dnn", "untargeted", 0.02, PAPER, 0.6, evasion=0.8)
        assert findings(results.read()) == []

    def test_attack_on_a_one_sided_detector_is_measured_on_that_one(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        attack(results, "dnn", f"adaptive-{MEAN}", 0.02, 0.9, evasion=0.85, adaptive={"sided": "one"})
        detection(results, "dnn", f"adaptive-{MEAN}", 0.02, MEAN, 0.9, evasion=0.1)
        assert evasion_points(results.read())[MEAN]["dnn"] == [(0.02, 0.85)]

    def test_loudness_is_said_to_do_only_where_it_does(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        row = {
            "model": "dnn",
            "kind": "clean",
            "level": 0.0,
            "num_utts": 9,
            "accuracy": 1.0,
            "sided": "two",
            "fpr": 0.01,
        }
        for audio, ours, said in ((0.44, 0.31, False), (0.9, 0.8, True), (0.9, 0.95, False)):
            for statistic, area in (("level_db", audio), (PAPER, ours)):
                tells = [{"attack": "pgd", "eps": 0.02, "auroc": area}]
                results.add_negatives([row | {"statistic": statistic, "fpr_at_threshold": 0.01, "auroc": tells}])
            assert any("a detector of loudness would do" in text for text in findings(results.read())) == said

    def test_certainty_is_said_only_where_the_numbers_say_so(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        fill(results)
        assert not [text for text in findings(results.read()) if "more certain" in text]
        one = {"detector": "gaussian", "sided": "one"}
        detection(results, "dnn", "pgd", 0.02, MEAN, 0.2, **one)
        detection(results, "ensemble", "pgd", 0.02, MEAN, 0.495, **one)  # its interval holds 0.5
        detection(results, "dnn", f"adaptive-{MEAN}", 0.02, MEAN, 0.1, **one)  # was told to be
        sentences = [text for text in findings(results.read()) if "more certain" in text]
        assert len(sentences) == 1
        assert (
            sentences[0].startswith("Under pgd the mean predictive entropy") and "fNN (dnn) at eps 0.02" in sentences[0]
        )
        assert "ensemble" not in sentences[0] and "0.200" in sentences[0]

    def test_without_numbers_nothing_is_said(self, tmp_path: Path) -> None:
        empty = Results(tmp_path / "results.json").read()
        assert findings(empty) == [] and headlines(empty) == [] and threat.remedies(empty) == []
        assert not threat.has_threats(empty) and threat.threat_tables(empty) == [] and threat.threat_text(empty) == ""

    def test_threat_model_speaks_of_what_was_done(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        attack(results, "dnn", "pgd", 0.02, 0.9)
        texts = dict(threat.threat_model(results.read()))
        assert "adaptive" not in texts["Attacker knows"] and "Eps: 0.02." in texts["May change"]
        assert "Untargeted" not in texts["Wants"]
        attack(results, "dnn", "psychoacoustic", 0.05, 0.9, options={"constraint": "masking"})
        attack(results, "dnn", "nes", 0.02, 0.1)
        attack(results, "dnn", f"adaptive-{PAPER}", 0.02, 0.9)
        results.add_attack(attack_row("dnn", "untargeted", 0.02, target=None) | {"target_success": None})
        texts = dict(threat.threat_model(results.read()))
        assert (
            "also know the detector" in texts["Attacker knows"] and "nes sees scores alone" in texts["Attacker knows"]
        )
        assert "psychoacoustic also bounds the perturbation's spectrum" in texts["May change"]
        assert "Eps: 0.02 and 0.05." in texts["May change"] and "Untargeted (untargeted)" in texts["Wants"]


class TestSides:
    def test_both_forms_stand_side_by_side(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        fill(results)
        assert threat_tables.sides_table(results.read()).rows == ()  # there is one form only
        detection(results, "dnn", "pgd", 0.02, PAPER, 0.3, detector="gaussian", sided="one")
        row = row_of(threat_tables.sides_table(results.read()), "pgd", "0.02")
        assert row["max predictive entropy, two-sided"].value == 0.97
        assert row["max predictive entropy, one-sided"].value == 0.3


def test_transfer_is_a_matrix_of_sources_and_listeners(tmp_path: Path) -> None:
    (table,) = threat_tables.transfer_tables(content(tmp_path))
    assert table.columns == ("examples made against", "fNN (dnn)", "deep ensemble")
    assert table.rows == (("fNN (dnn)", 0.9, 0.125), ("deep ensemble", 0.125, 0.9))
    assert table.strong == {(0, 1), (1, 2)}
    assert "80 utterances" in table.note


def negatives(model: str = "dnn", **rates: float) -> list[dict[str, Any]]:
    """Rows of two kinds of audio and statistics; ``rates``: share called an attack, by kind."""
    rows = []
    for kind, level in (("clean", 0.0), ("white", 20.0), ("white", 0.0)):
        for statistic, area in ((PAPER, 0.8), ("noise_floor_db", 0.9)):
            row = {"model": model, "kind": kind, "level": level, "num_utts": 30, "accuracy": 0.75, "fpr": 0.01}
            row |= {"statistic": statistic, "sided": "two", "fpr_at_threshold": rates.get(f"{kind}{level:g}", 0.01)}
            rows.append(row | {"auroc": [{"attack": "pgd", "eps": 0.02, "auroc": area if kind == "clean" else 0.4}]})
    return rows


class TestNegatives:
    def test_table_has_a_row_a_disturbance_the_mildest_first(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        results.add_negatives(negatives(white0=0.625))
        (table,) = threat_tables.negatives_tables(results.read())
        assert [row[0] for row in table.rows] == ["clean", "white, 20 dB SNR", "white, 0 dB SNR"]
        row = row_of(table, "white, 0 dB SNR")
        assert (row["word accuracy"], row["max predictive entropy"], row["noise floor dB"]) == (0.75, 0.625, 0.625)
        (areas,) = threat_tables.negatives_auroc_tables(results.read())
        row = row_of(areas, "pgd", "0.02", "white, 0 dB SNR")
        assert row["max predictive entropy"] == 0.4

    def test_detector_of_loudness_is_shown_to_be_one(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        results.add_negatives(negatives(white0=0.625))
        found = findings(results.read())
        assert (
            "Benign audio with white, 0 dB SNR is called an attack by the paper's detector for fNN (dnn) in 62.5 %"
            in (found[0])
        )
        assert "level or noise floor of the audio" in found[1] and "(AUROC 0.900 and 0.800)" in found[1]
        rows = negatives()
        for row in rows:  # now the model is better than the audio alone
            if row["statistic"] == PAPER and row["kind"] == "clean":
                row["auroc"][0]["auroc"] = 0.95
        results.add_negatives(rows)
        assert not [text for text in findings(results.read()) if "loudness" in text]


class TestChecklist:
    CHECKS = {
        "loss_falls": {"passed": True, "value": 1.0, "limit": 0.9, "remedy": ""},
        "eps_respected": {
            "passed": False,
            "value": 0.5,
            "limit": 0.02,
            "remedy": "mend it",
            "failed": ["pgd eps 0.02"],
        },
    }

    def test_ticks_crosses_and_remedies(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        results.set_checks("dnn", self.CHECKS)
        results.set_checks("bnn", {"loss_falls": self.CHECKS["loss_falls"]})
        read = results.read()
        table = threat_tables.checklist_table(read)
        assert table.rows == (
            ("eps respected (change)", "✗ 0.5", None, "at most 0.02"),
            ("loss falls (utterances)", "✓ 1", "✓ 1", "at least 0.9"),
        )
        assert table.strong == {(0, 1)}
        remedy = "fNN (dnn), eps respected in pgd eps 0.02: change 0.5, asked for at most 0.02. Mend it."
        assert threat.remedies(read) == [remedy]
        assert headlines(read) == ["Checks of the attacks that passed: 1 of 2 for fNN (dnn) and 1 of 1 for BNN."]

    def test_section_of_a_model_is_replaced_as_a_whole_and_must_be_whole(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        results.set_checks("dnn", self.CHECKS)
        assert list(results.read()["checks"]["dnn"]) == ["eps_respected", "loss_falls"]
        results.set_checks("dnn", {"loss_falls": self.CHECKS["loss_falls"]})
        assert list(results.read()["checks"]["dnn"]) == ["loss_falls"]
        with pytest.raises(ValueError, match="check 'x' of model 'dnn' has no remedy"):
            results.set_checks("dnn", {"x": {"passed": True, "value": 1, "limit": 1}})


class TestQuality:
    def quality(self, margin: float, segmental: float) -> dict[str, float]:
        return {"masking_margin_db_mean": margin, "segmental_snr_db_mean": segmental}

    def test_psychoacoustic_attack_is_set_beside_one_of_equal_success(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        attack(results, "dnn", "pgd", 0.005, 0.5, **self.quality(3, 15))
        attack(results, "dnn", "pgd", 0.02, 0.94, **self.quality(9, 4))
        attack(results, "dnn", "psychoacoustic", 0.05, 0.92, **self.quality(-2, 14))
        (sentence,) = findings(results.read())
        assert "(0.92 with eps 0.05; pgd 0.94 with eps 0.02)" in sentence and "is quieter under masking" in sentence
        assert "-2.0 dB against 9.0 dB" in sentence and "14.0 dB against 4.0 dB" in sentence
        assert len(threat_tables.quality_table(results.read()).rows) == 3
        attack(results, "dnn", "psychoacoustic", 0.05, 0.92, **self.quality(10, 14))
        assert "is not quieter under masking" in findings(results.read())[0]
        attack(results, "dnn", "psychoacoustic", 0.05, 0.7, **self.quality(-2, 14))  # there is no equal success
        assert findings(results.read()) == []

    def test_snr_alone_is_no_table(self, tmp_path: Path) -> None:
        assert threat_tables.quality_table(content(tmp_path)).rows == ()


class TestFigures:
    def test_success_and_accuracy_over_eps(self, tmp_path: Path) -> None:
        figure = success_figure(content(tmp_path)["attacks"], attack="pgd")
        panels = figure.axes
        assert len(panels) == 2
        (line,) = [line for line in panels[0].lines if line.get_label() == "deep ensemble"]
        assert np.asarray(line.get_xydata()).tolist() == [[0.005, 0.6], [0.02, 0.9]]

    def test_series_of_steps_is_of_rows_that_differ_in_nothing_else(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        for name, steps, rule in (("pgd", 40, "apgd"), ("pgd-2x", 80, "apgd"), ("cosine", 40, "cosine")):
            attack(results, "dnn", name, 0.02, steps / 100, options={"num_steps": steps, "step_rule": rule})
        attack(results, "dnn", "pgd", 0.05, 0.9, options={"num_steps": 40, "step_rule": "apgd"})
        ((eps, rows),) = threat.step_series(results.read())
        assert eps == 0.02 and [(row["attack"], steps) for row, steps in rows] == [("pgd", 40), ("pgd-2x", 80)]
        figure = steps_figure(rows, title="Steps")
        assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["40", "80"]

    def test_models_with_one_draw_and_with_several_share_a_curve(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        for model, draws in (("dnn", 1), ("bnn", 10)):
            for name, steps in (("pgd-10", 10), ("pgd", 200)):
                attack(results, model, name, 0.02, 0.9, options={"num_steps": steps, "eot_samples": draws})
        attack(results, "bnn", "pgd-eot1", 0.02, 0.8, options={"num_steps": 200, "eot_samples": 1})
        ((_, rows),) = threat.step_series(results.read())
        assert {(row["model"], row["attack"], steps) for row, steps in rows} == {
            (model, name, steps) for model in ("dnn", "bnn") for name, steps in (("pgd-10", 10), ("pgd", 200))
        }
        attack(results, "bnn", "mine", 0.02, 0.7, options={"num_steps": 50, "eot_samples": 2})
        assert all(row["attack"] != "mine" for _, rows in threat.step_series(results.read()) for row, _ in rows)

    def test_evasion_has_a_panel_a_statistic(self, tmp_path: Path) -> None:
        figure = evasion_figure(evasion_points(content(tmp_path)))
        shown = [axes for axes in figure.axes if axes.get_visible()]
        titles = {axes.get_title(loc="left"): axes for axes in shown}
        assert set(titles) == {"max predictive entropy", "max mutual information"}
        (line,) = titles["max mutual information"].lines
        assert np.asarray(line.get_xydata()).tolist() == [[0.005, 0.05], [0.02, 0.4]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything above."""
    folder = tmp_path_factory.mktemp("report")
    results = Results(folder / "exp/results.json")
    fill(results)
    results.set_checks("dnn", TestChecklist.CHECKS)
    results.add_negatives(negatives(white0=0.625))
    return build_report(folder / "exp", folder / "out", command="run.sh")


class TestPage:
    def test_section_holds_tables_curves_and_checks(self, report: Path) -> None:
        page = report.read_text(encoding="utf-8")
        Page().feed(page)
        section = page[page.index('<section id="threat">') : page.index('<section id="attacks">')]
        for text in ("Attacker knows", "breaks for fNN (dnn) at eps 0.005", "held longest", "✗ 0.5", "✓ 1", "Mend it."):
            assert text in section
        for slug in (
            "adaptive_evasion",
            "adaptive_auroc",
            "adaptive",
            "transfer_pgd_eps0.02",
            "negatives_dnn",
            "checks",
        ):
            assert section.count(f'id="{slug}"') == 1
            assert report.with_name(f"{slug}.csv").is_file()
        for picture in ("evasion", "success_pgd"):
            assert report.with_name(f"{picture}.png").is_file()
        assert section.count("<img") == 2

    def test_attacks_that_know_a_detector_do_not_crowd_the_rest(self, report: Path) -> None:
        page = report.read_text(encoding="utf-8")
        section = page[
            page.index('<section id="detection">') : page.index('<section id="run">') if 'id="run"' in page else None
        ]
        assert re.findall(r"<h3>(.*?)</h3>", section) == ["pgd, eps 0.005", "pgd, eps 0.02"]
        overview = page[page.index('id="overview"') : page.index('<section id="threat">')]
        assert f"adaptive-{PAPER}" in overview and f"adaptive-{MI}" not in overview

    def test_same_results_give_the_same_page(self, report: Path, tmp_path: Path) -> None:
        again = build_report(report.parents[1] / "exp", tmp_path, command="run.sh")
        assert again.read_bytes() == report.read_bytes()

    def test_results_file_has_the_same_tables(self, report: Path) -> None:
        text = report.with_name("RESULTS").read_text(encoding="utf-8")
        for title in (
            "Utterances that reach their target and pass",
            "Transfer of pgd examples",
            "Checks of the attacks",
        ):
            assert f"**{title}" in text
        assert "held longest" in text and "Mend it." in text

    def test_results_without_any_of_it_are_as_before(self, tmp_path: Path) -> None:
        exp = tmp_path / "exp"
        results = Results(exp / "results.json")
        results.add_attack(attack_row("dnn", "pgd", 0.02))
        detection(results, "dnn", "pgd", 0.02, PAPER, 0.9)
        page = build_report(exp, tmp_path / "out", command="run.sh").read_text(encoding="utf-8")
        assert 'id="threat"' not in page and "target success" not in page
        read = results.read()
        old = {name: read[name] for name in read if name not in ("transfer", "negatives", "checks")}
        assert results_text(json.loads(json.dumps(old)), command="x") == results_text(read, command="x")
