"""Results file, records, tables, figures and the page: from small made-up results, checked against their numbers.

One file: all of it is about one report, which takes seconds to make.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import subprocess
import sys
import wave
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.detector import evaluate_detection
from kaldi_uq.errors import DataError
from kaldi_uq.report import paper, tables
from kaldi_uq.report.build import build_report
from kaldi_uq.report.example import Example, entropy_figure, log_spectrogram, wav_bytes
from kaldi_uq.report.html import picture
from kaldi_uq.report.plots import accuracy_figure, histogram_figure, roc_figure
from kaldi_uq.report.summary import describe, results_text, summary
from kaldi_uq.report.table import Interval, Table
from kaldi_uq.report.verdict import verdict
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import attack_dirs, read_attacked, read_benign, statistics_table
from kaldi_uq.results.word_errors import ErrorRate

COMMAND = "recipes/tidigits/run.sh --preset mini --seed 0"
NUM_UTTS = 40
PGD_AREAS = {"dnn": 0.61, "ensemble": 0.97}


def benign_line(number: int, **statistics: float) -> dict[str, Any]:
    return {
        "utt": f"test{number:03d}",
        "text": "one two",
        "hypothesis": "one two",
        "errors": {"ins": 0, "del": 0, "sub": 0, "num_words": 2},
        "statistics": statistics,
    }


def attack_line(number: int, eps: float, **statistics: float) -> dict[str, Any]:
    return {
        "utt": f"test{number:03d}",
        "eps": eps,
        "target": "six",
        "original": "one two",
        "hypothesis": "six",
        "target_errors": {"ins": 0, "del": 0, "sub": 0, "num_words": 1},
        "original_errors": {"ins": 0, "del": 1, "sub": 1, "num_words": 2},
        "snr_db": 21.5,
        "statistics": statistics,
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def sample(seed: int, shift: float, num_utts: int = NUM_UTTS) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "max_predictive_entropy": generator.normal(2 + shift, 0.5, num_utts),
        "mean_predictive_entropy": generator.normal(0.3 + 0.2 * shift, 0.1, num_utts),
    }


def attack_row(model: str, attack: str, eps: float, target: float | None = 0.8) -> dict[str, Any]:
    return {
        "model": model,
        "attack": attack,
        "eps": eps,
        "num_utts": NUM_UTTS,
        "target_accuracy": target,
        "original_accuracy": -0.125,
        "snr_db_mean": 21.46,
        "checks": [],
    }


def detection_row(model: str, attack: str, eps: float, statistic: str, area: float, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "attack": attack,
        "eps": eps,
        "statistic": statistic,
        "auroc": area,
        "auroc_ci95": [area - 0.01, min(1.0, area + 0.01)],
        "tpr_at_fpr_1pct": 0.25,
        **more,
    }


def fill(results: Results) -> None:
    """Two models, a weak, a strong attack and a control."""
    results.set_environment({"seed": 0, "engine": "embedded", "device": "cpu"})
    results.add_timing("train", 12.3456)
    for model in ("ensemble", "dnn"):
        results.set_clean(model, ErrorRate(1, 2, 3, 1000, 300))
        for eps in (0.02, 0.05):
            results.add_attack(attack_row(model, "pgd", eps))
        results.add_attack(attack_row(model, "paper-pgd", 0.02, target=0.26))
        results.add_attack(attack_row(model, "noise", 0.02, target=None))
        for statistic in ("mean_predictive_entropy", "max_predictive_entropy"):
            area = PGD_AREAS[model] if statistic.startswith("max") else 0.985
            results.add_detection(
                [
                    detection_row(model, "pgd", 0.02, statistic, area),
                    detection_row(model, "paper-pgd", 0.02, statistic, 0.993),
                    detection_row(model, "noise", 0.02, statistic, 0.55),
                    detection_row(model, "pgd", 0.02, statistic, 0.314, detector="kde", sided="two"),
                ]
            )


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``exp`` with results and with the lines of one attack on one model."""
    path = tmp_path_factory.mktemp("exp")
    fill(Results(path / "results.json"))
    for name, seed in (("fit", 1), ("test", 2)):
        table = sample(seed, 0.0)
        lines = [benign_line(i, **{k: float(v[i]) for k, v in table.items()}) for i in range(NUM_UTTS)]
        write_lines(path / "dnn" / f"score_{name}" / "results.jsonl", lines)
    table = sample(3, 1.0)
    lines = [attack_line(i, 0.02, **{k: float(v[i]) for k, v in table.items()}) for i in range(NUM_UTTS)]
    write_lines(path / "dnn" / "attack_pgd_eps0.02" / "results.jsonl", lines)
    return path


