"""A recogniser of frames that needs no training, and an attack on it, for the tests of the loop and its parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.loop import AttackResult, run_attack
from kaldi_uq.attacks.methods import make_constraint

GRID = 32768
FRAME = 20  # samples


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_grid(*shape: int, seed: int = 0, scale: float = 0.4) -> Tensor:
    return (scale * torch.randn(shape, generator=seeded(seed)) * GRID).round().clamp(-GRID, GRID - 1) / GRID


class Toy:
    """A recogniser of frames of 20 samples: a linear layer and a softmax, each frame by itself.

    Sums over samples are written as elementwise products, so that a batch rounds exactly as an utterance alone does.
    """

    def __init__(self, num_pdfs: int = 4, num_draws: int = 1) -> None:
        self.weights = torch.randn(num_pdfs, FRAME, generator=seeded(3))
        self.num_draws = num_draws
        self.calls = 0

    def __call__(self, wav: Tensor, num_samples: Tensor, rows: Tensor | None = None) -> Tensor:
        self.calls += 1
        frames = wav[:, : wav.shape[1] // FRAME * FRAME].reshape(len(wav), -1, 1, FRAME)
        logits = (frames * self.weights).sum(-1)
        return torch.stack([logits * (1 + m) for m in range(self.num_draws)]).log_softmax(-1)


def lengths_of(num_samples: Tensor) -> Tensor:
    return num_samples // FRAME


def attack(
    config: AttackConfig,
    wav: Tensor | None = None,
    sizes: list[int] | None = None,
    *,
    start: Tensor | None = None,
    **options: Any,
) -> tuple[AttackResult, Tensor]:
    wav = on_grid(3, 200) if wav is None else wav
    num_samples = torch.tensor(sizes or [wav.shape[1]] * len(wav))
    targets = torch.randint(4, (len(wav), wav.shape[1] // FRAME), generator=seeded(5))
    model = options.pop("model", Toy())
    if start is not None:
        options["noise"] = lambda _: start
    constraint = make_constraint(config, wav, num_samples, 8000)
    result = run_attack(model, wav, num_samples, targets, lengths_of(num_samples), config, constraint, **options)
    return result, wav


def live_share(result: AttackResult, sizes: list[int]) -> list[float]:
    return (result.live.sum(1) / torch.tensor(sizes)).tolist()
