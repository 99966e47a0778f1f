"""Fit detectors on benign audio and measure how well they tell attacked audio from other benign audio.

The inputs are results.jsonl files of nnet-decode and nnet-attack, all of one model.  What nnet-decode wrote about the
frames beside the set to fit on, frame_quantiles.json, goes with the detectors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from kaldi_uq.cli.options import non_negative_int
from kaldi_uq.detector import GaussianDetector, evaluate_detection, save_detector
from kaldi_uq.detector.normal import FILE_NAME, load_frame_quantiles, save_frame_quantiles
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import read_attacked, read_benign, statistics_table

SHOWN = ("max_predictive_entropy", "mean_predictive_entropy")  # in the log; results.json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fit", type=Path, required=True, metavar="JSONL", help="benign, to fit on")
    parser.add_argument("--benign", type=Path, required=True, metavar="JSONL", help="benign, held out")
    parser.add_argument("--attacked", type=Path, required=True, metavar="JSONL", help="of nnet-attack")
    parser.add_argument("--model", required=True, help="name in the results")
    parser.add_argument("--attack", required=True, help="name in the results")
    parser.add_argument("--eps", type=float, required=True, help="of the attack")
    parser.add_argument("--results", type=Path, required=True, metavar="FILE", help="results.json to add the rows to")
    parser.add_argument("--detector-dir", type=Path, metavar="DIR", help="save the fitted Gaussian detectors here")
    parser.add_argument("--fpr", type=float, default=0.01, help="false-positive rate of the threshold [0.01]")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the bootstrap [0]")


def run(args: argparse.Namespace) -> None:
    fit = statistics_table(read_benign(args.fit))
    benign = statistics_table(read_benign(args.benign))
    records = read_attacked(args.attacked)
    attacked = statistics_table(records)
    success = np.array([record.success for record in records], dtype=bool)
    rows = evaluate_detection(fit, benign, attacked, seed=args.seed, success=success, fpr=args.fpr)
    Results(args.results).add_detection(rows, model=args.model, attack=args.attack, eps=args.eps)
    if args.detector_dir:
        for name in fit:
            detector = GaussianDetector(True, statistic=name).fit(fit).calibrate(args.fpr, fit)
            save_detector(detector, args.detector_dir / f"{name}.json")
        frames = args.fit.parent / FILE_NAME
        if frames.is_file():
            save_frame_quantiles(load_frame_quantiles(frames), args.detector_dir / FILE_NAME)
        else:  # a file of an earlier fit would be about other audio
            (args.detector_dir / FILE_NAME).unlink(missing_ok=True)
    for row in rows:
        name = row["statistic"]
        if name not in SHOWN or (row["detector"], row["sided"]) != ("gaussian", "two"):
            continue
        low, high = row["auroc_ci95"]
        print(
            f"{args.model} {args.attack} eps {args.eps:g}: AUROC of {name} {row['auroc']:.3f} [{low:.3f}, {high:.3f}]"
        )
