"""The psychoacoustic attack: succeed first, then hide what was added below the masking threshold, as far as it goes.

The first phase is the loop as it is configured, usually within eps alone.  The second lowers a bound on the spectrum of
the perturbation of each utterance that succeeded, while the decoder still writes what is wanted, and raises it again
where it does not: first a bound on each cell of time and frequency, which cuts what is furthest above the threshold,
then one on the mean over the cells, which leaves those loud that the success depends on.  The best is kept, so that no
success is lost, and eps caps every sample as before.

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

from kaldi_uq.attacks.attack import ATTACKS, Attack
from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.config import HidingConfig
from kaldi_uq.attacks.goal import mean_log_post
from kaldi_uq.attacks.loop import AttackResult
from kaldi_uq.attacks.masking_constraint import Masking, NoiseToMask
from kaldi_uq.audio.masking import masking_threshold
from kaldi_uq.io.wav import INT16_SCALE

LISTEN_EVERY = 5  # steps between two looks of the decoder
# Of the bound, along half a cosine.  A first step of 0.25 left the perturbations 4 dB louder (ten utterances).
FIRST_STEP, LAST_STEP = 0.12, 0.02
LEAST_DB, MOST_DB = 0.2, 6.0  # by which the bound moves
FASTER, SLOWER = 1.5, 0.6  # how that changes after a success and after a failure
LOWEST_DB = -60.0  # of the bound: nothing is left to hide
CELLS_ABOVE_DB = 10.0  # of the first bound on cells over their mean, so that it cuts the loudest alone
HEARINGS = 3  # of a random model, which must agree: one may be luck


@ATTACKS.register("psychoacoustic")
class Psychoacoustic(Attack):
    """The attack in two phases, the second of ``hide_steps`` steps.

    The ``rank`` of a result is that of the first phase for a failure, the noise-to-mask ratio in dB for a success.
    """

    Config = HidingConfig
    asked_by = "hide_steps"

    @classmethod
    def quiet(cls, eps: float = 0.02, **options: Any) -> Psychoacoustic:
        """The options of the recipe's ``conf/psychoacoustic.conf``."""
        return cls(**{"eps": eps, "judge_every": 10, "early_stop": True, "hide_steps": 200, **options})

    def on_batch(self, batch: Batch) -> tuple[AttackResult, Mapping[str, Sequence[Any]]]:
        """Attack a batch.

        Returns:
            the best examples, and the column ``masking_margin_db_first``, the noise-to-mask ratio after the first phase
            (``None``: no success).
        """
        config = batch.config
        assert isinstance(config, HidingConfig)
        result = batch.run(replace(config, judge_every=config.looks_every or config.num_steps))
        first: list[float | None] = [None] * len(batch.utts)
        added = (result.wav != batch.wav).any(1)  # nothing was: it was heard so from the start
        rows = (result.success & added).nonzero()[:, 0]
        if len(rows):
            part = batch.select(rows)
            best = result.wav[rows] - part.wav
            threshold = masking_threshold(part.wav, part.recogniser.sample_rate)
            cells = _Hiding(part, Masking, threshold, best)
            for row, level in zip(rows.tolist(), cells.best_db.tolist(), strict=True):
                first[row] = level
            cells.run(config.hide_steps // 2, cells.best_db + CELLS_ABOVE_DB, drop_db=3.0)
            mean = _Hiding(part, NoiseToMask, threshold, cells.best)
            mean.run(config.hide_steps - config.hide_steps // 2, mean.best_db, drop_db=1.0)
            result.wav[rows] = part.wav + mean.best
            result.rank[rows] = mean.best_db
            result.steps[rows] += config.hide_steps
        return result, {"masking_margin_db_first": first}


class _Hiding:
    """The search for the lowest bound of one kind.

    Attributes:
        best: (B, N) perturbation with the lowest noise-to-mask ratio that succeeds.
        best_db: (B,) its ratio.
    """

    def __init__(self, part: Batch, kind: type[Masking], threshold: Tensor, best: Tensor) -> None:
        self._part = part
        eps = part.constraint.eps
        rate = part.recogniser.sample_rate
        self._constraint = kind(part.wav, part.num_samples, eps, sample_rate=rate, threshold=threshold)
        self.best, self.best_db = best, self._constraint.ratio_db(best)
        self._rows = torch.arange(len(best), device=best.device)
        part.goal.begin()

    def run(self, num_steps: int, bound: Tensor, *, drop_db: float) -> None:
        """Search from the bound (B,) downward, the first time by ``drop_db``."""
        config = self._part.config
        part_follows = self._part.goal.follows and config.realign_every > 0
        delta, bound_of_best = self.best, bound
        drop = torch.full_like(bound, drop_db)
        bound = (bound - drop).clamp(min=LOWEST_DB)
        for step in range(num_steps):
            if part_follows and step and step % config.realign_every == 0:
                self._realign(delta)
            share = 0.5 * (1.0 + math.cos(math.pi * step / num_steps))
            self._constraint.set_margin(bound)
            move = self._constraint.direction(self._slope(delta)) * (LAST_STEP + (FIRST_STEP - LAST_STEP) * share)
            delta = self._constraint.project(delta - move)
            if (step + 1) % LISTEN_EVERY and step + 1 < num_steps:
                continue
            success, better = self._listen(delta)
            bound_of_best = torch.where(better, bound, bound_of_best)
            drop = (drop * torch.where(success, FASTER, SLOWER)).clamp(LEAST_DB, MOST_DB)
            bound = torch.where(success, bound - drop, bound + drop)
            # back where the best was and still not heard as wanted: this path is lost, go on from the best
            lost = ~success & (bound >= bound_of_best)
            delta = torch.where(lost[:, None], self.best, delta)
            bound = torch.where(lost, bound_of_best - drop, bound).clamp(min=LOWEST_DB)

    def _slope(self, delta: Tensor) -> Tensor:
        part = self._part
        delta = delta.detach().requires_grad_(True)
        draws = part.log_post(part.wav + delta, part.num_samples)
        loss = part.goal.shares(draws, self._rows)
        (slope,) = torch.autograd.grad(loss.sum(), delta)
        return torch.where(slope.isnan(), 0.0, slope)

    def _realign(self, delta: Tensor) -> None:
        with torch.no_grad():
            draws = self._part.log_post(self._part.wav + delta, self._part.num_samples)
        self._part.goal.follow(mean_log_post(draws), self._rows)

    def _listen(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Keep what succeeds and is quieter than the best; returns (B,) which succeed, and which are kept."""
        candidate = torch.round(delta * INT16_SCALE) / INT16_SCALE
        success = torch.ones_like(self._rows, dtype=torch.bool)
        for _ in range(HEARINGS if self._part.recogniser.is_random else 1):
            success &= self._part.judge(self._part.wav + candidate, self._rows).success
        level = self._constraint.ratio_db(candidate)
        better = success & (level < self.best_db)
        self.best = torch.where(better[:, None], candidate, self.best)
        self.best_db = torch.where(better, level, self.best_db)
        return success, better