def make_example(**changes: Any) -> Example:
    rate = 8000
    time_s = np.arange(rate) / rate
    values: dict[str, Any] = {
        "utt": "test<003>",
        "model": "dnn",
        "attack": "pgd",
        "eps": 0.02,
        "rate": rate,
        "original_samples": 0.5 * np.sin(2 * np.pi * 440 * time_s),
        "attacked_samples": 0.5 * np.sin(2 * np.pi * 440 * time_s) + 0.02,
        "original": "one & two",
        "target": "six",
        "hypothesis": "six",
        "attacked_entropy": np.linspace(0, 2, 98),
        "original_entropy": np.linspace(1, 0, 98),
        "original_words": [("one", 0.1, 0.4), ("two", 0.5, 0.9)],
        "hypothesis_words": [("six", 0.2, 0.8)],
        "snr_db": 23.4,
    }
    return Example(**{**values, **changes})


@pytest.fixture(scope="module")
def report(exp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    assert build_report(exp, out, command=COMMAND, examples=[make_example()]) == out / "report.html"
    return out


# results.json


def test_results_hold_the_contracts_sections_and_fields(exp: Path) -> None:
    content = json.loads((exp / "results.json").read_text())
    assert {"environment", "timing_s", "clean", "attacks", "detection"} <= set(content)
    assert content["clean"]["dnn"] == {
        "accuracy": 0.994, "ins": 1, "del": 2, "sub": 3, "num_words": 1000, "num_utts": 300,
    }  # fmt: skip
    assert content["timing_s"] == {"train": 12.346}
    first = {k: content["attacks"][0][k] for k in ("model", "attack", "eps", "target_accuracy", "checks")}
    assert first == {"model": "dnn", "attack": "noise", "eps": 0.02, "target_accuracy": None, "checks": []}
    for row in content["detection"]:
        assert (row["detector"], row["sided"]) == ("gaussian", "two")
    assert [row["detector"] for row in content["detection_other"]] == ["kde"] * 4


def test_each_key_of_the_contract_has_one_detection_row(exp: Path) -> None:
    rows = Results(exp / "results.json").read()["detection"]
    keys = [(row["model"], row["attack"], row["eps"], row["statistic"]) for row in rows]
    assert len(set(keys)) == len(keys) == 12


def test_rerun_in_any_order_gives_the_same_bytes(exp: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    fill(Results(path))
    first = path.read_bytes()
    assert first == (exp / "results.json").read_bytes()
    fill(Results(path))
    assert path.read_bytes() == first
    reversed_path = tmp_path / "reversed.json"
    content = json.loads(first)
    results = Results(reversed_path)
    for name in ("detection_other", "detection"):
        results.add_detection(content[name][::-1])
    for row in content["attacks"][::-1]:
        results.add_attack(row)
    again = json.loads(reversed_path.read_text())
    assert [again[name] for name in ("attacks", "detection", "detection_other")] == [
        content[name] for name in ("attacks", "detection", "detection_other")
    ]


def test_row_of_the_same_key_is_replaced_and_another_eps_added(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    results.add_attack(attack_row("dnn", "pgd", 0.02, target=0.1))
    results.add_attack(attack_row("dnn", "pgd", 0.02, target=0.9))
    results.add_attack(attack_row("dnn", "pgd", 0.01))
    assert [(r["eps"], r["target_accuracy"]) for r in results.read()["attacks"]] == [(0.01, 0.8), (0.02, 0.9)]


def test_evaluation_rows_go_in_as_they_are(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    rows = evaluate_detection(sample(1, 0), sample(2, 0), sample(3, 1), seed=0, num_bootstrap=20)
    results.add_detection(rows, model="dnn", attack="pgd", eps=0.02)
    content = results.read()
    assert len(content["detection"]) == 2 and len(content["detection_other"]) == len(rows) - 2
    assert content["detection"][0]["auroc"] == rows[0]["auroc"]
    assert content["detection"][0]["eps"] == 0.02


def test_infinite_snr_is_stored_as_null_and_nan_is_refused(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    results.add_attack({**attack_row("dnn", "pgd", 0.0), "snr_db_mean": float("inf")})
    assert results.read()["attacks"][0]["snr_db_mean"] is None
    with pytest.raises(ValueError, match="model 'dnn': target_accuracy is NaN"):
        results.add_attack(attack_row("dnn", "pgd", 0.1, target=float("nan")))
    with pytest.raises(ValueError, match="attack row has no eps, checks"):
        results.add_attack({k: v for k, v in attack_row("dnn", "pgd", 0.1).items() if k not in ("eps", "checks")})
    assert len(results.read()["attacks"]) == 1


def test_damaged_results_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"attacks": {}}')
    with pytest.raises(DataError, match=r"results\.json: section 'attacks' must be a list"):
        Results(path)
    path.write_text("{")
    with pytest.raises(DataError, match="not a JSON file"):
        Results(path)


def test_compressed_results_are_read_and_updated_like_the_others(exp: Path, tmp_path: Path) -> None:
    packed = Results(exp / "results.json").pack()
    (tmp_path / "results.json.gz").write_bytes(packed)
    results = Results(tmp_path / "results.json")
    assert results.read() == Results(exp / "results.json").read() and results.pack() == packed
    results.add_timing("train", 3)  # what a stage adds goes into the file that stages write
    assert json.loads((tmp_path / "results.json").read_text()) == results.read()
    assert results.read()["timing_s"] == {"train": 3.0} and (tmp_path / "results.json.gz").read_bytes() == packed


@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda whole: b"{}", lambda whole: gzip.compress(b"{")])
def test_damaged_compressed_results_are_named(exp: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "results.json.gz").write_bytes(damage(Results(exp / "results.json").pack()))
    with pytest.raises(DataError, match=r"results\.json\.gz: not a compressed JSON file"):
        Results(tmp_path / "results.json")


def test_writers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from kaldi_uq.results.table import Results; results = Results(sys.argv[1])\n"
        "for number in range(10): results.add_timing(f'{sys.argv[2]} {number}', number)"
    )
    path = tmp_path / "results.json"
    root = Path(__file__).parents[1]
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)], cwd=root) for n in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    assert len(Results(path).read()["timing_s"]) == 40


