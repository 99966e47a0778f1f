"""When each word of an alignment begins and ends."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from kaldi_uq.io.kaldi_model import TransitionTable


def phone_segments(alignment: np.ndarray, table: TransitionTable) -> list[tuple[int, int, int]]:
    """Split an alignment of left-to-right HMMs into phones.

    A phone begins where the phone changes, where the HMM falls back to an earlier state, or where its only state is
    entered again.

    Args:
        alignment: transition-ids, (T,), each state's self-loops after its other transition, as Kaldi has them.
        table: the transition model.

    Returns:
        (phone-id, first frame, frame after the last) in order.
    """
    arcs = [
        (phone, state, destination == state)
        for phone, state, _, _ in table.tuples
        for destination, _ in table.topology.entry(phone)[state].transitions
    ]
    phones, states, loops = np.array([(0, 0, False), *arcs])[alignment].reshape(-1, 3).T
    again = (np.diff(states) == 0) & (loops[1:] == 0)
    new = np.flatnonzero((np.diff(phones) != 0) | (np.diff(states) < 0) | again) + 1
    bounds = [0, *new.tolist(), len(alignment)]
    return [(int(phones[a]), a, b) for a, b in itertools.pairwise(bounds) if b > a]


def word_times(
    alignment: np.ndarray,
    words: Sequence[str],
    table: TransitionTable,
    pronunciations: Mapping[str, Sequence[Sequence[int]]],
    silence: frozenset[int],
    frame_shift_s: float,
) -> list[tuple[str, float, float]]:
    """The words with their times.

    Args:
        alignment: transition-ids, (T,).
        words: the words of the path.
        table: the transition model.
        pronunciations: word -> its pronunciations as phone-ids.
        silence: phone-ids of silence.
        frame_shift_s: frame shift in seconds.

    Returns:
        (word, start, end) in seconds.  Where lexicon and alignment disagree, the rest of the words is left out.
    """
    segments = [segment for segment in phone_segments(alignment, table) if segment[0] not in silence]
    found, at = [], 0
    for word in words:
        for phones in sorted(pronunciations.get(word, ()), key=len, reverse=True):
            if [segment[0] for segment in segments[at : at + len(phones)]] == list(phones):
                found.append((word, segments[at][1] * frame_shift_s, segments[at + len(phones) - 1][2] * frame_shift_s))
                at += len(phones)
                break
        else:
            break
    return found
