"""FLAC, Ogg and MP3: the samples of the file, whatever its name, or one line that says what is wrong with it."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kaldi_uq.errors import DataError, MissingDependencyError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.encoded import encoded_kind
from kaldi_uq.io.mp3 import frame_at
from kaldi_uq.io.ogg import page_checksum
from kaldi_uq.io.wav import read_channels, read_wav, to_int16
from kaldi_uq.io.waves import read_waves, unusable
from tests.audio_files import LOSSY, RATE, encode, speech, without_count, write

ENCODED = ("flac", "flac24", "vorbis", "opus", "mp3")


def heard(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return read_wav(path)[0]


class TestGoodFiles:
    @pytest.mark.parametrize("name", ["x.flac", "x.wav", "x", "it's $(a) x.mp3"])
    def test_flac_of_a_wav_file_has_its_samples_whatever_its_name(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / name, speech(), "flac")
        write(tmp_path / "y.wav", speech(), "wav")
        found, rate = read_wav(tmp_path / name, expected_rate=RATE)
        assert rate == RATE and found.dtype == np.float32
        assert np.array_equal(found, read_wav(tmp_path / "y.wav")[0])

    @pytest.mark.parametrize("channels", [1, 2, 3])
    def test_24_bits_are_those_of_the_wav_file(self, tmp_path: Path, channels: int) -> None:
        fine = speech(8000 * channels).astype(np.int32) * 65536 + 256 * np.arange(8000 * channels, dtype=np.int32)
        fine = fine.reshape(8000, channels)
        flac, wav = (read_channels(write(tmp_path / kind, fine, kind))[0] for kind in ("flac24", "wav24"))
        assert flac.shape == (channels, 8000)
        assert np.array_equal(flac, wav)
        assert not np.array_equal(flac * 32768, np.rint(flac * 32768))

    def test_8_bits(self, tmp_path: Path) -> None:
        found = read_wav(write(tmp_path / "x", speech(), "flac8"))[0]
        assert np.array_equal(found, (speech() // 256) / np.float32(128))

    @pytest.mark.parametrize("kind", LOSSY)
    def test_lossy_coding_is_decoded_to_16_bit_and_sounds_like_it(self, tmp_path: Path, kind: str) -> None:
        found, rate = read_wav(write(tmp_path / "x.wav", speech(), kind))
        assert (rate, len(found)) == (RATE, 8000)
        assert np.array_equal(found, to_int16(found) / np.float32(32768))
        tone = 8000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(8000) / RATE)
        assert np.sqrt(np.mean((found - tone)[1000:-1000] ** 2)) < 0.02

    @pytest.mark.parametrize("kind", LOSSY)
    def test_peaks_beyond_full_scale_are_clipped(self, tmp_path: Path, kind: str) -> None:
        loud = np.where(speech() > 0, 32767, -32768).astype(np.int16)
        found = read_wav(write(tmp_path / "x", loud, kind))[0]
        assert found.min() == -1.0 and found.max() == np.float32(32767 / 32768)

    def test_float_wav_beyond_full_scale_is_no_such_peak(self, tmp_path: Path) -> None:
        for bad, message in ((1.5, "samples reach 1.5, expected at most 1"), (np.nan, "1 samples are NaN or infinite")):
            values = (speech() / 32768).astype(np.float32)
            values[7] = bad
            with pytest.raises(DataError, match=f"x: {message}"):
                read_wav(write(tmp_path / "x", values, "float"))

    @pytest.mark.parametrize("kind", ENCODED)
    def test_channels_are_kept_apart_and_one_must_be_chosen(self, tmp_path: Path, kind: str) -> None:
        path = write(tmp_path / "x", speech(channels=2), kind)
        channels, _ = read_channels(path)
        assert channels.shape == (2, 8000)
        assert 1.1 < np.std(channels[1]) / np.std(channels[0]) < 2.2  # MP3 mixes them a little
        with pytest.raises(DataError, match="x: 2 channels, expected 1; choose one"):
            read_wav(path)

    @pytest.mark.parametrize("kind", ["flac", "mp3"])
    def test_tags_before_and_behind_are_no_audio(self, tmp_path: Path, kind: str) -> None:
        plain = encode(speech(), kind)
        expected = heard(tmp_path / "x", plain)
        id3 = b"ID3\4\0\0\0\0\1\2" + bytes(range(130))
        assert np.array_equal(heard(tmp_path / "x", id3 + plain + b"TAG" + b"x" * 125), expected)

    @pytest.mark.parametrize("rate, channels", [(8000, 1), (16000, 2), (22050, 1), (44100, 2), (48000, 1)])
    def test_mp3_that_does_not_count_its_frames_is_read_to_its_end(
        self, tmp_path: Path, rate: int, channels: int
    ) -> None:
        whole = encode(speech(60_000, channels), "mp3", rate)
        (tmp_path / "x").write_bytes(without_count(whole))
        found = read_channels(tmp_path / "x")[0]
        assert found.shape[0] == channels and 60_000 <= found.shape[1] < 60_000 + 4000

    @pytest.mark.parametrize("rate", [8000, 12000, 24000, 48000])
    def test_opus_comes_at_the_rate_of_its_original(self, tmp_path: Path, rate: int) -> None:
        found, heard_rate = read_wav(write(tmp_path / "x", speech(), "opus", rate))
        assert (heard_rate, len(found)) == (rate, 8000)

    @pytest.mark.parametrize("kind", ENCODED)
    def test_stream(self, tmp_path: Path, kind: str) -> None:
        path = write(tmp_path / "x", speech(), kind)
        found = read_wav(io.BytesIO(path.read_bytes()), where="standard input")[0]
        assert np.array_equal(found, read_wav(path)[0])
        with pytest.raises(DataError, match=r"^standard input: (truncated|damaged)"):
            read_wav(io.BytesIO(path.read_bytes()[:-50]), where="standard input")


class TestBadFiles:
    @pytest.mark.parametrize("kind", ENCODED)
    @pytest.mark.parametrize("lost", [1, 100, 3000, 0.5, 0.99])
    def test_truncated(self, tmp_path: Path, kind: str, lost: float) -> None:
        content = encode(speech(30_000), kind)
        rest = content[: len(content) - lost] if isinstance(lost, int) else content[: int(len(content) * (1 - lost))]
        with pytest.raises(DataError, match=r"/x: (truncated|damaged)"):
            heard(tmp_path / "x", rest)

    def test_mp3_cut_between_two_frames(self, tmp_path: Path) -> None:
        content = encode(speech(30_000), "mp3")
        at, ends = 0, []
        while frame := frame_at(content, at):
            at += frame.size
            ends.append(at)
        with pytest.raises(DataError, match=rf"x: truncated: {len(ends) - 4} of {len(ends) - 1} MP3 frames"):
            heard(tmp_path / "x", content[: ends[-4]])

    @pytest.mark.parametrize("kind", ["flac", "flac24", "vorbis", "opus"])
    def test_one_bit_in_the_middle(self, tmp_path: Path, kind: str) -> None:
        content = bytearray(encode(speech(30_000), kind))
        content[len(content) // 2] ^= 4
        with pytest.raises(DataError, match=r"/x: (truncated or )?damaged"):
            heard(tmp_path / "x", bytes(content))

    def test_mp3_that_its_decoder_complains_of(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        content = bytearray(encode(speech(), "mp3"))
        second = frame_at(content, 0).size
        third = second + frame_at(content, second).size
        content[third + 4 : third + 24] = b"\xff" * 20  # side information that no frame can have
        with pytest.raises(DataError, match=r"/x: damaged: the decoder says '.*big_values too large"):
            heard(tmp_path / "x", bytes(content))
        os.write(2, b"still there\n")
        assert capfd.readouterr().err == "still there\n"

    def test_flac_whose_samples_are_not_those_of_its_digest(self, tmp_path: Path) -> None:
        content = bytearray(encode(speech(), "flac"))
        content[30] ^= 1
        with pytest.raises(DataError, match=r"/x: damaged: its samples are not those that were encoded \(MD5\)"):
            heard(tmp_path / "x", bytes(content))
        content[26:42] = bytes(16)  # the encoder did not say
        assert np.array_equal(to_int16(heard(tmp_path / "x", bytes(content))), speech())

    @pytest.mark.parametrize(
        "total, message",
        [
            (0, "does not say its length"),
            (7999, "truncated or damaged|MD5"),
            (8001, "truncated or damaged"),
            ((1 << 36) - 1, "the most that is taken"),
        ],
    )
    def test_flac_with_another_length_than_it_says(self, tmp_path: Path, total: int, message: str) -> None:
        content = bytearray(encode(speech(), "flac"))
        fields = int.from_bytes(content[18:26], "big") >> 36 << 36 | total
        content[18:26] = fields.to_bytes(8, "big")
        with pytest.raises(DataError, match=rf"/x: .*({message})"):
            heard(tmp_path / "x", bytes(content))

    @pytest.mark.parametrize("kind", ENCODED)
    @pytest.mark.parametrize("between", [b"", b"\0" * 7])
    def test_two_files_in_one(self, tmp_path: Path, kind: str, between: bytes) -> None:
        content = encode(speech(), kind)
        with pytest.raises(DataError, match=r"/x: (a second .* begins|damaged)"):
            heard(tmp_path / "x", content + between + content)

    @pytest.mark.parametrize(
        "magic, what", [(b"Speex   ", "Speex"), (b"\x7fFLAC", "FLAC"), (b"?", "an unknown coding")]
    )
    def test_other_codings_in_ogg(self, tmp_path: Path, magic: bytes, what: str) -> None:
        packet = magic.ljust(40, b"\0")
        page = bytearray(b"OggS\0\6" + bytes(8) + b"abcd" + bytes(8) + bytes([1, len(packet)]) + packet)
        page[22:26] = page_checksum(bytes(page))
        with pytest.raises(DataError, match=f"{what} in Ogg, expected Vorbis or Opus"):
            heard(tmp_path / "x", bytes(page))

    def test_page_that_is_missing(self, tmp_path: Path) -> None:
        content = encode(speech(90_000), "vorbis")
        places = [at for at in range(len(content)) if content.startswith(b"OggS", at)]
        assert len(places) > 4
        with pytest.raises(DataError, match="damaged: page 4 where page 3 was expected"):
            heard(tmp_path / "x", content[: places[3]] + content[places[4] :])

    def test_bomb(self, tmp_path: Path) -> None:
        """Much of the same is little FLAC; what it unpacks to is bounded by the size of the file."""
        same = np.full(40_000_000, 5, np.int16)
        path = write(tmp_path / "x", same, "flac")
        assert path.stat().st_size < 300_000
        with pytest.raises(DataError, match=r"x: 40000000 samples of 1 channels in .* bytes, more than .* as 16 bit"):
            read_wav(path)

    @pytest.mark.parametrize("kind", ENCODED)
    def test_longest_file_is_that_of_its_samples(self, tmp_path: Path, kind: str) -> None:
        path = write(tmp_path / "x", speech(), kind)
        assert len(read_wav(path, max_bytes=max(16_000, path.stat().st_size))[0]) == 8000
        with pytest.raises(DataError, match=r"x: .*more than .* MB"):
            read_wav(path, max_bytes=15_000)

    @pytest.mark.parametrize("kind", ENCODED)
    def test_silence(self, tmp_path: Path, kind: str) -> None:
        quiet = np.zeros(8000, np.int16)
        with pytest.raises(DataError, match="x: silent: all 8000 samples are zero"):
            read_wav(write(tmp_path / "x", quiet, kind))

    def test_archive_holds_wav(self, tmp_path: Path) -> None:
        (tmp_path / "x.ark").write_bytes(b"a " + encode(speech(), "flac"))
        with pytest.raises(DataError, match=r"x\.ark:2: FLAC in an archive; expected WAV or SPHERE there"):
            read_wav(f"{tmp_path}/x.ark:2")

    def test_without_soundfile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "x", speech(), "flac")
        wav = write(tmp_path / "y", speech(), "wav")
        monkeypatch.setitem(sys.modules, "soundfile", None)
        with pytest.raises(
            MissingDependencyError, match=r"x: all audio but WAV and SPHERE is .* pip install soundfile"
        ):
            read_wav(path)
        assert len(read_wav(wav)[0]) == 8000

    @pytest.mark.parametrize(
        "content", [b"\xff\xfe", b"\xff\xfea\0b\0", b"ID", b"Ogg", b"fLa", b"\xff\xff\xff\xff" * 9]
    )
    def test_what_begins_like_it_is_not_it(self, content: bytes) -> None:
        assert encoded_kind(content) == ""


class TestDataDir:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        data = tmp_path / "data"
        write(tmp_path / "rec1.flac", speech(32_000, channels=2), "flac")
        write(tmp_path / "rec2.wav", speech(16_000, seed=1), "opus")
        (data).mkdir()
        (data / "wav.scp").write_text(f"rec1 {tmp_path}/rec1.flac\nrec2 {tmp_path}/rec2.wav\n")
        (data / "segments").write_text("a-1 rec1 0.5 1 1\na-2 rec1 1.25 -1 0\na-3 rec2 0 0.5\n")
        (data / "utt2spk").write_text("a-1 a\na-2 a\na-3 a\n")
        # for scoring, as in Kaldi: no audio is chosen by it
        (data / "reco2file_and_channel").write_text("rec1 rec1 A\nrec2 rec2 B\n")
        return data

    def test_segments_of_a_channel(self, folder: Path) -> None:
        waves = read_waves(DataDir.read(folder), sample_rate=RATE)
        both = speech(32_000, channels=2)
        assert np.array_equal(to_int16(waves["a-1"]), both[8000:16000, 1])
        assert np.array_equal(to_int16(waves["a-2"]), both[20000:, 0])
        assert len(waves["a-3"]) == 8000

    def test_only_the_recordings_of_the_chosen_segments_are_read(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "rec1.flac").unlink()
        assert list(read_waves(DataDir.read(folder), sample_rate=RATE, utts=["a-3"])) == ["a-3"]

    def test_channel_of_a_recording_must_be_there_and_be_said(self, folder: Path) -> None:
        for old, new, message in (
            ("0.5 1 1", "0.5 1", "recording 'rec1' has 2 channels; add one to the line"),
            ("0.5 1 1", "0.5 1 2", "no channel 2 in 'rec1', which has 2"),
        ):
            text = (folder / "segments").read_text()
            (folder / "segments").write_text(text.replace(old, new))
            with pytest.raises(DataError, match=rf"segments:1: 'a-1': {message}"):
                read_waves(DataDir.read(folder), sample_rate=RATE)
            (folder / "segments").write_text(text)

    def test_damaged_recordings_are_bad_utterances(self, folder: Path, tmp_path: Path) -> None:
        content = (tmp_path / "rec1.flac").read_bytes()
        (tmp_path / "rec1.flac").write_bytes(content[:-50])
        assert set(unusable(DataDir.read(folder), sample_rate=RATE)) == {"a-1", "a-2"}


def test_soundfile_finds_the_same_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "x", speech(channels=2), "flac")
    assert np.array_equal(read_channels(path)[0], soundfile.read(path, dtype="float32")[0].T)
