"""Deltas, splicing and CMVN against plain loops over frames; padding and gradients of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from kaldi_uq.errors import DataError
from kaldi_uq.feats.cmvn import GlobalNorm, accumulate_cmvn_stats, apply_cmvn, utterance_cmvn
from kaldi_uq.feats.deltas import Deltas, delta_filters
from kaldi_uq.feats.splice import gather_spliced, splice, splice_frames

LENGTHS = torch.tensor([1, 7, 3, 12])


def padded_feats(dim: int = 3) -> torch.Tensor:
    """Random features in float64; what lies beyond LENGTHS is NaN."""
    feats = torch.randn(4, 12, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, length in zip(feats, LENGTHS.tolist(), strict=True):
        row[length:] = torch.nan
    return feats


def delta_loop(feats: np.ndarray, order: int, window: int) -> np.ndarray:
    """Kaldi's definition: one filter per derivative, frame indices limited to the utterance."""
    size, dim = feats.shape
    scales = [{0: 1.0}]
    norm = sum(j * j for j in range(-window, window + 1))
    for _ in range(order):
        longer: dict[int, float] = {}
        for j in range(-window, window + 1):
            for k, scale in scales[-1].items():
                longer[j + k] = longer.get(j + k, 0.0) + j * scale / norm
        scales.append(longer)
    out = np.zeros((size, dim * (order + 1)))
    for t in range(size):
        for i, scale_of in enumerate(scales):
            for j, scale in scale_of.items():
                out[t, i * dim : (i + 1) * dim] += scale * feats[min(max(t + j, 0), size - 1)]
    return out


def splice_loop(feats: np.ndarray, left: int, right: int) -> np.ndarray:
    size = len(feats)
    rows = [[feats[min(max(t + j, 0), size - 1)] for j in range(-left, right + 1)] for t in range(size)]
    return np.array([np.concatenate(row) for row in rows])


