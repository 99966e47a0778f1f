"""kaldi-uq detect: verdicts, words and suspicious parts of WAV files, and what it does with files that are no good.

One file: all tests ask the same trained recogniser, which takes seconds to make.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from kaldi_uq.cli.main import main
from kaldi_uq.detector import GaussianDetector, MultivariateGaussianDetector, save_detector
from kaldi_uq.detector.normal import PROBABILITIES, QuantileSketch, load_frame_quantiles, stretches_above
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.errors import DataError
from kaldi_uq.feats.config import FrontEndConfig, MfccConfig
from kaldi_uq.io.wav import write_wav
from kaldi_uq.nnet.base import AcousticModel
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.nnet.kinds.bnn import BnnModel
from kaldi_uq.nnet.kinds.dropout import DropoutConfig
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.results.utterances import read_benign
from tests.tiny import FRONT_END, RATE, TinySystem, make_system, make_waves, write_set

Detect = Callable[..., tuple[int, str, str]]


def noisy(waves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Noise in the middle third: no attack, but as little like benign speech as one."""
    rng = np.random.default_rng(1)
    changed = {}
    for utt, wav in waves.items():
        third = len(wav) // 3
        changed[utt] = wav.copy()
        changed[utt][third : 2 * third] += (0.2 * rng.standard_normal(third)).astype(np.float32)
    return changed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with dnn/ (model, graph, detector/), fit/, test/ and noisy/, made by the commands."""
    folder = tmp_path_factory.mktemp("detect")
    system = make_system(folder)
    model_dir = folder / "dnn"
    system.train().save(model_dir / "final.safetensors")
    for name in ("final.mdl", "tree"):
        shutil.copy(system.mono / name, model_dir)
    shutil.copytree(system.graph, model_dir / "graph")
    write_set(folder / "fit", *make_waves(40, seed=1))
    waves, text = make_waves(8, seed=2)
    write_set(folder / "test", waves, text)
    write_set(folder / "noisy", noisy(waves), text)
    for name in ("fit", "test", "noisy"):
        words = [folder / name, model_dir, model_dir / "graph", model_dir / f"score_{name}"]
        assert main(["nnet-decode", *map(str, words)]) == 0
    lines = []
    for record in read_benign(model_dir / "score_noisy/results.jsonl"):
        line = {"utt": record.utt, "eps": 0.2, "original": record.text, "hypothesis": record.hypothesis}
        lines.append(line | {"original_errors": record.errors.counts(), "statistics": record.statistics})
    (folder / "attacked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    nnet_detect(folder)
    return folder


def nnet_detect(folder: Path) -> None:
    files = {"fit": "dnn/score_fit/results.jsonl", "benign": "dnn/score_test/results.jsonl"}
    files |= {"attacked": "attacked.jsonl", "results": "results.json", "detector-dir": "dnn/detector"}
    options = [word for name, path in files.items() for word in (f"--{name}", str(folder / path))]
    assert main(["nnet-detect", *options, "--model", "dnn", "--attack", "noise", "--eps", "0.2"]) == 0


@pytest.fixture
def detect(capsys: pytest.CaptureFixture[str]) -> Detect:
    """Run the command; its status, output and errors."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main(["detect", *map(str, words)])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """A copy of the model directory, to damage."""
    return Path(shutil.copytree(place / "dnn", tmp_path / "dnn"))


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def wavs(folder: Path) -> list[Path]:
    return sorted((folder / "wav").glob("*.wav"))


# what is normal in a frame


@pytest.mark.parametrize("scale", [1e-6, 1.0, 10.0])
def test_sketch_quantile_is_within_a_thousandth_above_the_exact_one(scale: float) -> None:
    values = scale * np.random.default_rng(0).lognormal(sigma=2.0, size=20_011).astype(np.float32)
    sketch = QuantileSketch()
    for part in np.array_split(values, 7):
        sketch.add(part)
    for probability in PROBABILITIES:
        exact = np.quantile(values.astype(np.float64), probability, method="inverted_cdf")
        assert exact <= sketch.quantile(probability) <= 1.001 * exact
        assert np.mean(values > sketch.quantile(probability)) <= 1 - probability


def test_sketch_counts_zeros_and_refuses_what_is_not_finite() -> None:
    sketch = QuantileSketch()
    sketch.add(np.array([0.0, 0.0, 0.0, 2.0]))
    assert sketch.quantile(0.75) <= 1e-9
    assert sketch.quantile(0.76) == pytest.approx(2.0, rel=1e-3)
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        sketch.add(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="no values"):
        QuantileSketch().quantile(0.5)


def test_decoding_writes_the_quantiles_of_all_its_frames_and_detection_takes_them_along(place: Path) -> None:
    quantiles = load_frame_quantiles(place / "dnn/score_fit/frame_quantiles.json")
    waves, _ = make_waves(40, seed=1)
    scored = Recogniser.load(place / "dnn", device="cpu").score(waves)
    frames = np.concatenate([one.frames["predictive_entropy"] for _, one in scored]).astype(np.float64)
    assert quantiles.num_frames == len(frames)
    exact = np.quantile(frames, PROBABILITIES, method="inverted_cdf")
    np.testing.assert_allclose(quantiles.measures["predictive_entropy"], exact, rtol=1.1e-3)
    assert load_frame_quantiles(place / "dnn/detector/frame_quantiles.json") == quantiles


def test_decoding_again_makes_a_missing_file_of_quantiles(place: Path, copy: Path) -> None:
    made = copy / "score_test/frame_quantiles.json"
    for _ in range(2):  # the second time the step is otherwise up to date
        made.unlink()
        assert main(["nnet-decode", *map(str, [place / "test", copy, copy / "graph", copy / "score_test"])]) == 0
    assert made.read_text() == (place / "dnn/score_test/frame_quantiles.json").read_text()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": 2}, "expected an object"),
        ({"num_frames": True}, "num_frames"),
        ({"probabilities": [0.5, 0.5, 0.9, 0.95, 0.99, 0.999]}, "rise within"),
        ({"measures": {}}, "at least one measure"),
        ({"measures": {"akld": [1, 2]}}, "'akld' has 2 quantiles, expected 6"),
        ({"measures": {"akld": [1, 2, 3, 4, 5, float("nan")]}}, "'akld' must be a list of rising"),
        ({"measures": {"akld": ["__import__('os')"] * 6}}, "'akld' must be a list of rising"),
        ({"model": 3}, "digest of a model"),
    ],
)
def test_damaged_file_of_quantiles_is_refused_with_its_name(
    place: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content = json.loads((place / "dnn/score_fit/frame_quantiles.json").read_text())
    path = tmp_path / "q.json"
    path.write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=message) as error:
        load_frame_quantiles(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    "above, expected",
    [
        ("......", []),
        ("x.....", []),  # one frame alone
        ("xx....", [(0, 2)]),
        ("....xx", [(4, 6)]),
        ("xxxxxx", [(0, 6)]),
        ("xx.xxx", [(0, 6)]),  # windows on both sides of one frame share audio
        ("xx..xx", [(0, 2), (4, 6)]),
        ("x.x.x.", []),
        ("xx.x..", [(0, 2)]),
    ],
)
def test_stretches_are_at_least_two_frames_long(above: str, expected: list[tuple[int, int]]) -> None:
    values = np.array([2.0 if c == "x" else 1.0 for c in above])
    found = stretches_above(values, 1.0, 0.01)
    assert [(s.start_s, s.end_s) for s in found] == [(a / 100, b / 100) for a, b in expected]


# verdicts


def test_verdicts_are_the_detectors_on_the_statistics_of_decoding(place: Path, detect: Detect) -> None:
    fit = {r.utt: r.statistics["mean_predictive_entropy"] for r in read_benign(place / "dnn/score_fit/results.jsonl")}
    by_hand = (
        GaussianDetector(statistic="mean_predictive_entropy")
        .fit(list(fit.values()))
        .calibrate(0.01, list(fit.values()))
    )
    decoded = {r.utt: r for r in read_benign(place / "dnn/score_noisy/results.jsonl")}
    words = ["--statistic", "mean_predictive_entropy", "--json"]
    status, out, err = detect(place / "dnn", *wavs(place / "noisy"), *words)
    assert (status, err) == (0, "")
    for record, path in zip(records(out), wavs(place / "noisy"), strict=True):
        value = [decoded[path.stem].statistics["mean_predictive_entropy"]]
        assert record["path"] == str(path)
        assert record["statistic"] == "mean_predictive_entropy"
        assert record["value"] == pytest.approx(value[0], rel=1e-5)  # batches of other sizes round differently
        assert record["score"] == pytest.approx(by_hand.score(value)[0], rel=1e-4)
        assert record["p_value"] == pytest.approx(by_hand.p_value(value)[0], rel=1e-3)
        assert record["threshold"] == by_hand.threshold
        assert record["verdict"] == ("attack" if by_hand.is_attack(value)[0] else "benign")
        assert record["hypothesis"] == decoded[path.stem].hypothesis


def test_clean_speech_is_benign_and_its_words_are_heard(place: Path, detect: Detect) -> None:
    _, text = make_waves(8, seed=2)
    _, out, _ = detect(place / "dnn", *wavs(place / "test"), "--json")
    assert {r["verdict"] for r in records(out)} == {"benign"}
    assert [r["hypothesis"].split() for r in records(out)] == list(text.values())


def test_suspicious_parts_are_where_the_audio_was_changed(place: Path, detect: Detect) -> None:
    _, out, _ = detect(place / "dnn", *wavs(place / "noisy"), "--json")
    waves, _ = make_waves(8, seed=2)
    found = 0
    for record, wav in zip(records(out), waves.values(), strict=True):
        third = len(wav) // 3 / RATE
        for (start, end), value in zip(record["suspicious_frames"], record["suspicious_values"], strict=True):
            assert 0.0199 <= end - start
            assert value > record["frame_threshold"]
            assert third - 0.06 < start < end < 2 * third + 0.06  # the context of a frame reaches 3 frames further
            found += 1
    assert found >= len(waves)


def test_output_follows_the_arguments_and_a_file_given_twice_is_answered_twice(place: Path, detect: Detect) -> None:
    one, two = wavs(place / "test")[:2]
    _, out, _ = detect("--json", place / "dnn", two, one, "--seed", "3", two)
    assert [r["path"] for r in records(out)] == [str(two), str(one), str(two)]


def test_a_verdict_does_not_depend_on_the_other_files(place: Path, detect: Detect) -> None:
    alone = records(detect(place / "dnn", "--json", wavs(place / "test")[3])[1])[0]
    among = records(detect(place / "dnn", "--json", *wavs(place / "test"))[1])[3]
    assert alone["value"] == pytest.approx(among["value"], rel=1e-5)
    assert {k: alone[k] for k in ("path", "verdict", "hypothesis")} == {
        k: among[k] for k in ("path", "verdict", "hypothesis")
    }


def test_text_has_everything_in_80_columns(place: Path, detect: Detect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    status, out, err = detect("dnn", "test/wav/utt00.wav", "noisy/wav/utt00.wav")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    _, text = make_waves(1, seed=2)
    assert "dnn/detector/all-joint.json (joint, false-positive rate 0.01)" in out
    # one posterior: the expected entropy is the predictive one, and is not shown again
    assert "predictive entropy" in out and "expected entropy" not in out and " (benign " in out
    assert "benign test/wav/utt00.wav\n" in out
    assert "ATTACK noisy/wav/utt00.wav\n" in out
    assert f"heard: {' '.join(text['utt00'])}\n" in out
    assert "1 of 2 files judged an attack" in out


@pytest.mark.parametrize("files, status", [(["test"], 0), (["noisy"], 2), (["test", "noisy"], 2)])
def test_fail_on_attack_exits_with_2(place: Path, detect: Detect, files: list[str], status: int) -> None:
    paths = [place / name / "wav/utt00.wav" for name in files]
    assert detect(place / "dnn", *paths)[0] == 0
    assert detect(place / "dnn", "--fail-on-attack", *paths)[0] == status


def test_audio_that_is_too_certain_is_said_to_be(place: Path, tmp_path: Path, copy: Path, detect: Detect) -> None:
    detector = GaussianDetector(statistic="mean_predictive_entropy").fit([0.99, 1.01]).calibrate(0.01)
    save_detector(detector, copy / "detector/other.json")
    status, out, _ = detect(copy, "--detector", copy / "detector/other.json", wavs(place / "test")[0])
    assert status == 0
    assert "ATTACK" in out
    assert "more certain than benign speech" in " ".join(out.split())


def test_fpr_takes_the_threshold_of_the_detectors_model(place: Path, detect: Detect) -> None:
    words = ["--statistic", "mean_predictive_entropy", "--json", "--fpr", "0.2"]
    _, out, _ = detect(place / "dnn", *words, wavs(place / "test")[0])
    record = records(out)[0]
    assert record["threshold"] == pytest.approx(stats.norm.isf(0.1))
    assert record["fpr"] == 0.2
    status, out, err = detect(place / "dnn", "--fpr", "1.5", wavs(place / "test")[0])
    assert (status, out) == (1, "")
    assert "expected a number between 0 and 1, got '1.5'" in err


def test_detector_of_several_statistics_gives_all_its_values(place: Path, copy: Path, detect: Detect) -> None:
    fit = [r.statistics for r in read_benign(place / "dnn/score_fit/results.jsonl")]
    names = ("mean_predictive_entropy", "max_predictive_entropy")
    detector = MultivariateGaussianDetector(names).fit({n: [s[n] for s in fit] for n in names})
    path = copy / "detector/both.json"
    save_detector(detector, path)
    status, out, err = detect(copy, "--detector", path, wavs(place / "test")[0])
    assert (status, out) == (1, "")
    assert "no threshold" in err
    assert "--fpr" in err
    _, out, _ = detect(copy, "--json", "--detector", path, "--fpr", "0.01", wavs(place / "test")[0])
    record = records(out)[0]
    assert record["statistic"] == ",".join(names)
    assert list(record["value"]) == list(names)


def test_all_statistics_judge_by_default_and_the_recommended_one_where_an_earlier_fit_has_no_such_detector(
    place: Path, copy: Path, detect: Detect, caplog: pytest.LogCaptureFixture
) -> None:
    _, out, _ = detect(copy, "--json", wavs(place / "noisy")[0])
    fit = read_benign(place / "dnn/score_fit/results.jsonl")
    assert records(out)[0]["statistic"] == ",".join(fit[0].statistics)
    (copy / "detector/all-joint.json").unlink()
    _, out, _ = detect(copy, "--json", wavs(place / "noisy")[0])
    assert records(out)[0]["statistic"] == "mean_predictive_entropy"
    assert "all-joint.json: no such detector; mean_predictive_entropy.json, of one statistic, judges" in caplog.text


def test_recommended_statistics_are_measured_by_their_models(place: Path) -> None:
    system = TinySystem(None, place / "dnn", place / "dnn/graph", {}, {})  # type: ignore[arg-type]
    waves, _ = make_waves(1)
    found = {}
    for kind in MODEL_KINDS:
        model = HybridModel(FRONT_END, system.network(kind)).eval()
        recogniser = Recogniser(model, EmbeddedEngine(), place / "dnn")
        (heard,) = recogniser.hear(waves, words=False).values()
        found[kind] = recogniser.recommended_statistic
        assert found[kind] in heard.statistics
    assert found == {
        "dnn": "mean_predictive_entropy",
        "ensemble": "max_mutual_information",
        "dropout": "mean_akld",
        "bnn": "q95_mutual_information",
    }
    assert AcousticModel.recommended_statistic == "mean_predictive_entropy"  # of somebody's own network


def test_random_model_gives_the_same_verdict_for_the_same_seed(place: Path, copy: Path, detect: Detect) -> None:
    system = TinySystem(None, place / "dnn", place / "dnn/graph", {}, {})  # type: ignore[arg-type]
    HybridModel(FRONT_END, system.network("bnn")).save(copy / "final.safetensors")
    shutil.rmtree(copy / "detector")
    name = BnnModel.recommended_statistic
    save_detector(GaussianDetector(statistic=name).fit([0.0, 1.0]).calibrate(), copy / f"detector/{name}.json")
    wav = wavs(place / "test")[0]
    values = [records(detect(copy, "--json", "--seed", s, wav)[1])[0]["value"] for s in ("0", "0", "1")]
    assert values[0] == values[1] != values[2]
    few = records(detect(copy, "--json", "--num-draws", "2", wav)[1])[0]["value"]
    assert few != values[0]


# wav.scp


def test_table_of_files_is_judged_and_each_line_has_its_utterance(place: Path, detect: Detect) -> None:
    status, out, _ = detect(place / "dnn", "--json", "--scp", place / "test/wav.scp")
    assert status == 0
    assert [r["utt"] for r in records(out)] == sorted(make_waves(8)[0])
    assert "benign utt00 " in detect(place / "dnn", "--scp", place / "test/wav.scp")[1]


def test_pipe_in_a_table_is_refused_and_not_run(place: Path, tmp_path: Path, detect: Detect) -> None:
    (tmp_path / "wav.scp").write_text(f"a touch {tmp_path}/ran |\n")
    status, out, err = detect(place / "dnn", "--scp", tmp_path / "wav.scp")
    assert (status, out) == (1, "")
    assert "wav.scp:1: 'a': 'touch " in err and "is a pipe" in err and "--allow-pipes" in err
    assert not (tmp_path / "ran").exists()


# bad input


def bad_wav(path: Path, kind: str) -> None:
    if kind == "rate":
        write_wav(path, np.ones(9000, dtype=np.int16), 16000)
    elif kind == "short":
        write_wav(path, np.ones(100, dtype=np.int16), RATE)
    elif kind == "silent":
        write_wav(path, np.zeros(9000, dtype=np.int16), RATE)
    elif kind == "text":
        path.write_text("not audio")
    elif kind == "directory":
        path.mkdir()
    elif kind == "cut":
        write_wav(path, np.ones(9000, dtype=np.int16), RATE)
        path.write_bytes(path.read_bytes()[:4000])


@pytest.mark.parametrize(
    "kind, message",
    [
        ("missing", "no such file"),
        ("rate", "sample rate 16000 Hz, expected 8000 Hz"),
        ("short", "100 samples (0.0125 s), the shortest that can be judged is 200 (0.0250 s)"),
        ("silent", "silent"),
        ("text", "not a WAV file"),
        ("directory", "a directory, expected a regular file"),
        ("cut", "truncated"),
    ],
)
def test_bad_file_is_named_with_its_fault_and_the_other_is_judged(
    place: Path, tmp_path: Path, detect: Detect, kind: str, message: str
) -> None:
    bad = tmp_path / "bad.wav"
    bad_wav(bad, kind)
    status, out, err = detect(place / "dnn", bad, wavs(place / "test")[0])
    assert (status, err.count("\n")) == (1, 1)
    assert f"{bad}: " in err
    assert message in err
    assert f"ERROR {bad}\n" in out and message in " ".join(out.split())
    assert f"benign {wavs(place / 'test')[0]}\n" in out
    assert "\n0 of 2 files judged an attack; 1 cannot be judged\n" in out


def test_file_name_of_any_bytes_is_judged(place: Path, tmp_path: Path, detect: Detect) -> None:
    odd = tmp_path / os.fsdecode(b"a \xff.wav")
    shutil.copy(wavs(place / "test")[0], odd)
    assert records(detect(place / "dnn", "--json", odd)[1])[0]["path"] == f"{tmp_path}/a \\xff.wav"


def test_all_bad_files_are_named(place: Path, tmp_path: Path, detect: Detect) -> None:
    _, out, err = detect(place / "dnn", tmp_path / "a.wav", wavs(place / "test")[0], tmp_path / "b.wav")
    assert err.count("\n") == 1
    assert f"{tmp_path}/a.wav: no such file; 1 more cannot be judged\n" in err
    assert re.findall(r"(?m)^(ERROR|benign|ATTACK) .*/(\w+)\.wav$", out) == [
        ("ERROR", "a"),
        ("benign", "utt00"),
        ("ERROR", "b"),
    ]


def test_files_or_a_table_must_be_given_and_not_both(place: Path, detect: Detect) -> None:
    assert "give WAV files, or --scp FILE\n" in detect(place / "dnn")[2]
    both = detect(place / "dnn", "--scp", place / "test/wav.scp", wavs(place / "test")[0])
    assert (both[0], both[1]) == (1, "")
    assert "not both" in both[2]


def test_missing_model_and_missing_detector_name_the_step_that_makes_them(
    place: Path, copy: Path, detect: Detect
) -> None:
    wav = wavs(place / "test")[0]
    status, out, err = detect(copy, "--statistic", "max_entropy", wav)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "detector/max_entropy.json: no such detector; kaldi-uq fit-detector makes it of benign speech; there" in err
    assert "; there are " in err and ", max_expected_entropy, " in err
    assert "frame_quantiles" not in err
    assert "no such detector" in detect(copy, "--statistic", "../score_fit/frame_quantiles", wav)[2]
    (copy / "final.safetensors").unlink()
    status, out, err = detect(copy, wav)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "final.safetensors: no such model; steps/uq/train.sh makes it" in err


def test_detector_of_another_model_is_refused(place: Path, copy: Path, detect: Detect) -> None:
    model = HybridModel.load(copy)
    with torch.no_grad():
        next(model.network.parameters()).add_(0.1)
    model.save(copy / "final.safetensors")
    status, out, err = detect(copy, wavs(place / "test")[0])
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "another model" in err


@pytest.mark.parametrize(
    "content, message",
    [
        ("cos\nsystem\n(S'touch ran'\ntR.", "not a JSON file"),
        ('{"py/reduce": [{"py/function": "os.system"}, ["touch ran"]]}', "not a detector file"),
        (
            '{"format": "kaldi-uq-detector", "version": 1, "kind": "os.system", "statistics": ["x"], "fpr": null,'
            ' "threshold": null, "model": {}}',
            "field 'kind' must be one of",
        ),
        (
            '{"format": "kaldi-uq-detector", "version": 1, "kind": "gaussian", "statistics": ["max_variance"],'
            ' "fpr": 0.01, "threshold": 2, "model": {"two_sided": true, "mean": 0, "std": 1}}',
            "looks at 'max_variance'",
        ),
    ],
)
def test_detector_from_elsewhere_is_data_only(
    place: Path, tmp_path: Path, detect: Detect, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stranger.json").write_text(content)
    for beside in (False, True):  # without and with a file of frame quantiles
        if beside:
            shutil.copy(place / "dnn/detector/frame_quantiles.json", tmp_path)
        status, out, err = detect(place / "dnn", "--detector", "stranger.json", wavs(place / "test")[0])
        assert (status, out) == (1, "")
        assert message in err
        assert not Path("ran").exists()


def test_without_frame_quantiles_there_is_a_verdict_and_a_note(place: Path, copy: Path, detect: Detect) -> None:
    (copy / "detector/frame_quantiles.json").unlink()
    status, out, err = detect(copy, "--json", wavs(place / "test")[0])
    assert status == 0
    assert records(out)[0]["suspicious_frames"] is None
    assert records(out)[0]["verdict"] == "benign"
    assert "frame_quantiles.json: no such file" in err
    assert err.count("\n") == 1
    assert "suspicious" not in detect(copy, wavs(place / "test")[0])[1]


def test_detection_forgets_the_frames_of_an_earlier_fit(place: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(place, tmp_path / "all"))
    (folder / "dnn/score_fit/frame_quantiles.json").unlink()
    nnet_detect(folder)
    assert not (folder / "dnn/detector/frame_quantiles.json").exists()


def test_model_file_alone_is_enough_for_a_verdict(place: Path, copy: Path, detect: Detect) -> None:
    shutil.rmtree(copy / "graph")
    for name in ("final.mdl", "tree"):
        (copy / name).unlink()
    wav = wavs(place / "test")[0]
    status, out, err = detect(copy, "--json", wav)
    assert status == 0
    (record,) = records(out)
    assert record == records(detect(place / "dnn", "--json", wav)[1])[0] | {"hypothesis": None}
    assert "final.mdl: no such file; steps/uq/train.sh makes it" in err
    status, out, err = detect(copy, "--graph-dir", place / "dnn/graph", wav)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "final.mdl: no such file" in err


def test_without_a_graph_the_words_are_missing_and_a_graph_asked_for_is_an_error(
    place: Path, copy: Path, tmp_path: Path, detect: Detect
) -> None:
    shutil.rmtree(copy / "graph")
    wav = wavs(place / "test")[0]
    status, out, err = detect(copy, "--json", wav)
    assert status == 0
    assert records(out)[0]["hypothesis"] is None
    assert "utils/mkgraph.sh" in err
    assert records(detect(copy, "--json", "--graph-dir", place / "dnn/graph", wav)[1])[0]["hypothesis"]
    status, out, err = detect(copy, "--graph-dir", tmp_path, wav)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "HCLG.fst: no such file" in err


def test_frame_quantile_moves_the_bar(place: Path, detect: Detect) -> None:
    wav = place / "noisy/wav/utt00.wav"
    shares = []
    for probability in ("0.5", "0.9", "0.999"):
        _, out, _ = detect(place / "dnn", "--json", "--frame-quantile", probability, wav)
        shares.append(records(out)[0]["suspicious_share"])
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]
    status, out, err = detect(place / "dnn", "--frame-quantile", "0.97", wav)
    assert (status, out) == (1, "")
    assert "0.97" in err


def test_verdict_on_a_file_does_not_depend_on_the_files_beside_it() -> None:
    model = HybridModel(
        FrontEndConfig(mfcc=MfccConfig(sample_frequency=8000, high_freq=0)),
        DropoutConfig(num_pdfs=5, hidden_dims=(16, 16), num_samples=7),
    ).eval()
    rng = np.random.default_rng(0)
    waves = {name: rng.normal(0, 0.1, 4000 + 800 * i).astype(np.float32) for i, name in enumerate("abc")}
    recogniser = Recogniser(model, EmbeddedEngine(), Path("none"))
    together = recogniser.hear(waves, alone=True, words=False)
    for name, wave in waves.items():
        (single,) = recogniser.hear({name: wave}, alone=True, words=False).values()
        assert single.statistics == together[name].statistics
    batched = recogniser.hear(waves, words=False)
    assert batched["a"].statistics != together["a"].statistics  # so the option is what makes them equal
