"""Rows about benign but hard audio: how often a detector calls it an attack, and how well it tells attacks from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kaldi_uq.detector.base import as_values
from kaldi_uq.detector.curves import auroc
from kaldi_uq.detector.gaussian import GaussianDetector
from kaldi_uq.errors import DataError

Table = Mapping[str, npt.ArrayLike]


def evaluate_negatives(
    fit: Table,
    hard: Table,
    attacks: Sequence[tuple[Mapping[str, Any], Table]],
    *,
    statistics: Sequence[str] = (),
    fpr: float = 0.01,
) -> list[dict[str, Any]]:
    """Fit Gaussian detectors on benign audio and measure them on other benign audio that is hard, and on attacks.

    Args:
        fit: ``(B0,)`` per statistic, benign, for fitting and threshold.
        hard: ``(B1,)`` per statistic, benign but disturbed.
        attacks: of each attack what its entry says of it (attack, eps), and ``(B2,)`` per statistic.
        statistics: of these; empty: all of ``fit``.
        fpr: false-positive rate of the threshold on ``fit``.

    Returns:
        One row a statistic and side: ``statistic``, ``sided``, ``fpr``, ``threshold``, ``fpr_at_threshold`` (share of
        ``hard`` above it), ``auroc``: of each attack its entry with ``auroc``, the probability that an attacked
        utterance scores above a hard benign one.

    Raises:
        DataError: a statistic is missing or not finite, or a set is empty.
    """
    tables = [("fit", fit), ("disturbed", hard), *(("attacked", table) for _, table in attacks)]
    names = list(statistics or fit)
    for where, table in tables:
        for name in names:
            if name not in table:
                raise DataError(f"the {where} set has no statistic {name!r}: score all sets with the same model")
            if not len(as_values(table[name], name)):
                raise DataError(f"the {where} set has no utterances")
    rows = []
    for name in names:
        for two_sided in (True, False):
            detector = GaussianDetector(two_sided, statistic=name).fit(fit).calibrate(fpr, fit)
            scores = detector.score(hard)
            rows.append(
                {
                    "statistic": name,
                    "sided": detector.sided,
                    "fpr": fpr,
                    "threshold": detector.threshold,
                    "fpr_at_threshold": float(np.mean(detector.is_attack(hard))),
                    "auroc": [{**entry, "auroc": auroc(scores, detector.score(table))} for entry, table in attacks],
                }
            )
    return rows