# records


def test_records_are_read_with_counts_and_statistics(exp: Path) -> None:
    attacked = read_attacked(exp / "dnn" / "attack_pgd_eps0.02" / "results.jsonl")
    assert attacked[4].original_errors == ErrorRate(0, 1, 1, 2, 1)
    assert (attacked[4].target, attacked[4].snr_db) == ("six", 21.5)
    table = statistics_table(attacked)
    np.testing.assert_array_equal(table["max_predictive_entropy"], sample(3, 1.0)["max_predictive_entropy"])
    assert len(read_benign(exp / "dnn" / "score_fit" / "results.jsonl")) == NUM_UTTS


def test_attack_without_target_or_perturbation_has_none(tmp_path: Path) -> None:
    line = {**attack_line(0, 0.0), "target": None, "target_errors": None, "snr_db": None}
    write_lines(tmp_path / "results.jsonl", [line])
    (record,) = read_attacked(tmp_path / "results.jsonl")
    assert (record.target, record.target_errors, record.snr_db) == ("", None, None)


def drop(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda line: {k: v for k, v in line.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("hypothesis"), "2: field 'hypothesis' must be a text, found None"),
        (lambda line: {**line, "statistics": {"x": "high"}}, "2: statistics: field 'x' must be a number"),
        (lambda line: {**line, "statistics": {"x": float("nan")}}, "2: statistics: field 'x' is nan; score that"),
        (lambda line: {**line, "errors": {"ins": 0}}, "2: field 'errors': count 'del' must be an integer"),
        (lambda line: {**line, "utt": "test000"}, "2: utterance 'test000' is there twice"),
        (lambda line: [line], "2: expected a JSON object"),
    ],
)
def test_bad_line_is_named_with_its_number(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_lines(path, [benign_line(0, x=1.0), change(benign_line(1, x=1.0))])
    with pytest.raises(DataError, match=re.escape(f"{path}:{message}")):
        read_benign(path)


def test_unequal_statistics_are_an_error_that_names_the_utterance(tmp_path: Path) -> None:
    write_lines(tmp_path / "r.jsonl", [benign_line(0, x=1.0), benign_line(1, y=1.0)])
    with pytest.raises(DataError, match="'test000' and 'test001' do not have the same statistics"):
        statistics_table(read_benign(tmp_path / "r.jsonl"))


def test_attack_directories_are_found_by_name(tmp_path: Path) -> None:
    for name in ("attack_paper-pgd_eps0.05", "attack_pgd_eps0", "attack_pgd_eps1e-3", "attack_odd", "attack_x_epsy"):
        write_lines(tmp_path / name / "results.jsonl", [])
    (tmp_path / "attack_pgd_eps0.5").mkdir()  # nothing in it yet
    found = [(attack, eps) for attack, eps, _ in attack_dirs(tmp_path)]
    assert found == [("paper-pgd", 0.05), ("pgd", 0.0), ("pgd", 0.001)]


# tables


def test_published_numbers_are_the_papers() -> None:
    assert paper.CLEAN_ACCURACY == {"dnn": 0.991, "ensemble": 0.994, "dropout": 0.973, "bnn": 0.981}
    assert paper.AUROC[0.05]["ensemble"]["max_mutual_information"] == 0.993
    assert paper.AUROC[0.02]["dropout"]["max_variance"] == 0.937
    assert [paper.AUROC[0.02][m]["max_predictive_entropy"] for m in paper.CLEAN_ACCURACY] == [
        0.997,
        0.996,
        0.991,
        0.998,
    ]
    assert list(paper.AUROC[0.05]["dnn"]) == ["max_predictive_entropy"]


def test_table_is_the_same_in_markdown_csv_and_html() -> None:
    table = Table(
        "t", "A <title>", ("name", "area", "snr"), (("a|b", Interval(0.98765, 0.9, 1.0), 20.06), ("c", None, None)),
        strong=frozenset({(0, 1)}), coarse=frozenset({2}),
    )  # fmt: skip
    markdown = table.to_markdown().splitlines()
    assert markdown[0] == "**A <title>**"
    assert [cell.strip() for cell in markdown[4].replace("\\|", "!").split("|")[1:-1]] == [
        "a!b", "**0.988 [0.900, 1.000]**", "20.1",
    ]  # fmt: skip
    assert list(csv.reader(io.StringIO(table.to_csv()))) == [
        ["name", "area", "area lo", "area hi", "snr"],
        ["a|b", "0.98765", "0.9", "1.0", "20.06"],
        ["c", "", "", "", ""],
    ]
    assert "A &lt;title&gt;" in table.to_html() and "<title>" not in table.to_html()
    assert "<strong>0.988 [0.900, 1.000]</strong>" in table.to_html()


def test_auroc_table_sets_the_papers_numbers_beside_ours(exp: Path) -> None:
    content = Results(exp / "results.json").read()
    table = tables.auroc_table(content, "pgd", 0.02)
    assert [row[0] for row in table.rows] == ["fNN (dnn)", "deep ensemble"]
    entropy = table.columns.index("Entropy, ours")
    assert table.columns[entropy - 1] == "Entropy, paper"
    assert table.rows[0][entropy - 1 :] == (0.997, Interval(0.61, 0.6, 0.62))
    assert table.rows[1][1] == 0.461
    assert "for its own attack, which is paper-pgd here, not pgd" in table.note
    assert "own attack" not in tables.auroc_table(content, "paper-pgd", 0.02).note


def test_control_is_not_set_beside_the_papers_attack(exp: Path) -> None:
    table = tables.auroc_table(Results(exp / "results.json").read(), "noise", 0.02)
    assert not any("paper" in column for column in table.columns)
    assert "control" in table.note


# words


def test_remade_attack_takes_all_that_was_measured_on_it_along(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    for name in ("pgd", "paper-pgd"):
        results.add_attack(attack_row("dnn", name, 0.02))
        results.add_detection([detection_row("dnn", name, 0.02, "max_predictive_entropy", 0.9)])
        for model in ("dnn", "bnn"):
            row = {"source": "dnn", "model": model, "attack": name, "eps": 0.02, "num_utts": 9}
            results.add_transfer(row | {"target_accuracy": 0.5, "target_success": 0.4, "original_accuracy": 0.3})
    negative = {"model": "dnn", "kind": "white", "level": 10.0, "num_utts": 9, "accuracy": 1.0, "sided": "two"}
    negative |= {"statistic": "level_db", "fpr": 0.01, "fpr_at_threshold": 0.0}
    tells = [{"attack": name, "eps": 0.02, "auroc": 0.9} for name in ("pgd", "paper-pgd")]
    results.add_negatives([negative | {"auroc": tells}])
    results.set_checks("dnn", {"loss_falls": {"passed": True, "value": 1, "limit": 1, "remedy": ""}})
    before = results.read()
    results.add_attack(attack_row("dnn", "pgd", 0.02))
    assert results.read() == before  # the same again changes nothing
    results.add_attack(attack_row("dnn", "pgd", 0.02) | {"num_utts": 7})
    after = results.read()
    assert [row["attack"] for row in after["detection"]] == ["paper-pgd"]
    assert [row["attack"] for row in after["transfer"]] == ["paper-pgd"] * 2
    assert after["negatives"] == [negative | {"auroc": tells[1:]}]
    assert after["checks"] == {}
    assert [row["num_utts"] for row in after["attacks"] if row["attack"] == "pgd"] == [7]


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((0.96, 0.99), "holds"),
        ((0.94, 0.99), "holds in part"),
        ((0.70, 0.80), "holds in part"),
        ((0.60, 0.70), "fails"),
        ((0.48, 0.55), "at chance"),
        ((0.48, 0.99), "at chance"),
        ((0.30, 0.40), "below chance"),
    ],
)
def test_verdict_follows_the_interval_not_the_estimate(interval: tuple[float, float], word: str) -> None:
    assert verdict({"auroc": 0.97, "auroc_ci95": list(interval)}) == word


