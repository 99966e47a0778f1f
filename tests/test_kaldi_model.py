"""Kaldi's model files: what is written is read, Kaldi's own code says the same of a model, damage is named."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import kaldi_hmm_gmm as khg
import numpy as np
import pytest

from kaldi_uq.engine.embedded import wheels
from kaldi_uq.errors import ModelFileError
from kaldi_uq.io.kaldi_model import (
    NO_PDF,
    DiagGmmSet,
    HmmState,
    Topology,
    TransitionTable,
    read_gmm_model,
    read_topology,
    read_transitions,
    write_model,
)
from kaldi_uq.io.tree import read_tree_bytes
from kaldi_uq.language.prepare import silence_states, state_chain
from tests.kaldi import tid_to_phone

TOPOLOGY = Topology((1, 2, 3, 4), (-1, 0, 1, 2, 1), (silence_states(5), state_chain(3), state_chain(2)))


def wheel_model(topology: Topology, sets: list[list[int]]) -> tuple[khg.TransitionModel, khg.ContextDependency]:
    """Transition model and tree of Kaldi's own code."""
    topo = khg.HmmTopology()
    topo.read(topology.to_text())
    tree = khg.monophone_context_dependency_shared(sets, topo.get_phone_to_num_pdf_classes())
    return khg.TransitionModel(tree, topo), tree


def table_of(model: khg.TransitionModel, topology: Topology) -> TransitionTable:
    tuples = tuple((*t.__getstate__(),) for t in model.tuples)
    return TransitionTable(topology, tuples, np.asarray(model.log_probs, dtype=np.float32))


@pytest.fixture(scope="module")
def model() -> khg.TransitionModel:
    return wheel_model(TOPOLOGY, [[1], [2, 4], [3]])[0]


def make_gmms(num_pdfs: int, dim: int = 3, *, sizes: tuple[int, ...] = (1, 2, 5)) -> DiagGmmSet:
    rng = np.random.default_rng(0)
    counts = [sizes[pdf % len(sizes)] for pdf in range(num_pdfs)]
    return DiagGmmSet(
        tuple(rng.dirichlet(np.ones(n)).astype(np.float32) for n in counts),
        tuple(rng.standard_normal((n, dim)).astype(np.float32) for n in counts),
        tuple(rng.uniform(0.2, 3, (n, dim)).astype(np.float32) for n in counts),
    )


