"""Goals: which words an attack wants, and losses that are shares of frames, of parts of a batch, towards or away."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import LInf
from kaldi_uq.attacks.goal import LOSSES, MAX_ATTEMPTS, BatchGoal, CrossEntropy, FrameGoal, Goal, Say, Untargeted
from kaldi_uq.attacks.loop import run_attack
from kaldi_uq.attacks.losses import Ctc
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.errors import AlignmentError, DataError
from tests.toy import Toy, ToyRecogniser, lengths_of, loss_of, on_grid, seeded, toy_waves

LENGTHS = torch.tensor([9, 6])
TOKENS, SIZES = torch.tensor([[1, 2, 2], [3, 1, 0]]), torch.tensor([3, 2])
LOSS_NAMES = LOSSES.names()
# the toy aligns without a look at the scores: its paths are neither its decoder's nor those of what its donors say
REACHED_BY_TOY = [name for name in LOSS_NAMES if name not in ("decoder_margin", "logit_match")]


def draws_of(num_draws: int = 2, seed: int = 0) -> Tensor:
    """Log-posteriors (M, 2, 9, 4)."""
    return torch.randn(num_draws, 2, 9, 4, generator=seeded(seed), dtype=torch.float64).log_softmax(-1)


def goal_of(name: str, **options: Any) -> BatchGoal:
    """A loss of its name, with targets."""
    kind: Any = LOSSES.get(name)
    if name == "ctc":
        goal: BatchGoal = kind(TOKENS, SIZES, LENGTHS, blank=0, **options)
    else:
        goal = kind(torch.randint(4, (2, 9), generator=seeded(5)), LENGTHS, **options)
    return goal


class TestCtc:
    @pytest.mark.parametrize("num_draws", [1, 3])
    def test_loss_is_that_of_torch_over_the_frames_and_the_mean_over_draws(self, num_draws: int) -> None:
        draws = draws_of(num_draws)
        expected = [
            F.ctc_loss(draws[:, row, :size].transpose(0, 1), TOKENS[[row]].expand(num_draws, -1),
                       torch.full((num_draws,), size), SIZES[[row]].expand(num_draws), reduction="sum")
            / num_draws / size
            for row, size in enumerate(LENGTHS.tolist())
        ]  # fmt: skip
        torch.testing.assert_close(loss_of(goal_of("ctc"), draws), torch.stack(expected))

    def test_loss_is_the_probability_of_all_paths_of_the_words(self) -> None:
        draws = torch.randn(1, 1, 5, 3, generator=seeded(2), dtype=torch.float64).log_softmax(-1)
        total = 0.0
        for path in itertools.product(range(3), repeat=5):
            written = [c for i, c in enumerate(path) if c != 1 and (i == 0 or path[i - 1] != c)]  # 1 is the blank
            if written == [2, 2]:
                total += math.exp(sum(float(draws[0, 0, t, c]) for t, c in enumerate(path)))
        goal = Ctc(torch.tensor([[2, 2]]), torch.tensor([2]), torch.tensor([5]), blank=1)
        assert float(loss_of(goal, draws)) == pytest.approx(-math.log(total) / 5)

    def test_loss_of_the_mean_is_that_of_the_mean_posterior(self) -> None:
        draws = draws_of(3)
        mean = draws.exp().mean(0).log()[None]
        torch.testing.assert_close(loss_of(goal_of("ctc", of_mean=True), draws), loss_of(goal_of("ctc"), mean))

    def test_words_are_reached_though_no_frame_has_a_target(self) -> None:
        wav, sizes = on_grid(2, 180), torch.tensor([180, 120])
        words = (["a", "b", "b"], ["c", "a"])
        goal = Ctc(TOKENS, SIZES, lengths_of(sizes), blank=0)
        config = AttackConfig(eps=0.3, num_steps=40)
        result = run_attack(Toy(), wav, goal, LInf(wav, sizes, config.eps), config)
        assert bool((result.last_loss < 0.5 * result.first_loss).all())
        heard = ToyRecogniser().hear({str(i): result.wav[i, :size].numpy() for i, size in enumerate(sizes.tolist())})
        assert [list(one.words or ()) for one in heard.values()] == list(words)

    def test_recogniser_without_tokens_is_refused(self) -> None:
        class NoTokens(ToyRecogniser):
            def align(self, scores: Mapping[str, np.ndarray], targets: Any) -> dict[str, np.ndarray]:
                return {utt: np.zeros(len(of_frames), np.int64) for utt, of_frames in scores.items()}

            def ctc_tokens(self, words: Sequence[str]) -> list[int]:
                return super(ToyRecogniser, self).ctc_tokens(words)

        waves = toy_waves()
        with pytest.raises(ValueError, match="the loss ctc is for a recogniser trained by CTC"):
            PGD(eps=0.1, loss="ctc")(NoTokens(), waves, Say(dict.fromkeys(waves, "a")))


@pytest.mark.parametrize("name", LOSS_NAMES)
class TestShares:
    def test_padding_has_none_and_what_it_holds_does_not_matter(self, name: str) -> None:
        goal, draws = goal_of(name), draws_of()
        other = draws.clone()
        other[:, 1, 6:] = draws_of(seed=3)[:, 1, 6:]
        rows = torch.arange(2)
        shares = goal.shares(draws, rows)
        assert shares.shape == (2, 9)
        assert not shares[1, 6:].any()
        assert torch.equal(goal.shares(other, rows), shares)
        # each utterance by itself: the sums are the losses of the utterances
        for row, size in enumerate(LENGTHS.tolist()):
            alone = goal.select(torch.tensor([row]))
            torch.testing.assert_close(loss_of(alone, draws[:, [row], :size]), shares[[row]].sum(1))

    def test_part_of_a_batch_has_the_shares_of_its_rows(self, name: str) -> None:
        goal, draws = goal_of(name), draws_of()
        for rows in (torch.tensor([1]), torch.tensor([1, 0])):
            expected = goal.shares(draws, torch.arange(2))[rows]
            torch.testing.assert_close(goal.shares(draws[:, rows], rows), expected)
            part = goal.select(rows)
            torch.testing.assert_close(part.shares(draws[:, rows], torch.arange(len(rows))), expected)
            assert part.lengths.tolist() == LENGTHS[rows].tolist()
        assert goal.lengths.tolist() == LENGTHS.tolist()  # the whole stays as it is

    def test_away_climbs_where_towards_descends(self, name: str) -> None:
        draws = draws_of()
        towards, away = goal_of(name), goal_of(name, away=True)
        # the margin is bounded on one side alone, at five nats, which these draws do not reach
        torch.testing.assert_close(loss_of(away, draws), -loss_of(towards, draws))

    def test_gradient_reaches_every_frame_and_none_of_the_padding(self, name: str) -> None:
        draws = draws_of().requires_grad_(True)
        loss_of(goal_of(name), draws).sum().backward()
        assert draws.grad is not None
        assert bool((draws.grad[:, 0].abs().sum(-1) > 0).all())
        assert not draws.grad[:, 1, 6:].any()


class Stubborn(ToyRecogniser):
    """Finds no path for an utterance, so many times."""

    def __init__(self, utt: str, times: int) -> None:
        super().__init__()
        self.utt, self.left = utt, times
        self.tried: list[list[str]] = []

    def align(self, scores: Mapping[str, np.ndarray], targets: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        found = super().align(scores, targets)
        if self.utt in found:
            self.tried.append(list(targets[self.utt]))
            if self.left:
                self.left -= 1
                del found[self.utt]
        return found


def batch_goal(
    who: ToyRecogniser, goal: Goal, waves: dict[str, np.ndarray], loss: str = "cross_entropy"
) -> tuple[BatchGoal, dict[str, list[str]]]:
    """The goal of a batch of all utterances, and the words, as an attack makes them."""
    words = goal.choose(who, waves, 0)
    scores = {utt: one.scores for utt, one in who.score(waves)}
    lengths = torch.tensor([who.num_frames(len(waves[utt])) for utt in waves])
    scores = {utt: scores[utt] for utt in waves}
    return LOSSES.get(loss).of_words(who, words, scores, goal, lengths, seed=0), words


class TestFrames:
    targets = {"utt0": "a b", "utt1": "c", "utt2": "b a c"}

    def test_classes_are_those_of_the_forced_alignment(self) -> None:
        goal, words = batch_goal(ToyRecogniser(), Say(self.targets), toy_waves())
        assert isinstance(goal, FrameGoal)
        assert words == {utt: text.split() for utt, text in self.targets.items()}
        assert goal.targets.tolist() == [
            [1] * 6 + [2] * 6,
            [3] * 10 + [0] * 2,
            [2, 2, 2, 1, 1, 1, 3, 3] + [0] * 4,
        ]
        assert goal.follows and goal.of_mean and not goal.away

    @pytest.mark.parametrize("loss", LOSS_NAMES)
    def test_random_recogniser_is_attacked_draw_by_draw_and_others_as_one(self, loss: str) -> None:
        who = ToyRecogniser()
        for who.is_random in (True, False):
            assert batch_goal(who, Say(self.targets), toy_waves(), loss)[0].of_mean != who.is_random

    def test_what_is_spoken_is_not_followed_away_from(self) -> None:
        goal, _ = batch_goal(ToyRecogniser(), Untargeted(self.targets), toy_waves())
        assert goal.away and not goal.follows

    def test_it_follows_the_posteriors_and_its_parts_share_what_they_find(self) -> None:
        class Changing(ToyRecogniser):
            backwards = False

            def align(self, scores: Any, targets: Any) -> dict[str, np.ndarray]:
                turned = {utt: words[::-1] if self.backwards else words for utt, words in targets.items()}
                return super().align(scores, turned)

        who = Changing()
        goal, _ = batch_goal(who, Say(self.targets), toy_waves())
        assert isinstance(goal, FrameGoal)
        first = goal.targets.clone()
        part = goal.select(torch.tensor([2, 0]))
        assert torch.equal(part.targets[:, :12], first[[2, 0]])
        who.backwards = True
        part.follow(torch.zeros(1, 12, 4), torch.tensor([0]))  # utt2
        turned = [3, 3, 3, 1, 1, 1, 2, 2]
        assert part.targets[0, :8].tolist() == turned
        assert torch.equal(part.targets[1], first[0])
        assert torch.equal(goal.targets, first)
        goal.begin()  # of the next run
        assert goal.targets[2, :8].tolist() == turned
        assert torch.equal(goal.targets[:2], first[:2])

    def test_part_of_short_utterances_takes_the_posteriors_of_padded_audio(self) -> None:
        goal, _ = batch_goal(ToyRecogniser(), Say(self.targets), toy_waves())
        part = goal.select(torch.tensor([2]))  # 8 frames, padded to 12
        draws = torch.randn(1, 3, 12, 4, generator=seeded()).log_softmax(-1)
        expected = goal.shares(draws, torch.arange(3))[[2]]
        torch.testing.assert_close(part.shares(draws[:, [2]], torch.tensor([0])), expected)

    def test_utterance_without_a_new_path_keeps_the_old_one(self) -> None:
        goal, _ = batch_goal(who := Stubborn("utt1", 0), Say(self.targets), toy_waves())
        assert isinstance(goal, FrameGoal)
        before = goal.targets.clone()
        who.left = 1
        goal.follow(torch.zeros(3, 12, 4), torch.arange(3))
        assert len(who.tried) == 2
        assert torch.equal(goal.targets, before)

    def test_frames_given_as_numbers_follow_nothing(self) -> None:
        goal = CrossEntropy(torch.zeros(2, 9, dtype=torch.int64), LENGTHS)
        goal.begin()
        goal.follow(torch.zeros(2, 9, 4), torch.arange(2))
        assert not goal.follows and not goal.targets.any()


class TestSay:
    def test_words_and_texts_are_the_same(self) -> None:
        waves = toy_waves(1)
        for text in ("a b", ["a", "b"], ("a", "b")):
            assert Say({"utt0": text}).choose(ToyRecogniser(), waves, 0) == {"utt0": ["a", "b"]}

    @pytest.mark.parametrize("goal", [Say({"utt1": "a"}, where="given"), Untargeted({"utt1": "a"}, where="given")])
    def test_missing_utterance_is_one_clear_error(self, goal: Goal) -> None:
        with pytest.raises(ValueError, match=r"^given: no t.* for utterance 'utt0' \(2 are missing\)$"):
            goal.choose(ToyRecogniser(), toy_waves(), 0)
        with pytest.raises(ValueError, match=r"^targets: no text of what is spoken for utterance 'utt0' \(3 are"):
            Say(spoken={}).choose(ToyRecogniser(), toy_waves(), 0)

    def test_words_are_checked_against_audio_and_lexicon(self) -> None:
        waves = toy_waves(1)
        with pytest.raises(AlignmentError, match=r"given: target .* needs at least 13 frames, the audio has 12"):
            Say({"utt0": ["a", "b"] * 6 + ["a"]}, where="given").choose(ToyRecogniser(), waves, 0)
        with pytest.raises(DataError, match="given: utt0: 'x' is no letter"):
            Say({"utt0": "x"}, where="given").choose(ToyRecogniser(), waves, 0)

    def test_random_targets_differ_from_what_is_spoken_and_belong_to_the_seed(self) -> None:
        waves = toy_waves(12, 600)
        spoken = dict.fromkeys(waves, "a")
        chosen = [Say(spoken=spoken).choose(ToyRecogniser(), waves, seed) for seed in (0, 0, 1)]
        assert chosen[0] == chosen[1] != chosen[2]
        assert all(words != ["a"] for words in chosen[0].values())

    def test_without_spoken_words_the_recogniser_is_asked_what_it_hears(self) -> None:
        who, waves = ToyRecogniser(), toy_waves()
        heard = {utt: one.words for utt, one in ToyRecogniser().hear(waves).items()}
        assert Say().choose(who, waves, 0) == Say(spoken=heard).choose(who, waves, 0)  # type: ignore[arg-type]
        assert [utt for batch in who.heard for utt in batch] == list(waves)

    def test_random_target_without_a_path_is_replaced_in_the_words_too(self) -> None:
        waves = toy_waves()
        spoken = dict.fromkeys(waves, "c")
        first = Say(spoken=spoken).choose(ToyRecogniser(), waves, 0)
        for times in (1, 3):
            who = Stubborn("utt1", times)
            goal, words = batch_goal(who, Say(spoken=spoken), waves)
            assert isinstance(goal, FrameGoal)
            assert len(who.tried) == times + 1
            expected = [who.random_target("utt1", ["c"], 10, seed=0, attempt=n) for n in range(times + 1)]
            assert who.tried == expected
            assert words == {**first, "utt1": who.tried[-1]}
            path = who.align({"utt1": np.zeros((10, 4))}, words)["utt1"]
            assert goal.targets[1, :10].tolist() == path.tolist()

    def test_its_replacement_is_not_what_is_heard_already(self) -> None:
        class Deaf(Stubborn):
            asked: list[Sequence[str]] = []

            def random_target(self, utt: str, original: Sequence[str], *args: Any, **options: Any) -> list[str]:
                self.asked.append((utt, tuple(original)))
                return super().random_target(utt, original, *args, **options)

        waves, who = toy_waves(), Deaf("utt1", 2)
        heard = {utt: one.words for utt, one in ToyRecogniser().hear(waves).items()}
        batch_goal(who, Say(), waves)
        assert who.asked == [*heard.items(), ("utt1", heard["utt1"]), ("utt1", heard["utt1"])]

    def test_after_so_many_it_is_an_error_and_given_words_are_never_replaced(self) -> None:
        waves = toy_waves()
        who = Stubborn("utt1", 99)
        with pytest.raises(
            AlignmentError, match=r"'utt1' cannot be aligned with its target .* choose a shorter target"
        ):
            batch_goal(who, Say(spoken=dict.fromkeys(waves, "c")), waves)
        assert len(who.tried) == MAX_ATTEMPTS
        who = Stubborn("utt1", 99)
        with pytest.raises(AlignmentError, match=r"'utt1' cannot be aligned with its target 'a' \(10 frames\)"):
            batch_goal(who, Say(dict.fromkeys(waves, "a")), waves)
        assert who.tried == [["a"]]

    def test_other_options_leave_the_rest_of_a_goal(self) -> None:
        goal = Say({"u": "a"}, spoken={"u": "b"}, where="x")
        assert replace(goal, where="y") == Say({"u": "a"}, spoken={"u": "b"}, where="y")


class TestUntargeted:
    def test_words_are_what_is_spoken(self) -> None:
        waves = toy_waves()
        assert Untargeted(dict.fromkeys(waves, "a b")).choose(ToyRecogniser(), waves, 0) == {
            utt: ["a", "b"] for utt in waves
        }

    def test_without_them_the_recogniser_is_asked(self) -> None:
        who, waves = ToyRecogniser(), toy_waves()
        found = Untargeted().choose(who, waves, 0)
        assert [utt for batch in who.heard for utt in batch] == list(waves)
        assert found == {utt: list(one.words or ()) for utt, one in ToyRecogniser().hear(waves).items()}

    def test_words_that_cannot_be_aligned_are_an_error_that_says_so(self) -> None:
        waves = toy_waves()
        with pytest.raises(AlignmentError, match=r"cannot be aligned with what is spoken 'a' .* leave it out"):
            batch_goal(Stubborn("utt1", 99), Untargeted(dict.fromkeys(waves, "a")), waves)

    def test_nothing_heard_is_an_error_that_names_the_utterance(self) -> None:
        class Deaf(ToyRecogniser):
            def decode(self, scores: Any) -> dict[str, tuple[str, ...]]:
                list(scores)
                return {}

        with pytest.raises(DataError, match="'utt0' is empty"):
            Untargeted().choose(Deaf(), toy_waves(), 0)


@pytest.mark.parametrize("loss", REACHED_BY_TOY)
class TestAttacks:
    """Goals in a run, on a recogniser that has neither files nor an engine."""

    def test_words_are_heard(self, loss: str) -> None:
        who, waves = ToyRecogniser(), toy_waves()
        targets = {"utt0": "a b b", "utt1": "c", "utt2": "b a"}
        made = PGD(eps=0.4, num_steps=60, loss=loss)(who, waves, Say(targets))
        assert {utt: " ".join(one.words or ()) for utt, one in who.hear(made.waves).items()} == targets
        assert {utt: " ".join(record["target"]) for utt, record in made.records.items()} == targets
        assert not made.config.untargeted

    def test_other_words_are_heard(self, loss: str) -> None:
        who, waves = ToyRecogniser(), toy_waves()
        before = {utt: one.words for utt, one in who.hear(waves).items()}
        made = PGD(eps=0.2, num_steps=30, loss=loss)(who, waves, Untargeted())
        after = {utt: one.words for utt, one in who.hear(made.waves).items()}
        assert all(before[utt] != after[utt] for utt in waves)
        assert all(record["target"] is None for record in made.records.values())
        assert made.config.untargeted


class TestTargetsThatAreSpoken:
    @pytest.mark.parametrize("target", ["a b", ["a", "b"], " a  b "])
    def test_are_refused_with_the_utterance(self, target: str | list[str]) -> None:
        goal = Say({"u": target, "v": target}, spoken={"u": "c", "v": ["a", "b"]}, where="my targets")
        with pytest.raises(DataError, match=r"my targets: 'a b' is what v says already: .* choose another target"):
            goal.require_new()
        with pytest.raises(DataError, match=r"'a b' is what u says already \(and so in 1 more\)"):
            replace(goal, spoken=dict.fromkeys("uv", "a b")).require_new()

    @pytest.mark.parametrize("spoken", [{"u": "b a"}, {"u": "a b c"}, {"u": ""}, {"v": "a b"}, None], ids=str)
    def test_others_and_those_of_unknown_speech_are_taken(self, spoken: dict[str, str] | None) -> None:
        Say({"u": "a b"}, spoken=spoken).require_new()
        Say(spoken=spoken).require_new()
