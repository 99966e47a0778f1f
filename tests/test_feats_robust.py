"""Noise floor and level: what dithering does on average, one level for every utterance, Kaldi's values without both."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kaldi_uq.feats.config import FbankConfig, FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.level import to_level
from kaldi_uq.feats.mfcc import Fbank, Mfcc

TINY: dict[str, Any] = {
    "sample_frequency": 1000.0,
    "frame_length": 15.0,
    "frame_shift": 5.0,
    "num_mel_bins": 4,
    "low_freq": 0.0,
}


def speech(num_samples: list[int], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    wav = torch.randn(len(num_samples), max(num_samples), generator=torch.Generator().manual_seed(3), dtype=dtype)
    wav = 0.05 * wav * torch.linspace(0.2, 1.0, max(num_samples), dtype=dtype)
    for row, count in zip(wav, num_samples, strict=True):
        row[count:] = torch.nan
    return wav, torch.tensor(num_samples)


@pytest.mark.long
@pytest.mark.parametrize("raw_energy", [True, False])
@pytest.mark.parametrize("remove_dc_offset", [True, False])
@pytest.mark.parametrize("window_type", ["povey", "rectangular"])
def test_floor_is_the_mean_energy_of_white_noise(raw_energy: bool, remove_dc_offset: bool, window_type: str) -> None:
    floor, trials = 0.02, 20000
    config = FbankConfig(
        **TINY,
        use_energy=True,
        use_log_fbank=False,
        raw_energy=raw_energy,
        remove_dc_offset=remove_dc_offset,
        window_type=window_type,
    )
    wav, num_samples = speech([15])
    plain, floored = Fbank(config), Fbank(config, noise_floor=floor)
    noisy = wav + floor * torch.randn(trials, 15, generator=torch.Generator().manual_seed(1))
    feats = plain(noisy, num_samples.expand(trials))[0][:, 0]
    energies = torch.cat([feats[:, :1].exp(), feats[:, 1:]], 1)  # the energy of the frame is a logarithm
    expected = floored(wav, num_samples)[0][0, 0]
    expected = torch.cat([expected[:1].exp(), expected[1:]])
    error = energies.std(0) / trials**0.5
    assert ((energies.mean(0) - expected).abs() < 5 * error).all()
    assert (
        expected
        > 2 * error + torch.cat([plain(wav, num_samples)[0][0, 0, :1].exp(), plain(wav, num_samples)[0][0, 0, 1:]])
    ).all()


@pytest.mark.parametrize("kind", ["kaldi", "fbank"])
def test_none_of_both_is_kaldis_values_to_the_bit(kind: str) -> None:
    wav, num_samples = speech([4000, 3000])
    found, lengths = FrontEnd(FrontEndConfig(kind=kind, level=0.0, noise_floor=0.0)).cepstra_of(wav, num_samples)
    expected = (Fbank(FbankConfig()) if kind == "fbank" else Mfcc(MfccConfig()))(wav, num_samples)
    assert torch.equal(found, expected[0]) and torch.equal(lengths, expected[1])


def test_small_perturbation_moves_floored_features_less() -> None:
    wav, num_samples = speech([16000])
    change = 0.005 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(2)).sign()
    moved = []
    for floor in (0.0, 0.02, 0.06):
        front_end = FrontEnd(FrontEndConfig(noise_floor=floor))
        moved.append(
            (front_end(0.1 * wav + change, num_samples)[0] - front_end(0.1 * wav, num_samples)[0]).abs().mean()
        )
    assert moved[0] > 4 * moved[1] > 12 * moved[2]


@pytest.mark.parametrize("kind", ["kaldi", "fbank"])
@pytest.mark.parametrize("snip_edges", [True, False])
def test_level_makes_features_of_loud_and_quiet_speech_equal(kind: str, snip_edges: bool) -> None:
    base = {"mfcc": MfccConfig(snip_edges=snip_edges), "fbank": FbankConfig(snip_edges=snip_edges)}
    front_end = FrontEnd(FrontEndConfig(kind=kind, level=0.05, noise_floor=0.02, **base))
    wav, num_samples = speech([6000, 4000])
    loud, lengths = front_end(wav, num_samples)
    quiet, _ = front_end(0.1 * wav + 0.01, num_samples)  # 20 dB quieter, with a constant offset
    torch.testing.assert_close(loud, quiet, atol=2e-2, rtol=0)
    alone, _ = front_end(wav[1:, :4000], num_samples[1:])
    torch.testing.assert_close(alone[0, : lengths[1]], loud[1, : lengths[1]], atol=1e-3, rtol=0)


def test_level_is_the_root_mean_square_of_the_valid_samples() -> None:
    wav, num_samples = speech([500, 300], torch.float64)
    scaled = to_level(wav, num_samples, 0.05)
    for row, count in zip(scaled, num_samples.tolist(), strict=True):
        assert row[:count].std(unbiased=False).item() == pytest.approx(0.05, rel=1e-4)
        assert (row[count:] == 0).all()
    silence = to_level(torch.zeros(1, 100), torch.tensor([100]), 0.05)
    assert (silence == 0).all()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["kaldi", "fbank"])
def test_gradient_through_both_is_that_of_finite_differences(kind: str) -> None:
    config = FrontEndConfig(
        kind=kind, mfcc=MfccConfig(**TINY, num_ceps=3), fbank=FbankConfig(**TINY), level=0.05, noise_floor=0.03
    )
    front_end = FrontEnd(config).double()
    wav, num_samples = speech([40, 25], torch.float64)
    wav = torch.nan_to_num(wav).requires_grad_()
    assert torch.autograd.gradcheck(lambda audio: front_end(audio, num_samples)[0], (wav,), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"level": -0.1}, "level must be between"),
        ({"noise_floor": 1.5}, "noise_floor must be between"),
        ({"kind": "torchaudio", "noise_floor": 0.02}, "noise_floor is for Kaldi's features"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrontEndConfig(**options)


def test_files_of_models_without_them_are_read() -> None:
    values = FrontEndConfig().to_dict()
    del values["level"], values["noise_floor"]
    assert FrontEndConfig.from_dict(values) == FrontEndConfig()
