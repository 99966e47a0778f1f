"""What rows without a recogniser are measured on: sounds of speech's lengths, and networks of the paper's shape.

Speed does not depend on weights or on what is said, so that nothing has to be trained for these rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kaldi_uq.feats.config import FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.nnet.config import model_class
from kaldi_uq.recogniser.hybrid import HybridModel

RATE = 16000
SHORTEST_S, LONGEST_S = 0.5, 3.0
NUM_PDFS = 95  # the paper's
FRONT_END = FrontEndConfig(mfcc=MfccConfig(sample_frequency=RATE, use_energy=False))  # conf/mfcc_16k.conf

Waves = dict[str, np.ndarray]


def sizes(num_utts: int) -> list[int]:
    """Samples of each utterance: evenly from the shortest to the longest, in a random order."""
    seconds = np.linspace(SHORTEST_S, LONGEST_S, num_utts)
    return [int(s * RATE) for s in np.random.default_rng(0).permutation(seconds)]


def sounds(num_utts: int) -> Waves:
    """Harmonics of a wandering pitch in noise, (N,) float32 on the grid of 16-bit audio."""
    rng = np.random.default_rng(1)
    waves = {}
    for number, size in enumerate(sizes(num_utts)):
        pitch = 120 + 60 * rng.random() + np.cumsum(rng.normal(0, 0.02, size))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        wave = sum(np.sin(k * phase) / k for k in range(1, 9)) * 0.05 + rng.normal(0, 0.005, size)
        waves[f"utt{number:04d}"] = (np.rint(wave * 32768) / 32768).astype(np.float32)
    return waves


def model(kind: str = "dnn", device: str = "cpu", front_end: FrontEndConfig = FRONT_END, **options: Any) -> HybridModel:
    """An untrained model of the paper's shape, in evaluation mode."""
    config = model_class(kind).config_class(FrontEnd(front_end).output_dim, NUM_PDFS, **options)
    return HybridModel(front_end, config).to(device).eval()


def frame_targets(lengths: dict[str, int]) -> Waves:
    """A class for each frame (T,) int64, each for some frames, as an alignment has them."""
    rng = np.random.default_rng(2)
    return {
        utt: np.repeat(rng.integers(NUM_PDFS, size=size // 5 + 1), 5)[:size].astype(np.int64)
        for utt, size in lengths.items()
    }


def one_by_one(waves: Waves, device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each utterance as a batch of its own: (1, N), (1,)."""
    return [(torch.from_numpy(w)[None].to(device), torch.tensor([len(w)], device=device)) for w in waves.values()]


def every_pdf() -> np.ndarray:
    """The pdf of each transition-id where the targets are pdfs already."""
    return np.arange(NUM_PDFS)
