"""How well a recogniser and its detector do together, under attacks made for every threshold of the detector."""

from __future__ import annotations

from collections.abc import Mapping

FEW = 5  # attacks that reach their target on fewer utterances failed: an AUROC over them is of attacks that failed


def robust_auroc(reached: float, passed: Mapping[float, float]) -> float:
    """Lower bound of the robust AUROC: the area over the curve of what is reached and passed, by false-alarm rate.

    With J(FPR) the share of utterances that are heard as the target and pass the detector, by the attack made for the
    threshold of that rate, it is the integral of (1 - J) dFPR over [0, 1].  J is known at a few rates, and a larger
    rate lets less pass: between two rates the larger J counts, below the smallest rate all that is reached.  What
    passes at a rate passes at every smaller one: a smaller J there is of an attack that was too weak, and is raised.
    The value is at least 1 - ``reached``, or 1 - J where an attack that knows the detector reaches more than that.

    Args:
        reached: share of the utterances that are heard as the target, whatever the detector says, in [0, 1].
        passed: false-alarm rate, in (0, 1) -> share of the utterances that are heard as the target and pass.

    Raises:
        ValueError: a share or a rate is out of range.

    Source: Tramèr 2022, "Detecting adversarial examples is (nearly) as hard as classifying them".

    >>> round(robust_auroc(0.9, {0.01: 0.8, 0.05: 0.5}), 4)  # 1 - (0.01 * 0.9 + 0.04 * 0.8 + 0.95 * 0.5)
    0.484
    >>> robust_auroc(0.25, {}), robust_auroc(0.25, {0.5: 0.0}), robust_auroc(0.25, {0.5: 0.75})
    (0.75, 0.875, 0.25)
    """
    if not all(0 <= share <= 1 for share in (reached, *passed.values())):
        raise ValueError(f"shares must be in [0, 1], got {reached} reached and {dict(passed)} passed")
    if not all(0 < rate < 1 for rate in passed):
        raise ValueError(f"false-alarm rates must be in (0, 1), got {sorted(passed)}")
    area, share, right = 0.0, 0.0, 1.0
    for rate, found in sorted({**passed, 0.0: reached}.items(), reverse=True):
        share = max(share, found)
        area += (right - rate) * (1 - share)
        right = rate
    return area
