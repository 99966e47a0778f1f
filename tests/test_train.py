"""Training: the same seed gives the same weights, also when it is killed and goes on; targets meet their frames.

One file: every test trains on the same small system, which takes seconds to make.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.io.kaldi_model import read_transitions
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from kaldi_uq.training import trainer
from kaldi_uq.training.checkpoint import CHECKPOINT
from kaldi_uq.training.config import TrainConfig
from kaldi_uq.training.dataset import _to_frames, make_training_set
from kaldi_uq.training.minibatches import frame_order
from kaldi_uq.training.trainer import Trainer
from tests import tiny
from tests.tiny import FRONT_END, TinySystem

CONFIG = TrainConfig(num_epochs=2, num_viterbi_epochs=2, batch_size=64, learning_rate=0.01, num_train_samples=2)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), num_utts=8)


def make_trainer(
    system: TinySystem, out: Path, kind: str = "dnn", *, config: TrainConfig = CONFIG, key: str = "", **changes: Any
) -> Trainer:
    if kind in ("dnn", "ensemble"):
        config = TrainConfig(**{**config.to_dict(), "num_train_samples": 0})
    model = HybridModel(FRONT_END, system.network(kind), seed=config.seed)
    return system.trainer(out, model, config, key=key, **changes)


def plain_training(system: TinySystem, kind: str, config: TrainConfig) -> dict[str, torch.Tensor]:
    """What the frame-wise training is meant to compute, without its data structures: weights after all epochs."""
    model = HybridModel(FRONT_END, system.network(kind), seed=config.seed)
    network, members = model.network, 2 if kind == "ensemble" else 0
    feats = [torch.from_numpy(values) for values in tiny.features(system.waves).values()]
    data = make_training_set(
        model, system.waves, {u: system.table.tid_to_pdf[a] for u, a in system.alignments.items()}, 0.01
    )
    data.normalise(model.front_end.norm)
    parts = data.feats.split([len(values) for values in feats])
    x = torch.cat([model.front_end.splice(part[None], torch.tensor([len(part)]))[0] for part in parts])
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    steps = math.ceil(len(x) / config.batch_size)
    for epoch in range(config.num_epochs):
        orders = []
        for member in range(max(members, 1)):
            state = int(np.random.SeedSequence([config.seed, epoch, member]).generate_state(1, np.uint64)[0]) >> 1
            orders.append(torch.randperm(len(x), generator=torch.Generator().manual_seed(state)))
        order = torch.stack(orders) if members else orders[0]
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        for step in range(steps):
            progress = (epoch * steps + step) / (config.num_epochs * steps)
            ratio = math.log(config.final_learning_rate / config.learning_rate)
            optimizer.param_groups[0]["lr"] = config.learning_rate * math.exp(ratio * progress)
            chosen = order[..., step * config.batch_size : (step + 1) * config.batch_size]
            draws = config.num_train_samples or None
            loss = network.training_loss(
                x[chosen], data.pdfs[chosen], num_frames_total=len(x), num_samples=draws, generator=generator
            )
            optimizer.zero_grad()
            loss.backward()
            network.clip_gradients(config.max_grad_norm)
            optimizer.step()
    return network.state_dict()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What the trainer wrote, in the way in which it reads it: tensors and plain containers, nothing that runs."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


def train_in_pieces(make: Callable[[], Trainer], monkeypatch: pytest.MonkeyPatch) -> int:
    """Train, but get killed after each epoch's checkpoint and, in between, within each epoch; returns the starts."""
    checkpoint, epoch = Trainer._checkpoint, Trainer._epoch
    state = {"kill": "epoch"}

    def dying_checkpoint(self: Trainer, *args: Any) -> None:
        checkpoint(self, *args)
        state["kill"] = "epoch"
        raise Killed

    def dying_epoch(self: Trainer, *args: Any) -> float:
        loss = epoch(self, *args)  # the weights have moved, the checkpoint has not been written
        if state["kill"] == "epoch":
            state["kill"] = ""
            raise Killed
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_checkpoint", dying_checkpoint)
        patch.setattr(Trainer, "_epoch", dying_epoch)
        for starts in range(1, 30):
            trainer = make()
            try:
                trainer.run()
            except Killed:
                assert not (trainer.out_dir / MODEL_FILE).exists()
            else:
                return starts
    raise AssertionError("the training never ended")


