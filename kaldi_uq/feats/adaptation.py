"""What a front end is told of an utterance beside its audio: CMVN statistics and transform of the speaker, i-vectors.

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
        ivectors: (P, I) float32, one every ``ivector_period`` frames of the features; the last one lasts.
        ivector_period: frames.
    """

    cmvn_stats: np.ndarray | None = None
    fmllr: np.ndarray | None = None
    ivectors: np.ndarray | None = None
    ivector_period: int = 1


@dataclass(frozen=True)
class BatchAdaptation:
    """The same for a batch of B utterances, on any device.

    Attributes:
        cmvn_stats: (B, 2, D + 1) float64, or (2, D + 1) for all.
        fmllr: (B, F, F + 1) float32.
        ivectors: (B, P, I) float32.
        ivector_period: frames, of all.
    """

    cmvn_stats: Tensor | None = None
    fmllr: Tensor | None = None
    ivectors: Tensor | None = None
    ivector_period: int = 1

    @classmethod
    def of(cls, each: Sequence[Adaptation], device: torch.device) -> BatchAdaptation:
        """What is known of a batch of utterances, all of which are told the same kinds of things."""

        def stacked(values: Sequence[np.ndarray | None]) -> Tensor | None:
            given = [value for value in values if value is not None]
            return torch.from_numpy(np.stack(given)).to(device) if given else None

        longest = max(0 if one.ivectors is None else len(one.ivectors) for one in each)
        return cls(
            stacked([one.cmvn_stats for one in each]),
            stacked([one.fmllr for one in each]),
            stacked([_lasting(one.ivectors, longest) for one in each]),
            each[0].ivector_period,
        )

    def ivectors_at(self, start: int, count: int) -> Tensor | None:
        """The i-vectors of ``count`` frames from frame ``start`` on, (B, count, I); ``None`` if there are none."""
        if self.ivectors is None:
            return None
        frames = torch.arange(start, start + count, device=self.ivectors.device)
        return self.ivectors[:, (frames // self.ivector_period).clamp(max=self.ivectors.shape[1] - 1)]


def _lasting(ivectors: np.ndarray | None, count: int) -> np.ndarray | None:
    return None if ivectors is None else np.pad(ivectors, ((0, count - len(ivectors)), (0, 0)), mode="edge")


NOTHING = BatchAdaptation()


def adaptations_digest(known: Mapping[str, Adaptation]) -> str:
    """SHA-256, in hex, of what is known of some utterances: what a step's output depends on."""
    checksum = hashlib.sha256()
    for utt, adaptation in known.items():
        for field in fields(adaptation):
            value = getattr(adaptation, field.name)
            if value is not None:
                values = np.asarray(value)
                checksum.update(f"{utt} {field.name} {values.shape} {values.dtype}\n".encode())
                checksum.update(np.ascontiguousarray(values).data)
    return checksum.hexdigest()
