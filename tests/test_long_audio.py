"""Long audio in windows of frames: the features, measures and words are those of the whole at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kaldi_uq.engine.base import DecodeConfig, EngineOptions
from kaldi_uq.engine.embedded import windows
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.feats import framing, level
from kaldi_uq.feats.adaptation import BatchAdaptation
from kaldi_uq.feats.cmvn_stats import accumulate_cmvn_stats
from kaldi_uq.feats.config import FbankConfig, FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.lattice import read_lattices
from kaldi_uq.lattice.posteriors import LATTICE_STATISTICS
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.recogniser.heard import Listening
from tests import tiny
from tests.tiny import RATE, TinySystem

WINDOW = 16  # frames


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), 8)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "LONG_FRAMES", 20)
    monkeypatch.setattr(framing, "WINDOW_FRAMES", WINDOW)
    monkeypatch.setattr(level, "LONG_SAMPLES", 1000)


def speech(frames: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    wav = rng.normal(0.02, 0.1, (1, frames * 80 + 37)) * np.linspace(0.1, 1, frames * 80 + 37)
    return torch.from_numpy(wav.astype(np.float32)).clamp(-1, 1)


BASE = FrontEndConfig(
    mfcc=MfccConfig(sample_frequency=RATE, num_mel_bins=15, num_ceps=7, use_energy=False),
    fbank=FbankConfig(sample_frequency=RATE, num_mel_bins=15),
    left_context=3,
    right_context=5,
)


@pytest.mark.parametrize("frames", [21, 32, 33, 34, 50, 97])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cmvn": "utterance", "norm_vars": True},
        {"cmvn": "speaker", "delta_order": 0},
        {"level": 0.05, "noise_floor": 0.001},
        {"kind": "fbank", "fbank": dataclasses.replace(BASE.fbank, use_energy=True, raw_energy=False)},
        {"mfcc": dataclasses.replace(BASE.mfcc, snip_edges=False, use_energy=True), "delta_window": 5},
        {"mfcc": dataclasses.replace(BASE.mfcc, snip_edges=False, frame_length=60, frame_shift=7)},
        {"mfcc": dataclasses.replace(BASE.mfcc, frame_shift=30), "left_context": 20, "right_context": 0},
    ],
)
def test_windows_are_those_of_the_whole(request: pytest.FixtureRequest, options: dict[str, Any], frames: int) -> None:
    front_end = FrontEnd(dataclasses.replace(BASE, **options))
    front_end.norm.set_stats(torch.full((front_end.feature_dim,), 0.5), torch.full((front_end.feature_dim,), 3.0))
    wav = speech(frames * 3)
    num_samples = torch.tensor([wav.shape[1]])
    stats = None
    if front_end.config.cmvn == "speaker":
        stats = torch.from_numpy(accumulate_cmvn_stats(front_end.cepstra_of(wav, num_samples)[0][0].numpy()))
    adaptation = BatchAdaptation(stats)
    whole, lengths = front_end(wav, num_samples, adaptation=adaptation)
    request.getfixturevalue("short_windows")
    parts = list(front_end.windows(wav[0].numpy(), adaptation=adaptation))
    assert [part.shape[1] for part in parts[:-1]] == [WINDOW] * (len(parts) - 1) and len(parts) > 1
    assert int(lengths[0]) == sum(part.shape[1] for part in parts)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-5, atol=1e-5)
    in_a_batch, _ = front_end.features(wav, num_samples, adaptation=adaptation)  # one long utterance, in windows too
    torch.testing.assert_close(front_end.splice(in_a_batch, lengths), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factor, ivector_period", [(1, 10), (3, 10), (7, 1), (19, 4)])
@pytest.mark.parametrize("splice", [(0, 0), (2, 4), (9, 0)])
def test_windows_with_all_that_is_known_of_a_speaker(
    request: pytest.FixtureRequest, splice: tuple[int, int], factor: int, ivector_period: int
) -> None:
    rng = np.random.default_rng(1)
    config = dataclasses.replace(
        BASE,
        cmvn="speaker",
        delta_order=0,
        splice_left=splice[0],
        splice_right=splice[1],
        lda_dim=5,
        fmllr=True,
        ivector_dim=2,
        frame_subsampling_factor=factor,
    )
    front_end = FrontEnd(config)
    assert front_end.lda is not None
    front_end.lda.set_matrix(rng.normal(0, 0.3, (5, 7 * (sum(splice) + 1) + 1)), "final.mat")
    front_end.norm.set_stats(torch.full((7,), 0.5), torch.full((7,), 3.0))
    wav = speech(200)
    num_samples = torch.tensor([wav.shape[1]])
    cepstra, lengths = front_end.cepstra_of(wav, num_samples)
    adaptation = BatchAdaptation(
        torch.from_numpy(accumulate_cmvn_stats(cepstra[0].numpy())),
        torch.from_numpy(rng.normal(0, 0.3, (1, 5, 6)).astype(np.float32)),
        torch.from_numpy(rng.normal(size=(1, -(-int(lengths[0]) // ivector_period), 2)).astype(np.float32)),
        ivector_period,
    )
    whole, _, out_lengths = front_end.packed(wav, num_samples, adaptation=adaptation)
    request.getfixturevalue("short_windows")
    parts = torch.cat(list(front_end.windows(wav[0].numpy(), adaptation=adaptation)), 1)[0]
    assert len(parts) == int(out_lengths[0]) == front_end.num_frames(wav.shape[1]) and len(parts) * factor > WINDOW
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, shape", [("cmvn_stats", (2, 8)), ("fmllr", (1, 7, 8))])
def test_windows_refuse_what_the_front_end_does_not_take(name: str, shape: tuple[int, ...]) -> None:
    adaptation = BatchAdaptation(**{name: torch.zeros(shape)})
    with pytest.raises(ValueError, match="given, but the front end has"):
        next(FrontEnd(BASE).windows(speech(60)[0], adaptation=adaptation))


def test_audio_shorter_than_a_frame_is_mirrored_as_often_as_it_takes() -> None:
    config = MfccConfig(sample_frequency=RATE, frame_length=100, frame_shift=10, snip_edges=False)
    wav = torch.arange(1.0, 91.0)[None]
    first = framing.first_sample(config)
    whole = framing.reflect_ends(wav, torch.tensor([90]), -first, 1000, repeat_edge=True)[
        0, : framing.window_size(config)
    ]
    for samples in (wav[0], wav[0].numpy()):
        torch.testing.assert_close(framing.stretch_of(samples, config, 0, 1), whole, rtol=0, atol=0)


def test_gradients_take_the_whole(short_windows: None) -> None:
    front_end = FrontEnd(dataclasses.replace(BASE, level=0.05))
    wav = speech(60).requires_grad_()
    front_end(wav, torch.tensor([wav.shape[1]]))[0].sum().backward()
    assert wav.grad is not None and bool((wav.grad != 0).any())


@pytest.mark.long
@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_what_is_heard_is_what_the_whole_gives(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, system: TinySystem, kind: str
) -> None:
    model = system.train(kind)
    recogniser = system.recogniser(model)
    waves = {"short": next(iter(system.waves.values()))[:1500], "long": np.concatenate(list(system.waves.values()))}
    whole = recogniser.hear(waves, alone=True)
    request.getfixturevalue("short_windows")
    seen = []
    iter_log_post = model.network.iter_log_post

    def spy(x: torch.Tensor, **options: Any) -> Any:
        seen.append(x.shape[1])
        return iter_log_post(x, **options)

    monkeypatch.setattr(model.network, "iter_log_post", spy)
    found = recogniser.hear(waves, alone=True)
    assert max(seen) <= 20 and len(seen) > 20
    assert {utt: one.words for utt, one in found.items()} == {utt: one.words for utt, one in whole.items()}
    for utt, one in whole.items():
        for name, values in one.frames.items():
            assert found[utt].frames[name].shape == values.shape
            # of random networks the draws are others: each window has its own
            tolerance = 0.5 if model.network.is_random and utt == "long" else 1e-5
            np.testing.assert_allclose(found[utt].frames[name].mean(), values.mean(), rtol=tolerance, atol=1e-5)
            if tolerance < 0.1:
                np.testing.assert_allclose(found[utt].frames[name], values, rtol=1e-4, atol=1e-5)
                assert found[utt].statistics.keys() == one.statistics.keys()


def test_statistics_do_not_depend_on_windows(request: pytest.FixtureRequest, system: TinySystem) -> None:
    recogniser = system.recogniser(system.train())
    waves = {"long": np.concatenate(list(system.waves.values()))}
    whole = recogniser.hear(waves)["long"].statistics
    request.getfixturevalue("short_windows")
    assert recogniser.hear(waves)["long"].statistics == pytest.approx(whole, rel=1e-5, abs=1e-6)


class TestDecoding:
    """The words of long audio, from windows that overlap."""

    TAKES = np.array([False, True, True, True, True, False])  # arcs 0 and 5 take no frame

    def joined(self, path: list[int], window: list[int], first: int) -> list[int]:
        end, start = windows.meeting(np.array(path, int), np.array(window, int), self.TAKES, first)
        return path[:end] + window[start:]

    @pytest.mark.parametrize("sizes", [[9], [1] * 9, [4, 5], [0, 3, 0, 6]])
    def test_windows_hold_every_frame_and_overlap(self, sizes: list[int]) -> None:
        scores = np.arange(18, dtype=np.float32).reshape(9, 2)
        stretches = np.split(scores, np.cumsum(sizes)[:-1])
        found = [(first, part.tolist()) for first, part in windows.overlapping(stretches, 4, 1)]
        assert found == [(first, scores[first : first + 4].tolist()) for first in (0, 3, 6)]

    @pytest.mark.parametrize("size, firsts", [(3, [0]), (4, [0]), (5, [0, 3]), (7, [0, 3]), (8, [0, 3, 6])])
    def test_no_window_without_a_frame_of_its_own(self, size: int, firsts: list[int]) -> None:
        assert [first for first, _ in windows.overlapping([np.zeros((size, 1), np.float32)], 4, 1)] == firsts

    def test_paths_are_joined_where_they_agree_longest(self) -> None:
        # frames 2 to 6 are shared; the paths agree in frame 2, and in 4 and 5
        path = [1, 1, 3, 5, 1, 2, 5, 2, 4]
        window = [3, 2, 5, 2, 5, 2, 3, 1]
        assert self.joined(path, window, 2) == [1, 1, 3, 5, 1, 2, 5, 2, 3, 1]

    def test_arcs_without_a_frame_come_once(self) -> None:
        assert self.joined([1, 2, 5, 2, 2], [2, 5, 2, 2, 3], 1) == [1, 2, 5, 2, 2, 3]

    @pytest.mark.parametrize(
        "path, window, first, expected",
        [
            ([], [1, 2], 0, [1, 2]),
            ([1, 2], [], 1, [1, 2]),  # no path survived
            ([1, 2], [3, 3], 4, [1, 2, 3, 3]),  # nor before
            ([1, 1, 1, 1], [2, 2, 2, 2], 2, [1, 1, 1, 2, 2, 2]),  # nothing in common: in the middle
        ],
    )
    def test_paths_that_have_nothing_in_common(
        self, path: list[int], window: list[int], first: int, expected: list[int]
    ) -> None:
        assert self.joined(path, window, first) == expected

    def test_words_are_those_of_the_whole(self, monkeypatch: pytest.MonkeyPatch, system: TinySystem) -> None:
        recogniser = system.recogniser(system.train())
        wave = np.tile(np.concatenate(list(system.waves.values())), 3)
        whole = recogniser.hear({"a": wave})["a"].words
        assert whole is not None and len(whole) > 20
        monkeypatch.setattr(framing, "LONG_FRAMES", 20)
        monkeypatch.setattr(windows.overlapping, "__defaults__", (200, 80))
        seen = []
        meeting = windows.meeting
        monkeypatch.setattr("kaldi_uq.engine.embedded.decode.meeting", lambda *a: seen.append(a) or meeting(*a))
        assert recogniser.hear({"a": wave})["a"].words == whole
        assert len(seen) > 3
        assert max(len(path) for path, *_ in seen) < 400  # what is settled is no path any more


class TestLattices:
    """Lattices are of whole utterances, long ones too, and all of one call are in one archive."""

    CONFIG = DecodeConfig(lattice_beam=4.0)

    def waves(self, system: TinySystem) -> dict[str, np.ndarray]:
        first, second, *_ = system.waves.values()
        return {"short": first[:1500], "long": np.concatenate([first, second]), "longer": np.concatenate([second] * 3)}

    def test_statistics_are_those_of_the_whole(self, request: pytest.FixtureRequest, system: TinySystem) -> None:
        recogniser = system.recogniser(system.train(), decode=self.CONFIG)
        recogniser.lattice_statistics = True
        waves = self.waves(system)
        whole = recogniser.hear(waves)
        request.getfixturevalue("short_windows")
        found = recogniser.hear(waves)
        assert list(found) == list(waves)
        for utt, one in whole.items():
            assert found[utt].words == one.words
            assert set(LATTICE_STATISTICS) < set(found[utt].statistics)
            assert found[utt].statistics == pytest.approx(one.statistics, rel=1e-3, abs=1e-5)

    def test_archive_has_them_all(self, short_windows: None, system: TinySystem, tmp_path: Path) -> None:
        engine = EmbeddedEngine(EngineOptions(work_dir=tmp_path, lattices=True))
        recogniser = dataclasses.replace(system, engine=engine).recogniser(system.train(), decode=self.CONFIG)
        heard = recogniser.hear(self.waves(system))
        assert all(one.words for one in heard.values())
        assert set(dict(read_lattices(tmp_path / "lat.1.gz"))) == set(heard)
        (tmp_path / "lat.1.gz").unlink()
        recogniser.hear(self.waves(system), words=False)
        assert not list(tmp_path.iterdir())


def test_who_listens_is_asked_for_each_stretch_once() -> None:
    log_post = torch.full((1, 1, 3, 4), 0.25).log()
    listening = Listening(iter([[log_post], [log_post[:, :, :1]]]), lambda mean: mean * 2, 4)
    scores = listening.all_scores()
    assert scores.shape == (4, 4) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, 2 * np.log(0.25), rtol=1e-6)
    heard = listening.heard()
    assert heard.words is None and heard.frames["predictive_entropy"].shape == (4,)
    assert list(listening) == []


def test_what_no_decoder_asks_for_is_measured_too() -> None:
    log_post = torch.full((1, 1, 3, 4), 0.25).log()
    heard = Listening(iter([[log_post], [log_post]]), lambda mean: mean, 6).heard()
    assert heard.frames["predictive_entropy"].shape == (6,)
    assert heard.statistics["mean_predictive_entropy"] == pytest.approx(np.log(4))
