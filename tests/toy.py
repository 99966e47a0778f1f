"""Recognisers that need no training, and an attack on one of them, for the tests of the loop and its parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import make_constraint
from kaldi_uq.attacks.donors import runs_of
from kaldi_uq.attacks.goal import LOSSES, BatchGoal, mean_log_post
from kaldi_uq.attacks.loop import AttackResult, run_attack
from kaldi_uq.errors import DataError
from kaldi_uq.language.targets import check_target, random_target
from kaldi_uq.recogniser.base import BaseRecogniser

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


class ToyRecogniser(BaseRecogniser):
    """Writes the letter of each run of frames of one class: a recogniser from elsewhere, without any files.

    The first class is a blank that is not written, as in a recogniser trained by CTC.
    """

    sample_rate = 8000
    min_samples = FRAME
    frame_shift_s = FRAME / 8000
    is_random = False
    num_draws = None
    device = torch.device("cpu")
    letters = ("a", "b", "c")
    model_key = "toy"
    files: list[Path] = []
    settings: dict[str, Any] = {}

    def __init__(self, model: Toy | None = None) -> None:
        self.model = model or Toy()
        self.heard: list[tuple[str, ...]] = []  # utterances of each batch that was listened to

    def num_frames(self, num_samples: Any) -> Any:
        return num_samples // FRAME

    def draws(
        self, wav: Tensor, num_samples: Tensor, utts: Sequence[str], **options: Any
    ) -> tuple[Iterator[Tensor], Tensor]:
        return iter([self.model(wav, num_samples)]), lengths_of(num_samples)

    def mean_log_post(self, wav: Tensor, num_samples: Tensor, utts: Sequence[str], **options: Any) -> Tensor:
        return mean_log_post(self.model(wav, num_samples))

    def scores(self, log_mean_post: Tensor) -> Tensor:
        return log_mean_post

    def decode(self, scores: Iterable[tuple[str, np.ndarray]]) -> dict[str, tuple[str, ...]]:
        found = {}
        for utt, of_frames in scores:
            best = of_frames.argmax(1)
            runs = [c for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1])]
            found[utt] = tuple(self.letters[c - 1] for c in runs)
        self.heard.append(tuple(found))
        return found

    def align(self, scores: Mapping[str, np.ndarray], targets: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        found = {}
        for utt, of_frames in scores.items():
            path: list[int] = []
            for token in self.ctc_tokens(targets[utt]):
                path += [0, token] if path[-1:] == [token] else [token]  # a blank between two equal letters
            if len(path) <= len(of_frames):  # all equally long
                found[utt] = np.array(path)[np.arange(len(of_frames)) * len(path) // len(of_frames)]
        return found

    def word_times(self, words: Sequence[str], scores: np.ndarray) -> list[tuple[str, float, float]]:
        path = self.align({"": scores}, {"": words}).get("") if words else None
        runs = [run for run in runs_of(path) if run[0]] if path is not None else []
        shift = self.frame_shift_s
        return [(word, start * shift, end * shift) for word, (_, start, end) in zip(words, runs, strict=True)]

    def check_target(self, utt: str, words: Sequence[str], num_frames: int, where: str) -> None:
        check_target(utt, words, num_frames, dict.fromkeys(self.letters, 1), where)
        unknown = set(words) - set(self.letters)
        if unknown:
            raise DataError(f"{where}: {utt}: {min(unknown)!r} is no letter")

    def random_target(
        self, utt: str, original: Sequence[str], num_frames: int, *, seed: int, attempt: int = 0
    ) -> list[str]:
        words = dict.fromkeys(self.letters, 2)
        return random_target(utt, original, num_frames, words, seed=seed, attempt=attempt)

    def ctc_tokens(self, words: Sequence[str]) -> list[int]:
        return [1 + self.letters.index(word) for word in words]


def toy_waves(num_utts: int = 3, num_samples: int = 240) -> dict[str, np.ndarray]:
    """Noise, in which the toy hears letters; the later the shorter."""
    wav = on_grid(num_utts, num_samples, seed=8).numpy()
    return {f"utt{row}": wav[row, : num_samples - 2 * FRAME * row] for row in range(num_utts)}
