"""Kaldi data directories and the tables in them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.reading import foreign_character, split_key, text_lines
from kaldi_uq.io.segments import Segment

# The tables of a data directory by what their lines belong to.  Without a segments file each recording is one utterance
# and has its name.
BY_UTT = ("feats.scp", "text", "segments", "vad.scp", "utt2dur", "utt2num_frames", "utt2lang", "utt2uniq", "utt2warp")
BY_SPK = ("cmvn.scp", "spk2gender", "spk2warp")
BY_RECO = ("wav.scp", "reco2dur", "reco2file_and_channel")
TABLES = ("utt2spk", *BY_UTT, *BY_SPK, *BY_RECO)  # all but spk2utt, which follows from utt2spk


def read_table(path: str | os.PathLike[str], *, check_sorted: bool = True, allow_empty: bool = False) -> dict[str, str]:
    """Read a table of ``key rest-of-line``, as ``wav.scp``, ``text`` or ``utt2spk`` are.

    Args:
        path: the file, as :mod:`kaldi_uq.io.reading` has it.
        check_sorted: keys must be in C-locale order, as Kaldi's tools demand.
        allow_empty: a key without a value is allowed.

    Raises:
        DataError: missing, empty, no plain text, a duplicate key, a wrong order; the message names file and line.
    """
    path = Path(path)
    remedy = f"run utils/fix_data_dir.sh {path.parent}"
    table: dict[str, str] = {}
    previous = b""
    for number, line in table_lines(path, whole=True):
        key, value = split_key(line)
        if not key or (not value and not allow_empty):
            raise DataError(f"{path}:{number}: expected '<key> <value>', found {line!r}")
        if key in table:
            raise DataError(f"{path}:{number}: {key!r} stands twice; {remedy}")
        encoded = key.encode()
        if check_sorted and encoded < previous:
            raise DataError(f"{path}:{number}: {key!r} is not in C-locale order; {remedy}")
        previous = encoded
        table[key] = value
    if not table:
        raise DataError(f"{path}: empty, expected at least one line")
    return table


def table_lines(path: Path, *, whole: bool = False) -> Iterator[tuple[int, str]]:
    """The lines of a table with their numbers; in an ``.scp`` the names of files may have any blanks, the keys not.

    Raises:
        DataError: no such file, or no plain text; see :func:`kaldi_uq.io.reading.text_lines`.
    """
    if path.suffix != ".scp":
        yield from text_lines(path, whole=whole)
        return
    for number, line in text_lines(path, whole=whole, of_names=True):
        if problem := foreign_character(split_key(line)[0], path):
            raise DataError(f"{path}:{number}: {problem}")
        yield number, line


def write_table(path: str | os.PathLike[str], table: Mapping[str, str]) -> None:
    """Write ``key value`` lines in C-locale order, atomically."""
    with atomic_write(path) as stream:
        for key in c_sorted(table):
            stream.write(f"{key} {table[key]}\n" if table[key] else f"{key}\n")


def c_sorted(keys: Iterable[str]) -> list[str]:
    """Sort as ``LC_ALL=C sort`` does: by bytes."""
    return sorted(keys, key=lambda key: key.encode())


def invert_utt2spk(utt2spk: Mapping[str, str]) -> dict[str, list[str]]:
    """``spk2utt`` from ``utt2spk``: speakers and their utterances in C-locale order."""
    spk2utt: dict[str, list[str]] = {}
    for utt in c_sorted(utt2spk):
        spk2utt.setdefault(utt2spk[utt], []).append(utt)
    return {spk: spk2utt[spk] for spk in c_sorted(spk2utt)}


def spk2utt_table(utt2spk: Mapping[str, str]) -> dict[str, str]:
    """``spk2utt`` from ``utt2spk``, as its file has it: the utterances of a speaker in one line."""
    return {spk: " ".join(utts) for spk, utts in invert_utt2spk(utt2spk).items()}


def subset_tables(tables: Mapping[str, dict[str, str]], utt2spk: dict[str, str]) -> dict[str, dict[str, str]]:
    """The tables of a data directory for some of its utterances.

    Args:
        tables: name of a table -> its lines.
        utt2spk: utterance -> speaker, for the utterances that are kept.
    """
    recos: Collection[str] = utt2spk
    if "segments" in tables:
        recos = {Segment.parse(value).reco for utt, value in tables["segments"].items() if utt in utt2spk}
    spks = set(utt2spk.values())
    subset = {}
    for name, table in tables.items():
        keys = spks if name in BY_SPK else recos if name in BY_RECO else utt2spk
        subset[name] = {key: value for key, value in table.items() if key in keys}
    return subset


@dataclass(frozen=True)
class DataDir:
    """A data directory, read and checked as a whole.

    Attributes:
        path: the directory.
        wav_scp: utt -> WAV file or pipe; with ``segments`` it is the recordings that have them.
        text: utt -> words; empty if the directory has no ``text``.
        utt2spk: utt -> spk.
        feats_scp: utt -> ``file.ark:offset``; empty without the file.
        cmvn_scp: spk -> ``file.ark:offset``; empty without the file.
        utt2dur: utt -> seconds; empty without the file.
        segments: utt -> its part of a recording; empty if each recording is one utterance.
        whole: the directory as it was read, if this is a part of it; its tables have the lines of the files.
    """

    path: Path
    wav_scp: dict[str, str]
    utt2spk: dict[str, str]
    text: dict[str, str] = field(default_factory=dict)
    feats_scp: dict[str, str] = field(default_factory=dict)
    cmvn_scp: dict[str, str] = field(default_factory=dict)
    utt2dur: dict[str, float] = field(default_factory=dict)
    segments: dict[str, Segment] = field(default_factory=dict)
    whole: DataDir | None = None

    @property
    def utts(self) -> list[str]:
        """Utterances in C-locale order."""
        return list(self.utt2spk)

    @property
    def spk2utt(self) -> dict[str, list[str]]:
        """Utterances of each speaker."""
        return invert_utt2spk(self.utt2spk)

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], *, need: Iterable[str] = ("wav.scp", "utt2spk"), complete: bool = True
    ) -> DataDir:
        """Read and check a directory.

        Args:
            path: the directory.
            need: files that must be there; others are read if they are.
            complete: each utterance must be in all tables; without it :meth:`incomplete` names those that are not.

        Raises:
            DataError: not a directory, a needed file is missing, tables that disagree.
        """
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"{path}: no such data directory; the data preparation makes it")
        need = set(need)
        for name in sorted(need):
            if not (path / name).is_file():
                raise DataError(f"{path / name}: no such file; {_REMEDY.get(name, 'see utils/validate_data_dir.sh')}")

        def table(name: str, **options: bool) -> dict[str, str]:
            return read_table(path / name, **options) if (path / name).is_file() else {}

        data = cls(
            path=path,
            wav_scp=table("wav.scp", allow_empty=not complete),
            utt2spk=table("utt2spk", allow_empty=not complete),
            text=table("text", allow_empty=True),
            feats_scp=table("feats.scp"),
            cmvn_scp=table("cmvn.scp"),
            utt2dur=_seconds(path / "utt2dur", table("utt2dur")),
            segments=parse_segments(path / "segments", table("segments")),
        )
        if complete:
            data._check(need)
        return data

    def incomplete(self) -> dict[str, str]:
        """The utterances that a table lacks, or has no value for, and the name of the table; in C-locale order."""
        tables: dict[str, Mapping[str, object]] = {"utt2spk": self.utt2spk, **self._audio, "text": self.text}
        tables |= {"feats.scp": self.feats_scp}
        tables = {name: table for name, table in tables.items() if table}
        found: dict[str, str] = {}
        for utt in c_sorted(set().union(*tables.values())):
            for name, table in tables.items():
                if utt not in table or (table[utt] == "" and name != "text"):
                    found.setdefault(utt, name)
            if self.segments and utt not in found and not self.wav_scp.get(self.segments[utt].reco):
                found[utt] = "wav.scp"
        return found

    def subset(self, utts: Collection[str]) -> DataDir:
        """The directory with some of its utterances only."""
        kept = set(utts)
        tables = ("utt2spk", "text", "feats_scp", "utt2dur", "segments" if self.segments else "wav_scp")
        parts: dict[str, Any] = {
            name: {utt: one for utt, one in getattr(self, name).items() if utt in kept} for name in tables
        }
        return replace(self, **parts, whole=self.whole or self)

    @property
    def _audio(self) -> dict[str, Mapping[str, object]]:
        """The table that says where the audio of each utterance is, by its name."""
        return {"segments": self.segments} if self.segments else {"wav.scp": self.wav_scp}

    def _check(self, need: set[str]) -> None:
        remedy = f"run utils/fix_data_dir.sh {self.path}"
        for line, segment in enumerate(self.segments.values(), 1):
            if self.wav_scp and segment.reco not in self.wav_scp:
                raise DataError(
                    f"{self.path / 'segments'}:{line}: recording {segment.reco!r} is not in wav.scp; {remedy}"
                )
        for name, table in (*self._audio.items(), ("text", self.text), ("feats.scp", self.feats_scp)):
            pairs = ((name, table, "utt2spk", self.utt2spk), ("utt2spk", self.utt2spk, name, table)) if table else ()
            for one, utts, other, others in pairs:
                for line, utt in enumerate(utts, 1):
                    if utt not in others:
                        raise DataError(f"{self.path / one}:{line}: utterance {utt!r} is not in {other}; {remedy}")
        missing = {spk for spk in self.utt2spk.values() if spk not in self.cmvn_scp} if "cmvn.scp" in need else set()
        if missing:
            raise DataError(f"{self.path / 'cmvn.scp'}: no statistics of speaker {min(missing)!r}; compute them again")

    def where(self, name: str, key: str) -> str:
        """File and line of an utterance, recording or speaker, for messages.

        Args:
            name: name of the table: ``"wav.scp"``, ``"feats.scp"``, ``"cmvn.scp"`` or ``"segments"``.
            key: key in the table.
        """
        whole = self.whole or self
        tables: dict[str, Mapping[str, object]] = {
            "wav.scp": whole.wav_scp,
            "feats.scp": whole.feats_scp,
            "cmvn.scp": whole.cmvn_scp,
            "segments": whole.segments,
        }
        return f"{self.path / name}:{1 + list(tables[name]).index(key)}"

    def source(self, utt: str) -> str:
        """The file or pipe with the audio of an utterance, as ``wav.scp`` has it."""
        return self.wav_scp[self.segments[utt].reco if self.segments else utt]

    def words(self, utt: str) -> list[str]:
        """The words of an utterance."""
        return self.text[utt].split()


_REMEDY = {
    "feats.scp": "steps/make_mfcc.sh makes it",
    "cmvn.scp": "steps/compute_cmvn_stats.sh makes it",
    "wav.scp": "the data preparation makes it",
    "utt2spk": "the data preparation makes it",
    "text": "the data preparation makes it",
}


def _seconds(path: Path, table: Mapping[str, str]) -> dict[str, float]:
    try:
        return {utt: float(value) for utt, value in table.items()}
    except ValueError as error:
        raise DataError(f"{path}: a duration is not a number of seconds ({error})") from None


def parse_segments(path: Path, table: Mapping[str, str]) -> dict[str, Segment]:
    """What the lines of ``segments`` say.

    Args:
        path: the file, for messages.
        table: its lines.

    Raises:
        DataError: a line is malformed.
    """
    segments = {}
    for line, (utt, value) in enumerate(table.items(), 1):
        try:
            segments[utt] = Segment.parse(value)
        except ValueError as error:
            raise DataError(f"{path}:{line}: {utt!r}: {error}") from None
    return segments


def write_data_dir(
    path: str | os.PathLike[str],
    *,
    wav_scp: Mapping[str, str],
    text: Mapping[str, str],
    utt2spk: Mapping[str, str],
    utt2dur: Mapping[str, float],
) -> None:
    """Write ``wav.scp text utt2spk spk2utt utt2dur``, each atomically, in C-locale order.

    Raises:
        ValueError: the tables have different utterances, or an utterance id does not start with its speaker id.
    """
    path = Path(path)
    for name, table in (("text", text), ("utt2spk", utt2spk), ("utt2dur", utt2dur)):
        difference = set(wav_scp) ^ set(table)
        if difference:
            raise ValueError(f"wav_scp and {name} disagree about {min(difference)!r}")
    for utt, spk in utt2spk.items():
        if not utt.startswith(spk):
            raise ValueError(f"utterance id {utt!r} does not start with its speaker id {spk!r}: sorting would break")
    write_table(path / "wav.scp", wav_scp)
    write_table(path / "text", text)
    write_table(path / "utt2spk", utt2spk)
    write_table(path / "spk2utt", spk2utt_table(utt2spk))
    write_table(path / "utt2dur", {utt: f"{seconds:.4f}" for utt, seconds in utt2dur.items()})
