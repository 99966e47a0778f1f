"""Projected gradient descent: our batches beside libraries for images, which take utterances one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import Case, Facts, Row, Setting

if TYPE_CHECKING:
    from torch import Tensor

    from kaldi_uq.recogniser.hybrid import HybridModel

EPS, STEP = 0.02, 0.01
RIVAL = "cleverhans"
MOST_STEPS = 60  # that our attack may take to the other's accuracy

Work = Callable[[], Facts]


class Task:
    """What every attack of a row is given: a frozen model, audio and a class for each frame."""

    def __init__(self, setting: Setting, *, trained: bool, times: int = 1) -> None:
        import torch

        torch.manual_seed(0)
        self.device, self.num_steps = setting.device, setting.num_steps
        self.model: HybridModel
        if trained:
            from bench.system import System

            system = System(setting.system_dir)
            self.waves, self.targets = system.waves, system.targets
            self.model = system.model(self.device)
        else:
            from bench import inputs

            self.waves = inputs.sounds(setting.num_utts * times)
            self.model = inputs.model(device=self.device)
            frames = {utt: int(self.model.front_end.num_frames(len(w))) for utt, w in self.waves.items()}
            self.targets = inputs.frame_targets(frames)
        self.model.requires_grad_(False)  # no library computes gradients of weights here, which none needs

    def log_post(self, wav: Tensor, num_samples: Tensor, rows: Tensor | None = None) -> Tensor:
        """(M, B, T, C)."""
        import torch

        draws, _ = self.model.iter_log_post(wav, num_samples)
        return torch.cat(list(draws))

    def singles(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Each utterance alone: audio (1, N), its size (1,), targets (T,)."""
        import torch

        from bench.inputs import one_by_one

        targets = [torch.from_numpy(path).to(self.device) for path in self.targets.values()]
        return [(*audio, path) for audio, path in zip(one_by_one(self.waves, self.device), targets, strict=True)]

    def reached(self, attacked: list[Tensor]) -> float:
        """Share of the frames in which the attacked audio, (1, N) each, has its target."""
        import torch

        right = total = 0
        with torch.no_grad():
            for wav, (_, size, path) in zip(attacked, self.singles(), strict=True):
                right += int((self.log_post(wav, size)[0, 0].argmax(1) == path).sum())
                total += len(path)
        return right / total


def attack_in_batches(task: Task, config: Any) -> dict[str, Tensor]:
    """Our attack: utt -> (N,)."""
    import torch

    from kaldi_uq.attacks.attack import random_starts
    from kaldi_uq.attacks.constraints import make_constraint
    from kaldi_uq.attacks.goal import CrossEntropy, packed
    from kaldi_uq.attacks.loop import run_attack
    from kaldi_uq.recogniser.recogniser import Recogniser

    found = {}
    recogniser = Recogniser(task.model, "embedded", Path())
    for batch in recogniser.batches(task.waves):
        wav, num_samples = (torch.from_numpy(v).to(task.device) for v in (batch.wav, batch.num_samples))
        lengths = task.model.front_end.num_frames(num_samples)
        goal = CrossEntropy(packed([task.targets[utt] for utt in batch.utts], lengths), lengths)
        start = torch.from_numpy(random_starts(batch.utts, batch.num_samples.tolist(), 0)).to(task.device)
        constraint = make_constraint(config, wav, num_samples, task.model.front_end.sample_rate)
        passes = recogniser.passes(num_samples, batch.utts)  # as the attacks of the package ask for it
        result = run_attack(
            *(lambda wav, sizes, rows, passes=passes: passes(wav), wav, goal, constraint, config),
            noise=lambda _, start=start: start,
        )
        found |= {utt: result.wav[i, : int(num_samples[i])] for i, utt in enumerate(batch.utts)}
    return found


