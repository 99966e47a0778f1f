"""Models, trees, graphs and FST files as objects of the wheels."""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import kaldifst
import numpy as np

from kaldi_uq.engine.checks import last_line, no_path
from kaldi_uq.engine.files import FstFile, graph_files, model_files, open_fst, open_graph, open_lexicon, open_model
from kaldi_uq.errors import EngineError, ModelFileError
from kaldi_uq.io.fst import ARC, FstArrays, vector_bytes
from kaldi_uq.io.kaldi_model import TransitionTable
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.tree import read_tree_bytes
from kaldi_uq.lattice.graph import SearchGraph


def compiler(transitions: Any, tree: Any, lang: Lang, transition_scale: float, self_loop_scale: float) -> Any:
    """A training graph compiler for the lexicon ``L.fst``."""
    options = khg.TrainingGraphCompilerOptions(transition_scale=transition_scale, self_loop_scale=self_loop_scale)
    lexicon = wheel_fst(open_lexicon(lang))
    return khg.TrainingGraphCompiler(transitions, tree, lexicon, list(lang.disambig), options)


def compile_graph(graph_compiler: Any, words: Sequence[int], lang: Lang) -> Any:
    """The training graph of a word sequence.

    Raises:
        EngineError: the lexicon cannot spell it.
    """
    try:
        return graph_compiler.compile_graph_from_text(list(words))
    except RuntimeError:  # the composition with the lexicon is empty
        raise no_path(lang, words) from None


def viterbi_align(utt: str, graph: Any, scaled: np.ndarray, beam: float, retry_beam: float) -> np.ndarray | None:
    """Align one utterance; ``None`` if no path reaches the end.

    Args:
        utt: name of the utterance, for the log.
        graph: training graph with transition probabilities.
        scaled: (T, num_transition_ids) float32 scaled log-likelihoods.
        beam, retry_beam: beams as in Kaldi; a retry_beam of 0 means no second pass.
    """
    config = khg.AlignConfig(beam=beam, retry_beam=retry_beam if retry_beam > beam else 0.0)
    done, *_, alignment, _words = khg.align_utterance_wrapper(
        config, utt, 1.0, graph, khg.DecodableCtc(scaled), 0, 0, 0, 0.0, 0
    )
    return np.asarray(alignment, dtype=np.int32) if done else None


def scaled_by_tid(loglikes: np.ndarray, tid_to_pdf: np.ndarray, acwt: float) -> np.ndarray:
    """Scores per transition-id, scaled: (T, num_transition_ids) float32, column ``tid - 1``."""
    scaled = np.take(loglikes, tid_to_pdf[1:], axis=1).astype(np.float32, copy=False)
    scaled *= np.float32(acwt)
    return scaled


def tid_to_pdf_array(transitions: Any) -> np.ndarray:
    """(num_transition_ids + 1,) int64: pdf-id of each transition-id; entry 0 is unused."""
    pdfs = [0] + [transitions.transition_id_to_pdf(t) for t in range(1, transitions.num_transition_ids + 1)]
    return np.asarray(pdfs, dtype=np.int64)


def update_transitions(transitions: Any, alignments: Iterable[np.ndarray]) -> None:
    """Maximum-likelihood update of the transition probabilities from transition-id counts, in place."""
    counts = np.zeros(transitions.num_transition_ids + 1)
    for alignment in alignments:
        counts += np.bincount(alignment, minlength=len(counts))
    transitions.mle_update(counts, khg.MleTransitionUpdateConfig())


def with_log_probs(table: TransitionTable, transitions: Any) -> TransitionTable:
    """The table with the log-probabilities of a transition model of the wheels."""
    return TransitionTable(table.topology, table.tuples, np.asarray(transitions.log_probs, dtype=np.float32))


