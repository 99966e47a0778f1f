"""Deterministic lattices against an enumeration of all paths."""

from __future__ import annotations

import numpy as np
import pytest

from kaldi_uq.io.lattice import Lattice
from kaldi_uq.lattice.determinize import determinize
from kaldi_uq.lattice.paths import best_paths
from tests.lattices import Paths, all_paths, best_of_words, random_lattice

NO_BEAM = 1e5


def is_deterministic(lattice: Lattice) -> bool:
    pairs = list(zip(lattice.sources.tolist(), lattice.words.tolist(), strict=True))
    return len(set(pairs)) == len(pairs) and all(word for _, word in pairs)


def assert_same(found: Paths, expected: Paths) -> None:
    assert set(found) == set(expected)
    for words, (costs, tids) in expected.items():
        assert found[words][0] == pytest.approx(costs, abs=1e-3)
        assert found[words][1] == tids


class TestAgainstAllPaths:
    @pytest.mark.parametrize("seed", range(60))
    def test_every_word_sequence_is_there_once_with_its_best_path(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lattice = random_lattice(rng, num_states=int(rng.integers(2, 11)), num_words=int(rng.integers(1, 4)))
        found = determinize(lattice, NO_BEAM)
        assert is_deterministic(found)
        words = [words for words, _, _ in all_paths(found)]
        assert len(set(words)) == len(words)
        assert_same(best_of_words(found), best_of_words(lattice))

    @pytest.mark.parametrize("seed", range(40))
    @pytest.mark.parametrize("beam", [0.0, 0.7, 2.5])
    def test_what_is_within_the_beam_is_there_and_exact(self, seed: int, beam: float) -> None:
        lattice = random_lattice(np.random.default_rng(1000 + seed), num_states=9, num_words=3)
        expected = best_of_words(lattice)
        found = best_of_words(determinize(lattice, beam))
        if not expected:
            assert not found
            return
        limit = min(sum(costs) for costs, _ in expected.values()) + beam
        within = {words: one for words, one in expected.items() if sum(one[0]) <= limit + 1e-9}
        assert_same({words: found[words] for words in within}, within)

    def test_epsilons_in_every_place(self) -> None:
        # a word without a transition-id, an end with some, two ways without a word, and a detour that is cheaper
        arcs = [(0, 1, 0), (0, 2, 0), (1, 3, 7), (2, 3, 7), (3, 4, 0), (3, 4, 0), (1, 2, 0)]
        costs = [(1, 0), (3, 1), (0, 2), (0, 0.5), (0, 1), (1, 0.5), (0.5, 0)]
        finals = np.full((5, 2), np.inf)
        finals[4], finals[3] = (0, 0.25), (5, 5)
        strings = [
            np.array(tids, "<i4").tobytes() for tids in ([1], [2], [], [3], [4], [5], [], [], [], [], [8], [9, 9])
        ]
        found = all_paths(determinize(Lattice.build(0, arcs, np.array(costs, float), finals, strings), NO_BEAM))
        assert found == [((7,), (1.5, 1.75), (1, 3, 4, 9, 9))]


class TestSize:
    def alternatives(self, length: int) -> Lattice:
        """Two words in each of ``length`` places, each in two times."""
        arcs, costs, strings = [], [], []
        for place in range(length):
            for word, cost, tid in ((1, 0.0, 1), (2, 1.0, 2), (1, 0.3, 3), (2, 1.4, 4)):
                arcs.append((place, place + 1, word))
                costs.append((cost, 0.0))
                strings.append(np.array([tid], "<i4").tobytes())
        finals = np.full((length + 1, 2), np.inf)
        finals[-1] = 0.0
        return Lattice.build(0, arcs, np.array(costs), finals, strings + [b""] * (length + 1))

    def test_histories_that_leave_the_same_share_a_state(self) -> None:
        found = determinize(self.alternatives(40), 5.0)
        assert (found.num_states, found.num_arcs) == (41, 80)

    def test_too_many_states_narrow_the_beam(self) -> None:
        lattice = random_lattice(np.random.default_rng(3), num_states=12, num_words=4, density=1.0)
        whole = determinize(lattice, 20.0)
        assert whole.num_states > 20
        small = determinize(lattice, 20.0, max_states=20)
        assert 0 < small.num_states <= 20
        best, expected = (best_paths(one, [(1, 1, 0)])[0] for one in (small, whole))
        assert best is not None and expected is not None and best.words == expected.words

    def test_the_best_path_alone_may_have_more_states(self) -> None:
        assert determinize(self.alternatives(10), 5.0, max_states=5).num_states == 11

    def test_no_path_is_an_empty_lattice(self) -> None:
        nothing = Lattice.build(0, [(0, 1, 1)], np.zeros((1, 2)), np.full((2, 2), np.inf), [b"", b"", b""])
        for lattice in (nothing, Lattice.build(-1, [], np.zeros((0, 2)), np.zeros((0, 2)), [])):
            found = determinize(lattice, 5.0)
            assert (found.start, found.num_states, found.num_arcs) == (-1, 0, 0)
