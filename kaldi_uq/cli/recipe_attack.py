"""Check how an attack of a recipe was asked for; print its name, its configuration file and its options.

To be run in a recipe directory: the attacks are those that have a configuration file conf/ATTACK.conf there, and
paper-pgd, whose file is conf/paper/pgd.conf.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.named import PAPER, attack_files
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.results.names import KNOWING, at_level

DEFAULT_FPR = AdaptiveConfig().fpr


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("attack", metavar="ATTACK", help="pgd, paper-pgd, adaptive or any other with a file in conf")
    parser.add_argument(
        "--statistics",
        default="",
        help=f"of {', '.join(KNOWING)}: names of the detectors to pass, separated by commas [max_predictive_entropy]",
    )
    parser.add_argument(
        "--fpr",
        type=float,
        help=f"false-positive rate of these detectors; added to the name unless it is [{DEFAULT_FPR:g}]",
    )
    parser.add_argument("--name", default="", help="name under which it is filed [ATTACK, or ATTACK-STATISTICS]")
    parser.add_argument(
        "--eps-level",
        type=float,
        default=0.0,
        help="level of the speech that eps is for; added to the name; 0: eps is the same for all [0]",
    )
    parser.add_argument("--eot-samples", type=int, help="draws that one gradient averages over; added to the name")
    parser.add_argument("--attack-opts", default="", metavar="OPTIONS", help="further options of nnet-attack")


def run(args: argparse.Namespace) -> None:
    config = config_file(args.attack)
    name, options = args.name, args.attack_opts
    try:
        AttackConfig(eps_level=args.eps_level)
        AdaptiveConfig(fpr=DEFAULT_FPR if args.fpr is None else args.fpr)
    except ValueError as error:
        raise UsageError(f"--{error}".replace("_", "-")) from None
    if args.attack in KNOWING:
        statistics = args.statistics or "max_predictive_entropy"
        if not re.fullmatch(r"[a-z0-9_-]+(,[a-z0-9_-]+)*", statistics):
            raise UsageError(f"--statistics must be names separated by commas, got {statistics!r}")
        name = name or f"{args.attack}-{statistics.replace(',', '+')}"
        options = f"--statistics {statistics} {options}"
    elif args.statistics or args.fpr is not None:
        what = "statistics" if args.statistics else "fpr"
        raise UsageError(f"--{what} is for --attack {' or '.join(KNOWING)}, which knows the detector")
    name = name or args.attack
    if args.attack == name == PAPER and options:
        raise UsageError(f"with --attack-opts {options!r} it is not the paper's attack; give it a --name")
    if not re.fullmatch(r"[A-Za-z0-9._+-]+", name):
        raise UsageError(f"--name is of letters, digits and . _ + -, got {name!r}")
    if args.fpr is not None:
        part = "" if args.fpr == DEFAULT_FPR else f"-fpr{args.fpr:g}"
        name = f"{name.removesuffix(part)}{part}"
        options += f" --fpr {args.fpr:g}"
    if args.eot_samples is not None:
        name += f"-eot{args.eot_samples}"
        options += f" --eot-samples {args.eot_samples}"
    print(at_level(name, args.eps_level), config, " ".join(options.split()))


def config_file(attack: str) -> Path:
    """The configuration file of an attack.

    Raises:
        DataError: there is none; the message lists the attacks that have one.
    """
    known = attack_files(Path("conf"))
    if attack not in known:
        raise DataError(f"conf/{attack}.conf: no such file; --attack must be one of {', '.join(sorted(known))}")
    return known[attack]
