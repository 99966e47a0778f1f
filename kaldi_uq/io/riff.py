"""WAV files, strictly: the samples are those that the file says, or there is an error that says how to convert it.

Read are RIFF, RIFX (big-endian) and RF64 files of PCM (1 to 4 bytes a sample), floating point, mu-law and A-law, and
the extensible form of all these.

Source: Multimedia Programming Interface and Data Specifications 1.0 (IBM, Microsoft, 1991); ``mmreg.h`` (codes);
EBU Tech 3306 (RF64).
"""

from __future__ import annotations

import os
import shlex
import struct
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.g711 import ALAW, ULAW

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
_LAWS = {6: ALAW, 7: ULAW}
_CODINGS = {
    2: "Microsoft ADPCM", 0x11: "IMA ADPCM", 0x31: "GSM 6.10", 0x45: "G.726", 0x50: "MPEG audio", 0x55: "MP3",
    0x161: "Windows Media Audio", 0xFF: "AAC", 0xF1AC: "FLAC", 0x674F: "Ogg Vorbis", 0x704F: "Opus",
}  # fmt: skip
# the tail of the names of those formats that have a code of two bytes, which stands before it
_CODED = bytes.fromhex("000000001000800000aa00389b71")

# A program that writes to a pipe cannot know the length and writes a maximum, the smallest of which is SoX's.
STREAM_LENGTH = 0x7FFFF000

