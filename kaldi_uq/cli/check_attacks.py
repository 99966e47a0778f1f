"""Check whether the attacks on a model are meaningful: what every one of them reports, and how they fit together.

Reads what EXP-DIR/MODEL/attack_*/ and EXP-DIR/MODEL/transfer_*/ hold, decodes the examples of a random model again
with other draws, writes section "checks" of EXP-DIR/results.json and prints the list.  A check whose attacks are not
there is said to be not run; local/check_attacks.sh makes them.

 e.g.: kaldi-uq check-attacks --model dnn exp

Exit status: 0, for a failed check is a finding; with --strict 1 if a check failed.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.attacks import series
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.series import Success
from kaldi_uq.cli.model_options import add_model_arguments, load_model
from kaldi_uq.cli.options import directory, engine_of, non_negative_int
from kaldi_uq.config import config_from
from kaldi_uq.detector import evaluate_detection
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import DataError
from kaldi_uq.io.wav import read_wav
from kaldi_uq.recogniser.hybrid import MODEL_FILE
from kaldi_uq.recogniser.scores import decode_waves
from kaldi_uq.results.names import CHECKS, check_key, check_limit, check_name, check_value, model_key
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import AttackRecord, attack_dirs, read_attacked, read_benign

WIDTH = 80  # columns
ONE_STEP, NOISE = "fgsm", "uniform noise"
MORE_STEPS, MORE_STARTS = "2x", "restarts"  # the attack's name with one of these: twice the steps, twice the starts
LARGE_EPS = 0.2  # full scale
RESCORE_SEED = 101  # of the first rescoring: far from those that attacks use
MARKS = {"passed": "✓", "failed": "✗", "not run": "–"}
PLAIN_MARKS = {"passed": "+", "failed": "X", "not run": "-"}  # where the terminal knows no others

Check = dict[str, Any]
Runs = dict[str, dict[float, Success]]  # attack -> eps -> utt -> success


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("exp_dir", type=directory, metavar="EXP-DIR")
    parser.add_argument("--model", action="append", metavar="NAME", help="check this one (can be repeated) [all]")
    parser.add_argument("--attack", default="pgd", help="the attack that the others are compared with [pgd]")
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
    if args.plan:
        for name, eps, options in plan(args.attack, config_from(args, AttackConfig)):
            print(name, f"{eps:g}", options, sep="\t")
        return 0
    models = args.model or sorted((path.name for path in args.exp_dir.iterdir() if attack_dirs(path)), key=model_key)
    if not models:
        raise DataError(f"{args.exp_dir}: no model with an attack directory; steps/uq/attack.sh makes one")
    results = Results(args.exp_dir / "results.json")
    failures = 0
    for model in models:
        if not attack_dirs(args.exp_dir / model):
            raise DataError(
                f"{args.exp_dir / model}: no attack_<name>_eps<eps>/results.jsonl; steps/uq/attack.sh makes it"
            )
        checks, absent = check_model(args, model, results)
        results.set_checks(model, checks)
        failures += sum(not check["passed"] for check in checks.values())
        print("\n".join(lines(model, checks, absent)))
    return 1 if args.strict and failures else 0


def plan(attack: str, config: AttackConfig) -> list[tuple[str, float, str]]:
    """The attack with a large eps, and with twice the steps and the starts: what its configuration does not hold.

    Args:
        attack: its name.
        config: its options.

    Returns:
        (name, eps, options that differ) of each.
    """
    return [
        (attack, LARGE_EPS, ""),
        (f"{attack}-{MORE_STEPS}", config.eps, f"--num-steps {2 * config.num_steps}"),
        (f"{attack}-{MORE_STARTS}", config.eps, f"--num-starts {2 * config.num_starts}"),
    ]


def check_model(args: argparse.Namespace, model: str, results: Results) -> tuple[dict[str, Check], dict[str, str]]:
    """Every check of a model that its directories allow, and the name of each other with what it lacks."""
    model_dir = args.exp_dir / model
    content = results.read()
    checks = of_runs([row for row in content["attacks"] if row["model"] == model])
    records = {(name, eps): read_attacked(path / "results.jsonl") for name, eps, path in attack_dirs(model_dir)}
    runs: Runs = {}
    for (name, eps), rows in records.items():
        runs.setdefault(name, {})[eps] = {row.utt: row.success for row in rows}
    main = runs.get(args.attack)
    if not main:
        raise DataError(
            f"{model_dir}: no attack_{args.attack}_eps<eps>/results.jsonl to compare the others with; local/attack.sh "
            "makes it, or name another with --attack"
        )
    blind = transfers(model_dir, args.attack)
    noise = noise_runs(model_dir, args.noise, {eps: records[args.attack, eps] for eps in main})
    black_box = {name: by_eps for name, by_eps in runs.items() if name == args.black_box}
    plain = {} if model == args.undefended else _runs_of(args.exp_dir / args.undefended, args.attack)
    detection = [row for row in content["detection"] if row["model"] == model]
    weak = "give the stronger attack more steps, another step size, realigned targets or more draws (--eot-samples)"
    masked = "suspect masked gradients; see gradient_correct, and attack with more draws (--eot-samples)"
    several: dict[str, tuple[Callable[[], Check | None], str]] = {
        "success_grows_with_eps": (lambda: series.grows_with_eps(main), f"a second eps of {args.attack}"),
        "large_eps_always_succeeds": (lambda: series.saturates(main), f"{args.attack} at eps {LARGE_EPS:g}"),
        "twice_the_steps_add_little": (
            lambda: series.adds_little(runs.get(f"{args.attack}-{MORE_STEPS}", {}), main, what="steps"),
            f"{args.attack}-{MORE_STEPS}",
        ),
        "restarts_saturate": (
            lambda: series.adds_little(runs.get(f"{args.attack}-{MORE_STARTS}", {}), main, what="starts"),
            f"{args.attack}-{MORE_STARTS}",
        ),
        "iterative_beats_one_step": (
            lambda: series.beats(main, {k: v for k, v in runs.items() if k == ONE_STEP}, remedy=weak),
            ONE_STEP,
        ),
        "white_box_beats_transfer": (lambda: series.beats(main, blind, remedy=masked), "examples of other models"),
        "white_box_beats_black_box": (lambda: series.beats(main, black_box, remedy=masked), args.black_box),
        "white_box_beats_noise": (lambda: series.beats(main, noise, remedy=masked), f"{NOISE} of the same eps"),
        "no_sign_of_masked_gradients": (
            lambda: series.shows_no_masking(main, {**black_box, **blind, **noise}),
            "an attack that does not use the gradient",
        ),
        "rescoring_agrees": (lambda: _rescore(args, model_dir, records), "a random model, without CMVN by speaker"),
        "undefended_model_falls": (
            lambda: series.undefended_falls(plain or (main if model == args.undefended else {})),
            f"{args.attack} on {args.undefended}",
        ),
        "detectors_tell_attacks": (lambda: series.every_detector_tells(detection), "detection"),
        "broken_detector_is_caught": (lambda: _broken_detector(model_dir, records, args.attack), "scored benign sets"),
    }
    absent = {}
    for name, (check, needs) in several.items():
        found = check()
        if found is None:
            absent[name] = needs
        else:
            checks[name] = found
    return checks, absent


def of_runs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Check]:
    """The checks that attacks report of themselves, over all attacks of a model: the worst of each.

    Args:
        rows: of section "attacks", of one model.

    Returns:
        name -> a failed one if there is one, with ``runs`` (how many have it), ``failed`` (which failed) and, if it
        passed, the value that is nearest to its limit.
    """
    found: dict[str, list[tuple[str, Check]]] = {}
    for row in rows:
        checks = row["checks"] if isinstance(row["checks"], dict) else {}
        for name, check in checks.items():
            found.setdefault(name, []).append((f"{row['attack']} eps {row['eps']:g}", check))
    merged = {}
    for name, several in found.items():
        failed = [where for where, check in several if not check["passed"]]
        _, worst = max(several, key=lambda pair: (not pair[1]["passed"], -abs(pair[1]["value"] - pair[1]["limit"])))
        merged[name] = {**worst, "runs": len(several), "failed": failed}
    return merged


def transfers(model_dir: Path, attack: str) -> Runs:
    """What the examples of other models do to this one, by name."""
    found: Runs = {}
    name = re.compile(rf"transfer_(?P<source>.+)_{re.escape(attack)}_eps(?P<eps>[0-9]+(\.[0-9]+)?(e-?[0-9]+)?)")
    for path in sorted(model_dir.glob("transfer_*")):
        match, file = name.fullmatch(path.name), path / "results.jsonl"
        if match and match["source"] != model_dir.name and file.is_file():
            by_eps = found.setdefault(f"transfer from {match['source']}", {})
            by_eps[float(match["eps"])] = {record.utt: record.success for record in read_attacked(file)}
    return found


def noise_runs(model_dir: Path, noisy_set: str, attacked: Mapping[float, Sequence[AttackRecord]]) -> Runs:
    """What uniform noise of the same eps does: the words heard against the targets of the attack."""
    found: dict[float, Success] = {}
    for eps, records in attacked.items():
        file = model_dir / f"score_{noisy_set}{eps:g}" / "results.jsonl"
        if file.is_file():
            heard = {record.utt: record.hypothesis for record in read_benign(file)}
            found[eps] = {r.utt: heard[r.utt] == r.target for r in records if r.utt in heard and r.target}
    return {NOISE: found} if found else {}


def _runs_of(model_dir: Path, attack: str) -> dict[float, Success]:
    return {
        eps: {record.utt: record.success for record in read_attacked(path / "results.jsonl")}
        for name, eps, path in attack_dirs(model_dir)
        if name == attack
    }


def _rescore(
    args: argparse.Namespace, model_dir: Path, records: Mapping[tuple[str, float], Sequence[AttackRecord]]
) -> Check | None:
    """Decode examples again with other draws; ``None`` for a model without any, or without the files it takes."""
    if not (args.num_rescores and (model_dir / MODEL_FILE).is_file()):
        return None
    args.model_dir = model_dir
    draws, args.num_draws = args.num_draws, 0  # only a random model takes another number, and we do not know yet
    try:
        model = load_model(args)
    finally:
        args.num_draws = draws
    graph = model_dir / "graph"
    # the examples carry no statistics of their speakers, which a front end with CMVN by speaker would need
    if not model.network.is_random or model.needs_speakers or not (graph / "HCLG.fst").is_file():
        return None
    there = {
        eps: path
        for name, eps, path in attack_dirs(model_dir)
        if name == args.attack and all((path / "wav" / f"{r.utt}.wav").is_file() for r in records[name, eps])
    }
    if not there:
        return None
    # where about half the utterances fall there is most to disagree about
    eps = min(there, key=lambda e: abs(0.5 - float(np.mean([r.success for r in records[args.attack, e]]))))
    rows = list(records[args.attack, eps])
    count = min(args.rescore_utts or len(rows), len(rows))
    rows = [rows[int(i)] for i in np.linspace(0, len(rows) - 1, count).round()]
    rate = model.front_end.sample_rate
    waves = {row.utt: read_wav(there[eps] / "wav" / f"{row.utt}.wav", expected_rate=rate)[0] for row in rows}
    engine, decode = engine_of(args), config_from(args, DecodeConfig)
    again = []
    for number in range(args.num_rescores):
        heard, _ = decode_waves(
            model,
            waves,
            engine,
            model_dir,
            graph,
            decode,
            num_draws=args.num_draws or None,
            seed=RESCORE_SEED + number,
            desc=f"rescoring {number + 1}",
        )
        again.append(
            {
                row.utt: (" ".join(heard[row.utt].words) == (row.target or row.original)) == bool(row.target)
                for row in rows
            }
        )
    check = series.agrees_when_rescored({row.utt: row.success for row in rows}, again)
    return None if check is None else check | {"eps": eps}


def _broken_detector(
    model_dir: Path, records: Mapping[tuple[str, float], Sequence[AttackRecord]], attack: str
) -> Check | None:
    """A detector with a constant score, on the sets that the others are measured on."""
    sizes = []
    for name in ("fit", "test"):
        file = model_dir / f"score_{name}" / "results.jsonl"
        if not file.is_file():
            return None
        sizes.append(len(read_benign(file)))
    sizes.append(next(len(rows) for (name, _), rows in records.items() if name == attack))
    fit, benign, attacked = ({"constant": np.ones(size)} for size in sizes)
    row = evaluate_detection(fit, benign, attacked, seed=0, compare=False, num_bootstrap=1)[0]
    return series.broken_is_caught(row) | {"num_utts": sizes[2]}


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
