"""Waveforms that count how many of them somebody holds."""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import numpy as np

from kaldi_uq.io.waves import Waves


class Alive:
    """Gives waveforms and counts how many of them somebody holds at a time."""

    def __init__(self, waves: Mapping[str, np.ndarray]) -> None:
        self.waves, self.now, self.most, self.read = waves, 0, 0, 0

    def __call__(self, utt: str) -> np.ndarray:
        wave = self.waves[utt].copy()
        self.now += 1
        self.read += 1
        self.most = max(self.most, self.now)
        weakref.finalize(wave, self._gone)
        return wave

    def _gone(self) -> None:
        self.now -= 1

    def lazily(self) -> Waves:
        """The waveforms, each a new array whenever it is asked for."""
        return Waves(Waves.of(self.waves).lengths, self)
