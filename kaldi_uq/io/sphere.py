"""NIST SPHERE audio, the format of TIDIGITS and many other corpora: 16-bit PCM, mu-law and A-law are read here.

Files compressed with ``shorten`` go through Kaldi's ``sph2pipe``.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.errors import DataError, MissingDependencyError
from kaldi_uq.io.g711 import ALAW, ULAW
from kaldi_uq.io.pipes import ProgramError, run_program

MAGIC = b"NIST_1A\n"
# Byte orders as the header writes them: the weight of the first and of the second byte.
_ORDER = {"01": "<i2", "10": ">i2"}
_LAWS = {"ulaw": ULAW, "mu-law": ULAW, "alaw": ALAW}


@dataclass(frozen=True)
class SphereHeader:
    """What a SPHERE header says.

    Attributes:
        header_bytes: size of the header; the samples follow.
        sample_count: samples per channel.
        sample_rate: sample rate in Hz.
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


def parse_sphere_header(data: bytes, name: str) -> SphereHeader:
    """Read the header of a SPHERE file.

    Args:
        data: the file.
        name: name of the file, for messages.

    Raises:
        DataError: not SPHERE, cut off, or a field is missing or malformed.

    Source: the NIST SPHERE format: ``NIST_1A``, the size of the header, ``name -type value`` lines, ``end_head``.
    """
    if not data.startswith(MAGIC):
        raise DataError(f"{name}: not a NIST SPHERE file: it begins with {data[:8]!r}, expected {MAGIC!r}")
    if not re.fullmatch(rb"\s*[0-9]+\s*", data[8:16]):
        raise DataError(f"{name}: the SPHERE header has no size (found {data[8:16]!r})")
    size = int(data[8:16])
    lines = [line.strip() for line in data[16:size].decode("latin-1").split("\n")]
    if len(data) < size or "end_head" not in lines:
        raise DataError(f"{name}: truncated within the SPHERE header; copy the file again")
    fields: dict[str, str] = {}
    for line in lines[: lines.index("end_head")]:
        parts = line.split(None, 2)
        if len(parts) == 3 and parts[1].startswith("-"):
            fields[parts[0]] = parts[2]

    def number(field: str) -> int:
        if field not in fields:
            raise DataError(f"{name}: the SPHERE header has no field {field}")
        if not re.fullmatch("[0-9]{1,12}", fields[field]) or not int(fields[field]):
            raise DataError(f"{name}: the SPHERE header's {field} is {fields[field]!r}, expected a positive number")
        return int(fields[field])

    return SphereHeader(
        header_bytes=size,
        sample_count=number("sample_count"),
        sample_rate=number("sample_rate"),
        channel_count=number("channel_count"),
        sample_n_bytes=number("sample_n_bytes"),
        byte_order=fields.get("sample_byte_format", ""),
        coding=fields.get("sample_coding", "pcm"),  # the format's default
    )


def parse_sphere(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Read a SPHERE file.

    Args:
        data: the file.
        name: name of the file, for messages.

    Returns:
        ``(channels, rate)``: (channels, N) int16, and Hz.

    Raises:
        DataError: truncated, or a coding that is not supported.
        MissingDependencyError: the file is compressed and ``sph2pipe`` is not there.
    """
    header = parse_sphere_header(data, name)
    if "shorten" in header.coding:
        return _run_sph2pipe(data, name, header), header.sample_rate
    body = data[header.header_bytes :]
    count = header.sample_count * header.channel_count
    expected = count * header.sample_n_bytes
    if len(body) < expected:
        raise DataError(f"{name}: truncated: {len(body)} of {expected} bytes of audio; copy the file again")
    if header.coding == "pcm" and header.sample_n_bytes == 2:
        if header.byte_order not in _ORDER:
            raise DataError(f"{name}: sample_byte_format is {header.byte_order!r}, expected 01 or 10")
        samples = np.frombuffer(body, _ORDER[header.byte_order], count).astype(np.int16)
    elif header.coding in _LAWS and header.sample_n_bytes == 1:
        samples = _LAWS[header.coding][np.frombuffer(body, np.uint8, count)]
    else:
        raise DataError(
            f"{name}: coding {header.coding!r} with {header.sample_n_bytes} bytes a sample is not supported "
            "(16-bit pcm, ulaw, alaw and shorten are); convert the file with sph2pipe -f wav"
        )
    return samples.reshape(-1, header.channel_count).T, header.sample_rate


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


def _run_sph2pipe(data: bytes, name: str, header: SphereHeader) -> np.ndarray:
    """The channels of a file that is compressed."""
    with tempfile.NamedTemporaryFile(suffix=".sph") as file:
        file.write(data)
        file.flush()
        try:  # a list of arguments, no shell
            decoded = run_program([find_sph2pipe(), "-p", "-f", "wav", file.name])
        except ProgramError as error:
            raise DataError(f"{name}: sph2pipe {error}") from None
        except MissingDependencyError as error:
            raise MissingDependencyError(f"{name}: {error}") from None
    try:
        with wave.open(io.BytesIO(decoded)) as stream:
            shape = (stream.getsampwidth(), stream.getnchannels(), stream.getframerate())
            samples = np.frombuffer(stream.readframes(stream.getnframes()), "<i2").astype(np.int16)
    except (wave.Error, EOFError) as error:
        raise DataError(f"{name}: sph2pipe gave no readable WAV ({error})") from None
    wanted = (2, header.channel_count, header.sample_rate)
    if shape != wanted or len(samples) != header.sample_count * header.channel_count:
        raise DataError(
            f"{name}: sph2pipe gave {len(samples)} samples of (bytes, channels, Hz) {shape}, the header promises "
            f"{header.sample_count} a channel of {wanted}"
        )
    return samples.reshape(-1, header.channel_count).T
