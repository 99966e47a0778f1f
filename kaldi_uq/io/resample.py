"""Another sample rate, where the user asks for it: the same numbers on every machine, and a line that counts them.

Source: band-limited interpolation by a polyphase filter (``scipy.signal.upfirdn``), windowed sinc: A. V. Oppenheim and
R. W. Schafer, Discrete-Time Signal Processing, 3rd edition, 4.6 and 7.5 (Kaiser window).
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from functools import lru_cache

import numpy as np

from kaldi_uq.errors import DataError

LOWEST, HIGHEST = 4000, 384_000  # Hz: rates of speech; a header may say anything
MAX_STEPS = 65_536  # of the ratio of two rates in lowest terms: the filter is 128 times as long
ZERO_CROSSINGS = 64  # of the filter, on each side
ROLLOFF = 0.945  # where it has half its gain, of half the lower rate; flat to 0.89, nothing left at 1
KAISER_BETA = 10.0  # stop band at -100 dB

log = logging.getLogger(__name__)


class Resampler:
    """Brings audio to one sample rate, and counts what it changed.

    Attributes:
        rate: the sample rate in Hz.
        changed: sample rate of what was resampled, in Hz -> number of waveforms.
        clipped: samples that went beyond full scale by it, and were clipped.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.changed: Counter[int] = Counter()
        self.clipped = 0

    def anew(self) -> Resampler:
        """One that does the same, and has done nothing yet."""
        return Resampler(self.rate)

    def one_channel(self, channels: np.ndarray, rate: int, name: str) -> np.ndarray:
        """The channels (channels, N) that are left to resample, of this rate in Hz: all of them."""
        return channels

    def __call__(self, samples: np.ndarray, rate: int, name: str) -> np.ndarray:
        """The waveform at the rate that is wanted.

        Args:
            samples: (N,) float32 in [-1, 1].
            rate: its sample rate in Hz.
            name: name of the audio, for messages.

        Returns:
            (ceil(N * self.rate / rate),) float32 in [-1, 1]; what has the rate already comes back as it is.

        Raises:
            DataError: no rate of speech, or one whose ratio to the other is not simple enough.
        """
        if rate == self.rate:
            return samples
        found = resample(samples, rate, self.rate, name)
        self.clipped += int(np.count_nonzero(np.abs(found) > 1))
        self.changed[rate] += 1
        return np.clip(found, -1.0, 1.0)

    def report(self, what: str, num: int) -> None:
        """Log what was resampled, if anything was.

        Args:
            what: where the audio comes from.
            num: number of all waveforms.
        """
        if self.changed:
            rates = ", ".join(f"{rate}" for rate in sorted(self.changed))
            clipped = f"; {self.clipped} samples beyond full scale clipped" if self.clipped else ""
            log.warning(
                "%s: %d of %d resampled from %s Hz to %g Hz%s",
                *(what, self.changed.total(), num, rates, self.rate, clipped),
            )


def resample(samples: np.ndarray, rate: int, to: float, name: str) -> np.ndarray:
    """Resample a waveform.

    Args:
        samples: (N,) float32.
        rate, to: old and new sample rate in Hz.
        name: name of the audio, for messages.

    Returns:
        (ceil(N * to / rate),) float32; sample 0 is at the same time.

    Raises:
        DataError: see :class:`Resampler`.

    >>> tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
    >>> wanted = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    >>> bool(np.abs(resample(tone, 8000, 16000, "tone") - wanted)[200:-200].max() < 1e-4)
    True
    """
    from scipy.signal import resample_poly  # here, so that --help needs no SciPy

    if not (LOWEST <= rate <= HIGHEST and LOWEST <= to <= HIGHEST) or to != int(to):
        raise DataError(f"{name}: {rate} Hz cannot be resampled to {to:g} Hz; expected {LOWEST} to {HIGHEST} Hz")
    divisor = math.gcd(rate, int(to))
    up, down = int(to) // divisor, rate // divisor
    if max(up, down) > MAX_STEPS:
        raise DataError(f"{name}: {rate} Hz cannot be resampled to {to:g} Hz: the ratio {up}:{down} is not simple")
    return np.asarray(resample_poly(samples.astype(np.float64), up, down, window=_filter(max(up, down)))).astype(
        np.float32
    )


@lru_cache(maxsize=4)
def _filter(steps: int) -> np.ndarray:
    """The low-pass filter, (2 * ZERO_CROSSINGS * steps + 1,) float64 with sum 1."""
    from scipy.signal import firwin

    return np.asarray(firwin(2 * ZERO_CROSSINGS * steps + 1, ROLLOFF / steps, window=("kaiser", KAISER_BETA)))
