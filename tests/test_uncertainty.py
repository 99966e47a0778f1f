"""The measures against a plain loop in float64, and against cases that have a closed form."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq import uncertainty
from kaldi_uq.uncertainty import (
    LOG_FLOOR,
    MEASURES,
    NEED_DRAWS,
    Statistic,
    UncertaintyAccumulator,
    aggregate,
    measure,
    measures_from_draws,
    quantile,
    utterance_statistics,
)


def draw_log_post(*shape: int, scale: float = 3.0, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).log_softmax(-1).to(dtype)


def naive_measures(log_post: Tensor) -> dict[str, np.ndarray]:
    """Equations 3 to 6, one frame, one draw and one class at a time."""
    p = np.exp(log_post.double().numpy())
    draws, batch, frames, classes = p.shape
    out = {name: np.zeros((batch, frames)) for name in MEASURES}
    for b in range(batch):
        for t in range(frames):
            mean = [sum(p[m, b, t, c] for m in range(draws)) / draws for c in range(classes)]
            predictive = -sum(q * math.log(q) for q in mean)
            entropies = [-sum(q * math.log(q) for q in p[m, b, t]) for m in range(draws)]
            variances = [sum(p[m, b, t, c] ** 2 for m in range(draws)) / draws - mean[c] ** 2 for c in range(classes)]
            divergences = [
                sum(q * math.log(q / r) for q, r in zip(p[m, b, t], p[m + 1, b, t], strict=True))
                for m in range(draws - 1)
            ]
            out["predictive_entropy"][b, t] = predictive
            out["expected_entropy"][b, t] = sum(entropies) / draws
            out["mutual_information"][b, t] = predictive - sum(entropies) / draws
            out["variance"][b, t] = max(variances)
            out["akld"][b, t] = sum(divergences) / (draws - 1)
    return out


@pytest.mark.parametrize("chunks", [[7], [1] * 7, [3, 4], [1, 5, 1]])
def test_measures_match_a_naive_loop_however_draws_are_chunked(chunks: list[int]) -> None:
    log_post = draw_log_post(7, 2, 4, 6)
    result = measures_from_draws(log_post.split(chunks))
    for name, expected in naive_measures(log_post).items():
        # float64, a hundred terms a sum: 1e-12 is rounding
        np.testing.assert_allclose(result[name].numpy(), expected, rtol=1e-10, atol=1e-12, err_msg=name)
    mean = log_post.exp().mean(0)
    torch.testing.assert_close(result["log_mean_post"], mean.log(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_float32_draws_lose_only_the_rounding_of_their_elements(scale: float) -> None:
    log_post = draw_log_post(50, 2, 3, 95, scale=scale, dtype=torch.float32)
    result = measures_from_draws(log_post.split(8))
    exact = measures_from_draws(log_post.double().split(8))
    for name in MEASURES:
        assert result[name].dtype == torch.float32
        # Entropies near ln 95 = 4.6 have steps of 5e-7; the sum over classes adds a few of them.
        torch.testing.assert_close(result[name].double(), exact[name], rtol=1e-4, atol=2e-6, msg=name)


def test_small_variances_do_not_cancel() -> None:
    # Posteriors near 1/2 that differ by 1e-4: E[p^2] - E[p]^2 in float32 would be rounding (6e-8) against 1e-9.
    p = 0.5 + 1e-4 * torch.linspace(-0.5, 0.5, 9)
    log_post = torch.stack([p, 1 - p], -1).log().reshape(9, 1, 1, 2)
    expected = log_post.double().exp()[..., 0].var(0, correction=0)
    result = measures_from_draws(log_post.split(2))["variance"]
    torch.testing.assert_close(result.double(), expected, rtol=2e-3, atol=0)


def test_small_mutual_information_does_not_cancel() -> None:
    # A Bayesian network with small variances: draws that differ by 1e-3 in their logits.  A difference of two
    # entropies has steps of 5e-7 in float32, as much as the mutual information itself.
    generator = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(1, 2, 50, 95, generator=generator)
    log_post = (logits + 1e-3 * torch.randn(20, 2, 50, 95, generator=generator)).log_softmax(-1)
    result = measures_from_draws(log_post.split(6))
    # the same float32 draws in float64, where the entropies are exact to 1e-15
    p = log_post.double().exp()
    mean = p.mean(0)
    expected = (p * log_post.double()).sum(-1).mean(0) - (mean * mean.log()).sum(-1)
    assert expected.max() < 1e-6
    # what is left is the rounding of exp, 6e-8 relative for each class
    torch.testing.assert_close(result["mutual_information"].double(), expected, rtol=0, atol=6e-8)


def test_uniform_posteriors_have_the_entropy_of_the_logarithm_of_the_classes() -> None:
    log_post = torch.full((3, 1, 2, 95), -math.log(95), dtype=torch.float64)
    result = measures_from_draws([log_post])
    for name in ("predictive_entropy", "expected_entropy"):
        torch.testing.assert_close(result[name], torch.full((1, 2), math.log(95), dtype=torch.float64))
    for name in ("mutual_information", "variance", "akld"):
        torch.testing.assert_close(result[name], torch.zeros(1, 2, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_certain_draws_that_disagree(dtype: torch.dtype) -> None:
    log_post = torch.eye(2, dtype=dtype).log().reshape(2, 1, 1, 2)  # with minus infinity
    result = {name: value.item() for name, value in measures_from_draws([log_post]).items() if value.numel() == 1}
    assert result["predictive_entropy"] == pytest.approx(math.log(2), abs=1e-6)
    assert result["expected_entropy"] == pytest.approx(0.0, abs=1e-12)
    assert result["mutual_information"] == pytest.approx(math.log(2), abs=1e-6)
    assert result["variance"] == pytest.approx(0.25)
    assert result["akld"] == pytest.approx(-LOG_FLOOR)  # exactly infinite: kept finite by the floor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_draws_agree_exactly(dtype: torch.dtype) -> None:
    log_post = draw_log_post(1, 3, 5, 20, dtype=dtype).expand(13, 3, 5, 20)
    result = measures_from_draws(log_post.split(4))
    assert torch.equal(result["akld"], torch.zeros(3, 5, dtype=dtype))
    assert torch.equal(result["variance"], torch.zeros(3, 5, dtype=dtype))
    assert torch.equal(result["mutual_information"], torch.zeros(3, 5, dtype=dtype))
    assert torch.equal(result["expected_entropy"], result["predictive_entropy"])


def test_akld_takes_the_draws_in_their_order() -> None:
    first, second, third = (draw_log_post(1, 1, 1, 4, seed=k) for k in range(3))

    def kl(p: Tensor, q: Tensor) -> float:
        return torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=p.flatten()), torch.distributions.Categorical(logits=q.flatten())
        ).item()

    in_order = measures_from_draws([first, torch.cat([second, third])])["akld"].item()
    assert in_order == pytest.approx((kl(first, second) + kl(second, third)) / 2)
    swapped = measures_from_draws([second, first, third])["akld"].item()
    assert swapped == pytest.approx((kl(second, first) + kl(first, third)) / 2)
    assert in_order != pytest.approx(swapped)


def test_one_draw_has_entropies_and_no_other_measure() -> None:
    log_post = draw_log_post(1, 2, 3, 5)
    result = measures_from_draws([log_post])
    assert set(result) == {"predictive_entropy", "expected_entropy", "log_mean_post"}
    entropy = torch.distributions.Categorical(logits=log_post[0]).entropy()
    torch.testing.assert_close(result["predictive_entropy"], entropy)
    assert torch.equal(result["predictive_entropy"], result["expected_entropy"])
    assert torch.equal(result["log_mean_post"], log_post[0])


def test_results_do_not_change_when_more_draws_come() -> None:
    log_post = draw_log_post(4, 1, 2, 5)
    accumulator = UncertaintyAccumulator()
    accumulator.update(log_post[:1])
    before = accumulator.result()
    kept = {name: value.clone() for name, value in before.items()}
    accumulator.update(log_post[1:])
    assert all(torch.equal(before[name], kept[name]) for name in kept)


def test_underflowing_probabilities_keep_a_finite_log_mean() -> None:
    logits = torch.tensor([[0.0, -200.0, -300.0], [0.0, -200.0, -250.0]])
    log_post = logits.log_softmax(-1).reshape(2, 1, 1, 3)
    log_mean = measures_from_draws([log_post])["log_mean_post"][0, 0]
    exact = log_post.double().logsumexp(0)[0, 0] - math.log(2)
    # documented: below the smallest float32 the largest draw stands for the sum, which is at most log M less
    assert (log_mean - exact).abs().max() <= math.log(2) + 1e-4
    assert log_mean[0] == pytest.approx(0.0, abs=1e-6)


def test_gradients_are_finite_with_zero_and_with_certain_posteriors() -> None:
    logits = torch.tensor(
        [[[0.0, 0.0, 0.0], [300.0, 0.0, -300.0]], [[0.0, 0.0, 0.0], [-300.0, 0.0, 300.0]]], requires_grad=True
    )
    result = measures_from_draws(logits.log_softmax(-1).unsqueeze(1).split(1))
    for name in MEASURES:
        (gradient,) = torch.autograd.grad(result[name].sum(), logits, retain_graph=True)
        assert torch.isfinite(gradient).all(), name
    zero = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]).log().reshape(3, 1, 1, 2).requires_grad_()
    result = measures_from_draws([zero])
    assert all(torch.isfinite(result[name]).all() for name in MEASURES)
    torch.stack([result[name].sum() for name in MEASURES]).sum().backward()
    assert torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("chunks", [[4], [1, 3], [1, 1, 1, 1]])
def test_gradients_pass_gradcheck(chunks: list[int]) -> None:
    logits = draw_log_post(4, 1, 2, 3, seed=3, scale=1.0).requires_grad_()

    def measures(values: Tensor) -> tuple[Tensor, ...]:
        result = measures_from_draws(values.log_softmax(-1).split(chunks))
        return tuple(result[name] for name in (*MEASURES, "log_mean_post"))

    assert torch.autograd.gradcheck(measures, (logits,))


def test_memory_does_not_grow_with_the_number_of_draws() -> None:
    accumulator = UncertaintyAccumulator()
    chunks: list[weakref.ref[torch.UntypedStorage]] = []
    for seed in range(6):
        log_post = draw_log_post(4, 2, 3, 5, seed=seed)
        accumulator.update(log_post)
        chunks.append(weakref.ref(log_post.untyped_storage()))
        del log_post
        sums = accumulator._sums
        assert sums is not None
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in vars(sums).values()}
        assert len(dataclasses.fields(sums)) * 2 * 3 * 5 * 8 >= sum(held.values())  # nothing has a draw axis
        assert max(held.values()) <= 2 * 3 * 5 * 8
    # one draw at a time: the chunk itself may be kept as the latest draw, and only that one
    single = UncertaintyAccumulator()
    for seed in range(6):
        single.update(draw_log_post(1, 2, 3, 5, seed=seed))
        assert single._sums is not None
        assert max(t.untyped_storage().nbytes() for t in vars(single._sums).values()) <= 2 * 3 * 5 * 8


def test_the_caller_may_overwrite_a_chunk_after_the_update() -> None:
    log_post = draw_log_post(4, 1, 2, 5)
    expected = measures_from_draws([log_post])
    accumulator, buffer = UncertaintyAccumulator(), torch.empty(1, 1, 2, 5, dtype=torch.float64)
    for draw in log_post.split(1):
        buffer.copy_(draw)
        accumulator.update(buffer)
    buffer.fill_(-1.0)
    for name, value in accumulator.result().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(ValueError, match=r"log_post must be \(M, B, T, C\) with M >= 1, got \(200, 39\)"):
        UncertaintyAccumulator().update(torch.zeros(200, 39))
    with pytest.raises(ValueError, match="first frame sums to 5, not 1; pass log_softmax"):
        UncertaintyAccumulator().update(torch.zeros(1, 1, 1, 5))
    accumulator = UncertaintyAccumulator()
    with pytest.raises(ValueError, match="no draws"):
        accumulator.result()
    accumulator.update(draw_log_post(1, 2, 3, 5))
    with pytest.raises(ValueError, match="as before"):
        accumulator.update(draw_log_post(1, 2, 4, 5))


def test_padded_frames_have_no_part_in_utterance_statistics() -> None:
    values = torch.rand(3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = torch.tensor([9, 4, 1])
    clean = utterance_statistics({"akld": values}, lengths)
    for junk in (1e9, -1e9, math.nan, math.inf):
        spoilt = values.clone()
        spoilt[torch.arange(9) >= lengths.unsqueeze(1)] = junk
        for name, value in utterance_statistics({"akld": spoilt}, lengths).items():
            assert torch.equal(value, clean[name]), (name, junk)
    for index, length in enumerate(lengths.tolist()):
        frames = values[index, :length].numpy()
        assert clean["max_akld"][index].item() == frames.max()
        assert clean["mean_akld"][index].item() == pytest.approx(frames.mean())
        assert clean["q95_akld"][index].item() == pytest.approx(np.quantile(frames, 0.95))


def test_statistics_are_named_by_measure_and_quantile() -> None:
    measures = measures_from_draws([draw_log_post(3, 2, 4, 5)])
    statistics = utterance_statistics(measures, torch.tensor([4, 3]))
    assert set(statistics) == {f"{kind}_{name}" for kind in ("max", "mean", "q95") for name in MEASURES}
    assert all(value.shape == (2,) for value in statistics.values())
    assert [Statistic.parse(name).name for name in statistics] == list(statistics)
    assert Statistic.parse("q95_akld") == Statistic(measure="akld", aggregate="q95")


@pytest.mark.parametrize("name", ["level_db", "max", "akld", "max_entropy", "median_akld", "max_", ""])
def test_name_that_is_no_statistic_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=r"of max, mean, q95 and a measure of predictive_entropy, .*akld"):
        Statistic.parse(name)


def test_measures_and_aggregates_of_others_show_up_in_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADDED_MEASURES", "AGGREGATES", "NEED_DRAWS"):
        monkeypatch.setattr(uncertainty, name, getattr(uncertainty, name).copy())

    @measure("low_confidence")
    def low_confidence(measures: Mapping[str, Tensor]) -> Tensor:
        return 1 - measures["log_mean_post"].amax(-1).exp()

    measure("spread", needs_draws=True)(lambda measures: measures["variance"].sqrt())
    aggregate("q90")(quantile(0.9))
    aggregate("last")(lambda values, valid, lengths: values.gather(1, lengths[:, None] - 1)[:, 0])
    log_post, lengths = draw_log_post(3, 2, 4, 5), torch.tensor([4, 3])
    measures = measures_from_draws([log_post])
    statistics = utterance_statistics(measures, lengths)
    confidence = log_post.exp().mean(0).amax(-1)
    torch.testing.assert_close(statistics["last_low_confidence"], 1 - confidence[[0, 1], [3, 2]])
    torch.testing.assert_close(statistics["mean_low_confidence"][1], 1 - confidence[1, :3].mean())
    expected = np.quantile(measures["akld"][1, :3].numpy(), 0.9)
    assert statistics["q90_akld"][1].item() == pytest.approx(expected)
    assert statistics["max_spread"][0] == statistics["max_variance"][0].sqrt()
    assert Statistic.parse("last_spread").measure in uncertainty.NEED_DRAWS
    one = measures_from_draws([log_post[:1]])
    assert "low_confidence" in one and "spread" not in one and not set(one) & NEED_DRAWS


def test_measures_and_aggregates_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty, "ADDED_MEASURES", {})
    for name in (*MEASURES, "log_mean_post"):
        with pytest.raises(ValueError, match=f"there is already a measure '{name}'"):
            measure(name)
    for name in ("max", "q_95", ""):
        with pytest.raises(ValueError, match="without an underscore"):
            aggregate(name)
    with pytest.raises(ValueError, match=r"quantile must be in \[0, 1\], got 95"):
        quantile(95)
    measure("wrong")(lambda measures: measures["log_mean_post"])
    with pytest.raises(ValueError, match=r"'wrong' must give \(B, T\) = \(2, 4\), it gives \(2, 4, 5\)"):
        measures_from_draws([draw_log_post(3, 2, 4, 5)])


def test_statistics_are_differentiable_and_ignore_padding_in_the_gradient() -> None:
    values = torch.rand(2, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    lengths = torch.tensor([5, 2])
    torch.stack(list(utterance_statistics({"akld": values}, lengths).values())).sum().backward()
    assert torch.equal(values.grad[1, 2:], torch.zeros(3))
    assert (values.grad[1, :2] != 0).all()


@pytest.mark.parametrize("lengths", [[0, 3], [4, 3]])
def test_lengths_out_of_range_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"lengths must be in 1\.\.3"):
        utterance_statistics({"akld": torch.zeros(2, 3)}, torch.tensor(lengths))
