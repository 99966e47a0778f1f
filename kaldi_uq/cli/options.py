"""Flags from configurations, and what several commands need: engine, data, logging."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kaldi_uq.cli.parser import AUDIO, ENGINE, LATTICES
from kaldi_uq.config import group_of
from kaldi_uq.engine.config import ENGINES, EngineOptions
from kaldi_uq.errors import UsageError, printable
from kaldi_uq.io.files import REPORT
from kaldi_uq.io.names import MEAN
from kaldi_uq.io.pipes import LEAVE

if TYPE_CHECKING:  # --help needs no torch
    from kaldi_uq.engine.base import Engine
    from kaldi_uq.io.conversion import Conversion
    from kaldi_uq.io.datadir import DataDir
    from kaldi_uq.recogniser.parts import Shard


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine``."""
    group_of(parser, ENGINE).add_argument(
        "--engine",
        choices=ENGINES,
        help="embedded: Kaldi's code in Python packages; kaldi: the programs below KALDI_ROOT; pykaldi: experimental "
        "[kaldi if KALDI_ROOT is set, else embedded]",
    )


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add how ``--engine kaldi`` runs Kaldi's programs: ``--cmd``, ``--nj`` and ``--job``."""
    group = group_of(parser, ENGINE)
    group.add_argument(
        "--cmd",
        default="",
        metavar="COMMAND",
        help="with --engine kaldi: runs its jobs: run.pl, queue.pl, ... with options [utils/run.pl]",
    )
    group.add_argument(
        "--nj", type=positive_int, default=1, metavar="N", help="with --engine kaldi: so many jobs in parallel [1]"
    )
    group.add_argument(
        "--job",
        type=positive_int,
        default=1,
        metavar="N",
        help="with --engine kaldi: number of the first job, in the names of logs [1]",
    )


