"""Selective and orthogonal gradients: which part each utterance descends, and in which direction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq.attacks.adaptive import Adaptive
from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.constraints import make_constraint
from kaldi_uq.attacks.goal import CrossEntropy, Say
from kaldi_uq.attacks.penalised import OneAtATime, one_gradient, without
from kaldi_uq.attacks.sentries import Sentries
from kaldi_uq.detector import GaussianDetector
from kaldi_uq.results.utterances import statistics_table
from tests.toy import FRAME, GRID, Toy, ToyRecogniser, on_grid, seeded, toy_waves

SIZE = 5 * FRAME
MATRIX = torch.randn(2, SIZE, generator=seeded(1))


def parts_of(delta: Tensor) -> tuple[Tensor, Tensor]:
    """Two losses (B,) of perturbations (B, SIZE)."""
    return (delta @ MATRIX[0]).square() + delta.square().sum(1), (delta @ MATRIX[1] - 1).square()


def shares_of(reached: list[bool], penalty: list[float] | None = None) -> Any:
    """As those of :class:`OneAtATime`, in two frames."""
    scale = torch.tensor(penalty or [1.0] * len(reached))

    def shares(delta: Tensor) -> Tensor:
        first, second = parts_of(delta)
        marks = torch.tensor(reached).float()
        return torch.stack([first, scale * second, marks])[..., None].expand(3, len(reached), 2) / 2

    return shares


def slopes(delta: Tensor) -> tuple[Tensor, Tensor]:
    """The two gradients by hand."""
    inner = [(delta @ row - shift)[:, None] for row, shift in zip(MATRIX, (0, 1), strict=True)]
    return 2 * inner[0] * MATRIX[0] + 2 * delta, 2 * inner[1] * MATRIX[1]


class TestGradient:
    def test_each_utterance_descends_the_loss_until_it_is_reached_and_then_the_penalty(self) -> None:
        delta = 0.1 * torch.randn(3, SIZE, generator=seeded(2))
        loss, slope = one_gradient(orthogonal=False)(shares_of([False, True, True], [1.0, 1.0, 0.0]), delta)
        of_loss, of_penalty = slopes(delta)
        torch.testing.assert_close(loss, parts_of(delta)[0])
        # the last has reached its target and has no penalty left: it goes on with the loss
        torch.testing.assert_close(slope, torch.stack([of_loss[0], of_penalty[1], of_loss[2]]))

    def test_orthogonal_is_what_is_left_of_it_beside_the_other(self) -> None:
        delta = 0.1 * torch.randn(3, SIZE, generator=seeded(2))
        _, slope = one_gradient(orthogonal=True)(shares_of([False, True, False]), delta)
        of_loss, of_penalty = slopes(delta)
        for row, (own, other) in enumerate(
            [(of_loss[0], of_penalty[0]), (of_penalty[1], of_loss[1]), (of_loss[2], of_penalty[2])]
        ):
            a, b = own.double().numpy(), other.double().numpy()
            expected = a - (a @ b) / (b @ b) * b
            np.testing.assert_allclose(slope[row].numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(a).max())
            found = slope[row].double().numpy()
            assert abs(found @ b) < 1e-5 * np.linalg.norm(found) * np.linalg.norm(b)
            assert found @ a > 0  # still downhill for its own part

    def test_it_leaves_the_other_part_alone_to_first_order(self) -> None:
        delta = 0.1 * torch.randn(2, SIZE, generator=seeded(3)).double()
        global MATRIX
        single, MATRIX = MATRIX, MATRIX.double()
        try:
            _, slope = one_gradient(orthogonal=True)(shares_of([False, True]), delta)
            before, after = parts_of(delta), parts_of(delta - 1e-6 * slope)
        finally:
            MATRIX = single
        changes = [(b - a).abs() for a, b in zip(before, after, strict=True)]
        assert float(changes[1][0] / changes[0][0]) < 1e-4  # the loss descends, the penalty stays
        assert float(changes[0][1] / changes[1][1]) < 1e-4

    def test_without_another_gradient_nothing_is_taken_away(self) -> None:
        gradient = torch.randn(2, 50, generator=seeded())
        assert torch.equal(without(gradient, torch.zeros(2, 50)), gradient)
        tiny = 1e-30 * torch.randn(2, 50, generator=seeded(5))  # below what squares can hold in float32
        left = without(gradient, tiny).double()
        cosine = (left * tiny.double()).sum(1) / (left.norm(dim=1) * tiny.double().norm(dim=1))
        assert float(cosine.abs().max()) < 1e-5

    def test_signs_are_orthogonal_where_steps_are_of_signs_and_none_of_these_is_steeper(self) -> None:
        gradient, other = (torch.randn(3, 2000, generator=seeded(s)) for s in (0, 1))
        gradient, other = gradient**3, other + gradient  # heavy tails, and far from orthogonal
        other[:, :500] = 0  # samples on which the other part does not depend
        step = without(gradient, other, signs=True).sign().double()
        along = other.double()
        assert float(((step * along).sum(1).abs() / along.abs().amax(1)).max()) < 1  # less than one sample weighs
        blunt = without(gradient, other).sign().double()  # the signs of the orthogonal gradient are not orthogonal
        assert float(((blunt * along).sum(1) / along.abs().sum(1)).abs().min()) > 0.01
        climb = (step * gradient).sum(1)
        for seed in range(20):
            share = torch.randn(3, 1, generator=seeded(seed))
            rival = (gradient + share * torch.randn(3, 2000, generator=seeded(100 + seed))).sign()
            rival = without(rival, other)  # a step that is orthogonal, cut to the size of signs
            rival = rival / rival.abs().amax(1, keepdim=True)
            assert bool(((rival * gradient).sum(1) < climb).all())
        zero = torch.zeros(3, 2000)
        assert torch.equal(without(gradient, zero, signs=True), gradient)

    def test_opposite_gradients_leave_no_direction(self) -> None:
        gradient = torch.randn(2, 50, generator=seeded())
        assert float(without(gradient, -3 * gradient).abs().max()) < 1e-6


def fitted(who: ToyRecogniser, fpr: float = 0.1) -> list[GaussianDetector]:
    benign = statistics_table(who.hear(toy_waves(12, 700)).values())
    names = ("max_predictive_entropy", "mean_predictive_entropy")
    return [GaussianDetector(statistic=name).fit(benign).calibrate(fpr, benign) for name in names]


class Random(ToyRecogniser):
    """Noise on the scores, anew in each draw."""

    is_random = True
    num_draws = 4

    def draws(self, wav: Tensor, num_samples: Tensor, utts: Any, **options: Any) -> Any:
        chunks, lengths = super().draws(wav, num_samples, utts)
        (one,) = chunks
        count, generator = options.get("num_draws") or self.num_draws, options.get("generator")
        noise = torch.randn((count, *one.shape[1:]), generator=generator)
        return iter([(one + 0.1 * noise).log_softmax(-1)]), lengths

    def mean_log_post(self, wav: Tensor, num_samples: Tensor, utts: Any, **options: Any) -> Tensor:
        return super().mean_log_post(wav, num_samples, utts)


class TestOneAtATime:
    def test_reached_is_what_the_decoder_writes_of_each_utterance(self) -> None:
        who, wav = ToyRecogniser(), on_grid(3, 12 * FRAME)
        sizes = torch.tensor([12 * FRAME, 12 * FRAME, 8 * FRAME])
        wav[2, 8 * FRAME :] = 0
        lengths, config = sizes // FRAME, AttackConfig(eps=0.1)
        goal = CrossEntropy(torch.zeros(3, 12, dtype=torch.int64), lengths)
        utts = ("u0", "u1", "u2")
        draws = Toy()(wav, sizes)
        heard = who.decode((utt, draws[0, i, : lengths[i]].numpy()) for i, utt in enumerate(utts))
        words = {"u0": heard["u0"], "u1": (*heard["u1"], "a"), "u2": heard["u2"]}
        batch = Batch(
            recogniser=who, config=config, utts=utts, wav=wav, lengths=lengths, goal=goal, words=words, seed=0,
            constraint=make_constraint(config, wav, sizes, 8000), noise=lambda _: wav,
        )  # fmt: skip
        sentries = Sentries.of(fitted(who))
        both = OneAtATime(goal, sentries, batch)
        loss, penalty, reached = both.shares(draws, torch.arange(3))
        assert reached.amax(1).tolist() == reached.amin(1).tolist() == [1.0, 0.0, 1.0]
        torch.testing.assert_close(loss, goal.shares(draws, torch.arange(3)))
        torch.testing.assert_close(
            penalty.sum(1).double(), sentries.penalty(draws, lengths).double(), rtol=1e-5, atol=1e-6
        )
        rows = torch.tensor([1, 2])
        part = both.select(rows)
        torch.testing.assert_close(part.shares(draws[:, rows], torch.arange(2)), both.shares(draws[:, rows], rows))

    @pytest.mark.long
    @pytest.mark.parametrize("random", [False, True])
    @pytest.mark.parametrize("way", ["orthogonal", "selective"])
    def test_it_stays_within_eps_of_each_utterance_and_is_recorded_as_the_other_way_is(
        self, way: str, random: bool
    ) -> None:
        who = Random() if random else ToyRecogniser()
        search = AdaptiveConfig(statistics="x", way=way, num_rounds=4, round_steps=20, num_scorings=2)
        options = {"eps": 0.3, "eps_level": 0.4, "num_steps": 20, "judge_every": 10, "eot_samples": 3}
        attack = Adaptive(fitted(who), search=search, **options)
        waves = toy_waves()
        waves["utt1"] = (np.round(waves["utt1"] / 8 * GRID) / GRID).astype(np.float32)
        made = attack(who, waves, Say({"utt0": "a b", "utt1": "c a", "utt2": "b c"}))
        for utt, record in made.records.items():
            assert np.abs(made.waves[utt] - made.originals[utt]).max() <= record["eps_used"] + 1e-7
            assert record["lambda"] == 0 and 1 <= record["rounds"] <= 4
            assert record["passes"] == (record["excess"] <= 0)
        assert made.records["utt1"]["eps_used"] < 0.2 * made.records["utt0"]["eps_used"]

    @pytest.mark.long
    def test_it_reaches_and_passes_where_the_blind_attack_is_caught(self) -> None:
        who, goal = ToyRecogniser(), Say({"utt0": "a b", "utt1": "c a", "utt2": "b c"})
        config = AttackConfig(eps=0.3, num_steps=30, judge_every=10)
        blind, *found = (
            Adaptive(fitted(who), config, search=AdaptiveConfig(statistics="x", way=way, num_rounds=n, round_steps=60))
            for way, n in (("penalty", 1), ("penalty", 6), ("orthogonal", 6), ("selective", 6))
        )
        caught = [r["excess"] for r in blind(who, toy_waves(), goal).records.values()]
        for attack in found:
            made = attack(who, toy_waves(), goal)
            heard = who.hear(made.waves)
            assert [list(heard[utt].words or ()) for utt in made.waves] == [["a", "b"], ["c", "a"], ["b", "c"]]
            excess = [r["excess"] for r in made.records.values()]
            assert max(caught) > 0 >= max(excess), attack.search.way
