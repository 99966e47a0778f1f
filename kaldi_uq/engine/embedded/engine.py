"""The embedded engine: Kaldi's C++ as Python wheels, ``kaldi-hmm-gmm`` and ``kaldifst``.  No Kaldi installation.

It decodes to the best path; it writes no lattices.  The wheels' logs go to standard error.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import kaldi_hmm_gmm as khg
import kaldifst
import numpy as np

from kaldi_uq.engine.base import DecodeConfig, DeltasConfig, Engine, MonoConfig
from kaldi_uq.engine.embedded import wheels
from kaldi_uq.engine.embedded.decode import EmbeddedAligner, EmbeddedDecoder
from kaldi_uq.engine.embedded.wheels import (
    load_model,
    read_fst,
    set_log_probs,
    symbols_to_epsilon,
    with_log_probs,
    write_fst,
)
from kaldi_uq.errors import EngineError
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import read_transitions, write_model
from kaldi_uq.io.lang import Lang


class EmbeddedEngine(Engine):
    """Kaldi's own C++, in this process."""

    name = "embedded"

    def versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in ("kaldi-hmm-gmm", "kaldifst")}

    def compile_fst(self, text: str, path: Path, *, sort: str) -> None:
        fst = kaldifst.compile(text)
        kaldifst.arcsort(fst, sort_type=sort)
        write_fst(fst, path)

    def train_mono(
        self,
        feats: Mapping[str, np.ndarray],
        transcripts: Mapping[str, Sequence[int]],
        lang: Lang,
        out_dir: Path,
        config: MonoConfig,
    ) -> None:
        from kaldi_uq.engine.embedded.mono import train

        train(feats, transcripts, lang, out_dir, config)

    def train_deltas(
        self,
        feats: Mapping[str, np.ndarray],
        transcripts: Mapping[str, Sequence[int]],
        lang: Lang,
        ali_dir: Path,
        out_dir: Path,
        config: DeltasConfig,
    ) -> None:
        from kaldi_uq.engine.embedded.deltas import train

        train(feats, transcripts, lang, ali_dir, out_dir, config)

    def make_graph(
        self, lang: Lang, model_dir: Path, graph_dir: Path, *, transition_scale: float, self_loop_scale: float
    ) -> None:
        transitions, tree = load_model(model_dir)
        lexicon = read_fst(lang.path / "L_disambig.fst")
        grammar = read_fst(lang.path / "G.fst")
        graph = kaldifst.compose(lexicon, grammar)
        kaldifst.determinize_star(graph, use_log=True)
        kaldifst.minimize_encoded(graph)
        graph, ilabel_info = kaldifst.compose_context(
            list(lang.disambig), tree.context_width, tree.central_position, graph
        )
        kaldifst.arcsort(graph, sort_type="ilabel")
        options = khg.HTransducerConfig(transition_scale=transition_scale)
        h_transducer, disambig_tids = khg.get_h_transducer(ilabel_info, tree, transitions, options)
        kaldifst.arcsort(h_transducer, sort_type="olabel")
        graph = kaldifst.compose(h_transducer, graph)
        kaldifst.determinize_star(graph, use_log=True)
        symbols_to_epsilon(graph, set(disambig_tids))
        kaldifst.minimize_encoded(graph)
        if graph.num_states == 0:
            raise EngineError(f"{graph_dir}: the graph is empty: lexicon and grammar share no word; see {lang.path}")
        graph = khg.add_self_loops(
            self_loop_scale=self_loop_scale, disambig_syms=[], reorder=True, trans_model=transitions, ifst=graph
        )
        graph_dir.mkdir(parents=True, exist_ok=True)
        write_fst(graph, graph_dir / "HCLG.fst")
        write_text(graph_dir / "words.txt", (lang.path / "words.txt").read_text())
        write_text(graph_dir / "num_pdfs", f"{transitions.num_pdfs}\n")

    def decoder(self, model_dir: Path, graph_dir: Path, config: DecodeConfig) -> EmbeddedDecoder:
        return EmbeddedDecoder(model_dir, graph_dir, config)

    def aligner(self, model_dir: Path, lang: Lang, config: DecodeConfig) -> EmbeddedAligner:
        return EmbeddedAligner(model_dir, lang, config)

    def update_transitions(self, model_dir: Path, alignments: Iterable[np.ndarray], out_path: Path) -> None:
        table = read_transitions(model_dir / "final.mdl")
        cached, _ = load_model(model_dir)
        transitions = set_log_probs(cached, table.log_probs)
        wheels.update_transitions(transitions, alignments)
        write_model(out_path, with_log_probs(table, transitions))
