"""Check whether the attacks on a model are meaningful: what every one of them reports, and how they fit together.

Reads what EXP-DIR/MODEL/attack_*/ and EXP-DIR/MODEL/transfer_*/ hold, decodes the examples of a random model again
with other draws, writes section "checks" of EXP-DIR/results.json and prints the list.  A check whose attacks are not
there is said to be not run; local/check_attacks.sh makes them.

 e.g.: kaldi-uq check-attacks --model dnn exp

Exit status: 0, for a failed check is a finding; with --strict 1 if a check failed.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.cli.model_options import add_model_arguments, open_recogniser
from kaldi_uq.cli.options import directory, non_negative_int
from kaldi_uq.config import config_from
from kaldi_uq.errors import DataError
from kaldi_uq.results.names import CHECKS, check_key, check_limit, check_name, check_value

if TYPE_CHECKING:  # --help needs no torch
    from kaldi_uq.recogniser.base import BaseRecogniser

WIDTH = 80  # columns
MARKS = {"passed": "✓", "failed": "✗", "not run": "–"}
PLAIN_MARKS = {"passed": "+", "failed": "X", "not run": "-"}  # where the terminal knows no others

Check = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "exp_dir", type=directory, metavar="EXP-DIR", help="directory of results.json and of the models"
    )
    parser.add_argument("--model", action="append", metavar="NAME", help="check this one (can be repeated) [all]")
    parser.add_argument("--attack", default="pgd", help="name of the attack that the others are compared with [pgd]")
    parser.add_argument("--black-box", default="nes", metavar="NAME", help="the attack without gradients [nes]")
    parser.add_argument(
        "--noise",
        default="attack_uniform",
        metavar="SET",
        help="score_SET<eps> is of the audio with uniform noise of the same eps [attack_uniform]",
    )
    parser.add_argument("--undefended", default="dnn", metavar="NAME", help="a model without any defence [dnn]")
    parser.add_argument(
        "--num-rescores", type=non_negative_int, default=3, help="decode examples of a random model so often again [3]"
    )
    parser.add_argument("--rescore-utts", type=non_negative_int, default=100, help="so many of them, 0: all [100]")
    parser.add_argument(
        "--plan", action="store_true", help="print the variants that the checks need: name, eps, options"
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a check failed")
    add_model_arguments(parser, AttackConfig)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from kaldi_uq.attacks.checks.checklist import Checklist, plan
    from kaldi_uq.results.names import model_key
    from kaldi_uq.results.table import Results
    from kaldi_uq.results.utterances import attack_dirs

    if args.plan:
        for name, eps, options in plan(args.attack, config_from(args, AttackConfig)):
            print(name, f"{eps:g}", options, sep="\t")
        return 0
    models = args.model or sorted((path.name for path in args.exp_dir.iterdir() if attack_dirs(path)), key=model_key)
    if not models:
        raise DataError(f"{args.exp_dir}: no model with an attack directory; steps/uq/attack.sh makes one")
    checklist = Checklist(
        args.exp_dir,
        attack=args.attack,
        eps_level=config_from(args, AttackConfig).eps_level,
        black_box=args.black_box,
        noise=args.noise,
        undefended=args.undefended,
        num_rescores=args.num_rescores,
        rescore_utts=args.rescore_utts,
        open_model=lambda path: _open(args, path),
    )
    failures = 0
    for model in models:
        if not attack_dirs(args.exp_dir / model):
            raise DataError(
                f"{args.exp_dir / model}: no attack_<name>_eps<eps>/results.jsonl; steps/uq/attack.sh makes it"
            )
        checks, absent = checklist.of_model(model)
        Results(args.exp_dir / "results.json").set_checks(model, checks)
        failures += sum(not check["passed"] for check in checks.values())
        print("\n".join(lines(model, checks, absent)))
    return 1 if args.strict and failures else 0


def _open(args: argparse.Namespace, model_dir: Path) -> BaseRecogniser | None:
    """The model, if it is random and one that examples alone can be played to."""
    from kaldi_uq.recogniser.hybrid import MODEL_FILE
    from kaldi_uq.recogniser.recogniser import Recogniser

    if not args.recogniser and not (model_dir / MODEL_FILE).is_file():
        return None
    args.model_dir = model_dir
    recogniser = open_recogniser(args, words=False, num_draws=0)
    # the examples carry no statistics of their speakers, which a front end with CMVN by speaker would need
    if not recogniser.is_random or (isinstance(recogniser, Recogniser) and recogniser.model.needs_speakers):
        return None
    recogniser.num_draws = args.num_draws or recogniser.num_draws
    return recogniser


def lines(
    model: str, checks: Mapping[str, Check], absent: Mapping[str, str], *, marks: Mapping[str, str] | None = None
) -> list[str]:
    """The list of a model's checks, at most 80 columns wide."""
    if marks is None:
        marks = MARKS if _can_print("".join(MARKS.values())) else PLAIN_MARKS
    failed = sum(not check["passed"] for check in checks.values())
    head = f"{model}: {len(checks) - failed} of {len(checks)} checks passed"
    shown = [head + (f", {len(absent)} not run" if absent else "")]
    width = max(len(check_name(name)) for name in CHECKS)
    for name in sorted({**checks, **absent}, key=check_key):
        title = f"{check_name(name):<{width}}"
        if name in absent:
            shown += _wrap(f"{marks['not run']} {title}  needs {absent[name]}")
            continue
        check = checks[name]
        mark = marks["passed" if check["passed"] else "failed"]
        shown += _wrap(
            f"{mark} {title}  {check_value(name, check['value'])}, {check_limit(name, check['limit'])}{where(check)}"
        )
        if not check["passed"]:
            shown += _wrap(f"    {check['remedy']}", indent="    ")
    return shown


def where(check: Mapping[str, Any]) -> str:
    """Where a check's value was found: the runs that failed, or eps and utterances."""
    parts = []
    if check.get("failed"):
        parts.append(f"failed in {', '.join(check['failed'])}")
    elif "runs" in check:
        parts.append(f"{check['runs']} attack{'s' if check['runs'] > 1 else ''}")
    if "eps" in check:
        eps = check["eps"] if isinstance(check["eps"], list) else [check["eps"]]
        parts.append("eps " + " to ".join(f"{value:g}" for value in eps))
    if check.get("against"):
        parts.append(f"against {check['against']}")
    return f" ({'; '.join(parts)})" if parts else ""


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _wrap(line: str, indent: str = "      ") -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
