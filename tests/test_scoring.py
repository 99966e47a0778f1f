"""Word error counts against hand cases and against Kaldi's recursion written down naively."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.results.word_errors import ErrorRate, align_words, score_texts


def naive_counts(ref: tuple[str, ...], hyp: tuple[str, ...]) -> tuple[int, int, int]:
    """(insertions, deletions, substitutions) by the recursion over prefixes, with compute-wer's order of preference."""
    table: dict[tuple[int, int], tuple[int, int, int]] = {}
    for h, r in itertools.product(range(len(hyp) + 1), range(len(ref) + 1)):
        if h == 0 or r == 0:
            table[h, r] = (h, r, 0)
            continue
        wrong = int(hyp[h - 1] != ref[r - 1])
        diagonal, above, left = table[h - 1, r - 1], table[h - 1, r], table[h, r - 1]
        sub_cost, ins_cost, del_cost = sum(diagonal) + wrong, sum(above) + 1, sum(left) + 1
        if sub_cost < min(ins_cost, del_cost):
            table[h, r] = (diagonal[0], diagonal[1], diagonal[2] + wrong)
        elif del_cost < ins_cost:
            table[h, r] = (left[0], left[1] + 1, left[2])
        else:
            table[h, r] = (above[0] + 1, above[1], above[2])
    return table[len(hyp), len(ref)]


def counts(ref: str, hyp: str) -> tuple[int, int, int]:
    rate = align_words(ref.split(), hyp.split())
    return rate.insertions, rate.deletions, rate.substitutions


@pytest.mark.parametrize(
    ("ref", "hyp", "expected"),
    [
        ("one two three", "one two three", (0, 0, 0)),
        ("one two three", "one three", (0, 1, 0)),
        ("one three", "one two three", (1, 0, 0)),
        ("one two three", "one oh three", (0, 0, 1)),
        ("one two", "", (0, 2, 0)),
        ("", "one two", (2, 0, 0)),
        ("", "", (0, 0, 0)),
        ("one", "two three", (1, 0, 1)),
        # shifted by a word: two errors, not four
        ("one two three four", "two three four five", (1, 1, 0)),
        # a tie of the cost: two gaps or two substitutions; Kaldi takes the gaps
        ("one two", "two one", (1, 1, 0)),
    ],
)
def test_counts_of_hand_cases(ref: str, hyp: str, expected: tuple[int, int, int]) -> None:
    assert counts(ref, hyp) == expected


def test_counts_equal_naive_recursion_for_all_short_texts() -> None:
    texts = [text for size in range(5) for text in itertools.product("ab", repeat=size)]
    for ref, hyp in itertools.product(texts, texts):
        rate = align_words(ref, hyp)
        assert (rate.insertions, rate.deletions, rate.substitutions) == naive_counts(ref, hyp), (ref, hyp)


def test_counts_equal_naive_recursion_for_random_texts() -> None:
    draw = random.Random(3)
    for _ in range(300):
        ref = tuple(draw.choices("abcd", k=draw.randint(0, 12)))
        hyp = tuple(draw.choices("abcd", k=draw.randint(0, 12)))
        rate = align_words(ref, hyp)
        assert (rate.insertions, rate.deletions, rate.substitutions) == naive_counts(ref, hyp), (ref, hyp)
        assert rate.num_words == len(ref) and rate.num_utts == 1


def test_accuracy_is_of_summed_counts_not_mean_of_accuracies() -> None:
    total, by_utt = score_texts({"a": "one", "b": "two two two"}, {"a": "two", "b": "two two two"})
    assert total.accuracy == 3 / 4
    assert (by_utt["a"].accuracy + by_utt["b"].accuracy) / 2 == 1 / 2
    assert total == by_utt["a"] + by_utt["b"]


def test_accuracy_can_be_negative_and_wer_above_one() -> None:
    rate = align_words(["one"], ["two", "three", "four"])
    assert rate.accuracy == -2.0
    assert rate.wer == 3.0


def test_to_dict_has_the_fields_of_results_json() -> None:
    rate = ErrorRate(insertions=1, deletions=2, substitutions=3, num_words=12, num_utts=4)
    expected = {"accuracy": 0.5, "ins": 1, "del": 2, "sub": 3, "num_words": 12, "num_utts": 4}
    assert rate.to_dict() == expected
    assert list(rate.to_dict()) == list(expected)


def test_counts_round_trip_and_bad_counts_are_named() -> None:
    rate = align_words(["one", "two"], ["one"])
    assert ErrorRate.from_counts(rate.counts()) == rate
    with pytest.raises(ValueError, match="count 'del' must be an integer"):
        ErrorRate.from_counts({"ins": 0, "sub": 0, "num_words": 1})
    with pytest.raises(ValueError, match="insertions must be >= 0"):
        ErrorRate(insertions=-1)


def test_accuracy_of_no_words_is_an_error_with_remedy() -> None:
    rate = align_words([], ["one"])
    with pytest.raises(ValueError, match="0 reference words is undefined"):
        _ = rate.accuracy
    with pytest.raises(ValueError, match="0 reference words"):
        rate.to_dict()


def test_missing_hypothesis_is_named_and_surplus_one_is_ignored() -> None:
    with pytest.raises(DataError, match=r"no hypothesis for utterance 'b' \(1 of 2 are missing\)"):
        score_texts({"a": "one", "b": "two"}, {"a": "one", "c": "six"})
    total, by_utt = score_texts({"a": "one"}, {"a": "one", "c": "six"})
    assert total.num_utts == 1 and list(by_utt) == ["a"]


def test_text_instead_of_words_is_refused() -> None:
    with pytest.raises(TypeError, match="hyp must be a sequence of words"):
        align_words(["one"], "one")


def test_ten_thousand_utterances_score_in_seconds() -> None:
    draw = random.Random(0)
    words = ["oh", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    refs = {f"u{i}": " ".join(draw.choices(words, k=7)) for i in range(10_000)}
    hyps = {utt: " ".join(draw.choices(words, k=7)) for utt in refs}
    start = time.process_time()
    score_texts(refs, hyps)
    assert time.process_time() - start < 5  # it takes 0.15 s
