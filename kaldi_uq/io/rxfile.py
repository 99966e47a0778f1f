"""Kaldi's "rxfilenames": a file, ``foo.ark:123``, ``foo.gz``, a pipe, and ``foo.ark:123[0:10]``, a part of a matrix.

Source: Kaldi ``src/util/kaldi-io.cc``, ``src/util/kaldi-holder.cc`` (ranges).
"""

from __future__ import annotations

import io
import os
import re
from typing import IO

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.commands import decoding_of
from kaldi_uq.io.pipes import MAX_OUTPUT, is_pipe, read_pipe
from kaldi_uq.io.reading import open_file

ROW_TOLERANCE = 3  # rows that a range may reach beyond the end, because times are rounded


def split_range(rxfilename: str) -> tuple[str, str]:
    """Split an rxfilename from the range behind it, which is empty if none is there.

    >>> split_range("feats.ark:17[0:10,2:3]"), split_range("feats.ark:17")
    (('feats.ark:17', '0:10,2:3'), ('feats.ark:17', ''))
    """
    if not rxfilename.endswith("]"):
        return rxfilename, ""
    name, bracket, inner = rxfilename[:-1].partition("[")
    return (name, inner) if name and bracket and inner and "[" not in inner else (rxfilename, "")


def take_range(matrix: np.ndarray, text: str) -> np.ndarray:
    """The rows, or rows and columns, of a range; both ends belong to it.

    Args:
        matrix: matrix, (T, D).
        text: the range, ``first:last`` of rows, and perhaps ``,first:last`` of columns; ``:`` for all.

    Raises:
        ValueError: not a range, or not within the matrix.

    >>> take_range(np.arange(6).reshape(3, 2), "1:2,0:0").tolist()
    [[2], [4]]
    """
    parts = text.split(",")
    if not 1 <= len(parts) <= 2:
        raise ValueError(f"range [{text}]: expected [first:last] or [first:last,first:last]")
    slices = []
    for part, size, tolerance in zip(parts, matrix.shape, (ROW_TOLERANCE, 0), strict=False):
        try:
            first, last = (0, size - 1) if part == ":" else (int(value) for value in part.split(":"))
        except ValueError:
            raise ValueError(f"range [{text}]: expected [first:last] or [first:last,first:last]") from None
        if not 0 <= first <= last < size + tolerance or first >= size:
            raise ValueError(f"range [{text}] is not in a matrix of {matrix.shape[0]} rows, {matrix.shape[1]} columns")
        slices.append(slice(first, last + 1))
    return matrix[tuple(slices)]


def open_rxfile(
    rxfilename: str, *, where: str = "", allow_pipes: bool = False, max_bytes: int | None = None
) -> IO[bytes]:
    """Open an rxfilename without range, at its offset.

    Args:
        rxfilename: file, ``file:offset`` or pipe; ``.gz`` files are unpacked, and their offsets count unpacked bytes.
            ``cat FILE |`` and ``gunzip -c FILE |`` are read as the file, without leave.
        where: file and line that the name comes from, for messages.
        allow_pipes: run a pipe.
        max_bytes: the most that a pipe may write.

    Raises:
        DataError: no such file, no regular one, none that long, or a pipe that is not allowed or fails.
    """
    hint = f" ({where})" if where else ""
    decoding = decoding_of(rxfilename)
    if decoding and decoding.of_bytes:
        return open_file(decoding.file, hint=hint, unpack=decoding.program == "gunzip")
    if is_pipe(rxfilename):
        limit = MAX_OUTPUT if max_bytes is None else max_bytes
        return io.BytesIO(read_pipe(rxfilename, where=where or "input", allow_pipes=allow_pipes, max_bytes=limit))
    name, offset = split_offset(rxfilename)
    stream = open_file(name, hint=hint)
    if offset:
        if not name.endswith(".gz") and offset > os.fstat(stream.fileno()).st_size:
            stream.close()
            raise DataError(f"{rxfilename}: the file ends before this place; make table and archive again{hint}")
        stream.seek(offset)
    return stream


def split_offset(rxfilename: str) -> tuple[str, int]:
    """The file of an rxfilename that is no pipe, and the place in it.

    >>> split_offset("feats.ark:17"), split_offset("a.wav")
    (('feats.ark', 17), ('a.wav', 0))
    """
    name, _, offset = rxfilename.rpartition(":")
    if not name or not re.fullmatch("[0-9]{1,18}", offset) or os.path.isfile(rxfilename):
        return rxfilename, 0
    return name, int(offset)
