"""Writing so that nothing is ever half there: a temporary name first, the final name last; and small readers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kaldi_uq.errors import DataError
from kaldi_uq.io.reading import read_bytes, text_lines

REPORT = "bad_utterances"  # the file that names the utterances that a command left out


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and rename it to ``path`` if the block ends without an exception.

    The data reach the disk before the rename, so that a full disk leaves the old file, or none, never a short one.

    Args:
        path: the final name; its directory is made if it does not exist.
        mode: way of writing, ``"w"`` (UTF-8 text, ``\\n`` line ends) or ``"wb"``.

    Raises:
        DataError: a text that UTF-8 cannot hold.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', got {mode!r}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with os.fdopen(handle, mode, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say which file did not fit
        if isinstance(error, UnicodeEncodeError):  # the name of a file, from a command line that is not UTF-8
            raise DataError(f"{path}: {error.object.strip()!r:.200} is not UTF-8; rename what has that name") from None
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as stream:
        stream.write(text)


def read_lines(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers, stripped.

    Raises:
        DataError: the file is missing, is not plain text (:mod:`kaldi_uq.io.reading`), or has no such line.
    """
    found = [(number, text) for number, line in text_lines(path) if (text := line.strip())]
    if not found:
        raise DataError(f"{path}: empty")
    return found


def read_integers(path: str | os.PathLike[str]) -> list[int]:
    """The integers of a text file, such as ``phones/silence.int``, however many stand on a line.

    Raises:
        DataError: the file is missing, or has anything else.
    """
    return [integer(word, f"{path}:{number}") for number, line in text_lines(path) for word in line.split()]


def integer(text: str, where: str) -> int:
    """An integer of at most 18 digits, in digits of ASCII.

    Raises:
        DataError: anything else; the message begins with ``where``.
    """
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise DataError(f"{where}: expected an integer, found {text!r:.60}")
    return int(text)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically, indented, with a final newline; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], *, finite: bool = False) -> Any:
    """Read a JSON file; ``.gz`` is unpacked.

    Args:
        path: the file.
        finite: whether NaN and infinity, which Python writes and JSON does not have, are refused.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    return parse_json(read_bytes(path), str(path), finite=finite)


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """The values of a file that has one a line, with their line numbers.

    Raises:
        DataError: the file is missing, or a line is not JSON.
    """
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if line.strip():
            yield number, parse_json(line, f"{path}:{number}", "object")


def parse_json(text: str | bytes, where: str, what: str = "file", *, finite: bool = False) -> Any:
    """Read a JSON text; ``finite`` as of :func:`read_json`.

    Raises:
        DataError: it is none, or one that no program writes: thousands of lists in each other, numbers of as many
            digits; the message begins with ``where`` and says ``what`` was expected.
    """
    number = _finite if finite else None
    try:
        return json.loads(text, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON {what} ({error})") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an earlier run left in a JSON file; empty if there is none, or a damaged one."""
    try:
        state = read_json(path)
    except DataError:
        return {}
    return state if isinstance(state, dict) else {}


def digest(*parts: Any) -> str:
    """SHA-256, in hex, of JSON-able values; the order of dictionary keys does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256, in hex, of the bytes of a file."""
    checksum = hashlib.sha256()
    with open(path, "rb") as stream:  # packed, if it is
        for block in iter(lambda: stream.read(1 << 20), b""):
            checksum.update(block)
    return checksum.hexdigest()


class DoneStamp:
    """The ``.done`` file of a step: which options and inputs its output was made from.

    A step asks ``is_current()`` before it works and calls ``write()`` after everything else is in place, so that a
    killed step is repeated and a finished one is skipped, but only while options and inputs are the same.

    Args:
        directory: the step's output directory.
        name: name of the step; several steps can share a directory.
        options: JSON-able values that determine the output.
        inputs: files that determine the output, compared by content; the caller has checked that they exist.
    """

    def __init__(
        self, directory: str | os.PathLike[str], name: str, *, options: dict[str, Any], inputs: list[Path] | None = None
    ) -> None:
        self.path = Path(directory) / f".done.{name}"
        contents = [(p.name, file_digest(p)) for p in inputs or []]  # by name: a moved directory is the same
        self.key = digest(name, options, contents)
        self.options = options

    def is_current(self) -> bool:
        """Whether the step has been done with the same options and inputs."""
        return read_state(self.path).get("key") == self.key

    def clear(self) -> None:
        """Forget that the step was done: called before its output changes."""
        self.path.unlink(missing_ok=True)

    def write(self) -> None:
        """Record that the output is whole."""
        write_json(self.path, {"key": self.key, "options": self.options})
