"""The checks of an attack: each of them finds what it is there for, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq.attacks.attack import Adversarial, dead_frames
from kaldi_uq.attacks.checks import one_run
from kaldi_uq.attacks.checks.one_run import check_gradient, slope_errors
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.audio.quality import snr_db
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.feats.adaptation import NOTHING, BatchAdaptation
from kaldi_uq.feats.config import FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.nnet.config import MODEL_KINDS, model_class
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.recogniser import Recogniser

EPS = 0.02
NAMES = {"eps_respected", "length_kept", "gradient_reaches_audio", "loss_falls"}


def example(num_utts: int = 10) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Originals, attacked versions and records of an attack that did what it should."""
    rng = np.random.default_rng(0)
    originals = {f"u{n}": (rng.integers(-9000, 9000, 500) / 32768).astype(np.float32) for n in range(num_utts)}
    reach = int(EPS * 32768)
    moved = {
        utt: (wav + rng.integers(-reach, reach + 1, 500) / 32768).astype(np.float32) for utt, wav in originals.items()
    }
    records = {utt: {"first_loss": 5.0, "last_loss": 0.5, "live_samples": 1.0} for utt in originals}
    return originals, moved, records


def check_attack(
    originals: dict[str, np.ndarray],
    moved: dict[str, np.ndarray],
    records: dict[str, dict[str, Any]],
    config: AttackConfig,
) -> dict[str, dict[str, Any]]:
    return one_run.check_attack(Adversarial(moved, records, originals, config))


def failures(found: dict[str, dict[str, Any]]) -> set[str]:
    for name, check in found.items():
        assert bool(check["remedy"]) != check["passed"], name  # a remedy if and only if it failed
    return {name for name, check in found.items() if not check["passed"]}


def test_good_attack_passes_every_check() -> None:
    found = check_attack(*example(), AttackConfig(eps=EPS))
    assert set(found) == NAMES
    assert failures(found) == set()
    assert found["eps_respected"]["value"] == int(EPS * 32768) / 32768
    assert found["loss_falls"]["value"] == found["gradient_reaches_audio"]["value"] == 1.0


@pytest.mark.parametrize("steps", [1, 300])
def test_broken_projection_is_found(steps: int) -> None:
    originals, moved, records = example()
    moved["u3"][17] = originals["u3"][17] + np.float32((int(EPS * 32768) + steps) / 32768)
    found = check_attack(originals, moved, records, AttackConfig(eps=EPS))
    assert failures(found) == {"eps_respected"}
    assert found["eps_respected"]["value"] > found["eps_respected"]["limit"] == EPS


def test_any_change_is_too_much_where_eps_is_zero() -> None:
    originals, _, records = example()
    assert failures(check_attack(originals, originals, records, AttackConfig(eps=0.0))) == set()
    moved = {utt: wav.copy() for utt, wav in originals.items()}
    moved["u0"][0] += np.float32(1 / 32768)
    assert failures(check_attack(originals, moved, records, AttackConfig(eps=0.0))) == {"eps_respected"}


@pytest.mark.parametrize("size", [499, 501, 0])
def test_other_length_is_found_and_does_not_stop_the_checks(size: int) -> None:
    originals, moved, records = example()
    moved["u2"] = np.resize(moved["u2"], size)
    assert "length_kept" in failures(check_attack(originals, moved, records, AttackConfig(eps=EPS)))


@pytest.mark.parametrize("share", [0.0, 0.49])
def test_masked_gradient_of_one_utterance_is_found(share: float) -> None:
    originals, moved, records = example()
    records["u5"]["live_samples"] = share
    found = check_attack(originals, moved, records, AttackConfig(eps=EPS))
    assert failures(found) == {"gradient_reaches_audio"}
    assert found["gradient_reaches_audio"]["value"] == share


@pytest.mark.parametrize("last", [5.0, 9.0, float("nan")])
def test_loss_that_does_not_fall_is_found(last: float) -> None:
    originals, moved, records = example()
    records["u1"]["last_loss"] = last
    assert failures(check_attack(originals, moved, records, AttackConfig(eps=EPS))) == set()  # one of ten may fail
    records["u2"]["last_loss"] = last
    found = check_attack(originals, moved, records, AttackConfig(eps=EPS))
    assert failures(found) == {"loss_falls"}
    assert found["loss_falls"]["value"] == pytest.approx(0.8)


