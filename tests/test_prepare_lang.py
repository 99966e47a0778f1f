"""The language directory: lexicon, disambiguation and topology are Kaldi's, and a faulty dictionary is named."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import kaldifst
import numpy as np
import pytest

from kaldi_uq.engine.base import DeltasConfig
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.engine.embedded.wheels import read_fst
from kaldi_uq.errors import DataError
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import read_topology, read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.language.prepare import (
    Dictionary,
    Pronunciation,
    disambiguate,
    loop_grammar,
    make_topology,
    prepare_lang,
    silence_states,
)
from local.prepare_dict import NUM_STATES, write_dict
from tests import tiny

LEXICON = {
    "<SIL>": ["sil"],
    "to": ["t uw"],
    "two": ["t uw"],  # a homophone
    "too": ["t uw"],
    "tooth": ["t uw th"],  # begins with the words before
    "a": ["ah", "ey"],  # two pronunciations, one of which begins another word
    "ate": ["ey t"],
}


def dict_dir(folder: Path, **changes: str) -> Path:
    """A dictionary directory with homophones and prefixes; ``changes`` replace files."""
    files = {
        "lexicon.txt": "".join(f"{word} {p}\n" for word, prons in LEXICON.items() for p in prons),
        "silence_phones.txt": "sil\n",
        "nonsilence_phones.txt": "ah\ney\nt\nth\nuw\n",
        "optional_silence.txt": "sil\n",
    }
    for name, text in files.items():
        write_text(folder / name, changes.get(name.partition(".")[0], text))
    return folder


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Lang:
    folder = tmp_path_factory.mktemp("lang")
    engine = EmbeddedEngine()
    prepare_lang(dict_dir(folder / "dict"), "<SIL>", folder / "lang", engine)
    return Lang.read(folder / "lang")


def acceptor(ids: list[int]) -> Any:
    """A linear FST of these labels."""
    lines = [f"{i} {i + 1} {label} {label}" for i, label in enumerate(ids)] + [str(len(ids))]
    return kaldifst.compile("\n".join(lines) + "\n")


def transduced(lang: Lang, words: list[str]) -> dict[tuple[str, ...], float]:
    """Every phone sequence that L.fst gives the words, with its cost."""
    fst = read_fst(lang.path / "L.fst")
    kaldifst.arcsort(fst, "olabel")
    composed = kaldifst.compose(fst, acceptor([lang.words[w] for w in words]))
    names = {index: phone for phone, index in lang.phones.items()}
    found: dict[tuple[str, ...], float] = {}
    pending = [(composed.start, (), 0.0)]
    while pending:
        state, phones, cost = pending.pop()
        final = composed.final(state).value
        if math.isfinite(final):
            assert phones not in found  # one path for each way to say it
            found[phones] = cost + final
        for arc in kaldifst.ArcIterator(composed, state):
            following = phones if arc.ilabel == 0 else (*phones, names[arc.ilabel])
            pending.append((arc.nextstate, following, cost + arc.weight.value))
    return found


class TestLexicon:
    def test_every_pronunciation_with_and_without_silence_and_nothing_else(self, lang: Lang) -> None:
        # 0.5 for the silence at each of the three places, and 0.5 for none
        expected = {}
        for silences in itertools.product((False, True), repeat=3):
            for pronunciation in LEXICON["a"]:
                parts = [[], pronunciation.split(), "t uw th".split()]
                phones = [p for part, sil in zip(parts, silences, strict=True) for p in [*part, *["sil"] * sil]]
                expected[tuple(phones)] = 3 * math.log(2)
        found = transduced(lang, ["a", "tooth"])
        assert set(found) == set(expected)
        for phones, cost in found.items():
            assert cost == pytest.approx(expected[phones], abs=1e-5)

    def test_homophones_and_prefixes_get_symbols_that_keep_them_apart(self) -> None:
        lexicon = [Pronunciation(word, tuple(p.split())) for word, prons in LEXICON.items() for p in prons]
        found, largest = disambiguate(lexicon)
        spelled = {(entry.word, " ".join(entry.phones)) for entry in found}
        assert spelled == {
            ("<SIL>", "sil"),
            ("to", "t uw #1"),
            ("two", "t uw #2"),
            ("too", "t uw #3"),
            ("tooth", "t uw th"),
            ("a", "ah"),
            ("a", "ey #1"),
            ("ate", "ey t"),
        }
        assert largest == 3
        pronunciations = [entry.phones for entry in found]
        for one, other in itertools.permutations(pronunciations, 2):
            assert one != other[: len(one)]  # none is the beginning of another

    def test_determinization_of_the_disambiguated_lexicon_ends(self, lang: Lang) -> None:
        fst = read_fst(lang.path / "L_disambig.fst")
        words = kaldifst.compile(loop_grammar(["to", "two", "too", "tooth", "a", "ate"], lang.words))
        kaldifst.arcsort(words, "ilabel")
        composed = kaldifst.compose(fst, words)
        kaldifst.determinize_star(composed, use_log=True)
        for state in range(composed.num_states):
            labels = [arc.ilabel for arc in kaldifst.ArcIterator(composed, state)]
            assert len(labels) == len(set(labels))
            assert 0 not in labels

    def test_disambiguation_symbols_are_listed_and_one_is_for_the_optional_silence(self, lang: Lang) -> None:
        assert (lang.path / "phones/disambig.txt").read_text().split() == ["#0", "#1", "#2", "#3", "#4"]
        assert lang.disambig == tuple(lang.phones[f"#{n}"] for n in range(5))

    def test_symbol_tables_are_kaldis(self, lang: Lang) -> None:
        assert lang.phones["<eps>"] == lang.words["<eps>"] == 0
        assert list(lang.words)[-3:] == ["#0", "<s>", "</s>"]
        assert list(lang.words)[1:-3] == sorted(LEXICON)
        assert list(lang.phones)[1:7] == ["sil", "ah", "ey", "t", "th", "uw"]
        assert (lang.oov, (lang.path / "oov.int").read_text()) == ("<SIL>", f"{lang.words['<SIL>']}\n")

    def test_word_lists_for_alignment_and_phone_groups(self, lang: Lang) -> None:
        rows = (lang.path / "phones/align_lexicon.txt").read_text().splitlines()
        assert rows[0] == "<eps> <eps> sil"
        assert "a a ey" in rows
        assert len(rows) == 1 + sum(map(len, LEXICON.values()))
        assert (lang.path / "phones/silence.csl").read_text() == f"{lang.phones['sil']}\n"
        assert (lang.path / "phones/nonsilence.csl").read_text() == "2:3:4:5:6\n"
        sets = [line.split() for line in (lang.path / "phones/sets.txt").read_text().splitlines()]
        assert sets == [["sil"], ["ah"], ["ey"], ["t"], ["th"], ["uw"]]

    def test_grammar_loop_sums_to_one(self) -> None:
        lines = loop_grammar(["one", "two", "three"], {"one": 1, "two": 2, "three": 3}).splitlines()
        costs = [float(line.split()[-1]) for line in lines]
        assert sum(math.exp(-c) for c in costs) == pytest.approx(1)


class TestTopology:
    def test_silence_has_kaldis_five_states_and_phones_three(self, lang: Lang) -> None:
        topology = read_topology(lang.path / "topo")
        assert topology.entry(lang.phones["sil"]) == silence_states(5)
        assert len(topology.entry(lang.phones["uw"])) == 4
        assert [topology.min_frames(lang.phones[p]) for p in ("sil", "uw")] == [3, 3]

    @pytest.mark.parametrize("num_states", [1, 2, 3, 5, 8])
    def test_probabilities_out_of_a_silence_state_sum_to_one(self, num_states: int) -> None:
        for state in silence_states(num_states)[:-1]:
            assert sum(p for _, p in state.transitions) == pytest.approx(1)

    def test_whole_word_models_of_the_digits_have_the_papers_95_pdfs(self, tmp_path: Path) -> None:
        write_dict(sorted(NUM_STATES), "words", tmp_path / "dict")
        engine = EmbeddedEngine()
        prepare_lang(tmp_path / "dict", "<SIL>", tmp_path / "lang", engine)
        topology = read_topology(tmp_path / "lang/topo")
        topo = khg.HmmTopology()
        topo.read(topology.to_text())
        sets = [[int(line)] for line in (tmp_path / "lang/phones/sets.int").read_text().split()]
        tree = khg.monophone_context_dependency_shared(sets, topo.get_phone_to_num_pdf_classes())
        assert khg.TransitionModel(tree, topo).num_pdfs == 95
        phones = Lang.read(tmp_path / "lang").phones
        assert {word: topology.min_frames(phones[word]) for word in NUM_STATES} == NUM_STATES

    def test_phones_with_equal_hmms_share_an_entry(self, tmp_path: Path) -> None:
        dictionary = Dictionary.read(tiny.write_dict(tmp_path, {"sil": 1, "one": 3, "two": 2, "six": 3}))
        topology = make_topology(dictionary, {"sil": 1, "one": 2, "two": 3, "six": 4})
        assert len(topology.entries) == 3
        assert topology.phone2idx[2] == topology.phone2idx[4]
        assert np.array_equal(topology.phones, [1, 2, 3, 4])


def lexiconp(**probs: float) -> str:
    """``lexiconp.txt`` of ``LEXICON``; the first pronunciation of a word has this probability, all others 1."""
    return "".join(
        f"{word} {probs.get(word, 1) if p is prons[0] else 1} {p}\n" for word, prons in LEXICON.items() for p in prons
    )


class TestProbabilitiesOfPronunciations:
    @pytest.mark.parametrize("alone", [False, True])
    def test_become_costs_of_both_lexicon_fsts(self, lang: Lang, tmp_path: Path, alone: bool) -> None:
        folder = dict_dir(tmp_path / "dict")
        write_text(folder / "lexiconp.txt", lexiconp(a=0.25, tooth=0.5))
        if alone:
            (folder / "lexicon.txt").unlink()
        prepare_lang(folder, "<SIL>", tmp_path / "lang", EmbeddedEngine())
        weighted = Lang.read(tmp_path / "lang")
        for words in (["a"], ["tooth", "a"], ["to", "ate"]):
            before, after = transduced(lang, words), transduced(weighted, words)
            assert before.keys() == after.keys()
            for phones, cost in after.items():
                rare = 4.0 if "ah" in phones else 1.0
                rare *= 2.0 if "tooth" in words else 1.0
                assert cost - before[phones] == pytest.approx(math.log(rare), abs=1e-5)
        for name in ("L.fst", "L_disambig.fst"):
            assert (weighted.path / name).read_bytes() != (lang.path / name).read_bytes()
        for name in ("words.txt", "phones.txt", "phones/align_lexicon.txt"):
            assert (weighted.path / name).read_bytes() == (lang.path / name).read_bytes()

    def test_of_1_are_a_lexicon_without_them(self, lang: Lang, tmp_path: Path) -> None:
        folder = dict_dir(tmp_path / "dict")
        write_text(folder / "lexiconp.txt", lexiconp().replace(" 1 ", "\t1.0  "))
        prepare_lang(folder, "<SIL>", tmp_path / "lang", EmbeddedEngine())
        assert (tmp_path / "lang/L.fst").read_bytes() == (lang.path / "L.fst").read_bytes()

    @pytest.mark.parametrize(
        "text, message",
        [
            ("<SIL> 1.0 sil\nto t uw\n", r"lexiconp\.txt:2: expected '<word> <probability> <phones>', .* found 't'"),
            ("<SIL> 0 sil\n", r"lexiconp\.txt:1: .* above 0 and at most 1, found '0'"),
            ("<SIL> 1.01 sil\n", "found '1.01'"),
            ("<SIL> nan sil\n", "found 'nan'"),
            ("<SIL> -0.5 sil\n", "found '-0.5'"),
            ("<SIL>\n", "found ''"),
            ("<SIL> 0.5\n", r"lexiconp\.txt:1: word '<SIL>' has no phones"),
            ("<SIL> 1 sil\nto 0.5 t uw\nto 0.4 t uw\n", r"lexiconp\.txt:3: 'to t uw' stands twice"),
            (lexiconp() + "toot 1.0 t uw t\n", r"lexiconp\.txt: toot 't uw t' stands where lexicon\.txt has its end"),
            (lexiconp().replace("ey t", "ey th"), r"ate 'ey th' stands where lexicon\.txt has ate 'ey t'; remove"),
        ],
    )
    def test_faults_are_named(self, tmp_path: Path, text: str, message: str) -> None:
        folder = dict_dir(tmp_path)
        write_text(folder / "lexiconp.txt", text)
        with pytest.raises(DataError, match=message):
            Dictionary.read(folder)

    def test_of_silence_are_refused_by_name(self, tmp_path: Path) -> None:
        write_text(dict_dir(tmp_path) / "lexiconp_silprob.txt", "<SIL> 1 0.5 1 1 sil\n")
        with pytest.raises(DataError, match=r"lexiconp_silprob\.txt: .* are not supported; move the file away"):
            Dictionary.read(tmp_path)


class TestPhonesOnOneLine:
    @pytest.fixture
    def lists(self, tmp_path: Path) -> Path:
        """``phones`` of a language directory in which uw and th, and the two silences, share a line."""
        folder = dict_dir(tmp_path / "dict", silence_phones="sil  spn\n", nonsilence_phones="ah\ney\nt\nth\tuw\n")
        write_text(folder / "extra_questions.txt", "th ah\n\nuw ey\n")
        prepare_lang(folder, "<SIL>", tmp_path / "lang", EmbeddedEngine())
        return tmp_path / "lang/phones"

    def test_share_a_line_of_sets_and_roots(self, lists: Path) -> None:
        assert (lists / "sets.txt").read_text() == "sil spn\nah\ney\nt\nth uw\n"
        assert (lists / "sets.int").read_text() == "1 2\n3\n4\n5\n6 7\n"
        assert (lists / "roots.txt").read_text().splitlines()[::4] == ["shared split sil spn", "shared split th uw"]
        assert (lists / "roots.int").read_text().splitlines()[::4] == ["shared split 1 2", "shared split 6 7"]
        assert (lists / "nonsilence.txt").read_text().split("\n") == ["ah", "ey", "t", "th", "uw", ""]
        assert (lists / "context_indep.csl").read_text() == "1:2\n"

    def test_extra_questions_are_those_of_the_file_and_all_silence(self, lists: Path) -> None:
        assert (lists / "extra_questions.txt").read_text() == "th ah\nuw ey\nsil spn\n"
        assert (lists / "extra_questions.int").read_text() == "6 3\n7 4\n1 2\n"

    @pytest.mark.parametrize("questions", ["", "sil\n", None])
    def test_the_question_of_all_silence_stands_once(self, tmp_path: Path, questions: str | None) -> None:
        folder = dict_dir(tmp_path)
        if questions is not None:
            (folder / "extra_questions.txt").write_text(questions)
        assert Dictionary.read(folder).questions == (("sil",),)

    def test_unknown_phone_of_a_question(self, tmp_path: Path) -> None:
        write_text(dict_dir(tmp_path) / "extra_questions.txt", "t th\nuw oo\n")
        with pytest.raises(DataError, match=r"extra_questions\.txt:2: phone 'oo' is in neither list"):
            Dictionary.read(tmp_path)

    def test_need_equal_numbers_of_states(self, tmp_path: Path) -> None:
        folder = dict_dir(tmp_path, nonsilence_phones="ah ey\nt\nth\nuw\n")
        write_text(folder / "num_states.txt", "ah 4\n")
        with pytest.raises(DataError, match=r"num_states\.txt: ah ey share their states"):
            Dictionary.read(folder)

    @pytest.mark.parametrize("questions, said", [("t\n", True), ("ah t\n", False), ("ah\nah ey\n", False), ("", True)])
    def test_without_a_question_that_tells_them_apart_are_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, questions: str, said: bool
    ) -> None:
        folder = dict_dir(tmp_path, nonsilence_phones="ah ey\nt\nth\nuw\n")
        (folder / "extra_questions.txt").write_text(questions)
        Dictionary.read(folder)
        assert ("ah and ey stand on one line" in caplog.text) == said

    def test_share_the_pdfs_of_a_monophone_and_are_told_apart_by_a_question(self, tmp_path: Path) -> None:
        folder = tiny.write_dict(tmp_path / "dict", {"sil": 1, "one": 3, "three": 4, "two": 3})
        write_text(folder / "nonsilence_phones.txt", "one two\nthree\n")
        write_text(folder / "extra_questions.txt", "one\n")
        engine = EmbeddedEngine()
        prepare_lang(folder, "<SIL>", tmp_path / "lang", engine)
        lang = Lang.read(tmp_path / "lang")
        waves, text = tiny.make_waves(12)
        mono = tiny.train_mono(tmp_path / "mono", lang, waves, text, engine)

        def pdfs(model: Path) -> dict[str, set[int]]:
            names = {number: phone for phone, number in lang.phones.items()}
            found: dict[str, set[int]] = {}
            for phone, _, forward, _ in read_transitions(model / "final.mdl").tuples:
                found.setdefault(names[phone], set()).add(forward)
            return found

        shared = pdfs(mono)
        assert shared["one"] == shared["two"] and len(shared["one"]) == 3
        assert not shared["one"] & shared["three"]
        config = DeltasConfig(num_leaves=24, totgauss=30, num_iters=3, max_iter_inc=2, realign_iters=())
        transcripts = {utt: lang.word_ids(words, where="test") for utt, words in text.items()}
        engine.train_deltas(tiny.features(waves), transcripts, lang, mono, tmp_path / "tri", config)
        assert pdfs(tmp_path / "tri")["one"] != pdfs(tmp_path / "tri")["two"]


class TestFaultyDictionary:
    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"lexicon": "<SIL> sil\nto\n"}, r"lexicon\.txt:2: word 'to' has no phones"),
            ({"lexicon": "<SIL> sil\nto t uw\nbe b iy\n"}, r"lexicon\.txt:3: phone 'b' is in neither list of phones"),
            ({"lexicon": "<SIL> sil\n\nto\n"}, r"lexicon\.txt:3: word 'to' has no phones"),
            ({"lexicon": ""}, r"lexicon\.txt: empty"),
            ({"lexicon": "to t uw\n"}, "the oov word '<SIL>' is not in the lexicon"),
            ({"optional_silence": "sil\nspn\n"}, r"optional_silence\.txt: expected one phone"),
            ({"optional_silence": "t\n"}, r"optional_silence\.txt: expected one phone"),
            ({"nonsilence_phones": "ah\ney\nt\nth\nuw\nsil\n"}, "'sil' is in both lists of phones"),
            ({"nonsilence_phones": "ah\ney\nt\nth\nuw\nuw\n"}, "'uw' stands twice"),
            ({"nonsilence_phones": "ah\ney\nt\nth\nuw\n#1\n"}, "'#1' is a name for symbols"),
            ({"lexicon": "<SIL> sil\nto t uw\nto t uw\n"}, r"lexicon\.txt:3: 'to t uw' stands twice"),
            ({"lexicon": "<SIL> sil\n#0 t uw\n"}, r"lexicon\.txt:2: '#0' is a name for symbols"),
            ({"lexicon": "<SIL> sil\n<eps> t uw\n"}, r"lexicon\.txt:2: '<eps>' is a name for symbols"),
        ],
    )
    def test_says_what_is_wrong_and_writes_nothing(self, tmp_path: Path, changes: dict[str, str], message: str) -> None:
        folder = dict_dir(tmp_path / "dict", **changes)
        with pytest.raises(DataError, match=message):
            prepare_lang(folder, "<SIL>", tmp_path / "lang", EmbeddedEngine())
        assert not (tmp_path / "lang").exists()

    @pytest.mark.parametrize(
        "line", ["uw 0", "uw three", "uw -1", "xx 3", "uw", "uw \u00b2", "uw 1000", f"uw {'9' * 5000}"]
    )
    def test_number_of_states_that_cannot_be(self, tmp_path: Path, line: str) -> None:
        folder = dict_dir(tmp_path)
        write_text(folder / "num_states.txt", f"{line}\n")
        with pytest.raises(DataError, match=r"num_states\.txt"):
            Dictionary.read(folder)

    @pytest.mark.parametrize(
        "name", ["lexicon.txt", "silence_phones.txt", "nonsilence_phones.txt", "optional_silence.txt"]
    )
    def test_missing_file(self, tmp_path: Path, name: str) -> None:
        folder = dict_dir(tmp_path)
        (folder / name).unlink()
        with pytest.raises(DataError, match=f"{name}: no such file"):
            Dictionary.read(folder)
