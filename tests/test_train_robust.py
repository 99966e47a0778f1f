"""Adversarial training: it holds where ordinary training does not, of every kind of network, to the same bits again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kaldi_uq.errors import UsageError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.nnet.wrappers import mc_dropout
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from kaldi_uq.training.config import RobustConfig, TrainConfig
from kaldi_uq.training.dataset import TrainingSet, make_training_set
from kaldi_uq.training.robust import RobustLoss, Speech, divergence, other_alignment
from kaldi_uq.training.speed import Speed
from kaldi_uq.training.trainer import Trainer
from tests import tiny
from tests.test_train import train_in_pieces
from tests.tiny import FRONT_END, TinySystem

FLOORED = FrontEndConfig(**{**FRONT_END.__dict__, "level": 0.05, "noise_floor": 0.005})
CONFIG = TrainConfig(num_epochs=3, num_viterbi_epochs=0, batch_size=400, learning_rate=0.01, average=0.5)
ROBUST = RobustConfig(robust_eps=0.01, robust_steps=2, robust_after=1)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), num_utts=8)


def make(
    system: TinySystem,
    out: Path,
    kind: str = "dnn",
    config: TrainConfig = CONFIG,
    robust: RobustConfig | None = ROBUST,
    **changes: Any,
) -> Trainer:
    if kind in ("dropout", "bnn"):
        config = TrainConfig(**{**config.to_dict(), "num_train_samples": 2})
    model = HybridModel(FLOORED, system.network(kind), seed=config.seed)
    return system.trainer(out, model, config, robust=robust, **changes)


def data_of(system: TinySystem, model: HybridModel) -> TrainingSet:
    pdfs = {utt: system.table.tid_to_pdf[ali] for utt, ali in system.alignments.items()}
    return make_training_set(model, system.waves, pdfs, 0.01)


def loss_under_attack(model: HybridModel, system: TinySystem, eps: float) -> float:
    """Cross-entropy of the alignment under an attack of many steps, nats a frame."""
    config = RobustConfig(
        robust_eps=eps, robust_loss="plain", robust_steps=20, robust_targeted=0, robust_ramp=0, robust_gain_db=0
    )
    data = data_of(system, model)
    losses = RobustLoss(model, system.waves, config, CONFIG).of_pass(
        data, data.plan(4000), seed=(0,), generator=torch.Generator().manual_seed(0), share=(0.0, 1.0)
    )
    return float(np.mean([loss.item() for loss in losses]))


@pytest.mark.parametrize("robust_loss", ["trades", "plain"])
@pytest.mark.long
def test_network_holds_better_than_one_of_ordinary_training(
    system: TinySystem, tmp_path: Path, robust_loss: str
) -> None:
    config = TrainConfig(
        **{**CONFIG.to_dict(), "num_epochs": 40, "batch_size": 200, "learning_rate": 0.02, "average": 0.0}
    )
    robust = RobustConfig(robust_eps=0.03, robust_steps=3, robust_loss=robust_loss, robust_targeted=0.2)
    ordinary = make(system, tmp_path / "ordinary", config=config, robust=None).run()
    hardened = make(system, tmp_path / "robust", config=config, robust=robust).run()
    attacked = {name: loss_under_attack(m, system, 0.02) for name, m in (("o", ordinary), ("r", hardened))}
    clean = {name: loss_under_attack(m, system, 1e-6) for name, m in (("o", ordinary), ("r", hardened))}
    assert attacked["r"] < 0.7 * attacked["o"]
    assert clean["o"] < attacked["o"] and clean["r"] < attacked["r"]


@pytest.mark.long
@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_killed_training_resumes_to_the_same_bits(
    system: TinySystem, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(11)  # the global generator must not matter
    make(system, tmp_path / "whole", kind).run()
    torch.manual_seed(12)
    assert train_in_pieces(lambda: make(system, tmp_path / "pieces", kind), monkeypatch) == 7
    for name in (MODEL_FILE, "history.json"):
        assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    other = make(system, tmp_path / "other", kind, robust=RobustConfig(**{**ROBUST.to_dict(), "robust_weight": 2.0}))
    other.run()
    assert (tmp_path / "other" / MODEL_FILE).read_bytes() != (tmp_path / "whole" / MODEL_FILE).read_bytes()


def recurrent(input_dim: int, num_pdfs: int) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(input_dim, 8, batch_first=True)
            self.norm, self.drop, self.out = nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, num_pdfs)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.norm(self.rnn(x)[0].transpose(1, 2)).transpose(1, 2)
            return self.out(self.drop(hidden))

    return mc_dropout(Net(), num_samples=3, num_pdfs=num_pdfs)


@pytest.mark.long
def test_users_own_sequence_network(system: TinySystem, tmp_path: Path) -> None:
    frontend = FrontEndConfig(**{**FLOORED.__dict__, "left_context": 0, "right_context": 0})

    def train(out: Path) -> bytes:
        model = HybridModel.from_factory(frontend, recurrent, system.table.num_pdfs)
        system.trainer(out, model, CONFIG, robust=ROBUST).run()
        return (out / MODEL_FILE).read_bytes()

    assert train(tmp_path / "a") == train(tmp_path / "b")


class TestAttack:
    def attack(self, system: TinySystem, **options: Any) -> tuple[Speech, torch.Tensor]:
        model = HybridModel(FLOORED, system.network())
        data = data_of(system, model)
        config = RobustConfig(**{"robust_eps": 0.01, "robust_steps": 3, "robust_ramp": 0.0, **options})
        loss = RobustLoss(model, system.waves, config, CONFIG)
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        speech = loss._speech(data, list(range(8)), rng)
        return speech, loss._attack(speech, 1.0, rng, generator, generator)

    @pytest.mark.parametrize("targeted", [0.0, 1.0])
    def test_budget_is_relative_to_the_level_of_each_utterance(self, system: TinySystem, targeted: float) -> None:
        speech, delta = self.attack(system, robust_targeted=targeted, robust_gain_db=20.0)
        valid = torch.arange(delta.shape[1]) < speech.sizes.num_samples[:, None]
        assert (speech.wav[~valid] == 0).all()
        level = (speech.wav.square().sum(1) / speech.sizes.num_samples).sqrt()
        share = (delta * valid).abs().amax(1) / level / (0.01 / 0.05)
        assert (share <= 1 + 1e-5).all()
        assert share.max() > 0.5  # eps is uniform, up to the largest
        assert level.max() > 3 * level.min()  # the gain is random

    def test_absolute_budget(self, system: TinySystem) -> None:
        _, delta = self.attack(system, robust_level=0.0, robust_gain_db=20.0)
        assert 0.005 < delta.abs().max() <= 0.01 + 1e-7

    def test_speed_changes_speech_and_alignment_alike(self, system: TinySystem) -> None:
        model = HybridModel(FLOORED, system.network())
        data, found = data_of(system, model), set()
        for seed in range(4):
            for most in (0.0, 0.4):
                config = RobustConfig(robust_eps=0.01, robust_gain_db=0, robust_speed=most)
                speech = RobustLoss(model, system.waves, config, CONFIG)._speech(
                    data, [0, 3, 5], np.random.default_rng(seed)
                )
                sizes = [len(system.waves[data.utts[i]]) for i in (0, 3, 5)]
                ratio = float(speech.sizes.num_samples.sum()) / sum(sizes)
                np.testing.assert_allclose(speech.sizes.num_samples, np.multiply(sizes, ratio), atol=2)
                assert speech.lengths.tolist() == model.front_end.num_frames(speech.sizes.num_samples).tolist()
                assert speech.num_features == speech.mask.shape[1] == speech.pdfs.shape[1] == max(speech.lengths)
                for row, i in enumerate((0, 3, 5)):
                    start, end = data.target_offsets[i : i + 2]
                    places = np.arange(int(speech.lengths[row])) * (end - start) // int(speech.lengths[row])
                    assert torch.equal(speech.pdfs[row][speech.mask[row]], data.pdfs[start:end][places])
                if most:
                    found.add(ratio)
                else:
                    assert ratio == 1.0
        assert len(found) == 4 and 1 / 1.4 < min(found) < 0.95 and 1.05 < max(found) < 1 / 0.6

    def test_short_speech_keeps_a_frame_however_fast(self, system: TinySystem) -> None:
        model = HybridModel(FLOORED, system.network())
        size = model.front_end.min_samples
        rng = np.random.default_rng(0)
        waves = {"a": rng.normal(0, 0.1, size).astype(np.float32), "b": rng.normal(0, 0.1, size).astype(np.float32)}
        data = make_training_set(model, waves, {utt: np.zeros(1, np.int64) for utt in waves}, 0.01)
        config = RobustConfig(robust_eps=0.01, robust_speed=0.5)
        speeches = [RobustLoss(model, waves, config, CONFIG)._speech(data, [0, 1], rng) for _ in range(8)]
        assert all(speech.lengths.min() >= 1 for speech in speeches)
        assert {int(speech.sizes.num_samples[0]) for speech in speeches} > {size}

    def test_weights_and_modes_are_left_alone(self, system: TinySystem) -> None:
        model = HybridModel.from_factory(
            FrontEndConfig(**{**FLOORED.__dict__, "left_context": 0, "right_context": 0}),
            recurrent,
            system.table.num_pdfs,
        )
        data = data_of(system, model)
        before = {name: value.clone() for name, value in model.network.state_dict().items()}
        model.network.train()
        loss = RobustLoss(model, system.waves, ROBUST, CONFIG)
        rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        loss._attack(loss._speech(data, [0, 1], rng), 1.0, rng, generator, generator)
        assert model.network.training
        assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
        assert all(parameter.grad is None for parameter in model.network.parameters())


def test_divergence_is_the_mean_over_draws_and_valid_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(2, 2, 3, 4, generator=generator).log_softmax(3) for _ in range(2))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    each = [
        float((before[m, b, t].exp() * (before[m, b, t] - after[m, b, t])).sum())
        for m in range(2)
        for b, t in ((0, 0), (0, 1), (1, 0))
    ]
    assert float(divergence(before, after, mask)) == pytest.approx(np.mean(each), rel=1e-5)


def test_speed_moves_a_tone_and_leaves_its_loudness() -> None:
    rate, tone, sizes = 8000, 500.0, torch.tensor([4001, 2503])
    wav = 0.3 * torch.sin(2 * torch.pi * tone * torch.arange(4001) / rate) * (torch.arange(4001) < sizes[:, None])
    for factor in (0.8, 0.93, 1.07, 1.2):
        speed = Speed(factor, 4001)
        new = speed.num_samples(sizes)
        changed = speed(wav, new)
        assert changed.shape == (2, int(new.max()))
        np.testing.assert_allclose(new, sizes / factor, rtol=0.015)
        assert not changed[1, new[1] :].any()
        for row, size in enumerate(new.tolist()):
            inside = changed[row, 200 : size - 200]
            spectrum = torch.fft.rfft(inside * torch.hann_window(len(inside)), 1 << 16).abs()
            assert float(spectrum.argmax()) * rate / (1 << 16) == pytest.approx(
                tone * speed.before / speed.after, rel=0.003
            )
            assert float(inside.square().mean().sqrt()) == pytest.approx(0.3 / 2**0.5, rel=0.02)


def test_other_alignment_keeps_order_and_length() -> None:
    pdfs = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0], [6, 7, 8, 9]])
    lengths = torch.tensor([3, 2, 4])
    assert other_alignment(pdfs, lengths, 1).tolist() == [[4, 4, 5, 0], [6, 8, 0, 0], [1, 1, 2, 3]]
    assert other_alignment(pdfs, lengths, 2).tolist() == [[6, 7, 8, 0], [1, 2, 0, 0], [4, 4, 5, 5]]


def test_average_of_the_weights(system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(system, tmp_path, config=TrainConfig(num_epochs=2, num_viterbi_epochs=0, average=0.75), robust=None)
    assert trainer.average is not None
    update, seen = trainer.average.update_parameters, []

    def remember(network: nn.Module) -> None:
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        update(network)

    monkeypatch.setattr(trainer.average, "update_parameters", remember)
    found = trainer.run().network.state_dict()
    expected = seen[0]
    for state in seen[1:]:
        expected = {name: 0.75 * value + 0.25 * state[name] for name, value in expected.items()}
    assert len(seen) > 2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("robust", [None, ROBUST])
def test_little_data_is_passed_over_until_there_are_steps_enough(
    system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, robust: RobustConfig | None
) -> None:
    config = TrainConfig(num_epochs=2, num_viterbi_epochs=0, batch_size=2000, min_steps=7)
    steps: list[int] = []
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self, step=torch.optim.Adam.step: (steps.append(1), step(self))[1]
    )
    make(system, tmp_path, config=config, robust=robust).run()
    assert 7 <= len(steps) <= 12


def test_epochs_that_leave_none_for_the_attack_are_refused(system: TinySystem, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--robust-after 3 leaves none of the 3 epochs for adversarial training"):
        make(system, tmp_path, robust=RobustConfig(robust_eps=0.01, robust_after=3))
