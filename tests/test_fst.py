"""OpenFst files without OpenFst: both types, with symbol tables, and damage."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import kaldi_hmm_gmm  # noqa: F401  (before kaldifst: the other order hangs with some releases)
import kaldifst
import numpy as np
import pytest

from kaldi_uq.engine.embedded.wheels import read_fst
from kaldi_uq.errors import DataError, EngineError
from kaldi_uq.io.fst import ARC, FstArrays, read_fst_arrays, vector_bytes
from kaldi_uq.io.fst_checks import MAX_ROUNDS, problem_of

GRAPH = Path(__file__).resolve().parent / "golden_b2/tri/graph/HCLG.fst"  # of type const, by Kaldi's mkgraph.sh
TEXT = "0 1 1 4 0.5\n0 2 2 5 1.5\n1 2 3 0\n2 0.25\n1 7\n"


def write(path: Path) -> None:
    kaldifst.compile(TEXT).write(str(path))


def arcs(fst: object) -> list[list[tuple[int, int, float, int]]]:
    return [
        [(a.ilabel, a.olabel, float(a.weight.value), a.nextstate) for a in kaldifst.ArcIterator(fst, state)]
        for state in range(fst.num_states)  # type: ignore[attr-defined]
    ]


def with_symbols(data: bytes) -> bytes:
    """The same FST with an input symbol table in the file, as fstcompile --keep_isymbols writes it."""
    at = 4 + 4 + 6 + 4 + 8
    version, flags = struct.unpack_from("<ii", data, at)
    end = at + 8 + 8 * 4
    table = struct.pack("<ii1sqq", 2125658996, 1, b"t", 2, 2)
    table += b"".join(
        struct.pack("<i", len(word)) + word + struct.pack("<q", n) for n, word in enumerate((b"<eps>", b"a"))
    )
    return data[:at] + struct.pack("<ii", version, flags | 1) + data[at + 8 : end] + table + data[end:]


def test_vector_file_is_read_as_openfst_reads_it(tmp_path: Path) -> None:
    write(tmp_path / "x.fst")
    fst = read_fst_arrays(tmp_path / "x.fst")
    assert (fst.start, fst.kind) == (0, "vector")
    assert fst.finals.tolist() == [np.inf, 7.0, 0.25]
    assert fst.arcs.tolist() == [(1, 4, 0.5, 1), (2, 5, 1.5, 2), (3, 0, 0.0, 2)]
    assert fst.arcs_of(0)["olabel"].tolist() == [4, 5]
    assert len(fst.arcs_of(2)) == 0


def test_symbol_tables_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "x.fst")
    (tmp_path / "y.fst").write_bytes(with_symbols((tmp_path / "x.fst").read_bytes()))
    one, other = (read_fst_arrays(tmp_path / name) for name in ("x.fst", "y.fst"))
    assert np.array_equal(one.arcs, other.arcs) and np.array_equal(one.finals, other.finals)
    kaldifst.StdVectorFst.read(str(tmp_path / "y.fst"))  # the table is a good one


def test_written_file_is_what_openfst_reads(tmp_path: Path) -> None:
    write(tmp_path / "x.fst")
    (tmp_path / "y.fst").write_bytes(vector_bytes(read_fst_arrays(tmp_path / "x.fst")))
    one, other = (kaldifst.StdVectorFst.read(str(tmp_path / name)) for name in ("x.fst", "y.fst"))
    assert arcs(one) == arcs(other)


def test_engine_reads_kaldis_const_graph(tmp_path: Path) -> None:
    arrays = read_fst_arrays(GRAPH)
    fst = read_fst(GRAPH)
    assert fst.num_states == len(arrays.finals) == 134
    assert [arc for of_state in arcs(fst) for arc in of_state] == arrays.arcs.tolist()
    (tmp_path / "v.fst").write_bytes(vector_bytes(arrays))
    assert np.array_equal(read_fst_arrays(tmp_path / "v.fst").offsets, arrays.offsets)


@pytest.mark.parametrize("kind", ["vector", "const"])
def test_no_damage_causes_another_exception(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "x.fst")
    whole = GRAPH.read_bytes() if kind == "const" else (tmp_path / "x.fst").read_bytes()
    path = tmp_path / "damaged.fst"
    sizes = range(len(whole)) if len(whole) < 500 else (*range(0, 120), *range(120, len(whole), 97))
    for size in sizes:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"damaged\.fst: "):
            read_fst_arrays(path)
    for place in range(100):
        for bits in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
            with contextlib.suppress(DataError):
                read_fst_arrays(path)


@pytest.mark.parametrize("content, message", [
    (b"", "unexpected end"),
    (b"#!/bin/sh\nexit 0\n", "no FST header"),
    (struct.pack("<ii9si3s", 2125659606, 9, b"olabel_lo", 3, b"log"), "FST of type 'olabel_lo' with arcs 'log'"),
])  # fmt: skip
def test_what_is_no_such_file_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_fst_arrays(tmp_path / "x")
    with pytest.raises(DataError, match="no such file"):
        read_fst_arrays(tmp_path / "y")


def test_const_file_cut_off_is_an_error_of_the_engine(tmp_path: Path) -> None:
    (tmp_path / "HCLG.fst").write_bytes(GRAPH.read_bytes()[:4000])
    with pytest.raises(EngineError, match=r"HCLG\.fst: not an FST file, or a damaged one: unexpected end"):
        read_fst(tmp_path / "HCLG.fst")


def test_empty_fst() -> None:
    empty = FstArrays(-1, np.zeros(0, np.float32), np.zeros(1, np.int64), np.zeros(0, ARC))
    assert len(vector_bytes(empty)) == 66


def chain(num_states: int, *further: tuple[int, int]) -> str:
    """What is wrong with a chain of arcs without labels, with further arcs between its states."""
    ends = sorted([*((state, state + 1) for state in range(num_states - 1)), *further])
    offsets = np.searchsorted([source for source, _ in ends], np.arange(num_states + 1))
    arcs = np.array([(0, 0, 1.0, destination) for _, destination in ends], ARC)
    return problem_of(0, np.zeros(num_states, np.float32), offsets, arcs)


class TestCyclesWithoutLabels:
    @pytest.mark.parametrize("num_states", [2, 30, 30 * MAX_ROUNDS])
    def test_a_chain_is_none_however_long_and_one_arc_back_makes_one(self, num_states: int) -> None:
        assert chain(num_states) == ""
        assert chain(num_states, (0, num_states - 1)) == ""
        last = num_states - 1
        assert chain(num_states, (last, last)) == f"arcs without an input label lead from state {last} back to it"
        back = num_states // 2
        assert chain(num_states, (last, back)) == f"arcs without an input label lead from state {back} back to it"

    def test_a_path_from_one_cycle_to_another_is_in_neither(self) -> None:
        said = chain(9, (2, 1), (8, 7))
        assert said == "arcs without an input label lead from state 1 back to it"
