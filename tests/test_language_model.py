"""N-gram estimation against the definition, ARPA files, and grammars against the model that they were made from."""

from __future__ import annotations

import gzip
import itertools
import math
from collections import Counter
from pathlib import Path

import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.io.arpa import BEGIN, END, NgramModel, read_arpa, write_arpa
from kaldi_uq.language.model import Grammar, grammar_fst, kneser_ney, perplexity

TEXT = [line.split() for line in ("a b a", "a b", "b c", "a b c", "c", "a a b", "b b")]
VOCABULARY = {"a", "b", "c", "d"}  # "d" is never said
SYMBOLS = {"<eps>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "#0": 5, "<s>": 6, "</s>": 7}

TRIGRAM = """what is before the data is a comment
\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-1.2\t</s>
-99\t<s>\t-0.3
-0.7\ta\t-0.4
-0.9\tb\t-0.2
-0.8\tc
-1.5\tx\t-0.1

\\2-grams:
-0.3\t<s> a\t-0.2
-0.5\ta b\t-0.1
-0.6\tb c
-0.4\tb </s>
-0.7\ta x

\\3-grams:
-0.1\t<s> a b
-0.2\ta b c

\\end\\
"""


def best_cost(grammar: Grammar, words: list[int], backoff: int) -> float:
    """Cost of the cheapest path that reads the words, ``backoff`` anywhere between."""
    arcs: dict[int, list[tuple[int, int, float]]] = {}
    final: dict[int, float] = {}
    for line in grammar.text.splitlines():
        fields = line.split()
        if len(fields) == 2:
            final[int(fields[0])] = float(fields[1])
        else:
            source, destination, ilabel, olabel = map(int, fields[:4])
            assert olabel == (0 if ilabel == backoff else ilabel)
            arcs.setdefault(source, []).append((destination, ilabel, float(fields[4])))
    costs = {int(grammar.text.split()[0]): 0.0}  # OpenFst's text form begins with the start
    for word in [*words, None]:
        for _ in range(3):  # as many steps of backing off as there are orders
            for state, cost in list(costs.items()):
                for destination, ilabel, weight in arcs.get(state, []):
                    if ilabel == backoff:
                        costs[destination] = min(costs.get(destination, math.inf), cost + weight)
        if word is None:
            return min((cost + final[state] for state, cost in costs.items() if state in final), default=math.inf)
        following: dict[int, float] = {}
        for state, cost in costs.items():
            for destination, ilabel, weight in arcs.get(state, []):
                if ilabel == word:
                    following[destination] = min(following.get(destination, math.inf), cost + weight)
        costs = following
    raise AssertionError


def pruned_trigram() -> NgramModel:
    return kneser_ney(TEXT, VOCABULARY, order=3, prune=(0, 1, 1))


class TestKneserNey:
    def test_probabilities_of_each_history_sum_to_one(self) -> None:
        model = kneser_ney(TEXT, VOCABULARY)
        for history in [BEGIN, *VOCABULARY]:
            total = sum(10 ** model.log10_prob((history, word)) for word in [*VOCABULARY, END])
            assert total == pytest.approx(1, abs=1e-9)

    def test_values_are_those_of_the_definition(self) -> None:
        pairs = Counter(pair for words in TEXT for pair in itertools.pairwise([BEGIN, *words, END]))
        once, twice = (sum(c == n for c in pairs.values()) for n in (1, 2))
        discount = once / (once + 2 * twice)
        after = Counter(word for _, word in pairs)
        once, twice = (sum(c == n for c in after.values()) for n in (1, 2))
        lower_discount = once / (once + 2 * twice) if once and twice else 0.5
        history_count = sum(c for (v, _), c in pairs.items() if v == "a")
        kinds = sum(v == "a" for v, _ in pairs)

        def continuation(word: str) -> float:
            rest = lower_discount * len(after) / sum(after.values()) / 5
            return max(after[word] - lower_discount, 0) / sum(after.values()) + rest

        model = kneser_ney(TEXT, VOCABULARY)
        for word in ("a", "b", "c", "d", END):
            expected = max(pairs["a", word] - discount, 0) / history_count
            expected += discount * kinds / history_count * continuation(word)
            assert 10 ** model.log10_prob(("a", word)) == pytest.approx(expected, rel=1e-9)

    def test_trigram_is_the_one_computed_by_hand(self) -> None:
        """``<s> a b </s>`` and ``<s> a c </s>``, over a, b, c and </s>.

        Trigrams: (<s> a b), (<s> a c), (a b </s>), (a c </s>), once each, so D3 = 0.5 for want of counts of two.
        Bigrams: (<s> a) begins a sentence and counts as seen, 2; (a b), (a c), (b </s>), (c </s>) are each seen after
        one word, 1.  D2 = 4 / (4 + 2 * 1) = 2/3.  Words: a after <s> alone, b and c after a, </s> after b and c: 1, 1,
        1, 2 of 5.  D1 = 3 / (3 + 2) = 0.6.
        """
        model = kneser_ney([["a", "b"], ["a", "c"]], {"a", "b", "c"}, order=3)
        rest = 0.6 * 4 / 5 / 4
        b, end = 0.4 / 5 + rest, 1.4 / 5 + rest
        after_a = (1 - 2 / 3) / 2 + 2 / 3 * b  # P(b | a): 2/3 of the two bigrams' count of 2 is taken
        after_b = (1 - 2 / 3) / 1 + 2 / 3 * end  # P(</s> | b)
        assert 10 ** model.log10_prob(("a", "b")) == pytest.approx(after_a)
        assert 10 ** model.log10_prob(("b", END)) == pytest.approx(after_b)
        assert 10 ** model.log10_prob((BEGIN, "a")) == pytest.approx((2 - 2 / 3) / 2 + (2 / 3) / 2 * (0.4 / 5 + rest))
        assert 10 ** model.log10_prob((BEGIN, "a", "b")) == pytest.approx(0.5 / 2 + 0.5 * after_a)
        assert 10 ** model.log10_prob(("a", "b", END)) == pytest.approx(0.5 + 0.5 * after_b)
        assert 10 ** model.log10_prob((BEGIN, "a", END)) == pytest.approx(
            0.5 * 2 / 3 * end
        )  # never seen, by words alone

    @pytest.mark.parametrize(
        "order, prune", [(2, ()), (3, ()), (3, (0, 0, 1)), (3, (0, 1)), (4, (0, 1, 2)), (2, (0, 9))]
    )
    def test_probabilities_of_each_history_sum_to_one_pruned_or_not(self, order: int, prune: tuple[int, ...]) -> None:
        model = kneser_ney(TEXT, VOCABULARY, order=order, prune=prune)
        whole = kneser_ney(TEXT, VOCABULARY, order=order)
        assert len(model.orders) == order
        assert model.orders[0].keys() == whole.orders[0].keys()
        histories = {(BEGIN,), *(ngram for ngrams in whole.orders[:-1] for ngram in ngrams if ngram[-1] != END)}
        for history in histories:
            total = sum(10 ** model.log10_prob((*history, word)) for word in [*VOCABULARY, END])
            assert total == pytest.approx(1, abs=1e-9)

    def test_pruned_are_the_ngrams_seen_so_often_or_less(self) -> None:
        seen = Counter(t for words in TEXT for t in itertools.pairwise([BEGIN, *words, END]))
        model = kneser_ney(TEXT, VOCABULARY, order=3, prune=(0, 1, 2))
        assert set(model.orders[1]) == {pair for pair, count in seen.items() if count > 1}
        assert set(model.orders[2]) == {(BEGIN, "a", "b")} | {
            t for t, count in Counter(
                tuple(p[i : i + 3]) for words in TEXT for p in [[BEGIN, *words, END]] for i in range(len(p) - 2)
            ).items() if count > 2
        }  # fmt: skip
        for ngrams, lower in zip(model.orders[1:], model.orders, strict=False):
            assert all(ngram[:-1] in lower and ngram[1:] in lower for ngram in ngrams)

    @pytest.mark.parametrize("order, prune", [(1, ()), (2, (1,)), (2, (0, 1, 2)), (3, (0, 2, 1)), (2, (0, -1))])
    def test_orders_and_limits_that_make_no_model_are_refused(self, order: int, prune: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="an order of 2 or more, and for each 0 first and no falling number"):
            kneser_ney(TEXT, VOCABULARY, order=order, prune=prune)

    def test_text_that_it_was_made_from_is_less_of_a_surprise_than_a_uniform_choice(self) -> None:
        model = kneser_ney(TEXT, VOCABULARY)
        assert perplexity(model, TEXT) < 5
        assert perplexity(model, [["d", "d", "d"]]) > 5

    def test_unknown_word_and_empty_text_are_refused(self) -> None:
        with pytest.raises(DataError, match="word 'x' of the text 'a x' is not in the vocabulary"):
            kneser_ney([["a", "x"]], VOCABULARY)
        with pytest.raises(DataError, match="no sentences"):
            kneser_ney([], VOCABULARY)


class TestArpa:
    def test_what_was_written_is_read_again(self, tmp_path: Path) -> None:
        model = kneser_ney(TEXT, VOCABULARY)
        write_arpa(tmp_path / "lm.arpa", model)
        found = read_arpa(tmp_path / "lm.arpa")
        for written, read in zip(model.orders, found.orders, strict=True):
            assert written.keys() == read.keys()
            for words, values in written.items():
                assert read[words] == pytest.approx(values, abs=1e-6)

    def test_gzipped_file_of_three_orders_backs_off(self, tmp_path: Path) -> None:
        (tmp_path / "lm.gz").write_bytes(gzip.compress(TRIGRAM.encode()))
        model = read_arpa(tmp_path / "lm.gz")
        assert model.log10_prob((BEGIN, "a", "b")) == -0.1
        assert model.log10_prob(("a", "b", "a")) == pytest.approx(-0.1 - 0.2 - 0.7)
        assert model.log10_prob(("c", "d")) == -math.inf

    @pytest.mark.parametrize("header, sections", [("ngram 3=0\n", "\\3-grams:\n"), ("ngram 3=0\nngram 4=0\n", "")])
    def test_orders_without_ngrams_are_none(self, tmp_path: Path, header: str, sections: str) -> None:
        """SRILM writes them where all were pruned."""
        begin, trigrams = TRIGRAM.split("\\3-grams:")
        bigram = begin.replace("ngram 3=2\n", "") + "\\end\\\n"
        empty = begin.replace("ngram 3=2\n", header) + sections + "\\end\\\n"
        assert header in empty and trigrams
        for name, text in (("bigram", bigram), ("empty", empty)):
            (tmp_path / name).write_text(text)
        model = read_arpa(tmp_path / "empty")
        assert model == read_arpa(tmp_path / "bigram")
        assert len(model.orders) == 2
        assert grammar_fst(model, SYMBOLS) == grammar_fst(read_arpa(tmp_path / "bigram"), SYMBOLS)

    @pytest.mark.parametrize("counts", [(0,), (0, 0), (1, 0, 1)])
    def test_orders_without_ngrams_below_others_are_refused(self, tmp_path: Path, counts: tuple[int, ...]) -> None:
        header = "".join(f"ngram {order}={count}\n" for order, count in enumerate(counts, 1))
        sections = (f"\\{order}-grams:\n" + f"-1 {'a ' * order}\n" * count for order, count in enumerate(counts, 1))
        (tmp_path / "lm").write_text(f"\\data\\\n{header}{''.join(sections)}\\end\\\n")
        with pytest.raises(
            DataError, match=rf"lm:\d+: the model has {', '.join(map(str, counts))} n-grams, expected some"
        ):
            read_arpa(tmp_path / "lm")

    @pytest.mark.parametrize(
        "old, new, message",
        [
            ("\\data\\", "data", r"lm:\d+: no line"),
            ("\\end\\", "", r"lm:\d+: the file ends before '\\end\\'"),
            ("ngram 2=5", "ngram 2=6", r"header promises 6, 6, 2 n-grams, found 6, 5, 2"),
            ("ngram 2=5", "ngram 3=5", r"lm:4: expected 'ngram 2=<count>'"),
            ("\\2-grams:", "\\3-grams:", r"lm:15: expected '\\2-grams:'"),
            ("-0.5\ta b\t-0.1", "a b", r"lm:17: expected '<log10 probability> <word> <word> \[<backoff>\]', found"),
            ("-0.5\ta b\t-0.1", "nan\ta b\t-0.1", r"lm:17: expected"),
            ("-0.6\tb c", "-0.6\ta b", r"lm:18: n-gram 'a b' stands twice"),
        ],
    )  # fmt: skip
    def test_mistake_is_named_with_its_line(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        (tmp_path / "lm").write_text(TRIGRAM.replace(old, new))
        with pytest.raises(DataError, match=message):
            read_arpa(tmp_path / "lm")

    def test_missing_and_damaged_files(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such file"):
            read_arpa(tmp_path / "none")
        (tmp_path / "lm.gz").write_bytes(b"no gzip")
        with pytest.raises(DataError, match=r"lm\.gz: damaged gzip file"):
            read_arpa(tmp_path / "lm.gz")


class TestGrammar:
    @pytest.fixture(params=["bigram", "pruned", "trigram"])
    def model(self, request: pytest.FixtureRequest, tmp_path: Path) -> NgramModel:
        if request.param != "trigram":
            return kneser_ney(TEXT, VOCABULARY) if request.param == "bigram" else pruned_trigram()
        (tmp_path / "lm").write_text(TRIGRAM)
        return read_arpa(tmp_path / "lm")

    def test_cost_of_every_short_sentence_is_that_of_the_model(self, model: NgramModel) -> None:
        """The cheapest path may also back off where the model has an n-gram: it is never dearer than the model."""
        grammar = grammar_fst(model, SYMBOLS)
        exact = 0
        for size in range(4):
            for words in itertools.product("abc", repeat=size):
                sentence, cost = [BEGIN, *words, END], 0.0
                for end in range(2, len(sentence) + 1):
                    cost -= model.log10_prob(tuple(sentence[:end])) * math.log(10)
                found = best_cost(grammar, [SYMBOLS[w] for w in words], SYMBOLS["#0"])
                assert found <= cost + 1e-4
                exact += found == pytest.approx(cost, abs=1e-4)
        assert exact >= 30  # of 40: the others are those with a cheaper way round

    def test_grammar_is_deterministic(self, model: NgramModel) -> None:
        """No state has two arcs of one label, or, but for the symbol of backing off, an arc without a label."""
        arcs = [line.split() for line in grammar_fst(model, SYMBOLS).text.splitlines()]
        choices = [(fields[0], fields[2]) for fields in arcs if len(fields) > 2]
        assert len(set(choices)) == len(choices)
        assert all(label != "0" for _, label in choices)

    def test_every_sentence_costs_what_it_does_in_the_grammar_that_kaldi_makes(
        self, model: NgramModel, tmp_path: Path
    ) -> None:
        """kaldilm is Kaldi's ``arpa2fst`` in a package."""
        kaldilm = pytest.importorskip("kaldilm", reason="pip install kaldilm")
        write_arpa(tmp_path / "lm.arpa", model)
        (tmp_path / "words.txt").write_text("".join(f"{word} {number}\n" for word, number in SYMBOLS.items()))
        theirs = kaldilm.arpa2fst(
            input_arpa=str(tmp_path / "lm.arpa"), read_symbol_table=str(tmp_path / "words.txt"), disambig_symbol="#0"
        )
        lines = [fields for fields in map(str.split, theirs.splitlines()) if fields]
        lines = [[*fields, "0"] if len(fields) in (1, 4) else fields for fields in lines]  # no cost is a cost of 0
        kaldis = Grammar("".join(" ".join(fields) + "\n" for fields in lines), frozenset(), 0)
        ours = grammar_fst(read_arpa(tmp_path / "lm.arpa"), SYMBOLS)
        for size in range(4):
            for words in itertools.product("abcd", repeat=size):
                numbers = [SYMBOLS[word] for word in words]
                expected = best_cost(kaldis, numbers, SYMBOLS["#0"])
                assert best_cost(ours, numbers, SYMBOLS["#0"]) == pytest.approx(expected, abs=1e-3)

    def test_words_without_a_symbol_are_left_out_and_counted(self, tmp_path: Path) -> None:
        (tmp_path / "lm").write_text(TRIGRAM)
        grammar = grammar_fst(read_arpa(tmp_path / "lm"), SYMBOLS)
        assert (grammar.unknown_words, grammar.skipped) == ({"x"}, 2)
        labels = {int(line.split()[2]) for line in grammar.text.splitlines() if len(line.split()) > 2}
        assert labels == {1, 2, 3, 5}

    def test_state_that_can_only_back_off_is_passed_over(self, tmp_path: Path) -> None:
        """Nothing follows "c": an arc with "c" leads where backing off from there would."""
        (tmp_path / "lm").write_text(TRIGRAM)
        lines = [line.split() for line in grammar_fst(read_arpa(tmp_path / "lm"), SYMBOLS).text.splitlines()]
        final = {fields[0] for fields in lines if len(fields) == 2}
        labels: dict[str, set[str]] = {}
        for fields in (fields for fields in lines if len(fields) > 2):
            labels.setdefault(fields[0], set()).add(fields[2])
        assert all(state in final for state, of_state in labels.items() if of_state == {str(SYMBOLS["#0"])})

    def test_missing_symbols_are_refused(self) -> None:
        model = kneser_ney(TEXT, VOCABULARY)
        with pytest.raises(DataError, match="has no #0"):
            grammar_fst(model, {k: v for k, v in SYMBOLS.items() if k != "#0"})
        with pytest.raises(DataError, match="has no <s>"):
            grammar_fst(NgramModel(({("a",): (-1.0, 0.0)},)), SYMBOLS)
