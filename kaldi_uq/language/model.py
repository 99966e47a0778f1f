"""N-gram language models from text, and any backoff model as a grammar for the decoding graph.

Source: Kneser & Ney, "Improved backing-off for m-gram language modeling", 1995; Chen & Goodman, "An empirical study of
smoothing techniques for language modeling", 1999 (the interpolated form).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kaldi_uq.errors import DataError
from kaldi_uq.io.arpa import BEGIN, END, NgramModel

_NEVER = -99.0  # log10 probability of <s>, which no model predicts, in ARPA files


def kneser_ney(
    sentences: Iterable[Sequence[str]], vocabulary: Collection[str], *, order: int = 2, prune: Sequence[int] = ()
) -> NgramModel:
    """Estimate an interpolated Kneser-Ney model over a closed vocabulary.

    The n-grams of the highest order count as often as they were seen; a shorter one as often as there are different
    words that it was seen after, or, if it begins a sentence, as often as it was seen.  Each order has a discount
    D = n1 / (n1 + 2 n2), n1 and n2 the numbers of its n-grams of count one and two.  What the discounts take from a
    history goes to the words in proportion to their probability after the history without its first word, and that of
    single words to all words alike: every word is possible after every other.

    An n-gram that is pruned gives all of its probability to the shorter history, so that the probabilities after a
    history still sum to 1.

    Args:
        sentences: sentences as sequences of words.
        vocabulary: all words of the model; ``</s>`` is added.
        order: length of the longest n-grams.
        prune: for each order, from 1 on, how often an n-gram may be seen and still be left out; the last number holds
            for all further orders too.  Single words stay: the first number is 0.

    Raises:
        DataError: no sentences, or a word that is not in the vocabulary.
        ValueError: an order below 2, or numbers of ``prune`` that are more than orders, negative, or fall.
    """
    limits = [*prune, *[prune[-1] if prune else 0] * (order - len(prune))]
    if order < 2 or len(limits) > order or limits[0] != 0 or limits != sorted(limits):
        raise ValueError(f"expected an order of 2 or more, and for each 0 first and no falling number, got {limits}")
    known = {*vocabulary, END}
    seen: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]  # n-grams of each length
    for words in sentences:
        unknown = [word for word in words if word not in known]
        if unknown:
            raise DataError(f"word {unknown[0]!r} of the text {' '.join(words)!r} is not in the vocabulary")
        padded = (BEGIN, *words, END)
        for size, ngrams in enumerate(seen, 1):
            ngrams.update(padded[i : i + size] for i in range(len(padded) - size + 1))
    if not seen[0]:
        raise DataError("no sentences to estimate a language model from")
    counts = [_kneser_ney_counts(lower, higher) for lower, higher in itertools.pairwise(seen)] + [seen[-1]]

    total, discount = counts[0].total(), _discount(counts[0].values())
    rest = discount * len(counts[0]) / total / len(known)
    probs: dict[tuple[str, ...], float] = {(w,): max(counts[0][(w,)] - discount, 0.0) / total + rest for w in known}
    orders: list[dict[tuple[str, ...], tuple[float, float]]] = []
    for size, ngrams in enumerate(counts[1:], 2):
        kept = {ngram: count for ngram, count in ngrams.items() if seen[size - 1][ngram] > limits[size - 1]}
        discount = _discount(ngrams.values())
        totals: Counter[tuple[str, ...]] = Counter()
        for ngram, count in ngrams.items():
            totals[ngram[:-1]] += count
        backoff = dict.fromkeys(totals, 1.0)
        for ngram, count in kept.items():
            backoff[ngram[:-1]] -= (count - discount) / totals[ngram[:-1]]
        orders.append({ngram: (math.log10(p), math.log10(backoff.get(ngram, 1.0))) for ngram, p in probs.items()})
        if size == 2:
            orders[0][(BEGIN,)] = (_NEVER, math.log10(backoff[(BEGIN,)]))
        # a shorter n-gram was seen at least as often as one that it ends, and is kept with it
        probs = {
            ngram: (count - discount) / totals[ngram[:-1]] + backoff[ngram[:-1]] * probs[ngram[1:]]
            for ngram, count in kept.items()
        }
    return NgramModel((*orders, {ngram: (math.log10(p), 0.0) for ngram, p in probs.items()}))


def _kneser_ney_counts(ngrams: Counter[tuple[str, ...]], longer: Counter[tuple[str, ...]]) -> Counter[tuple[str, ...]]:
    """How often the n-grams below the highest order count, from those with a word more; ``<s>`` alone does not."""
    counts = Counter(ngram[1:] for ngram in longer)
    counts.update({ngram: count for ngram, count in ngrams.items() if ngram[0] == BEGIN and len(ngram) > 1})
    return counts


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
