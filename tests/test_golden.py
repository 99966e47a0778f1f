"""What Kaldi's own programs wrote, checked where no Kaldi is: ``golden/make.py`` makes the files again."""

from __future__ import annotations

import io
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from kaldi_uq.engine.base import MonoConfig
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.feats.cmvn_stats import accumulate_cmvn_stats
from kaldi_uq.feats.conf import read_mfcc_conf
from kaldi_uq.feats.mfcc import Mfcc
from kaldi_uq.io.ark import read_alignments, read_archive
from kaldi_uq.io.feats_dir import with_deltas
from kaldi_uq.io.kaldi_model import read_gmm_model, read_transitions, write_model
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.tree import read_tree_bytes
from kaldi_uq.io.wav import to_int16
from tests import tiny
from tests.golden.make import CONF, DECODE, NUM_TEST
from tests.kaldi import read_text_vectors, tid_to_phone
from tests.test_parity_models import expected_transitions, info, read_show_transitions

GOLDEN = Path(__file__).resolve().parent / "golden"
MONO = GOLDEN / "mono"
MODEL = MONO / "final.mdl"


@pytest.fixture(scope="module")
def text() -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in (GOLDEN / "text").read_text().splitlines()}


@pytest.fixture(scope="module")
def waves(text: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """The waveforms of wav.ark: keys, each followed by a WAV file."""
    data, at, found = (GOLDEN / "wav.ark").read_bytes(), 0, {}
    for utt in text:
        at += len(utt) + 1
        size = int.from_bytes(data[at + 4 : at + 8], "little") + 8
        found[utt] = wavfile.read(io.BytesIO(data[at : at + size]))[1].astype(np.float32) / 32768
        at += size
    assert at == len(data)
    return found


@pytest.fixture(scope="module")
def feats() -> dict[str, np.ndarray]:
    return dict(read_archive(GOLDEN / "feats.ark"))


@pytest.fixture(scope="module")
def loglikes() -> dict[str, np.ndarray]:
    return dict(read_archive(MONO / "loglikes.ark"))


@pytest.fixture(scope="module")
def lang(tmp_path_factory: pytest.TempPathFactory) -> Lang:
    return tiny.make_lang(tmp_path_factory.mktemp("golden"))


def vectors(name: str) -> dict[str, list[int]]:
    return read_text_vectors((MONO / name).read_text())


def test_input_is_what_the_script_makes(waves: dict[str, np.ndarray]) -> None:
    assert (GOLDEN / "mfcc.conf").read_text() == CONF
    fresh, _ = tiny.make_waves(NUM_TEST, seed=9)
    for utt, wave in fresh.items():
        assert np.array_equal(to_int16(wave), to_int16(waves[f"test-{utt}"]))


class TestFeatures:
    def test_mfcc(self, waves: dict[str, np.ndarray], feats: dict[str, np.ndarray]) -> None:
        mfcc = Mfcc(read_mfcc_conf(GOLDEN / "mfcc.conf"))
        assert waves.keys() == feats.keys()
        for utt, wave in waves.items():
            with torch.no_grad():
                ours = mfcc(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][0].numpy()
            # single precision on both sides, most of all in the logarithms of quiet frames
            np.testing.assert_allclose(ours, feats[utt], atol=5e-3)

    def test_cmvn_statistics(self, feats: dict[str, np.ndarray]) -> None:
        theirs = dict(read_archive(GOLDEN / "cmvn.ark"))
        for spk in ("test", "train"):
            ours = sum(accumulate_cmvn_stats(matrix) for utt, matrix in feats.items() if utt.startswith(spk))
            # sums in double precision, but of squares that Kaldi computes in single precision
            np.testing.assert_allclose(ours, theirs[spk], rtol=6e-8)

    def test_normalised_features_with_deltas(self, feats: dict[str, np.ndarray]) -> None:
        stats = dict(read_archive(GOLDEN / "cmvn.ark"))
        for utt, theirs in read_archive(GOLDEN / "deltas.ark"):
            spk = stats[utt.split("-")[0]]
            ours = with_deltas((feats[utt] - spk[0, :-1] / spk[0, -1]).astype(np.float32))
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


class TestModel:
    def test_binary_and_text_are_the_same_model(self) -> None:
        table, gmms = read_gmm_model(MODEL)
        text_table, text_gmms = read_gmm_model(MONO / "final.mdl.txt")
        assert text_table.topology.phone2idx == table.topology.phone2idx
        assert text_table.tuples == table.tuples
        np.testing.assert_allclose(text_table.log_probs, table.log_probs, rtol=1e-5)
        for name in ("weights", "means_invvars", "inv_vars"):
            for a, b in zip(getattr(gmms, name), getattr(text_gmms, name), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert read_tree_bytes(MONO / "tree.txt") == read_tree_bytes(MONO / "tree")

    def test_model_that_we_write_is_the_file_that_kaldi_wrote(self, tmp_path: Path) -> None:
        write_model(tmp_path / "trans.mdl", read_transitions(MONO / "train-transitions.mdl"))
        assert (tmp_path / "trans.mdl").read_bytes() == (MONO / "train-transitions.mdl").read_bytes()
        write_model(tmp_path / "final.mdl", *read_gmm_model(MODEL))
        ours, theirs = (tmp_path / "final.mdl").read_bytes(), MODEL.read_bytes()
        assert len(ours) == len(theirs)
        # the constants of the Gaussians are computed, here in double precision: their last bits may differ
        different = [place for place, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
        gconsts = [match.end() for match in re.finditer(rb"<GCONSTS> FV \x04....", theirs, re.DOTALL)]
        assert all(any(at <= place < at + 40 for at in gconsts) for place in different)

    def test_am_info(self) -> None:
        table = read_transitions(MODEL)
        assert info((MONO / "am-info").read_text()) == {
            "phones": len(table.topology.phones),
            "pdfs": table.num_pdfs,
            "transition-ids": len(table.log_probs) - 1,
            "transition-states": len(table.tuples),
        }

    def test_show_transitions(self, lang: Lang) -> None:
        shown = read_show_transitions((MONO / "show-transitions").read_text())
        assert shown == expected_transitions(read_transitions(MODEL), lang)
        assert len(shown) == len(read_transitions(MODEL).log_probs) - 1

    def test_log_likelihoods(self, loglikes: dict[str, np.ndarray], feats: dict[str, np.ndarray]) -> None:
        stats = dict(read_archive(GOLDEN / "cmvn.ark"))["test"]
        _, gmms = read_gmm_model(MODEL)
        for utt, theirs in loglikes.items():
            ours = gmms.loglikes(with_deltas((feats[utt] - stats[0, :-1] / stats[0, -1]).astype(np.float32)))
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-2)  # Kaldi sums in single precision

    def test_tree_of_the_embedded_engine_is_the_same_file(self, lang: Lang, tmp_path: Path) -> None:
        feats = {"u": np.random.default_rng(0).standard_normal((60, 2)).astype(np.float32)}
        words = {"u": lang.word_ids(["one"], where="test")}
        EmbeddedEngine().train_mono(feats, words, lang, tmp_path, MonoConfig(num_iters=1))
        assert (tmp_path / "tree").read_bytes() == (MONO / "tree").read_bytes()

    def test_transitions_are_updated_to_the_same_probabilities(self, tmp_path: Path) -> None:
        alignments = read_alignments(MONO).values()
        EmbeddedEngine().update_transitions(MONO, alignments, tmp_path / "final.mdl")
        ours, theirs = (read_transitions(p) for p in (tmp_path / "final.mdl", MONO / "train-transitions.mdl"))
        assert ours.tuples == theirs.tuples
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=1e-6, atol=1e-7)


class TestAlignments:
    def test_ali_to_pdf(self) -> None:
        table = read_transitions(MODEL)
        ours = {utt: table.tid_to_pdf[ali].tolist() for utt, ali in read_alignments(MONO).items()}
        assert ours == vectors("ali-to-pdf")

    def test_show_alignments(self, text: dict[str, list[str]], lang: Lang) -> None:
        table, names = read_transitions(MODEL), {index: phone for phone, index in lang.phones.items()}
        lines = [line.split() for line in (MONO / "show-alignments").read_text().splitlines() if line.strip()]
        alignments = read_alignments(MONO)
        shown = {utt: second for (utt, *_), (other, *second) in itertools.pairwise(lines) if utt == other}
        assert shown.keys() == alignments.keys()
        for utt, phones in shown.items():
            assert [phone for phone in phones if phone != "sil"] == text[utt]
            ours = [names[phone] for phone, _ in itertools.groupby(tid_to_phone(table)[alignments[utt]].tolist())]
            assert ours == [phone for phone, _ in itertools.groupby(phones)]

    def test_forced_alignment_is_kaldis_transition_id_for_transition_id(
        self, text: dict[str, list[str]], lang: Lang, loglikes: dict[str, np.ndarray]
    ) -> None:
        words = {utt: lang.word_ids(text[utt], where="test") for utt in loglikes}
        ours = EmbeddedEngine().aligner(MONO, lang, DECODE).align(loglikes.items(), words)
        assert {utt: ali.tolist() for utt, ali in ours.items()} == vectors("aligned")


class TestDecoding:
    @pytest.mark.parametrize("graph", ["kaldi", "embedded"])
    def test_best_path_is_that_of_kaldis_lattice(
        self, loglikes: dict[str, np.ndarray], lang: Lang, tmp_path: Path, graph: str
    ) -> None:
        if graph == "kaldi":
            for name in ("HCLG.fst", "words.txt"):
                shutil.copy(MONO / name, tmp_path)
        else:
            EmbeddedEngine().make_graph(lang, MONO, tmp_path, **tiny.GRAPH_SCALES)
            assert (tmp_path / "words.txt").read_text() == (MONO / "words.txt").read_text()
        found = EmbeddedEngine().decoder(MONO, tmp_path, DECODE).decode(loglikes.items())
        assert {u: h.alignment.tolist() for u, h in found.items()} == vectors("decoded-ali")
        assert {u: [lang.words[w] for w in h.words] for u, h in found.items()} == vectors("words")
        costs = [
            {line.split()[0]: float(line.split()[1]) for line in (MONO / name).read_text().splitlines()}
            for name in ("graph-cost", "acoustic-cost")
        ]
        for utt, hypothesis in found.items():
            # the cost of the text form has 6 digits
            assert hypothesis.score == pytest.approx(-(costs[0][utt] + DECODE.acwt * costs[1][utt]), rel=2e-5)
