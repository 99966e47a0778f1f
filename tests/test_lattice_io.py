"""Archives of lattices: bytes of an encoder of our own, both formats, and what is refused."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.io.lattice import (
    MAX_COST,
    Lattice,
    compact_bytes,
    read_lattice_dir,
    read_lattices,
    write_lattices,
)
from tests.lattices import all_paths, make_lattice, random_lattice

INF = float("inf")
Arc = tuple[int, int, float, float, list[int], int]  # both labels, costs, transition-ids, destination
State = tuple[float, float, list[int], list[Arc]]


def encoded(
    states: list[State], *, kind: bytes = b"compactlattice44", start: int = 0, version: int = 2, num: int | None = None
) -> bytes:
    """An FST of type vector, written as OpenFst's format has it, by nothing that is under test."""
    data = struct.pack("<I", 0x7EB2FDD6)
    for name in (b"vector", kind):
        data += struct.pack("<i", len(name)) + name
    data += struct.pack("<iiQqqq", version, 0, 3, start, len(states) if num is None else num, 0)
    for graph, acoustic, tids, arcs in states:
        data += struct.pack("<ff", graph, acoustic)
        if kind.startswith(b"compact"):
            data += struct.pack(f"<i{len(tids)}i", len(tids), *tids)
        data += struct.pack("<q", len(arcs))
        for ilabel, olabel, graph_cost, acoustic_cost, string, to in arcs:
            data += struct.pack("<iiff", ilabel, olabel, graph_cost, acoustic_cost)
            if kind.startswith(b"compact"):
                data += struct.pack(f"<i{len(string)}i", len(string), *string)
            data += struct.pack("<i", to)
    return data


STATES: list[State] = [
    (INF, INF, [], [(3, 3, 1.5, -2.25, [4, 4, 5], 1), (2, 2, 0.5, 8.0, [], 1)]),
    (0.25, 1.0, [6], []),
]
TEXT = "0\t1\t3\t1.5,-2.25,4_4_5\n0\t1\t2\t0.5,8,\n1\t0.25,1,6\n\n"
PATHS = [((3,), (1.75, -1.25), (4, 4, 5, 6)), ((2,), (0.75, 9.0), (6,))]


def read(path: Path, data: bytes) -> dict[str, Lattice]:
    path.write_bytes(data)
    return dict(read_lattices(path))


class TestFormats:
    def test_binary_compact(self, tmp_path: Path) -> None:
        data = b"a " + encoded(STATES) + b"b " + encoded([], start=-1) + b"c " + encoded(STATES)
        found = read(tmp_path / "lat", data)
        assert list(found) == ["a", "b", "c"]
        assert all_paths(found["a"]) == all_paths(found["c"]) == PATHS
        assert (found["b"].start, found["b"].num_states, found["b"].num_arcs) == (-1, 0, 0)

    def test_binary_plain(self, tmp_path: Path) -> None:
        states: list[State] = [
            (INF, INF, [], [(4, 3, 1.5, -2.25, [], 1), (5, 0, 0.0, 1.0, [], 1)]),
            (INF, INF, [], [(0, 7, 0.5, 0.0, [], 2)]),
            (0.25, 1.0, [], []),
        ]
        found = read(tmp_path / "lat", b"a " + encoded(states, kind=b"lattice4"))["a"]
        assert all_paths(found) == [((3, 7), (2.25, -1.25), (4,)), ((7,), (0.75, 2.0), (5,))]

    def test_text_compact_and_plain(self, tmp_path: Path) -> None:
        plain = "0 1 4 3 1.5,-2.25\n0 1 5 0\n1 0.25,1\n\n"
        found = read(tmp_path / "lat", f"a \n{TEXT}b \n{plain}c \n0 1 2\n1\n\n".encode())
        assert all_paths(found["a"]) == PATHS
        assert all_paths(found["b"]) == [((3,), (1.75, -1.25), (4,)), ((), (0.25, 1.0), (5,))]
        assert all_paths(found["c"]) == [((2,), (0.0, 0.0), ())]

    def test_gzip(self, tmp_path: Path) -> None:
        found = read(tmp_path / "lat.1.gz", gzip.compress(b"a " + encoded(STATES)))
        assert all_paths(found["a"]) == PATHS

    def test_golden_bytes_of_the_writer(self, tmp_path: Path) -> None:
        lattice = read(tmp_path / "lat", b"a " + encoded(STATES))["a"]
        expected = bytearray(encoded(STATES))
        place = expected.index(b"compactlattice44") + 16 + 4 + 4 + 8 + 8 + 8
        expected[place : place + 8] = struct.pack("<q", 2)  # we say how many arcs there are; Kaldi leaves 0
        assert compact_bytes(lattice) == bytes(expected)

    @pytest.mark.parametrize("seed", range(10))
    def test_round_trip(self, tmp_path: Path, seed: int) -> None:
        lattices = {f"utt-ä{i}": random_lattice(np.random.default_rng(100 * seed + i)) for i in range(3)}
        path = tmp_path / "lat.1.gz"
        write_lattices(path, lattices.items())
        first = path.read_bytes()
        found = dict(read_lattices(path))
        assert list(found) == list(lattices)
        for utt, lattice in lattices.items():
            for name in ("sources", "destinations", "words", "tids", "bounds"):
                assert np.array_equal(getattr(found[utt], name), getattr(lattice, name)), name
            assert np.array_equal(found[utt].costs, lattice.costs.astype(np.float32))
            assert np.array_equal(found[utt].finals, lattice.finals.astype(np.float32))
        write_lattices(path, found.items())
        assert path.read_bytes() == first

    def test_states_are_put_into_topological_order(self, tmp_path: Path) -> None:
        states: list[State] = [
            (0.0, 0.0, [9], []),
            (INF, INF, [], [(2, 2, 2.0, 0.0, [2], 0)]),
            (INF, INF, [], [(1, 1, 1.0, 0.0, [1], 1), (5, 5, 0.0, 0.0, [5, 5], 0)]),
        ]
        found = read(tmp_path / "lat", b"a " + encoded(states, start=2))["a"]
        assert (found.sources < found.destinations).all()
        assert sorted(all_paths(found)) == [((1, 2), (3.0, 0.0), (1, 2, 9)), ((5,), (0.0, 0.0), (5, 5, 9))]

    def test_half_an_archive_is_never_there(self, tmp_path: Path) -> None:
        def stops() -> Iterator[tuple[str, Lattice]]:
            yield "a", make_lattice([(0, 1, 1, 0, 0, [1])], {1: (0, 0)})
            raise RuntimeError

        with pytest.raises(RuntimeError):
            write_lattices(tmp_path / "lat.1.gz", stops())
        assert list(tmp_path.iterdir()) == []


