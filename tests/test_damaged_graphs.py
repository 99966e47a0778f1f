"""Damaged and hostile graphs, trees and transition models: refused when they are read, before any C++ sees them.

One file: what refuses a damaged file is asked of every kind of file by the same code, on the same small system.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.engine.embedded import wheels
from kaldi_uq.engine.files import graph_files, model_files
from kaldi_uq.errors import DataError, EngineError, KaldiUqError, ModelFileError
from kaldi_uq.io.digests import DIGESTS_FILE, check_digest, copy_recorded, recorded
from kaldi_uq.io.event_map import EventMap, Leaf, Split, Table, write_tree
from kaldi_uq.io.fst import ARC, FstArrays, read_fst_arrays, vector_bytes
from kaldi_uq.io.fst_checks import MAX_COST, Labels
from kaldi_uq.io.kaldi_model import (
    DiagGmmSet,
    HmmState,
    Topology,
    TransitionTable,
    read_gmm_model,
    read_topology,
    read_transitions,
    write_model,
)
from kaldi_uq.io.lang import Lang, read_symbols
from kaldi_uq.io.token_stream import int_vector, unsigned_bytes
from kaldi_uq.io.tree import MAX_DEPTH, MAX_WIDTH, read_tree_bytes
from tests import tiny
from tests.tiny import TinySystem

pytestmark = pytest.mark.long

CONST_GRAPH = Path(__file__).resolve().parent / "golden_b2/tri/graph/HCLG.fst"
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), 8)


@pytest.fixture
def copied(system: TinySystem, tmp_path: Path) -> TinySystem:
    shutil.copytree(system.mono.parent, tmp_path / "copy")
    mono = tmp_path / "copy/mono"
    return dataclasses.replace(system, lang=Lang.read(tmp_path / "copy/lang"), mono=mono, graph=mono / "graph")


Arc = tuple[int, int, int, float, int]


def fst_of(*arcs: Arc, finals: dict[int, float] | None = None, start: int = 0) -> FstArrays:
    """A transducer from (source, ilabel, olabel, cost, destination), sources ascending; four states."""
    costs = np.full(4, np.inf, np.float32)
    for state, cost in (finals or {3: 0.0}).items():
        costs[state] = cost
    counts = np.bincount([arc[0] for arc in arcs], minlength=4)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return FstArrays(start, costs, offsets, np.array([arc[1:] for arc in arcs], ARC))


def const_bytes(fst: FstArrays, **wrong: np.ndarray) -> bytes:
    """The same as a file of type const, with columns of its states replaced."""
    head = struct.pack("<ii5si8s", 2125659606, 5, b"const", 8, b"standard")
    head += struct.pack("<iiQqqq", 2, 0, 1, fst.start, len(fst.finals), len(fst.arcs))
    columns = {
        "final": fst.finals.view("<u4"),
        "first": fst.offsets[:-1],
        "count": np.diff(fst.offsets),
        **{
            name: [int((fst.arcs_of(s)[label] == 0).sum()) for s in range(len(fst.finals))]
            for name, label in (("ieps", "ilabel"), ("oeps", "olabel"))
        },
        **wrong,
    }
    return head + np.array(list(columns.values()), "<u4").T.tobytes() + fst.arcs.tobytes()


class TestTransducers:
    GOOD = ((0, 1, 2, 0.5, 1), (1, 0, 0, 0.25, 2), (2, 3, 0, -0.5, 3), (3, 1, 1, INF, 0))

    @pytest.mark.parametrize("form", [vector_bytes, const_bytes])
    def test_a_good_one_is_read(self, tmp_path: Path, form: Callable[[FstArrays], bytes]) -> None:
        (tmp_path / "x").write_bytes(form(fst_of(*self.GOOD)))
        assert read_fst_arrays(tmp_path / "x").arcs.tolist() == fst_of(*self.GOOD).arcs.tolist()

    @pytest.mark.parametrize("form", [vector_bytes, const_bytes])
    @pytest.mark.parametrize(
        "fst, message",
        [
            (fst_of(*GOOD, finals={3: NAN}), "cost of final state 3 is nan"),
            (fst_of(*GOOD, finals={1: -INF}), "cost of final state 1 is -inf"),
            (fst_of((0, 1, 1, NAN, 1)), "cost of arc 0 is nan"),
            (fst_of(*GOOD[:2], (2, 3, 0, -INF, 3)), "cost of arc 2 is -inf"),
            (fst_of((0, 1, 1, 2 * MAX_COST, 1)), "cost of arc 0 is 2000000"),
            (fst_of((0, 1, 1, -1e38, 1)), "cost of arc 0 is -9.9"),
            (fst_of((0, 1, 1, 0.0, 4)), "an arc leads to a state that does not exist"),
            (fst_of((0, 1, 1, 0.0, -1)), "an arc leads to a state that does not exist"),
            (fst_of((0, -5, 1, 0.0, 1)), "an arc's ilabel is -5"),
            (fst_of((0, 5, -(2**31), 0.0, 1)), "an arc's olabel is -2147483648"),
            (fst_of(*GOOD, start=4), "the initial state is 4 of 4"),
            (fst_of(*GOOD, start=-1), "the initial state is -1 of 4"),
            (fst_of((1, 0, 7, -1.0, 1)), "input label lead from state 1 back to it"),
            (
                fst_of((0, 0, 0, 1.0, 1), (1, 0, 0, 0.0, 2), (2, 0, 0, -3.0, 0)),
                "input label lead from state",
            ),
            (
                fst_of((1, 1, 0, 1.0, 2), (2, 0, 0, 0.0, 3), (3, 0, 0, 0.0, 2)),
                "input label lead from state 2",
            ),
        ],
    )
    def test_what_would_hurt_the_decoder_is_refused(
        self, tmp_path: Path, form: Callable[[FstArrays], bytes], fst: FstArrays, message: str
    ) -> None:
        (tmp_path / "G.fst").write_bytes(form(fst))
        with pytest.raises(DataError, match=rf"G\.fst: not an FST file, or a damaged one: .*{message}"):
            read_fst_arrays(tmp_path / "G.fst")

    def test_arcs_without_input_that_branch_and_meet_are_no_cycle(self, tmp_path: Path) -> None:
        fst = fst_of((0, 0, 1, 1.0, 1), (0, 0, 2, 1.0, 2), (1, 0, 0, 0.0, 3), (2, 0, 0, -1.0, 3), (3, 4, 0, 0.0, 0))
        (tmp_path / "x").write_bytes(vector_bytes(fst))
        assert len(read_fst_arrays(tmp_path / "x").arcs) == 5

    @pytest.mark.parametrize(
        "wrong, message",
        [
            ({"ieps": np.array([0, 0, 0, 0])}, "without ilabel than it says"),
            ({"oeps": np.array([0, 1, 0, 0])}, "without olabel than it says"),
            ({"count": np.array([1, 1, 2, 1])}, "do not fit each other"),
            ({"first": np.array([0, 1, 1, 3])}, "do not fit each other"),
        ],
    )
    def test_tables_of_a_const_file_must_fit_its_arcs(
        self, tmp_path: Path, wrong: dict[str, np.ndarray], message: str
    ) -> None:
        (tmp_path / "x").write_bytes(const_bytes(fst_of(*self.GOOD), **wrong))
        with pytest.raises(DataError, match=message):
            read_fst_arrays(tmp_path / "x")

    @pytest.mark.parametrize("form", [vector_bytes, const_bytes])
    def test_sizes_are_held_against_the_length_of_the_file(
        self, tmp_path: Path, form: Callable[[FstArrays], bytes]
    ) -> None:
        whole = form(fst_of(*self.GOOD))
        at = whole.index(b"standard") + 8
        header = {"version": (0, 4), "flags": (4, 4), "states": (24, 8)}
        wrong = [("version", 9), ("flags", 1), ("flags", 2), ("flags", 64), ("states", 2**62), ("states", 3)]
        for name, value in wrong:
            place, size = header[name]
            changed = value.to_bytes(size, "little")
            (tmp_path / "x").write_bytes(whole[: at + place] + changed + whole[at + place + size :])
            with pytest.raises(DataError, match="x: not an FST file"):
                read_fst_arrays(tmp_path / "x")
        (tmp_path / "x").write_bytes(whole + b"\0" * 16)
        with pytest.raises(DataError, match="16 bytes behind its end"):
            read_fst_arrays(tmp_path / "x")

    def test_symbol_table_of_any_stated_size_takes_no_memory(self, tmp_path: Path) -> None:
        whole = vector_bytes(fst_of(*self.GOOD))
        at = whole.index(b"standard") + 8
        for size, message in ((2**62, "a name of|unexpected end"), (-1, "a symbol table of -1")):
            table = struct.pack("<ii1sqq", 2125658996, 1, b"t", 2, size)
            (tmp_path / "x").write_bytes(
                whole[: at + 4] + struct.pack("<i", 1) + whole[at + 8 : at + 40] + table + b"\0" * 64
            )
            with pytest.raises(DataError, match=message):
                read_fst_arrays(tmp_path / "x")

    def test_properties_that_the_file_claims_are_not_handed_on(self, tmp_path: Path) -> None:
        whole = vector_bytes(fst_of((0, 2, 1, 0.0, 1), (0, 1, 1, 0.0, 3), (1, 1, 1, 0.0, 3)))
        at = whole.index(b"standard") + 16
        claims = (1 | 2 | 1 << 28).to_bytes(8, "little")  # sorted by input labels, which is not so
        (tmp_path / "x").write_bytes(whole[:at] + claims + whole[at + 8 :])
        assert not wheels.read_fst(tmp_path / "x").is_ilabel_sorted

    def test_a_million_arcs_take_a_second(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        size, count = 300_000, 1_000_000
        counts = np.bincount(rng.integers(0, size - 1, count), minlength=size)
        arcs = np.zeros(count, ARC)
        arcs["ilabel"] = rng.integers(0, 2, count)
        arcs["nextstate"] = np.minimum(np.repeat(np.arange(size), counts) + rng.integers(1, 9, count), size - 1)
        fst = FstArrays(0, np.full(size, 1, np.float32), np.concatenate([[0], np.cumsum(counts)]), arcs)
        (tmp_path / "x").write_bytes(vector_bytes(fst))
        start = time.process_time()
        found = read_fst_arrays(tmp_path / "x", inputs=Labels(1, "t"), outputs=Labels({0: 0}.values(), "w"))
        assert time.process_time() - start < 3  # 0.4 s; a loop over arcs would take longer
        assert np.array_equal(found.arcs, arcs) and np.array_equal(found.offsets, fst.offsets)


class TestLabels:
    @pytest.mark.parametrize(
        "labels, message",
        [
            ({"inputs": Labels(2, "model")}, "input label 3 is none of the 2 model"),
            ({"inputs": Labels([1, 7], "phones.txt")}, "input label 3 is none of the 2 phones.txt"),
            ({"outputs": Labels([7], "words.txt")}, "output label 1 and 1 more is none of the 1 words.txt"),
        ],
    )
    def test_a_label_that_nothing_is_known_of_is_refused(
        self, tmp_path: Path, labels: dict[str, Labels], message: str
    ) -> None:
        (tmp_path / "x").write_bytes(vector_bytes(fst_of(*TestTransducers.GOOD)))
        with pytest.raises(DataError, match=message):
            read_fst_arrays(tmp_path / "x", **labels)
        read_fst_arrays(tmp_path / "x", inputs=Labels([1, 3], "t"), outputs=Labels(2, "t"))

    @pytest.mark.parametrize("label", ["ilabel", "olabel"])
    def test_graph_of_a_larger_model_or_lexicon_is_refused(self, copied: TinySystem, label: str) -> None:
        path = copied.graph / "HCLG.fst"
        fst = read_fst_arrays(path)
        arcs = fst.arcs.copy()
        arcs[label][-1] = 10_000
        path.write_bytes(vector_bytes(FstArrays(fst.start, fst.finals, fst.offsets, arcs)))
        (copied.graph / DIGESTS_FILE).unlink()
        with pytest.raises(EngineError, match=r"HCLG\.fst: .* label 10000 is none of the \d+ (trans|words)"):
            copied.engine.decoder(copied.mono, copied.graph, DecodeConfig())

    @pytest.mark.parametrize(
        "name, message", [("L.fst", "phones of"), ("L_disambig.fst", "phones of"), ("G.fst", "words")]
    )
    def test_lexicon_and_grammar_too(self, copied: TinySystem, name: str, message: str) -> None:
        def use(system: TinySystem) -> None:
            system.engine.aligner(system.mono, system.lang, DecodeConfig())
            system.engine.make_graph(system.lang, system.mono, system.graph, **tiny.GRAPH_SCALES)

        path = copied.lang.path / name
        fst = read_fst_arrays(path)
        arcs = fst.arcs.copy()
        arcs["ilabel"][0] = 500
        path.write_bytes(vector_bytes(FstArrays(fst.start, fst.finals, fst.offsets, arcs)))
        with pytest.raises(EngineError, match=rf"{name}: .*input label 500 is none of the \d+ {message}"):
            use(copied)

    @pytest.mark.parametrize("line", ["one -1", "one 2147483648", "one 9" + "9" * 5000, "one 1.5", "one ²", "three 0"])
    def test_integers_of_symbols(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "words.txt").write_text(f"<eps> 0\n{line}\n", encoding="utf-8")
        message = r"words\.txt: (expected '<symbol> <integer>'|.* have the same integer 0)"
        with pytest.raises(DataError, match=message) as raised:
            read_symbols(tmp_path / "words.txt")
        assert len(str(raised.value)) < 300 + len(str(tmp_path))

    def test_disambiguation_symbols_are_phones(self, copied: TinySystem) -> None:
        (copied.lang.path / "phones/disambig.int").write_text("99999999999\n")
        with pytest.raises(DataError, match=r"disambig\.int: 99999999999 is not in phones\.txt"):
            Lang.read(copied.lang.path)


def test_homophones_without_disambiguation_end_with_a_message(copied: TinySystem) -> None:
    """The words of the two loops differ the longer, the longer the sound goes on that they share."""
    (one, two), (a, b, c) = copied.word_ids("one", "two"), (copied.lang.phones[p] for p in ("one", "two", "three"))
    text = f"0 1 {a} {one}\n0 2 {a} {two}\n0\n1 1 {a} {one}\n1 0 {b} 0\n2 2 {a} {two}\n2 0 {c} 0\n"
    copied.engine.compile_fst(text, copied.lang.path / "L_disambig.fst", sort="olabel")
    with pytest.raises(EngineError, match=r"L_disambig\.fst: no deterministic graph .*passed \d+ states"):
        copied.engine.make_graph(copied.lang, copied.mono, copied.graph, **tiny.GRAPH_SCALES)


class TestTrees:
    GOOD = Table(1, (None, Split(-1, frozenset({0, 2}), Leaf(0), Leaf(1))))

    def write(self, path: Path, tree: EventMap = GOOD, width: int = 3, central: int = 1) -> bytes:
        write_tree(path, tree, context_width=width, central_position=central)
        (path.parent / DIGESTS_FILE).unlink()
        return path.read_bytes()

    def test_a_good_one_is_read(self, tmp_path: Path) -> None:
        whole = self.write(tmp_path / "tree")
        assert b"\0B" + read_tree_bytes(tmp_path / "tree") == whole

    @pytest.mark.parametrize("values", [(2, 0), (1, 1), (), (0, 2, 1), (-1, -2)])
    def test_values_of_a_question_are_in_order(self, tmp_path: Path, values: tuple[int, ...]) -> None:
        whole = self.write(tmp_path / "tree")
        (tmp_path / "tree").write_bytes(whole.replace(int_vector((0, 2)), int_vector(values)))
        with pytest.raises(ModelFileError, match="tree: not a tree, or damaged: a question's values"):
            read_tree_bytes(tmp_path / "tree")

    @pytest.mark.parametrize("key", [-2, 3, 2**31 - 1])
    def test_questions_are_about_the_context(self, tmp_path: Path, key: int) -> None:
        for tree in (Table(key, (Leaf(0),)), Split(key, frozenset({1}), Leaf(0), Leaf(1))):
            self.write(tmp_path / "tree", tree)
            with pytest.raises(ModelFileError, match=f"a question about position {key} of a context of 3 phones"):
                read_tree_bytes(tmp_path / "tree")

    def test_depth_and_width_have_bounds(self, tmp_path: Path) -> None:
        tree: EventMap = Leaf(0)
        for _ in range(MAX_DEPTH):
            tree = Split(0, frozenset({1}), Leaf(0), tree)
        self.write(tmp_path / "tree", tree)
        wheels.read_tree(tmp_path / "tree")  # the C++ has no trouble with the deepest that is allowed
        self.write(tmp_path / "tree", Split(0, frozenset({1}), tree, Leaf(0)))
        with pytest.raises(ModelFileError, match=f"more than {MAX_DEPTH} questions"):
            read_tree_bytes(tmp_path / "tree")
        self.write(tmp_path / "tree", width=MAX_WIDTH + 1)
        with pytest.raises(ModelFileError, match=f"context width {MAX_WIDTH + 1}"):
            read_tree_bytes(tmp_path / "tree")

    @pytest.mark.parametrize(
        "tree, message",
        [
            (Table(1, (Leaf(0), Leaf(2))), "not numbered from 0"),
            (Table(1, (Leaf(0), Leaf(-1))), "not numbered from 0"),
            (Table(1, (None,)), "not numbered from 0"),
        ],
    )
    def test_pdfs_are_numbered(self, tmp_path: Path, tree: EventMap, message: str) -> None:
        self.write(tmp_path / "tree", tree)
        with pytest.raises(ModelFileError, match=message):
            read_tree_bytes(tmp_path / "tree")

    def test_size_of_a_table_and_the_end(self, tmp_path: Path) -> None:
        whole = self.write(tmp_path / "tree")
        for size in (3, 2**32 - 1, 2**31):
            (tmp_path / "tree").write_bytes(whole.replace(unsigned_bytes(2), unsigned_bytes(size)))
            with pytest.raises(ModelFileError, match=r"tree: not a tree, or damaged: (a table of|expected)"):
                read_tree_bytes(tmp_path / "tree")
        (tmp_path / "tree").write_bytes(whole + b"more")
        with pytest.raises(ModelFileError, match="more behind the end"):
            read_tree_bytes(tmp_path / "tree")


STATES = (HmmState(0, 0, ((0, 0.5), (1, 0.5))), HmmState(1, 1, ((1, 0.5), (2, 0.5))), HmmState(-1, -1, ()))


class TestTransitionModels:
    @pytest.mark.parametrize(
        "place, state, message",
        [
            (0, HmmState(0, 0, ((0, NAN),)), "probability is not between 0 and 1"),
            (0, HmmState(0, 0, ((0, -0.5),)), "probability is not between 0 and 1"),
            (1, HmmState(1, 1, ((2, INF),)), "probability is not between 0 and 1"),
            (1, HmmState(1, 1, ((3, 1.0),)), "a state that it does not have"),
            (0, HmmState(0, 0, ((1, 0.5), (1, 0.5))), "two transitions between the same states"),
            (1, HmmState(7, 7, ((2, 1.0),)), "not numbered from 0"),
            (1, HmmState(2**31 - 1, 2**31 - 1, ((2, 1.0),)), "not numbered from 0"),
            (2, HmmState(-1, -1, ((0, 1.0),)), "a final state with transitions"),
            (2, HmmState(2, 2, ()), "a final state with transitions or with a pdf class"),
            (0, HmmState(-1, -1, ((1, 1.0),)), "not numbered from 0|without a pdf class that begins"),
        ],
    )
    def test_topologies_that_kaldi_refuses(self, tmp_path: Path, place: int, state: HmmState, message: str) -> None:
        states = (*STATES[:place], state, *STATES[place + 1 :])
        topology = Topology((1,), (-1, 0), (states,))
        write_model(tmp_path / "final.mdl", TransitionTable(topology, (), np.zeros(1, np.float32)))
        with pytest.raises(ModelFileError, match=f"a topology has .*({message})"):
            read_transitions(tmp_path / "final.mdl")
        (tmp_path / "topo").write_text(topology.to_text())
        with pytest.raises(ModelFileError, match=r"topo: "):
            read_topology(tmp_path / "topo")

    @pytest.mark.parametrize("value", [NAN, INF, -INF, 0.5])
    def test_log_probabilities(self, tmp_path: Path, value: float) -> None:
        log_probs = np.array([0, -0.7, value, -0.7, -0.7], np.float32)
        table = TransitionTable(Topology((1,), (-1, 0), (STATES,)), ((1, 0, 0, 0), (1, 1, 1, 1)), log_probs)
        write_model(tmp_path / "final.mdl", table)
        with pytest.raises(ModelFileError, match="the log-probability of transition-id 2 is"):
            read_transitions(tmp_path / "final.mdl")

    @pytest.mark.parametrize(
        "which, value", [("weights", NAN), ("weights", 0), ("weights", 9), ("means", INF), ("inv", 0), ("inv", INF)]
    )
    def test_gaussians(self, tmp_path: Path, which: str, value: float) -> None:
        arrays = {
            "weights": np.ones(1, np.float32),
            "means": np.ones((1, 2), np.float32),
            "inv": np.ones((1, 2), np.float32),
        }
        arrays[which] = np.full_like(arrays[which], value)
        gmms = DiagGmmSet(*((np.ones_like(a), a) for a in arrays.values()))
        table = TransitionTable(
            Topology((1,), (-1, 0), (STATES,)), ((1, 0, 0, 0), (1, 1, 1, 1)), np.full(5, -0.7, np.float32)
        )
        with np.errstate(all="ignore"):
            write_model(tmp_path / "final.mdl", table, gmms)
        with pytest.raises(ModelFileError, match="weights or variances of pdf 1 that are not positive numbers"):
            read_gmm_model(tmp_path / "final.mdl")


@pytest.mark.parametrize("name", ["graph/HCLG.fst", "graph/words.txt", "final.mdl", "tree"])
def test_no_one_bit_damage_goes_unnoticed(copied: TinySystem, name: str) -> None:
    path = copied.mono / name
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 30).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(KaldiUqError, match=rf"{path.name}: damaged or replaced: its SHA-256 is not that in "):
            copied.engine.decoder(copied.mono, copied.graph, DecodeConfig())
    path.write_bytes(whole)
    copied.engine.decoder(copied.mono, copied.graph, DecodeConfig())


@pytest.mark.parametrize("name", ["mono/graph/HCLG.fst", "lang/L.fst", "lang/G.fst", "mono/tree", "mono/final.mdl"])
def test_damage_without_digests_ends_with_a_message_or_an_answer(copied: TinySystem, name: str) -> None:
    for folder in (copied.mono, copied.graph):
        (folder / DIGESTS_FILE).unlink()
    path = copied.mono.parent / name
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    size = min(len(whole), 900)  # of the model: what comes before the Gaussians
    scores = np.zeros((40, copied.table.num_pdfs), np.float32)
    for number in range(60):
        place = int(rng.integers(0, size - 4))
        odd = (b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f", b"\0\0\x80\xff", b"\xff\xff\xff\xff", b"")[number % 5]
        odd = odd or bytes([whole[place] ^ 1 << number % 8])
        path.write_bytes(whole[:place] + odd + whole[place + len(odd) :])
        with contextlib.suppress(KaldiUqError):
            copied.engine.decoder(copied.mono, copied.graph, DecodeConfig()).decode([("utt", scores)])
        with contextlib.suppress(KaldiUqError):
            ids = {"utt": copied.word_ids("one")}
            copied.engine.aligner(copied.mono, copied.lang, DecodeConfig()).align([("utt", scores)], ids)
        with contextlib.suppress(KaldiUqError):
            copied.engine.make_graph(copied.lang, copied.mono, copied.mono.parent / "other", **tiny.GRAPH_SCALES)


class TestDigests:
    def test_what_is_recorded_is_checked(self, tmp_path: Path) -> None:
        with recorded(tmp_path, "a", "b"):
            for name in "ab":
                (tmp_path / name).write_text(name)
        check_digest(tmp_path / "a")
        (tmp_path / "a").write_text("c")
        with pytest.raises(EngineError, match=r"a: damaged or replaced"):
            check_digest(tmp_path / "a", EngineError)
        check_digest(tmp_path / "b")
        (tmp_path / "other").write_text("x")
        check_digest(tmp_path / "other")  # nothing is known of it

    def test_files_of_a_writer_that_failed_have_none(self, tmp_path: Path) -> None:
        with recorded(tmp_path, "a"):
            (tmp_path / "a").write_text("old")

        @recorded(tmp_path, "a")
        def fail() -> None:
            (tmp_path / "a").write_text("ne")
            (tmp_path / "missing").read_text()

        with pytest.raises(FileNotFoundError):
            fail()
        check_digest(tmp_path / "a")

    @pytest.mark.parametrize("content", [b"xyz\n", b"\xff\xfe", b"0" * 64 + b" a\n", b"A" * 64 + b"  a\n"])
    def test_damaged_digests_are_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / DIGESTS_FILE).write_bytes(content)
        (tmp_path / "a").write_text("a")
        with pytest.raises(ModelFileError, match=r"\.sha256:1: expected '<SHA-256>  <file>'"):
            check_digest(tmp_path / "a")
        with recorded(tmp_path, "a"):
            (tmp_path / "a").write_text("b")
        check_digest(tmp_path / "a")

    def test_copies_are_of_what_was_written(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        with recorded(tmp_path / "x", "a"):
            (tmp_path / "x/a").write_text("a")
        copy_recorded(tmp_path / "x", tmp_path / "y", "a")
        (tmp_path / "x/a").write_text("b")
        with pytest.raises(ModelFileError, match="x/a: damaged or replaced"):
            copy_recorded(tmp_path / "x", tmp_path / "y", "a")
        assert (tmp_path / "y/a").read_text() == "a"

    def test_directories_of_kaldi_itself_have_none(self, copied: TinySystem) -> None:
        for folder in (copied.mono, copied.graph):
            (folder / DIGESTS_FILE).unlink()
        assert len(model_files(copied.mono)) == len(graph_files(copied.graph)) == 2

    def test_a_step_that_is_repeated_records_anew(self, copied: TinySystem) -> None:
        (copied.graph / "HCLG.fst").write_bytes(b"damaged")
        copied.engine.make_graph(copied.lang, copied.mono, copied.graph, **tiny.GRAPH_SCALES)
        assert (copied.graph / DIGESTS_FILE).read_text().count("\n") == 2
        copied.engine.decoder(copied.mono, copied.graph, DecodeConfig())
