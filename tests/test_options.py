"""Flags and option files: both are the configuration's own fields, and a mistake is named with its place."""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest

from kaldi_uq.attacks.attack import Attack
from kaldi_uq.attacks.config import (
    AdaptiveConfig,
    AttackConfig,
    BlackBoxConfig,
    ConsistentConfig,
    HidingConfig,
    SearchConfig,
)
from kaldi_uq.cli.main import COMMANDS, command_parser
from kaldi_uq.config import Config, add_config_file, add_config_flags, config_from, descriptions, flag, read_option_file
from kaldi_uq.engine.base import DecodeConfig, DeltasConfig, MonoConfig
from kaldi_uq.errors import UsageError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.nnet.config import MODEL_KINDS, ModelConfig, config_class
from kaldi_uq.training.config import RobustConfig, TrainConfig
from tests.conftest import REPO

KINDS: tuple[type[Config], ...] = tuple(map(config_class, MODEL_KINDS))
ATTACKS: tuple[type[Config], ...] = (AttackConfig, HidingConfig, BlackBoxConfig, ConsistentConfig)

# fields of the front end that directories of alignments, transforms and i-vectors determine
OF_DIRECTORIES = {"splice_left", "splice_right", "lda_dim", "fmllr", "ivector_dim", "ivector_extractor"}

# command -> configurations whose fields are its flags, and the fields that it gets in another way
FLAGS: dict[str, tuple[tuple[type[Config], ...], set[str]]] = {
    "train-mono": ((MonoConfig,), set()),
    "train-deltas": ((DeltasConfig,), set()),
    "align-gmm": ((DecodeConfig,), set()),
    "decode-gmm": ((DecodeConfig,), set()),
    "nnet-train": (
        (*KINDS, TrainConfig, RobustConfig, FrontEndConfig, DecodeConfig),
        {"kind", "input_dim", "num_pdfs", "mfcc", "fbank", *OF_DIRECTORIES},
    ),
    "nnet-decode": ((DecodeConfig,), set()),
    "nnet-attack": ((*ATTACKS, AdaptiveConfig, DecodeConfig), set()),
    "nnet-transfer": ((DecodeConfig,), set()),
    "nnet-consistency": ((SearchConfig, DecodeConfig), set()),
    "nnet-certify": ((DecodeConfig,), set()),
    "detect": ((DecodeConfig,), set()),
    "attack": ((*ATTACKS, AdaptiveConfig, DecodeConfig), {"untargeted"}),
    "check-attacks": ((AttackConfig, DecodeConfig), set()),
}

# A value of each type that is no field's default and in range for every field of the type.
OTHER: dict[Any, tuple[str, Any]] = {
    int: ("3", 3),
    float: ("0.625", 0.625),
    tuple[int, ...]: ("7,8", (7, 8)),
    tuple: ("7,8", (7, 8)),
}
CHOICES = {
    "cmvn": "utterance",
    "constraint": "snr",
    "eot_draws": "fixed",
    "loss": "margin",
    "robust_loss": "plain",
    "sided": "both",
    "start": "speech",
    "statistics": "all",
    "step_rule": "fixed",
    "way": "selective",
}
# A field that asks for another one, and the value of that.
NEEDS = {"momentum": ("step_rule", "cosine")}


def typed(text: str, kind: Any) -> Any:
    """A default as the help shows it, in the type of its field."""
    if kind is bool:
        return {"true": True, "false": False}[text]
    return tuple(map(int, text.split(","))) if kind not in (int, float, str) else kind(text)


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {option: action for action in parser._actions for option in action.option_strings}


def own_fields(config: type[Config]) -> list[dataclasses.Field[Any]]:
    """Fields of a configuration; those that the kinds of models, or the attacks, share count as the first one's."""
    base = ModelConfig if config in KINDS[1:] else AttackConfig if config in ATTACKS[1:] else Config
    shared = {field.name for field in dataclasses.fields(base)}
    return [field for field in dataclasses.fields(config) if field.name not in shared]


def other_value(name: str, kind: Any, default: Any) -> tuple[str, Any]:
    if kind is bool:
        return str(not default).lower(), not default
    if kind is str:
        return CHOICES[name], CHOICES[name]
    text, value = OTHER[kind]
    return text, value


