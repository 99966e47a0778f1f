"""The parts of the attack loop: step rules, losses, constraints."""

from __future__ import annotations

import math

import pytest
import torch

from kaldi_uq.attacks.attack import random_starts
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import L2, LInf
from kaldi_uq.attacks.goal import CONFIDENCE, CrossEntropy, Margin, mean_log_post
from kaldi_uq.attacks.steps import first_size, make_stepper
from tests.toy import GRID, Toy, attack, goal_of, loss_of, on_grid, random_targets, seeded


def sizes_of(config: AttackConfig) -> list[float]:
    """How far each step goes, unhindered by the constraint."""
    constraint = LInf(torch.zeros(1, 8), torch.tensor([8]), 1.0)
    constraint.eps = torch.tensor([config.eps])  # the unit of the steps, while the cap lies far away
    stepper = make_stepper(constraint, config)
    sizes, zero = [], torch.zeros(1, 8)
    for _ in range(config.num_steps):
        sizes.append(float(stepper.next(zero, torch.full((1, 8), 0.3), torch.zeros(1)).abs().max()))
    return sizes


class TestSteps:
    def test_cosine_falls_from_an_eighth_of_eps_to_nearly_nothing(self) -> None:
        sizes = sizes_of(AttackConfig(num_steps=40, eps=0.02, step_rule="cosine"))
        assert sizes[0] == pytest.approx(0.0025)
        assert sizes[10] == pytest.approx(0.0025 * (1 + math.sqrt(0.5)) / 2)
        assert sizes[20] == pytest.approx(0.00125)
        assert sizes[30] == pytest.approx(0.0025 * (1 - math.sqrt(0.5)) / 2)
        assert 0 < sizes[39] < 0.01 * sizes[0]
        assert sizes == sorted(sizes, reverse=True)

    def test_given_step_is_kept(self) -> None:
        for eps in (0.001, 0.5):
            fixed = AttackConfig(eps=eps, num_steps=40, step_rule="fixed", step_size=0.01)
            assert sizes_of(fixed) == pytest.approx([0.01] * 40)
        assert sizes_of(AttackConfig(eps=0.08, num_steps=40, step_rule="fixed")) == pytest.approx([0.01] * 40)

    def test_a_single_step_goes_all_the_way(self) -> None:
        config = AttackConfig(eps=64 / GRID, num_steps=1, random_start=False)
        result, wav = attack(config, on_grid(1, 100, scale=0.1))
        x = wav.clone().requires_grad_(True)
        loss = loss_of(CrossEntropy(random_targets(wav), torch.tensor([5])), Toy()(x, torch.tensor([100])))
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        assert torch.equal(result.wav - wav, -gradient.sign() * 64 / GRID)  # FGSM

    def test_momentum_keeps_a_share_of_the_directions_before(self) -> None:
        config = AttackConfig(eps=1.0, num_steps=3, step_rule="fixed", step_size=0.25, momentum=0.5)
        stepper = make_stepper(LInf(torch.zeros(1, 2), torch.tensor([2]), 0.99), config)
        loss, delta = torch.zeros(1), torch.zeros(1, 2)
        delta = stepper.next(delta, torch.tensor([[0.5, -0.5]]), loss)
        assert delta.tolist() == [[-0.25, 0.25]]
        # the new gradient of the second sample is weaker than half of the old one's share, which therefore wins
        delta = stepper.next(delta, torch.tensor([[0.9, 0.1]]), loss)
        assert delta.tolist() == [[-0.5, 0.5]]
        delta = stepper.next(delta, torch.tensor([[0.1, 0.9]]), loss)
        assert delta.tolist() == [[-0.75, 0.25]]

    def test_auto_pgd_halves_the_step_of_the_utterance_that_no_longer_gains(self) -> None:
        config = AttackConfig(eps=0.03, num_steps=100, step_rule="apgd")
        stepper = make_stepper(LInf(torch.zeros(2, 4), torch.tensor([4, 4]), 1 / 32), config)
        delta, moved = torch.zeros(2, 4), torch.zeros(2, 4)
        for step in range(60):
            loss = torch.tensor([1.0, 1.0 - step / 100])  # the first stands still, the second falls
            moved = stepper.next(delta, torch.full((2, 4), 0.1), loss)
        # from the same place, the share of the new step: half of the cap where nothing was halved
        assert float(moved[1].abs().max()) == pytest.approx(0.75 / 32)
        assert float(moved[0].abs().max()) < 0.75 / 32

    def test_auto_pgd_begins_with_twice_eps_but_no_more_than_a_tenth_of_full_scale(self) -> None:
        for eps, first in ((0.002, 0.004), (0.05, 0.1), (0.2, 0.1)):
            config = AttackConfig(eps=eps, step_rule="apgd")
            assert float(first_size(LInf(torch.zeros(1, 4), torch.tensor([4]), eps), config)) == pytest.approx(
                first, abs=2 / GRID
            )

    def test_auto_pgd_goes_back_to_the_best_place_when_it_halves(self) -> None:
        config = AttackConfig(eps=0.5, num_steps=10, step_rule="apgd", step_size=1.0)
        stepper = make_stepper(LInf(torch.zeros(1, 1), torch.tensor([1]), 0.5), config)
        stepper.next(torch.tensor([[0.125]]), torch.ones(1, 1), torch.tensor([0.0]))
        for _ in range(2):
            stepper.next(torch.tensor([[-0.5]]), -torch.ones(1, 1), torch.tensor([5.0]))
        moved = stepper.next(torch.tensor([[-0.5]]), -torch.ones(1, 1), torch.tensor([5.0]))  # the look at 22 %
        # half the step from the best place along the gradient there, and a quarter of the way from the last place
        assert float(moved) == 0.125 + 0.75 * (-0.5) + 0.25 * (0.125 + 0.5)

    @pytest.mark.parametrize(("rule", "momentum"), [("fixed", 0.9), ("cosine", 0.0), ("apgd", 0.0)])
    def test_a_part_of_the_batch_goes_on_as_before(self, rule: str, momentum: float) -> None:
        config = AttackConfig(eps=0.5, num_steps=12, step_rule=rule, momentum=momentum)
        constraint = LInf(torch.zeros(3, 4), torch.tensor([4, 4, 4]), 0.5)
        whole, part = make_stepper(constraint, config), make_stepper(constraint, config)
        a = b = torch.zeros(3, 4)
        rows = torch.tensor([0, 2])
        for step in range(12):
            slope, loss = torch.randn(3, 4, generator=seeded(step)), torch.rand(3, generator=seeded(step))
            a = whole.next(a, slope, loss)
            if step == 5:
                part.select(rows, constraint.select(rows))
                b = b[rows]
            b = part.next(b, slope, loss) if step < 5 else part.next(b, slope[rows], loss[rows])
        assert torch.equal(a[rows], b)


