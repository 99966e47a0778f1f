"""Configurations as frozen dataclasses, from and to flags of a command, option files and plain JSON.

The flags of a command carry the field names of its configuration (``step_size`` is ``--step-size``), and a test holds
the two together.  Their help is what the docstring of the configuration says below ``Attributes:``, and nothing else.
``to_dict`` and ``from_dict`` are the only way into and out of files: plain JSON, unknown names are an error.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import re
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from kaldi_uq.errors import UsageError, did_you_mean
from kaldi_uq.io.reading import text_lines

ConfigT = TypeVar("ConfigT", bound="Config")


Limits = Mapping[str, tuple[float, float]]  # field -> smallest and largest value


@dataclass(frozen=True)
class Config:
    """Base of the configurations: conversion to and from plain dictionaries."""

    # What files may ask for: far beyond any use, and small enough that no file of a few bytes fills the memory.
    LIMITS: ClassVar[Limits] = {}
    # title -> fields: how the flags are grouped in the help of a command
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    # field -> its values, where there are a few with names
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    # fields of CHOICES to which other code may add values: they are shown, and a registry knows what else there is
    OPEN: ClassVar[frozenset[str]] = frozenset()

    def require_choices(self) -> None:
        """Compare the fields with ``CHOICES``, but for those that are ``OPEN``.

        Raises:
            ValueError: a value that is none of them.
        """
        for name, choices in self.CHOICES.items():
            if name not in self.OPEN:
                one_of(name, getattr(self, name), choices)

    def require_within_limits(self) -> None:
        """Compare the fields with ``LIMITS``; of a field of several numbers each.

        Raises:
            ValueError: a value beyond them, or NaN.
        """
        for name, (low, high) in self.LIMITS.items():
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(low <= number <= high for number in numbers):
                raise ValueError(f"{name} must be between {low:.9g} and {high:.9g}, got {value!r:.60}")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[ConfigT], values: dict[str, Any]) -> ConfigT:
        """Build the configuration from a dictionary.

        Raises:
            ValueError: a name that the configuration does not have, a value of another type or out of range.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__} must be names with values, got {values!r:.60}")
        names = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no field {', '.join(map(str, unknown))[:60]}; it has {', '.join(sorted(names))}"
                f"{did_you_mean(str(unknown[0]), names)}"
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        types = typing.get_type_hints(cls)
        for name, value in values.items():
            if not _is_of(value, types[name]):
                kind = getattr(types[name], "__name__", types[name])
                raise ValueError(f"{name} must be of type {kind}, got {value!r:.60}")
        return cls(**values)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of a file has the type of its field; other types than those of flags are the class's matter."""
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind == tuple[int, ...]:
        return isinstance(value, tuple) and all(_is_of(number, int) for number in value)
    return True


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        allowed = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise ValueError(f"{name} must be {allowed}, got {value!r:.60}{did_you_mean(value, choices)}")


def flag(name: str) -> str:
    """The flag of a field: ``step_size`` is ``--step-size``."""
    return "--" + name.replace("_", "-")


def descriptions(config: type[Config]) -> dict[str, str]:
    """What each field is, in words: of the ``Attributes:`` in the docstrings of the class and of its bases.

    Names of fields in double backquotes become flags, other such words stand as they are.  Without docstrings
    (``python -OO``) there is nothing to say.
    """
    found: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        _, _, section = inspect.cleandoc(vars(kind).get("__doc__") or "").partition("\nAttributes:\n")
        section = re.split(r"\n(?=\S)", section, maxsplit=1)[0]
        for name, text in re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", section, re.MULTILINE):
            found[name] = " ".join(text.split())
    names = {field.name for field in dataclasses.fields(config)}

    def shown(match: re.Match[str]) -> str:
        return flag(match[1]) if match[1] in names else match[1]

    return {name: re.sub(r"``(.+?)``", shown, text) for name, text in found.items()}


