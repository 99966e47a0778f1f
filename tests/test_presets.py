"""Attacks by name: the files of the digit recipe from Python and the command line, and nothing written twice."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import kaldi_uq as uq
from kaldi_uq.attacks.adaptive import Adaptive
from kaldi_uq.attacks.black_box import BlackBox
from kaldi_uq.attacks.config import ATTACK_CONFIGS, AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.consistent import Consistent
from kaldi_uq.attacks.hiding import Psychoacoustic
from kaldi_uq.attacks.named import PAPER, attack_files, preset, preset_file, preset_options, presets
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.cli.attack_options import add_attack_choice, attack_of
from kaldi_uq.cli.main import main
from kaldi_uq.config import add_config_file, add_flags_once, config_from
from kaldi_uq.detector import GaussianDetector
from kaldi_uq.errors import UsageError
from tests.conftest import REPO, RunScript

CONF = REPO / "recipes/tidigits/conf"
KINDS = {"psychoacoustic": Psychoacoustic, "black-box": BlackBox, "nes": BlackBox, "consistent": Consistent}
KNOWING = ("adaptive", "orthogonal", "selective")


@pytest.fixture
def detector() -> GaussianDetector:
    return GaussianDetector("max_predictive_entropy").fit([1.0, 1.2, 1.4]).calibrate(0.01)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_attack_choice(parser)
    add_config_file(parser, *ATTACK_CONFIGS)
    add_flags_once(parser, *ATTACK_CONFIGS)
    return parser.parse_args(list(words))


def test_every_attack_of_the_recipe_is_a_preset() -> None:
    others = {"bnn", "dnn", "dropout", "ensemble", "mfcc_16k", "mfcc_8k", "robust", "robust_fast"}
    assert set(presets()) == {path.stem for path in CONF.glob("*.conf")} - others | {"paper-pgd"}
    assert preset_file("paper-pgd") == CONF / "paper/pgd.conf"
    assert uq.attacks.presets is presets and uq.attacks.preset is preset


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in presets() if name not in KNOWING])
def test_a_preset_is_the_attack_that_its_file_asks_the_commands_for(name: str) -> None:
    made = preset(name, eps=0.03)
    by_file = parsed("--config", str(preset_file(name)), "--eps", "0.03")
    by_name = parsed("--preset", name, "--eps", "0.03")
    for args in (by_file, by_name):
        asked = attack_of(args, config_from(args, AdaptiveConfig))
        assert (type(made), made.config) == (type(asked), asked.config)
    assert type(made) is KINDS.get(name, PGD) and made.config.eps == 0.03


@pytest.mark.parametrize("name", KNOWING)
def test_a_preset_that_knows_the_detector_takes_one(name: str, detector: GaussianDetector) -> None:
    made = preset(name, detectors=[detector], num_rounds=2, num_steps=7)
    assert isinstance(made, Adaptive) and made.config.num_steps == 7
    by_name = config_from(parsed("--preset", name, "--num-rounds", "2"), AdaptiveConfig)
    assert made.search == by_name and by_name.way == {"adaptive": "penalty"}.get(name, name)


def test_mistakes(detector: GaussianDetector) -> None:
    for wrong, said in (
        (
            lambda: preset("decoder_margin"),
            r"no attack preset 'decoder_margin': .*; did you mean 'decoder-margin'\?",
        ),
        (lambda: preset("mfcc_16k"), "no attack preset 'mfcc_16k': there are adaptive"),
        (lambda: preset("../paper/pgd"), "no attack preset"),
        (lambda: preset("adaptive"), r"name them, detectors=\[...\]"),
        (lambda: preset("pgd", detectors=[detector]), "preset pgd knows no detector: leave detectors out"),
        (lambda: preset("pgd", eps=2.0), "eps must be a number"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong()
    with pytest.raises(TypeError, match="nes_pairs"):
        preset("pgd", nes_pairs=3)
    args = parsed("--preset", "selective")
    with pytest.raises(UsageError, match="--preset selective knows the detector: name the statistics"):
        attack_of(args, config_from(args, AdaptiveConfig))


def test_flags_win_over_a_file_and_that_over_a_preset(tmp_path: Path) -> None:
    (tmp_path / "mine.conf").write_text("--num-steps=3\n--step-size=0.5\n")
    words = ("--preset", "paper-pgd", "--config", str(tmp_path / "mine.conf"), "--step-size", "0.25")
    config = config_from(parsed(*words), AttackConfig)
    assert (config.num_steps, config.step_size, config.step_rule) == (3, 0.25, "fixed")


def test_the_class_methods_say_what_the_files_say() -> None:
    assert PGD.paper(eps=0.05).config == AttackConfig(eps=0.05, **preset_options(PAPER))
    assert PGD.fgsm(seed=3).config == AttackConfig(seed=3, **preset_options("fgsm"))
    assert PGD.paper(num_steps=2).config.num_steps == 2


def test_the_defaults_are_the_strong_attacks() -> None:
    assert AttackConfig(**preset_options("pgd")) == AttackConfig()
    search = {name: value for name, value in preset_options("adaptive").items() if name in vars(AdaptiveConfig())}
    assert len(search) == 4 and AdaptiveConfig(**search) == AdaptiveConfig()


def test_names_need_no_torch_and_the_command_has_the_nearest(
    run_script: RunScript, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import sys, kaldi_uq as uq; print(len(uq.attacks.presets())); sys.exit('torch' in sys.modules)"
    assert run_script("python3", "-c", code).returncode == 0
    with pytest.raises(SystemExit) as done:
        main(["attack", "x.wav", "--model-dir", str(tmp_path), "--preset", "papr-pgd"])
    said = capsys.readouterr().err
    assert done.value.code == 1 and said.count("\n") == 1
    assert "argument --preset: no attack preset 'papr-pgd': there are " in said
    assert "; did you mean 'paper-pgd'?" in said


def test_a_recipe_lists_the_attacks_of_its_own_files(tmp_path: Path) -> None:
    for name in ("mine.conf", "mfcc.conf", "dnn.conf", "robust.conf"):
        (tmp_path / name).touch()
    assert attack_files(tmp_path) == {"mine": tmp_path / "mine.conf"}
