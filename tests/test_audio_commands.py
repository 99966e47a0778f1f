"""FLAC, recognised pipes and other sample rates through the commands around a model: as WAV files would have it."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.io.datadir import write_table
from kaldi_uq.io.wav import on_grid, read_wav, to_int16
from tests.audio_files import write
from tests.tiny import RATE, make_system, make_waves, write_set

NAMES = ("utt00", "utt01", "utt02")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with exp/dnn, data/lang and data/{wav,flac,flac24,twice}: one speech, the last at twice the rate."""
    folder = tmp_path_factory.mktemp("audio")
    system = make_system(folder)
    model_dir = folder / "exp/dnn"
    system.train().save(model_dir / "final.safetensors")
    for name in ("final.mdl", "tree"):
        shutil.copy(system.mono / name, model_dir)
    shutil.copytree(system.graph, model_dir / "graph")
    (folder / "data").mkdir()
    shutil.copytree(system.lang.path, folder / "data/lang")
    waves, text = make_waves(3, seed=2)
    plain = write_set(folder / "data/wav", waves, text)
    for kind in ("flac", "flac24", "twice"):
        data = Path(shutil.copytree(plain, folder / "data" / kind, ignore=shutil.ignore_patterns("wav")))
        table = {}
        for utt, samples in waves.items():
            path = data / f"{utt}.audio"
            if kind == "flac":
                write(path, to_int16(samples), "flac", RATE)
            elif kind == "flac24":
                fine = samples.astype(np.float64) + 0.4 / 32768
                write(path, np.rint(fine * 2**31).astype(np.int32), "flac24", RATE)
            else:
                write(path, np.repeat(to_int16(samples), 2), "flac", 2 * RATE)
            table[utt] = f"flac -c -d -s {path} |"
        write_table(data / "wav.scp", table)
    benign = [str(path) for path in sorted((plain / "wav").iterdir())]
    assert main(["fit-detector", str(model_dir), *benign * 4]) == 0
    return folder


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def decode(place: Path, name: str, out: Path, *options: str) -> list[dict]:
    model = place / "exp/dnn"
    assert run("nnet-decode", *options, place / "data" / name, model, model / "graph", out) == 0
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def attack(place: Path, name: str, out: Path, *options: str) -> dict[str, np.ndarray]:
    model = place / "exp/dnn"
    words = ["--eps", "0.1", "--num-steps", "5", "--lang-dir", place / "data/lang", *options]
    assert run("nnet-attack", *words, place / "data" / name, model, model / "graph", out) == 0
    found = {}
    for utt in NAMES:
        with wave.open(str(out / "wav" / f"{utt}.wav")) as stream:
            assert stream.getparams()[:3] == (1, 2, RATE)
            found[utt] = np.frombuffer(stream.readframes(1 << 20), "<i2") / np.float32(32768)
    return found


def test_flac_is_decoded_and_attacked_as_the_wav_files_are(place: Path, tmp_path: Path) -> None:
    assert decode(place, "flac", tmp_path / "flac") == decode(place, "wav", tmp_path / "wav")
    flac, wavs = (attack(place, kind, tmp_path / f"attack_{kind}") for kind in ("flac", "wav"))
    assert all(np.array_equal(flac[utt], wavs[utt]) for utt in NAMES)


def test_attack_on_24_bits_is_written_as_16_and_keeps_its_bound(place: Path, tmp_path: Path) -> None:
    found = attack(place, "flac24", tmp_path / "attack")
    for utt in NAMES:
        original = read_wav(place / f"data/flac24/{utt}.audio")[0]
        assert not np.array_equal(original, on_grid(original))
        assert 0 < np.abs(found[utt] - on_grid(original)).max() <= 0.1


def test_attack_on_audio_of_another_rate_is_of_the_models(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    model = place / "exp/dnn"
    words = ["nnet-decode", place / "data/twice", model, model / "graph", tmp_path / "x"]
    assert run(*words) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "sample rate 16000 Hz, expected 8000 Hz" in line and "--resample" in line
    found = attack(place, "twice", tmp_path / "attack", "--resample")
    assert f"{place / 'data/twice'}: 3 of 3 resampled from 16000 Hz to 8000 Hz" in caplog.messages
    for utt in NAMES:
        assert len(found[utt]) == len(read_wav(place / f"data/wav/wav/{utt}.wav")[0])
    assert len(decode(place, "twice", tmp_path / "decoded", "--resample", "--max-bad", "1")) == 3


def test_one_file_is_attacked(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("flac", "twice"):
        options = ["--num-steps", "2", "--eps", "0.1", "--untargeted", "--model-dir", place / "exp/dnn", "--resample"]
        out = tmp_path / f"{kind}.wav"
        assert run("attack", place / f"data/{kind}/utt00.audio", "--out", out, *options) == 0
        with wave.open(str(out)) as stream:
            assert stream.getparams()[:3] == (1, 2, RATE)
    assert run("attack", place / "data/twice/utt00.audio", "--out", tmp_path / "no.wav", *options[:-1]) == 1
    assert "--resample" in capsys.readouterr().err


def test_flac_is_judged_as_the_wav_file_is(
    place: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def judged(*words: str | Path) -> list[dict]:
        capsys.readouterr()
        assert run("detect", place / "exp/dnn", "--json", *words) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [{key: value for key, value in line.items() if key not in ("path", "utt")} for line in lines]

    expected = judged(*[place / f"data/wav/wav/{utt}.wav" for utt in NAMES])
    assert judged(*[place / f"data/flac/{utt}.audio" for utt in NAMES]) == expected
    assert judged("--scp", place / "data/flac/wav.scp") == expected
    assert len(judged("--resample", "--scp", place / "data/twice/wav.scp")) == 3
    assert caplog.messages[-1] == f"{place}/data/twice/wav.scp: 3 of 3 resampled from 16000 Hz to 8000 Hz"
    assert run("detect", place / "exp/dnn", "--scp", place / "data/twice/wav.scp") == 1
