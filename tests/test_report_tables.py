"""Tables and headlines of the report say what the numbers say, and no more.

One file: a headline and the table beside it are asked about the same numbers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kaldi_uq.detector import GaussianDetector, evaluate_detection, fit_detectors
from kaldi_uq.errors import DataError
from kaldi_uq.report import paper, plots, tables
from kaldi_uq.report.build import build_report, results_text
from kaldi_uq.report.findings import NONE, findings
from kaldi_uq.report.run import Run
from kaldi_uq.report.table import FAILED_NOTE, Table
from kaldi_uq.results.gate import ADVICE, OF_ROBUST, TO_TRY
from kaldi_uq.results.names import GATE
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import AttackRecord
from kaldi_uq.results.word_errors import ErrorRate
from tests import report as made
from tests.report import attack_row, detection_row

PAPER, MEAN, MI = "max_predictive_entropy", "mean_predictive_entropy", "max_mutual_information"
EPS = (0.005, 0.02)
# (model, statistic) -> share that reaches the target and passes under the attack that knows the detector, by eps
EVASION = {
    ("dnn", PAPER): (0.62, 0.9),
    ("ensemble", PAPER): (0.3, 0.7),
    ("ensemble", MI): (0.05, 0.4),
}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.json")


@pytest.fixture
def filled(results: Results) -> Results:
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
    return results


def attack(results: Results, model: str, name: str, eps: float, success: float | None, **more: Any) -> None:
    row = attack_row(model, name, eps, target=success) | {"target_success": success, "options": {"num_steps": 40}}
    results.add_attack(row | more)


def detection(results: Results, model: str, name: str, eps: float, statistic: str, area: float, **more: Any) -> None:
    results.add_detection([detection_row(model, name, eps, statistic, area, **more)])


def run_of(results: Results) -> Run:
    return Run(results.read())


def found(results: Results, *words: str) -> list[str]:
    """The headlines that hold all of the words."""
    return [line for line in findings(run_of(results)) if all(word in line for word in words)]


def row_of(table: Table, *begin: str) -> dict[str, str]:
    rows = [row for row in table.rows if row[: len(begin)] == begin]
    assert len(rows) == 1, (begin, table.rows)
    return dict(zip(table.heads, rows[0], strict=True))


def negatives(**rates: float) -> list[dict[str, Any]]:
    """Rows of two kinds of audio and statistics; ``rates``: share called an attack, by kind."""
    rows = []
    for kind, level in (("white", 0.0), ("clean", 0.0), ("hum", 50.0), ("white", 20.0)):
        for statistic, area in ((PAPER, 0.8), ("noise_floor_db", 0.9)):
            row = {"model": "dnn", "kind": kind, "level": level, "num_utts": 30, "accuracy": 0.75, "fpr": 0.01}
            row |= {"statistic": statistic, "sided": "two", "fpr_at_threshold": rates.get(f"{kind}{level:g}", 0.01)}
            rows.append(row | {"auroc": [{"attack": "pgd", "eps": 0.02, "auroc": area if kind == "clean" else 0.4}]})
    return rows


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

    def test_what_is_heard_right_and_passes_is_counted_in_both_sets(self) -> None:
        fit = {"s": np.linspace(-1, 1, 201)}
        row = evaluate_detection(
            fit_detectors(fit, compare=False),
            {"s": [0.0, 0.0, 0.0, 9.0]},
            {"s": [0.0, 9.0]},
            seed=0,
            right=[True, True],
            benign_right=[True, True, False, True],
            num_bootstrap=2,
        )[0]
        assert (row["passed_right"], row["benign_passed_right"]) == (0.5, 0.5) and "evasion" not in row
        with pytest.raises(ValueError, match=r"benign_right must be bool \(201,\)"):
            evaluate_detection(fit_detectors(fit, compare=False), fit, fit, seed=0, benign_right=[True])

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


class TestTables:
    def test_markdown_is_aligned_and_no_cell_ends_a_row(self) -> None:
        table = Table("t", "Title", ("name", "area"), (("a|b\nc", "0.988 [0.900, 1.000]"), ("d", "–")), 1, "A note.")
        assert table.markdown().splitlines() == [
            "**Title.** A note.",
            "| name   |                 area |",
            "| ------ | -------------------: |",
            "| a\\|b c | 0.988 [0.900, 1.000] |",
            "| d      |                    – |",
        ]

    HARD = ("50 % & {#_$} \\input{x} [b] -0.5", "~^<a>|b|", "*→ ≥ † ✓ – --eps", "ü 漢", '"x"')

    def test_no_cell_is_a_command_of_latex(self) -> None:
        table = Table("a_b<c>", "Title & more", tuple("abcde"), (self.HARD, self.HARD), 1, "100 % of_it.")
        text = table.latex()
        lines = text.splitlines()
        assert lines[:3] == [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
        assert r"\caption{Title \& more. 100 \% of\_it.}" in lines and r"\label{tab:a-b-c-}" in lines
        assert [line for line in lines if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]
        assert r"\begin{tabular}{lrrrr}" in lines
        body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
        assert len(body) == 2 and all(len(re.findall(r"(?<!\\)&", row)) == 4 for row in body)
        assert body[0].startswith(r"50 \% \& \{\#\_\$\} \textbackslash{}input\{x\} {[}b{]} $-$0.5 & ")
        assert r"{*}$\rightarrow$ $\geq$ $\dagger$ $\surd$ \textendash{} -{}-eps & ü ? & ''x'' \\" in body[0]

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: structure and escapes are tested above")
    def test_latex_compiles(self, tmp_path: Path) -> None:
        table = Table("t", "Title & more", tuple("abcd"), (self.HARD[:3] + ("é",),) * 2, 1, "100 % of_it.")
        begin = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
        (tmp_path / "x.tex").write_text(f"{begin}{table.latex()}\n\\end{{document}}\n", encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]

    def test_what_is_nowhere_filled_is_no_row_and_no_column(self) -> None:
        frame = pd.DataFrame({"a": [0.5, None], "b": [None, None], "c": ["", ""]}, pd.Index(["x", "y"], name="model"))
        table = Table.of("t", "T", frame.astype({"a": float, "b": float}))
        assert table.heads == ("model", "a") and table.rows == (("x", "0.500"), ("y", "–"))
        assert table.csv() == "model,a\nx,0.500\ny,–\n"

    def test_stages_are_named(self, results: Results) -> None:
        results.add_timing("stage4", 61.25, name="models", finished="2026-01-02T03:04:05+00:00")
        results.add_timing("train", 1.0)
        assert tables.timing(run_of(results)).rows == (("4 models", "61.2"), ("train", "1.0"))

    def test_published_numbers_are_the_papers(self) -> None:
        assert paper.CLEAN_ACCURACY == {"dnn": 0.991, "ensemble": 0.994, "dropout": 0.973, "bnn": 0.981}
        assert paper.AUROC[0.05]["ensemble"] == {
            "max_variance": 0.455, "max_akld": 0.892, "max_mutual_information": 0.993, PAPER: 0.990,
        }  # fmt: skip
        assert paper.AUROC[0.02]["dropout"]["max_variance"] == 0.937
        assert [paper.AUROC[0.02][m][PAPER] for m in paper.CLEAN_ACCURACY] == [0.997, 0.996, 0.991, 0.998]
        assert paper.AUROC[0.05]["dnn"] == {PAPER: 0.989}

    def test_papers_numbers_stand_beside_ours(self, results: Results) -> None:
        made.fill(results)
        row = row_of(tables.measures(run_of(results)), "DNN", "max predictive entropy")
        assert list(row.values())[2:] == ["0.997", "0.993 [0.983, 1.000]", "0.610 [0.600, 0.620]"]
        assert list(row)[2:] == ["eps 0.02: paper", "eps 0.02: paper-pgd", "eps 0.02: pgd"]
        clean = row_of(tables.clean(run_of(results)), "ensemble")
        assert (clean["paper"], clean["ours"], clean["substitutions"], clean["words"]) == (
            "0.994",
            "0.994",
            "3",
            "1000",
        )

    def test_attack_table_has_success_area_and_noise(self, results: Results) -> None:
        made.fill(results)
        attack(results, "dnn", "pgd", 0.02, 0.75, snr_db_mean=20.0, masking_margin_db_mean=3.0)
        attack(results, "dnn", "pgd-2x", 0.02, 0.8)  # a variant, which is in the long table alone
        detection(results, "dnn", "pgd", 0.02, PAPER, 0.61)
        run = run_of(results)
        row = row_of(tables.attacks(run), "pgd")
        assert row == {
            "attack": "pgd", "DNN": "0.750 / 0.610", "ensemble": "– / 0.970", "SNR dB": "20.7",
            "over masking dB": "3.0",
        }  # fmt: skip
        assert [name for name, *_ in tables.attacks(run).rows] == ["paper-pgd", "pgd", "mine"]
        row = row_of(tables.every_attack(run), "pgd-2x", "0.02", "DNN")
        assert (row["reach"], row["utterances"], row["original accuracy"]) == ("0.800", "40", "-0.125")

    def test_snr_stands_beside_eps_wherever_it_is_known(self, filled: Results) -> None:
        content = filled.read()
        for row in content["attacks"]:
            if (row["attack"], row["eps"]) == ("pgd", 0.02):
                loud = row["model"] == "dnn"
                row |= {"snr_db_mean": 20.0 if loud else 22.0, "snr_db_q05": 12.0 if loud else 13.0}
        run = Run(content)
        assert (run.loudness("pgd", 0.02), run.loudness("pgd", 0.005), run.loudness("x", 1)) == (
            "21.0 (12.5)",
            "21.5",
            "",
        )
        assert row_of(tables.overview(run), "pgd", "0.02")["SNR dB (5 %)"] == "21.0 (12.5)"
        assert row_of(tables.every_attack(run), "pgd", "0.02", "DNN")["SNR dB, 5 %"] == "12.0"
        noted = [tables.measures(run), *tables.transfer(run), tables.statistics(run, "pgd", 0.02)]
        assert tables.detectors(run).note.endswith(f"{tables.SNR_NOTE} pgd, eps 0.005: 21.5.")
        for table in noted:
            assert f"{tables.SNR_NOTE} " in table.note and "pgd, eps 0.02: 21.0 (12.5)" in table.note
        assert f"adaptive-{MI}, eps 0.02: 21.5" in tables.adaptive(run).note
        assert "snr_db_q05" in tables.csv_files(run)["attacks.csv"]

    def test_attack_at_a_level_stands_beside_the_absolute_one(self, filled: Results) -> None:
        for model in ("dnn", "ensemble"):
            attack(filled, model, "pgd-level0.05", 0.02, 0.5, eps_level=0.05)
            attack(filled, model, "pgd-2x-level0.05", 0.02, 0.6, eps_level=0.05)
            detection(filled, model, "pgd-level0.05", 0.02, PAPER, 0.7)
        run = run_of(filled)
        assert [row[0] for row in tables.attacks(run).rows] == ["pgd", "pgd-level0.05"]
        assert run.reference == "pgd" and "eps 0.02: pgd-level0.05" in tables.measures(run).heads
        content = filled.read()
        content["detection"] = [row for row in content["detection"] if row["attack"] == "pgd-level0.05"]
        assert Run(content).reference == "pgd-level0.05"

    def test_worst_speaker_is_named(self, filled: Results) -> None:
        spoken = {"ann": {"num_utts": 9, "accuracy": 0.9}, "bob": {"num_utts": 9, "accuracy": 0.99}}
        filled.set_clean("dnn", ErrorRate(1, 2, 3, 1000, 18), spoken)
        fallen = {"ann": {"num_utts": 4, "success": 0.25, "snr_db_mean": 12.0},
                  "bob": {"num_utts": 4, "success": 1.0, "snr_db_mean": None}}  # fmt: skip
        attack(filled, "dnn", "pgd", 0.02, 0.6, by_speaker=fallen)
        attack(filled, "dnn", "pgd-2x", 0.02, 0.6, by_speaker=fallen)  # a variant
        attack(filled, "dnn", "pgd", 0.005, 0.6, by_speaker=fallen)
        run = run_of(filled)
        table = tables.speakers(run)
        assert table.rows[0] == ("clean", "ann 0.900 / bob 0.990")
        assert table.rows[1:] == (("pgd", "bob 1.000 / ann 0.250"),)
        rows = tables.csv_files(run)["speakers.csv"]
        assert len(rows) == 8 and rows["snr_db_mean"].notna().sum() == 3
        assert "by_speaker" not in tables.csv_files(run)["attacks.csv"]
        assert "ann 0.900 / bob 0.990" in results_text(run, command="x")

    def test_failed_checks_of_an_attack_are_named(self, results: Results) -> None:
        wrong = {"passed": False, "value": 0.3, "limit": 0.2, "remedy": "mend it"}
        attack(
            results, "dnn", "pgd", 0.02, 0.9, checks={"eps_respected": wrong, "loss_falls": wrong | {"passed": True}}
        )
        attack(results, "bnn", "pgd", 0.02, 0.9, checks=["gradient is zero"])
        shown = {row[2]: row[-1] for row in tables.every_attack(run_of(results)).rows}
        assert shown == {"DNN": "eps respected: 0.3, limit 0.2", "BNN": "gradient is zero"}

    def test_transfer_is_a_matrix_of_sources_and_listeners(self, filled: Results) -> None:
        (table,) = tables.transfer(run_of(filled))
        assert table.heads == ("made against", "DNN", "ensemble")
        assert table.rows == (("DNN", "0.900", "0.125"), ("ensemble", "0.125", "0.900"))
        assert "80 utterances" in table.note

    def test_attack_that_knows_the_detector_stands_beside_the_one_that_does_not(self, filled: Results) -> None:
        table = tables.adaptive(run_of(filled))
        assert table.heads == ("model", "statistic", "eps 0.005", "eps 0.02") and len(table.rows) == 3
        row = row_of(table, "ensemble", "max mutual information")
        assert (row["eps 0.005"], row["eps 0.02"]) == ("0.020 → 0.050 (0.775†)", "0.020 → 0.400 (0.600)")
        assert table.note.endswith(FAILED_NOTE)  # 0.1 of 40 utterances
        overview = {row[0] for row in tables.overview(run_of(filled)).rows}
        assert overview == {"pgd", f"adaptive-{PAPER}"}  # the other attack knows another detector

    def test_several_detectors_at_once_are_as_the_attack_says(self, filled: Results) -> None:
        attack(filled, "ensemble", f"adaptive-{PAPER}+{MI}", 0.02, 0.5, evasion=0.11)
        row = row_of(tables.adaptive(run_of(filled)), "ensemble", "max predictive entropy and max mutual information")
        assert (row["eps 0.005"], row["eps 0.02"]) == ("–", "– → 0.110 (–)")

    def test_attack_on_another_form_of_detector_is_measured_on_that_one(self, results: Results) -> None:
        for name, form in ((MEAN, {"sided": "one"}), (MI, {"detector": "kde", "sided": "two"})):
            attack(results, "dnn", f"adaptive-{name}", 0.02, 0.9, adaptive=form)
            detection(results, "dnn", f"adaptive-{name}", 0.02, name, 0.9, evasion=0.1)
            other = {"detector": "gaussian", **form}
            detection(results, "dnn", f"adaptive-{name}", 0.02, name, 0.3, evasion=0.8, **other)
            detection(results, "dnn", "pgd", 0.02, name, 0.7, evasion=0.2, **other)
        for statistic in ("mean predictive entropy", "max mutual information"):
            row = row_of(tables.adaptive(run_of(results)), "DNN", statistic)
            assert row["eps 0.02"] == "0.200 → 0.800 (0.300)"

    def test_ways_and_false_alarm_rates_have_rows_of_their_own(self, filled: Results) -> None:
        options = {"detector": "gaussian", "sided": "two"}
        attack(filled, "dnn", f"selective-{PAPER}", 0.02, 0.99, evasion=0.95, adaptive={**options, "fpr": 0.01})
        attack(filled, "dnn", f"adaptive-{PAPER}-fpr0.05", 0.02, 0.9, evasion=0.3, adaptive={**options, "fpr": 0.05})
        run = run_of(filled)
        table = tables.adaptive(run)
        assert table.heads[:3] == ("model", "statistic", "attack")
        begin = ("DNN", "max predictive entropy")
        assert row_of(table, *begin, f"selective-{PAPER}")["eps 0.02"] == "0.020 → 0.950 (–)"
        # what the other attack does to a detector with this threshold was not measured
        assert row_of(table, *begin, f"adaptive-{PAPER}-fpr0.05")["eps 0.02"] == "– → 0.300 (–)"
        assert "threshold for 1 % and 5 % false alarms" in table.note
        strongest = run.strongest().set_index(["model", "statistic", "eps"])["adaptive"].to_dict()
        assert strongest["dnn", PAPER, 0.02] == 0.95 and strongest["dnn", PAPER, 0.005] == EVASION["dnn", PAPER][0]
        plots.evasion_figure(run.strongest())

    def test_default_detector_on_hard_audio_stands_beside_the_words(self, results: Results) -> None:
        assert not tables.gate_negatives(run_of(results)).rows
        row = {"model": "dnn", "kind": "gain", "level": -20.0, "num_utts": 30, "accuracy": 0.75, "fpr": 0.01}
        row |= {"statistic": GATE, "sided": "two", "fpr_at_threshold": 0.02, "auroc": []}
        results.add_negatives([*negatives(), row])
        table = tables.gate_negatives(run_of(results))
        assert row_of(table, "gain, -20 dB") == {"benign audio": "gain, -20 dB", "DNN": "0.020 / 0.750"}

    def test_negatives_have_a_row_a_disturbance_the_mildest_first(self, results: Results) -> None:
        results.add_negatives(negatives(white0=0.625))
        run = run_of(results)
        names = ["clean", "white, 20 dB SNR", "white, 0 dB SNR", "hum 50"]
        assert [row[0] for row in tables.negatives(run).rows] == names
        alarms, told = tables.negatives_of(run, "dnn")
        row = row_of(alarms, "white, 0 dB SNR")
        assert (row["word accuracy"], row["max predictive entropy"], row["noise floor dB"]) == (
            "0.750",
            "0.625",
            "0.625",
        )
        assert [row[2] for row in told.rows] == names
        assert row_of(told, "pgd", "0.02", "clean")["max predictive entropy"] == "0.800"

    def test_checks_have_ticks_crosses_and_remedies(self, results: Results) -> None:
        right = {"passed": True, "value": 1.0, "limit": 0.9, "remedy": ""}
        wrong = {"passed": False, "value": 0.5, "limit": 0.02, "remedy": "mend it", "failed": ["pgd eps 0.02"]}
        results.set_checks("dnn", {"loss_falls": right, "eps_respected": wrong})
        results.set_checks("bnn", {"loss_falls": right, "my_own": right})
        run = run_of(results)
        assert tables.checks(run).rows == (
            ("eps respected", "✗ 0.5", "–", "change at most 0.02"),
            ("loss falls", "✓ 1", "✓ 1", "utterances at least 0.9"),
            ("my own", "–", "✓ 1", "value limit 0.9"),
        )
        assert tables.failed(run) == [
            "✗ eps respected: DNN change 0.5 in pgd eps 0.02; asked for: at most 0.02. Mend it."
        ]
        attack(results, "dnn", "pgd", 0.02, 0.9)
        assert found(results, "sound: DNN 1 of 2, BNN 2 of 2.")
        results.set_checks("dnn", {"loss_falls": right})  # a model's checks are replaced as a whole
        assert tables.failed(run_of(results)) == []
        with pytest.raises(ValueError, match="check 'x' of model 'dnn' has no remedy"):
            results.set_checks("dnn", {"x": {"passed": True, "value": 1, "limit": 1}})

    def test_damaged_rows_are_named(self, results: Results) -> None:
        attack(results, "dnn", "pgd", 0.02, 0.9)
        content = results.read()
        content["attacks"][0]["target_success"] = "high"
        with pytest.raises(DataError, match="field 'target_success' must hold numbers"):
            Run(content)
        del content["attacks"][0]["snr_db_mean"]
        with pytest.raises(DataError, match="a row of section 'attacks' has no snr_db_mean"):
            Run(content)

    @pytest.mark.long
    def test_what_nobody_here_knows_is_shown_by_its_name(self, results: Results, tmp_path: Path) -> None:
        """A new model, attack, statistic and detector; nothing of it is known to the report."""
        results.set_clean("tdnn_ctc", ErrorRate(num_words=10, num_utts=4))
        attack(results, "tdnn_ctc", "warp", 0.1, 0.9, checks={})
        detection(results, "tdnn_ctc", "warp", 0.1, "min_margin", 0.81, detector="forest", sided="two", evasion=0.1)
        attack(results, "tdnn_ctc", "adaptive-min_margin", 0.1, 0.9, evasion=0.7, adaptive={"detector": "forest"})
        detection(results, "tdnn_ctc", "adaptive-min_margin", 0.1, "min_margin", 0.4, detector="forest", sided="two")
        run = run_of(results)
        assert row_of(tables.attacks(run), "warp")["tdnn_ctc"] == "0.900 / –"
        assert row_of(tables.detectors(run), "forest", "min margin")["tdnn_ctc"] == "0.810"
        assert row_of(tables.adaptive(run), "tdnn_ctc", "min margin")["eps 0.1"] == "– → 0.700 (0.400)"
        assert row_of(tables.statistics(run, "warp", 0.1), "forest")["tdnn_ctc"].startswith("0.810 [0.800, 0.820] / ")
        text = results_text(run, command="run.sh")
        assert "at most 0.1 of full scale (eps) makes" in text and ": under warp tdnn_ctc 90 %." in text
        assert "| forest" in text
        build_report(tmp_path, tmp_path / "out", command="run.sh")  # and its figures


class TestFindings:
    def test_paper_detector_breaks_where_half_reach_and_pass(self, filled: Results) -> None:
        assert found(filled, "Attacks that know") == [
            "Attacks that know the paper's detector break it, half or more pass and are heard as wanted: at eps 0.005 "
            "DNN 62 %, at eps 0.02 ensemble 70 %."
        ]

    def test_model_that_holds_is_said_to_hold(self, filled: Results) -> None:
        for eps in EPS:
            detection(filled, "ensemble", f"adaptive-{PAPER}", eps, PAPER, 0.9, evasion=0.1)
        assert found(
            filled,
            "break it, half or more pass and are heard as wanted: at eps 0.005 DNN 62 %; they do not break it up to "
            "the largest eps tried: at eps 0.02 ensemble 10 %.",
        )
        for eps in EPS:
            detection(filled, "dnn", f"adaptive-{PAPER}", eps, PAPER, 0.9, evasion=0.2)
        assert not found(filled, "detector break it")
        assert found(filled, "do not break it up to the largest eps tried: at eps 0.02 DNN 20 %, ensemble 10 %.")

    def test_model_that_is_hard_to_attack_is_no_merit_of_the_detector(self, results: Results) -> None:
        for model, reached, evasion in (("dnn", 0.8, 0.3), ("ensemble", 0.1, 0.08), ("bnn", 0.0, 0.0)):
            attack(results, model, f"adaptive-{PAPER}", 0.02, reached, evasion=evasion)
            detection(results, model, f"adaptive-{PAPER}", 0.02, PAPER, 0.9, evasion=evasion)
        assert found(results, "Attacks that know") == [
            "Attacks that know the paper's detector do not break it up to the largest eps tried: at eps 0.02 DNN 30 %; "
            "they are heard as wanted less than half of the time up to the largest eps tried, but half or more of "
            "these pass: at eps 0.02 ensemble 8 %, BNN 0 %."
        ]

    def test_detector_that_nobody_attacked_is_not_said_to_hold_or_break(self, results: Results) -> None:
        attack(results, "dnn", "pgd", 0.02, 0.9)
        detection(results, "dnn", "pgd", 0.02, PAPER, 0.6, evasion=0.8)
        assert found(
            results,
            f"Nobody has tried an attack that knows the paper's detector on DNN (to try: {TO_TRY.format(PAPER)}).",
        )
        assert not found(results, "break")

    def test_nobody_is_told_to_train_against_attacks_who_has(self, results: Results) -> None:
        for model, evasion in (("dnn", 0.0), ("dnn-robust", 0.4)):
            attack(results, model, "pgd", 0.02, 0.8)
            of_gate: dict[str, Any] = {"detector": "joint", "fpr": 0.01, "reached": 0.8, "evasion": evasion}
            detection(results, model, "pgd", 0.02, "all", 0.9, **of_gate)
        (line,) = found(results, "refuses")
        assert line.endswith(f"under pgd robust DNN 50 % (but under pgd DNN 100 %); {OF_ROBUST}.")

    def test_default_detector_says_what_it_refuses_warns_and_who_has_tried(self, results: Results) -> None:
        joint: dict[str, Any] = {"detector": "joint", "fpr": 0.01}
        for model, evasion in (("dnn", 0.4), ("ensemble", 0.0)):
            attack(results, model, "pgd", 0.02, 0.8)
            detection(results, model, "pgd", 0.02, "all", 0.9, reached=0.8, evasion=evasion, **joint)
        assert found(results, "refuses") == [
            "WARNING: the detector (set to 1 % false alarms) refuses too few of these to be relied on alone: under pgd "
            f"DNN 50 % (but under pgd ensemble 100 %); {ADVICE}."
        ]
        assert row_of(tables.gate(run_of(results)), "pgd", "0.02") == {
            "attack": "pgd", "eps": "0.02", "DNN": "0.800 / 0.500", "ensemble": "0.800 / 1.000"
        }  # fmt: skip
        assert found(
            results, "Nobody has tried an attack that knows the detector on DNN, ensemble (to try: ", "all-joint)."
        )
        detection(results, "dnn", "pgd", 0.02, PAPER, 0.6, evasion=0.8)
        assert not found(results, "the paper's detector")  # it is the default one that counts
        attack(results, "dnn", "adaptive-all-joint", 0.02, 0.9, evasion=0.7)
        detection(results, "dnn", "adaptive-all-joint", 0.02, "all", 0.4, reached=0.9, evasion=0.7, **joint)
        assert found(
            results,
            "Attacks that know the detector break it, half or more pass and are heard as wanted: at eps 0.02 DNN 70 %; "
            "nobody has tried an attack that knows the detector on ensemble (to try",
        )
        assert not found(results, "WARNING", "adaptive") and not found(results, "not break")
        assert row_of(tables.adaptive(run_of(results)), "DNN")["eps 0.02"] == "0.400 → 0.700 (0.400)"

    def test_detector_that_refuses_enough_has_no_warning(self, results: Results) -> None:
        attack(results, "dnn", "pgd", 0.02, 0.8)
        detection(
            results, "dnn", "pgd", 0.02, "all", 0.9, reached=0.8, evasion=0.08, detector="joint", sided="two", fpr=0.05
        )
        assert found(results, "refuses") == [
            "Of these the detector (set to 5 % false alarms) refuses: under pgd DNN 90 %."
        ]

    def test_weak_and_strong_attack_are_said_to_reach_what_they_reach(self, results: Results) -> None:
        made.fill(results)
        _, accuracy, areas, *_ = findings(run_of(results))
        assert accuracy == (
            "A change of the waveform by at most 0.02 of full scale (eps) makes the recogniser hear these shares of "
            "the attacker's words: under the paper's attack (paper-pgd) DNN 26 %, ensemble 26 %; under a strong "
            "attack (pgd) DNN 80 %, ensemble 80 %."
        )
        assert areas == (
            "The paper's detector tells attacked from clean speech (AUROC, 1 is always, 0.5 is chance): under "
            "paper-pgd 0.993, under pgd 0.610 to 0.970."
        )

    def test_bound_for_a_level_says_so(self, results: Results) -> None:
        attack(results, "dnn", "pgd-level0.05", 0.02, 0.8, eps_level=0.05)
        assert found(
            results,
            "(eps; for speech of root mean square 0.05) makes",
            "under a strong attack (pgd-level0.05) DNN 80 %.",
        )
        attack(results, "dnn", "pgd", 0.02, 0.9)
        assert found(results, "(eps) makes", "a strong attack (pgd) DNN 90 %;")

    def test_loudness_is_said_to_do_only_where_it_does(self, results: Results) -> None:
        attack(results, "dnn", "pgd", 0.02, 0.9)
        detection(results, "dnn", "pgd", 0.02, PAPER, 0.9)
        row = {"model": "dnn", "kind": "clean", "level": 0.0, "num_utts": 9, "accuracy": 1.0, "sided": "two"}
        row |= {"fpr": 0.01, "fpr_at_threshold": 0.01}
        for audio, ours, said in ((0.44, 0.31, False), (0.9, 0.8, True), (0.9, 0.95, False)):
            for statistic, area in (("level_db", audio), (PAPER, ours)):
                tells = [{"attack": "pgd", "eps": 0.02, "auroc": area}]
                results.add_negatives([row | {"statistic": statistic, "auroc": tells}])
            assert bool(found(results, "loudness of the audio alone does as well in 1 of 1 attacks.")) == said

    def test_costs_are_the_words_of_clean_speech_and_the_hardest_benign_audio(self, results: Results) -> None:
        attack(results, "dnn", "pgd", 0.02, 0.9)
        for model in ("dnn", "mono"):  # nobody attacks the latter
            results.set_clean(model, ErrorRate(1, 2, 3, 1000, 300))
        results.add_negatives(negatives(white0=0.625, clean0=0.9))
        assert found(results, "Without an attack") == [
            "Without an attack these shares of the words are heard right: DNN 99.4 %; of harmless but hard audio "
            "(white, 0 dB SNR) the paper's detector takes up to 62.5 % for an attack (DNN)."
        ]

    def test_without_numbers_nothing_is_said(self, results: Results) -> None:
        assert findings(run_of(results)) == [NONE]
        assert results_text(run_of(results), command="x") == f"# x\n\n{NONE}\n"


class TestCurves:
    def test_series_of_steps_is_of_rows_that_differ_in_nothing_else(self, results: Results) -> None:
        for model, draws in (("dnn", 1), ("bnn", 10)):
            for name, steps, rule in (("pgd", 40, "apgd"), ("pgd-2x", 80, "apgd"), ("cosine", 50, "cosine")):
                options = {"num_steps": steps, "step_rule": rule, "eot_samples": draws}
                attack(results, model, name, 0.02, steps / 100, options=options)
                detection(results, model, name, 0.02, PAPER, 0.9)
        attack(results, "dnn", "pgd", 0.05, 0.9, options={"num_steps": 40, "step_rule": "apgd", "eot_samples": 1})
        # the same as pgd of this model, made to be compared with other draws
        attack(
            results, "bnn", "pgd-eot10", 0.02, 0.3, options={"num_steps": 40, "step_rule": "apgd", "eot_samples": 10}
        )
        rows = run_of(results).steps()
        assert list(zip(rows["model"], rows["attack"], rows["steps"], strict=True)) == [
            (model, name, steps) for name, steps in (("pgd", 40), ("pgd-2x", 80)) for model in ("dnn", "bnn")
        ]
        figure = plots.accuracy_figure(rows, title="Steps", x="steps")
        assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["40", "80"]

    def test_curve_over_snr_falls_to_the_right(self, results: Results) -> None:
        for eps, snr, success in ((0.0, None, 0.0), (0.01, 25.0, 0.4), (0.02, 19.0, 0.9)):
            attack(results, "dnn", "pgd", eps, success, snr_db_mean=snr)
        panel = plots.accuracy_figure(run_of(results).plain, title="pgd", x="snr_db_mean").axes[0]
        (line,) = [line for line in panel.lines if line.get_label() == "DNN"]
        assert np.asarray(line.get_xydata()).tolist() == [[19.0, 0.9], [25.0, 0.4]]
        assert panel.xaxis_inverted() and panel.get_xlabel() == "mean SNR of an eps, dB"

    def test_success_has_a_panel_of_its_own(self, filled: Results) -> None:
        run = run_of(filled)
        panels = plots.accuracy_figure(run.plain[run.plain["attack"] == "pgd"], title="pgd").axes
        assert panels[0].get_title(loc="left") == "Heard as the target"
        (line,) = [line for line in panels[0].lines if line.get_label() == "ensemble"]
        assert np.asarray(line.get_xydata()).tolist() == [[0.005, 0.6], [0.02, 0.9]]

    def test_evasion_has_a_panel_a_statistic(self, filled: Results) -> None:
        figure = plots.evasion_figure(run_of(filled).adaptive())
        panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
        assert list(panels) == ["max predictive entropy", "max mutual information"]
        (line,) = [line for line in panels["max mutual information"].lines if line.get_label() == "ensemble"]
        assert np.asarray(line.get_xydata()).tolist() == [[0.005, 0.05], [0.02, 0.4]]