class TestTopology:
    @pytest.mark.parametrize("num_states", [1, 2, 3, 4, 5, 7])
    def test_text_is_read_equal(self, tmp_path: Path, num_states: int) -> None:
        topology = Topology((2, 3), (-1, -1, 0, 1), (silence_states(num_states), state_chain(num_states)))
        (tmp_path / "topo").write_text(topology.to_text())
        once = read_topology(tmp_path / "topo")
        (tmp_path / "topo").write_text(once.to_text())
        assert read_topology(tmp_path / "topo") == once
        for entry, expected in zip(once.entries, topology.entries, strict=True):
            for state, wanted in zip(entry, expected, strict=True):
                assert state.forward_pdf_class == wanted.forward_pdf_class
                # probabilities are single precision, as in Kaldi
                assert state.transitions == tuple((to, float(np.float32(p))) for to, p in wanted.transitions)

    def test_kaldi_reads_the_text_and_finds_the_same_phones(self, model: khg.TransitionModel) -> None:
        assert list(model.topo.phones) == [1, 2, 3, 4]
        assert model.topo.get_phone_to_num_pdf_classes()[1:] == [5, 3, 2, 3]

    def test_kaldis_own_spacing_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "topo").write_text(
            "<Topology> \n<TopologyEntry> \n<ForPhones> \n1 2 \n</ForPhones> \n"
            "<State> 0 <PdfClass> 0 \n<Transition> 0 0.75 \n<Transition> 1 0.25 \n</State> \n"
            "<State> 1 \n</State> \n</TopologyEntry> \n</Topology> \n"
        )
        assert read_topology(tmp_path / "topo") == Topology((1, 2), (-1, 0, 0), (state_chain(1),))

    def test_topology_of_a_chain_model_round_trips(self, tmp_path: Path) -> None:
        entry = (HmmState(0, 1, ((0, 0.5), (1, 0.5))), HmmState(NO_PDF, NO_PDF, ()))
        topology = Topology((1,), (-1, 0), (entry,))
        assert not topology.is_hmm
        (tmp_path / "topo").write_text(topology.to_text())
        assert read_topology(tmp_path / "topo") == topology
        table = TransitionTable(topology, ((1, 0, 0, 1),), np.log(np.array([1, 0.5, 0.5], np.float32)))
        write_model(tmp_path / "final.mdl", table)
        assert read_transitions(tmp_path / "final.mdl").topology == topology
        assert read_transitions(tmp_path / "final.mdl").tid_to_pdf.tolist() == [0, 1, 0]

    @pytest.mark.parametrize(
        "states, frames",
        [(state_chain(1), 1), (state_chain(10), 10), (silence_states(1), 1), (silence_states(3), 3)]
        + [(silence_states(5), 3), (silence_states(9), 3)],
    )
    def test_shortest_stay_in_a_phone(self, states: tuple[HmmState, ...], frames: int) -> None:
        # Kaldi's silence of five states: the first, one of the middle ones, the last
        assert Topology((1,), (-1, 0), (states,)).min_frames(1) == frames

    def test_shortest_stay_is_found_through_any_graph(self) -> None:
        entry = (
            HmmState(0, 0, ((2, 1.0),)),
            HmmState(1, 1, ((3, 1.0),)),
            HmmState(2, 2, ((1, 1.0),)),  # back to a state before it
            HmmState(NO_PDF, NO_PDF, ()),
        )
        assert Topology((1,), (-1, 0), (entry,)).min_frames(1) == 3
        dead_end = (HmmState(0, 0, ((0, 1.0),)), HmmState(NO_PDF, NO_PDF, ()))
        with pytest.raises(ModelFileError, match="phone 1: its final state cannot be reached"):
            Topology((1,), (-1, 0), (dead_end,)).min_frames(1)


class TestTransitions:
    def test_binary_round_trip_is_exact(self, tmp_path: Path, model: khg.TransitionModel) -> None:
        table = table_of(model, TOPOLOGY)
        write_model(tmp_path / "final.mdl", table)
        found = read_transitions(tmp_path / "final.mdl")
        assert (found.topology, found.tuples) == (table.topology, table.tuples)
        assert np.array_equal(found.log_probs, table.log_probs)
        first = (tmp_path / "final.mdl").read_bytes()
        write_model(tmp_path / "final.mdl", found)
        assert (tmp_path / "final.mdl").read_bytes() == first

    def test_text_that_kaldi_writes_is_read(self, tmp_path: Path, model: khg.TransitionModel) -> None:
        (tmp_path / "text.mdl").write_text(str(model))
        found = read_transitions(tmp_path / "text.mdl")
        assert found.tuples == table_of(model, TOPOLOGY).tuples
        assert found.topology == TOPOLOGY
        np.testing.assert_allclose(found.log_probs, model.log_probs, rtol=1e-5)  # text has six digits

    def test_pdfs_and_phones_of_transition_ids_are_kaldis(self, model: khg.TransitionModel) -> None:
        table = table_of(model, TOPOLOGY)
        ids = range(1, model.num_transition_ids + 1)
        assert table.tid_to_pdf[1:].tolist() == [model.transition_id_to_pdf(t) for t in ids]
        assert tid_to_phone(table)[1:].tolist() == [model.transition_id_to_phone(t) for t in ids]
        assert table.num_pdfs == model.num_pdfs

    @pytest.mark.parametrize(
        "tuples, message",
        [
            (((9, 0, 0, 0),), "state 0 of phone 9 is not in the topology"),
            (((1, 7, 0, 0),), "state 7 of phone 1 is not in the topology"),
            (((1, 0, -1, -1),), "state 0 of phone 1 has pdf -1"),
            (((1, 0, 2**31 - 1, 0),), "state 0 of phone 1 has pdf 2147483647"),
            (((1, 0, 0, 0),), "log-probabilities do not fit 1 states"),
            ((), "log-probabilities do not fit 0 states"),
        ],
    )
    def test_tuples_that_point_nowhere_are_refused(
        self, tmp_path: Path, model: khg.TransitionModel, tuples: tuple[tuple[int, int, int, int], ...], message: str
    ) -> None:
        log_probs = np.asarray(model.log_probs, dtype=np.float32)
        write_model(tmp_path / "final.mdl", TransitionTable(TOPOLOGY, tuples, log_probs))
        with pytest.raises(ModelFileError, match=message):
            read_transitions(tmp_path / "final.mdl")


