"""Trainings that one process does alone, and that several do together when torchrun starts this file.

Usage: together.py <directory of the system> <output directory>
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kaldi_uq.errors import KaldiUqError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.io.lang import Lang
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.training.config import RobustConfig, TrainConfig
from kaldi_uq.training.parallel import ONE, Workers, joined
from kaldi_uq.training.trainer import Trainer
from tests import tiny
from tests.tiny import FRONT_END, TinySystem

NUM_UTTS = 20
UTTERANCES = FrontEndConfig(mfcc=FRONT_END.mfcc, delta_order=1, left_context=0, right_context=0)
LEVEL = {"level": 0.05, "noise_floor": 0.005}
CONFIG = {"num_epochs": 3, "num_viterbi_epochs": 2, "batch_size": 50, "learning_rate": 0.01}
# of one utterance or two each, sometimes of three: fewer than processes, too
FEW = {"num_epochs": 2, "num_viterbi_epochs": 0, "batch_size": 300, "learning_rate": 0.01}
ROBUST = RobustConfig(robust_eps=0.01, robust_steps=2)
FASTER = RobustConfig(robust_eps=0.01, robust_steps=2, robust_speed=0.2)


class Conv(nn.Module):
    """A network that looks at neighbours and draws nothing."""

    def __init__(self, input_dim: int, num_pdfs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(input_dim, 12, 5, padding=2), nn.Conv1d(12, num_pdfs, 1)
        self.norm: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.norm(self.first(x.transpose(1, 2)).relu())).transpose(1, 2)
        return logits


class NormConv(Conv):
    """The same with running statistics."""

    def __init__(self, input_dim: int, num_pdfs: int) -> None:
        super().__init__(input_dim, num_pdfs)
        self.norm = nn.BatchNorm1d(12)


def read_system(folder: Path) -> TinySystem:
    """The system that ``tiny.make_system`` left in a directory."""
    return TinySystem(Lang.read(folder / "lang"), folder / "mono", folder / "mono/graph", *tiny.make_waves(NUM_UTTS))


def frames(system: TinySystem, kind: str = "dnn", **frontend: Any) -> HybridModel:
    return HybridModel(FrontEndConfig(**{**FRONT_END.__dict__, **frontend}), system.network(kind))


def utterances(system: TinySystem, network: type[nn.Module], **frontend: Any) -> HybridModel:
    return HybridModel.from_factory(
        FrontEndConfig(**{**UTTERANCES.__dict__, **frontend}), network, system.table.num_pdfs
    )


Make = Callable[[TinySystem, Path, Workers], Trainer]
TRAININGS: dict[str, Make] = {
    "dnn": lambda s, out, w: s.trainer(out, frames(s), TrainConfig(**CONFIG), workers=w),
    # an average of the weights, and features in a file
    "ensemble": lambda s, out, w: s.trainer(
        out, frames(s, "ensemble"), TrainConfig(**{**CONFIG, "average": 0.8}), workers=w, memory_bytes=0
    ),
    "sequence": lambda s, out, w: s.trainer(
        out, utterances(s, Conv), TrainConfig(**{**CONFIG, "batch_size": 300}), workers=w
    ),
    "robust": lambda s, out, w: s.trainer(
        out, frames(s, **LEVEL), TrainConfig(**FEW), robust=ROBUST, workers=w, memory_bytes=0
    ),
    "robust_sequence": lambda s, out, w: s.trainer(
        out, utterances(s, Conv, **LEVEL), TrainConfig(**FEW), robust=FASTER, workers=w
    ),
    # random draws, or statistics of each process's own
    "dropout": lambda s, out, w: s.trainer(out, frames(s, "dropout"), TrainConfig(**CONFIG), workers=w),
    "batch_norm": lambda s, out, w: s.trainer(
        out, utterances(s, NormConv), TrainConfig(**{**CONFIG, "batch_size": 400}), workers=w
    ),
}


class Ended(BaseException):
    """Stands for the end of all processes."""


def train_until(trainer: Trainer, last: int) -> None:
    """Train as if all processes had been killed after the checkpoint of an epoch."""
    checkpoint = trainer._checkpoint

    def ending(optimizer: Any, data: Any, next_epoch: int) -> None:
        checkpoint(optimizer, data, next_epoch)
        if next_epoch == last:
            raise Ended

    trainer._checkpoint = ending  # type: ignore[method-assign]
    try:
        trainer.run()
    except Ended:
        return
    raise AssertionError("the training was not ended")


def digest(model: HybridModel) -> str:
    """Of all weights and buffers."""
    values = [value.numpy().tobytes() for value in model.state_dict().values()]
    return hashlib.sha256(b"".join(values)).hexdigest()


def refusals(system: TinySystem, out: Path, workers: Workers) -> list[str]:
    """What is said of wrong uses."""
    said = []
    for wrong in (
        lambda: workers.same(workers.rank, "audio in data/train"),
        lambda: system.trainer(out, frames(system), TrainConfig(**{**CONFIG, "batch_size": 1}), workers=workers).run(),
        lambda: system.trainer(
            out, utterances(system, Conv), TrainConfig(**{**CONFIG, "batch_size": 2}), workers=workers
        ).run(),
        lambda: system.trainer(
            out, frames(system), TrainConfig(**{**CONFIG, "batch_size": 2}), robust=ROBUST, workers=workers
        ).run(),
    ):
        try:
            wrong()
        except KaldiUqError as error:
            said.append(str(error))
    return said


def main(folder: Path, out: Path) -> None:
    """All trainings, by one process of several; ``out/<number>.json`` has what it found."""
    system = read_system(folder)
    with joined("cpu") as workers:
        found: dict[str, Any] = {"refused": refusals(system, out / "refused", workers)}
        for name, make in TRAININGS.items():
            found[name] = digest(make(system, out / name, workers).run())
        found["again"] = digest(TRAININGS["dropout"](system, out / "again", workers).run())
        train_until(TRAININGS["dropout"](system, out / "pieces", workers), 4)
        found["pieces"] = digest(TRAININGS["dropout"](system, out / "pieces", workers).run())
        train_until(TRAININGS["dnn"](system, out / "left", workers), 4)
        workers.of_first(lambda: train_until(TRAININGS["dnn"](system, out / "taken", ONE), 2))
        found["taken"] = digest(TRAININGS["dnn"](system, out / "taken", workers).run())
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(Path, sys.argv[1:]))
