"""How audible a change is, in numbers: facts that can be worked out by hand."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kaldi_uq.audio import quality as audio_quality
from kaldi_uq.audio.quality import (
    level_change_db,
    measure_all,
    perceptual,
    pesq_score,
    segmental_snr_db,
    snr_db,
    stoi_score,
)
from kaldi_uq.errors import MissingDependencyError

RATE = 8000
SEGMENT = 200  # samples


def noise(num_samples: int, scale: float, seed: int = 0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def measure(original: np.ndarray, changed: np.ndarray) -> dict[str, Any]:
    return measure_all([original], [changed], RATE)[0]


def test_snr_is_the_ratio_of_powers() -> None:
    wave = np.full(1000, 0.5, dtype=np.float32)
    assert snr_db(wave, wave + np.float32(0.05)) == pytest.approx(20.0, abs=1e-4)
    assert snr_db(wave, 2 * wave) == pytest.approx(0.0)
    assert snr_db(wave, wave) is None
    assert snr_db(np.zeros(10), wave[:10]) is None


class TestSegmentalSnr:
    def test_mean_is_of_decibels_so_that_quiet_parts_count(self) -> None:
        wave = np.concatenate([np.full(SEGMENT, 0.5), np.full(SEGMENT, 0.05)]).astype(np.float32)
        changed = wave + np.float32(0.05)
        # 20 dB in the first segment, 0 dB in the second
        assert segmental_snr_db(wave, changed, RATE) == pytest.approx(10.0, abs=1e-4)
        assert snr_db(wave, changed) == pytest.approx(17.0, abs=0.1)

    def test_segments_are_clamped(self) -> None:
        wave = np.full(2 * SEGMENT, 0.1, dtype=np.float32)
        only_first = wave.copy()
        only_first[:SEGMENT] += 0.9  # -19 dB, counted as -10; nothing in the second, counted as 35
        assert segmental_snr_db(wave, only_first, RATE) == pytest.approx((-10 + 35) / 2)

    def test_silence_is_left_out(self) -> None:
        wave = np.concatenate([np.full(SEGMENT, 0.5), np.full(SEGMENT, 0.5 * 10 ** (-41 / 20))]).astype(np.float32)
        changed = wave + np.float32(0.05)
        assert segmental_snr_db(wave, changed, RATE) == pytest.approx(20.0, abs=1e-4)
        wave[SEGMENT:] *= 10 ** (2 / 20)  # 39 dB below: no longer silence
        assert segmental_snr_db(wave, wave + np.float32(0.05), RATE) == pytest.approx((20 - 10) / 2, abs=1e-4)

    def test_there_is_none_of_nothing(self) -> None:
        wave = noise(1000, 0.1)
        assert segmental_snr_db(wave, wave, RATE) is None
        assert segmental_snr_db(np.zeros(1000, dtype=np.float32), wave, RATE) is None
        assert segmental_snr_db(wave[:150], 2 * wave[:150], RATE) is None


def test_level_change() -> None:
    wave = noise(1000, 0.1)
    assert level_change_db(wave, 2 * wave) == pytest.approx(6.0206, abs=1e-4)
    assert level_change_db(wave, wave) == 0
    assert level_change_db(np.zeros(5), wave) is None


class TestMaskingMargin:
    def test_copy_of_the_audio_30_db_below_is_masked_and_white_noise_of_the_same_power_is_not(self) -> None:
        time = np.arange(RATE) / RATE
        wave = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 8)).astype(np.float32) / 4
        copy = (wave * (1 + 10 ** (-30 / 20))).astype(np.float32)
        hiss = noise(RATE, float(np.sqrt(np.mean((copy - wave) ** 2))))
        hidden, heard = measure(wave, copy), measure(wave, wave + hiss)
        assert snr_db(wave, copy) == pytest.approx(snr_db(wave, wave + hiss), abs=0.2)
        assert hidden["masking_margin_db"] < -8 and hidden["share_above_masking"] < 0.01
        assert heard["masking_margin_db"] > 10 and heard["share_above_masking"] > 0.3

    def test_it_grows_by_what_the_change_grows(self) -> None:
        wave, change = noise(4000, 0.1), noise(4000, 0.001, 1)
        small, large = (measure(wave, wave + k * change) for k in (1, 10))
        for name in ("masking_margin_db", "masking_margin_max_db"):
            assert large[name] - small[name] == pytest.approx(20, abs=0.01)


def test_numbers_of_a_line_are_there_or_none() -> None:
    wave = noise(4000, 0.1)
    line = measure(wave, wave + noise(4000, 0.01, 1))
    assert line["snr_db"] == pytest.approx(20, abs=0.3)
    assert line["segmental_snr_db"] == pytest.approx(20, abs=0.5)
    assert all(isinstance(value, float) for value in line.values())
    same = measure(wave, wave)
    assert same["share_above_masking"] == 0 and same["level_change_db"] == 0
    assert {name for name, value in same.items() if value is None} == {
        "snr_db", "segmental_snr_db", "masking_margin_db", "masking_margin_max_db",
    }  # fmt: skip


class TestPerceptual:
    @pytest.mark.parametrize("score, name", [(pesq_score, "pesq"), (stoi_score, "pystoi")])
    def test_missing_package_is_named_with_the_command_that_installs_it(
        self, monkeypatch: pytest.MonkeyPatch, score: object, name: str
    ) -> None:
        monkeypatch.setitem(sys.modules, name, None)
        wave = noise(4000, 0.1)
        with pytest.raises(MissingDependencyError, match=rf"{name} is not installed; run: pip install 'kaldi-uq\[qual"):
            score(wave, wave, RATE)  # type: ignore[operator]

    def test_without_packages_there_are_no_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(audio_quality, "_package", lambda name: None)
        assert perceptual(noise(4000, 0.1), noise(4000, 0.1, 1), RATE) == {}

    def test_what_a_package_cannot_judge_has_no_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Short(RuntimeError):
            pass

        def refuse(*args: object) -> float:
            raise Short("Buffer needs to be at least 1/4 of a second long")

        pesq = SimpleNamespace(pesq=refuse, NoUtterancesError=Short, BufferTooShortError=Short)
        packages = {"pesq": pesq, "pystoi": SimpleNamespace(stoi=lambda *args: 1e-5)}
        monkeypatch.setattr(audio_quality, "_package", packages.get)
        assert perceptual(noise(4000, 0.1), noise(4000, 0.1, 1), RATE) == {}

    def test_noise_lowers_pesq(self) -> None:
        pytest.importorskip("pesq", reason="pesq is not installed (extra quality)")
        self._falls("pesq")

    def test_noise_lowers_stoi(self) -> None:
        pytest.importorskip("pystoi", reason="pystoi is not installed (extra quality)")
        self._falls("stoi")

    def _falls(self, name: str) -> None:
        time = np.arange(2 * RATE) / RATE
        envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time)
        wave = (0.1 * envelope * sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 20))).astype(np.float32)
        values = [perceptual(wave, wave + noise(len(wave), scale), RATE)[name] for scale in (0.001, 0.02, 0.2)]
        assert values == sorted(values, reverse=True) and values[0] > values[2] + 0.1
