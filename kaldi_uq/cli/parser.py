"""The parser of every command: help of plain paragraphs, mistakes in one line that names the nearest thing there is."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from kaldi_uq.cli.turns import let_others_speak
from kaldi_uq.errors import did_you_mean, printable

# titles of the groups that several commands share, in the order in which they end a help
AUDIO = "audio and data"
SPEAKERS = "speakers, for a model whose features need to know them"
MODEL = "how the model computes"
CODE = "models of your own; the named file is run"
LATTICES = "lattices"
ENGINE = "engine: what decodes and aligns"
_LAST = (AUDIO, SPEAKERS, MODEL, CODE, "decoding", "alignment with a text", LATTICES, ENGINE, "help and errors")

_OPTION = re.compile(r"--?[A-Za-z]\S*")


def _fill(paragraph: str, width: int) -> str:
    return textwrap.fill(paragraph, width, break_on_hyphens=False)  # the name of an option stays in one piece


class ParagraphFormatter(argparse.HelpFormatter):
    """Keeps the paragraphs of a description and fills each to the width of the terminal; indented ones stay as is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(p if "\n " in p or p.startswith(" ") else _fill(p, width) for p in paragraphs)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit with status 1, as Kaldi's tools do.

    An option or a choice that does not exist is answered with the nearest one that does.
    """

    def error(self, message: str) -> NoReturn:
        let_others_speak()
        self.exit(1, f"{self.prog}: error: {printable(message)} (see {self.prog} --help)\n")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command line; options may stand before, between and after the file names."""
        self._refuse_unknown_options(words)
        return self.parse_intermixed_args(words)

    def _refuse_unknown_options(self, words: Sequence[str]) -> None:
        """First of all, since argparse would only speak of arguments that are missing or too many."""
        known = [option for action in self._actions for option in action.option_strings]
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            if _OPTION.fullmatch(name) and not any(option.startswith(name) for option in known):
                near = did_you_mean(name, [option for option in known if option.startswith("--")])
                self.error(f"there is no option {name}{near}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            near = did_you_mean(str(value), choices)
            raise argparse.ArgumentError(action, f"expected one of {', '.join(choices)}, got {value!r}{near}")

    def close(self) -> None:
        """After the last option: those that every command has, and a usage of one line or a few.

        The usage names what has to be given; the options below it are too many to be read twice.
        """
        group = self.add_argument_group("help and errors")
        group.add_argument("-h", "--help", action="help", help="show this and exit")
        group.add_argument("--debug", action="store_true", help="show the traceback of an error")
        self._positionals.title = "arguments"
        for action in self._actions:
            if action.metavar is None and action.nargs != 0:
                action.metavar = _metavar(action)
        self._action_groups.sort(key=lambda group: _LAST.index(group.title) if group.title in _LAST else -1)
        words = ["[options]"]
        for action in self._actions:
            value = str(action.metavar)
            if action.required and action.option_strings:
                words.append(f"{action.option_strings[-1]} {value}")
            elif not action.option_strings:
                words.append(
                    {"+": f"{value} ...", "*": f"[{value} ...]", "?": f"[{value}]"}.get(str(action.nargs), value)
                )
        indent = " " * len("usage: ")
        lines = textwrap.wrap(
            " ".join((self.prog, *words)).replace("%", "%%"),
            80 - len(indent),
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        self.usage = f"\n{indent}".join(lines)


def _metavar(action: argparse.Action) -> str:
    """How the help writes a value: X a number, N a whole one, choices as they are, an argument by its own name."""
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return action.dest.upper().replace("_", "-")
    kind = getattr(action.type, "__name__", "str")
    return (
        "N"
        if kind == "int" or kind.endswith("_int")
        else "X"
        if kind in ("float", "rate")
        else _NAMES.get(kind, "NAME")
    )


_NAMES = {"Path": "FILE", "directory": "DIR"}