def assert_utterances_equal(actual: torch.Tensor, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    for row, given, length in zip(actual, padded_feats(), LENGTHS.tolist(), strict=True):
        np.testing.assert_allclose(row[:length].numpy(), expected(given[:length].numpy()), rtol=0, atol=1e-12)
        assert (row[length:] == 0).all()


@pytest.mark.parametrize("order, window", [(0, 2), (1, 1), (1, 3), (2, 1), (2, 2), (3, 2)])
def test_deltas_match_the_loop(order: int, window: int) -> None:
    assert_utterances_equal(Deltas(order, window)(padded_feats(), LENGTHS), lambda x: delta_loop(x, order, window))


@pytest.mark.parametrize("order, window", [(0, 2), (1, 2), (2, 2), (3, 1)])
def test_repeated_deltas_match_the_loop(order: int, window: int) -> None:
    def repeated(feats: np.ndarray) -> np.ndarray:
        parts = [feats]
        for _ in range(order):
            parts.append(delta_loop(parts[-1], 1, window)[:, feats.shape[1] :])
        return np.concatenate(parts, axis=1)

    assert_utterances_equal(Deltas(order, window, repeated=True)(padded_feats(), LENGTHS), repeated)


def test_second_derivatives_of_the_two_ways_differ_only_near_the_ends() -> None:
    feats = torch.randn(1, 30, 2, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([30])
    kaldi, repeated = Deltas()(feats, lengths), Deltas(repeated=True)(feats, lengths)
    torch.testing.assert_close(kaldi[..., :4], repeated[..., :4])
    torch.testing.assert_close(kaldi[:, 2:-2], repeated[:, 2:-2])
    assert (kaldi - repeated)[0, 0].abs().max() > 1e-3


def test_delta_filter_of_a_line_is_its_slope() -> None:
    first, second = delta_filters(2, 2)[1:]
    line = 3.0 * np.arange(9)
    assert first @ line == pytest.approx(3.0)
    assert second @ line == pytest.approx(0.0)
    assert second @ (np.arange(9.0) ** 2) == pytest.approx(2.0)


@pytest.mark.parametrize("order, window", [(-1, 2), (2, 0)])
def test_impossible_deltas_are_refused(order: int, window: int) -> None:
    with pytest.raises(ValueError, match="order must be >= 0"):
        Deltas(order, window)


@pytest.mark.parametrize("left, right", [(0, 0), (4, 4), (2, 0), (0, 3), (20, 1)])
def test_splice_matches_the_loop(left: int, right: int) -> None:
    assert_utterances_equal(splice(padded_feats(), LENGTHS, left, right), lambda x: splice_loop(x, left, right))


def test_gather_spliced_picks_rows_of_splice() -> None:
    feats = padded_feats()
    flat = torch.cat([row[:n] for row, n in zip(feats, LENGTHS.tolist(), strict=True)])
    spliced = splice(feats, LENGTHS, 4, 2)
    expected = torch.cat([row[:n] for row, n in zip(spliced, LENGTHS.tolist(), strict=True)])
    ends = LENGTHS.cumsum(0)
    utt = torch.repeat_interleave(torch.arange(4), LENGTHS)
    index = torch.randperm(len(flat), generator=torch.Generator().manual_seed(2))[:15]
    rows = gather_spliced(flat, (ends - LENGTHS)[utt][index], ends[utt][index], index, left=4, right=2)
    assert torch.equal(rows, expected[index])


@pytest.mark.parametrize("norm_vars", [False, True])
def test_utterance_cmvn_has_zero_mean_and_unit_variance(norm_vars: bool) -> None:
    def normalised(feats: np.ndarray) -> np.ndarray:
        centred = feats - feats.mean(axis=0)
        return centred / np.sqrt(np.maximum(feats.var(axis=0), 1e-20)) if norm_vars else centred

    assert_utterances_equal(utterance_cmvn(padded_feats(), LENGTHS, norm_vars=norm_vars), normalised)


@pytest.mark.parametrize("norm_vars", [False, True])
def test_speaker_cmvn_is_kaldis(norm_vars: bool) -> None:
    feats = padded_feats()
    stats = [accumulate_cmvn_stats(row[:n].numpy()) for row, n in zip(feats, LENGTHS.tolist(), strict=True)]
    # Utterances 0 and 1 are of one speaker, 2 and 3 of another.
    of_speaker = [stats[0] + stats[1], stats[2] + stats[3]]
    of_utt = torch.from_numpy(np.stack([of_speaker[0], of_speaker[0], of_speaker[1], of_speaker[1]]))
    result = apply_cmvn(feats, LENGTHS, of_utt, norm_vars=norm_vars)
    for speaker, utts in enumerate([(0, 1), (2, 3)]):
        frames = np.concatenate([feats[i, : LENGTHS[i]].numpy() for i in utts])
        scale = frames.std(axis=0) if norm_vars else 1.0
        for i in utts:
            expected = (feats[i, : LENGTHS[i]].numpy() - frames.mean(axis=0)) / scale
            np.testing.assert_allclose(result[i, : LENGTHS[i]].numpy(), expected, rtol=0, atol=1e-12)
            assert (result[i, LENGTHS[i] :] == 0).all()
        one = apply_cmvn(feats, LENGTHS, torch.from_numpy(of_speaker[speaker]), norm_vars=norm_vars)
        assert torch.equal(one[utts[0]], result[utts[0]])


def test_cmvn_stats_have_kaldis_layout() -> None:
    feats = np.array([[1.0, -2.0], [3.0, 4.0], [5.0, 0.0]], dtype=np.float32)
    stats = accumulate_cmvn_stats(feats)
    assert stats.dtype == np.float64
    assert stats.tolist() == [[9.0, 2.0, 3.0], [35.0, 20.0, 0.0]]


def test_wrong_cmvn_input_is_refused() -> None:
    feats = padded_feats()
    with pytest.raises(ValueError, match=r"must be \(2, 4\) or \(4, 2, 4\), got \(1, 2, 3\)"):
        apply_cmvn(feats, LENGTHS, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"got \(3, 2, 4\)"):
        apply_cmvn(feats, LENGTHS, torch.ones(3, 2, 4))
    with pytest.raises(DataError, match=r"of 0.0 frames; at least 1"):
        apply_cmvn(feats, LENGTHS, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"feats must be \(T, D\)"):
        accumulate_cmvn_stats(np.zeros(4))
    with pytest.raises(DataError, match="feature 1 of frame 2 is nan"):
        accumulate_cmvn_stats(np.array([[0.0, 0.0], [0.0, 0.0], [0.0, np.nan]]))


def test_global_norm_is_the_identity_until_set_and_travels_in_the_state_dict() -> None:
    feats = padded_feats()
    norm = GlobalNorm(3)
    expected = feats.nan_to_num(0.0)
    assert torch.equal(norm(feats, LENGTHS), expected)
    norm.set_stats(np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 4.0]))
    copy = GlobalNorm(3)
    copy.load_state_dict(norm.state_dict())
    result = copy(feats, LENGTHS)
    scaled = (feats[1, :7] - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([0.5, 2.0, 4.0])
    torch.testing.assert_close(result[1, :7], scaled)
    assert (result[1, 7:] == 0).all()


@pytest.mark.parametrize(
    "mean, std, message",
    [
        ([0.0, 0.0], [1.0, 1.0], r"mean must be \(3,\), got \(2,\)"),
        ([0.0, 0.0, float("nan")], [1.0, 1.0, 1.0], "mean must be finite"),
        ([0.0, 0.0, 0.0], [1.0, 0.0, 1.0], "std must be positive, got 0.0 in dimension 1"),
    ],
)
def test_global_norm_refuses_wrong_stats(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GlobalNorm(3).set_stats(torch.tensor(mean), torch.tensor(std))


OPERATIONS = {
    "deltas": Deltas(2, 2),
    "repeated deltas": Deltas(2, 2, repeated=True),
    "splice": lambda x, n: splice(x, n, 2, 3),
    "utterance mean": utterance_cmvn,
    # An utterance of one frame has no variance to divide by, and numerical derivatives cannot see past the floor.
    "utterance deviation": lambda x, n: utterance_cmvn(x[1:], n[1:], norm_vars=True),
    "speaker": lambda x, n: apply_cmvn(x, n, torch.arange(8.0).view(2, 4).flip(1) + 50, norm_vars=True),
    "global": GlobalNorm(3),
}


@pytest.mark.long
@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient_is_exact_and_none_comes_from_padding(name: str) -> None:
    operation = OPERATIONS[name]
    feats = padded_feats().requires_grad_()
    out = operation(feats, LENGTHS)
    out.backward(torch.ones_like(out))
    assert feats.grad is not None
    for row, length in zip(feats.grad, LENGTHS.tolist(), strict=True):
        assert (row[length:] == 0).all()
    finite = padded_feats().nan_to_num(9.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: operation(x, LENGTHS), finite)


@pytest.mark.parametrize(
    "index",
    [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 1, 2, 5, 6, 7, 8, 9], [1, 5, 6], [0, 2, 4, 5, 7, 9]],
    ids=["all", "valid", "stretches", "every-second"],
)
def test_gradient_of_chosen_spliced_frames_is_exact(index: list[int]) -> None:
    feats = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lengths, chosen = torch.tensor([3, 5]), torch.tensor(index)
    every = splice_frames(feats, lengths, torch.arange(10), left=2, right=1)
    assert torch.equal(splice_frames(feats, lengths, chosen, left=2, right=1), every[chosen])
    assert torch.autograd.gradcheck(
        lambda x: splice_frames(x, lengths, chosen, left=2, right=1), feats.requires_grad_()
    )
