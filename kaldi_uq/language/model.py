"""Bigram language models from text, and any backoff model as a grammar for the decoding graph.

Source: Kneser & Ney, "Improved backing-off for m-gram language modeling", 1995; Chen & Goodman, "An empirical study of
smoothing techniques for language modeling", 1999 (the interpolated form).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kaldi_uq.errors import DataError
from kaldi_uq.io.arpa import BEGIN, END, NgramModel

_NEVER = -99.0  # log10 probability of <s>, which no model predicts, in ARPA files


def kneser_ney_bigram(sentences: Iterable[Sequence[str]], vocabulary: Collection[str]) -> NgramModel:
    """Estimate an interpolated Kneser-Ney bigram over a closed vocabulary.

    The count of a bigram is discounted by D = n1 / (n1 + 2 n2), n1 and n2 the numbers of bigrams seen once and twice.
    The discounted probability goes to the words in proportion to the number of different words that each was seen
    after.  That distribution is discounted in the same way for a uniform one over the vocabulary, so that every word is
    possible after every other.

    Args:
        sentences: sentences as sequences of words.
        vocabulary: all words of the model; ``</s>`` is added.

    Raises:
        DataError: no sentences, or a word that is not in the vocabulary.
    """
    known = {*vocabulary, END}
    bigrams: Counter[tuple[str, str]] = Counter()
    for words in sentences:
        unknown = [word for word in words if word not in known]
        if unknown:
            raise DataError(f"word {unknown[0]!r} of the text {' '.join(words)!r} is not in the vocabulary")
        bigrams.update(zip((BEGIN, *words), (*words, END), strict=True))
    if not bigrams:
        raise DataError("no sentences to estimate a language model from")
    after = Counter(word for _, word in bigrams)  # number of different words that a word was seen after
    discount = _discount(after.values())
    rest = discount * len(after) / after.total() / len(known)
    unigram = {word: max(after[word] - discount, 0.0) / after.total() + rest for word in known}

    discount = _discount(bigrams.values())
    totals: Counter[str] = Counter()
    followers = Counter(history for history, _ in bigrams)
    for (history, _), count in bigrams.items():
        totals[history] += count
    backoff = {history: discount * followers[history] / totals[history] for history in totals}
    first: dict[tuple[str, ...], tuple[float, float]] = {
        (word,): (math.log10(value), math.log10(backoff.get(word, 1.0))) for word, value in unigram.items()
    }
    first[(BEGIN,)] = (_NEVER, math.log10(backoff[BEGIN]))
    second: dict[tuple[str, ...], tuple[float, float]] = {
        (v, w): (math.log10((count - discount) / totals[v] + backoff[v] * unigram[w]), 0.0)
        for (v, w), count in bigrams.items()
    }
    return NgramModel((first, second))


def _discount(counts: Collection[int]) -> float:
    """Ney's absolute discount; 0.5 where there are too few counts to estimate it."""
    once, twice = sum(c == 1 for c in counts), sum(c == 2 for c in counts)
    return once / (once + 2 * twice) if once and twice else 0.5


def perplexity(model: NgramModel, sentences: Iterable[Sequence[str]]) -> float:
    """Perplexity per word, the end of the sentence counted as a word."""
    total, count = 0.0, 0
    for words in sentences:
        history: tuple[str, ...] = (BEGIN,)
        for word in (*words, END):
            history = (*history, word)
            total += model.log10_prob(history)
            count += 1
    return float(10 ** (-total / count)) if count else math.nan


@dataclass(frozen=True)
class Grammar:
    """A grammar as OpenFst text, and what was left out of it.

    Attributes:
        text: arcs and final states, with integer labels.
        unknown_words: words of the model that the symbol table does not have.
        skipped: n-grams left out, because of such a word or because their history is not in the model.
    """

    text: str
    unknown_words: frozenset[str]
    skipped: int


