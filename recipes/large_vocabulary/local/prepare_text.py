#!/usr/bin/env python3
"""From a text to a lexicon and to the clauses that it can spell.

The text becomes clauses of plain words (clauses() in local/clauses.py).  The vocabulary is its most frequent words that
CMUdict has, with all of CMUdict's pronunciations but without stress; <UNK>, for any other word, is the phone spn.
Clauses of --min-words to --max-words words are kept if all of their words are of the vocabulary.

Writes <dict-dir> for utils/prepare_lang.sh, and <clauses>, one a line, in the order of the text.

Example: local/prepare_text.py --num-words 1000 data/local/dict data/local/clauses
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clauses import choose_words, clauses, pronouncing_dictionary, read_text, usable_clauses
from corpus import run_script
from dictionary import write_dict

from kaldi_uq.cli.parser import OneLineParser, ParagraphFormatter
from kaldi_uq.errors import UsageError
from kaldi_uq.io.files import write_text

SILENCES = {"<SIL>": "sil", "<UNK>": "spn"}


def prepare(args: argparse.Namespace) -> None:
    """Read the text, choose words, write."""
    if not 1 <= args.min_words <= args.max_words:
        raise UsageError(f"expected 1 <= --min-words <= --max-words, got {args.min_words} and {args.max_words}")
    if args.num_words < 1:
        raise UsageError(f"--num-words must be 1 or more, got {args.num_words}")
    where = args.text or "the World English Bible"
    found = list(clauses(read_text(args.text)))
    pronunciations = pronouncing_dictionary()
    words = choose_words(found, pronunciations, args.num_words, where)
    usable = usable_clauses(found, words, (args.min_words, args.max_words), where)
    write_dict({word: pronunciations[word] for word in words}, SILENCES, args.dict_dir)
    write_text(args.clauses, "".join(f"{' '.join(clause)}\n" for clause in usable))
    print(f"{args.clauses}: {len(usable)} of {len(found)} clauses, {sum(map(len, usable))} words")


def main() -> int:
    """Entry point; returns the exit status."""
    parser = OneLineParser(description=__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("--text", default="", metavar="FILE", help="plain English text [the World English Bible]")
    parser.add_argument("--num-words", type=int, default=5000, metavar="N", help="words of the vocabulary [5000]")
    parser.add_argument("--min-words", type=int, default=4, metavar="N", help="words of a clause, at least [4]")
    parser.add_argument("--max-words", type=int, default=12, metavar="N", help="words of a clause, at most [12]")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("dict_dir", type=Path, metavar="<dict-dir>")
    parser.add_argument("clauses", type=Path, metavar="<clauses>")
    return run_script(parser, prepare)


if __name__ == "__main__":
    sys.exit(main())
