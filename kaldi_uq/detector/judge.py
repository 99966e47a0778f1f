"""Verdicts on audio: a detector's decision, what the recogniser hears, and the parts that are suspicious.

:func:`judge` takes what is in memory, all or nothing.  :func:`judge_each` is for a gate: it goes through files of any
number in bounded memory, and one that cannot be judged is an error of its own beside the verdicts on the others.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote

import numpy as np

from kaldi_uq.detector.base import OneClassDetector
from kaldi_uq.detector.normal import Normal, Stretch, stretches_above
from kaldi_uq.errors import DataError, KaldiUqError, ModelFileError
from kaldi_uq.io.recording import Recording
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.heard import Heard
from kaldi_uq.uncertainty import NEED_DRAWS

log = logging.getLogger(__name__)

GROUP_SAMPLES = 1 << 22  # samples of the files that are judged together: 4 minutes of 16 kHz audio


@dataclass(frozen=True)
class Verdict:
    """What is said of one waveform.

    Attributes:
        attack: whether ``score`` is above the detector's threshold.
        score: the detector's score; higher is more suspicious.
        p_value: share of benign speech with such a score or a higher one, by the detector's model of it.
        values: the detector's statistics.
        hypothesis: the words heard; ``None`` if nobody listened.
        stretches: the suspicious parts; ``None`` if it is not known what is normal in a frame.
        share: share of the frames above what is normal, in ``stretches`` or alone.
    """

    attack: bool
    score: float
    p_value: float
    values: dict[str, float]
    hypothesis: str | None
    stretches: list[Stretch] | None
    share: float


Outcome: TypeAlias = Verdict | KaldiUqError
Decide: TypeAlias = Callable[[Mapping[str, np.ndarray | Recording]], Mapping[str, Verdict]]


def judge(
    recogniser: BaseRecogniser,
    detector: OneClassDetector,
    waves: Mapping[str, np.ndarray | Recording],
    *,
    normal: Normal | None = None,
    seed: int = 0,
    measured: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Verdict]:
    """Judge audio.

    Args:
        recogniser: listens; without a decoding graph no words are found.
        detector: fitted to statistics of this recogniser, with a threshold.
        waves: name -> (N,) samples, int16 or float in [-1, 1], or a recording.
        normal: what is normal in a frame, to find the suspicious parts; its measure must be one of the recogniser's.
        seed: seed of the draws of a random recogniser.
        measured: name -> statistics that were measured in another way, such as the consistency.

    Returns:
        name -> verdict, in the order of ``waves``.

    Raises:
        DataError: audio that cannot be judged.
        ModelFileError: the recogniser does not measure what the detector looks at.
        TypeError: arguments of another kind, or in another order.
    """
    if not isinstance(recogniser, BaseRecogniser):
        raise TypeError(f"expected a recogniser, then a detector and audio, got {type(recogniser).__name__} first")
    if isinstance(detector, Mapping):
        raise TypeError(f"expected one detector, got a mapping: take one of {', '.join(map(str, detector)):.200}")
    if not isinstance(detector, OneClassDetector):
        raise TypeError(f"expected a detector between recogniser and audio, got {type(detector).__name__}")
    # the verdict on a file must not depend on the files beside it
    alone = recogniser.is_random
    heard = recogniser.hear(waves, seed=seed, alone=alone, words=not recogniser.why_no_words, desc="judging")
    more = measured or {}
    values = {name: _values(name, {**one.statistics, **more.get(name, {})}, detector) for name, one in heard.items()}
    if not heard:
        return {}
    _check_kind(detector, next(iter(heard.values())).statistics)
    table = {statistic: [row[statistic] for row in values.values()] for statistic in detector.statistics}
    columns = (detector.is_attack(table), detector.score(table), detector.p_value(table))
    for name, score in zip(values, columns[1], strict=True):
        if not math.isfinite(score):  # NaN is above no threshold, and no attack may pass for that
            raise DataError(f"{name}: its score is {score}: the detector cannot judge this audio")
    return {
        name: Verdict(
            bool(attack),
            float(score),
            float(p_value),
            values[name],
            None if one.words is None else " ".join(one.words),
            *_parts(one, normal, recogniser.frame_shift_s),
        )
        for (name, one), attack, score, p_value in zip(heard.items(), *columns, strict=True)
    }


def _check_kind(detector: OneClassDetector, measured: Mapping[str, float]) -> None:
    """Warn of a detector of several statistics to which what the model's draws or members tell is nothing."""
    of_draws = [name for name in measured if name.partition("_")[2] in NEED_DRAWS]
    if len(detector.statistics) > 1 and of_draws and not set(of_draws) & set(detector.statistics):
        _warn_of_kind(len(detector.statistics), of_draws[0])


