"""kaldi-uq attack: a text put into WAV files, what is printed, and what it does with files that are no good."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kaldi_uq.attacks
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import LInf
from kaldi_uq.attacks.goal import CrossEntropy
from kaldi_uq.attacks.loop import run_attack
from kaldi_uq.cli.main import main
from kaldi_uq.detector import GaussianDetector, save_detector
from kaldi_uq.io.wav import read_wav, to_int16, write_wav
from kaldi_uq.results.utterances import read_benign, statistics_table
from tests.tiny import RATE, make_system, make_waves, write_set

Run = Callable[..., tuple[int, str, str]]
EPS = 0.1  # the words are loud tones


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with exp/dnn, data/lang as in a recipe, and files below wavs/wav."""
    folder = tmp_path_factory.mktemp("attack")
    system = make_system(folder)
    for kind in ("dnn", "bnn"):
        model_dir = folder / "exp" / kind
        system.train(kind).save(model_dir / "final.safetensors")
        for name in ("final.mdl", "tree"):
            shutil.copy(system.mono / name, model_dir)
        shutil.copytree(system.graph, model_dir / "graph")
    (folder / "data").mkdir()
    shutil.copytree(system.lang.path, folder / "data/lang")
    write_set(folder / "wavs", *make_waves(3, seed=2))
    return folder


