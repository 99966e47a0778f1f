"""What a transducer must be so that the C++ that gets it neither crashes nor loops, whoever wrote the file.

All checks are vectorised: those of a graph of a million arcs take a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

# Costs are negative natural logarithms: a probability of 1e-300 costs 691, Kaldi's largest, for "never", 230.  Sums of
# much larger ones overflow in single precision, and decoders compare nothing but infinities from then on.
MAX_COST = 1e6
# in which arcs that are in no cycle are left out, before those that remain are looked at as a whole
MAX_ROUNDS = 50


def problem_of(start: int, finals: np.ndarray, offsets: np.ndarray, arcs: np.ndarray) -> str:
    """What is wrong with a transducer, in a few words; empty if nothing is.

    Refused are an initial state and destinations that do not exist, labels below 0, costs that are NaN, -inf or larger
    than ``MAX_COST``, and cycles of arcs without an input label: a decoder goes round them forever if they cost less
    than nothing, and Kaldi's lattices allow none at all.

    Args:
        start, finals, offsets, arcs: as of :class:`kaldi_uq.io.fst.FstArrays`.
    """
    size = len(finals)
    if not (0 <= start < size or (start == -1 and not size)):
        return f"the initial state is {start} of {size}"
    for kind, costs in (("final state", finals), ("arc", arcs["weight"])):
        wrong = ~((np.abs(costs) <= MAX_COST) | (costs == np.inf))  # NaN compares as false
        if wrong.any():
            return f"the cost of {kind} {int(wrong.argmax())} is {costs[wrong.argmax()]}"
    if not len(arcs):
        return ""
    if not (0 <= arcs["nextstate"].min() and arcs["nextstate"].max() < size):
        return "an arc leads to a state that does not exist"
    for labels in ("ilabel", "olabel"):
        if arcs[labels].min() < 0:
            return f"an arc's {labels} is {arcs[labels].min()}"
    return _epsilon_cycle(offsets, arcs)


def _epsilon_cycle(offsets: np.ndarray, arcs: np.ndarray) -> str:
    silent = np.flatnonzero(arcs["ilabel"] == 0)
    sources = np.searchsorted(offsets, silent, side="right") - 1
    destinations = arcs["nextstate"][silent].astype(np.int64)
    # An arc from a state that no such arc leads to, or to one that none leaves, is in no cycle.  Without those there
    # are others of that kind, until none is left: in few rounds, for a graph has no long chains of silent arcs.
    for _ in range(MAX_ROUNDS):
        inside = np.isin(sources, destinations) & np.isin(destinations, sources)
        if inside.all():
            break
        sources, destinations = sources[inside], destinations[inside]
    if not len(sources):
        return ""
    from scipy.sparse import csr_matrix  # which takes long to import
    from scipy.sparse.csgraph import connected_components

    loops = sources == destinations
    if not loops.any():
        names, places = np.unique(np.concatenate([sources, destinations]), return_inverse=True)
        ends = places.reshape(2, -1)
        graph = csr_matrix((np.ones(len(sources), np.int8), (ends[0], ends[1])), shape=(len(names), len(names)))
        count, parts = connected_components(graph, connection="strong")
        if count == len(names):
            return ""
        loops = parts[ends[0]] == parts[ends[1]]
    if not loops.any():
        return ""
    return f"arcs without an input label lead from state {sources[loops.argmax()]} back to it"


@dataclass(frozen=True)
class Labels:
    """What the labels of a transducer's arcs can be.

    Attributes:
        known: the labels that there are; an integer n stands for 1 to n.  0, no label, is always allowed.
        table: what they are integers of, for messages.
    """

    known: Collection[int] | int
    table: str

    def problem_of(self, name: str, labels: np.ndarray) -> str:
        """Which of the ``labels`` (A,) of all arcs is not known, in a few words; empty if all are."""
        found = np.unique(labels)
        found = found[found != 0]
        if isinstance(self.known, int):
            unknown = found[found > self.known]
        else:
            unknown = found[~np.isin(found, np.fromiter(self.known, np.int64))]
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        size = self.known if isinstance(self.known, int) else len(self.known)
        return f"{name} label {unknown[0]}{more} is none of the {size} {self.table}" if len(unknown) else ""


def graph_labels(num_tids: int, words: Collection[int]) -> tuple[Labels, Labels]:
    """What the input and the output labels of ``HCLG.fst`` can be.

    Args:
        num_tids: transition-ids of the model.
        words: integers of the words.
    """
    return Labels(num_tids, "transition-ids of final.mdl"), Labels(words, "words of words.txt")
