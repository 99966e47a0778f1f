"""Convolutions with a variational matrix-Gaussian kernel.

A convolution is a matrix product with the inputs under the kernel as rows, so that the layer of ``vmg_linear`` carries
over: the rows are the (input channel, kernel position) pairs and a constant for the bias, the columns the output
channels, one matrix for each group.  The variance of the activations is the convolution of x^2 with the variances of
the rows, one channel for each group, times the variances of the columns.  Every output position has its own sample.

Source: as ``vmg_linear``.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from kaldi_uq.nnet.vmg_linear import MIN_VARIANCE, matrix_gaussian_kl

ConvT = TypeVar("ConvT", bound="VmgConv")


class VmgConv(nn.modules.conv._ConvNd):
    """What the one- and two-dimensional layers share; ``weight`` and ``bias`` are the means."""

    log_var_in: nn.Parameter  # (groups, in_channels / groups, *kernel)
    log_var_bias: nn.Parameter | None  # (groups,)
    log_var_out: nn.Parameter  # (out_channels,)

    @classmethod
    def from_conv(cls: type[ConvT], conv: nn.modules.conv._ConvNd, *, init_log_var: float = -9.0) -> ConvT:
        """A layer with the options of ``conv``, copies of its weights as means, and equal variances."""
        layer: ConvT = cls(  # type: ignore[call-arg]
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device="meta",  # no initial weights, as that would draw from the global generator
        )
        layer.to_empty(device=conv.weight.device).to(conv.weight.dtype)
        layer.load_state_dict(conv.state_dict())
        new = conv.weight.new_full
        layer.log_var_in = nn.Parameter(new((conv.groups, *conv.weight.shape[1:]), init_log_var))
        layer.log_var_bias = None if conv.bias is None else nn.Parameter(new((conv.groups,), init_log_var))
        layer.log_var_out = nn.Parameter(new((conv.out_channels,), init_log_var))
        return layer

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the activations, both shaped like the output of the convolution."""
        mean = self._conv_forward(x, self.weight, self.bias)
        var_bias = None if self.log_var_bias is None else self.log_var_bias.exp()
        variance = self._conv_forward(x.square(), self.log_var_in.exp(), var_bias)  # one channel for each group
        axis = variance.dim() - self.weight.dim() + 1  # the channels, with or without a batch axis
        deviation = variance.clamp_min(MIN_VARIANCE).sqrt()
        deviation = deviation.repeat_interleave(self.out_channels // self.groups, dim=axis)
        return mean, deviation * (0.5 * self.log_var_out).exp().reshape(-1, *[1] * (self.weight.dim() - 2))

    def forward(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw of the activations."""
        mean, deviation = self.moments(x)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return torch.addcmul(mean, deviation, noise)

    def kl(self) -> Tensor:
        """KL divergence of kernels and biases from independent standard normals, in nats."""
        terms = []
        for group in range(self.groups):
            outputs = slice(group * self.out_channels // self.groups, (group + 1) * self.out_channels // self.groups)
            mean = self.weight[outputs].flatten(1).t()
            log_var_in = self.log_var_in[group].flatten()
            if self.bias is not None and self.log_var_bias is not None:
                mean = torch.cat([mean, self.bias[outputs].unsqueeze(0)])
                log_var_in = torch.cat([log_var_in, self.log_var_bias[group : group + 1]])
            terms.append(matrix_gaussian_kl(mean, log_var_in, self.log_var_out[outputs]))
        return torch.stack(terms).sum()


class VmgConv1d(VmgConv, nn.Conv1d):
    """One-dimensional convolution with a matrix-Gaussian kernel; made with ``from_conv``."""


class VmgConv2d(VmgConv, nn.Conv2d):
    """Two-dimensional convolution with a matrix-Gaussian kernel; made with ``from_conv``."""
