"""Beam search that keeps every hypothesis near the best: a decoding graph and scores in, a lattice of states out.

The embedded engine's decoder is Kaldi's and tells the best path alone, so that lattices are searched for here.  Tokens
are pruned as Kaldi's lattice decoder does it: by ``beam`` and ``max_active`` forward in time, and every
``PRUNE_INTERVAL`` frames, and in the end, whatever lies on no path within ``lattice_beam`` of the best one.

A frame is some thirty calls of NumPy on all its tokens: a loop over frames, 0.2 ms each plus some 0.1 us an arc.

Source: Povey et al., Generating exact lattices in the WFST framework, ICASSP 2012; Kaldi
``src/decoder/lattice-faster-decoder.cc``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kaldi_uq.io.lattice import Lattice
from kaldi_uq.lattice.graph import Arcs, SearchGraph

PRUNE_INTERVAL = 100  # frames
MIN_ACTIVE = 200  # tokens that the beam leaves at least, if there are as many
BEAM_DELTA = 0.5  # by which the beam is wider than what max_active leaves
_SLACK = 1e-6  # rounding: the best path itself is never pruned


@dataclass(frozen=True)
class SearchOptions:
    """How wide the search is; all costs are those of scaled scores.

    Attributes:
        beam: tokens up to so much worse than a frame's best go on.
        max_active: and at most so many.
        lattice_beam: paths up to so much worse than the best are kept.
    """

    beam: float = 13.0
    max_active: int = 7000
    lattice_beam: float = 6.0


@dataclass
class _Frame:
    """Tokens behind a frame, ordered by the ranks of their states, and the links that lead to them.

    ``entering`` come from tokens of the frame before, ``inside`` from others of the same frame; each is (source,
    destination, arc) of (n,) int64.
    """

    states: np.ndarray
    costs: np.ndarray
    entering: tuple[np.ndarray, np.ndarray, np.ndarray]
    inside: tuple[np.ndarray, np.ndarray, np.ndarray]


def search(graph: SearchGraph, scores: np.ndarray, options: SearchOptions) -> tuple[Lattice, bool] | None:
    """Search an utterance.

    Args:
        graph: the decoding graph.
        scores: scaled log-likelihoods, (T, C) float32.
        options: the beams.

    Returns:
        a lattice whose arcs have at most a transition-id and a word each, with the costs of the graph and of the scaled
        acoustics, and whether its paths end in final states; if none can, they end anywhere, as in Kaldi.  ``None``
        if no path survives.
    """
    return _Search(graph, scores, options).run() if len(scores) else None


class _Search:
    def __init__(self, graph: SearchGraph, scores: np.ndarray, options: SearchOptions) -> None:
        self.graph, self.options = graph, options
        self.acoustic = -np.asarray(scores, dtype=np.float64)
        self._best = np.full(len(graph.finals), np.inf)  # of each state in the frame at hand, infinite between frames
        self._place = np.zeros(len(graph.finals), dtype=np.int64)

    def run(self) -> tuple[Lattice, bool] | None:
        graph, beam = self.graph, self.options.beam
        nothing = (np.zeros(0, np.int64),) * 3
        self._best[graph.start] = 0.0
        frames = [self._close(np.array([graph.start]), nothing, beam)]
        for number in range(len(self.acoustic)):
            frame = self._step(frames[-1], number)
            if frame is None:
                return None
            frames.append(frame)
            if (number + 1) % PRUNE_INTERVAL == 0 and number + 1 < len(self.acoustic):
                # each token of the newest frame may be on the best path
                self._prune(frames, -frames[-1].costs, self.options.lattice_beam, stop_early=True)
        ends = graph.finals[frames[-1].states]
        reached = bool(np.isfinite(ends).any())
        if not reached:
            ends = np.zeros(len(ends))
        best = float((frames[-1].costs + ends).min())
        self._prune(frames, ends, best + self.options.lattice_beam)
        return self._lattice(frames, reached), reached

    def _step(self, frame: _Frame, number: int) -> _Frame | None:
        """The tokens behind a frame, from those before it."""
        graph = self.graph
        cutoff, beam = self._cutoff(frame.costs)
        alive = np.flatnonzero(frame.costs <= cutoff)
        places, arcs = graph.emitting.leaving(frame.states[alive])
        if not len(arcs):
            return None
        sources, destinations = alive[places], graph.emitting.destinations[arcs]
        costs = frame.costs[sources] + graph.emitting.costs[arcs] + self.acoustic[number, graph.pdfs[arcs]]
        np.minimum.at(self._best, destinations, costs)
        states = np.unique(destinations)
        found = self._best[states]
        limit = float(found.min()) + beam
        if len(found) > MIN_ACTIVE:
            limit = max(limit, float(np.partition(found, MIN_ACTIVE)[MIN_ACTIVE]))
        else:
            limit = max(limit, float(found.max()))
        self._best[states[found > limit]] = np.inf
        kept = np.flatnonzero(costs <= limit)
        entering = (sources[kept], destinations[kept], arcs[kept])
        return self._close(states[found <= limit], entering, limit)

    def _cutoff(self, costs: np.ndarray) -> tuple[float, float]:
        """The largest cost of tokens that go on, and the beam of the next frame."""
        options, best = self.options, float(costs.min())
        if len(costs) > options.max_active:
            limit = float(np.partition(costs, options.max_active)[options.max_active])
            if limit < best + options.beam:
                return limit, limit - best + BEAM_DELTA
        if len(costs) <= MIN_ACTIVE:
            return np.inf, np.inf
        limit = float(np.partition(costs, MIN_ACTIVE)[MIN_ACTIVE])
        if limit > best + options.beam:
            return limit, limit - best + BEAM_DELTA
        return best + options.beam, options.beam

    def _close(self, states: np.ndarray, entering: tuple[np.ndarray, ...], limit: float) -> _Frame:
        """Follow the silent arcs from the states that a frame has reached; ``self._best`` has their costs."""
        silent, best = self.graph.silent, self._best
        found, fresh = [states], states
        while len(fresh):
            places, arcs = silent.leaving(fresh)
            costs = best[fresh][places] + silent.costs[arcs]
            destinations = silent.destinations[arcs]
            better = (costs < best[destinations]) & (costs <= limit)
            if not better.any():
                break
            np.minimum.at(best, destinations[better], costs[better])
            fresh = np.unique(destinations[better])
            found.append(fresh)
        states = np.unique(np.concatenate(found)) if len(found) > 1 else states
        states = states[np.argsort(self.graph.ranks[states], kind="stable")]
        self._place[states] = np.arange(len(states))
        costs = best[states]
        places, arcs = silent.leaving(states)
        kept = np.flatnonzero(costs[places] + silent.costs[arcs] <= limit)
        places, arcs = places[kept], arcs[kept]
        inside = (places, self._place[silent.destinations[arcs]], arcs)
        sources, destinations, emitting = entering
        best[states] = np.inf
        return _Frame(states, costs, (sources, self._place[destinations], emitting), inside)

    def _prune(self, frames: list[_Frame], rest: np.ndarray, limit: float, *, stop_early: bool = False) -> None:
        """Remove tokens and links that lie on no path of at most a cost, from the last frame backwards, in place.

        Args:
            frames: all frames.
            rest: costs from the tokens of the last frame to the end.
            limit: largest cost of a path.
            stop_early: stop at a frame that loses nothing: then those before it lose nothing either.
        """
        rest = rest.copy()
        limit += _SLACK * max(1.0, abs(limit))
        for number in range(len(frames) - 1, -1, -1):
            frame = frames[number]
            self._settle(frame, rest)
            alive = frame.costs + rest <= limit
            inside = self._alive(frame, frame, frame.inside, rest, limit, -1)
            entering, before = frame.entering, np.zeros(0)
            if number:
                last = frames[number - 1]
                entering = self._alive(last, frame, frame.entering, rest, limit, number - 1)
                through = self._link_costs(entering, number - 1) + rest[entering[1]]
                before = np.full(len(last.states), np.inf)
                np.minimum.at(before, entering[0], through)
            lost = not alive.all() or len(entering[0]) < len(frame.entering[0])
            if not alive.all():
                place = np.cumsum(alive) - 1
                inside = (place[inside[0]], place[inside[1]], inside[2])
                entering = (entering[0], place[entering[1]], entering[2])
                if number + 1 < len(frames):
                    later = frames[number + 1]
                    later.entering = (place[later.entering[0]], *later.entering[1:])
            frames[number] = _Frame(frame.states[alive], frame.costs[alive], entering, inside)
            if stop_early and not lost and number < len(frames) - PRUNE_INTERVAL:
                return
            rest = before

    def _settle(self, frame: _Frame, rest: np.ndarray) -> None:
        """Spread the costs to the end over the links inside a frame, from high ranks to low ones, in place."""
        sources, destinations, arcs = frame.inside
        ranks = self.graph.ranks[frame.states[sources]]
        for rank in np.unique(ranks)[::-1]:
            chosen = ranks == rank
            costs = self.graph.silent.costs[arcs[chosen]] + rest[destinations[chosen]]
            np.minimum.at(rest, sources[chosen], costs)

    def _link_costs(self, links: tuple[np.ndarray, ...], number: int) -> np.ndarray:
        """Costs of links; ``number`` is the frame that they take, -1: none."""
        arcs = links[2]
        if number < 0:
            return self.graph.silent.costs[arcs]
        return self.graph.emitting.costs[arcs] + self.acoustic[number, self.graph.pdfs[arcs]]

    def _alive(
        self,
        before: _Frame,
        frame: _Frame,
        links: tuple[np.ndarray, np.ndarray, np.ndarray],
        rest: np.ndarray,
        limit: float,
        number: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The links that lie on a path of at most a cost."""
        through = before.costs[links[0]] + self._link_costs(links, number) + rest[links[1]]
        kept = through <= limit
        return links[0][kept], links[1][kept], links[2][kept]

    def _lattice(self, frames: list[_Frame], reached: bool) -> Lattice:
        """What is left, as a lattice; states of one frame are in the order of their ranks, and so topological."""
        first = np.cumsum([0, *(len(frame.states) for frame in frames)])
        rows, costs, tids = [], [], []

        def add(links: tuple[np.ndarray, ...], arcs: Arcs, starts: tuple[int, int], acoustic: np.ndarray) -> None:
            sources, destinations, chosen = links
            rows.append(np.stack([sources + starts[0], destinations + starts[1], arcs.words[chosen]], axis=1))
            costs.append(np.stack([arcs.costs[chosen], acoustic], axis=1))
            tids.append(arcs.tids[chosen])

        graph = self.graph
        for number, frame in enumerate(frames):
            if number:
                heard = self.acoustic[number - 1, graph.pdfs[frame.entering[2]]]
                add(frame.entering, graph.emitting, (first[number - 1], first[number]), heard)
            add(frame.inside, graph.silent, (first[number], first[number]), np.zeros(len(frame.inside[0])))
        finals = np.full((first[-1], 2), np.inf)
        ends = graph.finals[frames[-1].states] if reached else np.zeros(len(frames[-1].states))
        finals[first[-2] :][np.isfinite(ends)] = np.stack([ends, np.zeros(len(ends))], axis=1)[np.isfinite(ends)]
        ids = np.concatenate(tids).astype("<i4").tolist()
        strings = [tid.to_bytes(4, "little") if tid else b"" for tid in ids] + [b""] * len(finals)
        return Lattice.build(0, np.concatenate(rows), np.concatenate(costs), finals, strings)
