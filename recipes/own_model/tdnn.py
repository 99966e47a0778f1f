"""A network of your own in the tool chain: copy this file, put your network in the place of Tdnn.

A network is any module from features (B, T, D) to logits (B, T, C), one frame out for each frame in.  The commands
find it by ``--network tdnn.py:NAME``, where NAME is a function of this file that builds it for the features and pdfs of
a recipe; a wrapper makes it know its uncertainty.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

import kaldi_uq as uq


class Tdnn(nn.Module):
    """Dilated convolutions over time with dropout between them.

    The input is padded once, with zeros, as short utterances of a batch are: what an utterance gets does not depend on
    the others in its batch.
    """

    def __init__(self, input_dim: int, num_pdfs: int, *, width: int = 100, dropout: float = 0.2) -> None:
        super().__init__()
        dilations = (1, 2, 3)
        self.context = sum(dilations)  # frames on either side
        layers: list[nn.Module] = []
        for size, dilation in zip((input_dim, width, width), dilations, strict=True):
            layers += [nn.Conv1d(size, width, 3, dilation=dilation), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Conv1d(width, num_pdfs, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(F.pad(x.transpose(1, 2), (self.context, self.context)))
        return logits.transpose(1, 2)


def plain(input_dim: int, num_pdfs: int) -> nn.Module:
    """The network as it is: predictive entropy is its only measure."""
    return Tdnn(input_dim, num_pdfs)


def mc_dropout(input_dim: int, num_pdfs: int) -> nn.Module:
    """Its dropout stays active: 30 sub-networks a frame."""
    return uq.mc_dropout(Tdnn(input_dim, num_pdfs), p=0.5, num_samples=30, num_pdfs=num_pdfs)


def ensemble(input_dim: int, num_pdfs: int) -> nn.Module:
    """Three networks with initial weights of their own."""
    return uq.ensemble(lambda: Tdnn(input_dim, num_pdfs), 3, num_pdfs=num_pdfs)


def vmg(input_dim: int, num_pdfs: int) -> nn.Module:
    """A Bayesian network: ten draws of its weights a frame."""
    return uq.vmg(Tdnn(input_dim, num_pdfs, dropout=0.0), num_samples=10, num_pdfs=num_pdfs)
