"""Arrays on disk that are too many for the memory, in files that no killed process leaves behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np


class Spool(Mapping[str, np.ndarray]):
    """Arrays by name in a temporary file of ``TMPDIR``, which has no name itself and ends with this object.

    >>> spool = Spool()
    >>> spool.put("a", np.array([1, 2], dtype=np.int16))
    >>> spool["a"].tolist()
    [1, 2]
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._places: dict[str, tuple[int, tuple[int, ...], np.dtype]] = {}
        self._end = 0

    def put(self, key: str, values: np.ndarray) -> None:
        """Append an array, of any shape and type; an earlier one of the same name is forgotten.

        Raises:
            OSError: the disk is full; names the directory.
        """
        data = np.ascontiguousarray(values)
        try:
            self._file.write(data.data)
            self._file.flush()
        except OSError as error:
            error.filename = tempfile.gettempdir()
            raise
        self._places[key] = self._end, data.shape, data.dtype
        self._end += data.nbytes

    def __del__(self) -> None:
        self._file.close()

    def __getitem__(self, key: str) -> np.ndarray:
        start, shape, dtype = self._places[key]
        values = np.empty(shape, dtype)
        view = values.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):  # one call reads 2 GB at most
            done += os.preadv(self._file.fileno(), [view[done:]], start + done)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places


def mapped_array(shape: tuple[int, ...], directory: str | os.PathLike[str]) -> np.ndarray:
    """A float32 array of zeros in a file of a directory, which has no name and ends with the array.

    Raises:
        OSError: the disk has no room for all of it; names the directory.
    """
    if not np.prod(shape):
        return np.zeros(shape, np.float32)
    with allocated_file(shape, directory) as file:
        return np.memmap(file, np.float32, "r+", shape=shape)


@contextlib.contextmanager
def allocated_file(shape: tuple[int, ...], directory: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file without a name in a directory, with room for a float32 array; Raises as of :func:`mapped_array`."""
    with tempfile.TemporaryFile(dir=directory) as file:
        try:
            # later, through the map, a full disk would end the process
            os.posix_fallocate(file.fileno(), 0, 4 * int(np.prod(shape)))
        except OSError as error:
            error.filename = os.fspath(directory)
            raise
        yield file
