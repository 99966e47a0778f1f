"""The decoding graph on the wheels, composed as by Kaldi's ``utils/mkgraph.sh``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import kaldifst

from kaldi_uq.engine.checks import grammar_files
from kaldi_uq.engine.embedded import wheels
from kaldi_uq.errors import EngineError
from kaldi_uq.io.files import write_text
from kaldi_uq.io.lang import Lang


def make_graph(lang: Lang, model_dir: Path, graph_dir: Path, transition_scale: float, self_loop_scale: float) -> None:
    """Compose ``HCLG.fst``; see :meth:`kaldi_uq.engine.base.SystemBuilder.make_graph`."""
    transitions, tree = wheels.load_model(model_dir)
    lexicon_path, grammar_path = map(Path, grammar_files(lang))
    lexicon = wheels.read_fst(lexicon_path, *wheels.lexicon_labels(lang))
    grammar = wheels.read_fst(grammar_path, wheels.word_labels(lang), wheels.word_labels(lang))
    graph = kaldifst.compose(lexicon, grammar)
    kaldifst.determinize_star(graph, use_log=True)
    kaldifst.minimize_encoded(graph)
    graph, ilabel_info = kaldifst.compose_context(list(lang.disambig), tree.context_width, tree.central_position, graph)
    kaldifst.arcsort(graph, sort_type="ilabel")
    options = khg.HTransducerConfig(transition_scale=transition_scale)
    h_transducer, disambig_tids = khg.get_h_transducer(ilabel_info, tree, transitions, options)
    kaldifst.arcsort(h_transducer, sort_type="olabel")
    graph = kaldifst.compose(h_transducer, graph)
    kaldifst.determinize_star(graph, use_log=True)
    _symbols_to_epsilon(graph, set(disambig_tids))
    kaldifst.minimize_encoded(graph)
    if graph.num_states == 0:
        raise EngineError(f"{graph_dir}: the graph is empty: lexicon and grammar share no word; see {lang.path}")
    graph = khg.add_self_loops(
        self_loop_scale=self_loop_scale, disambig_syms=[], reorder=True, trans_model=transitions, ifst=graph
    )
    graph_dir.mkdir(parents=True, exist_ok=True)
    wheels.write_fst(graph, graph_dir / "HCLG.fst")
    write_text(graph_dir / "words.txt", (lang.path / "words.txt").read_text())
    write_text(graph_dir / "num_pdfs", f"{transitions.num_pdfs}\n")


def _symbols_to_epsilon(fst: Any, symbols: set[int]) -> None:
    """Replace input symbols by epsilon in place (Kaldi's ``fstrmsymbols``)."""
    for state in range(fst.num_states):
        arcs = wheels.arcs_of(fst, state)
        if any(arc[0] in symbols for arc in arcs):
            wheels.set_arcs(fst, state, [(0 if arc[0] in symbols else arc[0], *arc[1:]) for arc in arcs])
