"""Have the shell complete commands, options, choices and file names: print what it has to read for that.

Once for each shell that is started, in ~/.bashrc or ~/.zshrc:

 e.g.: eval "$(kaldi-uq completion bash)"

It needs the package argcomplete: pip install 'kaldi-uq[completion]'.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from kaldi_uq.config import suggest
from kaldi_uq.errors import MissingDependencyError

PROGRAM = "kaldi-uq"
SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("shell", nargs="?", choices=SHELLS, metavar="SHELL", help=f"{', '.join(SHELLS)} [bash]")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    print(_argcomplete().shellcode([PROGRAM], shell=args.shell or "bash"))


def complete(
    top: argparse.ArgumentParser,
    summaries: Mapping[str, str],
    parser_of: Callable[[str], tuple[argparse.ArgumentParser, object]],
) -> NoReturn:
    """Answer the shell: what the command line in its variables may go on with.  Ends the process.

    Args:
        top: the parser without the commands.
        summaries: command -> what it does.
        parser_of: the parser of a command.  Only that of the command line's own is made: the others would take time.
    """
    argcomplete = _argcomplete()
    line, point = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", "")
    before = line.encode()[: int(point)].decode(errors="ignore") if point.isdecimal() else line
    _, _, _, words, _ = argcomplete.lexers.split_line(before)
    start = max(int(os.environ["_ARGCOMPLETE"]) if os.environ["_ARGCOMPLETE"].isdecimal() else 1, 1)
    named = next((word for word in words[start:] if word in summaries), "")
    commands = top.add_subparsers(metavar="COMMAND")
    for name, summary in summaries.items():
        if name == named:
            parser, _ = parser_of(name)
            _complete_paths(parser, argcomplete.completers)
            commands.add_parser(name, help=summary, add_help=False, parents=[parser])
        else:
            commands.add_parser(name, help=summary, add_help=False)
    argcomplete.autocomplete(top, always_complete_options=False)
    raise SystemExit(1)


def _complete_paths(parser: argparse.ArgumentParser, completers: Any) -> None:
    """Say of each option what its value is: a directory, a file, or nothing that could be looked up."""
    for action in parser._actions:
        if hasattr(action, "completer") or action.choices is not None:
            continue
        kind = getattr(action.type, "__name__", "")
        if kind.startswith("directory"):
            action.completer = completers.DirectoriesCompleter()  # type: ignore[attr-defined]
        elif kind in _NUMBERS:
            suggest(action, ())  # no file has that name; argcomplete's own SuppressCompleter would hide the option, too


_NUMBERS = {"int", "float", "positive_int", "non_negative_int", "rate", "_integer", "_integers", "_number"}


def _argcomplete() -> Any:
    try:
        return importlib.import_module("argcomplete")
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "the package argcomplete is not installed; run: python3 -m pip install 'kaldi-uq[completion]'"
        ) from None
