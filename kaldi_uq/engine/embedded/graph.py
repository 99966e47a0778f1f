"""The decoding graph on the wheels, composed as by Kaldi's ``utils/mkgraph.sh``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import kaldifst

from kaldi_uq.engine.checks import last_line
from kaldi_uq.engine.embedded import wheels
from kaldi_uq.engine.files import open_grammar, open_lexicon
from kaldi_uq.errors import EngineError
from kaldi_uq.io.digests import recorded
from kaldi_uq.io.files import write_text
from kaldi_uq.io.lang import Lang

# A lexicon whose homophones have no disambiguation symbols has no deterministic form: its determinisation would go on
# until the memory is full.  Others end near the number of states that they began with.
MAX_GROWTH, MIN_LIMIT = 10, 10_000  # states


def make_graph(lang: Lang, model_dir: Path, graph_dir: Path, transition_scale: float, self_loop_scale: float) -> None:
    """Compose ``HCLG.fst``; see :meth:`kaldi_uq.engine.base.SystemBuilder.make_graph`."""
    try:
        graph, num_pdfs = _compose(lang, model_dir, transition_scale, self_loop_scale)
    except RuntimeError as error:
        raise EngineError(
            f"{graph_dir}: lexicon and grammar of {lang.path} and model of {model_dir} do not fit each other "
            f"({last_line(error)})"
        ) from None
    if graph.num_states == 0:
        raise EngineError(f"{graph_dir}: the graph is empty: lexicon and grammar share no word; see {lang.path}")
    with recorded(graph_dir, "HCLG.fst", "words.txt"):
        wheels.write_fst(graph, graph_dir / "HCLG.fst")
        write_text(graph_dir / "words.txt", (lang.path / "words.txt").read_text(encoding="utf-8"))
    write_text(graph_dir / "num_pdfs", f"{num_pdfs}\n")


def _compose(lang: Lang, model_dir: Path, transition_scale: float, self_loop_scale: float) -> tuple[Any, int]:
    """The graph, and the number of pdfs of the model."""
    transitions, tree = wheels.load_model(model_dir)
    lexicon_file = open_lexicon(lang, "L_disambig.fst")
    lexicon, grammar = wheels.wheel_fst(lexicon_file), wheels.wheel_fst(open_grammar(lang))
    lexicon_path = Path(lexicon_file.path)
    graph = kaldifst.compose(lexicon, grammar)
    _determinize(graph, lexicon_path)
    kaldifst.minimize_encoded(graph)
    graph, ilabel_info = kaldifst.compose_context(list(lang.disambig), tree.context_width, tree.central_position, graph)
    kaldifst.arcsort(graph, sort_type="ilabel")
    options = khg.HTransducerConfig(transition_scale=transition_scale)
    h_transducer, disambig_tids = khg.get_h_transducer(ilabel_info, tree, transitions, options)
    kaldifst.arcsort(h_transducer, sort_type="olabel")
    graph = kaldifst.compose(h_transducer, graph)
    _determinize(graph, lexicon_path)
    _symbols_to_epsilon(graph, set(disambig_tids))
    kaldifst.minimize_encoded(graph)
    if graph.num_states:
        graph = khg.add_self_loops(
            self_loop_scale=self_loop_scale, disambig_syms=[], reorder=True, trans_model=transitions, ifst=graph
        )
    return graph, int(transitions.num_pdfs)


def _determinize(graph: Any, lexicon: Path) -> None:
    """Remove epsilons and make the graph deterministic, in place."""
    limit = MIN_LIMIT + MAX_GROWTH * graph.num_states
    try:
        kaldifst.determinize_star(graph, max_states=limit, use_log=True)
    except RuntimeError as error:
        raise EngineError(
            f"{lexicon}: no deterministic graph comes of it and G.fst ({last_line(error)}): each word needs a "
            "pronunciation of its own, by disambiguation symbols; make it again with utils/prepare_lang.sh"
        ) from None


def _symbols_to_epsilon(fst: Any, symbols: set[int]) -> None:
    """Replace input symbols by epsilon in place (Kaldi's ``fstrmsymbols``)."""
    for state in range(fst.num_states):
        arcs = wheels.arcs_of(fst, state)
        if any(arc[0] in symbols for arc in arcs):
            wheels.set_arcs(fst, state, [(0 if arc[0] in symbols else arc[0], *arc[1:]) for arc in arcs])
