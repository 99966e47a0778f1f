"""A lattice of states made deterministic: every word sequence once, with its best path.

Two steps.  First, arcs without a word are taken out: from the states that arcs with a word lead to ("anchors"), the
best ways to the next word are searched for, for all anchors together, level by level.  Then subsets of anchors are
followed as in Mohri's determinisation, in the semiring of pairs of a cost and a string: what a word leads to is a set
of anchors with what is left of their costs and of their transition-ids once the common part has gone into the arc.
Where two histories leave the same set they share a state.

A word sequence whose best path is within the beam is there with exactly that path's costs and transition-ids; one that
is worse may be there or not.

The first step is a loop over levels, with NumPy on all pairs of an anchor and a state; the second a loop over states
of the result, their anchors and the arcs of these, about 2 us each.

Source: Povey et al., Generating exact lattices in the WFST framework, ICASSP 2012, sections 4 and 5 (for what is
computed; epsilons are removed before and not during the determinisation here); Mohri, Finite-state transducers in
language and speech processing, Computational Linguistics 23(2), 1997.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kaldi_uq.io.lattice import Lattice
from kaldi_uq.lattice.paths import costs_to_end

MAX_STATES = 100_000  # of the result; a lattice that would have more is pruned more narrowly, as Kaldi does
MIN_BEAM = 1e-3  # with which a lattice may have any number of states: it is little more than its best path
_DELTA = 1e-4  # costs that differ by less are equal
_SLACK = 1e-6
_log = logging.getLogger(__name__)

Pair = tuple[float, float]  # costs of the graph and of the acoustics


def determinize(lattice: Lattice, beam: float, *, max_states: int = MAX_STATES) -> Lattice:
    """Make a lattice deterministic.

    Args:
        lattice: acyclic, with scaled acoustic costs.
        beam: paths worse than the best by more are left out.
        max_states: states beyond which the beam is made narrower.

    Returns:
        a compact lattice: no two arcs that leave a state have the same word, and none has no word.
    """
    if lattice.start < 0 or not np.isfinite(costs_to_end(lattice)[lattice.start]):
        return Lattice.build(-1, [], np.zeros((0, 2)), np.zeros((0, 2)), [])
    while True:
        found = _Subsets(_Words(lattice, beam), beam).run(max_states if beam > MIN_BEAM else sys.maxsize)
        if found is not None:
            return found
        beam = max(0.75 * beam, MIN_BEAM)
        _log.info("a lattice of more than %d states is pruned with beam %.2f", max_states, beam)


class _Words:
    """A lattice without the arcs that have no word: for each anchor, the words that follow and their best ways.

    Attributes:
        start: the first anchor.
        arcs: anchor -> (word, next anchor, way, (graph, acoustic), sum of both) of each word that follows.
        ends: anchor -> (costs, way) of its best end, if it has one.
        rest: (S,) list of costs from a state to the end.
    """

    def __init__(self, lattice: Lattice, beam: float) -> None:
        self.lattice, self.start = lattice, lattice.start
        rest = costs_to_end(lattice)
        limit = float(rest[lattice.start]) + beam
        self._limit = limit + _SLACK * max(1.0, abs(limit))
        self.rest: list[float] = rest.tolist()
        self.arcs: dict[int, list[tuple[int, int, int, Pair, float]]] = {}
        self.ends: dict[int, tuple[Pair, int]] = {}
        self._parents: list[int] = []  # of a way: the way that it goes on from; -1: an anchor
        self._last: list[int] = []  # of a way: the arc of the lattice that it ends with; A + s: the end of state s
        self._strings: dict[int, bytes] = {-1: b""}
        self._find(rest)

    def string(self, way: int) -> bytes:
        """The transition-ids of a way, int32, as bytes."""
        if way not in self._strings:
            lattice, at, parts = self.lattice, way, []
            while at not in self._strings:
                parts.append(lattice.string(self._last[at]).tobytes())
                at = self._parents[at]
            self._strings[way] = b"".join([self._strings[at], *reversed(parts)])
        return self._strings[way]

    def _find(self, rest: np.ndarray) -> None:
        lattice = self.lattice
        first = lattice.first
        has_word = lattice.words > 0
        anchors = np.unique(np.append(lattice.destinations[has_word], lattice.start))
        before = _costs_from_start(lattice)
        levels = _levels_of_states(lattice)
        waiting: dict[int, list[_Ways]] = {}
        for level in np.unique(levels[anchors]):
            chosen = anchors[levels[anchors] == level]
            waiting[int(level)] = [_Ways(chosen, chosen, np.zeros((len(chosen), 2)), np.full(len(chosen), -1))]
        heap = sorted(waiting)
        while heap:
            ways = _Ways.joined(waiting.pop(level := heapq.heappop(heap))).best(lattice.num_states)
            near = before[ways.anchors] + ways.costs.sum(1) + rest[ways.states] <= self._limit
            ways = ways.take(near)
            self._add_ends(ways)
            counts = first[ways.states + 1] - first[ways.states]
            places = np.repeat(np.arange(len(counts)), counts)
            arcs = np.arange(len(places)) + np.repeat(first[ways.states] - np.cumsum(counts) + counts, counts)
            costs = ways.costs[places] + lattice.costs[arcs]
            destinations = lattice.destinations[arcs]
            near = before[ways.anchors[places]] + costs.sum(1) + rest[destinations] <= self._limit
            places, arcs, costs, destinations = places[near], arcs[near], costs[near], destinations[near]
            numbers = self._new_ways(ways.numbers[places], arcs)
            further = _Ways(ways.anchors[places], destinations, costs, numbers)
            self._add_words(further.take(lattice.words[arcs] > 0), lattice.words[arcs[lattice.words[arcs] > 0]])
            further = further.take(lattice.words[arcs] == 0)
            for level in np.unique(levels[further.states]).tolist():
                if level not in waiting:
                    waiting[level] = []
                    heapq.heappush(heap, level)
                waiting[level].append(further.take(levels[further.states] == level))

    def _new_ways(self, parents: np.ndarray, last: np.ndarray) -> np.ndarray:
        begin = len(self._parents)
        self._parents += parents.tolist()
        self._last += last.tolist()
        return np.arange(begin, len(self._parents))

    def _add_words(self, ways: _Ways, words: np.ndarray) -> None:
        sums = ways.costs.sum(1).tolist()
        columns = (words.tolist(), ways.states.tolist(), ways.numbers.tolist(), ways.costs.tolist(), sums)
        for anchor, (word, to, way, costs, total) in zip(
            ways.anchors.tolist(), zip(*columns, strict=True), strict=True
        ):
            self.arcs.setdefault(anchor, []).append((word, to, way, (costs[0], costs[1]), total))

    def _add_ends(self, ways: _Ways) -> None:
        finals = self.lattice.finals[ways.states]
        ending = ways.take(np.isfinite(finals).all(1))
        costs = ending.costs + self.lattice.finals[ending.states]
        numbers = self._new_ways(ending.numbers, self.lattice.num_arcs + ending.states)
        for anchor, way, (graph, acoustic) in zip(
            ending.anchors.tolist(), numbers.tolist(), costs.tolist(), strict=True
        ):
            if anchor not in self.ends or graph + acoustic < sum(self.ends[anchor][0]):
                self.ends[anchor] = ((graph, acoustic), way)


@dataclass(frozen=True)
class _Ways:
    """Ways from anchors to states without a word: (n,) int64, and costs (n, 2)."""

    anchors: np.ndarray
    states: np.ndarray
    costs: np.ndarray
    numbers: np.ndarray

    @classmethod
    def joined(cls, parts: list[_Ways]) -> _Ways:
        columns = ((p.anchors, p.states, p.costs, p.numbers) for p in parts)
        anchors, states, costs, numbers = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(anchors, states, costs, numbers)

    def take(self, chosen: np.ndarray) -> _Ways:
        return _Ways(self.anchors[chosen], self.states[chosen], self.costs[chosen], self.numbers[chosen])

    def best(self, num_states: int) -> _Ways:
        """The cheapest way from each anchor to each state; of equal ones that of the cheaper graph, as in Kaldi."""
        keys = self.anchors * num_states + self.states
        order = np.lexsort((self.costs[:, 0], self.costs.sum(1), keys))
        keys = keys[order]
        return self.take(order[np.append(True, keys[1:] != keys[:-1])] if len(keys) else order)


@dataclass
class _Subset:
    """A state of the result: anchors with what is left of their costs and transition-ids.

    ``forward`` is the cost of the best path from the start to it.
    """

    elements: tuple[tuple[int, bytes, Pair], ...]
    forward: float
    number: int = -1
    arcs: list[tuple[_Subset, int, Pair, bytes]] = field(default_factory=list)
    end: tuple[Pair, bytes] | None = None


class _Subsets:
    def __init__(self, words: _Words, beam: float) -> None:
        limit = words.rest[words.start] + beam
        self._words, self._limit = words, limit + _SLACK * max(1.0, abs(limit))
        self._known: dict[tuple[tuple[int, bytes, int, int], ...], _Subset] = {}
        self._heap: list[tuple[int, int, _Subset]] = []
        self._serial = itertools.count()

    def run(self, max_states: int) -> Lattice | None:
        """The deterministic lattice; ``None``: it would have more states."""
        self._subset(((self._words.start, b"", (0.0, 0.0)),), 0.0)
        done: list[_Subset] = []
        while self._heap:
            _, _, subset = heapq.heappop(self._heap)  # in topological order: all its ways from the start are known
            if len(done) == max_states:
                return None
            subset.number = len(done)
            done.append(subset)
            self._end(subset)
            self._follow(subset)
        arcs = [(subset.number, to.number, word) for subset in done for to, word, _, _ in subset.arcs]
        costs = [cost for subset in done for _, _, cost, _ in subset.arcs]
        finals = [subset.end[0] if subset.end else (np.inf, np.inf) for subset in done]
        strings = [string for subset in done for *_, string in subset.arcs]
        strings += [subset.end[1] if subset.end else b"" for subset in done]
        return Lattice.build(0, arcs, np.array(costs, float), np.array(finals, float), strings)

    def _subset(self, elements: tuple[tuple[int, bytes, Pair], ...], forward: float) -> _Subset:
        key = tuple(
            (anchor, string, round(graph / _DELTA), round(acoustic / _DELTA))
            for anchor, string, (graph, acoustic) in elements
        )
        subset = self._known.get(key)
        if subset is None:
            subset = self._known[key] = _Subset(elements, forward)
            # States are numbered topologically, and all anchors of what follows lie behind the first one of this.
            heapq.heappush(self._heap, (elements[0][0], next(self._serial), subset))
        subset.forward = min(subset.forward, forward)
        return subset

    def _end(self, subset: _Subset) -> None:
        ends = (
            (graph + costs[0] + acoustic + costs[1], graph + costs[0], acoustic + costs[1], string, way)
            for anchor, string, (graph, acoustic) in subset.elements
            if anchor in self._words.ends
            for costs, way in (self._words.ends[anchor],)
        )
        best = min(ends, default=None)
        if best is not None and subset.forward + best[0] <= self._limit:
            subset.end = ((best[1], best[2]), best[3] + self._words.string(best[4]))

    def _follow(self, subset: _Subset) -> None:
        """The arcs that leave a state, and the states behind them."""
        words, rest = self._words, self._words.rest
        by_word: dict[int, dict[int, tuple[float, float, int, int]]] = {}
        for place, (anchor, _, (graph, acoustic)) in enumerate(subset.elements):
            left = graph + acoustic
            for number, (word, to, _, costs, total) in enumerate(words.arcs.get(anchor, ())):
                found = by_word.setdefault(word, {})
                candidate = (left + total, graph + costs[0], place, number)
                if to not in found or candidate < found[to]:
                    found[to] = candidate
        for word, found in by_word.items():
            if subset.forward + min(one[0] + rest[to] for to, one in found.items()) > self._limit:
                continue
            elements = sorted(self._elements(subset, found))
            _, _, common = min((sum(costs), costs[0], costs) for _, _, costs in elements)
            prefix = _common_prefix([string for _, string, _ in elements])
            left_over = tuple(
                (anchor, string[len(prefix) :], (costs[0] - common[0], costs[1] - common[1]))
                for anchor, string, costs in elements
            )
            subset.arcs.append((self._subset(left_over, subset.forward + sum(common)), word, common, prefix))

    def _elements(
        self, subset: _Subset, found: dict[int, tuple[float, float, int, int]]
    ) -> Iterator[tuple[int, bytes, Pair]]:
        for to, (_, _, place, number) in found.items():
            anchor, string, (graph, acoustic) = subset.elements[place]
            _, _, way, costs, _ = self._words.arcs[anchor][number]
            yield to, string + self._words.string(way), (graph + costs[0], acoustic + costs[1])


def _common_prefix(strings: list[bytes]) -> bytes:
    """What all strings of int32 begin with."""
    low, high = min(strings), max(strings)
    size = min(len(low), len(high))
    differ = np.flatnonzero(np.frombuffer(low[:size], "<i4") != np.frombuffer(high[:size], "<i4"))
    return low[: 4 * int(differ[0])] if len(differ) else low[:size]


def _levels_of_states(lattice: Lattice) -> np.ndarray:
    """Longest way to each state in arcs, (S,) int64."""
    levels = np.zeros(lattice.num_states, dtype=np.int64)
    for number, arcs in enumerate(lattice.levels):
        levels[lattice.destinations[arcs]] = number + 1
    return levels


def _costs_from_start(lattice: Lattice) -> np.ndarray:
    """Sum of both costs of the best path from the start to each state, (S,) float64."""
    costs, totals = np.full(lattice.num_states, np.inf), lattice.costs.sum(1)
    costs[lattice.start] = 0.0
    for arcs in lattice.levels:
        np.minimum.at(costs, lattice.destinations[arcs], costs[lattice.sources[arcs]] + totals[arcs])
    return costs