def test_single_step_has_no_second_loss_that_could_be_lower() -> None:
    originals, moved, records = example()
    for record in records.values():
        record["last_loss"] = record["first_loss"]
    found = check_attack(originals, moved, records, AttackConfig(eps=EPS, num_steps=1, random_start=False))
    assert failures(found) == set() and "loss_falls" not in found


def test_eps_below_a_step_of_16_bit_is_said_to_be_that() -> None:
    originals, _, records = example()
    for record in records.values():
        record.update(first_loss=0.0, last_loss=0.0, live_samples=0.0)
    found = check_attack(originals, originals, records, AttackConfig(eps=1e-5))
    assert failures(found) == {"eps_reaches_16_bit"}
    assert "1/32768" in found["eps_reaches_16_bit"]["remedy"]


def test_eps_of_zero_asks_nothing_of_the_gradient() -> None:
    originals, _, records = example()
    assert set(check_attack(originals, originals, records, AttackConfig(eps=0.0))) == {"eps_respected", "length_kept"}


def test_tolerance_is_far_below_a_step_of_16_bit() -> None:
    assert one_run.ROUNDING < 0.01 / 32768


def test_snr_is_the_ratio_of_powers_and_none_without_noise() -> None:
    wave = np.array([0.5, -0.5, 0.5, -0.5], dtype=np.float32)
    assert snr_db(wave, wave + np.float32(0.05)) == pytest.approx(20.0, abs=1e-4)  # float32
    assert snr_db(wave, 2 * wave) == pytest.approx(0.0)
    assert snr_db(wave, wave) is None


# --- frames without a gradient


def test_frames_without_a_gradient_are_counted_one_by_one() -> None:
    live = torch.ones(2, 100, dtype=torch.bool)
    live[0, 30:50] = False  # frames 3 and 4 of ten samples
    live[1, 10:19] = False  # one sample of frame 1 is left
    live[1, 55:] = False
    found = dead_frames(live, torch.tensor([100, 80]), torch.tensor([9, 7]), 10)
    assert found.tolist() == [2, 1]  # frame 6 of the second; frames beyond its seven are not its own
    assert dead_frames(torch.zeros_like(live), torch.tensor([100, 80]), torch.tensor([9, 7]), 10).tolist() == [9, 7]
    # with centred frames the last may begin behind the end of the audio, where nothing can have a gradient
    assert dead_frames(live[:, :80], torch.tensor([80, 55]), torch.tensor([9, 6]), 10).tolist() == [2, 0]


def test_frame_without_a_gradient_is_found() -> None:
    originals, moved, records = example()
    for record in records.values():
        record["dead_frames"] = 0
    found = check_attack(originals, moved, records, AttackConfig(eps=EPS))
    assert failures(found) == set() and found["gradient_on_every_frame"]["value"] == 0
    records["u4"]["dead_frames"] = 1
    found = check_attack(originals, moved, records, AttackConfig(eps=EPS))
    assert failures(found) == {"gradient_on_every_frame"}


# --- constraints


@pytest.mark.parametrize(
    ("constraint", "name", "values"),
    [("l2", "rms_respected", (0.0125, 0.011)), ("snr", "snr_respected", (20.0, 30.0))],
)
def test_projection_that_leaves_the_perturbation_too_loud_is_found(
    constraint: str, name: str, values: tuple[float, float]
) -> None:
    originals, moved, records = example()
    field = {"l2": "rms", "snr": "snr_db"}[constraint]
    for value, expected in zip(values, (set(), {name}), strict=True):
        config = AttackConfig(eps=EPS, constraint=constraint, **{field: value})
        # uniform noise of EPS has a root mean square of EPS / sqrt(3) = 0.01155 and here an SNR of 22.7 dB
        found = check_attack(originals, moved, records, config)
        assert failures(found) == expected
        assert found[name]["limit"] == value


# --- the gradient against differences


def model_of(kind: str = "dnn", front_end: str = "kaldi") -> HybridModel:
    config = FrontEndConfig(kind=front_end, mfcc=MfccConfig(sample_frequency=8000.0), left_context=1, right_context=1)
    size = 13 * 3 * 3
    network = model_class(kind).config_class(input_dim=size, num_pdfs=7, hidden_dims=(12,))
    return HybridModel(config, network).eval()


