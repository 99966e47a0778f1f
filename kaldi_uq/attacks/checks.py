"""Does the attack do what it claims?  Each check says what it saw and, if it fails, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
    largest = max(float(np.max(np.abs(attacked[u].astype(np.float64) - originals[u]))) for u in originals)
    same_length = all(len(attacked[u]) == len(originals[u]) for u in originals)
    checks = {
        "eps_respected": _check(
            largest <= config.eps + ROUNDING, largest, config.eps, "the projection or the rounding to 16 bit is broken"
        ),
        "length_kept": _check(same_length, int(same_length), 1, "the attack must not change the length of the audio"),
    }
    if config.eps > 0 and config.num_steps > 0:
        live = min(float(records[u]["live_samples"]) for u in originals)
        fell = float(np.mean([records[u]["last_loss"] < records[u]["first_loss"] for u in originals]))
        checks["gradient_reaches_audio"] = _check(
            live >= 0.5, live, 0.5, "samples without a gradient: is the front end or the model masking it?"
        )
        checks["loss_falls"] = _check(
            fell >= 0.9, fell, 0.9, "the loss of the target does not fall: more steps, another step size, or realign"
        )
    return checks


def _check(passed: bool, value: float, limit: float, remedy: str) -> dict[str, Any]:
    return {"passed": bool(passed), "value": value, "limit": limit, "remedy": "" if passed else remedy}
