"""A stand-in of PyKaldi that computes: the part of its interface that the engine uses, on the wheels' C++.

What its classes are called with, give back and raise is PyKaldi's (0.2.2, commit bfbf78f): a recogniser that scales the
scores, an aligner that adds the transition probabilities to a graph itself, and C++ failures that arrive as
``RuntimeError`` without a text.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import kaldi_hmm_gmm as khg
import kaldifst
import numpy as np

from kaldi_uq.engine.embedded import wheels
from kaldi_uq.io.lang import read_symbols


class Matrix:
    """PyKaldi's Matrix of a float32 array."""

    def __init__(self, obj: np.ndarray) -> None:
        self.array = np.array(obj, dtype=np.float32, copy=False, order="C")  # NumPy 2 refuses if it must copy


class DoubleVector:
    """PyKaldi's DoubleVector of a float64 array."""

    def __init__(self, obj: np.ndarray) -> None:
        self.array = np.array(obj, dtype=np.float64, copy=False, order="C")


class LatticeFasterDecoderOptions:
    """Options with Kaldi's defaults."""

    def __init__(self) -> None:
        self.beam, self.max_active, self.lattice_beam = 16.0, 2**31 - 1, 10.0
        self.determinize_lattice = True


class TrainingGraphCompilerOptions:
    """Options with Kaldi's defaults."""

    def __init__(self) -> None:
        self.transition_scale = self.self_loop_scale = 1.0


class MleTransitionUpdateConfig:
    """Options with Kaldi's defaults."""


class TransitionModel:
    """A transition model that may be changed."""

    def __init__(self, path: str) -> None:
        shared, self.tree = wheels.load_model(Path(path).parent)
        self.core = wheels.set_log_probs(shared, np.asarray(shared.log_probs))

    def mle_update(self, stats: DoubleVector, cfg: MleTransitionUpdateConfig) -> tuple[float, float]:
        assert isinstance(stats, DoubleVector) and isinstance(cfg, MleTransitionUpdateConfig)
        improved, count = self.core.mle_update(stats.array, khg.MleTransitionUpdateConfig())
        return float(improved), float(count)

    def get_transition_log_prob(self, trans_id: int) -> float:
        return float(self.core.log_probs[trans_id])


class FasterDecoder:
    """A search for the best path of a graph, with the scores of a pdf-matrix times a scale."""

    def __init__(self, model: TransitionModel, graph: Any, beam: float, max_active: int = 2**31 - 1) -> None:
        self._graph, self._pdfs = graph, wheels.tid_to_pdf_array(model.core)
        self._core = khg.FasterDecoder(graph, khg.FasterDecoderOptions(beam=beam, max_active=max_active))

    def decode(self, scores: Matrix, scale: float) -> None:
        self._core.decode(khg.DecodableCtc(wheels.scaled_by_tid(scores.array, self._pdfs, scale)))

    def reached_final(self) -> bool:
        return bool(self._core.reached_final())

    def best_path(self, empty: str) -> dict[str, Any]:
        """Alignment, words and log-likelihood; a RuntimeError that says ``empty`` if no path survived."""
        found, path = self._core.get_best_path()
        if not found:
            raise RuntimeError(empty)
        _, alignment, words, weight = kaldifst.get_linear_symbol_sequence(path)
        return {"alignment": alignment, "words": words, "likelihood": -(weight.value1 + weight.value2)}


class MappedLatticeFasterRecognizer:
    """PyKaldi's recogniser on a matrix of pdf scores."""

    decoder: FasterDecoder

    @classmethod
    def from_files(
        cls,
        model_rxfilename: str,
        graph_rxfilename: str,
        symbols_filename: str | None = None,
        allow_partial: bool = True,
        acoustic_scale: float = 0.1,
        decoder_opts: LatticeFasterDecoderOptions | None = None,
    ) -> MappedLatticeFasterRecognizer:
        options = decoder_opts or LatticeFasterDecoderOptions()
        made, graph = cls(), wheels.read_fst(Path(graph_rxfilename))
        made.decoder = FasterDecoder(TransitionModel(model_rxfilename), graph, options.beam, options.max_active)
        made._scale, made._partial = acoustic_scale, allow_partial
        return made

    _scale: float
    _partial: bool

    def decode(self, input: Matrix) -> dict[str, Any]:
        self.decoder.decode(input, self._scale)
        if not (self._partial or self.decoder.reached_final()):
            raise RuntimeError("No final state was active on the last frame.")
        return self.decoder.best_path("Empty decoding output.")


class FasterDecoderOptions:
    """Options with Kaldi's defaults."""

    def __init__(self) -> None:
        self.beam = 16.0


