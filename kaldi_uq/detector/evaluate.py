"""The rows of the detection tables: fitted detectors on held-out benign and attacked utterances."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kaldi_uq.detector.base import FloatArray, OneClassDetector, as_values
from kaldi_uq.detector.curves import auroc, auroc_ci, tpr_at_fpr
from kaldi_uq.detector.fit import ALL
from kaldi_uq.errors import DataError

Table = Mapping[str, npt.ArrayLike]


def evaluate_detection(
    detectors: Mapping[str, OneClassDetector],
    benign: Table,
    attack: Table,
    *,
    seed: int,
    success: npt.ArrayLike | None = None,
    right: npt.ArrayLike | None = None,
    benign_right: npt.ArrayLike | None = None,
    num_bootstrap: int = 1000,
) -> list[dict[str, Any]]:
    """Measure fitted detectors on benign utterances against an attack.

    Args:
        detectors: name -> detector with a threshold, as :func:`kaldi_uq.detector.fit_detectors` gives them.
        benign: ``(B1,)`` per statistic, benign utterances that no detector was fitted on.
        attack: ``(B2,)`` per statistic.
        seed: seed of the bootstrap.  Each row draws from its own stream, so that a row does not depend on the others.
        success: ``(B2,)`` bool, which of the attacked utterances the recogniser writes down as the attacker wants.
        right, benign_right: ``(B2,)`` and ``(B1,)`` bool, which utterances it writes down as they were spoken.
        num_bootstrap: resamples of the interval.

    Returns:
        One row a detector, in their order: ``statistic`` (``all`` of those named ``all-...``), ``detector`` (its
        kind), ``sided``, ``auroc``, ``auroc_ci95`` [lo, hi], ``tpr_at_fpr_1pct`` (threshold chosen on ``benign``),
        ``threshold`` and ``fpr`` of the detector, and what that threshold gives on the two sets:
        ``fpr_at_threshold``, ``tpr_at_threshold``.  With ``success`` also ``reached``, the share of the attacked
        utterances that succeed, and ``evasion``: of those that succeed *and* whose score is at or below ``threshold``.
        With ``right`` and ``benign_right`` also ``passed_right`` and ``benign_passed_right``: the share of each set
        that is heard as it was spoken and whose score is at or below ``threshold``.

    Raises:
        DataError: a statistic is missing or not finite, or a set has no utterances.
        ValueError: a detector without a threshold, or ``success``, ``right`` or ``benign_right`` is not one bool for
            each utterance.

    Source: section 4.3 and tables 2 and 3 of the paper.
    """
    statistics = list(dict.fromkeys(name for detector in detectors.values() for name in detector.statistics))
    sets = _checked("benign", benign, statistics), _checked("attack", attack, statistics)
    sizes = [len(next(iter(table.values()))) for table in sets]
    masks = {
        "success": _mask("success", success, sizes[1]),
        "right": _mask("right", right, sizes[1]),
        "benign_right": _mask("benign_right", benign_right, sizes[0]),
    }
    return [_row(name, detector, *sets, masks, seed, num_bootstrap) for name, detector in detectors.items()]


def _checked(set_name: str, table: Table, statistics: Sequence[str]) -> dict[str, FloatArray]:
    absent = [name for name in statistics if name not in table]
    if absent:
        raise DataError(
            f"the {set_name} set has no statistic {absent[0]!r}, which a detector was fitted on; score both sets with "
            "the same model and the same list of statistics"
        )
    try:
        checked = {name: as_values(table[name], name) for name in statistics}
    except DataError as error:
        raise DataError(f"{set_name} set: {error}") from None
    if not all(map(len, checked.values())):
        raise DataError(f"the {set_name} set has no utterances")
    return checked


def _mask(name: str, given: npt.ArrayLike | None, num_utts: int) -> npt.NDArray[np.bool_] | None:
    if given is None:
        return None
    mask = np.asarray(given)
    if mask.shape != (num_utts,) or mask.dtype != np.bool_:
        raise ValueError(f"{name} must be bool ({num_utts},), got {mask.dtype} {mask.shape}")
    return mask


def _row(
    name: str,
    detector: OneClassDetector,
    benign: Table,
    attack: Table,
    masks: Mapping[str, npt.NDArray[np.bool_] | None],
    seed: int,
    num_bootstrap: int,
) -> dict[str, Any]:
    benign_scores, attack_scores = detector.score(benign), detector.score(attack)
    threshold = detector.require_threshold()
    statistic = ALL if name.startswith(f"{ALL}-") else "+".join(detector.statistics)
    stream = zlib.crc32(f"{statistic} {detector.kind} {detector.sided}".encode())
    interval = auroc_ci(
        benign_scores, attack_scores, num_bootstrap=num_bootstrap, generator=np.random.default_rng([seed, stream])
    )
    row = {
        "statistic": statistic,
        "detector": detector.kind,
        "sided": detector.sided,
        "auroc": auroc(benign_scores, attack_scores),
        "auroc_ci95": list(interval),
        "tpr_at_fpr_1pct": tpr_at_fpr(benign_scores, attack_scores, 0.01),
        "threshold": threshold,
        "fpr": detector.fpr,
        "fpr_at_threshold": float(np.mean(benign_scores > threshold)),
        "tpr_at_threshold": float(np.mean(attack_scores > threshold)),
    }
    benign_passed, passed = benign_scores <= threshold, attack_scores <= threshold
    if (success := masks["success"]) is not None:
        row["reached"] = float(np.mean(success))
        row["evasion"] = float(np.mean(success & passed))
    if (right := masks["right"]) is not None:
        row["passed_right"] = float(np.mean(right & passed))
    if (right := masks["benign_right"]) is not None:
        row["benign_passed_right"] = float(np.mean(right & benign_passed))
    return row
