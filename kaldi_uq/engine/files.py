"""The one place where engines open models, graphs and lexicons: Kaldi's code believes what it reads, whoever wrote it.

A file is there, is what was written, and is such that the C++ that gets it, in this process or another, neither crashes
nor goes on for ever.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kaldi_uq.errors import DataError, EngineError, KaldiUqError, ModelFileError
from kaldi_uq.io.digests import check_digest
from kaldi_uq.io.files import read_integers
from kaldi_uq.io.fst import FstArrays, read_fst_arrays
from kaldi_uq.io.fst_checks import Labels, graph_labels
from kaldi_uq.io.kaldi_model import TransitionTable, read_transitions
from kaldi_uq.io.lang import Lang, read_symbols
from kaldi_uq.io.tree import read_tree_bytes


def existing_files(
    folder: Path, *names: str, made_by: str = "utils/prepare_lang.sh", error: type[KaldiUqError] = EngineError
) -> list[str]:
    """Absolute paths of files of a directory.

    Args:
        folder: the directory.
        names: names of the files.
        made_by: what makes them, for the message.
        error: class of the error.

    Raises:
        KaldiUqError: ``error``, if a file is missing.
    """
    for path in (Path(folder) / name for name in names):
        if not path.is_file():
            raise error(f"{path}: no such file; {made_by} makes it")
    return [os.path.abspath(Path(folder) / name) for name in names]


@dataclass(frozen=True)
class ModelFiles:
    """``final.mdl`` and ``tree`` of a model, checked.

    Attributes:
        model, tree: absolute paths.
        transitions: the transition model.
        tree_bytes: the tree in its binary form, without the header.
    """

    model: str
    tree: str
    transitions: TransitionTable
    tree_bytes: bytes


@dataclass(frozen=True)
class FstFile:
    """A transducer, checked: its file, an absolute path, and its content."""

    path: str
    content: FstArrays


@dataclass(frozen=True)
class GraphFiles:
    """A decoding graph, checked, and the words of its output labels."""

    fst: FstFile
    id_to_word: dict[int, str]


def model_files(model_dir: Path) -> list[str]:
    """Absolute paths of ``final.mdl`` and ``tree``, whose content nobody has looked at.

    Raises:
        ModelFileError: one is missing, or is not what was written.
    """
    made_by = "steps/train_mono.sh or steps/train_deltas.sh"
    paths = existing_files(model_dir, "final.mdl", "tree", made_by=made_by, error=ModelFileError)
    for path in paths:
        check_digest(Path(path))
    return paths


def open_model(model_dir: Path) -> ModelFiles:
    """Open ``final.mdl`` and ``tree``.

    Raises:
        ModelFileError: one is missing, damaged, or not what was written.
    """
    model, tree = model_files(model_dir)
    return ModelFiles(model, tree, read_transitions(model), read_tree_bytes(tree))


def graph_files(graph_dir: Path) -> list[str]:
    """Absolute paths of ``HCLG.fst`` and ``words.txt``, whose content nobody has looked at.

    Raises:
        EngineError: one is missing, or is not what was written.
    """
    paths = existing_files(graph_dir, "HCLG.fst", "words.txt", made_by="utils/mkgraph.sh")
    for path in paths:
        check_digest(Path(path), EngineError)
    return paths


def check_num_pdfs(graph_dir: Path, model_dir: Path, num_pdfs: int) -> None:
    """Whether a graph is of a model, as far as ``num_pdfs`` of the graph tells, which not every graph has.

    Args:
        graph_dir: directory of the graph.
        model_dir: directory of the model, for the message.
        num_pdfs: pdfs of the model.

    Raises:
        EngineError: it is of another model: it would be searched without an error, for words that were not said.
        DataError: ``num_pdfs`` is no number.
    """
    path = Path(graph_dir) / "num_pdfs"
    if not path.is_file():
        return
    found = read_integers(path)
    if found != [num_pdfs]:
        of_graph = " ".join(map(str, found)) or "no number of"
        raise EngineError(
            f"{path}: the graph is of another model: it has {of_graph} pdfs, {model_dir} has {num_pdfs}; take the "
            "graph of this model, which steps/uq/train.sh or utils/mkgraph.sh makes"
        )


def open_graph(graph_dir: Path, num_tids: int) -> GraphFiles:
    """Open ``HCLG.fst`` and ``words.txt``.

    Args:
        graph_dir: the directory.
        num_tids: transition-ids of the model.

    Raises:
        EngineError: one is missing, damaged, or not what was written; or the graph is not of this model.
    """
    graph, words = graph_files(graph_dir)
    id_to_word = {index: word for word, index in read_symbols(words).items()}
    return GraphFiles(open_fst(Path(graph), *graph_labels(num_tids, id_to_word)), id_to_word)


def open_lexicon(lang: Lang, name: str = "L.fst") -> FstFile:
    """Open ``L.fst`` or ``L_disambig.fst``; errors are those of :func:`open_fst`."""
    return open_fst(lang.path / name, Labels(lang.phones.values(), "phones of phones.txt"), _words_of(lang))


def open_grammar(lang: Lang) -> FstFile:
    """Open ``G.fst``; errors are those of :func:`open_fst`."""
    return open_fst(lang.path / "G.fst", _words_of(lang), _words_of(lang))


def _words_of(lang: Lang) -> Labels:
    return Labels(lang.words.values(), "words of words.txt")


def open_fst(path: Path, inputs: Labels | None = None, outputs: Labels | None = None) -> FstFile:
    """Open an FST file, of type vector or const.

    Args:
        path: the file.
        inputs, outputs: what its labels can be; ``None``: anything.

    Raises:
        EngineError: missing, damaged, or made of something else.
    """
    if not path.is_file():
        raise EngineError(
            f"{path}: no such file; utils/prepare_lang.sh, utils/format_lm.sh or utils/mkgraph.sh makes it"
        )
    try:
        return FstFile(os.path.abspath(path), read_fst_arrays(path, inputs=inputs, outputs=outputs))
    except DataError as error:
        raise EngineError(str(error)) from None
