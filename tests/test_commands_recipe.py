"""The recipe of spoken commands: its sentences, its lexicon, and what the README has any Kaldi recipe add to it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.kaldi_model import read_transitions
from kaldi_uq.io.lang import Lang
from tests.conftest import KALDI_ROOT
from tests.recipe import REPO, Recipe, make_recipe

LOCAL = REPO / "recipes/commands/local"
TINY = ("--corpus-opts", "--num-train 120 --num-fit 10 --num-test 8 --num-attack 4", "--num-leaves", "150")


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of the recipe's ``local`` can be imported, and are forgotten afterwards."""
    names = ("grammar", "prepare_dict", "prepare_synth", "make_targets", "digits", "corpus", "dictionary", "sentences")
    monkeypatch.syspath_prepend(str(LOCAL))
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("local")
class TestGrammar:
    def test_sentences_are_different_and_of_the_vocabulary(self) -> None:
        from grammar import Grammar

        grammar = Grammar(LOCAL / "grammar.txt")
        assert 300 <= len(grammar.words) <= 500
        sentences = grammar.sentences(2000, np.random.default_rng(0))
        assert len(set(sentences)) == 2000
        assert {word for words in sentences for word in words} <= set(grammar.words)
        assert sentences == grammar.sentences(2000, np.random.default_rng(0))

    @pytest.mark.parametrize(
        "text, message",
        [
            ("<sentence> = on <lamp>\n", "no rule for <lamp>, which <sentence> names"),
            ("<sentence> = a <b>\n<b> = c <sentence>\n", "<sentence> leads back to itself"),
            ("<sentence> = a\n<sentence> = b\n", "g:2: a second rule for <sentence>"),
            ("turn on\n", "g:1: expected '<name> = ...'"),
            ("<sentence> = Turn ON\n", "g:1: expected words of a to z"),
            ("<lamp> = a\n", "no rule for <sentence>"),
        ],
    )
    def test_mistake_in_the_file_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        from grammar import Grammar

        (tmp_path / "g").write_text(text)
        with pytest.raises(DataError, match=re.escape(message)):
            Grammar(tmp_path / "g")


@pytest.mark.usefixtures("local")
class TestLexicon:
    def test_phonetic_symbols_become_phones_longest_first(self) -> None:
        from prepare_dict import phones_of

        assert phones_of("tʃˈɑːdʒ") == ("ch", "aa", "jh")
        assert phones_of("nˈiə") == ("n", "iy", "ah")
        with pytest.raises(DataError, match=r"no phone for 'ʘ' \(U\+0298\)"):
            phones_of("ʘa")

    def test_phones_of_a_sentence_go_to_the_words_that_they_are_most_like(self) -> None:
        from prepare_dict import divide

        alone = [("f", "ao", "r"), ("dh", "ah"), ("k", "ae", "t")]
        assert divide(alone, ("f", "er", "dh", "ah", "k", "ae", "t")) == [("f", "er"), ("dh", "ah"), ("k", "ae", "t")]
        assert divide(alone, ("dh", "ah", "k", "ae", "t"))[1:] == [("dh", "ah"), ("k", "ae", "t")]

    def test_weak_forms_are_heard_and_words_without_a_sentence_have_one_too(self) -> None:
        pytest.importorskip("espeakng_loader", reason="pip install espeakng-loader")
        from prepare_dict import pronunciations

        found = pronunciations(
            [("turn to the oven", "en-us"), ("turn to nine", "en-us")], ["turn", "to", "the", "oven", "nine", "tea"]
        )
        assert ("t", "ah") in found["to"]  # alone it is "t uw"
        assert found["tea"][0] == ("t", "iy")  # as most accents say it


@pytest.mark.usefixtures("local")
class TestTargets:
    NUM_PHONES = {"a": 1, "b": 2, "c": 3, "d": 4}

    def test_target_is_of_about_the_length_and_mostly_other_words(self) -> None:
        from make_targets import choose_targets

        pool = ["a", "c c", "b b b", "d d d d", "a a a a a c"]
        text = {f"u{n}": "a a a a c" for n in range(20)}  # 7 phones
        found = choose_targets(text, pool, self.NUM_PHONES, seed=0, ratios=(0.5, 1.1))
        assert set(found.values()) == {"c c", "b b b"} - {"c c"}  # "c c" is all of the spoken words

    def test_without_such_a_sentence_it_is_the_nearest_in_length_but_never_the_spoken_one(self) -> None:
        from make_targets import choose_targets

        found = choose_targets({"u": "a b"}, ["a b", "d", "d d d"], self.NUM_PHONES, seed=0, ratios=(0.9, 1.0))
        assert found == {"u": "d"}
        with pytest.raises(DataError, match="no sentence for u but its own"):
            choose_targets({"u": "a b"}, ["a b"], self.NUM_PHONES, seed=0, ratios=(0.9, 1.0))


