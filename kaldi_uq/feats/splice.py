"""Context frames beside each frame, as Kaldi's ``splice-feats`` puts them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kaldi_uq.feats.framing import valid_mask
from kaldi_uq.feats.packing import Packing
from kaldi_uq.feats.spectrum import overlap_add

# So many times the chosen frames there may be in a batch for the gradients of all of them, most of them 0 then, to be
# added as one block on a CPU.
MOST_PADDING = 4


def repeat_edge_frames(feats: Tensor, lengths: Tensor, left: int, right: int) -> Tensor:
    """Continue each utterance by copies of its own first and last valid frame.

    Args:
        feats: features, ``(B, T, D)``; frames at and beyond ``lengths`` are not read.
        lengths: number of frames of each utterance, ``(B,)`` int64, between 1 and T.
        left: number of copies of the first frame.
        right: number of frames to add behind T; every frame after the last valid one is a copy of that one.

    Returns:
        ``(B, left + T + right, D)``.
    """
    batch, size, _ = feats.shape
    last = feats[torch.arange(batch, device=feats.device), lengths - 1].unsqueeze(1)
    inside = torch.where(valid_mask(lengths, size).unsqueeze(-1), feats, last)
    return torch.cat([feats[:, :1].expand(-1, left, -1), inside, last.expand(-1, right, -1)], dim=1)


class _Splice(torch.autograd.Function):
    """Splicing makes the largest tensor of the front end: it is written once, and its gradient read once."""

    @staticmethod
    def forward(ctx: Any, extended: Tensor, index: Tensor, width: int) -> Tensor:
        size, dim = extended.shape[1:]
        count = size - width + 1
        ctx.save_for_backward(index)
        ctx.extended_shape = extended.shape
        # Neighbouring frames are neighbours in memory, so a spliced frame is a window into the sequence of all values.
        # Windows from one utterance into the next are there too, and never chosen.
        windows = extended.view(-1).unfold(0, width * dim, dim)
        return windows.index_select(0, index // count * size + index % count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        batch, size, dim = ctx.extended_shape
        width = grad.shape[1] // dim
        count = size - width + 1
        if grad.device.type == "cpu" and batch * count <= MOST_PADDING * len(index):
            padded = grad.new_zeros(batch * count, width * dim).index_copy_(0, index, grad)
            return overlap_add(padded.view(batch, count, -1), dim, size * dim).view(batch, size, dim), None, None
        first = index // count * size + index % count  # row of the first of a frame's neighbours
        out = grad.new_zeros(batch * size, dim)
        for place in range(width):
            out.index_add_(0, first + place, grad[:, place * dim : (place + 1) * dim])
        return out.view(batch, size, dim), None, None


def splice_frames(feats: Tensor, lengths: Tensor, index: Tensor, *, left: int, right: int) -> Tensor:
    """Concatenate chosen frames of a batch with their neighbours.

    Args:
        feats: features, ``(B, T, D)``.
        lengths: number of frames of each utterance, ``(B,)`` int64.
        index: places of the frames in the flattened batch ``(B * T)``, ``(F,)`` int64, each of them once.
        left: number of context frames before each frame.
        right: number of context frames after it.

    Returns:
        ``(F, D * (left + 1 + right))``, the rows of :func:`splice` that are chosen.
    """
    extended = repeat_edge_frames(feats, lengths, left, right)
    return _Splice.apply(extended, index, left + 1 + right)  # type: ignore[no-untyped-call, no-any-return]


def splice(feats: Tensor, lengths: Tensor, left: int, right: int) -> Tensor:
    """Concatenate each frame with its neighbours, frames ``t - left`` to ``t + right``.

    Args:
        feats: features, ``(B, T, D)``.
        lengths: number of frames of each utterance, ``(B,)`` int64; beyond its ends an utterance continues with its
            first or last valid frame.
        left: number of context frames before each frame.
        right: number of context frames after it.

    Returns:
        ``(B, T, D * (left + 1 + right))``, 0 in padded frames.

    Source: Kaldi ``SpliceFrames`` (``src/feat/feature-functions.cc``).

    >>> feats = torch.tensor([[[1.0], [2.0], [3.0]]])
    >>> splice(feats, torch.tensor([3]), 1, 1).tolist()
    [[[1.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 3.0]]]
    """
    size = feats.shape[1]
    if left == right == 0:
        return feats.masked_fill(~valid_mask(lengths, size).unsqueeze(-1), 0)
    packing = Packing.of(lengths, size)
    return packing.unpack(splice_frames(feats, lengths, packing.index, left=left, right=right))


def gather_spliced(feats: Tensor, start: Tensor, end: Tensor, index: Tensor, *, left: int, right: int) -> Tensor:
    """Spliced frames chosen from many utterances at once, without splicing the others.

    Args:
        feats: frames of all utterances one after the other, ``(F, D)``, without padding.
        start: row of ``feats`` at which the chosen frame's utterance begins, ``(K,)`` int64.
        end: row behind that utterance's last one, ``(K,)`` int64.
        index: row of the chosen frame, ``(K,)`` int64, ``start <= index < end``.
        left: number of context frames before each frame.
        right: number of context frames after it.

    Returns:
        ``(K, D * (left + 1 + right))``, the result of :func:`splice` for these frames.
    """
    offsets = torch.arange(-left, right + 1, device=feats.device)
    rows = (index.unsqueeze(1) + offsets).clamp(min=start.unsqueeze(1), max=end.unsqueeze(1) - 1)
    return feats.index_select(0, rows.flatten()).view(len(index), -1)
