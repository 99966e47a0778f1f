"""The attack loop: descend from one or several starts, keep what the judge likes best, end on 16-bit audio.

The attacked function is anything that maps waveforms to log-posteriors.  Goal, constraint and step rule are parts to
choose; a judge and another estimate of the gradient can be added.
Source: section 2.1 of the paper; Madry et al. 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import Constraint
from kaldi_uq.attacks.goal import BatchGoal, mean_log_post
from kaldi_uq.attacks.steps import make_stepper
from kaldi_uq.io.wav import INT16_SCALE
from kaldi_uq.nnet.precision import quick_products

NO_GRADIENT = (
    "what the model gives has no gradient with respect to the audio: detach(), torch.no_grad() or NumPy in its "
    "forward; compute it in torch throughout, or attack by queries alone (BlackBox)"
)


@dataclass(frozen=True)
class Verdict:
    """What the recogniser makes of candidates, ``(b,)`` each.

    Attributes:
        success: whether the attack has what it wants.
        rank: float, lower is better: how the best candidate of an utterance is chosen.
    """

    success: Tensor
    rank: Tensor


# (wav (b, N), num_samples (b,), rows (b,): which of the batch) -> log-posteriors (M, b, T, C): M draws or members
LogPost = Callable[[Tensor, Tensor, Tensor], Tensor]
# (candidates (b, N) on the 16-bit grid, rows (b,)) -> what the recogniser makes of them
Judge = Callable[[Tensor, Tensor], Verdict]
# perturbations (b, N) -> (b, T): what each frame adds to the loss, zero on padding
Shares = Callable[[Tensor], Tensor]
# (shares of the loss, perturbation (b, N)) -> loss (b,), its gradient (b, N)
Gradient = Callable[[Shares, Tensor], tuple[Tensor, Tensor]]
# number of the start -> (B, N) in [-1, 1], 1 being the bound: uniform noise, or speech
Noise = Callable[[int], Tensor]


@dataclass
class AttackResult:
    """Perturbed waveforms and what happened.

    Attributes:
        wav: (B, N) float32, on the grid of 16-bit audio, within the constraint.
        first_loss, last_loss: (B,) before the first step, and at the last step before the kept candidate; nats.
        live: (B, N) bool, samples that had a gradient other than zero in at least one step.
        steps: (B,) int64, gradient steps taken, over all starts.
        starts: (B,) int64, starts used.
        success: (B,) bool, what the judge said of the kept candidate; all False without a judge.
        rank: (B,) float, of the kept candidate; infinite without a judge.
    """

    wav: Tensor
    first_loss: Tensor
    last_loss: Tensor
    live: Tensor
    steps: Tensor
    starts: Tensor
    success: Tensor
    rank: Tensor


def run_attack(
    log_post: LogPost,
    wav: Tensor,
    goal: BatchGoal,
    constraint: Constraint,
    config: AttackConfig,
    *,
    noise: Noise | None = None,
    start_delta: Tensor | None = None,
    judge: Judge | None = None,
    gradient: Gradient | None = None,
) -> AttackResult:
    """Move each waveform towards the goal.

    Args:
        log_post: the model.  A random one draws anew at each call; average over more draws by returning M of them.
        wav: (B, N) float32 in [-1, 1], on the 16-bit grid (k / 32768).
        goal: the loss of the batch, which may follow the posteriors every ``config.realign_every`` steps.
        constraint: the admissible perturbations of the batch.
        config: steps, step rule, starts.
        noise: gives what each start begins with, unless that is zero; without it all begin at the original.
        start_delta: (B, N) perturbation to begin the first start at, instead of noise or the original.
        judge: decides on candidates, every ``config.judge_every`` steps and at the end of each start.  The best
            candidate of an utterance is kept; one that succeeds is not started again, and with ``config.early_stop``
            left at once.
        gradient: another way to the gradient than automatic differentiation.

    Returns:
        the perturbed waveforms, rounded to 16 bit inside the constraint, and what happened: the last of a start without
        a judge, otherwise the best that it saw.  A further start goes on with the targets of the one before.

    Raises:
        ValueError: the model has no gradient.
    """
    size, device = len(wav), wav.device
    nothing = torch.zeros(size, device=device)
    count = nothing.long()
    result = AttackResult(
        wav=wav.clone(),
        first_loss=nothing,
        last_loss=nothing.clone(),
        live=torch.zeros_like(constraint.inside),
        steps=count,
        starts=count.clone(),
        success=nothing.bool(),
        rank=torch.full_like(nothing, torch.inf),
    )
    movable = constraint.eps > 0  # the others stay as they are
    if not bool(movable.any()):
        return result
    goal.begin()
    run = _Run(log_post, wav, constraint.num_samples, goal, gradient or _autograd)
    for start in range(config.num_starts):
        rows = torch.arange(size, device=device)[~result.success & movable]
        if not len(rows):
            break
        result.starts[rows] += 1
        current = constraint.select(rows)
        kind = config.start_of(start)
        begin = noise(start)[rows] if noise is not None and kind != "zero" else None
        delta = torch.zeros_like(wav[rows]) if begin is None else current.start(begin)
        if start_delta is not None and start == 0:
            delta = current.project(start_delta[rows])
        stepper = make_stepper(current, config, warm=start_delta is not None and start == 0)
        for step in range(config.num_steps):
            # where speech of the target was laid over the audio, its path is there from the first step
            turn = config.realign_every and step % config.realign_every == 0 and (step or kind == "speech")
            if goal.follows and turn:
                goal.follow(run.mean_log_post(delta, rows), rows)
            loss, slope = run.gradient(delta, rows)
            # one that is no number is counted as none, which the checks find
            slope = torch.nan_to_num(slope, nan=0.0, posinf=torch.inf, neginf=-torch.inf)
            if start == 0 and step == 0:
                result.first_loss[rows] = loss
            moving = (slope != 0) & current.inside
            if len(rows) == size:
                result.live |= moving
            else:
                result.live[rows] |= moving
            result.steps[rows] += 1
            delta = stepper.next(delta, slope, loss)
            is_last = step + 1 == config.num_steps
            if is_last or (judge is not None and config.looks_every and (step + 1) % config.looks_every == 0):
                success = _consider(result, wav, delta, rows, loss, judge)
                if config.early_stop and not is_last and bool(success.any()):
                    stay = (~success).nonzero()[:, 0]
                    rows, delta, current = rows[stay], delta[stay], current.select(stay)
                    stepper.select(stay, current)
                    if not len(rows):
                        break
    return result


@dataclass(frozen=True)
class _Run:
    """The loss of perturbations of some rows of the batch."""

    log_post: LogPost
    wav: Tensor
    num_samples: Tensor
    goal: BatchGoal
    estimate: Gradient

    def gradient(self, delta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        def shares_of(perturbation: Tensor) -> Tensor:
            try:
                log_post = self._log_post(perturbation, rows)
            except RuntimeError as error:  # PyTorch's own advice, to detach, would lead to an attack that does nothing
                if "numpy()" not in str(error):
                    raise
                raise ValueError(NO_GRADIENT) from error
            if perturbation.requires_grad and torch.is_grad_enabled() and not log_post.requires_grad:
                raise ValueError(NO_GRADIENT)
            return self.goal.shares(log_post, rows)

        with quick_products(delta.device):
            loss, slope = self.estimate(shares_of, delta)
        return loss.to(delta.dtype), slope  # a model may compute in another precision than that of the audio

    def mean_log_post(self, delta: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return mean_log_post(self._log_post(delta, rows))

    def _log_post(self, delta: Tensor, rows: Tensor) -> Tensor:
        wav, num_samples = self.wav, self.num_samples
        if len(rows) < len(wav):  # all of them need no copy
            wav, num_samples = wav[rows], num_samples[rows]
        return self.log_post(wav + delta, num_samples, rows)


def _autograd(shares_of: Shares, delta: Tensor) -> tuple[Tensor, Tensor]:
    delta = delta.detach().requires_grad_(True)
    loss = shares_of(delta).sum(1)
    (slope,) = torch.autograd.grad(loss.sum(), delta, allow_unused=True)
    if slope is None:
        raise ValueError(NO_GRADIENT)
    return loss.detach(), slope


def _consider(
    result: AttackResult,
    wav: Tensor,
    delta: Tensor,
    rows: Tensor,
    loss: Tensor,
    judge: Judge | None,
) -> Tensor:
    """Keep the candidates that are better than what there is; returns the success (b,) of the candidates."""
    rounded = torch.round(delta * INT16_SCALE) / INT16_SCALE
    # the cap lies on the grid, so that rounding stays within it, and sums of numbers on the grid are exact
    candidate = wav[rows] + rounded
    if judge is None:
        verdict = Verdict(torch.zeros_like(loss, dtype=torch.bool), torch.full_like(loss, torch.inf))
        better = torch.ones_like(verdict.success)
    else:
        verdict = judge(candidate, rows)
        best, best_loss = result.rank[rows], result.last_loss[rows]
        better = (verdict.rank < best) | ((verdict.rank == best) & (loss <= best_loss)) | best.isinf()
    kept = rows[better]
    result.wav[kept] = candidate[better]
    result.last_loss[kept] = loss[better]
    result.rank[kept] = verdict.rank[better]
    result.success[kept] = verdict.success[better]
    return verdict.success
