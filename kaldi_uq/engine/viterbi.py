"""The best paths of many utterances at once: a Viterbi search on the device that has the scores.

It has no beam, so that its path is the best there is.  A frame is a few kernels over all rows, whatever their number,
and nothing waits for the device until the paths are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.engine.search_graph import SearchGraph

Emissions = Callable[[int], Tensor]  # number of a frame -> the scores (S, R) of the states' columns in it


@dataclass(frozen=True)
class Paths:
    """The best path of each of R rows of up to T frames.

    Attributes:
        scores: (R,) float32, log-probabilities of weights and scores together; -inf: there is no path.
        reached_final: (R,) bool, whether the path ends in a final state; it does if any path can.
        columns: (T, R) int64, the columns of the scores along the path; of no meaning behind the end of a row.
        steps: (T, R) int64, places of the steps in the tables of the graph.
        last: (R,) int64, the last state.
    """

    scores: np.ndarray
    reached_final: np.ndarray
    columns: np.ndarray
    steps: np.ndarray
    last: np.ndarray


class Viterbi:
    """A search in one graph that all rows share, or in a graph for each row.

    Of equal paths the one is found that has, from its end on, the states of the lowest numbers: the graph decides.

    Args:
        graphs: one graph, or one a row.
        device: where the scores are.

    Attributes:
        columns: (S,) or (S, R) int64, the column of each state's score.
    """

    def __init__(self, graphs: Sequence[SearchGraph], device: torch.device) -> None:
        size = max(len(graph.columns) for graph in graphs)
        width = max(graph.weights.shape[1] for graph in graphs)
        self.size, self.width, self._is_shared = size, width, len(graphs) == 1

        def table(parts: list[np.ndarray], fill: float) -> Tensor:
            """(S, G) or (S, D, G): a row of the graphs at each place."""
            shape = (size, width)[: parts[0].ndim]
            whole = np.full((len(parts), *shape), fill, parts[0].dtype)
            for row, part in enumerate(parts):
                whole[row][tuple(map(slice, part.shape))] = part
            return torch.from_numpy(np.ascontiguousarray(np.moveaxis(whole, 0, -1))).to(device)

        sources = table([graph.sources for graph in graphs], 0).reshape(size * width, -1)
        columns = table([graph.columns for graph in graphs], 0)
        self._sources = sources[:, 0] if self._is_shared else sources  # (S * D,) or (S * D, R)
        self.columns = columns[:, 0] if self._is_shared else columns
        self._weights = table([graph.weights for graph in graphs], -np.inf)
        self._finals = table([graph.finals for graph in graphs], -np.inf)
        self._ends = table([graph.ends for graph in graphs], -np.inf)

    @torch.no_grad()
    def scores(self, emissions: Emissions, lengths: Sequence[int]) -> np.ndarray:
        """Log-probability of the best path of each row that ends in a final state, (R,) float32; -inf: there is none.

        The arguments are those of :meth:`paths`.
        """
        alive, alpha = self._alive(lengths), self._before(len(lengths))
        for frame, mask in enumerate(alive):
            best = self._steps(alpha).amax(1)
            alpha = _where(mask, best.add_(emissions(frame)), alpha)
        found: np.ndarray = (alpha + self._finals).amax(0).cpu().numpy()
        return found

    @torch.no_grad()
    def paths(self, emissions: Emissions, lengths: Sequence[int]) -> Paths:
        """The best path of each row.

        Args:
            emissions: the scores of a frame.
            lengths: R numbers of frames, each at least 1.
        """
        alive, alpha = self._alive(lengths), self._before(len(lengths))
        back = torch.empty((len(alive), *alpha.shape), dtype=torch.int16, device=alpha.device)
        for frame, mask in enumerate(alive):
            best, place = self._steps(alpha).max(1)  # of equal ones the first
            back[frame] = place
            alpha = _where(mask, best.add_(emissions(frame)), alpha)
        (final, state), (anywhere, other) = (alpha + self._finals).max(0), (alpha + self._ends).max(0)
        reached = final > -torch.inf
        score = torch.where(reached, final, anywhere)
        last = state = torch.where(reached, state, other)
        steps = torch.empty((len(alive), len(lengths)), dtype=torch.int64, device=alpha.device)
        for frame in range(len(alive) - 1, -1, -1):
            step = steps[frame] = state * self.width + back[frame].gather(0, state[None])[0]
            state = _where(alive[frame], self._at(self._sources, step), state)
        columns = self._at(self.columns, steps // self.width)
        found = (part.cpu().numpy() for part in (score, reached, columns, steps, last))
        return Paths(*found)

    def _before(self, rows: int) -> Tensor:
        """Log-probabilities (S, R) before the first frame."""
        alpha = torch.full((self.size, rows), -torch.inf, device=self._weights.device)
        alpha[0] = 0.0
        return alpha

    def _alive(self, lengths: Sequence[int]) -> list[Tensor | None]:
        """Which rows have a frame, (R,) bool for each of the longest row; ``None``: all."""
        shortest, longest = min(lengths), max(lengths)
        sizes = torch.tensor(lengths, device=self._weights.device)
        later = torch.arange(shortest, longest, device=sizes.device)[:, None] < sizes
        return [*[None] * shortest, *later]

    def _steps(self, alpha: Tensor) -> Tensor:
        """Log-probability of every step into every state, (S, D, R), before the scores of the frame."""
        before = alpha.index_select(0, self._sources) if self._is_shared else alpha.gather(0, self._sources)
        return before.view(self.size, self.width, -1).add_(self._weights)

    def _at(self, table: Tensor, places: Tensor) -> Tensor:
        """Values of a table (N,) or (N, R) at places (..., R)."""
        if self._is_shared:
            return table[places]
        return table.gather(0, places.view(-1, table.shape[1])).view(places.shape)


def _where(mask: Tensor | None, new: Tensor, old: Tensor) -> Tensor:
    """What is new in the rows that have the frame; the others stay as they are."""
    return new if mask is None else torch.where(mask, new, old)


def labels_of(graph: SearchGraph, paths: Paths, lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Output labels, without zeros, of paths through a graph that all rows share."""
    is_labelled = np.zeros(graph.weights.size, bool)
    is_labelled[list(graph.step_labels)] = True
    found: list[list[int]] = [[] for _ in lengths]
    inside = np.arange(len(paths.steps))[:, None] < np.asarray(lengths)
    for row, frame in zip(*np.nonzero((is_labelled[paths.steps] & inside).T), strict=True):
        found[row] += graph.step_labels[int(paths.steps[frame, row])]
    for row, (state, is_final) in enumerate(zip(paths.last.tolist(), paths.reached_final.tolist(), strict=True)):
        found[row] += (graph.final_labels if is_final else graph.end_labels).get(state, ())
    return [tuple(labels) for labels in found]
