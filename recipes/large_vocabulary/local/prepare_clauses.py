#!/usr/bin/env python3
"""Make a corpus of clauses, read by the 240 synthetic speakers of the digits, and a text for the language model.

No clause and no speaker is in two of the sets, and no clause of fit, test or attack is in <lm-text>, which has all
others, as often as the text has them.  Needs: pip install espeakng-loader

Example: local/prepare_clauses.py --preset mini --clauses data/local/clauses --lm-text data/local/lm/text data
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from corpus import counts_of, make_parser, run_script
from digits import Counts, random_generator
from sentences import write_sentences

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import file_digest, read_lines, write_text

PRESETS: dict[str, Counts] = {
    "full": {"train": 15000, "fit": 500, "test": 500, "attack": 100},
    "mini": {"train": 600, "fit": 60, "test": 60, "attack": 12},
}


def prepare(args: argparse.Namespace) -> None:
    """Draw clauses, have them spoken, and leave the others to the language model."""
    counts = counts_of(args, PRESETS)
    clauses = [line.strip() for _, line in read_lines(args.clauses)]
    different = list(dict.fromkeys(clauses))
    size = sum(counts.values())
    if len(different) <= size:
        raise DataError(
            f"{args.clauses}: {len(different)} different clauses, {size} are to be spoken and some left for the "
            "language model; give a longer text, a larger vocabulary, or smaller sets"
        )
    order = random_generator(args.seed, "clauses").permutation(len(different))[:size]
    options = {"corpus": "clauses", "clauses": file_digest(args.clauses)}
    spoken = write_sentences(args, counts, (different[i] for i in order.tolist()), options)
    kept_from = {utterance.text for utterance in spoken if utterance.set_name != "train"}
    write_text(args.lm_text, "".join(f"{clause}\n" for clause in clauses if clause not in kept_from))


def main() -> int:
    """Entry point; returns the exit status."""
    parser = make_parser(__doc__, PRESETS)
    parser.add_argument("--clauses", type=Path, required=True, metavar="FILE", help="of local/prepare_text.py")
    parser.add_argument("--lm-text", type=Path, required=True, metavar="FILE", help="to write, for the language model")
    return run_script(parser, prepare)


if __name__ == "__main__":
    sys.exit(main())
