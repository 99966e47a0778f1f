"""What the model of the package learns from: voices that differ more, voices of flite, disturbances of many kinds."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kaldi_uq.audio.disturb import microphone
from kaldi_uq.errors import MissingDependencyError
from kaldi_uq.io.datadir import DataDir, write_data_dir
from kaldi_uq.io.wav import read_wav, to_int16, write_wav
from tests.audio_files import speech
from tests.conftest import REPO

RATE = 16000


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts of local/ can be imported."""
    monkeypatch.syspath_prepend(str(REPO / "local"))


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


class TestMicrophone:
    def test_length_loudness_and_timing_stay_and_the_spectrum_does_not(self) -> None:
        wav = np.zeros(RATE, np.float32)
        wav[4000:12000] = np.random.default_rng(0).normal(0, 0.1, 8000)
        found = microphone(wav, 6.0, RATE, generator=np.random.default_rng(1)).wav
        assert found.shape == wav.shape and np.std(found) == pytest.approx(np.std(wav), rel=0.01)
        lag = int(np.argmax(np.correlate(found, wav, "full"))) - len(wav) + 1
        assert abs(lag) <= 1
        bands = [np.abs(np.fft.rfft(x)).reshape(-1)[:8000].reshape(8, 1000).sum(1) for x in (found, wav)]
        assert np.ptp(20 * np.log10(bands[0] / bands[1])) > 3

    def test_no_depth_changes_nothing_and_a_seed_is_a_microphone(self) -> None:
        wav = speech() / np.float32(32768)
        assert np.abs(microphone(wav, 0, RATE, generator=np.random.default_rng(1)).wav - wav).max() <= 2 / 32768
        first, again = (microphone(wav, 5, RATE, generator=np.random.default_rng(2)).wav for _ in range(2))
        other = microphone(wav, 5, RATE, generator=np.random.default_rng(3)).wav
        assert np.array_equal(first, again) and not np.array_equal(first, other)

    @pytest.mark.parametrize("depth", [-1, 41, float("nan")])
    def test_depth_out_of_range(self, depth: float) -> None:
        with pytest.raises(ValueError, match="depth of a response must be in"):
            microphone(speech() / np.float32(32768), depth, RATE, generator=np.random.default_rng(1))


@pytest.mark.usefixtures("local")
class TestMixed:
    def make(self, place: Path) -> Path:
        """Six talkers, a word of each in silence."""
        waves = {f"s{n}-a": np.pad(speech(6000, seed=n), 5000) for n in range(6)}
        for utt, wav in waves.items():
            quiet = np.random.default_rng(0).normal(0, 3, len(wav)).astype("i2")
            write_wav(place / f"{utt}.wav", wav + quiet, RATE)
        write_data_dir(
            place / "data",
            wav_scp={utt: str(place / f"{utt}.wav") for utt in waves},
            text=dict.fromkeys(waves, "one"),
            utt2spk={utt: utt[:2] for utt in waves},
            utt2dur=dict.fromkeys(waves, 1.0),
        )
        return place / "data"

    def run(self, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["disturb_mixed.py", *map(str, words)])
        return int(script("disturb_mixed").main())

    def waves(self, folder: Path) -> dict[str, np.ndarray]:
        data = DataDir.read(folder, need=("wav.scp", "utt2spk", "text", "utt2dur"))
        return {utt: read_wav(path)[0] for utt, path in data.wav_scp.items()}

    def test_lengths_and_names_stay_and_a_seed_gives_the_same_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = self.make(tmp_path)
        before = self.waves(data)
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            assert self.run(monkeypatch, "--seed", seed, data, tmp_path / name) == 0
        first, again, other = (self.waves(tmp_path / name) for name in "abc")
        assert {utt: len(wav) for utt, wav in first.items()} == {utt: len(wav) for utt, wav in before.items()}
        assert all(np.array_equal(first[utt], again[utt]) for utt in first)
        assert all(not np.array_equal(first[utt], before[utt]) for utt in first)
        assert not all(np.array_equal(first[utt], other[utt]) for utt in first)

    def test_cut_leaves_the_speech(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.run(monkeypatch, "--cut", self.make(tmp_path), tmp_path / "cut") == 0
        for wav in self.waves(tmp_path / "cut").values():
            assert 5800 <= len(wav) <= 6320

    def test_its_own_input_is_no_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = self.make(tmp_path)
        assert self.run(monkeypatch, data, data) == 1
        assert "would replace its own input" in capsys.readouterr().err


@pytest.mark.usefixtures("local")
class TestFlite:
    def program(self, place: Path) -> str:
        """A stand-in for flite that says the same whatever it is asked, and writes down what that was."""
        write_wav(place / "said.wav", to_int16(speech(8000) / 32768.0), RATE)
        path = place / "flite"
        path.write_text(f'#!/bin/sh\necho "$*" >>"{place}/asked"\nfor out; do :; done\ncp "{place}/said.wav" "$out"\n')
        path.chmod(0o755)
        return str(path)

    def test_a_tract_that_is_shorter_changes_all_frequencies_and_not_the_duration(self, tmp_path: Path) -> None:
        flite = script("flite")
        voice = flite.FliteVoice(self.program(tmp_path), "slt", 170, 1.0, 1.25)
        said = flite.speak(voice, "one two", RATE)
        assert (
            "-voice slt --setf duration_stretch=1.250 --setf int_f0_target_mean=170 -t one two -o "
            in (tmp_path / "asked").read_text()
        )
        assert len(said) == 8000 * 4 / 5  # the program was asked to speak slower by as much
        peak = np.argmax(np.abs(np.fft.rfft(said))) * RATE / len(said)
        assert peak == pytest.approx(440 * 1.25, abs=5)

    def test_speakers_are_of_all_voices_and_the_same_for_a_seed(self, tmp_path: Path) -> None:
        flite = script("flite")
        found = flite.flite_speakers(self.program(tmp_path), 0, flite.TRAIN, 4)
        assert len(found) == 12 and {voice.voice for voice in found.values()} == set(flite.TRAIN)
        assert found == flite.flite_speakers(str(tmp_path / "flite"), 0, flite.TRAIN, 4)
        assert not set(flite.TRAIN) & set(flite.HELD_OUT)

    def test_without_the_program(self, tmp_path: Path) -> None:
        flite = script("flite")
        with pytest.raises(MissingDependencyError, match="no such program; install flite"):
            flite.flite_speakers(str(tmp_path / "nothing"), 0, flite.TRAIN, 1)


@pytest.mark.usefixtures("local")
def test_a_spread_makes_voices_differ_more_and_one_of_1_is_that_of_the_digit_recipe() -> None:
    pytest.importorskip("espeakng_loader", reason="pip install espeakng-loader")
    prepare = script("prepare_synth")
    usual, wide = (
        [voice for voices in prepare.choose_speakers(0, spread).values() for voice in voices.values()]
        for spread in (1.0, 1.8)
    )
    for name, low, high in (("pitch", 35, 65), ("rate", 115, 170), ("tract_scale", 0.93, 1.07)):
        values = [getattr(voice, name) for voice in usual]
        assert low <= min(values) and max(values) <= high
        wider = [getattr(voice, name) for voice in wide]
        assert min(wider) < low and high < max(wider)
