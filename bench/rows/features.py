"""The front end: Kaldi's MFCC with a gradient, beside the other libraries that make them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.measure import Case, Facts, Row, Setting

if TYPE_CHECKING:
    from torch import Tensor

Work = Callable[[], Facts]


def ours(setting: Setting, *, backward: bool) -> Work:
    """All utterances in padded batches."""
    import torch

    from bench import inputs
    from kaldi_uq.feats.mfcc import Mfcc
    from kaldi_uq.io.waves import wave_batches

    mfcc = Mfcc(inputs.FRONT_END.mfcc).to(setting.device)
    batches = [
        (torch.from_numpy(b.wav).to(setting.device), torch.from_numpy(b.num_samples).to(setting.device))
        for b in wave_batches(inputs.sounds(setting.num_utts))
    ]

    def work() -> Facts:
        for wav, num_samples in batches:
            _pass(lambda x, sizes=num_samples: mfcc(x, sizes)[0], wav, backward)
        return {"units": setting.num_utts}

    return work


def torchaudio(setting: Setting, *, backward: bool) -> Work:
    """torchaudio's functions in Kaldi's way, one utterance at a time: they take no batch."""
    from torchaudio.compliance import kaldi

    from bench import inputs

    singles = inputs.one_by_one(inputs.sounds(setting.num_utts), setting.device)
    compute = functools.partial(kaldi.mfcc, sample_frequency=inputs.RATE, dither=0.0, use_energy=False)

    def work() -> Facts:
        for wav, _ in singles:
            _pass(lambda x: compute(x * 32768), wav, backward)
        return {"units": len(singles)}

    return work


def lhotse(setting: Setting, *, backward: bool) -> Work:
    """lhotse's layers, which take the same batches (and read the padding as silence)."""
    import torch
    from lhotse.features.kaldi.layers import Wav2MFCC

    from bench import inputs
    from kaldi_uq.io.waves import wave_batches

    layer = Wav2MFCC(sampling_rate=inputs.RATE, snip_edges=True, high_freq=0.0).to(setting.device)
    batches = [torch.from_numpy(b.wav).to(setting.device) for b in wave_batches(inputs.sounds(setting.num_utts))]

    def work() -> Facts:
        for wav in batches:
            _pass(lambda x: layer(x * 32768), wav, backward)
        return {"units": setting.num_utts}

    return work


def native_fbank(setting: Setting) -> Work:
    """kaldi-native-fbank, one utterance at a time: C++ without a gradient."""
    import kaldi_native_fbank as knf

    from bench import inputs

    options = knf.MfccOptions()
    options.frame_opts.samp_freq = inputs.RATE
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 23
    options.use_energy = False
    waves = [wave * 32768 for wave in inputs.sounds(setting.num_utts).values()]

    def work() -> Facts:
        for wave in waves:
            online = knf.OnlineMfcc(options)
            online.accept_waveform(inputs.RATE, wave)
            online.input_finished()
            for frame in range(online.num_frames_ready):
                online.get_frame(frame)
        return {"units": len(waves)}

    return work


def _pass(compute: Callable[[Tensor], Tensor], wav: Tensor, backward: bool) -> None:
    """Compute features of (B, N), and with ``backward`` the gradient of their sum."""
    import torch

    if backward:
        wav = wav.detach().requires_grad_(True)
        torch.autograd.grad(compute(wav).sum(), wav)
    else:
        with torch.no_grad():
            compute(wav)


def _cases(backward: bool) -> tuple[Case, ...]:
    return (
        Case("kaldi_uq", functools.partial(ours, backward=backward)),
        Case(
            "torchaudio.compliance.kaldi",
            functools.partial(torchaudio, backward=backward),
            "torchaudio",
            aim=">= 3" if backward else "",
        ),
        Case("lhotse layers", functools.partial(lhotse, backward=backward), "lhotse"),
    )


ROWS = (
    Row(
        "mfcc-forward",
        "MFCC, forward, seconds an utterance",
        (*_cases(False), Case("kaldi-native-fbank", native_fbank, "kaldi-native-fbank")),
    ),
    Row(
        "mfcc-gradient",
        "MFCC, forward and backward, seconds an utterance",
        _cases(True),
        on_gpu=True,
    ),
)
