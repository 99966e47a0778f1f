"""What a recogniser makes of audio: statistics, measures and scores of frames; of long audio stretch by stretch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kaldi_uq.uncertainty import measures_from_draws, utterance_statistics

Pieces = Iterator[Iterable[Tensor]]  # of stretches of the frames, one after the other: chunks (m, B, t, C) of draws


@dataclass(frozen=True)
class Heard:
    """What a recogniser makes of one utterance.

    Attributes:
        words: the words; ``None`` if nobody decoded.
        statistics: statistic -> value, see :func:`kaldi_uq.uncertainty.utterance_statistics`.
        frames: measure -> (T,) float32; empty if they were not to be kept.
    """

    words: tuple[str, ...] | None
    statistics: dict[str, float]
    frames: dict[str, np.ndarray]

    def decoded(self, words: tuple[str, ...], statistics: Mapping[str, float]) -> Heard:
        """The same with words, and with further statistics."""
        return Heard(words, {**self.statistics, **statistics}, self.frames)

    def without_frames(self, frames_to: Callable[[dict[str, np.ndarray]], object] | None) -> Heard:
        """The same without scores; where somebody else takes the frames, without these too."""
        if frames_to is None:
            return Heard(self.words, self.statistics, self.frames)
        frames_to(self.frames)
        return Heard(self.words, self.statistics, {})


@dataclass(frozen=True)
class Scored(Heard):
    """The same before decoding, ``words`` being ``None``.

    Attributes:
        scores: (T, C) float32, what the decoder takes: see :meth:`kaldi_uq.recogniser.base.BaseRecogniser.scores`.
    """

    scores: np.ndarray


@dataclass(frozen=True)
class FrameScores:
    """Scores of the frames of a batch, where the recogniser computes.

    Attributes:
        utts: B utterance ids.
        values: (B, T, C), see :meth:`kaldi_uq.recogniser.base.BaseRecogniser.scores`.
        lengths: B numbers of frames; what follows is not read.
    """

    utts: Sequence[str]
    values: Tensor
    lengths: Sequence[int]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], device: torch.device) -> FrameScores:
        """Of utt -> (t, C) float32."""
        values = pad_sequence([torch.from_numpy(one) for one in arrays.values()], batch_first=True)
        return cls(list(arrays), values.to(device), [len(one) for one in arrays.values()])

    def arrays(self) -> dict[str, np.ndarray]:
        """utt -> (t, C) float32, for what takes one after the other."""
        whole = self.values.detach().float().cpu().numpy()
        return {utt: np.ascontiguousarray(whole[i, : self.lengths[i]]) for i, utt in enumerate(self.utts)}


def forget(frames: Mapping[str, np.ndarray]) -> None:
    """What ``frames_to`` of :meth:`kaldi_uq.recogniser.base.BaseRecogniser.hear` is where nobody wants the frames."""


def heard_of(measures: Mapping[str, Tensor], lengths: Tensor) -> list[Heard]:
    """What is heard of each utterance of a batch but for the words.

    Args:
        measures: measure -> (B, T).
        lengths: (B,) int64, in frames.
    """
    columns = {name: values.double().cpu().numpy() for name, values in utterance_statistics(measures, lengths).items()}
    frames = {name: values.float().cpu().numpy() for name, values in measures.items()}
    return [
        Heard(
            words=None,
            statistics={name: float(values[row]) for name, values in columns.items()},
            frames={name: values[row, :length] for name, values in frames.items()},
        )
        for row, length in enumerate(lengths.tolist())
    ]


class Listening:
    """One long utterance, listened to once, from its first stretch to its last.

    Whoever iterates gets the scores (t, C) float32 of successive stretches, and none of them is kept; afterwards
    :meth:`heard` says what else was heard.  What grows with the utterance is a few numbers a frame.

    Args:
        pieces: draws of the stretches.
        scores: from the logarithm of the mean posterior (1, t, C) to what the decoder takes.
        num_frames: T, frames of all stretches together.
    """

    def __init__(self, pieces: Pieces, scores: Callable[[Tensor], Tensor], num_frames: int) -> None:
        self.num_frames = num_frames
        self._pieces, self._scores = pieces, scores
        self._measures: dict[str, Tensor] = {}  # measure -> (1, T), filled as far as was listened
        self._at = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            with torch.no_grad():  # ends before the caller goes on
                draws = next(self._pieces, None)
                if draws is None:
                    return
                measures = measures_from_draws(draws)
                scores = self._scores(measures.pop("log_mean_post"))[0].float().cpu().numpy()
            self._keep(measures, len(scores))
            yield scores

    def _keep(self, measures: Mapping[str, Tensor], size: int) -> None:
        # In memory of its own from the beginning: pieces of it between all that comes and goes would break that up.
        if not self._measures:
            self._measures = {name: value.new_empty(1, self.num_frames) for name, value in measures.items()}
        for name, value in measures.items():
            self._measures[name][:, self._at : self._at + size] = value
        self._at += size

    def all_scores(self) -> np.ndarray:
        """The scores (T, C) float32 of the whole utterance, for a decoder that takes nothing less."""
        whole = np.empty((0, 0), np.float32)
        at = 0
        for scores in self:
            if not at:
                whole = np.empty((self.num_frames, scores.shape[1]), np.float32)
            whole[at : at + len(scores)] = scores
            at += len(scores)
        return whole

    def heard(self) -> Heard:
        """What was heard but for the words, of what no decoder asked for too."""
        for _ in self:
            pass
        device = next(iter(self._measures.values())).device
        return heard_of(self._measures, torch.tensor([self.num_frames], device=device))[0]
