"""Attacks with real speech of the target, against the decoder's own margin, and of several targets.

One file: all are checked on the same trained recogniser, which takes seconds to make.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kaldi_uq.attacks.attack import Adversarial, random_starts, speech_starts
from kaldi_uq.attacks.checks.one_run import check_attack
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.donors import CERTAIN, Donors, Piece, Speech
from kaldi_uq.attacks.goal import LOSSES, Goal, Say, Untargeted
from kaldi_uq.attacks.losses import AHEAD, DecoderMargin, LogitMatch
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError
from kaldi_uq.io.waves import pad
from kaldi_uq.recogniser.ctc import CtcRecogniser
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.results.word_errors import align_words
from tests.tiny import RATE, TinySystem, make_system, make_waves, write_set
from tests.toy import FRAME, ToyRecogniser, toy_waves

EPS = 0.02


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return make_system(tmp_path_factory.mktemp("donors"))


@pytest.fixture(scope="module")
def who(system: TinySystem) -> Recogniser:
    return system.recogniser(system.train())


@pytest.fixture(scope="module")
def donors(system: TinySystem) -> Donors:
    return Donors(system.waves, system.text)


@pytest.fixture(scope="module")
def place(system: TinySystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model, its graph, and data directories."""
    folder = tmp_path_factory.mktemp("commands")
    system.write_model(system.train(), folder / "dnn")
    write_set(folder / "attack", *make_waves(3, seed=2))
    write_set(folder / "fit", system.waves, system.text)
    return folder


def scored(who: Recogniser, waves: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Tensor, Tensor]:
    """Scores of each utterance, mean log-posteriors (B, T, C) and lengths of all."""
    batch = pad(waves, list(waves))
    wav, sizes = torch.from_numpy(batch.wav), torch.from_numpy(batch.num_samples)
    with torch.no_grad():
        mean = who.mean_log_post(wav, sizes, batch.utts)
    lengths = who.num_frames(sizes)
    scores = who.scores(mean).numpy()
    return {utt: scores[i, : lengths[i]].copy() for i, utt in enumerate(waves)}, mean, lengths


def batch_goal(who: Recogniser, loss: str, waves: dict[str, np.ndarray], goal: Goal) -> tuple[Any, Tensor]:
    scores, mean, lengths = scored(who, waves)
    words = goal.choose(who, waves, 0)
    return LOSSES.get(loss).of_words(who, words, scores, goal, lengths, seed=0), mean


def heard(who: Any, made: Adversarial) -> dict[str, list[str]]:
    return {utt: list(one.words or ()) for utt, one in who.hear(made.waves).items()}


