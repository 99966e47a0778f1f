"""An attack that several jobs share: a small recogniser in a recipe, and utterances so long that each is a batch."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kaldi_uq.io.waves import CPU_BATCH_SAMPLES
from tests import tiny
from tests.recipe import Done, Recipe

NUM_BATCHES = 4
FILES = ("results.jsonl", "checks.json", "target_text", "text", "utt2spk", "spk2utt")


def prepare(recipe: Recipe) -> None:
    """Make ``exp/dnn``, ``exp/system/lang`` and ``data/long``, of as many utterances as there are batches."""
    system = tiny.make_system(recipe.path / "exp/system")
    system.write_model(system.train(), recipe.path / "exp/dnn")
    waves, text = {}, {}
    for number, (utt, wave) in enumerate(list(system.waves.items())[:NUM_BATCHES]):
        times = (CPU_BATCH_SAMPLES // 2 + 1000 * number) // len(wave) + 1
        waves[utt], text[utt] = np.tile(wave, times), system.text[utt] * times
    tiny.write_set(recipe.path / "data/long", waves, text)


def command(out: str, *options: object) -> list[str]:
    """The command that attacks the utterances into ``exp/<out>``."""
    words = ["steps/uq/attack.sh", "--eps", "0.02", "--attack-opts", "--num-steps 2", "--device", "cpu", *options]
    words += ["data/long", "exp/system/lang", "exp/dnn", "exp/dnn/graph", f"exp/{out}"]
    return [str(word) for word in words]


def attack(recipe: Recipe, out: str, *options: object) -> Done[str]:
    """Run :func:`command`."""
    return recipe.run(*command(out, *options))


def batches(recipe: Recipe, out: str) -> list[int]:
    """The numbers of the batches that are finished."""
    return sorted(int(part.stem) for part in (recipe.path / "exp" / out / "parts").glob("*.json"))


def inodes(recipe: Recipe, out: str) -> dict[str, int]:
    """Which file each attacked utterance is: another one if it is made again."""
    return {path.name: path.stat().st_ino for path in (recipe.path / "exp" / out / "wav").glob("*.wav")}


def differences(recipe: Recipe, one: str, other: str) -> Sequence[str]:
    """The files of an attack that are not the same in another, byte by byte; ``wav.scp`` has the directory's name."""
    folders: list[Path] = [recipe.path / "exp" / name for name in (one, other)]
    waves = sorted({f"wav/{path.name}" for folder in folders for path in (folder / "wav").glob("*.wav")})
    assert len(waves) == NUM_BATCHES
    _, mismatch, errors = filecmp.cmpfiles(*folders, [*FILES, *waves], shallow=False)
    return mismatch + errors
