"""Mean and variance normalisation: of an utterance, of a speaker (Kaldi's statistics), of the training set."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kaldi_uq.errors import DataError
from kaldi_uq.feats.cmvn_stats import accumulate_cmvn_stats as accumulate_cmvn_stats
from kaldi_uq.feats.framing import valid_mask

# Kaldi's floor for variances; below it a dimension is constant.
VARIANCE_FLOOR = 1.0e-20


def apply_cmvn(feats: Tensor, lengths: Tensor, stats: Tensor, *, norm_vars: bool = False) -> Tensor:
    """Normalise with given statistics.

    Args:
        feats: features, ``(B, T, D)``.
        lengths: number of frames of each utterance, ``(B,)`` int64.
        stats: statistics, ``(B, 2, D + 1)``, one per utterance, or ``(2, D + 1)`` for all, float64, on any device.
        norm_vars: divide by the deviation too.

    Returns:
        ``(B, T, D)``, 0 in padded frames.

    Raises:
        ValueError: the shapes do not fit.
        DataError: the statistics are of less than one frame.

    Source: Kaldi ``ApplyCmvn`` (``src/transform/cmvn.cc``), ``apply-cmvn --norm-vars``.
    """
    batch, size, dim = feats.shape
    if stats.dim() == 2:
        stats = stats.unsqueeze(0)
    if stats.shape[1:] != (2, dim + 1) or len(stats) not in (1, batch):
        raise ValueError(f"cmvn stats must be (2, {dim + 1}) or ({batch}, 2, {dim + 1}), got {tuple(stats.shape)}")
    stats = stats.double()
    count = stats[:, :1, -1:]
    if bool((count < 1).any()):
        raise DataError(
            f"cmvn statistics of {float(count.min())} frames; at least 1 is needed: compute them again for this speaker"
        )
    # In float64, as the difference of large sums; only the result is rounded to the features' precision.
    mean = stats[:, :1, :-1] / count
    scale = torch.ones_like(mean)
    if norm_vars:
        scale = (stats[:, 1:, :-1] / count - mean**2).clamp_min(VARIANCE_FLOOR).rsqrt()
    normalised = feats * scale.to(feats) - (mean * scale).to(feats)
    return normalised.masked_fill(~valid_mask(lengths, size).unsqueeze(-1), 0)


def utterance_cmvn(feats: Tensor, lengths: Tensor, *, norm_vars: bool = False) -> Tensor:
    """Normalise each utterance with its own mean, and deviation; differentiable through both.

    Args:
        feats: features, ``(B, T, D)``.
        lengths: number of frames of each utterance, ``(B,)`` int64; padded frames do not count.
        norm_vars: divide by the deviation too.

    Returns:
        ``(B, T, D)``, 0 in padded frames.
    """
    padding = ~valid_mask(lengths, feats.shape[1]).unsqueeze(-1)
    count = lengths.view(-1, 1, 1).to(feats.dtype)
    centred = feats - feats.masked_fill(padding, 0).sum(dim=1, keepdim=True) / count
    centred = centred.masked_fill(padding, 0)
    if norm_vars:
        variance = centred.square().sum(dim=1, keepdim=True) / count
        centred = centred * variance.clamp_min(VARIANCE_FLOOR).rsqrt()
    return centred


class GlobalNorm(nn.Module):
    """Normalise every dimension with the mean and deviation of the training set, which the state_dict carries.

    It is the identity until :meth:`set_stats`.

    Args:
        dim: dimension of the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def set_stats(self, mean: Tensor | np.ndarray, std: Tensor | np.ndarray) -> None:
        """Set mean and deviation.

        Args:
            mean: mean of each dimension, ``(D,)``.
            std: standard deviation of each dimension, ``(D,)``, positive.

        Raises:
            ValueError: the shape is wrong, a value is not finite, or a deviation is not positive.
        """
        new_mean, new_std = torch.as_tensor(mean).to(self.mean), torch.as_tensor(std).to(self.std)
        for name, value in (("mean", new_mean), ("std", new_std)):
            if value.shape != self.mean.shape:
                raise ValueError(f"{name} must be ({len(self.mean)},), got {tuple(value.shape)}")
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} must be finite, got {value.tolist()}")
        if not bool((new_std > 0).all()):
            raise ValueError(f"std must be positive, got {float(new_std.min())} in dimension {int(new_std.argmin())}")
        self.mean.copy_(new_mean)
        self.std.copy_(new_std)

    def forward(self, feats: Tensor, lengths: Tensor) -> Tensor:
        """Normalise ``feats (B, T, D)``; frames at and beyond ``lengths (B,)`` become 0."""
        scaled = (feats - self.mean.to(feats.dtype)) / self.std.to(feats.dtype)
        return scaled.masked_fill(~valid_mask(lengths, feats.shape[1]).unsqueeze(-1), 0)