class TestSpeech:
    def test_words_are_those_of_the_recordings(self, who: Recogniser, donors: Donors, system: TinySystem) -> None:
        speech = donors.speech(who)
        assert speech is donors.speech(who)  # cut once
        for word in ("one", "three", "two"):
            for seed in range(5):
                (piece,) = speech.choose("other", [word], seed)
                assert word in system.text[piece.utt]
                assert (
                    0.06 < len(piece.wave) / RATE < 0.4
                )  # words last 900 to 1300 samples, and some silence goes with them
                assert len(piece.path) == len(piece.log_post) == round(len(piece.wave) / RATE / who.frame_shift_s)

    def test_text_is_heard_in_its_order(self, who: Recogniser, donors: Donors) -> None:
        speech = donors.speech(who)
        rng = np.random.default_rng(0)
        for number, words in enumerate((["two", "one"], ["one", "three", "two"], ["three"], ["two", "two", "one"])):
            for size in (5000, 8000):
                said = speech.overlay("x", words, [], size, seed=number)
                assert said.dtype == np.float32 and said.shape == (size,) and np.abs(said).max() <= 1
                wave = 0.4 * said + 0.003 * rng.standard_normal(size)
                assert list(who.hear({"x": wave.astype(np.float32)})["x"].words or ()) == words

    def test_words_begin_where_the_alignment_has_them_if_they_fit_there(self) -> None:
        log_post = np.zeros((2, 3), np.float32)
        pieces = {
            w: [Piece(w, np.full(n, 0.1, np.float32), np.array([1, 2]), log_post)] for w, n in (("a", 40), ("b", 60))
        }
        speech = Speech(pieces, {}, sample_rate=100, frame_shift_s=0.1)
        spans = lambda said: np.flatnonzero(np.diff(np.concatenate([[0], said != 0, [0]]))).tolist()  # noqa: E731
        placed = speech.overlay("x", ["a", "b"], [("a", 0.5, 0.6), ("b", 1.2, 3)], 200, seed=0)
        assert spans(placed) == [50, 90, 120, 180]
        assert np.allclose(placed[50:90], 0.5)  # the level, whatever that of the recording
        # the first would reach into the second, there are no times, or the last would go on behind the end
        for times in ([("a", 0.5, 0.6), ("b", 0.8, 3)], [], [("a", 0.5, 0.6), ("b", 1.7, 3)]):
            assert spans(speech.overlay("x", ["a", "b"], times, 220, seed=0)) == [40, 80, 120, 180]
        assert spans(speech.overlay("x", ["a", "b"], [], 50, seed=0)) == [0, 50]  # twice as fast

    def test_donor_is_chosen_by_the_seed_and_is_another_recording_where_there_is_one(
        self, who: Recogniser, donors: Donors, system: TinySystem
    ) -> None:
        speech, utt = donors.speech(who), next(u for u, words in system.text.items() if "one" in words)
        chosen = [speech.choose(utt, ["one"] * 3, seed) for seed in range(10)]
        assert [[p.utt for p in row] for row in chosen] == [
            [p.utt for p in speech.choose(utt, ["one"] * 3, seed)] for seed in range(10)
        ]
        used = {p.utt for row in chosen for p in row}
        assert utt not in used and len(used) > 2
        alone = Donors({utt: system.waves[utt]}, system.text).speech(who)
        assert alone.choose(utt, ["one"], 0)[0].utt == utt

    def test_missing_word_and_recogniser_without_times_are_one_clear_error(
        self, who: Recogniser, system: TinySystem
    ) -> None:
        utts = [utt for utt, words in system.text.items() if "two" not in words]
        few = Donors({utt: system.waves[utt] for utt in utts}, system.text, where="data/x")
        goal = Say(dict.fromkeys(system.waves, "two"), spoken=system.text, donors=few)
        with pytest.raises(
            DataError, match=r"^data/x: no recording in which 'two' can be cut out, a word of the target"
        ):
            PGD(eps=EPS, start="speech")(who, system.waves, goal)

        class Sign(nn.Module):
            def forward(self, wav: Tensor) -> Tensor:
                mean = wav.unfold(1, 4, 4).mean(2)
                return 20 * torch.stack([0.5 - mean.abs(), mean, -mean], 2)

        ctc = CtcRecogniser(Sign(), ["<blank>", "yes", "no"], sample_rate=8000)
        waves = {"a": np.repeat([0.9, 0.9, 0.0, 0.9, -0.9], 4)}
        with pytest.raises(ValueError, match="CtcRecogniser does not say when a word begins and ends"):
            PGD(eps=EPS, loss="logit_match")(ctc, waves, Say({"a": "no"}))

    def test_posteriors_follow_a_path_run_by_run(self) -> None:
        def frames(*values: float) -> np.ndarray:
            return np.repeat(np.array(values, np.float32)[:, None], 4, 1)

        pieces = {
            "a": [Piece("p", np.ones(4, np.float32), np.array([1, 1, 2]), frames(10, 11, 12))],
            "b": [Piece("q", np.ones(4, np.float32), np.array([1, 3, 3]), frames(20, 21, 22))],
        }
        speech = Speech(pieces, {0: frames(90, 91)}, sample_rate=100, frame_shift_s=0.1)
        found = speech.posteriors("x", ["a", "b"], np.array([0, 1, 1, 1, 1, 2, 0, 0, 1, 3]), seed=0)
        assert found[:, 0].tolist() == [90, 10, 10, 11, 11, 12, 90, 91, 20, 21]
        without = Speech(pieces, {}, sample_rate=100, frame_shift_s=0.1)
        certain = without.posteriors("x", ["a"], np.array([0, 1, 2]), seed=0)[0]
        assert certain.tolist() == [0.0, CERTAIN, CERTAIN, CERTAIN]