@pytest.mark.parametrize("command", sorted(FLAGS))
def test_flags_are_the_fields_of_the_configuration(command: str) -> None:
    parser, _ = command_parser(command)
    known = actions(parser)
    configs, elsewhere = FLAGS[command]
    for config in configs:
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            if field.name in elsewhere:
                assert flag(field.name) not in known or known[flag(field.name)].nargs == 0  # a switch, not a value
                continue
            action = known["--" + field.name.replace("_", "-")]
            assert action.dest == field.name
            assert action.default is None  # the configuration has the only copy of the default
            text, _, shown = str(action.help).rpartition(" [")
            if field.default == "":
                assert not shown.endswith("]")
                continue
            assert text == descriptions(config)[field.name].replace("%", "%%")
            assert typed(shown.rstrip("]"), hints[field.name]) == field.default


@pytest.mark.parametrize("command", sorted(FLAGS))
def test_value_of_every_flag_arrives_in_its_type_and_so_does_that_of_the_file(command: str, tmp_path: Path) -> None:
    parser, _ = command_parser(command)
    positionals = [str(tmp_path)] * sum(not action.option_strings for action in parser._actions)
    required = [
        word
        for a in parser._actions
        if a.required and a.option_strings
        for word in (a.option_strings[0], str(tmp_path))
    ]
    configs, elsewhere = FLAGS[command]
    for config in configs:
        fixed = {"mfcc": FrontEndConfig().mfcc} if config is FrontEndConfig else {}
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            if field.name in elsewhere:
                continue
            text, value = other_value(field.name, hints[field.name], field.default)
            (tmp_path / "x.conf").write_text(f"{flag(field.name)}={text}\n")
            needed = dict([NEEDS[field.name]] if field.name in NEEDS else [])
            others = [word for name, choice in needed.items() for word in (flag(name), choice)]
            for words in ([flag(field.name), text], ["--config", str(tmp_path / "x.conf")]):
                found = config_from(parser.parse_args([*positionals, *required, *others, *words]), config, **fixed)
                assert getattr(found, field.name) == value
                assert type(getattr(found, field.name)) is type(value)
                assert dataclasses.replace(found, **{field.name: field.default}) == config(**fixed, **needed)


