"""What the files in ``golden_b2`` were made from, as formulas: numbers that are exact in single precision."""

from __future__ import annotations

import numpy as np

RATE = 8000
# start and end of segments, seconds, and samples of the recording; each is cut out of a ramp, sample i being i
SEGMENTS = [
    (0.0, 0.1, 8000),
    (0.00006, 0.35001, 8000),
    (0.12345, 0.76543, 8000),
    (0.1234375, 0.5, 8000),
    (0.2, -1.0, 7999),
    (0.333333, 1.0, 7999),
    (0.4, 1.2, 7777),
    (0.0000624, 0.2000624, 8000),
    (0.0000626, 0.2000626, 8000),
]
TEXTS = {"utt-a": "one two", "utt-b": "seven", "utt-c": "zero zero nine four"}
NUM_FRAMES = {"utt-a": 90, "utt-b": 61, "utt-c": 130}


def noise(num_samples: int, seed: int) -> np.ndarray:
    """(N,) int16 by a linear congruence; the same on every machine and with every release of NumPy."""
    state, values = seed, []
    for _ in range(num_samples):
        state = (1103515245 * state + 12345) % (1 << 31)
        values.append((state >> 16) % 6001 - 3000)
    return np.array(values, dtype=np.int16)


def wave() -> np.ndarray:
    """(2400,) int16: noise with a tone that falls, 0.3 s."""
    time = np.arange(2400) / RATE
    tone = np.rint(8000 * np.sign(np.sin(2 * np.pi * (900 - 1000 * time) * time)))
    return (noise(2400, 1) + tone).astype(np.int16)


def loglikes(utt: str, num_pdfs: int) -> np.ndarray:
    """(T, C) float32, multiples of 1/64 between -12 and 12."""
    frames = NUM_FRAMES[utt]
    values = noise(frames * num_pdfs, sum(utt.encode())).reshape(frames, num_pdfs)
    return (values.astype(np.int32) * 768 // 3000).astype(np.float32) / 64