class TestStart:
    def test_starts_are_taken_in_turn(self) -> None:
        config = AttackConfig(start="speech,zero,noise", num_starts=5)
        assert [config.start_of(k) for k in range(5)] == ["speech", "zero", "noise", "speech", "zero"]
        assert [AttackConfig(random_start=False, num_starts=2).start_of(k) for k in range(2)] == ["zero", "noise"]
        assert AttackConfig().start_of(0) == "noise"
        for options in ({"start": "loud"}, {"start": "noise,"}, {"start": "speech", "random_start": False}):
            with pytest.raises(ValueError, match=r"^(start must be noise, zero or speech|random_start false is)"):
                AttackConfig(**options)  # type: ignore[arg-type]

    def test_zero_is_the_audio_itself(self) -> None:
        who, waves = ToyRecogniser(), toy_waves()
        goal = Say(dict.fromkeys(waves, "a"))
        options: dict[str, Any] = {"eps": 0.2, "num_steps": 3}
        zero = PGD(start="zero", **options)(who, waves, goal).waves
        none = PGD(random_start=False, **options)(who, waves, goal).waves
        noise = PGD(**options)(who, waves, goal).waves
        assert all(np.array_equal(zero[utt], none[utt]) for utt in waves)
        assert any(not np.array_equal(zero[utt], noise[utt]) for utt in waves)

    def test_speech_stays_within_eps_and_is_what_the_attack_begins_with(
        self, who: Recogniser, donors: Donors, system: TinySystem
    ) -> None:
        waves = dict(list(system.waves.items())[:3])
        goal = Say(dict.fromkeys(waves, "two one"), spoken=system.text, donors=donors)
        attack = PGD(eps=EPS, start="speech", num_steps=1, step_size=1e-9, step_rule="fixed")
        made = attack(who, waves, goal)
        scores, _, _ = scored(who, waves)
        batch = pad(waves, list(waves))
        starts = speech_starts(who, scores, {utt: ["two", "one"] for utt in waves}, goal, batch, seed=0)
        for row, utt in enumerate(waves):
            change = made.waves[utt] - waves[utt]
            assert 0 < np.abs(change).max() <= EPS
            assert np.allclose(change, EPS * starts[row, : len(change)], atol=3 / 32768)

    def test_untargeted_start_says_something_else(self, who: Recogniser, donors: Donors, system: TinySystem) -> None:
        waves = dict(list(system.waves.items())[:2])
        goal = Untargeted(system.text, donors=donors)
        scores, _, _ = scored(who, waves)
        spoken = {utt: system.text[utt] for utt in waves}
        starts = speech_starts(who, scores, spoken, goal, pad(waves, list(waves)), seed=0)
        for row, utt in enumerate(waves):
            said = 0.4 * starts[row] + 0.003 * np.random.default_rng(0).standard_normal(starts.shape[1])
            assert list(who.hear({"x": said.astype(np.float32)})["x"].words or ()) != system.text[utt]

    def test_louder_bound_makes_the_speech_heard_at_once(
        self, who: Recogniser, donors: Donors, system: TinySystem
    ) -> None:
        rng = np.random.default_rng(1)
        quiet = {
            f"q{k}": (np.rint(0.003 * rng.standard_normal(6000) * 32768) / 32768).astype(np.float32) for k in range(4)
        }
        goal = Say(dict.fromkeys(quiet, "two one"), spoken=dict.fromkeys(quiet, "one"), donors=donors)
        options: dict[str, Any] = {"eps": 0.3, "num_steps": 1, "step_size": 1e-9, "step_rule": "fixed"}
        speech, noise = (heard(who, PGD(start=s, **options)(who, quiet, goal)) for s in ("speech", "noise"))
        assert all(words == ["two", "one"] for words in speech.values())
        assert all(words != ["two", "one"] for words in noise.values())


