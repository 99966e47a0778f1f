"""A verdict as it is shown: lines for people, a JSON object for programs."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from kaldi_uq.detector.base import OneClassDetector
from kaldi_uq.detector.judge import Outcome, Verdict
from kaldi_uq.detector.normal import Normal
from kaldi_uq.errors import KaldiUqError, one_line, printable

WIDTH = 80  # columns
MAX_SHOWN = 8  # stretches of a file in the text; the JSON object has them all
MAX_VALUES = 3  # statistics of a file in the text; the JSON object has them all


def outcome_record(
    outcome: Outcome, detector: OneClassDetector, normal: Normal | None, *, converted: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The verdict, or what is wrong with the audio, as a JSON object.

    Args:
        outcome: as :func:`kaldi_uq.detector.judge.judge_each` gives it.
        detector: that judged.
        normal: what is normal in a frame, if that was known.
        converted: what was done to the audio before.
    """
    if isinstance(outcome, KaldiUqError):
        return {"verdict": "error", "error": printable(str(outcome))}
    stretches = outcome.stretches
    one = len(outcome.values) == 1
    return {
        "verdict": "attack" if outcome.attack else "benign",
        "score": outcome.score,
        "threshold": detector.threshold,
        "fpr": detector.fpr,
        "p_value": outcome.p_value,
        "statistic": ",".join(detector.statistics),
        "value": next(iter(outcome.values.values())) if one else outcome.values,
        "hypothesis": outcome.hypothesis,
        "converted": converted,
        "measure": normal.measure if normal else None,
        "frame_threshold": normal.threshold if normal else None,
        "suspicious_frames": None if stretches is None else [[s.start_s, s.end_s] for s in stretches],
        "suspicious_values": None if stretches is None else [s.peak for s in stretches],
        "suspicious_share": None if stretches is None else outcome.share,
    }


def outcome_lines(
    name: str, outcome: Outcome, detector: OneClassDetector, normal: Normal | None, *, converted: str = "", path: str
) -> list[str]:
    """The verdict and the name in one line, and more of it, or what is wrong, in at most 80 columns.

    Args:
        name: of the audio.
        outcome, detector, normal: as of :func:`outcome_record`.
        converted: what was done to the audio before, if anything was.
        path: of the audio, which a message about it need not begin with.
    """
    if isinstance(outcome, KaldiUqError):
        lines = [f"ERROR {name}", f"  {str(outcome).removeprefix(f'{one_line(path)}: ')}"]
    else:
        lines = _verdict_lines(name, outcome, detector, normal)
        lines += [f"  converted: {converted}"] if converted else []
    first, *others = map(printable, lines)
    return [first, *(part for line in others for part in _wrap(line))]


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _verdict_lines(name: str, verdict: Verdict, detector: OneClassDetector, normal: Normal | None) -> list[str]:
    """The verdict on the audio of a name as text."""
    names, order = list(verdict.values), list(range(len(verdict.values)))
    centers: list[float | None] = [detector.center] if len(names) == 1 else detector.benign_mean.tolist()
    if len(names) > 1 and centers:  # those that are most unlike benign speech first
        far = np.abs(detector.deviations({name: [value] for name, value in verdict.values.items()})[0])
        first: dict[float, int] = {}  # of one posterior several statistics are the same number
        for i in np.argsort(-far, kind="stable").tolist():
            first.setdefault(verdict.values[names[i]], i)
        order = list(first.values())[:MAX_VALUES]
    means = [centers[i] if centers else None for i in order]  # none of an early release's detector
    values = ", ".join(
        f"{names[i].replace('_', ' ')} {verdict.values[names[i]]:.3g}"
        + ("" if mean is None else f" (benign {mean:.3g})")
        for i, mean in zip(order, means, strict=True)
    )
    certain = verdict.attack and means[0] is not None and verdict.values[names[order[0]]] < means[0]
    relation = ">" if verdict.attack else "<="
    lines = [
        f"{'ATTACK' if verdict.attack else 'benign'} {name}",
        f"  score {verdict.score:.3g} {relation} {detector.threshold:.3g}, p {verdict.p_value:.2g}: {values}",
    ]
    if verdict.hypothesis is not None:
        lines.append(f"  heard: {verdict.hypothesis or '(nothing)'}")
    if normal and verdict.stretches is not None:
        shown = ", ".join(f"{s.start_s:.2f}-{s.end_s:.2f}" for s in verdict.stretches[:MAX_SHOWN])
        more = len(verdict.stretches) - MAX_SHOWN
        where = f"{shown} s" + (f" and {more} more" if more > 0 else "") if shown else "no part"
        where += "; the whole is more certain than benign speech" if certain else ""
        share = f"{100 * verdict.share:.2g} % of frames"
        lines.append(f"  suspicious: {where} ({share}, benign {100 * (1 - normal.probability):.2g} %)")
    return lines
