"""WAV files: good audio arrives exactly, anything else is an error that names the file and what is wrong with it."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.wav import as_float, on_grid, read_wav, to_int16, write_wav
from kaldi_uq.io.waves import pad, plan_batches, read_waves, wave_batches, waves_digest

RATE = 8000


def ramp(size: int = 400) -> np.ndarray:
    return np.linspace(-32768, 32767, size).astype(np.int16)


def riff(fmt: bytes, data: bytes, *, length: int | None = None, extra: bytes = b"") -> bytes:
    """A WAV file by hand, whose data chunk can claim another length than it has."""
    size = len(data) if length is None else length
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + extra + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pcm(channels: int = 1, bits: int = 16, rate: int = RATE, code: int = 1) -> bytes:
    frame = channels * bits // 8
    return struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits)


class TestGoodAudio:
    def test_16_bit_round_trip_is_exact(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "x.wav", ramp(), RATE)
        samples, rate = read_wav(tmp_path / "x.wav", expected_rate=8000.0)
        assert (samples.dtype, rate) == (np.float32, RATE)
        assert np.array_equal(samples, ramp() / np.float32(32768))
        assert np.array_equal(to_int16(samples), ramp())

    def test_another_reader_finds_the_same_samples(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "x.wav", ramp(), RATE)
        with wave.open(str(tmp_path / "x.wav")) as stream:
            assert stream.getparams()[:4] == (1, 2, RATE, 400)
            assert np.array_equal(np.frombuffer(stream.readframes(400), "<i2"), ramp())

    @pytest.mark.parametrize(
        "dtype, full_scale", [(np.int32, 2.0**31), (np.float32, 1.0), (np.float64, 1.0)], ids=["int32", "f32", "f64"]
    )
    def test_other_sample_formats_have_the_same_scale(self, tmp_path: Path, dtype: type, full_scale: float) -> None:
        expected = np.array([-0.5, 0.25, 0.0, 0.75])
        wavfile.write(tmp_path / "x.wav", RATE, (expected * full_scale).astype(dtype))
        assert read_wav(tmp_path / "x.wav")[0].tolist() == expected.tolist()

    def test_8_bit_samples_are_centred(self, tmp_path: Path) -> None:
        wavfile.write(tmp_path / "x.wav", RATE, np.array([0, 64, 128, 192], dtype=np.uint8))
        assert read_wav(tmp_path / "x.wav")[0].tolist() == [-1.0, -0.5, 0.0, 0.5]

    def test_24_bit_samples_have_the_same_scale(self, tmp_path: Path) -> None:
        data = b"".join(value.to_bytes(3, "little", signed=True) for value in (-(2**22), 2**21, 1))
        (tmp_path / "x.wav").write_bytes(riff(pcm(bits=24), data))
        assert read_wav(tmp_path / "x.wav")[0].tolist() == [-0.5, 0.25, 2.0**-23]

    def test_other_chunks_are_passed_over(self, tmp_path: Path) -> None:
        note = b"LIST" + struct.pack("<I", 5) + b"hello\0"  # odd length: a byte of padding
        (tmp_path / "x.wav").write_bytes(riff(pcm(), ramp().tobytes(), extra=note))
        assert len(read_wav(tmp_path / "x.wav")[0]) == 400

    @pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000], ids=hex)
    def test_stream_that_does_not_know_its_length_is_read_to_the_end(self, tmp_path: Path, length: int) -> None:
        (tmp_path / "x.wav").write_bytes(riff(pcm(), ramp().tobytes(), length=length))
        assert np.array_equal(to_int16(read_wav(tmp_path / "x.wav")[0]), ramp())

    def test_float_audio_may_reach_full_scale(self, tmp_path: Path) -> None:
        wavfile.write(tmp_path / "x.wav", RATE, np.array([1.0, -1.0], dtype=np.float32))
        assert read_wav(tmp_path / "x.wav")[0].tolist() == [1.0, -1.0]


class TestBadAudio:
    @pytest.mark.parametrize(
        "content, message",
        [
            (b"", r"not a WAV file \(0 bytes"),
            (b"RIFF", "not a WAV file"),
            (b"NIST_1A\n   1024\n" + bytes(2000), "truncated within the SPHERE header"),
            (b"OggS" + bytes(100), "damaged at byte 0: no Ogg page"),
            (riff(pcm(), b"")[:36], "truncated: no data chunk in 36 bytes"),
            (riff(pcm(), ramp().tobytes())[:-7], "truncated: the header promises 800 bytes, 793 are there"),
            (riff(pcm(), b""), "no samples"),
            (riff(pcm(channels=2), ramp().tobytes()), "2 channels, expected 1"),
            (riff(pcm(rate=16000), ramp().tobytes()), "sample rate 16000 Hz, expected 8000 Hz"),
            (riff(pcm(), bytes(800)), "silent: all 400 samples are zero"),
            (riff(pcm(code=0x55, bits=8), bytes(800)), "not a readable WAV file"),
            (riff(pcm()[:8], ramp().tobytes()), "not a readable WAV file"),
            (riff(pcm(channels=0), ramp().tobytes()), "not a readable WAV file"),
        ],
        ids=[
            "empty", "short", "sphere", "ogg", "no-data", "cut-off", "no-samples", "stereo", "rate", "silent", "mp3",
            "short-fmt", "no-channels",
        ],
    )  # fmt: skip
    def test_says_what_is_wrong(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "x.wav").write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            read_wav(tmp_path / "x.wav", expected_rate=RATE)
        assert str(error.value).startswith(f"{tmp_path / 'x.wav'}: ")
        assert "\n" not in str(error.value)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"x\.wav: no such file"):
            read_wav(tmp_path / "x.wav")

    @pytest.mark.parametrize(
        "bad, message",
        [
            (np.nan, "2 samples are NaN or infinite, the first at 3"),
            (np.inf, "2 samples are NaN or infinite, the first at 3"),
            (1.25, "samples reach 1.25, expected at most 1"),
            (-300.0, "samples reach 300, expected at most 1"),
        ],
    )
    def test_float_values_that_are_no_audio(self, tmp_path: Path, bad: float, message: str) -> None:
        samples = np.full(10, 0.1, dtype=np.float32)
        samples[[3, 7]] = bad
        wavfile.write(tmp_path / "x.wav", RATE, samples)
        with pytest.raises(DataError, match=message):
            read_wav(tmp_path / "x.wav")

    def test_no_damage_causes_another_exception(self, tmp_path: Path) -> None:
        whole = riff(pcm(), ramp(60).tobytes(), extra=b"LIST" + struct.pack("<I", 4) + b"note")
        path = tmp_path / "x.wav"
        damaged = [whole[:size] for size in range(len(whole))]
        for place in range(60):
            for bits in (0x01, 0x80, 0xFF):
                damaged.append(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
        for content in damaged:
            path.write_bytes(content)
            try:
                samples, _ = read_wav(path)
            except DataError:
                continue
            assert samples.ndim == 1
            assert np.abs(samples).max() <= 1


class TestAudioFromPython:
    @pytest.mark.parametrize("dtype", ["<i2", ">i2"])
    def test_16_bit_samples_are_those_of_their_file(self, tmp_path: Path, dtype: str) -> None:
        write_wav(tmp_path / "x.wav", ramp(), RATE)
        found = as_float(ramp().astype(dtype))
        assert found.dtype == np.float32
        assert np.array_equal(found, read_wav(tmp_path / "x.wav")[0])

    def test_float_samples_are_taken_as_they_are_from_whatever_holds_them(self) -> None:
        values = [-1.0, 0.25, 0.1, 1.0]
        tensor = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        for samples in (values, np.array(values), np.array(values, np.float32)[::1], tensor, tuple(values)):
            found = as_float(samples)
            assert found.dtype == np.float32
            assert found.tolist() == np.array(values, np.float32).tolist()
        assert as_float(torch.tensor([-32768, 16384], dtype=torch.int16)).tolist() == [-1.0, 0.5]

    def test_rounding_beyond_full_scale_is_allowed_and_cut_off(self) -> None:
        assert as_float([1.0 + 1e-6, -1.0 - 5e-7]).tolist() == [1.0, -1.0]
        with pytest.raises(ValueError, match=r"^audio: samples reach 1\.000002, expected at most 1"):
            as_float([1.0 + 2e-6])

    @pytest.mark.parametrize(
        "samples, message",
        [
            (np.zeros((2, 800)), r"shape \(2, 800\), expected one channel, \(N,\); .* samples\[0\]"),
            (np.zeros((800, 2), np.int16), r"shape \(800, 2\), expected one channel, .* samples\[:, 0\]"),
            (np.float32(0.5), r"shape \(\), expected one channel"),
            (np.zeros(5, np.int32), r"samples are int32, expected int16 or float; give samples / 2147483648\.0, or "),
            ([0, 1, 30000], r"samples are int64, .* samples\.astype\('int16'\) if they are 16-bit values"),
            (np.zeros(5, np.uint8), r"samples are uint8, .*; give \(samples - 128\.0\) / 128"),
            (np.zeros(5, bool), "samples are bool, expected int16 or float"),
            (np.zeros(5, complex), "samples are complex128, expected"),
            (
                ramp().astype(np.float32),
                "samples reach 32768, expected at most 1: looks like 16-bit values; divide",
            ),
            ([0.5, -1.25], "samples reach 1.25, expected at most 1: scale it down"),
            ([0.5, np.nan, 0.1], "1 samples are NaN or infinite, the first at 1"),
            ([0.5, 0.5, -np.inf, np.nan], "2 samples are NaN or infinite, the first at 2"),
            ([], "no samples"),
        ],
    )
    def test_what_would_be_misheard_is_refused_in_one_line(self, samples: object, message: str) -> None:
        with pytest.raises(ValueError, match=f"^call 7: {message}") as error:
            as_float(samples, name="call 7")
        assert "\n" not in str(error.value)

    def test_advice_on_other_integers_is_right(self) -> None:
        for dtype in (np.int8, np.uint8, np.uint16, np.int32):
            info = np.iinfo(dtype)
            samples = np.array([info.min, info.max], dtype)
            with pytest.raises(ValueError, match="give ") as error:
                as_float(samples)
            advice = str(error.value).partition("give ")[2].partition(", or ")[0]
            low, high = as_float(eval(advice, {"samples": samples}))  # noqa: S307 (the text of our own message)
            assert low == -1.0
            assert 0.99 <= high <= 1.0


class TestWriting:
    @pytest.mark.parametrize(
        "samples, message",
        [
            (np.ones((4, 1), np.int16), r"x.wav: shape \(4, 1\), expected one channel"),
            (np.ones(4, np.int32), "x.wav: samples are int32, expected int16 or float"),
            (np.array([0.5, 1.5]), r"x.wav: samples reach 1.5, expected at most 1"),
            (np.array([0.5, np.nan]), "x.wav: 1 samples are NaN or infinite"),
        ],
    )
    def test_another_sound_is_not_written(self, tmp_path: Path, samples: np.ndarray, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            write_wav(tmp_path / "x.wav", samples, RATE)
        assert not (tmp_path / "x.wav").exists()

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_floats_on_the_grid_come_back_exactly(self, tmp_path: Path, dtype: type) -> None:
        samples = (np.arange(-32768, 32768) / 32768).astype(dtype)
        write_wav(tmp_path / "x.wav", samples, RATE)
        assert np.array_equal(read_wav(tmp_path / "x.wav")[0], samples)
        write_wav(tmp_path / "x.wav", [1.0, 0.3, -1.0], RATE)
        assert read_wav(tmp_path / "x.wav")[0].tolist() == on_grid(np.array([1.0, 0.3, -1.0])).tolist()

    def test_rounding_is_to_the_nearest_and_clips(self) -> None:
        steps = np.array([-2.0, -1.0, 0.4 / 32768, 0.6 / 32768, -0.6 / 32768, 1.0, 7.0])
        assert to_int16(steps).tolist() == [-32768, -32768, 0, 1, -1, 32767, 32767]


class TestWaves:
    def data(self, tmp_path: Path, **paths: str) -> DataDir:
        return DataDir(tmp_path, wav_scp=paths, utt2spk={utt: utt for utt in paths})

    def test_pipe_in_wav_scp_is_refused_and_not_run(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "a.wav", ramp(), RATE)
        data = self.data(tmp_path, a=str(tmp_path / "a.wav"), b=f"touch {tmp_path / 'marker'} |")
        with pytest.raises(DataError, match=r"wav\.scp:2: 'touch .* is a pipe.*--allow-pipes"):
            read_waves(data, sample_rate=RATE, min_samples=1)
        assert not (tmp_path / "marker").exists()

    def test_utterance_too_short_for_the_model_is_named_with_its_length(self, tmp_path: Path) -> None:
        write_wav(tmp_path / "a.wav", ramp(80), RATE)
        with pytest.raises(DataError, match=r"'a' has 80 samples \(0\.010 s\), the shortest that can be used is 200"):
            read_waves(self.data(tmp_path, a=str(tmp_path / "a.wav")), sample_rate=RATE, min_samples=200)

    def test_only_the_chosen_utterances_are_read_in_the_directorys_order(self, tmp_path: Path) -> None:
        for name in "ac":
            write_wav(tmp_path / f"{name}.wav", ramp(), RATE)
        (tmp_path / "b.wav").write_bytes(b"damaged")
        data = self.data(tmp_path, **{name: str(tmp_path / f"{name}.wav") for name in "abc"})
        assert list(read_waves(data, sample_rate=RATE, utts=["c", "a"])) == ["a", "c"]
        assert read_waves(data, sample_rate=RATE, utts=[]) == {}
        with pytest.raises(DataError, match="not a WAV file"):
            read_waves(data, sample_rate=RATE)
        with pytest.raises(ValueError, match="utterance 'd' is not in"):
            read_waves(data, sample_rate=RATE, utts=["a", "d"])

    def test_digest_follows_the_samples_and_not_the_place(self) -> None:
        waves = {"a": np.array([0.5, 0.25], np.float32), "b": np.array([0.125], np.float32)}
        assert waves_digest(waves) == waves_digest({utt: wave.copy() for utt, wave in waves.items()})
        moved = {"a": np.array([0.5], np.float32), "b": np.array([0.25, 0.125], np.float32)}
        louder = {**waves, "a": waves["a"] * np.float32(1.0000001)}
        assert len({waves_digest(w) for w in (waves, moved, louder, {"a": waves["a"]})}) == 4

    def test_every_utterance_is_in_one_batch_and_batches_hold_their_limit(self) -> None:
        lengths = np.random.default_rng(0).integers(1, 900, 200).tolist()
        batches = plan_batches(lengths, max_samples=4000)
        assert sorted(i for batch in batches for i in batch) == list(range(200))
        assert all(max(lengths[i] for i in batch) * len(batch) <= 4000 for batch in batches)
        longest = [lengths[batch[0]] for batch in batches]
        assert longest == sorted(longest, reverse=True)

    def test_utterance_beyond_the_limit_is_a_batch_of_its_own(self) -> None:
        assert plan_batches([5, 100, 4], max_samples=10) == [[1], [0, 2]]

    def test_padding_is_zero_and_lengths_are_kept(self) -> None:
        waves = {"a": np.full(3, 0.5, np.float32), "b": np.full(5, 0.25, np.float32)}
        batch = pad(waves, ["a", "b"])
        assert batch.wav.tolist() == [[0.5] * 3 + [0.0] * 2, [0.25] * 5]
        assert batch.num_samples.tolist() == [3, 5]
        assert [b.utts for b in wave_batches(waves)] == [("b", "a")]
