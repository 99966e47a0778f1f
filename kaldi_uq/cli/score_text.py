"""Word error rate of hypotheses against references, summed over utterances; prints Kaldi's line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.files import write_json
from kaldi_uq.results.word_errors import score_texts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "reference", type=Path, metavar="REF-TEXT", help="table utt -> words that were said, such as data/test/text"
    )
    parser.add_argument(
        "hypotheses",
        type=Path,
        nargs="+",
        metavar="HYP-TEXT",
        help="tables utt -> words that were heard, of parts of the data",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the counts as JSON")


def run(args: argparse.Namespace) -> None:
    hypotheses: dict[str, str] = {}
    for path in args.hypotheses:
        hypotheses |= read_table(path, allow_empty=True)
    total, _ = score_texts(read_table(args.reference, allow_empty=True), hypotheses)
    print(total.kaldi_line())
    if args.json:
        write_json(args.json, json.loads(json.dumps(total.to_dict())))
