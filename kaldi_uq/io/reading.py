"""Reading: the one opener of every file that this package is given, and the one decoder of every text.

**Files** are regular ones: a table of a stranger may name ``/dev/zero``, which never ends.  ``.gz`` is unpacked.  What
is read is as long as the file, whatever a header in it promises.  Every problem is one message that names the file.

**Text** is UTF-8.  What can mean only one thing is taken as it is meant; anything else is refused with its line:

* a byte order mark at the beginning of the file is dropped; one further on is refused (files were joined);
* lines end in LF or CR LF; a CR elsewhere is refused;
* blanks and tabs separate fields, any number of them, as for Kaldi;
* other blanks (no-break and ideographic spaces, form feeds, line separators) are refused: Kaldi takes most of them for
  letters, so that ``one<no-break space>two`` would be a word; only the names of files in an ``.scp`` may have them;
* characters without a width, such as the joiners of Persian and Hindi, are letters; NUL is refused.

Kaldi's own programs take a byte order mark and a CR for a part of a word.  ``kaldi-uq validate-data`` therefore refuses
both in a data directory (:func:`check_for_kaldi`), and ``kaldi-uq fix-data`` removes them.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import shlex
import stat
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kaldi_uq.errors import DataError, KaldiUqError

PathLike = str | os.PathLike[str]

# No text or archive of speech shrinks by more; a compressed bomb does, by about 1000.  Small files may be anything.
MAX_RATIO, ALWAYS_UNPACKED = 250, 1 << 26
_PIECE = 1 << 20  # bytes that are read at once

# all that Python takes for a blank, but for the blank, the tab and the line end; NUL, and marks of the byte order
_FOREIGN = re.compile("[\0\ufeff\r\x0b\x0c\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_FOREIGN_IN_NAMES = re.compile("[\0\r]")
_KINDS = {
    stat.S_ISDIR: "a directory", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device", stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
}  # fmt: skip


def open_file(
    path: PathLike,
    *,
    hint: str = "",
    error: type[KaldiUqError] = DataError,
    allow_fifo: bool = False,
    unpack: bool = True,
) -> IO[bytes]:
    """Open a file for reading.

    Args:
        path: the file; ``.gz`` is unpacked.
        hint: end of every message, such as ``" (wav.scp:3)"`` or ``"; steps/make_mfcc.sh makes it"``.
        error: class of the errors.
        allow_fifo: a pipe with a name is allowed too, as the shell makes of ``<(command)``.
        unpack: unpack ``.gz``.

    Raises:
        KaldiUqError: there is no such file, it cannot be opened, or it is none; of the class ``error``.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not (allow_fifo and stat.S_ISFIFO(mode)):
            kind = next((name for is_kind, name in _KINDS.items() if is_kind(mode)), "something else")
            raise error(f"{path}: {kind}, expected a regular file{hint}")
        stream = open(path, "rb")
    except FileNotFoundError:
        raise error(f"{path}: no such file{hint}") from None
    except OSError as problem:
        raise error(f"{path}: {problem.strerror}{hint}") from None
    except ValueError:  # a NUL
        raise error(f"{os.fspath(path)!r}: no name of a file{hint}") from None
    packed = unpack and os.fspath(path).endswith(".gz")
    return io.BufferedReader(_Unpacked(stream, path, error)) if packed else stream


class _Unpacked(io.RawIOBase):
    """What a gzipped file holds; damage is an error that names the file."""

    def __init__(self, packed: IO[bytes], path: PathLike, error: type[KaldiUqError]) -> None:
        self._packed, self._path, self._error = packed, path, error
        self._stream = gzip.GzipFile(fileobj=packed)
        self._most = max(ALWAYS_UNPACKED, MAX_RATIO * os.fstat(packed.fileno()).st_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._guarded(lambda: self._stream.read(len(buffer)))
        buffer[: len(data)] = data
        if self._stream.tell() > self._most:
            raise self._error(f"{self._path}: unpacks to more than {MAX_RATIO} times its size: not speech, nor text")
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._guarded(lambda: self._stream.seek(offset, whence)))

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
        self._packed.close()
        super().close()

    def _guarded(self, step: Any) -> Any:
        try:
            return step()
        except (OSError, EOFError, zlib.error) as problem:
            raise self._error(f"{self._path}: damaged gzip file ({problem}); make or copy it again") from None