def test_summary_says_where_the_detector_breaks_and_where_the_attack_fails(exp: Path) -> None:
    content = Results(exp / "results.json").read()
    text = "\n".join(summary(content))
    assert "On benign audio the word accuracy is fNN (dnn) 0.994 and deep ensemble 0.994." in text
    assert (
        "Under pgd at eps 0.02, which reaches target accuracy 0.800, the paper's detector fails for fNN (dnn) "
        "(AUROC 0.610); it holds for deep ensemble (AUROC 0.970)."
    ) in text
    assert "Under paper-pgd at eps 0.02, which mostly fails with target accuracy 0.260," in text
    assert "a control that nobody steers, the paper's detector flags 25.0 % of" in text
    detail = describe(content, "pgd", 0.02)
    assert "clearly above that for fNN (dnn) with mean predictive entropy 0.985 [0.975, 0.995]" in detail
    assert "deep ensemble with" not in detail  # 0.985 +- 0.01 and 0.97 +- 0.01 meet
    assert "for its own attack (paper-pgd here), are fNN (dnn) 0.997 and deep ensemble 0.996" in detail


def test_summary_of_nothing_claims_nothing(tmp_path: Path) -> None:
    content = Results(tmp_path / "results.json").read()
    assert summary(content) == ["The results hold no accuracy and no detection yet."]


