"""Robustness in the report: ordinary and robust models beside each other, what was tried and what nobody tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from kaldi_uq.report import answer, robustness, tables
from kaldi_uq.report.build import build_report, results_text
from kaldi_uq.report.examples import choose_examples
from kaldi_uq.report.findings import findings, summary
from kaldi_uq.report.run import Run
from kaldi_uq.report.table import FAILED, FAILED_NOTE, Table
from kaldi_uq.results.robustness import robust_auroc
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import AttackRecord
from kaldi_uq.results.word_errors import ErrorRate
from tests.conftest import REPO
from tests.report import attack_row, detection_row

UNTRIED, BOTH = "not tried", ("dnn", "dnn-robust")
REACHED = {"dnn": 0.97, "dnn-robust": 0.04}
JOINT: dict[str, Any] = {"detector": "joint", "sided": "two", "fpr": 0.01}


def attack(results: Results, model: str, name: str, success: float | None, eps: float = 0.02, **more: Any) -> None:
    row = attack_row(model, name, eps, target=success) | {"target_success": success, "num_utts": 100}
    results.add_attack(row | more)


def knowing(results: Results, model: str, name: str, fpr: float, passed: float, reached: float, **more: Any) -> None:
    attack(results, model, name, reached, evasion=passed, adaptive={"fpr": fpr}, **more)


def share(success: float, num_utts: int = 100) -> dict[str, Any]:
    return {"num_utts": num_utts, "success": success, "success_ci95": [0.0, 1.0]}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A pair of models under all sorts of attacks, and a robust BNN that nobody attacked."""
    results = Results(tmp_path / "results.json")
    for model, right in (("dnn", 990), ("dnn-robust", 980), ("bnn-robust", 970)):
        results.set_clean(model, ErrorRate(0, 0, 1000 - right, 1000, 300))
    for model in BOTH:
        reached = REACHED[model]
        attack(results, model, "pgd", reached, snr_db_mean=12.5)
        attack(results, model, "paper-pgd", reached / 2)
        attack(results, model, "untargeted", None, original_accuracy=-0.5 if model == "dnn" else 0.25)
        for name in ("pgd", "paper-pgd"):
            passed = {"reached": 0.5 * reached, "evasion": 0.25 * reached, **JOINT}
            results.add_detection([detection_row(model, name, 0.02, "all", 0.9, **passed)])
    knowing(results, "dnn", "adaptive-all-joint", 0.01, 0.6, 0.9)
    knowing(results, "dnn", "selective-all-joint", 0.01, 0.8, 0.85)  # the one that does most
    knowing(results, "dnn", "adaptive-all-joint-fpr0.05", 0.05, 0.5, 0.9)
    knowing(results, "dnn", "adaptive-max_akld", 0.01, 0.95, 0.95)  # of another detector
    row = {"attack": "worst", "eps": 0.02, **share(0.99), "by_words": [{"num_words": 1, **share(1.0, 40)}]}
    row["by_words"].append({"num_words": 5, **share(0.5, 60)})
    row["attacks"] = [{"attack": "pgd", **share(0.97)}, {"attack": "ten", **share(0.9, 50)}]
    results.add_worst({"model": "dnn", **row, "evasion": 0.4, "evasion_ci95": [0.3, 0.5], "evasion_num_utts": 50})
    no_target = {"model": "dnn", "attack": "no-target", "eps": 0.02, **share(1.0), "attacks": []}
    results.add_worst(no_target)
    proved = {"num_utts": 100, "against_target": 0.75, "against_any": 0.5, "right": 0.25}
    results.add_certified([{"model": "dnn-robust", "eps": eps, **proved} for eps in (0.001, 0.02)])
    return results


def run_of(results: Results) -> Run:
    return Run(results.read())


def row_of(table: Table, *begin: str) -> dict[str, str]:
    (row,) = (row for row in table.rows if row[: len(begin)] == begin)
    return dict(zip(table.heads, row, strict=True))


def text_of(share: float, num_utts: int = 100) -> str:
    """The cell by another implementation of the interval."""
    count = round(share * num_utts)
    found = binomtest(count, num_utts).proportion_ci(0.95, "exact")
    return f"{share:.3f} {count}/{num_utts}\n[{found.low:.3f}, {found.high:.3f}]"


