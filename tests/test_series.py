"""The checks over several runs: a good series passes each of them, and each finds what it is there for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.attacks.checks import series
from kaldi_uq.attacks.checks.checklist import Checklist, plan
from kaldi_uq.attacks.checks.one_run import Check
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.cli import check_attacks
from kaldi_uq.cli.main import main
from kaldi_uq.detector import evaluate_detection, fit_detectors
from kaldi_uq.errors import DataError
from kaldi_uq.io.wav import to_int16, write_wav
from kaldi_uq.results.names import CHECKS
from kaldi_uq.results.table import Results
from kaldi_uq.results.word_errors import align_words
from tests.tiny import RATE, make_system, make_waves

UTTS = [f"u{n:03d}" for n in range(100)]


def success(count: int, utts: list[str] = UTTS, skip: int = 0) -> dict[str, bool]:
    """Success of ``count`` utterances, beginning with the one numbered ``skip``."""
    return {utt: skip <= number < skip + count for number, utt in enumerate(utts)}


def passed(check: Check | None) -> bool:
    assert check is not None
    assert {"passed", "value", "limit", "remedy"} <= check.keys()
    assert bool(check["remedy"]) != check["passed"]  # a remedy if and only if it failed
    return bool(check["passed"])


class TestSuccessOverEps:
    def test_growth_passes_and_a_little_chance_too(self) -> None:
        assert passed(series.grows_with_eps({0.01: success(40), 0.02: success(70), 0.05: success(99)}))
        # three lost, two won: a fair coin does that
        assert passed(series.grows_with_eps({0.01: success(40), 0.02: success(39, skip=3)}))

    def test_fall_is_found_wherever_it_is(self) -> None:
        for by_eps in (
            {0.01: success(60), 0.02: success(40)},
            {0.01: success(1), 0.02: success(60), 0.05: success(40)},
        ):
            check = series.grows_with_eps(by_eps)
            assert not passed(check)
            assert check is not None and check["value"] == pytest.approx(0.2) and check["eps"] == sorted(by_eps)[-2:]

    def test_only_common_utterances_count(self) -> None:
        few = {utt: True for utt in UTTS[:20]}
        assert passed(series.grows_with_eps({0.01: success(20), 0.02: few}))
        assert series.grows_with_eps({0.01: success(20)}) is None
        assert series.grows_with_eps({0.01: {"x": True}, 0.02: {"y": False}}) is None

    def test_large_eps_has_to_turn_every_utterance(self) -> None:
        assert passed(series.saturates({0.02: success(50), 0.2: success(100)}))
        assert passed(series.saturates({0.2: success(99)}))
        assert not passed(series.saturates({0.1: success(100), 0.2: success(98)}))
        assert passed(series.saturates({0.2: success(19, UTTS[:20])}))  # one of twenty is a point there
        assert not passed(series.saturates({0.2: success(18, UTTS[:20])}))
        assert series.saturates({0.02: success(100)}) is None


class TestMoreOfTheSame:
    @pytest.mark.parametrize("what", ["steps", "starts"])
    def test_gain_of_more_than_a_point_is_found(self, what: str) -> None:
        assert passed(series.adds_little({0.02: success(91)}, {0.02: success(90)}, what=what))
        assert passed(series.adds_little({0.02: success(80)}, {0.02: success(90)}, what=what))
        check = series.adds_little(
            {0.02: success(92), 0.05: success(99)}, {0.02: success(90), 0.05: success(99)}, what=what
        )
        assert not passed(check)
        assert check is not None and check["value"] == pytest.approx(0.02) and f"--num-{what}" in check["remedy"]

    def test_without_a_common_eps_there_is_nothing_to_say(self) -> None:
        assert series.adds_little({}, {0.02: success(9)}, what="steps") is None
        assert series.adds_little({0.05: success(9)}, {0.02: success(9)}, what="steps") is None


class TestComparisons:
    def test_stronger_attack_wins_utterance_by_utterance(self) -> None:
        assert passed(series.beats({0.02: success(90)}, {"fgsm": {0.02: success(30)}}, remedy="more"))
        # as many, but others: the stronger one misses what the weaker one turns
        check = series.beats({0.02: success(30)}, {"fgsm": {0.02: success(30, skip=30)}}, remedy="do more")
        assert not passed(check)
        assert check is not None and check["value"] == pytest.approx(0.3) and check["against"] == "fgsm"
        assert "do more" in check["remedy"]

    def test_attack_that_never_succeeds_beats_nothing(self) -> None:
        assert not passed(series.beats({0.02: success(0)}, {"noise": {0.02: success(0)}}, remedy="more"))

    def test_worst_of_several_is_reported(self) -> None:
        others = {"a": {0.02: success(10)}, "b": {0.02: success(20, skip=80)}, "c": {0.05: success(100)}}
        check = series.beats({0.02: success(90)}, others, remedy="more")
        assert check is not None and not check["passed"] and check["against"] == "b"
        assert series.beats({0.02: success(90)}, {}, remedy="more") is None

    def test_blind_attack_that_leads_means_masked_gradients(self) -> None:
        assert passed(series.shows_no_masking({0.02: success(50)}, {"nes": {0.02: success(20)}}))
        # other utterances, but no lead
        assert passed(series.shows_no_masking({0.02: success(20)}, {"nes": {0.02: success(20, skip=50)}}))
        check = series.shows_no_masking({0.02: success(5)}, {"nes": {0.02: success(40)}, "noise": {0.02: success(0)}})
        assert not passed(check)
        assert check is not None and check["against"] == "nes" and "masked gradients" in check["remedy"]


class TestRandomModelsAndDetectors:
    def test_other_draws_that_say_otherwise_are_found(self) -> None:
        assert passed(series.agrees_when_rescored(success(50), [success(50), success(51)]))
        check = series.agrees_when_rescored(success(50), [success(47), success(53)])
        assert not passed(check)
        assert check is not None and check["value"] == pytest.approx(0.94)
        assert series.agrees_when_rescored(success(50), []) is None

    def test_plain_model_has_to_fall(self) -> None:
        assert passed(series.undefended_falls({0.02: success(50), 0.05: success(95), 0.2: success(80)}))
        assert not passed(series.undefended_falls({0.02: success(99), 0.05: success(80), 0.2: success(100)}))
        assert not passed(series.undefended_falls({0.02: success(0)}))
        assert series.undefended_falls({}) is None

    def row(self, attacked: np.ndarray, benign: np.ndarray) -> dict[str, Any]:
        detectors = fit_detectors({"s": benign}, compare=False)
        return evaluate_detection(detectors, {"s": benign}, {"s": attacked}, seed=0, num_bootstrap=2)[0]

    def test_constant_score_is_found_out(self) -> None:
        broken = self.row(np.ones(50), np.ones(80))
        assert (broken["auroc"], broken["tpr_at_threshold"]) == (0.5, 0.0)
        assert not passed(series.tells_attacks(broken))
        assert passed(series.broken_is_caught(broken))
        assert not passed(
            series.every_detector_tells([broken, {"auroc": 0.9, "auroc_ci95": [0.8, 1.0], "tpr_at_threshold": 0.4}])
        )

    def test_working_detector_is_not_called_broken(self) -> None:
        rng = np.random.default_rng(0)
        working = self.row(rng.normal(3, 1, 50), rng.normal(0, 1, 80))
        assert passed(series.tells_attacks(working))
        assert passed(series.every_detector_tells([working]))
        assert series.every_detector_tells([]) is None
        by_chance = working | {"auroc": 0.5, "auroc_ci95": [0.3, 0.7], "tpr_at_threshold": 0.0}  # of a few utterances
        assert passed(series.tells_attacks(by_chance))
        # a detector that says nothing, but is counted as if it did: the alarm itself is what is broken
        assert not passed(series.broken_is_caught(working))


# --- the command


def write_run(folder: Path, hits: dict[str, bool], eps: float, checks: dict[str, Any] | None = None) -> None:
    """An attack directory: the target 'one' is heard or 'two' is."""
    lines = []
    for utt, hit in hits.items():
        heard = ["one" if hit else "two"]
        line: dict[str, Any] = {"utt": utt, "eps": eps, "target": "one", "original": "two", "hypothesis": heard[0]}
        line |= {"target_errors": align_words(["one"], heard).counts(), "snr_db": 9.0}
        line |= {"original_errors": align_words(["two"], heard).counts(), "statistics": {"max_predictive_entropy": 0.1}}
        lines.append(json.dumps(line))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")


def write_benign(folder: Path, heard: dict[str, str]) -> None:
    lines = [
        {"utt": utt, "text": "two", "hypothesis": word, "errors": align_words(["two"], [word]).counts()}
        | {"statistics": {"max_predictive_entropy": 0.1 * number}}
        for number, (utt, word) in enumerate(heard.items())
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


GOOD = {"eps_respected": {"passed": True, "value": 0.02, "limit": 0.02, "remedy": ""}}


def record(exp: Path, model: str, attack: str, eps: float, checks: dict[str, Any]) -> None:
    row = {"model": model, "attack": attack, "eps": eps, "num_utts": 20, "target_accuracy": 0.5}
    row |= {"original_accuracy": 0.5, "snr_db_mean": 9.0, "checks": checks}
    Results(exp / "results.json").add_attack(row)


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """An exp directory of two models with everything that the checks compare, and nothing wrong."""
    utts = UTTS[:20]
    folder = tmp_path / "exp"
    for model in ("dnn", "bnn"):
        there = folder / model
        for name, eps, count in (
            ("pgd", 0.02, 18),
            ("pgd", 0.05, 20),
            ("pgd", 0.2, 20),
            ("pgd-2x", 0.02, 19),
            ("pgd-restarts", 0.02, 18),
            ("fgsm", 0.02, 3),
            ("nes", 0.02, 5),
        ):
            write_run(there / f"attack_{name}_eps{eps:g}", success(count, utts), eps)
            record(folder, model, name, eps, GOOD)
        other = "bnn" if model == "dnn" else "dnn"
        write_run(there / f"transfer_{other}_pgd_eps0.02", success(6, utts), 0.02)
        write_run(there / f"transfer_{model}_pgd_eps0.02", success(18, utts), 0.02)  # its own examples: not a transfer
        write_benign(there / "score_attack_uniform0.02", dict.fromkeys(utts, "two"))
        for name in ("fit", "test"):
            write_benign(there / f"score_{name}", dict.fromkeys(utts, "two"))
    return folder


def run(*words: object) -> int:
    return main(["check-attacks", *map(str, words)])


def checks_of(exp: Path, model: str = "dnn") -> dict[str, Check]:
    content: dict[str, Check] = Results(exp / "results.json").read()["checks"][model]
    return content


def test_good_series_passes_and_is_recorded(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(exp, "--strict") == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    for model in ("dnn", "bnn"):
        found = checks_of(exp, model)
        assert {name for name, check in found.items() if not check["passed"]} == set()
        assert set(found) <= set(CHECKS) and len(found) == 12
        assert found["eps_respected"]["runs"] == 7
        assert found["white_box_beats_transfer"]["against"].startswith("transfer from ")
    assert out.index("dnn: 12 of 12 checks passed") < out.index("bnn: 12 of 12 checks passed")
    assert "✓ white box beats noise" in out and "– rescoring agrees" in out and "✗" not in out


# what is done to the directory, and the check that it makes fail
DAMAGE: dict[str, Any] = {
    "success_grows_with_eps": ("attack_pgd_eps0.05", 6, 0.05),
    "large_eps_always_succeeds": ("attack_pgd_eps0.2", 10, 0.2),
    "twice_the_steps_add_little": ("attack_pgd-2x_eps0.02", 20, 0.02),
    "restarts_saturate": ("attack_pgd-restarts_eps0.02", 20, 0.02),
    "iterative_beats_one_step": ("attack_fgsm_eps0.02", 20, 0.02),
    "white_box_beats_transfer": ("transfer_bnn_pgd_eps0.02", 20, 0.02),
    "white_box_beats_black_box": ("attack_nes_eps0.02", 20, 0.02),
    "undefended_model_falls": ("attack_pgd_eps0.05", 6, 0.05),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_check_fails_on_what_it_is_there_for(exp: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, count, eps = DAMAGE[name]
    write_run(exp / "dnn" / folder, success(count, UTTS[:20]), eps)
    assert run(exp, "--model", "dnn") == 0  # a finding, no error
    out = capsys.readouterr().out
    check = checks_of(exp)[name]
    assert not check["passed"] and check["remedy"]
    assert f"✗ {name.replace('_', ' ')}" in out
    assert check["remedy"].split()[-1] in out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert run(exp, "--model", "dnn", "--strict") == 1


def test_noise_that_does_as_well_as_the_attack_is_found(exp: Path) -> None:
    write_benign(exp / "dnn/score_attack_uniform0.02", dict.fromkeys(UTTS[:20], "one"))
    assert run(exp, "--model", "dnn") == 0
    assert not checks_of(exp)["white_box_beats_noise"]["passed"]


def test_attack_whose_gradient_is_masked_is_found(exp: Path) -> None:
    write_run(exp / "dnn/attack_pgd_eps0.02", success(1, UTTS[:20]), 0.02)
    write_run(exp / "dnn/attack_nes_eps0.02", success(15, UTTS[:20]), 0.02)
    assert run(exp, "--model", "dnn") == 0
    found = checks_of(exp)
    assert not found["no_sign_of_masked_gradients"]["passed"] and not found["white_box_beats_black_box"]["passed"]
    assert found["no_sign_of_masked_gradients"]["against"] == "nes"


def test_failed_check_of_one_run_is_not_lost_among_the_others(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {"passed": False, "value": 0.5, "limit": 0.02, "remedy": "mend the projection"}
    record(exp, "dnn", "fgsm", 0.02, {"eps_respected": bad})
    assert run(exp, "--model", "dnn") == 0
    check = checks_of(exp)["eps_respected"]
    assert (check["passed"], check["value"], check["failed"]) == (False, 0.5, ["fgsm eps 0.02"])
    out = capsys.readouterr().out
    assert "failed in fgsm eps" in out and "mend the projection" in out


def test_constant_detector_among_the_results_is_found(exp: Path) -> None:
    table = {"constant": np.ones(20)}
    rows = evaluate_detection(fit_detectors(table), table, table, seed=0, num_bootstrap=2)
    Results(exp / "results.json").add_detection(rows, model="dnn", attack="pgd", eps=0.02)
    assert run(exp, "--model", "dnn") == 0
    found = checks_of(exp)
    assert not found["detectors_tell_attacks"]["passed"] and "constant" in found["detectors_tell_attacks"]["remedy"]
    assert found["broken_detector_is_caught"]["passed"]


def test_what_is_not_there_is_said_to_be_not_run(exp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("attack_nes_eps0.02", "attack_fgsm_eps0.02", "attack_pgd_eps0.2"):
        shutil.rmtree(exp / "dnn" / name)
    assert run(exp, "--model", "dnn") == 0
    found = checks_of(exp)
    assert not {"white_box_beats_black_box", "iterative_beats_one_step", "large_eps_always_succeeds"} & set(found)
    out = capsys.readouterr().out
    assert "– iterative beats one step" in out and "needs fgsm" in out


def test_checklist_is_the_same_without_the_command(exp: Path) -> None:
    assert run(exp, "--model", "dnn") == 0
    opened: list[Path] = []
    checks, absent = Checklist(exp, open_model=opened.append).of_model("dnn")
    assert checks == checks_of(exp)
    assert opened == [exp / "dnn"]
    assert absent == {
        "detectors_tell_attacks": "detection",
        "rescoring_agrees": "a random model, without CMVN by speaker",
    }
    Checklist(exp, open_model=opened.append, num_rescores=0).of_model("dnn")
    assert len(opened) == 1
    with pytest.raises(DataError, match=r"no attack_apgd_eps<eps>/results\.jsonl to compare the others with"):
        Checklist(exp, attack="apgd").of_model("dnn")


def test_marks_are_plain_where_the_terminal_knows_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_attacks, "_can_print", lambda text: False)
    check = {"passed": False, "value": 2.0, "limit": 1.0, "remedy": "mend it"}
    shown = check_attacks.lines("dnn", {"loss_falls": check | {"passed": True}, "eps_respected": check}, {"x": "y"})
    assert [line[0] for line in shown[1:]] == ["X", " ", "+", "-"]
    assert "\n".join(shown).isascii()


def test_mistakes_are_one_line(exp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(exp, "--model", "none") == 1
    assert "none: no attack_<name>_eps<eps>/results.jsonl" in capsys.readouterr().err
    assert run(exp, "--attack", "apgd") == 1
    assert "no attack_apgd_eps<eps>/results.jsonl to compare" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty") == 1
    assert "no model with an attack directory" in capsys.readouterr().err


def test_plan_doubles_what_the_configuration_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pgd.conf").write_text("--num-steps=70\n--num-starts=3\n")
    assert run(tmp_path, "--plan", "--attack", "mine", "--config", tmp_path / "pgd.conf", "--eps", "0.05") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["mine", "0.2", ""],
        ["mine-2x", "0.05", "--num-steps 140"],
        ["mine-restarts", "0.05", "--num-starts 6"],
    ]
    assert plan("pgd", AttackConfig())[1][2] == f"--num-steps {2 * AttackConfig().num_steps}"


def test_random_model_is_decoded_again_with_other_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system = make_system(tmp_path / "system")
    exp = tmp_path / "exp"
    model_dir = system.write_model(system.train("dropout"), exp / "dropout")
    waves, text = make_waves(6, seed=3)
    attack_dir = model_dir / "attack_pgd_eps0.02"
    lines = []
    for utt, wave in waves.items():
        write_wav(attack_dir / "wav" / f"{utt}.wav", to_int16(wave), RATE)
        line = {"utt": utt, "eps": 0.02, "target": " ".join(text[utt]), "original": "one", "hypothesis": "x"}
        line |= {"target_errors": align_words(text[utt], text[utt]).counts(), "snr_db": None, "statistics": {}}
        lines.append(line | {"original_errors": align_words(["one"], text[utt]).counts()})
    (attack_dir / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(exp, "--num-rescores", "2") == 0
    check = checks_of(exp, "dropout")["rescoring_agrees"]
    assert check["passed"] and (check["times"], check["num_utts"]) == (2, 6)
    # what was recorded as a miss is heard as the target now: the record is of other draws than it says
    for line in lines:
        line["target_errors"] = align_words(["one"], ["two"]).counts()
    (attack_dir / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(exp, "--num-rescores", "1") == 0
    assert checks_of(exp, "dropout")["rescoring_agrees"]["value"] == 0.0
    capsys.readouterr()
    assert run(exp, "--num-rescores", "0") == 0
    assert "rescoring_agrees" not in checks_of(exp, "dropout")