class TestGmms:
    def test_round_trip_is_exact(self, tmp_path: Path, model: khg.TransitionModel) -> None:
        gmms = make_gmms(model.num_pdfs)
        write_model(tmp_path / "final.mdl", table_of(model, TOPOLOGY), gmms)
        _, found = read_gmm_model(tmp_path / "final.mdl")
        for name in ("weights", "means_invvars", "inv_vars"):
            assert all(map(np.array_equal, getattr(found, name), getattr(gmms, name)))
        assert (found.dim, found.num_gauss) == (3, gmms.num_gauss)

    def test_text_form_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "final.mdl").write_text(
            "<TransitionModel> \n" + Topology((1,), (-1, 0), (state_chain(1),)).to_text() + "<Triples> 1 \n1 0 0 \n"
            "</Triples> \n<LogProbs> \n [ 0 -0.2876821 -1.386294 ]\n</LogProbs> \n</TransitionModel> \n"
            "<DIMENSION> 2 <NUMPDFS> 1 <DiagGMM> \n<GCONSTS>  [ -2.5 -3 ]\n<WEIGHTS>  [ 0.75 0.25 ]\n"
            "<MEANS_INVVARS>  [\n  1 2 \n  3 4 ]\n<INV_VARS>  [\n  0.5 1 \n  2 4 ]\n</DiagGMM> \n"
        )
        table, gmms = read_gmm_model(tmp_path / "final.mdl")
        assert table.tid_to_pdf.tolist() == [0, 0, 0]
        assert gmms.weights[0].tolist() == [0.75, 0.25]
        assert gmms.means_invvars[0].tolist() == [[1, 2], [3, 4]]
        assert gmms.inv_vars[0].tolist() == [[0.5, 1], [2, 4]]

    @pytest.mark.parametrize("sizes", [(1,), (1, 2, 5), (3,)])
    def test_log_likelihoods_are_those_of_the_definition(self, sizes: tuple[int, ...]) -> None:
        gmms = make_gmms(4, sizes=sizes)
        feats = 2 * np.random.default_rng(1).standard_normal((11, 3)).astype(np.float32)
        expected = np.zeros((11, 4))
        for t, pdf in itertools.product(range(11), range(4)):
            variances = 1 / gmms.inv_vars[pdf].astype(np.float64)
            means = gmms.means_invvars[pdf] * variances
            density = np.exp(-0.5 * (feats[t] - means) ** 2 / variances) / np.sqrt(2 * np.pi * variances)
            expected[t, pdf] = np.log(np.sum(gmms.weights[pdf] * density.prod(1)))
        found = gmms.loglikes(feats)
        assert (found.dtype, found.shape) == (np.float32, (11, 4))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)  # sums of float32 terms up to about 100

    def test_frame_far_from_every_gaussian_has_a_finite_log_likelihood(self) -> None:
        assert np.isfinite(make_gmms(4).loglikes(np.full((1, 3), 1e3, np.float32))).all()

    def test_another_number_of_gmms_than_pdfs_is_refused(self, tmp_path: Path, model: khg.TransitionModel) -> None:
        write_model(tmp_path / "final.mdl", table_of(model, TOPOLOGY), make_gmms(model.num_pdfs - 1))
        with pytest.raises(ModelFileError, match=rf"{model.num_pdfs - 1} GMMs for {model.num_pdfs} pdfs"):
            read_gmm_model(tmp_path / "final.mdl")

    def test_transition_model_alone_is_no_gmm_model(self, tmp_path: Path, model: khg.TransitionModel) -> None:
        write_model(tmp_path / "final.mdl", table_of(model, TOPOLOGY))
        with pytest.raises(ModelFileError, match=r"final\.mdl: not a model of Kaldi's GMM format, or damaged"):
            read_gmm_model(tmp_path / "final.mdl")


