"""Random sentences from grammars: their distribution, their limits, their independence."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.errors import AlignmentError
from kaldi_uq.io.fst import ARC, FstArrays
from kaldi_uq.io.lang import Lang
from kaldi_uq.language.sentences import GrammarSentences
from kaldi_uq.language.targets import random_target

WORDS = {0: "<eps>", 1: "<s>", 2: "</s>", 3: "go", 4: "stop", 5: "now", 9: "#0"}
FRAMES = {"go": 5, "stop": 9, "now": 6}
GOLDEN_LANG = Path(__file__).resolve().parent / "golden_b2/tri/lang"


def fst(start: int, finals: list[float], arcs: list[list[tuple[int, int, float, int]]]) -> FstArrays:
    offsets = np.concatenate([[0], np.cumsum([len(of_state) for of_state in arcs])]).astype(np.int64)
    flat = np.array([arc for of_state in arcs for arc in of_state], dtype=ARC)
    return FstArrays(start, np.array(finals, np.float32), offsets, flat)


def cost(probability: float) -> float:
    return -math.log(probability)


# "go" (0.75) or "stop" (0.25); then the end (0.6), or "now" and the end (0.4) by way of a back-off arc
GRAMMAR = fst(
    0,
    [math.inf, cost(0.6), math.inf, 0.0],
    [[(3, 3, cost(0.75), 1), (4, 4, cost(0.25), 1)], [(9, 0, cost(0.4), 2)], [(5, 5, 0.0, 3)], []],
)


def test_paths_come_with_their_probabilities() -> None:
    sampler, rng = GrammarSentences(GRAMMAR, WORDS), np.random.default_rng(0)
    counts = Counter(" ".join(sampler.draw(rng)) for _ in range(8000))
    expected = {"go": 0.45, "go now": 0.3, "stop": 0.15, "stop now": 0.1}
    assert set(counts) == set(expected)
    for sentence, probability in expected.items():
        assert abs(counts[sentence] / 8000 - probability) < 4 * math.sqrt(probability / 8000)  # four deviations


def test_path_without_end_is_given_up() -> None:
    loop = fst(0, [math.inf], [[(3, 3, 0.0, 0)]])
    assert GrammarSentences(loop, WORDS, max_words=7).draw(np.random.default_rng(0)) == []
    silent = fst(0, [math.inf], [[(9, 0, 0.0, 0)]])
    assert GrammarSentences(silent, WORDS).draw(np.random.default_rng(0)) == []
    dead = fst(0, [math.inf], [[]])
    assert GrammarSentences(dead, WORDS).draw(np.random.default_rng(0)) == []


def test_empty_grammar_is_refused() -> None:
    empty = FstArrays(-1, np.zeros(0, np.float32), np.zeros(1, np.int64), np.zeros(0, ARC))
    with pytest.raises(ValueError, match="empty FST"):
        GrammarSentences(empty, WORDS)


class TestSample:
    sampler = GrammarSentences(GRAMMAR, WORDS)

    def test_fits_the_audio_and_is_not_what_was_said(self) -> None:
        found = {tuple(self.sampler.sample(f"utt{n}", ["go"], 11, FRAMES, seed=0)) for n in range(60)}
        assert found == {("go", "now"), ("stop",)}

    def test_is_a_function_of_utterance_seed_and_attempt(self) -> None:
        def draw(utt: str, seed: int, attempt: int) -> list[str]:
            return self.sampler.sample(utt, [], 99, FRAMES, seed=seed, attempt=attempt)

        assert draw("a", 1, 0) == draw("a", 1, 0)
        seeds = [("a", seed, 0) for seed in range(20)]
        attempts = [("a", 0, attempt) for attempt in range(20)]
        utts = [(utt, 0, 0) for utt in "abcdefghi"]
        for choices in (seeds, attempts, utts):
            assert len({tuple(draw(*choice)) for choice in choices}) > 1

    def test_too_short_audio_says_what_is_needed(self) -> None:
        with pytest.raises(AlignmentError, match=r"'u': none of 200 .* its 4 frames \(the shortest takes 5\)"):
            self.sampler.sample("u", [], 4, FRAMES, seed=0)
        with pytest.raises(AlignmentError, match="no sentence has only words of the lexicon"):
            self.sampler.sample("u", [], 4, {"other": 1}, seed=0)

    def test_takes_the_arguments_of_random_target(self) -> None:
        arguments = ("u", ["go"], 30, FRAMES)
        assert random_target(*arguments, seed=3, attempt=2)
        assert self.sampler.sample(*arguments, seed=3, attempt=2)


def test_grammar_of_a_recipe() -> None:
    lang = Lang.read(GOLDEN_LANG)
    rng = np.random.default_rng(1)
    sampler = GrammarSentences.of_lang(lang)
    words = {word for _ in range(300) for word in sampler.draw(rng)}
    assert words == set(lang.words) - {"<eps>", "#0", "<s>", "</s>", "<SIL>"}
