"""The worst case over several attacks on a model: an utterance is lost if any of them has what it wants.

ATTACK-DIR is of nnet-attack or nnet-transfer; all of one model and one eps.  Prints the share of utterances that are
lost, with 95 % Clopper-Pearson intervals, and the same by the number of target words.

 e.g.: kaldi-uq worst-case --results exp/results.json \\
         exp/dnn/attack_{pgd,speech-start,decoder-margin}_eps0.02
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaldi_uq.cli.options import directory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "attack_dirs",
        nargs="+",
        type=directory,
        metavar="ATTACK-DIR",
        help="attacks on one model: exp/dnn/attack_<name>_eps<eps> ...",
    )
    parser.add_argument("--name", default="worst", help="name under which it is recorded in FILE [worst]")
    parser.add_argument("--results", type=Path, metavar="FILE", help="also record it in this results.json")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.results.table import Results
    from kaldi_uq.results.worst_case import read_attacks, worst_case

    model, eps, attacks = read_attacks(args.attack_dirs)
    row = {"model": model, "attack": args.name, "eps": eps, **worst_case(attacks)}
    if args.results:
        Results(args.results).add_worst(row)
    print(f"{model} {args.name} eps {eps:g}: {_shown(row, 'success')}")
    for part in row.get("by_words", ()):
        print(f"  targets of {part['num_words']} word{'s' * (part['num_words'] != 1)}: {_shown(part, 'success')}")
    if "evasion" in row:
        print(f"  and pass the detectors: {_shown(row, 'evasion')}")
    for one in row["attacks"]:
        print(f"  {one['attack']} alone: {one['success']:.3f} of {one['num_utts']} utterances")


def _shown(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_ci95"]
    return f"{row[name]:.3f} [{low:.3f}, {high:.3f}] of {row.get(f'{name}_num_utts', row['num_utts'])} utterances"
