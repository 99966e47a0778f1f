"""Growing of a phonetic decision tree: of all leaves, the one whose best question gains most is split next.

Source: Kaldi ``src/tree/build-tree.cc``, ``src/tree/build-tree-utils.cc``.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kaldi_uq.engine.embedded.tree_stats import CENTRAL, CLASS, COLUMNS, UNKNOWN, TreeStats, log_likelihood
from kaldi_uq.engine.files import existing_files
from kaldi_uq.errors import DataError, EngineError
from kaldi_uq.io.event_map import PDF_CLASS, EventMap, Leaf, Split, Table
from kaldi_uq.io.files import integer
from kaldi_uq.io.reading import text_lines

MIN_GAIN = 300.0  # log-likelihood that a split must gain, as in Kaldi
_ROUND_TO = 8  # the number of leaves is a multiple of this, as in Kaldi


@dataclass(frozen=True)
class Root:
    """A line of ``phones/roots.int``: phones of one tree; do its states share the root, and may it be split?"""

    phones: tuple[int, ...]
    shared: bool
    split: bool


def read_roots(path: Path) -> list[Root]:
    """Read ``phones/roots.int``.

    Raises:
        DataError: missing or malformed; a phone that stands twice.
    """
    existing_files(path.parent, path.name, error=DataError)
    roots: list[Root] = []
    for number, line in text_lines(path):
        shared, split, *phones = [*line.split(), "", ""][: max(2, len(line.split()))]
        if shared not in ("shared", "not-shared") or split not in ("split", "not-split") or not phones:
            raise DataError(
                f"{path}:{number}: expected 'shared|not-shared split|not-split <phone-ids>', found {line!r}"
            )
        ids = sorted(integer(phone, f"{path}:{number}: phone-ids") for phone in phones)
        roots.append(Root(tuple(ids), shared == "shared", split == "split"))
    every = [phone for root in roots for phone in root.phones]
    if len(set(every)) < len(every) or not every:
        raise DataError(f"{path}: " + ("a phone stands twice" if every else "empty"))
    return roots


@dataclass
class _Node:
    """A leaf, or after its split a question, of the tree that grows."""

    stats: TreeStats
    tree: int  # number of the tree it belongs to: leaves are merged only within a tree
    key: int = 0
    values: frozenset[int] = frozenset()
    gain: float = 0.0
    children: list[_Node] = field(default_factory=list)  # yes, no
    pdf: int = -1


class TreeBuilder:
    """Builds a tree from statistics.

    Args:
        stats: statistics of all events.
        questions: sets of phones, for every position.
        num_classes: phone -> its pdf classes.
        roots: the trees to grow.
    """

    def __init__(
        self, stats: TreeStats, questions: Sequence[frozenset[int]], num_classes: dict[int, int], roots: Sequence[Root]
    ) -> None:
        self._num_classes = num_classes
        self._roots = roots
        size = 1 + max(num_classes)
        phones = np.zeros((len(questions), size))
        for row, question in enumerate(questions):
            phones[row, sorted(question)] = 1.0
        classes = np.tri(max(num_classes.values()) - 1, max(num_classes.values()))  # {0}, {0, 1}, ...
        self._questions = {0: phones, 1: phones, 2: phones, PDF_CLASS: classes}
        self._total = stats.sums.sum(0)
        self._num_trees = 0
        self._nodes = [self._stub(stats, root) for root in roots]

    def _stub(self, stats: TreeStats, root: Root) -> list[_Node]:
        """The first leaves of a root: one for all its states if they share a tree, else one for each pdf class."""
        mine = stats.select(np.isin(stats.events[:, CENTRAL], root.phones))
        if root.shared:
            parts = [mine]
        else:
            classes = max(self._num_classes[phone] for phone in root.phones)
            parts = [mine.select(mine.events[:, CLASS] == c) for c in range(classes)]
        first, self._num_trees = self._num_trees, self._num_trees + len(parts)
        return [self._leaf(part, first + number, root.split) for number, part in enumerate(parts)]

    def _leaf(self, stats: TreeStats, tree: int, may_split: bool) -> _Node:
        node = _Node(stats, tree)
        if may_split and len(stats.events) > 1:
            for key, questions in self._questions.items():
                self._best_question(node, key, questions)
        return node

    def _best_question(self, node: _Node, key: int, questions: np.ndarray) -> None:
        values = node.stats.events[:, COLUMNS[key]]
        if not len(questions) or (values == UNKNOWN).any():
            return
        by_value = np.zeros((questions.shape[1], node.stats.sums.shape[1]))
        np.add.at(by_value, values, node.stats.sums)
        total = by_value.sum(0)
        yes = questions @ by_value
        gains = log_likelihood(yes) + log_likelihood(total - yes) - log_likelihood(total)
        best = int(np.argmax(gains))
        if gains[best] > node.gain:
            node.key, node.gain = key, float(gains[best])
            node.values = frozenset(np.flatnonzero(questions[best]).tolist())

    def build(self, max_leaves: int, cluster_thresh: float) -> EventMap:
        """Grow the trees, merge similar leaves, number the pdfs.

        Args:
            max_leaves: largest number of leaves.
            cluster_thresh: largest loss of log-likelihood by a merge of leaves; below 0: the smallest gain of a split.

        Raises:
            EngineError: there are more roots than ``max_leaves``.
        """
        leaves = [leaf for stub in self._nodes for leaf in stub]
        if len(leaves) > max_leaves:
            raise EngineError(
                f"the tree has {len(leaves)} roots, more than the {max_leaves} leaves asked for; allow more"
            )
        smallest = self._grow(leaves, max_leaves)
        if cluster_thresh < 0:
            cluster_thresh = smallest
        self._merge(leaves, cluster_thresh)
        numbers = {old: new for new, old in enumerate(dict.fromkeys(leaf.pdf for leaf in leaves))}
        for leaf in leaves:
            leaf.pdf = numbers[leaf.pdf]
        return _join([(root, _branch(root, stub)) for root, stub in zip(self._roots, self._nodes, strict=True)])

    def _grow(self, leaves: list[_Node], max_leaves: int) -> float:
        """Split until there are enough leaves; returns the smallest gain."""
        tie = itertools.count()
        heap = [(-leaf.gain, next(tie), leaf) for leaf in leaves if leaf.gain > 0]
        heapq.heapify(heap)
        smallest = np.inf
        while heap and len(leaves) < max_leaves and -heap[0][0] > MIN_GAIN:
            gain, _, node = heapq.heappop(heap)
            smallest = min(smallest, -gain)
            is_yes = np.isin(node.stats.events[:, COLUMNS[node.key]], sorted(node.values))
            node.children = [self._leaf(node.stats.select(rows), node.tree, True) for rows in (is_yes, ~is_yes)]
            at = next(i for i, leaf in enumerate(leaves) if leaf is node)
            leaves[at : at + 1] = node.children
            for child in node.children:
                if child.gain > 0:
                    heapq.heappush(heap, (-child.gain, next(tie), child))
        return float(smallest) if np.isfinite(smallest) else 0.0

    def _merge(self, leaves: list[_Node], thresh: float) -> None:
        """Merge leaves of a tree that sound alike, then until their number is a multiple of eight."""
        for number, leaf in enumerate(leaves):
            leaf.pdf = number
        sums = {number: leaf.stats.sums.sum(0) for number, leaf in enumerate(leaves)}
        groups: dict[int, list[int]] = {}
        for number, leaf in enumerate(leaves):
            if len(leaf.stats.events):
                groups.setdefault(leaf.tree, []).append(number)
        target = None
        while True:
            costs = {tree: _cheapest([sums[n] for n in members]) for tree, members in groups.items()}
            while costs:
                tree = min(costs, key=lambda t: costs[t][0])
                cost, a, b = costs[tree]
                if not np.isfinite(cost) or (cost > thresh if target is None else len(sums) <= target):
                    break
                kept, gone = groups[tree][a], groups[tree][b]
                sums[kept] = sums[kept] + sums.pop(gone)
                groups[tree].remove(gone)
                for leaf in leaves:
                    leaf.pdf = kept if leaf.pdf == gone else leaf.pdf
                costs[tree] = _cheapest([sums[n] for n in groups[tree]])
            if target is not None:
                return
            target = len(sums) // _ROUND_TO * _ROUND_TO
            if target < self._num_trees:
                return


def _branch(root: Root, stub: list[_Node]) -> EventMap:
    if root.shared:
        return _tree_of(stub[0])
    return Table(PDF_CLASS, tuple(map(_tree_of, stub)))


def _cheapest(sums: list[np.ndarray]) -> tuple[float, int, int]:
    """The pair whose merge loses least likelihood: the loss, and both numbers."""
    if len(sums) < 2:
        return np.inf, 0, 0
    every = np.stack(sums)
    first, second = np.triu_indices(len(every), 1)
    each = log_likelihood(every)
    loss = each[first] + each[second] - log_likelihood(every[first] + every[second])
    best = int(np.argmin(loss))
    return float(loss[best]), int(first[best]), int(second[best])


def _tree_of(node: _Node) -> EventMap:
    if not node.children:
        return Leaf(node.pdf)
    return Split(node.key, node.values, _tree_of(node.children[0]), _tree_of(node.children[1]))


def _join(trees: list[tuple[Root, EventMap]]) -> EventMap:
    """One tree out of the trees of the roots: a table of phones, or questions where a root has several."""
    if len(trees) == 1:
        return trees[0][1]
    if all(len(root.phones) == 1 for root, _ in trees):
        branches: list[EventMap | None] = [None] * (1 + max(root.phones[0] for root, _ in trees))
        for root, tree in trees:
            branches[root.phones[0]] = tree
        return Table(1, tuple(branches))
    half = len(trees) // 2
    phones = frozenset(phone for root, _ in trees[:half] for phone in root.phones)
    return Split(1, phones, _join(trees[:half]), _join(trees[half:]))
