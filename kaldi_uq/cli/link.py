"""Put uq beside the steps of a Kaldi recipe: a link to this package's scripts, which find its Python by themselves.

 e.g.: kaldi-uq link /data/egs/mini_librispeech/s5

The recipe needs no other change.  In a directory that 'kaldi-uq init' made, the links are led to this installation.
A second call changes nothing.  What is in the way is named and left alone.
"""

from __future__ import annotations

import argparse

from kaldi_uq.cli.options import directory
from kaldi_uq.scripts import link_scripts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("dir", type=directory, metavar="RECIPE-DIR", help="where path.sh, steps and utils are")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    changed = link_scripts(args.dir)
    for name, place in changed.items():
        print(f"{args.dir / name} -> {place}")
    if not changed:
        print(f"{args.dir}: linked already")