class TestRobustAuroc:
    def test_is_the_area_of_the_steps(self) -> None:
        reached, passed = 0.9, {0.01: 0.8, 0.05: 0.5, 0.5: 0.125}
        grid = (np.arange(100_000) + 0.5) / 100_000
        below = np.where(grid < 0.01, 0.9, np.where(grid < 0.05, 0.8, np.where(grid < 0.5, 0.5, 0.125)))
        assert robust_auroc(reached, passed) == pytest.approx(float(np.mean(1 - below)), abs=1e-9)

    def test_is_never_below_what_is_not_reached(self) -> None:
        generator = np.random.default_rng(0)
        for _ in range(50):
            rates, shares = generator.uniform(0.01, 0.99, 4), np.sort(generator.uniform(0, 1, 5))[::-1]
            value = robust_auroc(float(shares[0]), dict(zip(rates, generator.permutation(shares[1:]), strict=True)))
            assert 1 - shares[0] <= value + 1e-12 and value <= 1

    def test_weak_attack_at_a_small_rate_is_raised_to_what_passes_at_a_larger_one(self) -> None:
        assert robust_auroc(0.5, {0.01: 0.1, 0.05: 0.4}) == robust_auroc(0.5, {0.01: 0.4, 0.05: 0.4})
        assert robust_auroc(0.2, {0.05: 0.4}) == pytest.approx(0.6)  # what passes was reached

    @pytest.mark.parametrize(("reached", "passed"), [(1.5, {}), (0.5, {0.0: 0.1}), (0.5, {0.1: -1.0})])
    def test_shares_and_rates_out_of_range_are_refused(self, reached: float, passed: dict[float, float]) -> None:
        with pytest.raises(ValueError, match="must be in"):
            robust_auroc(reached, passed)


class TestTable:
    def test_has_a_cell_for_each_claim(self, results: Results) -> None:
        table = robustness.table(run_of(results))
        assert [row[:2] for row in table.rows if row[1] == "0.02"] == [
            ("DNN", "0.02"), ("robust DNN", "0.02"), ("robust BNN", "0.02"),
        ]  # fmt: skip
        bound = robust_auroc(0.99, {0.01: 0.8, 0.05: 0.5})
        assert row_of(table, "DNN", "0.02") == {
            "model": "DNN", "eps": "0.02", "word accuracy": "0.990", "SNR dB": "12.5",
            "reached, pgd": text_of(0.97), "reached, worst": text_of(0.99),
            "reached and passed, 1 %": text_of(0.8), "reached and passed, 5 %": text_of(0.5),
            "word accuracy, untargeted": "-0.500", "certified": UNTRIED, "AUROC, pgd": "0.900",
            "robust AUROC": f"≥ {bound:.3f}",
        }  # fmt: skip

    def test_what_nobody_tried_says_so(self, results: Results) -> None:
        table = robustness.table(run_of(results))
        robust = row_of(table, "robust DNN", "0.02")
        assert [robust[f"reached and passed, {rate} %"] for rate in (1, 5)] == [UNTRIED] * 2
        assert robust["reached, worst"] == UNTRIED and robust["robust AUROC"] == "≥ 0.960"  # 1 - reached
        assert robust["certified"] == "0.750 /\n0.250"
        assert set(row_of(table, "robust BNN", "0.02").values()) == {"robust BNN", "0.02", "0.970", UNTRIED}
        assert not any("–" in cell for row in table.rows for cell in row)

    def test_auroc_over_attacks_that_failed_means_nothing(self, results: Results) -> None:
        run = run_of(results)
        table = robustness.table(run)
        assert row_of(table, "robust DNN", "0.02")["AUROC, pgd"] == f"0.900{FAILED}"
        assert table.note.endswith(FAILED_NOTE)
        shown = row_of(tables.detectors(run), "joint")
        assert (shown["DNN"], shown["robust DNN"]) == ("0.900", f"0.900{FAILED}")
        attack(results, "dnn-robust", "pgd", 0.05)  # the fifth utterance
        results.add_detection([detection_row("dnn-robust", "pgd", 0.02, "all", 0.9, **JOINT)])
        assert row_of(robustness.table(run_of(results)), "robust DNN", "0.02")["AUROC, pgd"] == "0.900"

    def test_headline_has_no_auroc_over_attacks_that_failed(self, results: Results) -> None:
        for model, area in (("dnn", 0.5), ("dnn-robust", 0.75)):
            results.add_detection([detection_row(model, "pgd", 0.02, "max_predictive_entropy", area)])
        content = results.read()
        content["detection_other"] = []  # else the default detector is spoken of
        (line,) = (line for line in findings(Run(content)) if "AUROC" in line)
        assert line.endswith(": under pgd 0.500.")

    def test_budget_for_a_level_has_a_row_of_its_own(self, results: Results) -> None:
        attack(results, "dnn", "pgd-level0.05", 0.5, eps_level=0.05, snr_db_mean=15.0)
        table = robustness.table(run_of(results))
        assert table.heads[:3] == ("model", "eps", "eps for level")
        assert row_of(table, "DNN", "0.02", "0.05")["reached, pgd"] == text_of(0.5)
        assert row_of(table, "DNN", "0.02", "absolute")["reached, pgd"] == text_of(0.97)

    def test_curve_over_eps_adds_no_rows(self, results: Results) -> None:
        before = robustness.table(run_of(results)).rows
        attack(results, "dnn", "pgd", 0.99, eps=0.09)
        attack(results, "dnn", "pgd", 0.0, eps=0.0)
        assert robustness.table(run_of(results)).rows == before

    def test_attack_without_a_target_is_no_share_of_targets(self, results: Results) -> None:
        knowing(results, "dnn-robust", "adaptive-all-joint-away", 0.01, 1.0, 1.0, target_accuracy=None)
        row = row_of(robustness.table(run_of(results)), "robust DNN", "0.02")
        assert row["reached and passed, 1 %"] == UNTRIED