def group_of(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """The group of options with this title; a new one if there is none yet."""
    for group in parser._action_groups:
        if group.title == title:
            return group
    return parser.add_argument_group(title)


def add_config_flags(parser: argparse.ArgumentParser, config: type[Config], *, skip: Collection[str] = ()) -> None:
    """Add a flag for each field of a configuration; the defaults stay those of the configuration.

    Args:
        parser: the parser.
        config: a frozen dataclass with defaults of type bool, int, float, str or tuple of int.
        skip: fields that the command sets in another way.
    """
    types = typing.get_type_hints(config)
    texts = descriptions(config)
    titles = {name: title for title, names in config.GROUPS.items() for name in names}
    for field in dataclasses.fields(config):
        if field.name in skip:
            continue
        kind, choices = types[field.name], config.CHOICES.get(field.name)
        text = texts.get(field.name, "").replace("%", "%%")
        default = _shown(field.default).replace("%", "%%")
        action = group_of(parser, titles.get(field.name, f"options of {config.__name__}")).add_argument(
            flag(field.name),
            dest=field.name,
            type=_parser_of(kind),
            default=None,
            choices=None if field.name in config.OPEN else choices,
            metavar="{" + ",".join(choices) + "}" if choices else _METAVARS.get(kind, "N,N,..."),
            help=f"{text} [{default}]".strip() if default else text,
        )
        suggested = ("true", "false") if kind is bool else choices
        if suggested:
            suggest(action, suggested)


_METAVARS: Mapping[Any, str] = {bool: "true|false", int: "N", float: "X", str: "NAME"}


def suggest(action: argparse.Action, values: Collection[str]) -> None:
    """Have the shell complete the value of an option to one of these."""
    action.completer = lambda **_: values  # type: ignore[attr-defined]  # the attribute that argcomplete looks for


def _shown(value: Any) -> str:
    """A default as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def add_flags_once(parser: argparse.ArgumentParser, *configs: type[Config], skip: Collection[str] = ()) -> None:
    """Add the flags of several configurations; one that extends another adds its own fields alone."""
    seen = set(skip)
    for config in configs:
        add_config_flags(parser, config, skip=seen)
        seen |= {field.name for field in dataclasses.fields(config)}


def _parser_of(kind: Any) -> Any:
    if kind is bool:
        return _boolean
    if kind is float:
        return _number
    if kind is int:
        return _integer
    return str if kind is str else _integers


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text == "true"


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {text!r}") from None


def config_from(
    args: argparse.Namespace, config: type[ConfigT], *, beneath: Mapping[str, Any] | None = None, **fixed: Any
) -> ConfigT:
    """The configuration: ``fixed`` wins over flags, flags over ``--config FILE``, that over ``--preset NAME``.

    That one wins over ``beneath`` and the defaults; of commands with presets it is the file of the preset by then.

    Raises:
        UsageError: a value out of range, or an unknown name in the file.
    """
    names = {f.name for f in dataclasses.fields(config)}
    values: dict[str, Any] = dict(beneath or {})
    for path in (getattr(args, "preset", None), getattr(args, "config", None)):
        if path:
            values |= {k: v for k, v in read_option_file(Path(path), args.known_fields).items() if k in names}
    values |= {n: v for n in names if (v := getattr(args, n, None)) is not None}
    try:
        return config(**(values | fixed))
    except ValueError as error:
        raise UsageError(str(error)) from None


def add_config_file(parser: argparse.ArgumentParser, *configs: type[Config], skip: Collection[str] = ()) -> None:
    """Add ``--config FILE``: options of these configurations but ``skip``, one ``--name=value`` a line."""
    parser.add_argument("--config", metavar="FILE", help="file of options, one --name=value a line; flags win over it")
    known = {f.name: typing.get_type_hints(c)[f.name] for c in configs for f in dataclasses.fields(c)}
    parser.set_defaults(known_fields={name: kind for name, kind in known.items() if name not in skip})


def read_option_file(path: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Read ``--name=value`` lines as data.

    Raises:
        UsageError: the file is missing; a line is not of this form; an unknown name; a value of the wrong type.
    """
    values = {}
    for number, line in text_lines(path, hint=" (--config)", error=UsageError):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        name, equals, text = line.removeprefix("--").partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"{path}:{number}: expected --name=value, found {line!r}")
        if name not in known:
            raise UsageError(
                f"{path}:{number}: unknown option {flag(name)}; known: {', '.join(map(flag, sorted(known)))}"
                f"{did_you_mean(flag(name), map(flag, known))}"
            )
        try:
            values[name] = _parser_of(known[name])(text.strip())
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise UsageError(f"{path}:{number}: {flag(name)}: {error}") from None
    return values


def parse_fields(config: type[Config], values: Mapping[str, str], *, where: str) -> dict[str, Any]:
    """Values of fields, given as text, with the types of the configuration.

    Args:
        config: the configuration.
        values: name -> text.
        where: the option or file that they come from, for messages.

    Raises:
        ValueError: an unknown name, or a value of another type.
    """
    types = {field.name: typing.get_type_hints(config)[field.name] for field in dataclasses.fields(config)}
    parsed = {}
    for name, text in values.items():
        if name not in types:
            near = did_you_mean(name, types)
            raise ValueError(f"{where}: unknown option {name!r}; known: {', '.join(sorted(types))}{near}")
        try:
            parsed[name] = _parser_of(types[name])(text)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{where}: {name}: {error}") from None
    return parsed
