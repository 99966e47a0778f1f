"""Run a hybrid model over waveforms: decode the predictive mean, measure the uncertainty of the draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from kaldi_uq.engine.base import DecodeConfig, Engine, Hypothesis
from kaldi_uq.io.waves import wave_batches
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.uncertainty import measures_from_draws, utterance_statistics

QUANTILE = 0.95


@dataclass(frozen=True)
class UtteranceScores:
    """What the model says of one utterance.

    Attributes:
        loglikes: (T, C) float32, unscaled log-likelihoods of the predictive mean.
        statistics: name -> value, see :func:`kaldi_uq.uncertainty.utterance_statistics`.
        frames: measure -> (T,) float32.
    """

    loglikes: np.ndarray
    statistics: dict[str, float]
    frames: dict[str, np.ndarray]


def score_waves(
    model: HybridModel,
    waves: dict[str, np.ndarray],
    *,
    num_draws: int | None = None,
    seed: int = 0,
    desc: str = "scoring",
    alone: bool = False,
) -> Iterator[tuple[str, UtteranceScores]]:
    """Score waveforms batch by batch.

    Args:
        model: on its device.
        waves: utt -> (N,) float32 in [-1, 1].
        num_draws: draws of a random network; ``None`` for its default.
        seed: of the draws; each batch has a generator of its own.
        desc: of the progress bar.
        alone: each waveform is a batch of its own with the same generator, so that the draws of a random network, and
            with them its scores, do not depend on the other waveforms.  Slower on a GPU.

    Yields:
        (utt, scores), batches of long utterances first.
    """
    device = model.log_prior.device
    with tqdm(total=len(waves), desc=desc, unit="utt", disable=len(waves) < 32) as progress:
        for number, batch in enumerate(wave_batches(waves, 0) if alone else wave_batches(waves)):
            generator = torch.Generator(device).manual_seed(seed * 1_000_003 + (0 if alone else number))
            with torch.no_grad():
                draws, lengths = model.iter_log_post(
                    torch.from_numpy(batch.wav).to(device),
                    torch.from_numpy(batch.num_samples).to(device),
                    num_draws=num_draws,
                    generator=generator,
                    cmvn_stats=model.cmvn_stats_of(batch.utts),
                )
                measures = measures_from_draws(draws)
                statistics = utterance_statistics(measures, lengths, quantile=QUANTILE)
                loglikes = model.loglikes(measures.pop("log_mean_post")).cpu().numpy()
            columns = {name: values.double().cpu().numpy() for name, values in statistics.items()}
            frames = {name: values.float().cpu().numpy() for name, values in measures.items()}
            for row, (utt, length) in enumerate(zip(batch.utts, lengths.tolist(), strict=True)):
                yield (
                    utt,
                    UtteranceScores(
                        np.ascontiguousarray(loglikes[row, :length], dtype=np.float32),
                        {name: float(values[row]) for name, values in columns.items()},
                        {name: values[row, :length] for name, values in frames.items()},
                    ),
                )
            progress.update(len(batch.utts))


def decode_waves(
    model: HybridModel,
    waves: dict[str, np.ndarray],
    engine: Engine,
    model_dir: Path,
    graph_dir: Path,
    config: DecodeConfig,
    *,
    num_draws: int | None = None,
    seed: int = 0,
    desc: str = "decoding",
    observe: Callable[[str, UtteranceScores], None] | None = None,
    alone: bool = False,
) -> tuple[dict[str, Hypothesis], dict[str, dict[str, float]]]:
    """Decode waveforms and measure their uncertainty in one pass.

    Args:
        observe: sees each utterance's scores, which are not kept.
        alone: see :func:`score_waves`.

    Returns:
        utt -> hypothesis (without a word where no path survived), utt -> statistics; in the order of ``waves``.
    """
    statistics: dict[str, dict[str, float]] = {}

    def loglikes() -> Iterator[tuple[str, np.ndarray]]:
        for utt, scores in score_waves(model, waves, num_draws=num_draws, seed=seed, desc=desc, alone=alone):
            statistics[utt] = scores.statistics
            if observe:
                observe(utt, scores)
            yield utt, scores.loglikes

    found = engine.decoder(model_dir, graph_dir, config).decode(loglikes())
    empty = Hypothesis((), np.zeros(0, dtype=np.int32), -float("inf"), reached_final=False)
    return {utt: found.get(utt, empty) for utt in waves}, {utt: statistics[utt] for utt in waves}