class TestLosses:
    def test_margin_is_what_the_best_other_pdf_is_ahead(self) -> None:
        log_post = torch.tensor([0.5, 0.3, 0.2]).log().reshape(1, 1, 1, 3)
        for target, ahead in ((0, math.log(0.3 / 0.5)), (1, math.log(0.5 / 0.3)), (2, math.log(0.5 / 0.2))):
            loss = Margin.frame_losses(log_post, torch.tensor([[target]]))
            assert float(loss) == pytest.approx(ahead)

    def test_margin_asks_for_no_more_than_enough(self) -> None:
        scores = torch.tensor([20.0, 0.0], requires_grad=True)
        loss = Margin.frame_losses(scores.log_softmax(0).reshape(1, 1, 1, 2), torch.tensor([[0]]))
        assert float(loss.detach()) == -CONFIDENCE
        loss.sum().backward()
        assert scores.grad is not None
        assert not bool(scores.grad.any())

    def test_loss_of_the_mean_is_less_than_the_mean_of_losses(self) -> None:
        draws = torch.randn(4, 2, 6, 5, generator=seeded()).log_softmax(-1)
        targets, lengths = torch.randint(5, (2, 6), generator=seeded(1)), torch.tensor([6, 6])
        of_mean = loss_of(CrossEntropy(targets, lengths, of_mean=True), draws)
        assert bool((of_mean < loss_of(CrossEntropy(targets, lengths), draws)).all())  # Jensen
        expected = -draws.exp().mean(0).log().gather(2, targets[..., None])[..., 0].mean(1)
        torch.testing.assert_close(of_mean, expected)
        torch.testing.assert_close(mean_log_post(draws), draws.exp().mean(0).log())

    def test_margin_loss_reaches_the_target(self) -> None:
        result, _ = attack(AttackConfig(eps=0.3, num_steps=30, loss="margin"))
        targets = torch.randint(4, (3, 10), generator=seeded(5))
        heard = Toy()(result.wav, torch.tensor([200] * 3))[0].argmax(-1)
        assert float((heard == targets).float().mean()) > 0.9

    def test_no_frame_of_an_untargeted_margin_is_without_a_gradient(self) -> None:
        # sure of what is spoken, undecided, and long lost
        logits = torch.tensor([[[[20.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 20.0, 0.0]]]], requires_grad=True)
        spoken = Margin(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([3]), away=True)
        loss_of(spoken, logits).sum().backward()
        assert logits.grad is not None
        assert bool((logits.grad[0, 0, :, 0] > 0).all())  # downhill is away from what is spoken

    @pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
    def test_untargeted_attack_leads_away(self, loss: str) -> None:
        wav, sizes = on_grid(3, 200), torch.tensor([200] * 3)
        said = Toy()(wav, sizes)[0].argmax(-1)
        config = AttackConfig(eps=0.2, num_steps=20, untargeted=True, loss=loss)
        result, _ = attack(config, wav, goal=goal_of(config, said, sizes))
        heard = Toy()(result.wav, sizes)[0].argmax(-1)
        assert float((heard == said).float().mean()) < 0.1


