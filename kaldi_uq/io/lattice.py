"""Lattices, and Kaldi's archives of them: ``Lattice`` and ``CompactLattice``, binary and text, plain and ``.gz``.

A lattice is an acyclic graph of what an utterance may have been: its paths are word sequences, with the transition-ids
of their frames and two costs, of the graph (language model, lexicon, transitions) and of the acoustics.  In a compact
lattice an arc has at most a word and any number of transition-ids, in a plain one at most one of each; here both are
the same class.  The archive is checked as graphs are (:mod:`kaldi_uq.io.fst_checks`), because paths are followed and
costs are added up without looking again.

Source of the formats: Kaldi ``src/lat/kaldi-lattice.cc``, ``src/fstext/lattice-weight.h``; OpenFst ``vector-fst.h``.
"""

from __future__ import annotations

import functools
import gzip
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.fst_stream import FstStream, vector_header
from kaldi_uq.io.reading import read_bytes

COMPACT, PLAIN = "compactlattice44", "lattice4"  # types of arcs: weights of 4-byte floats, transition-ids of 4 bytes
# A frame of a Gaussian mixture costs some hundred at most, and an arc can have all frames of an hour.
MAX_COST = 1e9
_KIND = "an archive of lattices"
_FINAL, _ARC, _COUNT, _INT = (struct.Struct(f"<{form}") for form in ("ff", "iiff", "q", "i"))