@pytest.fixture
def attack(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; its status, output and errors."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main(["attack", *map(str, words)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return status, *capsys.readouterr()

    return run


def wav(place: Path, number: int = 0) -> Path:
    return place / "wavs/wav" / f"utt{number:02d}.wav"


def one_error(done: tuple[int, str, str]) -> str:
    status, out, err = done
    assert (status, out) == (1, "")
    lines = [line for line in err.splitlines() if "error:" in line]
    assert len(lines) == 1 and "Traceback" not in err
    return lines[0]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dnn", "bnn"])
def test_target_is_heard_in_the_file(place: Path, tmp_path: Path, attack: Run, kind: str) -> None:
    out = tmp_path / "deep/out.wav"
    words = ("--target-text", " two  one ", "--model-dir", place / "exp" / kind, "--out", out, "--eps", EPS)
    status, text, _ = attack(wav(place), *words, "--json")
    assert status == 0
    record = json.loads(text)
    before, after = read_wav(wav(place))[0], read_wav(out)[0]
    assert record["hypothesis"] == record["target"] == "two one"
    assert record["target_success"] is True
    assert record["original"] != "two one"
    assert (record["path"], record["out"]) == (str(wav(place)), str(out))
    assert len(after) == len(before)
    assert 0 < record["largest_change"] == np.abs(after - before).max() <= EPS + 1e-7
    assert record["steps"] > 0 and record["statistics"]["max_predictive_entropy"] >= 0
    assert "verdict" not in record  # there is no detector
    assert list(out.parent.iterdir()) == [out]  # nothing else is left


@pytest.mark.long
def test_text_says_what_happened_in_80_columns(place: Path, tmp_path: Path, attack: Run) -> None:
    words = ("--target-text", "two one", "--model-dir", place / "exp/dnn", "--eps", EPS)
    status, text, _ = attack(wav(place), *words, "--out", tmp_path / "o.wav")
    assert status == 0
    assert text.startswith(f"REACHED {wav(place)}")
    for part in ("target: two one", "heard:  two one (before: ", "SNR ", "largest change ", "max predictive entropy "):
        assert part in " ".join(text.split("\n    "))
    assert all(len(line) <= 80 or " " not in line.strip() or str(tmp_path) in line for line in text.splitlines())
    # so small a change reaches nothing, which is no error
    status, text, _ = attack(wav(place), *words[:-1], "0.0001", "--out", tmp_path / "p.wav")
    assert status == 0 and text.startswith("missed ")


def test_target_that_is_heard_already_is_refused(place: Path, tmp_path: Path, attack: Run) -> None:
    model = ("--model-dir", place / "exp/dnn", "--out", tmp_path / "o.wav")
    record = json.loads(attack(wav(place), "--untargeted", *model, "--num-steps", "1", "--json")[1])
    heard = record["original"]
    (tmp_path / "o.wav").unlink()
    error = one_error(attack(wav(place), "--target-text", f" {heard}", *model))
    assert f"--target-text: '{heard}' is what utt00 says already: to be heard as that is no attack" in error
    assert list(tmp_path.iterdir()) == []


def test_change_louder_than_the_speech_is_said_with_its_snr(place: Path, tmp_path: Path, attack: Run) -> None:
    model = ("--model-dir", place / "exp/dnn", "--out", tmp_path / "o.wav")
    status, _, errors = attack(wav(place), "--untargeted", *model, "--num-steps", "1", "--eps", "1")
    assert status == 0
    (line,) = [line for line in errors.splitlines() if "warning:" in line]
    assert "the change may be as loud as the speech in 1 of 1 utterances (SNR -" in line


@pytest.mark.long
def test_untargeted_changes_what_is_heard(place: Path, tmp_path: Path, attack: Run) -> None:
    words = ("--untargeted", "--model-dir", place / "exp/dnn", "--out", tmp_path / "o.wav", "--eps", EPS, "--json")
    status, text, _ = attack(wav(place), *words)
    record = json.loads(text)
    assert status == 0
    assert "target" not in record and record["hypothesis"] != record["original"] != ""
    status, text, _ = attack(wav(place), *words[:-1], "--force")
    assert status == 0 and text.startswith("REACHED") and "target:" not in text


def test_several_files_go_into_a_directory(place: Path, tmp_path: Path, attack: Run) -> None:
    words = ("--target-text", "one", "--model-dir", place / "exp/dnn", "--eps", EPS, "--num-steps", "5", "--json")
    both = attack(wav(place, 0), wav(place, 1), *words, "--out-dir", tmp_path / "both")
    assert both[0] == 0
    records = [json.loads(line) for line in both[1].splitlines()]
    assert [Path(record["out"]).name for record in records] == ["utt00.wav", "utt01.wav"]
    alone = attack(wav(place, 1), *words, "--out-dir", tmp_path / "alone")
    assert alone[0] == 0
    assert (tmp_path / "alone/utt01.wav").read_bytes() == (tmp_path / "both/utt01.wav").read_bytes()


@pytest.mark.long
@pytest.mark.parametrize(("mean", "verdict"), [(0.0, "benign"), (99.0, "attack")])
def test_detector_says_what_it_thinks_of_the_result(
    place: Path, tmp_path: Path, attack: Run, mean: float, verdict: str
) -> None:
    model_dir = Path(shutil.copytree(place / "exp/dnn", tmp_path / "exp/dnn"))
    detector = GaussianDetector("mean_predictive_entropy").fit([mean - 1.0, mean + 1.0]).calibrate(0.01)
    save_detector(detector, model_dir / "detector/mean_predictive_entropy.json")
    words = (wav(place), "--target-text", "one", "--model-dir", model_dir, "--lang-dir", place / "data/lang")
    status, text, _ = attack(*words, "--eps", EPS, "--out", tmp_path / "o.wav", "--json")
    record: dict[str, Any] = json.loads(text)
    assert status == 0
    assert record["verdict"] == verdict
    assert (record["score"] > record["threshold"]) == (verdict == "attack")
    status, text, _ = attack(*words, "--eps", EPS, "--out", tmp_path / "o.wav", "--force")
    shown = verdict.upper() if verdict == "attack" else verdict
    assert f"detector mean predictive entropy: {shown}, score " in " ".join(text.split("\n    "))
    error = one_error(attack(*words, "--out", tmp_path / "p.wav", "--statistic", "max_variance"))
    assert "max_variance.json: no such detector" in error


@pytest.mark.parametrize("kind", ["dnn", "bnn"])
@pytest.mark.long
def test_attack_that_knows_the_detectors_passes_them(place: Path, tmp_path: Path, attack: Run, kind: str) -> None:
    model_dir = Path(shutil.copytree(place / "exp" / kind, tmp_path / "exp" / kind))
    scored = write_set(tmp_path / "fit", *make_waves(30, seed=5))
    scores = model_dir / "score_fit/results.jsonl"
    assert main(["nnet-decode", str(scored), str(model_dir), str(model_dir / "graph"), str(scores.parent)]) == 0
    words = (wav(place), "--target-text", "two one", "--model-dir", model_dir, "--lang-dir", place / "data/lang")
    words += ("--eps", EPS, "--eot-samples", "4", "--statistics", "mean_predictive_entropy,max_expected_entropy")
    if kind == "dnn":  # the detectors that there are, or scores to fit them on
        assert main(["fit-detector", "--scored", str(scores), str(model_dir)]) == 0
    else:
        words += ("--fit", scores)
    status, text, _ = attack(*words, "--out", tmp_path / "o.wav", "--json")
    assert status == 0
    record = json.loads(text)
    assert record["target_success"] and record["passes"] and record["excess"] <= 0
    benign = statistics_table(read_benign(scores))
    for name in ("mean_predictive_entropy", "max_expected_entropy"):
        detector = GaussianDetector(two_sided=True, statistic=name).fit(benign).calibrate(0.01, benign)
        assert not detector.is_attack({name: [record["statistics"][name]]})[0]
    status, text, _ = attack(*words, "--out", tmp_path / "o.wav", "--force")
    assert status == 0 and "detectors it knows: passes, score -" in " ".join(text.split("\n    "))
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)


