"""The rows of the detection tables: every statistic, every detector, on held-out benign and attacked utterances."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kaldi_uq.detector.base import FloatArray, OneClassDetector, as_values
from kaldi_uq.detector.curves import auroc, auroc_ci, tpr_at_fpr
from kaldi_uq.detector.density import KernelDensityDetector
from kaldi_uq.detector.gaussian import GaussianDetector, MultivariateGaussianDetector
from kaldi_uq.errors import DataError

Table = Mapping[str, npt.ArrayLike]
ALL_STATISTICS = "all"


def evaluate_detection(
    fit: Table,
    benign: Table,
    attack: Table,
    *,
    seed: int,
    success: npt.ArrayLike | None = None,
    compare: bool = True,
    fpr: float = 0.01,
    num_bootstrap: int = 1000,
) -> list[dict[str, Any]]:
    """Fit detectors on one benign set and measure them on another against an attack.

    Args:
        fit: ``(B0,)`` per statistic, benign, used for fitting and for the threshold only.
        benign: ``(B1,)`` per statistic, benign utterances that are in neither of the other sets.
        attack: ``(B2,)`` per statistic.
        seed: of the bootstrap.  Each row draws from its own stream, so that a row does not depend on the others.
        success: ``(B2,)`` bool, which of the attacked utterances the recogniser writes down as the attacker wants.
        compare: whether to add rows of the one-sided Gaussian and of the kernel density for each statistic, and of
            both multivariate detectors over all statistics together, under the name ``all``.
        fpr: false-positive rate of ``threshold``; the rate in ``tpr_at_fpr_1pct`` is always 1 %.
        num_bootstrap: resamples of the interval.

    Returns:
        One row a statistic and detector, the paper's two-sided Gaussian first: ``statistic``, ``detector``,
        ``sided``, ``auroc``, ``auroc_ci95`` [lo, hi], ``tpr_at_fpr_1pct`` (threshold chosen on ``benign``),
        ``threshold`` (chosen on ``fit``: the empirical quantile at ``fpr``), ``fpr`` itself, and what that threshold
        gives on the two test sets: ``fpr_at_threshold``, ``tpr_at_threshold``.  With ``success`` also ``evasion``: the
        share of the attacked utterances that succeed *and* whose score is at or below ``threshold``.

    Raises:
        DataError: a statistic is missing or not finite, or a set has too few utterances.
        ValueError: ``success`` is not one bool for each attacked utterance.

    Source: section 4.3 and tables 2 and 3 of the paper.
    """
    tables = _checked(fit, benign, attack)
    reached = None if success is None else _success(success, len(next(iter(tables[2].values()))))
    plans: list[tuple[str, OneClassDetector]] = []
    for two_sided in (True, False) if compare else (True,):
        plans += [(name, GaussianDetector(two_sided, statistic=name)) for name in fit]
    if compare:
        plans += [(name, KernelDensityDetector([name])) for name in fit]
        if len(fit) > 1:
            plans.append((ALL_STATISTICS, MultivariateGaussianDetector(tuple(fit))))
            plans.append((ALL_STATISTICS, KernelDensityDetector(tuple(fit))))
    return [_row(name, detector, tables, reached, seed, fpr, num_bootstrap) for name, detector in plans]


def _checked(fit: Table, benign: Table, attack: Table) -> tuple[dict[str, FloatArray], ...]:
    if not fit:
        raise DataError("there is no statistic to fit a detector on")
    tables = []
    for set_name, table in (("fit", fit), ("benign", benign), ("attack", attack)):
        absent = [name for name in fit if name not in table]
        if absent:
            raise DataError(
                f"the {set_name} set has no statistic {absent[0]!r}, which the fit set has; score both sets with the "
                "same model and the same list of statistics"
            )
        try:
            checked = {name: as_values(table[name], name) for name in fit}
        except DataError as error:
            raise DataError(f"{set_name} set: {error}") from None
        if not all(map(len, checked.values())):
            raise DataError(f"the {set_name} set has no utterances")
        tables.append(checked)
    return tuple(tables)


def _success(success: npt.ArrayLike, num_utts: int) -> npt.NDArray[np.bool_]:
    reached = np.asarray(success)
    if reached.shape != (num_utts,) or reached.dtype != np.bool_:
        raise ValueError(f"success must be bool ({num_utts},), got {reached.dtype} {reached.shape}")
    return reached


def _row(
    name: str,
    detector: OneClassDetector,
    tables: tuple[dict[str, FloatArray], ...],
    reached: npt.NDArray[np.bool_] | None,
    seed: int,
    fpr: float,
    num_bootstrap: int,
) -> dict[str, Any]:
    fit, benign, attack = tables
    detector.fit(fit)
    benign_scores, attack_scores = detector.score(benign), detector.score(attack)
    # The normal's own quantile trusts a tail that the statistics need not have, so the fit set decides; the kernel
    # density's own quantile is that of the fit set already, each utterance left out of its own density.
    threshold = detector.threshold_at(fpr, None if isinstance(detector, KernelDensityDetector) else fit)
    stream = zlib.crc32(f"{name} {detector.kind} {detector.sided}".encode())
    interval = auroc_ci(
        benign_scores, attack_scores, num_bootstrap=num_bootstrap, generator=np.random.default_rng([seed, stream])
    )
    row = {
        "statistic": name,
        "detector": detector.kind,
        "sided": detector.sided,
        "auroc": auroc(benign_scores, attack_scores),
        "auroc_ci95": list(interval),
        "tpr_at_fpr_1pct": tpr_at_fpr(benign_scores, attack_scores, 0.01),
        "threshold": threshold,
        "fpr": fpr,
        "fpr_at_threshold": float(np.mean(benign_scores > threshold)),
        "tpr_at_threshold": float(np.mean(attack_scores > threshold)),
    }
    if reached is not None:
        row["evasion"] = float(np.mean(reached & (attack_scores <= threshold)))
    return row
