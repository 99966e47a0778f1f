"""Compile an ARPA language model of any order into the grammar G.fst of a language directory.

The conventions are those of Kaldi's arpa2fst with --disambig-symbol=#0.  N-grams with a word that words.txt does not
have are left out and counted.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from kaldi_uq.cli.options import add_engine, directory, engine_of, start_logging
from kaldi_uq.io.lang import read_symbols

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arpa", type=Path, metavar="ARPA", help="plain, or gzipped if its name ends in .gz")
    parser.add_argument("lang_dir", type=directory, metavar="LANG-DIR", help="language directory with words.txt")
    parser.add_argument("fst", type=Path, metavar="FST", help="file to write, for example data/lang/G.fst")
    add_engine(parser)


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.io.arpa import read_arpa
    from kaldi_uq.language.model import grammar_fst

    start_logging()
    model = read_arpa(args.arpa)
    grammar = grammar_fst(model, read_symbols(args.lang_dir / "words.txt"))
    if grammar.unknown_words:
        some = ", ".join(sorted(grammar.unknown_words)[:10])
        log.warning("%s: words that are not in %s/words.txt: %s", args.arpa, args.lang_dir, some)
    engine_of(args).compile_fst(grammar.text, args.fst, sort="ilabel")
    sizes = ", ".join(f"{len(ngrams)} {order}-grams" for order, ngrams in enumerate(model.orders, 1))
    print(f"{args.fst}: {sizes}; {grammar.skipped} n-grams left out, {len(grammar.unknown_words)} unknown words")
