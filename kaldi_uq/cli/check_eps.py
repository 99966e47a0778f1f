"""Print a perturbation bound in its shortest form, as names of attack directories have it: 0.020 becomes 0.02."""

from __future__ import annotations

import argparse

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("eps", metavar="EPS", help="largest change of a sample, full scale 1")
    parser.add_argument("--option", default="eps", help="name of the option in a message: eps, or eps-level [eps]")


def run(args: argparse.Namespace) -> None:
    try:
        eps = AttackConfig(eps=float(args.eps)).eps
    except ValueError:
        raise UsageError(f"--{args.option} must be a number in [0, 1] (full scale is 1), got {args.eps!r}") from None
    print(f"{eps:g}")
