"""Does the attack do what it claims?  Each check says what it saw and, if it fails, what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kaldi_uq.attacks.pgd import whole_steps
from kaldi_uq.io.wav import INT16_SCALE
from kaldi_uq.types import AttackConfig

ROUNDING = 1e-7  # float32 differences of numbers on the 16-bit grid


def check_attack(
    originals: Mapping[str, np.ndarray],
    attacked: Mapping[str, np.ndarray],
    records: Mapping[str, Mapping[str, Any]],
    config: AttackConfig,
) -> dict[str, dict[str, Any]]:
    """Check the files that an attack wrote, as they were read back.

    Args:
        originals: utt -> (N,) float32 in [-1, 1].
        attacked: utt -> (N,) float32, read from 16-bit files.
        records: utt -> ``first_loss``, ``last_loss`` (nats a frame) and ``live_samples`` (share in [0, 1]).
        config: the attack.

    Returns:
        name -> ``{"passed": bool, "value": number, "limit": number, "remedy": text}``.
    """
    largest = max(_distance(originals[u], attacked[u]) for u in originals)
    same_length = all(len(attacked[u]) == len(originals[u]) for u in originals)
    checks = {
        "eps_respected": _check(
            largest <= config.eps + ROUNDING, largest, config.eps, "the projection or the rounding to 16 bit is broken"
        ),
        "length_kept": _check(same_length, int(same_length), 1, "the attack must not change the length of the audio"),
    }
    if config.eps > 0 and not whole_steps(config.eps):
        checks["eps_reaches_16_bit"] = _check(
            False,
            config.eps * INT16_SCALE,
            1,
            "eps is less than 1/32768, one step of 16-bit audio: choose a larger one",
        )
    elif config.eps > 0:
        live = min(float(records[u]["live_samples"]) for u in originals)
        fell = float(np.mean([records[u]["last_loss"] < records[u]["first_loss"] for u in originals]))
        checks["gradient_reaches_audio"] = _check(
            live >= 0.5, live, 0.5, "samples without a gradient: is the front end or the model masking it?"
        )
        checks["loss_falls"] = _check(
            fell >= 0.9, fell, 0.9, "the loss of the target does not fall: more steps, another step size, or realign"
        )
    return checks


def snr_db(original: np.ndarray, attacked: np.ndarray) -> float | None:
    """Power of the original over that of the perturbation, dB; ``None`` if nothing was added."""
    noise = float(np.sum((attacked.astype(np.float64) - original) ** 2))
    if noise == 0:
        return None
    return 10.0 * math.log10(float(np.sum(original.astype(np.float64) ** 2)) / noise)


def _distance(original: np.ndarray, attacked: np.ndarray) -> float:
    """The largest difference of two samples, as far as both waveforms go."""
    size = min(len(original), len(attacked))
    return float(np.max(np.abs(attacked[:size].astype(np.float64) - original[:size]), initial=0.0))


def _check(passed: bool, value: float, limit: float, remedy: str) -> dict[str, Any]:
    return {"passed": bool(passed), "value": value, "limit": limit, "remedy": "" if passed else remedy}
