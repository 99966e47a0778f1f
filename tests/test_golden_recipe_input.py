"""What real Kaldi made of the same input: features, segments, and a triphone system with alignments and words.

The files in ``golden_b2`` are Kaldi's own; ``golden_b2/make.py`` makes them again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.engine.embedded.wheels import load_model
from kaldi_uq.feats.conf import read_fbank_conf, read_mfcc_conf
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.ark import read_alignments, read_archive
from kaldi_uq.io.kaldi_model import read_topology, read_transitions
from kaldi_uq.io.lang import Lang, read_symbols
from kaldi_uq.io.segments import Segment
from kaldi_uq.io.tree import read_tree_bytes
from kaldi_uq.io.word_times import phone_segments
from tests.golden_input import NUM_FRAMES, RATE, SEGMENTS, TEXTS, loglikes, wave

GOLDEN = Path(__file__).resolve().parent / "golden_b2"
TRI = GOLDEN / "tri"


def golden_loglikes() -> list[tuple[str, np.ndarray]]:
    num_pdfs = read_transitions(TRI / "final.mdl").num_pdfs
    return [(utt, loglikes(utt, num_pdfs)) for utt in TEXTS]


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as Kaldi's --binary=false writes it."""
    folder = tmp_path_factory.mktemp("text")
    for name in ("final.mdl", "tree"):
        shutil.copy(TRI / "text" / name, folder / name)
    return folder


class TestFeatures:
    @pytest.mark.parametrize("kind", ["mfcc_hires", "fbank"])
    def test_front_end_of_the_conf_gives_kaldis_values(self, kind: str) -> None:
        if kind == "fbank":
            config = FrontEndConfig(kind="fbank", fbank=read_fbank_conf(GOLDEN / "fbank.conf"), delta_order=0)
        else:
            config = FrontEndConfig(mfcc=read_mfcc_conf(GOLDEN / "mfcc_hires.conf"), delta_order=0)
        front_end = FrontEnd(config)
        (_, expected), *rest = read_archive(GOLDEN / f"{kind}.ark")
        assert rest == []
        wav = torch.from_numpy((wave() / 32768).astype(np.float32))[None]
        found, lengths = front_end.cepstra_of(wav, torch.tensor([wav.shape[1]]))
        assert lengths.tolist() == [len(expected)] == [front_end.num_frames(wav.shape[1])]
        # single precision: sums of 256 squares, then a logarithm, and for cepstra a sum of 40 of them with a lifter
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=0, atol=2e-3 if kind == "mfcc_hires" else 2e-4)


class TestSegments:
    def test_segments_are_cut_where_extract_segments_cuts_them(self) -> None:
        expected = {}
        for line in (GOLDEN / "segments.txt").read_text().splitlines():
            key, first, length = line.split()
            expected[key] = (int(first), int(first) + int(length))
        for number, (start, end, size) in enumerate(SEGMENTS):
            segment = Segment("r", start, end)
            if f"s{number}" in expected:
                assert segment.samples(size, RATE) == expected[f"s{number}"]
            else:
                with pytest.raises(ValueError, match=r"extract-segments takes more than 0\.1 s"):
                    segment.samples(size, RATE)
        assert len(expected) == len(SEGMENTS) - 1  # Kaldi skips the first


