"""What the commands that attack share: the options of every attack, and the attack that they ask for."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaldi_uq.attacks.config import ATTACK_CONFIGS as ATTACK_CONFIGS
from kaldi_uq.attacks.config import OWN_CONFIGS, AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.named import knows_detectors, preset_file
from kaldi_uq.cli.options import directory
from kaldi_uq.config import Config, config_from, group_of, parse_fields, suggest
from kaldi_uq.errors import DataError, UsageError, did_you_mean
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.results.names import APART, CONSISTENCY
from kaldi_uq.user_code import load_object, mistakes_named

if TYPE_CHECKING:  # no command's --help needs torch
    from kaldi_uq.attacks.attack import Attack
    from kaldi_uq.attacks.donors import Donors
    from kaldi_uq.detector import OneClassDetector
    from kaldi_uq.recogniser.base import BaseRecogniser

METHODS = ("pgd", "psychoacoustic", "black_box", "adaptive", "consistent")  # of the package, a test holds them


def add_attack_choice(parser: argparse.ArgumentParser) -> None:
    """Add ``--preset``, ``--method``, ``--method-options``, ``--fit`` and ``--donors``."""
    group = group_of(parser, "which attack")
    group.add_argument(
        "--preset",
        type=_preset,
        metavar="NAME",
        help="the options of an attack of the recipes: pgd, paper-pgd, fgsm, decoder-margin, ten-targets, ...; an "
        "unknown name lists all; --config and flags win over it",
    )
    method = group.add_argument(
        "--method",
        metavar="NAME",
        help="pgd, psychoacoustic (asked for by --hide-steps), black_box (--nes-pairs), adaptive (--statistics), "
        "consistent (--search-eps), or an attack of your own, FILE.py:CLASS, which is run [what the options ask for, "
        "else pgd]",
    )
    suggest(method, METHODS)
    group.add_argument(
        "--method-options", default="", metavar="NAME=VALUE,...", help="options that only an attack of your own has"
    )
    group.add_argument(
        "--donors",
        type=directory,
        metavar="DATA-DIR",
        help="with --start speech or --loss logit_match: recordings whose words are used [the attacked set]",
    )
    group.add_argument(
        "--fit",
        type=Path,
        metavar="JSONL",
        help="with --statistics: fit the detectors on these benign scores [those of MODEL-DIR/detector]",
    )


def _preset(name: str) -> Path:
    """The type of ``--preset``: the file of an attack that the package brings."""
    try:
        return preset_file(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def read_donors(args: argparse.Namespace, recogniser: BaseRecogniser, default: DataDir | None = None) -> Donors | None:
    """The recordings of ``--donors``, or else of ``default``; ``None`` if there are none.

    Raises:
        DataError: audio or text that cannot be used.
    """
    from kaldi_uq.attacks.donors import Donors
    from kaldi_uq.io.waves import read_waves

    data = DataDir.read(args.donors, need=("wav.scp", "utt2spk", "text")) if args.donors else default
    if data is None:
        return None
    waves = read_waves(
        data,
        sample_rate=recogniser.sample_rate,
        min_samples=recogniser.min_samples,
        allow_pipes=getattr(args, "allow_pipes", False),
        resample=args.resample,
    )
    return Donors(waves, {utt: data.words(utt) for utt in waves}, where=str(data.path))


def fit_file(args: argparse.Namespace, adaptive: AdaptiveConfig) -> Path | None:
    """The benign scores that the detectors are fitted on; ``None`` if there are none to fit.

    Raises:
        DataError: there is no such file.
    """
    if not adaptive.names or args.fit is None:
        return None
    path: Path = args.fit
    if not path.is_file():
        raise DataError(f"{path}: no such file; steps/uq/decode.sh makes it of benign speech")
    return path


def detectors_to_pass(args: argparse.Namespace, adaptive: AdaptiveConfig) -> list[OneClassDetector]:
    """The detectors of ``--statistics``, with a threshold: fitted on ``--fit``, or those of MODEL-DIR/detector."""
    from kaldi_uq.detector.fit import DETECTOR_DIR, detectors_of, load_detectors

    fit = fit_file(args, adaptive)
    place = args.model_dir / DETECTOR_DIR
    found = detectors_of(None, fit, adaptive.fpr) if fit else load_detectors(place)
    where = str(fit or place)
    gaussians = {"one": ("-one-sided",), "two": ("",), "both": ("", "-one-sided")}[adaptive.sided]
    names = (
        [n for n in found if n + "-one-sided" in found and n not in APART]
        if adaptive.statistics == "all"
        else list(adaptive.names)
    )
    chosen = []
    if any(name.startswith(CONSISTENCY) for name in names):
        raise UsageError("--statistics: a search finds the consistency, which has no gradient; --search-eps passes it")
    apart = [name for name in names if name.startswith(APART)]
    if apart:
        raise UsageError(f"--statistics {apart[0]}: a lattice tells it, and no gradient leads to it; name another one")
    for name in names:
        # the name of a statistic stands for its Gaussians, any other for the detector of that name
        forms = gaussians if f"{name}-one-sided" in found or name not in found else ("",)
        for form in forms:
            if name + form not in found:
                near = did_you_mean(name + form, found)
                raise DataError(f"{where}: no detector {name + form!r}; there are {', '.join(found)}{near}")
            detector = found[name + form]
            if detector.fpr != adaptive.fpr:
                raise UsageError(
                    f"{where}: the threshold of {name + form} is for a false-positive rate of {detector.fpr}, --fpr "
                    f"asks for {adaptive.fpr:g}: fit them for that rate (kaldi-uq fit-detector), or name benign scores "
                    "with --fit"
                )
            chosen.append(detector)
    return chosen


def attack_of(args: argparse.Namespace, adaptive: AdaptiveConfig, **fixed: Any) -> Attack:
    """The attack that the options ask for.

    Args:
        args: with the flags of ``ATTACK_CONFIGS`` and those of :func:`add_attack_choice`.
        adaptive: the options of an adaptive attack.
        fixed: options that the command sets.

    Raises:
        UsageError: an option out of range, options of two attacks at once, or of an attack that is not asked for.
    """
    from kaldi_uq.attacks.adaptive import Adaptive
    from kaldi_uq.attacks.attack import ATTACKS, Attack

    every: dict[type[AttackConfig], AttackConfig] = {
        config: config_from(args, config, **fixed) for config in OWN_CONFIGS
    }
    asked = {n: kind for n in ATTACKS.names() if (kind := ATTACKS.get(n)).asked_by}
    asking: dict[type[Config], Config] = {**dict(every.items()), AdaptiveConfig: adaptive}
    wanted = [n for n, kind in asked.items() if getattr(asking[kind.asking or kind.Config], kind.asked_by)]
    if len(wanted) > 1 or (args.method and wanted and wanted != [args.method]):
        options = [f"{name} ({asked[name].asked_by})" for name in wanted]
        options += [f"{args.method} (--method)"] if args.method and args.method not in wanted else []
        raise UsageError(f"an attack is either {' or '.join(options)}: leave one of them out")
    if args.preset and knows_detectors(args.preset) and not adaptive.names:
        raise UsageError(
            f"--preset {args.preset.stem} knows the detector: name the statistics to pass with --statistics"
        )
    method = args.method or (wanted[0] if wanted else "pgd")
    own = own_code(method)
    try:
        kind = load_object(method) if own else ATTACKS.get(method)
        if not (isinstance(kind, type) and issubclass(kind, Attack)):
            raise UsageError(f"--method {method}: expected a subclass of kaldi_uq.attacks.Attack")
        if args.method_options and kind.Config in every:
            raise UsageError(f"--method-options {args.method_options}: the attack {method} has no options of its own")
        common = {field.name: getattr(every[AttackConfig], field.name) for field in fields(AttackConfig)}
        config = every.get(kind.Config) or kind.Config(**common, **own_options(args.method_options, kind.Config))
        if issubclass(kind, Adaptive):
            return kind(detectors_to_pass(args, adaptive), config, search=adaptive)
        with mistakes_named(method) if own else contextlib.nullcontext():
            return kind(config)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


def own_code(method: str | None) -> bool:
    """Whether ``--method`` names the user's own code, as FILE.py:CLASS."""
    return method is not None and ".py:" in method


def own_options(text: str, config: type[Config]) -> dict[str, Any]:
    """Options ``name=value,...`` of a configuration, with the types of its fields.

    Raises:
        ValueError: another form, an unknown name, or a value of another type.
    """
    values = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        values[name.strip().replace("-", "_")] = value.strip()
        if not equals:
            raise ValueError(f"--method-options: expected name=value, got {part!r}")
    return parse_fields(config, values, where="--method-options")
