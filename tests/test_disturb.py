"""Benign but hard audio: SNRs, babbles and reverberation are what they claim to be, and nothing else changes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.audio.disturb import (
    KINDS,
    Disturbed,
    Talkers,
    amplify,
    babble,
    disturb,
    reverberate,
    room_impulse_response,
    uniform_noise,
    white_noise,
)
from kaldi_uq.audio.loudness import loudness
from kaldi_uq.cli.main import main
from kaldi_uq.detector import GaussianDetector, OneClassDetector, fit_detectors
from kaldi_uq.detector.negatives import evaluate_negatives
from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir, write_table
from kaldi_uq.io.wav import on_grid, read_wav, to_int16, write_wav
from tests.tiny import write_segments

RATE = 8000
LEVELS = {"white": 10.0, "babble": 5.0, "reverb": 0.3, "gain": -20.0, "uniform": 0.02}


def speech(seed: int = 0, size: int = 6000, scale: float = 0.1) -> np.ndarray:
    """Noise with the slow ups and downs of speech, on the 16-bit grid."""
    envelope = np.sin(np.linspace(0, 5 * np.pi, size)) ** 2
    return on_grid(scale * envelope * np.random.default_rng(seed).standard_normal(size))


def directory_of(count: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    waves = {f"s{k % 3}-{k}": speech(k, 4000 + 137 * k) for k in range(count)}
    return waves, {utt: utt.partition("-")[0] for utt in waves}


def disturbed(*args: Any, **options: Any) -> dict[str, Disturbed]:
    return dict(disturb(*args, **options))


def snr(clean: np.ndarray, noisy: np.ndarray) -> float:
    noise = noisy.astype(np.float64) - clean
    return float(10 * np.log10(np.sum(clean.astype(np.float64) ** 2) / np.sum(noise**2)))


class TestNoise:
    @pytest.mark.parametrize("wanted", [30.0, 20.0, 0.0, -10.0])
    def test_snr_of_white_noise_and_babble_is_as_asked(self, wanted: float) -> None:
        wav, talkers = speech(scale=0.05), [speech(k, 3000 + k) for k in range(1, 4)]
        for result in (
            white_noise(wav, wanted, generator=np.random.default_rng(0)),
            babble(wav, talkers, wanted, generator=np.random.default_rng(0)),
        ):
            assert snr(wav * result.gain, result.wav) == pytest.approx(wanted, abs=0.1)
            assert result.snr_db == pytest.approx(wanted, abs=0.1)

    def test_white_noise_is_as_loud_in_every_band(self) -> None:
        wav = speech(size=80000)
        noise = white_noise(wav, 0, generator=np.random.default_rng(0)).wav - wav
        bands = np.abs(np.fft.rfft(noise)[1:]).reshape(8, -1) ** 2
        np.testing.assert_allclose(bands.mean(1) / bands.mean(), 1, atol=0.05)

    def test_talkers_of_a_babble_are_equally_loud(self) -> None:
        wav, loud, quiet = speech(size=8000), speech(1, 8000, 0.3), speech(2, 8000, 0.003)
        noise = babble(wav, [loud, quiet], 0, generator=np.random.default_rng(0)).wav - wav
        spectrum = np.fft.rfft(noise)
        # each is a rotation of the talker: correlation over all rotations has a peak of the same size
        peaks = [
            np.abs(np.fft.irfft(spectrum * np.conj(np.fft.rfft(x)))).max() / np.linalg.norm(x) for x in (loud, quiet)
        ]
        assert peaks[0] == pytest.approx(peaks[1], rel=0.1)

    def test_snr_that_16_bit_cannot_hold_is_refused(self) -> None:
        with pytest.raises(DataError, match="an SNR of 80 dB is not possible in 16-bit audio of this loudness"):
            white_noise(speech(scale=0.01), 80, generator=np.random.default_rng(0))

    def test_silence_is_refused(self) -> None:
        with pytest.raises(DataError, match="silent"):
            white_noise(np.zeros(100, dtype=np.float32), 10, generator=np.random.default_rng(0))

    def test_what_would_clip_is_scaled_down_as_a_whole(self) -> None:
        wav = on_grid(speech(scale=1.0) / 4)
        result = white_noise(wav, -20, generator=np.random.default_rng(0))
        assert result.gain < 0.5
        assert np.abs(result.wav).max() == pytest.approx(1 - 1 / 32768, abs=1e-4)
        assert np.sum(np.abs(result.wav) > 0.9999) <= 2  # no plateau
        assert snr(wav * result.gain, result.wav) == pytest.approx(-20, abs=0.1)


class TestUniformNoise:
    @pytest.mark.parametrize("eps", [0.02, 0.05, 1 / 32768])
    def test_stays_within_eps_after_rounding_and_reaches_it(self, eps: float) -> None:
        wav = speech(size=50000)
        change = np.abs(uniform_noise(wav, eps, generator=np.random.default_rng(0)).wav.astype(np.float64) - wav)
        assert change.max() <= eps
        assert change.max() > eps - 1.5 / 32768

    def test_is_uniform(self) -> None:
        wav = speech(size=50000)
        change = uniform_noise(wav, 0.02, generator=np.random.default_rng(0)).wav - wav
        assert change.std() == pytest.approx(0.02 / np.sqrt(3), rel=0.02)
        assert abs(change.mean()) < 3e-4

    def test_at_full_scale_the_noise_is_limited_not_the_speech_scaled(self) -> None:
        wav = on_grid(np.array([1.0, -1.0, 0.99] * 1000))
        result = uniform_noise(wav, 0.05, generator=np.random.default_rng(0))
        assert result.gain == 1
        assert np.abs(result.wav.astype(np.float64) - wav).max() <= 0.05
        assert result.wav.max() <= 1 - 1 / 32768 and result.wav.min() >= -1

    def test_eps_0_changes_nothing(self) -> None:
        wav = speech()
        result = uniform_noise(wav, 0, generator=np.random.default_rng(0))
        np.testing.assert_array_equal(result.wav, wav)
        assert result.snr_db is None


class TestReverberation:
    @pytest.mark.parametrize("rt60", [0.2, 0.5, 0.8])
    def test_rt60_is_that_of_schroeder_integration(self, rt60: float) -> None:
        response = room_impulse_response(rt60, 16000, generator=np.random.default_rng(0))
        tail = response[np.flatnonzero(response)[1] :]  # the direct sound is not part of the decay
        decay = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / np.sum(tail**2))
        part = np.flatnonzero((decay < -5) & (decay > -35))
        slope = np.polyfit(part / 16000, decay[part], 1)[0]
        assert -60 / slope == pytest.approx(rt60, rel=0.05)

    @pytest.mark.parametrize("drr", [-5.0, 0.0, 10.0])
    def test_direct_to_reverberant_energy_is_as_asked_and_all_energy_is_1(self, drr: float) -> None:
        response = room_impulse_response(0.4, RATE, drr_db=drr, generator=np.random.default_rng(0))
        assert 10 * np.log10(response[0] ** 2 / np.sum(response[1:] ** 2)) == pytest.approx(drr, abs=1e-6)
        assert np.sum(response**2) == pytest.approx(1)

    def test_direct_sound_is_not_delayed_and_loudness_stays(self) -> None:
        wav = speech()
        result = reverberate(wav, 0.5, RATE, drr_db=5, generator=np.random.default_rng(0))
        assert len(result.wav) == len(wav)
        correlation = np.correlate(result.wav, wav, mode="full")
        assert np.argmax(np.abs(correlation)) == len(wav) - 1
        assert np.std(result.wav) == pytest.approx(np.std(wav), rel=0.01)

    def test_sound_goes_on_where_the_speech_has_ended(self) -> None:
        wav = np.concatenate([speech(size=4000), np.zeros(4000, dtype=np.float32)])
        wet = reverberate(wav, 0.8, RATE, generator=np.random.default_rng(0)).wav
        assert np.std(wet[4200:5000]) > 4 * np.std(wet[7000:]) > 0


class TestAmplify:
    @pytest.mark.parametrize("gain_db", [-40.0, -20.0, -6.0, 0.0, 3.0])
    def test_level_is_changed_by_the_gain(self, gain_db: float) -> None:
        wav = speech()
        result = amplify(wav, gain_db)
        change = 20 * np.log10(np.std(result.wav) / np.std(wav))
        assert change == pytest.approx(gain_db, abs=0.05)
        assert (result.gain, result.snr_db) == (1.0, None)

    def test_nothing_clips(self) -> None:
        wav = speech()
        result = amplify(wav, 60.0)
        assert np.abs(result.wav).max() == 1 - 1 / 32768
        np.testing.assert_allclose(result.wav, wav * 1000 * result.gain, atol=1 / 32768)

    def test_gain_that_leaves_silence_is_refused(self) -> None:
        with pytest.raises(DataError, match="of a gain of -100 dB 16-bit audio leaves nothing"):
            amplify(speech(), -100.0)


class TestDisturb:
    @pytest.mark.parametrize("kind", KINDS)
    def test_same_seed_same_audio_whatever_the_order(self, kind: str) -> None:
        waves, utt2spk = directory_of(12)
        first = disturbed(waves, utt2spk, kind, LEVELS[kind], sample_rate=RATE, seed=1)
        turned = dict(reversed(waves.items()))
        spks = dict(reversed(utt2spk.items()))
        again = disturbed(turned, spks, kind, LEVELS[kind], sample_rate=RATE, seed=1)
        other = disturbed(waves, utt2spk, kind, LEVELS[kind], sample_rate=RATE, seed=2)
        assert list(first) == list(waves)
        for utt in waves:
            np.testing.assert_array_equal(first[utt].wav, again[utt].wav)
            assert np.array_equal(first[utt].wav, other[utt].wav) == (kind == "gain")  # which is not random

    @pytest.mark.parametrize("kind", ["white", "reverb", "gain", "uniform"])
    def test_utterances_beside_it_play_no_part(self, kind: str) -> None:
        waves, utt2spk = directory_of(12)
        all_of_them = disturbed(waves, utt2spk, kind, LEVELS[kind], sample_rate=RATE)
        alone = disturbed({"s1-4": waves["s1-4"]}, {"s1-4": "s1"}, kind, LEVELS[kind], sample_rate=RATE)
        np.testing.assert_array_equal(all_of_them["s1-4"].wav, alone["s1-4"].wav)

    @pytest.mark.parametrize("kind", KINDS)
    def test_length_grid_and_range_are_those_of_16_bit_audio(self, kind: str) -> None:
        waves, utt2spk = directory_of(12)
        for utt, result in disturbed(waves, utt2spk, kind, LEVELS[kind], sample_rate=RATE).items():
            assert len(result.wav) == len(waves[utt])
            np.testing.assert_array_equal(on_grid(result.wav), result.wav)
            assert not np.array_equal(result.wav, waves[utt])

    def test_louder_noise_is_the_same_noise(self) -> None:
        waves, utt2spk = directory_of(1)
        noises = [
            disturbed(waves, utt2spk, "white", level, sample_rate=RATE)["s0-0"].wav - waves["s0-0"]
            for level in (20.0, 10.0)
        ]
        assert np.corrcoef(noises[0], noises[1])[0, 1] > 0.999

    def test_babble_has_neither_the_utterance_nor_its_speaker(self) -> None:
        _, utt2spk = directory_of(30)
        chooser = Talkers(utt2spk, seed=0)
        for utt in utt2spk:
            talkers = chooser.choose(utt, 6)
            assert len(set(talkers)) == 6
            assert utt2spk[utt] not in {utt2spk[talker] for talker in talkers}

    def test_talkers_differ_between_utterances_and_another_utterance_changes_few(self) -> None:
        _, utt2spk = directory_of(60)
        chooser = Talkers(utt2spk, seed=0)
        chosen = {utt: set(chooser.choose(utt, 4)) for utt in utt2spk}
        assert len({frozenset(talkers) for talkers in chosen.values()}) > 50
        larger = Talkers({"s9-new": "s9"} | utt2spk, seed=0)
        changed = sum(set(larger.choose(utt, 4)) != chosen[utt] for utt in utt2spk)
        assert 0 < changed < 15  # about 4 in 41 choose the new one

    @pytest.mark.parametrize("share", [0.5, 0.99])
    def test_work_of_a_choice_does_not_grow_with_the_directory(self, share: float) -> None:
        """Not even for a speaker who has nearly all utterances, of whom none can be chosen."""
        looks = []

        class Counted(dict[str, str]):
            def __getitem__(self, utt: str) -> str:
                looks.append(utt)
                return super().__getitem__(utt)

        per_choice = []
        for size in (1000, 8000):
            rng = np.random.default_rng(0)
            utt2spk = Counted({f"u{i}": "main" if rng.random() < share else f"s{i % 50}" for i in range(size)})
            chooser = Talkers(utt2spk, seed=0)
            some = [f"u{i}" for i in range(0, size, size // 100)]
            looks.clear()
            chosen = {utt: chooser.choose(utt, 6) for utt in some}
            per_choice.append(len(looks) / len(some))
            assert all(len(set(talkers)) == 6 for talkers in chosen.values())
            assert all(utt2spk[utt] not in {utt2spk[talker] for talker in chosen[utt]} for utt in some)
        assert per_choice[1] < 1.5 * per_choice[0] < 75

    def test_every_utterance_is_chosen_about_as_often(self) -> None:
        utt2spk = {f"s{i % 20}-{i}": f"s{i % 20}" for i in range(400)}
        chooser = Talkers(utt2spk, seed=0)
        count = Counter(other for utt in utt2spk for other in chooser.choose(utt, 6))
        assert len(count) > 0.8 * len(utt2spk) and max(count.values()) < 60  # 6 on average

    def test_too_few_other_speakers_for_a_babble(self) -> None:
        waves, utt2spk = directory_of(5)
        message = r"utterance 's0-0': a babble of 6 talkers .* than 's0', found 3; use a larger"
        with pytest.raises(DataError, match=message):
            disturbed(waves, utt2spk, "babble", 5.0, sample_rate=RATE)

    def test_unknown_kind_is_refused(self) -> None:
        with pytest.raises(ValueError, match="kind must be one of white, babble, reverb, gain, uniform, got 'pink'"):
            disturbed({}, {}, "pink", 5.0, sample_rate=RATE)


class TestLoudness:
    def test_noise_floor_is_that_of_the_quiet_tenth(self) -> None:
        rng = np.random.default_rng(0)
        wav = np.concatenate([0.001 * rng.standard_normal(2000), 0.1 * rng.standard_normal(8000)])
        found = loudness(wav, RATE)
        assert found["noise_floor_db"] == pytest.approx(-60, abs=1)
        assert found["level_db"] == pytest.approx(20 * np.log10(0.1 * np.sqrt(0.8)), abs=0.2)

    def test_digital_silence_has_a_finite_level(self) -> None:
        assert loudness(np.zeros(1000), RATE)["noise_floor_db"] == pytest.approx(-101.1, abs=0.1)
        assert np.isfinite(loudness(np.zeros(1), RATE)["level_db"])


def gaussians(fit: dict[str, Any]) -> list[tuple[str, OneClassDetector]]:
    found = fit_detectors(fit).values()
    return [("+".join(d.statistics), d) for d in found if isinstance(d, GaussianDetector)]


class TestNegatives:
    def test_detector_of_loudness_alone_is_shown_to_be_one(self) -> None:
        rng = np.random.default_rng(0)
        fit = {"loudness": rng.normal(0, 1, 400), "disagreement": rng.normal(0, 1, 400)}
        attack = {"loudness": rng.normal(8, 1, 100), "disagreement": rng.normal(8, 1, 100)}
        hard = {"loudness": rng.normal(8, 1, 100), "disagreement": rng.normal(0, 1, 100)}
        rows = evaluate_negatives(gaussians(fit), hard, [({"attack": "pgd", "eps": 0.02}, attack)])
        by_name = {row["statistic"]: row for row in rows if row["sided"] == "two"}
        assert by_name["loudness"]["fpr_at_threshold"] == 1
        assert by_name["loudness"]["auroc"][0]["auroc"] == pytest.approx(0.5, abs=0.1)
        assert by_name["disagreement"]["fpr_at_threshold"] < 0.05
        assert by_name["disagreement"]["auroc"] == [{"attack": "pgd", "eps": 0.02, "auroc": 1.0}]

    def test_one_sided_detector_does_not_mind_audio_that_is_more_certain(self) -> None:
        rng = np.random.default_rng(0)
        rows = evaluate_negatives(gaussians({"x": rng.normal(0, 1, 400)}), {"x": rng.normal(-6, 1, 50)}, [])
        assert {row["sided"]: row["fpr_at_threshold"] for row in rows} == {"two": 1.0, "one": 0.0}

    def test_missing_statistic_names_the_set(self) -> None:
        with pytest.raises(DataError, match="the disturbed set has no statistic 'x'"):
            evaluate_negatives(gaussians({"x": [1.0, 2.0]}), {"y": [1.0]}, [])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    waves, utt2spk = directory_of(12)
    for utt, wav in waves.items():
        write_wav(tmp_path / "wav" / f"{utt}.wav", to_int16(wav), RATE)
    write_table(tmp_path / "data/wav.scp", {utt: str(tmp_path / "wav" / f"{utt}.wav") for utt in waves})
    write_table(tmp_path / "data/utt2spk", utt2spk)
    write_table(tmp_path / "data/text", dict.fromkeys(waves, "one two"))
    return tmp_path


class TestCommand:
    def test_writes_a_whole_data_directory(self, data: Path) -> None:
        assert main(["disturb-data", "--kind", "babble", "--snr-db", "5", "data", "out"]) == 0
        before, after = DataDir.read("data"), DataDir.read("out", need=("wav.scp", "utt2spk", "text", "spk2utt"))
        assert (after.text, after.utt2spk) == (before.text, before.utt2spk)
        assert main(["validate-data", "--no-feats", "out"]) == 0
        waves, utt2spk = directory_of(12)
        expected = disturbed(waves, utt2spk, "babble", 5.0, sample_rate=RATE)
        records = [json.loads(line) for line in Path("out/disturbances.jsonl").read_text().splitlines()]
        for utt, record in zip(before.utts, records, strict=True):
            np.testing.assert_array_equal(read_wav(after.wav_scp[utt], expected_rate=RATE)[0], expected[utt].wav)
            assert record == {"utt": utt, "snr_db": expected[utt].snr_db, "gain": expected[utt].gain}

    def test_second_run_does_nothing_and_another_level_all(self, data: Path) -> None:
        words = ["disturb-data", "--kind", "white", "data", "out"]
        assert main([*words, "--snr-db", "20"]) == 0
        old = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*") if path.is_file()}
        assert main([*words, "--snr-db", "20"]) == 0
        assert {path: path.stat().st_mtime_ns for path in old} == old
        assert main([*words, "--snr-db", "10"]) == 0
        assert all(path.stat().st_mtime_ns > old[path] for path in old if path.suffix in (".wav", ".jsonl"))

    def test_segments_of_a_recording_from_a_pipe_become_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        waves = {f"utt{k}": speech(k, 4000 + 137 * k) for k in range(3)}
        write_segments(tmp_path / "data", waves, {utt: ["one"] for utt in waves})
        words = ["disturb-data", "--kind", "white", "--snr-db", "20", "data", "out"]
        assert main(words) == 1
        assert "wav.scp:1: " in (error := capsys.readouterr().err) and "--allow-pipes" in error
        assert not Path("out").exists()
        assert main([*words, "--allow-pipes"]) == 0
        out = DataDir.read("out", need=("wav.scp", "utt2spk", "text", "spk2utt"))
        assert not out.segments and main(["validate-data", "--no-feats", "out"]) == 0
        expected = disturbed(waves, {utt: utt for utt in waves}, "white", 20.0, sample_rate=RATE)
        for utt in waves:
            np.testing.assert_array_equal(read_wav(out.wav_scp[utt], expected_rate=RATE)[0], expected[utt].wav)

    @pytest.mark.parametrize(
        "words, message",
        [
            (["--kind", "white"], "--kind white needs --snr-db"),
            (["--kind", "white", "--eps", "0.1"], "--eps is no option of --kind white"),
            (
                ["--kind", "reverb", "--rt60", "0.3", "--num-talkers", "3"],
                "--num-talkers is no option of --kind reverb",
            ),
            (["--kind", "reverb", "--rt60", "0"], r"--rt60 must be in \[0.001, 10\], got 0"),
            (["--kind", "gain"], "--kind gain needs --gain-db"),
            (["--kind", "gain", "--gain-db", "-200"], r"--gain-db must be in \[-100, 100\], got -200"),
            (["--kind", "uniform", "--eps", "2"], r"--eps must be in \[0, 1\], got 2"),
            (["--kind", "white", "--snr-db", "nan"], r"--snr-db must be in \[-100, 100\], got nan"),
        ],
    )
    def test_wrong_level_is_named(
        self, data: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["disturb-data", *words, "data", "out"]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("kaldi-uq disturb-data: error: ")
        assert re.search(message, error)
        assert not Path("out").exists()

    def test_own_input_is_not_overwritten(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["disturb-data", "--kind", "white", "--snr-db", "20", "data", "data/."]) == 1
        assert "would replace its own input" in capsys.readouterr().err
