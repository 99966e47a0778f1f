"""Score the lattices of a decoding directory as Kaldi's score.sh does; prints the best word error rate.

Every language model weight from --min-lmwt to --max-lmwt is tried with every word insertion penalty: wer_<lmwt>_<wip>,
scoring_kaldi/penalty_<wip>/<lmwt>.txt, scoring_kaldi/best_wer.
"""

from __future__ import annotations

import argparse
import math

from kaldi_uq.cli.options import directory, positive_int
from kaldi_uq.errors import UsageError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.lang import read_symbols


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR", help="data directory, with text")
    parser.add_argument(
        "graph_dir", type=directory, metavar="GRAPH-DIR", help="graph or language directory, with words.txt"
    )
    parser.add_argument("decode_dir", type=directory, metavar="DECODE-DIR", help="decoding directory, with lat.*.gz")
    parser.add_argument(
        "--min-lmwt", type=positive_int, default=7, metavar="N", help="smallest language model weight [7]"
    )
    parser.add_argument(
        "--max-lmwt", type=positive_int, default=17, metavar="N", help="largest language model weight [17]"
    )
    parser.add_argument(
        "--word-ins-penalty",
        type=_penalties,
        default="0.0,0.5,1.0",
        metavar="P,...",
        help="word insertion penalties to try, separated by commas [0.0,0.5,1.0]",
    )


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.io.lattice import read_lattice_dir
    from kaldi_uq.results.lattice_scores import rescored, weightings, write_scores

    if args.min_lmwt > args.max_lmwt:
        raise UsageError(f"--min-lmwt {args.min_lmwt} is larger than --max-lmwt {args.max_lmwt}")
    refs = read_table(args.data_dir / "text", allow_empty=True)
    words = {index: word for word, index in read_symbols(args.graph_dir / "words.txt").items()}
    pairs = weightings(args.min_lmwt, args.max_lmwt, args.word_ins_penalty)
    print(write_scores(args.decode_dir, refs, rescored(read_lattice_dir(args.decode_dir), pairs, words)))


def _penalties(text: str) -> list[str]:
    """An argparse type: numbers separated by commas, kept as they are written, because files are named after them."""
    found = text.split(",")
    for one in found:
        try:
            usable = math.isfinite(float(one)) and one == one.strip() and "_" not in one
        except ValueError:
            usable = False
        if not usable:
            raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}")
    return list(dict.fromkeys(found))
