"""Word times: phones and words of an alignment begin and end where its transition-ids say."""

from __future__ import annotations

import numpy as np
import pytest

from kaldi_uq.io.kaldi_model import HmmState, Topology, TransitionTable
from kaldi_uq.io.word_times import phone_segments, word_times
from kaldi_uq.language.prepare import silence_states, state_chain

SIL, A, B, C = 1, 2, 3, 4


def make_table(entries: dict[int, tuple[HmmState, ...]]) -> TransitionTable:
    """A monophone transition model: a pdf for each state of each phone."""
    topology = Topology(tuple(entries), (-1, *range(len(entries))), tuple(entries.values()))
    states = [(phone, state) for phone, entry in entries.items() for state in range(len(entry) - 1)]
    tuples = tuple((phone, state, pdf, pdf) for pdf, (phone, state) in enumerate(states))
    count = sum(len(entries[phone][state].transitions) for phone, state in states)
    return TransitionTable(topology, tuples, np.zeros(count + 1, np.float32))


TABLE = make_table({SIL: silence_states(5), A: state_chain(3), B: state_chain(1), C: state_chain(2)})


def tid(phone: int, state: int, destination: int) -> int:
    """The transition-id of an arc, counted from the definition: arcs of all states in order, from 1."""
    found = 0
    for each_phone, each_state, *_ in TABLE.tuples:
        for to, _ in TABLE.topology.entry(each_phone)[each_state].transitions:
            found += 1
            if (each_phone, each_state, to) == (phone, state, destination):
                return found
    raise AssertionError


def chain(phone: int, *durations: int) -> list[int]:
    """Transition-ids of a left-to-right phone that stays so many frames in each state, reordered as Kaldi does."""
    return [
        label
        for state, frames in enumerate(durations)
        for label in [tid(phone, state, state + 1)] + [tid(phone, state, state)] * (frames - 1)
    ]


@pytest.mark.parametrize(
    "parts, expected",
    [
        ([], []),
        ([(A, 2, 1, 3)], [(A, 0, 6)]),
        ([(A, 1, 1, 1), (C, 2, 2)], [(A, 0, 3), (C, 3, 7)]),
        ([(A, 2, 1, 3), (A, 1, 1, 1)], [(A, 0, 6), (A, 6, 9)]),
        ([(B, 4), (B, 1), (B, 2)], [(B, 0, 4), (B, 4, 5), (B, 5, 7)]),
        ([(C, 1, 3), (B, 2), (C, 2, 1)], [(C, 0, 4), (B, 4, 6), (C, 6, 9)]),
    ],
    ids=["nothing", "one", "two", "twice the same", "one state again and again", "there and back"],
)
def test_phones_begin_where_their_first_state_is_entered(
    parts: list[tuple[int, ...]], expected: list[tuple[int, int, int]]
) -> None:
    alignment = [label for phone, *durations in parts for label in chain(phone, *durations)]
    assert phone_segments(np.array(alignment, dtype=np.int32), TABLE) == expected


def silence() -> list[int]:
    """Six frames of silence that go forth and back between the middle states."""
    return [
        tid(SIL, 0, 2),
        tid(SIL, 2, 1),
        tid(SIL, 1, 3),
        tid(SIL, 3, 4),
        tid(SIL, 4, 5),
        tid(SIL, 4, 4),
    ]


PRONUNCIATIONS = {"ab": [(A, B)], "a": [(A,)], "c": [(C,), (C, B)]}


def times(words: list[str], alignment: list[int]) -> list[tuple[str, float, float]]:
    ali = np.array(alignment, dtype=np.int32)
    return word_times(ali, words, TABLE, PRONUNCIATIONS, frozenset({SIL}), 0.01)


def test_words_have_the_times_of_their_phones_and_silence_is_between_them() -> None:
    alignment = [*silence(), *chain(A, 1, 1, 1), *chain(B, 2), *silence(), *chain(C, 3, 1), *chain(A, 2, 2, 2)]
    assert times(["ab", "c", "a"], alignment) == [
        ("ab", pytest.approx(0.06), pytest.approx(0.11)),
        ("c", pytest.approx(0.17), pytest.approx(0.21)),
        ("a", pytest.approx(0.21), pytest.approx(0.27)),
    ]


def test_longer_pronunciation_is_preferred_where_both_fit() -> None:
    assert times(["c"], [*chain(C, 1, 1), *chain(B, 3)]) == [("c", 0.0, pytest.approx(0.05))]
    assert times(["c"], chain(C, 1, 1)) == [("c", 0.0, pytest.approx(0.02))]


def test_word_said_twice_has_two_times() -> None:
    assert [t[1:] for t in times(["a", "a"], [*chain(A, 1, 1, 1), *chain(A, 1, 2, 1)])] == [
        (0.0, pytest.approx(0.03)),
        (pytest.approx(0.03), pytest.approx(0.07)),
    ]


def test_words_after_a_disagreement_are_left_out() -> None:
    alignment = [*chain(A, 1, 1, 1), *chain(C, 1, 1), *chain(B, 1)]
    assert [word for word, *_ in times(["a", "ab", "c"], alignment)] == ["a"]
    assert times(["unknown"], alignment) == []
    assert times(["a", "c", "c"], alignment[:5]) == times(["a", "c"], alignment[:5])
