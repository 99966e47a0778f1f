"""Padded batches without their padding: what works on frame after frame is spared the frames that do not exist."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kaldi_uq.feats.framing import valid_mask


@dataclass(frozen=True)
class Packing:
    """Where the frames of a padded batch (B, T) are, utterance after utterance.

    Attributes:
        batch, size: B and T.
        index: (F,) int64, place of each valid frame in the flattened batch.
    """

    batch: int
    size: int
    index: Tensor

    @classmethod
    def of(cls, lengths: Tensor, size: int) -> Packing:
        """The packing of a batch of T = ``size`` frames of which ``lengths`` (B,) are valid.

        >>> Packing.of(Tensor([2, 1]).long(), 2).index.tolist()
        [0, 1, 2]
        """
        return cls(len(lengths), size, valid_mask(lengths, size).flatten().nonzero()[:, 0])

    def unpack(self, packed: Tensor) -> Tensor:
        """Frames (..., F, C) in a padded batch (..., B, T, C), 0 in padded frames.

        >>> Packing.of(Tensor([2, 1]).long(), 2).unpack(Tensor([[5], [6], [7]])).flatten().tolist()
        [5.0, 6.0, 7.0, 0.0]
        """
        lead, classes = packed.shape[:-2], packed.shape[-1]
        if packed.shape[-2] == self.batch * self.size:
            return packed.reshape(*lead, self.batch, self.size, classes)
        padded = packed.new_zeros(*lead, self.batch * self.size, classes)
        return padded.index_copy(-2, self.index, packed).view(*lead, self.batch, self.size, classes)