# the beginnings of what is found under a name that ends in .wav: place, bytes, what it is
_OTHERS = (
    (4, b"ftyp", "MP4 or M4A"), (0, b"FORM", "IFF"),
    (0, b"wvpk", "WavPack"), (0, b"#!AMR", "AMR"), (0, b"MAC ", "Monkey's Audio"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (8, b"AVI ", "AVI"), (0, b"ajkg", "shorten"),
)  # fmt: skip
_NOT_AUDIO = (
    (b"version https://git-lfs", "a pointer of Git LFS; get the file itself with git lfs pull"),
    (b"\x1f\x8b", "compressed; unpack it with gunzip"),
    (b"PK\3\4", "a ZIP archive; unpack it with unzip"),
    (b"<", "a page of HTML or XML, perhaps in place of a failed download; download it again"),
)


class Contents(Protocol):
    """The bytes of a file, in memory or still in the file."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: slice, /) -> bytes: ...


@dataclass(frozen=True)
class Format:
    """What the ``fmt`` chunk of a WAV file says.

    Attributes:
        code: coding; that of the subformat for the extensible form.
        channels: number of channels.
        rate: sample rate in Hz.
        frame: bytes of one sample of every channel.
        bits: bits of a sample.
    """

    code: int
    channels: int
    rate: int
    frame: int
    bits: int

    @property
    def width(self) -> int:
        """Bytes of a sample."""
        return self.frame // self.channels


@dataclass(frozen=True)
class Layout:
    """Where the audio of a WAV file is, and what it is.

    Attributes:
        format: what the ``fmt`` chunk says.
        order: byte order, as the module ``struct`` writes it.
        begin, length: place of the audio in the file and its length, in bytes.
    """

    format: Format
    order: str
    begin: int
    length: int

    @property
    def num_samples(self) -> int:
        """Samples of each channel."""
        return self.length // self.format.frame

    def channels(self, data: Contents, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Samples ``start`` to ``stop - 1`` of every channel, (channels, n); types as of :func:`parse_wav`."""
        stop = self.num_samples if stop is None else stop
        frame, source = self.format.frame, memoryview(data) if isinstance(data, bytes) else data  # no copy
        audio = source[self.begin + start * frame : self.begin + stop * frame]
        return _samples(audio, self.format, self.order).reshape(-1, self.format.channels).T


def how_to_convert(name: str) -> str:
    """How to make plain audio of what has this name: a command, if it is a file and no pipe or place in an archive."""
    if not os.path.isfile(name):
        return "convert it to 16-bit PCM, for example with ffmpeg and its option -c:a pcm_s16le"
    plain = f"{name.removesuffix('.wav')}.pcm.wav"
    return f"convert it: ffmpeg -i {shlex.quote(name)} -c:a pcm_s16le {shlex.quote(plain)}"


def _unreadable(name: str, problem: str) -> DataError:
    return DataError(f"{name}: not a readable WAV file: {problem}; {how_to_convert(name)}")


def parse_wav(data: bytes, name: str, *, streamed: bool) -> tuple[np.ndarray, int]:
    """The channels and the rate of a WAV file from memory.

    Args:
        data: the file.
        name: name of the file, for messages.
        streamed: a program wrote it to a pipe, and may not have known the length.

    Returns:
        ``(channels, rate)``: (channels, N) uint8, int16, int32, float32 or float64 over the full range of the type,
        and Hz.

    Raises:
        DataError: no WAV file, or one whose audio is cut off, ambiguous or of a coding that is not read.
    """
    layout = layout_of(data, name, streamed=streamed)
    return layout.channels(data), layout.format.rate


def is_wav(data: Contents) -> bool:
    """Whether a file begins as a WAV file does."""
    return data[:4] in (b"RIFF", b"RIFX", b"RF64") and data[8:12] == b"WAVE"


def layout_of(data: Contents, name: str, *, streamed: bool) -> Layout:
    """Where the audio of a WAV file is; arguments and errors are those of :func:`parse_wav`."""
    if not is_wav(data):
        raise DataError(f"{name}: {_what_else(data, name)}")
    order = ">" if data[:4] == b"RIFX" else "<"
    fmt, begin, length = _chunks(data, name, order)
    there = len(data) - begin
    # Where a program could not know the length it wrote a maximum; or zero, in the length of the whole file too.
    of_all = _integer(data, 4, order)
    unknown = there < length and length >= STREAM_LENGTH and data[:4] != b"RF64"
    unknown |= length == 0 and (streamed or of_all == 0 or of_all >= STREAM_LENGTH)
    if unknown:
        length = there
    if not length:
        if there > 1 and not _is_chunk(data[begin : begin + 8]):
            raise DataError(
                f"{name}: the header promises no samples, {there} bytes follow: the recording was not ended; mend "
                f"it: sox --ignore-length {shlex.quote(name)} {shlex.quote(name.removesuffix('.wav') + '.mended.wav')}"
            )
        raise DataError(f"{name}: no samples; remove the utterance")
    if there < length:
        raise DataError(f"{name}: truncated: the header promises {length} bytes, {there} are there; copy it again")
    if not unknown:
        end = begin + length
        padded = length % 2 and data[end : end + 1] == b"\0"  # some programs leave the padding out
        _check_only(data, end + padded, name, order)
    if length % fmt.frame:
        raise DataError(
            f"{name}: cut inside a sample: {length} bytes are no whole number of {fmt.frame} "
            f"({fmt.channels} channels of {fmt.width} bytes); copy the file again"
        )
    return Layout(fmt, order, begin, length)


def _integer(data: Contents, at: int, order: str) -> int:
    """The integer of four bytes at a place."""
    return int(struct.unpack(order + "I", data[at : at + 4])[0])


def _what_else(data: Contents, name: str) -> str:
    """What a file is that is no WAV file, and what to do."""
    for place, magic, kind in _OTHERS:
        if data[place : place + len(magic)] == magic:
            return f"{kind}, not a WAV file; {how_to_convert(name)}"
    head = data[:4]
    if len(head) > 3 and head[0] == 0xFF and (head[1] & 0xE6 == 0xE2 or head[1] & 0xF6 == 0xF0):  # MPEG's sync words
        return f"{'AAC' if head[1] & 0xF6 == 0xF0 else 'MP3'}, not a WAV file; {how_to_convert(name)}"
    for magic, kind in _NOT_AUDIO:
        if data[: len(magic)] == magic:
            return f"not a WAV file: {kind}"
    return f"not a WAV file ({len(data)} bytes; no RIFF/WAVE header)"


def _chunks(data: Contents, name: str, order: str) -> tuple[Format, int, int]:
    """The format, the place of the audio and its length as the header has it."""
    at, fmt, long_length = 12, None, None
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], _integer(data, at + 4, order)
        at += 8
        if kind == b"data":
            if fmt is None:
                raise _unreadable(name, "no fmt chunk before the audio")
            return fmt, at, long_length if long_length is not None and length == 0xFFFFFFFF else length
        if kind == b"fmt ":
            if fmt is not None:
                raise _unreadable(name, "two fmt chunks")
            fmt = _format(data[at : at + length], name, order)
        elif kind == b"ds64" and data[:4] == b"RF64" and len(data) >= at + 16:
            long_length = struct.unpack("<Q", data[at + 8 : at + 16])[0]
        at += length + length % 2
    raise DataError(f"{name}: truncated: no data chunk in {len(data)} bytes; copy the file again")


