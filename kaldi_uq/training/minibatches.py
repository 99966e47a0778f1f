"""The minibatches of an epoch: frames in any order, or whole utterances.  Seed and epoch decide which.

Several processes have the same minibatches, and each its share of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.nnet.base import AcousticModel
from kaldi_uq.training.dataset import TrainingSet, spread
from kaldi_uq.training.parallel import ONE, Workers

_TOGETHER = 1 << 13  # frames that are gathered at once on a GPU, where starting a kernel takes longer than it does


@dataclass(frozen=True)
class Minibatch:
    """What a network's ``training_loss`` reads.

    Attributes:
        x: frames (F, D); (M, F, D) for an ensemble of frame-wise networks; or utterances (B, T, D).
        pdfs: int64, as ``x`` without its last axis.
        mask: bool (B, T), False in frames without a target; None for frames.
        weight: share of the whole minibatch that this is.
    """

    x: Tensor
    pdfs: Tensor
    mask: Tensor | None = None
    weight: float = 1.0


def minibatches(
    network: AcousticModel,
    front_end: FrontEnd,
    data: TrainingSet,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    workers: Workers = ONE,
) -> tuple[int, Iterator[Minibatch]]:
    """All minibatches of an epoch, in random order.

    Args:
        network: says whether it reads frames or utterances, and whether each of its members reads its own.
        front_end: says how many context frames a frame has.
        data: features and targets.
        batch_size: frames in a minibatch; of utterances, frames at most, with padding.
        seed: seed of the training.
        epoch: number of the epoch, from 0.
        workers: the processes that share the minibatches.

    Returns:
        How many minibatches there are, and an iterator over this process's share of each.

    Raises:
        UsageError: the minibatches are too small for so many processes.
    """
    if network.frame_wise:
        workers.check_minibatches(min(batch_size, data.num_frames), "frames")
        frames = _frames(network, front_end, data, batch_size, (seed, epoch), workers)
        return math.ceil(data.num_frames / batch_size), frames
    plan = data.plan(batch_size, generator=np.random.default_rng(np.random.SeedSequence([seed, epoch])))
    workers.check_minibatches(max(map(len, plan)), "utterances")
    return len(plan), _utterances(front_end, data, plan, workers)


def _frames(
    network: AcousticModel,
    front_end: FrontEnd,
    data: TrainingSet,
    batch_size: int,
    seed: tuple[int, int],
    workers: Workers,
) -> Iterator[Minibatch]:
    device = data.feats.device  # which is not where batches are wanted if the features are in a file
    order = frame_order(data.num_frames, network.num_members, *seed).to(device)
    offsets = torch.from_numpy(data.offsets).to(device)
    utt_of_frame = torch.repeat_interleave(
        torch.arange(len(data.utts), device=device), offsets.diff(), output_size=len(data.feats)
    )
    rows = torch.from_numpy(data.target_rows).to(device)
    at_once = batch_size * _minibatches_at_once(batch_size, device, workers)
    for first in range(0, data.num_frames, at_once):
        whole = order[..., first : first + at_once]
        chosen = whole[..., workers.rows(whole.shape[-1])]
        flat = rows[chosen.reshape(-1)]
        utt = utt_of_frame[flat]
        x = front_end.gather_spliced(data.feats, offsets[utt], offsets[utt + 1], flat)
        x, pdfs = x.reshape(*chosen.shape, -1).to(data.device), data.pdfs[chosen.to(data.device)]
        weight = workers.weight(np.ones(whole.shape[-1]))
        for start in range(0, chosen.shape[-1], batch_size):
            part = slice(start, start + batch_size)
            yield Minibatch(x[..., part, :], pdfs[..., part], weight=weight)


def _minibatches_at_once(batch_size: int, device: torch.device, workers: Workers) -> int:
    """How many are gathered together; processes that share each gather their rows of it."""
    return max(1, _TOGETHER // batch_size) if device.type == "cuda" and workers is ONE else 1


def _utterances(front_end: FrontEnd, data: TrainingSet, plan: list[list[int]], workers: Workers) -> Iterator[Minibatch]:
    num_targets = data.num_targets
    for indices in plan:
        batch = data.batch(indices[workers.rows(len(indices))])
        # a network that reads whole utterances has an output for every frame, and targets for some
        pdfs, mask = (spread(values, data.factor, batch.feats.shape[1]) for values in (batch.pdfs, batch.mask))
        weight = workers.weight(num_targets[indices])
        yield Minibatch(front_end.splice(batch.feats, batch.lengths), pdfs, mask, weight)


def weighted(loss: Tensor, weight: float) -> Tensor:
    """The loss of a share of a minibatch, as its part of the mean over all of it."""
    return loss if weight == 1.0 else loss * weight


def frame_order(num_frames: int, members: int, seed: int, epoch: int) -> Tensor:
    """The order of the frames in an epoch, (F,); for an ensemble one order for each member, (M, F)."""

    def permutation(member: int) -> Tensor:
        state = np.random.SeedSequence([seed, epoch, member]).generate_state(1, np.uint64)[0] >> np.uint64(1)
        return torch.randperm(num_frames, generator=torch.Generator().manual_seed(int(state)))

    return torch.stack([permutation(m) for m in range(members)]) if members else permutation(0)
