"""Target texts: they differ from what is spoken, fit the audio, and are the same whatever else is attacked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.errors import AlignmentError, DataError
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import read_topology
from kaldi_uq.io.lang import Lang
from kaldi_uq.language.prepare import prepare_lang
from kaldi_uq.language.sentences import GrammarSentences
from kaldi_uq.language.targets import (
    MAX_TARGET_WORDS,
    check_target,
    min_word_frames,
    random_target,
    read_pronunciations,
    target_words,
)
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.recogniser import Recogniser
from tests import tiny
from tests.tiny import TinySystem

WORDS = {"one": 10, "two": 6, "three": 9, "oh": 6}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), num_utts=8)


@pytest.fixture(scope="module")
def recogniser(system: TinySystem) -> Recogniser:
    return system.recogniser(HybridModel(tiny.FRONT_END, system.network()).eval())


class TestRandomTargets:
    def test_every_target_fits_the_audio_and_differs_from_what_is_spoken(self) -> None:
        rng = np.random.default_rng(0)
        for number in range(500):
            original = [str(w) for w in rng.choice(sorted(WORDS), int(rng.integers(1, 6)))]
            num_frames = int(rng.integers(9, 60))  # from 9 on there are two words to choose from
            target = random_target(f"utt{number}", original, num_frames, WORDS, seed=1)
            assert 1 <= len(target) <= MAX_TARGET_WORDS
            assert sum(WORDS[w] for w in target) <= num_frames
            assert target != original

    def test_lengths_from_one_to_five_are_equally_likely_and_so_are_words(self) -> None:
        targets = [random_target(f"utt{n}", ["one"] * 9, 1000, WORDS, seed=0) for n in range(2000)]
        lengths = Counter(map(len, targets))
        assert sorted(lengths) == [1, 2, 3, 4, 5]
        assert all(abs(count - 400) < 90 for count in lengths.values())  # five deviations
        words = Counter(word for target in targets for word in target)
        share = np.array([words[word] for word in WORDS]) / sum(words.values())
        assert np.abs(share - 0.25).max() < 0.03

    def test_target_belongs_to_the_utterance_the_seed_and_the_attempt(self) -> None:
        def target(utt: str = "a", seed: int = 0, attempt: int = 0) -> list[str]:
            return random_target(utt, ["one"], 500, WORDS, seed=seed, attempt=attempt)

        assert target() == target()
        others = [target(utt=f"u{n}") for n in range(9)] + [target(seed=n) for n in range(1, 9)]
        others += [target(attempt=n) for n in range(1, 5)]
        assert sum(other == target() for other in others) <= 2  # a short one can come up twice

    def test_order_of_the_lexicon_does_not_matter(self) -> None:
        backwards = dict(reversed(WORDS.items()))
        for n in range(20):
            assert random_target(f"u{n}", [], 99, WORDS, seed=0) == random_target(f"u{n}", [], 99, backwards, seed=0)

    def test_only_word_that_fits_is_found_and_the_spoken_one_is_not_it(self) -> None:
        assert random_target("a", ["two"], 6, WORDS, seed=0) == ["oh"]
        assert random_target("a", ["oh"], 8, WORDS, seed=0) == ["two"]

    @pytest.mark.parametrize("num_frames, original, words", [(5, [], WORDS), (6, ["two"], {"two": 6, "one": 10})])
    def test_audio_that_is_too_short_for_any_word_is_an_error_with_both_numbers(
        self, num_frames: int, original: list[str], words: dict[str, int]
    ) -> None:
        with pytest.raises(AlignmentError, match=rf"'a': {num_frames} frames are too few .* shortest takes 6"):
            random_target("a", original, num_frames, words, seed=0)


class TestGivenTargets:
    def test_target_that_is_too_long_is_an_error_with_both_numbers(self) -> None:
        check_target("a", ["one", "two"], 16, WORDS, "targets")
        with pytest.raises(AlignmentError) as error:
            check_target("a", ["one", "two"], 15, WORDS, "data/target_text")
        assert "data/target_text: target 'one two' of utterance 'a' needs at least 16 frames" in str(error.value)
        assert "the audio has 15; choose a shorter target" in str(error.value)

    def test_empty_target_is_an_error(self) -> None:
        with pytest.raises(DataError, match="targets: the target of utterance 'a' is empty"):
            check_target("a", [], 99, WORDS, "targets")


class TestLexicon:
    @pytest.fixture
    def lang(self, tmp_path: Path) -> Lang:
        """Words with several pronunciations, a noise word, and 3 states a phone, 5 for silence."""
        folder = tmp_path / "dict"
        write_text(folder / "lexicon.txt", "<SIL> sil\n<UNK> spn\na ey\na ah n\nban b ah n\nnoise sil\n")
        write_text(folder / "silence_phones.txt", "sil\nspn\n")
        write_text(folder / "nonsilence_phones.txt", "ah\nb\ney\nn\n")
        write_text(folder / "optional_silence.txt", "sil\n")
        prepare_lang(folder, "<UNK>", tmp_path / "lang", EmbeddedEngine())
        return Lang.read(tmp_path / "lang")

    def test_pronunciations_are_those_of_the_lexicon(self, lang: Lang) -> None:
        phones = {index: phone for phone, index in lang.phones.items()}
        found = {w: [" ".join(phones[p] for p in pron) for pron in ps] for w, ps in read_pronunciations(lang).items()}
        assert found["a"] == ["ey", "ah n"]
        assert found["ban"] == ["b ah n"]
        assert found["<eps>"] == ["sil"]

    def test_shortest_duration_is_that_of_the_shortest_pronunciation(self, lang: Lang) -> None:
        frames = min_word_frames(lang, read_topology(lang.path / "topo"))
        assert (frames["a"], frames["ban"], frames["<SIL>"]) == (3, 9, 3)

    def test_random_targets_hold_no_silence_and_no_unknown_word(self, lang: Lang) -> None:
        assert target_words(lang, read_topology(lang.path / "topo")) == {"a": 3, "ban": 9}

    @pytest.mark.parametrize("line", ["1 1 x\n", "1\n", "99 99 1\n", "\n"])
    def test_malformed_lexicon_is_named(self, lang: Lang, line: str) -> None:
        path = lang.path / "phones/align_lexicon.int"
        write_text(path, path.read_text() + line)
        with pytest.raises(DataError, match=r"align_lexicon\.int:\d+: expected '<word-id> <word-id> <phone-id>"):
            read_pronunciations(lang)

    def test_missing_lexicon_comes_with_its_remedy(self, lang: Lang) -> None:
        (lang.path / "phones/align_lexicon.int").unlink()
        with pytest.raises(DataError, match=r"align_lexicon\.int: no such file; utils/prepare_lang\.sh makes it"):
            read_pronunciations(lang)


class TestAlignment:
    def test_pdfs_of_the_frames_are_those_of_the_target_in_its_order(
        self, system: TinySystem, recogniser: Recogniser
    ) -> None:
        table = system.table
        rng = np.random.default_rng(0)
        scores = {f"u{n}": rng.standard_normal((30 + n, table.num_pdfs)).astype(np.float32) for n in range(3)}
        targets = {"u0": ["three", "one"], "u1": ["two"], "u2": ["one", "two", "one"]}
        found = recogniser.align(scores, targets)
        assert set(found) == set(scores)
        sil = next(pdf for phone, _, pdf, _ in table.tuples if phone == system.lang.phones["sil"])
        pdfs_of = {w: [pdf for p, _, pdf, _ in table.tuples if p == system.lang.phones[w]] for w in tiny.TONES}
        for utt, pdfs in found.items():
            assert pdfs.shape == (len(scores[utt]),)
            spoken = [int(pdf) for i, pdf in enumerate(pdfs) if pdf != sil and (i == 0 or pdf != pdfs[i - 1])]
            assert spoken == [pdf for word in targets[utt] for pdf in pdfs_of[word]]

    def test_utterance_without_a_path_is_absent(self, recogniser: Recogniser) -> None:
        scores = {"a": np.zeros((2, 10), np.float32), "b": np.zeros((3, 10), np.float32)}
        targets = {"a": ["one"], "b": ["one"]}
        assert list(recogniser.align(scores, targets)) == ["b"]

    def test_unknown_word_is_named_with_its_utterance(self, recogniser: Recogniser) -> None:
        scores, targets = {"a": np.zeros((9, 10), np.float32)}, {"a": ["four"]}
        with pytest.raises(DataError, match="target of a: word 'four' is not in"):
            recogniser.align(scores, targets)


class TestOfARecogniser:
    """What a goal asks of the recogniser, by its own lexicon."""

    def test_random_target_is_that_of_the_lexicon(self, system: TinySystem, recogniser: Recogniser) -> None:
        words = target_words(system.lang, system.table.topology)
        assert set(words) == set(tiny.TONES)
        for attempt in range(3):
            expected = random_target("a", ["one"], 50, words, seed=4, attempt=attempt)
            assert recogniser.random_target("a", ["one"], 50, seed=4, attempt=attempt) == expected

    def test_sentences_of_the_grammar_can_be_asked_for(self, system: TinySystem) -> None:
        recogniser = system.recogniser(HybridModel(tiny.FRONT_END, system.network()).eval())
        recogniser.random_targets = "grammar"
        sampler, words = GrammarSentences.of_lang(system.lang), target_words(system.lang, system.table.topology)
        for utt in ("a", "b", "c"):
            expected = sampler.sample(utt, ["one"], 50, words, seed=4)
            assert recogniser.random_target(utt, ["one"], 50, seed=4) == expected

    def test_target_is_checked_against_the_audio_and_the_lexicon(self, recogniser: Recogniser) -> None:
        recogniser.check_target("a", ["one", "two"], 5, "given")
        with pytest.raises(AlignmentError, match="given: target 'one two' of utterance 'a' needs at least 5 frames"):
            recogniser.check_target("a", ["one", "two"], 4, "given")
        with pytest.raises(DataError, match="given: a: word 'four' is not in"):
            recogniser.check_target("a", ["four"], 99, "given")
        with pytest.raises(DataError, match="given: the target of utterance 'a' is empty"):
            recogniser.check_target("a", [], 99, "given")
