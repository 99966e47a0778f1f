"""Statistics for a phonetic decision tree: Gaussian sums of every phone in context that the alignments hold.

Source: Kaldi ``src/hmm/tree-accu.cc``, ``src/tree/clusterable-classes.cc``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kaldi_uq.engine.blocks import blocks_of
from kaldi_uq.io.event_map import PDF_CLASS
from kaldi_uq.io.kaldi_model import TransitionTable

LEFT, CENTRAL, RIGHT, CLASS = range(4)  # columns of an event
UNKNOWN = -1  # phone at a position that no question may be asked about: beside a context-independent phone
COLUMNS = {0: LEFT, 1: CENTRAL, 2: RIGHT, PDF_CLASS: CLASS}  # key of the tree -> column
VARIANCE_FLOOR = 0.01  # Kaldi's default for tree statistics


@dataclass(frozen=True)
class TreeStats:
    """Sums of each event.

    Attributes:
        events: (N, 4) int64: phones left, central and right, pdf class.
        sums: (N, 1 + 2 D) float64: count, sum of x, sum of x^2.
    """

    events: np.ndarray
    sums: np.ndarray

    def select(self, rows: np.ndarray) -> TreeStats:
        """Some of the events."""
        return TreeStats(self.events[rows], self.sums[rows])


def log_likelihood(sums: np.ndarray) -> np.ndarray:
    """Log-likelihood of the data behind sums (..., 1 + 2 D) under one diagonal Gaussian each, (...) float64."""
    dim = (sums.shape[-1] - 1) // 2
    count = np.maximum(sums[..., 0], 0.0)
    safe = np.maximum(count, 1e-10)[..., None]
    mean = sums[..., 1 : 1 + dim] / safe
    variance = sums[..., 1 + dim :] / safe - mean**2
    floored = np.maximum(variance, VARIANCE_FLOOR)
    terms = variance / floored + np.log(floored) + np.log(2 * np.pi)
    return np.where(count > 0, -0.5 * count * terms.sum(-1), 0.0)


@dataclass(frozen=True)
class Frames:
    """Phones and states of every frame of all utterances, one utterance after the other; all (T,) int64.

    Attributes:
        left, central, right: phone before that of the frame, phone of the frame, phone after it (0: none).
        state, pdf_class: number of the HMM state in its phone, and its pdf class.
        arc: number of the transition out of the state.
    """

    left: np.ndarray
    central: np.ndarray
    right: np.ndarray
    state: np.ndarray
    pdf_class: np.ndarray
    arc: np.ndarray


def frames_of(alignments: Sequence[np.ndarray], table: TransitionTable) -> Frames:
    """Phones in context of every frame.

    Args:
        alignments: (T,) transition-ids each.
        table: the transition model that they belong to.
    """
    rows = [(0, 0, 0, 0, 0, 0)]
    for phone, state, _, _ in table.tuples:
        entry = table.topology.entry(phone)
        for arc, (destination, _) in enumerate(entry[state].transitions):
            loop, last = destination == state, destination == len(entry) - 1
            pdf_class = entry[state].self_loop_pdf_class if loop else entry[state].forward_pdf_class
            rows.append((phone, state, pdf_class, arc, int(loop), int(last)))
    lookup = np.array(rows, dtype=np.int64)
    contexts = [_context(lookup[alignment]) for alignment in alignments]
    every = lookup[np.concatenate(alignments)]
    left, right = (np.concatenate(side) for side in zip(*contexts, strict=True))
    return Frames(left, every[:, 0], right, every[:, 1], every[:, 2], every[:, 3])


def _context(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phone before and after that of each frame of an utterance."""
    phone, state, loop, last = rows[:, 0], rows[:, 1], rows[:, 4], rows[:, 5]
    reordered = _is_reordered(phone, state, loop)
    out = loop == 0
    ends = out & (last == 1)  # ways out of a phone
    if reordered:  # a phone begins with the first way out after one that left the phone before
        visit = np.cumsum(out)
        leaves = np.concatenate([[False], ends[out]])
        segment = np.cumsum(leaves)[visit - 1]
    else:
        segment = np.concatenate([[0], np.cumsum(ends)[:-1]])
    starts = np.flatnonzero(np.diff(segment, prepend=-1))
    phones = np.concatenate([[0], phone[starts], [0]])
    index = np.cumsum(np.diff(segment, prepend=-1) != 0)  # number of the segment, from 1
    return phones[index - 1], phones[index + 1]


def _is_reordered(phone: np.ndarray, state: np.ndarray, loop: np.ndarray) -> bool:
    """Whether the self-loops of a state follow its way out, as in Kaldi's graphs, or come before it."""
    if loop[0] or loop[-1]:
        return not loop[0]
    same = (phone[:-1] == phone[1:]) & (state[:-1] == state[1:])
    after, before = ((loop[:-1] == a) & (loop[1:] == 1 - a) & same for a in (0, 1))
    return bool(after.any() or not before.any())


def accumulate(
    feats: Mapping[str, np.ndarray],
    alignments: Mapping[str, np.ndarray],
    table: TransitionTable,
    context_independent: Collection[int],
) -> TreeStats:
    """Sums of every event.

    Args:
        feats: utt -> (T, D) float32.
        alignments: utt -> (T,) transition-ids, of the same utterances or fewer.
        table: the transition model of the alignments.
        context_independent: phones whose context does not count: silence.
    """
    parts = [
        _accumulate({utt: feats[utt] for utt in utts}, [alignments[utt] for utt in utts], table, context_independent)
        for utts in blocks_of({utt: len(alignment) for utt, alignment in alignments.items()})
    ]
    if len(parts) == 1:
        return parts[0]
    events, index = np.unique(np.concatenate([part.events for part in parts]), axis=0, return_inverse=True)
    sums = np.zeros((len(events), parts[0].sums.shape[1]))
    np.add.at(sums, index.reshape(-1), np.concatenate([part.sums for part in parts]))
    return TreeStats(events, sums)


def _accumulate(
    feats: Mapping[str, np.ndarray],
    alignments: Sequence[np.ndarray],
    table: TransitionTable,
    context_independent: Collection[int],
) -> TreeStats:
    """Sums of the events in some utterances."""
    frames = frames_of(alignments, table)
    free = np.isin(frames.central, sorted(context_independent))
    left, right = (np.where(free, UNKNOWN, side) for side in (frames.left, frames.right))
    every = np.stack([left, frames.central, right, frames.pdf_class], axis=1)
    events, index = np.unique(every, axis=0, return_inverse=True)
    index = index.reshape(-1)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(events)))
    x = np.concatenate(list(feats.values())).astype(np.float64)[order]
    counts = np.bincount(index, minlength=len(events)).astype(np.float64)
    first, second = (np.add.reduceat(values, starts, axis=0) for values in (x, x**2))
    return TreeStats(events, np.concatenate([counts[:, None], first, second], axis=1))
