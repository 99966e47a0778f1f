"""The front end as a whole: order of its parts, options, padding, gradient, saved state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kaldi_uq.feats import framing
from kaldi_uq.feats.adaptation import BatchAdaptation
from kaldi_uq.feats.cmvn import accumulate_cmvn_stats, apply_cmvn
from kaldi_uq.feats.config import FbankConfig, FrontEndConfig, MfccConfig
from kaldi_uq.feats.deltas import Deltas
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.mfcc import Fbank, Mfcc
from kaldi_uq.feats.splice import splice

TINY = MfccConfig(sample_frequency=1000.0, frame_length=15.0, frame_shift=5.0, num_mel_bins=4, num_ceps=3, low_freq=0.0)


def noise(num_samples: list[int], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    wav = 0.1 * torch.randn(len(num_samples), max(num_samples), generator=torch.Generator().manual_seed(0))
    wav = wav.to(dtype)
    for row, count in zip(wav, num_samples, strict=True):
        row[count:] = torch.nan
    return wav, torch.tensor(num_samples)


def test_default_is_the_papers_input_of_351_values() -> None:
    front_end = FrontEnd(FrontEndConfig())
    assert (front_end.feature_dim, front_end.output_dim) == (39, 351)
    assert (front_end.sample_rate, front_end.frame_shift_s, front_end.min_samples) == (16000, 0.01, 400)
    out, lengths = front_end(*noise([16000, 8000]))
    assert out.shape == (2, 98, 351)
    assert lengths.tolist() == front_end.num_frames(torch.tensor([16000, 8000])).tolist() == [98, 48]


def test_parts_are_applied_in_kaldis_order() -> None:
    config = FrontEndConfig(
        cmvn="speaker", norm_vars=True, delta_order=1, delta_window=3, left_context=2, right_context=1
    )
    front_end = FrontEnd(config)
    mean, std = torch.linspace(-1, 1, 26), torch.linspace(0.5, 2, 26)
    front_end.norm.set_stats(mean, std)
    wav, num_samples = noise([6000, 4000])
    ceps, lengths = Mfcc(config.mfcc)(wav, num_samples)
    assert torch.equal(front_end.cepstra_of(wav, num_samples)[0], ceps)
    stats = torch.from_numpy(
        np.stack([accumulate_cmvn_stats(c[:n].numpy()) for c, n in zip(ceps, lengths.tolist(), strict=True)])
    )
    expected = Deltas(1, 3)(apply_cmvn(ceps, lengths, stats, norm_vars=True), lengths)
    expected = (expected - mean) / std
    feats, _ = front_end.features(wav, num_samples, adaptation=BatchAdaptation(stats))
    out, _ = front_end(wav, num_samples, adaptation=BatchAdaptation(stats))
    for i, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(feats[i, :n], expected[i, :n])
    assert torch.equal(out, splice(feats, lengths, 2, 1))
    assert torch.equal(out, front_end.splice(feats, lengths))


@pytest.mark.parametrize("cmvn, norm_vars", [("none", False), ("utterance", False), ("utterance", True)])
def test_padding_gives_zero_and_no_gradient(cmvn: str, norm_vars: bool) -> None:
    front_end = FrontEnd(FrontEndConfig(cmvn=cmvn, norm_vars=norm_vars))
    front_end.norm.set_stats(torch.full((39,), 3.0), torch.full((39,), 2.0))
    wav, num_samples = noise([3000, 9000, 400])
    wav.requires_grad_()
    out, lengths = front_end(wav, num_samples)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)))
    assert wav.grad is not None
    for i, count in enumerate(num_samples.tolist()):
        assert (out[i, lengths[i] :] == 0).all()
        assert (wav.grad[i, count:] == 0).all()
        assert wav.grad[i, :count].isfinite().all()


@pytest.mark.parametrize("cmvn", ["none", "utterance"])
def test_utterance_is_independent_of_its_batch(cmvn: str) -> None:
    front_end = FrontEnd(FrontEndConfig(cmvn=cmvn))
    wav, num_samples = noise([3000, 9000, 5555], torch.float64)
    together, lengths = front_end(wav, num_samples)
    for i, (count, length) in enumerate(zip(num_samples.tolist(), lengths.tolist(), strict=True)):
        alone, _ = front_end(wav[i : i + 1, :count], num_samples[i : i + 1])
        torch.testing.assert_close(together[i, :length], alone[0], rtol=0, atol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize(
    "cmvn, norm_vars", [("none", False), ("utterance", False), ("utterance", True), ("speaker", True)]
)
def test_gradient_is_exact(cmvn: str, norm_vars: bool) -> None:
    config = FrontEndConfig(mfcc=TINY, cmvn=cmvn, norm_vars=norm_vars, left_context=1, right_context=2)
    front_end = FrontEnd(config)
    front_end.norm.set_stats(torch.arange(9.0), torch.arange(1.0, 10.0))
    stats = torch.tensor([[10.0, 20.0, 30.0, 9.0], [90.0, 120.0, 150.0, 0.0]]) if cmvn == "speaker" else None
    wav, num_samples = noise([31, 42], torch.float64)
    wav = wav.nan_to_num(0.3).requires_grad_()

    def output(x: torch.Tensor) -> torch.Tensor:
        return front_end(x, num_samples, adaptation=BatchAdaptation(stats))[0]

    assert torch.autograd.gradcheck(output, wav, eps=1e-7, atol=1e-4)


def test_no_context_and_no_deltas_leave_the_cepstra() -> None:
    config = FrontEndConfig(delta_order=0, left_context=0, right_context=0)
    wav, num_samples = noise([4000])
    assert torch.equal(FrontEnd(config)(wav, num_samples)[0], Mfcc(config.mfcc)(wav, num_samples)[0])


def test_state_dict_holds_the_normalisation_only() -> None:
    front_end, copy = FrontEnd(FrontEndConfig()), FrontEnd(FrontEndConfig())
    front_end.norm.set_stats(torch.full((39,), 3.0), torch.full((39,), 2.0))
    assert set(front_end.state_dict()) == {"norm.mean", "norm.std"}
    copy.load_state_dict(front_end.state_dict())
    wav, num_samples = noise([4000])
    assert torch.equal(copy(wav, num_samples)[0], front_end(wav, num_samples)[0])


def test_speaker_statistics_and_configuration_must_agree() -> None:
    wav, num_samples = noise([4000])
    with pytest.raises(ValueError, match="cmvn_stats missing, but the front end has cmvn='speaker'"):
        FrontEnd(FrontEndConfig(cmvn="speaker"))(wav, num_samples)
    with pytest.raises(ValueError, match="cmvn_stats given, but the front end has cmvn='none'"):
        FrontEnd(FrontEndConfig())(wav, num_samples, adaptation=BatchAdaptation(torch.ones(2, 14)))


def test_fractional_sample_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        FrontEnd(FrontEndConfig(mfcc=MfccConfig(sample_frequency=8000.5)))


def test_autocast_does_not_reduce_the_precision() -> None:
    front_end = FrontEnd(FrontEndConfig(cmvn="utterance", norm_vars=True))
    wav, num_samples = noise([4000])
    expected, _ = front_end(wav, num_samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = front_end(wav, num_samples)
    assert torch.equal(out, expected)


def test_filter_banks_take_the_place_of_cepstra() -> None:
    fbank = FbankConfig(num_mel_bins=20, use_energy=True)
    front_end = FrontEnd(FrontEndConfig(kind="fbank", fbank=fbank, delta_order=1, left_context=1, right_context=0))
    assert (front_end.feature_dim, front_end.output_dim) == (42, 84)
    wav, num_samples = noise([3000, 2000])
    found, lengths = front_end.cepstra_of(wav, num_samples)
    assert torch.equal(found, Fbank(fbank)(wav, num_samples)[0])
    assert lengths.tolist() == front_end.num_frames(num_samples).tolist()
    wav = wav.nan_to_num().requires_grad_()
    front_end(wav, num_samples)[0].sum().backward()
    assert wav.grad is not None and bool((wav.grad[0] != 0).any())
    assert FrontEndConfig.from_dict(front_end.config.to_dict()) == front_end.config


def test_configuration_of_a_model_file_from_before_filter_banks_is_read() -> None:
    values = FrontEndConfig(delta_order=1).to_dict()
    del values["fbank"]
    assert FrontEndConfig.from_dict(values) == FrontEndConfig(delta_order=1)


@pytest.mark.parametrize("kind", ["kaldi", "fbank", "torchaudio"])
@pytest.mark.parametrize("snip_edges", [True, False])
def test_parts_of_a_batch_give_what_the_whole_gives(
    kind: str, snip_edges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a batch is cut into parts, each as long as its own longest utterance, whatever their order."""
    if kind == "torchaudio":
        pytest.importorskip("torchaudio")
    options = {"snip_edges": snip_edges}
    front_end = FrontEnd(FrontEndConfig(kind=kind, mfcc=MfccConfig(**options), fbank=FbankConfig(**options)))
    wav, num_samples = noise([900, 9000, 3000, 500, 9000, 401, 2000])
    seen = []

    def run(frames_per_part: int) -> list[torch.Tensor]:
        monkeypatch.setattr(framing, "CPU_FRAMES_PER_PART", frames_per_part)
        audio = wav.clone().requires_grad_()
        out, lengths = front_end(audio, num_samples)
        (slope,) = torch.autograd.grad(out.square().sum(), audio)
        return [out, lengths, slope]

    part = front_end.cepstra._part
    monkeypatch.setattr(front_end.cepstra, "_part", lambda *given: seen.append(given[0].shape) or part(*given))
    whole = run(1 << 20)
    assert [tuple(shape) for shape in seen] == [(7, 9000)]
    seen.clear()
    in_parts = run(1)
    assert [tuple(shape) for shape in seen] == [(1, count) for count in num_samples.tolist()]
    for one, other in zip(whole, in_parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(one.detach().abs().max()))
