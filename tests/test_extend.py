"""Parts from outside the package: each enters in one place, next to its own code, and works in a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq.attacks.adaptive import Adaptive
from kaldi_uq.attacks.attack import ATTACKS, Attack
from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.constraints import CONSTRAINTS, LInf
from kaldi_uq.attacks.goal import LOSSES, FrameGoal, Say
from kaldi_uq.attacks.loop import AttackResult
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.attacks.steps import STEP_RULES, Stepper
from kaldi_uq.cli.main import main
from kaldi_uq.detector import GaussianDetector, OneClassDetector, load_detector, register, save_detector
from kaldi_uq.detector.judge import Verdict, judge
from kaldi_uq.errors import ModelFileError
from kaldi_uq.io.wav import read_wav
from kaldi_uq.uncertainty import aggregate, measure
from tests import tiny
from tests.toy import FRAME, GRID, Toy, ToyRecogniser, on_grid, toy_waves
from tests.toy import attack as attack_toy

TARGETS = {"utt0": "a b", "utt1": "c", "utt2": "b a"}


pytestmark = pytest.mark.usefixtures("registries")  # what enters in a test leaves with it


# The parts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeakerConfig(AttackConfig):
    """An attack with an option of its own."""

    share: float = 0.5  # of the perturbation that is kept


def add_attack() -> type[Attack]:
    @ATTACKS.register("weaker")
    class Weaker(Attack):
        """The loop, and then less of what it found."""

        Config = WeakerConfig

        def on_batch(self, batch: Batch) -> tuple[AttackResult, Mapping[str, Sequence[Any]]]:
            assert isinstance(self.config, WeakerConfig)
            result = batch.run()
            added = torch.trunc((result.wav - batch.wav) * self.config.share * GRID) / GRID
            result.wav = batch.wav + added
            return result, {"kept_share": [self.config.share] * len(batch.utts)}

    return Weaker


def add_constraint() -> None:
    class SecondHalf(LInf):
        """Only the second half of an utterance may change."""

        def __init__(self, wav: Tensor, num_samples: Tensor, eps: float) -> None:
            super().__init__(wav, num_samples, eps)
            self.late = torch.arange(wav.shape[1], device=wav.device) >= num_samples[:, None] // 2

        def _shrink(self, delta: Tensor) -> Tensor:
            return delta * self.late

    @CONSTRAINTS.register("second_half")
    def second_half(config: AttackConfig, wav: Tensor, num_samples: Tensor, sample_rate: float) -> SecondHalf:
        return SecondHalf(wav, num_samples, config.eps)


def add_step_rule() -> None:
    @STEP_RULES.register("halving")
    class Halving(Stepper):
        def _share(self) -> float:
            return 0.5**self._step


def add_loss() -> None:
    @LOSSES.register("probability")
    class Probability(FrameGoal):
        """1 - P(target): it cares least about frames that are lost."""

        @staticmethod
        def frame_losses(log_post: Tensor, targets: Tensor, *, away: bool = False) -> Tensor:
            chosen = log_post.gather(3, targets[None, ..., None].expand(len(log_post), -1, -1, 1))[..., 0].exp()
            return chosen if away else 1 - chosen


def add_detector(*, follows: bool) -> type[OneClassDetector]:
    class Median(OneClassDetector):
        """How far a statistic is from the benign median, in median deviations."""

        kind = "median"

        def __init__(self, statistics: Sequence[str]) -> None:
            super().__init__(statistics)
            self.median, self.spread = np.empty(0), np.empty(0)

        def _is_fitted(self) -> bool:
            return bool(len(self.median))

        def _fit(self, matrix: np.ndarray) -> None:
            self.median = np.median(matrix, 0)
            self.spread = np.median(np.abs(matrix - self.median), 0)

        def _score(self, matrix: np.ndarray) -> np.ndarray:
            scores: np.ndarray = (np.abs(matrix - self.median) / self.spread).max(1)
            return scores

        def _p_value(self, scores: np.ndarray) -> np.ndarray:
            return np.asarray((scores[:, None] <= self.benign_scores).mean(1))

        def _model_threshold(self, fpr: float) -> float:
            return self.benign_score(1 - fpr)

        def state(self) -> dict[str, Any]:
            return {"median": self.median.tolist(), "spread": self.spread.tolist()}

        @classmethod
        def from_state(cls, statistics: Sequence[str], state: Mapping[str, Any]) -> Median:
            detector = cls(statistics)
            detector.median, detector.spread = np.array(state["median"]), np.array(state["spread"])
            return detector

    def tensor_score(self: Median, x: Tensor) -> Tensor:
        return ((x - x.new_tensor(self.median)).abs() / x.new_tensor(self.spread)).amax(1)

    if follows:
        Median._tensor_score = tensor_score  # type: ignore[method-assign]
    return register(Median)


def add_measure_and_aggregate() -> None:
    @measure("low_confidence")
    def low_confidence(measures: Mapping[str, Tensor]) -> Tensor:
        return 1 - measures["log_mean_post"].amax(-1).exp()

    @aggregate("rms")
    def rms(values: Tensor, valid: Tensor, lengths: Tensor) -> Tensor:
        return (values.masked_fill(~valid, 0.0).square().sum(1) / lengths).sqrt()


# In a run ------------------------------------------------------------------------------------------------------------


def test_attack_with_an_option_and_a_column_of_its_own() -> None:
    kind, who, waves = add_attack(), ToyRecogniser(), toy_waves()
    assert ATTACKS.get("weaker") is kind
    whole = PGD(eps=0.1, num_steps=5)(who, waves, Say(TARGETS))
    made = kind(eps=0.1, num_steps=5, share=0.25)(who, waves, Say(TARGETS))
    for utt in waves:
        assert made.records[utt]["kept_share"] == 0.25
        assert made.records[utt]["last_loss"] == whole.records[utt]["last_loss"]
        whole_change, change = whole.waves[utt] - waves[utt], made.waves[utt] - waves[utt]
        assert np.abs(change - 0.25 * whole_change).max() <= 1 / GRID
        assert np.abs(change).max() > 0.02


def test_constraint_by_its_name() -> None:
    add_constraint()
    wav = on_grid(2, 200)
    for rule in ("apgd", "fixed"):
        config = AttackConfig(eps=0.1, num_steps=8, constraint="second_half", step_rule=rule)
        result, _ = attack_toy(config, wav, [200, 120], start=torch.ones(2, 200))
        change = result.wav - wav
        for row, (half, size) in enumerate(((100, 200), (60, 120))):
            assert not change[row, :half].any()
            assert bool(change[row, half:size].reshape(-1, FRAME).any(1).all())
            assert not change[row, size:].any()
        assert float(change.abs().max()) <= 0.1


class Steep(Toy):
    """Not a model: the loss rises with every sample, whatever the target, so that each step is of full size."""

    def __call__(self, wav: Tensor, num_samples: Tensor, rows: Tensor | None = None) -> Tensor:
        frames = wav.reshape(len(wav), -1, FRAME).sum(-1)
        return -frames[None, ..., None].expand(-1, -1, -1, 4)


def test_step_rule_by_its_name() -> None:
    add_step_rule()
    config = AttackConfig(eps=0.5, num_steps=3, step_rule="halving", step_size=64 / GRID, random_start=False)
    result, wav = attack_toy(config, on_grid(1, 100, scale=0.01), model=Steep())
    assert torch.equal(result.wav - wav, torch.full((1, 100), -(64 + 32 + 16) / GRID))


def test_loss_by_its_name() -> None:
    add_loss()
    who, waves = ToyRecogniser(), toy_waves()
    made = PGD(eps=0.4, num_steps=60, loss="probability")(who, waves, Say(TARGETS))
    assert {utt: " ".join(one.words or ()) for utt, one in who.hear(made.waves).items()} == TARGETS
    assert all(0 <= record["last_loss"] < 0.5 for record in made.records.values())  # of a probability


@pytest.fixture(scope="module")
def benign() -> dict[str, np.ndarray]:
    return {f"benign{number}": on_grid(1, 240, seed=100 + number)[0].numpy() for number in range(40)}


def blind_and_knowing(detector: OneClassDetector) -> list[dict[str, Verdict]]:
    """Verdicts on two attacks that both reach their words: one that knows no detector, and one that has to pass it."""
    who, waves = ToyRecogniser(), toy_waves()
    options: dict[str, Any] = {"eps": 0.4, "num_steps": 40, "judge_every": 5}
    found = []
    for attack in (PGD(**options), Adaptive([detector], **options, search=AdaptiveConfig(round_steps=40))):
        made = attack(who, waves, Say(TARGETS))
        verdicts = judge(who, detector, made.waves)
        assert {utt: one.hypothesis for utt, one in verdicts.items()} == TARGETS
        for utt, record in made.records.items():
            if "passes" in record:
                assert record["passes"] != verdicts[utt].attack
                expected = verdicts[utt].score - detector.require_threshold()
                assert record["excess"] == pytest.approx(expected, rel=1e-3, abs=1e-3)
        found.append(verdicts)
    return found


@pytest.mark.long
@pytest.mark.parametrize("follows", [True, False])
def test_detector_class_is_fitted_saved_judges_and_is_attacked(
    tmp_path: Path, benign: dict[str, np.ndarray], follows: bool
) -> None:
    kind, who = add_detector(follows=follows), ToyRecogniser()
    names = ("mean_predictive_entropy", "max_predictive_entropy")
    rows = [one.statistics for one in who.hear(benign).values()]
    table = {name: np.array([row[name] for row in rows]) for name in names}
    fitted = kind(names).fit(table).calibrate(0.1)
    save_detector(fitted, tmp_path / "median.json")
    detector = load_detector(tmp_path / "median.json")
    assert type(detector) is kind
    assert detector.score(table).tolist() == fitted.score(table).tolist()
    verdicts = judge(who, detector, benign)
    assert 0 < sum(one.attack for one in verdicts.values()) <= 4  # the false-positive rate of its threshold
    quiet = judge(who, detector, {utt: 0.05 * wave for utt, wave in benign.items()})  # in which the toy is unsure
    assert all(one.attack for one in quiet.values())
    blind, knowing = blind_and_knowing(detector)
    assert all(one.attack for one in blind.values())
    assert not any(one.attack for one in knowing.values())


def test_measure_and_aggregate_are_heard_judged_and_attacked(benign: dict[str, np.ndarray]) -> None:
    who, waves = ToyRecogniser(), toy_waves()
    detector = GaussianDetector(statistic="rms_low_confidence")
    with pytest.raises(ModelFileError, match="the detector looks at 'rms_low_confidence', the model measures only"):
        judge(who, detector.fit([0.1, 0.2]).calibrate(0.1), waves)
    add_measure_and_aggregate()
    heard = who.hear(waves)
    for utt, one in heard.items():
        frames = one.frames["low_confidence"]
        assert frames.shape == (who.num_frames(len(waves[utt])),)
        assert ((frames > 0) & (frames < 0.75)).all()
        assert one.statistics["rms_low_confidence"] == pytest.approx(float(np.sqrt(np.mean(frames**2))), rel=1e-5)
        assert one.statistics["mean_low_confidence"] == pytest.approx(float(frames.mean()), rel=1e-5)
        assert "rms_predictive_entropy" in one.statistics  # an aggregate is of every measure, a measure in every one
    values = [one.statistics["rms_low_confidence"] for one in who.hear(benign).values()]
    blind, knowing = blind_and_knowing(detector.fit(values).calibrate(0.1, values))
    assert all(one.attack for one in blind.values())
    assert not any(one.attack for one in knowing.values())


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> tiny.TinySystem:
    """With exp/dnn of a trained network and data/ of four utterances."""
    system = tiny.make_system(tmp_path_factory.mktemp("extend"))
    place = system.mono.parent
    system.write_model(system.train(), place / "exp/dnn")
    tiny.write_set(place / "data", *tiny.make_waves(4, seed=31))
    tiny.write_set(place / "benign", *tiny.make_waves(12, seed=5))
    return system


def test_commands_take_them_by_name(system: tiny.TinySystem, tmp_path: Path) -> None:
    for add in (add_attack, add_constraint, add_step_rule, add_loss, add_measure_and_aggregate):
        add()
    place, out = system.mono.parent, tmp_path / "attack"
    model = shutil.copytree(place / "exp/dnn", tmp_path / "dnn")
    words = ["nnet-decode", place / "benign", model, model / "graph", model / "score_fit"]
    assert main([str(word) for word in words]) == 0
    assert main(["fit-detector", "--scored", str(model / "score_fit/results.jsonl"), str(model)]) == 0
    assert (model / "detector/rms_low_confidence.json").is_file()
    options = "--method weaker --method-options share=0.25 --constraint second_half --step-rule halving"
    options += " --loss probability --eps 0.1 --num-steps 3"
    words = [
        "nnet-attack",
        *options.split(),
        "--lang-dir",
        system.lang.path,
        place / "data",
        model,
        model / "graph",
        out,
    ]
    assert main([str(word) for word in words]) == 0
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["kept_share"] == 0.25
        assert {"rms_low_confidence", "rms_predictive_entropy"} <= set(line["statistics"])
        before, after = (read_wav(folder / f"wav/{line['utt']}.wav")[0] for folder in (place / "data", out))
        half = len(before) // 2
        assert np.array_equal(before[:half], after[:half])
        assert 0 < np.abs(before[half:] - after[half:]).max() <= 0.025 + 1 / GRID
    checks = json.loads((out / "checks.json").read_text())
    assert checks["eps_respected"]["passed"] and checks["gradient_correct"]["passed"]