def test_results_text_opens_with_the_command(exp: Path) -> None:
    text = results_text(Results(exp / "results.json").read(), command=COMMAND)
    assert text.startswith(f"# {COMMAND}\n# device: cpu, engine: embedded, seed: 0\n")
    assert "Table 1: accuracy on benign audio" in text and "0.610 [0.600, 0.620]" in text


# figures


def lines_of(figure: Any, panel: int) -> dict[str, Any]:
    return {line.get_label(): line for line in figure.axes[panel].lines}


def test_accuracy_figure_draws_the_rows(exp: Path) -> None:
    figure = accuracy_figure(Results(exp / "results.json").read()["attacks"], attack="pgd")
    target = lines_of(figure, 0)["fNN (dnn)"]
    assert target.get_xdata().tolist() == [0.02, 0.05] and target.get_ydata().tolist() == [0.8, 0.8]
    assert lines_of(figure, 1)["deep ensemble"].get_ydata().tolist() == [-0.125, -0.125]


def test_model_has_the_same_colour_whichever_models_are_there(exp: Path) -> None:
    rows = Results(exp / "results.json").read()["attacks"]
    both = lines_of(accuracy_figure(rows, attack="pgd"), 0)["deep ensemble"].get_color()
    alone = [row for row in rows if row["model"] == "ensemble"]
    assert lines_of(accuracy_figure(alone, attack="pgd"), 0)["deep ensemble"].get_color() == both


