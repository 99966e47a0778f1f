"""The embedded engine: what it adds to what holds on every engine."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig, MonoConfig
from kaldi_uq.engine.embedded import decode, wheels
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.engine.embedded.gmm import reestimate, split
from kaldi_uq.engine.select import engine_name, select_engine
from kaldi_uq.errors import EngineError, ModelFileError
from kaldi_uq.io.digests import DIGESTS_FILE
from kaldi_uq.io.kaldi_model import DiagGmmSet, write_model
from kaldi_uq.io.lang import Lang
from tests import tiny
from tests.tiny import TinySystem


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"))


class TestTransitions:
    def test_loaded_model_is_the_one_that_was_trained(self, system: TinySystem, tmp_path: Path) -> None:
        # after mle_update of Kaldi's own code and after a way through the file all derived numbers are the same
        transitions, _ = wheels.load_model(system.mono)
        fresh = wheels.set_log_probs(transitions, np.asarray(transitions.log_probs))
        wheels.update_transitions(fresh, system.alignments.values())
        write_model(tmp_path / "final.mdl", wheels.with_log_probs(system.table, fresh))
        shutil.copy(system.mono / "tree", tmp_path)
        loaded, _ = wheels.load_model(tmp_path)
        assert np.array_equal(loaded.log_probs, fresh.log_probs)
        np.testing.assert_allclose(loaded.non_self_loop_log_probs, fresh.non_self_loop_log_probs, rtol=1e-5, atol=1e-6)
        assert loaded.num_pdfs == fresh.num_pdfs

    def test_update_leaves_the_model_in_memory_as_it_is(self, system: TinySystem, tmp_path: Path) -> None:
        before = np.array(wheels.load_model(system.mono)[0].log_probs)
        system.engine.update_transitions(system.mono, [system.alignments["utt00"]], tmp_path / "final.mdl")
        assert np.array_equal(wheels.load_model(system.mono)[0].log_probs, before)

    def test_model_and_tree_of_different_systems_are_refused(self, system: TinySystem, tmp_path: Path) -> None:
        other = tiny.make_lang(tmp_path / "other", {"sil": 1, "one": 3, "two": 5})
        waves, text = tiny.make_waves(12, seed=2)
        text = {utt: ["two" if word == "three" else word for word in words] for utt, words in text.items()}
        mono = tiny.train_mono(tmp_path / "mono", other, waves, text)
        shutil.copy(system.mono / "tree", mono / "tree")
        (mono / DIGESTS_FILE).unlink()
        with pytest.raises(ModelFileError, match=r"final\.mdl: .*not.*(belong to|the model of) .*tree") as error:
            wheels.load_model(mono)
        assert "\n" not in str(error.value)

    def test_model_that_changes_is_loaded_again(self, system: TinySystem, tmp_path: Path) -> None:
        for name in ("final.mdl", "tree"):
            shutil.copy(system.mono / name, tmp_path)
        before = np.asarray(wheels.load_model(tmp_path)[0].log_probs)
        assert wheels.load_model(tmp_path)[0] is wheels.load_model(tmp_path)[0]
        system.engine.update_transitions(tmp_path, [system.alignments["utt00"]], tmp_path / "final.mdl")
        assert not np.array_equal(wheels.load_model(tmp_path)[0].log_probs, before)

    @pytest.mark.parametrize("name", ["final.mdl", "tree"])
    def test_missing_file_comes_with_its_remedy(self, system: TinySystem, tmp_path: Path, name: str) -> None:
        shutil.copy(system.mono / ("tree" if name == "final.mdl" else "final.mdl"), tmp_path)
        with pytest.raises(ModelFileError, match=rf"{name}: no such file; steps/train_mono\.sh"):
            wheels.load_model(tmp_path)

    def test_damaged_model_is_refused_or_usable(self, system: TinySystem, tmp_path: Path) -> None:
        shutil.copy(system.mono / "tree", tmp_path)
        whole = (system.mono / "final.mdl").read_bytes()
        for place in range(20, 700, 9):
            for bits in (0x01, 0x80):
                content = whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :]
                (tmp_path / "final.mdl").write_bytes(content)
                wheels._load_model.cache_clear()
                with contextlib.suppress(ModelFileError):
                    wheels.load_model(tmp_path)


class TestFsts:
    def test_const_fst_is_read_like_a_vector_fst(self, system: TinySystem) -> None:
        fst = wheels.read_fst(system.graph / "HCLG.fst")
        assert fst.num_states > 10
        assert "const" not in fst.type

    @pytest.mark.parametrize("size", [0, 3, 40, 200])
    def test_cut_off_fst_is_named(self, system: TinySystem, tmp_path: Path, size: int) -> None:
        (tmp_path / "L.fst").write_bytes((system.lang.path / "L.fst").read_bytes()[:size])
        with pytest.raises(EngineError, match=r"L\.fst: not an FST file, or a damaged one"):
            wheels.read_fst(tmp_path / "L.fst")

    def test_size_that_cannot_be_is_named(self, system: TinySystem, tmp_path: Path) -> None:
        whole = bytearray((system.lang.path / "L.fst").read_bytes())
        for place in range(20, 90):
            content = bytearray(whole)
            content[place] ^= 0x80
            (tmp_path / "L.fst").write_bytes(content)
            with contextlib.suppress(EngineError):
                wheels.read_fst(tmp_path / "L.fst")

    def test_missing_fst_comes_with_its_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match=r"HCLG\.fst: no such file; .*utils/mkgraph\.sh makes it"):
            wheels.read_fst(tmp_path / "HCLG.fst")


class TestDecoderAndAligner:
    def test_files_are_read_once(self, system: TinySystem, tmp_path: Path) -> None:
        shutil.copytree(system.mono, tmp_path / "mono")
        shutil.copytree(system.lang.path, tmp_path / "lang")
        lang, mono, config = Lang.read(tmp_path / "lang"), tmp_path / "mono", DecodeConfig(acwt=0.3)
        decoder = system.engine.decoder(mono, mono / "graph", config)
        aligner = system.engine.aligner(mono, lang, config)
        shutil.rmtree(tmp_path / "mono")
        shutil.rmtree(tmp_path / "lang")
        fresh = system.engine.aligner(system.mono, system.lang, config)
        texts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
        for seed in (0, 1):
            scores = {utt: random_scores(system, seed) for utt in texts}
            decoded = system.engine.decoder(system.mono, system.graph, config).decode(scores.items())
            assert [h.words for h in decoder.decode(scores.items()).values()] == [h.words for h in decoded.values()]
            aligned = aligner.align(scores.items(), texts)
            assert aligned and aligned.keys() == texts.keys()
            for utt, alignment in fresh.align(scores.items(), texts).items():
                assert np.array_equal(aligned[utt], alignment)

    def test_aligner_keeps_the_graphs_of_the_last_texts(
        self, system: TinySystem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiled = []
        original = wheels.compile_graph

        def compile_graph(compiler: Any, words: tuple[int, ...], lang: Lang) -> Any:
            compiled.append(words)
            return original(compiler, words, lang)

        monkeypatch.setattr(wheels, "compile_graph", compile_graph)
        monkeypatch.setattr(decode, "MAX_GRAPHS", 2)
        aligner = system.engine.aligner(system.mono, system.lang, DecodeConfig())
        one, two, three = (tuple(system.word_ids(word)) for word in ("one", "two", "three"))
        for words in (one, two, one, two, three, two, one):
            aligner.align([("a", random_scores(system, 0))], {"a": words})
        assert compiled == [one, two, three, one]


def random_scores(system: TinySystem, seed: int) -> np.ndarray:
    return 6 * np.random.default_rng(seed).standard_normal((40, system.table.num_pdfs)).astype(np.float32)


class TestMonophoneTraining:
    def test_equal_seeds_give_equal_models(self, system: TinySystem, tmp_path: Path) -> None:
        again = tiny.train_mono(tmp_path / "mono", system.lang, system.waves, system.text)
        for name in ("final.mdl", "tree", "ali.1.gz"):
            assert (again / name).read_bytes() == (system.mono / name).read_bytes()

    def test_another_seed_gives_another_model(self, system: TinySystem, tmp_path: Path) -> None:
        transcripts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
        config = MonoConfig(**{**tiny.MONO.to_dict(), "seed": 1})
        system.engine.train_mono(tiny.features(system.waves), transcripts, system.lang, tmp_path, config)
        assert (tmp_path / "final.mdl").read_bytes() != (system.mono / "final.mdl").read_bytes()

    def test_one_gaussian_is_the_mean_and_variance_of_its_frames(self) -> None:
        rng = np.random.default_rng(0)
        frames = rng.standard_normal((300, 2)).astype(np.float32) * [1, 3] + [0, 5]
        pdfs = np.arange(300) % 2
        ones = np.ones((1, 2), np.float32)
        start = DiagGmmSet((np.ones(1, np.float32),) * 3, (ones,) * 3, (ones,) * 3)
        found, counts, _ = reestimate(start, [(frames, pdfs)], min_occupancy=3)
        assert counts.tolist() == [150, 150, 0]
        for pdf in (0, 1):
            np.testing.assert_allclose(1 / found.inv_vars[pdf][0], frames[pdf::2].var(0), rtol=1e-4)
            np.testing.assert_allclose(
                found.means_invvars[pdf][0], frames[pdf::2].mean(0) * found.inv_vars[pdf][0], rtol=1e-4
            )
        assert found.inv_vars[2] is ones  # a pdf without frames keeps its model

    def test_each_update_raises_the_likelihood(self) -> None:
        rng = np.random.default_rng(1)
        frames = np.concatenate([rng.normal(-3, 1, (200, 2)), rng.normal(2, 0.5, (200, 2))]).astype(np.float32)
        pdfs = np.zeros(400, dtype=np.int64)
        one = np.ones((1, 2), np.float32)
        gmms = DiagGmmSet((np.ones(1, np.float32),), (0 * one,), (one,))
        gmms, counts, _ = reestimate(gmms, [(frames, pdfs)], min_occupancy=3)
        gmms = split(gmms, counts, 4, 0.25, rng)
        assert gmms.num_gauss == 4
        totals = []
        for _ in range(8):
            gmms, _, total = reestimate(gmms, [(frames, pdfs)], min_occupancy=3)
            totals.append(total)
        assert np.all(np.diff(totals) > -1e-3 * abs(totals[0]) * 1e-3)
        assert totals[-1] > totals[0] + 10

    def test_split_keeps_mean_and_total_weight(self) -> None:
        one = np.ones((1, 2), np.float32)
        gmms = DiagGmmSet((np.ones(1, np.float32),) * 2, (3 * one,) * 2, (one,) * 2)
        grown = split(gmms, np.array([1000.0, 10.0]), 4, 0.25, np.random.default_rng(0))
        assert [len(w) for w in grown.weights] == [3, 1]  # too few frames for another Gaussian in the second
        assert grown.weights[0].sum() == pytest.approx(1)
        mean = (grown.weights[0][:, None] * grown.means_invvars[0] / grown.inv_vars[0]).sum(0)
        np.testing.assert_allclose(mean, [3, 3], atol=0.05)


class TestSelection:
    def test_engine_is_the_requested_one_or_follows_kaldi_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KALDI_ROOT", raising=False)
        assert engine_name() == "embedded"
        assert isinstance(select_engine(), EmbeddedEngine)
        monkeypatch.setenv("KALDI_ROOT", "/nowhere")
        assert engine_name() == "kaldi"
        assert engine_name("embedded") == "embedded"
        assert isinstance(select_engine("embedded"), EmbeddedEngine)
        with pytest.raises(EngineError):
            select_engine()  # never another engine in silence
        with pytest.raises(EngineError, match="must be one of embedded, kaldi, pykaldi, got 'htk'"):
            engine_name("htk")

    def test_versions_name_both_wheels(self) -> None:
        assert set(EmbeddedEngine().versions()) == {"kaldi-hmm-gmm", "kaldifst"}
        assert EmbeddedEngine().versions()["kaldi-hmm-gmm"] == khg.__version__
