"""The exceptions that a user of the package can meet.

Every message says what is wrong, where, what was expected, what was found and what to do.  The commands print it as
one line and exit with status 1.  ``ValueError`` and ``TypeError`` stay for a caller's mistake in Python code.
"""

from __future__ import annotations


class KaldiUqError(Exception):
    """Base of every error that has its cause outside the code: in data, files, options or tools."""


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
