"""What a front end is told of an utterance beside its audio: CMVN statistics and fMLLR transform of the speaker.

All of it is constant under an attack, whose gradient passes through what is done with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Adaptation:
    """What is known of one utterance; ``None`` where its front end takes nothing.

    Attributes:
        cmvn_stats: statistics of its speaker, (2, D + 1) float64, D the number of cepstra or filters.
        fmllr: transform of its speaker, (F, F + 1) float32, the last column added; F the dimension of the features.
    """

    cmvn_stats: np.ndarray | None = None
    fmllr: np.ndarray | None = None


@dataclass(frozen=True)
class BatchAdaptation:
    """The same for a batch of B utterances, on any device.

    Attributes:
        cmvn_stats: (B, 2, D + 1) float64, or (2, D + 1) for all.
        fmllr: (B, F, F + 1) float32.
    """

    cmvn_stats: Tensor | None = None
    fmllr: Tensor | None = None

    @classmethod
    def of(cls, each: Sequence[Adaptation], device: torch.device) -> BatchAdaptation:
        """What is known of a batch of utterances, all of which are told the same kinds of things."""
        return cls(
            **{
                field.name: torch.from_numpy(np.stack([getattr(one, field.name) for one in each])).to(device)
                for field in fields(cls)
                if getattr(each[0], field.name) is not None
            }
        )


NOTHING = BatchAdaptation()


def adaptations_digest(known: Mapping[str, Adaptation]) -> str:
    """SHA-256, in hex, of what is known of some utterances: what a step's output depends on."""
    checksum = hashlib.sha256()
    for utt, adaptation in known.items():
        for field in fields(adaptation):
            values = getattr(adaptation, field.name)
            if values is not None:
                checksum.update(f"{utt} {field.name} {values.shape} {values.dtype}\n".encode())
                checksum.update(np.ascontiguousarray(values).data)
    return checksum.hexdigest()
