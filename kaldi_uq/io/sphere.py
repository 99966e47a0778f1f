"""NIST SPHERE audio, the format of TIDIGITS and many other corpora: 16-bit PCM and mu-law are read here.

Files compressed with ``shorten`` go through Kaldi's ``sph2pipe``.
"""

from __future__ import annotations

import io
import os
import shutil
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.errors import DataError, MissingDependencyError
from kaldi_uq.io.pipes import ProgramError, run_program

# Byte orders as the header writes them: the weight of the first and of the second byte.
_ORDER = {"01": "<i2", "10": ">i2"}


@dataclass(frozen=True)
class SphereHeader:
    """What a SPHERE header says.

    Attributes:
        header_bytes: size of the header; the samples follow.
        sample_count: samples per channel.
        sample_rate: Hz.
        channel_count: number of channels.
        sample_n_bytes: bytes of one sample.
        byte_order: ``01`` little-endian, ``10`` big-endian; may be empty if a sample is one byte.
        coding: ``pcm``, ``ulaw``, ``pcm,embedded-shorten-v2.00`` ...
    """

    header_bytes: int
    sample_count: int
    sample_rate: int
    channel_count: int
    sample_n_bytes: int
    byte_order: str
    coding: str


def read_sphere_header(path: str | os.PathLike[str]) -> SphereHeader:
    """Read the header of a SPHERE file.

    Raises:
        DataError: missing, not SPHERE, or a field is missing or malformed.

    Source: the NIST SPHERE format: ``NIST_1A``, the size of the header, ``name -type value`` lines, ``end_head``.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            first = stream.read(16)
            if first[:8] != b"NIST_1A\n":
                raise DataError(f"{path}: not a NIST SPHERE file: it begins with {first[:8]!r}, expected b'NIST_1A\\n'")
            try:
                size = int(first[8:16])
            except ValueError:
                raise DataError(f"{path}: the SPHERE header has no size (found {first[8:16]!r})") from None
            body = stream.read(size - 16)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    lines = body.decode("latin-1").split("\n")
    if len(body) < size - 16 or "end_head" not in (line.strip() for line in lines):
        raise DataError(f"{path}: truncated within the SPHERE header; copy the file again")
    fields: dict[str, str] = {}
    for line in lines:
        if line.strip() == "end_head":
            break
        parts = line.split(None, 2)
        if len(parts) == 3 and parts[1].startswith("-"):
            fields[parts[0]] = parts[2].strip()
    return SphereHeader(
        header_bytes=size,
        sample_count=_number(path, fields, "sample_count"),
        sample_rate=_number(path, fields, "sample_rate"),
        channel_count=_number(path, fields, "channel_count"),
        sample_n_bytes=_number(path, fields, "sample_n_bytes"),
        byte_order=fields.get("sample_byte_format", ""),
        coding=fields.get("sample_coding", "pcm"),  # the format's default
    )


def read_sphere(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Read a mono SPHERE file.

    Returns:
        ``(samples, rate)``: (N,) int16, and Hz.

    Raises:
        DataError: missing, truncated, not mono, silent, or a coding that is not supported.
        MissingDependencyError: the file is compressed and ``sph2pipe`` is not there.
    """
    path = Path(path)
    header = read_sphere_header(path)
    if header.channel_count != 1:
        raise DataError(f"{path}: {header.channel_count} channels, expected 1; extract one with sph2pipe -c 1")
    if "shorten" in header.coding:
        samples, rate = _run_sph2pipe(path)
        if len(samples) != header.sample_count:
            raise DataError(f"{path}: sph2pipe gave {len(samples)} samples, the header promises {header.sample_count}")
    else:
        samples, rate = _read_plain(path, header), header.sample_rate
    if not np.any(samples):
        raise DataError(f"{path}: silent: all {len(samples)} samples are zero; remove the utterance")
    return samples, rate


def find_sph2pipe() -> str:
    """The ``sph2pipe`` program, from ``PATH`` or below ``$KALDI_ROOT/tools``.

    Raises:
        MissingDependencyError: it is in neither place.
    """
    found = shutil.which("sph2pipe")
    if found:
        return found
    root = os.environ.get("KALDI_ROOT")
    for candidate in sorted(Path(root).glob("tools/sph2pipe*/sph2pipe")) if root else []:
        if os.access(candidate, os.X_OK):
            return str(candidate)
    raise MissingDependencyError(
        "shorten-compressed SPHERE audio needs sph2pipe, which is neither on PATH nor in $KALDI_ROOT/tools "
        f"(KALDI_ROOT is {root or 'not set'}); it is one of Kaldi's tools: 'make sph2pipe' in Kaldi's tools directory"
    )


def _number(path: Path, fields: dict[str, str], name: str) -> int:
    try:
        value = int(fields[name])
    except KeyError:
        raise DataError(f"{path}: the SPHERE header has no field {name}") from None
    except ValueError:
        raise DataError(f"{path}: the SPHERE header's {name} is {fields[name]!r}, expected a number") from None
    if value <= 0:
        raise DataError(f"{path}: the SPHERE header's {name} is {value}, expected a positive number")
    return value


def _read_plain(path: Path, header: SphereHeader) -> np.ndarray:
    data = path.read_bytes()[header.header_bytes :]
    expected = header.sample_count * header.sample_n_bytes
    if len(data) < expected:
        raise DataError(f"{path}: truncated: {len(data)} of {expected} bytes of audio; copy the file again")
    data = data[:expected]
    if header.coding == "pcm" and header.sample_n_bytes == 2:
        if header.byte_order not in _ORDER:
            raise DataError(f"{path}: sample_byte_format is {header.byte_order!r}, expected 01 or 10")
        return np.frombuffer(data, _ORDER[header.byte_order]).astype(np.int16)
    if header.coding in ("ulaw", "mu-law") and header.sample_n_bytes == 1:
        return _ULAW[np.frombuffer(data, np.uint8)]
    raise DataError(
        f"{path}: coding {header.coding!r} with {header.sample_n_bytes} bytes a sample is not supported "
        "(16-bit pcm, ulaw and shorten are); convert the file with sph2pipe -f wav"
    )


def _ulaw_table() -> np.ndarray:
    """The 256 values of mu-law as 16-bit samples.

    Source: ITU-T G.711: complemented bits are sign, exponent (3), mantissa (4); bias 33 on the 14-bit scale.
    """
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = (((code & 0x0F).astype(np.int32) * 2 + 33) << ((code >> 4) & 7)) - 33
    return (np.where(code & 0x80, -magnitude, magnitude) * 4).astype(np.int16)


_ULAW = _ulaw_table()


def _run_sph2pipe(path: Path) -> tuple[np.ndarray, int]:
    try:  # a list of arguments, no shell: names of corpus files are not ours
        data = run_program([find_sph2pipe(), "-p", "-f", "wav", str(path)])
    except ProgramError as error:
        raise DataError(f"{path}: sph2pipe {error}") from None
    try:
        with wave.open(io.BytesIO(data)) as stream:
            if stream.getsampwidth() != 2 or stream.getnchannels() != 1:
                raise DataError(f"{path}: sph2pipe did not give mono 16-bit audio")
            return np.frombuffer(stream.readframes(stream.getnframes()), "<i2").astype(np.int16), stream.getframerate()
    except (wave.Error, EOFError) as error:
        raise DataError(f"{path}: sph2pipe gave no readable WAV ({error})") from None
