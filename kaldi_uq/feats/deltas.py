"""Time derivatives of features: Kaldi's ``add-deltas``, and the repeated filter of torchaudio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kaldi_uq.feats.framing import valid_mask
from kaldi_uq.feats.splice import repeat_edge_frames


def regression_filter(window: int) -> np.ndarray:
    """Weights whose dot product with ``2 * window + 1`` frames is the slope of the line through them, float64.

    >>> regression_filter(1).tolist()
    [-0.5, 0.0, 0.5]
    """
    taps = np.arange(-window, window + 1, dtype=np.float64)
    return np.asarray(taps / (taps**2).sum())


def delta_filters(order: int, window: int) -> np.ndarray:
    """The filters of the derivatives 0 to ``order``, centred and padded with 0 to the longest.

    Returns:
        ``(order + 1, 2 * order * window + 1)`` float64.

    Source: Kaldi ``DeltaFeatures`` (``src/feat/feature-functions.cc``).
    """
    width = 2 * order * window + 1
    filters = np.zeros((order + 1, width))
    current = np.ones(1)
    for derivative in range(order + 1):
        offset = (width - len(current)) // 2
        filters[derivative, offset : offset + len(current)] = current
        current = np.convolve(current, regression_filter(window))
    return filters


class Deltas(nn.Module):
    """Append derivatives to each frame, ``(B, T, D) -> (B, T, D * (order + 1))``, base features first.

    Kaldi applies one long filter per derivative, and repeats an utterance's first and last frame where that reaches
    beyond its ends.  torchaudio applies the short filter again to the derivatives, whose ends are repeated in turn; the
    two differ in the outermost frames from the second derivative on.

    Args:
        order: highest derivative; 0 appends nothing.
        window: number of frames on each side that the first derivative looks at.
        repeated: do it in torchaudio's way instead of Kaldi's.

    Source: Kaldi ``src/feat/feature-functions.cc``; ``torchaudio.functional.compute_deltas``.
    """

    def __init__(self, order: int = 2, window: int = 2, *, repeated: bool = False) -> None:
        super().__init__()
        if order < 0 or window < 1:
            raise ValueError(f"order must be >= 0 and window >= 1, got {order} and {window}")
        self.order, self.window, self.repeated = order, window, repeated
        self.filters = delta_filters(min(order, 1) if repeated else order, window)[1:].tolist()

    def forward(self, feats: Tensor, lengths: Tensor) -> Tensor:
        """Append the derivatives.

        Args:
            feats: features, ``(B, T, D)``.
            lengths: number of frames of each utterance, ``(B,)`` int64.

        Returns:
            ``(B, T, D * (order + 1))``, 0 in padded frames.
        """
        padding = ~valid_mask(lengths, feats.shape[1]).unsqueeze(-1)
        if self.order == 0:
            return feats.masked_fill(padding, 0)
        parts = [feats]
        if self.repeated:
            for _ in range(self.order):
                parts.append(self._filtered(parts[-1], lengths))
        else:
            parts.append(self._filtered(feats, lengths))
        return torch.cat(parts, dim=-1).masked_fill(padding, 0)

    def _filtered(self, feats: Tensor, lengths: Tensor) -> Tensor:
        reach = max(map(len, self.filters)) // 2
        extended = repeat_edge_frames(feats, lengths, reach, reach)
        return _Filters.apply(extended, self.filters)  # type: ignore[no-untyped-call, no-any-return]


class _Filters(torch.autograd.Function):
    """Several filters over time, (B, S, D) -> (B, S - W + 1, D * number of filters), W the length of each.

    A sum of shifted copies: for so few taps and channels a convolution takes three times as long.  The gradient is the
    sum of the copies shifted back, all into one tensor, where autograd would make one of its own for every tap.
    """

    @staticmethod
    def forward(ctx: Any, extended: Tensor, filters: Sequence[Sequence[float]]) -> Tensor:
        ctx.filters, ctx.extended_shape = filters, extended.shape
        batch, size, dim = extended.shape
        out = extended.new_zeros(batch, size - len(filters[0]) + 1, dim * len(filters))
        for part, shifted, tap in _taps(out, extended, filters):
            part.add_(shifted, alpha=tap)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        out = grad.new_zeros(ctx.extended_shape)
        for part, shifted, tap in reversed(list(_taps(grad, out, ctx.filters))):  # rounded as autograd rounds
            shifted.add_(part * tap)
        return out, None


def _taps(
    filtered: Tensor, extended: Tensor, filters: Sequence[Sequence[float]]
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """For each tap that is not 0: the result of its filter, the stretch of the signal that it weighs, and the tap."""
    size, dim = filtered.shape[1], extended.shape[2]
    for number, taps in enumerate(filters):
        for place, tap in enumerate(taps):
            if tap:
                yield filtered[..., number * dim : (number + 1) * dim], extended[:, place : place + size], tap
