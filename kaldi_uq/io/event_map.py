"""Phonetic decision trees: from a phone in its context and a state's pdf class to a pdf, and Kaldi's file of them.

An event describes a state of an HMM: the phone at each position of the context window (0 outside the utterance) and the
pdf class, under the key ``PDF_CLASS``.

Source of the format: Kaldi ``src/tree/event-map.cc``, ``src/tree/context-dep.cc``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kaldi_uq.io.digests import recorded
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.token_stream import int_bytes, int_vector, unsigned_bytes

PDF_CLASS = -1  # key of the pdf class, among keys that are positions in the context window


@dataclass(frozen=True)
class Leaf:
    """A leaf of the tree: a pdf-id."""

    pdf: int


@dataclass(frozen=True)
class Table:
    """A branch for each value of a key; ``None`` for a value that no event has."""

    key: int
    branches: tuple[EventMap | None, ...]


@dataclass(frozen=True)
class Split:
    """A question: is the value of a key among these?"""

    key: int
    values: frozenset[int]
    yes: EventMap
    no: EventMap


EventMap = Leaf | Table | Split


def map_event(tree: EventMap, event: Mapping[int, int]) -> int | None:
    """The pdf of an event, or ``None`` if the tree has none for it."""
    while not isinstance(tree, Leaf):
        value = event.get(tree.key)
        if value is None:
            return None
        if isinstance(tree, Split):
            tree = tree.yes if value in tree.values else tree.no
        else:
            branch = tree.branches[value] if 0 <= value < len(tree.branches) else None
            if branch is None:
                return None
            tree = branch
    return tree.pdf


def _bytes(tree: EventMap | None) -> bytes:
    if tree is None:
        return b"NULL "
    if isinstance(tree, Leaf):
        return b"CE " + int_bytes(tree.pdf)
    if isinstance(tree, Split):
        head = b"SE " + int_bytes(tree.key) + int_vector(tuple(sorted(tree.values)))
        return head + b"{ " + _bytes(tree.yes) + _bytes(tree.no) + b"} "
    size = unsigned_bytes(len(tree.branches))
    return b"TE " + int_bytes(tree.key) + size + b"( " + b"".join(map(_bytes, tree.branches)) + b") "


def write_tree(path: str | os.PathLike[str], tree: EventMap, *, context_width: int, central_position: int) -> None:
    """Write a ``tree`` file in Kaldi's binary format; its digest is recorded beside it."""
    window = int_bytes(context_width) + int_bytes(central_position)
    with recorded(Path(path).parent, Path(path).name), atomic_write(path, "wb") as stream:
        stream.write(b"\0BContextDependency " + window + b"ToPdf " + _bytes(tree) + b"EndContextDependency ")
