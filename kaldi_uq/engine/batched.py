"""Decoding and alignment of a batch where its scores are: what an engine finds with a beam that is wide enough."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.engine.base import Aligner
from kaldi_uq.engine.checks import nan_scores, wrong_scores
from kaldi_uq.engine.files import open_graph
from kaldi_uq.engine.graph_tables import GraphTables, graph_tables
from kaldi_uq.engine.viterbi import Paths, Viterbi, labels_of
from kaldi_uq.io.kaldi_model import TransitionTable

MAX_GRAPHS = 20_000  # training graphs that an aligner keeps, of some kilobytes each
# A search in batches looks at all of a graph in every frame, an engine at what is within its beam.  On a CPU they meet
# near 12,000 places of the tables (60 utterances, loops of words): a graph of the digits has 1,300.  A GPU takes more.
MAX_PLACES, CPU_PLACES = 1 << 16, 12_000
MAX_BYTES, CPU_BYTES = 1 << 29, 1 << 26  # of the tables of rows that are searched together


class BatchDecoder:
    """A decoder of one small graph.

    Args:
        graph: the graph.
        id_to_word: its output labels.
        table: the transition model.
        acwt: scale of the scores.
        device: where the scores are.
    """

    def __init__(
        self, graph: GraphTables, id_to_word: dict[int, str], table: TransitionTable, acwt: float, device: torch.device
    ) -> None:
        self._graph, self._id_to_word, self._num_pdfs, self._acwt = graph, id_to_word, table.num_pdfs, acwt
        self._viterbi = Viterbi([graph], device)

    @classmethod
    def open(cls, graph_dir: Path, table: TransitionTable, acwt: float, device: torch.device) -> BatchDecoder | None:
        """A decoder of ``HCLG.fst``; ``None`` if that is too large for a search in batches.

        Raises:
            EngineError: a file of the graph is missing or damaged.
        """
        opened = open_graph(graph_dir, table.num_tids)
        graph = graph_tables(opened.fst.content, table.tid_to_pdf, _by_device(device, MAX_PLACES, CPU_PLACES))
        return None if graph is None else cls(graph, opened.id_to_word, table, acwt, device)

    def decode(self, scores: Tensor, lengths: Sequence[int]) -> list[tuple[str, ...]]:
        """Words of each utterance, none where there is no path; ends in the middle of a word only if all paths do.

        Args:
            scores: (B, T, C), unscaled; what follows an utterance is not read.
            lengths: B numbers of frames, at least 1.

        Raises:
            EngineError: scores that are not those of the model's C pdfs.
        """
        scaled = _scaled(scores, self._acwt, self._num_pdfs)
        found: list[tuple[str, ...]] = []
        for rows in self._parts(lengths):
            sizes = lengths[rows]
            paths = self._viterbi.paths(scaled[: max(sizes), :, rows].index_select(1, self._viterbi.columns), sizes)
            _check(paths)
            texts = labels_of(self._graph, paths, sizes)
            found += [tuple(self._id_to_word[label] for label in text) for text in texts]
        return found

    def weights(self, paths: Sequence[np.ndarray]) -> list[float]:
        """What the graph adds to the scores along paths, in their unit; -inf: it has no such path to a final state.

        Args:
            paths: (T,) int64 pdfs each.
        """
        lengths = [len(path) for path in paths]
        whole = np.full((max(lengths, default=0), len(paths)), -1, np.int64)
        for row, path in enumerate(paths):
            whole[: len(path), row] = path
        classes = torch.from_numpy(whole).to(self._viterbi.columns.device)
        found: list[float] = []
        for rows in self._parts(lengths):
            beside = classes[: max(lengths[rows]), None, rows] != self._viterbi.columns[:, None]
            scores = torch.zeros(beside.shape, device=beside.device).masked_fill_(beside, -torch.inf)
            found += (self._viterbi.scores(scores, lengths[rows]) / self._acwt).tolist()
        return found

    def _parts(self, lengths: Sequence[int]) -> Iterator[slice]:
        if lengths:
            step = _rows_at_once(self._graph.weights.shape, max(lengths), self._viterbi.columns.device)
            yield from (slice(begin, begin + step) for begin in range(0, len(lengths), step))


class BatchAligner:
    """A forced aligner of the texts of a batch, which keeps the training graphs of the last ones.

    Args:
        aligner: makes the training graphs.
        table: the transition model.
        acwt: scale of the scores.
        device: where the scores are.
    """

    def __init__(self, aligner: Aligner, table: TransitionTable, acwt: float, device: torch.device) -> None:
        self._aligner, self._table, self._acwt, self._device = aligner, table, acwt, device
        self._max_places = _by_device(device, MAX_PLACES, CPU_PLACES)
        self._graph = functools.lru_cache(maxsize=MAX_GRAPHS)(self._compile)

    def _compile(self, words: tuple[int, ...]) -> GraphTables | None:
        fst = self._aligner.graph(words)
        return None if fst is None else graph_tables(fst, self._table.tid_to_pdf, self._max_places)

    def align(
        self, scores: Tensor, lengths: Sequence[int], texts: Sequence[tuple[int, Sequence[int]]]
    ) -> list[np.ndarray | None] | None:
        """Best paths of texts.

        Args:
            scores, lengths: as of :meth:`BatchDecoder.decode`.
            texts: the row of an utterance, and word-ids.

        Returns:
            (T,) int64 pdfs of each text, or ``None`` for one without a path; ``None`` alone: the engine hands out no
            graphs, or too large ones.

        Raises:
            EngineError: scores that are not those of the model's C pdfs, or a word that the lexicon lacks.
        """
        rows, known = [row for row, _ in texts], [self._graph(tuple(text)) for _, text in texts]
        graphs = [graph for graph in known if graph is not None]
        if len(graphs) < len(known):
            return None
        scaled = _scaled(scores, self._acwt, self._table.num_pdfs)
        found: list[np.ndarray | None] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: (len(graphs[i].columns), lengths[rows[i]]))  # less padding
        while order:
            largest = graphs[order[-1]].weights.shape
            step = _rows_at_once(largest, scores.shape[1], self._device)
            part, order = order[-step:], order[:-step]
            sizes = [lengths[rows[i]] for i in part]
            viterbi = Viterbi([graphs[i] for i in part], self._device)
            paths = viterbi.paths(_of_rows(scaled[: max(sizes)], viterbi.columns, [rows[i] for i in part]), sizes)
            _check(paths)
            for place, i in enumerate(part):
                if paths.reached_final[place]:
                    found[i] = paths.columns[: sizes[place], place].copy()
        return found


def _of_rows(scaled: Tensor, columns: Tensor, rows: Sequence[int]) -> Tensor:
    """Scores (T, S, R) by the columns (S,) or (S, R), of those of the utterances ``rows`` in (T, C, B)."""
    places = columns.view(len(columns), -1) * scaled.shape[2] + torch.tensor(rows, device=columns.device)
    return scaled.reshape(len(scaled), -1).index_select(1, places.view(-1)).view(len(scaled), *places.shape)


def _scaled(scores: Tensor, acwt: float, num_pdfs: int) -> Tensor:
    """Scores (B, T, C) as (T, C, B) float32, scaled."""
    if scores.shape[2] != num_pdfs:
        raise wrong_scores("a batch", tuple(scores.shape[1:]), num_pdfs, "final.mdl")
    return (scores.detach().float() * acwt).permute(1, 2, 0).contiguous()


def _check(paths: Paths) -> None:
    if np.isnan(paths.scores).any():
        raise nan_scores("a batch")


def _rows_at_once(shape: tuple[int, ...], num_frames: int, device: torch.device) -> int:
    """How many rows are searched together, for tables (S, D) of a graph."""
    size, width = shape
    needed = 32 * num_frames * size + 16 * size * width  # tables of all frames; steps, and sources of rows' own graphs
    return max(1, _by_device(device, MAX_BYTES, CPU_BYTES) // needed)


def _by_device(device: torch.device, largest: int, on_cpu: int) -> int:
    return on_cpu if device.type == "cpu" else largest
