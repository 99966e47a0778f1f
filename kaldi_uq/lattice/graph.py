"""A decoding graph of any size, arc for arc, for the search that makes lattices: arcs with a frame, and silent ones.

A lattice keeps every arc of its paths, silent ones too.  :mod:`kaldi_uq.engine.graph_tables`, for the one best path of
many utterances at once, has none: it composes silent ways into dense tables, which only small graphs allow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kaldi_uq.io.fst import FstArrays


@dataclass(frozen=True)
class Arcs:
    """Arcs by their source.

    Attributes:
        offsets: the arcs of state s are those from ``offsets[s]`` to ``offsets[s + 1]``, (S + 1,) int64.
        destinations, tids, words: of each arc, (A,) int64.
        costs: costs of the graph, (A,) float64.
    """

    offsets: np.ndarray
    destinations: np.ndarray
    tids: np.ndarray
    words: np.ndarray
    costs: np.ndarray

    @classmethod
    def of(cls, graph: FstArrays, chosen: np.ndarray) -> Arcs:
        """Some arcs of a graph; ``chosen`` is (A,) bool."""
        before = np.concatenate([[0], np.cumsum(chosen)])
        arcs = graph.arcs[chosen]
        destinations, tids, words = (arcs[name].astype(np.int64) for name in ("nextstate", "ilabel", "olabel"))
        return cls(before[graph.offsets], destinations, tids, words, arcs["weight"].astype(np.float64))

    def leaving(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The arcs that leave some states.

        Args:
            states: (n,) int64.

        Returns:
            for each arc the place of its source in ``states``, and the arc; (m,) int64 both.
        """
        first = self.offsets[states]
        counts = self.offsets[states + 1] - first
        places = np.repeat(np.arange(len(states)), counts)
        arcs = np.arange(len(places)) + np.repeat(first - np.cumsum(counts) + counts, counts)
        return places, arcs


@dataclass(frozen=True)
class SearchGraph:
    """A decoding graph, ready for :func:`kaldi_uq.lattice.search.search`.

    Attributes:
        start: the initial state.
        finals: costs of ending in a state, (S,) float64, infinite for a state that is not final.
        emitting: arcs with a transition-id, which take a frame.
        silent: arcs without.
        ranks: longest way to each state along silent arcs, (S,) int64: they lead from lower to higher ranks.
        pdfs: pdf of each emitting arc, (A,) int64.
    """

    start: int
    finals: np.ndarray
    emitting: Arcs
    silent: Arcs
    ranks: np.ndarray
    pdfs: np.ndarray

    @classmethod
    def of(cls, graph: FstArrays, tid_to_pdf: np.ndarray) -> SearchGraph:
        """The arrays of a graph whose input labels are transition-ids.

        Args:
            graph: the graph, checked: its silent arcs lead in no circle.
            tid_to_pdf: pdf of each transition-id, (num_transition_ids + 1,); entry 0 is unused.
        """
        emits = graph.arcs["ilabel"] > 0
        usable = graph.arcs["weight"] < np.inf
        emitting, silent = Arcs.of(graph, emits & usable), Arcs.of(graph, ~emits & usable)
        ranks = np.zeros(len(graph.finals), dtype=np.int64)
        sources = np.repeat(np.arange(len(ranks)), np.diff(silent.offsets))
        while len(late := np.flatnonzero(ranks[silent.destinations] <= ranks[sources])):  # as often as ranks there are
            np.maximum.at(ranks, silent.destinations[late], ranks[sources[late]] + 1)
        finals = graph.finals.astype(np.float64)
        return cls(graph.start, finals, emitting, silent, ranks, tid_to_pdf[emitting.tids])
