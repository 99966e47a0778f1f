"""Models with an output for every F-th frame of their features: which frames, how many, and their targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kaldi_uq.errors import DataError
from kaldi_uq.feats import framing
from kaldi_uq.feats.config import FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.packing import Packing
from kaldi_uq.nnet.base import build_model
from kaldi_uq.nnet.config import DnnConfig, EnsembleConfig
from kaldi_uq.nnet.wrappers import deterministic
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.training.dataset import TrainingSet, make_training_set, spread
from kaldi_uq.training.minibatches import minibatches

TINY = MfccConfig(sample_frequency=1000.0, frame_length=15.0, frame_shift=5.0, num_mel_bins=4, num_ceps=3, low_freq=0.0)
CONFIG = FrontEndConfig(mfcc=TINY, delta_order=1, left_context=2, right_context=1, frame_subsampling_factor=3)
SAMPLES = [15, 20, 25, 30, 310]  # 1, 2, 3, 4, 60 frames


def noise() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(len(SAMPLES), max(SAMPLES), generator=generator), torch.tensor(SAMPLES)


def test_number_of_frames_is_that_of_kaldis_decodable() -> None:
    front_end = FrontEnd(CONFIG)
    assert [front_end.num_frames(n) for n in (14, *SAMPLES)] == [0, 1, 1, 1, 2, 20]
    assert front_end.num_frames(torch.tensor(SAMPLES)).tolist() == [1, 1, 1, 2, 20]
    assert front_end.num_feature_frames(torch.tensor(SAMPLES)).tolist() == [1, 2, 3, 4, 60]
    assert front_end.frame_shift_s == pytest.approx(0.015)


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_packed_input_is_every_nth_frame_with_its_own_neighbours(factor: int) -> None:
    front_end = FrontEnd(replace(CONFIG, frame_subsampling_factor=factor))
    wav, num_samples = noise()
    whole, lengths = front_end(wav, num_samples)
    frames, packing, out_lengths = front_end.packed(wav, num_samples)
    assert out_lengths.tolist() == [-(-n // factor) for n in lengths.tolist()]
    assert packing == Packing(len(SAMPLES), int(out_lengths.max()), packing.index)
    assert torch.equal(frames, torch.cat([x[:n:factor] for x, n in zip(whole, lengths.tolist(), strict=True)]))


@pytest.mark.parametrize("factor", [2, 3, 11])
def test_windows_of_a_long_utterance_have_the_same_frames(monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    front_end = FrontEnd(replace(CONFIG, frame_subsampling_factor=factor))
    wav, num_samples = noise()
    packed, *_ = front_end.packed(wav[4:], num_samples[4:])
    monkeypatch.setattr(framing, "WINDOW_FRAMES", 7)  # some of these have no frame of the output where it is 11
    windows = torch.cat(list(front_end.windows(wav[4, : SAMPLES[4]])), 1)[0]
    torch.testing.assert_close(windows, packed)


def test_both_sorts_of_networks_have_an_output_for_every_third_frame() -> None:
    wav, num_samples = noise()
    dim = FrontEnd(CONFIG).output_dim
    frame_wise = HybridModel(CONFIG, DnnConfig(input_dim=dim, num_pdfs=5, hidden_dims=(8,))).eval()
    whole = HybridModel.from_modules(FrontEnd(CONFIG), deterministic(torch.nn.Linear(dim, 5), num_pdfs=5)).eval()
    for model in (frame_wise, whole):
        draws, lengths = model.iter_log_post(wav, num_samples)
        log_post = next(draws)
        assert lengths.tolist() == [1, 1, 1, 2, 20]
        assert log_post.shape == (1, 5, 20, 5)
        every = HybridModel.from_modules(FrontEnd(replace(CONFIG, frame_subsampling_factor=1)), model.network)
        others = next(every.iter_log_post(wav, num_samples)[0])
        mean = model.mean_log_post(wav, num_samples)
        for row, length in enumerate(lengths.tolist()):
            torch.testing.assert_close(log_post[0, row, :length], others[0, row, ::3][:length])
            torch.testing.assert_close(mean[row, :length], log_post[0, row, :length])


def waves_and_targets() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    wav, _ = noise()
    waves = {f"u{i}": wav[i, :n].numpy() for i, n in enumerate(SAMPLES)}
    sizes = [1, 1, 1, 2, 20]
    starts = np.cumsum([0, *sizes])
    return waves, {f"u{i}": np.arange(starts[i], starts[i + 1]) for i in range(5)}


def training_set(model: HybridModel) -> TrainingSet:
    return make_training_set(model, *waves_and_targets(), ali_shift_s=0.015)


@pytest.fixture
def model() -> HybridModel:
    return HybridModel(CONFIG, DnnConfig(input_dim=FrontEnd(CONFIG).output_dim, num_pdfs=25, hidden_dims=(8,)))


def test_targets_belong_to_every_third_frame(model: HybridModel) -> None:
    data = training_set(model)
    assert (len(data.feats), data.num_frames) == (70, 25)
    assert data.target_rows.tolist() == [0, 1, 3, 6, 9, *range(10, 70, 3)]
    assert data.pdfs.tolist() == list(range(25))
    batch = data.batch([3, 0])
    assert (batch.lengths.tolist(), batch.num_targets.tolist()) == ([4, 1], [2, 1])
    assert batch.pdfs.tolist() == [[3, 4], [0, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False]]


def test_minibatches_have_the_frames_of_the_targets(model: HybridModel) -> None:
    data = training_set(model)
    waves, _ = waves_and_targets()
    expected = torch.cat(
        [model.front_end.packed(torch.from_numpy(w)[None], torch.tensor([len(w)]))[0] for w in waves.values()]
    )
    count, batches = minibatches(model.network, model.front_end, data, batch_size=10, seed=0, epoch=0)
    found = list(batches)
    assert count == len(found) == 3
    order = torch.cat([b.pdfs for b in found])
    assert sorted(order.tolist()) == list(range(25))
    torch.testing.assert_close(torch.cat([b.x for b in found]), expected[order])


def test_minibatches_whose_frames_are_gathered_together_are_the_same(
    model: HybridModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, found = training_set(model), {}
    ensemble = build_model(
        EnsembleConfig(input_dim=model.front_end.output_dim, num_pdfs=25, hidden_dims=(4,), num_members=2)
    )
    for at_once in (1, 2, 9):
        monkeypatch.setattr("kaldi_uq.training.minibatches._minibatches_at_once", lambda *_, n=at_once: n)
        for network in (model.network, ensemble):
            count, batches = minibatches(network, model.front_end, data, batch_size=7, seed=0, epoch=0)
            made = [(batch.x.tolist(), batch.pdfs.tolist(), batch.weight) for batch in batches]
            assert count == len(made) == 4
            assert made == found.setdefault(network, made)


def test_minibatches_of_whole_utterances_have_all_frames_and_targets_for_some(model: HybridModel) -> None:
    data = training_set(model)
    network = deterministic(torch.nn.Linear(model.front_end.output_dim, 25), num_pdfs=25)
    _, batches = minibatches(network, model.front_end, data, batch_size=1000, seed=0, epoch=0)
    seen = []
    for batch in batches:
        assert batch.x.shape[:2] == batch.pdfs.shape == batch.mask.shape
        assert not batch.mask[:, 1::3].any() and not batch.mask[:, 2::3].any()
        seen += batch.pdfs[batch.mask].tolist()
    assert sorted(seen) == list(range(25))


@pytest.mark.parametrize("factor, size", [(1, 2), (2, 3), (2, 4), (3, 4), (3, 6)])
def test_spread(factor: int, size: int) -> None:
    values = torch.tensor([[5, 6], [7, 0]])
    placed = spread(values, factor, size)
    assert placed.shape == (2, size) and torch.equal(placed[:, ::factor], values) and placed.sum() == 18
    assert spread(values > 0, factor, size).dtype == torch.bool


def test_alignment_of_another_length_is_named(model: HybridModel) -> None:
    waves, targets = waves_and_targets()
    with pytest.raises(
        DataError, match=r"'u4': the alignment has 60 frames, .* takes 20; --frame-subsampling-factor 1 would fit"
    ):
        make_training_set(model, waves, targets | {"u4": np.zeros(60, np.int64)}, ali_shift_s=0.015)
    with pytest.raises(DataError, match=r"'u4': the alignment has 58 frames, .* align with the same conf/mfcc\.conf"):
        make_training_set(model, waves, targets | {"u4": np.zeros(58, np.int64)}, ali_shift_s=0.015)
