"""Budgets at a level: eps is scaled with the root mean square of each utterance."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq.attacks.attack import Adversarial, random_starts
from kaldi_uq.attacks.checks.one_run import check_attack
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import LInf, level_scale, make_constraint, utterance_eps
from kaldi_uq.attacks.directory import craft, evasion, read_lines, summarise, write_attack
from kaldi_uq.attacks.goal import Say
from kaldi_uq.attacks.levels import level_warnings
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.attacks.steps import first_size
from kaldi_uq.audio.quality import snr_db
from kaldi_uq.results.utterances import read_attacked
from tests.toy import GRID, ToyRecogniser, attack, goal_of, on_grid, toy_waves

SIZES = [400, 300, 400, 400]
GAINS = (1.0, 0.25, 0.05, 0.00002)
EVERY: list[dict[str, Any]] = [
    {"constraint": "linf"},
    {"constraint": "l2", "rms": 0.005},
    {"constraint": "snr", "snr_db": 20.0},
    {"constraint": "masking", "masking_db": 30.0},
]


def levels() -> Tensor:
    """(4, 400): loud and padded, quiet, very quiet, and so quiet that one step of 16 bit is more than eps."""
    wav = torch.stack(
        [(on_grid(400, seed=row, scale=0.2) * gain * GRID).round() / GRID for row, gain in enumerate(GAINS)]
    )
    wav[3, 0] = 1 / GRID  # no digital silence
    wav[1, 300:] = 0
    return wav


def rms(wave: Tensor) -> float:
    return float(wave.double().square().mean().sqrt())


def starts() -> Tensor:
    return torch.from_numpy(random_starts("abcd", SIZES, 0))


class TestBudget:
    @pytest.mark.parametrize("options", EVERY, ids=lambda o: str(o["constraint"]))
    def test_each_utterance_stays_within_its_own_eps_on_the_grid(self, options: dict[str, Any]) -> None:
        wav = levels()
        result, _ = attack(AttackConfig(eps=0.02, eps_level=0.1, num_steps=20, **options), wav, SIZES, start=starts())
        steps = (result.wav - wav).double() * GRID
        assert torch.equal(steps, steps.round())
        for row, size in enumerate(SIZES):
            most = int(0.02 * rms(wav[row, :size]) / 0.1 * GRID + 1e-6)
            largest = float(steps[row].abs().max())
            assert largest <= most
            assert options["constraint"] != "linf" or largest == most  # all of it is used
            assert not bool(steps[row, size:].any())
        assert not bool(steps[3].any()) and bool(steps[2].any())
        assert result.steps.tolist() == [20, 20, 20, 0] and not bool(result.live[3].any())
        assert not bool(result.success[3])

    @pytest.mark.parametrize("options", EVERY, ids=lambda o: str(o["constraint"]))
    def test_quiet_and_loud_get_the_same_relative_budget(self, options: dict[str, Any]) -> None:
        wav = levels()[:1].repeat(2, 1)
        wav[1] /= 8  # float32 is exact here, but for the grid of 16 bit
        config = AttackConfig(eps=0.02, eps_level=0.1, **options)
        constraint = make_constraint(config, wav, torch.tensor([400, 400]), 8000)
        assert float(constraint.eps[0]) == pytest.approx(8 * float(constraint.eps[1]), abs=8 / GRID)
        delta = constraint.project(on_grid(1, 400, seed=9, scale=0.02) * torch.tensor([[1.0], [0.125]]))
        assert rms(delta[0]) == pytest.approx(8 * rms(delta[1]), rel=0.02)
        loud, quiet = first_size(constraint, config).tolist()
        assert loud == pytest.approx(quiet * (1 if options["constraint"] == "masking" else 8), rel=0.02)

    def test_given_step_and_random_start_are_scaled(self) -> None:
        wav = levels()[:2]
        config = AttackConfig(eps=0.02, eps_level=0.1, step_rule="fixed", step_size=0.01)
        sizes = torch.tensor(SIZES[:2])
        constraint = make_constraint(config, wav, sizes, 8000)
        scale = [rms(wav[row, :size]) / 0.1 for row, size in enumerate(SIZES[:2])]
        assert first_size(constraint, config).tolist() == pytest.approx([0.01 * s for s in scale], rel=5e-3)
        start = constraint.start(torch.ones_like(wav) * (torch.arange(400) < sizes[:, None]))
        assert start.amax(1).tolist() == pytest.approx([0.02 * s for s in scale], abs=1 / GRID)

    def test_level_of_an_utterance_is_not_that_of_its_padding_or_its_batch(self) -> None:
        wav, sizes = levels(), torch.tensor(SIZES)
        config = AttackConfig(eps=0.02, eps_level=0.05)
        whole = level_scale(config, wav, sizes)
        for row, size in enumerate(SIZES):
            alone = level_scale(config, wav[row : row + 1, :size], sizes[row : row + 1])
            assert float(whole[row]) == pytest.approx(float(alone), rel=1e-12)
            assert float(alone) == pytest.approx(rms(wav[row, :size]) / 0.05)

    def test_utterance_alone_is_attacked_as_in_its_batch(self) -> None:
        wav = levels()
        config = AttackConfig(eps=0.02, eps_level=0.1, num_steps=20)
        target = torch.randint(4, (4, 20), generator=torch.Generator().manual_seed(2))
        whole, _ = attack(config, wav, SIZES, start=starts(), goal=goal_of(config, target, torch.tensor(SIZES)))
        for row, size in enumerate(SIZES):
            goal = goal_of(config, target[row : row + 1, : size // 20], torch.tensor([size]))
            one, _ = attack(config, wav[row : row + 1, :size], [size], start=starts()[row : row + 1, :size], goal=goal)
            assert torch.equal(one.wav[0], whole.wav[row, :size])

    def test_without_a_level_all_have_the_one_eps(self) -> None:
        wav, sizes = levels(), torch.tensor(SIZES)
        assert utterance_eps(AttackConfig(eps=0.02), wav, sizes).tolist() == [0.02] * 4
        assert make_constraint(AttackConfig(eps=0.02), wav, sizes, 8000).eps.tolist() == [655 / GRID] * 4
        assert LInf(wav, sizes, 0.02).eps.tolist() == [655 / GRID] * 4

    def test_loud_speech_does_not_get_more_than_full_scale(self) -> None:
        wav = torch.full((1, 40), 0.9)
        assert utterance_eps(AttackConfig(eps=1.0, eps_level=0.01), wav, torch.tensor([40])).tolist() == [1.0]

    def test_options_out_of_range_are_refused(self) -> None:
        for value in (-0.1, 1.5):
            with pytest.raises(ValueError, match="eps_level must be in"):
                PGD(eps=0.02, eps_level=value)


class Exact(ToyRecogniser):
    def in_double(self) -> Exact:
        other = Exact(copy.copy(self.model))
        other.model.weights = self.model.weights.double()
        return other


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adversarial, Path]:
    """Three utterances of which the last cannot be attacked, in memory and as a directory."""
    place = tmp_path_factory.mktemp("level")
    waves = {utt: (np.round(wave / 4 * GRID) / GRID).astype(np.float32) for utt, wave in toy_waves().items()}
    waves["utt2"] = np.where(np.arange(len(waves["utt2"])) % 2, 1 / GRID, 0).astype(np.float32)
    who, text = Exact(), {utt: ["a", "b"] for utt in waves}
    kind = PGD(eps=0.05, eps_level=0.1, num_steps=5)
    heard = who.hear(waves)["utt2"].words or ()
    goal = Say({utt: ["c"] if utt != "utt2" else list(heard) for utt in waves}, spoken=text)
    adversarial = craft(kind, who, waves, goal, place)
    write_attack(kind, who, adversarial, text, {utt: utt for utt in waves}, place)
    return adversarial, place


class TestRecords:
    def test_eps_of_each_utterance_is_recorded_beside_the_nominal_one(self, made: tuple[Adversarial, Path]) -> None:
        adversarial, place = made
        for line in read_lines(place):
            before, after = (torch.from_numpy(w[line["utt"]]) for w in (adversarial.originals, adversarial.waves))
            used = int(0.05 * rms(before) / 0.1 * GRID + 1e-6) / GRID
            assert (line["eps"], line["eps_used"]) == (0.05, used)
            assert float((after - before).abs().max()) <= used
        assert line["utt"] == "utt2" and line["eps_used"] == 0 and line["snr_db"] is None

    def test_what_cannot_be_attacked_is_not_reached_even_if_it_is_heard_so(
        self, made: tuple[Adversarial, Path]
    ) -> None:
        last = read_lines(made[1])[-1]
        assert last["hypothesis"] == last["target"] and last["target_success"] is False
        assert not read_attacked(made[1] / "results.jsonl")[-1].success
        assert summarise([last])["target_success"] == 0
        assert summarise([last | {"eps_used": 0.1}])["target_success"] == 1
        assert (evasion([last | {"passes": True}]), evasion([last | {"passes": True, "eps_used": 0.1}])) == (0, 1)

    def test_checks_go_by_the_eps_of_each_utterance(self, made: tuple[Adversarial, Path]) -> None:
        adversarial, _ = made
        found = check_attack(adversarial)
        assert found["eps_respected"]["passed"] and found["gradient_reaches_audio"]["passed"]
        assert not found["eps_reaches_16_bit"]["passed"]
        assert "for 1 of 3 utterances" in found["eps_reaches_16_bit"]["remedy"]
        utt, used = "utt0", adversarial.records["utt0"]["eps_used"]
        moved = {**adversarial.waves, utt: adversarial.originals[utt] + np.float32(used + 2 / GRID)}
        assert used + 2 / GRID > 0.05 * 0.1  # far below the nominal eps for a louder one
        found = check_attack(Adversarial(moved, adversarial.records, adversarial.originals, adversarial.config))
        assert not found["eps_respected"]["passed"]
        assert found["eps_respected"]["value"] == pytest.approx(used + 2 / GRID, abs=1e-6)
        assert found["eps_respected"]["limit"] == pytest.approx(used, abs=1 / GRID)

    def test_snr_is_the_same_for_loud_and_quiet(self) -> None:
        waves = toy_waves(1)
        wave = waves["utt0"]
        quiet = (np.round(wave / 8 * GRID) / GRID).astype(np.float32)
        found = []
        for one in (wave, quiet):
            made = PGD(eps=0.05, eps_level=0.2, num_steps=1, random_start=False)(
                ToyRecogniser(), {"u": one}, Say({"u": "c"})
            )
            found.append(snr_db(made.originals["u"], made.waves["u"]))
        assert found[0] is not None and found[0] == pytest.approx(found[1], abs=0.1)


class TestWarnings:
    WAVES: dict[str, np.ndarray] = {"loud": np.full(50, 0.2), "soft": np.tile([0.01, -0.01], 50)}

    @pytest.mark.parametrize(
        "options",
        [
            {"eps": 0.009},
            {"eps": 0.0},
            {"eps": 0.02, "eps_level": 0.05},
            {"eps": 0.5, "constraint": "l2", "rms": 0.009},
            {"eps": 0.5, "constraint": "snr", "snr_db": 1.0},
            {"eps": 0.5, "constraint": "masking"},
        ],
        ids=str,
    )
    def test_a_budget_below_the_speech_has_none(self, options: dict[str, Any]) -> None:
        assert list(level_warnings(AttackConfig(**options), self.WAVES)) == []

    @pytest.mark.parametrize(
        "options, said",
        [
            ({"eps": 0.02}, "speech in 1 of 2 utterances (SNR -6.0 dB in soft): choose a smaller eps"),
            ({"eps": 0.01}, "speech in 1 of 2 utterances (SNR 0.0 dB in soft): choose a smaller eps"),
            ({"eps": 1.0}, "speech in 2 of 2 utterances (SNR -40.0 dB in soft)"),
            ({"eps": 0.1, "eps_level": 0.05}, "in 2 of 2 utterances (SNR -6.0 dB in "),
            ({"eps": 0.5, "constraint": "l2", "rms": 0.1}, "in 1 of 2 utterances (SNR -20.0 dB in soft)"),
            ({"eps": 0.5, "constraint": "snr", "snr_db": -3.0}, "in 2 of 2 utterances (SNR -3.0 dB in "),
        ],
        ids=str,
    )
    def test_a_change_as_loud_as_the_speech_is_said_with_its_snr(self, options: dict[str, Any], said: str) -> None:
        (line,) = level_warnings(AttackConfig(**options), self.WAVES)
        assert said in line
        assert line.endswith("or a larger eps_level") == ("eps_level" in options)

    def test_more_than_full_scale_is_said(self) -> None:
        line, second = level_warnings(AttackConfig(eps=0.5, eps_level=0.01), self.WAVES)
        assert line == (
            "eps is more than full scale in 1 of 2 utterances (10 in loud), which bounds nothing: choose a smaller eps "
            "or a larger eps_level"
        )
        assert "as loud as the speech in 2 of 2" in second

    @pytest.mark.parametrize("eps_level, then", [(0.05, "eps of 0 and stay as they are"), (0.0, "no speech to hide")])
    def test_digital_silence_is_said(self, eps_level: float, then: str) -> None:
        config = AttackConfig(eps=0.005, eps_level=eps_level)
        (line,) = level_warnings(config, {**self.WAVES, "none": np.zeros(9), "empty": np.zeros(0)})
        assert line.startswith("1 of 3 utterances are digital silence (none, ...): they have ") and then in line
