"""The help of every command: a word on each option, from one place, in 80 columns."""

from __future__ import annotations

import argparse
import dataclasses
import re
import typing

import pytest

from kaldi_uq.attacks.attack import ATTACKS
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import CONSTRAINTS
from kaldi_uq.attacks.goal import LOSSES
from kaldi_uq.attacks.steps import STEP_RULES
from kaldi_uq.cli.attack_options import METHODS
from kaldi_uq.cli.main import COMMANDS, command_parser
from kaldi_uq.config import Config, add_config_flags, descriptions
from tests.test_options import FLAGS

CONFIGS = sorted({config for configs, _ in FLAGS.values() for config in configs}, key=lambda config: config.__name__)


def words_of(action: argparse.Action) -> list[str]:
    """Words of a help beside the default."""
    return re.findall(r"[^\W\d_]{2,}", re.sub(r"\[[^\]]*\]$", "", str(action.help or "")))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_and_argument_has_a_word_of_help(command: str) -> None:
    parser, _ = command_parser(command)
    without = [action.option_strings or action.dest for action in parser._actions if len(words_of(action)) < 2]
    assert without == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_begins_with_a_short_usage(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser, _ = command_parser(command)
    shown = parser.format_help()
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    usage = shown.partition("\n\n")[0]
    assert usage.startswith(f"usage: kaldi-uq {command} [options]")
    assert usage.count("\n") < 3
    required = [action for action in parser._actions if action.required and action.option_strings]
    assert all(action.option_strings[-1] in usage for action in required)
    titles = [group.title for group in parser._action_groups if group._group_actions]
    assert len(titles) == len(set(titles))
    assert titles[-1] == "help and errors"


def test_choices_are_shown_and_so_is_what_the_default_is() -> None:
    parser, _ = command_parser("nnet-attack")
    shown = " ".join(parser.format_help().split())
    assert "--way {penalty,orthogonal,selective} penalty minimises " in shown
    assert "--step-rule {apgd,cosine,fixed}" in shown
    assert "--num-steps N gradient steps [200]" in shown
    assert "--untargeted true|false" in shown


@pytest.mark.parametrize("config", CONFIGS)
def test_docstring_describes_each_field_that_is_there_and_no_other(config: type[Config]) -> None:
    names = {field.name for field in dataclasses.fields(config)}
    told = descriptions(config)
    shared = {"num_members", "dropout", "init_log_var", "kind", "num_leaves", "initial_beam", "cluster_thresh"}
    assert names <= set(told) <= names | shared
    assert not [text for text in told.values() if "``" in text or ":class:" in text]
    grouped = [name for group in config.GROUPS.values() for name in group]
    assert len(grouped) == len(set(grouped))


@pytest.mark.parametrize("command", sorted(FLAGS))
def test_flags_of_configurations_are_in_groups_with_plain_titles(command: str) -> None:
    parser, _ = command_parser(command)
    assert not [group.title for group in parser._action_groups if "Config" in str(group.title)]


@pytest.mark.parametrize("config", CONFIGS)
def test_choices_of_a_configuration_are_those_that_it_takes(config: type[Config]) -> None:
    hints = typing.get_type_hints(config)
    for name, choices in config.CHOICES.items():
        assert hints[name] is str
        for choice in choices:
            assert getattr(config(**{name: choice}), name) == choice
        if name not in config.OPEN:
            near = choices[0][:-1] + "_"
            with pytest.raises(ValueError, match=f"{name} must be .* got '{near}'; did you mean '{choices[0]}'"):
                config(**{name: near})


def test_names_that_the_help_shows_are_those_that_are_registered() -> None:
    choices = AttackConfig.CHOICES
    for name, registry in (("constraint", CONSTRAINTS), ("loss", LOSSES), ("step_rule", STEP_RULES)):
        assert set(choices[name]) == {part for part in registry.names() if _of_the_package(registry.get(part))}
    assert set(METHODS) == {name for name in ATTACKS.names() if _of_the_package(ATTACKS.get(name))}


def _of_the_package(part: object) -> bool:
    return str(getattr(part, "__module__", "")).startswith("kaldi_uq.")


def test_configuration_of_somebody_else_without_a_docstring_has_flags_too() -> None:
    @dataclasses.dataclass(frozen=True)
    class Own(Config):
        width: int = 3
        share: float = 0.5

    parser = argparse.ArgumentParser()
    add_config_flags(parser, Own)
    shown = " ".join(parser.format_help().split())
    assert "options of Own: --width N [3] --share X [0.5]" in shown


def test_percent_sign_of_a_description_reaches_the_help() -> None:
    @dataclasses.dataclass(frozen=True)
    class Own(Config):
        """One field.

        Attributes:
            width: 5 % of
                ``height``, as ``none``
            height: the height
        """

        width: int = 3
        height: int = 4

    parser = argparse.ArgumentParser()
    add_config_flags(parser, Own)
    assert "--width N 5 % of --height, as none [3]" in " ".join(parser.format_help().split())
