"""The acoustic models of the recipe: a time-delay network that sees 12 frames on either side, and its wrappers.

``--network local/tdnn.py:NAME`` names a function of this file.  Their names are those of the models in exp/.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

import kaldi_uq as uq

DILATIONS = (1, 2, 3, 3, 3)  # frames between the three taps of each layer


class Tdnn(nn.Module):
    """Dilated convolutions over time with residual connections and dropout.

    The input is padded once, with zeros, as short utterances of a batch are: what an utterance gets does not depend on
    the others in its batch.
    """

    def __init__(self, input_dim: int, num_pdfs: int, *, dropout: float) -> None:
        super().__init__()
        width = 256 if num_pdfs <= 1000 else 384  # more for the tree of a large corpus
        sizes = (input_dim, *(width for _ in DILATIONS[1:]))
        self.convs = nn.ModuleList(
            nn.Conv1d(size, width, 3, dilation=dilation) for size, dilation in zip(sizes, DILATIONS, strict=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Conv1d(width, num_pdfs, 1)

    def forward(self, x: Tensor) -> Tensor:
        context = sum(DILATIONS)
        hidden = F.pad(x.transpose(1, 2), (context, context))
        for conv, dilation in zip(self.convs, DILATIONS, strict=True):
            new = self.dropout(F.relu(conv(hidden)))
            same = hidden[:, :, dilation:-dilation]
            hidden = new + same if same.shape == new.shape else new
        logits: Tensor = self.output(hidden)
        return logits.transpose(1, 2)


def tdnn(input_dim: int, num_pdfs: int) -> nn.Module:
    """The network as it is: predictive entropy is its only measure."""
    return Tdnn(input_dim, num_pdfs, dropout=0.1)


def ensemble(input_dim: int, num_pdfs: int) -> nn.Module:
    """Five networks with initial weights of their own."""
    return uq.ensemble(lambda: Tdnn(input_dim, num_pdfs, dropout=0.1), 5, num_pdfs=num_pdfs)


def dropout(input_dim: int, num_pdfs: int) -> nn.Module:
    """Its dropout stays active: 30 sub-networks a frame."""
    return uq.mc_dropout(Tdnn(input_dim, num_pdfs, dropout=0.2), num_samples=30, num_pdfs=num_pdfs)


def bnn(input_dim: int, num_pdfs: int) -> nn.Module:
    """A Bayesian network: five draws of its weights a frame."""
    return uq.vmg(Tdnn(input_dim, num_pdfs, dropout=0.0), num_samples=5, num_pdfs=num_pdfs)
