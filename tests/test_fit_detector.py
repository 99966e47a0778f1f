"""kaldi-uq fit-detector: detectors from benign audio or scores alone, the same as detection fits and uses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.detector import JointDetector, load_detectors
from kaldi_uq.detector.normal import load_frame_quantiles
from kaldi_uq.io.files import file_digest
from kaldi_uq.io.wav import on_grid, read_wav, to_int16, write_wav
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.user_code import load_object
from tests.recipe import Recipe
from tests.test_detector import two_statistics, write_scores
from tests.tiny import FRONT_END, RATE, make_system, make_waves


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dropout/, a model with random weights, and wav/, 24 files."""
    folder = tmp_path_factory.mktemp("fit")
    system = make_system(folder)
    (folder / "dropout").mkdir()
    HybridModel(FRONT_END, system.network("dropout")).save(folder / "dropout/final.safetensors")
    for name in ("final.mdl", "tree"):
        shutil.copy(system.mono / name, folder / "dropout")
    for name, wave in make_waves(24, seed=3)[0].items():
        write_wav(folder / f"wav/{name}.wav", to_int16(wave), RATE)
    return folder


@pytest.fixture
def model_dir(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place / "dropout", tmp_path / "dropout"))


def test_detectors_of_wav_files_are_those_of_what_the_model_measures_in_them(
    place: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wavs = sorted(map(str, place.glob("wav/*.wav")))
    options = ["--num-draws", "3", "--device", "cpu", "--seed", "5", "--fpr", "0.1"]
    assert main(["fit-detector", *options, str(model_dir), *wavs]) == 0
    out, err = capsys.readouterr()
    assert out == f"{model_dir}/detector: 48 detectors, thresholds for a false-positive rate of 0.1\n"
    assert "warning" not in err
    recogniser = Recogniser.load(model_dir, num_draws=3, device="cpu")
    waves = {f"{number}": on_grid(wave) for number, wave in enumerate(make_waves(24, seed=3)[0].values())}
    heard = [recogniser.hear({name: wave}, words=False, seed=5)[name] for name, wave in waves.items()]  # one by one
    benign = {name: np.array([one.statistics[name] for one in heard]) for name in heard[0].statistics}
    for detector in load_detectors(model_dir / "detector").values():
        assert detector.fpr == 0.1
        scores = detector.held_out if isinstance(detector, JointDetector) else detector.score(benign)
        assert detector.benign_score(0.5) == pytest.approx(np.median(scores))
    frames = load_frame_quantiles(model_dir / "detector/frame_quantiles.json")
    assert frames.model == file_digest(model_dir / "final.safetensors")
    values = np.concatenate([one.frames["akld"] for one in heard])
    assert frames.num_frames == len(values)
    assert frames.threshold("akld", 0.99) == pytest.approx(np.quantile(values, 0.99, method="inverted_cdf"), rel=1e-3)


def test_no_engine_is_needed_and_a_network_of_ones_own_is_heard(
    place: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KALDI_ROOT", "/no such/kaldi")
    wavs = sorted(map(str, place.glob("wav/*.wav")))[:4]
    assert main(["fit-detector", "--num-draws", "2", str(model_dir), *wavs]) == 0
    source = tmp_path / "own.py"
    source.write_text("import torch\n\ndef network(dim, num_pdfs):\n    return torch.nn.Linear(dim, num_pdfs)\n")
    own = HybridModel.from_factory(FRONT_END, load_object(f"{source}:network"), 6)
    own.save(tmp_path / "own/final.safetensors")
    capsys.readouterr()
    assert main(["fit-detector", str(tmp_path / "own"), *wavs]) == 1
    assert "name its code with --network" in capsys.readouterr().err
    assert main(["fit-detector", "--network", f"{source}:network", str(tmp_path / "own"), *wavs]) == 0
    detector = load_detectors(tmp_path / "own/detector")["mean_predictive_entropy"]
    waves = {name: read_wav(name)[0] for name in wavs}
    heard = Recogniser(own.eval(), None, tmp_path).hear(waves, words=False).values()
    assert detector.benign_mean[0] == pytest.approx(
        np.mean([one.statistics["mean_predictive_entropy"] for one in heard])
    )


def test_few_files_give_a_warning_in_one_line(place: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wavs = sorted(map(str, place.glob("wav/*.wav")))
    assert main(["fit-detector", "--num-draws", "2", str(model_dir), *wavs[:5]]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "5 benign files are too few" in err and "use 100 or more" in err


def test_scores_give_detectors_and_no_attack_is_needed(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = write_scores(model_dir / "score_fit/results.jsonl", two_statistics(0, 50))
    shutil.copy(model_dir / "final.mdl", model_dir / "detector.json")  # no detector, and nobody looks at it
    assert main(["fit-detector", "--scored", str(scores), str(model_dir)]) == 0
    assert (
        capsys.readouterr().out == f"{model_dir}/detector: 9 detectors, thresholds for a false-positive rate of 0.01\n"
    )
    benign = two_statistics(0, 50)
    for detector in load_detectors(model_dir / "detector").values():
        scores = detector.held_out if isinstance(detector, JointDetector) else detector.score(benign)
        assert detector.benign_score(0.99) == np.quantile(scores, 0.99)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give WAV files, or --scored JSONL"),
        (["a.wav", "--scored", "x.jsonl"], "give WAV files, or --scored JSONL, not both"),
        (["a.wav"], "a.wav: no such file"),
        (["--scored", "x.jsonl"], "x.jsonl: no such file"),
        (["a.wav", "--fpr", "1"], "expected a number between 0 and 1, got '1'"),
    ],
)
def test_wrong_inputs_are_one_line_and_nothing_is_made(
    words: list[str], message: str, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["fit-detector", str(model_dir), *words])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    err = capsys.readouterr().err
    assert status == 1 and err.count("\n") == 1 and message in err
    assert not (model_dir / "detector").exists()


def test_one_file_is_not_enough(place: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit-detector", str(model_dir), str(place / "wav/utt00.wav")]) == 1
    assert "at least 2 benign utterances, got 1" in capsys.readouterr().err
    assert not (model_dir / "detector").exists()


def test_script_fits_what_detection_then_uses(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.clone(tmp_path / "recipe")
    detectors = recipe.path / "exp/dnn/detector"
    before = {path.name: path.read_text() for path in detectors.glob("*.json")}
    results = recipe.results()
    shutil.rmtree(detectors)
    done = recipe.run("steps/uq/fit_detector.sh", "exp/dnn", "exp/dnn/score_fit")
    assert done.returncode == 0, done.stderr
    assert "exp/dnn/detector: 21 detectors, thresholds for a false-positive rate of 0.01" in done.stderr
    assert {path.name: path.read_text() for path in detectors.glob("*.json")} == before
    made = {path: path.stat().st_mtime_ns for path in detectors.glob("*.json")}
    assert recipe.run("local/detect.sh", "--eps", "0.02").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in detectors.glob("*.json")} == made  # only measured
    assert recipe.results()["detection"] == results["detection"]