def add_pipes(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-pipes``."""
    group_of(parser, AUDIO).add_argument(
        "--allow-pipes",
        action="store_true",
        help="run lines of wav.scp and feats.scp that are commands ('sox a.wav -t wav - speed 0.9 |'); they can be any "
        f"command; those that only decode a file ('flac -c -d -s a.flac |') are read without it [{LEAVE}=1 in the "
        "environment]",
    )


def add_resample(parser: argparse.ArgumentParser) -> None:
    """Add ``--resample``."""
    group_of(parser, AUDIO).add_argument(
        "--resample",
        action="store_true",
        help="resample audio of another rate than is wanted; the log says how many utterances that were",
    )


def add_audio(parser: argparse.ArgumentParser) -> None:
    """Add how audio may be read: ``--allow-pipes`` and ``--resample``."""
    add_pipes(parser)
    add_resample(parser)


def add_channel(parser: argparse.ArgumentParser) -> None:
    """Add ``--channel``."""
    group_of(parser, AUDIO).add_argument(
        "--channel",
        type=channel,
        metavar=f"N|{MEAN}",
        help=f"of audio with channels that differ take this one, from 1, or their {MEAN}: what the recogniser hears; "
        "channels that are all the same are one [such audio is an error]",
    )


def channel(text: str) -> int | str:
    """An argparse type: the number of a channel, from 1, or ``mean``."""
    return MEAN if text == MEAN else positive_int(text)


def conversion_of(args: argparse.Namespace, sample_rate: float) -> Conversion:
    """What may be done to audio files: what :func:`add_resample` and :func:`add_channel` added."""
    from kaldi_uq.io.conversion import Conversion

    return Conversion(sample_rate, resample=args.resample, channel=args.channel)


def add_shard(parser: argparse.ArgumentParser, verb: str, then: str) -> None:
    """Add ``--shard``.

    Args:
        parser: the parser.
        verb: what is done with a share.
        then: what the command without the option does.
    """
    parser.add_argument(
        "--shard",
        metavar="J/N",
        help=f"{verb} only the J-th of N shares of the batches, for N jobs at a time; the command without it, run "
        f"after them, {then}: the same files as without shards",
    )


def shard_of(args: argparse.Namespace) -> Shard | None:
    """The share that ``--shard`` asks for; ``None`` without it."""
    from kaldi_uq.recogniser.parts import Shard

    if args.shard is None:
        return None
    if getattr(args, "results", None):
        raise UsageError("--results is for the command without --shard, which has all utterances; leave it out")
    try:
        return Shard.parse(args.shard)
    except ValueError as error:
        raise UsageError(f"--shard: {error}") from None


def add_max_bad(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-bad``."""
    group_of(parser, AUDIO).add_argument(
        "--max-bad",
        type=non_negative_int,
        default=0,
        metavar="N",
        help=f"leave out up to N utterances that cannot be used, and name them with reasons in {REPORT} of the output "
        "directory (beside ARK: its name with that ending); audio is read twice then [0: the first one is an error]",
    )


def read_data(
    args: argparse.Namespace,
    out: Path,
    *,
    need: Iterable[str] = ("wav.scp", "utt2spk"),
    sample_rate: float | None = None,
    min_samples: int = 1,
    write: bool = True,
) -> DataDir:
    """The data directory of a command, without the bad utterances that ``--max-bad`` leaves out.

    Args:
        args: with ``data_dir`` and what :func:`add_max_bad` and :func:`add_audio` add.
        out: the command's output directory, or its archive ``*.ark``.
        need, sample_rate, min_samples, write: as of :func:`kaldi_uq.io.bad.read_data_dir`.
    """
    from kaldi_uq.io.bad import read_data_dir

    for name in ("spk2warp", "utt2warp"):
        if (args.data_dir / name).is_file():
            logging.getLogger(__name__).warning(
                "%s: VTLN is not applied to features here; if cmvn.scp is of warped features, pass --cmvn-from waves",
                args.data_dir / name,
            )
    report = out.with_suffix(f".{REPORT}") if out.suffix == ".ark" else out / REPORT
    return read_data_dir(
        args.data_dir,
        need=need,
        sample_rate=sample_rate,
        min_samples=min_samples,
        allow_pipes=args.allow_pipes,
        resample=args.resample,
        max_bad=args.max_bad,
        report=report,
        write=write,
    )


def engine_of(args: argparse.Namespace, work_dir: Path | None = None) -> Engine:
    """The chosen engine, named in the log.

    Args:
        args: with ``engine`` and, of commands that run jobs, what :func:`add_jobs` adds.
        work_dir: the command's output directory, for logs and lattices.
    """
    from kaldi_uq.engine.select import select_engine

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
    group_of(parser, LATTICES).add_argument(
        "--lattices",
        action="store_true",
        help="write lat.JOB.gz beside the output; the embedded engine takes some 0.1 s for a second of speech more",
    )


def add_lattice_statistics(parser: argparse.ArgumentParser) -> None:
    """Add ``--lattice-statistics``."""
    group_of(parser, LATTICES).add_argument(
        "--lattice-statistics",
        action="store_true",
        help="also measure the lattice of each utterance, which takes as long as --lattices: its entropy, its depth, "
        "the confidence of its words",
    )


def start_logging() -> None:
    """Log lines in Kaldi's form to standard error, where ``$cmd`` puts them into the log of the job."""
    logging.addLevelName(logging.INFO, "LOG")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s (%(name)s) %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _OneLine(logging.Formatter):
    """Messages with names of strangers, as harmless as errors are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return value


def non_negative_int(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return value


def rate(text: str) -> float:
    """The type of an option that is a number in (0, 1), such as a false-positive rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return value


def directory(text: str) -> Path:
    """An argparse type: an existing directory."""
    path = Path(text)
    if not path.is_dir():
        found = "not a directory" if path.exists() else "no such directory"
        raise argparse.ArgumentTypeError(f"{text}: {found}")
    return path
