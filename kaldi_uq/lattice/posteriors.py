"""How sure a lattice is: posteriors of its arcs, entropy of its paths, confidence of words, depth.

All of it takes a forward and a backward pass over the lattice, level by level: of a deterministic lattice of a few
hundred arcs a few milliseconds.

``lattice_entropy``          entropy of the paths, nats a frame
``lattice_depth``            arcs that cross a frame on average
``mean_word_uncertainty``    1 minus the mean confidence of the words that are heard; 0 if none is
``max_word_uncertainty``     1 minus the confidence of the least certain word

In a deterministic lattice a path is a word sequence, so that its entropy is that of what was said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kaldi_uq.io.lattice import Lattice
from kaldi_uq.lattice.names import LATTICE_STATISTICS as LATTICE_STATISTICS
from kaldi_uq.lattice.paths import best_arcs

NO_LATTICE = dict(zip(LATTICE_STATISTICS, (0.0, 0.0, 1.0, 1.0), strict=True))  # of an utterance without any path


@dataclass(frozen=True)
class Posteriors:
    """Where the paths of a lattice go; a path has the probability exp(-cost) over the sum of all paths.

    Attributes:
        arcs: probability that a path takes an arc, (A,) float64.
        ends: probability that a path ends in a state, (S,) float64.
        entropy: entropy of the paths, nats.
        log_total: logarithm of the sum of exp(-cost) over all paths.
    """

    arcs: np.ndarray
    ends: np.ndarray
    entropy: float
    log_total: float

    @classmethod
    def of(cls, lattice: Lattice) -> Posteriors:
        """Posteriors of a lattice whose costs are scaled as they are meant.

        The entropy is a sum over the choices of a path, each weighted by the probability of making it: the chain rule,
        with neither differences of large numbers nor an enumeration.

        Raises:
            ValueError: no path reaches an end.

        Source: Hernando, Crespi, Cybenko, Efficient computation of the hidden Markov model entropy for a given
        observation sequence, IEEE Trans. Information Theory 51(7), 2005; the same from an expectation semiring: Li,
        Eisner, First- and second-order expectation semirings, EMNLP 2009.
        """
        weights = -lattice.costs.sum(1)
        ends = -lattice.finals.sum(1)  # -inf: no end
        backward = ends.copy()
        for arcs in reversed(lattice.levels):
            through = weights[arcs] + backward[lattice.destinations[arcs]]
            np.logaddexp.at(backward, lattice.sources[arcs], through)
        if lattice.start < 0 or not np.isfinite(backward[lattice.start]):
            raise ValueError("no path of the lattice reaches an end")
        alive = np.isfinite(backward)
        stop = np.where(alive, ends, -np.inf) - np.where(alive, backward, 0.0)  # log P(end | state)
        go = np.full(lattice.num_arcs, -np.inf)  # log P(arc | its source)
        used = alive[lattice.destinations]
        go[used] = (weights + backward[lattice.destinations])[used] - backward[lattice.sources[used]]
        visits = np.zeros(lattice.num_states)
        visits[lattice.start] = 1.0
        for arcs in lattice.levels:
            np.add.at(visits, lattice.destinations[arcs], visits[lattice.sources[arcs]] * np.exp(go[arcs]))
        taken, ended = visits[lattice.sources] * np.exp(go), visits * np.exp(stop)
        entropy = _information(taken, go) + _information(ended, stop)
        return cls(taken, ended, max(0.0, entropy), float(backward[lattice.start]))


def _information(probabilities: np.ndarray, logs: np.ndarray) -> float:
    some = probabilities > 0
    return -float(probabilities[some] @ logs[some])


def state_times(lattice: Lattice) -> np.ndarray:
    """Frames from the start to each state, (S,) int64, -1 for a state that no path from the start reaches.

    Raises:
        ValueError: two paths to a state have different lengths.
    """
    times = np.full(lattice.num_states, -1, dtype=np.int64)
    times[lattice.start] = 0
    lengths = lattice.lengths[: lattice.num_arcs]
    for arcs in lattice.levels:
        arcs = arcs[times[lattice.sources[arcs]] >= 0]
        np.maximum.at(times, lattice.destinations[arcs], times[lattice.sources[arcs]] + lengths[arcs])
    reached = times[lattice.sources] >= 0
    if (times[lattice.sources] + lengths != times[lattice.destinations])[reached].any():
        raise ValueError("two paths to a state of the lattice have different numbers of frames")
    return times


@dataclass(frozen=True)
class Word:
    """A word of the best path.

    Attributes:
        word: the word, an integer.
        start, end: its first frame and the one behind its last, as the arcs of the lattice have them: words and frames
            of a deterministic lattice need not be aligned exactly.
        confidence: probability of the word, 0 to 1.
    """

    word: int
    start: int
    end: int
    confidence: float


def word_confidences(lattice: Lattice, posteriors: Posteriors) -> list[Word]:
    """The words of the best path with their confidences.

    The confidence of a word is the probability that it is spoken at a frame, at the frame where that is highest: the
    sum over the arcs with the word that cross the frame.

    Args:
        lattice: with costs that are scaled as they are meant.
        posteriors: its posteriors.

    Source: Wessel, Schlüter, Macherey, Ney, Confidence measures for large vocabulary continuous speech recognition,
    IEEE Trans. Speech and Audio Processing 9(3), 2001: the measure C_max.
    """
    times, lengths = state_times(lattice), lattice.lengths
    starts = times[lattice.sources]
    ends = np.maximum(starts + lengths[: lattice.num_arcs], starts + 1)  # an arc without a frame crosses the next one
    found = []
    for arc in best_arcs(lattice):
        word, start, end = int(lattice.words[arc]), int(starts[arc]), int(ends[arc])
        if not word:
            continue
        same = (lattice.words == word) & (starts >= 0) & (starts < end) & (ends > start)
        change = np.zeros(end - start + 1)
        np.add.at(change, np.maximum(starts[same] - start, 0), posteriors.arcs[same])
        np.subtract.at(change, np.minimum(ends[same], end) - start, posteriors.arcs[same])
        confidence = float(np.cumsum(change)[:-1].max())
        found.append(Word(word, start, end, min(1.0, max(0.0, confidence))))
    return found


def depth(lattice: Lattice) -> float:
    """Arcs that cross a frame on average: at least 1 where every arc lies on a path.

    Source: Kaldi ``src/lat/lattice-functions.cc`` (CompactLatticeDepth), as ``lattice-depth`` prints it.
    """
    num_frames = _num_frames(lattice)
    return float(lattice.lengths.sum() / num_frames) if num_frames else 1.0


def _num_frames(lattice: Lattice) -> int:
    times, last = state_times(lattice), lattice.lengths[lattice.num_arcs :]
    ends = np.isfinite(lattice.finals).all(1) & (times >= 0)
    return int((times + last)[ends].max(initial=0))


def lattice_statistics(lattice: Lattice, acwt: float) -> dict[str, float]:
    """The statistics of this module of one utterance; higher is less certain.

    Args:
        lattice: with unscaled costs, as its archive has them.
        acwt: scale of the acoustic costs.

    Raises:
        ValueError: no path reaches an end, or its paths have different numbers of frames.
    """
    lattice = lattice.scaled(acoustic=acwt)
    posteriors = Posteriors.of(lattice)
    doubts = [1.0 - word.confidence for word in word_confidences(lattice, posteriors)] or [0.0]
    values = (posteriors.entropy / max(1, _num_frames(lattice)), depth(lattice), float(np.mean(doubts)), max(doubts))
    return dict(zip(LATTICE_STATISTICS, values, strict=True))
