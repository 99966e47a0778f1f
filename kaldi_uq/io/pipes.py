"""Kaldi's extended file names: files, and pipes, which are shell commands and run only with the user's leave.

A table that somebody else wrote can hold any command.  Therefore no line is run unless the user says so: once for a
command, with ``--allow-pipes``, or once for a recipe, whose ``path.sh`` exports ``KALDI_UQ_ALLOW_PIPES=1``.  Commands
that only decode a file need no leave, because they are not run (:mod:`kaldi_uq.io.commands`).  No other module of this
package starts processes to read files.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO

from kaldi_uq.errors import DataError, MissingDependencyError, UsageError
from kaldi_uq.io.commands import decoding_of

SHELL = "/bin/sh"  # the shell of Kaldi's own popen()
LEAVE = "KALDI_UQ_ALLOW_PIPES"  # environment variable: 1 allows pipes to every command that is started with it
MESSAGE_LENGTH = 400  # characters that are shown of a failed program's message
MAX_OUTPUT = 1 << 30  # bytes of what a program writes: nine hours of 16 kHz audio
_PIECE = 1 << 20  # bytes that are read at once


def is_pipe(rxfilename: str) -> bool:
    """Whether an extended file name stands for a command.

    >>> is_pipe("sph2pipe -f wav a.sph |"), is_pipe("| gzip -c > a.gz"), is_pipe("cat a.ark |:12"), is_pipe("a.wav")
    (True, True, True, False)
    """
    name, colon, offset = rxfilename.rpartition(":")
    bare = name if colon and offset.strip().isdigit() else rxfilename
    return bare.strip().startswith("|") or bare.strip().endswith("|")


def pipes_allowed(asked: bool) -> bool:
    """Whether commands may run.

    Args:
        asked: the command has ``--allow-pipes``.

    Raises:
        UsageError: the environment variable is neither 1, nor 0, nor empty.
    """
    value = os.environ.get(LEAVE, "")
    if value not in ("", "0", "1"):
        raise UsageError(f"{LEAVE} is {value!r}, expected 1 (lines of tables that are commands run) or 0 (they do not)")
    return asked or value == "1"


def check_leave(rxfilename: str, *, where: str, allow_pipes: bool) -> None:
    """Refuse a command that would have to run and may not; it is not looked at what it would read.

    Args:
        rxfilename: an extended file name of any sort.
        where: file and line that it comes from, for messages.
        allow_pipes: see :func:`pipes_allowed`.

    Raises:
        DataError: it is one.
    """
    if is_pipe(rxfilename) and not decoding_of(rxfilename) and not pipes_allowed(allow_pipes):
        raise no_leave(rxfilename, where)


def no_leave(rxfilename: str, where: str, why: str = "it does more than decode one file") -> DataError:
    """The error of a pipe that may not run; ``why`` says why it would have to."""
    return DataError(
        f"{where}: {_shown(rxfilename)} is a pipe, {why}, and a command of a table runs only with --allow-pipes, or "
        f"where path.sh exports {LEAVE}=1; give that leave if the table is your own, or write the audio or the archive "
        "to files first"
    )


def _shown(rxfilename: str) -> str:
    return repr(rxfilename if len(rxfilename) < 200 else rxfilename[:200] + " ...")


def read_pipe(rxfilename: str, *, where: str, allow_pipes: bool, max_bytes: int = MAX_OUTPUT) -> bytes:
    """Run a command whose name ends in ``|`` and return what it writes.

    Args:
        rxfilename: the command, ending in ``|``.
        where: file and line that the command comes from, for messages.
        allow_pipes: run the command, see :func:`pipes_allowed`.
        max_bytes: the most that it may write.

    Raises:
        DataError: pipes are not allowed; the command fails, writes nothing, or too much; it is a pipe to write to.
    """
    command = rxfilename.strip()
    if not command.endswith("|") or command.startswith("|"):
        raise DataError(f"{where}: {_shown(rxfilename)}: not a pipe to read from; expected a file, or '<command> |'")
    if not pipes_allowed(allow_pipes):
        raise no_leave(rxfilename, where)
    try:
        return run_program([SHELL, "-c", command[:-1]], max_bytes=max_bytes)
    except ProgramError as error:
        raise DataError(f"{where}: the pipe {_shown(rxfilename)} {error}") from None


class ProgramError(Exception):
    """A program failed; the message says how, and what it wrote to standard error last."""


def run_program(arguments: Sequence[str], *, max_bytes: int = MAX_OUTPUT) -> bytes:
    """Run a program without input and return what it writes to standard output.

    It is ended, with all that it started, when it has written too much.

    Args:
        arguments: the program and its arguments.
        max_bytes: the most that it may write.

    Raises:
        ProgramError: it ends with another status than 0, writes nothing, or more than ``max_bytes``.
        MissingDependencyError: there is no such program.
    """
    output, last = io.BytesIO(), deque[bytes](maxlen=3)
    try:
        process = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise MissingDependencyError(f"{arguments[0]}: no such program") from None
    assert process.stdout and process.stderr
    listener = threading.Thread(target=_keep_last, args=(process.stderr, last), daemon=True)
    listener.start()
    finished = False
    try:
        while piece := process.stdout.read(_PIECE):
            if output.tell() + len(piece) > max_bytes:
                raise ProgramError(f"writes more than {max_bytes / 1e6:.0f} MB, the most that is taken")
            output.write(piece)
        status = process.wait()
        finished = True
    finally:
        if not finished:
            os.killpg(process.pid, signal.SIGKILL)  # its own session: the shell, and what the shell started
            process.wait()
        process.stdout.close()
        listener.join(timeout=1)  # something in the background may hold the other end
    said = " / ".join(line.decode(errors="replace").strip() for line in last)[-MESSAGE_LENGTH:] or "no message"
    if status != 0:
        how = f"status {status}" if status > 0 else f"signal {-status}"
        raise ProgramError(f"failed with {how}: {said}")
    if not output.tell():
        raise ProgramError(f"wrote nothing: {said}")
    return output.getvalue()


def _keep_last(stream: IO[bytes], last: deque[bytes]) -> None:
    """Keep the last lines of a stream, and of a line the beginning: there may be no end of either."""
    with stream:
        inside = False
        while piece := stream.readline(MESSAGE_LENGTH):
            if not inside and piece.strip():
                last.append(piece)
            inside = not piece.endswith(b"\n")
