"""Kaldi archives through ``kaldi-io``: matrices and alignments; text or binary, plain, compressed or ``.gz``.

The import of ``kaldi_io`` prints a banner and changes ``KALDI_ROOT`` and ``PATH``; this is the one module
that imports it, and it undoes both.  Files are opened here and handed over open, because ``kaldi_io`` would run a file
name that ends in ``|`` as a shell command.  What it does not read, or not exactly, is read here: two of the three
compressed formats, text in double precision, vectors of integers as text.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.compressed import FORMATS, compress, read_compressed
from kaldi_uq.io.datadir import write_table
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.reading import read_up_to
from kaldi_uq.io.rxfile import open_rxfile, split_range, take_range


def _import_kaldi_io() -> ModuleType:
    saved = {name: os.environ.get(name) for name in ("KALDI_ROOT", "PATH")}
    with contextlib.redirect_stderr(io.StringIO()):
        import kaldi_io.kaldi_io as module
    for name, value in saved.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return module


kaldi_io = _import_kaldi_io()

# exceptions of kaldi_io at a damaged archive
_DAMAGED = (
    ArithmeticError, AssertionError, EOFError, IndexError, OSError, UnicodeDecodeError, ValueError, TypeError,
    struct.error, kaldi_io.BadInputFormat, kaldi_io.BadSampleSize, kaldi_io.UnknownMatrixHeader,
    kaldi_io.UnsupportedDataType,
)  # fmt: skip


def _said(error: Exception) -> str:
    """The message of an exception in one line; those of ``kaldi_io`` quote bytes of the file."""
    return " ".join(str(error).split()) or type(error).__name__


class _Replay:
    """A stream whose first bytes were read already; ``kaldi_io`` asks for its mode and wants text."""

    mode = "rb"

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        # numbers of NumPy would overflow; a damaged header promises more than there is
        return head + read_up_to(self._stream, int(size) - len(head)) if size != len(head) else head


def _text(head: bytes, stream: IO[bytes]) -> list[list[float]]:
    """The rows of numbers between brackets, and what is left of the last line."""
    lines = [head]
    while b"]" not in lines[-1]:
        lines.append(stream.readline())
        if not lines[-1]:
            raise EOFError("no closing bracket")
    inner, _, rest = b"".join(lines).partition(b"]")
    before, bracket, inner = inner.partition(b"[")
    if before.strip() or not bracket or rest.strip():
        raise ValueError("expected '[ numbers ]'")
    return [[float(value) for value in row.split()] for row in inner.split(b"\n") if row.strip()]


def _matrix(stream: IO[bytes]) -> np.ndarray:
    head = stream.read(2)
    if head != b"\0B":
        rows = _text(head, stream)
        return np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 0)
    token = stream.read(3)
    if token in (b"CM2", b"CM3"):
        token += stream.read(1)
    if token in FORMATS:
        return read_compressed(stream, token)
    return np.asarray(kaldi_io.read_mat(_Replay(head + token, stream)))


def _int_vector(stream: IO[bytes]) -> np.ndarray:
    head = stream.read(1)
    if head == b"\0":
        head += stream.read(1)
        if head != b"\0B":
            raise ValueError("no binary header")
        return np.asarray(kaldi_io.read_vec_int(_Replay(head, stream)), dtype=np.int32)
    line = head if head == b"\n" else head + stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the last line has no end")
    return np.array([int(value) for value in re.sub(rb"^\s*\[|\]\s*$", b"", line).split()], dtype=np.int32)


_READERS: dict[str, Callable[[IO[bytes]], np.ndarray]] = {
    "matrix": _matrix,
    "int vector": _int_vector,
}


def _read(kind: str, rxfilename: str, where: str, allow_pipes: bool) -> np.ndarray:
    name, part = split_range(rxfilename)
    with open_rxfile(name, where=where, allow_pipes=allow_pipes) as stream:
        try:
            with np.errstate(over="raise"):  # a damaged header's rows times columns
                values = _READERS[kind](stream)
        except _DAMAGED as error:
            place = f" ({where})" if where else ""
            raise DataError(
                f"{rxfilename}: damaged archive, or no {kind} ({_said(error)}); make it again{place}"
            ) from None
    try:
        return take_range(values, part) if part else values
    except ValueError as error:
        raise DataError(f"{where or rxfilename}: {error}") from None


def read_matrix(
    rxfilename: str, *, dtype: type[np.floating] = np.float32, where: str = "", allow_pipes: bool = False
) -> np.ndarray:
    """Read one matrix, (T, D).

    Args:
        rxfilename: a file, ``file.ark:offset``, or a pipe; ``[first:last]`` behind it for some rows.
        dtype: type of the numbers of the result.
        where: file and line that the name comes from, for messages.
        allow_pipes: run a pipe.

    Raises:
        DataError: no such file, a damaged one, or a pipe that is not allowed or fails.
    """
    return np.asarray(_read("matrix", rxfilename, where, allow_pipes), dtype=dtype)


def read_archive(path: str | os.PathLike[str], kind: str = "matrix") -> Iterator[tuple[str, np.ndarray]]:
    """Read an archive from its beginning to its end, without a table.

    Args:
        path: the archive; ``.gz`` is unpacked.
        kind: ``"matrix"`` or ``"int vector"``.

    Yields:
        (key, values) with the numbers as precise as in the file.

    Raises:
        DataError: missing or damaged.
    """
    with open_rxfile(str(path)) as stream:
        try:
            with np.errstate(over="raise"):
                while key := kaldi_io.read_key(_Replay(b"", stream)):
                    # kaldi_io takes every byte for a character
                    yield key.encode("latin1").decode(), _READERS[kind](stream)
        except _DAMAGED as error:
            raise DataError(f"{path}: damaged archive ({_said(error)}); make it again") from None


class MatrixWriter:
    """Write matrices to ``ark`` and their offsets to ``scp``; both appear, whole, when the block ends.

    Args:
        ark: the archive; the ``scp`` names it as given here.
        scp: the table of offsets.
        compressed: write Kaldi's format for speech features, a byte a value.
    """

    def __init__(self, ark: str | os.PathLike[str], scp: str | os.PathLike[str], *, compressed: bool = False) -> None:
        self._ark, self._scp = Path(ark), Path(scp)
        self._compressed = compressed
        self._table: dict[str, str] = {}
        self._context: Any = None

    def __enter__(self) -> MatrixWriter:
        self._context = atomic_write(self._ark, "wb")
        self._stream = self._context.__enter__()
        return self

    def write(self, key: str, matrix: np.ndarray) -> None:
        """Append one (T, D) matrix, float32 (or float64, as CMVN statistics are)."""
        if matrix.ndim != 2 or matrix.dtype not in (np.float32, np.float64):
            raise TypeError(f"{key}: matrix must be (T, D) float32 or float64, got {matrix.shape} {matrix.dtype}")
        self._stream.write(f"{key} ".encode())
        self._table[key] = f"{self._ark}:{self._stream.tell()}"
        if self._compressed:
            self._stream.write(b"\0B" + compress(matrix))
        else:
            kaldi_io.write_mat(_Unclosed(self._stream), matrix)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)
        if kind is None:
            write_table(self._scp, self._table)


class _Unclosed:
    """``kaldi_io`` closes what it wrote to when no key is given; the archive goes on."""

    mode = "wb"

    def __init__(self, stream: IO[bytes]) -> None:
        self.write = stream.write

    def close(self) -> None:
        pass


def write_alignments(path: str | os.PathLike[str], alignments: Mapping[str, np.ndarray]) -> None:
    """Write ``ali.N.gz``: int32 vectors, binary, gzipped without a time stamp, so that equal content is equal bytes."""
    with atomic_write(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as stream:
        for key, alignment in alignments.items():
            values = np.asarray(alignment, dtype=np.int32)
            stream.write(f"{key} ".encode() + b"\0B\4" + struct.pack("<i", len(values)))
            packed = np.empty(len(values), dtype=[("size", "i1"), ("value", "<i4")])
            packed["size"], packed["value"] = 4, values
            stream.write(packed.tobytes())


def read_alignments(directory: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read every ``ali.*.gz`` of a directory.

    Returns:
        utt -> (T,) int32 transition-ids.

    Raises:
        DataError: there are none, one is damaged, or two have the same utterance.
    """
    paths = sorted(Path(directory).glob("ali.*.gz"))
    if not paths:
        raise DataError(f"{directory}: no ali.*.gz; steps/align_si.sh makes them")
    alignments: dict[str, np.ndarray] = {}
    for path in paths:
        for key, alignment in read_archive(path, "int vector"):
            if key in alignments:
                raise DataError(f"{path}: utterance {key!r} is in another archive too; remove those of an earlier run")
            alignments[key] = alignment
    return alignments
