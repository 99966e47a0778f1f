"""The pykaldi engine, experimental: PyKaldi's recogniser and aligner, for those who have PyKaldi.

Written against the source of PyKaldi 0.2.2 (commit bfbf78f, January 2025) and tested with stand-ins of the same
interface, one of which decodes and aligns; it has not been run with PyKaldi itself.  It decodes, aligns, re-estimates
transition probabilities and compiles FSTs; it does not train GMMs and composes no decoding graph.  It decodes to the
best path and writes no lattices.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.engine.base import Aligner, DecodeConfig, Decoder, Engine, Hypothesis, LatticeSink, Matrices, Transcripts
from kaldi_uq.engine.checks import check_scores, last_line, no_path
from kaldi_uq.engine.files import existing_files, open_graph, open_lexicon, open_model
from kaldi_uq.errors import EngineError
from kaldi_uq.io.kaldi_model import TransitionTable, write_model
from kaldi_uq.io.lang import Lang

try:
    import kaldi
    from kaldi.alignment import MappedAligner
    from kaldi.asr import MappedLatticeFasterRecognizer
    from kaldi.decoder import LatticeFasterDecoderOptions, TrainingGraphCompilerOptions
    from kaldi.fstext import StdFstCompiler, StdVectorFst
    from kaldi.hmm import MleTransitionUpdateConfig
    from kaldi.matrix import DoubleVector, Matrix
except ImportError as error:  # the engine is chosen before this module is imported, so the message reaches the user
    raise EngineError(
        f"--engine pykaldi needs PyKaldi ({' '.join(str(error).split())}): install a wheel or conda package of its own "
        "project, github.com/pykaldi/pykaldi (the package index has only an empty demo of that name), or use "
        "--engine embedded"
    ) from None

LATTICE_BEAM = 0.5  # only the best path is taken from the lattice, and whole lattices of noise take minutes
_NO_PATH = ("No final state was active", "Empty decoding output", "Empty alignment output", "Empty output lattice")


class PyKaldiEngine(Engine):
    """PyKaldi, in this process."""

    name = "pykaldi"

    def versions(self) -> dict[str, str]:
        return {"pykaldi": str(kaldi.__version__)}

    def compile_fst(self, text: str, path: Path, *, sort: str) -> None:
        with _failures_of(str(path)):
            compiler = StdFstCompiler()
            compiler.write(text if text.endswith("\n") else text + "\n")
            fst = StdVectorFst(compiler.compile())
            fst.arcsort(sort)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fst.", suffix=".tmp") as folder:
                temporary = Path(folder) / path.name
                fst.write(str(temporary))
                os.replace(temporary, path)

    def decoder(self, model_dir: Path, graph_dir: Path, config: DecodeConfig) -> PyKaldiDecoder:
        return PyKaldiDecoder(model_dir, graph_dir, config)

    def aligner(self, model_dir: Path, lang: Lang, config: DecodeConfig) -> PyKaldiAligner:
        return PyKaldiAligner(model_dir, lang, config)

    def update_transitions(self, model_dir: Path, alignments: Iterable[np.ndarray], out_path: Path) -> None:
        opened = open_model(model_dir)
        model, table = opened.model, opened.transitions
        counts = np.zeros(len(table.log_probs))
        for alignment in alignments:
            counts += np.bincount(alignment, minlength=len(counts))
        with _failures_of(model):
            transitions = MappedAligner.read_model(model)
            transitions.mle_update(DoubleVector(counts), MleTransitionUpdateConfig())
            updated = [transitions.get_transition_log_prob(tid) for tid in range(1, len(counts))]
        log_probs = np.concatenate([table.log_probs[:1], np.asarray(updated)]).astype(np.float32)
        write_model(out_path, TransitionTable(table.topology, table.tuples, log_probs))


class PyKaldiDecoder(Decoder):
    """A decoder of one graph on PyKaldi's recogniser, which scales the scores.

    Args:
        model_dir: directory with ``final.mdl`` and ``tree``.
        graph_dir: directory with ``HCLG.fst`` and ``words.txt``.
        config: acwt and beams.
    """

    def __init__(self, model_dir: Path, graph_dir: Path, config: DecodeConfig) -> None:
        opened = open_model(model_dir)
        found = open_graph(graph_dir, opened.transitions.num_tids)
        model, graph = opened.model, found.fst.path
        self._model_dir, self._num_pdfs = model_dir, opened.transitions.num_pdfs
        self._id_to_word = found.id_to_word
        with _failures_of(f"{model} and {graph}"):
            options = LatticeFasterDecoderOptions()
            options.beam = config.beam
            options.max_active = config.max_active
            options.lattice_beam = min(LATTICE_BEAM, config.beam)
            options.determinize_lattice = False
            self._recognizer = MappedLatticeFasterRecognizer.from_files(
                model, graph, allow_partial=True, acoustic_scale=config.acwt, decoder_opts=options
            )

    def decode(self, loglikes: Matrices, *, lattices: LatticeSink | None = None) -> dict[str, Hypothesis]:
        if lattices is not None:
            raise EngineError("--engine pykaldi makes no lattices: use --engine embedded or --engine kaldi for them")
        recognizer, hypotheses = self._recognizer, {}
        for utt, scores in loglikes:
            check_scores(utt, scores, self._num_pdfs, self._model_dir)
            if not len(scores):
                continue
            with _failures_of(utt):
                result = _unless_no_path(recognizer.decode, _matrix(scores))
                reached_final = bool(recognizer.decoder.reached_final())
            if result is not None and len(result["alignment"]):
                hypotheses[utt] = Hypothesis(
                    tuple(self._id_to_word[word] for word in result["words"]),
                    np.asarray(result["alignment"], dtype=np.int32),
                    float(result["likelihood"]),
                    reached_final,
                )
        return hypotheses


class PyKaldiAligner(Aligner):
    """A forced aligner of one lexicon on PyKaldi's aligner, which scales the scores.

    PyKaldi's aligner adds the transition probabilities to each graph itself, so that the graph compiler must leave them
    out: by its own default it puts them in, and they would count twice (Kaldi's ``compile-train-graphs`` sets 0 for
    that reason).

    Args:
        model_dir: directory with ``final.mdl`` and ``tree``.
        lang: the lexicon.
        config: acwt, beams and scales.
    """

    def __init__(self, model_dir: Path, lang: Lang, config: DecodeConfig) -> None:
        opened, lexicon = open_model(model_dir), open_lexicon(lang).path
        model, tree = opened.model, opened.tree
        words, disambig = existing_files(lang.path, "words.txt", "phones/disambig.int")
        self._model_dir, self._lang, self._num_pdfs = model_dir, lang, opened.transitions.num_pdfs
        self._beams = [config.align_beam] + [config.retry_beam] * (config.retry_beam > config.align_beam)
        with _failures_of(f"{model} and {lexicon}"):
            graphs = TrainingGraphCompilerOptions()
            graphs.transition_scale = 0.0
            graphs.self_loop_scale = 0.0
            self._aligner = MappedAligner.from_files(
                model,
                tree,
                lexicon,
                symbols_filename=words,  # without them the aligner of 0.2.2 hands strings on as word-ids
                disambig_rxfilename=disambig,
                graph_compiler_opts=graphs,
                beam=config.align_beam,
                transition_scale=config.transition_scale,
                self_loop_scale=config.self_loop_scale,
                acoustic_scale=config.acwt,
            )

    def align(self, loglikes: Matrices, transcripts: Transcripts) -> dict[str, np.ndarray]:
        found = {}
        for utt, scores in loglikes:
            check_scores(utt, scores, self._num_pdfs, self._model_dir)
            if not len(scores):
                continue
            matrix = _matrix(scores)
            for beam in self._beams:
                self._aligner.decoder_opts.beam = beam
                result = self._align(utt, matrix, transcripts[utt])
                if result is not None:
                    found[utt] = np.asarray(result["alignment"], dtype=np.int32)
                    break
        return found

    def _align(self, utt: str, matrix: Any, words: Sequence[int]) -> Any:
        """The aligner's result; ``None`` if no path reaches the end."""
        text = " ".join(self._lang.id_to_word.get(word, str(word)) for word in words)
        with _failures_of(utt):
            try:
                return _unless_no_path(self._aligner.align, matrix, text)
            except KeyError:  # a word that words.txt lacks
                raise no_path(self._lang, words) from None
            except (RuntimeError, ValueError):
                if self._spells(words):
                    raise
                raise no_path(self._lang, words) from None

    def _spells(self, words: Sequence[int]) -> bool:
        """Whether there is a training graph: PyKaldi's failures to compile one have no text to know them by."""
        try:
            self._aligner.graph_compiler.compile_graph_from_text(list(words))
        except (RuntimeError, ValueError):
            return False
        return True


def _matrix(scores: np.ndarray) -> Any:
    return Matrix(np.ascontiguousarray(scores, dtype=np.float32))


def _unless_no_path(function: Any, *args: Any) -> Any:
    """What the function returns; ``None`` if it says that no path survived, which is no failure of PyKaldi."""
    try:
        return function(*args)
    except RuntimeError as error:
        if str(error).startswith(_NO_PATH):
            return None
        raise


@contextmanager
def _failures_of(what: str) -> Iterator[None]:
    """A context for calls of PyKaldi that turns its errors into one line.

    Raises:
        EngineError: PyKaldi failed.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise EngineError(
            f"{what}: PyKaldi failed: {last_line(error)}; --engine embedded or kaldi does the same step"
        ) from None