def test_histogram_shares_sum_to_one_in_both_sets() -> None:
    figure = histogram_figure(sample(1, 0), sample(2, 1, 25), fit=sample(3, 0), statistics=("max_predictive_entropy",))
    (axes,) = figure.axes
    filled = [container for container in axes.containers if len(container) > 1]
    heights = [sum(bar.get_height() for bar in bars) for bars in filled]
    assert heights == pytest.approx([1.0, 1.0])


def test_roc_legend_states_the_area() -> None:
    figure = roc_figure({"max_akld": (np.array([0.0, 1.0]), np.array([1.0, 2.0]))})
    assert "max aKLD (0.875)" in lines_of(figure, 0)


def test_spectrogram_of_a_tone_peaks_at_its_frequency() -> None:
    rate = 8000
    decibels = log_spectrogram(np.sin(2 * np.pi * 1000 * np.arange(rate) / rate), rate)
    bins = decibels.shape[0]
    peak_hz = decibels.mean(axis=1).argmax() / (bins - 1) * rate / 2
    assert abs(peak_hz - 1000) < rate / 2 / (bins - 1)
    assert decibels.max() == 0 and decibels.min() >= -70
    assert decibels.shape[1] == 200  # one second, 5 ms


def test_silence_has_a_spectrogram() -> None:
    assert np.isfinite(log_spectrogram(np.zeros(800), 8000)).all()


def test_entropy_figure_puts_frames_and_words_on_one_time_axis() -> None:
    figure = entropy_figure(make_example())
    attacked = {line.get_label(): line for line in figure.axes[1].lines}["attacked"]
    np.testing.assert_allclose(np.asarray(attacked.get_xdata())[:2], [0.005, 0.015])
    words = {text.get_text(): text.get_position()[0] for text in figure.axes[2].texts}
    assert words == pytest.approx({"one": 0.25, "two": 0.7, "six": 0.5})
    labels = [label.get_text() for label in figure.axes[2].get_yticklabels()]
    assert labels == ["heard", "said"]  # no target alignment was given