class TestDirectory:
    def test_all_archives_in_order(self, tmp_path: Path) -> None:
        for job, utt in ((1, "b"), (2, "a")):
            write_lattices(tmp_path / f"lat.{job}.gz", [(utt, random_lattice(np.random.default_rng(job)))])
        assert [utt for utt, _ in read_lattice_dir(tmp_path)] == ["b", "a"]

    def test_none_and_two_of_one_utterance(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no lat\.\*\.gz; decode with lattices"):
            list(read_lattice_dir(tmp_path))
        for job in (1, 2):
            write_lattices(tmp_path / f"lat.{job}.gz", [("a", random_lattice(np.random.default_rng(job)))])
        with pytest.raises(DataError, match=r"lat\.2\.gz: utterance 'a' is in another archive too"):
            list(read_lattice_dir(tmp_path))


def with_arc(arc: Arc) -> bytes:
    return b"a " + encoded([(INF, INF, [], [arc]), (0.0, 0.0, [], [])])


REFUSED = {
    "no header": (b"a nonsense", "no FST header"),
    "no key": (encoded(STATES)[:8], "the name of an utterance"),
    "cut off": ((b"a " + encoded(STATES))[:-3], "unexpected end|a state has"),
    "other arcs": (b"a " + encoded(STATES, kind=b"standard"), "arcs 'standard', expected vector with compactlattice44"),
    "double": (b"a " + encoded(STATES, kind=b"compactlattice84"), "compactlattice84"),
    "version": (b"a " + encoded(STATES, version=1), "version 1"),
    "start": (b"a " + encoded(STATES, start=2), "'a': the initial state is 2 of 2"),
    "too many states": (b"a " + encoded(STATES, num=1 << 60), "unexpected end"),
    "states below 0": (b"a " + encoded(STATES, num=-1), "a lattice of -1 states"),
    "destination": (with_arc((1, 1, 0, 0, [], 2)), "a state that does not exist"),
    "destination below 0": (with_arc((1, 1, 0, 0, [], -1)), "a state that does not exist"),
    "loop": (with_arc((1, 1, 0, 0, [1], 0)), "lead in a circle"),
    "word": (with_arc((-1, -1, 0, 0, [], 1)), "a word is -1"),
    "two words": (with_arc((1, 2, 0, 0, [], 1)), "the words 1 and 2"),
    "transition-id": (with_arc((1, 1, 0, 0, [3, 0], 1)), "a transition-id is 0"),
    "NaN": (with_arc((1, 1, float("nan"), 0, [], 1)), "the cost of arc 0 is"),
    "never": (with_arc((1, 1, INF, INF, [], 1)), "the cost of arc 0 is"),
    "huge": (with_arc((1, 1, 0, 2 * MAX_COST, [], 1)), "the cost of arc 0 is"),
    "half an end": (b"a " + encoded([(INF, 0.0, [], [])]), "the cost of final state 0"),
    "endless": (b"a " + encoded([(-INF, -INF, [], [])]), "the cost of final state 0"),
    "twice": (b"a " + encoded(STATES) + b"a " + encoded(STATES), "'a' is there twice"),
    "text without end": (b"a \n0 1 2 0,0,1\n", "without an empty line"),
    "text of six fields": (b"a \n0 1 2 3 0,0 1\n\n", "a line of 6 fields"),
    "text of both kinds": (b"a \n0 1 2 0,0,1\n1 2 3 4 0,0\n\n", "a line of 5 fields"),
    "text number": (b"a \n0 x 2 0,0,1\n\n", "expected an integer, found 'x'"),
    "text state": (b"a \n0 999999999 2 0,0,1\n\n", "a state 999999999 in 1 lines"),
    "text cost": (b"a \n0 1 2 0,none,1\n\n", "could not convert"),
    "text costs": (b"a \n0 1 2 0,0,1\n1 0,0\n\n", "two costs and transition-ids"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damage_is_one_line_that_names_the_archive(tmp_path: Path, name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / "lat", data)
    assert str(tmp_path / "lat") in str(error.value) and "\n" not in str(error.value)


def test_size_of_a_string_is_compared_with_the_file(tmp_path: Path) -> None:
    data = bytearray(b"a " + encoded([(0.0, 0.0, [7], [])]))
    place = data.index(struct.pack("<ii", 1, 7))
    for size in (-1, 1 << 30):
        data[place : place + 4] = struct.pack("<i", size)
        with pytest.raises(DataError, match=f"a string of {size} transition-ids"):
            read(tmp_path / "lat", bytes(data))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_lattices(tmp_path / "lat.1.gz"))
