"""A speaker-adaptive system as Kaldi's own scripts leave it: ``golden_sat/make.py`` makes it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kaldi_uq.cli.main import main
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.errors import DataError
from kaldi_uq.feats.conf import read_mfcc_conf
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.recipe_opts import read_recipe_opts
from kaldi_uq.io.ark import read_alignments, read_archive, read_matrix
from kaldi_uq.io.datadir import DataDir, read_table, spk2utt_table, write_table
from kaldi_uq.io.kaldi_model import read_gmm_model, read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.waves import read_waves
from kaldi_uq.io.word_times import word_times
from kaldi_uq.language.targets import read_pronunciations, target_words
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.recogniser.speakers import Sources, adaptations, batch_adaptation
from tests.kaldi import read_text_vectors

GOLDEN = Path(__file__).resolve().parent / "golden_sat"
ALI, DECODE, LANG = GOLDEN / "tri3b_ali", GOLDEN / "decode_test", GOLDEN / "lang"
PARTS = {"train": ALI, "test": DECODE}
TRAIN = ["--hidden-dims", "16", "--num-epochs", "12", "--batch-size", "32", "--num-viterbi-epochs", "1",
         "--learning-rate", "0.01", "--left-context", "1", "--right-context", "1", "--engine", "embedded",
         "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` and ``test``: the data directories of a recipe, whose tables point into the archives."""
    root = tmp_path_factory.mktemp("data")
    for part in PARTS:
        (root / part).mkdir()
        for name in ("text", "utt2spk"):
            shutil.copy(GOLDEN / part / name, root / part)
        write_table(root / part / "spk2utt", spk2utt_table(read_table(root / part / "utt2spk")))
        for name in ("wav.scp", "cmvn.scp"):
            table = read_table(GOLDEN / part / name)
            write_table(root / part / name, {key: str(GOLDEN / part / place) for key, place in table.items()})
    return root


def front_end() -> FrontEnd:
    """What the alignment directory says, without context."""
    config = FrontEndConfig(
        mfcc=read_mfcc_conf(GOLDEN / "mfcc.conf"), left_context=0, right_context=0, **read_recipe_opts(ALI)
    )
    found = FrontEnd(config)
    assert found.lda is not None
    found.lda.set_matrix(read_matrix(str(ALI / "final.mat")), "final.mat")
    return found


def kaldi_feats(part: str) -> dict[str, np.ndarray]:
    return dict(read_archive(GOLDEN / part / "feats.ark"))


def test_files_are_small_and_name_no_place() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 300_000
    assert not any(b"/tmp" in path.read_bytes() for path in files)


def test_transforms_are_not_nothing() -> None:
    """With too little speech Kaldi writes unit matrices, which would prove nothing here."""
    for folder in PARTS.values():
        for matrix in dict(read_archive(folder / "trans.1")).values():
            assert abs(matrix - np.eye(*matrix.shape)).max() > 0.1


@pytest.mark.parametrize("part", PARTS)
def test_features_are_those_of_kaldis_pipeline(part: str, data: Path) -> None:
    """apply-cmvn | splice-feats | transform-feats final.mat | transform-feats trans.1"""
    model, folder, theirs = front_end(), DataDir.read(data / part), kaldi_feats(part)
    waves = read_waves(folder, sample_rate=8000, min_samples=model.min_samples)
    known = adaptations(model, folder, waves, Sources("scp", PARTS[part]))
    assert waves.keys() == theirs.keys()
    for utt, wave in waves.items():
        batch = torch.from_numpy(wave)[None], torch.tensor([len(wave)])
        ours, _ = model.features(*batch, adaptation=batch_adaptation(model, known, [utt]))
        np.testing.assert_allclose(ours[0].detach().numpy(), theirs[utt], atol=1e-3)  # single precision, as in MFCC


def test_forced_alignment_is_kaldis() -> None:
    """steps/align_fmllr.sh aligned with these features and this model: transition-ids are the same, one by one."""
    lang = Lang.read(LANG)
    _, gmms = read_gmm_model(ALI / "final.mdl")
    words = {utt: lang.word_ids(text.split(), where=utt) for utt, text in read_table(GOLDEN / "train/text").items()}
    loglikes = [(utt, gmms.loglikes(feats)) for utt, feats in kaldi_feats("train").items()]
    ours = EmbeddedEngine().aligner(ALI, lang, DecodeConfig()).align(loglikes, words)
    theirs = read_alignments(ALI)
    assert {utt: ali.tolist() for utt, ali in ours.items()} == {utt: ali.tolist() for utt, ali in theirs.items()}


@pytest.mark.parametrize("graph", ["kaldi", "embedded"])
def test_best_path_is_kaldis(graph: str, tmp_path: Path) -> None:
    place = GOLDEN / "graph"
    if graph == "embedded":
        place = tmp_path
        EmbeddedEngine().make_graph(Lang.read(LANG), ALI, place, transition_scale=1.0, self_loop_scale=0.1)
        assert (place / "words.txt").read_text() == (GOLDEN / "graph/words.txt").read_text()
    _, gmms = read_gmm_model(ALI / "final.mdl")
    loglikes = [(utt, gmms.loglikes(feats)) for utt, feats in kaldi_feats("test").items()]
    found = EmbeddedEngine().decoder(ALI, place, DecodeConfig(acwt=0.1)).decode(loglikes)
    ids = Lang.read(LANG).words
    vectors = {name: read_text_vectors((DECODE / name).read_text()) for name in ("words", "ali")}
    assert {utt: [ids[word] for word in path.words] for utt, path in found.items()} == vectors["words"]
    assert {utt: path.alignment.tolist() for utt, path in found.items()} == vectors["ali"]


