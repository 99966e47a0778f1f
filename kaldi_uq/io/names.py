"""Files that are named after utterances: one in an output directory for each, and none anywhere else.

Utterance ids come from tables that somebody else may have written.  ``/home/you/x`` or ``../../x`` as an id would name
a file far from the directory that a command was asked to write.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from kaldi_uq.errors import DataError
from kaldi_uq.io.commands import decoding_of
from kaldi_uq.io.pipes import is_pipe

MEAN = "mean"  # of all channels, where the number of one could stand

MAX_BYTES = 200  # of a name; file systems take 255, and a file being written has a longer name for a while


def id_problem(key: str) -> str:
    """Why an id cannot become the name of a file below a directory; empty if it can.

    A plain ``speaker/utterance`` is a file in a directory of its own.

    >>> id_problem("s1/u1"), id_problem("../u1")
    ('', "as a file name it leaves the directory: it has the part '..'")
    """
    if key.startswith("/"):
        return "as a file name it leaves the directory: it begins with '/'"
    for part in key.split("/"):
        if part in ("", ".", ".."):
            return f"as a file name it leaves the directory: it has the part {part!r}"
        if len(part.encode()) > MAX_BYTES:
            return f"it has {len(part.encode())} bytes, and a file name at most {MAX_BYTES}"
        if any(unicodedata.category(char) == "Cc" for char in part):
            return "it has a control character"
    return ""


def wave_files(out_dir: Path, utts: Iterable[str]) -> dict[str, Path]:
    """The WAV file of each utterance in an output directory: ``wav/<utt>.wav``.

    Args:
        out_dir: the directory; it may be a symbolic link itself, what lies in it may not.
        utts: the utterances.

    Raises:
        DataError: an id would name a file outside, or a symbolic link leads outside.
    """
    folder = out_dir / "wav"
    files, parents = {}, {folder}
    for utt in utts:
        if problem := id_problem(utt):
            raise DataError(f"{out_dir}: utterance {utt!r}: {problem}; rename the utterance")
        files[utt] = folder / f"{utt}.wav"
        if "/" in utt:
            parents.update(_parents(files[utt], folder))
    for parent in sorted(parents):
        if parent.is_symlink():
            raise DataError(
                f"{parent}: a symbolic link to {os.readlink(parent)}, where the output would overwrite what is there; "
                f"remove it, or link {out_dir} as a whole"
            )
    return files


def _parents(path: Path, folder: Path) -> list[Path]:
    """The directories between a folder and a file in it."""
    return [parent for parent in path.parents if folder in parent.parents]


def remove_left_over(out_dir: Path, keep: Collection[Path]) -> None:
    """Remove the WAV files of an earlier run from ``wav``; no symbolic link is followed, whatever it leads to.

    Args:
        out_dir: the output directory.
        keep: what this run writes.
    """
    kept = set(map(str, keep))
    folder = out_dir / "wav"
    for place, _, names in os.walk(folder) if not folder.is_symlink() else ():  # walk() follows no link below it
        for name in names:
            path = os.path.join(place, name)
            if name.endswith(".wav") and path not in kept:
                os.unlink(path)


def check_not_input(out_dir: Path, sources: Iterable[str]) -> None:
    """Refuse an output directory whose ``wav`` holds a recording that is read.

    Args:
        out_dir: the output directory.
        sources: lines of the input's ``wav.scp``.

    Raises:
        DataError: it does: the output would overwrite or remove its own input.
    """
    from kaldi_uq.io.rxfile import split_offset

    folder = (out_dir / "wav").resolve()
    for source in sources:
        decoding = decoding_of(source)
        file = decoding.file if decoding else "" if is_pipe(source) else split_offset(source)[0]
        if file and folder in Path(file).resolve().parents:
            raise DataError(f"{out_dir}: the output would replace its input {source}; choose another directory")
