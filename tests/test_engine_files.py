"""What engines open is checked before Kaldi's code gets it, whichever engine it is."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig, Engine, builder_of
from kaldi_uq.engine.files import open_fst, open_graph, open_lexicon, open_model
from kaldi_uq.engine.select import select_engine
from kaldi_uq.errors import EngineError, KaldiUqError, ModelFileError
from kaldi_uq.io.digests import DIGESTS_FILE
from kaldi_uq.io.fst import read_fst_arrays, vector_bytes
from kaldi_uq.io.lang import Lang
from tests import tiny
from tests.kaldi import fake_kaldi
from tests.test_engine_pykaldi import StandIn, forget_engine
from tests.tiny import TinySystem

ENGINES = ["embedded", "kaldi", "pykaldi"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"))


@pytest.fixture
def system(trained: TinySystem, tmp_path: Path) -> TinySystem:
    """A copy, to be damaged, of whose files no digests are recorded."""
    shutil.copytree(trained.mono.parent, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob(DIGESTS_FILE):
        path.unlink()
    mono = tmp_path / "copy/mono"
    return dataclasses.replace(trained, lang=Lang.read(tmp_path / "copy/lang"), mono=mono, graph=mono / "graph")


@pytest.fixture
def engine(
    request: pytest.FixtureRequest, system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """An engine; what is not here of Kaldi's and PyKaldi's code has stand-ins, of which none can read a file."""
    if request.param == "kaldi":
        fake_kaldi(tmp_path / "kaldi")
        monkeypatch.setenv("KALDI_ROOT", str(tmp_path / "kaldi"))
    if request.param == "pykaldi":
        for name, module in StandIn(system.mono / "final.mdl").modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        forget_engine()
        asr = importlib.import_module("kaldi_uq.engine.pykaldi")
        for name in ("MappedLatticeFasterRecognizer", "MappedAligner"):
            monkeypatch.setattr(asr, name, None)
    yield select_engine(request.param)
    if request.param == "pykaldi":
        forget_engine()


def damaged_fst(path: Path, field: str, value: float) -> None:
    fst = read_fst_arrays(path)
    arcs = fst.arcs.copy()
    arcs[field][0] = value
    path.write_bytes(vector_bytes(dataclasses.replace(fst, arcs=arcs)))


def silent_loop(path: Path) -> None:
    fst = read_fst_arrays(path)
    arcs = fst.arcs.copy()
    arcs[0] = (0, 0, -1.0, int(np.searchsorted(fst.offsets, 0, side="right")) - 1)
    path.write_bytes(vector_bytes(dataclasses.replace(fst, arcs=arcs)))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


FSTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "nan": (lambda path: damaged_fst(path, "weight", np.nan), "cost of arc 0 is nan"),
    "minus infinity": (lambda path: damaged_fst(path, "weight", -np.inf), "cost of arc 0 is -inf"),
    "destination": (
        lambda path: damaged_fst(path, "nextstate", 1 << 30),
        "an arc leads to a state that does not exist",
    ),
    "negative": (lambda path: damaged_fst(path, "ilabel", -4), "ilabel is -4"),
    "unknown input": (lambda path: damaged_fst(path, "ilabel", 99_999), "input label 99999 is none of"),
    "unknown word": (lambda path: damaged_fst(path, "olabel", 99_999), "output label 99999 is none of"),
    "loop": (silent_loop, "without an input label lead from state"),
    "cut": (cut, "not an FST file, or a damaged one"),
    "no file": (Path.unlink, "no such file"),
}


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
class TestEveryEngine:
    @pytest.mark.parametrize("kind", FSTS)
    def test_a_damaged_graph_is_refused(self, engine: Engine, system: TinySystem, kind: str) -> None:
        damage, message = FSTS[kind]
        damage(system.graph / "HCLG.fst")
        with pytest.raises(EngineError, match=rf"HCLG\.fst: .*{message}"):
            engine.decoder(system.mono, system.graph, DecodeConfig())

    @pytest.mark.parametrize("kind", FSTS)
    def test_a_damaged_lexicon_is_refused(self, engine: Engine, system: TinySystem, kind: str) -> None:
        damage, message = FSTS[kind]
        damage(system.lang.path / "L.fst")
        with pytest.raises(EngineError, match=rf"L\.fst: .*{message}"):
            engine.aligner(system.mono, system.lang, DecodeConfig())

    @pytest.mark.parametrize("name, damage", [("final.mdl", cut), ("tree", cut), ("tree", Path.unlink)])
    def test_a_damaged_model_is_refused(
        self, engine: Engine, system: TinySystem, name: str, damage: Callable[[Path], None]
    ) -> None:
        path = system.mono / name
        if name == "final.mdl":  # of its transition model: the GMMs behind it are not read here
            path.write_bytes(path.read_bytes()[:200])
        else:
            damage(path)
        for work in (
            lambda: engine.decoder(system.mono, system.graph, DecodeConfig()),
            lambda: engine.aligner(system.mono, system.lang, DecodeConfig()),
            lambda: engine.update_transitions(system.mono, [], system.mono / "new.mdl"),
        ):
            with pytest.raises(ModelFileError, match=rf"{name}: "):
                work()


@pytest.mark.parametrize("engine", ["embedded", "kaldi"], indirect=True)
class TestEveryBuilder:
    @pytest.mark.parametrize("name", ["L_disambig.fst", "G.fst"])
    @pytest.mark.parametrize("kind", FSTS)
    def test_no_graph_is_made_of_damaged_parts(self, engine: Engine, system: TinySystem, name: str, kind: str) -> None:
        damage, message = FSTS[kind]
        damage(system.lang.path / name)
        with pytest.raises(EngineError, match=rf"{name}: .*{message}"):
            builder_of(engine).make_graph(
                system.lang, system.mono, system.graph, transition_scale=1.0, self_loop_scale=0.1
            )

    def test_damaged_gmms_are_refused(self, engine: Engine, system: TinySystem) -> None:
        cut(system.mono / "final.mdl")
        builder = builder_of(engine)
        feats = {"a": np.zeros((3, 2), np.float32)}
        with pytest.raises(ModelFileError, match=r"final\.mdl: "):
            builder.decode_gmm(system.mono, system.graph, feats.items(), DecodeConfig())
        with pytest.raises(ModelFileError, match=r"final\.mdl: "):
            builder.align_gmm(system.mono, system.lang, feats.items(), {"a": [1]}, DecodeConfig())


def test_good_files_are_opened(system: TinySystem) -> None:
    model = open_model(system.mono)
    assert Path(model.model) == system.mono / "final.mdl" and Path(model.tree) == system.mono / "tree"
    assert model.transitions.num_tids == len(model.transitions.tid_to_pdf) - 1
    graph = open_graph(system.graph, model.transitions.num_tids)
    assert set(graph.id_to_word.values()) == set(system.lang.words)
    assert len(open_lexicon(system.lang).content.arcs) and len(open_fst(Path(graph.fst.path)).content.arcs)


def test_a_graph_of_another_model_is_refused(system: TinySystem) -> None:
    with pytest.raises(KaldiUqError, match=r"HCLG\.fst: .*is none of the 3 transition-ids"):
        open_graph(system.graph, 3)
