"""Long recordings in their file: the samples, verdicts and messages of those that are read."""

from __future__ import annotations

import gzip
import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.io.recording import Recording, open_recording
from kaldi_uq.io.resample import Resampler
from kaldi_uq.io.wav import read_wav
from tests.audio_files import RATE, speech, write

N = 1000
RNG = np.random.default_rng(0)
RAMP = np.arange(-N // 2, N // 2)
CODINGS: dict[str, tuple[int, int, bytes]] = {  # coding, bits, samples
    "pcm8": (1, 8, RNG.integers(0, 256, N).astype("u1").tobytes()),
    "pcm16": (1, 16, (RAMP * 60).astype("<i2").tobytes()),
    "pcm24": (1, 24, b"".join(int(v * 9000).to_bytes(3, "little", signed=True) for v in RAMP)),
    "pcm32": (1, 32, (RAMP * 4_000_000).astype("<i4").tobytes()),
    "float32": (3, 32, (RAMP / N).astype("<f4").tobytes()),
    "float64": (3, 64, (RAMP / N).astype("<f8").tobytes()),
    "mu-law": (7, 8, RNG.integers(0, 256, N).astype("u1").tobytes()),
}


def wav(code: int, bits: int, audio: bytes, *, channels: int = 1, rate: int = 8000, behind: bytes = b"") -> bytes:
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits)
    chunks = b"LIST" + struct.pack("<I", 4) + b"abcd" + b"fmt " + struct.pack("<I", 16) + fmt
    chunks += b"data" + struct.pack("<I", len(audio)) + audio + behind
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def written(tmp_path: Path, data: bytes, name: str = "a.wav") -> str:
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)


@pytest.mark.parametrize("coding", CODINGS)
def test_samples_are_those_that_are_read(tmp_path: Path, coding: str) -> None:
    path = written(tmp_path, wav(*CODINGS[coding], behind=b"note\2\0\0\0hi"))
    whole, _ = read_wav(path)
    recording = open_recording(path, N - 1, expected_rate=8000)
    assert isinstance(recording, Recording) and len(recording) == N
    for place in (
        slice(None),
        slice(0, 1),
        slice(37, 612),
        slice(990, 5000),
        slice(-3, None),
        slice(5, 5),
        slice(9, 3),
    ):
        found = recording[place]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, whole[place])
    with pytest.raises(ValueError, match="every 2th"):
        recording[::2]


@pytest.mark.parametrize("longest", [N, N + 1, 10 * N])
def test_short_audio_is_read(tmp_path: Path, longest: int) -> None:
    path = written(tmp_path, wav(*CODINGS["pcm16"]))
    found = open_recording(path, longest)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, read_wav(path)[0])


def test_other_sources_are_kept_as_they_come(tmp_path: Path) -> None:
    data = wav(*CODINGS["pcm16"])
    whole, _ = read_wav(written(tmp_path, data))
    archive = written(tmp_path, b"utt " + data, "a.ark")
    written(tmp_path, gzip.compress(data), "a.wav.gz")
    for source in (f"{archive}:4", str(tmp_path / "a.wav.gz"), io.BytesIO(data), f"cat {tmp_path / 'a.wav'} |"):
        found = open_recording(source, 10, where="x", allow_pipes=True)
        assert isinstance(found, Recording)
        np.testing.assert_array_equal(found[:], whole)


