"""Kaldi's extended file names: files, and pipes, which are shell commands and run only when that is allowed.

A table that somebody else wrote can hold any command.  Therefore no line is run unless the user says so, with
``--allow-pipes``.  No other module of this package starts processes to read files.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from kaldi_uq.errors import DataError, MissingDependencyError

SHELL = "/bin/sh"  # the shell of Kaldi's own popen()
MESSAGE_LENGTH = 400  # characters that are shown of a failed program's message


def is_pipe(rxfilename: str) -> bool:
    """Whether an extended file name stands for a command.

    >>> is_pipe("sph2pipe -f wav a.sph |"), is_pipe("| gzip -c > a.gz"), is_pipe("cat a.ark |:12"), is_pipe("a.wav")
    (True, True, True, False)
    """
    name, colon, offset = rxfilename.rpartition(":")
    bare = name if colon and offset.strip().isdigit() else rxfilename
    return bare.strip().startswith("|") or bare.strip().endswith("|")


def read_pipe(rxfilename: str, *, where: str, allow_pipes: bool) -> bytes:
    """Run a command whose name ends in ``|`` and return what it writes.

    Args:
        rxfilename: the command, ending in ``|``.
        where: file and line that the command comes from, for messages.
        allow_pipes: run the command.

    Raises:
        DataError: pipes are not allowed; the command fails, or writes nothing; it is a pipe to write to.
    """
    shown = rxfilename if len(rxfilename) < 200 else rxfilename[:200] + " ..."
    command = rxfilename.strip()
    if not command.endswith("|") or command.startswith("|"):
        raise DataError(f"{where}: {shown!r}: not a pipe to read from; expected a file, or '<command> |'")
    if not allow_pipes:
        raise DataError(
            f"{where}: {shown!r} is a pipe, and a command of a table runs only with --allow-pipes; "
            "pass that option if the table is your own, or write the audio or the archive to files first"
        )
    try:
        return run_program([SHELL, "-c", command[:-1]])
    except ProgramError as error:
        raise DataError(f"{where}: the pipe {shown!r} {error}") from None


class ProgramError(Exception):
    """A program failed; the message says how, and what it wrote to standard error last."""


def run_program(arguments: Sequence[str]) -> bytes:
    """Run a program without input and return what it writes to standard output.

    Raises:
        ProgramError: it ends with another status than 0, or writes nothing.
        MissingDependencyError: there is no such program.
    """
    try:
        done = subprocess.run(list(arguments), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        raise MissingDependencyError(f"{arguments[0]}: no such program") from None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    said = " / ".join(line.strip() for line in lines[-3:])[-MESSAGE_LENGTH:] or "no message"
    if done.returncode != 0:
        how = f"status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise ProgramError(f"failed with {how}: {said}")
    if not done.stdout:
        raise ProgramError(f"wrote nothing: {said}")
    return done.stdout
