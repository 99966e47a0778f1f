"""Flags from configurations, and what several commands need: engine, data, logging."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from kaldi_uq.engine.base import Engine, EngineOptions
from kaldi_uq.engine.select import ENGINES, select_engine
from kaldi_uq.errors import UsageError
from kaldi_uq.types import Config, ConfigT


def flag(name: str) -> str:
    """The flag of a field: ``step_size`` is ``--step-size``."""
    return "--" + name.replace("_", "-")


def add_config_flags(parser: argparse.ArgumentParser, config: type[Config], *, skip: Collection[str] = ()) -> None:
    """Add a flag for each field of a configuration; the defaults stay those of the configuration.

    Args:
        parser: the parser.
        config: a frozen dataclass with defaults of type bool, int, float, str or tuple of int.
        skip: fields that the command sets in another way.
    """
    group = parser.add_argument_group(f"{config.__name__} (defaults in brackets)")
    types = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name in skip:
            continue
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        group.add_argument(
            flag(field.name),
            dest=field.name,
            type=_parser_of(types[field.name]),
            default=None,
            metavar="true|false" if types[field.name] is bool else field.name.upper(),
            help=f"[{str(shown).lower() if isinstance(shown, bool) else shown}]",
        )


def _parser_of(kind: Any) -> Any:
    if kind is bool:
        return _boolean
    if kind is float:
        return _number
    return kind if kind in (int, str) else _integers


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text == "true"


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {text!r}") from None


def config_from(
    args: argparse.Namespace, config: type[ConfigT], *, beneath: Mapping[str, Any] | None = None, **fixed: Any
) -> ConfigT:
    """The configuration: ``fixed`` wins over flags, flags over ``--config FILE``, that over ``beneath`` and defaults.

    Raises:
        UsageError: a value out of range, or an unknown name in the file.
    """
    names = {f.name for f in dataclasses.fields(config)}
    values: dict[str, Any] = dict(beneath or {})
    path = getattr(args, "config", None)
    if path:
        values |= {k: v for k, v in read_option_file(Path(path), args.known_fields).items() if k in names}
    values |= {n: v for n in names if (v := getattr(args, n, None)) is not None}
    try:
        return config(**(values | fixed))
    except ValueError as error:
        raise UsageError(str(error)) from None


def add_config_file(parser: argparse.ArgumentParser, *configs: type[Config], skip: Collection[str] = ()) -> None:
    """Add ``--config FILE``: options of these configurations but ``skip``, one ``--name=value`` a line."""
    parser.add_argument("--config", metavar="FILE", help="options, one --name=value a line; flags win over it")
    known = {f.name: typing.get_type_hints(c)[f.name] for c in configs for f in dataclasses.fields(c)}
    parser.set_defaults(known_fields={name: kind for name, kind in known.items() if name not in skip})


def read_option_file(path: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Read ``--name=value`` lines as data.

    Raises:
        UsageError: the file is missing; a line is not of this form; an unknown name; a value of the wrong type.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UsageError(f"--config {path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"--config {path}: not a text file ({error})") from None
    values = {}
    for number, line in enumerate(lines, 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        name, equals, text = line.removeprefix("--").partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"{path}:{number}: expected --name=value, found {line!r}")
        if name not in known:
            raise UsageError(
                f"{path}:{number}: unknown option {flag(name)}; known: {', '.join(map(flag, sorted(known)))}"
            )
        try:
            values[name] = _parser_of(known[name])(text.strip())
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise UsageError(f"{path}:{number}: {flag(name)}: {error}") from None
    return values


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine``."""
    parser.add_argument("--engine", choices=ENGINES, help="default: kaldi if KALDI_ROOT is set, else embedded")


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add how ``--engine kaldi`` runs Kaldi's programs: ``--cmd``, ``--nj`` and ``--job``."""
    group = parser.add_argument_group("jobs of --engine kaldi; the embedded engine has none")
    group.add_argument(
        "--cmd", default="", metavar="COMMAND", help="runs them: run.pl, queue.pl, ... with options [utils/run.pl]"
    )
    group.add_argument("--nj", type=positive_int, default=1, metavar="N", help="so many in parallel [1]")
    group.add_argument(
        "--job", type=positive_int, default=1, metavar="N", help="number of the first one, in the names of logs [1]"
    )


def add_pipes(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-pipes``."""
    parser.add_argument(
        "--allow-pipes",
        action="store_true",
        help="run lines of wav.scp and feats.scp that are commands ('sph2pipe ... |'); they can be any command",
    )


def engine_of(args: argparse.Namespace, work_dir: Path | None = None) -> Engine:
    """The chosen engine, named in the log.

    Args:
        args: with ``engine`` and, of commands that run jobs, what :func:`add_jobs` adds.
        work_dir: the command's output directory, for logs and lattices.
    """
    engine = select_engine(args.engine, engine_options(args, work_dir))
    versions = ", ".join(f"{name} {version}" for name, version in engine.versions().items())
    logging.getLogger(__name__).info("engine %s (%s)", engine.name, versions)
    return engine


def engine_options(args: argparse.Namespace, work_dir: Path | None = None) -> EngineOptions:
    """How the command's jobs run, and where."""
    return EngineOptions(
        cmd=getattr(args, "cmd", ""),
        nj=getattr(args, "nj", 1),
        first_job=getattr(args, "job", 1),
        work_dir=work_dir,
        lattices=getattr(args, "lattices", False),
    )


def add_lattices(parser: argparse.ArgumentParser) -> None:
    """Add ``--lattices``."""
    parser.add_argument(
        "--lattices",
        action="store_true",
        help="keep lat.JOB.gz beside the output; --engine kaldi only, the embedded engine makes none",
    )


def start_logging() -> None:
    """Log lines in Kaldi's form to standard error, where ``$cmd`` puts them into the log of the job."""
    logging.addLevelName(logging.INFO, "LOG")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s (%(name)s) %(message)s")


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return value


def non_negative_int(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, got {text!r}")
    return value


def directory(text: str) -> Path:
    """An argparse type: an existing directory."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such directory")
    return path