def load_model(model_dir: Path) -> tuple[Any, Any]:
    """Transition model and tree of a model directory, cached while the files do not change: change a copy only."""
    model, tree = model_files(model_dir)
    return _load_model(model, tree, os.stat(model).st_mtime_ns, os.stat(tree).st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _load_model(model: str, tree: str, _model_time: int, _tree_time: int) -> tuple[Any, Any]:
    opened = open_model(Path(model).parent)
    table, dependency = opened.transitions, _wheel_tree(tree, opened.tree_bytes)
    topology = khg.HmmTopology()
    try:
        topology.read(table.topology.to_text())
        transitions = khg.TransitionModel(dependency, topology)
    except RuntimeError as error:
        raise ModelFileError(f"{model}: damaged, or not the model of {tree} ({last_line(error)})") from None
    state = list(transitions.__getstate__())
    tuples = tuple((*t.__getstate__(),) for t in state[0])
    if tuples != table.tuples:
        raise ModelFileError(f"{model}: its transition model does not belong to {tree}; take both from one directory")
    return set_log_probs(transitions, table.log_probs), dependency


def set_log_probs(transitions: Any, log_probs: np.ndarray) -> Any:
    """A transition model like the given one with these log-probabilities."""
    state = list(transitions.__getstate__())
    state[6] = [float(v) for v in log_probs]
    non_self_loop = [0.0] * (transitions.num_transition_states + 1)
    id_to_state = np.asarray(state[3])
    for tid in range(1, transitions.num_transition_ids + 1):
        if transitions.is_self_loop(tid):
            probability = np.exp(np.float64(log_probs[tid]))
            non_self_loop[int(id_to_state[tid])] = float(np.log(max(1.0 - probability, 1e-10)))
    state[7] = non_self_loop
    copy = khg.TransitionModel.__new__(khg.TransitionModel)
    copy.__setstate__(tuple(state))
    return copy


def read_tree(path: Path) -> Any:
    """Read a binary ``tree`` file."""
    return _wheel_tree(str(path), read_tree_bytes(path))


def _wheel_tree(path: str, data: bytes) -> Any:
    tree = khg.ContextDependency.__new__(khg.ContextDependency)
    try:
        tree.__setstate__((np.frombuffer(data, dtype=np.int8).tolist(),))
    except RuntimeError as error:
        raise ModelFileError(f"{path}: damaged tree ({last_line(error)})") from None
    return tree


def read_fst(path: Path) -> Any:
    """Read an FST file, of type vector or const, as a mutable FST; errors are those of :func:`wheel_fst`."""
    return wheel_fst(open_fst(path))


def wheel_fst(file: FstFile) -> Any:
    """A transducer as a mutable FST of the wheels, which see only what has been checked.

    Raises:
        EngineError: the wheels cannot read it.
    """
    path = Path(file.path)
    with tempfile.TemporaryDirectory(prefix="kaldi-uq-fst.") as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(vector_bytes(file.content))
        fst = kaldifst.StdVectorFst.read(str(copy))
    if fst is None:
        raise EngineError(f"{path}: the wheels cannot read this FST; make it again")
    return fst


def write_fst(fst: Any, path: Path) -> None:
    """Write an FST file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fst.", suffix=".tmp") as folder:
        temporary = Path(folder) / path.name
        if not fst.write(str(temporary)):
            raise EngineError(f"{path}: cannot write the FST; is the disk full?")
        os.replace(temporary, path)


@dataclass(frozen=True)
class Graph:
    """A decoding graph whose input labels are pdf-ids plus 1, so that scores need one column a pdf.

    Attributes:
        fst: its output labels are the numbers of the arcs, from 1; 0 for one with neither transition-id nor word.
        tids, words: transition-id and word of the arc with a number, (arcs + 1,) int32; 0: none.
        id_to_word: integer -> word.
    """

    fst: Any
    tids: np.ndarray
    words: np.ndarray
    id_to_word: dict[int, str]

    def texts(self, labels: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        """The words of the output labels of a path."""
        words = self.words[np.asarray(labels, np.int64)]
        return tuple(self.id_to_word[word] for word in words[words > 0].tolist())

    def alignment(self, labels: Sequence[int]) -> np.ndarray:
        """The transition-ids (T,) int32 of the output labels of a path."""
        tids = self.tids[np.asarray(labels, np.int64)]
        return tids[tids > 0].astype(np.int32)


def load_graph(graph_dir: Path, tid_to_pdf: np.ndarray) -> Graph:
    """``HCLG.fst`` and ``words.txt``, cached while the files do not change.

    Args:
        graph_dir: the directory.
        tid_to_pdf: pdf of each transition-id of the model, see :func:`tid_to_pdf_array`.
    """
    graph, words = graph_files(graph_dir)
    return _load_graph(graph, words, tid_to_pdf.tobytes(), os.stat(graph).st_mtime_ns, os.stat(words).st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _load_graph(graph: str, _words: str, tid_to_pdf: bytes, *_times: int) -> Graph:
    pdfs = np.frombuffer(tid_to_pdf, np.int64)
    opened = open_graph(Path(graph).parent, len(pdfs) - 1)
    arcs = opened.fst.content.arcs.copy()
    tids, words = (np.append(0, arcs[label]).astype(np.int32) for label in ("ilabel", "olabel"))
    arcs["olabel"] = np.where((arcs["ilabel"] > 0) | (arcs["olabel"] > 0), np.arange(1, len(arcs) + 1), 0)
    arcs["ilabel"] = np.where(arcs["ilabel"] > 0, pdfs[arcs["ilabel"]] + 1, 0)
    fst = wheel_fst(FstFile(graph, dataclasses.replace(opened.fst.content, arcs=arcs)))
    return Graph(fst, tids, words, opened.id_to_word)


def load_search_graph(graph_dir: Path, tid_to_pdf: np.ndarray) -> SearchGraph:
    """The same graph for the search of lattices, which the wheels keep to themselves.

    Args:
        graph_dir, tid_to_pdf: as of :func:`load_graph`.
    """
    return SearchGraph.of(open_graph(graph_dir, len(tid_to_pdf) - 1).fst.content, tid_to_pdf)


def labels_of(fst: Any) -> list[int]:
    """The input labels of an FST, each once, without epsilon."""
    labels = {arc.ilabel for state in range(fst.num_states) for arc in kaldifst.ArcIterator(fst, state)}
    return sorted(labels - {0})


def arcs_of(fst: Any, state: int) -> list[tuple[int, int, Any, int]]:
    """Input label, output label, weight and next state of the arcs of a state."""
    return [(a.ilabel, a.olabel, a.weight, a.nextstate) for a in kaldifst.ArcIterator(fst, state)]


def arrays_of(fst: Any) -> FstArrays:
    """A small FST as arrays."""
    arcs = [arcs_of(fst, state) for state in range(fst.num_states)]
    rows = [(ilabel, olabel, weight.value, to) for of_state in arcs for ilabel, olabel, weight, to in of_state]
    finals = np.array([fst.final(state).value for state in range(fst.num_states)], np.float32)
    offsets = np.cumsum([0, *map(len, arcs)], dtype=np.int64)
    return FstArrays(int(fst.start), finals, offsets, np.array(rows, ARC))


def set_arcs(fst: Any, state: int, arcs: Sequence[tuple[int, int, Any, int]]) -> None:
    """Replace the arcs of a state by as many others, in place."""
    fst.delete_arcs(state, len(arcs))
    for arc in arcs:
        fst.add_arc(state, kaldifst.StdArc(*arc))


def number_labels(fst: Any) -> np.ndarray:
    """Number the input labels of a small FST from 1, in place; returns what they were, (n,) int32 ascending."""
    arcs = [arcs_of(fst, state) for state in range(fst.num_states)]
    labels = sorted({arc[0] for of_state in arcs for arc in of_state} - {0})
    number = {label: index for index, label in enumerate([0, *labels])}
    for state, of_state in enumerate(arcs):
        set_arcs(fst, state, [(number[arc[0]], *arc[1:]) for arc in of_state])
    return np.asarray(labels, dtype=np.int32)