class TestSections:
    def test_worst_case_by_words_and_by_attack(self, results: Results) -> None:
        by_words, alone = robustness.worst(run_of(results))
        assert by_words.heads == ("model", "worst case", "eps", "all", "1 word", "5 words", "passed")
        cells = row_of(by_words, "DNN", "worst")
        assert [cells[head] for head in by_words.heads[3:]] == [
            text_of(0.99), text_of(1.0, 40), text_of(0.5, 60), text_of(0.4, 50),
        ]  # fmt: skip
        assert row_of(by_words, "DNN", "no-target")["1 word"] == UNTRIED
        assert alone.rows == (
            ("worst", "0.02", "pgd", text_of(0.97)), ("worst", "0.02", "ten", text_of(0.9, 50)),
        )  # fmt: skip

    def test_certified_shares_have_intervals(self, results: Results) -> None:
        row = row_of(robustness.certified(run_of(results)), "robust DNN", "0.001")
        assert list(row.values())[2:] == [text_of(0.75), text_of(0.5), text_of(0.25)]

    def test_every_number_is_in_a_csv(self, results: Results) -> None:
        files = tables.csv_files(run_of(results))
        whole = files["robustness.csv"].set_index(["model", "eps"])
        assert whole.loc[("dnn", 0.02), "passed_fpr0.01"] == 0.8
        assert whole.loc[("dnn", 0.02), "passed_fpr0.01_num_utts"] == 100
        assert len(files["worst.csv"]) == 7 and len(files["certified.csv"]) == 2
        text = results_text(run_of(results), command="x")
        assert all(f"**{title}" in text for title in ("Robustness of each", "Certified utterances."))
        assert "**Worst case over" not in text  # long; worst.csv has it


