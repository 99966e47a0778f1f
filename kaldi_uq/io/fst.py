"""OpenFst's binary files of types ``vector`` and ``const``, standard arcs, as arrays: no library is needed.

The embedded engine's OpenFst does not know the type ``const``, in which Kaldi's ``utils/mkgraph.sh`` writes HCLG.fst.

Source of the format: OpenFst ``fst.h`` (FstHeader), ``vector-fst.h``, ``const-fst.h``, ``symbol-table.h``.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.errors import DataError

_MAGIC, _SYMBOLS_MAGIC = 2125659606, 2125658996
_HAS_INPUT_SYMBOLS, _HAS_OUTPUT_SYMBOLS, _IS_ALIGNED = 1, 2, 4
_ALIGNMENT = 16  # bytes
_MAX_NAME = 1 << 16  # bytes of a name; a longer one is damage

ARC = np.dtype([("ilabel", "<i4"), ("olabel", "<i4"), ("weight", "<f4"), ("nextstate", "<i4")])
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
        properties: OpenFst's property bits.
    """

    start: int
    finals: np.ndarray
    offsets: np.ndarray
    arcs: np.ndarray
    kind: str = "vector"
    properties: int = 0

    def arcs_of(self, state: int) -> np.ndarray:
        """The arcs that leave a state."""
        return self.arcs[self.offsets[state] : self.offsets[state + 1]]


class _Cursor:
    def __init__(self, data: bytes, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def fail(self, message: str) -> DataError:
        return DataError(f"{self.path}: not an FST file, or a damaged one: {message} at byte {self.at}; make it again")

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise self.fail("unexpected end")
        self.at += size
        return self.data[self.at - size : self.at]

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def name(self) -> str:
        (size,) = self.unpack("i")
        if not 0 <= size <= _MAX_NAME:
            raise self.fail(f"a name of {size} bytes")
        return self.take(size).decode("utf-8", "replace")

    def array(self, dtype: np.dtype, count: int) -> np.ndarray:
        return np.frombuffer(self.take(dtype.itemsize * count), dtype)

    def align(self) -> None:
        self.take(-self.at % _ALIGNMENT)

    def skip_symbols(self) -> None:
        (magic,) = self.unpack("i")
        if magic != _SYMBOLS_MAGIC:
            raise self.fail("expected a symbol table")
        self.name()
        _, size = self.unpack("qq")
        for _ in range(size):
            self.name()
            self.unpack("q")


def fst_kind(path: str | os.PathLike[str]) -> str:
    """The type of an FST file, such as ``vector`` or ``const``; empty for another kind of file."""
    with open(path, "rb") as stream:
        head = stream.read(64)
    if len(head) < 8 or struct.unpack_from("<i", head)[0] != _MAGIC:
        return ""
    (size,) = struct.unpack_from("<i", head, 4)
    return head[8 : 8 + size].decode("ascii", "replace") if 0 < size < 56 else ""


def read_fst_arrays(path: str | os.PathLike[str]) -> FstArrays:
    """Read an FST file.

    Args:
        path: a file such as ``G.fst`` or ``HCLG.fst``.

    Raises:
        DataError: missing, damaged, of another type than ``vector`` and ``const``, or of other arcs than standard.
    """
    path = Path(path)
    try:
        cursor = _Cursor(path.read_bytes(), path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    (magic,) = cursor.unpack("i")
    if magic != _MAGIC:
        raise cursor.fail("no FST header")
    kind, arc_type = cursor.name(), cursor.name()
    if kind not in ("vector", "const") or arc_type != "standard":
        raise DataError(
            f"{path}: FST of type {kind!r} with arcs {arc_type!r}, expected vector or const with standard arcs; "
            "convert it with fstconvert --fst_type=const"
        )
    version, flags, properties, start, num_states, num_arcs = cursor.unpack("iiQqqq")
    for flag in (_HAS_INPUT_SYMBOLS, _HAS_OUTPUT_SYMBOLS):
        if flags & flag:
            cursor.skip_symbols()
    if kind == "const":
        aligned = bool(flags & _IS_ALIGNED) or version == 1
        finals, offsets, arcs = _read_const(cursor, num_states, num_arcs, aligned)
    else:
        finals, offsets, arcs = _read_vector(cursor, num_states)
    size = len(finals)
    if not -1 <= start < size or (size and start < 0):
        raise cursor.fail(f"the initial state is {start} of {size}")
    if len(arcs) and not (0 <= arcs["nextstate"].min() and arcs["nextstate"].max() < size):
        raise cursor.fail("an arc leads to a state that does not exist")
    return FstArrays(start, finals, offsets, arcs, kind, properties)


def _read_const(cursor: _Cursor, num_states: int, num_arcs: int, aligned: bool) -> tuple[np.ndarray, ...]:
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
    return states["final"], offsets, arcs


def _read_vector(cursor: _Cursor, num_states: int) -> tuple[np.ndarray, ...]:
    finals: list[float] = []
    counts: list[int] = []
    parts: list[bytes] = []
    unpack_from, data, end = struct.Struct("<fq").unpack_from, cursor.data, len(cursor.data)
    at = cursor.at
    while (len(finals) < num_states) if num_states >= 0 else at < end:  # -1: as many as there are
        if at + 12 > end:
            raise cursor.fail("unexpected end")
        final, count = unpack_from(data, at)
        at += 12
        if not 0 <= count <= (end - at) // ARC.itemsize:
            raise cursor.fail(f"a state has {count} arcs")
        finals.append(final)
        counts.append(count)
        parts.append(data[at : at + count * ARC.itemsize])
        at += count * ARC.itemsize
    arcs = np.frombuffer(b"".join(parts), ARC)
    return np.array(finals, np.float32), np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64), arcs


def vector_bytes(fst: FstArrays) -> bytes:
    """An FST file of type ``vector``, without symbol tables."""
    head = struct.pack("<ii6si8s", _MAGIC, 6, b"vector", 8, b"standard")
    head += struct.pack("<iiQqqq", 2, 0, _vector_properties(fst.properties), fst.start, len(fst.finals), len(fst.arcs))
    counts = np.diff(fst.offsets)
    states = np.empty(len(fst.finals), dtype=[("final", "<f4"), ("count", "<i8")])
    states["final"], states["count"] = fst.finals, counts
    heads, arcs = states.tobytes(), np.ascontiguousarray(fst.arcs).tobytes()
    parts = [head]
    at = 0
    for number, size in enumerate((counts * ARC.itemsize).tolist()):
        parts += [heads[12 * number : 12 * number + 12], arcs[at : at + size]]
        at += size
    return b"".join(parts)


def _vector_properties(properties: int) -> int:
    """The bits that hold for the type ``vector``: it can be changed and is expanded; what is known of arcs stays."""
    expanded, mutable, error = 1, 2, 4
    return (properties | expanded | mutable) & ~error