class TestLogitMatch:
    def test_loss_is_the_divergence_from_what_the_donors_say(
        self, who: Recogniser, donors: Donors, system: TinySystem
    ) -> None:
        waves = dict(list(system.waves.items())[:2])
        targets = dict.fromkeys(waves, "three one")
        goal, mean = batch_goal(who, "logit_match", waves, Say(targets, spoken=system.text, donors=donors))
        assert isinstance(goal, LogitMatch) and goal.follows
        loss = goal.shares(mean[None], torch.arange(2)).sum(1)
        scores, _, lengths = scored(who, waves)
        for row, utt in enumerate(waves):
            path = who.align({utt: scores[utt]}, {utt: ["three", "one"]})[utt]
            real = donors.speech(who).posteriors(utt, ["three", "one"], path, seed=0).astype(np.float64)
            assert np.mean(real.argmax(1) == path) > 0.8  # real speech of these classes
            other = mean[row, : lengths[row]].double().numpy()
            expected = float((np.exp(real) * (real - other)).sum(1).mean())
            assert float(loss[row]) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.long
    def test_attack_comes_nearer_to_the_donors_than_the_cross_entropy_does(
        self, who: Recogniser, donors: Donors, system: TinySystem
    ) -> None:
        waves = dict(list(make_waves(3, seed=5)[0].items()))
        goal = Say(dict.fromkeys(waves, "two one"), spoken=make_waves(3, seed=5)[1], donors=donors)
        found = {}
        for loss in ("logit_match", "cross_entropy"):
            made = PGD(eps=0.1, num_steps=60, realign_every=5, loss=loss)(who, waves, goal)
            assert all(words == ["two", "one"] for words in heard(who, made).values())
            measure, mean = batch_goal(who, "logit_match", made.waves, goal)
            found[loss] = measure.shares(mean[None], torch.arange(3)).sum(1)
        assert float(found["logit_match"].mean()) < 0.5 * float(found["cross_entropy"].mean())
        assert float(found["logit_match"].max()) < 0.1


class TestDecoderMargin:
    @pytest.mark.parametrize("away", [False, True])
    def test_its_sign_is_whether_the_decoder_writes_the_text(
        self, who: Recogniser, system: TinySystem, away: bool
    ) -> None:
        waves, _ = make_waves(12, seed=7)
        rng = np.random.default_rng(3)
        waves = {u: (w + rng.choice([0, 0.1, 0.3]) * rng.standard_normal(len(w))).clip(-1, 1).astype(np.float32)
                 for u, w in waves.items()}  # fmt: skip
        said = {utt: list(one.words or ()) for utt, one in who.hear(waves).items()}
        waves = {utt: wave for utt, wave in waves.items() if said[utt]}
        texts = {
            u: said[u] if k % 2 else [*said[u][1:], "one" if said[u][0] != "one" else "two"]
            for k, u in enumerate(waves)
        }
        texts = {u: words[:3] for u, words in texts.items()}
        texts = {u: w for u, w in texts.items() if who.align({u: scored(who, {u: waves[u]})[0][u]}, {u: w})}
        waves = {u: waves[u] for u in texts}
        goal, mean = batch_goal(who, "decoder_margin", waves, Untargeted(texts) if away else Say(texts, spoken=said))
        assert isinstance(goal, DecoderMargin)
        loss = goal.shares(mean[None], torch.arange(len(waves))).sum(1) * goal.lengths
        written = [said[utt] == texts[utt] for utt in waves]
        assert len(set(written)) == 2
        assert [bool(value < 0) != away for value in loss] == written
        assert away or bool((loss >= -AHEAD - 1e-4).all())

    def test_graph_weight_is_what_the_score_of_the_decoder_has_beside_the_frames(
        self, who: Recogniser, system: TinySystem
    ) -> None:
        scores, _, _ = scored(who, dict(list(system.waves.items())[:4]))
        found = who._decoder().decode(scores.items())
        paths = {utt: who._tid_to_pdf[one.alignment] for utt, one in found.items()}
        weights = dict(zip(paths, who.graph_weights(list(paths.values())), strict=True))
        for utt, one in found.items():
            frames = float(scores[utt][np.arange(len(paths[utt])), paths[utt]].sum())
            assert weights[utt] == pytest.approx(one.score / who.decode_config.acwt - frames, abs=0.05)
            assert (weights[utt] or 0.0) < 0
        assert who.graph_weights([np.zeros(9, np.int64) + max(p.max() for p in paths.values())]) == [None]

    def test_rivals_are_what_the_decoder_hears_and_frames_in_which_the_paths_agree_have_no_part(
        self, who: Recogniser, system: TinySystem
    ) -> None:
        utt = next(u for u, words in system.text.items() if len(words) == 3)
        waves, text = {utt: system.waves[utt]}, system.text[utt]
        other = [*text[:2], "one" if text[2] != "one" else "two"]
        goal, mean = batch_goal(who, "decoder_margin", waves, Say({utt: other}, spoken=system.text))
        assert goal._texts[utt][0] == tuple(text)
        mean = mean.requires_grad_(True)
        goal.shares(mean[None], torch.tensor([0])).sum().backward()
        assert mean.grad is not None
        moved = mean.grad[0].abs().sum(1) > 0
        times = who.word_times(text, scored(who, waves)[0][utt])
        last = round(times[2][1] / who.frame_shift_s)
        assert bool(moved[last:].any()) and not bool(moved[: last - 3].any())

    @pytest.mark.long
    def test_attacks_succeed_with_it(self, who: Recogniser, system: TinySystem) -> None:
        waves, text = make_waves(4, seed=5)
        targets = {utt: ["two", "one"] for utt in waves}
        options: dict[str, Any] = {"eps": 0.1, "num_steps": 60, "realign_every": 5, "loss": "decoder_margin"}
        made = PGD(**options)(who, waves, Say(targets, spoken=text))
        assert heard(who, made) == targets
        checks = check_attack(made)
        assert all(one["passed"] for one in checks.values())
        # in some frames the texts agree, so that these say nothing
        assert "loss_falls" in checks and "gradient_on_every_frame" not in checks
        made = PGD(**options)(who, waves, Untargeted(text))
        assert all(words != text[utt] for utt, words in heard(who, made).items())


