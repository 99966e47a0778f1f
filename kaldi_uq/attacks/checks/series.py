"""Do several runs of one model fit together?  What a strong attack must show, and what a broken one gives away.

Every function here takes what attacks did to one model, utterance by utterance, and returns a check: ``passed``,
``value``, ``limit``, ``remedy`` (if it failed) and ``num_utts``.  A point is one utterance in a hundred; where there
are fewer than a hundred, one utterance counts as a point.

Source: Carlini et al. 2019, "On evaluating adversarial robustness", section 4; Athalye et al. 2018, section 3.1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kaldi_uq.attacks.checks.one_run import Check, outcome

Success = Mapping[str, bool]  # utt -> whether the recogniser wrote down what the attacker wanted

POINT = 0.01
LARGE_EPS = 0.1  # full scale: louder than most speech, so that an attack that still fails is broken
UNDEFENDED = 0.9  # success on a network without draws or members, at eps 0.05: what weak attacks reach too
UNDEFENDED_EPS = 0.05
STABLE = 0.95
SIGNIFICANCE = 0.01  # of a drop that is more than chance


def grows_with_eps(by_eps: Mapping[float, Success]) -> Check | None:
    """More room must not make an attack worse, but for chance: from each eps to the next, on the same utterances.

    Args:
        by_eps: eps -> success of the same attack.

    Returns:
        the drop that is furthest above chance, and the largest drop that chance allows; ``None`` for fewer than two
        eps with utterances in common.
    """
    worst: Check | None = None
    ordered = sorted(by_eps)
    for low, high in itertools.pairwise(ordered):
        before, after = _paired(by_eps[low], by_eps[high])
        if not len(before):
            continue
        lost, won = int((before & ~after).sum()), int((after & ~before).sum())
        drop, limit = (lost - won) / len(before), _drop_by_chance(lost + won) / len(before)
        remedy = (
            f"success falls from eps {low:g} to {high:g}: the step size does not fit the larger eps, or the attack "
            "leaves it at the edge; use a decaying step, more steps, or keep the best candidate (--judge-every)"
        )
        found = outcome(drop <= limit, drop, limit, remedy) | {"eps": [low, high], "num_utts": len(before)}
        if worst is None or drop - limit > worst["value"] - worst["limit"]:
            worst = found
    return worst


def saturates(by_eps: Mapping[float, Success]) -> Check | None:
    """With a large eps every utterance must fall; ``None`` if no eps is large."""
    large = [eps for eps in by_eps if eps >= LARGE_EPS and by_eps[eps]]
    if not large:
        return None
    success = by_eps[max(large)]
    limit = 1 - _one_point(len(success))
    remedy = (
        f"even eps {max(large):g} does not always succeed: look at the failed utterances (a target too long for the "
        "audio?), then at realignment and the number of steps"
    )
    value = _rate(success)
    return outcome(value >= limit - 1e-9, value, limit, remedy) | {"eps": max(large), "num_utts": len(success)}


def adds_little(more: Mapping[float, Success], base: Mapping[float, Success], *, what: str) -> Check | None:
    """An attack that is given more must gain at most a point: otherwise the base did not do all it could.

    Args:
        more: eps -> success with more steps, or more restarts.
        base: eps -> success of the attack that is reported.
        what: "steps" or "starts", for the message.

    Returns:
        the largest gain over the eps in both; ``None`` if there is none.
    """
    found = []
    for eps in sorted(more.keys() & base.keys()):
        high, low = _paired(more[eps], base[eps])
        if len(high):
            gain, limit = float(high.mean() - low.mean()), _one_point(len(high))
            remedy = f"twice the {what} still help: report the attack with more (--num-{what}), until they do not"
            found.append(outcome(gain <= limit + 1e-9, gain, limit, remedy) | {"eps": eps, "num_utts": len(high)})
    return max(found, key=lambda check: check["value"] - check["limit"], default=None)


def beats(strong: Mapping[float, Success], weak: Mapping[str, Mapping[float, Success]], *, remedy: str) -> Check | None:
    """What falls to a weaker attack must fall to the stronger one too, utterance by utterance.

    Args:
        strong: eps -> success.
        weak: name -> eps -> success.
        remedy: what to do if it does not.

    Returns:
        the largest share of utterances that only a weaker one turned; ``None`` if no eps is in both.
    """
    found = []
    for name, by_eps in weak.items():
        for eps in sorted(strong.keys() & by_eps.keys()):
            own, other = _paired(strong[eps], by_eps[eps])
            if not len(own):
                continue
            alone, limit = float((other & ~own).mean()), _one_point(len(own))
            passed = alone <= limit + 1e-9 and own.mean() >= other.mean() and bool(own.any())
            text = f"{name} turns utterances that the stronger attack does not, at eps {eps:g}"
            text = text if own.any() else f"the attack never succeeds at eps {eps:g}"
            check = outcome(passed, alone, limit, f"{text}: {remedy}")
            found.append(check | {"eps": eps, "num_utts": len(own), "against": name})
    return max(found, key=lambda check: (not check["passed"], check["value"] - check["limit"]), default=None)


def shows_no_masking(strong: Mapping[float, Success], blind: Mapping[str, Mapping[float, Success]]) -> Check | None:
    """An attack without the model's gradient that does better than one with it means that the gradient is masked.

    Args:
        strong: eps -> success of the attack by gradient.
        blind: name -> eps -> success of attacks that do not use it: black box, transfer, noise.

    Returns:
        the largest lead of a blind attack and the largest that chance allows; ``None`` if no eps is in both.
    """
    found = []
    for name, by_eps in blind.items():
        for eps in sorted(strong.keys() & by_eps.keys()):
            own, other = _paired(strong[eps], by_eps[eps])
            if len(own):
                won, lost = int((other & ~own).sum()), int((own & ~other).sum())
                lead, limit = (won - lost) / len(own), _drop_by_chance(won + lost) / len(own)
                remedy = (
                    f"{name} does better than the gradient at eps {eps:g}, a sign of masked gradients: check the "
                    "gradient (gradient_correct), average it over more draws (--eot-samples), or report that attack"
                )
                check = outcome(lead <= limit, lead, limit, remedy)
                found.append(check | {"eps": eps, "num_utts": len(own), "against": name})
    return max(found, key=lambda check: check["value"] - check["limit"], default=None)


def agrees_when_rescored(recorded: Success, again: Sequence[Success]) -> Check | None:
    """Other draws of a random model must give the same verdict; ``None`` if nothing was rescored.

    Args:
        recorded: utt -> success as reported.
        again: the same with other draws, one mapping a time.
    """
    if not again or not recorded:
        return None
    same = [all(bool(other[utt]) == bool(value) for other in again) for utt, value in recorded.items()]
    value = float(np.mean(same))
    remedy = (
        "other draws give other words: report the mean over several scorings, score with more draws (--num-draws), "
        "or attack more draws at a time (--eot-samples)"
    )
    check = outcome(value >= STABLE, value, STABLE, remedy)
    return check | {"num_utts": len(same), "times": len(again)}


def undefended_falls(by_eps: Mapping[float, Success]) -> Check | None:
    """A network without any defence must fall, or the attack is no attack.

    Args:
        by_eps: eps -> success on that network.

    Returns:
        success at the smallest eps of at least ``UNDEFENDED_EPS``, or else at the largest there is.
    """
    there = {eps: success for eps, success in by_eps.items() if success}
    if not there:
        return None
    eps = min((eps for eps in there if eps >= UNDEFENDED_EPS), default=max(there))
    value, limit = _rate(there[eps]), min(UNDEFENDED, 1 - 1 / len(there[eps]))
    remedy = (
        f"the attack fails on a plain network at eps {eps:g}: it says nothing of the others; give it more steps, a "
        "decaying step and realigned targets, and check its gradient"
    )
    check = outcome(value >= limit, value, limit, remedy)
    return check | {"eps": eps, "num_utts": len(there[eps])}


def tells_attacks(row: Mapping[str, Any]) -> Check:
    """Whether a detector says anything at all: an AUROC of 1/2 with nothing above the threshold is a constant score.

    On a few utterances a working detector can have the same two numbers by chance; its interval then has a width.

    Args:
        row: row of :func:`kaldi_uq.detector.evaluate_detection`: ``auroc``, ``auroc_ci95``, ``tpr_at_threshold``.
    """
    areas = (row["auroc"], *row["auroc_ci95"])
    says_nothing = all(abs(area - 0.5) < 1e-9 for area in areas) and float(row["tpr_at_threshold"]) == 0.0
    remedy = (
        f"the detector on {row.get('statistic', 'this statistic')} gives every utterance the same score: look at the "
        "statistic it is fed with, or leave it out"
    )
    return outcome(not says_nothing, float(row["auroc"]), 0.5, remedy)


def every_detector_tells(rows: Sequence[Mapping[str, Any]]) -> Check | None:
    """No detector of a model may be a constant; the value is how many are, the limit none."""
    if not rows:
        return None
    broken = [check for check in map(tells_attacks, rows) if not check["passed"]]
    return outcome(not broken, len(broken), 0, broken[0]["remedy"] if broken else "")


def broken_is_caught(row: Mapping[str, Any]) -> Check:
    """The alarm works: a detector that was broken on purpose is found out.

    Args:
        row: row of a detector with a constant score, evaluated as every other.
    """
    caught = not tells_attacks(row)["passed"]
    remedy = (
        "a detector with a constant score was not found out, so that no number of a detector can be trusted: look at "
        "how scores, thresholds and ties are counted"
    )
    return outcome(caught, float(row["auroc"]), 0.5, remedy)


def _rate(success: Success) -> float:
    return float(np.mean([bool(value) for value in success.values()]))


def _paired(first: Success, second: Success) -> tuple[np.ndarray, np.ndarray]:
    """Both on the utterances they share, (B,) bool."""
    utts = [utt for utt in first if utt in second]
    return np.array([first[u] for u in utts], dtype=bool), np.array([second[u] for u in utts], dtype=bool)


def _one_point(num_utts: int) -> float:
    return max(POINT, 1 / num_utts)


def _drop_by_chance(discordant: int) -> int:
    """The largest difference of lost and won utterances, of so many that changed, that a fair coin gives.

    >>> _drop_by_chance(0), _drop_by_chance(6), _drop_by_chance(7), _drop_by_chance(100)
    (0, 6, 5, 24)
    """
    tail, lost = 0, discordant
    while lost > discordant / 2:
        tail += math.comb(discordant, lost)
        if tail > SIGNIFICANCE * 2**discordant:
            break
        lost -= 1
    return max(0, 2 * lost - discordant)
