"""OpenFst's binary files of types ``vector`` and ``const``, standard arcs, as arrays: no library is needed.

OpenFst believes what it reads: one damaged bit can crash it, make it loop, or make it reserve all memory.  Therefore
every file is read and checked here, and the engine's OpenFst gets the checked arrays alone.  The embedded engine's
OpenFst also does not know the type ``const``, in which Kaldi's ``utils/mkgraph.sh`` writes HCLG.fst.

Source of the format: OpenFst ``vector-fst.h``, ``const-fst.h``.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.fst_checks import Labels, problem_of
from kaldi_uq.io.fst_stream import IS_ALIGNED, FstStream, vector_header

_VERSIONS = {"vector": (2,), "const": (1, 2)}

ARC = np.dtype([("ilabel", "<i4"), ("olabel", "<i4"), ("weight", "<f4"), ("nextstate", "<i4")])
_STATE_HEAD = np.dtype([("final", "<f4"), ("count", "<i8")])  # before a state's arcs, in a file of type vector
_CONST_STATE = np.dtype([("final", "<f4"), ("first", "<u4"), ("count", "<u4"), ("ieps", "<u4"), ("oeps", "<u4")])


@dataclass(frozen=True)
class FstArrays:
    """A transducer.

    Attributes:
        start: the initial state; -1 if it has no states.
        finals: costs, (S,) float32, of ending in a state; infinite for a state that is not final.
        offsets: places in ``arcs``, (S + 1,) int64: the arcs of state s are ``arcs[offsets[s]:offsets[s + 1]]``.
        arcs: arcs with labels, cost and destination, (A,) of dtype ``ARC``.
        kind: the type of the file.
    """

    start: int
    finals: np.ndarray
    offsets: np.ndarray
    arcs: np.ndarray
    kind: str = "vector"

    def arcs_of(self, state: int) -> np.ndarray:
        """The arcs that leave a state."""
        return self.arcs[self.offsets[state] : self.offsets[state + 1]]


def read_fst_arrays(
    path: str | os.PathLike[str], *, inputs: Labels | None = None, outputs: Labels | None = None
) -> FstArrays:
    """Read an FST file and check it.

    Args:
        path: a file such as ``G.fst`` or ``HCLG.fst``.
        inputs, outputs: what its input and its output labels can be; ``None``: anything.

    Raises:
        DataError: missing, damaged, of another type than ``vector`` and ``const``, or of other arcs than standard; or
            what :func:`kaldi_uq.io.fst_checks.problem_of` refuses; or another label than it can have.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    cursor = FstStream(path.read_bytes(), path)
    kind, arc_type = cursor.types()
    if kind not in _VERSIONS or arc_type != "standard":
        raise DataError(
            f"{path}: FST of type {kind!r:.60} with arcs {arc_type!r:.60}, expected vector or const with standard "
            "arcs; convert it with fstconvert --fst_type=const"
        )
    version, flags, start, num_states, num_arcs = cursor.sizes(_VERSIONS[kind])
    if kind == "const":
        aligned = bool(flags & IS_ALIGNED) or version == 1
        finals, offsets, arcs = _read_const(cursor, num_states, num_arcs, aligned)
    else:
        finals, offsets, arcs = _read_vector(cursor, num_states)
    if cursor.at != len(cursor.data):
        raise cursor.fail(f"{len(cursor.data) - cursor.at} bytes behind its end")
    problem = problem_of(start, finals, offsets, arcs)
    for name, labels in (("input", inputs), ("output", outputs)):
        problem = problem or (labels.problem_of(name, arcs[f"{name[0]}label"]) if labels else "")
    if problem:
        raise cursor.fail(problem)
    return FstArrays(start, finals, offsets, arcs, kind)


def _read_const(cursor: FstStream, num_states: int, num_arcs: int, aligned: bool) -> tuple[np.ndarray, ...]:
    if aligned:
        cursor.align()
    states = cursor.array(_CONST_STATE, num_states)
    if aligned:
        cursor.align()
    arcs = cursor.array(ARC, num_arcs)
    offsets = np.concatenate([[0], np.cumsum(states["count"], dtype=np.int64)])
    if offsets[-1] != num_arcs or not np.array_equal(
        states["first"][states["count"] > 0], offsets[:-1][states["count"] > 0]
    ):
        raise cursor.fail("states and arcs do not fit each other")
    for name, labels in (("ieps", "ilabel"), ("oeps", "olabel")):  # Kaldi's decoders pass over states without any
        sums = np.concatenate([[0], np.cumsum(arcs[labels] == 0)])
        if not np.array_equal(states[name], np.diff(sums[offsets])):
            raise cursor.fail(f"a state has another number of arcs without {labels} than it says")
    return states["final"], offsets, arcs


def _read_vector(cursor: FstStream, num_states: int) -> tuple[np.ndarray, ...]:
    """A state's place is known when that before it is read: a loop over states, which takes their counts alone."""
    counts: list[int] = []
    unpack_from, data, begin, end = struct.Struct("<q").unpack_from, cursor.data, cursor.at, len(cursor.data)
    at, size = begin, ARC.itemsize
    while (len(counts) < num_states) if num_states >= 0 else at < end:  # -1: as many as there are
        if at + _STATE_HEAD.itemsize > end:
            cursor.at = at
            raise cursor.fail_here("unexpected end")
        (count,) = unpack_from(data, at + 4)
        at += _STATE_HEAD.itemsize
        if not 0 <= count <= (end - at) // size:
            cursor.at = at
            raise cursor.fail_here(f"a state has {count} arcs")
        counts.append(count)
        at += count * size
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    words = np.frombuffer(cursor.take(at - begin), "<u4")
    heads, is_arc = _places(offsets)
    return words[heads].view("<f4"), offsets, words[is_arc].view(ARC)


def _places(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Among the 4-byte words of a file of type vector: where the states begin, (S,), and which are of arcs, bool."""
    head, arc = _STATE_HEAD.itemsize // 4, ARC.itemsize // 4
    heads = head * np.arange(len(offsets) - 1) + arc * offsets[:-1]
    is_arc = np.ones(head * len(heads) + arc * int(offsets[-1]), dtype=bool)
    for place in range(head):
        is_arc[heads + place] = False
    return heads, is_arc


def vector_bytes(fst: FstArrays) -> bytes:
    """An FST file of type ``vector``, without symbol tables, and without properties that its reader would believe."""
    head = vector_header("standard", fst.start, len(fst.finals), len(fst.arcs))
    heads, is_arc = _places(fst.offsets)
    words = np.empty(len(is_arc), "<u4")
    words[is_arc] = np.ascontiguousarray(fst.arcs).view("<u4")
    states = np.empty(len(fst.finals), _STATE_HEAD)
    states["final"], states["count"] = fst.finals, np.diff(fst.offsets)
    for place, column in enumerate(states.view("<u4").reshape(-1, _STATE_HEAD.itemsize // 4).T):
        words[heads + place] = column
    return head + words.tobytes()
