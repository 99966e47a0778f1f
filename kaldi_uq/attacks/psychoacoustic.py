"""The psychoacoustic attack: succeed first, then hide what was added below the masking threshold, as far as it goes.

The first phase is the loop as it is configured, usually within eps alone.  The second begins again, at the original,
for each utterance that succeeded: within a bound on the noise-to-mask ratio that is raised while the decoder does not
write what is wanted, and lowered while it does.  The best is kept, the first phase's where the second finds nothing
quieter: no success is lost, and eps caps every sample as before.  Lowering the ratio of the first phase's perturbation
itself goes slowly: it fills the quiet parts of the spectrum, where a hidden one has next to nothing.

Source: Qin et al. 2019, section 4 (the two phases); Rony et al. 2019, "Decoupling direction and norm" (a ball that
shrinks with each success and grows with each failure, instead of a weighted sum of two losses).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kaldi_uq.attacks.constraints import Constraint
from kaldi_uq.attacks.loop import AttackResult
from kaldi_uq.attacks.losses import mean_log_post, target_loss
from kaldi_uq.attacks.masking_constraint import NoiseToMask
from kaldi_uq.attacks.problem import Problem
from kaldi_uq.io.wav import INT16_SCALE

LISTEN_EVERY = 5  # steps between two looks of the decoder
FIRST_STEP, LAST_STEP = 0.25, 0.02  # of the radius, along half a cosine
START_DB, RISE_DB = -3.0, 1.5
LEAST_DB, MOST_DB = 0.2, 3.0
LOWEST_DB = -60.0  # of the ratio aimed at: nothing is left to hide
FASTER, SLOWER = 1.25, 0.6  # of the drop after a success and after a failure
HEARINGS = 3  # of a random model, which must agree: one may be luck


def hide(problem: Problem) -> tuple[AttackResult, Mapping[str, Sequence[Any]]]:
    """Attack a batch in two phases, the second of ``config.hide_steps`` steps.

    Returns:
        the best examples; ``rank`` is that of the first phase for a failure, the noise-to-mask ratio in dB for a
        success.  The column ``masking_margin_db_first`` is that ratio after the first phase (``None``: no success).
    """
    config = problem.config
    result = problem.run(replace(config, judge_every=config.judge_every or config.num_steps))
    rows = result.success.nonzero()[:, 0]
    first: list[float | None] = [None] * len(problem.utts)
    if len(rows):
        search = _Hiding(problem.select(rows), result.wav[rows])
        for row, level in zip(rows.tolist(), search.best_db.tolist(), strict=True):
            first[row] = level if math.isfinite(level) else None  # nothing was added: it was heard so from the start
        search.run()
        result.wav[rows] = search.part.wav + search.best
        result.rank[rows] = search.best_db
        result.steps[rows] += config.hide_steps
    return result, {"masking_margin_db_first": first}


class _Hiding:
    """The second phase: the best perturbation of each utterance so far, the current one, and the ratio aimed at."""

    def __init__(self, part: Problem, wav: Tensor) -> None:
        self.part = part
        self.best, self.delta = wav - part.wav, torch.zeros_like(wav)
        self.constraint = _constraint(part)
        self.best_db = self.constraint.excess_db(self.best)
        self._step_db = torch.full_like(self.best_db, RISE_DB)
        self._aim = (self.best_db - RISE_DB).clamp(LOWEST_DB, START_DB)
        self._found = torch.zeros_like(self._aim, dtype=torch.bool)  # a success of this phase's own
        self._rows = torch.arange(len(wav), device=wav.device)
        self._targets = part.targets()

    def run(self) -> None:
        """Take ``config.hide_steps`` steps."""
        config = self.part.config
        for step in range(config.hide_steps):
            if config.realign_every and step and step % config.realign_every == 0 and not config.untargeted:
                self._realign()
            share = 0.5 * (1.0 + math.cos(math.pi * step / config.hide_steps))
            self.constraint.set_margin(self._aim)
            move = self.constraint.direction(self._slope()) * (LAST_STEP + (FIRST_STEP - LAST_STEP) * share)
            self.delta = self.constraint.project(self.delta - move)
            if (step + 1) % LISTEN_EVERY == 0 or step + 1 == config.hide_steps:
                self._listen()

    def _slope(self) -> Tensor:
        part, config = self.part, self.part.config
        delta = self.delta.detach().requires_grad_(True)
        draws = part.log_post(part.wav + delta, part.num_samples)
        valid = torch.arange(draws.shape[2], device=draws.device) < part.lengths[:, None]
        of_mean = not part.recogniser.model.network.is_random
        loss = target_loss(draws, self._targets[:, : draws.shape[2]], valid, config.loss, of_mean=of_mean)
        (slope,) = torch.autograd.grad(loss.sum() * (-1.0 if config.untargeted else 1.0), delta)
        return torch.where(slope.isnan(), 0.0, slope)

    def _realign(self) -> None:
        with torch.no_grad():
            draws = self.part.log_post(self.part.wav + self.delta, self.part.num_samples)
        self._targets = self.part.realign(mean_log_post(draws), self._rows)

    def _listen(self) -> None:
        """Keep what succeeds and is quieter than the best; aim lower after a success, back after a failure."""
        candidate = torch.round(self.delta * INT16_SCALE) / INT16_SCALE
        success = torch.ones_like(self._rows, dtype=torch.bool)
        for _ in range(HEARINGS if self.part.recogniser.model.network.is_random else 1):
            success &= self.part.judge(self.part.wav + candidate, self._rows).success
        level = self.constraint.excess_db(candidate)
        better = success & (level < self.best_db)
        self.best = torch.where(better[:, None], candidate, self.best)
        self.best_db = torch.where(better, level, self.best_db)
        self._found |= success
        factor = torch.where(success, FASTER, SLOWER)
        self._step_db = torch.where(self._found, self._step_db * factor, self._step_db).clamp(LEAST_DB, MOST_DB)
        aim = torch.where(success, torch.minimum(self._aim, level) - self._step_db, self._aim + self._step_db)
        # as loud as the best and still not heard as wanted: this path is lost, go on from the best
        lost = ~success & (aim >= self.best_db)
        self.delta = torch.where(lost[:, None], self.best, self.delta)
        self._aim = torch.where(lost, self.best_db - self._step_db, aim).clamp(min=LOWEST_DB)


def _constraint(part: Problem) -> NoiseToMask:
    constraint: Constraint = part.constraint
    rate = part.recogniser.model.front_end.sample_rate
    return NoiseToMask(part.wav, part.num_samples, constraint.eps, sample_rate=rate)
