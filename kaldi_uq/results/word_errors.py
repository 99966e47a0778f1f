"""Word errors: counts that add up, and the accuracy computed from the sums.

A rate is never averaged over utterances: the counts are summed first, as equation 7 of the paper and Kaldi's
``compute-wer`` do.  The alignment has unit costs for insertion, deletion and substitution.  (The scoring of the paper's
published code charges a gap a hundred times a substitution, so it counts substitutions where a shifted match would
cost less; its accuracies can therefore be lower than these on texts that differ, never higher.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kaldi_uq.errors import DataError


@dataclass(frozen=True)
class ErrorRate:
    """Word error counts of one or more utterances; counts add with ``+``.

    Args:
        insertions: words of the hypothesis with no counterpart in the reference.
        deletions: words of the reference with no counterpart in the hypothesis.
        substitutions: words recognised as another word.
        num_words: words of the reference, N.
        num_utts: utterances counted.

    Raises:
        ValueError: a negative count.

    Source: equation 7 of the paper; Kaldi ``src/bin/compute-wer.cc``.

    >>> first = ErrorRate(insertions=1, deletions=0, substitutions=1, num_words=4, num_utts=1)
    >>> second = ErrorRate(deletions=1, num_words=6, num_utts=1)
    >>> (first + second).accuracy, (first + second).wer
    (0.7, 0.3)
    """

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    num_words: int = 0
    num_utts: int = 0

    def __post_init__(self) -> None:
        for name in ("insertions", "deletions", "substitutions", "num_words", "num_utts"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")

    def __add__(self, other: ErrorRate) -> ErrorRate:
        if not isinstance(other, ErrorRate):
            return NotImplemented
        return ErrorRate(
            insertions=self.insertions + other.insertions,
            deletions=self.deletions + other.deletions,
            substitutions=self.substitutions + other.substitutions,
            num_words=self.num_words + other.num_words,
            num_utts=self.num_utts + other.num_utts,
        )

    @property
    def errors(self) -> int:
        """I + D + S."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def accuracy(self) -> float:
        """(N - I - D - S) / N: 1 is perfect, below 0 if there are more errors than reference words.

        Raises:
            ValueError: no reference words.
        """
        self._require_words()
        return (self.num_words - self.errors) / self.num_words

    @property
    def wer(self) -> float:
        """(I + D + S) / N, as a fraction.

        Raises:
            ValueError: no reference words.
        """
        self._require_words()
        return self.errors / self.num_words

    def _require_words(self) -> None:
        if self.num_words == 0:
            raise ValueError(
                f"accuracy of 0 reference words is undefined ({self.num_utts} utterances); score at least one "
                "utterance whose reference text is not empty"
            )

    def counts(self) -> dict[str, int]:
        """The counts of one utterance, as a line of ``results.jsonl`` holds them.

        >>> ErrorRate(substitutions=1, num_words=3, num_utts=1).counts()
        {'ins': 0, 'del': 0, 'sub': 1, 'num_words': 3}
        """
        return {
            "ins": self.insertions,
            "del": self.deletions,
            "sub": self.substitutions,
            "num_words": self.num_words,
        }

    @classmethod
    def from_counts(cls, values: Mapping[str, int], *, num_utts: int = 1) -> ErrorRate:
        """The inverse of :meth:`counts`.

        Raises:
            ValueError: a count is missing, negative or not an integer.
        """
        for key in ("ins", "del", "sub", "num_words"):
            if not isinstance(values.get(key), int) or isinstance(values[key], bool):
                raise ValueError(f"count {key!r} must be an integer, got {values.get(key)!r}")
        return cls(values["ins"], values["del"], values["sub"], values["num_words"], num_utts)

    def to_dict(self) -> dict[str, Any]:
        """Accuracy and counts, by the names of ``exp/results.json``.

        Raises:
            ValueError: no reference words.
        """
        return {"accuracy": self.accuracy, **self.counts(), "num_utts": self.num_utts}

    def kaldi_line(self) -> str:
        """The first line that ``compute-wer`` prints.

        >>> ErrorRate(1, 0, 2, 10, 4).kaldi_line()
        '%WER 30.00 [ 3 / 10, 1 ins, 0 del, 2 sub ]'
        """
        return (
            f"%WER {100 * self.wer:.2f} [ {self.errors} / {self.num_words}, {self.insertions} ins, "
            f"{self.deletions} del, {self.substitutions} sub ]"
        )


