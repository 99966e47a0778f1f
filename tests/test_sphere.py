"""SPHERE files are written here byte by byte, as the format's description says."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.errors import DataError, MissingDependencyError
from kaldi_uq.io.sphere import find_sph2pipe, parse_sphere, parse_sphere_header
from kaldi_uq.io.wav import read_channels, read_wav, to_int16

SAMPLES = np.array([0, 1, -1, 256, -256, 12345, -12345, 32767, -32768], np.int16)


def write_sphere(path: Path, data: bytes, *, count: int, order: str = "01", **fields: object) -> Path:
    values = {
        "sample_count": count,
        "sample_rate": 20000,
        "channel_count": 1,
        "sample_n_bytes": 2,
        "sample_byte_format": order,
        "sample_coding": "pcm",
    } | fields
    lines = ["NIST_1A", "   1024"]
    for name, value in values.items():
        if value is not None:
            kind = "-i" if isinstance(value, int) else f"-s{len(str(value))}"
            lines.append(f"{name} {kind} {value}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join([*lines, "end_head"]) + "\n").encode().ljust(1024) + data)
    return path


def fake_sph2pipe(directory: Path, output: Path | None) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "sph2pipe"
    program.write_text(f"#!/bin/sh\n{f'cat {output}' if output else 'echo cannot decode >&2; exit 3'}\n")
    program.chmod(0o755)


def read_sphere(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = read_wav(path)
    return to_int16(samples), rate


@pytest.mark.parametrize("order, dtype", [("01", "<i2"), ("10", ">i2")])
def test_both_byte_orders_give_the_same_samples(tmp_path: Path, order: str, dtype: str) -> None:
    path = write_sphere(tmp_path / "1a.wav", SAMPLES.astype(dtype).tobytes(), count=len(SAMPLES), order=order)
    samples, rate = read_sphere(path)
    assert rate == 20000
    np.testing.assert_array_equal(samples, SAMPLES)


def test_header_comments_and_text_fields_do_not_disturb(tmp_path: Path) -> None:
    path = write_sphere(
        tmp_path / "1a.wav", SAMPLES.tobytes(), count=len(SAMPLES), database_id="TI Digits 1", sample_max=32767
    )
    header = parse_sphere_header(path.read_bytes(), str(path))
    assert (header.sample_count, header.channel_count, header.coding) == (9, 1, "pcm")


def test_two_channels_are_read_and_one_must_be_chosen(tmp_path: Path) -> None:
    both = np.stack([SAMPLES, SAMPLES[::-1]])
    path = write_sphere(tmp_path / "1a.wav", both.T.tobytes(), count=len(SAMPLES), channel_count=2)
    channels, _ = read_channels(path, expected_rate=20000)
    np.testing.assert_array_equal(channels * 32768, both)
    with pytest.raises(DataError, match=r"1a\.wav: 2 channels, expected 1"):
        read_wav(path)
    with pytest.raises(DataError, match="sample rate 20000 Hz, expected 8000 Hz"):
        read_channels(path, expected_rate=8000)


def test_a_header_without_coding_means_pcm(tmp_path: Path) -> None:
    path = write_sphere(tmp_path / "1a.wav", SAMPLES.tobytes(), count=len(SAMPLES), sample_coding=None)
    np.testing.assert_array_equal(read_sphere(path)[0], SAMPLES)


def test_ulaw_follows_g711(tmp_path: Path) -> None:
    # Values of the standard's table: the largest negative and positive, two of the middle, plus and minus zero.
    codes, values = [0x00, 0x80, 0x0F, 0x8F, 0xFF, 0x7F], [-32124, 32124, -16764, 16764, 0, 0]
    path = write_sphere(
        tmp_path / "a.wav", bytes(codes), count=6, sample_n_bytes=1, sample_coding="ulaw", sample_byte_format="1"
    )
    assert read_sphere(path)[0].tolist() == values


@pytest.mark.parametrize(
    "fields, cut, message",
    [
        ({}, 3, "truncated: 15 of 18 bytes of audio"),
        ({"channel_count": 2}, 0, "truncated: 18 of 36 bytes of audio"),
        ({"sample_coding": "alaw"}, 0, "coding 'alaw' with 2 bytes a sample is not supported"),
        ({"order": "0123"}, 0, "sample_byte_format is '0123', expected 01 or 10"),
        ({"sample_rate": None}, 0, "has no field sample_rate"),
        ({"sample_rate": "fast"}, 0, "sample_rate is 'fast', expected a positive number"),
        ({"sample_n_bytes": 0}, 0, "sample_n_bytes is '0', expected a positive number"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, fields: dict, cut: int, message: str) -> None:
    data = SAMPLES.tobytes()
    path = write_sphere(tmp_path / "1a.wav", data[: len(data) - cut], **({"count": len(SAMPLES)} | fields))
    with pytest.raises(DataError, match=message) as caught:
        read_sphere(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_not_sphere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "1a.wav"
    with pytest.raises(DataError, match="no such file"):
        read_sphere(path)
    with pytest.raises(DataError, match=r"1a: not a NIST SPHERE file: it begins with b'RIFF\.\.\.\.'"):
        parse_sphere(b"RIFF....WAVEfmt ", "1a")
    path.write_bytes(b"NIST_1A\n   1024\nsample_count -i 5\n")
    with pytest.raises(DataError, match="truncated within the SPHERE header"):
        read_sphere(path)
    write_sphere(path, bytes(18), count=9)
    with pytest.raises(DataError, match="silent: all 9 samples are zero"):
        read_sphere(path)


def test_shorten_without_sph2pipe_names_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("KALDI_ROOT", str(tmp_path / "kaldi"))
    path = write_sphere(tmp_path / "1a.wav", b"ajkg\2", count=9, sample_coding="pcm,embedded-shorten-v2.00")
    with pytest.raises(MissingDependencyError, match=r"1a\.wav: .*sph2pipe, which is neither on PATH nor in"):
        read_sphere(path)


def test_shorten_goes_through_sph2pipe_of_kaldi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with wave.open(str(tmp_path / "decoded.wav"), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(20000)
        stream.writeframes(SAMPLES.tobytes())
    directory = tmp_path / "kaldi" / "tools" / "sph2pipe_v2.5"
    monkeypatch.setenv("KALDI_ROOT", str(tmp_path / "kaldi"))
    monkeypatch.setenv("PATH", "/usr/bin" + os.pathsep + "/bin")
    path = write_sphere(tmp_path / "1a.wav", b"ajkg\2", count=9, sample_coding="pcm,embedded-shorten-v2.00")
    fake_sph2pipe(directory, tmp_path / "decoded.wav")
    assert find_sph2pipe() == str(directory / "sph2pipe")
    samples, rate = read_sphere(path)
    assert rate == 20000
    np.testing.assert_array_equal(samples, SAMPLES)
    path = write_sphere(path, b"ajkg\2", count=10, sample_coding="pcm,embedded-shorten-v2.00")
    with pytest.raises(DataError, match=r"1a\.wav: sph2pipe gave 9 samples .* promises 10 a channel"):
        read_sphere(path)
    fake_sph2pipe(directory, None)
    with pytest.raises(DataError, match="sph2pipe failed with status 3: cannot decode"):
        read_sphere(path)
