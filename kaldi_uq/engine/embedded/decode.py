"""Decoding and forced alignment on the wheels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import numpy as np

from kaldi_uq.engine.base import Aligner, DecodeConfig, Decoder, Hypothesis, Matrices, Transcripts
from kaldi_uq.engine.checks import check_scores
from kaldi_uq.engine.embedded import wheels
from kaldi_uq.io.fst import FstArrays
from kaldi_uq.io.lang import Lang

MAX_GRAPHS = 2000  # training graphs that an aligner keeps, of the word sequences used last


class EmbeddedDecoder(Decoder):
    """A decoder of one graph, in this process.

    Args:
        model_dir: directory with ``final.mdl`` and ``tree``.
        graph_dir: directory with ``HCLG.fst`` and ``words.txt``.
        config: acwt and beams.
    """

    def __init__(self, model_dir: Path, graph_dir: Path, config: DecodeConfig) -> None:
        self._model_dir, self._acwt = model_dir, config.acwt
        self._transitions, _ = wheels.load_model(model_dir)
        self._graph = wheels.load_graph(graph_dir, wheels.tid_to_pdf_array(self._transitions))
        self._options = khg.LatticeFasterDecoderConfig(
            beam=config.beam, max_active=config.max_active, lattice_beam=min(6.0, config.beam)
        )

    def decode(self, loglikes: Matrices) -> dict[str, Hypothesis]:
        hypotheses = {}
        for utt, scores in loglikes:
            check_scores(utt, scores, self._transitions.num_pdfs, self._model_dir)
            hypothesis = self._decode(utt, scores) if len(scores) else None
            if hypothesis is not None:
                hypotheses[utt] = hypothesis
        return hypotheses

    def _decode(self, utt: str, scores: np.ndarray) -> Hypothesis | None:
        decodable = khg.DecodableCtc((scores * np.float32(self._acwt)).astype(np.float32, copy=False))
        for partial in (False, True):  # a path that ends in the middle of a word only if there is no other
            decoder = khg.LatticeFasterDecoder(self._graph.fst, self._options)
            done, pdfs, labels, score = khg.decode_utterance_lattice_faster(
                decoder, decodable, self._transitions, utt, partial
            )
            if done and pdfs:
                words, alignment = self._graph.texts(labels), self._graph.alignment(labels)
                return Hypothesis(words, alignment, float(score), reached_final=not partial)
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
