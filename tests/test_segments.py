"""``segments``: what a line may be, and the parts of recordings that commands read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.segments import Segment
from kaldi_uq.io.wav import write_wav
from kaldi_uq.io.waves import read_waves

RATE = 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings: samples count up, and down; the second has two channels."""
    up = np.arange(1, 2001).astype(np.int16)
    write_wav(tmp_path / "up.wav", up, RATE)
    wavfile.write(tmp_path / "two.wav", RATE, np.stack([-up, up * 3], 1).astype(np.int16))
    data = tmp_path / "data"
    data.mkdir()
    (data / "wav.scp").write_text(f"rec1 {tmp_path / 'up.wav'}\nrec2 {tmp_path / 'two.wav'}\n")
    (data / "segments").write_text("a-1 rec1 0.5 1\na-2 rec2 0.1 0.3 1\na-3 rec1 1.8 2.4\na-4 rec1 0 -1\n")
    (data / "utt2spk").write_text("".join(f"a-{n} a\n" for n in range(1, 5)))
    return data


def read(folder: Path) -> dict[str, np.ndarray]:
    return read_waves(DataDir.read(folder), sample_rate=RATE, min_samples=100)


def test_segments_are_cut_in_the_directorys_order(folder: Path) -> None:
    waves = read(folder)
    assert list(waves) == ["a-1", "a-2", "a-3", "a-4"]
    scaled = {utt: (wave * 32768).astype(int) for utt, wave in waves.items()}
    assert (scaled["a-1"][0], scaled["a-1"][-1]) == (501, 1000)
    assert (scaled["a-2"][0], scaled["a-2"][-1]) == (303, 900)
    assert (scaled["a-3"][0], scaled["a-3"][-1]) == (1801, 2000)  # cut off where the recording ends
    assert len(scaled["a-4"]) == 2000
    assert all(wave.base is None for wave in waves.values())  # nothing keeps the recording in memory


def test_only_the_recordings_of_the_chosen_segments_are_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "two.wav").unlink()
    waves = read_waves(DataDir.read(folder), sample_rate=RATE, utts={"a-3", "a-1"})
    assert {utt: len(wave) for utt, wave in waves.items()} == {"a-1": 500, "a-3": 200}


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("rec1 0.5 1", "rec1 0.5 2.6", r"segments:1: 'a-1': it ends at 2.6 s, the recording has 2.000 s"),
        ("rec1 0.5 1", "rec1 2.1 2.2", r"segments:1: 'a-1': it begins at 2.1 s"),
        ("rec1 0.5 1", "rec1 0.5 0.55", r"segments:1: 'a-1': 0.050 s, Kaldi's extract-segments takes more than 0.1 s"),
        ("rec1 0.5 1", "rec1 1 0.5", r"segments:1: 'a-1': expected 0 <= start < end, found 1 and 0.5"),
        ("rec1 0.5 1", "rec1 0.5", r"segments:1: 'a-1': expected '<utt> <reco> <start> <end>', found 3 fields"),
        ("rec1 0.5 1", "rec1 x 1", r"segments:1: 'a-1': could not convert"),
        ("rec1 0.5 1", "rec1 nan 1", r"segments:1: 'a-1': expected 0 <= start"),
        ("rec1 0.5 1", "rec1 0.5 1 A", r"segments:1: 'a-1': expected a channel from 0, found 'A'"),
        ("rec1 0.5 1", "rec3 0.5 1", r"segments:1: recording 'rec3' is not in wav.scp"),
        ("0.3 1", "0.3", r"segments:2: 'a-2': recording 'rec2' has 2 channels; add one to the line"),
        ("0.3 1", "0.3 2", r"segments:2: 'a-2': no channel 2 in 'rec2', which has 2"),
        ("a-4 rec1 0 -1\n", "", r"utt2spk:4: utterance 'a-4' is not in segments"),
    ],
)  # fmt: skip
def test_mistake_is_said_with_file_and_line(folder: Path, old: str, new: str, message: str) -> None:
    text = (folder / "segments").read_text()
    assert old in text
    (folder / "segments").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read(folder)


def test_segment_of_silence_and_one_too_short_for_the_model_name_their_line(folder: Path, tmp_path: Path) -> None:
    quiet = np.zeros(2000, np.int16)
    quiet[1500:] = 5
    write_wav(tmp_path / "up.wav", quiet, RATE)
    with pytest.raises(DataError, match=r"segments:1: 'a-1': silent: all 500 samples are zero"):
        read(folder)
    write_wav(tmp_path / "up.wav", quiet + 1, RATE)
    with pytest.raises(DataError, match=r"segments:2: utterance 'a-2' has 200 samples .* the shortest .* is 201"):
        read_waves(DataDir.read(folder), sample_rate=RATE, min_samples=201)


def test_other_sample_rate_is_one_error(folder: Path) -> None:
    with pytest.raises(DataError, match=r"up\.wav: sample rate 1000 Hz, expected 8000 Hz"):
        read_waves(DataDir.read(folder), sample_rate=8000, min_samples=1)


def test_recording_in_an_archive_of_waveforms(folder: Path, tmp_path: Path) -> None:
    # as wav-copy writes it: keys, each followed by a whole file
    one, two = (tmp_path / "up.wav").read_bytes(), (tmp_path / "two.wav").read_bytes()
    (tmp_path / "w.ark").write_bytes(b"rec1 " + one + b"rec2 " + two)
    expected = read(folder)
    (folder / "wav.scp").write_text(f"rec1 {tmp_path}/w.ark:5\nrec2 {tmp_path}/w.ark:{5 + len(one) + 5}\n")
    found = read(folder)
    assert all(np.array_equal(found[utt], expected[utt]) for utt in expected)


def test_positions_are_rounded_to_the_nearest_sample() -> None:
    assert Segment("r", 0.2004, 0.3006).samples(2000, RATE) == (200, 301)
    assert Segment("r", 0.2005, 0.4).samples(2000, RATE) == (201, 400)
