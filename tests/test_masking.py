"""The masking threshold, and the constraints that hold a perturbation below it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import Constraint, make_constraint
from kaldi_uq.attacks.masking_constraint import Masking, NoiseToMask
from kaldi_uq.audio.masking import (
    BANDS,
    ShortTime,
    bark,
    margin,
    masking_threshold,
    threshold_db,
    threshold_in_quiet,
    unit_of_sound,
)
from kaldi_uq.io.wav import INT16_SCALE

RATES = (8000, 16000)


def tone(hertz: float, rate: int, amplitude: float = 0.3, seconds: float = 0.4) -> Tensor:
    return amplitude * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)[None]


def speech_like(rate: int, num_utts: int = 2) -> Tensor:
    """Harmonics of a moving pitch under formants, with noise and a pause: (B, N)."""
    rng = np.random.default_rng(3)
    time = np.arange(rate // 2) / rate
    waves = []
    for pitch in np.linspace(90, 210, num_utts):
        phase = 2 * np.pi * pitch * np.cumsum(1 + 0.2 * time) / rate
        harmonics = range(1, int(rate / 2.5 / pitch))
        wave = sum(np.sin(k * phase) / (1 + abs(k * pitch - 600) / 200) for k in harmonics)
        wave = wave * (time < 0.3) + 0.02 * rng.standard_normal(len(time))
        waves.append(0.3 * wave / np.abs(wave).max())
    return torch.from_numpy(np.round(np.stack(waves) * INT16_SCALE) / INT16_SCALE).float()


def naive_threshold_db(power_db: np.ndarray, rate: int) -> np.ndarray:
    """The threshold of one frame from its bins in dB SPL, as one would write it down from the standard."""
    size = len(power_db)
    hertz = np.arange(size) * rate / (2 * (size - 1))
    z = 13 * np.arctan(0.00076 * hertz) + 3.5 * np.arctan((hertz / 7500) ** 2)
    khz = np.maximum(hertz, 50) / 1000
    quiet = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4

    def total(levels: list[float]) -> float:
        return 10 * math.log10(sum(10 ** (level / 10) for level in levels))

    def distances(k: int) -> list[int]:
        return [2] if hertz[k] < 2700 else [2, 3] if hertz[k] < 5500 else [2, 3, 4, 5, 6]

    def level(k: int) -> float:
        return power_db[k] if 0 <= k < size else -math.inf

    tones: dict[int, float] = {}
    free = set(range(size))
    for k in range(2, size - 2):
        peak = level(k) > level(k - 1) and level(k) >= level(k + 1)
        if peak and all(level(k) - max(level(k - d), level(k + d)) >= 7 for d in distances(k)):
            tones[k] = total([level(k - 1), level(k), level(k + 1)])
            free -= {k + sign * d for d in [0, 1, *distances(k)] for sign in (-1, 1)}
    noises: dict[int, float] = {}
    for low, high in itertools.pairwise(BANDS):
        if low >= rate / 2:
            break
        # the last band holds the Nyquist frequency too
        last = high >= rate / 2
        inside = [k for k in free if low <= hertz[k] and (last or hertz[k] < high)]
        centre = math.sqrt(max(low, 25) * min(high, rate / 2))
        if inside:
            noises[round(centre * 2 * (size - 1) / rate)] = total([power_db[k] for k in inside])
    tones = {k: x for k, x in tones.items() if x >= quiet[k]}
    noises = {k: x for k, x in noises.items() if x >= quiet[k]}
    tones = {k: x for k, x in tones.items() if not any(abs(z[j] - z[k]) < 0.5 and y > x for j, y in tones.items())}
    result = []
    for i in range(size):
        levels = [quiet[i]]
        for maskers, base, slope in ((tones, 6.025, 0.275), (noises, 2.025, 0.175)):
            for k, x in maskers.items():
                away = z[i] - z[k]
                spread = 27 * away if away < 0 else (-27 + 0.37 * min(max(x - 40, 0), 56)) * away
                levels.append(x - base - slope * z[k] + spread)
        result.append(total(levels))
    return np.array(result)


@pytest.mark.parametrize("rate", RATES)
def test_threshold_is_that_of_a_naive_computation_frame_by_frame(rate: int) -> None:
    wav = speech_like(rate).double()
    magnitude = ShortTime(rate).analyse(wav).abs()
    found = threshold_db(magnitude, rate)
    decibels = 20 * torch.log10(magnitude / unit_of_sound(magnitude, rate)).numpy()
    for row, frame in [(0, 5), (0, 20), (1, 21), (1, 30), (1, found.shape[1] - 6)]:
        np.testing.assert_allclose(found[row, frame].numpy(), naive_threshold_db(decibels[row, frame], rate), atol=1e-6)


def test_single_precision_is_enough() -> None:
    wav = speech_like(16000)
    exact = masking_threshold(wav.double(), 16000)
    ratio = 20 * torch.log10(masking_threshold(wav, 16000).double() / exact)
    # a cell on the edge of being a tone can fall to the other side; not many
    assert float((ratio.abs() > 0.01).double().mean()) < 1e-3


@pytest.mark.parametrize("rate", RATES)
def test_tone_masks_upward_further_than_downward(rate: int) -> None:
    frames = ShortTime(rate)
    wav = tone(1000, rate)
    decibels = 20 * torch.log10(masking_threshold(wav, rate) / unit_of_sound(frames.analyse(wav).abs(), rate))[0, 20]
    hertz = frames.hertz(wav)
    at = [int((bark(hertz) - (8.5106 + shift)).abs().argmin()) for shift in (-2.0, 0.0, 2.0)]
    below, here, above = (float(decibels[k]) for k in at)
    # 96 dB and the two bins beside it (+1.8), less 6.0 + 0.275 * 8.5 dB
    assert here == pytest.approx(97.76 - 6.025 - 0.275 * 8.51, abs=0.1)
    quiet = threshold_in_quiet(hertz)
    assert above > below + 25
    assert below > float(quiet[at[0]])
    assert float(decibels[at[1]]) < 96  # the tone itself is heard


def test_louder_tones_mask_upward_with_a_flatter_slope() -> None:
    rate, magnitude = 16000, torch.zeros(1, 2, 257)
    magnitude[0, 0, 32], magnitude[0, 1, 32] = 1.0, 10 ** (-30 / 20)  # 96 and 66 dB SPL
    loud, soft = threshold_db(magnitude, rate)[0]
    assert float(loud[32] - soft[32]) == pytest.approx(30, abs=0.1)
    assert float(loud[64] - soft[64]) > 45


def test_silence_has_the_absolute_threshold() -> None:
    rate = 8000
    quiet = threshold_in_quiet(ShortTime(rate).hertz(torch.zeros(1)))
    assert torch.allclose(threshold_db(torch.zeros(1, 4, 129), rate)[0], quiet.expand(4, -1), atol=1e-4)
    pause = torch.cat([tone(1000, rate), torch.zeros(1, 2000)], 1)
    found = masking_threshold(pause, rate)[0, -4] / unit_of_sound(ShortTime(rate).analyse(pause).abs(), rate)[0, 0]
    assert torch.allclose(20 * torch.log10(found), quiet, atol=1e-3)
    assert float(quiet.min()) == pytest.approx(-4.9, abs=0.2)  # most sensitive between 3 and 4 kHz


def test_threshold_follows_the_level_of_the_utterance() -> None:
    wav = speech_like(8000)
    assert torch.allclose(masking_threshold(0.1 * wav, 8000), 0.1 * masking_threshold(wav, 8000), rtol=1e-3)


@pytest.mark.parametrize("rate", RATES)
def test_spectra_give_the_signal_back_whatever_its_length(rate: int) -> None:
    frames = ShortTime(rate)
    for size in (1, frames.hop - 1, frames.hop, frames.hop + 1, frames.width, 5000):
        signal = torch.randn(2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
        spectrum = frames.analyse(signal)
        assert spectrum.shape[1] == frames.num_frames(size)
        assert torch.allclose(frames.synthesise(spectrum, size), signal, atol=1e-12)


def test_padding_of_a_batch_changes_nothing() -> None:
    wav = speech_like(8000)[:, :3500]
    padded = torch.nn.functional.pad(wav, (0, 1234))
    alone = masking_threshold(wav, 8000)
    assert torch.equal(masking_threshold(padded, 8000)[:, : alone.shape[1]], alone)
    noise = 0.01 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    sizes = torch.full((2,), 3500)
    small = Masking(wav, sizes, 0.02, sample_rate=8000).project(noise)
    large = Masking(padded, sizes, 0.02, sample_rate=8000).project(torch.nn.functional.pad(noise, (0, 1234)))
    assert torch.allclose(large[:, :3500], small, atol=1e-7)
    assert not large[:, 3500:].any()


def test_margin_counts_the_frames_of_each_utterance_only() -> None:
    wav = speech_like(8000)
    sizes = torch.tensor([4000, 2500])
    wav[1, 2500:] = 0
    delta = 0.01 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    delta[1, 2500:] = 0
    both = margin(delta, masking_threshold(wav, 8000), sizes, 8000)
    alone = margin(delta[1:, :2500], masking_threshold(wav[1:, :2500], 8000), sizes[1:], 8000)
    for name in ("mean_db", "max_db", "share_above"):
        assert float(getattr(both, name)[1]) == pytest.approx(float(getattr(alone, name)[0]), rel=1e-4)
    louder = margin(2 * delta, masking_threshold(wav, 8000), sizes, 8000)
    assert torch.allclose(louder.mean_db - both.mean_db, torch.full((2,), 6.0206), atol=1e-3)
    nothing = margin(torch.zeros_like(wav), masking_threshold(wav, 8000), sizes, 8000)
    assert nothing.mean_db.isinf().all() and not nothing.share_above.any()


class TestMasking:
    SIZES = torch.tensor([8000, 6000])

    def make(self, masking_db: float = 0.0, eps: float = 0.5, kind: type[Masking] = Masking) -> Masking:
        wav = speech_like(16000)
        wav[1, 6000:] = 0
        return kind(wav, self.SIZES, eps, masking_db=masking_db, sample_rate=16000)

    def noise(self, scale: float = 0.05) -> Tensor:
        return scale * (2 * torch.rand(2, 8000, generator=torch.Generator().manual_seed(1)) - 1)

    def measure(self, constraint: Masking, delta: Tensor) -> tuple[float, float]:
        """Share of the cells that are more than 1 dB above what is allowed, and the mean in dB of the louder one."""
        found = margin(delta, constraint.threshold * 10 ** (1 / 20), self.SIZES, 16000)
        return float(found.share_above.max()), float(found.mean_db.max())

    def test_projection_brings_the_spectrum_below_the_threshold_and_rounding_keeps_it_there(self) -> None:
        constraint = self.make()
        share, level = self.measure(constraint, self.noise())
        assert share > 0.4 and level > 10
        projected = constraint.project(self.noise())
        rounded = torch.round(projected * INT16_SCALE) / INT16_SCALE
        for delta in (projected, rounded):
            share, level = self.measure(constraint, delta)
            assert share < 0.04  # of the cells: resynthesis lifts so many
            assert level < 0
        assert not projected[1, 6000:].any()

    def test_what_is_masked_already_stays_as_it_is(self) -> None:
        constraint = self.make()
        small = 0.1 * constraint.project(self.noise())
        assert torch.allclose(constraint.project(small), small, atol=1e-7)

    def test_margin_above_the_threshold_lets_that_much_more_in(self) -> None:
        noise = self.noise(0.5)
        levels = [self.measure(self.make(), self.make(db).project(noise))[1] for db in (0.0, 6.0)]
        assert levels[1] - levels[0] == pytest.approx(6, abs=0.3)

    def test_eps_caps_every_sample(self) -> None:
        constraint = self.make(masking_db=40, eps=0.01)
        delta = constraint.project(self.noise(0.5))
        assert float(delta.abs().max()) == pytest.approx(float(constraint.eps[0]), abs=1e-7)
        assert float(constraint.direction(self.noise()).abs().max()) <= float(constraint.eps[0])

    def test_margin_of_each_utterance_is_its_own(self) -> None:
        constraint, noise = self.make(), self.noise(0.5)
        constraint.set_margin(torch.tensor([0.0, 12.0]))
        delta = constraint.project(noise)
        assert torch.allclose(delta[0], self.make(0.0).project(noise)[0], atol=1e-7)
        assert torch.allclose(delta[1], self.make(12.0).project(noise)[1], atol=1e-7)

    @pytest.mark.parametrize("kind", [Masking, NoiseToMask])
    def test_part_of_a_batch_is_treated_as_in_the_whole(self, kind: type[Masking]) -> None:
        constraint, noise, rows = self.make(3.0, kind=kind), self.noise(), torch.tensor([1])
        part = constraint.select(rows)
        assert torch.allclose(part.project(noise[rows]), constraint.project(noise)[rows], atol=1e-7)
        assert torch.allclose(part.direction(noise[rows]), constraint.direction(noise)[rows], atol=1e-7)
        assert part.radius().shape == (1,)

    @pytest.mark.parametrize("kind", [Masking, NoiseToMask])
    def test_direction_climbs_and_has_the_size_of_the_set(self, kind: type[Masking]) -> None:
        constraint, gradient = self.make(kind=kind), self.noise() * self.make().inside
        step = constraint.direction(gradient)
        assert ((step * gradient).sum(1) > 0).all()
        level = margin(step, constraint.threshold, self.SIZES, 16000).mean_db
        assert (level.abs() < (6.0 if kind is Masking else 1e-3)).all()  # cells of random phase interfere
        assert torch.allclose(constraint.direction(1e-8 * gradient), step, rtol=1e-2, atol=1e-6)

    @pytest.mark.parametrize("kind", [Masking, NoiseToMask])
    def test_no_gradient_gives_no_step_and_no_nan(self, kind: type[Masking]) -> None:
        constraint, zero = self.make(kind=kind), torch.zeros(2, 8000)
        assert not constraint.direction(zero).any()
        assert not constraint.project(zero).any()

    def test_noise_to_mask_ratio_is_bounded_exactly(self) -> None:
        constraint = self.make(-3.0, kind=NoiseToMask)
        found = margin(constraint.project(self.noise(0.4)), constraint.threshold, self.SIZES, 16000)
        assert torch.allclose(found.mean_db, torch.full((2,), -3.0), atol=1e-3)

    def test_noise_to_mask_direction_is_steeper_than_others_of_its_size(self) -> None:
        constraint, gradient = self.make(kind=NoiseToMask), self.noise() * self.make().inside
        best = (constraint.direction(gradient) * gradient).sum(1)
        generator = torch.Generator().manual_seed(5)
        for _ in range(5):
            other = constraint.direction(gradient + 0.05 * torch.randn(gradient.shape, generator=generator))
            assert ((other * gradient).sum(1) < best).all()

    def test_configuration_chooses_it(self) -> None:
        wav = speech_like(8000)
        config = AttackConfig(constraint="masking", masking_db=6.0)
        constraint: Constraint = make_constraint(config, wav, torch.tensor([4000, 4000]), 8000)
        assert isinstance(constraint, Masking)
        delta = constraint.start(torch.ones_like(wav))
        assert float(margin(delta, constraint.threshold, torch.tensor([4000, 4000]), 8000).mean_db.max()) < 6
