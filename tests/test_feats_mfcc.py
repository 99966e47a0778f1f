"""MFCC and filter banks: parity with an independent port of Kaldi's code, padding, gradients, errors."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from kaldi_uq.feats.config import FbankConfig, MfccConfig
from kaldi_uq.feats.framing import min_samples, num_frames, reflect_ends
from kaldi_uq.feats.mfcc import Fbank, Mfcc
from kaldi_uq.feats.spectrum import overlap_add

# Features reach 100, and both sides compute in single precision: a Fourier transform alone leaves errors of some 1e-7
# of the loudest bin, which the logarithm of a weak mel energy enlarges.
TOLERANCE = 1e-3
# A frame of 16 points every 5 samples: small enough for numerical derivatives.
TINY = {"sample_frequency": 1000.0, "frame_length": 15.0, "frame_shift": 5.0, "num_mel_bins": 4, "low_freq": 0.0}


def speech_like(seed: int, num_samples: int, rate: float) -> np.ndarray:
    """Harmonics of a gliding pitch under a syllable-like envelope, noise, and a pause: int16 values."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_samples) / rate
    phase = 2 * np.pi * np.cumsum(110 + 40 * np.sin(2 * np.pi * 1.3 * time + seed)) / rate
    signal = sum(np.sin(k * phase) / k for k in range(1, 25)) * np.sin(2 * np.pi * 2.1 * time) ** 2
    signal = 5000 * signal + rng.normal(0, 60, num_samples)
    start = num_samples // 3
    # Not digital silence: a frame that is 0 but for its last sample gives the logarithm of rounding errors.
    signal[start : start + num_samples // 6] *= 0.02
    return np.clip(np.round(signal), -32768, 32767).astype(np.int16)


def reference(samples: np.ndarray, config: MfccConfig | FbankConfig) -> np.ndarray:
    knf = pytest.importorskip("kaldi_native_fbank")
    opts = knf.MfccOptions() if isinstance(config, MfccConfig) else knf.FbankOptions()
    frame, mel = opts.frame_opts, opts.mel_opts
    frame.samp_freq, frame.frame_length_ms = config.sample_frequency, config.frame_length
    frame.frame_shift_ms, frame.dither = config.frame_shift, 0.0
    frame.preemph_coeff, frame.remove_dc_offset = config.preemphasis_coefficient, config.remove_dc_offset
    frame.window_type, frame.blackman_coeff = config.window_type, config.blackman_coeff
    frame.round_to_power_of_two, frame.snip_edges = config.round_to_power_of_two, config.snip_edges
    mel.num_bins, mel.low_freq, mel.high_freq = config.num_mel_bins, config.low_freq, config.high_freq
    opts.use_energy, opts.raw_energy = config.use_energy, config.raw_energy
    opts.energy_floor, opts.htk_compat = config.energy_floor, config.htk_compat
    if isinstance(config, MfccConfig):
        opts.num_ceps, opts.cepstral_lifter = config.num_ceps, config.cepstral_lifter
        computer = knf.OnlineMfcc(opts)
    else:
        opts.use_log_fbank = config.use_log_fbank
        computer = knf.OnlineFbank(opts)
    computer.accept_waveform(config.sample_frequency, samples.astype(np.float32))
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


def batch(signals: list[np.ndarray], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded with NaN, so that reading one padded sample shows."""
    wav = torch.full((len(signals), max(map(len, signals))), torch.nan, dtype=dtype)
    for row, signal in zip(wav, signals, strict=True):
        row[: len(signal)] = torch.from_numpy(signal / 32768.0).to(dtype)
    return wav, torch.tensor([len(s) for s in signals])


def assert_parity(config: MfccConfig | FbankConfig, signals: list[np.ndarray], tolerance: float = TOLERANCE) -> None:
    module = Mfcc(config) if isinstance(config, MfccConfig) else Fbank(config)
    feats, lengths = module(*batch(signals))
    assert feats.shape == (len(signals), int(lengths.max()), module.output_dim)
    for signal, row, length in zip(signals, feats, lengths.tolist(), strict=True):
        expected = reference(signal, config)
        assert len(expected) == length == num_frames(len(signal), config)
        np.testing.assert_allclose(row[:length].numpy(), expected, rtol=0, atol=tolerance)
        assert (row[length:] == 0).all()


OPTIONS = [
    {},
    {"use_energy": False},
    {"raw_energy": False},
    {"energy_floor": 1.0},
    {"cepstral_lifter": 0.0},
    {"cepstral_lifter": 0.0, "use_energy": False},
    {"remove_dc_offset": False},
    {"remove_dc_offset": False, "raw_energy": False},
    {"preemphasis_coefficient": 0.0},
    {"htk_compat": True},
    {"htk_compat": True, "use_energy": False},
    {"num_mel_bins": 15},
    {"num_mel_bins": 40, "num_ceps": 40, "high_freq": -400.0, "use_energy": False},
    {"low_freq": 0.0, "high_freq": 3700.0},
    {"low_freq": 300.0},
    {"frame_shift": 12.5},
    {"frame_length": 32.0, "frame_shift": 8.0},
    {"frame_length": 10.0, "frame_shift": 15.0},
    {"round_to_power_of_two": False},
    *({"window_type": name} for name in ("hanning", "hamming", "rectangular", "blackman", "sine")),
    {"window_type": "hamming", "remove_dc_offset": False, "preemphasis_coefficient": 0.9, "cepstral_lifter": 30.0},
]


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("rate", [8000.0, 16000.0])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "default")
def test_mfcc_matches_kaldi(options: dict, rate: float, snip_edges: bool) -> None:
    # Narrower filters than these find no bin in a 10 ms frame at 8 kHz.
    bins = {"num_mel_bins": 13} if options.get("frame_length") == 10.0 else {}
    config = MfccConfig(sample_frequency=rate, snip_edges=snip_edges, **{**options, **bins})
    lengths = [int(0.4 * rate) + 17, int(0.3 * rate), min_samples(config) + 3]
    signals = [speech_like(i, n, rate) for i, n in enumerate(lengths)]
    with_offset = np.random.default_rng(5).normal(700, 300, lengths[1]).astype(np.int16)
    silence = np.zeros(lengths[1], dtype=np.int16)  # only the floors speak
    assert_parity(config, [*signals, with_offset, silence])


@pytest.mark.parametrize("use_energy", [True, False])
@pytest.mark.parametrize("htk_compat", [True, False])
@pytest.mark.parametrize("snip_edges", [True, False])
def test_fbank_matches_kaldi(use_energy: bool, htk_compat: bool, snip_edges: bool) -> None:
    config = FbankConfig(use_energy=use_energy, htk_compat=htk_compat, snip_edges=snip_edges)
    assert_parity(config, [speech_like(1, 6000, 16000.0), speech_like(2, 4321, 16000.0)])


def test_linear_fbank_matches_kaldi() -> None:
    signals = [speech_like(1, 6000, 16000.0)]
    config = FbankConfig(use_log_fbank=False)
    feats, _ = Fbank(config)(*batch(signals))
    np.testing.assert_allclose(feats[0].numpy(), reference(signals[0], config), rtol=1e-4, atol=1.0)


@pytest.mark.parametrize("snip_edges", [True, False])
def test_mfcc_matches_kaldi_on_recordings(snip_edges: bool) -> None:
    if "KALDI_UQ_FSDD" not in os.environ:
        pytest.skip("KALDI_UQ_FSDD is not set to a directory with recordings/*.wav")
    paths = sorted((Path(os.environ["KALDI_UQ_FSDD"]) / "recordings").glob("*.wav"))[::100]
    assert paths, "KALDI_UQ_FSDD holds no recordings"
    signals = []
    for path in paths:
        with wave.open(str(path)) as stream:
            signals.append(np.frombuffer(stream.readframes(stream.getnframes()), dtype="<i2"))
    assert_parity(MfccConfig(sample_frequency=8000.0, use_energy=False, snip_edges=snip_edges), signals)


@pytest.mark.parametrize("snip_edges", [True, False])
def test_utterance_is_independent_of_its_batch(snip_edges: bool) -> None:
    module = Mfcc(MfccConfig(snip_edges=snip_edges))
    # More frames than are worked on at a time, in an order that is not that of the lengths.
    signals = [speech_like(i, n, 16000.0) for i, n in enumerate([9000, 48000, 400, 30001, 64000, 12345])]
    wav, num_samples = batch(signals, torch.float64)
    together, lengths = module(wav, num_samples)
    for i, signal in enumerate(signals):
        alone, length = module(*batch([signal], torch.float64))
        assert length.tolist() == [int(lengths[i])]
        torch.testing.assert_close(together[i, : int(length)], alone[0], rtol=0, atol=1e-9)
        assert (together[i, int(length) :] == 0).all()


@pytest.mark.parametrize("snip_edges", [True, False])
def test_padding_has_no_influence_and_no_gradient(snip_edges: bool) -> None:
    module = Mfcc(MfccConfig(snip_edges=snip_edges))
    signals = [speech_like(0, 3000, 16000.0), speech_like(1, 4777, 16000.0)]
    wav, num_samples = batch(signals)
    wav = torch.cat([wav, torch.full((2, 500), torch.inf)], dim=1).requires_grad_()
    feats, lengths = module(wav, num_samples)
    assert feats.shape[1] == int(lengths.max())
    assert feats.isfinite().all()
    # A gradient that arrives at padded frames must not go further.
    feats.backward(torch.randn_like(feats))
    assert wav.grad is not None
    assert wav.grad.isfinite().all()
    for row, count in zip(wav.grad, num_samples.tolist(), strict=True):
        assert (row[count:] == 0).all()
        assert row[:count].abs().max() > 0


GRADIENT_OPTIONS = [
    {},
    {"snip_edges": False},
    {"use_energy": False, "cepstral_lifter": 0.0},
    {"raw_energy": False},
    {"remove_dc_offset": False, "window_type": "hamming", "htk_compat": True},
    {"preemphasis_coefficient": 0.0, "window_type": "rectangular"},
]


@pytest.mark.long
@pytest.mark.parametrize("options", GRADIENT_OPTIONS)
def test_mfcc_gradient_is_exact(options: dict) -> None:
    module = Mfcc(MfccConfig(**{**TINY, "num_ceps": 4, **options}))
    wav = torch.randn(2, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    num_samples = torch.tensor([31, 22])
    assert torch.autograd.gradcheck(lambda x: module(x, num_samples)[0], wav.requires_grad_(), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("shift", [3, 20])  # overlapping frames, and frames with gaps between them
def test_fbank_gradient_is_exact(shift: int) -> None:
    module = Fbank(FbankConfig(**{**TINY, "frame_shift": float(shift)}, use_energy=True))
    wav = torch.randn(2, 47, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    num_samples = torch.tensor([36, 47])
    assert torch.autograd.gradcheck(lambda x: module(x, num_samples)[0], wav.requires_grad_(), eps=1e-7, atol=1e-4)


def test_silence_has_finite_features_and_zero_gradient() -> None:
    wav = torch.zeros(1, 1600, requires_grad=True)
    feats, _ = Mfcc(MfccConfig())(wav, torch.tensor([1600]))
    feats.sum().backward()
    assert feats.isfinite().all()
    assert wav.grad is not None
    assert (wav.grad == 0).all()


def test_second_derivative_is_refused() -> None:
    wav = torch.randn(1, 800).requires_grad_()
    feats, _ = Mfcc(MfccConfig())(wav, torch.tensor([800]))
    (gradient,) = torch.autograd.grad(feats.sum(), wav, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_autocast_does_not_reduce_the_precision() -> None:
    wav, num_samples = batch([speech_like(0, 4000, 16000.0)])
    module = Mfcc(MfccConfig())
    expected, _ = module(wav, num_samples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feats, _ = module(wav, num_samples)
    assert torch.equal(feats, expected)


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("rate, shift", [(16000.0, 10.0), (8000.0, 12.5), (11025.0, 10.0)])
def test_num_frames_of_tensor_and_integer_agree_with_the_shortest_utterance(
    snip_edges: bool, rate: float, shift: float
) -> None:
    config = MfccConfig(sample_frequency=rate, frame_shift=shift, snip_edges=snip_edges)
    counts = torch.arange(0, 1500)
    frames = num_frames(counts, config)
    assert frames.tolist() == [num_frames(n, config) for n in counts.tolist()]
    assert int((frames > 0).nonzero()[0]) == min_samples(config)


def test_too_short_utterance_is_named_with_the_minimum() -> None:
    with pytest.raises(ValueError, match=r"utterance 1 of the batch has 399 samples.*at least 400 samples"):
        Mfcc(MfccConfig())(torch.zeros(2, 500), torch.tensor([500, 399]))


@pytest.mark.parametrize(
    "wav, num_samples, error, message",
    [
        (torch.zeros(1, 500, dtype=torch.int16), torch.tensor([500]), TypeError, "float32 or float64"),
        (torch.zeros(1, 500), torch.tensor([500.0]), TypeError, "num_samples must be int64"),
        (torch.zeros(500), torch.tensor([500]), ValueError, r"wav must be \(B, N\)"),
        (torch.zeros(2, 500), torch.tensor([500]), ValueError, r"num_samples \(B,\)"),
        (torch.zeros(1, 500), torch.tensor([501]), ValueError, "wav holds 500"),
    ],
)
def test_wrong_batch_is_refused(wav: torch.Tensor, num_samples: torch.Tensor, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Mfcc(MfccConfig())(wav, num_samples)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_mel_bins": 200}, "covers no bin"),
        ({"high_freq": 9000.0}, "half of sample_frequency"),
        ({"low_freq": 4000.0, "high_freq": 3000.0}, "low 4000.0 and high 3000.0"),
        ({"frame_length": 0.01}, "need at least 2"),
        ({"frame_shift": 0.01}, "less than a sample"),
        ({"round_to_power_of_two": False, "frame_length": 25.07}, "is odd"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mfcc(MfccConfig(**options))


def test_tables_are_not_saved() -> None:
    assert not Mfcc(MfccConfig()).state_dict()


@pytest.mark.parametrize("repeat_edge, mode", [(True, "symmetric"), (False, "reflect")])
def test_reflection_repeats_as_often_as_needed(repeat_edge: bool, mode: str) -> None:
    rng = np.random.default_rng(0)
    lengths, left, right = [3, 8, 5], 11, 9
    wav = torch.full((3, 8), torch.nan)
    for row, n in zip(wav, lengths, strict=True):
        row[:n] = torch.from_numpy(rng.normal(size=n))
    extended = reflect_ends(wav, torch.tensor(lengths), left, right, repeat_edge=repeat_edge)
    for row, given, n in zip(extended, wav, lengths, strict=True):
        expected = np.pad(given[:n].numpy(), (left, right), mode=mode)
        np.testing.assert_array_equal(row[: left + n + right].numpy(), expected)


@pytest.mark.parametrize("length, shift, size", [(7, 3, 40), (4, 4, 21), (3, 5, 20)])
def test_overlap_add_is_the_adjoint_of_framing(length: int, shift: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(2, size, generator=generator, dtype=torch.float64)
    frames = signal.unfold(1, length, shift)
    other = torch.randn(frames.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((frames * other).sum(), (signal * overlap_add(other, shift, size)).sum())