def align_words(ref: Sequence[str], hyp: Sequence[str]) -> ErrorRate:
    """Count the word errors of one utterance with the fewest errors possible.

    Several alignments can have the fewest errors and yet split them differently; the choice is Kaldi's: a substitution
    or match only if it is strictly better than a gap, else an insertion unless the deletion is strictly better.

    Args:
        ref: words of the reference.
        hyp: words of the hypothesis.

    Returns:
        Counts with ``num_utts`` 1.

    Raises:
        TypeError: a text instead of a sequence of words.

    Source: Kaldi ``src/util/edit-distance-inl.h``, the counting variant.

    >>> align_words("one two three".split(), "one three three four".split()).counts()
    {'ins': 1, 'del': 0, 'sub': 1, 'num_words': 3}
    """
    for name, words in (("ref", ref), ("hyp", hyp)):
        if isinstance(words, str):
            raise TypeError(f"{name} must be a sequence of words, got the text {words!r}; pass {name}.split()")
    ref, hyp = list(ref), list(hyp)
    if ref == hyp:
        return ErrorRate(num_words=len(ref), num_utts=1)
    # cost[r] and dels[r]: errors and deletions of the first words of hyp against the first r words of ref.  The other
    # counts follow: insertions - deletions is the difference of the lengths, and all three sum to the cost.
    cost = list(range(len(ref) + 1))
    dels = list(range(len(ref) + 1))
    for num_hyp, hyp_word in enumerate(hyp, 1):
        diagonal_cost, diagonal_dels = cost[0], dels[0]
        cost[0], dels[0] = num_hyp, 0
        for r, ref_word in enumerate(ref, 1):
            ins_cost, del_cost = cost[r] + 1, cost[r - 1] + 1
            sub_cost = diagonal_cost + (ref_word != hyp_word)
            next_cost, next_dels = cost[r], dels[r]
            if sub_cost < ins_cost and sub_cost < del_cost:
                cost[r], dels[r] = sub_cost, diagonal_dels
            elif del_cost < ins_cost:
                cost[r], dels[r] = del_cost, dels[r - 1] + 1
            else:
                cost[r] = ins_cost  # the deletions stay those of one hypothesis word less
            diagonal_cost, diagonal_dels = next_cost, next_dels
    deletions = dels[-1]
    insertions = deletions + len(hyp) - len(ref)
    return ErrorRate(insertions, deletions, cost[-1] - insertions - deletions, len(ref), 1)


def score_texts(refs: Mapping[str, str], hyps: Mapping[str, str]) -> tuple[ErrorRate, dict[str, ErrorRate]]:
    """Score hypotheses against references, both by utterance, words separated by white space.

    As ``compute-wer --mode=strict``: every reference needs a hypothesis (an empty one is fine), and a hypothesis
    without a reference is not looked at.

    Args:
        refs: reference text of each utterance.
        hyps: recognised text of each utterance.

    Returns:
        The summed counts, and the counts of each utterance in the order of ``refs``.

    Raises:
        DataError: an utterance has no hypothesis.

    >>> total, by_utt = score_texts({"a": "one two", "b": "six"}, {"a": "one", "b": "six"})
    >>> total.accuracy == 2 / 3, by_utt["a"].deletions
    (True, 1)
    """
    missing = [utt for utt in refs if utt not in hyps]
    if missing:
        raise DataError(
            f"no hypothesis for utterance {missing[0]!r} ({len(missing)} of {len(refs)} are missing); "
            "decode all of them, or remove them from the reference text"
        )
    by_utt = {utt: align_words(text.split(), hyps[utt].split()) for utt, text in refs.items()}
    return sum(by_utt.values(), ErrorRate()), by_utt
