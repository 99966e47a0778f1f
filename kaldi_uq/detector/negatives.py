"""Rows about benign but hard audio: how often a detector calls it an attack, and how well it tells attacks from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kaldi_uq.detector.base import OneClassDetector, as_values
from kaldi_uq.detector.curves import auroc
from kaldi_uq.errors import DataError

Table = Mapping[str, npt.ArrayLike]


def evaluate_negatives(
    detectors: Sequence[tuple[str, OneClassDetector]], hard: Table, attacks: Sequence[tuple[Mapping[str, Any], Table]]
) -> list[dict[str, Any]]:
    """Measure fitted detectors on benign audio that is hard, and on attacks.

    Args:
        detectors: detectors with a threshold, and what each of them is called.
        hard: ``(B1,)`` per statistic, benign but disturbed.
        attacks: what the entry of each attack says (attack, eps), and ``(B2,)`` per statistic.

    Returns:
        One row a detector: ``statistic`` (its name), ``sided``, ``fpr``, ``threshold``, ``fpr_at_threshold`` (share of
        ``hard`` above it), ``auroc``: of each attack its entry with ``auroc``, the probability that an attacked
        utterance scores above a hard benign one.

    Raises:
        DataError: a statistic is missing or not finite, or a set is empty.
    """
    rows = []
    for called, detector in detectors:
        for where, table in (("disturbed", hard), *(("attacked", table) for _, table in attacks)):
            for name in detector.statistics:
                if name not in table:
                    raise DataError(f"the {where} set has no statistic {name!r}: score all sets with the same model")
                if not len(as_values(table[name], name)):
                    raise DataError(f"the {where} set has no utterances")
        scores = detector.score(hard)
        rows.append(
            {
                "statistic": called,
                "sided": detector.sided,
                "fpr": detector.fpr,
                "threshold": detector.require_threshold(),
                "fpr_at_threshold": float(np.mean(detector.is_attack(hard))),
                "auroc": [{**entry, "auroc": auroc(scores, detector.score(table))} for entry, table in attacks],
            }
        )
    return rows
