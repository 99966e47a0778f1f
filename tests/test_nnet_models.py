"""The four acoustic models: what they share, and what makes each what it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaldi_uq.nnet import AcousticModel, base, build_model
from kaldi_uq.nnet.config import MODEL_KINDS, model_class
from kaldi_uq.nnet.kinds.bnn import BnnModel
from kaldi_uq.nnet.kinds.dnn import DnnModel
from kaldi_uq.nnet.kinds.dropout import McDropoutModel, draw_masks
from kaldi_uq.nnet.kinds.ensemble import EnsembleModel, member_seeds

SIZES: dict[str, Any] = {"input_dim": 6, "num_pdfs": 5, "hidden_dims": (8, 7)}
OWN: dict[str, dict[str, Any]] = {"ensemble": {"num_members": 3}}


def make(kind: str, seed: int = 0, **options: Any) -> AcousticModel:
    return build_model(model_class(kind).config_class(**{**SIZES, **OWN.get(kind, {}), **options}), seed=seed)


def variance(kind: str, log_var: float) -> dict[str, float]:
    """The initial log-variance, for the kind that has one."""
    return {"init_log_var": log_var} if kind == "bnn" else {}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


@pytest.mark.parametrize("kind", MODEL_KINDS)
class TestEveryModel:
    def test_posteriors_are_normalised_and_as_many_as_promised(self, kind: str) -> None:
        model = make(kind)
        expected = {"dnn": 1, "ensemble": 3, "dropout": 100, "bnn": 5}[kind]
        log_post = model.log_post(features(2, 4, 6), generator=seeded())
        assert log_post.shape == (expected, 2, 4, 5)
        assert model.default_num_samples == expected
        assert model.is_random == (kind in ("dropout", "bnn"))
        torch.testing.assert_close(log_post.logsumexp(-1), torch.zeros(expected, 2, 4), rtol=0, atol=1e-6)

    def test_default_draws_in_training(self, kind: str) -> None:
        assert make(kind).default_num_train_samples == {"dnn": 1, "ensemble": 3, "dropout": 10, "bnn": 1}[kind]

    def test_initial_weights_depend_on_the_seed_alone(self, kind: str) -> None:
        before = torch.random.get_rng_state()
        first = make(kind, seed=3).state_dict()
        assert torch.equal(torch.random.get_rng_state(), before)  # the global generator is not used
        torch.manual_seed(99)
        second, other = make(kind, seed=3).state_dict(), make(kind, seed=4).state_dict()
        torch.random.set_rng_state(before)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_chunks_do_not_change_what_is_drawn(self, kind: str) -> None:
        model, x = make(kind), features(2, 4, 6)
        whole = model.log_post(x, generator=seeded(5))
        for chunk in (1, 2, 1000):
            parts = list(model.iter_log_post(x, generator=seeded(5), chunk=chunk))
            assert all(len(part) <= chunk for part in parts)
            # A product of other sizes rounds otherwise; draws that differ would differ by far more.
            torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)

    def test_forward_is_the_log_of_the_mean_posterior(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(base, "CHUNK_ELEMENTS_CPU", 200)  # several chunks
        model, x = make(kind), features(2, 4, 6)
        expected = model.log_post(x, generator=seeded(5)).double().exp().mean(0).log()
        torch.testing.assert_close(model(x, generator=seeded(5)).double(), expected, rtol=0, atol=1e-5)

    def test_forward_stays_finite_where_probabilities_underflow(self, kind: str) -> None:
        model = make(kind)
        # few draws: one sub-network without hidden units would give every class a probability
        draws = 2 if model.is_random else None
        log_mean = model(1e4 * features(1, 3, 6), generator=seeded(), num_samples=draws)
        assert log_mean.min() < -200  # exp of it is 0 in float32
        assert torch.isfinite(log_mean).all()

    def test_gradient_reaches_the_features(self, kind: str) -> None:
        model = make(kind)
        x = features(2, 4, 6).requires_grad_()
        for output in (
            model(x, generator=seeded()),
            model.log_post(x, generator=seeded()),
            torch.cat(list(model.iter_log_post(x, generator=seeded(), chunk=2))),
        ):
            (gradient,) = torch.autograd.grad(output[..., 0].sum(), x)
            assert torch.isfinite(gradient).all()
            assert (gradient.flatten(0, 1).abs().sum(-1) > 0).all()  # every frame

    def test_gradient_passes_gradcheck(self, kind: str) -> None:
        model = make(kind, num_samples=2 if kind in ("dropout", "bnn") else 0, **variance(kind, -2.0)).double()
        x = features(1, 2, 6).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda values: model.log_post(values, generator=seeded(4)), (x,))

    def test_training_gradient_is_finite_for_every_parameter(self, kind: str) -> None:
        model = make(kind)
        pdfs = torch.randint(5, (32,), generator=seeded())
        model.training_loss(features(32, 6), pdfs, num_frames_total=1000, generator=seeded()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name

    @pytest.mark.long
    def test_a_few_steps_learn_a_separable_problem(self, kind: str) -> None:
        # The KL term is for 10^6 frames: it should not matter here.
        model = make(kind, hidden_dims=(32, 32), **variance(kind, -7.0))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        generator = seeded(7)
        centres = 2.0 * features(5, 6, seed=8)
        for _ in range(150):
            pdfs = torch.randint(5, (64,), generator=generator)
            x = centres[pdfs] + 0.3 * torch.randn(64, 6, generator=generator)
            optimizer.zero_grad()
            model.training_loss(x, pdfs, num_frames_total=10**6, generator=generator).backward()
            model.clip_gradients(5.0)
            optimizer.step()
        with torch.no_grad():
            pdfs = torch.randint(5, (1, 500), generator=generator)
            x = centres[pdfs] + 0.3 * torch.randn(1, 500, 6, generator=generator)
            accuracy = (model(x, generator=generator).argmax(-1) == pdfs).float().mean()
        assert accuracy > 0.97

    def test_wrong_inputs_are_named(self, kind: str) -> None:
        model = make(kind)
        with pytest.raises(ValueError, match=r"features must be \(B, T, D\), got \(4, 6\)"):
            model.log_post(features(4, 6))
        with pytest.raises(ValueError, match=r"features must be \(B, T, 6\), got \(1, 4, 7\)"):
            model.iter_log_post(features(1, 4, 7))  # at the call, not at the first chunk
        with pytest.raises(ValueError, match="chunk must be >= 1"):
            model.iter_log_post(features(1, 4, 6), chunk=0)
        with pytest.raises(ValueError, match="num_samples must be"):
            model.log_post(features(1, 4, 6), num_samples=0)
        with pytest.raises(ValueError, match="pdfs must be"):
            model.training_loss(features(8, 6), torch.zeros(7, dtype=torch.int64), num_frames_total=9)


@pytest.mark.parametrize("kind", ["dropout", "bnn"])
class TestRandomModels:
    def test_same_generator_state_same_draws_and_no_global_generator(self, kind: str) -> None:
        model, x = make(kind), features(2, 4, 6)
        first = model.log_post(x, generator=seeded(5))
        before = torch.random.get_rng_state()
        second = model.log_post(x, generator=seeded(5))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(first, second)
        assert not torch.equal(first, model.log_post(x, generator=seeded(6)))

    def test_more_samples_continue_the_same_sequence(self, kind: str) -> None:
        model, x = make(kind), features(2, 4, 6)
        few = model.log_post(x, num_samples=3, generator=seeded(5))
        many = model.log_post(x, num_samples=9, generator=seeded(5))
        torch.testing.assert_close(many[:3], few, rtol=0, atol=1e-5)

    def test_draws_and_frames_are_independent(self, kind: str) -> None:
        model = make(kind, **variance(kind, -2.0))
        x = features(1, 1, 6).expand(1, 2, 6)  # two frames with the same features
        log_post = model.log_post(x, num_samples=4000, generator=seeded(5))[:, 0, :, 0].double()
        frames = torch.corrcoef(log_post.t())[0, 1]
        draws = torch.corrcoef(torch.stack([log_post[:-1, 0], log_post[1:, 0]]))[0, 1]
        # a correlation of n = 4000 independent pairs has standard deviation 1/sqrt(n) = 0.016: four of them
        assert abs(frames) < 4 / math.sqrt(4000)
        assert abs(draws) < 4 / math.sqrt(4000)

    def test_num_samples_of_the_configuration_is_the_default(self, kind: str) -> None:
        assert len(make(kind, num_samples=7).log_post(features(1, 2, 6))) == 7


class TestDnn:
    def test_is_the_sequential_network_of_torch(self) -> None:
        model = make("dnn")
        assert isinstance(model, DnnModel)
        reference = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 5))
        for layer, source in zip(reference[::2], model.layers, strict=True):
            layer.load_state_dict(source.state_dict())
        x = features(2, 4, 6)
        assert torch.equal(model.log_post(x)[0], reference(x).log_softmax(-1))

    def test_initialisation_is_that_of_torch(self) -> None:
        model = make("dnn", seed=11)
        assert isinstance(model, DnnModel)
        state = torch.random.get_rng_state()
        torch.manual_seed(11)
        reference = [nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 5)]
        torch.random.set_rng_state(state)
        for layer, expected in zip(model.layers, reference, strict=True):
            torch.testing.assert_close(layer.weight, expected.weight, rtol=1e-6, atol=0)
            torch.testing.assert_close(layer.bias, expected.bias, rtol=1e-6, atol=0)

    def test_loss_is_the_cross_entropy_over_unmasked_frames(self) -> None:
        model = make("dnn")
        x, pdfs = features(2, 4, 6), torch.randint(5, (2, 4), generator=seeded())
        mask = torch.tensor([[True] * 4, [True, False, False, False]])
        loss = model.training_loss(x, pdfs, mask=mask, num_frames_total=9)
        expected = F.nll_loss(model.log_post(x)[0][mask], pdfs[mask])
        torch.testing.assert_close(loss, expected)

    def test_asking_for_more_draws_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="DnnModel is not random: num_samples must be 1, got 5"):
            make("dnn").log_post(features(1, 2, 6), num_samples=5)


class TestEnsemble:
    def singles(self, seed: int = 0) -> list[DnnModel]:
        return [make("dnn", seed=s) for s in member_seeds(seed, 3)]  # type: ignore[misc]

    def test_members_are_the_networks_of_their_seeds(self) -> None:
        model, x = make("ensemble"), features(2, 4, 6)
        assert isinstance(model, EnsembleModel)
        log_post = model.log_post(x)
        for index, single in enumerate(self.singles()):
            member = model.member(index)
            for name, value in single.state_dict().items():
                assert torch.equal(member.state_dict()[name], value)
            torch.testing.assert_close(log_post[index], single.log_post(x)[0], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("own_minibatches", [True, False])
    def test_training_together_is_training_alone(self, own_minibatches: bool) -> None:
        # float64: Adam divides by the gradient's size, which would blow the rounding of small gradients up.
        model = make("ensemble").double()
        assert isinstance(model, EnsembleModel)
        singles = [single.double() for single in self.singles()]
        together = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
        alone = [torch.optim.Adam(single.parameters(), lr=0.01, weight_decay=0.1) for single in singles]
        for step in range(25):
            shape = (3, 16) if own_minibatches else (16,)
            x, pdfs = features(*shape, 6, seed=step).double(), torch.randint(5, shape, generator=seeded(step))
            together.zero_grad()
            model.training_loss(x, pdfs, num_frames_total=99).backward()
            norms = model.clip_gradients(0.3)
            together.step()
            for index, (single, optimizer) in enumerate(zip(singles, alone, strict=True)):
                optimizer.zero_grad()
                pick = index if own_minibatches else slice(None)
                single.training_loss(x[pick], pdfs[pick], num_frames_total=99).backward()
                torch.testing.assert_close(single.clip_gradients(0.3)[0], norms[index])
                optimizer.step()
        for index, single in enumerate(singles):
            for name, value in model.member(index).state_dict().items():
                torch.testing.assert_close(value, single.state_dict()[name], rtol=0, atol=1e-6)

    def test_member_seeds_are_distinct(self) -> None:
        seeds = [s for seed in range(50) for s in member_seeds(seed, 20)]
        assert len(set(seeds)) == len(seeds)

    def test_all_members_or_an_error(self) -> None:
        with pytest.raises(ValueError, match="num_samples must be 3, got 2"):
            make("ensemble").log_post(features(1, 2, 6), num_samples=2)
        with pytest.raises(ValueError, match=r"frames of an ensemble must be \(F, 6\) or \(3, F, 6\), got \(2, 8, 6\)"):
            make("ensemble").training_loss(features(2, 8, 6), torch.zeros(2, 8).long(), num_frames_total=9)


class TestDropout:
    def test_each_draw_is_a_network_with_dropped_units(self) -> None:
        model = make("dropout", dropout=0.25)
        assert isinstance(model, McDropoutModel)
        x = features(2, 4, 6)
        log_post = model.log_post(x, num_samples=3, generator=seeded(5))
        masks = draw_masks(3, 8, (8, 7), keep=0.75, like=x, generator=seeded(5))
        for draw in range(3):
            hidden = x.flatten(0, 1)
            for layer, mask in zip(model.layers[:-1], masks, strict=True):
                hidden = layer(hidden).relu() * mask[draw] / 0.75
            expected = model.layers[-1](hidden).log_softmax(-1).reshape(2, 4, 5)
            torch.testing.assert_close(log_post[draw], expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("drop", [0.5, 0.25, 0.1, 0.9])
    def test_masks_keep_with_the_right_probability_and_independently(self, drop: float) -> None:
        masks = draw_masks(40, 50, (30, 20), keep=1 - drop, like=torch.zeros(()), generator=seeded(3))
        assert [mask.shape for mask in masks] == [(40, 50, 30), (40, 50, 20)]
        values = torch.cat([mask.flatten(1) for mask in masks], 1).double()
        assert set(values.unique().tolist()) == {0.0, 1.0}
        count = values.numel()  # 10^5
        deviation = math.sqrt(drop * (1 - drop) / count)
        assert abs(values.mean() - (1 - drop)) < 4 * deviation
        # neighbours, which share a random word, and elements a word apart are uncorrelated
        for distance in (1, 2, 3, 4, 7, 8, 50):
            pair = torch.stack([values[:, distance:].flatten(), values[:, :-distance].flatten()])
            assert abs(torch.corrcoef(pair)[0, 1]) < 4.5 / math.sqrt(count), distance

    def test_hardly_any_dropout_is_the_deterministic_network(self) -> None:
        model, x = make("dropout", dropout=1e-7), features(2, 4, 6)
        plain = make("dnn")
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(model.log_post(x, num_samples=2), plain.log_post(x).expand(2, -1, -1, -1))

    def test_loss_is_the_mean_over_sub_networks(self) -> None:
        model, x, pdfs = make("dropout"), features(16, 6), torch.randint(5, (16,), generator=seeded())
        loss = model.training_loss(x, pdfs, num_frames_total=9, num_samples=4, generator=seeded(5))
        log_post = model.log_post(x.unsqueeze(0), num_samples=4, generator=seeded(5))[:, 0]
        each = torch.stack([F.nll_loss(draw, pdfs) for draw in log_post])
        torch.testing.assert_close(loss, each.mean())


def test_bnn_loss_is_the_negative_evidence_lower_bound_per_frame() -> None:
    model, x, pdfs = make("bnn"), features(16, 6), torch.randint(5, (16,), generator=seeded())
    assert isinstance(model, BnnModel)
    loss = model.training_loss(x, pdfs, num_frames_total=500, num_samples=3, generator=seeded(5))
    log_post = model.log_post(x.unsqueeze(0), num_samples=3, generator=seeded(5))[:, 0]
    nll = torch.stack([F.nll_loss(draw, pdfs) for draw in log_post]).mean()
    torch.testing.assert_close(loss, nll + model.kl() / 500)
    with pytest.raises(ValueError, match="num_frames_total must be >= 1"):
        model.training_loss(x, pdfs, num_frames_total=0)