def damaged(whole: bytes, places: range) -> Iterator[bytes]:
    """The file cut off at each of these places, and with a byte changed there."""
    for place in places:
        yield whole[:place]
        for bits in (0x01, 0x10, 0x80, 0xFF):
            yield whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :]


class TestDamage:
    @pytest.mark.long
    def test_damaged_gmm_model_is_refused_or_usable(self, tmp_path: Path, model: khg.TransitionModel) -> None:
        path = tmp_path / "final.mdl"
        write_model(path, table_of(model, TOPOLOGY), make_gmms(model.num_pdfs, dim=2, sizes=(1, 2)))
        whole = path.read_bytes()
        for content in itertools.chain(damaged(whole, range(0, 700, 2)), damaged(whole, range(700, len(whole), 41))):
            path.write_bytes(content)
            with contextlib.suppress(ModelFileError):
                table, gmms = read_gmm_model(path)
                assert table.tid_to_pdf.max() < table.num_pdfs == len(gmms.weights)
                assert len(tid_to_phone(table)) == len(table.log_probs)
                assert gmms.dim == 2

    @pytest.mark.long
    @pytest.mark.parametrize("kind", ["topology", "model"])
    def test_damaged_text_is_refused_or_usable(self, tmp_path: Path, model: khg.TransitionModel, kind: str) -> None:
        whole = (TOPOLOGY.to_text() if kind == "topology" else str(model)).encode()
        read = read_topology if kind == "topology" else read_transitions
        for content in damaged(whole, range(0, len(whole), 7)):
            (tmp_path / "x").write_bytes(content)
            with contextlib.suppress(ModelFileError):
                read(tmp_path / "x")

    @pytest.mark.parametrize(
        "content", [b"", b"\0B", b"\0B<TransitionModel> ", b"garbage" * 100, bytes(1000), b"\0B" * 99]
    )
    def test_what_is_no_model_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "final.mdl").write_bytes(content)
        with pytest.raises(ModelFileError, match=r"final\.mdl: not a model of Kaldi's GMM format") as error:
            read_transitions(tmp_path / "final.mdl")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("number", ["inf", "nan", "1.5", "1e30", "-1e9", "x"])
    def test_number_that_is_no_index_is_refused(self, tmp_path: Path, number: str) -> None:
        (tmp_path / "topo").write_text(TOPOLOGY.to_text().replace("<Transition> 1", f"<Transition> {number}", 1))
        with pytest.raises(ModelFileError):
            read_topology(tmp_path / "topo")

    def test_phone_id_that_would_fill_the_memory_is_refused(self, tmp_path: Path) -> None:
        text = re.sub(r"(?<=<ForPhones>\n)1\n", "99999999999\n", TOPOLOGY.to_text())
        (tmp_path / "topo").write_text(text)
        with pytest.raises(ModelFileError, match="expected a phone-id of one entry, found '99999999999'"):
            read_topology(tmp_path / "topo")

    def test_missing_model_comes_with_its_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError, match=r"final\.mdl: no such file; steps/train_mono\.sh"):
            read_transitions(tmp_path / "final.mdl")


