"""The attack loop: the ball is never left, padding is never touched, the loss falls, and randomness is reproducible."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq.attacks.attack import random_starts
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import LInf
from kaldi_uq.attacks.goal import CrossEntropy
from kaldi_uq.attacks.loop import Verdict, run_attack
from kaldi_uq.config import add_config_file, add_config_flags, config_from
from tests.conftest import REPO
from tests.toy import FRAME, GRID, Toy, attack, lengths_of, live_share, loss_of, on_grid, random_targets, seeded


class TestBall:
    @pytest.mark.parametrize("rule, size", [("cosine", 0.0), ("fixed", 0.01), ("fixed", 2.0)])
    @pytest.mark.parametrize(
        "eps", [0.0, 1e-9, 1e-5, 1 / GRID - 1e-7, 1 / GRID, 1.5 / GRID, 0.0007, 0.002, 0.02, 0.05, 0.3, 1.0]
    )
    def test_16_bit_result_is_within_eps_of_the_original(self, eps: float, rule: str, size: float) -> None:
        wav = on_grid(2, 400, scale=0.8)
        wav[0, :4] = torch.tensor([-1.0, 1 - 1 / GRID, 0.0, 1 / GRID])
        start = torch.from_numpy(random_starts(["a", "b"], [400, 400], 0))
        config = AttackConfig(eps=eps, num_steps=6, step_rule=rule, step_size=size)
        result, _ = attack(config, wav, start=start)
        steps = result.wav.double() * GRID
        assert torch.equal(steps, steps.round())  # what a 16-bit file holds
        assert float(steps.max()) <= GRID - 1
        assert float(steps.min()) >= -GRID
        assert float((result.wav.double() - wav.double()).abs().max()) <= eps
        if eps >= 1.5 / GRID:  # and it makes use of it
            assert float((result.wav.double() - wav.double()).abs().max()) > 0.3 * eps

    @pytest.mark.parametrize("eps", [0.0, 1e-9, 0.99 / GRID])
    def test_less_than_a_step_of_16_bit_returns_the_input(self, eps: float) -> None:
        wav = on_grid(2, 400, scale=0.8)
        model = Toy()
        start = torch.ones(2, 400)
        result, _ = attack(AttackConfig(eps=eps), wav, [400, 300], start=start, model=model)
        assert torch.equal(result.wav, wav)
        assert not bool(result.live.any())
        assert model.calls == 0

    def test_padding_is_neither_changed_nor_read(self) -> None:
        sizes = [200, 120, 60]
        config = AttackConfig(eps=0.1, num_steps=5)
        start = torch.from_numpy(random_starts(["a", "b", "c"], sizes, 0))
        wav = on_grid(3, 200)
        for row, size in enumerate(sizes):
            wav[row, size:] = 0
        other = wav.clone()
        other[2, 60:] = 0.25
        quiet, _ = attack(config, wav, sizes, start=start)
        noisy, _ = attack(config, other, sizes, start=start)
        for result, original in ((quiet, wav), (noisy, other)):
            for row, size in enumerate(sizes):
                assert torch.equal(result.wav[row, size:], original[row, size:])
                assert not torch.equal(result.wav[row, :size], original[row, :size])
        assert torch.equal(noisy.wav[2, :60], quiet.wav[2, :60])

    def test_input_is_left_as_it_is(self) -> None:
        wav = on_grid(2, 100)
        copy = wav.clone()
        attack(AttackConfig(eps=0.1, num_steps=3), wav)
        assert torch.equal(wav, copy)
        assert not wav.requires_grad


class TestDescent:
    @pytest.mark.parametrize("num_draws", [1, 3])
    def test_loss_falls_and_the_target_is_reached(self, num_draws: int) -> None:
        result, wav = attack(AttackConfig(eps=0.3, num_steps=30), model=Toy(num_draws=num_draws))
        assert bool((result.last_loss < 0.5 * result.first_loss).all())
        targets = torch.randint(4, (3, 10), generator=seeded(5))
        heard = Toy()(result.wav, torch.tensor([200] * 3))[0].argmax(-1)
        before = Toy()(wav, torch.tensor([200] * 3))[0].argmax(-1)
        assert float((heard == targets).float().mean()) > 0.9 > float((before == targets).float().mean())

    def test_losses_are_those_of_the_definition(self) -> None:
        wav, sizes = on_grid(2, 200), [200, 100]
        targets = torch.randint(4, (2, 10), generator=seeded(5))
        result, _ = attack(AttackConfig(eps=0.1, num_steps=1, random_start=False), wav, sizes, model=Toy(num_draws=2))
        draws = Toy(num_draws=2)(wav, torch.tensor(sizes))
        for row, frames in enumerate((10, 5)):
            values = [-float(draws[m, row, t, targets[row, t]]) for m in range(2) for t in range(frames)]
            assert float(result.first_loss[row]) == pytest.approx(np.mean(values), rel=1e-5)
        assert torch.equal(result.first_loss, result.last_loss)  # one step: the same moment

    def test_padded_frames_count_nothing(self) -> None:
        draws = torch.randn(2, 1, 6, 4, generator=seeded()).log_softmax(-1)
        lengths = torch.tensor([4])
        expected = loss_of(CrossEntropy(torch.zeros(1, 4, dtype=torch.int64), lengths), draws[:, :, :4])
        for padding in (0, 3):
            goal = CrossEntropy(torch.tensor([[0, 0, 0, 0, padding, padding]]), lengths)
            torch.testing.assert_close(loss_of(goal, draws), expected)
            assert not goal.shares(draws, torch.tensor([0]))[:, 4:].any()

    def test_first_step_is_the_sign_of_the_gradient(self) -> None:
        wav = on_grid(1, 100, scale=0.1)
        config = AttackConfig(eps=0.5, num_steps=1, step_rule="fixed", step_size=64 / GRID, random_start=False)
        result, _ = attack(config, wav)
        x = wav.clone().requires_grad_(True)
        loss = loss_of(CrossEntropy(random_targets(wav), torch.tensor([5])), Toy()(x, torch.tensor([100])))
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert torch.equal(result.wav - wav, -gradient.sign() * 64 / GRID)

    def test_samples_that_the_model_does_not_read_are_counted(self) -> None:
        wav = on_grid(2, 110)  # the last 10 samples make no frame
        result, _ = attack(AttackConfig(eps=0.1, num_steps=3, random_start=False), wav, [110, 60])
        assert live_share(result, [110, 60]) == pytest.approx([100 / 110, 1.0])

    def test_gradient_that_is_no_number_moves_nothing_and_is_not_counted_as_one(self) -> None:
        def broken(wav: Tensor, num_samples: Tensor, rows: Tensor) -> Tensor:
            scores = Toy()(wav, num_samples)
            return scores * torch.tensor([math.nan, 1.0])[:, None, None].expand(2, 10, 1)  # the first utterance

        result, wav = attack(AttackConfig(eps=0.1, num_steps=3, random_start=False), on_grid(2, 200), model=broken)
        assert torch.equal(result.wav[0], wav[0])
        assert live_share(result, [200, 200]) == [0.0, 1.0]


class TestIndependence:
    def test_result_does_not_depend_on_the_rest_of_the_batch(self) -> None:
        sizes, utts = [200, 140, 60], ["a", "b", "c"]
        wav = on_grid(3, 200)
        for row, size in enumerate(sizes):
            wav[row, size:] = 0
        config = AttackConfig(eps=0.1, num_steps=10)
        targets = random_targets(wav)

        def run(rows: list[int]) -> Tensor:
            width = max(sizes[row] for row in rows)
            num_samples = torch.tensor([sizes[row] for row in rows])
            start = torch.from_numpy(random_starts([utts[r] for r in rows], num_samples.tolist(), 0))
            part = wav[rows, :width]
            goal = CrossEntropy(targets[rows, : width // FRAME], lengths_of(num_samples))
            constraint = LInf(part, num_samples, config.eps)
            return run_attack(Toy(), part, goal, constraint, config, noise=lambda _: start).wav

        together = run([0, 1, 2])
        for row, size in enumerate(sizes):
            assert torch.equal(run([row])[0, :size], together[row, :size])
        assert torch.equal(run([2, 0])[0, :60], together[2, :60])

    def test_noise_belongs_to_the_utterance(self) -> None:
        starts = random_starts(["a", "bb", "c"], [50, 80, 20], 7)
        assert starts.shape == (3, 80)
        assert starts.dtype == np.float32
        assert np.array_equal(random_starts(["bb"], [80], 7)[0], starts[1])
        assert np.array_equal(random_starts(["c", "a"], [20, 50], 7)[1, :50], starts[0, :50])
        assert not starts[0, 50:].any()
        assert not starts[2, 20:].any()
        assert not np.array_equal(random_starts(["bb"], [80], 8)[0], starts[1])
        assert not np.array_equal(random_starts(["bc"], [80], 7)[0], starts[1])

    def test_noise_is_uniform_in_the_ball(self) -> None:
        noise = random_starts(["a"], [100_000], 0)[0]
        assert -1 <= noise.min() < -0.999
        assert 0.999 < noise.max() <= 1
        histogram, _ = np.histogram(noise, 10, (-1, 1))
        assert np.abs(histogram - 10_000).max() < 500  # five deviations

    def test_random_start_can_be_switched_off(self) -> None:
        config = AttackConfig(eps=0.1, num_steps=3, random_start=False)
        plain, _ = attack(config)
        ignored, _ = attack(config, start=torch.ones(3, 200))
        used, _ = attack(AttackConfig(eps=0.1, num_steps=3), start=torch.ones(3, 200))
        assert torch.equal(plain.wav, ignored.wav)
        assert not torch.equal(plain.wav, used.wav)


class Decider:
    """A judge that says how many frames are wrong, and remembers what it was asked."""

    def __init__(self, goal: Tensor, allowed: int = 0) -> None:
        self.goal, self.allowed = goal, allowed
        self.asked: list[list[int]] = []

    def __call__(self, wav: Tensor, rows: Tensor) -> Verdict:
        self.asked.append(rows.tolist())
        assert torch.equal(wav * GRID, (wav * GRID).round())
        heard = Toy()(wav, torch.tensor([wav.shape[1]] * len(wav)))[0].argmax(-1)
        wrong = (heard != self.goal[rows]).sum(1).float()
        return Verdict(wrong <= self.allowed, wrong)


class TestJudge:
    goal = torch.randint(4, (3, 10), generator=seeded(5))

    def test_best_candidate_of_each_utterance_is_kept(self) -> None:
        kept: list[Tensor] = []

        def fickle(wav: Tensor, rows: Tensor) -> Verdict:
            kept.append(wav.clone())
            rank = torch.full((len(rows),), [3.0, 1.0, 2.0][len(kept) - 1])
            return Verdict(torch.zeros(len(rows), dtype=torch.bool), rank)

        result, _ = attack(AttackConfig(eps=0.2, num_steps=6, judge_every=2), judge=fickle)
        assert torch.equal(result.wav, kept[1])
        assert result.rank.tolist() == [1.0] * 3
        assert not torch.equal(kept[1], kept[2])

    def test_utterance_that_succeeds_is_left_at_once(self) -> None:
        config = AttackConfig(eps=0.3, num_steps=40, judge_every=1, early_stop=True)
        judge = Decider(self.goal)
        result, _ = attack(config, judge=judge)
        assert bool(result.success.all())
        assert [len(rows) for rows in judge.asked] == sorted((len(rows) for rows in judge.asked), reverse=True)
        assert len(set(result.steps.tolist())) > 1  # they did not succeed at the same moment
        assert int(result.steps.max()) < 40
        heard = Toy()(result.wav, torch.tensor([200] * 3))[0].argmax(-1)
        assert torch.equal(heard, self.goal)

    def test_those_that_go_on_are_not_disturbed_by_those_that_stop(self) -> None:
        config = AttackConfig(eps=0.3, num_steps=40, judge_every=2, early_stop=True)
        together, wav = attack(config, judge=Decider(self.goal))
        for row in range(3):
            goal = CrossEntropy(self.goal[[row]], torch.tensor([10]))
            constraint = LInf(wav[[row]], torch.tensor([200]), 0.3)
            one = run_attack(Toy(), wav[[row]], goal, constraint, config, judge=Decider(self.goal[[row]]))
            assert torch.equal(one.wav[0], together.wav[row])
            assert int(one.steps[0]) == int(together.steps[row])

    def test_only_what_failed_is_started_again_and_the_best_start_counts(self) -> None:
        config = AttackConfig(eps=0.01, num_steps=4, num_starts=3)
        judge = Decider(self.goal, allowed=7)
        noises = [torch.from_numpy(random_starts(["a", "b", "c"], [200] * 3, 0, k)) for k in range(3)]
        result, _ = attack(config, judge=judge, noise=lambda number: noises[number])
        assert result.starts.tolist() == [sum(row in asked for asked in judge.asked) for row in range(3)]
        assert len(judge.asked[0]) == 3
        ranks = judge(result.wav, torch.arange(3)).rank
        assert torch.equal(ranks, result.rank)
        assert torch.equal(result.success, ranks <= 7)

    def test_penalty_is_part_of_what_is_minimised(self) -> None:
        class Uncertain(CrossEntropy):
            def shares(self, draws: Tensor, rows: Tensor) -> Tensor:
                assert self.lengths[rows].tolist() == [10] * 3
                return super().shares(draws, rows) + draws.exp().amax(-1)[0]  # the model must not be certain

        quiet, wav = attack(AttackConfig(eps=0.3, num_steps=20))
        goal = Uncertain(random_targets(wav), torch.tensor([10] * 3))
        loud, _ = attack(AttackConfig(eps=0.3, num_steps=20), goal=goal)
        sizes = torch.tensor([200] * 3)
        peaks = [float(Toy()(result.wav, sizes)[0].exp().amax(-1).mean()) for result in (quiet, loud)]
        assert peaks[1] < 0.6 < peaks[0]

    def test_gradient_can_come_from_elsewhere(self) -> None:
        def uphill(shares_of: Any, delta: Tensor) -> tuple[Tensor, Tensor]:
            return shares_of(delta).sum(1), torch.ones_like(delta)

        config = AttackConfig(eps=8 / GRID, num_steps=20, random_start=False)
        result, wav = attack(config, on_grid(3, 200, scale=0.1), gradient=uphill)
        assert torch.equal(result.wav, wav - 8 / GRID)


class Following(CrossEntropy):
    """Follows the posteriors to given classes of the frames."""

    follows = True

    def __init__(self, towards: Tensor, model: Toy | None = None) -> None:
        super().__init__(random_targets(on_grid(3, 200)), torch.tensor([10] * 3))
        self.towards, self.model = towards, model
        self.calls: list[int] = []  # steps before each of them

    def follow(self, log_mean_post: Tensor, rows: Tensor) -> None:
        assert rows.tolist() == [0, 1, 2]
        torch.testing.assert_close(log_mean_post.exp().sum(-1), torch.ones(3, 10))
        if self.model is not None:
            # the look at the posteriors is a call of its own
            self.calls.append(self.model.calls - 1 - len(self.calls))
        self.targets = self.towards


class TestRealignment:
    @pytest.mark.parametrize("every, expected", [(0, []), (3, [3, 6, 9]), (4, [4, 8]), (20, [])])
    def test_targets_are_realigned_every_so_many_steps(self, every: int, expected: list[int]) -> None:
        model = Toy(num_draws=2)
        goal = Following(torch.zeros(3, 10, dtype=torch.int64), model)
        attack(AttackConfig(eps=0.1, num_steps=10, realign_every=every), model=model, goal=goal)
        assert goal.calls == expected

    def test_new_targets_are_followed(self) -> None:
        towards = torch.full((3, 10), 2)
        config = AttackConfig(eps=0.4, num_steps=30, step_rule="fixed", realign_every=2)
        result, _ = attack(config, goal=Following(towards))
        heard = Toy()(result.wav, torch.tensor([200] * 3))[0].argmax(-1)
        assert float((heard == towards).float().mean()) > 0.9

    def test_goal_that_does_not_follow_is_not_asked_to(self) -> None:
        goal = Following(torch.zeros(3, 10, dtype=torch.int64), Toy())
        goal.follows = False
        attack(AttackConfig(eps=0.1, num_steps=10, realign_every=2), goal=goal)
        assert goal.calls == []


def config_of(path: Path) -> AttackConfig:
    """The attack that a command runs with this ``--config``."""
    parser = argparse.ArgumentParser()
    add_config_file(parser, AttackConfig)
    add_config_flags(parser, AttackConfig)
    return config_from(parser.parse_args(["--config", str(path), "--eps", "0.05"]), AttackConfig)


def test_configuration_of_the_papers_attack_is_that_of_cleverhans() -> None:
    # MadryEtAl of cleverhans 2.1.0: eps_iter 0.01, nb_iter 40, rand_init True, whatever eps is
    assert config_of(REPO / "recipes/tidigits/conf/paper/pgd.conf") == AttackConfig(
        eps=0.05, num_steps=40, step_size=0.01, step_rule="fixed", random_start=True, realign_every=0, eot_samples=1
    )


def test_unset_options_are_the_strong_attack_of_the_recipe() -> None:
    assert config_of(REPO / "recipes/tidigits/conf/pgd.conf") == AttackConfig(eps=0.05)
    assert (AttackConfig().step_rule, AttackConfig().num_steps, AttackConfig().realign_every) == ("apgd", 200, 25)