def test_attack_is_made_again_when_the_detectors_are_others(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_dir = Path(shutil.copytree(place / "exp/dnn", tmp_path / "exp/dnn"))
    options = ["--statistics", "mean_predictive_entropy", "--num-rounds", "1", "--num-steps", "2", "--num-utts", "1"]
    places = [place / "wavs", model_dir, model_dir / "graph", tmp_path / "attack"]
    words = ["nnet-attack", *options, "--lang-dir", place / "data/lang", *places]
    made = []
    for mean in (0.1, 0.1, 0.3):
        lines = [benign_line(f"u{k}", mean + 0.01 * k) for k in range(9)]
        (tmp_path / "fit.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert main(["fit-detector", "--scored", str(tmp_path / "fit.jsonl"), str(model_dir)]) == 0
        assert main([str(word) for word in words]) == 0
        made.append((tmp_path / "attack/results.jsonl").read_text())
    assert made[0] == made[1] != made[2]
    assert json.loads(made[0])["excess"] != json.loads(made[2])["excess"]


def test_attack_of_ones_own_is_made_again_when_its_code_changes(place: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    words = ["nnet-attack", "--method", f"{code}:Mine", "--num-steps", "1", "--num-utts", "1"]
    words += ["--lang-dir", place / "data/lang", place / "wavs", place / "exp/dnn", place / "exp/dnn/graph"]
    for number in (1, 20):  # Python tells byte code that is old by the size of the source, and by its second
        source = f"class Mine(Attack):\n    def record(self, statistics):\n        return {{'number': {number}}}\n"
        code.write_text(f"from kaldi_uq.attacks import Attack\n\n\n{source}")
        for name in [name for name in sys.modules if name.endswith("_mine")]:
            del sys.modules[name]  # as in another process
        assert main([str(word) for word in (*words, tmp_path / "attack")]) == 0
        assert json.loads((tmp_path / "attack/results.jsonl").read_text())["number"] == number


def benign_line(utt: str, value: float) -> dict[str, Any]:
    """A line of ``results.jsonl`` of benign audio."""
    errors = {"ins": 0, "del": 0, "sub": 0, "num_words": 1}
    statistics = {"mean_predictive_entropy": value}
    return {"utt": utt, "text": "one", "hypothesis": "one", "statistics": statistics, "errors": errors}


def test_detectors_that_cannot_be_known_are_refused(place: Path, tmp_path: Path, attack: Run) -> None:
    words = (wav(place), "--target-text", "one", "--model-dir", place / "exp/dnn", "--out", tmp_path / "o.wav")
    asked = (*words, "--statistics", "mean_predictive_entropy")
    assert "exp/dnn/detector: no detectors; kaldi-uq fit-detector makes them" in one_error(attack(*asked))
    assert "none.jsonl: no such file" in one_error(attack(*asked, "--fit", tmp_path / "none.jsonl"))
    lines = [benign_line(f"u{k}", 0.1 * k) for k in range(9)]
    fit = tmp_path / "fit.jsonl"
    fit.write_text("".join(json.dumps(line) + "\n" for line in lines))
    error = one_error(attack(*words, "--statistics", "max_variance", "--fit", fit))
    assert "fit.jsonl: no detector 'max_variance'; there are mean_predictive_entropy, " in error
    error = one_error(attack(*asked, "--fit", fit, "--nes-pairs", "2"))
    assert "either adaptive (statistics) or black_box (nes_pairs)" in error
    error = one_error(attack(*words, "--method-options", "share=0.5"))
    assert "--method-options share=0.5: the attack pgd has no options of its own" in error
    model_dir = Path(shutil.copytree(place / "exp/dnn", tmp_path / "exp/dnn"))
    assert main(["fit-detector", "--scored", str(fit), "--fpr", "0.2", str(model_dir)]) == 0
    error = one_error(attack(*asked, "--model-dir", model_dir, "--lang-dir", place / "data/lang"))
    assert "the threshold of mean_predictive_entropy is for a false-positive rate of 0.2, --fpr asks for 0.01" in error
    assert not (tmp_path / "o.wav").exists()


@pytest.mark.long
def test_bad_input_is_refused_in_one_line_and_writes_nothing(place: Path, tmp_path: Path, attack: Run) -> None:
    model, out = ("--model-dir", place / "exp/dnn"), tmp_path / "out.wav"
    good = (wav(place), "--target-text", "one", *model)
    assert "--target-text is empty" in one_error(attack(wav(place), "--target-text", "  ", *model, "--out", out))
    error = one_error(attack(wav(place), "--target-text", "one zwei", *model, "--out", out))
    assert "'zwei' is not in" in error and "which knows one, three, two" in error
    assert "needs at least" in one_error(attack(wav(place), "--target-text", "three " * 80, *model, "--out", out))
    assert "give --target-text TEXT, or --untargeted" in one_error(attack(wav(place), *model, "--out", out))
    assert "not allowed with" in one_error(attack(*good, "--untargeted", "--out", out))
    assert "--out WAV, or --out-dir DIR" in one_error(attack(*good))
    (tmp_path / "u.conf").write_text("--untargeted=true\n")
    assert "not both" in one_error(attack(*good, "--out", out, "--config", tmp_path / "u.conf"))
    assert "no such file" in one_error(attack(tmp_path / "none.wav", *good[1:], "--out", out))
    write_wav(tmp_path / "short.wav", np.full(50, 9, dtype=np.int16), RATE)
    error = one_error(attack(tmp_path / "short.wav", *good[1:], "--out", out))
    assert "50 samples" in error and "the shortest that can be attacked is 200" in error
    write_wav(tmp_path / "rate.wav", to_int16(read_wav(wav(place))[0]), 2 * RATE)
    assert "sample rate 16000 Hz, expected 8000" in one_error(attack(tmp_path / "rate.wav", *good[1:], "--out", out))
    assert "use --out-dir" in one_error(attack(wav(place), wav(place, 1), *good[1:], "--out", out))
    error = one_error(attack(wav(place), tmp_path / "x/utt00.wav", *good[1:], "--out-dir", tmp_path))
    assert "one at a time" in error
    error = one_error(attack(*good, "--out", out, "--eps", "2"))
    assert "eps must be a number in [0, 1]" in error
    error = one_error(attack(wav(place), "--target-text", "one", "--model-dir", tmp_path, "--out", out))
    assert "final.safetensors: no such model; steps/uq/train.sh makes it" in error
    assert not out.exists()


def test_no_file_is_replaced_unasked(place: Path, tmp_path: Path, attack: Run) -> None:
    source = Path(shutil.copy(wav(place), tmp_path / "in.wav"))
    before = source.read_bytes()
    words = (source, "--target-text", "one", "--model-dir", place / "exp/dnn", "--num-steps", "2")
    link = tmp_path / "link.wav"
    link.symlink_to(source)
    for out in (source, tmp_path / "." / "in.wav", link):
        for force in ((), ("--force",)):
            assert "would replace an input" in one_error(attack(*words, "--out", out, *force))
    out = tmp_path / "out.wav"
    out.write_text("mine")
    assert "exists already" in one_error(attack(*words, "--out", out))
    assert out.read_text() == "mine"
    assert "is a directory" in one_error(attack(*words, "--out", tmp_path))
    assert attack(*words, "--out", out, "--force")[0] == 0
    assert len(read_wav(out)[0]) == len(read_wav(source)[0])
    assert source.read_bytes() == before


def test_lexicon_is_asked_for_where_it_is_not_found(
    place: Path, tmp_path: Path, attack: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = Path(shutil.copytree(place / "exp/dnn", tmp_path / "exp/dnn"))
    monkeypatch.chdir(tmp_path)
    words = (wav(place), "--target-text", "one", "--model-dir", model_dir, "--out", tmp_path / "o.wav")
    assert "--lang-dir" in one_error(attack(*words))
    assert attack(*words, "--lang-dir", place / "data/lang", "--num-steps", "1")[0] == 0
    shutil.copytree(place / "data/lang", tmp_path / "data/lang")
    assert attack(*words, "--num-steps", "1", "--force")[0] == 0


def test_example_of_any_module_runs() -> None:
    import doctest

    assert doctest.testmod(kaldi_uq.attacks).failed == 0
    assert doctest.testmod(kaldi_uq.attacks).attempted > 0


def test_any_module_from_waveforms_to_log_posteriors_can_be_attacked() -> None:
    torch.manual_seed(0)

    class Own(nn.Module):
        """Four classes from the spectrum of frames of 50 samples: nothing of this package."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(26, 4)

        def forward(self, x: Tensor) -> Tensor:
            frames = torch.fft.rfft(x.unfold(1, 50, 50)).abs()
            return torch.log_softmax(self.layer(frames), -1)

    model = Own()
    rng = np.random.default_rng(0)
    audio = torch.from_numpy((rng.integers(-3000, 3000, (2, 500)) / 32768).astype(np.float32))
    sizes, lengths = torch.tensor([500, 400]), torch.tensor([10, 8])
    audio[1, 400:] = 0
    goal = CrossEntropy(torch.full((2, 10), 3), lengths)
    config = AttackConfig(eps=0.2, num_steps=50)
    result = run_attack(lambda x, sizes, rows: model(x)[None], audio, goal, LInf(audio, sizes, config.eps), config)
    heard = model(result.wav).argmax(-1)
    assert (heard[0] == 3).all() and (heard[1, :8] == 3).all()
    assert not (model(audio).argmax(-1)[0] == 3).all()
    assert (result.wav - audio).abs().max() <= config.eps + 1e-7
    assert (result.wav[1, 400:] == 0).all()
