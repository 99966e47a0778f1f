"""Verdicts on waveforms: a detector's decision, what the recogniser hears, and the parts that are suspicious."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.detector import OneClassDetector
from kaldi_uq.detector.normal import Stretch, stretches_above
from kaldi_uq.engine.base import DecodeConfig, Engine
from kaldi_uq.errors import DataError
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.scores import UtteranceScores, decode_waves, score_waves


@dataclass(frozen=True)
class Normal:
    """What is normal in one frame.

    Attributes:
        measure: name of the measure.
        probability: share of the benign frames at or below ``threshold``.
        threshold: a frame above it is suspicious.
    """

    measure: str
    probability: float
    threshold: float


@dataclass(frozen=True)
class Recogniser:
    """What it takes to write down the words.

    Attributes:
        engine: decodes.
        model_dir: directory of ``final.mdl`` and ``tree``.
        graph_dir: directory of ``HCLG.fst`` and ``words.txt``.
        config: of the decoder.
    """

    engine: Engine
    model_dir: Path
    graph_dir: Path
    config: DecodeConfig


@dataclass(frozen=True)
class Verdict:
    """What is said of one waveform.

    Attributes:
        attack: whether ``score`` is above the detector's threshold.
        score, p_value: of the detector.
        values: the detector's statistics.
        hypothesis: the words heard; ``None`` if nobody listened.
        stretches: the suspicious parts; ``None`` if it is not known what is normal in a frame.
        share: of the frames above what is normal, in ``stretches`` or alone.
    """

    attack: bool
    score: float
    p_value: float
    values: dict[str, float]
    hypothesis: str | None
    stretches: list[Stretch] | None
    share: float


def judge(
    model: HybridModel,
    waves: dict[str, np.ndarray],
    detector: OneClassDetector,
    *,
    normal: Normal | None = None,
    recogniser: Recogniser | None = None,
    num_draws: int | None = None,
    seed: int = 0,
) -> dict[str, Verdict]:
    """Judge waveforms.

    Args:
        model: on its device.
        waves: name -> (N,) float32 in [-1, 1], of the model's sample rate and long enough for a frame.
        detector: fitted to statistics of this model, with a threshold.
        normal: to find the suspicious parts; its measure must be one of the model's.
        recogniser: to find the words.
        num_draws: draws of a random network; ``None`` for its default.
        seed: of the draws.

    Returns:
        name -> verdict, in the order of ``waves``.

    Raises:
        DataError: the model does not measure what the detector looks at, or a statistic is not finite.
    """
    values: dict[str, dict[str, float]] = {}
    parts: dict[str, tuple[list[Stretch] | None, float]] = {}

    def observe(name: str, scores: UtteranceScores) -> None:
        values[name] = _values(name, scores.statistics, detector)
        parts[name] = (None, 0.0)
        if normal:
            frames = scores.frames[normal.measure]
            stretches = stretches_above(frames, normal.threshold, model.front_end.frame_shift_s)
            parts[name] = (stretches, float(np.mean(frames > normal.threshold)))

    heard = dict[str, str | None].fromkeys(waves)
    alone = model.network.is_random  # the verdict on a file must not depend on the files beside it
    if recogniser:
        found, _ = decode_waves(
            model,
            waves,
            recogniser.engine,
            recogniser.model_dir,
            recogniser.graph_dir,
            recogniser.config,
            num_draws=num_draws,
            seed=seed,
            desc="judging",
            observe=observe,
            alone=alone,
        )
        heard = {name: " ".join(hypothesis.words) for name, hypothesis in found.items()}
    else:
        for name, scores in score_waves(model, waves, num_draws=num_draws, seed=seed, desc="judging", alone=alone):
            observe(name, scores)
    table = {statistic: [values[name][statistic] for name in waves] for statistic in detector.statistics}
    columns = (detector.is_attack(table), detector.score(table), detector.p_value(table))
    return {
        name: Verdict(bool(attack), float(score), float(p_value), values[name], heard[name], *parts[name])
        for name, attack, score, p_value in zip(waves, *columns, strict=True)
    }


def _values(name: str, statistics: Mapping[str, float], detector: OneClassDetector) -> dict[str, float]:
    """The detector's statistics of a waveform."""
    for statistic in detector.statistics:
        if statistic not in statistics:
            raise DataError(
                f"the detector looks at {statistic!r:.60}, the model measures only {', '.join(sorted(statistics))}; "
                "take a detector that was fitted on this model"
            )
        if not math.isfinite(statistics[statistic]):
            raise DataError(f"{name}: {statistic} is {statistics[statistic]}: the model cannot measure this audio")
    return {statistic: statistics[statistic] for statistic in detector.statistics}
