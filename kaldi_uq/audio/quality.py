"""How audible a change of an utterance is: SNR, segmental SNR, masking margin, level, and perceptual measures.

All take the original and the changed waveform, ``(N,)`` each, in [-1, 1], as read from 16-bit files.

``perceptual`` needs the packages of the extra ``quality``: PESQ (ITU-T P.862; the package ``pesq`` carries the ITU's
own C code under the ITU's terms and is compiled when it is installed) and STOI (``pystoi``).
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch

from kaldi_uq.audio.loudness import snr_db as snr_db
from kaldi_uq.audio.masking import margin, masking_threshold
from kaldi_uq.errors import MissingDependencyError

FloatArray = npt.NDArray[np.floating]

SEGMENT_S = 0.025  # length of a segment of the segmental SNR; segments do not overlap
SEGMENT_RANGE_DB = (-10.0, 35.0)  # limits beyond which a listener hears no further difference
SILENCE_DB = 40.0  # a segment this far below the loudest one is silence, whose SNR says nothing about the speech
PESQ_MODES = {8000: "nb", 16000: "wb"}  # Hz -> narrow or wide band
TOO_SHORT_FOR_STOI = 1e-5  # result of pystoi for audio that is too short; it warns, too
INSTALL = "pip install 'kaldi-uq[quality]'"


def segmental_snr_db(original: FloatArray, changed: FloatArray, rate: float) -> float | None:
    """Mean over segments of the SNR of each, dB: a change in quiet parts counts as much as one in loud parts.

    Segments of 25 ms without overlap, the last incomplete one left out; each SNR clamped to [-10, 35] dB; segments
    that are more than 40 dB below the loudest one in the original are silence and left out.

    Returns:
        dB; ``None`` if nothing was added, or the original is silent or shorter than a segment.

    Source: Hansen and Pellom 1998, "An effective quality evaluation protocol for speech enhancement algorithms".
    """
    width = round(SEGMENT_S * rate)
    count = len(original) // width
    before = original[: count * width].astype(np.float64).reshape(count, width)
    after = changed[: count * width].astype(np.float64).reshape(count, width)
    power, noise = (before**2).sum(1), ((after - before) ** 2).sum(1)
    if not count or not power.any() or np.array_equal(original, changed):
        return None
    spoken = power > power.max() * 10.0 ** (-SILENCE_DB / 10.0)
    low, high = (10.0 ** (limit / 10.0) for limit in SEGMENT_RANGE_DB)
    # clamped as ratios, so that a segment without any change needs no logarithm of infinity
    ratio = power[spoken] / np.maximum(noise[spoken], power[spoken] / high)
    return float(np.mean(10.0 * np.log10(np.maximum(ratio, low))))


def level_change_db(original: FloatArray, changed: FloatArray) -> float | None:
    """How much louder the changed waveform is, root mean square in dB; ``None`` if either is silent."""
    before, after = (float(np.sum(wave.astype(np.float64) ** 2)) for wave in (original, changed))
    return 10.0 * math.log10(after / before) if before and after else None


def measure_all(
    originals: Sequence[FloatArray], changed: Sequence[FloatArray], rate: float, *, device: str | torch.device = "cpu"
) -> list[dict[str, float | None]]:
    """Everything that needs no further package, as a line of ``results.jsonl`` names it.

    Args:
        originals, changed: (N_b,) each, the two waveforms of an utterance of the same length; utterances of about the
            same length are measured at once.
        rate: sample rate in Hz.
        device: device that computes the masking thresholds, most of the work.

    Returns:
        For each utterance ``snr_db``, ``segmental_snr_db``, ``level_change_db``; ``masking_margin_db`` (noise-to-mask
        ratio), ``masking_margin_max_db`` and ``share_above_masking``.  ``None`` where there is no number.
    """
    sizes = torch.tensor([len(wave) for wave in originals], device=device)
    wav, delta = (torch.zeros(len(originals), int(sizes.max())) for _ in range(2))
    for row, (before, after) in enumerate(zip(originals, changed, strict=True)):
        wav[row, : len(before)] = torch.from_numpy(np.asarray(before, dtype=np.float32))
        delta[row, : len(before)] = torch.from_numpy((after.astype(np.float64) - before).astype(np.float32))
    found = margin(delta.to(device), masking_threshold(wav.to(device), rate), sizes, rate)
    columns = zip(found.mean_db.tolist(), found.max_db.tolist(), found.share_above.tolist(), strict=True)
    return [
        {
            "snr_db": snr_db(before, after),
            "segmental_snr_db": segmental_snr_db(before, after, rate),
            "level_change_db": level_change_db(before, after),
            "masking_margin_db": mean if math.isfinite(mean) else None,
            "masking_margin_max_db": largest if math.isfinite(largest) else None,
            "share_above_masking": share,
        }
        for before, after, (mean, largest, share) in zip(originals, changed, columns, strict=True)
    ]


def perceptual_packages() -> tuple[str, ...]:
    """Those of ``pesq`` and ``pystoi`` that can be imported."""
    return tuple(name for name in ("pesq", "pystoi") if _package(name))


def perceptual(
    original: FloatArray, changed: FloatArray, rate: float, names: Sequence[str] | None = None
) -> dict[str, float]:
    """The perceptual measures whose packages are installed: ``pesq`` (1 to 4.6) and ``stoi`` (to 1); empty without.

    PESQ has one scale at 8 kHz (narrow band) and another at 16 kHz (wide band), which must not be compared.  It is left
    out at other rates, and for audio in which it finds no speech.  ``names``: of the packages that are installed, if
    that is known already.
    """
    names = perceptual_packages() if names is None else names
    values: dict[str, float | None] = {}
    if "pesq" in names:
        values["pesq"] = pesq_score(original, changed, rate)
    if "pystoi" in names:
        values["stoi"] = stoi_score(original, changed, rate)
    return {name: value for name, value in values.items() if value is not None}


def pesq_score(original: FloatArray, changed: FloatArray, rate: float) -> float | None:
    """PESQ as MOS-LQO; ``None`` at other rates than 8 and 16 kHz, or if it finds no speech.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    package = _needed("pesq")
    if rate not in PESQ_MODES or not np.any(original):
        return None
    try:
        return float(package.pesq(int(rate), original, changed, PESQ_MODES[int(rate)]))
    except (package.NoUtterancesError, package.BufferTooShortError):
        return None


def stoi_score(original: FloatArray, changed: FloatArray, rate: float) -> float | None:
    """Short-time objective intelligibility; ``None`` for audio with less than about 0.4 s of speech.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    package = _needed("pystoi")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        value = float(package.stoi(original, changed, int(rate)))
    return None if value == TOO_SHORT_FOR_STOI else value


def _package(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _needed(name: str) -> ModuleType:
    package = _package(name)
    if package is None:
        raise MissingDependencyError(f"the package {name} is not installed; run: {INSTALL}")
    return package
