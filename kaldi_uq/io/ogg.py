"""Ogg files, checked page by page before a decoder sees them: libogg passes over what is damaged without a word.

Source: RFC 3533 (the Ogg container), RFC 7845 (Opus in it), the Vorbis I specification, A.2.
"""

from __future__ import annotations

import struct
import zlib

from kaldi_uq.errors import DataError

MAGIC = b"OggS"
_FIRST, _LAST = 2, 4  # flags of a page: of the stream
_CODECS = {b"\x01vorbis": "Vorbis", b"OpusHead": "Opus"}
_OTHERS = {b"\x7fFLAC": "FLAC", b"Speex   ": "Speex", b"\x80theora": "Theora video", b"fishead\0": "a skeleton"}
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_ogg(data: bytes, name: str) -> str:
    """Check that a file is one whole stream of pages that arrived as they were written.

    Args:
        data: the file.
        name: name of the file, for messages.

    Returns:
        the coding of the audio, ``"Vorbis"`` or ``"Opus"``.

    Raises:
        DataError: truncated, damaged, more than one stream, or another coding.
    """
    codec, at, number, stream = "", 0, 0, b""
    while True:
        page = _page(data, at, name)
        flags, (serial, sequence) = page[5], (page[14:18], struct.unpack_from("<I", page, 18)[0])
        if number == 0:
            codec, stream = _codec(page, name), serial
        elif serial != stream or flags & _FIRST:
            raise DataError(f"{name}: a second stream begins at byte {at}; expected one Ogg stream, of audio")
        if sequence != number:
            raise DataError(f"{name}: damaged: page {sequence} where page {number} was expected; copy the file again")
        at += len(page)
        number += 1
        if flags & _LAST:
            break
    if MAGIC in data[at:]:
        raise DataError(f"{name}: a second stream begins behind byte {at}; expected one Ogg stream, of audio")
    return codec


def _page(data: bytes, at: int, name: str) -> bytes:
    """The page at a place, whole and as its checksum says."""
    header = data[at : at + 27]
    size = 27 + header[26] + sum(data[at + 27 : at + 27 + header[26]]) if len(header) == 27 else 27
    if at + size > len(data) or len(header) < 27:
        raise DataError(f"{name}: truncated: the Ogg stream has no end in {len(data)} bytes; copy the file again")
    page = data[at : at + size]
    if page[:5] != MAGIC + b"\0" or page_checksum(page) != page[22:26]:
        raise DataError(f"{name}: damaged at byte {at}: no Ogg page with a right checksum; copy the file again")
    return page


def page_checksum(page: bytes) -> bytes:
    """The CRC-32 of a page; that of zlib takes the bits of a byte from the other end, and complements."""
    crc = zlib.crc32((page[:22] + bytes(4) + page[26:]).translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_REVERSED)


def _codec(page: bytes, name: str) -> str:
    packet = page[27 + page[26] :]
    for magic, codec in _CODECS.items():
        if packet.startswith(magic):
            return codec
    other = next((what for magic, what in _OTHERS.items() if packet.startswith(magic)), "an unknown coding")
    raise DataError(f"{name}: {other} in Ogg, expected Vorbis or Opus; convert it with ffmpeg to FLAC or WAV")
