"""``results.json`` and the records of utterances: rows in, the same rows out, whoever writes and in whatever order."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.detector import evaluate_detection, fit_detectors
from kaldi_uq.errors import DataError
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import attack_dirs, read_attacked, read_benign, statistics_table
from kaldi_uq.results.word_errors import ErrorRate
from tests.recipe import LIMIT_S
from tests.report import (
    NUM_UTTS,
    attack_line,
    attack_row,
    benign_line,
    detection_row,
    fill,
    sample,
    write_exp,
    write_lines,
)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exp(tmp_path_factory.mktemp("exp"))


# results.json


def test_results_hold_the_contracts_sections_and_fields(exp: Path) -> None:
    content = json.loads((exp / "results.json").read_text())
    assert {"environment", "timing_s", "clean", "attacks", "detection"} <= set(content)
    assert content["clean"]["dnn"] == {
        "accuracy": 0.994, "ins": 1, "del": 2, "sub": 3, "num_words": 1000, "num_utts": 300,
    }  # fmt: skip
    assert content["timing_s"] == {"train": 12.346}
    first = {k: content["attacks"][0][k] for k in ("model", "attack", "eps", "target_accuracy", "checks")}
    assert first == {"model": "dnn", "attack": "paper-pgd", "eps": 0.02, "target_accuracy": 0.26, "checks": []}
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
    rows = evaluate_detection(fit_detectors(sample(1, 0)), sample(2, 0), sample(3, 1), seed=0, num_bootstrap=20)
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
    with pytest.raises(DataError, match=r"results\.json\.gz: (damaged gzip file|not a JSON file)"):
        Results(tmp_path / "results.json")


def test_writers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from kaldi_uq.results.table import Results; results = Results(sys.argv[1])\n"
        "for number in range(10): results.add_timing(f'{sys.argv[2]} {number}', number)"
    )
    path = tmp_path / "results.json"
    root = Path(__file__).parents[1]
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)], cwd=root) for n in range(4)]
    assert [writer.wait(timeout=LIMIT_S) for writer in writers] == [0] * 4
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
        (lambda line: {**line, "statistics": {"x": 10**400}}, "2: statistics: field 'x' is inf; score that"),
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


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("packed", [False, True])
def test_numbers_that_are_none_are_refused_with_the_file(tmp_path: Path, number: str, packed: bool) -> None:
    text = f'{{"clean": {{"dnn": {{"accuracy": {number}}}}}}}'
    path = tmp_path / ("results.json.gz" if packed else "results.json")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(DataError, match=rf"{path.name}: not a JSON file \({number} is no finite number\)"):
        Results(tmp_path / "results.json")