class TestReproducibility:
    @pytest.mark.long
    @pytest.mark.parametrize("kind", MODEL_KINDS)
    def test_killed_training_resumes_to_the_same_bits(
        self, system: TinySystem, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(11)  # the global generator must not matter
        make_trainer(system, tmp_path / "whole", kind).run()
        torch.manual_seed(12)
        starts = train_in_pieces(lambda: make_trainer(system, tmp_path / "pieces", kind), monkeypatch)
        assert starts == 9  # four epochs, killed twice in each
        for name in (MODEL_FILE, "final.mdl", "tree", "history.json"):
            assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
        left = sorted(path.name for path in (tmp_path / "pieces").iterdir())
        assert left == [".sha256", "final.mdl", "final.safetensors", "history.json", "phones.txt", "tree"]

    @pytest.mark.parametrize("kind", MODEL_KINDS)
    def test_training_is_the_loop_that_its_seed_describes(self, system: TinySystem, tmp_path: Path, kind: str) -> None:
        given = 0 if kind in ("dnn", "ensemble") else 2
        config = TrainConfig(num_epochs=2, num_viterbi_epochs=0, batch_size=64, num_train_samples=given, seed=3)
        trained = make_trainer(system, tmp_path, kind, config=config).run().network.state_dict()
        expected = plain_training(system, kind, config)
        assert all(torch.equal(trained[name], value) for name, value in expected.items())

    def test_seed_decides(self, system: TinySystem, tmp_path: Path) -> None:
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            config = TrainConfig(num_epochs=1, num_viterbi_epochs=0, seed=seed)
            make_trainer(system, tmp_path / name, config=config).run()
        files = {name: (tmp_path / name / MODEL_FILE).read_bytes() for name in "abc"}
        assert files["a"] == files["b"] != files["c"]

    def test_each_epoch_has_an_order_of_its_own_and_each_member_too(self) -> None:
        orders = frame_order(50, 2, 0, 0)
        assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
        others = [frame_order(50, 2, 0, 1)[0], frame_order(50, 2, 1, 0)[0], orders[1]]
        assert not any(torch.equal(orders[0], other) for other in others)
        assert torch.equal(frame_order(50, 0, 3, 4), frame_order(50, 0, 3, 4))

    def test_checkpoint_of_another_configuration_is_not_used(
        self, system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_trainer(system, tmp_path / "whole", key="new").run()
        self.leave_checkpoint(system, tmp_path / "x", monkeypatch, key="old")
        with caplog.at_level(logging.WARNING):
            make_trainer(system, tmp_path / "x", key="new").run()
        assert "of another configuration; training starts from the beginning" in caplog.text
        assert (tmp_path / "x" / MODEL_FILE).read_bytes() == (tmp_path / "whole" / MODEL_FILE).read_bytes()

    def leave_checkpoint(self, system: TinySystem, out: Path, monkeypatch: pytest.MonkeyPatch, key: str = "") -> None:
        checkpoint = Trainer._checkpoint

        def dying(self: Trainer, *args: Any) -> None:
            checkpoint(self, *args)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_checkpoint", dying)
            with pytest.raises(Killed):
                make_trainer(system, out, key=key).run()
        assert (out / CHECKPOINT).is_file()

    @pytest.mark.parametrize(
        "field, value",
        [
            ("network", {}),
            ("network", [1]),
            ("optimizer", {"state": {}}),
            ("optimizer", {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}),
            ("pdfs", torch.zeros(3, dtype=torch.int32)),
            ("pdfs", "x"),
            ("history", 5),
            ("epoch", "x"),
            ("epoch", -1),
        ],
    )
    def test_whole_checkpoint_of_other_keys_is_named(
        self, system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: Any
    ) -> None:
        self.leave_checkpoint(system, tmp_path, monkeypatch)
        path = tmp_path / CHECKPOINT
        torch.save({**read_checkpoint(path), field: value}, path)
        with pytest.raises(DataError, match=rf"{CHECKPOINT}: damaged checkpoint; remove it"):
            make_trainer(system, tmp_path).run()

    @pytest.mark.parametrize("place, name", [("param_groups", "weight_decay"), ("state", "exp_avg")])
    def test_optimiser_without_a_field_is_named_before_its_first_step(
        self, system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str
    ) -> None:
        self.leave_checkpoint(system, tmp_path, monkeypatch)
        path = tmp_path / CHECKPOINT
        state = read_checkpoint(path)
        del state["optimizer"][place][0][name]
        torch.save(state, path)
        with pytest.raises(DataError, match=rf"{CHECKPOINT}: damaged checkpoint; remove it"):
            make_trainer(system, tmp_path).run()

    @pytest.mark.parametrize("damage", ["cut off", "text", "empty", "pickle", "other content"])
    def test_damaged_checkpoint_is_named_and_runs_no_code(
        self, system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        self.leave_checkpoint(system, tmp_path, monkeypatch)
        path, marker = tmp_path / CHECKPOINT, tmp_path / "marker"
        if damage == "other content":
            torch.save([1, 2], path)
        else:
            path.write_bytes(
                {
                    "cut off": path.read_bytes()[:-500],
                    "text": b"not a checkpoint\n",
                    "empty": b"",
                    "pickle": pickle.dumps(Touching(marker), protocol=2),
                }[damage]
            )
        with pytest.raises(DataError, match=rf"{CHECKPOINT}: damaged checkpoint; remove it") as error:
            make_trainer(system, tmp_path).run()
        assert "\n" not in str(error.value)
        assert not marker.exists()


class Touching:
    """What unpickling would run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has seen enough to recognise."""
    folder = tmp_path_factory.mktemp("trained")
    config = TrainConfig(num_epochs=8, num_viterbi_epochs=3, batch_size=32, learning_rate=0.01)
    make_trainer(tiny.make_system(folder / "system", num_utts=24), folder / "dnn", config=config).run()
    return folder / "dnn"


class TestResult:
    def test_recognises_words_it_has_not_seen_in_this_order(self, system: TinySystem, trained: Path) -> None:
        model = HybridModel.load(trained)
        waves, text = tiny.make_waves(5, seed=77)
        scores = []
        with torch.no_grad():
            for utt, wave in waves.items():
                draws, _ = model.iter_log_post(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
                scores.append((utt, model.loglikes(next(draws)[0, 0]).numpy()))
        system.engine.make_graph(system.lang, trained, trained / "graph", **tiny.GRAPH_SCALES)
        found = system.engine.decoder(trained, trained / "graph", DecodeConfig()).decode(scores)
        assert {utt: list(h.words) for utt, h in found.items()} == text

    def test_loss_falls(self, trained: Path) -> None:
        losses = [entry["loss"] for entry in json.loads((trained / "history.json").read_text())]
        assert len(losses) == 11
        assert losses[-1] < 0.3 < 0.8 < losses[0]

    def test_transitions_follow_the_viterbi_training(self, trained: Path) -> None:
        mono = trained.parent / "system/mono"
        before, after = read_transitions(mono / "final.mdl"), read_transitions(trained / "final.mdl")
        assert after.tuples == before.tuples
        assert not np.array_equal(after.log_probs, before.log_probs)
        assert (trained / "tree").read_bytes() == (mono / "tree").read_bytes()

    @pytest.mark.long
    @pytest.mark.parametrize(("num_odd", "enough", "warns"), [(0, None, False), (1, None, True), (1, 7 / 8, False)])
    def test_few_realigned_utterances_are_a_warning(
        self,
        system: TinySystem,
        tmp_path: Path,
        num_odd: int,
        enough: float | None,
        warns: bool,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if enough is not None:
            monkeypatch.setattr(trainer, "ENOUGH_REALIGNED", enough)
        odd = {utt: [*system.text[utt], "zebra"] for utt in list(system.text)[:num_odd]}
        config = TrainConfig(num_epochs=20, num_viterbi_epochs=1, batch_size=32, learning_rate=0.01)
        with caplog.at_level(logging.INFO, logger=trainer.__name__):
            make_trainer(system, tmp_path, config=config, text={**system.text, **odd}).run()
        (record,) = (record for record in caplog.records if "utterances realigned" in record.message)
        assert record.levelno == (logging.WARNING if warns else logging.INFO)
        assert record.message.startswith(f"epoch 21: {8 - num_odd} of 8 utterances realigned")
        assert warns == (", fewer than 95 %: " in record.message)
        assert warns == (f"; 1 have words that are not in {system.lang.path / 'words.txt'}; " in record.message)

    def test_prior_is_that_of_the_last_alignment(self, trained: Path) -> None:
        prior = HybridModel.load(trained).log_prior.exp()
        assert float(prior.sum()) == pytest.approx(1)
        assert float(prior.min()) > 0

    def test_without_viterbi_training_the_hmm_is_the_given_one(self, system: TinySystem, tmp_path: Path) -> None:
        make_trainer(system, tmp_path, config=TrainConfig(num_epochs=1, num_viterbi_epochs=0)).run()
        assert (tmp_path / "final.mdl").read_bytes() == (system.mono / "final.mdl").read_bytes()
        counts = np.bincount(system.table.tid_to_pdf[np.concatenate(list(system.alignments.values()))])
        np.testing.assert_allclose(HybridModel.load(tmp_path).log_prior.exp(), counts / counts.sum(), rtol=1e-5)

    def test_features_are_normalised_over_the_training_frames(self, trained: Path) -> None:
        front_end = HybridModel.load(trained).front_end
        waves, _ = tiny.make_waves(24)
        frames = [
            front_end.features(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][0] for wave in waves.values()
        ]
        stacked = torch.cat(frames).double()
        torch.testing.assert_close(stacked.mean(0), torch.zeros(14).double(), rtol=0, atol=1e-4)
        torch.testing.assert_close(stacked.std(0), torch.ones(14).double(), rtol=1e-4, atol=0)

    def test_training_that_diverges_is_an_error_and_leaves_no_checkpoint(
        self, system: TinySystem, tmp_path: Path
    ) -> None:
        config = TrainConfig(num_epochs=2, num_viterbi_epochs=0, learning_rate=1e30, final_learning_rate=1e30)
        with pytest.raises(UsageError, match=r"epoch 1: the loss is .*choose a smaller --learning-rate"):
            make_trainer(system, tmp_path, config=config).run()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("kind", ["dnn", "bnn"])
    def test_finite_losses_that_are_far_worse_than_a_guess_are_a_divergence(
        self, system: TinySystem, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = make_trainer(system, tmp_path, kind, config=TrainConfig(num_epochs=2, num_viterbi_epochs=0))
        guess = math.log(len(trainer.model.log_prior))
        cost = float(trainer.model.network.kl().detach()) / 1000
        assert (cost > 0) == (kind == "bnn")
        for loss, is_last, diverged in (
            (9 * guess, True, False),
            (11 * guess, True, True),
            (11 * guess, False, False),
            (8e25, False, True),
            (math.nan, False, True),
            (math.inf, True, True),
        ):
            with pytest.raises(UsageError, match="has diverged") if diverged else contextlib.nullcontext():
                trainer._check_loss(loss + cost, 1000, 1, is_last=is_last)
        monkeypatch.setattr(trainer, "_epoch", lambda *_: 8e25)
        with pytest.raises(
            UsageError, match=r"epoch 1: the loss is 8e\+25 nats a frame, that of a guess among the pdfs [0-9.]+: the"
        ):
            trainer.run()
        assert list(tmp_path.iterdir()) == []


class TestTrainingSet:
    def model(self, system: TinySystem, **options: Any) -> HybridModel:
        frontend = FrontEndConfig(**{**FRONT_END.__dict__, **options})
        return HybridModel(frontend, system.network())

    def pdf_alis(self, system: TinySystem) -> dict[str, np.ndarray]:
        return {utt: system.table.tid_to_pdf[ali] for utt, ali in system.alignments.items()}

    def test_frames_of_an_utterance_meet_its_alignment_whatever_the_batches(
        self, system: TinySystem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = self.model(system)
        expected, pdfs = tiny.features(system.waves), self.pdf_alis(system)
        data = make_training_set(model, system.waves, pdfs, 0.01)
        assert data.utts == list(system.waves)
        for i, utt in enumerate(data.utts):
            span = slice(int(data.offsets[i]), int(data.offsets[i + 1]))
            # batches of another size round otherwise in the last bits
            np.testing.assert_allclose(data.feats[span].numpy(), expected[utt], rtol=0, atol=1e-4)
            assert np.array_equal(data.pdfs[span].numpy(), pdfs[utt])
        assert data.num_frames == sum(map(len, pdfs.values()))
        assert data.counts(10).tolist() == np.bincount(np.concatenate(list(pdfs.values())), minlength=10).tolist()

    def test_utterances_without_alignment_are_left_out_and_named(
        self, system: TinySystem, caplog: pytest.LogCaptureFixture
    ) -> None:
        pdfs = self.pdf_alis(system)
        del pdfs["utt03"]
        with caplog.at_level(logging.WARNING):
            data = make_training_set(self.model(system), system.waves, pdfs, 0.01)
        assert data.utts == [utt for utt in system.waves if utt != "utt03"]
        assert "1 of 8 utterances have no alignment and are left out: utt03" in caplog.text
        with pytest.raises(DataError, match="no utterance of the data has an alignment"):
            make_training_set(self.model(system), system.waves, {}, 0.01)

    def test_alignment_of_another_length_is_an_error(self, system: TinySystem) -> None:
        pdfs = self.pdf_alis(system)
        length = len(pdfs["utt02"])
        pdfs["utt02"] = pdfs["utt02"][:-1]
        with pytest.raises(
            DataError, match=rf"'utt02': the alignment has {length - 1} frames, the features have {length}"
        ):
            make_training_set(self.model(system), system.waves, pdfs, 0.01)

    @pytest.mark.parametrize(
        "length, shift_s, expected",
        [
            (5, 0.02, [0, 2, 4, 6, 8]),  # every other frame
            (8, 0.005, [0, 0, 1, 2, 2, 2, 3, 4]),  # 0, 0.5, 1, 1.5, ...: halves go to the even frame
            (4, 0.0125, [0, 1, 2, 4]),  # 0, 1.25, 2.5, 3.75
            (12, 0.01, None),
        ],
    )
    def test_other_frame_shift_takes_the_nearest_frame(
        self, length: int, shift_s: float, expected: list[int] | None
    ) -> None:
        alignment = np.arange(10)
        if expected is None:
            with pytest.raises(DataError, match="10 frames, the features have 12"):
                _to_frames("u", alignment, length, shift_s, 0.01)
        else:
            assert _to_frames("u", alignment, length, shift_s, 0.01).tolist() == expected

    def test_frames_beyond_the_alignment_take_its_last(self) -> None:
        assert _to_frames("u", np.array([3, 4]), 7, 0.005, 0.01).tolist() == [3, 3, 4, 4, 4, 4, 4]

    def test_nearest_frame_is_never_more_than_half_a_shift_away(self) -> None:
        for shift_ms in np.random.default_rng(0).uniform(3, 30, 50):
            length = int(1000 / shift_ms)
            frames = _to_frames("u", np.arange(101), length, shift_ms / 1000, 0.01)
            centres = np.arange(length) * shift_ms
            assert np.abs(frames * 10 - centres).max() <= 5 + 1e-6
            assert math.isfinite(centres.max())
