"""An exact Viterbi search in NumPy, vectorised over the arcs of a graph: what a careful page of code does.

It has no beam, so that its best path is the best there is.
"""

from __future__ import annotations

import numpy as np

from kaldi_uq.io.fst import FstArrays


class ViterbiGraph:
    """A decoding or training graph whose input labels are columns of scores, counted from 1; 0 takes no frame.

    Args:
        fst: the graph.
        column: (labels + 1,) int64, the column of the scores of each label.
    """

    def __init__(self, fst: FstArrays, column: np.ndarray) -> None:
        self.start, self.finals = fst.start, -fst.finals.astype(np.float64)
        source = np.repeat(np.arange(len(fst.finals)), np.diff(fst.offsets))
        order = np.argsort(fst.arcs["nextstate"], kind="stable")
        self.source, self.arcs = source[order], fst.arcs[order]
        is_silent = self.arcs["ilabel"] == 0
        self.emitting, self.silent = np.flatnonzero(~is_silent), np.flatnonzero(is_silent)
        self.column = column[self.arcs["ilabel"]]
        self.weight = -self.arcs["weight"].astype(np.float64)

    def search(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best path through scores (T, C).

        Returns:
            input labels (T,), and output labels without zeros.
        """
        best = np.full(len(self.finals), -np.inf)
        best[self.start] = 0.0
        trace = [self._follow_silent(best)]
        for row in scores.astype(np.float64):
            back = np.full(len(best), -1)
            new = np.full(len(best), -np.inf)
            self._relax(best, new, back, self.emitting, row[self.column[self.emitting]])
            best = new
            trace += [back, self._follow_silent(best)]
        return self._path(int(np.argmax(best + self.finals)), trace)

    def _relax(self, old: np.ndarray, new: np.ndarray, back: np.ndarray, arcs: np.ndarray, values: np.ndarray) -> bool:
        """Take arcs, each with a value, from scores ``old`` to ``new`` where that is better; whether it ever was."""
        ahead = old[self.source[arcs]] + self.weight[arcs] + values
        to = self.arcs["nextstate"][arcs]
        first = np.flatnonzero(np.diff(to, prepend=-1))
        if not len(first):
            return False
        most = np.maximum.reduceat(ahead, first)
        states = to[first]
        better = most > new[states]
        reach = np.full(len(new), np.inf)
        reach[states[better]] = most[better]
        winners = arcs[ahead == reach[to]]
        back[self.arcs["nextstate"][winners]] = winners
        new[states[better]] = most[better]
        return bool(better.any())

    def _follow_silent(self, best: np.ndarray) -> np.ndarray:
        """Follow arcs that take no frame until nothing gets better; returns the arc into each state, or -1."""
        back = np.full(len(best), -1)
        while self._relax(best, best, back, self.silent, np.zeros(len(self.silent))):
            pass
        return back

    def _path(self, state: int, trace: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        inputs, outputs = [], []
        for number in range(len(trace) - 1, -1, -1):
            is_silent = number % 2 == 0
            arc = trace[number][state]
            while arc >= 0:
                inputs.append(self.arcs["ilabel"][arc])
                outputs.append(self.arcs["olabel"][arc])
                state = int(self.source[arc])
                if not is_silent:
                    break
                arc = trace[number][state]
        labels, words = np.array(inputs[::-1]), np.array(outputs[::-1])
        return labels[labels > 0], words[words > 0]