class TestTargets:
    def test_several_are_never_worse_than_one(self, who: Recogniser, system: TinySystem) -> None:
        waves, text = make_waves(6, seed=9)
        options: dict[str, Any] = {"eps": 0.03, "num_steps": 12, "realign_every": 4}
        one, many = (PGD(num_targets=k, **options)(who, waves, Say(spoken=text)) for k in (1, 4))
        errors = []
        for made in (one, many):
            said = heard(who, made)
            errors.append([align_words(made.records[utt]["target"], said[utt]).errors for utt in waves])
        assert all(after <= before for before, after in zip(*errors, strict=True))
        assert sum(errors[1]) < sum(errors[0])
        reached = [count == 0 for count in errors[0]]
        for utt, success in zip(waves, reached, strict=True):
            first, later = one.records[utt], many.records[utt]
            assert (later["targets_tried"] == 1) == success
            assert later["steps"] == 12 * later["targets_tried"]
            if success:
                assert later["target"] == first["target"] and np.array_equal(one.waves[utt], many.waves[utt])
        assert not all(reached) and any(many.records[u]["target"] != one.records[u]["target"] for u in waves)
        assert "targets_tried" not in one.records["utt00"]

    def test_goals_without_random_targets_are_refused(self) -> None:
        who, waves = ToyRecogniser(), toy_waves()
        for goal in (Say(dict.fromkeys(waves, "a")), Untargeted(dict.fromkeys(waves, "a"))):
            with pytest.raises(
                ValueError, match=r"^num_targets 3 is of random targets: leave it 1, or give no targets$"
            ):
                PGD(eps=0.1, num_targets=3)(who, waves, goal)
        for options in ({"untargeted": True}, {"eot_draws": "fixed"}):
            with pytest.raises(ValueError, match="num_targets"):
                AttackConfig(num_targets=2, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"start": "speech"}, {"loss": "logit_match"}, {"loss": "decoder_margin"}, {"num_targets": 3},
     {"start": "speech,zero,noise", "num_starts": 3}],
    ids=lambda options: "-".join(map(str, options.values())),
)  # fmt: skip
class TestSeeds:
    """On the toy, whose batches round exactly as an utterance alone does."""

    def made(self, waves: dict[str, np.ndarray], seed: int, options: dict[str, Any]) -> Adversarial:
        every = toy_waves()
        donors = Donors(every, dict.fromkeys(every, "a b c"))
        goal = Say(spoken=dict.fromkeys(every, "a"), donors=donors)
        return PGD(eps=0.1, num_steps=8, realign_every=3, seed=seed, **options)(ToyRecogniser(), waves, goal)

    def test_seed_decides(self, options: dict[str, Any]) -> None:
        first, again, other = (self.made(toy_waves(), seed, options) for seed in (0, 0, 1))
        assert first.records == again.records
        assert all(np.array_equal(first.waves[utt], again.waves[utt]) for utt in first.waves)
        assert any(not np.array_equal(first.waves[utt], other.waves[utt]) for utt in first.waves)

    def test_utterance_alone_has_the_attack_that_it_has_in_a_batch(self, options: dict[str, Any]) -> None:
        waves = toy_waves()
        whole = self.made(waves, 0, options)
        for utt, wave in waves.items():
            alone = self.made({utt: wave}, 0, options)
            assert np.array_equal(alone.waves[utt], whole.waves[utt])
            assert alone.records[utt]["target"] == whole.records[utt]["target"]


