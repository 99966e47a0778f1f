"""Digests of the files of a model or graph directory, so that a silent change of one bit is found when it is loaded.

They stand in ``.sha256`` of the directory, in the form of ``sha256sum``, whose ``-c .sha256`` checks them too.  Kaldi's
own programs write none: a file without a digest is taken as it is.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from kaldi_uq.errors import KaldiUqError, ModelFileError
from kaldi_uq.io.files import atomic_write, file_digest, write_text

DIGESTS_FILE = ".sha256"
_MAX_BYTES = 1 << 20  # of the file of digests: a directory of ours has a handful of files


@contextlib.contextmanager
def recorded(directory: Path, *names: str) -> Iterator[None]:
    """A context in which files of a directory are written: their digests are recorded when it ends without an error.

    Before, those of the old files are removed, so that a process that is killed leaves files without digests and
    never digests of other files.

    Args:
        directory: the directory.
        names: the files.
    """
    _write(directory, dict.fromkeys(names, ""))
    yield
    _write(directory, {name: file_digest(directory / name) for name in names})


def copy_recorded(source: Path, destination: Path, *names: str) -> None:
    """Copy files of a directory into another one, each atomically, and record their digests there.

    Raises:
        ModelFileError: a file is not what was written.
    """
    with recorded(destination, *names):
        for name in names:
            check_digest(source / name)
            with atomic_write(destination / name, "wb") as stream, open(source / name, "rb") as data:
                shutil.copyfileobj(data, stream)


def check_digest(path: Path, error: type[KaldiUqError] = ModelFileError) -> None:
    """Compare a file with its digest, if its directory has one of it.

    Args:
        path: the file.
        error: class of the error.

    Raises:
        KaldiUqError: ``error``, if the content is another, or the file of digests is damaged.
    """
    expected = _read(path.parent, error).get(path.name)
    if expected and file_digest(path) != expected:
        digests = path.parent / DIGESTS_FILE
        raise error(
            f"{path}: damaged or replaced: its SHA-256 is not that in {digests}; make it again, or remove {digests} if "
            "it was replaced on purpose"
        )


def _read(directory: Path, error: type[KaldiUqError] = ModelFileError) -> dict[str, str]:
    path = directory / DIGESTS_FILE
    try:
        with open(path, "rb") as stream:
            lines = stream.read(_MAX_BYTES).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if not match:
            raise error(f"{path}:{number}: expected '<SHA-256>  <file>', found {line!r:.60}; remove this file")
        found[match[2]] = match[1]
    return found


def _write(directory: Path, digests: dict[str, str]) -> None:
    """Replace some of a directory's digests; an empty one removes that of the file."""
    try:
        before = _read(directory)
    except ModelFileError:  # damaged: what it said of other files is lost
        before = {}
    after = {name: value for name, value in {**before, **digests}.items() if value}
    if after != before or (directory / DIGESTS_FILE).exists():
        write_text(directory / DIGESTS_FILE, "".join(f"{value}  {name}\n" for name, value in sorted(after.items())))
