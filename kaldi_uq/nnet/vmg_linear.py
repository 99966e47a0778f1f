"""Linear layer whose weights have a variational matrix-Gaussian posterior.

A layer's weight matrix, bias as its last row, is W = M + diag(s_in) E diag(s_out) with E standard normal: independent
Gaussians whose variance is the product of one number for the row and one for the column.

Activations are sampled instead of weights.  Given an input x, the outputs x W are independent Gaussians with mean x M
and variance ((x^2) . s_in^2) s_out^2, so one draw needs no matrix of its own.  Each frame of a draw then has its own
sample of the weights, as in the paper's code: the distribution of a frame's posterior is that of weights shared by the
utterance, and given x the frames are independent.  ``VmgLinear.sample_weights`` draws weights to share.

Source: eqs. 1 and 2 of the paper; Louizos and Welling 2016, "Structured and efficient variational deep learning with
matrix Gaussian posteriors"; Kingma et al. 2015 for the sampling of activations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Variances below this have no finite gradient of their square root; only an all-zero input without bias gets there.
MIN_VARIANCE = 1e-30


class VmgLinear(nn.Module):
    """Linear layer with a matrix-Gaussian weight.

    Args:
        in_features, out_features: sizes.
        bias: whether the matrix has a last row for a constant input of 1.
        init_log_var: initial log-variance of rows and columns.
        generator: CPU generator of the initial means, Kaiming normal: variance 2 / rows.  None leaves them 0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        init_log_var: float = -9.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.has_bias = in_features, out_features, bias
        rows = in_features + bias
        self.mean = nn.Parameter(torch.zeros(rows, out_features))
        self.log_var_in = nn.Parameter(torch.full((rows,), init_log_var))
        self.log_var_out = nn.Parameter(torch.full((out_features,), init_log_var))
        if generator is not None:
            with torch.no_grad():
                self.mean.normal_(0.0, math.sqrt(2.0 / rows), generator=generator)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, both ``(..., out_features)``, of the activations at ``x (..., in_features)``."""
        n = self.in_features
        mean = F.linear(x, self.mean[:n].t(), self.mean[n] if self.has_bias else None)
        var_in = self.log_var_in.exp()
        variance = x.square() @ var_in[:n]
        if self.has_bias:
            variance = variance + var_in[n]
        return mean, variance.clamp_min(MIN_VARIANCE).sqrt().unsqueeze(-1) * (0.5 * self.log_var_out).exp()

    def forward(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw of the activations, every row of ``x`` with its own sample of the weights."""
        mean, deviation = self.moments(x)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return torch.addcmul(mean, deviation, noise)

    def sample_weights(self, *, generator: torch.Generator | None = None) -> Tensor:
        """One weight matrix ``(rows, out_features)``: ``in_features`` rows, and one for the bias if there is one."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        deviation = torch.outer((0.5 * self.log_var_in).exp(), (0.5 * self.log_var_out).exp())
        return torch.addcmul(self.mean, deviation, noise)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        """Activations ``(..., out_features)`` with given weights."""
        n = self.in_features
        return F.linear(x, weights[:n].t(), weights[n] if self.has_bias else None)

    def kl(self) -> Tensor:
        """KL divergence of the weights from independent standard normals, in nats."""
        return matrix_gaussian_kl(self.mean, self.log_var_in, self.log_var_out)

    def extra_repr(self) -> str:
        """Sizes for ``print(module)``."""
        return f"{self.in_features}, {self.out_features}, bias={self.has_bias}"


def matrix_gaussian_kl(mean: Tensor, log_var_in: Tensor, log_var_out: Tensor) -> Tensor:
    """KL( MN(mean, diag(v_in), diag(v_out)) || MN(0, I, I) ) in nats, for a matrix ``(r, c)``.

    (1/2) (sum v_in sum v_out + |mean|^2 - r c - c sum log v_in - r sum log v_out)

    >>> float(matrix_gaussian_kl(torch.zeros(3, 2), torch.zeros(3), torch.zeros(2)))
    0.0
    """
    rows, columns = mean.shape
    trace = log_var_in.exp().sum() * log_var_out.exp().sum()
    log_determinant = columns * log_var_in.sum() + rows * log_var_out.sum()
    return 0.5 * (trace + mean.square().sum() - rows * columns - log_determinant)
