"""A batch that does not fit into memory: its halves give the same, a line says so; one utterance alone is an error.

Long recordings take no more memory than short ones.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq.attacks.attack import Adversarial
from kaldi_uq.attacks.consistency import consistency
from kaldi_uq.attacks.donors import Donors
from kaldi_uq.attacks.goal import Say
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.errors import DataError
from kaldi_uq.feats import framing
from kaldi_uq.io.recording import Recording
from kaldi_uq.io.wav import to_int16, write_wav
from kaldi_uq.io.waves import pad
from kaldi_uq.recogniser.audio import open_audio
from kaldi_uq.recogniser.memory import in_halves, is_out_of_memory
from tests import tiny
from tests.tiny import TinySystem
from tests.toy import Toy, ToyRecogniser, toy_waves

ON_THE_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "99999999999999 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = [
    MemoryError("Unable to allocate 2.0 GiB"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ON_THE_CPU,
]


class Small(Toy):
    """A toy with room for a few utterances at a time."""

    def __init__(self, room: int, error: Exception = ERRORS[1]) -> None:
        super().__init__()
        self.room, self.error = room, error
        self.sizes: list[int] = []

    def __call__(self, wav: Tensor, num_samples: Tensor, rows: Tensor | None = None) -> Tensor:
        self.sizes.append(len(wav))
        if len(wav) > self.room:
            raise self.error
        return super().__call__(wav, num_samples, rows)


WAVES = toy_waves(7, 300)


def pgd(who: ToyRecogniser) -> Any:
    made = PGD(eps=0.3, num_steps=4, judge_every=2, num_starts=2)(who, WAVES, Say({utt: ["a", "b"] for utt in WAVES}))
    return _comparable(made)


def random_pgd(who: ToyRecogniser) -> Any:
    return _comparable(PGD(eps=0.3, num_steps=3, num_targets=3, judge_every=1)(who, WAVES, Say()))


def _comparable(made: Adversarial) -> Any:
    return [(utt, wave.tolist(), made.records[utt]) for utt, wave in made.waves.items()]


def hear(who: ToyRecogniser) -> Any:
    heard = who.hear(WAVES)
    return [
        (utt, one.words, one.statistics, {name: values.tolist() for name, values in one.frames.items()})
        for utt, one in heard.items()
    ]


def search(who: ToyRecogniser) -> Any:
    found = consistency(who, WAVES, eps=0.01, num_steps=3)
    return {utt: dataclasses.asdict(one) for utt, one in found.items()}


def donors(who: ToyRecogniser) -> Any:
    speech = Donors(WAVES, {utt: ["a", "b"] for utt in WAVES}).speech(who)
    return [(piece.utt, piece.wave.tolist()) for piece in speech.choose("utt0", ["a", "b", "a"], seed=3)]


def assert_same(one: Any, other: Any) -> None:
    """The same, but for the last bits of means over frames: numpy and PyTorch add up wider rows in another order."""
    if isinstance(one, dict | list | tuple):
        assert type(one) is type(other) and len(one) == len(other)
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_same(one[key], other[key])
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-7)
    else:
        assert one == other


@pytest.mark.long
@pytest.mark.parametrize("work", [hear, pgd, random_pgd, search, donors])
@pytest.mark.parametrize("room", [1, 2, 4])
def test_halves_give_what_the_whole_batch_gives(work: Callable[[ToyRecogniser], Any], room: int) -> None:
    small = Small(room)
    assert_same(work(ToyRecogniser(small)), work(ToyRecogniser()))
    assert max(small.sizes) > room


@pytest.mark.long
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_line_tells_of_each_halving(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(ToyRecogniser(Small(4, error)).hear(WAVES)) == len(WAVES)
    assert caplog.messages == ["out of memory with 7 utterances of up to 300 samples; goes on with half as many"]


@pytest.mark.long
@pytest.mark.parametrize("work", [hear, pgd, search, donors])
def test_no_room_for_one_utterance_is_an_error_that_names_it(work: Callable[[ToyRecogniser], Any]) -> None:
    with pytest.raises(DataError, match=r"utterance 'utt0': out of memory with its 300 samples alone: use fewer draws"):
        work(ToyRecogniser(Small(0)))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RecursionError("can't allocate memory"), OSError("x")],
)
def test_other_errors_pass(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))):
        ToyRecogniser(Small(2, error)).hear(WAVES)
    assert not caplog.messages


@pytest.mark.long
def test_memory_of_the_failed_attempt_is_free_before_the_next() -> None:
    class Big:
        alive = 0

        def __init__(self) -> None:
            Big.alive += 1

        def __del__(self) -> None:
            Big.alive -= 1

    def run(batch: Any) -> list[int]:
        assert Big.alive == 0
        big = Big()
        if len(batch.utts) > 1:
            raise MemoryError
        return [id(big)]

    assert len(in_halves(run, pad(WAVES, list(WAVES)))) == len(WAVES)


def test_real_allocations_that_fail_are_recognised() -> None:
    for allocate in (lambda: torch.empty(1 << 58), lambda: np.empty(1 << 58)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), 8)


class TestLongRecordings:
    """What is heard of a recording in its file is what is heard of its samples, of which a stretch is in memory."""

    def record(self, system: TinySystem, path: Path, repeats: int) -> np.ndarray:
        """Write speech of the system into a file; returns its samples as int16."""
        once = to_int16(np.concatenate(list(system.waves.values())))
        noise = np.random.default_rng(0).integers(-50, 50, len(once) * repeats, dtype=np.int16)
        samples = np.tile(once // 2, repeats) + noise
        write_wav(path, samples, tiny.RATE)
        return samples

    @pytest.mark.long
    @pytest.mark.parametrize("kind", ["dnn", "bnn", "ensemble"])
    def test_verdicts_are_the_same_to_the_last_bit(
        self, system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        samples = self.record(system, tmp_path / "a.wav", 2)
        monkeypatch.setattr(framing, "LONG_FRAMES", 50)
        monkeypatch.setattr(framing, "WINDOW_FRAMES", 40)
        recogniser = system.recogniser(system.train(kind))
        recording = open_audio(tmp_path / "a.wav", tiny.RATE, recogniser.min_samples, 1000)
        assert isinstance(recording, Recording)
        ours, theirs = (recogniser.hear({"a": wave}, alone=True)["a"] for wave in (recording, samples))
        assert (ours.words, ours.statistics) == (theirs.words, theirs.statistics)
        for name, values in theirs.frames.items():
            np.testing.assert_array_equal(ours.frames[name], values)

    def test_of_the_samples_a_window_is_read_at_a_time(
        self, system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.record(system, tmp_path / "a.wav", 2)
        monkeypatch.setattr(framing, "LONG_FRAMES", 50)
        monkeypatch.setattr(framing, "WINDOW_FRAMES", 40)
        recogniser = system.recogniser(system.train())
        recording = open_audio(tmp_path / "a.wav", tiny.RATE, recogniser.min_samples, 1000)
        read = []
        take = Recording.__getitem__
        monkeypatch.setattr(Recording, "__getitem__", lambda self, place: read.append(take(self, place)) or read[-1])
        recogniser.hear({"a": recording})
        longest = framing.num_frames(max(map(len, read)), recogniser.model.front_end.config.base)
        assert longest == 40 and sum(map(len, read)) >= len(recording)

    @pytest.mark.long
    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured as Linux tells them")
    def test_memory_does_not_grow_with_the_length(self, system: TinySystem, tmp_path: Path) -> None:
        recogniser = system.recogniser(system.train())
        once = sum(map(len, system.waves.values())) / tiny.RATE
        peaks = []
        for minutes in (10, 10, 50):  # the first warms up
            samples = self.record(system, tmp_path / "a.wav", int(minutes * 60 / once))
            recording = open_audio(tmp_path / "a.wav", tiny.RATE, recogniser.min_samples, 1000)
            size = samples.nbytes * 2 / 1e6  # MB, as float32
            del samples
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
            before = self.megabytes("VmRSS")
            recogniser.hear({"a": recording})
            peaks.append(self.megabytes("VmHWM") - before)
        assert peaks[2] < peaks[1] + 0.25 * size, f"{peaks} MB; the longest has {size:.0f} MB of samples alone"

    def megabytes(self, name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(name))) / 1000