class TestPhonesByPlaceInTheWord:
    """utils/prepare_lang.sh makes A_B, A_E, A_I and A_S of A, unless it is told not to."""

    def test_lexicon_has_them(self) -> None:
        lang = Lang.read(LANG)
        names = {number: phone for phone, number in lang.phones.items()}
        found = {
            word: {tuple(names[phone] for phone in phones) for phones in each}
            for word, each in read_pronunciations(lang).items()
        }
        assert found == {
            "<eps>": {("SIL",)},
            "!SIL": {("SIL_S",)},
            "<UNK>": {("SPN_S",)},
            "one": {("A_B", "B_E")},
            "three": {("B_B", "C_E"), ("B_B", "D_E")},
            "two": {("D_S",)},
        }

    def test_random_targets_are_words_alone(self) -> None:
        """Not the unknown word, nor one that is silence: SIL_S is a phone of its own."""
        table = read_transitions(ALI / "final.mdl")
        assert target_words(Lang.read(LANG), table.topology) == {"one": 6, "three": 6, "two": 3}

    def test_words_of_an_alignment_have_times(self) -> None:
        lang, table = Lang.read(LANG), read_transitions(ALI / "final.mdl")
        silence = frozenset(int(number) for number in (LANG / "phones/silence.int").read_text().split())
        texts = read_table(GOLDEN / "train/text")
        for utt, alignment in read_alignments(ALI).items():
            words = texts[utt].split()
            found = word_times(alignment, words, table, read_pronunciations(lang), silence, 0.01)
            assert [word for word, *_ in found] == words
            for _, start, end in found:
                assert 0.05 < end - start < 0.3  # words of tiny.make_waves last 0.11 to 0.16 s


@pytest.fixture(scope="module")
def exp(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network trained on Kaldi's alignments and transforms, with Kaldi's graph beside it."""
    out = tmp_path_factory.mktemp("exp") / "dnn"
    places = [str(data / "train"), str(LANG), str(ALI), str(out)]
    assert main(["nnet-train", *TRAIN, "--mfcc-config", str(GOLDEN / "mfcc.conf"), *places]) == 0
    return out


@pytest.mark.parametrize("part", PARTS)
def test_network_trained_on_it_writes_down_what_is_said(part: str, data: Path, exp: Path, tmp_path: Path) -> None:
    options = ["--transform-dir", str(PARTS[part]), "--engine", "embedded", "--device", "cpu"]
    places = [str(data / part), str(exp), str(GOLDEN / "graph"), str(tmp_path)]
    assert main(["nnet-decode", *options, *places]) == 0
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["utt"]: row["hypothesis"] for row in results} == read_table(data / part / "text")


def test_network_trained_on_it_asks_for_transforms(
    data: Path, exp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(data / "test"), str(exp), str(GOLDEN / "graph"), str(tmp_path)]
    assert main(["nnet-decode", "--engine", "embedded", "--device", "cpu", *places]) == 1
    assert "--transform-dir DIR" in capsys.readouterr().err.splitlines()[-1]


class TestPhonesOfAnotherLexicon:
    """Kaldi's steps leave phones.txt beside a system, and its numbers mean nothing with other phones."""

    @pytest.mark.parametrize(
        "phones, message",
        [
            ("<eps> 0\nSIL 2\n#0 3\n", "'SIL' is 1, in {} it is 2; take the language directory that"),
            ("<eps> 0\nE 1\n", "'SIL' is 1, in {} it is missing; take"),
            (None, ""),
        ],
        ids=["another number", "another phone", "one more"],
    )
    def test_is_refused_by_name(self, phones: str | None, message: str, tmp_path: Path) -> None:
        table = tmp_path / "phones.txt"
        table.write_text(phones or (LANG / "phones.txt").read_text() + "E_B 99\n")
        with pytest.raises(DataError) as refused:
            Lang.read(LANG).check_phones(tmp_path)
        assert (message or "'E_B' is missing, in {} it is 99; take").format(table) in str(refused.value)

    def test_symbols_for_disambiguation_and_a_missing_table_do_not_count(self, tmp_path: Path) -> None:
        Lang.read(LANG).check_phones(tmp_path)
        lines = (LANG / "phones.txt").read_text().splitlines(keepends=True)
        (tmp_path / "phones.txt").write_text("".join(line for line in lines if not line.startswith("#1 ")) + "#9 99\n")
        Lang.read(LANG).check_phones(tmp_path)

    def test_alignments_are_refused_before_anything_is_written(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ali = tmp_path / "ali"
        shutil.copytree(ALI, ali)
        (ali / "phones.txt").write_text("<eps> 0\nSIL 1\none 2\n")
        places = [str(data / "train"), str(LANG), str(ali), str(tmp_path / "exp")]
        assert main(["nnet-train", *TRAIN, "--mfcc-config", str(GOLDEN / "mfcc.conf"), *places]) == 1
        assert f"{LANG / 'phones.txt'}: " in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "exp").exists()

    def test_model_knows_its_phones(self, exp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A graph, and a lexicon for attacks, of other phones than those of the training."""
        lang = tmp_path / "lang"
        shutil.copytree(LANG, lang)
        text = (lang / "phones.txt").read_text().replace("A_B ", "E_B ")
        (lang / "phones.txt").write_text(text)
        places = ["--engine", "embedded", str(lang), str(exp), str(tmp_path / "graph")]
        assert main(["make-graph", *places]) == 1
        assert "phones.txt: 'E_B' is " in capsys.readouterr().err.splitlines()[-1]
        with pytest.raises(DataError, match="'E_B' is "):
            _ = Recogniser.load(exp, lang_dir=lang, graph_dir=GOLDEN / "graph").lang
