"""Long audio in bounded memory: what grows with it are the samples, a few numbers a frame, and the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.io.waves import WaveBatch
from kaldi_uq.uncertainty import measures_from_draws

Pieces = Iterator[Iterable[Tensor]]  # of stretches of the frames, one after the other: chunks (m, B, t, C) of draws


def unpadded(waves: Mapping[str, np.ndarray]) -> Iterator[WaveBatch]:
    """Each utterance as a batch of its own, the longest first, without a copy of its samples."""
    for utt in sorted(waves, key=lambda utt: -len(waves[utt])):
        wav = np.require(waves[utt], np.float32, "W")[None]
        yield WaveBatch((utt,), wav, np.array([wav.shape[1]], dtype=np.int64))


def measure(pieces: Pieces, scores: Callable[[Tensor], Tensor]) -> tuple[dict[str, Tensor], np.ndarray]:
    """The measures of all frames, and their scores.

    Args:
        pieces: draws of successive stretches of the frames; only those of one stretch are in memory.
        scores: from the logarithm of the mean posterior (B, t, C) to what the decoder takes.

    Returns:
        measure -> (B, T), see :func:`kaldi_uq.uncertainty.measures_from_draws`, and scores (B, T, C) float32.
    """
    found: list[dict[str, Tensor]] = []
    scored: list[np.ndarray] = []
    for draws in pieces:
        measures = measures_from_draws(draws)
        scored.append(scores(measures.pop("log_mean_post")).float().cpu().numpy())
        found.append(measures)
    if len(found) == 1:
        return found[0], scored[0]
    return {name: torch.cat([part[name] for part in found], dim=1) for name in found[0]}, np.concatenate(scored, axis=1)