def ours(setting: Setting, *, times: int = 1, share: int = 1) -> Work:
    """The paper's attack, in batches.

    Args:
        setting: as always.
        times: so many times the utterances.
        share: with one part in so many of the steps.
    """
    from kaldi_uq.attacks.pgd import PGD

    task = Task(setting, trained=False, times=times)
    config = PGD.paper(eps=EPS, num_steps=max(1, task.num_steps // share)).config

    def work() -> Facts:
        found = attack_in_batches(task, config)
        return {"units": len(found)}

    return work


def cleverhans(setting: Setting, *, trained: bool = False, features: str = "ours") -> Work:
    """The same by cleverhans, one utterance at a time; what it reaches is found out in one run before.

    Args:
        setting: as always.
        trained: attack the trained network.
        features: ``ours``, or ``torchaudio``: what there is without this package.
    """
    import numpy as np
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    task = Task(setting, trained=trained)
    singles = task.singles()
    classify = torchaudio_log_post(task) if features == "torchaudio" else lambda x, size: task.log_post(x, size)[0, 0]

    def attack() -> list[Tensor]:
        return [
            projected_gradient_descent(
                lambda x, size=size: classify(x, size),
                wav,
                EPS,
                STEP,
                task.num_steps,
                np.inf,
                clip_min=-1.0,
                clip_max=1.0,
                y=path,
                targeted=True,
                sanity_checks=False,
            )
            for wav, size, path in singles
        ]

    reached = task.reached(attack()) if trained else None

    def work() -> Facts:
        return {"units": len(attack()), **({} if reached is None else {"reached": reached})}

    return work


def torchaudio_log_post(task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """The network on the MFCC, derivatives and context that torchaudio and PyTorch give: (1, N) -> (T, C)."""
    import torch
    from torchaudio.compliance import kaldi
    from torchaudio.functional import compute_deltas

    rate, context = task.model.front_end.sample_rate, task.model.front_end.config.left_context

    def log_post(wav: Tensor, _: Tensor) -> Tensor:
        cepstra = kaldi.mfcc(wav * 32768, sample_frequency=rate, dither=0.0, use_energy=False).t()[None]
        first = compute_deltas(cepstra)
        every = torch.cat([cepstra, first, compute_deltas(first)], dim=1)
        wide = torch.nn.functional.pad(every, (context, context), mode="replicate")
        frames = wide.unfold(2, 2 * context + 1, 1)[0].permute(1, 2, 0).flatten(1)
        return task.model.network.log_post(frames[None])[0, 0]  # type: ignore[no-any-return]

    return log_post


def torchattacks(setting: Setting) -> Work:
    """The same by torchattacks, one utterance at a time; its audio is in [0, 1], so that sizes are halved."""
    import torchattacks as library
    from torch import nn

    task = Task(setting, trained=False)
    singles = task.singles()

    class Classifier(nn.Module):
        """From audio in [0, 1] to the logits (T, C) of its frames."""

        def __init__(self) -> None:
            super().__init__()
            self.inside, self.size = task.model, singles[0][1]

        def forward(self, x: Tensor) -> Tensor:
            return task.log_post(2 * x - 1, self.size)[0, 0]

    classifier = Classifier().eval()
    attack = library.PGD(classifier, eps=EPS / 2, alpha=STEP / 2, steps=task.num_steps)
    attack.set_mode_targeted_by_label(quiet=True)

    def work() -> Facts:
        for wav, size, path in singles:
            classifier.size = size
            attack((wav + 1) / 2, path)
        return {"units": len(singles)}

    return work


def ours_to_equal_accuracy(setting: Setting) -> Work:
    """Our step rule with the fewest steps that reach what the other reached; they are searched before."""
    from kaldi_uq.attacks.config import AttackConfig

    task = Task(setting, trained=True)
    wanted = setting.known[RIVAL]["reached"]

    def attack(num_steps: int) -> dict[str, Tensor]:
        return attack_in_batches(task, AttackConfig(eps=EPS, num_steps=num_steps, realign_every=0))

    reached, num_steps = -1.0, 0
    while reached < wanted and num_steps < MOST_STEPS:
        num_steps += 1
        found = attack(num_steps)
        reached = task.reached([found[utt][None] for utt in task.waves])

    def work() -> Facts:
        return {"units": len(attack(num_steps)), "reached": reached, "steps": num_steps}

    return work


def in_scale(times: int) -> Case:
    aim = "<= 1.2" if times > 1 else ""
    return Case(f"{times}x the utterances", lambda setting: ours(setting, times=times, share=4), aim=aim)


ROWS = (
    Row(
        "pgd",
        "PGD, equal steps, seconds an utterance",
        (
            Case("kaldi_uq", ours),
            Case(RIVAL, cleverhans, RIVAL, aim=">= 4"),
            Case("torchattacks", torchattacks, "torchattacks", aim=">= 4"),
            Case(
                "cleverhans on torchaudio's MFCC",
                lambda setting: cleverhans(setting, features="torchaudio"),
                "torchaudio",
                (RIVAL,),
                aim=">= 4",
            ),
        ),
        on_gpu=True,
    ),
    Row(
        "pgd-accuracy",
        "PGD to equal target accuracy of the frames, seconds an utterance",
        (
            Case("kaldi_uq", ours_to_equal_accuracy, needs=("system", RIVAL)),
            Case(RIVAL, lambda setting: cleverhans(setting, trained=True), RIVAL, ("system",), aim=">= 10"),
        ),
        on_gpu=True,
    ),
    Row(
        "pgd-scale",
        "PGD of many utterances, a quarter of the steps, seconds an utterance",
        (in_scale(1), in_scale(4), in_scale(16)),
        on_gpu=True,
    ),
)
