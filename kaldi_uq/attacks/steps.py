"""Step rules: how a perturbation moves along the gradient of the loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import Constraint
from kaldi_uq.registry import Registry

FIRST_STEP = 1 / 8  # of the radius, where no step size is given: with the decay it wins over 1/4 and 1/16
WARM_STEP = 1 / 32  # likewise where the start is an example that is good already: larger steps lose it
LARGEST_STEP = 0.1  # full scale, of Auto-PGD's first step: at eps 0.2 twice that loses a random model's utterances
APGD_MOMENTUM = 0.75  # share of the new step; the rest goes on in the direction of the last move
APGD_RISE = 0.75  # a step is kept while this share of the steps since the last look made the loss smaller


STEP_RULES: Registry[type[Stepper]] = Registry("step rule", "kaldi_uq.attacks")


@STEP_RULES.register("fixed")
class Stepper:
    """A step of constant size, with or without momentum.

    Args:
        constraint: the admissible perturbations of the batch.
        config: ``step_rule``, ``step_size``, ``num_steps``, ``momentum``.
        warm: the start is an example that is good already; of the rules without a size of their own.

    Source: Madry et al. 2018; momentum: Dong et al. 2018.
    """

    def __init__(self, constraint: Constraint, config: AttackConfig, *, warm: bool = False) -> None:
        self._constraint = constraint
        self._config = config
        self._step = 0
        self._first = first_size(constraint, config, warm=warm)
        self._velocity: Tensor | None = None

    def next(self, delta: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        """The next perturbation.

        Args:
            delta: (B, N).
            gradient: (B, N) of the loss, finite.
            loss: (B,) at ``delta``.
        """
        size = self._first * self._share()
        self._step += 1
        if self._config.momentum:
            gradient = gradient / gradient.abs().sum(1, keepdim=True).clamp(min=1e-20)
            if self._velocity is not None:
                gradient = gradient + self._config.momentum * self._velocity
            self._velocity = gradient
        return self._constraint.project(delta - size[:, None] * self._constraint.direction(gradient))

    def select(self, rows: Tensor, constraint: Constraint) -> None:
        """Go on with some utterances of the batch, and their constraint."""
        self._constraint = constraint
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])

    def _share(self) -> float:
        return 1.0


@STEP_RULES.register("cosine")
class CosineStepper(Stepper):
    """A step that decays along half a cosine, to nearly 0."""

    def _share(self) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * self._step / self._config.num_steps))


@STEP_RULES.register("apgd")
class ApgdStepper(Stepper):
    """Auto-PGD: begin with twice the radius (see LARGEST_STEP), halve the step where it no longer helps an utterance.

    Source: Croce and Hein 2020, algorithm 1 and its two conditions.
    """

    def __init__(self, constraint: Constraint, config: AttackConfig, *, warm: bool = False) -> None:
        super().__init__(constraint, config, warm=warm)
        self._looks = _looks(config.num_steps)
        self._size = self._first.clone()
        self._since = 0
        nothing = torch.zeros_like(self._size)
        self._falls, self._halved = nothing, nothing.bool()
        self._last_loss, self._best_loss, self._look_loss = (torch.full_like(nothing, math.inf) for _ in range(3))
        self._last: Tensor | None = None
        self._best: Tensor | None = None
        self._best_gradient: Tensor | None = None

    def next(self, delta: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        self._since += 1
        self._falls = self._falls + (loss < self._last_loss)
        self._last_loss = loss
        better = (loss < self._best_loss)[:, None]
        self._best_loss = torch.minimum(loss, self._best_loss)
        self._best = delta if self._best is None else torch.where(better, delta, self._best)
        self._best_gradient = (
            gradient if self._best_gradient is None else torch.where(better, gradient, self._best_gradient)
        )
        if self._step in self._looks:
            stuck = self._falls < APGD_RISE * self._since
            stuck |= ~self._halved & (self._best_loss >= self._look_loss)
            self._size = torch.where(stuck, self._size / 2, self._size)
            delta = torch.where(stuck[:, None], self._best, delta)
            gradient = torch.where(stuck[:, None], self._best_gradient, gradient)
            self._halved, self._look_loss = stuck, self._best_loss.clone()
            self._falls, self._since = torch.zeros_like(self._falls), 0
        self._step += 1
        ahead = self._constraint.project(delta - self._size[:, None] * self._constraint.direction(gradient))
        if self._last is not None:
            ahead = delta + APGD_MOMENTUM * (ahead - delta) + (1 - APGD_MOMENTUM) * (delta - self._last)
        self._last = delta
        return self._constraint.project(ahead)


def make_stepper(constraint: Constraint, config: AttackConfig, *, warm: bool = False) -> Stepper:
    """The stepper of a configuration."""
    return STEP_RULES.get(config.step_rule)(constraint, config, warm=warm)


def first_size(constraint: Constraint, config: AttackConfig, *, warm: bool = False) -> Tensor:
    """The size (B,) of the first step: the given one, or a share of the radius; one step alone goes all the way."""
    radius = constraint.radius()
    # of an eps at a level: sizes in full scale are scaled as it is
    scale = constraint.eps / config.eps if config.eps_level and config.eps else torch.ones_like(radius)
    if config.step_size:
        return scale * config.step_size
    if config.num_steps == 1:
        return radius
    if config.step_rule == "apgd":
        return torch.minimum(2.0 * radius, LARGEST_STEP * scale) if config.constraint == "linf" else 2.0 * radius
    return radius * (WARM_STEP if warm else FIRST_STEP)


def _looks(num_steps: int) -> set[int]:
    """The steps at which Auto-PGD reconsiders its step size: dense towards the end."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {math.ceil(share * num_steps) for share in shares[1:]}