def recogniser_of(model: HybridModel) -> Recogniser:
    """One that is not asked for words."""
    return Recogniser(model, EmbeddedEngine(), Path("nowhere"))


def speech() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    waves = {}
    for utt, size in (("a", 2000), ("b", 1500), ("c", 9000)):
        wave = np.rint(3000 * np.sin(np.arange(size) / 7) + 300 * rng.standard_normal(size))
        wave[200:700] = 0  # digital silence, as synthetic speech has it
        waves[utt] = (wave / 32768).astype(np.float32)
    return waves


@pytest.mark.parametrize("front_end", ["kaldi", "torchaudio"])
@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_gradient_through_front_end_and_network_is_the_slope(kind: str, front_end: str) -> None:
    if front_end == "torchaudio":
        pytest.importorskip("torchaudio")
    model = model_of(kind, front_end)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recogniser = recogniser_of(model)
    found = check_gradient(recogniser, speech())
    assert failures(found) == set()
    assert found["gradient_correct"]["value"] < 1e-4
    assert found == check_gradient(recogniser, speech())  # whatever is random is fixed
    for name, value in model.state_dict().items():  # the model itself stays as it was, float32
        assert value.dtype == before[name].dtype and torch.equal(value, before[name])


class Masked(FrontEnd):
    """A front end that hides the gradient in one of the ways that defences do."""

    def __init__(self, inner: FrontEnd, how: str) -> None:
        super().__init__(inner.config)
        self.load_state_dict(inner.state_dict())
        self.how = how

    def features(
        self, wav: Tensor, num_samples: Tensor, *, adaptation: BatchAdaptation = NOTHING
    ) -> tuple[Tensor, Tensor]:
        if self.how == "quantised":  # a straight-through estimate: a gradient, and no slope
            wav = wav + (torch.round(wav * 256) / 256 - wav).detach()
        if self.how == "half detached":
            wav = torch.cat([wav[:, :700].detach(), wav[:, 700:]], 1)
        features, lengths = super().features(wav, num_samples, adaptation=adaptation)
        return (features.detach() if self.how == "detached" else features), lengths


@pytest.mark.parametrize("how", ["quantised", "detached", "half detached"])
def test_masked_gradient_is_found(how: str) -> None:
    model = model_of()
    model.front_end = Masked(model.front_end, how)
    waves = {utt: np.where(wave == 0, np.float32(1e-3), wave) for utt, wave in speech().items()}
    found = check_gradient(recogniser_of(model), waves)
    assert failures(found) == {"gradient_correct"}
    assert found["gradient_correct"]["value"] > 0.05


def test_checks_of_a_run_are_those_of_its_audio_and_of_its_gradient() -> None:
    waves = {utt: (wave * 32768).round().astype(np.float32) / np.float32(32768) for utt, wave in speech().items()}
    records = {utt: {"first_loss": 5.0, "last_loss": 0.5, "live_samples": 1.0} for utt in waves}
    recogniser, made = recogniser_of(model_of()), Adversarial(waves, records, waves, AttackConfig(eps=EPS, seed=3))
    found = one_run.check(recogniser, made)
    assert failures(found) == set()
    assert set(found) == NAMES | {"gradient_correct"}
    assert found["gradient_correct"] == check_gradient(recogniser, waves, seed=3)["gradient_correct"]


def test_slope_error_is_zero_for_a_smooth_function_and_one_where_gradient_or_slope_is_missing() -> None:
    wav = torch.linspace(-0.5, 0.5, 40, dtype=torch.float64).reshape(2, 20)

    def errors(function: Any) -> list[float]:
        found: list[float] = slope_errors(function, wav, generator=torch.Generator().manual_seed(0)).tolist()
        return found

    assert max(errors(lambda x: (x**3).sum(1))) < 1e-6
    assert errors(lambda x: (x**3).sum(1).detach()) == [1.0, 1.0]
    assert errors(lambda x: (torch.round(x) - x.detach() + x).sum(1)) == pytest.approx([1.0, 1.0])
    assert errors(lambda x: x.sum(1) * float("nan")) == [1.0, 1.0]
    assert errors(lambda x: (0 * x).sum(1)) == [0.0, 0.0]  # flat, and says so: that no sample is live is another check
