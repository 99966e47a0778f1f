"""Write a directory with a recipe that can run, for the Python environment that this command belongs to.

 e.g.: kaldi-uq init digits && cd digits && ./run.sh

run.sh, conf, cmd.sh and path.sh there are copies, to be edited; steps, utils and local are links to the scripts of the
package.  If the package moves to another environment, 'kaldi-uq link DIR' leads them there.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from kaldi_uq.scripts import write_recipe

# for the help, which needs no scripts; a test holds them
RECIPES = ("tidigits", "commands", "large_vocabulary", "end_to_end", "own_model", "starter")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("dir", type=Path, metavar="DIR", help="the directory: new, or empty")
    parser.add_argument("--recipe", default=RECIPES[0], metavar="NAME", help=f"{', '.join(RECIPES)} [{RECIPES[0]}]")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    write_recipe(args.recipe, args.dir, sys.executable)
    print(f"{args.dir}: recipe {args.recipe}; next: cd {shlex.quote(str(args.dir))} && ./run.sh")
