"""Measure how well the detectors of a model tell attacked audio from benign audio.

The inputs are results.jsonl files of nnet-decode and nnet-attack, all of one model.  The detectors are those of
DETECTOR-DIR; with --fit they are first fitted on these scores, as fit-detector does, unless they are already.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from kaldi_uq.cli.options import non_negative_int, rate
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.results.gate import gate_lines, is_gate
from kaldi_uq.results.table import Results

WIDTH = 80  # columns
SHOWN = ("max_predictive_entropy", "mean_predictive_entropy")  # in the log; results.json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--fit", type=Path, metavar="JSONL", help="benign scores that the detectors are fitted on")
    parser.add_argument("--benign", type=Path, required=True, metavar="JSONL", help="benign scores, held out")
    parser.add_argument("--attacked", type=Path, required=True, metavar="JSONL", help="scores of nnet-attack")
    parser.add_argument("--model", required=True, metavar="NAME", help="name of the model in the results")
    parser.add_argument("--attack", required=True, metavar="NAME", help="name of the attack in the results")
    parser.add_argument("--eps", type=float, required=True, metavar="X", help="eps of the attack, full scale 1")
    parser.add_argument("--results", type=Path, required=True, metavar="FILE", help="results.json to add the rows to")
    parser.add_argument("--detector-dir", type=Path, metavar="DIR", help="detectors, such as MODEL-DIR/detector")
    parser.add_argument(
        "--fpr", type=rate, default=0.01, help="with --fit: false-positive rate of the thresholds [0.01]"
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the bootstrap [0]")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    import numpy as np

    from kaldi_uq.detector import evaluate_detection, load_detectors
    from kaldi_uq.detector.fit import detectors_of
    from kaldi_uq.results.utterances import read_attacked, read_benign, statistics_table

    if not (args.fit or args.detector_dir):
        raise UsageError("give --detector-dir DIR, or --fit JSONL to fit detectors first")
    detectors = detectors_of(args.detector_dir, args.fit, args.fpr) if args.fit else load_detectors(args.detector_dir)
    for name, detector in detectors.items():
        if detector.threshold is None:
            raise DataError(f"{args.detector_dir / name}.json: this detector has no threshold; calibrate() chooses one")
    held_out, records = read_benign(args.benign), read_attacked(args.attacked)
    rows = evaluate_detection(
        detectors,
        statistics_table(held_out),
        statistics_table(records),
        seed=args.seed,
        success=np.array([record.success for record in records], dtype=bool),
        right=np.array([record.original_errors.errors == 0 for record in records], dtype=bool),
        benign_right=np.array([record.errors.errors == 0 for record in held_out], dtype=bool),
    )
    Results(args.results).add_detection(rows, model=args.model, attack=args.attack, eps=args.eps)
    for row in rows:
        if is_gate(row):
            for line in gate_lines(row, model=args.model, attack=args.attack, eps=args.eps):
                print(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
        name = row["statistic"]
        if name not in SHOWN or (row["detector"], row["sided"]) != ("gaussian", "two"):
            continue
        low, high = row["auroc_ci95"]
        print(
            f"{args.model} {args.attack} eps {args.eps:g}: AUROC of {name} {row['auroc']:.3f} [{low:.3f}, {high:.3f}]"
        )