@dataclass(frozen=True)
class Lattice:
    """An acyclic graph of hypotheses; its states are in topological order, its arcs in the order of their sources.

    Attributes:
        start: the initial state; -1 if there is no state.
        sources, destinations: states of the arcs, (A,) int64, ``sources < destinations``.
        words: words of the arcs, (A,) int64; 0: none.
        costs: costs of the arcs, (A, 2) float64: of the graph and of the acoustics.
        finals: costs of ending in a state, (S, 2) float64; infinite where no path ends.
        tids: transition-ids of all arcs and then of all final costs, one behind the other, int32.
        bounds: places in ``tids``, (A + S + 1,) int64: ``tids[bounds[i]:bounds[i + 1]]`` are those of arc i, and with
            i = A + s those of ending in state s.
    """

    start: int
    sources: np.ndarray
    destinations: np.ndarray
    words: np.ndarray
    costs: np.ndarray
    finals: np.ndarray
    tids: np.ndarray
    bounds: np.ndarray

    @classmethod
    def build(
        cls,
        start: int,
        arcs: np.ndarray | Sequence[tuple[int, int, int]],
        costs: np.ndarray,
        finals: np.ndarray,
        strings: Sequence[bytes],
    ) -> Lattice:
        """Put states and arcs into order.

        Args:
            start: the initial state.
            arcs: source, destination and word of each arc, (A, 3).
            costs, finals: as of the class.
            strings: transition-ids of each arc and then of each state's end, int32, as bytes.

        Raises:
            ValueError: what no lattice has: a state that there is not, a cycle, a cost that is not finite or beyond
                ``MAX_COST``, a label below 0, a transition-id below 1.
        """
        table = np.asarray(arcs, dtype=np.int64).reshape(-1, 3)
        costs, finals = (np.asarray(v, dtype=np.float64).reshape(-1, 2) for v in (costs, finals))
        tids = np.frombuffer(b"".join(strings), "<i4")
        _check(start, table, costs, finals, tids)
        place = _topological_order(table, len(finals))
        sources, destinations = place[table[:, 0]], place[table[:, 1]]
        order = np.argsort(sources, kind="stable")
        states = np.argsort(place, kind="stable")
        if not (np.array_equal(order, np.arange(len(order))) and np.array_equal(states, np.arange(len(states)))):
            strings = [strings[i] for i in (*order.tolist(), *(len(table) + states).tolist())]
            tids = np.frombuffer(b"".join(strings), "<i4")
        bounds = np.cumsum([0, *(len(string) // 4 for string in strings)], dtype=np.int64)
        ends = (int(place[start]) if start >= 0 else -1, sources[order], destinations[order], table[order, 2])
        return cls(*ends, costs[order], finals[states], tids, bounds)

    @property
    def num_states(self) -> int:
        return len(self.finals)

    @property
    def num_arcs(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> np.ndarray:
        """Number of transition-ids, (A + S,) int64: of each arc, and then of ending in each state."""
        return np.diff(self.bounds)

    def string(self, index: int) -> np.ndarray:
        """The transition-ids of an arc, or with A + s those of ending in state s."""
        return self.tids[self.bounds[index] : self.bounds[index + 1]]

    @functools.cached_property
    def first(self) -> np.ndarray:
        """The arcs of state s are those from ``first[s]`` to ``first[s + 1]``, (S + 1,) int64."""
        return np.searchsorted(self.sources, np.arange(self.num_states + 1))

    @functools.cached_property
    def levels(self) -> list[np.ndarray]:
        """Arcs that can be looked at together, in an order in which all arcs into a state come before those out of it.

        A loop over arcs in Python finds them, some 0.1 us an arc; what then goes over them is a loop over levels, of
        which there are as many as the longest path has arcs.
        """
        level = [0] * self.num_states
        for source, destination in zip(self.sources.tolist(), self.destinations.tolist(), strict=True):
            if level[source] >= level[destination]:
                level[destination] = level[source] + 1
        of_arc = np.asarray(level, dtype=np.int64)[self.sources]
        order = np.argsort(of_arc, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(of_arc[order])) + 1) if len(order) else []

    def scaled(self, graph: float = 1.0, acoustic: float = 1.0) -> Lattice:
        """The lattice with its two costs multiplied by these scales, as ``lattice-scale`` does it."""
        scale = np.array([graph, acoustic])
        finals = np.where(np.isfinite(self.finals), self.finals * scale, np.inf)
        return Lattice(
            self.start, self.sources, self.destinations, self.words, self.costs * scale, finals, self.tids, self.bounds
        )


def _check(start: int, arcs: np.ndarray, costs: np.ndarray, finals: np.ndarray, tids: np.ndarray) -> None:
    size = len(finals)
    if not (0 <= start < size or (start == -1 and not size)):
        raise ValueError(f"the initial state is {start} of {size}")
    ends = np.isposinf(finals).all(1) | (np.abs(finals) <= MAX_COST).all(1)
    if not ends.all():
        raise ValueError(f"the cost of final state {int(ends.argmin())} is {finals[ends.argmin()].tolist()}")
    passes = (np.abs(costs) <= MAX_COST).all(1)  # NaN compares as false
    if not passes.all():
        raise ValueError(f"the cost of arc {int(passes.argmin())} is {costs[passes.argmin()].tolist()}")
    if len(arcs) and not (0 <= arcs[:, :2].min() and arcs[:, :2].max() < size):
        raise ValueError("an arc leads from or to a state that does not exist")
    if len(arcs) and arcs[:, 2].min() < 0:
        raise ValueError(f"a word is {arcs[:, 2].min()}")
    if len(tids) and tids.min() < 1:
        raise ValueError(f"a transition-id is {tids.min()}")


def _topological_order(arcs: np.ndarray, num_states: int) -> np.ndarray:
    """The place of each state, (S,) int64; most writers have put them into order."""
    if (arcs[:, 0] < arcs[:, 1]).all():
        return np.arange(num_states)
    followers: list[list[int]] = [[] for _ in range(num_states)]
    missing = np.bincount(arcs[:, 1], minlength=num_states).tolist()
    for source, destination in arcs[:, :2].tolist():
        followers[source].append(destination)
    order = [state for state in range(num_states) if not missing[state]]
    for state in order:  # grows
        for follower in followers[state]:
            missing[follower] -= 1
            if not missing[follower]:
                order.append(follower)
    if len(order) != num_states:
        raise ValueError("its arcs lead in a circle")
    place = np.empty(num_states, dtype=np.int64)
    place[order] = np.arange(num_states)
    return place


def read_lattices(path: str | os.PathLike[str]) -> Iterator[tuple[str, Lattice]]:
    """Read an archive, such as ``lat.1.gz``.

    Args:
        path: the archive, of compact or plain lattices, each binary or text; ``.gz`` is unpacked.

    Yields:
        (utt, lattice)

    Raises:
        DataError: missing, damaged, or no archive of lattices in single precision.
    """
    stream = FstStream(read_bytes(path), path, _KIND)
    data, seen = stream.data, set()
    while True:
        while data[stream.at : stream.at + 1].isspace():
            stream.at += 1
        if stream.at == len(data):
            return
        utt = _key(stream)
        if utt in seen:
            raise stream.fail_here(f"utterance {utt!r:.60} is there twice")
        seen.add(utt)
        is_text = data[stream.at : stream.at + 1] == b"\n"
        try:
            lattice = _read_text(stream) if is_text else _read_binary(stream)
        except ValueError as error:
            raise stream.fail(f"{utt!r:.60}: {error}") from None
        yield utt, lattice


def read_lattice_dir(directory: str | os.PathLike[str]) -> Iterator[tuple[str, Lattice]]:
    """The lattices of all ``lat.*.gz`` of a directory; arguments and errors as of :func:`read_lattices`."""
    paths = sorted(Path(directory).glob("lat.*.gz"))
    if not paths:
        raise DataError(f"{directory}: no lat.*.gz; decode with lattices to make them")
    seen: set[str] = set()
    for path in paths:
        for utt, lattice in read_lattices(path):
            if utt in seen:
                raise DataError(
                    f"{path}: utterance {utt!r:.60} is in another archive too; remove that of an earlier run"
                )
            seen.add(utt)
            yield utt, lattice


def _key(stream: FstStream) -> str:
    end = min((p for p in (stream.data.find(c, stream.at) for c in (b" ", b"\n", b"\t")) if p >= 0), default=-1)
    if end < 0 or stream.data[end : end + 1] != b" ":
        raise stream.fail_here("expected the name of an utterance and a blank")
    try:
        return stream.take(end + 1 - stream.at)[:-1].decode("utf-8")
    except UnicodeDecodeError:
        raise stream.fail_here("the name of an utterance is not UTF-8") from None


def _read_binary(stream: FstStream) -> Lattice:
    """States and arcs are of any length, so that this is a loop over them, about 1 us each."""
    kind, arc_type = stream.types()
    if kind != "vector" or arc_type not in (COMPACT, PLAIN):
        raise stream.fail(f"FST of type {kind!r:.60} with arcs {arc_type!r:.60}, expected vector with {COMPACT}")
    _, _, start, num_states, _ = stream.sizes()
    if num_states < 0:
        raise stream.fail_here(f"a lattice of {num_states} states")
    data, at, compact = stream.data, stream.at, arc_type == COMPACT
    arcs: list[tuple[int, int, int]] = []
    costs: list[tuple[float, float]] = []
    finals: list[tuple[float, float]] = []
    strings: list[bytes] = []
    ends: list[bytes] = []

    def string_at(at: int) -> bytes:
        (size,) = _INT.unpack_from(data, at)
        if not 0 <= size <= (len(data) - at) // 4:
            stream.at = at
            raise stream.fail_here(f"a string of {size} transition-ids")
        return data[at + 4 : at + 4 + 4 * size]

    try:
        for state in range(num_states):  # ends with the file at the latest
            finals.append(_FINAL.unpack_from(data, at))
            ends.append(string_at(at + 8) if compact else b"")
            at += 8 + (4 + len(ends[-1]) if compact else 0)
            (count,) = _COUNT.unpack_from(data, at)
            at += 8
            if not 0 <= count <= (len(data) - at) // 20:
                raise stream.fail(f"a state has {count} arcs")
            for _ in range(count):
                inner, word, graph, acoustic = _ARC.unpack_from(data, at)
                if compact and inner != word:
                    raise stream.fail(f"an arc has the words {inner} and {word}")
                strings.append(string_at(at + 16) if compact else _INT.pack(inner) if inner else b"")
                at += 16 + (4 + len(strings[-1]) if compact else 0)
                (destination,) = _INT.unpack_from(data, at)
                at += 4
                arcs.append((state, destination, word))
                costs.append((graph, acoustic))
    except struct.error:
        raise stream.fail("unexpected end") from None
    stream.at = at
    return _built(start, arcs, costs, finals, [*strings, *ends])


def _built(start: int, arcs: Any, costs: Any, finals: Any, strings: Sequence[bytes]) -> Lattice:
    return Lattice.build(start, arcs, np.array(costs, float), np.array(finals, float), strings)


def _read_text(stream: FstStream) -> Lattice:
    """Lines of arcs and of final states up to an empty one; which of the two formats they have, they show together."""
    rows = []
    stream.take(1)
    while True:
        end = stream.data.find(b"\n", stream.at)
        if end < 0:
            raise stream.fail_here("a lattice without an empty line behind it")
        row = stream.take(end + 1 - stream.at).decode("ascii", "replace").split()
        if not row:
            break
        rows.append(row)
    commas = {row[-1].count(",") for row in rows if "," in row[-1]}
    compact = 2 in commas or any(len(row) == 3 for row in rows)
    arc_columns = 3 if compact else 4  # of an arc without a cost
    finals: dict[int, tuple[tuple[float, float], bytes]] = {}
    arcs, costs, strings = [], [], []
    size = 0
    for row in rows:
        if len(row) not in (1, 2, arc_columns, arc_columns + 1):
            raise ValueError(f"a line of {len(row)} fields: {' '.join(row)!r:.60}")
        is_arc = len(row) > 2
        has_cost = len(row) in (2, arc_columns + 1)
        cost, string = _text_weight(row[-1], compact) if has_cost else ((0.0, 0.0), b"")
        numbers = [_text_integer(field) for field in (row[:-1] if has_cost else row)]
        size = max(size, *(number + 1 for number in numbers[: 1 + is_arc]))
        if is_arc:
            arcs.append((numbers[0], numbers[1], numbers[-1]))
            costs.append(cost)
            strings.append(string if compact else _INT.pack(numbers[2]) if numbers[2] else b"")
        else:
            finals[numbers[0]] = (cost, string)
    if size > 2 * len(rows) + 1:  # each line names two states at most
        raise ValueError(f"a state {size - 1} in {len(rows)} lines")
    none = ((np.inf, np.inf), b"")
    ends = [finals.get(state, none) for state in range(size)]
    start = _text_integer(rows[0][0]) if rows else -1
    return _built(start, arcs, costs, [cost for cost, _ in ends], [*strings, *(string for _, string in ends)])


def _text_integer(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"expected an integer, found {text!r:.60}")
    return int(text)


def _text_weight(text: str, compact: bool) -> tuple[tuple[float, float], bytes]:
    fields = text.split(",")
    if len(fields) != 2 + compact:
        raise ValueError(f"expected two costs{' and transition-ids' if compact else ''}, found {text!r:.60}")
    string = [_text_integer(field) for field in fields[2].split("_")] if compact and fields[2] else []
    return (float(fields[0]), float(fields[1])), np.array(string, "<i4").tobytes()


def compact_bytes(lattice: Lattice) -> bytes:
    """A lattice as Kaldi's binary ``CompactLattice``; costs are rounded to single precision."""
    parts = [vector_header(COMPACT, lattice.start, lattice.num_states, lattice.num_arcs)]
    first = lattice.first.tolist()
    destinations, words, costs = (v.tolist() for v in (lattice.destinations, lattice.words, lattice.costs))
    finals, lengths = lattice.finals.tolist(), lattice.lengths.tolist()
    for state in range(lattice.num_states):
        end = lattice.num_arcs + state
        parts += [_FINAL.pack(*finals[state]), _INT.pack(lengths[end]), lattice.string(end).tobytes()]
        parts.append(_COUNT.pack(first[state + 1] - first[state]))
        for arc in range(first[state], first[state + 1]):
            parts += [_ARC.pack(words[arc], words[arc], *costs[arc]), _INT.pack(lengths[arc])]
            parts += [lattice.string(arc).tobytes(), _INT.pack(destinations[arc])]
    return b"".join(parts)


class LatticeWriter:
    """Write ``lat.N.gz``, one lattice after the other; the file appears, whole, when the block ends.

    It is gzipped without a time stamp, so that equal content is equal bytes.

    Args:
        path: the archive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._context: Any = None

    def __enter__(self) -> LatticeWriter:
        self._context = atomic_write(self._path, "wb")
        self._raw = self._context.__enter__()
        self._stream = gzip.GzipFile(fileobj=self._raw, mode="wb", mtime=0, filename="", compresslevel=6)
        return self

    def write(self, utt: str, lattice: Lattice) -> None:
        """Append a lattice."""
        self._stream.write(f"{utt} ".encode() + compact_bytes(lattice))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._stream.close()
        self._context.__exit__(kind, error, trace)


def write_lattices(path: str | os.PathLike[str], lattices: Iterable[tuple[str, Lattice]]) -> None:
    """Write an archive of (utt, lattice) pairs, see :class:`LatticeWriter`."""
    with LatticeWriter(path) as writer:
        for utt, lattice in lattices:
            writer.write(utt, lattice)
