"""Posteriors, entropy, confidence and depth of small lattices, against the enumeration of their paths."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kaldi_uq.io.lattice import Lattice
from kaldi_uq.lattice.determinize import determinize
from kaldi_uq.lattice.paths import best_paths
from kaldi_uq.lattice.posteriors import (
    LATTICE_STATISTICS,
    Posteriors,
    depth,
    lattice_statistics,
    state_times,
    word_confidences,
)
from tests.lattices import all_paths, make_lattice, random_lattice


class TestPosteriors:
    @pytest.mark.parametrize("seed", range(30))
    def test_entropy_and_total_are_those_of_all_paths(self, seed: int) -> None:
        lattice = random_lattice(np.random.default_rng(seed))
        weights = np.exp([-sum(costs) for _, costs, _ in all_paths(lattice)])
        p = weights / weights.sum()
        found = Posteriors.of(lattice)
        assert found.entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-9)
        assert found.log_total == pytest.approx(math.log(weights.sum()), abs=1e-9)
        assert found.ends.sum() == pytest.approx(1.0)
        into = np.zeros(lattice.num_states)
        np.add.at(into, lattice.destinations, found.arcs)
        into[lattice.start] += 1
        out = found.ends.copy()
        np.add.at(out, lattice.sources, found.arcs)
        assert into == pytest.approx(out)

    def test_large_costs_cost_no_accuracy(self) -> None:
        lattice = make_lattice([(0, 1, 1, 4e6, 3e6, [1]), (0, 1, 2, 4e6, 3e6 + 1, [1])], {1: (0, 0)})
        p = 1 / (1 + math.exp(-1))
        assert Posteriors.of(lattice).entropy == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), abs=1e-9)

    def test_one_path_is_certain(self) -> None:
        found = Posteriors.of(make_lattice([(0, 1, 1, 2.0, 3.0, [1])], {1: (0.5, 0)}))
        assert (found.entropy, found.arcs.tolist(), found.log_total) == (0.0, [1.0], -5.5)

    def test_dead_ends_have_no_part(self) -> None:
        found = Posteriors.of(make_lattice([(0, 1, 1, 0, 0, [1]), (0, 2, 2, 0, 0, [1])], {1: (0, 0)}))
        assert (found.entropy, found.arcs.tolist()) == (0.0, [1.0, 0.0])

    def test_no_path(self) -> None:
        with pytest.raises(ValueError, match="no path of the lattice reaches an end"):
            Posteriors.of(make_lattice([(0, 1, 1, 0, 0, [1])], {}))


class TestWords:
    # "1 2" with probability 1/2, "1 3" and "4 2" with 1/4 each
    LATTICE = make_lattice(
        [
            (0, 1, 1, 0, 0, [1, 1]),
            (0, 2, 4, math.log(2), 0, [1, 1, 1]),
            (1, 3, 2, 0, 0, [2, 2]),
            (1, 3, 3, math.log(2), 0, [2, 2]),
            (2, 3, 2, 0, math.log(1), [2]),
        ],
        {3: (0, 0)},
    )

    def test_confidence_sums_the_arcs_of_the_word_that_cross_a_frame(self) -> None:
        words = word_confidences(self.LATTICE, Posteriors.of(self.LATTICE))
        assert [(w.word, w.start, w.end) for w in words] == [(1, 0, 2), (2, 2, 4)]
        assert [w.confidence for w in words] == pytest.approx([0.75, 0.75])

    def test_the_same_word_elsewhere_does_not_count(self) -> None:
        lattice = make_lattice(
            [(0, 1, 1, 0, 0, [1]), (1, 2, 2, 0, 0, [1]), (0, 3, 2, 0.5, 0, [1]), (3, 2, 1, 0, 0, [1])], {2: (0, 0)}
        )
        p = 1 / (1 + math.exp(-0.5))
        words = word_confidences(lattice, Posteriors.of(lattice))
        assert [w.confidence for w in words] == pytest.approx([p, p])

    def test_statistics_of_an_utterance(self) -> None:
        found = lattice_statistics(self.LATTICE.scaled(acoustic=10.0), 0.1)
        assert tuple(found) == LATTICE_STATISTICS
        assert found["lattice_entropy"] == pytest.approx(1.5 * math.log(2) / 4)
        assert found["lattice_depth"] == pytest.approx(10 / 4)
        assert found["mean_word_uncertainty"] == pytest.approx(0.25)
        assert found["max_word_uncertainty"] == pytest.approx(0.25)

    def test_silence_has_no_doubtful_word(self) -> None:
        found = lattice_statistics(make_lattice([(0, 1, 0, 1, 1, [1])], {1: (0, 0)}), 1.0)
        assert list(found.values()) == [0.0, 1.0, 0.0, 0.0]

    def test_frames_of_two_paths_must_agree(self) -> None:
        lattice = make_lattice([(0, 1, 1, 0, 0, [1]), (0, 1, 2, 0, 0, [1, 1])], {1: (0, 0)})
        with pytest.raises(ValueError, match="different numbers of frames"):
            state_times(lattice)


def test_depth_counts_the_transition_ids_of_ends_too() -> None:
    lattice = Lattice.build(0, [(0, 1, 1)], np.zeros((1, 2)), np.array([[np.inf, np.inf], [0, 0]]), [b"\1\0\0\0"] * 3)
    assert depth(lattice) == pytest.approx(1.5)  # as Kaldi counts, of an end that is none, too


class TestBestPaths:
    WEIGHTS = ((1.0, 0.1, 0.0), (1.0, 1.0, 0.0), (0.5, 0.3, 1.0), (1.0, 0.1, -1.0))

    @pytest.mark.parametrize("seed", range(20))
    def test_best_under_each_weighting_is_that_of_all_paths(self, seed: int) -> None:
        lattice = random_lattice(np.random.default_rng(seed))
        every = all_paths(lattice)
        for (graph, acoustic, penalty), path in zip(self.WEIGHTS, best_paths(lattice, self.WEIGHTS), strict=True):
            assert path is not None
            costs = [graph * c[0] + acoustic * c[1] + penalty * len(words) for words, c, _ in every]
            total = graph * path.costs[0] + acoustic * path.costs[1] + penalty * len(path.words)
            assert total == pytest.approx(min(costs))
            assert (path.words, tuple(path.tids.tolist())) in {(words, tids) for words, _, tids in every}

    def test_no_path(self) -> None:
        assert best_paths(make_lattice([(0, 1, 1, 0, 0, [1])], {}), [(1, 1, 0)]) == [None]
        assert best_paths(determinize(make_lattice([(0, 1, 1, 0, 0, [1])], {}), 1.0), [(1, 1, 0)]) == [None]
