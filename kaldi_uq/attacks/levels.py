"""Budgets that mean nothing: more than full scale, louder than the speech, or those of silence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from kaldi_uq.attacks.config import AttackConfig


def level_warnings(config: AttackConfig, waves: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Lines about the utterances that an attack with this budget tells nothing about.

    Args:
        config: the budget.
        waves: utt -> (N,) float in [-1, 1].

    >>> list(level_warnings(AttackConfig(eps=0.02), {"a": np.full(8, 0.1)}))
    []
    >>> print(*level_warnings(AttackConfig(eps=0.2), {"a": np.full(8, 0.1)}))
    the change may be as loud as the speech in 1 of 1 utterances (SNR -6.0 dB in a): choose a smaller eps
    """
    levels = {utt: math.sqrt(np.square(wave, dtype=np.float64).mean()) for utt, wave in waves.items() if len(wave)}
    silent = [utt for utt, level in levels.items() if not level]
    if silent and config.eps:
        then = "have an eps of 0 and stay as they are" if config.eps_level else "have no speech to hide a change in"
        yield f"{_of(silent, levels)} are digital silence ({silent[0]}, ...): they {then}"
    bounds = {
        utt: config.eps * (level / config.eps_level if config.eps_level else 1.0) for utt, level in levels.items()
    }
    beyond = [utt for utt, eps in bounds.items() if eps > 1]
    if beyond:
        worst = max(beyond, key=bounds.__getitem__)
        yield (
            f"eps is more than full scale in {_of(beyond, levels)} ({bounds[worst]:.3g} in {worst}), which bounds "
            "nothing: choose a smaller eps or a larger eps_level"
        )
    snrs = {utt: _smallest_snr(config, level, bounds[utt]) for utt, level in levels.items() if level}
    loud = [utt for utt, snr in snrs.items() if snr <= 0]
    if loud:
        worst = min(loud, key=snrs.__getitem__)
        larger = ", or a larger eps_level" if config.eps_level else ""
        yield (
            f"the change may be as loud as the speech in {_of(loud, levels)} (SNR {snrs[worst]:.1f} dB in {worst}): "
            f"choose a smaller eps{larger}"
        )


def _of(some: list[str], every: Mapping[str, float]) -> str:
    return f"{len(some)} of {len(every)} utterances"


def _smallest_snr(config: AttackConfig, level: float, eps: float) -> float:
    """The SNR in dB of the loudest change that the constraint allows in speech of a root mean square."""
    loudest = min(eps, 1.0)
    if config.constraint == "l2":
        loudest = min(loudest, config.rms * (level / config.eps_level if config.eps_level else 1.0))
    elif config.constraint == "snr":
        loudest = min(loudest, level * 10.0 ** (-config.snr_db / 20.0))
    elif config.constraint == "masking":  # which goes by what the audio itself masks
        return math.inf
    return 20.0 * math.log10(level / loudest) if loudest else math.inf
