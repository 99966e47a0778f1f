"""Kaldi's token streams, binary and text: what its model files are made of.

Source of the format: Kaldi ``src/base/io-funcs.cc``, ``src/matrix/kaldi-vector.cc``, ``kaldi-matrix.cc``.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from kaldi_uq.errors import ModelFileError


class TokenReader:
    """Kaldi's token stream, binary or text, from memory.

    Args:
        data: contents of the file.
        path: name of the file, for messages.
        kind: kind of file that is expected, for messages.
    """

    def __init__(self, data: bytes, path: Path, kind: str = "a model of Kaldi's GMM format") -> None:
        self.path, self.data, self.kind, self.at = path, data, kind, 0
        self.binary = data[:2] == b"\0B"
        if self.binary:
            self.at = 2

    def fail(self, message: str) -> ModelFileError:
        return ModelFileError(f"{self.path}: not {self.kind}, or damaged: {message} at byte {self.at}")

    def token(self) -> str:
        data, at = self.data, self.at
        while at < len(data) and not self.binary and data[at : at + 1].isspace():
            at += 1
        end = at
        while end < len(data) and not data[end : end + 1].isspace() and end - at < 64:
            end += 1
        if (end >= len(data) and self.binary) or at == end:
            raise self.fail("unexpected end")
        self.at = end + 1
        try:
            return data[at:end].decode("ascii")
        except UnicodeDecodeError:
            raise self.fail("a token is not text") from None

    def expect(self, *tokens: str) -> str:
        found = self.token()
        if found not in tokens:
            raise self.fail(f"expected {' or '.join(tokens)}, found {found!r}")
        return found

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise self.fail("unexpected end")
        self.at += size
        return self.data[self.at - size : self.at]

    def rest(self) -> bytes:
        """What has not been read."""
        return self.data[self.at :]

    def number(self, kind: str) -> float:
        if not self.binary:
            found = self.token()
            try:
                return float(found)
            except ValueError:
                raise self.fail(f"expected a number, found {found!r}") from None
        if self.take(1) != b"\4":
            raise self.fail("expected a 4-byte number")
        return float(struct.unpack("<" + kind, self.take(4))[0])

    def integer(self, low: int = -(2**31), high: int = 2**31 - 1) -> int:
        """A 4-byte integer within these bounds."""
        value = self.number("i")
        if not value.is_integer() or not low <= value <= high:  # false for NaN and infinity, too
            raise self.fail(f"expected an integer from {low} to {high}, found {value}")
        return int(value)

    def unsigned(self) -> int:
        """An unsigned 4-byte integer."""
        if not self.binary:
            return self.integer(0, 2**32 - 1)
        if self.take(1) != b"\xfc":
            raise self.fail("expected an unsigned 4-byte number")
        return int(struct.unpack("<I", self.take(4))[0])

    def real(self) -> float:
        """A number in single precision, as Kaldi holds it, so that text and binary files give the same one."""
        with np.errstate(over="ignore"):
            return float(np.float32(self.number("f")))

    def integers(self) -> tuple[int, ...]:
        if not self.binary:
            end = self.data.find(b"]", self.at)
            words = self.data[self.at : end].split()
            if end < 0 or words[:1] != [b"["]:
                raise self.fail("expected '[ integers ]'")
            self.at = end + 1
            try:
                values = tuple(int(word) for word in words[1:])
            except ValueError as error:
                raise self.fail(f"malformed integers ({error})") from None
            if any(not -(2**31) <= value < 2**31 for value in values):  # NumPy 1 takes them, without upper bits
                raise self.fail("malformed integers (more than four bytes)")
            return values
        if self.take(1) != b"\4":
            raise self.fail("expected a vector of 4-byte integers")
        size = struct.unpack("<i", self.take(4))[0]
        return tuple(int(v) for v in np.frombuffer(self.take(4 * size), "<i4"))

    def array(self, num_axes: int) -> np.ndarray:
        if self.binary:
            kind = self.expect("FV", "DV") if num_axes == 1 else self.expect("FM", "DM")
            shape = [self.integer() for _ in range(num_axes)]
            if min(shape) < 0:
                raise self.fail(f"a dimension is {min(shape)}")
            dtype = "<f4" if kind[0] == "F" else "<f8"
            values = np.frombuffer(self.take(math.prod(shape) * int(dtype[2])), dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                return values.reshape(shape).astype(np.float32)
        end = self.data.find(b"]", self.at)
        text = self.data[self.at : end].decode("ascii", "replace").strip()
        if end < 0 or not text.startswith("["):
            raise self.fail("expected '[ ... ]'")
        self.at = end + 1
        try:
            rows = [[float(v) for v in line.split()] for line in text[1:].split("\n") if line.split()]
            return np.array(rows[0] if num_axes == 1 else rows, dtype=np.float32)
        except (ValueError, IndexError) as error:
            raise self.fail(f"malformed numbers ({error})") from None


def int_bytes(value: int) -> bytes:
    """A 4-byte integer, binary."""
    return b"\4" + struct.pack("<i", value)


def unsigned_bytes(value: int) -> bytes:
    """An unsigned 4-byte integer, binary."""
    return b"\xfc" + struct.pack("<I", value)


def int_vector(values: tuple[int, ...]) -> bytes:
    """A vector of 4-byte integers, binary."""
    return b"\4" + struct.pack("<i", len(values)) + np.asarray(values, "<i4").tobytes()


def array_bytes(values: np.ndarray) -> bytes:
    """A vector or a matrix in single precision, binary."""
    kind = b"FV " if values.ndim == 1 else b"FM "
    return kind + b"".join(int_bytes(n) for n in values.shape) + np.ascontiguousarray(values, "<f4").tobytes()
