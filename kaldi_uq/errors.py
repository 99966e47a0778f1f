"""The exceptions that a user of the package can meet, and text of strangers made fit for a terminal.

Every message says what is wrong, where, what was expected, what was found and what to do.  The commands print it as
one line and exit with status 1.  ``ValueError`` and ``TypeError`` stay for a caller's mistake in Python code.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_LONGEST = 1000  # characters of a message; the longest of ours list the options of a configuration
_END = 200  # of these, how many are the end of one that is too long: it says what to do

# Control characters, halves of pairs, ends of lines and paragraphs; and what turns the direction of the text behind it
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class KaldiUqError(Exception):
    """Base of every error that has its cause outside the code: in data, files, options or tools.

    What it quotes of files is made fit for a terminal, and shortened.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class DataError(KaldiUqError):
    """A data directory, a table, a waveform or an archive is missing or malformed."""


class OtherAudioError(DataError):
    """Audio of another rate or number of channels than is wanted, which a command takes if options say so.

    Attributes:
        options: those words of a command line.
    """

    def __init__(self, message: str, options: tuple[str, ...]) -> None:
        super().__init__(message)
        self.options = options


class ModelFileError(KaldiUqError):
    """A model file is missing, damaged, or does not fit what it is used with."""


class EngineError(KaldiUqError):
    """The engine (wheels or Kaldi binaries) is missing, broken, or failed at an operation."""


class AlignmentError(KaldiUqError):
    """An utterance cannot be aligned with a text: too short for it, or no path survives the beam."""


class UsageError(KaldiUqError):
    """An option or an argument of a command has a value that cannot work."""


class LostWorkerError(KaldiUqError):
    """Another process of a training that several processes share has ended, or cannot be reached."""


class WorkerError(KaldiUqError):
    """A process that this one has started, to share its work, has ended without a result."""


class MissingDependencyError(KaldiUqError):
    """An optional package is needed for this operation; the message names the command that installs it."""


def one_line(message: str) -> str:
    r"""A message as one :func:`printable` line; of a very long one the middle is left out.

    >>> one_line("a.conf:1:\n  unknown option --dit\x07her")
    'a.conf:1: unknown option --dit\\x07her'
    """
    line = printable(re.sub(r"\s*\n\s*", " ", message.strip()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - _END]} ... {line[-_END:]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a name that does not exist: the nearest one that does, or nothing if none is near.

    >>> did_you_mean("entropie", ["entropy", "variance"]), did_you_mean("x", ["entropy"])
    ("; did you mean 'entropy'?", '')
    """
    from difflib import get_close_matches  # only where something is wrong

    def plain(name: str) -> str:
        return name.lower().lstrip("-").replace("_", "-")

    names = {plain(name): name for name in known}
    near = get_close_matches(plain(word[:100]), names, n=1, cutoff=0.6)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def printable(text: str) -> str:
    r"""Text with names and words of strangers as one line that does nothing to a terminal.

    A file name may hold escape sequences that recolour, overwrite or retitle, and line ends that look like further
    output.  Such characters become escapes; bytes of a name that are not UTF-8 become ``\xNN``.

    >>> printable("a\x1b[2Jb\n.wav"), printable("a\udcff \u202ewav")
    ('a\\x1b[2Jb\\x0a.wav', 'a\\xff \\u202ewav')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(char) if char in _TURNING or unicodedata.category(char) in _UNPRINTABLE else char for char in text
    )


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as Python keeps it in the name of a file
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