class TestFinding:
    def test_compares_ordinary_and_robust_and_names_the_worst_case(self, results: Results) -> None:
        assert findings(run_of(results))[1] == (
            "A change of the waveform by at most 0.02 of full scale (eps) makes the recogniser hear what the attacker "
            "wants in these shares of the utterances: under the paper's attack (paper-pgd) DNN 48 %, robust DNN 2 %; "
            "under a strong attack (pgd) DNN 97 %, robust DNN 4 %; under any of the attacks tried DNN 99 %."
        )

    def test_has_five_lines_at_most_and_none_twice(self, results: Results) -> None:
        check = {"passed": True, "value": 1.0, "limit": 0.9, "remedy": ""}
        results.set_checks("dnn", {"loss_falls": check})
        lines = findings(run_of(results))
        assert len(lines) == 5 == len(set(lines)), lines

    def test_robust_model_that_nobody_tried_to_pass_neither_holds_nor_breaks(self, results: Results) -> None:
        lines = findings(run_of(results))
        assert (
            "Attacks that know the detector break it, half or more pass and are heard as wanted: at eps 0.02 DNN 80 %; "
            "nobody has tried an attack that knows the detector on robust DNN (to try: an attack with --preset "
            "adaptive --statistics all-joint)."
        ) in lines
        assert not any("not break" in line for line in lines)


class TestAnswer:
    """The picture that opens the page."""

    @pytest.fixture
    def counted(self, results: Results) -> Results:
        """What the detector refuses and what is heard right, of the blind attack and of the one that does most."""
        shares = {"tpr_at_threshold": 0.5, "fpr_at_threshold": 0.01, "passed_right": 0.125, "benign_passed_right": 0.97}
        for model, name, evasion, caught in (
            ("dnn", "pgd", 0.25, 0.5), ("dnn-robust", "pgd", 0.01, 0.5), ("dnn", "selective-all-joint", 0.78, 0.0625)
        ):  # fmt: skip
            row = detection_row(model, name, 0.02, "all", 0.9, reached=0.5, evasion=evasion, **JOINT)
            results.add_detection([row | shares | {"tpr_at_threshold": caught}])
        return results

    def test_shares_are_of_all_utterances_and_add_up(self, counted: Results) -> None:
        detector, rows = answer.fates(run_of(counted))
        assert detector == "all-joint"
        assert rows[["wins", "other", "rest", "refused", "right"]].sum(axis=1).tolist() == pytest.approx(
            [1.0] * len(rows)
        )
        found = rows.set_index(["model", "knows", "eps"])
        blind = found.loc[("dnn", False, 0.02)]
        assert (blind["attack"], blind["wins"], blind["refused"], blind["right"]) == ("pgd", 0.25, 0.5, 0.125)
        interval = binomtest(25, 100).proportion_ci(0.95, "exact")
        assert (blind["lo"], blind["hi"]) == pytest.approx((interval.low, interval.high))
        clean = found.loc[("dnn", False, 0.0)]
        assert (clean["wins"], clean["refused"], clean["right"], clean["num_utts"]) == (0.0, 0.01, 0.97, 300)
        assert ("dnn-robust", True, 0.02) not in found.index and "bnn-robust" not in set(rows["model"])

    def test_of_those_who_know_the_detector_the_one_that_does_most_counts(self, counted: Results) -> None:
        rows = answer.fates(run_of(counted))[1].set_index(["model", "knows", "eps"])
        knowing = rows.loc[("dnn", True, 0.02)]
        assert (knowing["attack"], knowing["wins"], knowing["refused"]) == ("selective-all-joint", 0.8, 0.0625)
        assert knowing["right"] == 0.125  # what is left has room for it

    def test_papers_detector_stands_in_where_the_default_one_was_not_tried(self, results: Results) -> None:
        content = results.read()
        content["detection_other"] = []
        content["detection"] = [detection_row("dnn", "pgd", 0.02, "max_predictive_entropy", 0.6, evasion=0.9)]
        detector, rows = answer.fates(Run(content))
        assert detector == "max_predictive_entropy"
        row = rows.set_index(["model", "knows"]).loc[("dnn", False)]
        # heard as the target and not passed: refused; what was heard of the others nobody counted
        assert row["refused"] == pytest.approx(0.07) and np.isnan(row["right"])
        assert np.isnan(row["other"]) and row["rest"] == pytest.approx(1 - row["refused"] - row["wins"])
        assert list(answer._labels(rows)) == ["wins", "rest", "refused"]

    @pytest.mark.long
    @pytest.mark.parametrize("narrow", [False, True])
    def test_robust_stands_beside_ordinary_and_what_nobody_tried_says_how(self, counted: Results, narrow: bool) -> None:
        run = run_of(counted)
        detector, rows = answer.fates(run)
        figure = answer.answer_figure(rows, answer.shown_models(run), detector=detector, narrow=narrow)
        titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
        assert titles == ["DNN", "robust DNN", "robust BNN"] * 2
        blind, robust, bnn = (axes for axes in figure.axes[:4] if axes.get_visible())
        bars = [[bar.get_height() for bar in bars] for bars in blind.containers if hasattr(bars, "patches")]
        assert bars == [pytest.approx(x) for x in ([0.0, 0.25], [0.02, 0.125], [0.01, 0.5], [0.97, 0.125])]
        assert "1 %" not in [text.get_text() for text in robust.texts]  # no room for it
        assert [text.get_text() for text in bnn.texts] == [answer.UNTRIED[False]]
        (untried,) = (text.get_text() for text in figure.axes[5].texts)
        assert "Nobody who knows" in untried and "an attack with\n--preset adaptive\n--statistics all-joint" in untried
        figure.canvas.draw()

    @pytest.mark.long
    def test_page_says_it_in_words_and_keeps_it_as_files(self, counted: Results, tmp_path: Path) -> None:
        page = build_report(tmp_path, tmp_path / "out", command="x").read_text()
        assert page.index('id="answer"') < page.index('id="summary"') < page.index('id="robustness"')
        assert (
            "eps 0.02: 25 % passed, heard as the attacker wants, 12 % passed, heard as something else, 50 % refused"
            in page
        )
        assert "robust DNN, an attacker who knows the detector: nobody has tried." in page
        names = {path.name for path in (tmp_path / "out/figures").iterdir()}
        assert {f"answer{end}.{kind}" for end in ("", "_narrow") for kind in ("png", "svg", "pdf")} <= names


