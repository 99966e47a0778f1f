"""The file from which a killed training goes on."""

from __future__ import annotations

import io
import logging
import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import atomic_write
from kaldi_uq.nnet.base import AcousticModel

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
_FIELDS = {"key", "epoch", "network", "average", "optimizer", "pdfs", "history"}
_ADAM_FIELDS = {"step", "exp_avg", "exp_avg_sq"}
# what PyTorch and the reading of values raise where a checkpoint is whole, but not what a training wrote
_DAMAGED = (
    RuntimeError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, EOFError,
    OSError, struct.error, pickle.UnpicklingError,
)  # fmt: skip

History = list[dict[str, float]]


@dataclass(frozen=True)
class Checkpoint:
    """A file, and what it holds the state of.

    Attributes:
        path: the file.
        key: what the training depends on; a checkpoint of another key is not used.
        network, average, optimizer: what changes in a training.
    """

    path: Path
    key: str
    network: AcousticModel
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer

    def save(self, epoch: int, pdfs: Tensor, history: Sequence[dict[str, float]]) -> None:
        """Write the state before an epoch of this number.

        Args:
            epoch: epochs that are done.
            pdfs: (N,) the targets, which realignment changes.
            history: the losses so far.
        """
        state = {
            "key": self.key,
            "epoch": epoch,
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "pdfs": pdfs.to(torch.int32),
            "history": list(history),
        }
        packed = io.BytesIO()  # torch.save into a file would hide that the disk is full behind an error of its own
        torch.save(state, packed)
        with atomic_write(self.path, "wb") as stream:
            stream.write(packed.getbuffer())

    def load(self, pdfs: Tensor) -> tuple[int, Tensor, History] | None:
        """Put network, average and optimiser into the state of the file.

        Args:
            pdfs: (N,) the targets that a training begins with.

        Returns:
            epochs that are done, the targets (N,) int64 and the losses; ``None`` if there is no file, or one of another
            key, which the log says.

        Raises:
            DataError: the file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            # The optimiser's state is nested, which safetensors does not hold; weights_only reads tensors and plain
            # containers and nothing else, so that a checkpoint of a stranger runs no code.
            state = torch.load(self.path, map_location=pdfs.device, weights_only=True)
        except _DAMAGED:
            state = None
        damaged = DataError(f"{self.path}: damaged checkpoint; remove it to train from the beginning")
        if not isinstance(state, dict) or state.keys() != _FIELDS:
            raise damaged
        if state["key"] != self.key:
            log.warning("%s: of another configuration; training starts from the beginning", self.path)
            return None
        try:
            self.network.load_state_dict(state["network"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            for group, saved in zip(self.optimizer.param_groups, state["optimizer"]["param_groups"], strict=True):
                if group.keys() != saved.keys():  # PyTorch would find out in the first step
                    raise ValueError(f"options of the optimiser {sorted(group.keys() ^ saved.keys())}")
            if any(entry.keys() != _ADAM_FIELDS for entry in state["optimizer"]["state"].values()):
                raise ValueError("the state of the optimiser")
            self.optimizer.load_state_dict(state["optimizer"])
            if state["pdfs"].shape != pdfs.shape or not 0 < int(state["epoch"]):
                raise ValueError("the alignments or the epoch")
            return int(state["epoch"]), state["pdfs"].long(), [dict(entry) for entry in state["history"]]
        except _DAMAGED as error:  # whole, but of other keys or shapes
            log.debug("%s: %s", self.path, error)
            raise damaged from None
