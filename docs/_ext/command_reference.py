"""The directive ``commands``: a reference of ``kaldi-uq``, made of the argument parsers themselves."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from kaldi_uq.cli.main import COMMANDS, command_parser

WIDTH = 100  # columns of a usage
CODE = re.compile(r"``(.+?)``|(?<![\w-])(--[a-z][a-z0-9-]*)")  # and options


class Commands(SphinxDirective):
    """A section for each command: what it does, its usage and its options."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return [overview(), *(self._command(name) for name in COMMANDS)]

    def _command(self, name: str) -> nodes.section:
        parser = parser_of(name)
        section = nodes.section(ids=[f"kaldi-uq-{name}"], names=[name])
        section += nodes.title("", "", nodes.Text(name))
        section += list(described(parser.description or ""))
        section += nodes.literal_block("", usage(parser), language="text")
        for group in parser._action_groups:
            shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            if shown:
                section += nodes.rubric("", f"{(group.title or '')[:1].upper()}{(group.title or '')[1:]}")
                section += self._options(parser, shown)
        return section

    @staticmethod
    def _options(parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> nodes.definition_list:
        formatter = parser._get_formatter()
        found = nodes.definition_list(classes=["options"])
        for action in actions:
            said = formatter._expand_help(action) if action.help else ""
            found += nodes.definition_list_item(
                "",
                nodes.term("", "", nodes.literal("", formatter._format_action_invocation(action))),
                nodes.definition("", nodes.paragraph("", "", *text(said))),
            )
        return found


def overview() -> nodes.definition_list:
    """A line for each command, which leads to its section."""
    found = nodes.definition_list(classes=["overview"])
    for name, (*_, summary) in COMMANDS.items():
        link = nodes.reference("", "", nodes.literal("", name), internal=True, refid=f"kaldi-uq-{name}")
        term, said = nodes.term("", "", link), nodes.definition("", nodes.paragraph("", summary))
        found += nodes.definition_list_item("", term, said)
    return found


@functools.cache
def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command."""
    return command_parser(name)[0]


def make_parsers(app: Sphinx) -> None:
    """Make all parsers before autodoc writes into the annotations of the configurations that flags are made of."""
    for name in COMMANDS:
        parser_of(name)


def usage(parser: argparse.ArgumentParser) -> str:
    """The usage of a command, as its help prints it, without the word."""
    formatter = argparse.HelpFormatter(prog=parser.prog, width=WIDTH)
    formatter.add_usage(None, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return formatter.format_help().strip()


def described(description: str) -> Iterator[nodes.Node]:
    """The paragraphs of a docstring; those with an indented line are kept as they are, as in ``--help``."""
    for paragraph in description.strip("\n").split("\n\n"):
        if "\n " in paragraph or paragraph.startswith(" "):
            yield nodes.literal_block("", paragraph, language="text")
        else:
            yield nodes.paragraph("", "", *text(" ".join(paragraph.split())))


def text(said: str) -> Iterator[nodes.Node]:
    """Text with options, and what stands in double backticks, as code."""
    at = 0
    for match in CODE.finditer(said):
        yield nodes.Text(said[at : match.start()])
        yield nodes.literal("", match[1] or match[2])
        at = match.end()
    yield nodes.Text(said[at:])


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.connect("builder-inited", make_parsers)
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
