"""Detectors on benign but hard audio, from the command to the script: rates and AUROC are of the right sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.audio.disturb import disturb
from kaldi_uq.audio.loudness import loudness
from kaldi_uq.cli.main import main
from kaldi_uq.detector import GaussianDetector, auroc, fit_detectors
from kaldi_uq.results.names import GATE
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import read_benign, statistics_table
from tests.tiny import RATE, make_waves, write_segments, write_set

COUNTS = {"ins": 0, "del": 0, "sub": 1, "num_words": 4}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, np.ndarray]]:
    """data and scores: clean to fit on, clean and noisy to test on, and an attack that is noise to the ear."""
    monkeypatch.chdir(tmp_path)
    sets = {}
    rng = np.random.default_rng(0)
    for number, (name, mean) in enumerate({"fit": 1.0, "test": 1.0, "white": 2.0, "attack": 5.0}.items()):
        waves, text = make_waves(20, seed=number)
        if name in ("white", "attack"):
            waves = {
                utt: result.wav
                for utt, result in disturb(waves, {u: u for u in waves}, "white", 10.0, sample_rate=RATE)
            }
        sets[name] = waves
        folder = Path("exp/dnn/attack_pgd_eps0.02" if name == "attack" else f"data/{name}")
        write_set(folder, waves, text)
        scores = folder if name == "attack" else Path(f"exp/dnn/score_{name}")
        scores.mkdir(parents=True, exist_ok=True)
        lines: list[dict[str, Any]] = []
        for utt in waves:
            value = float(mean + rng.normal())
            statistics = {"max_predictive_entropy": value, "q95_predictive_entropy": value}
            line = {"utt": utt, "hypothesis": "one", "statistics": statistics}
            if name == "attack":
                line |= {"eps": 0.02, "target": "one", "original": "two", "snr_db": 10.0}
                line |= {"target_errors": COUNTS, "original_errors": COUNTS}
            else:
                line |= {"text": "one", "errors": COUNTS}
            lines.append(line)
        (scores / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return sets


def negatives(*words: str, kind: str = "white", level: str = "10", data: str = "white") -> int:
    where = ["--data", f"data/{data}", "--scored", f"exp/dnn/score_{data}", "--kind", kind, "--level", level]
    common = ["--fit-data", "data/fit", "--fit", "exp/dnn/score_fit", "--model", "dnn", "--results", "exp/results.json"]
    return main(["nnet-negatives", *common, *where, *words])


def values(path: str) -> np.ndarray:
    lines = Path(path, "results.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["statistics"]["max_predictive_entropy"] for line in lines])


def test_rows_have_rate_and_auroc_of_each_statistic(place: dict[str, dict[str, np.ndarray]]) -> None:
    assert negatives("exp/dnn/attack_pgd_eps0.02") == 0
    rows = {(row["statistic"], row["sided"]): row for row in Results("exp/results.json").read()["negatives"]}
    assert {name for name, _ in rows} == {"max_predictive_entropy", "level_db", "noise_floor_db", GATE}
    benign, noisy = (
        statistics_table(read_benign(Path(f"exp/dnn/score_{name}/results.jsonl"))) for name in ("fit", "white")
    )
    gate = fit_detectors(benign, 0.01)[GATE]
    assert rows[GATE, "two"]["fpr_at_threshold"] == pytest.approx(np.mean(gate.is_attack(noisy)))
    fit, hard, attacked = map(values, ("exp/dnn/score_fit", "exp/dnn/score_white", "exp/dnn/attack_pgd_eps0.02"))
    for sided in ("two", "one"):
        detector = GaussianDetector(two_sided=sided == "two").fit(fit).calibrate(0.01, fit)
        row = rows["max_predictive_entropy", sided]
        assert row["threshold"] == pytest.approx(detector.threshold)
        assert row["fpr_at_threshold"] == pytest.approx(np.mean(detector.is_attack(hard)))
        expected = auroc(detector.score(hard), detector.score(attacked))
        assert row["auroc"] == [{"attack": "pgd", "eps": 0.02, "auroc": pytest.approx(expected)}]
        assert (row["accuracy"], row["num_utts"], row["fpr"]) == (0.75, 20, 0.01)


def test_loudness_of_the_files_is_among_the_statistics(place: dict[str, dict[str, np.ndarray]]) -> None:
    assert negatives("exp/dnn/attack_pgd_eps0.02") == 0
    assert negatives("exp/dnn/attack_pgd_eps0.02", kind="clean", level="0", data="test") == 0
    rows = Results("exp/results.json").read()["negatives"]
    floor = {row["kind"]: row for row in rows if (row["statistic"], row["sided"]) == ("noise_floor_db", "two")}
    # the attack here is noise: the floor tells it from clean speech, but not from noise
    assert floor["clean"]["auroc"][0]["auroc"] > 0.99
    assert floor["clean"]["fpr_at_threshold"] < 0.3
    assert floor["white"]["fpr_at_threshold"] == 1
    assert 0.2 < floor["white"]["auroc"][0]["auroc"] < 0.8
    measured = [loudness(wav, RATE)["noise_floor_db"] for wav in place["fit"].values()]
    worst = max(abs(np.array(measured) - np.mean(measured)) / np.std(measured))
    assert floor["clean"]["threshold"] == pytest.approx(worst)  # 20 utterances: none may exceed it


def test_rerun_replaces_its_rows_and_another_level_has_its_own(place: dict[str, dict[str, np.ndarray]]) -> None:
    assert negatives() == 0
    first = Results("exp/results.json").read()["negatives"]
    assert negatives() == 0
    assert Results("exp/results.json").read()["negatives"] == first
    assert all(row["auroc"] == [] for row in first)
    assert negatives(level="5") == 0
    assert [row["level"] for row in Results("exp/results.json").read()["negatives"]] == [5.0] * 7 + [10.0] * 7


def test_scores_of_other_data_are_refused(
    place: dict[str, dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(Path("data/few"), *make_waves(3, seed=2))
    Path("exp/dnn/score_white").rename("exp/dnn/score_few")
    assert negatives(data="few") == 1
    assert "data/few/utt2spk: no utterance 'utt03', which was scored" in capsys.readouterr().err
    assert not Path("exp/results.json").exists()


def test_segments_of_a_recording_from_a_pipe_are_measured_as_files_are(
    place: dict[str, dict[str, np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert negatives("exp/dnn/attack_pgd_eps0.02") == 0
    expected = Results("exp/results.json").read()["negatives"]
    Path("exp/results.json").unlink()
    for name in ("white", "fit"):
        shutil.rmtree(Path("data", name))
        write_segments(Path("data", name), place[name], {utt: ["one"] for utt in place[name]})
    assert negatives("exp/dnn/attack_pgd_eps0.02") == 1
    assert "data/white/wav.scp:1: " in (error := capsys.readouterr().err) and "--allow-pipes" in error
    assert not Path("exp/results.json").exists()
    assert negatives("--allow-pipes", "exp/dnn/attack_pgd_eps0.02") == 0
    assert Results("exp/results.json").read()["negatives"] == expected
