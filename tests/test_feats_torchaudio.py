"""The paper's front end: equality with torchaudio on single utterances, padding, gradients."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import pytest
import torch

from kaldi_uq.errors import MissingDependencyError
from kaldi_uq.feats.config import FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.torchaudio_mfcc import TorchaudioMfcc, peak_normalise


def torchaudio_features(rate: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The features of the paper's code for one waveform (N,), float64: (T, 39)."""
    torchaudio = pytest.importorskip("torchaudio")
    size = int(0.025 * rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mfcc = torchaudio.transforms.MFCC(rate, 13, melkwargs={"n_fft": size, "hop_length": size // 2}).double()
    deltas = torchaudio.transforms.ComputeDeltas()

    def features(wav: torch.Tensor) -> torch.Tensor:
        ceps = mfcc(wav / wav.abs().max())
        return torch.cat([ceps, deltas(ceps), deltas(deltas(ceps))]).t()

    return features


def utterances(rate: int) -> list[torch.Tensor]:
    """Tones that fade into silence, so that the limit of 80 dB acts; the last one is quieter by far."""
    generator = torch.Generator().manual_seed(0)
    signals = []
    for i, seconds in enumerate([0.31, 0.5, 0.08]):
        time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
        tone = torch.sin(2 * torch.pi * (200 + 90 * i) * time) + 0.3 * torch.sin(2 * torch.pi * 1200 * time)
        noise = torch.randn(len(time), dtype=torch.float64, generator=generator)
        signals.append((0.3 * tone + 0.01 * noise) * torch.exp(-30 * time) * 10.0**-i)
    return signals


def padded(signals: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    wav = torch.full((len(signals), max(map(len, signals)) + 70), torch.nan, dtype=torch.float64)
    for row, signal in zip(wav, signals, strict=True):
        row[: len(signal)] = signal
    return wav, torch.tensor([len(s) for s in signals])


def config(rate: int = 16000, **options: object) -> FrontEndConfig:
    return FrontEndConfig(kind="torchaudio", mfcc=MfccConfig(sample_frequency=float(rate)), **options)


@pytest.mark.parametrize("rate", [16000, 8000, 11025])  # at 11025 Hz a frame has an odd number of samples
def test_batch_equals_torchaudio_on_each_utterance(rate: int) -> None:
    direct, signals = torchaudio_features(rate), utterances(rate)
    front_end = FrontEnd(config(rate))
    wav, num_samples = padded(signals)
    wav.requires_grad_()
    feats, lengths = front_end.features(wav, num_samples)
    weights = torch.randn(feats.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (feats * weights).sum().backward()
    assert wav.grad is not None
    assert lengths.tolist() == front_end.num_frames(num_samples).tolist()
    for i, signal in enumerate(signals):
        alone = signal.clone().requires_grad_()
        expected = direct(alone)
        assert len(expected) == lengths[i] == front_end.num_frames(len(signal))
        torch.testing.assert_close(feats[i, : lengths[i]], expected, rtol=0, atol=1e-8)
        assert (feats[i, lengths[i] :] == 0).all()
        (expected * weights[i, : lengths[i]]).sum().backward()
        torch.testing.assert_close(wav.grad[i, : len(signal)], alone.grad, rtol=1e-7, atol=1e-7)
        assert (wav.grad[i, len(signal) :] == 0).all()


@pytest.mark.long
def test_gradient_is_exact() -> None:
    front_end = FrontEnd(config(400, left_context=1, right_context=1))
    wav = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    num_samples = torch.tensor([17, 24])
    assert torch.autograd.gradcheck(lambda x: front_end(x, num_samples)[0], wav.requires_grad_(), eps=1e-7, atol=1e-4)


def test_features_do_not_depend_on_the_level() -> None:
    wav, num_samples = padded(utterances(16000))
    module = TorchaudioMfcc(16000)
    torch.testing.assert_close(module(wav, num_samples)[0], module(0.01 * wav, num_samples)[0])


def test_silence_gives_neither_nan_features_nor_nan_gradients() -> None:
    wav = torch.zeros(1, 4000, requires_grad=True)
    feats, _ = FrontEnd(config())(wav, torch.tensor([4000]))
    feats.sum().backward()
    assert feats.isfinite().all()
    assert wav.grad is not None
    assert wav.grad.isfinite().all()


def test_peak_ignores_padding() -> None:
    wav = torch.tensor([[0.1, -0.5, 0.25, 9.0], [0.0, 0.0, 0.0, 0.0]])
    assert peak_normalise(wav, torch.tensor([3, 4])).tolist() == pytest.approx(
        torch.tensor([[0.2, -1.0, 0.5, 0.0], [0.0] * 4])
    )


def test_frame_shift_is_the_papers() -> None:
    assert FrontEnd(config(16000)).frame_shift_s == 0.0125
    assert FrontEnd(config(8000)).frame_shift_s == 0.0125


def test_shortest_utterance_is_named() -> None:
    front_end = FrontEnd(config())
    assert front_end.min_samples == 201
    assert front_end.num_frames(200) == 0
    assert len(front_end(torch.rand(1, 201), torch.tensor([201]))[0][0]) == front_end.num_frames(201) == 2
    with pytest.raises(ValueError, match="at least 201 samples"):
        front_end(torch.rand(1, 201), torch.tensor([200]))


def test_missing_torchaudio_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kaldi-uq\[torchaudio\]'"):
        FrontEnd(config())
    FrontEnd(FrontEndConfig())  # Kaldi's features do without
