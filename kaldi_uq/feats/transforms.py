"""Linear and affine transforms of features, as Kaldi's ``transform-feats`` applies them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kaldi_uq.errors import DataError
from kaldi_uq.feats.framing import valid_mask


def affine(matrix: np.ndarray, dim: int, where: str) -> np.ndarray:
    """A transform of Kaldi's with its column that is added: 0 where the transform is linear.

    Args:
        matrix: (R, dim), or (R, dim + 1) with the last column to be added.
        dim: dimension of the features that it is applied to.
        where: what it is, for the message.

    Returns:
        (R, dim + 1) float32.

    Raises:
        DataError: another number of columns, or a value that is NaN or infinite.

    >>> affine(np.array([[1.0, 2.0]]), 2, "x").tolist()
    [[1.0, 2.0, 0.0]]
    """
    if matrix.ndim != 2 or not len(matrix) or matrix.shape[1] not in (dim, dim + 1):
        shown = " x ".join(map(str, matrix.shape))
        raise DataError(
            f"{where}: a matrix of {shown}, for features of {dim} dimensions it must have {dim} columns, or {dim + 1} "
            "(affine); features and transforms must be of one recipe (training does without: --opts-dir none)"
        )
    if not np.isfinite(matrix).all():
        raise DataError(f"{where}: a matrix with values that are NaN or infinite; make it again")
    return np.pad(matrix, ((0, 0), (0, dim + 1 - matrix.shape[1]))).astype(np.float32)


class FixedTransform(nn.Module):
    """One affine transform of all features, which the state_dict carries: the LDA and MLLT of ``final.mat``.

    It gives zeros until :meth:`set_matrix`.

    Args:
        input_dim: dimension of the features.
        output_dim: dimension of what it makes of them.
    """

    matrix: Tensor

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.zeros(output_dim, input_dim + 1))

    def set_matrix(self, matrix: np.ndarray, where: str) -> None:
        """Take the transform; arguments and errors as of :func:`affine`."""
        dim = self.matrix.shape[1] - 1
        self.matrix.copy_(torch.from_numpy(affine(matrix, dim, where)))

    def forward(self, feats: Tensor, lengths: Tensor) -> Tensor:
        """Transform ``feats (B, T, D)``; frames at and beyond ``lengths (B,)`` become 0."""
        return transform(feats, lengths, self.matrix.unsqueeze(0))


def transform(feats: Tensor, lengths: Tensor, matrices: Tensor) -> Tensor:
    """Transform the features of each utterance of a batch.

    Args:
        feats: features, ``(B, T, D)``.
        lengths: number of frames of each utterance, ``(B,)`` int64.
        matrices: ``(B, R, D + 1)``, one per utterance, or ``(1, R, D + 1)``; the last column is added.

    Returns:
        ``(B, T, R)``, 0 in padded frames.

    Raises:
        ValueError: the shapes do not fit.

    Source: Kaldi ``src/featbin/transform-feats.cc``.
    """
    batch, size, dim = feats.shape
    if matrices.dim() != 3 or matrices.shape[2] != dim + 1 or len(matrices) not in (1, batch):
        raise ValueError(
            f"transforms must be ({batch}, R, {dim + 1}) or (1, R, {dim + 1}), got {tuple(matrices.shape)}"
        )
    matrices = matrices.to(feats)
    transformed = feats @ matrices[:, :, :-1].mT + matrices[:, :, -1].unsqueeze(1)
    return transformed.masked_fill(~valid_mask(lengths, size).unsqueeze(-1), 0)
