"""Mend a data directory: sort its tables and drop the utterances that are not in all of them.

Byte order marks go, and CR LF becomes LF.  What is dropped is counted and named.  Files that change are kept in
<data-dir>/.backup.  It fails, and changes nothing, if no utterance would be left.  Kaldi's fix_data_dir.sh.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=Path, metavar="DATA-DIR", help="data directory, such as data/train")


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.io.fix import fix_data_dir

    fix_data_dir(args.data_dir, report=lambda line: print(f"fix-data: {line}"))
