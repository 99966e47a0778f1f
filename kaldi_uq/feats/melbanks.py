"""The constant tables of Kaldi's features: window, mel filters, cosine transform with lifter.

All are computed in float64 and returned as float32, Kaldi's own precision.

Source: Kaldi ``src/feat/feature-window.cc``, ``mel-computations.{h,cc}``, ``matrix/matrix-functions.cc``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kaldi_uq.feats.config import FrameConfig, MfccConfig
from kaldi_uq.feats.framing import padded_window_size, window_size


def analysis_window(config: FrameConfig) -> Tensor:
    """The window function, ``(L,)`` float32."""
    size = window_size(config)
    phase = torch.arange(size, dtype=torch.float64) * (2 * math.pi / (size - 1))
    raised_cosine = 0.5 - 0.5 * torch.cos(phase)
    if config.window_type == "povey":
        window = raised_cosine**0.85
    elif config.window_type == "hanning":
        window = raised_cosine
    elif config.window_type == "hamming":
        window = 0.54 - 0.46 * torch.cos(phase)
    elif config.window_type == "sine":
        window = torch.sin(0.5 * phase)
    elif config.window_type == "blackman":
        c = config.blackman_coeff
        window = c - 0.5 * torch.cos(phase) + (0.5 - c) * torch.cos(2 * phase)
    else:
        window = torch.ones_like(phase)
    return window.float()


def mel_scale(frequency: Tensor) -> Tensor:
    """Frequency in Hz to mel."""
    return 1127.0 * torch.log1p(frequency / 700.0)


def mel_filters(config: FrameConfig) -> Tensor:
    """Triangular filters, equally spaced on the mel scale, over the bins of the power spectrum.

    Returns:
        ``(P // 2 + 1, num_mel_bins)`` float32, P the size of the Fourier transform; the last row, the Nyquist
        frequency, is 0 as in Kaldi.

    Raises:
        ValueError: the cut-off frequencies are out of range, or a filter is so narrow that it covers no bin.
    """
    nyquist = config.nyquist
    low, high = config.low_freq, config.high_freq
    if high <= 0:
        high += nyquist
    if not (0 <= low < high <= nyquist):
        raise ValueError(
            f"low_freq {config.low_freq} and high_freq {config.high_freq} must give 0 <= low < high <= {nyquist} Hz "
            f"(half of sample_frequency), got low {low} and high {high}"
        )
    fft_size = padded_window_size(config)
    bins = mel_scale(torch.arange(fft_size // 2, dtype=torch.float64) * (config.sample_frequency / fft_size))
    ends = mel_scale(torch.tensor([low, high], dtype=torch.float64))
    step = (ends[1] - ends[0]) / (config.num_mel_bins + 1)
    centres = ends[0] + step * torch.arange(1, config.num_mel_bins + 1, dtype=torch.float64)
    weights = (1 - (bins.unsqueeze(1) - centres).abs() / step).clamp_min(0)
    empty = (weights == 0).all(dim=0)
    if bool(empty.any()):
        raise ValueError(
            f"mel filter {int(empty.nonzero()[0])} of {config.num_mel_bins} covers no bin of the {fft_size}-point "
            "spectrum; set a smaller num_mel_bins or a larger frame_length"
        )
    return torch.cat([weights, weights.new_zeros(1, config.num_mel_bins)]).float()


def windowed_energy_filter(fft_size: int) -> Tensor:
    """A filter that sums the power spectrum to the windowed frame's sum of squares (Parseval), ``(P // 2 + 1, 1)``."""
    weights = torch.full((fft_size // 2 + 1, 1), 2.0 / fft_size)
    weights[0] = weights[-1] = 1.0 / fft_size
    return weights


def cepstral_transform(config: MfccConfig) -> Tensor:
    """Discrete cosine transform (DCT-II, orthonormal) times the lifter, ``(num_mel_bins, num_ceps)`` float32."""
    bins = config.num_mel_bins
    k = torch.arange(config.num_ceps, dtype=torch.float64)
    n = torch.arange(bins, dtype=torch.float64)
    dct = math.sqrt(2.0 / bins) * torch.cos(math.pi / bins * torch.outer(n + 0.5, k))
    dct[:, 0] = math.sqrt(1.0 / bins)
    q = config.cepstral_lifter
    lifter = 1 + 0.5 * q * torch.sin(math.pi * k / q) if q else torch.ones_like(k)
    return (dct * lifter).float()
