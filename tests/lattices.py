"""Small lattices, and all their paths."""

from __future__ import annotations

import numpy as np

from kaldi_uq.io.lattice import Lattice

Paths = dict[tuple[int, ...], tuple[tuple[float, float], tuple[int, ...]]]


def random_lattice(
    rng: np.random.Generator, *, num_states: int = 8, num_words: int = 3, density: float = 0.5
) -> Lattice:
    """Arcs between some of the states, more than one between some, most without a word, some without transition-ids."""
    arcs, costs, strings = [], [], []
    for source in range(num_states):
        for destination in range(source + 1, min(source + 4, num_states)):
            more = int(rng.integers(0, 3)) if rng.random() < density else 0
            for _ in range(max(more, destination == source + 1)):
                arcs.append((source, destination, int(rng.integers(0, num_words + 1)) * int(rng.random() < 0.6)))
                costs.append(np.round(rng.exponential(1.5, 2), 3))
                strings.append(rng.integers(1, 4, int(rng.integers(0, 3))).astype("<i4").tobytes())
    finals = np.full((num_states, 2), np.inf)
    finals[-1] = np.round(rng.random(2), 3)
    finals[rng.integers(num_states)] = np.round(rng.random(2), 3)
    ends = [rng.integers(1, 4, int(rng.integers(0, 2))).astype("<i4").tobytes() for _ in range(num_states)]
    return Lattice.build(0, arcs, np.array(costs, float).reshape(-1, 2), finals, strings + ends)


def all_paths(lattice: Lattice) -> list[tuple[tuple[int, ...], tuple[float, float], tuple[int, ...]]]:
    """Words, costs and transition-ids of every path."""
    found = []

    def follow(state: int, words: tuple[int, ...], costs: np.ndarray, tids: tuple[int, ...]) -> None:
        if np.isfinite(lattice.finals[state]).all():
            graph, acoustic = (costs + lattice.finals[state]).tolist()
            found.append((words, (graph, acoustic), (*tids, *lattice.string(lattice.num_arcs + state).tolist())))
        for arc in np.flatnonzero(lattice.sources == state).tolist():
            word = (int(lattice.words[arc]),) if lattice.words[arc] else ()
            further = (*tids, *lattice.string(arc).tolist())
            follow(int(lattice.destinations[arc]), words + word, costs + lattice.costs[arc], further)

    if lattice.start >= 0:
        follow(lattice.start, (), np.zeros(2), ())
    return found


def best_of_words(lattice: Lattice) -> Paths:
    """The best path of each word sequence."""
    found: Paths = {}
    for words, costs, tids in all_paths(lattice):
        if words not in found or sum(costs) < sum(found[words][0]):
            found[words] = (costs, tids)
    return found


def make_lattice(
    arcs: list[tuple[int, int, int, float, float, list[int]]], ends: dict[int, tuple[float, float]]
) -> Lattice:
    """A lattice from (source, destination, word, graph cost, acoustic cost, transition-ids) and costs of its ends."""
    size = 1 + max(max(arc[:2]) for arc in arcs)
    finals = np.array([ends.get(state, (np.inf, np.inf)) for state in range(size)], dtype=float)
    strings = [np.array(arc[5], "<i4").tobytes() for arc in arcs] + [b""] * size
    return Lattice.build(0, [arc[:3] for arc in arcs], np.array([arc[3:5] for arc in arcs], float), finals, strings)
