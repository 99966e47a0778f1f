"""A small graph as dense tables, for the best paths of a batch: without silent arcs, as a lattice's graph has them.

That one is :mod:`kaldi_uq.lattice.graph`.  Here every step takes a frame, and every state has a column of scores.
A transducer has arcs that take no frame, and arcs with different columns that lead to one state.  Here a state stands
for a state of the transducer together with the column by which it was entered, and a step is an arc that takes a frame
with the best way of silent arcs to where it begins.  Silent arcs behind the last frame are in the costs of ending.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter

import numpy as np

from kaldi_uq.io.fst import FstArrays

_Way = tuple[float, tuple[int, ...]]  # log-probability, and output labels without zeros
_Step = tuple[int, float, tuple[int, ...]]  # source, log-probability, output labels


@dataclass(frozen=True)
class GraphTables:
    """Tables of S states, each with at most D steps into it; state 0 is the one before the first frame.

    Weights are natural logarithms, -inf where there is nothing.

    Attributes:
        sources: (S, D) int64, the state that a step comes from; in ascending order.
        weights: (S, D) float32, of the steps.
        columns: (S,) int64, the column whose score entering a state adds.
        finals: (S,) float32, of ending in a state, in a final state of the transducer.
        ends: (S,) float32, of ending anywhere.
        step_labels: place in the flat (S * D) tables -> output labels of a step that has any.
        final_labels, end_labels: state -> output labels behind the last frame, where there are any.
    """

    sources: np.ndarray
    weights: np.ndarray
    columns: np.ndarray
    finals: np.ndarray
    ends: np.ndarray
    step_labels: dict[int, tuple[int, ...]]
    final_labels: dict[int, tuple[int, ...]]
    end_labels: dict[int, tuple[int, ...]]


def graph_tables(fst: FstArrays, columns: np.ndarray, max_places: int) -> GraphTables | None:
    """The tables of a transducer, whose silent arcs have no cycle; of two equal ways the first in the file counts.

    Args:
        fst: a decoding graph or a training graph.
        columns: (labels + 1,) int64, the column of the scores of each input label.
        max_places: the most places of the tables, states times steps into one of them.

    Returns:
        the tables; ``None`` if they would be larger.
    """
    if len(fst.arcs) > max_places or fst.start < 0:
        return None
    arcs = _lists_of_arcs(fst, columns)
    ways = _silent_ways(arcs, max_places)
    if ways is None:
        return None
    keys = {(fst.start, -1): 0}  # (state of the transducer, column) -> state
    keys |= {key: i for i, key in enumerate(sorted({(to, c) for row in arcs for c, _, _, to in row if c >= 0}), 1)}
    into: list[dict[int, _Step]] = [{} for _ in keys]
    count = 0
    for (origin, _), source in keys.items():
        for place, (before, labels) in ways[origin].items():
            for column, label, weight, to in arcs[place]:
                if column < 0:
                    continue
                steps, value = into[keys[to, column]], before + weight
                if source not in steps or value > steps[source][1]:
                    steps[source] = source, value, labels + ((label,) if label else ())
                count += 1
        if count > max_places:
            return None
    width = max(map(len, into))
    if width * len(into) > max_places:
        return None
    return _tables(keys, ways, into, fst.finals.astype(np.float64))


def _tables(
    keys: dict[tuple[int, int], int],
    ways: list[dict[int, _Way]],
    into: list[dict[int, _Step]],
    costs: np.ndarray,
) -> GraphTables:
    size, width = len(into), max(1, *map(len, into))
    sources, weights = np.zeros((size, width), np.int64), np.full((size, width), -np.inf, np.float32)
    step_labels = {}
    for state, steps in enumerate(into):
        for place, (source, weight, labels) in enumerate(steps.values()):  # sources came in ascending order
            sources[state, place], weights[state, place] = source, weight
            if labels:
                step_labels[state * width + place] = labels
    finals, ends = np.full(size, -np.inf, np.float32), np.zeros(size, np.float32)
    final_labels, end_labels = {}, {}
    for (origin, _), state in keys.items():
        reached = ways[origin].items()
        finals[state], labels = _best((weight - costs[place], labels) for place, (weight, labels) in reached)
        ends[state], others = _best(way for _, way in reached)
        if labels:
            final_labels[state] = labels
        if others:
            end_labels[state] = others
    columns = np.array([max(column, 0) for _, column in keys], np.int64)
    return GraphTables(sources, weights, columns, finals, ends, step_labels, final_labels, end_labels)


def _best(ways: Iterator[_Way]) -> _Way:
    """The first of the best ways."""
    return max(ways, key=lambda way: way[0])


def _lists_of_arcs(fst: FstArrays, columns: np.ndarray) -> list[list[tuple[int, int, float, int]]]:
    """Column (-1: silent), output label, log-probability and destination of the arcs of each state."""
    possible = np.isfinite(fst.arcs["weight"])
    ilabels = fst.arcs["ilabel"]
    rows = list(
        zip(
            np.where(ilabels > 0, columns[ilabels], -1).tolist(),
            fst.arcs["olabel"].tolist(),
            (-fst.arcs["weight"].astype(np.float64)).tolist(),
            fst.arcs["nextstate"].tolist(),
            strict=True,
        )
    )
    bounds = fst.offsets.tolist()
    return [[rows[i] for i in range(begin, end) if possible[i]] for begin, end in itertools.pairwise(bounds)]


def _silent_ways(arcs: list[list[tuple[int, int, float, int]]], limit: int) -> list[dict[int, _Way]] | None:
    """Where silent arcs lead from each state, itself included, and the best way there; ``None`` if that is too much."""
    after = {state: [to for column, _, _, to in row if column < 0] for state, row in enumerate(arcs)}
    ways: list[dict[int, _Way]] = [{} for _ in arcs]
    count = 0
    for state in TopologicalSorter(after).static_order():  # destinations first
        found: dict[int, _Way] = {state: (0.0, ())}
        for column, label, weight, to in arcs[state]:
            if column >= 0:
                continue
            for place, (rest, labels) in ways[to].items():
                if place not in found or weight + rest > found[place][0]:
                    found[place] = weight + rest, ((label,) if label else ()) + labels
        ways[state] = found
        count += len(found)
        if count > 2 * limit:
            return None
    return ways
