"""What the default detector catches of the attacks that were made, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaldi_uq.results.names import GATE

ENOUGH = 0.9  # share of the examples that reach their target which a detector should catch to be relied on
TO_TRY = "an attack with --preset adaptive --statistics {}"  # one that knows a detector, by the detector's name
ADVICE = "train the recogniser on attacks as well, best as an ensemble of larger networks"
OF_ROBUST = "a robust model holds by what it does not hear, not by its detector"  # where only such models are warned of


def is_gate(row: Mapping[str, Any]) -> bool:
    """Whether a row of ``detection_other`` is of the default detector."""
    return (row["statistic"], row["detector"]) == ("all", "joint")


def caught(row: Mapping[str, Any]) -> float | None:
    """Of the examples that reach their target, the share that a detector catches; ``None`` if none reaches it.

    Args:
        row: with ``reached`` and ``evasion``, as :func:`kaldi_uq.detector.evaluate_detection` gives them.

    >>> caught({"reached": 0.5, "evasion": 0.125}), caught({"reached": 0.0, "evasion": 0.0})
    (0.75, None)
    """
    return 1 - row["evasion"] / row["reached"] if row["reached"] > 0 else None


def gate_lines(row: Mapping[str, Any], *, model: str, attack: str, eps: float) -> list[str]:
    """What the default detector makes of an attack, in a line, and a warning if it catches too few.

    Args:
        row: of the default detector, with ``reached``, ``evasion`` and ``fpr``.
        model, attack, eps: whose row it is.

    >>> row = {"reached": 0.5, "evasion": 0.1, "fpr": 0.01}
    >>> for line in gate_lines(row, model="dnn", attack="pgd", eps=0.02):
    ...     print(line[:78])
    dnn pgd eps 0.02: 0.50 of the utterances reach their target, and the default d
    WARNING: the default detector of dnn catches fewer than 0.9 of what pgd at eps
    """
    share = caught(row)
    if share is None:
        return [f"{model} {attack} eps {eps:g}: no utterance reaches its target: nothing to catch."]
    lines = [
        f"{model} {attack} eps {eps:g}: {row['reached']:.2f} of the utterances reach their target, and the default "
        f"detector ({GATE}, {100 * row['fpr']:g} % false alarms) catches {share:.2f} of these."
    ]
    if share < ENOUGH:
        lines.append(
            f"WARNING: the default detector of {model} catches fewer than {ENOUGH:g} of what {attack} at eps {eps:g} "
            f"reaches: do not rely on it alone."
        )
    return lines
