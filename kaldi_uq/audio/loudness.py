"""How loud an utterance is and how loud its quietest parts are: statistics that need no model.

They are the baseline of every detector here.  An attack adds energy to silence, and so does a fan: a statistic that is
no better than these, and calls the same harmless noise an attack, detects nothing but loudness.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kaldi_uq.audio.names import STATISTICS as STATISTICS
from kaldi_uq.io.wav import INT16_SCALE

FRAME_S = 0.025
FLOOR_QUANTILE = 0.1  # share of the frames: at least a tenth of an utterance is not speech

_ROUNDING_POWER = 1.0 / (12.0 * INT16_SCALE**2)  # rounding to 16 bit; gives digital silence a level


def loudness(wav: npt.NDArray[np.floating], sample_rate: float) -> dict[str, float]:
    """Level and noise floor, dB of full scale.

    Args:
        wav: waveform, (N,) in [-1, 1], at least one sample.
        sample_rate: sample rate in Hz.

    Returns:
        ``level_db``: level of the root mean square of all samples.  ``noise_floor_db``: the level below which a tenth
        of the frames of 25 ms stays.

    >>> {name: round(value, 2) for name, value in loudness(np.full(8000, 0.1), 8000).items()}
    {'level_db': -20.0, 'noise_floor_db': -20.0}
    """
    power = np.square(wav, dtype=np.float64)
    size = max(1, min(len(power), round(FRAME_S * sample_rate)))
    frames = power[: len(power) // size * size].reshape(-1, size).mean(axis=1)
    return {"level_db": _db(float(power.mean())), "noise_floor_db": _db(float(np.quantile(frames, FLOOR_QUANTILE)))}


def snr_db(original: npt.NDArray[np.floating], changed: npt.NDArray[np.floating]) -> float | None:
    """Signal-to-noise ratio in dB, the change taken as noise; ``None`` without a change, or for a silent original.

    >>> wave = np.sin(np.arange(800.0))
    >>> round(snr_db(wave, 1.1 * wave), 6)
    20.0
    """
    noise = float(np.sum((changed.astype(np.float64) - original) ** 2))
    power = float(np.sum(np.square(original, dtype=np.float64)))
    return 10.0 * math.log10(power / noise) if power and noise else None


def _db(power: float) -> float:
    return 10.0 * math.log10(power + _ROUNDING_POWER)
