"""The memory of a command does not grow with the number of utterances."""

from __future__ import annotations

import gc
import itertools
import shlex
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.attacks.attack import Adversarial
from kaldi_uq.attacks.checks.one_run import check_attack
from kaldi_uq.attacks.consistency import consistency
from kaldi_uq.attacks.directory import craft, score_examples
from kaldi_uq.attacks.donors import Donors
from kaldi_uq.attacks.goal import Say, Untargeted
from kaldi_uq.attacks.levels import level_warnings
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.audio.disturb import disturb
from kaldi_uq.cli.main import main
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io import waves as io_waves
from kaldi_uq.io.files import write_text
from kaldi_uq.io.wav import on_grid
from kaldi_uq.io.waves import Waves, waves_digest
from kaldi_uq.recogniser import scorer
from kaldi_uq.recogniser.heard import forget
from kaldi_uq.recogniser.speakers import stats_of_waves
from tests import tiny
from tests.alive import Alive
from tests.tiny import FRONT_END, TinySystem
from tests.toy import ToyRecogniser, toy_waves

NUM_UTTS = 24
WAVES = {f"utt{row:02d}": wave for row, wave in enumerate(np.tile(toy_waves(1, 240)["utt0"], (NUM_UTTS, 1)))}
TARGETS = dict.fromkeys(WAVES, "a b")
TEXT = {utt: ["a"] for utt in WAVES}


def _attack(waves: Waves, _: Path) -> object:
    return PGD(eps=0.1, num_steps=1)(ToyRecogniser(), waves, Say(TARGETS))


def _craft(waves: Waves, folder: Path) -> Adversarial:
    return craft(PGD(eps=0.1, num_steps=1), ToyRecogniser(), waves, Say(TARGETS), folder)


def _random_targets(waves: Waves, _: Path) -> object:
    return Say().choose(ToyRecogniser(), waves, 0), Untargeted().choose(ToyRecogniser(), waves, 0)


CONSUMERS: dict[str, Callable[[Waves, Path], object]] = {
    "digest": lambda waves, _: waves_digest(waves),
    "hear": lambda waves, _: ToyRecogniser().hear(waves, frames_to=forget),
    "hear alone": lambda waves, _: ToyRecogniser().hear(waves, alone=True),
    "targets": _random_targets,
    "attack": _attack,
    "craft": _craft,
    "warnings": lambda waves, _: list(level_warnings(PGD(eps=0.1).config, waves)),
    "checks": lambda waves, folder: check_attack(_craft(waves, folder)),
    "consistency": lambda waves, _: consistency(ToyRecogniser(), waves, eps=0.01, num_steps=1),
    "donors": lambda waves, _: Donors(waves, TARGETS).speech(ToyRecogniser()),
    "speakers": lambda waves, _: stats_of_waves(FrontEnd(FRONT_END), waves, {utt: utt for utt in waves}),
    "disturb": lambda waves, _: [one.gain for _, one in disturb(waves, {}, "white", 9.0, sample_rate=8000)],
}


@pytest.mark.long
@pytest.mark.parametrize("name", CONSUMERS)
def test_few_waveforms_are_held_at_a_time(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "CPU_BATCH_SAMPLES", 480)  # two utterances
    for name_of_size in ("MAX_BATCH_SAMPLES", "CPU_BATCH_SAMPLES"):
        monkeypatch.setattr(io_waves, name_of_size, 480)
    alive = Alive(WAVES)
    result = CONSUMERS[name](alive.lazily(), tmp_path)
    gc.collect()
    assert alive.read >= NUM_UTTS
    assert alive.most <= 4 and not alive.now, result


def test_scoring_holds_the_two_waveforms_of_the_utterances_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_waves.plan_waves, "__defaults__", (480,))
    before, after = Alive(WAVES), Alive({utt: on_grid(0.9 * wave) for utt, wave in WAVES.items()})
    lines = score_examples(ToyRecogniser(), before.lazily(), after.lazily(), None, TEXT)
    assert len(lines) == NUM_UTTS and max(before.most, after.most) <= 4


# whole commands ------------------------------------------------------------------------------------------------------

SIZES = (6, 48)  # utterances of four seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and data directories of few and of many utterances."""
    folder = tmp_path_factory.mktemp("place")
    system: TinySystem = tiny.make_system(folder, num_utts=8)
    system.write_model(system.train(), folder / "exp")
    wave = np.tile(np.concatenate([on_grid(wave) for wave in system.waves.values()]), 4)[: 4 * tiny.RATE]
    for count in SIZES:
        utts = [f"u{number:03d}" for number in range(count)]
        tiny.write_set(folder / f"data{count}", dict.fromkeys(utts, wave), {utt: ["one"] for utt in utts})
    write_text(folder / "mfcc.conf", "--sample-frequency=8000\n--use-energy=false\n--num-mel-bins=15\n--num-ceps=7\n")
    return folder


COMMANDS = {
    "compute-mfcc": "{data} {out}/f.ark {out}/f.scp --mfcc-config {mfcc}",
    "nnet-forward": "{data} {exp} {out}/l.ark {out}/l.scp",
    "nnet-decode": "{data} {exp} {exp}/graph {out}/decode",
    "nnet-attack": "{data} {exp} {exp}/graph {out}/attack --lang-dir {lang} --num-steps 2 --eps 0.02",
    "disturb-data": "--kind babble --num-talkers 2 --snr-db 10 {data} {out}/noisy",
}


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_peak_of_a_command_does_not_grow_with_the_utterances(
    command: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "CPU_BATCH_SAMPLES", 1 << 16)  # two utterances, of whatever number
    monkeypatch.setattr(io_waves.plan_waves, "__defaults__", (1 << 16,))
    monkeypatch.setattr(io_waves, "HELD_BYTES", 0)  # which are enough for all of these

    number = itertools.count()

    def peak(count: int) -> int:
        data = place / f"data{count}"
        out = tmp_path / str(next(number))  # nothing is up to date
        names = {"data": data, "exp": place / "exp", "lang": place / "lang", "mfcc": place / "mfcc.conf"}
        words = COMMANDS[command].format(out=out, **names)
        tracemalloc.start()
        try:
            assert main([command, *shlex.split(words)]) == 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(SIZES[0])  # what is imported and kept for good
    few, many = map(peak, SIZES)
    samples = 4 * 4 * tiny.RATE * (SIZES[1] - SIZES[0])
    assert many - few < 0.15 * samples, f"{few / 1e6:.1f} MB, {many / 1e6:.1f} MB"
