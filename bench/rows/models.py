"""What uncertainty and robustness cost: draws, members, kinds of models, adversarial steps, many utterances."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.measure import Case, Facts, Row, Setting

Work = Callable[[], Facts]
EPOCHS = 3  # of a training; the table has the seconds of one
ORDINARY = {"batch_size": 128, "learning_rate": 0.002}  # conf/dnn.conf
# conf/robust_fast.conf and conf/robust.conf, with the smaller network in both
STRONG = {"level": 0.05, "noise_floor": 0.04, "left_context": 6, "right_context": 6}
ONE_STEP = {"robust_loss": "plain", "robust_steps": 1, "robust_step_size": 1.25, "robust_targeted": 0.9}
TRADES = {"robust_loss": "trades", "robust_steps": 6, "robust_targeted": 0.9}


def score(setting: Setting, *, kind: str, num_draws: int | None = None, times: int = 1) -> Work:
    """Posteriors, measures of each frame and statistics of each utterance, as every command computes them."""
    from bench import inputs
    from kaldi_uq.recogniser.recogniser import Recogniser

    options = {"num_members": 5} if kind == "ensemble" else {}
    model = inputs.model(kind, setting.device, **options)
    recogniser = Recogniser(model, "embedded", Path(setting.work), num_draws=num_draws)
    waves = inputs.sounds(setting.num_utts * times)

    def work() -> Facts:
        for _ in recogniser.score(waves):
            pass
        return {"units": len(waves)}

    return work


def train(
    setting: Setting,
    *,
    kind: str = "dnn",
    options: dict[str, Any] = ORDINARY,
    front_end: dict[str, Any] | None = None,
    robust: dict[str, Any] | None = None,
    **network: Any,
) -> Work:
    """Epochs of a training from nothing, with its features and checkpoints."""
    import dataclasses

    from bench import inputs
    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.engine.embedded.engine import EmbeddedEngine
    from kaldi_uq.training.config import RobustConfig, TrainConfig
    from kaldi_uq.training.trainer import Trainer, TrainingInputs

    waves = inputs.sounds(setting.num_utts)
    config = TrainConfig(num_epochs=EPOCHS, num_viterbi_epochs=0, **options)
    attack = RobustConfig(robust_eps=0.02, robust_ramp=0.0, **robust) if robust else None
    wanted = dataclasses.replace(inputs.FRONT_END, **(front_end or {}))
    frames = {utt: inputs.model(front_end=wanted).front_end.num_frames(len(wave)) for utt, wave in waves.items()}
    folder = Path(tempfile.mkdtemp(dir=setting.work))
    for name in ("final.mdl", "tree", "phones.txt"):  # which a training only copies
        (folder / name).touch()
    given = TrainingInputs(
        waves=waves,
        text={},
        alis=inputs.frame_targets(frames),
        ali_shift_s=0.01,
        tid_to_pdf=inputs.every_pdf(),
        ali_dir=folder,
        lang=SimpleNamespace(path=folder),  # type: ignore[arg-type]  # only realignment reads more of it
    )

    def work() -> Facts:
        model = inputs.model(kind, setting.device, wanted, **network)
        Trainer(
            folder / "out", model, given, EmbeddedEngine(), config=config, decode=DecodeConfig(), robust=attack
        ).run()
        return {"units": EPOCHS, "frames": sum(frames.values())}

    return work


def _score_case(name: str, aim: str = "", **options: Any) -> Case:
    return Case(name, functools.partial(score, **options), aim=aim)


def _train_case(name: str, **options: Any) -> Case:
    return Case(name, functools.partial(train, **options))


_ROBUST: dict[str, Any] = {
    "options": {"batch_size": 2000, "learning_rate": 0.002, "average": 0.98},
    "front_end": STRONG,
    "hidden_dims": (256, 256),
}

ROWS = (
    Row(
        "draws",
        "scoring with Monte Carlo dropout, seconds an utterance",
        (
            _score_case("one draw", kind="dropout", num_draws=1),
            _score_case("100 draws", "<= 25", kind="dropout", num_draws=100),
        ),
        on_gpu=True,
    ),
    Row(
        "ensemble",
        "scoring, seconds an utterance",
        (_score_case("one network", kind="dnn"), _score_case("ensemble of five", "<= 2.5", kind="ensemble")),
        on_gpu=True,
    ),
    Row(
        "score-scale",
        "scoring of many utterances, seconds an utterance",
        (
            _score_case("1x the utterances", kind="dnn"),
            _score_case("4x the utterances", "<= 1.2", kind="dnn", times=4),
            _score_case("16x the utterances", "<= 1.2", kind="dnn", times=16),
        ),
        on_gpu=True,
    ),
    Row(
        "train",
        "training, seconds an epoch",
        (
            _train_case("dnn"),
            _train_case("ensemble of five", kind="ensemble", num_members=5),
            _train_case("dropout, ten draws", kind="dropout"),
            _train_case("bnn", kind="bnn"),
        ),
        on_gpu=True,
    ),
    Row(
        "train-robust",
        "adversarial training, seconds an epoch",
        (
            _train_case("ordinary, the same network", **_ROBUST),
            _train_case("attack of one step", robust=ONE_STEP, **_ROBUST),
            _train_case("TRADES, six steps", robust=TRADES, **_ROBUST),
        ),
        on_gpu=True,
    ),
)
