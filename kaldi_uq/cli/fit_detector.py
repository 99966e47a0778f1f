"""Fit the detectors of a model on benign speech: no attack is needed.

The speech is audio files, which the model hears here, or --scored, the results.jsonl that nnet-decode wrote of it.  It
should be like the speech to be judged, and the model must not be trained on it.  Writes MODEL-DIR/detector, or --out
DIR: a JSON file a detector, with a threshold, and frame_quantiles.json: what is normal in one frame.

Audio is read as by kaldi-uq detect.  Without MODEL-DIR the model that comes with the package listens; it stays as it
is, and --out DIR says where the detectors go.

 e.g.: kaldi-uq fit-detector exp/dnn benign/*.wav
       kaldi-uq fit-detector --resample --out mine benign/*.wav
       kaldi-uq detect --resample --detector mine/all-joint.json a.wav
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kaldi_uq.cli.model_options import (
    STDIN,
    add_model_and_files,
    add_network_arguments,
    add_speaker,
    open_recogniser,
    stdin_stream,
    take_model_dir,
)
from kaldi_uq.cli.options import add_audio, add_channel, conversion_of, non_negative_int, rate
from kaldi_uq.errors import UsageError
from kaldi_uq.models import STARTER

if TYPE_CHECKING:  # --help needs no numpy
    from kaldi_uq.detector import OneClassDetector

FEW = 20  # files: with fewer, their largest score says little of the largest of a hundred


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_model_and_files(parser, f"benign speech of the model's sample rate; {STDIN}: standard input")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="directory to write the detectors to [MODEL-DIR/detector]"
    )
    parser.add_argument(
        "--scored", type=Path, metavar="JSONL", help="benign scores, results.jsonl of nnet-decode, instead of WAV files"
    )
    parser.add_argument(
        "--fpr", type=rate, default=0.01, help="false-positive rate of the thresholds, above 0, below 1 [0.01]"
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the draws of a random model [0]")
    add_network_arguments(parser)
    add_audio(parser)
    add_channel(parser)
    add_speaker(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.detector.fit import DETECTOR_DIR, detectors_of

    take_model_dir(args, "kaldi-uq fit-detector")
    if args.is_starter and not args.out:
        raise UsageError(f"{STARTER} stays as it is: say where its new detectors go, with --out DIR")
    if bool(args.scored) == bool(args.wavs):
        raise UsageError("give WAV files, or --scored JSONL" + (", not both" if args.wavs else ""))
    place = args.out or args.model_dir / DETECTOR_DIR
    found = detectors_of(place, args.scored, args.fpr) if args.scored else _fit_on_wavs(args, place)
    print(f"{place}: {len(found)} detectors, thresholds for a false-positive rate of {args.fpr:g}")


def _fit_on_wavs(args: argparse.Namespace, place: Path) -> dict[str, OneClassDetector]:
    from kaldi_uq.detector.fit import fit_detectors, save_fit
    from kaldi_uq.detector.normal import FrameCounter

    recogniser = open_recogniser(args, words=False)
    stream = stdin_stream(args.wavs)
    paths = {"standard input" if stream and path == STDIN else path: stream or path for path in args.wavs}
    conversion = conversion_of(args, recogniser.sample_rate)
    wavs = recogniser.read_wavs(paths, what="heard", allow_pipes=args.allow_pipes, conversion=conversion)
    # a random model hears each file with the same draws, as it does when it judges it
    frames = FrameCounter()
    heard = recogniser.hear(
        wavs, seed=args.seed, alone=recogniser.is_random, words=False, frames_to=frames.add, desc="scoring"
    )
    names = list(next(iter(heard.values())).statistics)
    found = fit_detectors({name: [one.statistics[name] for one in heard.values()] for name in names}, args.fpr)
    save_fit(place, found, frames.result(model=recogniser.model_key))
    if len(heard) < FEW:
        print(
            f"kaldi-uq fit-detector: warning: {len(heard)} benign files are too few for a threshold at a false-"
            f"positive rate of {args.fpr:g}: the true rate may be far higher; use {round(1 / args.fpr)} or more",
            file=sys.stderr,
        )
    return found
