"""Scale utterances to one level."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from kaldi_uq.feats.framing import Samples, valid_mask

# A longer utterance, of more than five minutes at 16 kHz, is summed up in parts: each step would take a copy of it.
LONG_SAMPLES = 5_000_000
SAMPLES_AT_ONCE = 1 << 20
# Added to the root mean square, in power: one step of 16-bit audio, so that silence stays near silence.
SMALLEST_LEVEL = 1.0 / 32768.0


def to_level(wav: Tensor, num_samples: Tensor, level: float) -> Tensor:
    """Scale each utterance to one root mean square; differentiable through the level too.

    A constant offset of the samples counts for nothing: it is no sound, and features remove it.

    Args:
        wav: waveforms, ``(B, N)``.
        num_samples: number of samples of each utterance, ``(B,)`` int64.
        level: root mean square, full scale 1.

    Returns:
        ``(B, N)``, 0 in padded samples.

    >>> import torch
    >>> wav = torch.tensor([[0.5, -0.5, 0.5, -0.5]])
    >>> round(to_level(wav, torch.tensor([4]), 0.05).abs().max().item(), 6)
    0.05
    """
    if len(wav) == 1 and wav.shape[1] > LONG_SAMPLES and not wav.requires_grad:
        return _long_to_level(wav, int(num_samples[0]), level)
    inside = valid_mask(num_samples.to(wav.device), wav.shape[1])
    count = num_samples.to(wav)[:, None]
    wav = wav.masked_fill(~inside, 0)
    centred = (wav - wav.sum(1, keepdim=True) / count).masked_fill(~inside, 0)
    power = centred.square().sum(1, keepdim=True) / count
    return wav * (level / (power + SMALLEST_LEVEL**2).sqrt())


def _long_to_level(wav: Tensor, num_samples: int, level: float) -> Tensor:
    """The same for one long utterance, ``(1, N)``, without a gradient and with one copy of it."""
    scaled = wav.clone()
    scaled[:, num_samples:] = 0
    return scaled.mul_(scale_to_level(wav[0, :num_samples], level))


def scale_to_level(samples: Samples, level: float) -> float:
    """What the samples of an utterance are multiplied with to have this level; they are read in parts."""

    def parts() -> Iterator[Tensor]:
        for start in range(0, len(samples), SAMPLES_AT_ONCE):
            yield torch.as_tensor(samples[start : start + SAMPLES_AT_ONCE])

    mean = sum(float(part.sum(dtype=torch.float64)) for part in parts()) / len(samples)
    power = sum(float((part - mean).square().sum(dtype=torch.float64)) for part in parts()) / len(samples)
    return level / math.sqrt(power + SMALLEST_LEVEL**2)
