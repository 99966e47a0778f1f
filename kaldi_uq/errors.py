"""The exceptions that a user of the package can meet.

Every message says what is wrong, where, what was expected, what was found and what to do.  The commands print it as
one line and exit with status 1.  ``ValueError`` and ``TypeError`` stay for a caller's mistake in Python code.
"""

from __future__ import annotations

import re

_LONGEST = 1000  # characters of a message; the longest of ours list the options of a configuration
_END = 200  # of these, how many are the end of one that is too long: it says what to do


def readable(message: str) -> str:
    r"""A message as one line that any terminal shows, however strange a file it quotes.

    Line ends become spaces, what cannot be printed is escaped, and of a very long one the middle is left out.

    >>> readable("a.conf:1:\n  unknown option --dit\x07her")
    'a.conf:1: unknown option --dit\\x07her'
    """
    line = message
    if not line.isprintable():
        line = re.sub(r"\s*\n\s*", " ", line.strip())
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - _END]} ... {line[-_END:]}"


class KaldiUqError(Exception):
    """Base of every error that has its cause outside the code: in data, files, options or tools."""

    def __str__(self) -> str:
        return readable(super().__str__())


class DataError(KaldiUqError):
    """A data directory, a table, a waveform or an archive is missing or malformed."""


class ModelFileError(KaldiUqError):
    """A model file is missing, damaged, or does not fit what it is used with."""


class EngineError(KaldiUqError):
    """The engine (wheels or Kaldi binaries) is missing, broken, or failed at an operation."""


class AlignmentError(KaldiUqError):
    """An utterance cannot be aligned with a text: too short for it, or no path survives the beam."""


class UsageError(KaldiUqError):
    """An option or an argument of a command has a value that cannot work."""


class MissingDependencyError(KaldiUqError):
    """An optional package is needed for this operation; the message names the command that installs it."""