def read_up_to(stream: IO[bytes], size: int) -> bytes:
    """The next ``size`` bytes, or fewer at the end, in memory for no more than there are.

    Raises:
        ValueError: the size is negative.
    """
    if size < 0:
        raise ValueError(f"a size of {size} bytes")
    pieces = []
    while size and (piece := stream.read(min(size, _PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def take(stream: IO[bytes], size: int) -> bytes:
    """The next ``size`` bytes.

    Raises:
        ValueError: there are fewer, or the size is negative.
    """
    data = read_up_to(stream, size)
    if len(data) != size:
        raise ValueError(f"{len(data)} of {size} bytes")
    return data


def read_bytes(path: PathLike, *, hint: str = "", error: type[KaldiUqError] = DataError) -> bytes:
    """The contents of a file; see :func:`open_file`."""
    with open_file(path, hint=hint, error=error) as stream:
        return stream.read()


def text_lines(
    path: PathLike,
    *,
    hint: str = "",
    error: type[KaldiUqError] = DataError,
    whole: bool = False,
    of_names: bool = False,
) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, without their ends; the rules are those of this module.

    Args:
        path: the file; ``.gz`` is unpacked.
        hint: end of the message that there is no such file.
        error: class of the errors.
        whole: a last line without its end is an error: the file was cut off.
        of_names: a table of file names, which may have any blanks; its keys are not looked at.

    Raises:
        KaldiUqError: no such file, or a line that is not plain text; of the class ``error``.
    """
    foreign = _FOREIGN_IN_NAMES if of_names else _FOREIGN
    with open_file(path, hint=hint, error=error, allow_fifo=True) as stream:
        for number, raw in enumerate(stream, 1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as problem:
                raise error(f"{path}:{number}: not UTF-8 ({_encoding(raw, problem.start, path)})") from None
            if whole and line[-1:] != "\n":
                raise error(f"{path}:{number}: the last line has no line end: the file is cut off; write it again")
            line = line.removesuffix("\n").removesuffix("\r")
            if found := foreign.search(line):
                raise error(f"{path}:{number}: {_describe(line, found.start(), path)}")
            yield number, line


def _encoding(raw: bytes, at: int, path: PathLike) -> str:
    """What a file that is not UTF-8 may be, and how to convert it."""
    code = "UTF-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "ISO-8859-1"
    return f"byte 0x{raw[at]:02x}; convert the file, perhaps with iconv -f {code} -t UTF-8 {shlex.quote(str(path))}"


def foreign_character(text: str, path: PathLike) -> str:
    r"""What is to be said of the first character that no text may have; empty if there is none.

    Args:
        text: a part of a line.
        path: the file, for the command that mends it.

    >>> foreign_character("one\u00a0two", "text")
    "U+00A0 (no-break space) after 'one' is no blank for Kaldi; replace it: sed -i 's/\\xc2\\xa0/ /g' text"
    >>> foreign_character("one two", "text")
    ''
    """
    found = _FOREIGN.search(text)
    return _describe(text, found.start(), path) if found else ""


def _describe(text: str, at: int, path: PathLike) -> str:
    """What is to be said of a character, and how to replace it."""
    file = shlex.quote(str(path))
    char, code = text[at], "".join(f"\\x{byte:02x}" for byte in text[at].encode())
    place = f"U+{ord(char):04X} ({unicodedata.name(char, 'control character').lower()}) after {text[:at][-20:]!r}"
    if char == "\0":
        return f"{place}: no text, or UTF-16; convert the file to UTF-8"
    if char == "\ufeff":
        return f"{place}: a byte order mark inside: files were joined; remove it: sed -i 's/{code}//g' {file}"
    return f"{place} is no blank for Kaldi; replace it: sed -i 's/{code}/ /g' {file}"


def split_key(line: str) -> tuple[str, str]:
    """The key of a line of a table, and the rest without the blanks around it.

    >>> split_key("u1 \\t one  two "), split_key("u1")
    (('u1', 'one  two'), ('u1', ''))
    """
    line = line.strip(" \t")
    if "\t" in line:
        key, *rest = re.split("[ \t]+", line, maxsplit=1)
        return key, "".join(rest)
    key, _, value = line.partition(" ")
    return key, value.lstrip(" ")


def check_for_kaldi(path: Path, remedy: str) -> None:
    """Refuse what this package reads as it is meant, and Kaldi's own programs take for a part of a word.

    Args:
        path: a text file.
        remedy: what to do, end of the message.

    Raises:
        DataError: a byte order mark, or a line that ends in CR LF.
    """
    for number, raw in enumerate(read_bytes(path).split(b"\n"), 1):
        if number == 1 and raw.startswith(codecs.BOM_UTF8):
            raise DataError(f"{path}:1: a byte order mark, which Kaldi takes for a part of the first key; {remedy}")
        if raw.endswith(b"\r"):
            raise DataError(f"{path}:{number}: the line ends in CR LF, and Kaldi takes CR for text; {remedy}")
