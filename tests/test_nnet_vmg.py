"""Matrix-Gaussian layers against a dense multivariate Gaussian in float64, with the covariance written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from kaldi_uq.nnet import build_model
from kaldi_uq.nnet.kinds.bnn import BnnConfig, BnnModel
from kaldi_uq.nnet.vmg_conv import VmgConv, VmgConv1d, VmgConv2d
from kaldi_uq.nnet.vmg_linear import VmgLinear


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(layer: nn.Module, seed: int = 0) -> None:
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)


def linear(bias: bool = True, inputs: int = 4, outputs: int = 3) -> VmgLinear:
    layer = VmgLinear(inputs, outputs, bias=bias).double()
    randomise(layer)
    return layer


def dense_posterior(mean: Tensor, log_var_in: Tensor, log_var_out: Tensor) -> MultivariateNormal:
    """The weights, row by row, as one Gaussian vector with the Kronecker product as covariance."""
    covariance = torch.kron(torch.diag(log_var_in.exp()), torch.diag(log_var_out.exp()))
    return MultivariateNormal(mean.flatten(), covariance)


def standard_normal(size: int) -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("bias", [True, False])
def test_kl_matches_the_dense_gaussian(bias: bool) -> None:
    layer = linear(bias)
    posterior = dense_posterior(layer.mean, layer.log_var_in, layer.log_var_out)
    expected = kl_divergence(posterior, standard_normal(layer.mean.numel()))
    torch.testing.assert_close(layer.kl(), expected, rtol=1e-12, atol=0)


def test_kl_of_a_network_is_the_sum_over_its_layers() -> None:
    model = build_model(BnnConfig(input_dim=4, hidden_dims=(3,), num_pdfs=2)).double()
    assert isinstance(model, BnnModel)
    randomise(model)
    expected = sum(
        kl_divergence(dense_posterior(k.mean, k.log_var_in, k.log_var_out), standard_normal(k.mean.numel())).item()
        for k in model.layers
    )
    assert model.kl().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_moments_of_activations_match_the_dense_gaussian(bias: bool) -> None:
    layer = linear(bias)
    x = torch.randn(5, 4, generator=seeded(1), dtype=torch.float64)
    posterior = dense_posterior(layer.mean, layer.log_var_in, layer.log_var_out)
    mean, deviation = layer.moments(x)
    for row, (row_mean, row_deviation) in enumerate(zip(mean, deviation, strict=True)):
        inputs = torch.cat([x[row], torch.ones(1, dtype=torch.float64)]) if bias else x[row]
        projection = torch.kron(inputs.unsqueeze(0), torch.eye(3, dtype=torch.float64))  # W (row by row) -> x W
        torch.testing.assert_close(row_mean, projection @ posterior.mean)
        covariance = projection @ posterior.covariance_matrix @ projection.t()
        torch.testing.assert_close(torch.diag(row_deviation**2), covariance)  # outputs are independent too


@pytest.mark.long
def test_sampled_weights_have_the_moments_of_the_dense_gaussian() -> None:
    layer = linear()
    generator = seeded(2)
    with torch.no_grad():
        samples = torch.stack([layer.sample_weights(generator=generator) for _ in range(20000)])
    variance = torch.outer(layer.log_var_in.exp(), layer.log_var_out.exp())
    # 15 weights: the largest of their standardised means is below 4 with probability 0.999, the relative error of a
    # variance of n samples has standard deviation sqrt(2 / n) = 0.01.
    assert ((samples.mean(0) - layer.mean).abs() / (variance / 20000).sqrt()).max() < 4
    assert (samples.var(0) / variance - 1).abs().max() < 4 * math.sqrt(2 / 20000)


@pytest.mark.long
def test_activation_draws_match_explicitly_sampled_weights() -> None:
    layer = linear()
    x = torch.randn(4, generator=seeded(1), dtype=torch.float64)
    n, generator = 20000, seeded(3)
    with torch.no_grad():
        local = layer(x.expand(n, 4), generator=generator)
        explicit = torch.stack([layer.apply_weights(x, layer.sample_weights(generator=generator)) for _ in range(n)])
        mean, deviation = layer.moments(x)
    for draws in (local, explicit):
        assert ((draws.mean(0) - mean).abs() / (deviation / math.sqrt(n))).max() < 4
        assert (draws.std(0) / deviation - 1).abs().max() < 4 * math.sqrt(0.5 / n)


@pytest.mark.long
def test_posteriors_of_a_frame_match_explicitly_sampled_weights() -> None:
    # The mean and the variance of a frame's posterior over draws, through ReLU and softmax, two ways of drawing.
    config = BnnConfig(input_dim=4, hidden_dims=(6, 5), num_pdfs=3, init_log_var=-1.0)
    model = build_model(config, seed=1).double()
    assert isinstance(model, BnnModel)
    x = torch.randn(1, 2, 4, generator=seeded(1), dtype=torch.float64)
    n, generator = 6000, seeded(4)
    with torch.no_grad():
        local = model.log_post(x, num_samples=n, generator=generator)[:, 0].exp()
        explicit = torch.stack(
            [model.log_post_with(x, model.sample_weights(generator=generator))[0] for _ in range(n)]
        ).exp()
    # Two-sample z-tests of 6 means and 6 mean squares, threshold 4: all 12 below it with probability 0.999.
    for power in (1, 2):
        first, second = local**power, explicit**power
        error = ((first.var(0) + second.var(0)) / n).sqrt()
        assert ((first.mean(0) - second.mean(0)).abs() / error).max() < 4
    assert local.var(0).min() > 1e-3  # the test would be empty for a posterior that hardly varies


def test_weights_without_variance_give_the_deterministic_network() -> None:
    model = build_model(BnnConfig(input_dim=4, hidden_dims=(6,), num_pdfs=3, init_log_var=-60.0))
    assert isinstance(model, BnnModel)
    x = torch.randn(1, 5, 4, generator=seeded(1))
    means = [layer.mean for layer in model.layers]
    torch.testing.assert_close(model(x, generator=seeded()), model.log_post_with(x, means), rtol=0, atol=1e-5)


def test_initial_means_are_kaiming_normal() -> None:
    layer = VmgLinear(400, 300, generator=seeded(1))
    rows = 401
    # standard error of a standard deviation of n values: 1 / sqrt(2 n), here 0.2 per cent
    assert layer.mean.std().item() == pytest.approx(math.sqrt(2 / rows), rel=4 / math.sqrt(2 * rows * 300))
    assert torch.equal(layer.log_var_in, torch.full((rows,), -9.0))
    assert torch.equal(layer.log_var_out, torch.full((300,), -9.0))


def test_all_zero_input_without_bias_has_a_finite_gradient() -> None:
    layer = linear(bias=False)
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    layer(x, generator=seeded()).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 3, padding=1),
    nn.Conv1d(4, 6, 3, padding=2, dilation=2, stride=2, groups=2),
    nn.Conv1d(4, 4, 3, groups=4, bias=False),
    nn.Conv1d(4, 6, 3, padding="same", padding_mode="replicate"),
    nn.Conv2d(4, 6, (3, 2), padding=(1, 0), groups=2),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_convolution_moments_match_weights_written_out(conv: nn.Conv1d | nn.Conv2d) -> None:
    kind: type[VmgConv] = VmgConv1d if isinstance(conv, nn.Conv1d) else VmgConv2d
    layer = kind.from_conv(conv.double())
    randomise(layer)
    shape = (2, 4, 9) if isinstance(conv, nn.Conv1d) else (2, 4, 7, 5)
    x = torch.randn(shape, generator=seeded(1), dtype=torch.float64)
    mean, deviation = layer.moments(x)
    # Every weight is an independent Gaussian with variance v_in v_out, so the variance of a sum of weight times input
    # is a convolution of the squared input with the matrix of variances, one entry for each weight.
    group = torch.arange(layer.out_channels) // (layer.out_channels // layer.groups)
    var_out = layer.log_var_out.exp()
    variances = layer.log_var_in.exp()[group] * var_out.reshape(-1, *[1] * (layer.weight.dim() - 1))
    var_bias = None if layer.log_var_bias is None else layer.log_var_bias.exp()[group] * var_out
    plain = kind.__bases__[1](
        4, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups,
        bias=layer.bias is not None, padding_mode=layer.padding_mode,
    ).double()  # fmt: skip
    with torch.no_grad():
        for weight, bias, inputs, expected in ((layer.weight, layer.bias, x, mean), (variances, var_bias, x**2, None)):
            plain.weight.copy_(weight)
            if plain.bias is not None and bias is not None:
                plain.bias.copy_(bias)
            torch.testing.assert_close(plain(inputs), deviation**2 if expected is None else expected)
    posterior_parts = []
    for index in range(layer.groups):
        rows = layer.log_var_in[index].flatten()
        outputs = group == index
        matrix = layer.weight[outputs].flatten(1).t()
        if layer.bias is not None and layer.log_var_bias is not None:
            rows, matrix = (
                torch.cat([rows, layer.log_var_bias[index : index + 1]]),
                torch.cat([matrix, layer.bias[outputs][None]]),
            )
        posterior_parts.append(
            kl_divergence(dense_posterior(matrix, rows, layer.log_var_out[outputs]), standard_normal(matrix.numel()))
        )
    torch.testing.assert_close(layer.kl(), torch.stack(posterior_parts).sum(), rtol=1e-12, atol=0)


def test_convolution_over_one_frame_is_the_linear_layer() -> None:
    conv = VmgConv1d.from_conv(nn.Conv1d(4, 3, 1)).double()
    randomise(conv)
    layer = VmgLinear(4, 3).double()
    with torch.no_grad():
        layer.mean.copy_(torch.cat([conv.weight[:, :, 0].t(), conv.bias[None]]))
        layer.log_var_in.copy_(torch.cat([conv.log_var_in.flatten(), conv.log_var_bias]))
        layer.log_var_out.copy_(conv.log_var_out)
    x = torch.randn(2, 9, 4, generator=seeded(1), dtype=torch.float64)
    for ours, theirs in zip(conv.moments(x.transpose(1, 2)), layer.moments(x), strict=True):
        torch.testing.assert_close(ours.transpose(1, 2), theirs)
    torch.testing.assert_close(conv.kl(), layer.kl())


def test_unbatched_convolution_agrees_with_batched() -> None:
    conv = VmgConv1d.from_conv(nn.Conv1d(4, 6, 3, groups=2)).double()
    randomise(conv)
    x = torch.randn(4, 9, generator=seeded(1), dtype=torch.float64)
    for one, many in zip(conv.moments(x), conv.moments(x[None]), strict=True):
        torch.testing.assert_close(one, many[0])


def test_log_post_with_given_weights_is_the_plain_network() -> None:
    model = build_model(BnnConfig(input_dim=4, hidden_dims=(6,), num_pdfs=3))
    assert isinstance(model, BnnModel)
    weights = model.sample_weights(generator=seeded(2))
    x = torch.randn(2, 3, 4, generator=seeded(1))
    ones = torch.ones(2, 3, 1)
    hidden = F.relu(torch.cat([x, ones], -1) @ weights[0])
    expected = (torch.cat([hidden, ones], -1) @ weights[1]).log_softmax(-1)
    torch.testing.assert_close(model.log_post_with(x, weights), expected)