class TestReadWhole:
    """What cannot be left in its file is read, and is what the reader gives."""

    @pytest.mark.parametrize("kind", ["flac", "flac24", "vorbis", "opus", "mp3"])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_encoded_audio(self, tmp_path: Path, kind: str, streamed: bool) -> None:
        path = write(tmp_path / "a.wav", speech(), kind)
        found = open_recording(io.BytesIO(Path(path).read_bytes()) if streamed else path, 10, where="x")
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, read_wav(path)[0])

    @pytest.mark.parametrize("damage", [lambda data: data[:-500], lambda data: data[:300] + bytes(900) + data[1200:]])
    def test_damaged_audio_has_the_message_of_the_reader(self, tmp_path: Path, damage: Any) -> None:
        path = written(tmp_path, damage(Path(write(tmp_path / "whole.flac", speech(), "flac")).read_bytes()), "a.flac")
        with pytest.raises(DataError) as read:
            read_wav(path)
        with pytest.raises(DataError) as opened:
            open_recording(path, 10)
        assert str(opened.value) == str(read.value)

    def test_samples_that_the_encoding_hides_are_bounded(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.flac", speech(), "flac")
        size = os.path.getsize(path)
        assert size < 2 * len(speech())
        with pytest.raises(DataError, match=r"a\.flac: .* samples .* the most that is taken"):
            open_recording(path, 10, max_bytes=size)

    @pytest.mark.parametrize("kind, command", [("flac", "flac -c -d -s {} |"), ("wav", "sox {} -t wav - |")])
    def test_commands_that_only_decode_are_not_run(self, tmp_path: Path, kind: str, command: str) -> None:
        path = write(tmp_path / f"a.{kind}", speech(), kind)
        found = open_recording(command.format(path), 10, where="wav.scp:1")
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, read_wav(path)[0])

    @pytest.mark.parametrize("kind", ["wav", "flac"])
    def test_audio_of_another_rate(self, tmp_path: Path, kind: str) -> None:
        path = write(tmp_path / "a.wav", speech(), kind)
        resampler, other = Resampler(11025), Resampler(11025)
        found = open_recording(path, 10, expected_rate=11025, resampler=resampler)
        assert isinstance(found, np.ndarray) and dict(resampler.changed) == {RATE: 1}
        np.testing.assert_array_equal(found, read_wav(path, resampler=other)[0])
        with pytest.raises(DataError, match=rf"sample rate {RATE} Hz, expected 11025 Hz"):
            open_recording(path, 10, expected_rate=11025)

    def test_audio_of_the_rate_is_left_where_it_is(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", speech(), "wav")
        resampler = Resampler(RATE)
        assert isinstance(open_recording(path, 10, expected_rate=RATE, resampler=resampler), Recording)
        assert not resampler.changed

    def test_two_channels_are_refused_with_a_resampler_too(self, tmp_path: Path) -> None:
        path = written(tmp_path, wav(*CODINGS["pcm16"], channels=2))
        with pytest.raises(DataError, match="2 channels, expected 1"):
            open_recording(path, 10, expected_rate=8000, resampler=Resampler(8000))


def nan_in(place: int) -> bytes:
    samples = (RAMP / N).astype("<f4")
    samples[place] = np.nan
    return samples.tobytes()


BAD: dict[str, bytes] = {
    "rate": wav(*CODINGS["pcm16"], rate=16000),
    "channels": wav(*CODINGS["pcm16"], channels=2),
    "nan": wav(3, 32, nan_in(777)),
    "beyond full scale": wav(3, 32, (RAMP / 100).astype("<f4").tobytes()),
    "silent": wav(1, 16, bytes(2 * N)),
    "truncated": wav(*CODINGS["pcm16"])[:-1],
    "two": wav(*CODINGS["pcm16"]) * 2,
    "no wav": b"\xff\xf3" + bytes(5000),
    "cut inside a sample": wav(1, 16, bytes(2 * N + 1)),
    "sphere": b"NIST_1A\n   1024\n" + bytes(3000),
    "empty": b"",
}


@pytest.mark.parametrize("problem", BAD)
def test_the_message_is_that_of_the_reader(tmp_path: Path, problem: str) -> None:
    path = written(tmp_path, BAD[problem])
    with pytest.raises(DataError) as read:
        read_wav(path, expected_rate=8000)
    for source, options in ((path, {}), (io.BytesIO(BAD[problem]), {"where": path})):
        with pytest.raises(DataError) as opened:
            open_recording(source, 10, expected_rate=8000, **options)  # type: ignore[arg-type]
        if problem not in ("truncated", "two") or source is path:  # a stream's length need not be known
            assert str(opened.value) == str(read.value)


@pytest.mark.parametrize("options", [{"max_bytes": 2000}, {"where": "wav.scp:3", "max_bytes": 100}])
def test_files_that_are_too_large_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = written(tmp_path, wav(*CODINGS["pcm16"]))
    with pytest.raises(DataError, match=r"a\.wav: more than 0\.\d+ MB"):
        open_recording(path, 10, **options)


def test_a_missing_file_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.wav: no such file \(wav\.scp:3\)"):
        open_recording(str(tmp_path / "none.wav"), 10, where="wav.scp:3")


@pytest.mark.parametrize("change", ["grows", "shrinks", "is written again"])
def test_a_file_that_changes_is_refused(tmp_path: Path, change: str) -> None:
    path = Path(written(tmp_path, wav(*CODINGS["pcm16"])))
    recording = open_recording(str(path), 10)
    data = path.read_bytes()
    if change == "is written again":
        os.utime(path, ns=(1, 1))
    else:
        with open(path, "r+b") as stream:
            stream.truncate(len(data) + (100 if change == "grows" else -100))
    with pytest.raises(DataError, match=r"a\.wav: it changes while it is read"):
        recording[0:10]