def test_every_command_with_a_configuration_is_tested_here() -> None:
    with_config = {name for name in COMMANDS if "--config" in actions(command_parser(name)[0])}
    assert with_config == set(FLAGS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_flag_has_an_underscore(command: str) -> None:
    parser, _ = command_parser(command)
    for option in actions(parser):
        assert "_" not in option


def test_fields_of_one_command_do_not_hide_each_other() -> None:
    for configs, elsewhere in FLAGS.values():
        names = [field.name for config in configs for field in own_fields(config) if field.name not in elsewhere]
        assert len(names) == len(set(names))


@dataclasses.dataclass(frozen=True)
class Example(Config):
    """A field of each type."""

    eps: float = 0.02
    num_steps: int = 40
    random_start: bool = True
    hidden_dims: tuple[int, ...] = (1, 2)
    step_rule: str = "cosine"

    def __post_init__(self) -> None:
        if self.eps > 1:
            raise ValueError(f"eps must be at most 1, got {self.eps}")


KNOWN = {field.name: typing.get_type_hints(Example)[field.name] for field in dataclasses.fields(Example)}


def parse(*words: str) -> Example:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_config_file(parser, Example, skip=("step_rule",))
    add_config_flags(parser, Example, skip=("step_rule",))
    return config_from(parser.parse_args(list(words)), Example)


class TestPrecedence:
    def test_flag_wins_over_file_and_file_over_default(self, tmp_path: Path) -> None:
        (tmp_path / "c").write_text("--eps=0.3\n--num-steps=7\n")
        assert parse() == Example()
        assert parse("--config", str(tmp_path / "c")) == Example(eps=0.3, num_steps=7)
        assert parse("--config", str(tmp_path / "c"), "--eps", "0.5") == Example(eps=0.5, num_steps=7)

    def test_false_and_zero_count_as_given(self, tmp_path: Path) -> None:
        (tmp_path / "c").write_text("--random-start=true\n--num-steps=9\n")
        found = parse("--config", str(tmp_path / "c"), "--random-start", "false", "--num-steps", "0")
        assert (found.random_start, found.num_steps) == (False, 0)

    def test_value_out_of_range_names_the_field(self) -> None:
        with pytest.raises(UsageError, match=r"eps must be at most 1, got 2\.0"):
            parse("--eps", "2")

    @pytest.mark.parametrize(
        "words",
        [("--eps", "x"), ("--eps", "nan"), ("--eps", "inf"), ("--num-steps", "1.5"), ("--random-start", "yes")]
        + [("--hidden-dims", "1,x"), ("--random-start", "True"), ("--step-rule", "fixed")],
    )  # fmt: skip
    def test_value_of_the_wrong_type_is_refused(self, words: tuple[str, str]) -> None:
        with pytest.raises((argparse.ArgumentError, SystemExit)):
            parse(*words)


class TestOptionFile:
    def test_comments_blank_lines_and_spaces(self, tmp_path: Path) -> None:
        (tmp_path / "c").write_text("# all of it\n\n  --eps = 0.1  # full scale is 1\nnum_steps=3\n--hidden-dims=5 6\n")
        assert read_option_file(tmp_path / "c", KNOWN) == {"eps": 0.1, "num_steps": 3, "hidden_dims": (5, 6)}

    @pytest.mark.parametrize(
        "line, message",
        [
            ("--eps 0.1", r"c:2: expected --name=value, found '--eps 0\.1'"),
            ("--eps", r"c:2: expected --name=value, found '--eps'"),
            ("--step-size=1", r"c:2: unknown option --step-size; known: --eps, --hidden-dims, "),
            ("--eps=a lot", r"c:2: --eps: expected a finite number, got 'a lot'"),
            ("--eps=nan", r"c:2: --eps: expected a finite number, got 'nan'"),
            ("--eps=", r"c:2: --eps: expected a finite number, got ''"),
            ("--num-steps=3.5", r"c:2: --num-steps: .*'3\.5'"),
            ("--random-start=1", r"c:2: --random-start: expected true or false, got '1'"),
            ("--hidden-dims=1;2", r"c:2: --hidden-dims: expected integers separated by commas, got '1;2'"),
            ("--eps=$(touch marker)", r"c:2: --eps: expected a finite number, got '\$\(touch marker\)'"),
        ],
    )
    def test_mistake_is_named_with_file_and_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "c").write_text(f"--eps=0.1\n{line}\n")
        with pytest.raises(UsageError, match=message):
            read_option_file(tmp_path / "c", KNOWN)
        assert [path.name for path in tmp_path.iterdir()] == ["c"]

    def test_field_that_the_command_sets_itself_is_unknown_in_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "c").write_text("--step-rule=fixed\n")
        with pytest.raises(UsageError, match=r"c:1: unknown option --step-rule"):
            parse("--config", str(tmp_path / "c"))

    @pytest.mark.parametrize("name", ["--kind=bnn", "--num-pdfs=3", "--mfcc=1", "--input-dim=2"])
    def test_training_does_not_take_the_kind_of_model_from_the_file(self, tmp_path: Path, name: str) -> None:
        parser, _ = command_parser("nnet-train")
        (tmp_path / "c").write_text(f"{name}\n")
        args = parser.parse_args([*[str(tmp_path)] * 4, "--mfcc-config", "x", "--config", str(tmp_path / "c")])
        with pytest.raises(UsageError, match="c:1: unknown option"):
            config_from(args, KINDS[0])

    def test_missing_file_and_file_that_is_no_text(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"c: no such file \(--config\)"):
            parse("--config", str(tmp_path / "c"))
        (tmp_path / "c").write_bytes(b"--eps=\xff\n")
        with pytest.raises(UsageError, match=r"c:1: not UTF-8 \(byte 0xff"):
            parse("--config", str(tmp_path / "c"))

    @pytest.mark.long
    @pytest.mark.parametrize(
        "path",
        [p for p in sorted((REPO / "recipes").rglob("conf/**/*.conf")) if not p.name.startswith("mfcc")],
        ids=lambda p: str(p.relative_to(REPO / "recipes")),
    )
    def test_files_of_the_recipe_are_read_by_the_command_they_are_for(self, path: Path) -> None:
        training = path.stem in MODEL_KINDS or path.stem.startswith(("train", "robust"))
        command = "nnet-train" if training else "nnet-attack"
        configs, elsewhere = FLAGS[command]
        known = {
            f.name: typing.get_type_hints(config)[f.name] for config in configs for f in dataclasses.fields(config)
        }
        values = read_option_file(path, {name: kind for name, kind in known.items() if name not in elsewhere})
        for config in configs:
            names = {f.name for f in dataclasses.fields(config)}
            config(**{name: value for name, value in values.items() if name in names})


