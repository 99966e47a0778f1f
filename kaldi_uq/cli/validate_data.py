"""Check a data directory: which files it must have, their format, their order, and that they agree.

The first thing that is wrong is said in one line, and the exit status is 1.  Kaldi's validate_data_dir.sh.  Refused are
also a byte order mark and lines that end in CR LF, which Kaldi's programs take for a part of a word, and utterance ids
that as file names would leave a directory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kaldi_uq.cli.options import add_pipes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=Path, metavar="DATA-DIR", help="data directory, such as data/train")
    parser.add_argument("--no-feats", action="store_true", help="feats.scp may be missing")
    parser.add_argument("--no-text", action="store_true", help="text may be missing")
    parser.add_argument("--no-wav", action="store_true", help="wav.scp may be missing")
    parser.add_argument("--no-spk-sort", action="store_true", help="do not check the order of speakers in utt2spk")
    parser.add_argument("--non-print", action="store_true", help="allow control characters in text")
    add_pipes(parser)


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.io.validate import validate_data_dir

    may_miss = {"feats.scp": args.no_feats, "text": args.no_text, "wav.scp": args.no_wav}
    num_utts, num_spks = validate_data_dir(
        args.data_dir,
        need=[name for name, optional in may_miss.items() if not optional],
        spk_sort=not args.no_spk_sort,
        non_print=args.non_print,
        allow_pipes=args.allow_pipes,
    )
    if num_spks == 1:
        print(f"validate-data: warning: {args.data_dir} has only one speaker", file=sys.stderr)
    print(f"validate-data: {args.data_dir} is valid: {num_utts} utterances, {num_spks} speakers")
