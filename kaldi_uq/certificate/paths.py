"""Best paths through a decoding graph: of all, of given words, or of any other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.digests import check_digest
from kaldi_uq.io.fst import FstArrays, read_fst_arrays
from kaldi_uq.io.fst_checks import graph_labels
from kaldi_uq.io.kaldi_model import read_transitions
from kaldi_uq.io.lang import read_symbols


@dataclass(frozen=True)
class BestPath:
    """The best path of all.

    Attributes:
        words: what it writes.
        pdfs: the pdf of each frame, (T,) int64.
        score: its score.
    """

    words: tuple[str, ...]
    pdfs: np.ndarray
    score: float


class GraphPaths:
    """Exact Viterbi search, without a beam, over the paths of ``HCLG.fst`` that end in a final state.

    Args:
        model_dir: directory of ``final.mdl``, for the pdf of each transition-id.
        graph_dir: directory of ``HCLG.fst`` and ``words.txt``.
    """

    def __init__(self, model_dir: Path, graph_dir: Path) -> None:
        self._path = graph_dir / "words.txt"
        self._ids = read_symbols(self._path)
        self._pdfs = read_transitions(model_dir / "final.mdl").tid_to_pdf
        for name in ("HCLG.fst", "words.txt"):
            check_digest(graph_dir / name)
        inputs, outputs = graph_labels(len(self._pdfs) - 1, self._ids.values())
        self._fst = read_fst_arrays(graph_dir / "HCLG.fst", inputs=inputs, outputs=outputs)

    def best(self, scores: np.ndarray) -> BestPath | None:
        """The best path.

        Args:
            scores: (T, C) float64, scaled.

        Returns:
            ``None`` if no path of so many frames reaches a final state.
        """
        search = _Search(self._fst, self._pdfs, None)
        before = search.forward(scores)
        ends = before[-1] + search.finals
        state, score = int(ends.argmax()), float(ends.max())
        if score == -np.inf:
            return None
        names = {index: word for word, index in self._ids.items()}
        words: list[str] = []
        pdfs = np.zeros(len(scores), np.int64)
        frame = len(scores)
        while frame or state != search.start:
            arc = search.best_arc(before, scores, frame, state)
            words += [names[search.output[arc]]] if search.output[arc] else []
            if search.heard[arc]:
                frame -= 1
                pdfs[frame] = search.pdf[arc]
            state = int(search.source[arc])
        return BestPath(tuple(reversed(words)), pdfs, score)

    def of_words(self, scores: np.ndarray, words: Sequence[str]) -> float:
        """The best score of a path that writes these words; minus infinity if there is none."""
        return self._score(scores, words)[-2]

    def of_others(self, scores: np.ndarray, words: Sequence[str]) -> float:
        """The best score of a path that writes anything but these words; minus infinity if there is none."""
        ends = self._score(scores, words)
        return float(np.delete(ends, -2).max())

    def _score(self, scores: np.ndarray, words: Sequence[str]) -> np.ndarray:
        """The best score of paths that wrote the first k of these words, for each k, and of those that did not."""
        unknown = [word for word in words if word not in self._ids]
        if unknown:
            raise DataError(f"{self._path}: no word {unknown[0]!r}, which a certificate is asked for")
        search = _Search(self._fst, self._pdfs, [self._ids[word] for word in words])
        ends = search.forward(scores, keep=False)[-1] + search.finals
        return ends.reshape(len(words) + 2, -1).max(1)


class _Search:
    """The arcs of a graph, once for each state of the words: the first k of them are written, or other ones."""

    def __init__(self, fst: FstArrays, pdfs: np.ndarray, words: Sequence[int] | None) -> None:
        num_states, size = len(fst.finals), 1 if words is None else len(words) + 2
        place, label = np.arange(size)[:, None], fst.arcs["olabel"][None]
        following = np.broadcast_to(place, (size, label.shape[1]))
        if words is not None:
            expected = np.array([*words, -1, -1])[:, None]  # behind the last word none is right
            following = np.where(label == 0, place, np.where(label == expected, place + 1, size - 1))
        source = np.repeat(np.arange(num_states), np.diff(fst.offsets)) + num_states * place
        target = fst.arcs["nextstate"] + num_states * following
        arcs = np.broadcast_to(fst.arcs, source.shape).ravel()
        order = np.argsort(target.ravel(), kind="stable")
        self.source, self.target, arcs = source.ravel()[order], target.ravel()[order], arcs[order]
        self.weight, self.output = -arcs["weight"].astype(np.float64), arcs["olabel"]
        self.heard, self.pdf = arcs["ilabel"] > 0, pdfs[arcs["ilabel"]]
        self.finals = np.tile(-fst.finals.astype(np.float64), size)
        self.start = fst.start

    def forward(self, scores: np.ndarray, *, keep: bool = True) -> list[np.ndarray]:
        """Best scores of the states before each frame and after the last; without ``keep`` only these."""
        heard, silent = np.flatnonzero(self.heard), np.flatnonzero(~self.heard)
        source, pdf, weight = self.source[heard], self.pdf[heard], self.weight[heard]
        targets, first = np.unique(self.target[heard], return_index=True)
        current = np.full(len(self.finals), -np.inf)
        current[self.start] = 0.0
        history = [self._without_frames(current, silent)]
        for frame in scores:
            values = history[-1][source] + weight + frame[pdf]
            current = np.full(len(self.finals), -np.inf)
            current[targets] = np.maximum.reduceat(values, first)
            current = self._without_frames(current, silent)
            if keep:
                history.append(current)
            else:
                history = [current]
        return history

    def _without_frames(self, current: np.ndarray, silent: np.ndarray) -> np.ndarray:
        """Follow arcs that take no frame, as long as that helps."""
        while len(silent):
            better = current.copy()
            np.maximum.at(better, self.target[silent], current[self.source[silent]] + self.weight[silent])
            if np.array_equal(better, current):
                break
            current = better
        return current

    def best_arc(self, before: list[np.ndarray], scores: np.ndarray, frame: int, state: int) -> int:
        """The arc by which the best path comes into a state before a frame, or after the last."""
        low, high = np.searchsorted(self.target, [state, state + 1])
        arcs = np.arange(low, high)
        silent = before[frame][self.source[arcs]]
        heard = before[frame - 1][self.source[arcs]] + scores[frame - 1][self.pdf[arcs]] if frame else -np.inf
        return int(arcs[(np.where(self.heard[arcs], heard, silent) + self.weight[arcs]).argmax()])
