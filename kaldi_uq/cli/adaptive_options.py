"""What the commands that attack share: the detectors that an adaptive attack has to pass."""

from __future__ import annotations

import argparse
from pathlib import Path

from kaldi_uq.attacks.adaptive import Sentries
from kaldi_uq.attacks.config import AdaptiveConfig
from kaldi_uq.errors import DataError
from kaldi_uq.results.utterances import read_benign, statistics_table


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Add ``--fit``."""
    parser.add_argument(
        "--fit",
        type=Path,
        metavar="JSONL",
        help="with --statistics: benign, to fit the detectors on [MODEL-DIR/score_fit/results.jsonl]",
    )


def fit_file(args: argparse.Namespace, adaptive: AdaptiveConfig) -> Path | None:
    """The scores that the detectors are fitted on; ``None`` if the attack knows of no detector.

    Raises:
        DataError: there is no such file.
    """
    if not adaptive.names:
        return None
    path: Path = args.fit or args.model_dir / "score_fit" / "results.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file; --statistics needs benign scores, stage 5 of a recipe makes them")
    return path


def fit_sentries(path: Path | None, adaptive: AdaptiveConfig) -> Sentries | None:
    """The detectors, fitted and with a threshold; ``None`` if the attack knows of none."""
    return None if path is None else Sentries.fit(statistics_table(read_benign(path)), adaptive)
