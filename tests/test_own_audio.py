"""Own audio through detect, fit-detector and attack: formats, rates, channels, standard input, and no model named."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kaldi_uq.cli.main import main
from kaldi_uq.io.wav import read_wav
from kaldi_uq.models import DIGITS, STARTER
from tests.audio_files import write

RATE = 16000
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; its status, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return call


def digits(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Something with the rhythm of speech, (N,) or (N, channels) int16: bursts of harmonics in noise."""
    time = np.arange(round(seconds * rate)) / rate
    rng = np.random.default_rng(0)
    tone = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 2 * time) > 0)
    found = np.stack([3000 * tone * (c + 1) / channels + rng.normal(0, 30, len(time)) for c in range(channels)], 1)
    return (found[:, 0] if channels == 1 else found).astype("i2")


def as_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def one_record(out: str) -> dict[str, Any]:
    (line,) = out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


class TestDetect:
    @pytest.mark.parametrize("kind", ["wav", "wav24", "float", "flac", "opus", "mp3", "aiff", "au", "caf", "w64"])
    def test_every_format_is_judged(self, run: Run, tmp_path: Path, kind: str) -> None:
        samples = digits() / np.float32(32768) if kind == "float" else digits()
        status, out, err = run("detect", "--json", write(tmp_path / "a.x", samples, kind))
        record = one_record(out)
        assert status == 0 and record["verdict"] in ("attack", "benign") and record["converted"] is None
        assert f"kaldi-uq detect: {STARTER} listens, as no MODEL-DIR is given: {DIGITS}\n" in err

    @pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
    def test_another_rate_is_an_error_whose_command_works(self, run: Run, tmp_path: Path, rate: int) -> None:
        path = write(tmp_path / "it's a.wav", digits(rate=rate), "wav", rate=rate)
        status, _, err = run("detect", path)
        assert status == 1 and f"sample rate {rate} Hz, expected 16000 Hz" in err
        command = shlex.split(err.splitlines()[-1].partition(": kaldi-uq ")[2])
        assert command == ["detect", "--resample", str(path)]
        status, out, _ = run(*command)
        assert status == 0
        assert f"converted: resampled from {rate} Hz to 16000 Hz, which can undo an attack or make one" in " ".join(
            out.split()
        )
        converted = one_record(run(*command, "--json")[1])["converted"]
        assert converted == {"from_hz": rate, "to_hz": 16000, "channels": 1, "channel": 1, "same": False}

    def test_channels_that_differ_are_an_error_whose_command_works(self, run: Run, tmp_path: Path) -> None:
        path = write(tmp_path / "a.flac", digits(channels=2, rate=8000), "flac", rate=8000)
        status, out, err = run("detect", path)
        assert status == 1 and "1 more" not in err
        assert "2 channels that differ, expected 1; have it resampled with --resample and name what" in err
        command = shlex.split(err.splitlines()[-1].partition(": kaldi-uq ")[2])
        assert command == ["detect", "--resample", "--channel", "1", str(path)]
        status, out, _ = run(*command)
        assert status == 0 and "channel 1 of 2 channels, which differ" in " ".join(out.split())

    def test_channels_that_are_the_same_are_judged_as_one(self, run: Run, tmp_path: Path) -> None:
        both = write(tmp_path / "both.wav", np.repeat(digits()[:, None], 2, axis=1), "wav")
        mono = write(tmp_path / "mono.wav", digits(), "wav")
        records = [one_record(run("detect", "--json", path)[1]) for path in (both, mono)]
        assert records[0].pop("converted")["same"] and records[1].pop("converted") is None
        assert records[0].pop("path") != records[1].pop("path")
        assert records[0] == records[1]

    @pytest.mark.parametrize("channel", ["0", "-1", "left", "1.5", ""])
    def test_no_channel(self, run: Run, tmp_path: Path, channel: str) -> None:
        with pytest.raises(SystemExit):
            run("detect", "--channel", channel, write(tmp_path / "a.wav", digits(), "wav"))

    def test_standard_input_in_another_format(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.BytesIO()
        soundfile.write(stream, digits(rate=44100, channels=2), 44100, format="OGG", subtype="VORBIS")
        as_stdin(monkeypatch, stream.getvalue())
        status, out, err = run("detect", "-")
        assert status == 1 and err.splitlines()[-1].endswith(": kaldi-uq detect --resample --channel 1 -")
        as_stdin(monkeypatch, stream.getvalue())
        status, out, _ = run("detect", "--json", "--resample", "--channel", "mean", "-")
        record = one_record(out)
        assert (status, record["converted"]["from_hz"], record["converted"]["channel"]) == (0, 44100, "mean")

    @pytest.mark.parametrize(
        "words, message",
        [
            (["exp/dn", "{good}"], "exp/dn: no such file or directory; expected MODEL-DIR, or an audio file"),
            (["missing.wav"], "missing.wav: no such file or directory"),
            ([], "give WAV files, or --scp FILE"),
            (["--recogniser", "net.py:load", "{good}"], "--recogniser and --network need MODEL-DIR"),
            (["-", "-"], "-: standard input holds one file, and can be read once"),
        ],
    )
    def test_no_other_model_judges_than_the_one_that_was_meant(
        self, run: Run, tmp_path: Path, words: list[str], message: str
    ) -> None:
        good = str(write(tmp_path / "good.wav", digits(), "wav"))
        status, out, err = run("detect", *[word.format(good=good) for word in words])
        assert status == 1 and not out and message in err.splitlines()[-1]

    def test_bad_files_get_a_line_each_and_the_others_a_verdict(self, run: Run, tmp_path: Path) -> None:
        good = write(tmp_path / "good.wav", digits(), "wav")
        (tmp_path / "text.wav").write_text("no audio")
        (tmp_path / "m4a.wav").write_bytes(bytes(4) + b"ftypM4A " + bytes(99))
        silent = write(tmp_path / "silent.wav", np.zeros(RATE, "i2"), "wav")
        files = [good, tmp_path / "text.wav", tmp_path / "m4a.wav", silent]
        status, out, _ = run("detect", "--json", *files)
        records = [json.loads(line) for line in out.splitlines()]
        assert status == 1 and [r["verdict"] == "error" for r in records] == [False, True, True, True]
        assert "ffmpeg -i" in records[2]["error"] and "silent" in records[3]["error"]


class TestFitDetector:
    def test_the_model_of_the_package_stays_as_it_is(self, run: Run, tmp_path: Path) -> None:
        wavs = [write(tmp_path / f"{n}.wav", digits(0.5 + 0.1 * n), "wav") for n in range(4)]
        before = sorted((DIGITS / "detector").iterdir())
        status, _, err = run("fit-detector", *wavs)
        assert status == 1 and f"{STARTER} stays as it is: say where its new detectors go, with --out DIR" in err
        status, out, err = run("fit-detector", "--out", tmp_path / "mine", *wavs)
        assert status == 0 and str(tmp_path / "mine") in out and "4 benign files are too few" in err
        assert sorted((DIGITS / "detector").iterdir()) == before
        status, out, _ = run("detect", "--detector", tmp_path / "mine/all-joint.json", wavs[0])
        assert status == 0 and str(tmp_path / "mine/all-joint.json") in out

    def test_rates_and_channels(self, run: Run, tmp_path: Path) -> None:
        wavs = [write(tmp_path / f"{n}.wav", digits(0.5 + 0.1 * n, 8000, 2), "wav", rate=8000) for n in range(2)]
        out = tmp_path / "mine"
        status, _, err = run("fit-detector", "--out", out, *wavs)
        assert status == 1 and not out.exists()
        command = shlex.split(err.splitlines()[-1].partition(": kaldi-uq ")[2])
        assert command[:4] == ["fit-detector", "--resample", "--channel", "1"]
        assert run(*command)[0] == 0 and (out / "all-joint.json").is_file()


class TestAttack:
    FEW = ("--num-steps", "2", "--eps", "0.01", "--target-text", "one two")

    def test_standard_input_of_another_rate(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.BytesIO()
        soundfile.write(stream, digits(rate=8000), 8000, format="FLAC", subtype="PCM_16")
        as_stdin(monkeypatch, stream.getvalue())
        status, _, err = run("attack", *self.FEW, "-", "--out-dir", tmp_path / "o")
        assert status == 1 and not (tmp_path / "o").exists()
        command = shlex.split(err.splitlines()[-1].partition(": kaldi-uq ")[2])
        as_stdin(monkeypatch, stream.getvalue())
        status, out, _ = run(*command, "--json")
        record = one_record(out)
        assert status == 0 and record["converted"]["from_hz"] == 8000
        samples, rate = read_wav(tmp_path / "o/stdin.wav")
        assert (rate, len(samples)) == (RATE, RATE)
        assert record["largest_change"] <= 0.01 and record["verdict"] in ("attack", "benign")

    def test_text_says_what_was_converted(self, run: Run, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", np.repeat(digits()[:, None], 2, axis=1), "wav")
        status, out, _ = run("attack", *self.FEW, path, "--out", tmp_path / "o.wav")
        assert status == 0 and "converted before: 2 channels, all the same" in out


def test_the_model_works_from_a_copy_elsewhere(run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(DIGITS, tmp_path / "my digits")
    path = write(tmp_path / "a.wav", digits(), "wav")
    status, out, err = run("detect", copy, path)
    assert status == 0 and STARTER not in err and "my digits/detector/all-joint.json" in out
