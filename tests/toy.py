"""A recogniser of frames that needs no training, and an attack on it, for the tests of the loop and its parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import make_constraint
from kaldi_uq.attacks.goal import LOSSES, BatchGoal
from kaldi_uq.attacks.loop import AttackResult, run_attack

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


def random_targets(wav: Tensor) -> Tensor:
    return torch.randint(4, (len(wav), wav.shape[1] // FRAME), generator=seeded(5))


def goal_of(config: AttackConfig, targets: Tensor, num_samples: Tensor) -> BatchGoal:
    """The loss that a configuration names, for given classes of the frames."""
    kind: Any = LOSSES.get(config.loss)
    goal: BatchGoal = kind(targets, lengths_of(num_samples), away=config.untargeted)
    return goal


def loss_of(goal: BatchGoal, draws: Tensor) -> Tensor:
    """The loss (B,) of a whole batch."""
    return goal.shares(draws, torch.arange(draws.shape[1])).sum(1)


def attack(
    config: AttackConfig,
    wav: Tensor | None = None,
    sizes: list[int] | None = None,
    *,
    start: Tensor | None = None,
    goal: BatchGoal | None = None,
    **options: Any,
) -> tuple[AttackResult, Tensor]:
    """Attack the toy, towards random targets unless there is another goal."""
    wav = on_grid(3, 200) if wav is None else wav
    num_samples = torch.tensor(sizes or [wav.shape[1]] * len(wav))
    model = options.pop("model", Toy())
    if start is not None:
        options["noise"] = lambda _: start
    goal = goal or goal_of(config, random_targets(wav), num_samples)
    constraint = make_constraint(config, wav, num_samples, 8000)
    return run_attack(model, wav, goal, constraint, config, **options), wav


def live_share(result: AttackResult, sizes: list[int]) -> list[float]:
    return (result.live.sum(1) / torch.tensor(sizes)).tolist()
