"""The best paths of a lattice, for many weights of the language model at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kaldi_uq.io.lattice import Lattice


@dataclass(frozen=True)
class Path:
    """A path from the start to an end.

    Attributes:
        words: the words, without silence: integers.
        tids: (T,) int32 transition-ids.
        costs: costs of the graph and of the acoustics, unscaled.
    """

    words: tuple[int, ...]
    tids: np.ndarray
    costs: tuple[float, float]


def costs_to_end(lattice: Lattice) -> np.ndarray:
    """Sum of both costs of the best path from each state to the end, (S,) float64; infinite where there is none."""
    return _costs_to_end(lattice, lattice.costs.sum(1)[:, None], lattice.finals.sum(1)[:, None])[:, 0]


def _costs_to_end(lattice: Lattice, totals: np.ndarray, finals: np.ndarray) -> np.ndarray:
    """The same for K weightings at once: (S, K) from costs of arcs (A, K) and of ends (S, K)."""
    costs = finals.copy()
    for arcs in reversed(lattice.levels):
        np.minimum.at(costs, lattice.sources[arcs], totals[arcs] + costs[lattice.destinations[arcs]])
    return costs


def best_paths(lattice: Lattice, weights: Sequence[tuple[float, float, float]]) -> list[Path | None]:
    """The best path under each of several weightings.

    Args:
        lattice: the lattice, with unscaled costs as its archive has them.
        weights: scale of the graph's costs, scale of the acoustic costs, and penalty of a word, of each weighting.

    Returns:
        a path a weighting; ``None`` if no path reaches an end.  As with ``lattice-scale`` and ``lattice-add-penalty``
        before ``lattice-best-path``, except that equally good paths may be another one of these.
    """
    scales = np.array([weight[:2] for weight in weights]).T
    penalties = np.array([weight[2] for weight in weights])
    totals = lattice.costs @ scales + (lattice.words > 0)[:, None] * penalties
    ends = np.isfinite(lattice.finals).all(1)
    finals = np.full((lattice.num_states, len(weights)), np.inf)
    finals[ends] = lattice.finals[ends] @ scales
    rest = _costs_to_end(lattice, totals, finals)
    return [
        _path(lattice, _trace(lattice, totals[:, k], rest[:, k], finals[:, k]))
        if lattice.start >= 0 and np.isfinite(rest[lattice.start, k])
        else None
        for k in range(len(weights))
    ]


def best_arcs(lattice: Lattice) -> list[int]:
    """The arcs of the best path by the costs as they are; empty if there is none, or it has none."""
    totals, finals = lattice.costs.sum(1), lattice.finals.sum(1)
    rest = costs_to_end(lattice)
    if lattice.start < 0 or not np.isfinite(rest[lattice.start]):
        return []
    return _trace(lattice, totals, rest, finals)


def _trace(lattice: Lattice, totals: np.ndarray, rest: np.ndarray, finals: np.ndarray) -> list[int]:
    state = lattice.start
    taken: list[int] = []
    while True:
        begin, end = lattice.first[state], lattice.first[state + 1]
        through = totals[begin:end] + rest[lattice.destinations[begin:end]]
        if begin == end or finals[state] <= through.min():
            return taken
        taken.append(int(begin + through.argmin()))
        state = int(lattice.destinations[taken[-1]])


def _path(lattice: Lattice, taken: list[int]) -> Path:
    state = int(lattice.destinations[taken[-1]]) if taken else lattice.start
    strings = [lattice.string(index) for index in (*taken, lattice.num_arcs + state)]
    graph, acoustic = (lattice.costs[taken].sum(0) + lattice.finals[state]).tolist()
    words = lattice.words[taken]
    return Path(tuple(words[words > 0].tolist()), np.concatenate(strings).astype(np.int32), (graph, acoustic))
