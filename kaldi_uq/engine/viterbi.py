"""The best paths of many utterances at once: a Viterbi search on the device that has the scores.

It has no beam, so that its path is the best there is.  A frame is four kernels over all rows forwards and one back,
whatever their number, and nothing waits for the device until the paths are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.engine.graph_tables import GraphTables


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

    def __init__(self, graphs: Sequence[GraphTables], device: torch.device) -> None:
        size = max(len(graph.columns) for graph in graphs)
        width = max(graph.weights.shape[1] for graph in graphs)
        self.size, self.width, self._is_shared = size, width, len(graphs) == 1

        def table(parts: list[np.ndarray], fill: float) -> Tensor:
            """Tables of all graphs as one, (S, G) or (S, D, G)."""
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
    def scores(self, emissions: Tensor, lengths: Sequence[int]) -> np.ndarray:
        """Log-probability of the best path of each row that ends in a final state, (R,) float32; -inf: there is none.

        The arguments are those of :meth:`paths`.
        """
        ends = self._ends_of(self._forwards(emissions, None), lengths)
        found: np.ndarray = (ends + self._finals).amax(0).cpu().numpy()
        return found

    @torch.no_grad()
    def paths(self, emissions: Tensor, lengths: Sequence[int]) -> Paths:
        """The best path of each row.

        Args:
            emissions: (T, S, R) float32, the score of each state's column in each frame; not read behind a row.
            lengths: R numbers of frames, the largest of them T.
        """
        steps = torch.empty(emissions.shape, dtype=torch.int64, device=emissions.device)  # the best into each state
        ends = self._ends_of(self._forwards(emissions, steps), lengths)
        steps += self.width * torch.arange(self.size, device=steps.device)[:, None]
        (final, state), (anywhere, other) = (ends + self._finals).max(0), (ends + self._ends).max(0)
        reached = final > -torch.inf
        score, last = torch.where(reached, final, anywhere), torch.where(reached, state, other)
        states = self._back(self._at(self._sources, steps), last, lengths)
        along = steps.gather(1, states)[:, 0]
        columns = self._at(self.columns, states)[:, 0]
        return Paths(*(part.cpu().numpy() for part in (score, reached, columns, along, last)))

    def _forwards(self, emissions: Tensor, back: Tensor | None) -> Tensor:
        """Log-probabilities (T + 1, S, R) of the states before and behind each frame.

        Args:
            emissions: as of :meth:`paths`.
            back: (T, S, R) int64 to be filled with the best step into each state, the first of equal ones.
        """
        num_frames, size, rows = emissions.shape
        alphas = emissions.new_full((num_frames + 1, size, rows), -torch.inf)
        alphas[0, 0] = 0.0
        before = emissions.new_empty((size * self.width, rows))
        steps, best = before.view(size, self.width, rows), emissions.new_empty((size, rows))
        alpha, *later = alphas.unbind()
        for frame, (new, scores) in enumerate(zip(later, emissions.unbind(), strict=True)):
            if self._is_shared:
                torch.index_select(alpha, 0, self._sources, out=before)
            else:
                torch.gather(alpha, 0, self._sources, out=before)
            steps += self._weights
            if back is None:
                torch.amax(steps, 1, out=best)
            else:
                torch.max(steps, 1, out=(best, back[frame]))
            torch.add(best, scores, out=new)
            alpha = new
        return alphas

    def _ends_of(self, alphas: Tensor, lengths: Sequence[int]) -> Tensor:
        """Log-probabilities (S, R) behind the last frame of each row."""
        sizes, rows = torch.tensor(lengths, device=alphas.device), torch.arange(len(lengths), device=alphas.device)
        return alphas[sizes, :, rows].T

    def _back(self, sources: Tensor, last: Tensor, lengths: Sequence[int]) -> Tensor:
        """States (T, 1, R) behind each frame, of the best sources (T, S, R) and the last states (R,)."""
        num_frames, size, rows = sources.shape
        sizes, frames = torch.tensor(lengths, device=last.device), torch.arange(num_frames, device=last.device)
        is_over = (frames[:, None] >= sizes)[:, None]
        sources = torch.where(is_over, torch.arange(size, device=last.device)[:, None], sources)  # stays where it is
        states = last.new_empty((num_frames, 1, rows))
        states[-1] = last
        views, froms = states.unbind(), sources.unbind()
        for frame in range(num_frames - 1, 0, -1):
            torch.gather(froms[frame], 0, views[frame], out=views[frame - 1])
        return states

    def _at(self, table: Tensor, places: Tensor) -> Tensor:
        """Values of a table (N,) or (N, R) at places (..., R)."""
        if self._is_shared:
            return table[places]
        return table.gather(0, places.reshape(-1, table.shape[1])).view(places.shape)


def labels_of(graph: GraphTables, paths: Paths, lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Output labels, without zeros, of paths through a graph that all rows share; none where there is no path."""
    is_labelled = np.zeros(graph.weights.size, bool)
    is_labelled[list(graph.step_labels)] = True
    found: list[list[int]] = [[] for _ in lengths]
    inside = np.arange(len(paths.steps))[:, None] < np.asarray(lengths)
    for row, frame in zip(*np.nonzero((is_labelled[paths.steps] & inside).T), strict=True):
        found[row] += graph.step_labels[int(paths.steps[frame, row])]
    for row, (state, is_final) in enumerate(zip(paths.last.tolist(), paths.reached_final.tolist(), strict=True)):
        found[row] += (graph.final_labels if is_final else graph.end_labels).get(state, ())
    return [tuple(labels) if paths.scores[row] > -np.inf else () for row, labels in enumerate(found)]
