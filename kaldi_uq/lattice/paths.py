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
    first = np.searchsorted(lattice.sources, np.arange(lattice.num_states + 1)).tolist()
    return [
        _trace(lattice, first, totals[:, k], rest[:, k], finals[:, k])
        if lattice.start >= 0 and np.isfinite(rest[lattice.start, k])
        else None
        for k in range(len(weights))
    ]


def _trace(lattice: Lattice, first: list[int], totals: np.ndarray, rest: np.ndarray, finals: np.ndarray) -> Path:
    state, taken = lattice.start, []
    while True:
        arcs = slice(first[state], first[state + 1])
        through = totals[arcs] + rest[lattice.destinations[arcs]]
        if not len(through) or finals[state] <= through.min():
            break
        taken.append(first[state] + int(through.argmin()))
        state = int(lattice.destinations[taken[-1]])
    strings = [lattice.string(index) for index in (*taken, lattice.num_arcs + state)]
    graph, acoustic = (lattice.costs[taken].sum(0) + lattice.finals[state]).tolist()
    words = lattice.words[taken]
    return Path(tuple(words[words > 0].tolist()), np.concatenate(strings).astype(np.int32), (graph, acoustic))