class TestTree:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        wheel_model(TOPOLOGY, [[1], [2, 4], [3]])[1].write(True, str(tmp_path / "tree"))
        return tmp_path / "tree"

    def test_tree_of_the_wheel_gives_the_same_pdfs(self, path: Path, model: khg.TransitionModel) -> None:
        topo = khg.HmmTopology()
        topo.read(TOPOLOGY.to_text())
        again = khg.TransitionModel(wheels.read_tree(path), topo)
        assert table_of(again, TOPOLOGY).tuples == table_of(model, TOPOLOGY).tuples

    def test_damage_is_refused_before_kaldis_code_sees_it(self, path: Path) -> None:
        # Without a check of our own a changed size makes that code reserve gigabytes.
        whole = path.read_bytes()
        usable = 0
        for content in damaged(whole, range(len(whole))):
            path.write_bytes(content)
            with contextlib.suppress(ModelFileError):
                wheels.read_tree(path)
                usable += 1
        assert 0 < usable < len(whole)  # a position or an answer that could have been meant

    def test_tree_with_questions_is_read(self, path: Path) -> None:
        # as a triphone tree has them: phone 1 in the middle? then the left context decides, else pdf 2
        def number(value: int) -> bytes:
            return b"\4" + value.to_bytes(4, "little", signed=True)

        def leaf(pdf: int) -> bytes:
            return b"CE " + number(pdf)

        def split(position: int, phones: list[int], yes: bytes, no: bytes) -> bytes:
            wanted = b"\4" + len(phones).to_bytes(4, "little") + b"".join(p.to_bytes(4, "little") for p in phones)
            return b"SE " + number(position) + wanted + b"{ " + yes + no + b"} "

        content = split(1, [1], split(0, [2, 3], leaf(0), leaf(1)), leaf(2))
        path.write_bytes(
            b"\0BContextDependency " + number(3) + number(1) + b"ToPdf " + content + b"EndContextDependency "
        )
        tree = wheels.read_tree(path)
        assert (tree.context_width, tree.central_position) == (3, 1)
        answers = [tree.compute([left, phone, 1], 0) for left, phone in ((2, 1), (1, 1), (2, 4))]
        assert [pdf for _, pdf in answers] == [0, 1, 2]

    @pytest.mark.parametrize(
        "content, message",
        [
            (b"ContextDependency 1 0 ToPdf SE 0 [ 1 x ]\n{ CE 0 CE 1 }\nEndContextDependency ", "malformed integers"),
            (
                b"ContextDependency 1 0 ToPdf SE 0 [ 1 4294967296 ]\n{ CE 0 CE 1 }\nEndContextDependency ",
                "malformed integers",
            ),
            (b"ContextDependency 4294967296 0 ToPdf", "expected an integer from -2147483648 to 2147483647"),
            (b"ContextDependency 1 0 ToPdf TE 0 -1 ( CE 0 )", "expected an integer from 0 to 4294967295"),
            (b"", "no binary header"),
            (b"\0B", "unexpected end"),
            (b"\0BContextDependency \4\1\0\0\0\4\1\0\0\0", "context width 1, central position 1"),
            (
                b"\0BContextDependency \4\1\0\0\0\4\0\0\0\0ToPdf CE \4\7\0\0\0EndContextDependency ",
                "pdf-ids are not numbered from 0",
            ),
            (
                b"\0BContextDependency \4\1\0\0\0\4\0\0\0\0ToPdf TE \4\0\0\0\0\xfc\xff\xff\xff\xff( ",
                "a table of 4294967295",
            ),
        ],
        ids=["text", "long", "large", "negative", "empty", "short", "position", "pdf", "size"],
    )  # fmt: skip
    def test_says_what_is_wrong(self, path: Path, content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=message) as error:
            read_tree_bytes(path)
        assert str(error.value).startswith(str(path))
