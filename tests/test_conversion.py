"""Audio of other rates and channels: what is refused, what is converted, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.errors import DataError, OtherAudioError
from kaldi_uq.io.conversion import Conversion
from kaldi_uq.io.names import MEAN
from kaldi_uq.io.recording import open_recording
from kaldi_uq.io.wav import read_channels, read_wav
from tests.audio_files import speech, write

RATE = 16000


def same(path: Path, count: int = 2) -> Path:
    return write(path, np.repeat(speech()[:, None], count, axis=1), "wav")


def test_what_is_as_it_should_be_comes_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", speech(), "wav")
    conversion = Conversion(RATE, resample=True, channel=1)
    assert np.array_equal(read_wav(path, resampler=conversion)[0], read_wav(path)[0])
    assert conversion.done == {}


def test_channels_that_are_the_same_are_one(tmp_path: Path) -> None:
    conversion = Conversion(RATE, resample=False)
    found, rate = read_wav(same(tmp_path / "a.wav", 3), resampler=conversion)
    assert rate == RATE and np.array_equal(found, speech() / np.float32(32768))
    assert str(conversion.done[str(tmp_path / "a.wav")]) == "3 channels, all the same"


def test_one_sample_makes_channels_differ(tmp_path: Path) -> None:
    samples = np.repeat(speech()[:, None], 2, axis=1)
    samples[4000, 1] += 1
    path = write(tmp_path / "a.wav", samples, "wav")
    with pytest.raises(OtherAudioError, match="2 channels that differ, expected 1; name what the recogniser") as caught:
        read_wav(path, resampler=Conversion(RATE, resample=False))
    assert caught.value.options == ("--channel", "1")


@pytest.mark.parametrize("channel, said", [(1, "channel 1 of"), (2, "channel 2 of"), (MEAN, "the mean of")])
def test_the_channel_that_is_asked_for(tmp_path: Path, channel: int | str, said: str) -> None:
    path = write(tmp_path / "a.wav", speech(channels=2), "wav")
    both = read_channels(path)[0]
    conversion = Conversion(RATE, resample=False, channel=channel)
    found = read_wav(path, resampler=conversion)[0]
    wanted = both.mean(axis=0) if channel == MEAN else both[int(channel) - 1]
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    assert str(conversion.done[str(path)]) == f"{said} 2 channels, which differ"


@pytest.mark.parametrize("count, message", [(1, "no channel 3, there is 1"), (2, "no channel 3, there are 2")])
def test_a_channel_that_is_not_there(tmp_path: Path, count: int, message: str) -> None:
    path = write(tmp_path / "a.wav", speech(channels=count), "wav")
    with pytest.raises(DataError, match=message):
        read_wav(path, resampler=Conversion(RATE, resample=False, channel=3))


def test_both_are_said_at_once_with_the_options_for_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", speech(channels=2), "wav", rate=44100)
    with pytest.raises(OtherAudioError, match="44100 Hz, expected 16000 Hz; 2 channels that differ") as caught:
        read_wav(path, resampler=Conversion(RATE, resample=False))
    assert caught.value.options == ("--resample", "--channel", "1")
    conversion = Conversion(RATE, resample=True, channel=1)
    found, rate = read_wav(path, resampler=conversion)
    assert rate == RATE and len(found) == -(-8000 * 16000 // 44100)
    record = conversion.done[str(path)].record()
    assert record == {"from_hz": 44100, "to_hz": 16000, "channels": 2, "channel": 1, "same": False}


def test_long_recordings_follow_the_same_rules(tmp_path: Path) -> None:
    conversion = Conversion(RATE, resample=False)
    found = open_recording(same(tmp_path / "a.wav"), 100, resampler=conversion)
    assert np.array_equal(found[:], speech() / np.float32(32768)) and len(conversion.done) == 1
    with pytest.raises(OtherAudioError, match="sample rate 8000 Hz, expected 16000 Hz"):
        open_recording(write(tmp_path / "b.wav", speech(), "wav", rate=8000), 100, resampler=conversion)


def test_one_anew_has_done_nothing(tmp_path: Path) -> None:
    conversion = Conversion(RATE, resample=True, channel=MEAN)
    read_wav(write(tmp_path / "a.wav", speech(channels=2), "wav"), resampler=conversion)
    again = conversion.anew()
    assert (again.rate, again.resample, again.channel, again.done) == (RATE, True, MEAN, {})
