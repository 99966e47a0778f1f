"""The checks of an attack: each of them finds what it is there for, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kaldi_uq.attacks import checks
from kaldi_uq.attacks.checks import check_attack, snr_db
from kaldi_uq.types import AttackConfig

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
    assert checks.ROUNDING < 0.01 / 32768


def test_snr_is_the_ratio_of_powers_and_none_without_noise() -> None:
    wave = np.array([0.5, -0.5, 0.5, -0.5], dtype=np.float32)
    assert snr_db(wave, wave + np.float32(0.05)) == pytest.approx(20.0, abs=1e-4)  # float32
    assert snr_db(wave, 2 * wave) == pytest.approx(0.0)
    assert snr_db(wave, wave) is None
