"""Decoding and forced alignment on the wheels.

The wheels' decoder hands out the best path only; lattices, where they are asked for, are searched for by
:mod:`kaldi_uq.lattice`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import numpy as np

from kaldi_uq.engine.base import (
    Aligner,
    DecodeConfig,
    Decoder,
    EngineOptions,
    Hypothesis,
    LatticeSink,
    Matrices,
    Transcripts,
)
from kaldi_uq.engine.checks import check_scores
from kaldi_uq.engine.config import BEST_PATH_BEAM
from kaldi_uq.engine.embedded import wheels
from kaldi_uq.engine.embedded.windows import meeting, overlapping
from kaldi_uq.io.fst import FstArrays
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.lattice import Lattice, LatticeWriter
from kaldi_uq.lattice.determinize import determinize
from kaldi_uq.lattice.graph import SearchGraph
from kaldi_uq.lattice.search import SearchOptions, search
from kaldi_uq.workers import one_by_one

MAX_GRAPHS = 2000  # training graphs that an aligner keeps, of the word sequences used last


class EmbeddedDecoder(Decoder):
    """A decoder of one graph.

    Args:
        model_dir: directory with ``final.mdl`` and ``tree``.
        graph_dir: directory with ``HCLG.fst`` and ``words.txt``.
        config: acwt and beams.
        options: whether lattices are kept, and where.
    """

    def __init__(
        self, model_dir: Path, graph_dir: Path, config: DecodeConfig, options: EngineOptions | None = None
    ) -> None:
        self._model_dir, self._graph_dir, self._acwt = model_dir, graph_dir, config.acwt
        self._keep = options or EngineOptions()
        self.keeps_lattices = self._keep.lattice_dir is not None
        self._search = SearchOptions(config.beam, config.max_active, config.lattice_beam)
        self._transitions, _ = wheels.load_model(model_dir)
        self._tid_to_pdf = wheels.tid_to_pdf_array(self._transitions)
        self._graph = wheels.load_graph(graph_dir, self._tid_to_pdf)
        self._options = khg.LatticeFasterDecoderConfig(
            beam=config.beam, max_active=config.max_active, lattice_beam=min(BEST_PATH_BEAM, config.beam)
        )

    def decode(self, loglikes: Matrices, *, lattices: LatticeSink | None = None) -> dict[str, Hypothesis]:
        hypotheses = {}
        with contextlib.ExitStack() as stack:
            sinks = [lattices] if lattices else []
            if kept_in := self._keep.lattice_dir:
                sinks.append(stack.enter_context(LatticeWriter(kept_in / f"lat.{self._keep.first_job}.gz")).write)
            for utt, hypothesis, lattice in one_by_one(functools.partial(self._find, bool(sinks)), loglikes):
                if hypothesis is not None:
                    hypotheses[utt] = hypothesis
                if lattice is not None:
                    for sink in sinks:
                        sink(utt, lattice)
        return hypotheses

    def _find(self, with_lattice: bool, pair: tuple[str, np.ndarray]) -> tuple[str, Hypothesis | None, Lattice | None]:
        utt, scores = pair
        check_scores(utt, scores, self._transitions.num_pdfs, self._model_dir)
        hypothesis = self._decode(utt, scores) if len(scores) else None
        return utt, hypothesis, self._lattice(utt, scores) if with_lattice and hypothesis is not None else None

    def decode_long(self, utt: str, stretches: Iterable[np.ndarray]) -> tuple[str, ...]:
        """The words, from windows that overlap: the decoder keeps what it has seen of an utterance until its end."""
        takes_frame, words = self._graph.tids > 0, list[str]()
        path, begin = np.zeros(0, np.int64), 0  # of what is not settled yet: the arcs, and their first frame
        for first, scores in overlapping(stretches):
            check_scores(utt, scores, self._transitions.num_pdfs, self._model_dir)
            found = self._best_path(utt, scores)
            window = np.asarray(found[0] if found else [], dtype=np.int64)
            end, start = meeting(path, window, takes_frame, first - begin)
            words += self._graph.texts(path[:end])
            path, begin = window[start:], first + int(takes_frame[window[:start]].sum())
        return (*words, *self._graph.texts(path))

    @functools.cached_property
    def _search_graph(self) -> SearchGraph:
        return wheels.load_search_graph(self._graph_dir, self._tid_to_pdf)

    def _lattice(self, utt: str, scores: np.ndarray) -> Lattice | None:
        """The lattice of an utterance, with unscaled acoustic costs as Kaldi writes them."""
        found = search(self._search_graph, scores * np.float32(self._acwt), self._search)
        if found is None:
            logging.getLogger(__name__).warning("%s: no lattice, no path survives the search", utt)
            return None
        return determinize(found[0], self._search.lattice_beam).scaled(acoustic=1.0 / self._acwt)

    def _decode(self, utt: str, scores: np.ndarray) -> Hypothesis | None:
        found = self._best_path(utt, scores)
        if found is None:
            return None
        labels, score, reached_final = found
        return Hypothesis(self._graph.texts(labels), self._graph.alignment(labels), score, reached_final)

    def _best_path(self, utt: str, scores: np.ndarray) -> tuple[list[int], float, bool] | None:
        """Labels and score of the best path and whether it ends in a final state; ``None`` if none survives."""
        decodable = khg.DecodableCtc((scores * np.float32(self._acwt)).astype(np.float32, copy=False))
        for partial in (False, True):  # a path that ends in the middle of a word only if there is no other
            decoder = khg.LatticeFasterDecoder(self._graph.fst, self._options)
            done, pdfs, labels, score = khg.decode_utterance_lattice_faster(
                decoder, decodable, self._transitions, utt, partial
            )
            if done and pdfs:
                return labels, float(score), not partial
        return None


class EmbeddedAligner(Aligner):
    """A forced aligner of one lexicon, in this process; it keeps the training graphs of the last word sequences.

    Args:
        model_dir: directory with ``final.mdl`` and ``tree``.
        lang: the lexicon.
        config: acwt, beams and scales.
    """

    def __init__(self, model_dir: Path, lang: Lang, config: DecodeConfig) -> None:
        self._model_dir, self._lang, self._config = model_dir, lang, config
        self._transitions, tree = wheels.load_model(model_dir)
        self._tid_to_pdf = wheels.tid_to_pdf_array(self._transitions)
        self._compiler = wheels.compiler(self._transitions, tree, lang, config.transition_scale, config.self_loop_scale)
        self._graph = functools.lru_cache(maxsize=MAX_GRAPHS)(self._compile)

    def _compile(self, words: tuple[int, ...]) -> tuple[Any, np.ndarray]:
        """The training graph, and the transition-ids (n,) int32 that its input labels 1 to n stand for.

        Only the scores of these transition-ids need a column: a model can have tens of thousands.
        """
        graph = wheels.compile_graph(self._compiler, words, self._lang)
        return graph, wheels.number_labels(graph)

    def graph(self, words: Sequence[int]) -> FstArrays:
        return wheels.arrays_of(wheels.compile_graph(self._compiler, words, self._lang))

    def align(self, loglikes: Matrices, transcripts: Transcripts) -> dict[str, np.ndarray]:
        config, found = self._config, {}
        for utt, scores in loglikes:
            check_scores(utt, scores, self._transitions.num_pdfs, self._model_dir)
            graph, tids = self._graph(tuple(transcripts[utt]))
            scaled = wheels.scaled_by_tid(scores, self._tid_to_pdf[np.append(0, tids)], config.acwt)
            alignment = wheels.viterbi_align(utt, graph, scaled, config.align_beam, config.retry_beam)
            if alignment is not None:
                found[utt] = tids[alignment - 1]
        return found
