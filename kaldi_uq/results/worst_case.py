"""The worst case over several attacks: an utterance is lost if any of them has what it wants.

A sceptic believes the strongest attack on each utterance, not the strongest attack on average.  The shares come with
Clopper-Pearson intervals, which are exact for small counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.special import betaincinv

from kaldi_uq.errors import DataError
from kaldi_uq.results.utterances import AttackRecord, read_attacked

CONFIDENCE = 0.95


def interval(count: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The two-sided Clopper-Pearson interval of a share.

    Args:
        count: utterances that count.
        total: all of them, at least 1.
        confidence: probability that the interval covers the share, at least.

    Source: Clopper and Pearson 1934.

    >>> low, high = interval(0, 100)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"a share is of at least one utterance and at most 1, got {count} of {total}")
    tail = (1.0 - confidence) / 2.0
    low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, total - count, 1.0 - tail)) if count < total else 1.0
    return low, high


def worst_case(attacks: Mapping[str, Sequence[AttackRecord]]) -> dict[str, Any]:
    """Count the utterances that any attack reached.

    Attacks may have different targets, and not all have to be of all utterances.  Of the targets of ``n`` words an
    utterance counts if any attack wanted ``n`` words of it, and as reached if one of these attacks got them.

    Args:
        attacks: name -> records of its utterances; all with targets, or all without.

    Returns:
        ``num_utts``, ``attacks`` (each name with its ``num_utts`` and ``success``), ``success`` and
        ``success_ci95``; with targets ``by_words``, the same for each number of target words; and where attacks know
        detectors, ``evasion``, ``evasion_ci95`` and ``evasion_num_utts``: the share for which an example has what its
        attack wants and passes, over the attacks whose records say so.

    Raises:
        ValueError: no utterance, or attacks with targets beside attacks without.
    """
    records = [record for found in attacks.values() for record in found]
    if not records:
        raise ValueError("there is no attacked utterance")
    if len({record.target_errors is None for record in records}) > 1:
        raise ValueError(
            "attacks with targets and attacks without are different claims: give those of one sort at a time"
        )
    row: dict[str, Any] = {
        "attacks": [
            {"attack": name, "num_utts": len(found), "success": sum(r.success for r in found) / max(len(found), 1)}
            for name, found in attacks.items()
        ],
        **_share(records, "success", lambda record: record.success),
    }
    if records[0].target_errors is not None:
        sizes = sorted({len(record.target.split()) for record in records})
        row["by_words"] = [
            {
                "num_words": size,
                **_share([r for r in records if len(r.target.split()) == size], "success", lambda r: r.success),
            }
            for size in sizes
        ]
    judged = [record for record in records if record.passes is not None]
    if judged:
        share = _share(judged, "evasion", lambda record: record.success and bool(record.passes))
        row |= {"evasion_num_utts": share.pop("num_utts"), **share}
    return row


def read_attacks(directories: Sequence[str | os.PathLike[str]]) -> tuple[str, float, dict[str, list[AttackRecord]]]:
    """Read attack directories, or those of transferred examples, ``exp/MODEL/NAME_epsEPS``.

    Returns:
        the model, eps, and name -> records, the name being that of the directory without ``attack_`` and eps.

    Raises:
        DataError: directories of several models or several eps, one that is named twice, or one that is empty.
    """
    found: dict[str, list[AttackRecord]] = {}
    models: dict[str, Path] = {}
    bounds: dict[float, Path] = {}
    for path in (Path(os.path.abspath(directory)) for directory in directories):
        name = re.sub(r"^attack_|_eps[^_]*$", "", path.name)
        records = read_attacked(path / "results.jsonl")
        if not records:
            raise DataError(f"{path / 'results.jsonl'}: empty; attack again")
        if name in found:
            raise DataError(f"{path}: there are two attacks {name!r}; name each directory once")
        found[name] = records
        models.setdefault(path.parent.name, path)
        for record in records:
            bounds.setdefault(record.eps, path)
    kinds: tuple[tuple[str, dict[Any, Path]], ...] = (("model", models), ("eps", bounds))
    for what, values in kinds:
        if len(values) > 1:
            (first, one), (second, other) = list(values.items())[:2]
            raise DataError(f"{one} is of {what} {first}, {other} of {second}: the worst case is of one {what}")
    return next(iter(models), ""), next(iter(bounds), 0.0), found


def _share(records: Sequence[AttackRecord], name: str, counts: Callable[[AttackRecord], bool]) -> dict[str, Any]:
    """The share of utterances of which any record counts."""
    utts = {record.utt for record in records}
    reached = len({record.utt for record in records if counts(record)})
    low, high = interval(reached, len(utts))
    return {"num_utts": len(utts), name: reached / len(utts), f"{name}_ci95": [low, high]}
