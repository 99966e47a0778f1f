"""What a recogniser makes of audio: measures and scores of all frames, of long audio in bounded memory.

What grows with the audio are its samples, a few numbers a frame, and the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kaldi_uq.io.waves import WaveBatch
from kaldi_uq.uncertainty import measures_from_draws

Pieces = Iterator[Iterable[Tensor]]  # of stretches of the frames, one after the other: chunks (m, B, t, C) of draws


@dataclass(frozen=True)
class Heard:
    """What a recogniser makes of one utterance.

    Attributes:
        words: the words; ``None`` if nobody decoded.
        statistics: statistic -> value, see :func:`kaldi_uq.uncertainty.utterance_statistics`.
        frames: measure -> (T,) float32.
    """

    words: tuple[str, ...] | None
    statistics: dict[str, float]
    frames: dict[str, np.ndarray]


@dataclass(frozen=True)
class Scored(Heard):
    """The same before decoding.

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


def unpadded(waves: Mapping[str, np.ndarray]) -> Iterator[WaveBatch]:
    """Each utterance as a batch of its own, the longest first, without a copy of its samples."""
    for utt in sorted(waves, key=lambda utt: -len(waves[utt])):
        wav = np.require(waves[utt], np.float32, "W")[None]
        yield WaveBatch((utt,), wav, np.array([wav.shape[1]], dtype=np.int64))


def measure(
    pieces: Pieces, scores: Callable[[Tensor], Tensor], num_frames: int
) -> tuple[dict[str, Tensor], np.ndarray]:
    """The measures of all frames, and their scores.

    Args:
        pieces: draws of successive stretches of the frames; only those of one stretch are in memory.
        scores: from the logarithm of the mean posterior (B, t, C) to what the decoder takes.
        num_frames: T, frames of all stretches together.

    Returns:
        measure -> (B, T), see :func:`kaldi_uq.uncertainty.measures_from_draws`, and scores (B, T, C) float32.
    """
    found: list[dict[str, Tensor]] = []
    scored = np.zeros(0, np.float32)
    at = 0
    for draws in pieces:
        measures = measures_from_draws(draws)
        part = scores(measures.pop("log_mean_post")).float().cpu().numpy()
        found.append(measures)
        if part.shape[1] == num_frames:
            return measures, part
        if not scored.size:
            scored = np.empty((len(part), num_frames, part.shape[2]), np.float32)
        scored[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    return {name: torch.cat([part[name] for part in found], dim=1) for name in found[0]}, scored


def of_each(
    measures: Mapping[str, Tensor], statistics: Mapping[str, Tensor], scores: np.ndarray, lengths: Sequence[int]
) -> list[Scored]:
    """What was measured of the utterances of a batch, one by one.

    Args:
        measures: measure -> (B, T).
        statistics: statistic -> (B,).
        scores: (B, T, C).
        lengths: B numbers of frames.
    """
    columns = {name: values.double().cpu().numpy() for name, values in statistics.items()}
    frames = {name: values.float().cpu().numpy() for name, values in measures.items()}
    return [
        Scored(
            words=None,
            statistics={name: float(values[row]) for name, values in columns.items()},
            frames={name: values[row, :length] for name, values in frames.items()},
            scores=np.ascontiguousarray(scores[row, :length], dtype=np.float32),
        )
        for row, length in enumerate(lengths)
    ]
