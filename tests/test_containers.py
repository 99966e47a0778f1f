"""AIFF, AU, CAF and Wave64: the samples of the WAV file, or one line that says that the file is cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.io.wav import read_channels, read_wav
from tests.audio_files import RATE, encode, speech, write

KINDS = ("aiff", "aiff24", "au", "au float", "caf", "w64", "w64 32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_those_of_the_wav_file(tmp_path: Path, kind: str, channels: int) -> None:
    samples = speech(3001, channels)
    written = samples / np.float32(32768) if "float" in kind else samples
    found, rate = read_channels(write(tmp_path / "a.wav", written, kind))
    wanted, _ = read_channels(write(tmp_path / "b.wav", samples, "wav"))
    assert rate == RATE and np.array_equal(found, wanted)


@pytest.mark.parametrize("kind, fine", [("aiff24", "wav24"), ("w64 32", "wav24")])
def test_more_than_16_bits_are_kept(tmp_path: Path, kind: str, fine: str) -> None:
    samples = speech().astype(np.int32) * 65536 + 256 * np.arange(8000, dtype=np.int32)
    found, wanted = (read_wav(write(tmp_path / name, samples, name))[0] for name in (kind, fine))
    assert np.array_equal(found, wanted) and not np.array_equal(found * 32768, np.rint(found * 32768))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_is_no_audio(tmp_path: Path, kind: str) -> None:
    whole = encode(speech(), kind)
    for size in (len(whole) * 2 // 3, 40, 13):
        (tmp_path / "x").write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"^{tmp_path}/x: (truncated|not a WAV)[^\n]*$"):
            read_wav(tmp_path / "x")


def test_a_length_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    whole = encode(speech(), "au")
    (tmp_path / "x.au").write_bytes(whole[:8] + b"\xff" * 4 + whole[12:])
    with pytest.raises(DataError, match="AU that does not say how long its audio is"):
        read_wav(tmp_path / "x.au")


def test_floating_point_beyond_full_scale_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.au", np.full(2000, 3.0, np.float32), "au float")
    with pytest.raises(DataError, match="samples reach 3, expected at most 1"):
        read_wav(tmp_path / "x.au")