def _format(chunk: bytes, name: str, order: str) -> Format:
    """What a ``fmt`` chunk says, if it is a coding that is read."""
    if len(chunk) < 16:
        raise _unreadable(name, f"a fmt chunk of {len(chunk)} bytes, expected at least 16")
    code, channels, rate, _, frame, bits = struct.unpack_from(order + "HHIIHH", chunk)
    what = _CODINGS.get(code, f"coding {code:#06x}")
    if code == EXTENSIBLE:
        if len(chunk) < 40:
            raise _unreadable(name, f"an extensible fmt chunk of {len(chunk)} bytes, expected 40")
        known = chunk[26:40] == _CODED
        code = struct.unpack_from("<H", chunk, 24)[0] if known else EXTENSIBLE
        what = _CODINGS.get(code, f"coding {code:#06x}") if known else f"WAVE_FORMAT_EXTENSIBLE of {chunk[24:40].hex()}"
    if code in _CODINGS or code not in (PCM, FLOAT, *_LAWS):
        raise _unreadable(name, f"the audio is {what}")
    widths = {PCM: (1, 2, 3, 4), FLOAT: (4, 8)}.get(code, (1,))
    fits = channels > 0 and rate > 0 and frame % channels == 0 and frame // channels in widths
    if not fits or not 8 * (frame // channels - 1) < bits <= 8 * (frame // channels) or (code == FLOAT and bits % 32):
        fields = f"coding {code}, {channels} channels, {rate} Hz, {bits} bits and {frame} bytes a frame"
        raise _unreadable(name, f"{fields} do not fit together")
    return Format(code, channels, rate, frame, bits)


def _is_chunk(begin: bytes) -> bool:
    """Whether the next eight bytes look like a chunk's: a name of four characters, and a length."""
    head = begin[:4]
    return len(begin) == 8 and head.isascii() and head.decode("ascii").isprintable()


def _check_only(data: Contents, at: int, name: str, order: str) -> None:
    """Refuse more audio behind the audio, in a second chunk or a whole second file: programs hear one or both."""
    while at + 8 <= len(data) and _is_chunk(data[at : at + 8]):
        kind = {b"data": "data chunk", b"RIFF": "WAV file"}.get(data[at : at + 4])
        if kind:
            raise DataError(
                f"{name}: a second {kind} begins at byte {at}, and programs hear one of them or both; listen to what "
                f"this makes of it: {how_to_convert(name)}"
            )
        length = _integer(data, at + 4, order)
        at += 8 + length + length % 2


def _samples(audio: bytes | memoryview, fmt: Format, order: str) -> np.ndarray:
    """The samples of all channels, interleaved."""
    if fmt.code in _LAWS:
        return np.asarray(_LAWS[fmt.code][np.frombuffer(audio, np.uint8)])
    if fmt.code == FLOAT:
        return np.frombuffer(audio, f"{order}f{fmt.width}").astype(f"f{fmt.width}")
    if fmt.width == 1:
        return np.frombuffer(audio, np.uint8)
    if fmt.width == 3:  # as the upper bytes of four
        wide = np.zeros((len(audio) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(audio, np.uint8).reshape(-1, 3)[:, :: -1 if order == ">" else 1]
        return wide.view("<i4").reshape(-1).astype(np.int32)
    return np.frombuffer(audio, f"{order}i{fmt.width}").astype(f"i{fmt.width}")
