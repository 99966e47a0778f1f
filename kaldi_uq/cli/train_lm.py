"""Estimate an n-gram language model (interpolated Kneser-Ney) from a text, and write it as an ARPA file.

The text is Kaldi's: an utterance-id and the words on each line.  With --no-ids there are only words.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.files import read_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", type=Path, metavar="TEXT", help="text to learn from, for example data/train/text")
    parser.add_argument("vocabulary", type=Path, metavar="WORDS", help="lexicon or word list; its first column counts")
    parser.add_argument("arpa", type=Path, metavar="ARPA", help="file to write")
    parser.add_argument("--order", type=int, default=2, metavar="N", help="words of the longest n-grams [2]")
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=[],
        metavar="COUNT",
        help="leave out the n-grams seen so often or less, a number for each order as KenLM's lmplz has it: 0 0 1 is "
        "trigrams seen once [none]",
    )
    parser.add_argument("--no-ids", action="store_true", help="TEXT has no utterance-ids")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="WORD",
        help="a word of WORDS that is never spoken, such as <SIL> (can be repeated)",
    )
    parser.add_argument("--test-text", type=Path, metavar="TEXT", help="print the perplexity of this text")


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.io.arpa import write_arpa
    from kaldi_uq.language.model import kneser_ney, perplexity

    vocabulary = {line.split()[0] for _, line in read_lines(args.vocabulary)} - set(args.exclude)
    try:
        model = kneser_ney(_sentences(args.text, args.no_ids), vocabulary, order=args.order, prune=args.prune)
    except DataError as error:
        raise DataError(f"{args.text}: {error}") from None
    except ValueError as error:
        raise UsageError(f"--order {args.order}, --prune: {error}") from None
    write_arpa(args.arpa, model)
    sizes = ", ".join(f"{len(ngrams)} {order}-grams" for order, ngrams in enumerate(model.orders, 1))
    line = f"{args.arpa}: {sizes}"
    if args.test_text:
        found = perplexity(model, _sentences(args.test_text, args.no_ids))
        line += f"; perplexity of {args.test_text} {found:.1f}"
    print(line)


def _sentences(path: Path, no_ids: bool) -> list[list[str]]:
    if no_ids:
        return [line.split() for _, line in read_lines(path)]
    return [text.split() for text in read_table(path, check_sorted=False, allow_empty=True).values()]
