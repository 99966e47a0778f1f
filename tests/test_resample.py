"""Another sample rate: only where it is asked for, counted, and by a filter that keeps speech and nothing above it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError
from kaldi_uq.io.ark import read_archive
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.resample import Resampler, resample
from kaldi_uq.io.wav import read_wav
from kaldi_uq.io.waves import read_waves, unusable
from tests.audio_files import RATE, speech, write

RATIOS = [(44100, 16000), (16000, 8000), (8000, 16000), (48000, 16000), (22050, 8000), (16000, 11025), (44101, 16000)]


def tone(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.long
@pytest.mark.parametrize("rate, to", RATIOS)
def test_tone_is_that_of_the_other_rate_and_does_not_move(rate: int, to: int) -> None:
    for hertz in (100, 1000, 0.89 * min(rate, to) / 2):
        found = resample(tone(hertz, rate), rate, to, "x")
        assert found.dtype == np.float32 and len(found) == -(-rate * to // rate)
        inner = slice(to // 50, -to // 50)
        assert np.abs(found - tone(hertz, to)[: len(found)])[inner].max() < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("rate, to", [pair for pair in RATIOS if pair[0] > pair[1]])
def test_what_the_lower_rate_cannot_hold_is_gone(rate: int, to: int) -> None:
    found = resample(tone(1.002 * to / 2, rate), rate, to, "x")
    assert np.abs(found[to // 50 : -to // 50]).max() < 5e-5


def test_same_numbers_again_and_the_same_rate_is_left_alone() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)
    assert np.array_equal(resample(noise, 44100, 16000, "x"), resample(noise.copy(), 44100, 16000, "x"))
    resampler = Resampler(16000)
    assert resampler(noise, 16000, "x") is noise
    assert not resampler.changed


@pytest.mark.parametrize("rate, to", [(1, 16000), (3999, 16000), (384_001, 16000), (2**32 - 1, 16000), (16000, 100)])
def test_no_rate_of_speech(rate: int, to: int) -> None:
    with pytest.raises(DataError, match=rf"^x: {rate} Hz cannot be resampled to {to} Hz; expected 4000 to 384000 Hz"):
        resample(tone(100, 8000), rate, to, "x")


def test_ratio_of_a_filter_without_measure() -> None:
    with pytest.raises(DataError, match=r"^x: 383999 Hz cannot be resampled to 16000 Hz: the ratio 16000:383999"):
        resample(tone(100, 8000), 383_999, 16000, "x")


def test_overshoot_is_clipped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    square = np.sign(tone(1000, 16000)).astype(np.float32)
    resampler = Resampler(8000)
    found = resampler(square, 16000, "x")
    assert np.abs(found).max() == 1.0 and resampler.clipped > 0
    resampler(square, 16000, "y")
    with caplog.at_level(logging.WARNING):
        resampler.report("data/test", 5)
    assert caplog.messages == [
        f"data/test: 2 of 5 resampled from 16000 Hz to 8000 Hz; {resampler.clipped} samples beyond full scale clipped"
    ]


class TestDataDir:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Three files of three rates."""
        data = tmp_path / "data"
        data.mkdir()
        for utt, kind, rate in (("a", "flac", 16000), ("b", "wav", 8000), ("c", "mp3", 44100)):
            write(tmp_path / utt, speech(rate), kind, rate)
        (data / "wav.scp").write_text(f"a {tmp_path}/a\nb cat {tmp_path}/b |\nc {tmp_path}/c\n")
        (data / "utt2spk").write_text("a a\nb b\nc c\n")
        (data / "spk2utt").write_text("a a\nb b\nc c\n")
        (data / "mfcc.conf").write_text(f"--sample-frequency={RATE}\n--dither=0\n")
        return data

    def test_never_silently(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        data = DataDir.read(folder)
        with pytest.raises(DataError, match=r"sample rate 8000 Hz, expected 16000 Hz .* --resample"):
            read_waves(data, sample_rate=RATE)
        with caplog.at_level(logging.WARNING):
            waves = read_waves(data, sample_rate=RATE, resample=True)
        assert [len(wave) for wave in waves.values()] == [16000, 16000, 16000]
        assert caplog.messages == [f"{folder}: 2 of 3 resampled from 8000, 44100 Hz to 16000 Hz"]
        assert np.array_equal(waves["a"], read_wav(folder.parent / "a")[0])
        assert set(unusable(data, sample_rate=RATE)) == {"b", "c"}
        assert unusable(data, sample_rate=RATE, resample=True) == {}

    def test_nothing_is_said_where_nothing_is_done(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            read_waves(DataDir.read(folder), sample_rate=RATE, utts=["a"], resample=True)
        assert not caplog.messages

    def test_segments_are_cut_at_the_rate_of_the_recording(self, folder: Path) -> None:
        (folder / "segments").write_text("u-1 b 0.25 0.75\nu-2 c 0 -1\n")
        (folder / "utt2spk").write_text("u-1 u\nu-2 u\n")
        (folder / "wav.scp").write_text("".join((folder / "wav.scp").read_text().splitlines(True)[1:]))
        waves = read_waves(DataDir.read(folder), sample_rate=RATE, resample=True)
        assert [len(wave) for wave in waves.values()] == [8000, 16000]
        part = read_wav(folder.parent / "b")[0][2000:6000]
        assert np.array_equal(waves["u-1"], resample(part, 8000, RATE, "b"))

    def test_shortest_is_of_the_rate_that_is_wanted(self, folder: Path) -> None:
        data = DataDir.read(folder)
        assert len(read_waves(data, sample_rate=RATE, min_samples=16000, resample=True)) == 3
        with pytest.raises(DataError, match=r"utterance 'a' has 16000 samples \(1.000 s\)"):
            read_waves(data, sample_rate=RATE, min_samples=16001, resample=True)
        assert len(unusable(data, sample_rate=RATE, min_samples=16001, resample=True)) == 3

    def test_compute_mfcc(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--mfcc-config", f"{folder}/mfcc.conf", str(folder), f"{tmp_path}/m.ark", f"{tmp_path}/m.scp"]
        assert main(["compute-mfcc", *words]) == 1
        assert "--resample" in capsys.readouterr().err
        assert main(["compute-mfcc", "--resample", *words]) == 0
        assert {len(feats) for _, feats in read_archive(tmp_path / "m.ark")} == {98}
        assert main(["compute-mfcc", "--resample", "--max-bad", "1", *words]) == 0

    def test_disturb_data_takes_the_rate_of_the_first(self, folder: Path, tmp_path: Path) -> None:
        words = ["disturb-data", "--kind", "white", "--snr-db", "20", str(folder), str(tmp_path / "out")]
        assert main(words) == 1
        assert main([*words, "--resample", "--max-bad", "1"]) == 0
        assert not (tmp_path / "out/bad_utterances").exists()
        assert {read_wav(path)[1] for path in (tmp_path / "out/wav").iterdir()} == {RATE}
