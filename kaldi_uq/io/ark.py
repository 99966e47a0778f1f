"""Kaldi archives through ``kaldi-io``: matrices and alignments, with offsets, text or binary, plain or ``.gz``.

The import of ``kaldi_io`` prints a banner and changes ``KALDI_ROOT`` and ``PATH``; this is the one module
that imports it, and it undoes both.  Files are opened here and handed over open, because ``kaldi_io`` would run a file
name that ends in ``|`` as a shell command.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.compressed import FORMATS, read_compressed
from kaldi_uq.io.datadir import read_table, write_table
from kaldi_uq.io.files import atomic_write


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

# what kaldi_io raises on a damaged archive
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    EOFError,
    IndexError,
    MemoryError,
    OSError,
    UnicodeDecodeError,
    ValueError,
    TypeError,
    struct.error,
    zlib.error,
    kaldi_io.BadInputFormat,
    kaldi_io.BadSampleSize,
    kaldi_io.UnknownMatrixHeader,
    kaldi_io.UnknownVectorHeader,
    kaldi_io.UnsupportedDataType,
)


def _open(name: str) -> IO[bytes]:
    if name.endswith("|") or name.startswith("|"):
        raise DataError(f"{name!r}: a pipe where a file is expected; write the archive to a file first")
    try:
        return gzip.open(name, "rb") if name.endswith(".gz") else open(name, "rb")  # type: ignore[return-value]
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None


def read_matrix(rxfilename: str, *, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """Read one matrix, (T, D), from ``file.ark:offset`` (or a file that holds one matrix)."""
    name, _, offset = rxfilename.rpartition(":")
    if not name or not offset.isdigit():
        name, offset = rxfilename, "0"
    with _open(name) as stream:
        stream.seek(int(offset))
        try:
            head = stream.read(6)
            token = next((t for t in FORMATS if head.startswith(b"\0B" + t)), None)
            stream.seek(int(offset) + (2 + len(token) if token else 0))
            with np.errstate(over="raise"):  # a damaged header's rows times columns
                return np.asarray(read_compressed(stream, token) if token else kaldi_io.read_mat(stream), dtype=dtype)
        except _DAMAGED as error:
            raise DataError(f"{rxfilename}: damaged archive ({error}); make it again") from None


def read_matrices(scp: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray]]:
    """Read the matrices of a ``feats.scp`` in its order."""
    for key, rxfilename in scp.items():
        yield key, read_matrix(rxfilename)


class MatrixWriter:
    """Write matrices to ``ark`` and their offsets to ``scp``; both appear, whole, when the block ends.

    Args:
        ark: the archive; the ``scp`` names it as given here.
        scp: the table.
    """

    def __init__(self, ark: str | os.PathLike[str], scp: str | os.PathLike[str]) -> None:
        self._ark, self._scp = Path(ark), Path(scp)
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
        DataError: there are none, or one is damaged.
    """
    paths = sorted(Path(directory).glob("ali.*.gz"))
    if not paths:
        raise DataError(f"{directory}: no ali.*.gz; steps/align_si.sh makes them")
    alignments: dict[str, np.ndarray] = {}
    for path in paths:
        with _open(str(path)) as stream:
            try:
                with np.errstate(over="raise"):  # a damaged header's length times 5
                    while key := kaldi_io.read_key(_Mode(stream)):
                        key = key.encode("latin1").decode()  # kaldi_io takes every byte for a character
                        alignments[key] = np.asarray(kaldi_io.read_vec_int(stream), dtype=np.int32)
            except _DAMAGED as error:
                raise DataError(f"{path}: damaged archive ({error}); make the alignments again") from None
    return alignments


class _Mode:
    """A reader that says it is binary: ``gzip`` streams carry a number as their mode, which ``kaldi_io`` refuses."""

    mode = "rb"

    def __init__(self, stream: IO[bytes]) -> None:
        self.read = stream.read


def read_feats_scp(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a ``feats.scp``; pipes are refused when they are opened."""
    return read_table(path)