class TrainingGraphCompiler:
    """Kaldi's compiler, which fails an assertion where there is no path."""

    def __init__(self, model: TransitionModel, lexicon: str, disambig: str, opts: TrainingGraphCompilerOptions) -> None:
        options = khg.TrainingGraphCompilerOptions(
            transition_scale=opts.transition_scale, self_loop_scale=opts.self_loop_scale
        )
        symbols = [int(line) for line in Path(disambig).read_text().split()]
        self._model = model  # the compiler of the wheels keeps no hold of what it is given
        self._lexicon = wheels.read_fst(Path(lexicon))
        self._core = khg.TrainingGraphCompiler(model.core, model.tree, self._lexicon, symbols, options)

    def compile_graph_from_text(self, transcript: list[int]) -> Any:
        try:
            return self._core.compile_graph_from_text(transcript)
        except RuntimeError:
            raise RuntimeError("") from None  # PyKaldi logs what Kaldi says; the error has no text


class MappedAligner:
    """PyKaldi's aligner on a matrix of pdf scores."""

    graph_compiler: TrainingGraphCompiler

    @classmethod
    def from_files(
        cls,
        model_rxfilename_or_object: str,
        tree_rxfilename: str,
        lexicon_rxfilename: str,
        symbols_filename: str,
        disambig_rxfilename: str,
        graph_compiler_opts: TrainingGraphCompilerOptions | None = None,
        beam: float = 200.0,
        transition_scale: float = 1.0,
        self_loop_scale: float = 1.0,
        acoustic_scale: float = 0.1,
    ) -> MappedAligner:
        made, model = cls(), cls.read_model(model_rxfilename_or_object)
        options = graph_compiler_opts or TrainingGraphCompilerOptions()
        made._model, made._words = model, read_symbols(Path(symbols_filename))
        made.graph_compiler = TrainingGraphCompiler(model, lexicon_rxfilename, disambig_rxfilename, options)
        made.decoder_opts = FasterDecoderOptions()
        made.decoder_opts.beam = beam
        made._scales = transition_scale, self_loop_scale
        made._scale = acoustic_scale
        return made

    decoder_opts: FasterDecoderOptions
    _model: TransitionModel
    _words: dict[str, int]
    _scales: tuple[float, float]
    _scale: float

    @staticmethod
    def read_model(model_rxfilename: str) -> TransitionModel:
        return TransitionModel(model_rxfilename)

    def align(self, input: Matrix, text: str) -> dict[str, Any]:
        graph = self.graph_compiler.compile_graph_from_text([self._words[word] for word in text.split()])
        khg.add_transition_probs(self._model.core, [], *self._scales, graph)
        decoder = FasterDecoder(self._model, graph, self.decoder_opts.beam)
        decoder.decode(input, self._scale)
        if not decoder.reached_final():
            raise RuntimeError("No final state was active on the last frame.")
        return decoder.best_path("Empty alignment output.")


class StdFstCompiler:
    """PyKaldi's compiler of FSTs, written to like a file."""

    def __init__(self) -> None:
        self._text = ""

    def write(self, expression: str) -> None:
        self._text += expression

    def compile(self) -> Any:
        fst = kaldifst.compile(self._text)
        if fst is None:
            raise RuntimeError("Compilation failed")
        return fst


class StdVectorFst:
    """PyKaldi's mutable FST."""

    def __init__(self, fst: Any) -> None:
        self._fst = fst

    def arcsort(self, sort_type: str = "ilabel") -> StdVectorFst:
        kaldifst.arcsort(self._fst, sort_type)
        return self

    def write(self, filename: str) -> None:
        if not self._fst.write(filename):
            raise OSError(f"Write failed: {filename!r}")


def modules() -> dict[str, ModuleType]:
    """The package ``kaldi`` and its modules, by name, for ``sys.modules``."""
    found = {}
    for name, contents in {
        "kaldi": (),
        "kaldi.alignment": (MappedAligner,),
        "kaldi.asr": (MappedLatticeFasterRecognizer,),
        "kaldi.decoder": (LatticeFasterDecoderOptions, TrainingGraphCompilerOptions),
        "kaldi.fstext": (StdFstCompiler, StdVectorFst),
        "kaldi.hmm": (MleTransitionUpdateConfig,),
        "kaldi.matrix": (DoubleVector, Matrix),
    }.items():
        found[name] = ModuleType(name)
        vars(found[name]).update({content.__name__: content for content in contents})
    vars(found["kaldi"])["__version__"] = "0.2.2"
    return found