class TestExamples:
    def record(self, utt: str, *, heard: str, said: str = "one two", target: str = "six five") -> AttackRecord:
        wrong = {text: ErrorRate(substitutions=int(heard != text), num_words=2, num_utts=1) for text in (said, target)}
        return AttackRecord(utt, 0.02, target, said, heard, wrong[target], wrong[said], None, {})

    def test_robust_model_is_shown_where_it_holds_and_where_it_fails(self) -> None:
        ordinary = [self.record(utt, heard="six five") for utt in "abcd"] + [self.record("e", heard="one two")]
        heard = {"a": "four", "b": "six five", "c": "one two", "d": "four", "e": "one two"}
        hardened = [self.record(utt, heard=text) for utt, text in heard.items()]
        shown = [(False, "c"), (True, "c"), (True, "b"), (False, "a")]
        for count in range(5):
            assert choose_examples(ordinary, hardened, count) == shown[:count]
        assert choose_examples(ordinary, hardened[:1], 3) == [(False, "a"), (True, "a"), (False, "b")]
        assert choose_examples(ordinary, [], 2) == [(False, "a"), (False, "b")]


class TestReadme:
    """What the README says that the default recipe prints."""

    SHARES = {"dnn": {"paper-pgd": (0.18, 0.82), "pgd": (0.98, 0.56)}, "dnn-robust": {"pgd": (0.25, 0.33)}}

    def test_has_the_closing_lines_of_the_recipe(self, tmp_path: Path) -> None:
        results = Results(tmp_path / "results.json")
        for model, right in (("dnn", 994), ("dnn-robust", 959)):
            results.set_clean(model, ErrorRate(0, 0, 1000 - right, 1000, 300))
            for name, (reached, refused) in self.SHARES[model].items():
                attack(results, model, name, reached)
                passed = {"reached": reached, "evasion": reached * (1 - refused), **JOINT}
                results.add_detection([detection_row(model, name, 0.02, "all", 0.9, **passed)])
        page = "The whole story, with audio: /home/me/kaldi_uq/recipes/tidigits/exp/report/report.html"
        assert f"```\n{summary(run_of(results))}{page}\n```\n" in (REPO / "README.md").read_text()
