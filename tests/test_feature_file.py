"""Features in a mapped file: the same training to the last bit as in memory, and nothing is left of the file."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kaldi_uq.io.waves import Waves
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.nnet.wrappers import mc_dropout
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from kaldi_uq.training import dataset
from kaldi_uq.training.config import RobustConfig, TrainConfig
from kaldi_uq.training.dataset import make_training_set
from kaldi_uq.training.robust import RobustLoss
from tests import tiny
from tests.tiny import FRONT_END, TinySystem

CONFIG = TrainConfig(num_epochs=1, num_viterbi_epochs=1, batch_size=200, learning_rate=0.01)
ROBUST = RobustConfig(robust_eps=0.01, robust_steps=2, robust_after=1)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), num_utts=8)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", 100)


def recurrent(input_dim: int, num_pdfs: int) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.drop = nn.GRU(input_dim, 8, batch_first=True), nn.Dropout(0.1)
            self.out = nn.Linear(8, num_pdfs)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.drop(self.rnn(x)[0]))

    return mc_dropout(Net(), num_samples=3, num_pdfs=num_pdfs)


def model_of(system: TinySystem, kind: str) -> HybridModel:
    if kind == "recurrent":
        return HybridModel.from_factory(FRONT_END, recurrent, system.table.num_pdfs, seed=0)
    return HybridModel(FRONT_END, system.network(kind), seed=0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "robust"),
    [*((kind, None) for kind in (*MODEL_KINDS, "recurrent")), ("dnn", ROBUST), ("recurrent", ROBUST)],
)
def test_training_on_the_file_is_the_same_to_the_last_bit(
    system: TinySystem, tmp_path: Path, kind: str, robust: RobustConfig | None, caplog: pytest.LogCaptureFixture
) -> None:
    said = []
    for name, memory_bytes in (("memory", 1 << 30), ("file", 0)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            model = model_of(system, kind)
            waves = Waves.of(system.waves)
            system.trainer(tmp_path / name, model, CONFIG, robust=robust, waves=waves, memory_bytes=memory_bytes).run()
        said.append("features are in a file" in caplog.text)
    assert said == [False, True]
    for name in (MODEL_FILE, "history.json", "final.mdl"):
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes(), name
    assert sorted(os.listdir(tmp_path / "file")) == sorted(os.listdir(tmp_path / "memory"))


def test_the_limit_is_that_of_the_bytes_of_all_features(system: TinySystem, tmp_path: Path) -> None:
    model = model_of(system, "dnn")
    pdfs = {utt: system.table.tid_to_pdf[ali] for utt, ali in system.alignments.items()}
    feats = make_training_set(model, system.waves, pdfs, 0.01).feats
    size = 4 * feats.numel()
    for limit, is_mapped in ((size, False), (size - 1, True)):
        found = make_training_set(model, system.waves, pdfs, 0.01, memory_bytes=limit, directory=tmp_path).feats
        assert torch.equal(found, feats)
        assert (str(tmp_path) in Path("/proc/self/maps").read_text()) is is_mapped
        del found
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("memory_bytes", [0, 1 << 30])
def test_audio_of_adversarial_training_is_in_memory_if_it_may_be(
    system: TinySystem, tmp_path: Path, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def once_more(utt: str) -> np.ndarray:
        read.append(utt)
        return system.waves[utt]

    trainer = system.trainer(
        tmp_path, model_of(system, "dnn"), CONFIG, robust=replace(ROBUST, robust_after=0), memory_bytes=memory_bytes,
        waves=Waves(Waves.of(system.waves).lengths, once_more),
    )  # fmt: skip
    speech: list[Mapping[str, np.ndarray]] = []
    start = RobustLoss.__init__

    def remember(self: RobustLoss, model: Any, waves: Any, *args: Any) -> None:
        speech.append(waves)
        start(self, model, waves, *args)

    monkeypatch.setattr(RobustLoss, "__init__", remember)
    trainer.run()
    assert all(isinstance(waves, dict) is bool(memory_bytes) for waves in speech) and speech
    # for the features, and for adversarial training once, or in each of two epochs
    assert len(read) == (2 if memory_bytes else 3) * len(system.waves)


def test_a_full_disk_is_seen_before_anything_is_computed(
    system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    trainer = system.trainer(tmp_path, model_of(system, "dnn"), CONFIG, memory_bytes=0)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
        trainer.run()
    assert not os.listdir(tmp_path)
