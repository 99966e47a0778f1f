"""Split a data directory into parts of about equal size for parallel jobs, as Kaldi's ``split_data.sh`` does."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import TABLES, invert_utt2spk, read_table, spk2utt_table, subset_tables, write_table
from kaldi_uq.io.files import DoneStamp, file_digest
from kaldi_uq.io.validate import check_agreement


def split_data_dir(path: Path, num_split: int, *, per_utt: bool = False) -> Path:
    """Split a data directory.

    Args:
        path: the directory; the tables that Kaldi's ``split_data.sh`` splits are split.
        num_split: number of parts.
        per_utt: split by utterance instead of by speaker.

    Returns:
        The directory of the parts ``1`` to ``num_split``.

    Raises:
        ValueError: fewer than one part.
        DataError: the directory or a table is missing or malformed, or has too few speakers or utterances.
    """
    if num_split < 1:
        raise ValueError(f"the number of parts must be at least 1, got {num_split}")
    if not path.is_dir():
        raise DataError(f"{path}: no such directory")
    names = [name for name in TABLES if (path / name).is_file()]
    tables = {name: read_table(path / name, allow_empty=name == "text") for name in dict.fromkeys(["utt2spk", *names])}
    check_agreement(path, tables)
    utt2spk = tables["utt2spk"]

    groups = [[utt] for utt in utt2spk] if per_utt else list(invert_utt2spk(utt2spk).values())
    if num_split > len(groups):
        what, remedy = ("utterances", "") if per_utt else ("speakers", ", or split by utterance (--per-utt)")
        raise DataError(f"{path} has {len(groups)} {what}, not enough for {num_split} parts; take fewer{remedy}")

    final = path / f"split{num_split}{'utt' if per_utt else ''}"
    options = {"num_split": num_split, "per_utt": per_utt, "files": {n: file_digest(path / n) for n in names}}
    if _is_complete(final, num_split, options):
        return final
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=path))
    try:
        fresh = scratch / "new"
        for number, part in enumerate(partition([len(group) for group in groups], num_split), 1):
            subset = subset_tables(tables, {utt: utt2spk[utt] for group in groups[part] for utt in group})
            for name, table in (subset | {"spk2utt": spk2utt_table(subset["utt2spk"])}).items():
                write_table(fresh / str(number) / name, table)
        DoneStamp(fresh, "split", options=options).write()
        _move_into_place(fresh, final, scratch / "old", num_split, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def partition(sizes: Sequence[int], num_parts: int) -> list[slice]:
    """Cut a sequence of groups into consecutive parts of about equal total size, none empty.

    Args:
        sizes: number of utterances of each group.
        num_parts: number of parts, at most the number of groups.

    >>> partition([1, 1, 1, 3], 2)
    [slice(0, 3, None), slice(3, 4, None)]
    """
    if not 1 <= num_parts <= len(sizes):
        raise ValueError(f"num_parts must be from 1 to {len(sizes)}, got {num_parts}")
    totals = [0]
    for size in sizes:
        totals.append(totals[-1] + size)
    cuts = [0]
    for part in range(1, num_parts):
        # the cut nearest to the ideal place that leaves this part, and each one after it, at least one group
        choices = range(cuts[-1] + 1, len(sizes) - (num_parts - part) + 1)
        ideal = totals[-1] * part / num_parts
        cuts.append(min(choices, key=lambda cut: abs(totals[cut] - ideal)))
    cuts.append(len(sizes))
    return [slice(begin, end) for begin, end in itertools.pairwise(cuts)]


def _is_complete(final: Path, num_split: int, options: dict[str, object]) -> bool:
    return DoneStamp(final, "split", options=options).is_current() and all(
        (final / str(number) / "utt2spk").is_file() for number in range(1, num_split + 1)
    )


def _move_into_place(fresh: Path, final: Path, old: Path, num_split: int, options: dict[str, object]) -> None:
    for _ in range(3):
        try:
            if final.exists():
                os.rename(final, old)
            os.rename(fresh, final)
            return
        except OSError:
            # another process made the same parts meanwhile
            if _is_complete(final, num_split, options):
                return
            shutil.rmtree(old, ignore_errors=True)
    raise DataError(f"{final}: cannot be replaced; another process keeps changing it")
