"""Mend a data directory: sort its tables and drop the utterances that are not in all of them.

What Kaldi's ``fix_data_dir.sh`` does; and byte order marks and CR LF, which Kaldi's programs misread, go.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import BY_RECO, BY_SPK, BY_UTT, TABLES, c_sorted, spk2utt_table, subset_tables, table_lines
from kaldi_uq.io.files import write_text
from kaldi_uq.io.reading import split_key
from kaldi_uq.io.segments import Segment
from kaldi_uq.io.validate import malformed

NUM_NAMED = 10  # number of dropped utterances that are named; the rest is counted


def fix_data_dir(path: Path, *, report: Callable[[str], None]) -> None:
    """Sort the tables of a data directory and reduce them to the utterances that all of them have.

    Args:
        path: the directory.
        report: receives one line for each thing that was done.

    Raises:
        DataError: no ``utt2spk``, nothing left, or speakers that no sorting can bring into order.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such directory")
    if not (path / "utt2spk").is_file():
        raise DataError(f"{path / 'utt2spk'}: no such file; utils/spk2utt_to_utt2spk.pl makes it from spk2utt")
    tables: dict[str, dict[str, str]] = {}
    for name in TABLES:
        if (path / name).is_file():
            tables[name] = _read_leniently(path / name, report)
    if "segments" in tables and "wav.scp" not in tables:
        raise DataError(f"{path / 'wav.scp'}: no such file, but there is a segments file")

    num_before = len(tables["utt2spk"])
    dropped = _reduce(tables)
    utt2spk = tables["utt2spk"]
    if not utt2spk:
        culprits = ", ".join(sorted(set(dropped.values())))
        raise DataError(f"{path}: no utterance is in all of its files ({culprits} lack them); nothing is changed")
    spks = [utt2spk[utt] for utt in c_sorted(utt2spk)]
    if spks != c_sorted(spks):
        raise DataError(
            f"{path / 'utt2spk'}: sorted by utterance the speakers are not in order; begin utterance ids with their "
            "speaker id; nothing is changed"
        )
    tables["spk2utt"] = spk2utt_table(utt2spk)

    changed = [name for name, table in tables.items() if _write_if_changed(path / name, table)]
    for number, (utt, name) in enumerate(dropped.items()):
        if number == NUM_NAMED:
            report(f"... and {len(dropped) - NUM_NAMED} more")
            break
        report(f"dropped {utt!r}: missing or malformed in {name}")
    report(f"{path}: kept {len(utt2spk)} of {num_before} utterances")
    if changed:
        report(f"changed {', '.join(changed)}; the old files are in {path / '.backup'}")


def _read_leniently(path: Path, report: Callable[[str], None]) -> dict[str, str]:
    """Read a table in any order; the first line of a key counts, and lines without a key or a value do not."""
    table: dict[str, str] = {}
    for number, line in table_lines(path):
        key, value = split_key(line)
        if not key:
            continue
        if key in table:
            report(f"{path}:{number}: {key!r} stands twice; the first is kept")
        elif not value and path.name != "text":
            report(f"{path}:{number}: {key!r} has no value")
        else:
            table[key] = value
    return table


def _reduce(tables: dict[str, dict[str, str]]) -> dict[str, str]:
    """Reduce the tables to what all of them have; returns the dropped utterances and the table that lacks each."""
    dropped: dict[str, str] = {}
    for name, table in tables.items():
        wrong = [key for key, value in table.items() if malformed(name, value)]  # a malformed line counts as missing
        for key in wrong:
            del table[key]
        if name == "utt2spk":
            dropped.update(dict.fromkeys(wrong, name))
    utt2spk = tables["utt2spk"]
    recos = {utt: Segment.parse(value).reco for utt, value in tables.get("segments", {}).items()}
    for name in (*BY_RECO, *BY_UTT, *BY_SPK):
        for utt, spk in list(utt2spk.items()) if name in tables else ():
            key = spk if name in BY_SPK else recos.get(utt, "") if name in BY_RECO and "segments" in tables else utt
            if key not in tables[name]:
                del utt2spk[utt]
                dropped[utt] = name
    tables.update(subset_tables(tables, utt2spk))
    return dropped


def _write_if_changed(path: Path, table: Mapping[str, str]) -> bool:
    text = "".join(f"{key} {table[key]}\n" if table[key] else f"{key}\n" for key in c_sorted(table))
    if path.is_file():
        if path.read_bytes() == text.encode():  # the bytes: as text, CR LF would be equal to LF
            return False
        backup = path.parent / ".backup"
        backup.mkdir(exist_ok=True)
        shutil.copy2(path, backup / path.name)
    write_text(path, text)
    return True