def test_wav_holds_the_samples_in_16_bits() -> None:
    with wave.open(io.BytesIO(wav_bytes(np.array([0.0, 0.5, -1.0, 1.0, 2.0]), 8000))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        assert np.frombuffer(file.readframes(5), "<i2").tolist() == [0, 16384, -32768, 32767, 32767]


# the page


class Page(HTMLParser):
    """Collects the addresses, the texts of images and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.alts: list[str | None] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [values[name] or "" for name in ("src", "href", "srcset", "data", "poster") if name in values]
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_needs_nothing_from_outside(report: Path) -> None:
    text = (report / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.alts) == 4 and all(page.alts)  # accuracy, histogram, ROC, example
    for address in page.addresses:
        assert address.startswith(("data:", "#")), address[:80]
    for anchor in (address[1:] for address in page.addresses if address.startswith("#")):
        assert f'id="{anchor}"' in text
    assert not re.search(r"https?://|url\(|@import", text)


def test_embedded_svg_fetches_nothing(report: Path) -> None:
    text = (report / "report.html").read_text()
    svgs = [base64.b64decode(code) for code in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)]
    assert len(svgs) == 3
    for svg in svgs:
        assert b"<dc:date>" not in svg
        for address in re.findall(rb"(?:href|src)=\"([^\"]*)\"", svg):
            assert address.startswith((b"#", b"data:"))


def test_page_shows_the_numbers_of_the_results(report: Path) -> None:
    text = (report / "report.html").read_text()
    for number in ("0.610 [0.600, 0.620]", "0.993 [0.983, 1.000]", "0.994", "0.997", "-0.125", "21.5", "0.314", "12.3"):
        assert number in text, number
    assert "recipes/tidigits/run.sh --preset mini --seed 0" in text
    assert "MC dropout" not in text and "BNN" not in text  # not in these results


def test_page_escapes_what_it_is_given(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert "one &amp; two" in text and "test&lt;003&gt;" in text and "<003>" not in text


def test_page_plays_the_audio_of_the_example(report: Path) -> None:
    text = (report / "report.html").read_text()
    sounds = [base64.b64decode(code) for code in re.findall(r"data:audio/wav;base64,([^\"]+)", text)]
    example = make_example()
    assert sounds == [wav_bytes(s, example.rate) for s in (example.original_samples, example.attacked_samples)]


def test_report_writes_each_table_and_figure_to_its_own_files(report: Path) -> None:
    names = {path.name for path in report.iterdir()}
    for stem in ("table1_clean_accuracy", "attacks", "overview", "auroc_pgd_eps0.02", "statistics_pgd_eps0.02"):
        assert {f"{stem}.md", f"{stem}.csv"} <= names
    for stem in ("figure1_accuracy_pgd", "figure2_histogram_dnn_pgd_eps0.02", "figure3_roc_dnn_pgd_eps0.02"):
        assert {f"{stem}.png", f"{stem}.svg"} <= names
    assert "example_dnn_pgd_eps0.02_test_003_.png" in names
    rows = list(csv.DictReader(io.StringIO((report / "detection.csv").read_text())))
    assert len(rows) == 16 and {row["detector"] for row in rows} == {"gaussian", "kde"}


def test_two_runs_give_the_same_bytes(exp: Path, report: Path, tmp_path: Path) -> None:
    build_report(exp, tmp_path, command=COMMAND, examples=[make_example()])
    first = {path.name: path.read_bytes() for path in report.iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_report_of_little_is_a_little_report(tmp_path: Path) -> None:
    results = Results(tmp_path / "exp" / "results.json")
    results.set_clean("dnn", ErrorRate(num_words=10, num_utts=4))
    text = build_report(tmp_path / "exp", tmp_path / "out", command=COMMAND).read_text()
    assert "Table 1" in text and 'id="detection"' not in text and 'id="examples"' not in text


def test_report_without_results_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json: no such file; run the stages"):
        build_report(tmp_path, tmp_path / "out", command=COMMAND)
    assert not (tmp_path / "out").exists()


def test_picture_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="alt must say"):
        picture(b"", "image/png", alt="")
