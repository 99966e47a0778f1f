"""Check a data directory: which files it must have, their format, their order, and that they agree.

The first thing that is wrong is said in one line, and the exit status is 1.  Kaldi's validate_data_dir.sh.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from kaldi_uq.cli.options import add_pipes
from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import c_sorted, invert_utt2spk, read_table
from kaldi_uq.io.pipes import is_pipe
from kaldi_uq.io.segments import Segment

# The tables of a data directory by what their lines belong to.  Without a segments file each recording is one utterance
# and has its name.
BY_UTT = ("feats.scp", "text", "segments", "vad.scp", "utt2dur", "utt2num_frames", "utt2lang", "utt2uniq", "utt2warp")
BY_SPK = ("cmvn.scp", "spk2gender", "spk2warp")
BY_RECO = ("wav.scp", "reco2dur", "reco2file_and_channel")

ILLEGAL_WORDS = frozenset({"<s>", "</s>", "#0"})  # the language model and the graph use them themselves


def _positive(value: str) -> None:
    if not float(value) > 0:
        raise ValueError(f"expected a positive number, found {value}")


def _positive_int(value: str) -> None:
    if int(value) <= 0:
        raise ValueError(f"expected a positive integer, found {value}")


def _warp(value: str) -> None:
    if not 0.5 < float(value) < 1.5:
        raise ValueError(f"expected a factor between 0.5 and 1.5, found {value}")


def _gender(value: str) -> None:
    if value not in ("m", "f"):
        raise ValueError(f"expected m or f, found {value!r}")


def _one_field(value: str) -> None:
    if len(value.split()) != 1:
        raise ValueError(f"expected one field after the key, found {value!r}")


def _channel(value: str) -> None:
    if len(value.split()) != 2 or value.split()[1] not in ("A", "B"):
        raise ValueError(f"expected '<reco> <file> A' or '... B', found {value!r}")


def _no_tilde(value: str) -> None:
    if value.startswith("~"):
        raise ValueError("a path that begins with ~ is not found by programs; write it in full")


CHECKS: dict[str, Callable[[str], object]] = {
    "utt2spk": _one_field,
    "segments": Segment.parse,
    "wav.scp": _no_tilde,
    "utt2dur": _positive,
    "reco2dur": _positive,
    "utt2num_frames": _positive_int,
    "utt2warp": _warp,
    "spk2warp": _warp,
    "spk2gender": _gender,
    "reco2file_and_channel": _channel,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``validate_data_dir.sh``."""
    parser.add_argument("data_dir", type=Path, help="the directory, e.g. data/train")
    parser.add_argument("--no-feats", action="store_true", help="feats.scp may be missing")
    parser.add_argument("--no-text", action="store_true", help="text may be missing")
    parser.add_argument("--no-wav", action="store_true", help="wav.scp may be missing")
    parser.add_argument("--no-spk-sort", action="store_true", help="do not check the order of speakers in utt2spk")
    parser.add_argument("--non-print", action="store_true", help="allow control characters in text")
    add_pipes(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    may_miss = {"feats.scp": args.no_feats, "text": args.no_text, "wav.scp": args.no_wav}
    num_utts, num_spks = validate(
        args.data_dir,
        need=[name for name, optional in may_miss.items() if not optional],
        spk_sort=not args.no_spk_sort,
        non_print=args.non_print,
        allow_pipes=args.allow_pipes,
    )
    if num_spks == 1:
        print(f"validate-data: warning: {args.data_dir} has only one speaker", file=sys.stderr)
    print(f"validate-data: {args.data_dir} is valid: {num_utts} utterances, {num_spks} speakers")
    return 0


def validate(
    path: Path,
    *,
    need: Collection[str] = (),
    spk_sort: bool = True,
    non_print: bool = False,
    allow_pipes: bool = False,
) -> tuple[int, int]:
    """Check every table of a data directory.

    Args:
        path: the directory.
        need: tables that must be there beside ``utt2spk`` and ``spk2utt``; others are checked if they are.
        spk_sort: sorting by utterance must sort the speakers too.
        non_print: allow control characters in ``text``.
        allow_pipes: lines of ``wav.scp`` and ``feats.scp`` may be commands; they are not run here.

    Returns:
        The numbers of utterances and speakers.

    Raises:
        DataError: the first thing that is wrong; the message names file and line.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such directory")
    present = [name for name in ("utt2spk", "spk2utt", *BY_UTT, *BY_SPK, *BY_RECO) if (path / name).is_file()]
    for name in ("utt2spk", "spk2utt", *need):
        if name not in present:
            hint = "" if name not in need else f"; --no-{name.partition('.')[0]} if this is meant"
            raise DataError(f"{path / name}: no such file{hint}")
    tables = {name: read_table(path / name, allow_empty=name == "text") for name in present}
    for name, table in tables.items():
        _check_values(path / name, table)
        if name.endswith(".scp") and not allow_pipes:
            _check_pipes(path / name, table)
    utt2spk = tables["utt2spk"]
    check_agreement(path, tables)
    _check_speakers(path, utt2spk, tables["spk2utt"], spk_sort=spk_sort)
    _check_text(path / "text", tables.get("text", {}), non_print=non_print)
    return len(utt2spk), len(tables["spk2utt"])


def check_agreement(path: Path, tables: Mapping[str, Mapping[str, str]]) -> None:
    """Check that the tables of a directory are about the utterances, speakers and recordings that ``utt2spk`` has.

    Raises:
        DataError: a table has one too many, or lacks one.
    """
    utts = tables["utt2spk"]
    spks = dict.fromkeys(c_sorted(set(utts.values())))
    recos, where = dict.fromkeys(utts), "utt2spk"
    if "segments" in tables:
        if "wav.scp" not in tables:
            raise DataError(f"{path / 'wav.scp'}: no such file, but there is a segments file")
        recos, where = dict.fromkeys(Segment.parse(value).reco for value in tables["segments"].values()), "segments"
    for name, table in tables.items():
        if name in BY_SPK or name == "spk2utt":
            _check_keys(path, name, table, "speaker", "utt2spk", spks)
        elif name in BY_RECO:
            _check_keys(path, name, table, "recording", where, recos)
        else:
            _check_keys(path, name, table, "utterance", "utt2spk", utts)


def _check_values(path: Path, table: dict[str, str]) -> None:
    check = CHECKS.get(path.name)
    for number, (key, value) in enumerate(table.items() if check else (), 1):
        try:
            check(value)  # type: ignore[misc]
        except ValueError as error:
            raise DataError(f"{path}:{number}: {key!r}: {error}") from None


def _check_pipes(path: Path, table: Mapping[str, str]) -> None:
    for number, (key, value) in enumerate(table.items(), 1):
        if is_pipe(value):
            raise DataError(
                f"{path}:{number}: {key!r}: {value!r} is a pipe, and a command of a table runs only with "
                "--allow-pipes; pass that option if the table is your own"
            )


def _check_speakers(path: Path, utt2spk: dict[str, str], spk2utt: dict[str, str], *, spk_sort: bool) -> None:
    spks = list(utt2spk.values())
    if spk_sort and spks != c_sorted(spks):
        number, utt = next(
            (n, utt) for n, (utt, spk) in enumerate(utt2spk.items(), 1) if n > 1 and spk.encode() < spks[n - 2].encode()
        )
        raise DataError(
            f"{path / 'utt2spk'}:{number}: {utt!r} is in order but its speaker {utt2spk[utt]!r} is not; "
            "begin utterance ids with their speaker id"
        )
    expected = {spk: " ".join(utts) for spk, utts in invert_utt2spk(utt2spk).items()}
    for number, (spk, value) in enumerate(spk2utt.items(), 1):
        if value.split() != expected[spk].split():
            raise DataError(
                f"{path / 'spk2utt'}:{number}: the utterances of speaker {spk!r} are not those of utt2spk; "
                f"{_remedy(path)}"
            )


def _check_keys(
    path: Path, name: str, table: Mapping[str, str], what: str, reference: str, expected: Collection[str]
) -> None:
    extra = [key for key in table if key not in expected]
    missing = [key for key in expected if key not in table]
    if extra:
        line = 1 + list(table).index(extra[0])
        raise DataError(f"{path / name}:{line}: {_these(what, extra)} not in {reference}; {_remedy(path)}")
    if missing:
        raise DataError(f"{path / name}: {_these(what, missing)} of {reference} not in it; {_remedy(path)}")


def _these(what: str, keys: list[str]) -> str:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"{what} {keys[0]!r}{more}"


def _remedy(path: Path) -> str:
    return f"run utils/fix_data_dir.sh {path}"


def _check_text(path: Path, text: dict[str, str], *, non_print: bool) -> None:
    for number, (utt, words) in enumerate(text.items(), 1):
        illegal = ILLEGAL_WORDS.intersection(words.split())
        if illegal:
            raise DataError(f"{path}:{number}: {utt!r} has the word {min(illegal)}, which no text may have")
        if not non_print and not words.replace("\t", " ").isprintable():
            raise DataError(f"{path}:{number}: {utt!r} has a control character; --non-print if this is meant")
