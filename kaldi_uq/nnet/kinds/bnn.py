"""Bayesian network: all weights have a variational matrix-Gaussian posterior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaldi_uq.nnet.base import FrameModel, choose_chunk, chunk_sizes, layer_sizes
from kaldi_uq.nnet.config import BnnConfig, register
from kaldi_uq.nnet.vmg_linear import VmgLinear


@register
class BnnModel(FrameModel):
    """A feed-forward Bayesian network of matrix-Gaussian layers with ReLU between them.

    Args:
        config: sizes and ``init_log_var``.
        generator: CPU generator of the initial means.

    Source: eqs. 1 and 2 of the paper; see ``kaldi_uq.nnet.vmg_linear``.
    """

    config_class = BnnConfig
    config: BnnConfig
    is_random = True
    default_num_samples = 5
    recommended_statistic = "q95_mutual_information"

    def __init__(self, config: BnnConfig, *, generator: torch.Generator) -> None:
        super().__init__(config)
        self.layers: Sequence[VmgLinear] = nn.ModuleList(  # type: ignore[assignment]
            VmgLinear(i, o, init_log_var=config.init_log_var, generator=generator) for i, o in layer_sizes(config)
        )

    def kl(self) -> Tensor:
        """KL divergence of all weights from the standard normal prior, in nats."""
        return torch.stack([layer.kl() for layer in self.layers]).sum()

    def sample_weights(self, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """One sample of all weights, to share between frames: see ``log_post_with``."""
        return [layer.sample_weights(generator=generator) for layer in self.layers]

    def log_post_with(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Log-posteriors ``(B, T, C)`` of the network with given weights, for ``x (B, T, D)``."""
        self._check_input(x)
        for layer, matrix in zip(self.layers[:-1], weights[:-1], strict=True):
            x = layer.apply_weights(x, matrix).relu()
        return F.log_softmax(self.layers[-1].apply_weights(x, weights[-1]), dim=-1)

    def _iter_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        mean, deviation = self.layers[0].moments(x)  # the input is the same for all draws
        widths = [*self.config.hidden_dims, self.num_pdfs]
        size = choose_chunk(num_samples, x.shape[0] * x.shape[1], sum(widths), x.device, chunk)
        for m in chunk_sizes(num_samples, size):
            noise = [mean.new_empty((m, *x.shape[:2], width)) for width in widths]
            for draw in range(m):  # draw by draw, so that grouping them changes nothing
                for layer_noise in noise:
                    layer_noise[draw].normal_(generator=generator)
            hidden = torch.addcmul(mean, deviation, noise[0])
            for layer, layer_noise in zip(self.layers[1:], noise[1:], strict=True):
                hidden = torch.addcmul(*layer.moments(hidden.relu_()), layer_noise)
            yield hidden