def test_donors_are_the_attacked_utterances_where_none_are_given() -> None:
    who, waves = ToyRecogniser(), toy_waves()
    text = dict.fromkeys(waves, "a b c")
    options: dict[str, Any] = {"eps": 0.1, "num_steps": 4, "start": "speech"}
    goal = Say(dict.fromkeys(waves, "c a"), spoken=text)
    default = PGD(**options)(who, waves, goal).waves
    given = PGD(**options)(who, waves, replace(goal, donors=Donors(waves, text))).waves
    # other recordings, so that it is seen that they are used
    loud = {utt: np.roll(wave, FRAME // 2) for utt, wave in waves.items()}
    other = PGD(**options)(who, waves, replace(goal, donors=Donors(loud, text))).waves
    assert all(np.array_equal(default[utt], given[utt]) for utt in waves)
    assert any(not np.array_equal(default[utt], other[utt]) for utt in waves)
    assert Donors(waves, text).key == Donors(waves, {u: "a b c".split() for u in waves}).key != Donors(loud, text).key
    assert random_starts(["a"], [4], 0).shape == (1, 4)


def test_audio_of_donors_is_checked() -> None:
    waves = toy_waves()
    bad = {"d": np.full(100, 3.0)}
    goal = Say(dict.fromkeys(waves, "a"), donors=Donors(bad, {"d": "a"}))
    with pytest.raises(DataError, match=r"^d: samples reach 3"):
        PGD(eps=0.1, start="speech")(ToyRecogniser(), waves, goal)


class TestCommands:
    @pytest.mark.long
    @pytest.mark.parametrize("options", ["--start speech", "--loss logit_match", "--loss decoder_margin"])
    def test_attack_on_a_data_directory(self, place: Path, system: TinySystem, tmp_path: Path, options: str) -> None:
        places = ["attack", "dnn", "dnn/graph"]
        words = [
            "nnet-attack",
            *options.split(),
            "--eps",
            "0.1",
            "--lang-dir",
            str(system.lang.path),
            "--num-steps",
            "3",
        ]
        found = {}
        for donors in ("", "fit"):
            more = ["--donors", str(place / donors)] if donors else []
            out = tmp_path / f"attack_{donors}_eps0.1"
            assert main([*words, *more, *[str(place / name) for name in places], str(out)]) == 0
            found[donors] = [(out / "wav" / f"{utt}.wav").read_bytes() for utt in ("utt00", "utt01", "utt02")]
        assert (found[""] != found["fit"]) == ("margin" not in options)

    def test_attack_on_files_needs_donors_that_say_the_words(
        self, place: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = [
            "attack",
            str(place / "attack/wav/utt00.wav"),
            "--target-text",
            "two one",
            "--model-dir",
            str(place / "dnn"),
        ]
        words += ["--lang-dir", str(system.lang.path), "--eps", "0.1", "--start", "speech", "--num-steps", "30"]
        (place / "empty").mkdir(exist_ok=True)
        one = {"utt00": make_waves(3, seed=2)[0]["utt00"]}
        write_set(place / "empty", one, {"utt00": ["one"]})
        assert main([*words, "--out", str(tmp_path / "x.wav"), "--donors", str(place / "empty")]) == 1
        assert "no recording in which 'two' can be cut out" in capsys.readouterr().err
        assert not (tmp_path / "x.wav").exists()
        assert main([*words, "--out", str(tmp_path / "x.wav"), "--donors", str(place / "fit")]) == 0
        assert "heard:  two one" in capsys.readouterr().out

    def test_ten_targets_are_recorded(self, place: Path, system: TinySystem, tmp_path: Path) -> None:
        words = ["nnet-attack", "--num-targets", "3", "--eps", "0.001", "--lang-dir", str(system.lang.path)]
        words += ["--num-steps", "1", *[str(place / name) for name in ("attack", "dnn", "dnn/graph")]]
        assert main([*words, str(tmp_path / "attack_ten_eps0.001")]) == 0
        lines = [json.loads(text) for text in (tmp_path / "attack_ten_eps0.001/results.jsonl").read_text().splitlines()]
        assert all(one["targets_tried"] == 3 and one["target"] for one in lines)
