"""Training of Gaussian mixtures holds the features of one block of utterances, whatever their number."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine import blocks
from kaldi_uq.engine.base import DeltasConfig
from kaldi_uq.engine.checks import check_features
from kaldi_uq.io.ark import read_alignments
from kaldi_uq.io.kaldi_model import read_gmm_model
from tests import tiny
from tests.tiny import TinySystem

BLOCK = 150  # frames


class Lent(Mapping[str, np.ndarray]):
    """Features that count how many frames are in use at a time."""

    def __init__(self, feats: Mapping[str, np.ndarray]) -> None:
        self.feats, self.in_use, self.most = feats, 0, 0

    def __getitem__(self, utt: str) -> np.ndarray:
        lent = self.feats[utt].copy()
        self.in_use += len(lent)
        self.most = max(self.most, self.in_use)
        weakref.finalize(lent, self._back, len(lent))
        return lent

    def _back(self, frames: int) -> None:
        self.in_use -= frames

    def __iter__(self) -> Iterator[str]:
        return iter(self.feats)

    def __len__(self) -> int:
        return len(self.feats)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"))


def train(system: TinySystem, kind: str, feats: Mapping[str, np.ndarray], out: Path) -> None:
    transcripts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
    if kind == "mono":
        system.engine.train_mono(feats, transcripts, system.lang, out, tiny.MONO)
    else:
        config = DeltasConfig(num_iters=3, max_iter_inc=2, num_leaves=12, totgauss=20, realign_iters=(2,))
        system.engine.train_deltas(feats, transcripts, system.lang, system.mono, out, config)


@pytest.mark.parametrize("kind", ["mono", "deltas"])
def test_training_in_blocks_holds_few_frames_and_gives_the_same_model(
    system: TinySystem, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feats = tiny.features(system.waves)
    longest, total = max(map(len, feats.values())), sum(map(len, feats.values()))
    assert total > 3 * (BLOCK + longest)
    train(system, kind, feats, tmp_path / "whole")
    monkeypatch.setattr(blocks, "MAX_FRAMES", BLOCK)
    lent = Lent(feats)
    train(system, kind, lent, tmp_path / "parts")
    assert 0 < lent.most <= BLOCK + longest
    one, other = (read_gmm_model(tmp_path / name / "final.mdl")[1] for name in ("whole", "parts"))
    for name in ("weights", "means_invvars", "inv_vars"):
        for values, expected in zip(getattr(other, name), getattr(one, name), strict=True):
            np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)
    paths, others = (read_alignments(tmp_path / name) for name in ("whole", "parts"))
    assert list(paths) == list(others) and all(np.array_equal(paths[utt], others[utt]) for utt in paths)


def test_mean_and_variance_are_those_of_all_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    feats = {f"u{i}": rng.normal(100, 3, (rng.integers(1, 90), 4)).astype(np.float32) for i in range(20)}
    every = np.concatenate(list(feats.values()))
    for most in (blocks.MAX_FRAMES, BLOCK):
        monkeypatch.setattr(blocks, "MAX_FRAMES", most)
        mean, variance = check_features(feats)
        np.testing.assert_allclose(mean, every.mean(0, dtype=np.float64), rtol=1e-12)
        np.testing.assert_allclose(variance, every.var(0, dtype=np.float64), rtol=1e-12)


def test_blocks_have_every_utterance_once_and_few_frames() -> None:
    lengths = {"a": 5, "b": blocks.MAX_FRAMES + 1, "c": 1, "d": blocks.MAX_FRAMES - 1, "e": 1}
    assert list(blocks.blocks_of(lengths)) == [["a"], ["b"], ["c", "d"], ["e"]]
    assert list(blocks.blocks_of({})) == []
