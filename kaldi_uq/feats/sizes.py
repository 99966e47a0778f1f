"""How long the utterances of a batch are: known on the CPU, so that nobody has to wait for a GPU to read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """Numbers of samples of a batch, on the CPU and on the device of the batch.

    Whoever passes the same batch many times, as an attack does, makes them once.

    Attributes:
        counts: samples of each of the B utterances.
        num_samples: the same, (B,) int64, on the device.
    """

    counts: tuple[int, ...]
    num_samples: Tensor

    @classmethod
    def of(cls, num_samples: Tensor | Sizes, device: torch.device) -> Sizes:
        """The sizes of a tensor (B,) of integers on any device, or these themselves.

        Raises:
            TypeError: the tensor is of another dtype.

        >>> Sizes.of(torch.tensor([3, 5]), torch.device("cpu")).longest
        5
        """
        if isinstance(num_samples, Sizes):
            return num_samples
        if num_samples.is_floating_point() or num_samples.dtype == torch.bool:
            raise TypeError(f"num_samples must be int64, got {num_samples.dtype}")
        return cls(tuple(num_samples.flatten().tolist()), num_samples.to(device))

    @property
    def longest(self) -> int:
        """Samples of the longest utterance."""
        return max(self.counts)
