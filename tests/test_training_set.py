"""Training data as padded utterances: every frame once, the right ones together, no more than asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kaldi_uq.feats.cmvn import GlobalNorm
from kaldi_uq.training import dataset
from kaldi_uq.training.dataset import TrainingSet

LENGTHS = [7, 30, 12, 9, 31, 8, 25, 11, 1, 14]


def make_set() -> TrainingSet:
    """Features that say which frame they are: the utterance, and the frame in it."""
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    frames = [[utt, frame] for utt, length in enumerate(LENGTHS) for frame in range(length)]
    pdfs = torch.tensor([10 * utt + frame % 7 + 1 for utt, frame in frames])
    return TrainingSet([f"u{i}" for i in range(len(LENGTHS))], torch.tensor(frames).float(), offsets, pdfs)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_batches_hold_every_utterance_once_with_its_targets_and_zeros_behind(seed: int | None) -> None:
    data = make_set()
    seen = []
    for batch in data.batches(60, generator=None if seed is None else np.random.default_rng(seed)):
        seen += batch.utts
        assert batch.mask.numel() <= 60
        assert torch.equal(batch.mask.sum(1), batch.lengths)
        assert not batch.feats[~batch.mask].any()
        for row, utt in enumerate(batch.utts):
            number = int(utt[1:])
            length = LENGTHS[number]
            assert batch.lengths[row] == length
            expected = torch.stack([torch.full((length,), number), torch.arange(length)], 1).float()
            assert torch.equal(batch.feats[row, :length], expected)
            span = slice(int(data.offsets[number]), int(data.offsets[number + 1]))
            assert torch.equal(batch.pdfs[row, :length], data.pdfs[span])
    assert sorted(seen) == sorted(data.utts)


def test_generator_decides_the_batches_and_their_order() -> None:
    data = make_set()

    def plan(seed: int) -> list[tuple[str, ...]]:
        return [batch.utts for batch in data.batches(60, generator=np.random.default_rng(seed))]

    assert plan(3) == plan(3)
    assert len({tuple(plan(seed)) for seed in range(4)}) == 4
    assert len({frozenset(map(frozenset, plan(seed))) for seed in range(8)}) > 1  # not the same companions always


def test_utterance_longer_than_a_batch_is_a_batch_of_its_own() -> None:
    sizes = [batch.lengths.tolist() for batch in make_set().batches(10)]
    assert [31] in sizes and [30] in sizes


@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0])
def test_normalise_takes_the_statistics_of_all_frames_at_once(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_CHUNK", 7)
    feats = scale * torch.randn(500, 13, generator=torch.Generator().manual_seed(1)) + 5
    data = TrainingSet(["a"], feats.clone(), np.array([0, 500]), torch.zeros(500, dtype=torch.int64))
    norm = GlobalNorm(13)
    data.normalise(norm)
    assert torch.equal(norm.mean, feats.double().mean(0).float())
    assert torch.equal(norm.std, feats.double().std(0).float())
    assert torch.equal(data.feats, norm(feats[None], torch.tensor([500]))[0])


def test_normalise_gives_the_frames_mean_0_and_deviation_1_and_the_norm_the_statistics() -> None:
    data = make_set()
    before, norm = data.feats.clone(), GlobalNorm(2)
    data.normalise(norm)
    torch.testing.assert_close(data.feats.mean(0), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(data.feats.std(0), torch.ones(2))
    again = norm(before[None], torch.tensor([len(before)]))[0]
    assert torch.equal(again, data.feats)
