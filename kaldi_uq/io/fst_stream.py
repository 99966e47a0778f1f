"""The bytes of OpenFst's binary files: headers, names, arrays; every size is compared with what is there.

Source of the format: OpenFst ``fst.h`` (FstHeader), ``symbol-table.h``.
"""

from __future__ import annotations

import os
import struct

import numpy as np

from kaldi_uq.errors import DataError

MAGIC = 2125659606
_SYMBOLS_MAGIC = 2125658996
_HAS_INPUT_SYMBOLS, _HAS_OUTPUT_SYMBOLS, IS_ALIGNED = 1, 2, 4
_KNOWN_FLAGS = _HAS_INPUT_SYMBOLS | _HAS_OUTPUT_SYMBOLS | IS_ALIGNED
_EXPANDED, _MUTABLE = 1, 2  # the properties of every FST of type vector
_VECTOR_VERSION = 2
_ALIGNMENT = 16  # bytes
_MAX_NAME = 1 << 16  # bytes of a name; a longer one is damage


class FstStream:
    """What is read of a file, from memory.

    Args:
        data: contents of the file.
        path: name of the file, for messages.
        kind: what it should be, for messages.

    Attributes:
        data: the argument.
        at: place of the next byte.
    """

    def __init__(self, data: bytes, path: str | os.PathLike[str], kind: str = "an FST file") -> None:
        self.data, self.path, self.kind, self.at = data, path, kind, 0

    def fail(self, message: str) -> DataError:
        return DataError(f"{self.path}: not {self.kind}, or a damaged one: {message}; make it again")

    def fail_here(self, message: str) -> DataError:
        return self.fail(f"{message} at byte {self.at}")

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise self.fail_here("unexpected end")
        self.at += size
        return self.data[self.at - size : self.at]

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def name(self) -> str:
        (size,) = self.unpack("i")
        if not 0 <= size <= _MAX_NAME:
            raise self.fail_here(f"a name of {size} bytes")
        return self.take(size).decode("utf-8", "replace")

    def array(self, dtype: np.dtype, count: int) -> np.ndarray:
        return np.frombuffer(self.take(dtype.itemsize * count), dtype)

    def align(self) -> None:
        self.take(-self.at % _ALIGNMENT)

    def types(self) -> tuple[str, str]:
        """The first half of a header: the type of the FST, and that of its arcs."""
        (magic,) = self.unpack("i")
        if magic != MAGIC:
            raise self.fail("no FST header")
        return self.name(), self.name()

    def sizes(self, versions: tuple[int, ...] = (_VECTOR_VERSION,)) -> tuple[int, ...]:
        """The second half of a header, and the symbol tables behind it.

        Returns:
            version, flags, initial state, number of states, number of arcs.
        """
        version, flags, _, start, num_states, num_arcs = self.unpack("iiQqqq")
        if version not in versions or flags & ~_KNOWN_FLAGS:
            raise self.fail(f"version {version} of its type with flags {flags}")
        for flag in (_HAS_INPUT_SYMBOLS, _HAS_OUTPUT_SYMBOLS):
            if flags & flag:
                self._skip_symbols()
        return version, flags, start, num_states, num_arcs

    def _skip_symbols(self) -> None:
        """Pass over a symbol table: what the labels mean is what ``words.txt`` and ``phones.txt`` say."""
        (magic,) = self.unpack("i")
        if magic != _SYMBOLS_MAGIC:
            raise self.fail_here("expected a symbol table")
        self.name()
        _, size = self.unpack("qq")
        if size < 0:
            raise self.fail_here(f"a symbol table of {size} symbols")
        for _ in range(size):  # ends with the file at the latest
            self.name()
            self.unpack("q")


def vector_header(arc_type: str, start: int, num_states: int, num_arcs: int) -> bytes:
    """The header of a file of type ``vector`` without symbol tables, without properties that a reader would believe."""
    head = struct.pack("<i", MAGIC)
    for name in ("vector", arc_type):
        head += struct.pack("<i", len(name)) + name.encode()
    return head + struct.pack("<iiQqqq", _VECTOR_VERSION, 0, _EXPANDED | _MUTABLE, start, num_states, num_arcs)
