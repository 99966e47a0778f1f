"""Questions for a phonetic decision tree: sets of phones that sound alike, found by clustering.

The phones are divided in two, so that the likelihood gains most, and each part again; every part is a question.

Source: Kaldi ``src/tree/build-tree.cc`` (``AutomaticallyObtainQuestions``), ``src/tree/cluster-utils.cc``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kaldi_uq.engine.embedded.tree_stats import CENTRAL, CLASS, TreeStats, log_likelihood
from kaldi_uq.engine.files import existing_files
from kaldi_uq.errors import DataError
from kaldi_uq.io.files import integer
from kaldi_uq.io.reading import text_lines

_NUM_TRIES = 10  # starting points of a split in two
_NUM_ITERS = 100
_MIDDLE_CLASS = 1  # pdf class of the middle of three states, by which phones are compared


def read_phone_sets(path: Path) -> list[tuple[int, ...]]:
    """Read lines of phone-ids: ``phones/sets.int``, ``phones/extra_questions.int``.

    Raises:
        DataError: missing, or not integers.
    """
    existing_files(path.parent, path.name, error=DataError)
    return [
        tuple(integer(phone, f"{path}:{number}: phone-ids") for phone in line.split())
        for number, line in text_lines(path)
        if line.strip()
    ]


def obtain_questions(
    stats: TreeStats, phone_sets: Sequence[tuple[int, ...]], *, generator: np.random.Generator
) -> list[frozenset[int]]:
    """Sets of phones to ask about.

    Args:
        stats: statistics of all events.
        phone_sets: phones that are never told apart.
        generator: draws the starting points of the clustering.

    Returns:
        sets of phone-ids without duplicates, all phones first, single sets among them.
    """
    middle = stats.select(stats.events[:, CLASS] == _MIDDLE_CLASS)
    if not len(middle.events):  # HMMs of one state
        middle = stats
    points = np.stack([middle.sums[np.isin(middle.events[:, CENTRAL], phones)].sum(0) for phones in phone_sets])
    groups: list[np.ndarray] = []
    pending = [np.arange(len(phone_sets))]
    while pending:
        group = pending.pop(0)
        groups.append(group)
        if len(group) > 1:
            second = _split_in_two(points[group], generator)
            if second.any() and not second.all():
                pending += [group[~second], group[second]]
    found = [frozenset(phone for index in group for phone in phone_sets[index]) for group in groups]
    return list(dict.fromkeys([*found, *map(frozenset, phone_sets)]))


def _split_in_two(points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Divide points (N, 1 + 2 D) in two by k-means on the likelihood; (N,) bool, the second cluster."""
    best, best_score = np.zeros(len(points), dtype=bool), -np.inf
    for _ in range(_NUM_TRIES):
        second = generator.permutation(len(points)) % 2 == 1
        for _ in range(_NUM_ITERS):
            moved = _reassign(points, second)
            if (moved == second).all():
                break
            second = moved
        score = log_likelihood(np.stack([points[second].sum(0), points[~second].sum(0)])).sum()
        if score > best_score:
            best, best_score = second, score
    return best


def _reassign(points: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Move each point to the cluster that explains it better, one point after the other."""
    second = second.copy()
    sums = np.stack([points[~second].sum(0), points[second].sum(0)])
    for index, point in enumerate(points):
        here = int(second[index])
        if second.sum() == here or (~second).sum() == 1 - here:  # the last one of its cluster
            continue
        moved = sums.copy()
        moved[here] -= point
        moved[1 - here] += point
        if log_likelihood(moved).sum() > log_likelihood(sums).sum() + 1e-6:
            sums, second[index] = moved, not second[index]
    return second
