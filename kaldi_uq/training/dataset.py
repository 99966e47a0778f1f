"""Training data: features and targets of every frame, to be read frame by frame or utterance by utterance.

Features that are more than the memory should hold lie in a file that is mapped and has no name, so that it is gone with
the training, however that ends.  What is computed of them is the same to the last bit.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kaldi_uq.errors import DataError
from kaldi_uq.feats.cmvn import GlobalNorm
from kaldi_uq.feats.framing import valid_mask
from kaldi_uq.io.waves import Waves, pad, plan_batches, plan_waves
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.training.parallel import ONE, Workers

log = logging.getLogger(__name__)

MEMORY_BYTES = 1_000_000_000  # of features in memory: more are mapped from a file
MAX_FACTOR = 5  # frame subsampling factors that a message proposes
LENGTH_JITTER = 0.25  # of random batches: utterances of about the same length meet, but not the same ones each time
_CHUNK = 1 << 16  # frames that are normalised at once


@dataclass(frozen=True)
class SequenceBatch:
    """Whole utterances, padded with zeros.

    Attributes:
        utts: B utterance ids.
        feats: (B, T, D) float32, without context frames.
        lengths: (B,) int64, frames of the features.
        pdfs: (B, T') int64, the targets, one for every F-th frame of the features; 0 in padded frames.
        num_targets: (B,) int64.
        mask: (B, T') bool, False in padded frames.
    """

    utts: tuple[str, ...]
    feats: Tensor
    lengths: Tensor
    pdfs: Tensor
    num_targets: Tensor
    mask: Tensor


def spread(values: Tensor, factor: int, size: int) -> Tensor:
    """Values of every ``factor``-th frame, (B, T'), in their places among all of them, (B, ``size``), 0 in the others.

    >>> spread(torch.tensor([[7, 8]]), 3, 5).tolist()
    [[7, 0, 0, 8, 0]]
    """
    placed = values.new_zeros(len(values), size)
    placed[:, ::factor] = values
    return placed


@dataclass
class TrainingSet:
    """All frames of the training data, one after the other.

    Attributes:
        utts: utterances in order.
        feats: (F, D) float32, features before splicing; those in a file are on the CPU.
        offsets: (U + 1,) int64, where each utterance begins.
        pdfs: (N,) int64, the targets, one for every ``factor``-th frame of an utterance, from its first; on the device
            that trains.
        factor: frame subsampling factor of the model; with 1 there is a target for each frame.
        is_mapped: whether ``feats`` lie in a file, one for all processes of a machine.
    """

    utts: list[str]
    feats: Tensor
    offsets: np.ndarray
    pdfs: Tensor
    factor: int = 1
    is_mapped: bool = False

    @property
    def device(self) -> torch.device:
        """Where batches are wanted."""
        return self.pdfs.device

    @property
    def num_frames(self) -> int:
        """Frames with a target, N."""
        return len(self.pdfs)

    @property
    def num_targets(self) -> np.ndarray:
        """(U,) targets of each utterance."""
        return (np.diff(self.offsets) + self.factor - 1) // self.factor

    @property
    def target_offsets(self) -> np.ndarray:
        """(U + 1,) int64, where the targets of each utterance begin."""
        return np.concatenate([[0], np.cumsum(self.num_targets)])

    @property
    def target_rows(self) -> np.ndarray:
        """(N,) int64, the row of ``feats`` of each target."""
        first = np.repeat(self.offsets[:-1] - self.factor * self.target_offsets[:-1], self.num_targets)
        return first + self.factor * np.arange(self.num_frames)

    def counts(self, num_pdfs: int) -> np.ndarray:
        """Targets of each pdf."""
        return np.bincount(self.pdfs.cpu().numpy(), minlength=num_pdfs)

    def normalise(self, norm: GlobalNorm, workers: Workers = ONE) -> None:
        """Give ``norm`` the mean and deviation of these frames, and apply it to them.

        Args:
            norm: the normalisation.
            workers: the processes that have these frames.
        """
        parts = self.feats.split(_CHUNK)
        total, spread = (torch.zeros(self.feats.shape[1], dtype=torch.float64, device=self.device) for _ in range(2))
        for part in parts:
            total += part.to(self.device).double().sum(0)
        mean = total / len(self.feats)
        for part in parts:
            spread += (part.to(self.device).double() - mean).square().sum(0)
        norm.set_stats(mean, (spread / (len(self.feats) - 1)).sqrt())

        def apply() -> None:
            for part in parts:
                values = part.to(self.device)[None]
                part.copy_(norm(values, torch.tensor([len(part)], device=self.device))[0])

        workers.rewrite(apply, mapped=self.is_mapped)

    def plan(self, max_frames: int, *, generator: np.random.Generator | None = None) -> list[list[int]]:
        """Which utterances meet in a batch: all of them, each with others of similar length.

        Args:
            max_frames: the most frames in a batch, with padding; a longer utterance is a batch of its own.
            generator: source of the batches and of their order; ``None`` for the same batches always, the longest
                first.

        Returns:
            Numbers of the utterances of each batch.
        """
        lengths = np.diff(self.offsets)
        if generator is None:
            return plan_batches(lengths.tolist(), max_frames)
        # as if the utterances were longer, so that the limit holds
        longer = np.ceil(lengths * generator.uniform(1.0, 1.0 + LENGTH_JITTER, len(lengths))).astype(np.int64)
        plan = plan_batches(longer.tolist(), max_frames)
        return [plan[i] for i in generator.permutation(len(plan))]

    def batch(self, indices: list[int]) -> SequenceBatch:
        """The utterances of these numbers, padded."""
        offsets = self.offsets
        feats = [self.feats[offsets[i] : offsets[i + 1]].to(self.device) for i in indices]
        pdfs = self.targets(indices)
        num_targets = torch.from_numpy(self.num_targets[indices]).to(self.device)
        return SequenceBatch(
            utts=tuple(self.utts[i] for i in indices),
            feats=pad_sequence(feats, batch_first=True),
            lengths=torch.from_numpy(np.diff(offsets)[indices]).to(self.device),
            pdfs=pdfs,
            num_targets=num_targets,
            mask=valid_mask(num_targets, pdfs.shape[1]),
        )

    def targets(self, indices: list[int]) -> Tensor:
        """The targets (B, T') of the utterances of these numbers, 0 in padded frames."""
        counts = self.num_targets[indices]
        inside = np.arange(counts.max()) < counts[:, None]
        places = self.target_offsets[indices][:, None] + np.arange(counts.max())
        index = torch.from_numpy(np.where(inside, places, 0)).to(self.device)
        return self.pdfs[index] * torch.from_numpy(inside).to(self.device)

    def batches(self, max_frames: int, *, generator: np.random.Generator | None = None) -> Iterator[SequenceBatch]:
        """All utterances in padded batches; the arguments are those of :meth:`plan`."""
        return (self.batch(indices) for indices in self.plan(max_frames, generator=generator))


def make_training_set(
    model: HybridModel,
    waves: Mapping[str, np.ndarray],
    pdf_alis: Mapping[str, np.ndarray],
    ali_shift_s: float,
    *,
    memory_bytes: int = MEMORY_BYTES,
    directory: Path | None = None,
    workers: Workers = ONE,
) -> TrainingSet:
    """Compute features and bring the alignment to their frames.

    Args:
        model: model with the front end; it knows what its front end is told of the speakers of ``waves``.
        waves: utt -> (N,) float32.
        pdf_alis: utt -> (T,) pdf-ids; utterances without one are left out and named in the log.
        ali_shift_s: frame shift of the alignment, seconds.
        memory_bytes: the most that features may take of the memory.
        directory: where the file of more of them is; default: ``TMPDIR``.
        workers: the processes of the training, which compute some batches of features each.

    Raises:
        OSError: the disk has no room for them.
        DataError: no utterance has an alignment, or an alignment has another length than its utterance.
    """
    device = model.log_prior.device
    front_end = model.front_end
    utts = [utt for utt in waves if utt in pdf_alis]
    if not utts:
        raise DataError("no utterance of the data has an alignment; are data and alignments of one recipe?")
    missing = [utt for utt in waves if utt not in pdf_alis]
    if missing:
        names = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        log.warning("%d of %d utterances have no alignment and are left out: %s", len(missing), len(waves), names)
    used = Waves.of(waves).subset(utts)
    lengths = [int(front_end.num_feature_frames(size)) for size in used.lengths.values()]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shape = int(offsets[-1]), front_end.feature_dim
    is_mapped = 4 * math.prod(shape) > memory_bytes
    if not is_mapped:
        feats = torch.empty(shape, device=device)
    else:
        log.info("%.1f GB of features are in a file while the training lasts", 4e-9 * math.prod(shape))
        feats = torch.from_numpy(workers.mapped(shape, directory or tempfile.gettempdir()))
    span = {utt: (int(start), int(end)) for utt, start, end in zip(utts, offsets, offsets[1:], strict=False)}
    plan = workers.portion(plan_waves(used))
    with torch.no_grad(), workers.progress("features", "utterances", sum(map(len, plan))) as progress:
        for members in plan:
            batch = pad(used, members)
            values, _ = front_end.features(
                torch.from_numpy(batch.wav).to(device),
                torch.from_numpy(batch.num_samples).to(device),
                adaptation=model.adaptation_of(batch.utts),
            )
            for i, utt in enumerate(batch.utts):
                start, end = span[utt]
                feats[start:end] = values[i, : end - start]
            progress.update(len(batch.utts))
    workers.complete(feats, (span[utt] for members in plan for utt in members))
    shift_s = front_end.frame_shift_s
    targets = []
    for utt, frames in zip(utts, lengths, strict=True):
        if math.isclose(shift_s, ali_shift_s):
            _check_factor(utt, len(pdf_alis[utt]), frames, front_end.factor)
        targets.append(_to_frames(utt, pdf_alis[utt], front_end.thinned(frames), shift_s, ali_shift_s))
    pdfs = torch.from_numpy(np.concatenate(targets)).to(device)
    return TrainingSet(utts, feats, offsets, pdfs, front_end.factor, is_mapped)


def _check_factor(utt: str, found: int, num_features: int, factor: int) -> None:
    """Refuse an alignment whose length is not that of its frame subsampling factor, and say which one it is."""
    expected = -(-num_features // factor)
    fitting = [f for f in range(1, MAX_FACTOR + 1) if -(-num_features // f) == found]
    if found == expected or not (fitting or factor > 1):
        return
    said = f"utterance {utt!r}: the alignment has {found} frames, the features have {num_features}"
    said += f", of which frame_subsampling_factor {factor} takes {expected}" if factor > 1 else ""
    advice = "align with the same conf/mfcc.conf as the model's"
    if fitting:
        advice = (
            f"--frame-subsampling-factor {fitting[0]} would fit, or that number in the file of this name beside them"
        )
    raise DataError(f"{said}; {advice}")


def _to_frames(utt: str, alignment: np.ndarray, length: int, shift_s: float, ali_shift_s: float) -> np.ndarray:
    """The alignment at the model's frame rate: equal rates must have equal lengths, others take the nearest."""
    if math.isclose(shift_s, ali_shift_s):
        if len(alignment) != length:
            raise DataError(
                f"utterance {utt!r}: the alignment has {len(alignment)} frames, the features have {length}; "
                "align with the same conf/mfcc.conf as the model's"
            )
        return alignment.astype(np.int64)
    nearest = np.rint(np.arange(length) * (shift_s / ali_shift_s)).astype(np.int64)
    return alignment[np.minimum(nearest, len(alignment) - 1)].astype(np.int64)
