#!/usr/bin/env python3
"""Make a corpus of spoken commands: sentences of local/grammar.txt, read by the 240 synthetic speakers of the digits.

No sentence and no speaker is in two of the sets.  Needs: pip install espeakng-loader

Example: local/prepare_commands.py --preset mini data
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from corpus import counts_of, make_parser, run_script
from digits import Counts, random_generator
from grammar import Grammar
from sentences import write_sentences

from kaldi_uq.io.files import file_digest

PRESETS: dict[str, Counts] = {
    "full": {"train": 6000, "fit": 500, "test": 500, "attack": 200},
    "mini": {"train": 1000, "fit": 100, "test": 100, "attack": 24},
}
GRAMMAR = Path(__file__).with_name("grammar.txt")


def prepare(args: argparse.Namespace) -> None:
    """Draw sentences, then have them spoken."""
    counts = counts_of(args, PRESETS)
    drawn = Grammar(GRAMMAR).sentences(sum(counts.values()), random_generator(args.seed, "sentences"))
    options = {"corpus": "commands", "grammar": file_digest(GRAMMAR)}
    write_sentences(args, counts, map(" ".join, drawn), options)


def main() -> int:
    """Entry point; returns the exit status."""
    return run_script(make_parser(__doc__, PRESETS), prepare)


if __name__ == "__main__":
    sys.exit(main())
