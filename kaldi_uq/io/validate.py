"""Check a data directory: which files it must have, their format, their order, and that they agree.

What Kaldi's ``validate_data_dir.sh`` checks.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import BY_RECO, BY_SPK, TABLES, c_sorted, invert_utt2spk, parse_segments, read_table
from kaldi_uq.io.names import id_problem
from kaldi_uq.io.pipes import check_leave
from kaldi_uq.io.reading import check_for_kaldi
from kaldi_uq.io.segments import Segment

ILLEGAL_WORDS = frozenset({"<s>", "</s>", "#0"})  # the language model and the graph use them themselves


def validate_data_dir(
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
    present = [name for name in ("spk2utt", *TABLES) if (path / name).is_file()]
    for name in ("utt2spk", "spk2utt", *need):
        if name not in present:
            hint = "" if name not in need else f"; --no-{name.partition('.')[0]} if this is meant"
            raise DataError(f"{path / name}: no such file{hint}")
    tables = {name: read_table(path / name, allow_empty=name == "text") for name in present}
    for name, table in tables.items():
        check_for_kaldi(path / name, _remedy(path))
        _check_values(path / name, table)
        if name.endswith(".scp"):
            for number, (key, value) in enumerate(table.items(), 1):
                check_leave(value, where=f"{path / name}:{number}: {key!r}", allow_pipes=allow_pipes)
    check_agreement(path, tables)
    _check_ids(path / "utt2spk", tables["utt2spk"])
    _check_speakers(path, tables["utt2spk"], tables["spk2utt"], spk_sort=spk_sort)
    _check_text(path / "text", tables.get("text", {}), non_print=non_print)
    return len(tables["utt2spk"]), len(tables["spk2utt"])


def check_agreement(path: Path, tables: Mapping[str, Mapping[str, str]]) -> None:
    """Check that the tables of a directory have the utterances, speakers and recordings that ``utt2spk`` has.

    Args:
        path: the directory, for messages.
        tables: name of a table -> its lines; ``utt2spk`` is among them.

    Raises:
        DataError: a table has an utterance, speaker or recording too many, or lacks one.
    """
    utts = tables["utt2spk"]
    spks = dict.fromkeys(c_sorted(set(utts.values())))
    recos, where = dict.fromkeys(utts), "utt2spk"
    if "segments" in tables:
        if "wav.scp" not in tables:
            raise DataError(f"{path / 'wav.scp'}: no such file, but there is a segments file")
        segments = parse_segments(path / "segments", tables["segments"])
        recos, where = dict.fromkeys(segment.reco for segment in segments.values()), "segments"
    for name, table in tables.items():
        if name in BY_SPK or name == "spk2utt":
            _check_keys(path, name, table, "speaker", "utt2spk", spks)
        elif name in BY_RECO:
            _check_keys(path, name, table, "recording", where, recos)
        else:
            _check_keys(path, name, table, "utterance", "utt2spk", utts)


def malformed(name: str, value: str) -> str:
    """What is wrong with a value in a table; empty if nothing is.

    >>> malformed("utt2dur", "-1"), malformed("utt2dur", "1.5")
    ('expected a positive number, found -1', '')
    """
    try:
        if name in _CHECKS:
            _CHECKS[name](value)
    except ValueError as error:
        return str(error)
    return ""


def _expect(is_right: bool, what: str, value: str) -> None:
    if not is_right:
        raise ValueError(f"expected {what}, found {value}")


def _no_tilde(value: str) -> None:
    if value.startswith("~"):
        raise ValueError("a path that begins with ~ is not found by programs; write it in full")


def _duration(value: str) -> None:
    _expect(0 < float(value) < math.inf, "a positive number", value)


def _warp(value: str) -> None:
    _expect(0.5 < float(value) < 1.5, "a factor between 0.5 and 1.5", value)


_CHECKS: dict[str, Callable[[str], object]] = {
    "utt2spk": lambda value: _expect(len(value.split()) == 1, "one field after the key", repr(value)),
    "segments": Segment.parse,
    "wav.scp": _no_tilde,
    "utt2dur": _duration,
    "reco2dur": _duration,
    "utt2num_frames": lambda value: _expect(int(value) > 0, "a positive integer", value),
    "utt2warp": _warp,
    "spk2warp": _warp,
    "spk2gender": lambda value: _expect(value in ("m", "f"), "m or f", repr(value)),
    "reco2file_and_channel": lambda value: _expect(
        len(value.split()) == 2 and value.split()[1] in ("A", "B"), "'<reco> <file> A' or '... B'", repr(value)
    ),
}


def _check_values(path: Path, table: Mapping[str, str]) -> None:
    for number, (key, value) in enumerate(table.items(), 1):
        problem = malformed(path.name, value)
        if problem:
            raise DataError(f"{path}:{number}: {key!r}: {problem}")


def _check_ids(path: Path, utt2spk: Mapping[str, str]) -> None:
    for number, utt in enumerate(utt2spk, 1):
        if problem := id_problem(utt):
            raise DataError(f"{path}:{number}: {utt!r}: {problem}; rename the utterance in all tables")


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
    expected = invert_utt2spk(utt2spk)
    for number, (spk, value) in enumerate(spk2utt.items(), 1):
        if value.split() != expected[spk]:
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
        if not non_print and any(unicodedata.category(char) == "Cc" for char in words.replace("\t", " ")):
            raise DataError(f"{path}:{number}: {utt!r} has a control character; --non-print if this is meant")
