"""The deterministic network of the paper: fully connected, ReLU, softmax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from kaldi_uq.nnet.base import FrameModel, layer_sizes
from kaldi_uq.nnet.config import DnnConfig, register


def make_linear(in_features: int, out_features: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with PyTorch's default initialisation, drawn from ``generator`` alone.

    PyTorch draws weight and bias uniformly from +-1/sqrt(in_features); its constructor would take them from the global
    generator, which must not be touched here.  (The first layer on the meta device would take half a second: it makes
    PyTorch import its symbolic shapes.)
    """
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(in_features, out_features)
    bound = in_features**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


@register
class DnnModel(FrameModel):
    """A feed-forward network, M = 1.

    Args:
        config: sizes.
        generator: CPU generator of the initial weights.

    Source: section 4.1 of the paper (fNN).
    """

    config_class = DnnConfig

    def __init__(self, config: DnnConfig, *, generator: torch.Generator) -> None:
        super().__init__(config)
        self.layers: Sequence[nn.Linear] = nn.ModuleList(  # type: ignore[assignment]
            make_linear(i, o, generator) for i, o in layer_sizes(config)
        )

    def _iter_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        hidden = x.flatten(0, 1)  # a layer's output of three dimensions would be a view, which relu_ has to copy
        for layer in self.layers[:-1]:
            hidden = layer(hidden).relu_()
        yield self.layers[-1](hidden).reshape(1, *x.shape[:2], self.num_pdfs)
