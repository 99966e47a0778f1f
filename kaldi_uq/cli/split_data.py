"""Split a data directory into parts of about equal size for parallel jobs.

The parts are <data-dir>/split<N>/1 ... <N>, no speaker in two of them, or <data-dir>/split<N>utt/1 ... with --per-utt.
Parts that are there and were made from the same files are left alone.  Kaldi's split_data.sh.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=Path, metavar="DATA-DIR", help="data directory, such as data/train")
    parser.add_argument("num_split", type=int, metavar="N", help="number of parts")
    parser.add_argument("--per-utt", action="store_true", help="split by utterance: a speaker may be in two parts")


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.io.split import split_data_dir

    split = split_data_dir(args.data_dir, args.num_split, per_utt=args.per_utt)
    print(f"split-data: {split} has {args.num_split} parts")