class TestFromDict:
    @pytest.mark.parametrize(
        "config",
        [
            *ATTACKS,
            AdaptiveConfig,
            DecodeConfig,
            *KINDS,
            TrainConfig,
            FrontEndConfig,
            MonoConfig,
            DeltasConfig,
        ],
    )
    def test_round_trip_through_json(self, config: type[Config]) -> None:
        assert config.from_dict(json.loads(json.dumps(config().to_dict()))) == config()

    def test_unknown_name_lists_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match="DecodeConfig has no field beems; it has acwt, align_beam, beam"):
            DecodeConfig.from_dict({"beems": 3})

    @pytest.mark.parametrize(
        "config, values, message",
        [
            (AttackConfig, {"eps": -0.1}, "eps must be"),
            (AttackConfig, {"eps": 1.5}, "eps must be"),
            (AttackConfig, {"eps": float("nan")}, "eps must be"),
            (AttackConfig, {"num_steps": 0}, "num_steps must be"),
            (AttackConfig, {"seed": -1}, "seed must be"),
            (AttackConfig, {"momentum": 0.9}, "apgd has a momentum of its own"),
            (HidingConfig, {"hide_steps": 9, "constraint": "snr"}, "it cannot keep that of snr"),
            (HidingConfig, {"hide_steps": -1}, "hide_steps must be"),
            (BlackBoxConfig, {"nes_sigma": 0}, "nes_sigma must be"),
            (AttackConfig, {"eot_draws": "fixed", "early_stop": True}, "eot_draws fixed is for a whole batch"),
            (AttackConfig, {"eot_draws": "fixed", "num_starts": 2}, "eot_draws fixed is for a whole batch"),
            (TrainConfig, {"learning_rate": 0}, "learning rates must be"),
            (TrainConfig, {"batch_size": 0}, "batch_size must be"),
            (TrainConfig, {"seed": -1}, "seed must be"),
            (KINDS[0], {"hidden_dims": ()}, "hidden_dims must be"),
            (KINDS[1], {"hidden_dims": (9, 0)}, "hidden_dims must be"),
            (ModelConfig, {"kind": "dropout", "dropout": 1.0}, "dropout must be"),
            (ModelConfig, {"kind": "dropout", "dropout": 0.0}, "without, all draws are equal: kind dnn"),
            (ModelConfig, {"kind": "tdnn"}, "model must be one of dnn, ensemble, dropout, bnn, got 'tdnn'"),
            (DecodeConfig, {"acwt": 0}, "acwt must be"),
            (DecodeConfig, {"beam": -1}, "beams must be"),
            (FrontEndConfig, {"left_context": -1}, "left_context must be"),
        ],
    )
    def test_value_out_of_range_is_refused_by_its_name(
        self, config: type[Config], values: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            config.from_dict(values)


@pytest.mark.parametrize(
    "field, message",
    [
        ("step_rule", "there is no step rule 'linear'; there are apgd, cosine, fixed"),
        ("constraint", "there is no constraint 'linear'; there are l2, linf, masking, snr"),
        ("loss", "there is no loss 'linear'; there are cross_entropy, "),
    ],
)
def test_part_of_an_attack_that_does_not_exist_is_refused_with_those_that_do(field: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attack(**{field: "linear"})
