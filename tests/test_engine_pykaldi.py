"""The pykaldi engine against a stand-in of the package ``kaldi``, whose signatures are those of PyKaldi's source."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.engine.base import DecodeConfig, Engine
from kaldi_uq.engine.select import engine_name, select_engine
from kaldi_uq.errors import EngineError, ModelFileError
from kaldi_uq.io.datadir import write_table
from kaldi_uq.io.kaldi_model import read_transitions
from tests import tiny
from tests.tiny import TinySystem, write_segments

MODULES = ("alignment", "asr", "decoder", "fstext", "hmm", "matrix")
CONFIG = DecodeConfig(acwt=0.25, beam=11.0, max_active=300, align_beam=20.0, transition_scale=0.9, self_loop_scale=0.2)


class Matrix:
    def __init__(self, obj: np.ndarray) -> None:
        np.array(obj, dtype=np.float32, copy=False, order="C")  # as PyKaldi does it: NumPy 2 refuses if it must copy
        self.array, self.num_rows = obj, len(obj)


class DoubleVector:
    def __init__(self, obj: np.ndarray) -> None:
        np.array(obj, dtype=np.float64, copy=False, order="C")
        self.array = obj


class Options:
    """Options with the defaults of Kaldi that the engine has to change."""

    def __init__(self) -> None:
        self.transition_scale = self.self_loop_scale = 1.0
        self.determinize_lattice = True


class StandIn:
    """Modules of the stand-in, what they were called with, and what they answer."""

    def __init__(self, model: Path) -> None:
        self.made: dict[str, Any] = {}
        self.inputs: list[tuple[Any, ...]] = []
        self.failing: Exception | None = None
        self.fails_below_beam = 0.0
        self.spells = True
        self.final = True
        self.counts: np.ndarray | None = None
        self.log_probs = read_transitions(model).log_probs
        outer = self

        class MappedLatticeFasterRecognizer:
            @classmethod
            def from_files(
                cls,
                model_rxfilename: str,
                graph_rxfilename: str,
                symbols_filename: str | None = None,
                allow_partial: bool = True,
                acoustic_scale: float = 0.1,
                decoder_opts: Any = None,
            ) -> Any:
                outer.made = dict(locals())
                return cls()

            decoder = type("Decoder", (), {"reached_final": lambda self: outer.final})()

            def decode(self, input: Matrix) -> dict[str, Any]:
                outer.inputs.append((input.array,))
                if outer.failing:
                    raise outer.failing
                return {"alignment": [2, 1, 4], "words": [2, 3], "text": "2 3", "likelihood": -7.5}

        class GraphCompiler:
            def compile_graph_from_text(self, transcript: list[int]) -> str:
                assert all(isinstance(word, int) for word in transcript)
                if not outer.spells:
                    raise RuntimeError("")
                return "graph"

        class MappedAligner:
            @classmethod
            def from_files(
                cls,
                model_rxfilename_or_object: str,
                tree_rxfilename: str,
                lexicon_rxfilename: str,
                symbols_filename: str | None = None,
                disambig_rxfilename: str | None = None,
                graph_compiler_opts: Any = None,
                beam: float = 200.0,
                transition_scale: float = 1.0,
                self_loop_scale: float = 1.0,
                acoustic_scale: float = 0.1,
            ) -> Any:
                outer.made = dict(locals())
                aligner = cls()
                aligner.decoder_opts = Options()
                aligner.decoder_opts.beam = beam
                aligner.graph_compiler = GraphCompiler()
                return aligner

            @staticmethod
            def read_model(model_rxfilename: str) -> Any:
                outer.made = dict(locals())
                return TransitionModel()

            decoder_opts: Any
            graph_compiler: Any

            def align(self, input: Matrix, text: str) -> dict[str, Any]:
                outer.inputs.append((input.array, text, self.decoder_opts.beam))
                if outer.failing:
                    raise outer.failing
                if self.decoder_opts.beam < outer.fails_below_beam:
                    raise RuntimeError("No final state was active on the last frame.")
                return {"alignment": [2, 1, 4], "likelihood": -7.5}

        class TransitionModel:
            def mle_update(self, stats: DoubleVector, cfg: Any) -> tuple[float, float]:
                outer.counts = stats.array
                return 0.0, 0.0

            def get_transition_log_prob(self, trans_id: int) -> float:
                assert trans_id > 0
                return float(outer.log_probs[trans_id]) - 1.0

        class StdFstCompiler:
            text = ""

            def write(self, expression: str) -> None:
                self.text += expression

            def compile(self) -> str:
                if "x" in self.text:
                    raise RuntimeError("Compilation failed")
                return self.text

        class StdVectorFst:
            def __init__(self, fst: str) -> None:
                self.text = fst

            def arcsort(self, sort_type: str = "ilabel") -> None:
                self.text += f"sorted by {sort_type}\n"

            def write(self, filename: str) -> None:
                Path(filename).write_text(self.text)

        contents: dict[str, dict[str, Any]] = {
            "": {"__version__": "0.2.2"},
            "alignment": {"MappedAligner": MappedAligner},
            "asr": {"MappedLatticeFasterRecognizer": MappedLatticeFasterRecognizer},
            "decoder": {"LatticeFasterDecoderOptions": Options, "TrainingGraphCompilerOptions": Options},
            "fstext": {"StdFstCompiler": StdFstCompiler, "StdVectorFst": StdVectorFst},
            "hmm": {"MleTransitionUpdateConfig": Options},
            "matrix": {"Matrix": Matrix, "DoubleVector": DoubleVector},
        }
        self.modules = {}
        for name, content in contents.items():
            module = ModuleType(f"kaldi.{name}" if name else "kaldi")
            vars(module).update(content)
            self.modules[module.__name__] = module


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"))


def forget_engine() -> None:
    """Let the engine be imported again, with the package ``kaldi`` that is there then."""
    sys.modules.pop("kaldi_uq.engine.pykaldi", None)
    package = importlib.import_module("kaldi_uq.engine")
    if hasattr(package, "pykaldi"):
        del package.pykaldi


@pytest.fixture
def stand_in(system: TinySystem, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn(system.mono / "final.mdl")
    for name, module in stand_in.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    forget_engine()
    yield stand_in
    forget_engine()


@pytest.fixture
def engine(stand_in: StandIn) -> Engine:
    return select_engine("pykaldi")


@pytest.fixture
def scores(system: TinySystem) -> np.ndarray:
    wide = np.random.default_rng(0).normal(size=(3, 2 * system.table.num_pdfs)).astype(np.float32)
    return wide[:, ::2]  # not contiguous


class TestChoice:
    def test_missing_package_is_one_clear_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forget_engine()
        for name in ("kaldi", *(f"kaldi.{module}" for module in MODULES)):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(EngineError, match=r"needs PyKaldi .*wheel or conda package.*empty demo") as error:
            select_engine("pykaldi")
        assert "\n" not in str(error.value)

    def test_empty_package_of_that_name_is_a_missing_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forget_engine()
        monkeypatch.setitem(sys.modules, "kaldi", ModuleType("kaldi"))
        with pytest.raises(EngineError, match="needs PyKaldi"):
            select_engine("pykaldi")

    @pytest.mark.parametrize("root", [None, "/opt/kaldi"])
    def test_it_is_never_chosen_by_itself(
        self, root: str | None, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("KALDI_ROOT", raising=False)
        if root:
            monkeypatch.setenv("KALDI_ROOT", root)
        assert engine_name() == ("kaldi" if root else "embedded")
        assert engine_name("pykaldi") == "pykaldi"
        assert select_engine("pykaldi").versions() == {"pykaldi": "0.2.2"}

    @pytest.mark.parametrize("command", ["train-mono", "train-deltas", "make-graph"])
    @pytest.mark.usefixtures("stand_in")
    def test_command_that_it_cannot_do_names_the_engines_that_do(
        self, command: str, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = write_segments(tmp_path, system.waves, system.text)
        for name in ("feats.scp", "cmvn.scp"):
            write_table(data / name, {utt: "x" for utt in system.text})
        lang, mono = str(system.lang.path), str(system.mono)
        places = {
            "train-mono": [str(data), lang, str(tmp_path / "exp")],
            "train-deltas": [str(data), lang, mono, str(tmp_path / "exp")],
            "make-graph": [lang, mono, str(tmp_path / "exp")],
        }[command]
        assert main([command, "--engine", "pykaldi", *places]) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "--engine pykaldi trains no Gaussian mixtures" in said
        assert "use --engine embedded or --engine kaldi for this step" in said


class TestDecoding:
    def test_arguments_and_result(
        self, engine: Engine, stand_in: StandIn, system: TinySystem, scores: np.ndarray
    ) -> None:
        found = engine.decoder(system.mono, system.graph, CONFIG).decode([("a", scores), ("none", scores[:0])])
        made = stand_in.made
        assert made["model_rxfilename"] == str(system.mono / "final.mdl")
        assert made["graph_rxfilename"] == str(system.graph / "HCLG.fst")
        assert (made["acoustic_scale"], made["allow_partial"]) == (0.25, True)
        options = made["decoder_opts"]
        assert (options.beam, options.max_active, options.determinize_lattice) == (11.0, 300, False)
        (given,) = stand_in.inputs  # the utterance without frames never reaches PyKaldi, which refuses it
        np.testing.assert_array_equal(given[0], scores)  # unscaled: the recogniser applies the scale
        assert found.keys() == {"a"}
        names = system.lang.id_to_word
        assert found["a"].words == (names[2], names[3])
        assert found["a"].alignment.dtype == np.int32
        assert found["a"].alignment.tolist() == [2, 1, 4]
        assert (found["a"].score, found["a"].reached_final) == (-7.5, True)

    def test_cut_off_path_says_so(
        self, engine: Engine, stand_in: StandIn, system: TinySystem, scores: np.ndarray
    ) -> None:
        stand_in.final = False
        assert not engine.decoder(system.mono, system.graph, CONFIG).decode([("a", scores)])["a"].reached_final

    def test_no_path_is_absence_and_every_other_error_is_one(
        self, engine: Engine, stand_in: StandIn, system: TinySystem, scores: np.ndarray
    ) -> None:
        stand_in.failing = RuntimeError("Empty decoding output.")
        assert engine.decoder(system.mono, system.graph, CONFIG).decode([("a", scores)]) == {}
        stand_in.failing = RuntimeError("ERROR (somewhere)\nAssertion failed: (a == b)\n")
        with pytest.raises(EngineError, match=r"^a: PyKaldi failed: Assertion failed: \(a == b\)") as error:
            engine.decoder(system.mono, system.graph, CONFIG).decode([("a", scores)])
        assert "\n" not in str(error.value)

    def test_scores_and_files_are_checked_first(
        self, engine: Engine, stand_in: StandIn, system: TinySystem, scores: np.ndarray, tmp_path: Path
    ) -> None:
        with pytest.raises(EngineError, match="the pdfs of"):
            engine.decoder(system.mono, system.graph, CONFIG).decode([("a", scores[:, 1:])])
        with pytest.raises(EngineError, match=r"HCLG\.fst: no such file"):
            engine.decoder(system.mono, tmp_path, CONFIG).decode([("a", scores)])
        (tmp_path / "final.mdl").write_bytes((system.mono / "final.mdl").read_bytes())
        with pytest.raises(ModelFileError, match="tree: no such file"):
            engine.decoder(tmp_path, system.graph, CONFIG).decode([("a", scores)])
        assert stand_in.inputs == []


class TestAlignment:
    def test_arguments_and_result(
        self, engine: Engine, stand_in: StandIn, system: TinySystem, scores: np.ndarray
    ) -> None:
        texts = {"a": system.word_ids("one", "two")}
        found = engine.aligner(system.mono, system.lang, CONFIG).align([("a", scores)], texts)
        made, lang = stand_in.made, system.lang.path
        assert made["model_rxfilename_or_object"] == str(system.mono / "final.mdl")
        assert made["tree_rxfilename"] == str(system.mono / "tree")
        assert made["lexicon_rxfilename"] == str(lang / "L.fst")
        assert made["symbols_filename"] == str(lang / "words.txt")
        assert made["disambig_rxfilename"] == str(lang / "phones/disambig.int")
        assert (made["beam"], made["acoustic_scale"]) == (20.0, 0.25)
        assert (made["transition_scale"], made["self_loop_scale"]) == (0.9, 0.2)
        compiler = made["graph_compiler_opts"]  # the aligner adds the probabilities: here they would count twice
        assert (compiler.transition_scale, compiler.self_loop_scale) == (0.0, 0.0)
        ((given, text, beam),) = stand_in.inputs
        np.testing.assert_array_equal(given, scores)
        assert (text, beam) == ("one two", 20.0)
        assert found["a"].dtype == np.int32
        assert found["a"].tolist() == [2, 1, 4]

    def test_retry_beam_is_for_utterances_that_fail_only(
        self, engine: Engine, stand_in: StandIn, system: TinySystem, scores: np.ndarray
    ) -> None:
        texts = {utt: system.word_ids("one") for utt in "ab"}
        pairs = [(utt, scores) for utt in texts]
        stand_in.fails_below_beam = 30.0
        assert engine.aligner(system.mono, system.lang, CONFIG).align(pairs, texts) == {}
        stand_in.inputs.clear()
        retry = DecodeConfig(align_beam=20.0, retry_beam=40.0)
        assert engine.aligner(system.mono, system.lang, retry).align(pairs, texts).keys() == {"a", "b"}
        assert [beam for *_, beam in stand_in.inputs] == [20.0, 40.0, 20.0, 40.0]

    @pytest.mark.parametrize("error", [RuntimeError(""), ValueError(""), KeyError("two")])
    def test_text_without_a_path_is_named(
        self, error: Exception, engine: Engine, stand_in: StandIn, system: TinySystem, scores: np.ndarray
    ) -> None:
        stand_in.failing, stand_in.spells = error, False
        with pytest.raises(EngineError, match=r"L\.fst: no path for the text 'one two'"):
            engine.aligner(system.mono, system.lang, CONFIG).align(
                [("a", scores)], {"a": system.word_ids("one", "two")}
            )

    def test_failure_of_a_text_that_has_a_graph_is_no_fault_of_the_text(
        self, engine: Engine, stand_in: StandIn, system: TinySystem, scores: np.ndarray
    ) -> None:
        stand_in.failing = RuntimeError("")  # what Kaldi says is in PyKaldi's log, not in the error
        with pytest.raises(EngineError, match=r"^a: PyKaldi failed: RuntimeError;"):
            engine.aligner(system.mono, system.lang, CONFIG).align([("a", scores)], {"a": system.word_ids("one")})


class TestFiles:
    def test_transitions_are_updated_from_counts(
        self, engine: Engine, stand_in: StandIn, system: TinySystem, tmp_path: Path
    ) -> None:
        engine.update_transitions(system.mono, [np.array([1, 1, 3]), np.array([3])], tmp_path / "final.mdl")
        table, counts = system.table, stand_in.counts
        assert counts is not None and len(counts) == len(table.log_probs)
        assert (counts[1], counts[3], counts.sum()) == (2, 2, 4)
        written = read_transitions(tmp_path / "final.mdl")
        np.testing.assert_allclose(written.log_probs[1:], table.log_probs[1:] - 1.0, rtol=1e-6)
        assert written.tuples == table.tuples

    def test_fst_is_compiled_sorted_and_written_whole(self, engine: Engine, tmp_path: Path) -> None:
        engine.compile_fst("0 1 1 1\n1", tmp_path / "new/G.fst", sort="olabel")
        assert (tmp_path / "new/G.fst").read_text() == "0 1 1 1\n1\nsorted by olabel\n"
        with pytest.raises(EngineError, match=r"G\.fst: PyKaldi failed: Compilation failed"):
            engine.compile_fst("x", tmp_path / "new/G.fst", sort="ilabel")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["G.fst"]