class TestTriphones:
    def test_transition_model_is_the_same_in_binary_and_text(self, text_model: Path) -> None:
        binary, text = (read_transitions(folder / "final.mdl") for folder in (TRI, text_model))
        assert binary.topology == text.topology
        assert binary.tuples == text.tuples
        assert binary.num_pdfs == text.num_pdfs == 104
        np.testing.assert_allclose(binary.log_probs, text.log_probs, rtol=1e-5)  # the text has six digits
        assert len(binary.topology.entries) == 2
        assert binary.topology == read_topology(TRI / "lang/topo")
        phones = read_symbols(TRI / "lang/phones.txt")
        assert binary.topology.min_frames(phones["sil_S"]) == 3  # 0 to 3 to 4
        assert binary.topology.min_frames(phones["ah_I"]) == 3

    def test_text_tree_becomes_the_bytes_of_the_binary_one(self) -> None:
        assert read_tree_bytes(TRI / "text/tree") == (TRI / "tree").read_bytes()[2:] == read_tree_bytes(TRI / "tree")

    def test_engine_loads_both(self, text_model: Path) -> None:
        for folder in (TRI, text_model):
            transitions, tree = load_model(folder)
            assert (tree.context_width, tree.central_position, tree.num_pdfs) == (3, 1, 104)
            assert transitions.num_transition_ids == 882

    def test_alignments_of_several_jobs_binary_and_text(self, tmp_path: Path) -> None:
        for job in (1, 2):
            (tmp_path / str(job)).mkdir()
            shutil.copy(TRI / f"ali.{job}.gz", tmp_path / str(job) / "ali.1.gz")
        binary, text = (read_alignments(tmp_path / str(job)) for job in (1, 2))
        assert {utt: len(ali) for utt, ali in binary.items()} == NUM_FRAMES
        assert list(binary) == list(text)
        assert all(np.array_equal(binary[utt], text[utt]) for utt in binary)
        table = read_transitions(TRI / "final.mdl")
        lang = Lang.read(TRI / "lang")
        names = {number: name for name, number in lang.phones.items()}
        spoken = [names[phone] for phone, _, _ in phone_segments(binary["utt-b"], table)]
        assert [phone for phone in spoken if phone != "sil"] == ["s_B", "eh_I", "v_I", "ah_I", "n_E"]

    def test_forced_alignment_is_kaldis_transition_id_for_transition_id(self, text_model: Path, tmp_path: Path) -> None:
        shutil.copy(TRI / "ali.1.gz", tmp_path)
        expected = read_alignments(tmp_path)
        lang = Lang.read(TRI / "lang")
        texts = {utt: lang.word_ids(text.split(), where=utt) for utt, text in TEXTS.items()}
        config = DecodeConfig(acwt=0.1, align_beam=200)
        for folder in (TRI, text_model):
            found = EmbeddedEngine().aligner(folder, lang, config).align(golden_loglikes(), texts)
            assert {utt: ali.tolist() for utt, ali in found.items()} == {u: a.tolist() for u, a in expected.items()}

    def test_decoding_on_kaldis_const_graph_gives_its_words_and_its_path(self, text_model: Path) -> None:
        ids = {number: word for word, number in read_symbols(TRI / "graph/words.txt").items()}
        words, paths = {}, {}
        for line in (TRI / "words.int").read_text().splitlines():
            utt, *numbers = line.split()
            words[utt] = tuple(ids[int(number)] for number in numbers)
        for line in (TRI / "decoded_ali.txt").read_text().splitlines():
            utt, *numbers = line.split()
            paths[utt] = [int(number) for number in numbers]
        for folder in (TRI, text_model):
            found = EmbeddedEngine().decoder(folder, TRI / "graph", DecodeConfig()).decode(golden_loglikes())
            assert {utt: h.words for utt, h in found.items()} == words
            assert {utt: h.alignment.tolist() for utt, h in found.items()} == paths

    def test_graph_of_the_embedded_engine_gives_the_same_words(self, tmp_path: Path) -> None:
        lang = Lang.read(TRI / "lang")
        engine = EmbeddedEngine()
        engine.make_graph(lang, TRI, tmp_path, transition_scale=1.0, self_loop_scale=0.1)
        ours = engine.decoder(TRI, tmp_path, DecodeConfig()).decode(golden_loglikes())
        theirs = engine.decoder(TRI, TRI / "graph", DecodeConfig()).decode(golden_loglikes())
        assert {utt: h.words for utt, h in ours.items()} == {utt: h.words for utt, h in theirs.items()}
