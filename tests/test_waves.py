"""Waveforms that are read when they are asked for: the same bits as in memory, each program once, few at a time."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir, write_table
from kaldi_uq.io.files import write_text
from kaldi_uq.io.spool import Spool, mapped_array
from kaldi_uq.io.wav import on_grid, to_int16, write_wav
from kaldi_uq.io.waves import (
    Waves,
    compact,
    expanded,
    pad,
    plan_batches,
    read_waves,
    wave_batches,
    waves_digest,
    waves_of_files,
)
from tests import tiny
from tests.alive import Alive

RATE = tiny.RATE


def speech(num_utts: int) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Utterances as a 16-bit file holds them: without a negative zero."""
    waves, text = tiny.make_waves(num_utts)
    return {utt: on_grid(wave) for utt, wave in waves.items()}, text


def digest_of(waves: Mapping[str, np.ndarray]) -> str:
    """The digest as it is defined."""
    parts = [f"{utt} {len(wave)}\n".encode() + wave.astype(np.float32).tobytes() for utt, wave in waves.items()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for utt, wave in expected.items():
        assert found[utt].dtype == np.float32
        assert found[utt].tobytes() == wave.tobytes()


def counted_pipe(folder: Path, source: Path) -> str:
    """A command that hands on a file and leaves a line each time that it runs."""
    return f"echo ran >> {folder / 'runs'}; cat {source} |"


def segmented(folder: Path, waves: dict[str, np.ndarray], *, source: str = "", mixed: bool = False) -> DataDir:
    """Two recordings with half of the utterances each; ``mixed``: every second one, so that they alternate."""
    utts = list(waves)
    halves = [utts[::2], utts[1::2]] if mixed else [utts[: len(utts) // 2], utts[len(utts) // 2 :]]
    segments = {}
    for reco, half in zip(("r1", "r2"), halves, strict=True):
        write_wav(folder / f"{reco}.wav", to_int16(np.concatenate([waves[utt] for utt in half])), RATE)
        at = 0
        for utt in half:
            segments[utt] = f"{reco} {at / RATE:.6f} {(at + len(waves[utt])) / RATE:.6f}"
            at += len(waves[utt])
    write_table(folder / "wav.scp", {r: source.format(r) or str(folder / f"{r}.wav") for r in ("r1", "r2")})
    write_table(folder / "segments", {utt: segments[utt] for utt in utts})
    write_table(folder / "utt2spk", {utt: utt for utt in utts})
    return DataDir.read(folder)


class TestReading:
    def test_files_are_read_again_to_the_same_bits(self, tmp_path: Path) -> None:
        waves, text = speech(5)
        found = read_waves(DataDir.read(tiny.write_set(tmp_path, waves, text)), sample_rate=RATE)
        same(found, waves)
        same(found, waves)  # as often as asked
        assert waves_digest(found) == found.digest == waves_digest(waves) == digest_of(waves)
        assert found["utt00"] is not found["utt00"]

    @pytest.mark.parametrize("mixed", [False, True])
    def test_parts_of_recordings_are_kept_and_the_recording_is_opened_once(self, tmp_path: Path, mixed: bool) -> None:
        waves, _ = speech(6)
        found = read_waves(segmented(tmp_path, waves, mixed=mixed), sample_rate=RATE)
        for path in tmp_path.glob("*.wav"):
            path.unlink()
        same(found, waves)
        assert waves_digest(found) == digest_of(waves)
        assert bool(found.digest) is not mixed  # recordings one after the other are not the utterances' order

    @pytest.mark.parametrize("segments", [False, True])
    def test_a_program_runs_once(self, tmp_path: Path, segments: bool) -> None:
        waves, text = speech(4)
        if segments:
            data = segmented(tmp_path, waves, source=counted_pipe(tmp_path, tmp_path / "{}.wav"))
        else:
            tiny.write_set(tmp_path, waves, text)
            scp = {utt: counted_pipe(tmp_path, tmp_path / "wav" / f"{utt}.wav") for utt in waves}
            write_table(tmp_path / "wav.scp", scp)
            data = DataDir.read(tmp_path)
        found = read_waves(data, sample_rate=RATE, allow_pipes=True)
        list(wave_batches(found))
        same(found, waves)
        assert len((tmp_path / "runs").read_text().splitlines()) == len(data.wav_scp)

    def test_held_waveforms_stay_in_memory_up_to_a_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        waves, text = speech(3)
        monkeypatch.setattr("kaldi_uq.io.waves.HELD_BYTES", 2 * (len(waves["utt00"]) + len(waves["utt01"])))
        folder = tiny.write_set(tmp_path, waves, text)
        found = read_waves(DataDir.read(folder), sample_rate=RATE).held()
        same(found, waves)
        for utt in waves:
            (folder / "wav" / f"{utt}.wav").unlink()
        same(found.subset(["utt00", "utt01"]), {utt: waves[utt] for utt in ("utt00", "utt01")})
        with pytest.raises(DataError, match=r"utt02\.wav"):
            found["utt02"]

    def test_pipes_that_only_decode_are_read_again_and_not_kept(self, tmp_path: Path) -> None:
        waves, text = speech(2)
        tiny.write_set(tmp_path, waves, text)
        write_table(tmp_path / "wav.scp", {utt: f"cat {tmp_path / 'wav' / utt}.wav |" for utt in waves})
        found = read_waves(DataDir.read(tmp_path), sample_rate=RATE)
        same(found, waves)
        (tmp_path / "wav/utt00.wav").unlink()
        with pytest.raises(DataError, match=r"utt00\.wav"):
            found["utt00"]

    def test_resampled_audio_is_the_same_each_time_and_counted_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        waves, text = speech(3)
        tiny.write_set(tmp_path, waves, text)
        found = read_waves(DataDir.read(tmp_path), sample_rate=16000, resample=True)
        same(found, {utt: found[utt] for utt in waves})
        assert waves_digest(found) == digest_of(dict(found))
        assert [record.getMessage().count("3 of 3 resampled") for record in caplog.records] == [1]

    def test_a_file_that_changes_its_length_meanwhile_is_an_error(self, tmp_path: Path) -> None:
        waves, text = speech(2)
        found = read_waves(DataDir.read(tiny.write_set(tmp_path, waves, text)), sample_rate=RATE)
        write_wav(tmp_path / "wav/utt01.wav", to_int16(waves["utt01"][:-1]), RATE)
        size = len(waves["utt01"])
        with pytest.raises(DataError, match=f"'utt01': its file was changed: {size - 1} samples, there were {size}"):
            found["utt01"]
        same(found.subset(["utt00"]), {"utt00": waves["utt00"]})

    def test_all_are_checked_before_any_is_used(self, tmp_path: Path) -> None:
        waves, text = speech(3)
        tiny.write_set(tmp_path, waves, text)
        write_text(tmp_path / "wav/utt02.wav", "no audio")
        with pytest.raises(DataError, match=r"utt02\.wav"):
            read_waves(DataDir.read(tmp_path), sample_rate=RATE)

    def test_files_of_an_attack(self, tmp_path: Path) -> None:
        waves, text = speech(3)
        tiny.write_set(tmp_path, waves, text)
        files = {utt: tmp_path / "wav" / f"{utt}.wav" for utt in waves}
        same(waves_of_files(files, RATE), waves)
        with pytest.raises(DataError, match="8000 Hz, expected 16000"):
            waves_of_files(files, 16000)


class TestWaves:
    def test_a_mapping_like_any_other(self) -> None:
        waves = speech(3)[0]
        lazy = Waves.of(waves)
        assert Waves.of(lazy) is lazy
        assert "utt01" in lazy and "other" not in lazy and lazy.get("other") is None and len(lazy) == 3
        assert lazy.lengths == {utt: len(wave) for utt, wave in waves.items()}
        with pytest.raises(KeyError):
            lazy.subset(["utt01"])["utt00"]

    def test_nothing_is_read_for_lengths_and_membership(self) -> None:
        def read(utt: str) -> np.ndarray:
            raise AssertionError(utt)

        lazy = Waves({"b": 3, "a": 9}, read)
        assert list(lazy.subset(["a"]).map(on_grid)) == ["a"] and "b" in lazy
        assert next(iter([wave_batches(lazy)])) is not None

    def test_a_digest_is_not_taken_for_that_of_other_waveforms(self) -> None:
        waves = speech(3)[0]
        lazy = Waves(Waves.of(waves).lengths, waves.__getitem__, digest_of(waves))
        assert lazy.subset(waves).digest == lazy.digest
        assert not lazy.subset(["utt01", "utt00", "utt02"]).digest and not lazy.subset(["utt00"]).digest
        louder = lazy.map(lambda wave: (2 * wave).clip(-1, 1))
        assert waves_digest(louder) == digest_of({utt: (2 * wave).clip(-1, 1) for utt, wave in waves.items()})

    @pytest.mark.parametrize("max_samples", [0, 6000, 1 << 21])
    def test_batches_are_those_of_the_same_waveforms_in_memory(self, max_samples: int) -> None:
        waves = speech(9)[0]
        utts = list(waves)
        plan = plan_batches([len(wave) for wave in waves.values()], max_samples)
        for batch, indices in zip(wave_batches(Waves.of(waves), max_samples), plan, strict=True):
            expected = pad(waves, [utts[i] for i in indices])
            assert batch.utts == expected.utts and batch.wav.tobytes() == expected.wav.tobytes()
            assert batch.num_samples.tolist() == expected.num_samples.tolist()


def test_batches_hold_no_waveform_but_their_own() -> None:
    waves = speech(40)[0]
    alive = Alive(waves)
    for batch in wave_batches(alive.lazily(), 10_000):
        assert len(batch.utts) <= 5
    gc.collect()
    assert alive.read == 40 and alive.most <= 2 and not alive.now


class TestCompact:
    @pytest.mark.parametrize(
        ("values", "dtype"),
        [
            ([0.5, -1.0, 0.0, 32767 / 32768], np.int16),
            ([0.5, 1.0], np.float32),  # beyond the largest value of 16 bit
            ([1 / 65536], np.float32),
            ([-0.0], np.float32),  # another bit
            ([], np.int16),
        ],
    )
    def test_16_bit_where_that_is_exact(self, values: list[float], dtype: Any) -> None:
        samples = np.array(values, np.float32)
        assert compact(samples).dtype == dtype
        assert expanded(compact(samples)).tobytes() == samples.tobytes()

    def test_24_bit_audio_of_segments_comes_back_as_it_was(self, tmp_path: Path) -> None:
        wave = np.round(np.sin(np.arange(4000)) * 2**22).astype(np.int32) << 8
        wavfile.write(tmp_path / "a.wav", RATE, wave)
        for name, line in {"wav.scp": f"r {tmp_path / 'a.wav'}", "segments": "u r 0 0.5", "utt2spk": "u s"}.items():
            write_text(tmp_path / name, line + "\n")
        found = read_waves(DataDir.read(tmp_path), sample_rate=RATE)
        assert found["u"].tobytes() == (wave / 2.0**31).astype(np.float32).tobytes()


class TestSpool:
    def test_arrays_of_any_shape_come_back(self) -> None:
        spool = Spool()
        arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.int16)}
        arrays |= {"c": np.asfortranarray(np.arange(6.0).reshape(3, 2))}
        for name, values in arrays.items():
            spool.put(name, values)
        spool.put("a", arrays["a"] + 1)  # the last one counts
        assert list(spool) == ["a", "b", "c"] and "d" not in spool
        assert spool["a"].tolist() == [[1, 2, 3], [4, 5, 6]] and spool["b"].shape == (0, 4)
        assert spool["c"].dtype == np.float64 and spool["c"].tolist() == arrays["c"].tolist()

    def test_nothing_is_left_in_the_directory_even_while_it_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        spool = Spool()
        spool.put("a", np.ones(5))
        values = mapped_array((3, 2), tmp_path)
        values[1] = 7
        assert values.tolist() == [[0, 0], [7, 7], [0, 0]] and not list(tmp_path.iterdir())
        assert mapped_array((0, 4), tmp_path).shape == (0, 4)

    def test_a_full_disk_names_the_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
            mapped_array((3, 2), tmp_path)
        if os.path.exists("/dev/full"):
            spool = Spool()
            spool._file.close()
            spool._file = open("/dev/full", "wb+")
            with pytest.raises(OSError, match=f"No space left on device: '{tempfile.gettempdir()}'"):
                spool.put("a", np.ones(5))
            spool._file = tempfile.TemporaryFile()