@pytest.fixture(scope="module")
def triphones(tmp_path_factory: pytest.TempPathFactory, script_env: dict[str, str]) -> Recipe:
    """The recipe up to its triphone alignments, on a tiny corpus."""
    pytest.importorskip("espeakng_loader", reason="pip install espeakng-loader")
    recipe = make_recipe(tmp_path_factory.mktemp("commands") / "my recipe", script_env, "commands")
    recipe.run_sh(*TINY, "--stop-stage", "4")
    return recipe


def test_no_sentence_and_no_speaker_is_in_two_sets(triphones: Recipe) -> None:
    sets = ("train", "fit", "test", "attack")
    texts = [set(read_table(triphones.path / f"data/{name}/text").values()) for name in sets]
    speakers = [set(read_table(triphones.path / f"data/{name}/spk2utt")) for name in sets]
    for groups in (texts, speakers):
        assert len(set().union(*groups)) == sum(map(len, groups))


def test_system_is_of_triphones_and_makes_sense_of_the_test_set(triphones: Recipe) -> None:
    tree = (triphones.path / "exp/tri/tree").read_bytes()
    assert tree.startswith(b"\0BContextDependency \4\3\0\0\0\4\1\0\0\0")  # a window of three, the middle one is central
    mono, tri = (read_transitions(triphones.path / f"exp/{name}/final.mdl").num_pdfs for name in ("mono", "tri"))
    assert mono < tri <= 150
    assert tri % 8 == 0
    accuracy = triphones.results()["clean"]["tri"]["accuracy"]
    assert accuracy > 0.6


def five_lines() -> str:
    """The block of the README's section on recipes of Kaldi's."""
    section = (REPO / "README.md").read_text().partition("## In your own Kaldi recipe\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(block.splitlines()) == 5
    return str(block)


def as_kaldi_recipe(recipe: Recipe) -> None:
    """Make it look like a recipe that has never heard of this package: nothing of it but the link ``uq``."""
    for name in ("steps", "utils", "local"):
        path = recipe.path / name
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    kaldi = Path(KALDI_ROOT) / "egs/wsj/s5"
    if KALDI_ROOT and (kaldi / "utils/run.pl").is_file():
        for name in ("steps", "utils"):
            (recipe.path / name).symlink_to(kaldi / name)
    else:  # of Kaldi's own only what is used: the runner of jobs
        (recipe.path / "utils").mkdir()
        shutil.copy(REPO / "utils/run.pl", recipe.path / "utils/run.pl")
    (recipe.path / "path.sh").write_text('export PATH=$PWD/utils:$PATH LC_ALL=C\n[ -z "$NOT_SET" ] || false\n')
    (recipe.path / "uq").symlink_to(REPO / "steps/uq")


def test_five_lines_of_the_readme_are_all_that_a_kaldi_recipe_adds(triphones: Recipe, tmp_path: Path) -> None:
    recipe = triphones.clone(tmp_path / "kaldi recipe")
    as_kaldi_recipe(recipe)
    done = recipe.run("bash", "-c", "set -euo pipefail\n" + five_lines())
    assert done.returncode == 0, done.stderr[-3000:]

    exp = recipe.path / "exp/ensemble"
    assert read_transitions(exp / "final.mdl").num_pdfs == read_transitions(recipe.path / "exp/tri/final.mdl").num_pdfs
    benign = [json.loads(line) for line in (exp / "score_test/results.jsonl").read_text().splitlines()]
    attacked = [json.loads(line) for line in (exp / "attack_pgd_eps0.02/results.jsonl").read_text().splitlines()]
    assert len(benign) == len(attacked) == 8
    lang = Lang.read(recipe.path / "data/lang")
    for record in attacked:
        assert set(record["target"].split()) <= set(lang.words)
        assert record["target"] != record["original"]
    rows = json.loads((recipe.path / "exp/results.json").read_text())["detection"]
    assert {(row["model"], row["attack"], row["eps"]) for row in rows} == {("ensemble", "pgd", 0.02)}
    assert "max_mutual_information" in {row["statistic"] for row in rows}
