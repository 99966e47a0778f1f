"""Audio files of other containers than WAV that libsndfile decodes: AIFF, Sun AU, Apple CAF, Sony Wave64.

libsndfile reads what there is of a file that is cut off and says nothing, so that the lengths in the headers are
checked here.

Source: Audio Interchange File Format AIFF-C (Apple, 1991); Audio File Formats FAQ (Sun AU); Core Audio Format
Specification (Apple); Sony Wave64 specification.
"""

from __future__ import annotations

import struct

from kaldi_uq.errors import DataError

_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_UNKNOWN = {0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}  # lengths that a program writes which does not know them yet


def container_kind(data: bytes) -> str:
    """``"AIFF"``, ``"AU"``, ``"CAF"`` or ``"Wave64"``, by the first bytes; empty if it is none of these."""
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return "AIFF"
    return {b".snd": "AU", b"caff": "CAF"}.get(data[:4], "Wave64" if data[:16] == _W64_RIFF else "")


def check_container(data: bytes, kind: str, name: str) -> None:
    """Refuse a file that is shorter than its headers say, or does not say how long its audio is.

    Args:
        data: the file.
        kind: as of :func:`container_kind`.
        name: name of the file, for messages.

    Raises:
        DataError: it is.
    """
    try:
        end = {"AIFF": _aiff, "AU": _au, "CAF": _caf, "Wave64": _wave64}[kind](data)
    except struct.error:
        end = len(data) + 1
    if end is None:
        raise DataError(
            f"{name}: {kind} that does not say how long its audio is, so that nobody can tell if it is whole"
        )
    if end > len(data):
        raise DataError(f"{name}: truncated {kind}: {end} bytes by its header, {len(data)} are there; copy it again")


def _aiff(data: bytes) -> int | None:
    """Where the chunk of samples ends."""
    at = 12
    while True:
        kind, size = struct.unpack_from(">4sI", data, at)
        if kind == b"SSND":
            return None if size in _UNKNOWN else at + 8 + int(size)
        at += 8 + size + size % 2


def _au(data: bytes) -> int | None:
    begin, size = struct.unpack_from(">II", data, 4)
    return None if size in _UNKNOWN else begin + size


def _caf(data: bytes) -> int | None:
    at = 8
    while True:
        kind, size = struct.unpack_from(">4sQ", data, at)
        if kind == b"data":
            return None if size in _UNKNOWN else at + 12 + int(size)
        at += 12 + size


def _wave64(data: bytes) -> int | None:
    at = 40  # behind the ids and the length of the file
    while True:
        kind, size = struct.unpack_from("<4s12xQ", data, at)  # the length counts this header of 24 bytes
        if kind == b"data":
            return None if size in _UNKNOWN else at + int(size)
        at += (max(size, 24) + 7) // 8 * 8
