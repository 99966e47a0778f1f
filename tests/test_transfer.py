"""Examples of one model played to another: the same judgement as the attack's own, errors named, one row a pair."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.attacks.directory import score_examples, summarise
from kaldi_uq.audio.disturb import uniform_noise
from kaldi_uq.cli.main import main
from kaldi_uq.io.wav import to_int16, write_wav
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.results.table import Results
from tests.recipe import Recipe, error_line
from tests.tiny import RATE, make_system, make_waves, write_segments, write_set

EPS = 0.3  # the words are loud tones
DNN, BNN = "exp/dnn/attack_pgd_eps0.3", "exp/bnn/attack_pgd_eps0.3"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with exp/dnn and exp/bnn, data/lang as in a recipe, data/attack, and an attack on each model."""
    folder = tmp_path_factory.mktemp("transfer")
    system = make_system(folder)
    for kind in ("dnn", "bnn"):
        model_dir = folder / "exp" / kind
        system.train(kind).save(model_dir / "final.safetensors")
        for name in ("final.mdl", "tree"):
            shutil.copy(system.mono / name, model_dir)
        shutil.copytree(system.graph, model_dir / "graph")
    (folder / "data").mkdir()
    shutil.copytree(system.lang.path, folder / "data/lang")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_set(Path("data/attack"), *make_waves(5, seed=2))
        for kind, out in (("dnn", DNN), ("bnn", BNN)):
            words = f"--eps {EPS} --realign-every 5 --lang-dir data/lang data/attack exp/{kind} exp/{kind}/graph {out}"
            assert main(["nnet-attack", *words.split()]) == 0
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current directory."""
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def transfer(source: str, model: str, *words: str, out: str = "") -> int:
    out = out or f"exp/{model}/transfer"
    return main(["nnet-transfer", *words, source, "data/attack", f"exp/{model}", f"exp/{model}/graph", out])


def lines_of(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(path) / "results.jsonl").read_text().splitlines()]


def test_row_of_an_attack_says_how_many_draws_a_gradient_was_of(here: Path) -> None:
    for kind in ("dnn", "bnn"):
        places = f"--lang-dir data/lang data/attack exp/{kind} exp/{kind}/graph exp/{kind}/attack_one_eps0.1"
        options = "--eps 0.1 --num-steps 1 --num-utts 1 --attack one --results exp/results.json"
        assert main(["nnet-attack", *options.split(), *places.split()]) == 0
    rows = Results("exp/results.json").read()["attacks"]
    assert {row["model"]: row["options"]["eot_samples"] for row in rows} == {"dnn": 1, "bnn": 10}


def test_own_examples_of_a_model_that_is_not_random_are_judged_as_by_the_attack(here: Path) -> None:
    assert transfer(DNN, "dnn") == 0
    attack, again = lines_of(DNN), lines_of("exp/dnn/transfer")
    for before, after in zip(attack, again, strict=True):
        assert {name: before[name] for name in after} == after
        assert after["eps"] == EPS


def test_own_examples_of_a_random_model_are_judged_by_other_draws(here: Path) -> None:
    assert transfer(BNN, "bnn") == 0
    attack, again = lines_of(BNN), lines_of("exp/bnn/transfer")
    name = "max_mutual_information"
    assert [x["utt"] for x in attack] == [x["utt"] for x in again]
    assert all(x["statistics"][name] != y["statistics"][name] for x, y in zip(attack, again, strict=True))
    assert [x["snr_db"] for x in attack] == [x["snr_db"] for x in again]
    assert transfer(BNN, "bnn", "--seed", "3", out="exp/bnn/other") == 0
    assert lines_of("exp/bnn/other") != again


def test_examples_are_better_against_the_model_that_they_were_made_for(here: Path) -> None:
    for listener in ("dnn", "bnn"):
        for source in (DNN, BNN):
            assert transfer(source, listener, "--results", "exp/results.json", out=f"exp/{listener}/{source}") == 0
    rows = {(row["source"], row["model"]): row for row in Results("exp/results.json").read()["transfer"]}
    assert list(rows) == [("dnn", "dnn"), ("dnn", "bnn"), ("bnn", "dnn"), ("bnn", "bnn")]
    for source, listener in (("dnn", "bnn"), ("bnn", "dnn")):
        assert rows[source, source]["target_accuracy"] > rows[source, listener]["target_accuracy"]
    row = rows["dnn", "bnn"]
    assert (row["attack"], row["eps"], row["num_utts"]) == ("pgd", EPS, 5)
    assert row["target_success"] == np.mean([line["target_success"] for line in lines_of(f"exp/bnn/{DNN}")])


def test_rerun_replaces_its_row_and_decodes_nothing(here: Path) -> None:
    for _ in range(2):
        assert transfer(DNN, "bnn", "--results", "exp/results.json") == 0
        stamp = Path("exp/bnn/transfer/results.jsonl").stat().st_mtime_ns
    assert transfer(DNN, "bnn", "--results", "exp/results.json") == 0
    assert Path("exp/bnn/transfer/results.jsonl").stat().st_mtime_ns == stamp
    assert len(Results("exp/results.json").read()["transfer"]) == 1
    assert transfer(DNN, "bnn", "--results", "exp/results.json", "--acwt", "0.2") == 0
    assert Path("exp/bnn/transfer/results.jsonl").stat().st_mtime_ns > stamp


def test_original_may_be_segments_of_a_recording_from_a_pipe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert transfer(DNN, "bnn", out="exp/files") == 0
    shutil.rmtree("data/attack")
    write_segments(Path("data/attack"), *make_waves(5, seed=2))
    capsys.readouterr()
    assert transfer(DNN, "bnn", out="exp/pipe") == 1
    assert "data/attack/wav.scp:1: " in (error := capsys.readouterr().err) and "--allow-pipes" in error
    assert not Path("exp/pipe").exists()
    assert transfer(DNN, "bnn", "--allow-pipes", out="exp/pipe") == 0
    assert lines_of("exp/pipe") == lines_of("exp/files")


def test_other_audio_than_what_was_attacked_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waves, text = make_waves(5, seed=3)
    shutil.rmtree("data/attack")
    write_set(Path("data/attack"), waves, text)
    assert transfer(DNN, "bnn") == 1
    assert "data/attack: utterance 'utt00' is not the one that was attacked: other length" in capsys.readouterr().err
    shutil.rmtree("data/attack")
    write_set(Path("data/attack"), {"utt00": waves["utt00"]}, {"utt00": text["utt00"]})
    wav = next(iter(make_waves(5, seed=2)[0].values()))
    write_wav("data/attack/wav/utt00.wav", to_int16(wav), RATE)
    assert transfer(DNN, "bnn") == 1
    assert "data/attack/wav.scp: no utterance 'utt01', which exp/dnn/attack_pgd" in capsys.readouterr().err
    assert not Path("exp/bnn/transfer").exists()


def test_directory_that_is_no_attack_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(DNN, "exp/dnn/examples")
    assert transfer("exp/dnn/examples", "bnn") == 1
    assert "expected a directory named attack_<name>_eps<eps>" in capsys.readouterr().err
    assert transfer("exp/dnn/examples", "bnn", "--attack", "mine", "--results", "r.json") == 0
    assert Results("r.json").read()["transfer"][0]["attack"] == "mine"
    assert transfer("data/attack", "bnn", "--attack", "mine") == 1
    assert "data/attack/results.jsonl: no such file" in capsys.readouterr().err


def test_noise_as_large_as_the_attack_does_not_reach_the_target(place: Path) -> None:
    waves, text = make_waves(5, seed=2)
    attack = lines_of(place / DNN)
    noise = {utt: uniform_noise(wav, EPS, generator=np.random.default_rng(0)).wav for utt, wav in waves.items()}
    targets = {line["utt"]: line["target"].split() for line in attack}
    lines = score_examples(Recogniser.load(place / "exp/dnn"), waves, noise, targets, text)
    of_noise, of_attack = summarise(lines), summarise(attack)
    assert of_noise["snr_db_mean"] == pytest.approx(of_attack["snr_db_mean"], abs=1)  # as loud
    assert of_noise["target_success"] == 0 < of_attack["target_success"]
    assert of_noise["target_accuracy"] < of_attack["target_accuracy"] - 0.2


class TestSummary:
    COUNTS = {"ins": 0, "del": 0, "sub": 0, "num_words": 2}

    def line(self, sub: int, words: int, snr: float | None = 10.0) -> dict[str, Any]:
        errors = {**self.COUNTS, "sub": sub, "num_words": words}
        return {"target_errors": errors, "original_errors": {**self.COUNTS, "sub": 2}, "snr_db": snr}

    def test_accuracy_is_of_all_words_and_success_of_utterances(self) -> None:
        row = summarise([self.line(0, 1), self.line(0, 1, 20.0), self.line(4, 8, None)])
        assert row == {
            "num_utts": 3,
            "target_accuracy": 0.6,
            "target_success": 2 / 3,
            "original_accuracy": 0.0,
            "snr_db_mean": 15.0,
            "snr_db_q05": 10.5,
            "target_accuracy_ci95": [0.5, 1.0],  # of whole utterances: none of it between 4 of 8 words and all
            "original_accuracy_ci95": [0.0, 0.0],
        }

    def test_without_targets_nothing_is_said_of_them(self) -> None:
        row = summarise([{"original_errors": self.COUNTS, "snr_db": None}])
        assert (row["target_accuracy"], row["target_success"], row["snr_db_mean"]) == (None, None, None)

    def test_without_spoken_words_nothing_is_said_of_them(self) -> None:
        silent = {
            "target_errors": None,
            "original_errors": {"ins": 1, "del": 0, "sub": 0, "num_words": 0},
            "snr_db": 9.0,
        }
        assert summarise([silent])["original_accuracy"] is None

    def test_no_line_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no line"):
            summarise([])


def test_script_fills_the_matrix_of_the_trained_models(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.clone(tmp_path / "my recipe")
    done = recipe.run("local/transfer.sh", "--eps", "0.020", "--device", "cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = (r for r in recipe.results()["transfer"] if (r["attack"], r["eps"]) == ("pgd", 0.02))
    (attack,) = (r for r in recipe.results()["attacks"] if (r["model"], r["attack"], r["eps"]) == ("dnn", "pgd", 0.02))
    assert (row["source"], row["model"], row["num_utts"]) == ("dnn", "dnn", attack["num_utts"])
    assert row["target_accuracy"] == attack["target_accuracy"]
    assert (recipe.path / "exp/dnn/transfer_dnn_pgd_eps0.02/results.jsonl").is_file()
    line = error_line(recipe.run("local/transfer.sh", "--eps", "0.5"))
    assert line.endswith("local/attack.sh --model dnn --eps 0.5 makes it")
    assert "none of exp/{x,y} has a final.safetensors" in error_line(recipe.run("local/transfer.sh", "--models", "x y"))
    # another model by its name, a link here, as the surrogate of one that was not attacked itself
    (recipe.path / "exp/surrogate").symlink_to("dnn")
    done = recipe.run("local/transfer.sh", "--models", "surrogate", "--listeners", "dnn", "--device", "cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [(r["source"], r["model"]) for r in recipe.results()["transfer"] if r["eps"] == 0.02]
    assert ("surrogate", "dnn") in rows