class TestConstraints:
    @pytest.mark.parametrize("rule", ["fixed", "cosine", "apgd"])
    @pytest.mark.parametrize(("constraint", "bound"), [("l2", {"rms": 0.01}), ("snr", {"snr_db": 20.0})])
    def test_16_bit_perturbation_is_within_the_norm(self, constraint: str, bound: dict[str, float], rule: str) -> None:
        sizes = [400, 300]
        wav = on_grid(2, 400, scale=0.2)
        wav[1, 300:] = 0
        config = AttackConfig(eps=0.5, constraint=constraint, step_rule=rule, num_steps=10, **bound)
        start = torch.from_numpy(random_starts(["a", "b"], sizes, 0))
        result, _ = attack(config, wav, sizes, start=start)
        delta, steps = (result.wav - wav).double(), result.wav.double() * GRID
        assert torch.equal(steps, steps.round())
        for row, size in enumerate(sizes):
            assert not bool(delta[row, size:].any())
            rms = float(delta[row, :size].square().mean().sqrt())
            most = 0.01 if constraint == "l2" else 0.1 * float(wav[row, :size].double().square().mean().sqrt())
            assert 0.9 * most < rms <= most

    def test_cap_of_each_sample_holds_under_every_constraint(self) -> None:
        config = AttackConfig(eps=0.004, constraint="l2", rms=0.5, num_steps=10)
        result, wav = attack(config)
        assert float((result.wav - wav).abs().max()) <= 0.004

    def test_direction_of_l2_is_the_gradient_of_length_one(self) -> None:
        wav, sizes = torch.zeros(2, 50), torch.tensor([50, 50])
        gradient = torch.randn(2, 50, generator=seeded())
        direction = L2(wav, sizes, 1.0, torch.ones(2)).direction(gradient)
        torch.testing.assert_close(direction.norm(dim=1), torch.ones(2))
        torch.testing.assert_close(direction * gradient.norm(dim=1, keepdim=True), gradient)

    def test_bound_smaller_than_rounding_allows_nothing(self) -> None:
        result, wav = attack(AttackConfig(eps=0.5, constraint="l2", rms=0.4 / GRID, num_steps=5))
        assert torch.equal(result.wav, wav)
