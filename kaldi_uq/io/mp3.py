"""MP3 files, checked frame by frame before a decoder sees them: decoders pass over what is damaged without a word.

And they guess the length of a file that does not count its frames, and read no further: such a file is given a count.

Source: ISO/IEC 11172-3, 2.4.1 and 2.4.2; ISO/IEC 13818-3, 2.4.2; ID3v2 and APEv2 (informal standards); the Xing header
as LAME writes it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kaldi_uq.errors import DataError

# kbit/s by the header's four bits: MPEG-1, and MPEG-2 with 2.5; 0 stands for a free format, 15 for nothing
_BIT_RATES = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz by version
_LAYER_3 = 1
_MONO = 3


@dataclass(frozen=True)
class Frame:
    """What the header of a frame says.

    Attributes:
        version: 3 of MPEG-1, 2 of MPEG-2, 0 of MPEG-2.5.
        rate: sample rate in Hz.
        mono: one channel.
        size: bytes of the whole frame.
    """

    version: int
    rate: int
    mono: bool
    size: int


def frame_at(data: bytes, at: int) -> Frame | None:
    """The frame at a place; ``None`` if no header of an MP3 frame is there."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    bit_rate, rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version not in _RATES or layer != _LAYER_3 or not 0 < bit_rate < 15 or rate == 3:
        return None
    hertz = _RATES[version][rate]
    kbits = _BIT_RATES[version != 3][bit_rate - 1]
    size = (144 if version == 3 else 72) * kbits * 1000 // hertz + (data[at + 2] >> 1 & 1)
    return Frame(version, hertz, data[at + 3] >> 6 == _MONO, size)


def skip_id3(data: bytes) -> int:
    """Where what follows an ID3v2 tag begins; 0 without a tag.

    >>> skip_id3(b"ID3\\x04\\0\\0\\0\\0\\1\\2" + bytes(130) + b"fLaC"), skip_id3(b"fLaC")
    (140, 0)
    """
    if data[:3] != b"ID3" or len(data) < 10 or max(data[6:10]) > 127:
        return 0
    size = sum(byte << 7 * place for place, byte in enumerate(reversed(data[6:10])))
    return 10 + size + (10 if data[5] & 0x10 else 0)


def mp3_frames(data: bytes, name: str) -> bytes:
    """The frames of a file without its tags: a whole row of one sort, and at the beginning one that counts them.

    Args:
        data: the file.
        name: name of the file, for messages.

    Raises:
        DataError: truncated, damaged, two files in one, or not as many frames as the first one says.
    """
    first = at = skip_id3(data)
    kind, number = frame_at(data, at), 0
    if kind is None:
        raise DataError(f"{name}: no MP3 frame at byte {at}; convert the file with ffmpeg to FLAC or WAV")
    counted = _count(data, at, kind)
    while frame := frame_at(data, at):
        if (frame.version, frame.rate, frame.mono) != (kind.version, kind.rate, kind.mono):
            raise DataError(f"{name}: damaged at byte {at}: a frame of {frame.rate} Hz among those of {kind.rate} Hz")
        if at + frame.size > len(data):
            raise DataError(f"{name}: truncated within the MP3 frame at byte {at}; copy the file again")
        if number and _count(data, at, frame) is not None:
            raise DataError(f"{name}: a second MP3 file begins at byte {at}; expected one")
        at += frame.size
        number += 1
    if not _is_tag(data[at:]):
        raise DataError(f"{name}: damaged at byte {at}: neither an MP3 frame nor a tag; copy or convert the file again")
    if counted not in (None, number - 1, number):  # encoders count the first one or do not
        raise DataError(f"{name}: truncated: {number - 1} of {counted} MP3 frames; copy the file again")
    return data[first:at] if counted is not None else _counting(data[first : first + 4], kind, number) + data[first:at]


def _count(data: bytes, at: int, frame: Frame) -> int | None:
    """Number of the frames, which a first one says that holds no audio; ``None`` in the others."""
    place = at + _place_of_count(frame)
    if data[place : place + 4] not in (b"Xing", b"Info") or len(data) < place + 12:
        return None
    flags, frames = struct.unpack_from(">II", data, place + 4)
    return int(frames) if flags & 1 else None


def _place_of_count(frame: Frame) -> int:
    """Where the count begins in a frame: behind header and side information."""
    return 4 + ((17 if frame.mono else 32) if frame.version == 3 else (9 if frame.mono else 17))


def _counting(header: bytes, kind: Frame, number: int) -> bytes:
    """A frame without audio, of 64 kbit/s, that counts those behind it; without a checksum and padding."""
    header = bytes([header[0], header[1] | 1, (5 if kind.version == 3 else 8) << 4 | header[2] & 0x0C, header[3]])
    frame = frame_at(header, 0)
    assert frame is not None
    count = struct.pack(">4sII", b"Xing", 1, number)
    return (header.ljust(_place_of_count(kind), b"\0") + count).ljust(frame.size, b"\0")


def _is_tag(rest: bytes) -> bool:
    """Whether what follows the frames is what taggers append, or nothing."""
    return not rest.strip(b"\0") or rest.startswith((b"TAG", b"APETAGEX", b"LYRICSBEGIN"))