@functools.cache  # said once, and not of each group of files
def _warn_of_kind(count: int, example: str) -> None:
    log.warning(
        "the detector looks at %d statistics, none of which is of several draws or members, such as %s, which this "
        "model measures: it looks fitted on another kind of model; fit one on this model",
        count,
        example,
    )


def judge_each(
    files: Iterable[str],
    read: Callable[[str], np.ndarray | Recording],
    decide: Decide,
    *,
    group_samples: int = GROUP_SAMPLES,
) -> Iterator[tuple[str, Outcome]]:
    """Judge files one group after the other; one that cannot be judged does not silence the verdicts on the others.

    Args:
        files: names of files; a name may come again.
        read: reads a file: (N,) float32 in [-1, 1], or a recording.
        decide: judges waveforms by their names, all or nothing, as :func:`judge` does.
        group_samples: samples of a group, beyond which it is judged; no more are held than these and one file's.

    Yields:
        (name, verdict or what is wrong with the file), in the order of ``files``.

    Raises:
        KaldiUqError: ``decide`` raises another one than a ``DataError``: it is not the file's.
    """
    names: list[str] = []
    found: dict[str, np.ndarray | Recording | KaldiUqError] = {}
    size = 0
    for name in files:
        names.append(name)
        if name not in found:
            try:
                found[name] = wave = read(name)
                size += len(wave)
            except KaldiUqError as error:
                found[name] = error
        if size > group_samples:
            yield from _outcomes(names, found, decide)
            names, found, size = [], {}, 0
    yield from _outcomes(names, found, decide)


def by_utterance(decide: Decide) -> Decide:
    """``decide`` for names of files, which may be any bytes: it is given utterances without blanks, as for archives."""

    def decide_named(waves: Mapping[str, np.ndarray | Recording]) -> dict[str, Verdict]:
        utts = {quote(os.fsencode(name)): name for name in waves}
        try:
            verdicts = decide({utt: waves[name] for utt, name in utts.items()})
        except DataError as error:
            message = str(error)
            for utt, name in utts.items():
                message = message.replace(f"{utt}: ", f"{name}: ")
            raise DataError(message) from None
        return {utts[utt]: verdict for utt, verdict in verdicts.items()}

    return decide_named


def _outcomes(
    names: Iterable[str], found: Mapping[str, np.ndarray | Recording | KaldiUqError], decide: Decide
) -> Iterator[tuple[str, Outcome]]:
    waves = {name: one for name, one in found.items() if not isinstance(one, KaldiUqError)}
    verdicts = _decide_each(waves, decide) if waves else {}
    for name in names:
        one = found[name]
        yield name, one if isinstance(one, KaldiUqError) else verdicts[name]


def _decide_each(waves: Mapping[str, np.ndarray | Recording], decide: Decide) -> dict[str, Outcome]:
    """The verdicts on a group: together, or if that fails one by one."""
    try:
        return dict(decide(waves))
    except DataError as error:
        if len(waves) == 1:
            return dict.fromkeys(waves, error)
    return {name: _decide_each({name: wave}, decide)[name] for name, wave in waves.items()}


def _parts(heard: Heard, normal: Normal | None, frame_shift_s: float) -> tuple[list[Stretch] | None, float]:
    """The suspicious stretches, and the share of the frames above what is normal."""
    if normal is None:
        return None, 0.0
    frames = heard.frames[normal.measure]
    stretches = stretches_above(frames, normal.threshold, frame_shift_s)
    return stretches, float(np.mean(frames > normal.threshold))


def _values(name: str, statistics: Mapping[str, float], detector: OneClassDetector) -> dict[str, float]:
    """The detector's statistics of a waveform."""
    for statistic in detector.statistics:
        if statistic not in statistics:
            raise ModelFileError(
                f"the detector looks at {statistic!r:.60}, the model measures only {', '.join(sorted(statistics))}; "
                "take a detector that was fitted on this model"
            )
        if not math.isfinite(statistics[statistic]):
            raise DataError(f"{name}: {statistic} is {statistics[statistic]}: the model cannot measure this audio")
    return {statistic: statistics[statistic] for statistic in detector.statistics}
