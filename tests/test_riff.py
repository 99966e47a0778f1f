"""WAV files of every kind that people have: the samples are what the file says, or it is named and can be converted."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.io.g711 import ALAW, ULAW
from kaldi_uq.io.wav import read_channels, read_wav, to_int16
from tests.test_wav import RATE, pcm, ramp, riff

CODED = bytes.fromhex("000000001000800000aa00389b71")
SAMPLES = ramp(100)


def extensible(code: int = 1, bits: int = 16, tail: bytes = CODED, channels: int = 1) -> bytes:
    valid, mask = bits, 4
    return pcm(channels, bits, code=0xFFFE) + struct.pack("<HHIH", 22, valid, mask, code) + tail


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    return path


def heard(tmp_path: Path, content: bytes) -> np.ndarray:
    return read_wav(written(tmp_path, content))[0]


def sized(content: bytes, of_all: int) -> bytes:
    """The file with another length of the whole in its header."""
    return content[:4] + struct.pack("<I", of_all) + content[8:]


def big_endian(bits: int, body: bytes) -> bytes:
    fmt = struct.pack(">HHIIHH", 1, 1, RATE, RATE * bits // 8, bits // 8, bits)
    chunks = b"WAVEfmt " + struct.pack(">I", 16) + fmt + b"data" + struct.pack(">I", len(body)) + body
    return b"RIFX" + struct.pack(">I", len(chunks)) + chunks


class TestRead:
    @pytest.mark.parametrize("of_all", [0, 36, 0xFFFFFFFF, 0x7FFFF024, 7])
    def test_length_of_the_whole_does_not_matter_where_that_of_the_audio_is_there(
        self, tmp_path: Path, of_all: int
    ) -> None:
        content = sized(riff(pcm(), SAMPLES.tobytes()), of_all)
        assert np.array_equal(to_int16(heard(tmp_path, content)), SAMPLES)

    @pytest.mark.parametrize("of_all, of_audio", [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0), (0, 0xFFFFFFFF)])
    def test_stream_is_read_to_its_end(self, tmp_path: Path, of_all: int, of_audio: int) -> None:
        content = sized(riff(pcm(), SAMPLES.tobytes(), length=of_audio), of_all)
        assert np.array_equal(to_int16(heard(tmp_path, content)), SAMPLES)

    @pytest.mark.parametrize(
        "tail", [b"", b"LIST\4\0\0\0note", b"LIST\3\0\0\0abc\0id3 \1\0\0\0x\0", b"\0" * 9, b"TAGjunk"]
    )
    def test_what_follows_the_audio_is_no_audio(self, tmp_path: Path, tail: bytes) -> None:
        assert len(heard(tmp_path, riff(pcm(), SAMPLES.tobytes()) + tail)) == 100

    @pytest.mark.parametrize("table, code", [(ALAW, 6), (ULAW, 7)], ids=["alaw", "ulaw"])
    def test_telephone_audio(self, tmp_path: Path, table: np.ndarray, code: int) -> None:
        content = riff(pcm(bits=8, code=code), bytes(range(256)))
        assert np.array_equal(heard(tmp_path, content), table / np.float32(32768))
        assert np.array_equal(heard(tmp_path, riff(extensible(code, 8), bytes(range(256)))), table / np.float32(32768))

    def test_laws_are_those_of_g711(self) -> None:
        assert [int(ULAW[code]) for code in (0x00, 0x7F, 0x80, 0xFF, 0xF0, 0x0F)] == [-32124, 0, 32124, 0, 120, -16764]
        assert [int(ALAW[code]) for code in (0xD5, 0x55, 0xAA, 0x2A, 0x80, 0x00)] == [8, -8, 32256, -32256, 5504, -5504]
        for table in (ULAW, ALAW):
            assert np.array_equal(np.sort(table[:128]), np.sort(-table[128:]))

    def test_extensible_form(self, tmp_path: Path) -> None:
        assert np.array_equal(to_int16(heard(tmp_path, riff(extensible(), SAMPLES.tobytes()))), SAMPLES)
        values = np.array([0.5, -0.25], "<f4")
        assert heard(tmp_path, riff(extensible(3, 32), values.tobytes())).tolist() == [0.5, -0.25]
        stereo = read_channels(written(tmp_path, riff(extensible(channels=2), SAMPLES.tobytes())))[0]
        assert np.array_equal(to_int16(stereo), SAMPLES.reshape(-1, 2).T)

    @pytest.mark.parametrize("width", [2, 3, 4])
    def test_big_endian(self, tmp_path: Path, width: int) -> None:
        values = [-(2 ** (8 * width - 2)), 2 ** (8 * width - 3)]
        body = b"".join(value.to_bytes(width, "big", signed=True) for value in values)
        assert heard(tmp_path, big_endian(8 * width, body)).tolist() == [-0.5, 0.25]

    def test_file_of_more_than_4_gigabytes_has_its_length_elsewhere(self, tmp_path: Path) -> None:
        audio = SAMPLES.tobytes()
        ds64 = b"ds64" + struct.pack("<IQQQI", 28, 0, len(audio), 100, 0)
        content = b"RF64\xff\xff\xff\xffWAVE" + ds64 + b"fmt " + struct.pack("<I", 16) + pcm() + b"data\xff\xff\xff\xff"
        assert np.array_equal(to_int16(heard(tmp_path, content + audio)), SAMPLES)
        assert len(heard(tmp_path, content + audio + b"LIST\4\0\0\0note")) == 100
        with pytest.raises(DataError, match="truncated: the header promises 200 bytes, 150 are there"):
            heard(tmp_path, content + audio[:150])

    def test_12_bits_are_the_upper_ones_of_two_bytes(self, tmp_path: Path) -> None:
        fmt = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 12)
        assert heard(tmp_path, riff(fmt, struct.pack("<hh", 0x4000, -0x2000))).tolist() == [0.5, -0.25]


class TestRefused:
    @pytest.mark.parametrize("where", ["at once", "behind a note", "behind an odd chunk", "without its padding"])
    def test_second_data_chunk(self, tmp_path: Path, where: str) -> None:
        second = b"data" + struct.pack("<I", 200) + SAMPLES.tobytes()
        between = {"behind a note": b"LIST\4\0\0\0note", "behind an odd chunk": b"LIST\3\0\0\0not\0"}.get(where, b"")
        first = riff(pcm(bits=8), b"\x90" * 99) if where == "without its padding" else riff(pcm(), SAMPLES.tobytes())
        with pytest.raises(
            DataError, match=r"a second data chunk begins at byte \d+.*ffmpeg -i .*x\.wav -c:a pcm_s16le"
        ):
            heard(tmp_path, first + between + second)

    def test_two_files_in_one(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="a second WAV file begins at byte 244"):
            heard(tmp_path, riff(pcm(), SAMPLES.tobytes()) * 2)

    def test_second_format(self, tmp_path: Path) -> None:
        other = b"fmt " + struct.pack("<I", 16) + pcm(rate=2 * RATE)
        with pytest.raises(DataError, match="two fmt chunks"):
            heard(tmp_path, riff(pcm(), SAMPLES.tobytes(), extra=other))

    @pytest.mark.parametrize(
        "fmt, size", [(pcm(), 199), (pcm(bits=24), 200), (pcm(channels=2), 198), (pcm(bits=32, code=3), 198)]
    )
    @pytest.mark.parametrize("streamed", [False, True])
    def test_cut_inside_a_sample(self, tmp_path: Path, fmt: bytes, size: int, streamed: bool) -> None:
        content = riff(fmt, bytes(range(1, size + 1)), length=0xFFFFFFFF if streamed else None)
        with pytest.raises(DataError, match=f"cut inside a sample: {size} bytes are no whole number of"):
            heard(tmp_path, content)

    def test_recording_that_was_not_ended(self, tmp_path: Path) -> None:
        content = sized(riff(pcm(), SAMPLES.tobytes(), length=0), 36)
        with pytest.raises(DataError, match=r"promises no samples, 200 bytes follow: .*sox --ignore-length .*x\.wav "):
            heard(tmp_path, content)
        with pytest.raises(DataError, match="no samples; remove the utterance"):
            heard(tmp_path, riff(pcm(), b"") + b"LIST\4\0\0\0note")

    @pytest.mark.parametrize(
        "content, kind",
        [
            (b"\xff\xfb\x00\x64" + bytes(99), "MP3"),  # of a free bit rate
            (b"\xff\xf1\x50\x80" + bytes(99), "AAC"),
            (bytes(4) + b"ftypM4A " + bytes(99), "MP4 or M4A"),
            (b"FORM" + bytes(4) + b"8SVX" + bytes(99), "IFF"),
            (b"wvpk" + bytes(99), "WavPack"),
            (b"RIFF" + bytes(4) + b"AVI LIST" + bytes(99), "AVI"),
            (b"\x1aE\xdf\xa3" + bytes(99), "WebM or Matroska"),
        ],
    )
    def test_other_format_is_named_with_the_command_that_converts_it(
        self, tmp_path: Path, content: bytes, kind: str
    ) -> None:
        with pytest.raises(DataError, match=rf"{kind}.*, not a WAV file; convert it: ffmpeg -i \S*/x\.wav -c:a pcm"):
            heard(tmp_path, content)

    @pytest.mark.parametrize(
        "content, what",
        [
            (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS; get the file itself"),
            (b"<!DOCTYPE html><html>404", "a page of HTML"),
            (b"\x1f\x8b\x08" + bytes(20), "compressed; unpack it with gunzip"),
            (b"PK\3\4" + bytes(20), "a ZIP archive"),
        ],
    )
    def test_what_is_no_audio_at_all(self, tmp_path: Path, content: bytes, what: str) -> None:
        with pytest.raises(DataError, match=f"not a WAV file: {what}"):
            heard(tmp_path, content)

    @pytest.mark.parametrize(
        "fmt, what",
        [
            (pcm(code=2, bits=8), "Microsoft ADPCM"),
            (pcm(code=0x11, bits=8), "IMA ADPCM"),
            (pcm(code=0x31, bits=8), "GSM 6.10"),
            (pcm(code=0x1234), "coding 0x1234"),
            (extensible(2, 8), "Microsoft ADPCM"),
            (extensible(tail=bytes.fromhex("000021071ad3118644c8c1ca0000")), "WAVE_FORMAT_EXTENSIBLE of 01000000"),
            (extensible()[:26], "an extensible fmt chunk of 26 bytes"),
            (struct.pack("<HHIIHH", 1, 1, 0, 0, 2, 16), "0 Hz, .* do not fit together"),
            (struct.pack("<HHIIHH", 1, 2, RATE, RATE, 3, 16), "3 bytes a frame do not fit together"),
            (struct.pack("<HHIIHH", 1, 1, RATE, RATE, 8, 64), "64 bits .* do not fit together"),
            (struct.pack("<HHIIHH", 3, 1, RATE, RATE, 2, 16), "coding 3, .* do not fit together"),
            (struct.pack("<HHIIHH", 1, 1, RATE, RATE, 2, 24), "24 bits and 2 bytes .* do not fit together"),
        ],
    )
    def test_other_coding_is_named(self, tmp_path: Path, fmt: bytes, what: str) -> None:
        with pytest.raises(DataError, match=f"not a readable WAV file: .*{what}.*; convert it: ffmpeg -i "):
            heard(tmp_path, riff(fmt, bytes(range(200))))

    def test_command_is_for_the_shell(self, tmp_path: Path) -> None:
        (tmp_path / "it's a.wav").write_bytes(b"wvpk")
        with pytest.raises(DataError, match=r"""ffmpeg -i '.*/it'"'"'s a\.wav' -c:a pcm_s16le '.*s a\.pcm\.wav'$"""):
            read_wav(tmp_path / "it's a.wav")

    def test_no_command_is_given_for_what_is_no_file(self) -> None:
        with pytest.raises(DataError, match=r"scp:1: output of '.*convert it to 16-bit PCM, for example with ffmpeg"):
            read_wav("printf wvpk |", where="scp:1", allow_pipes=True)


def test_wav_of_unknown_length_in_an_archive_is_refused(tmp_path: Path) -> None:
    """What follows it is another recording, and would be heard as a part of it."""
    good = riff(pcm(), SAMPLES.tobytes())
    for of_all in (0xFFFFFFFF, 0, 0x7FFFF024):
        path = tmp_path / "w.ark"
        path.write_bytes(b"a " + sized(riff(pcm(), SAMPLES.tobytes(), length=0xFFFFFFFF), of_all) + b"b " + good)
        with pytest.raises(DataError, match=r"w\.ark:2: a WAV file of unknown length in an archive"):
            read_wav(f"{path}:2")
    path.write_bytes(b"a " + good + b"b " + good)
    assert np.array_equal(to_int16(read_wav(f"{path}:2")[0]), SAMPLES)