def grammar_fst(model: NgramModel, words: Mapping[str, int]) -> Grammar:
    """A backoff model as an acceptor, with the conventions of Kaldi's ``arpa2fst --disambig-symbol=#0``.

    A state is a history.  Backing off is an arc with ``#0`` as input and nothing as output; ``<s>`` is the start and
    ``</s>`` the end, neither is a symbol.  A state that can only back off is passed over.

    Raises:
        DataError: the model has no ``<s>``, or the symbols have no ``#0``.

    Source: Kaldi ``src/lm/arpa-lm-compiler.cc``.
    """
    if "#0" not in words:
        raise DataError("words.txt has no #0, the symbol for backing off; utils/prepare_lang.sh makes one that has")
    if (BEGIN,) not in model.orders[0]:
        raise DataError(f"the language model has no {BEGIN}, expected one among its 1-grams")
    compiler = _Compiler(len(model.orders))
    unknown: set[str] = set()
    skipped = 0
    for ngrams in model.orders:
        for ngram, (log_prob, backoff) in ngrams.items():
            missing = {w for w in ngram if w not in (BEGIN, END) and not _is_word(w, words)}
            misplaced = BEGIN in ngram[1:] or END in ngram[:-1]
            if missing or misplaced or not compiler.add(ngram, -log_prob * math.log(10), -backoff * math.log(10)):
                unknown |= missing
                skipped += 1
    return Grammar(compiler.to_text(words), frozenset(unknown), skipped)


def _is_word(word: str, words: Mapping[str, int]) -> bool:
    return word in words and word not in ("<eps>", "#0")


class _Compiler:
    """Collects states and arcs; n-grams come in the order of their length."""

    def __init__(self, highest: int) -> None:
        self._highest = highest
        self._states: dict[tuple[str, ...], int] = {(): 0}
        self._arcs: list[list[tuple[str, float, int]]] = [[]]  # for each state: (word, cost, destination)
        self._backoff: list[tuple[float, int] | None] = [None]
        self._final: dict[int, float] = {}

    def add(self, ngram: tuple[str, ...], cost: float, backoff: float) -> bool:
        """Add an n-gram; false if its history is no state."""
        source = self._states.get(ngram[:-1])
        if source is None:
            return False
        if ngram[-1] == END:
            self._final[source] = cost
            return True
        key = ngram[1:] if len(ngram) == self._highest and len(ngram) > 1 else ngram
        destination = self._state(key, backoff if key == ngram else 0.0)
        if ngram != (BEGIN,):
            self._arcs[source].append((ngram[-1], cost, destination))
        return True

    def _state(self, key: tuple[str, ...], backoff: float) -> int:
        if key not in self._states:
            lower = key[1:]
            while lower not in self._states:
                lower = lower[1:]
            self._states[key] = len(self._arcs)
            self._arcs.append([])
            self._backoff.append((backoff, self._states[lower]))
        return self._states[key]

    def _leads_to(self, state: int) -> tuple[int, float]:
        """The state where an arc ends, and the cost to it, once states that can only back off are passed over."""
        total = 0.0
        while not self._arcs[state] and state not in self._final:
            step = self._backoff[state]
            if step is None:
                break
            total += step[0]
            state = step[1]
        return state, total

    def to_text(self, words: Mapping[str, int]) -> str:
        start = self._states[(BEGIN,)]
        number = {start: 0}  # OpenFst's text form: the first state is the start
        lines: list[str] = []
        pending = [start]

        def arc_to(source: int, ilabel: int, olabel: int, cost: float, destination: int) -> None:
            destination, more = self._leads_to(destination)
            if destination not in number:
                number[destination] = len(number)
                pending.append(destination)
            lines.append(f"{number[source]} {number[destination]} {ilabel} {olabel} {cost + more:.9g}")

        while pending:
            state = pending.pop()
            for word, cost, destination in self._arcs[state]:
                arc_to(state, words[word], words[word], cost, destination)
            step = self._backoff[state]
            if step is not None:
                arc_to(state, words["#0"], 0, *step)
            if state in self._final:
                lines.append(f"{number[state]} {self._final[state]:.9g}")
        return "\n".join([*lines, ""])
