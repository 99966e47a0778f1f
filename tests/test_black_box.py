"""The attack by queries: its gradient is the gradient, no gradient is computed, and it succeeds where PGD is blind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq.attacks.attack import ATTACKS
from kaldi_uq.attacks.black_box import BlackBox, nes_gradient
from kaldi_uq.attacks.config import AttackConfig, BlackBoxConfig
from kaldi_uq.attacks.constraints import LInf
from kaldi_uq.attacks.goal import CrossEntropy, Say
from kaldi_uq.attacks.loop import AttackResult, run_attack
from kaldi_uq.attacks.pgd import PGD
from tests.tiny import make_system, make_waves

FRAME = 20
PDFS = 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


WEIGHTS = torch.randn(FRAME, PDFS, generator=seeded(3))


def log_post(wav: Tensor, num_samples: Tensor, rows: Tensor | None = None) -> Tensor:
    """A frame is 20 samples; each is recognised by itself."""
    return (wav.reshape(len(wav), -1, FRAME) @ WEIGHTS).log_softmax(-1)[None]


def masked(wav: Tensor, num_samples: Tensor, rows: Tensor | None = None) -> Tensor:
    """The same, behind a quantisation that no gradient passes."""
    return log_post(torch.round(wav * 512) / 512, num_samples)


WAV = torch.round(0.1 * torch.randn(2, 400, generator=seeded(1)) * 32768) / 32768
SIZES = torch.tensor([400, 300])
LENGTHS = SIZES // FRAME
TARGETS = torch.randint(PDFS, (2, 20), generator=seeded(5))
INSIDE = torch.arange(400) < SIZES[:, None]


def shares_of(delta: Tensor) -> Tensor:
    losses = -log_post(WAV + delta, SIZES)[0].gather(2, TARGETS[..., None])[..., 0]
    return losses * (torch.arange(20) < LENGTHS[:, None]) / LENGTHS[:, None]


def exact_gradient() -> Tensor:
    delta = torch.zeros_like(WAV, requires_grad=True)
    (slope,) = torch.autograd.grad(shares_of(delta).sum(), delta)
    return slope


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one[INSIDE], other[INSIDE], dim=0))


def attack(model: object = log_post, **options: object) -> AttackResult:
    config = AttackConfig(eps=0.1, num_steps=30, step_rule="cosine", momentum=0.9)
    goal, constraint = CrossEntropy(TARGETS, LENGTHS), LInf(WAV, SIZES, 0.1)
    return run_attack(model, WAV, goal, constraint, config, **options)  # type: ignore[arg-type]


class TestGradient:
    @pytest.mark.long
    @pytest.mark.parametrize("context", [0, 1])
    def test_many_queries_give_the_exact_gradient(self, context: int) -> None:
        estimate = nes_gradient(4000, 0.001, context=context, frame_shift=FRAME, generator=seeded())
        loss, slope = estimate(shares_of, torch.zeros_like(WAV))
        assert cosine(slope, exact_gradient()) > 0.9
        scale = float((slope * exact_gradient()).sum() / (exact_gradient() ** 2).sum())
        assert scale == pytest.approx(1, abs=0.1)  # not only its direction
        torch.testing.assert_close(loss, shares_of(torch.zeros_like(WAV)).sum(1), atol=1e-3, rtol=0)

    def test_scores_of_near_frames_make_few_queries_go_further(self) -> None:
        found = {
            context: cosine(
                nes_gradient(50, 0.001, context=context, frame_shift=FRAME, generator=seeded())(
                    shares_of, torch.zeros_like(WAV)
                )[1],
                exact_gradient(),
            )
            for context in (0, 1)
        }
        assert found[1] > 1.5 * found[0] > 0

    def test_nothing_is_recorded_for_differentiation(self) -> None:
        seen = []

        def watched(delta: Tensor) -> Tensor:
            seen.append(torch.is_grad_enabled() or delta.requires_grad)
            return shares_of(delta)

        _, slope = nes_gradient(3, 0.01, generator=seeded())(watched, torch.zeros_like(WAV))
        assert seen == [False] * 6  # two queries a pair
        assert not slope.requires_grad

    def test_queries_come_in_pairs_around_the_perturbation(self) -> None:
        seen: list[Tensor] = []

        def watched(delta: Tensor) -> Tensor:
            seen.append(delta)
            return shares_of(delta)

        centre = 0.01 * torch.randn(WAV.shape, generator=seeded(9))
        nes_gradient(2, 0.02, generator=seeded())(watched, centre)
        for above, below in zip(seen[::2], seen[1::2], strict=True):
            torch.testing.assert_close((above + below) / 2, centre)
            assert float((above - centre).std()) == pytest.approx(0.02, rel=0.1)

    @pytest.mark.parametrize(
        "options", [{"pairs": 0, "sigma": 1}, {"pairs": 1, "sigma": 0}, {"pairs": 1, "sigma": 1, "context": -1}]
    )
    def test_number_out_of_range_is_refused(self, options: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="pairs must be >= 1"):
            nes_gradient(**options, generator=seeded())


class TestLoop:
    def test_stays_in_the_ball_and_off_the_padding(self) -> None:
        result = attack(gradient=nes_gradient(5, 0.01, context=1, frame_shift=FRAME, generator=seeded()))
        change = result.wav - WAV
        assert float(change.abs().max()) <= 0.1
        assert not bool(change[~INSIDE].any())
        assert torch.equal(result.wav * 32768, (result.wav * 32768).round())

    def test_goes_through_masked_gradients_which_stop_the_exact_attack(self) -> None:
        nes = nes_gradient(10, 0.01, context=1, frame_shift=FRAME, generator=seeded())
        white, blind, found = attack(log_post), attack(masked), attack(masked, gradient=nes)
        assert bool((blind.last_loss == blind.first_loss).all())  # not one sample was moved
        gain = found.first_loss - found.last_loss
        assert bool((gain > 0.7 * (white.first_loss - white.last_loss)).all())

    def test_same_seed_same_result(self) -> None:
        one, same, other = (attack(gradient=nes_gradient(3, 0.01, generator=seeded(seed))).wav for seed in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dnn", "bnn"])
def test_recogniser_writes_more_of_the_target_and_the_queries_are_counted(kind: str, tmp_path: Path) -> None:
    system = make_system(tmp_path)
    recogniser = system.recogniser(system.train(kind))
    waves, text = make_waves(4, seed=2)
    attacks = {
        "nes": BlackBox(
            eps=0.3, num_steps=20, step_rule="cosine", nes_pairs=4, momentum=0.9, realign_every=5, eot_samples=1
        ),
        "noise": PGD(eps=0.3, num_steps=1, step_size=1e-9),
        "exact": PGD(eps=0.3, realign_every=5),
    }
    made = {name: attack(recogniser, waves, Say(spoken=text)) for name, attack in attacks.items()}
    for utt in waves:
        records = {name: one.records[utt] for name, one in made.items()}
        assert records["nes"]["queries"] == 20 * 2 * 4
        assert records["nes"]["target"] == records["noise"]["target"] == records["exact"]["target"]
        assert np.abs(made["nes"].waves[utt].astype(np.float64) - waves[utt]).max() <= 0.3
    mean = {name: np.mean([record["last_loss"] for record in one.records.values()]) for name, one in made.items()}
    assert mean["exact"] < mean["nes"] < 0.6 * mean["noise"]


def test_it_is_an_attack_of_its_name_with_options_of_its_own() -> None:
    assert ATTACKS.get("black_box") is BlackBox
    assert BlackBox.nes(eps=0.1, nes_pairs=2).config == replace(BlackBox.nes().config, eps=0.1, nes_pairs=2)
    with pytest.raises(ValueError, match="nes_pairs must be >= 0"):
        BlackBoxConfig(nes_pairs=-1)
    with pytest.raises(TypeError, match="nes_pairs"):
        PGD(nes_pairs=3)
    with pytest.raises(ValueError, match="needs nes_pairs >= 1, got 0"):
        BlackBox()
    with pytest.raises(ValueError, match="BlackBox: expected options of BlackBoxConfig, got AttackConfig"):
        BlackBox(AttackConfig())
