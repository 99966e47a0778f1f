"""Models, trees and alignments that we write, read by Kaldi's own programs, and the other way round."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DeltasConfig, Engine, EngineOptions
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.engine.embedded.wheels import load_model
from kaldi_uq.io.ark import read_alignments
from kaldi_uq.io.kaldi_model import TransitionTable, read_gmm_model, read_transitions, write_model
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.tree import read_tree_bytes
from tests import tiny
from tests.kaldi import Kaldi, read_text_vectors, tid_to_phone

DELTAS = DeltasConfig(num_leaves=14, totgauss=24, num_iters=6, max_iter_inc=4, realign_iters=(2, 4))
SYSTEMS = [(engine, kind) for engine in ("embedded", "kaldi") for kind in ("mono", "tri")]


class Systems:
    """Monophone and triphone systems of both engines on the same data."""

    def __init__(self, kaldi: Kaldi, folder: Path) -> None:
        self.tiny = tiny.make_system(folder)
        self.engines: dict[str, Engine] = {"embedded": EmbeddedEngine(), "kaldi": kaldi.engine(EngineOptions(nj=3))}
        feats = tiny.features(self.tiny.waves)
        transcripts = {utt: self.tiny.word_ids(*words) for utt, words in self.tiny.text.items()}
        self.folders = {("embedded", "mono"): self.tiny.mono, ("kaldi", "mono"): folder / "kaldi mono"}
        self.engines["kaldi"].train_mono(feats, transcripts, self.tiny.lang, self.folders["kaldi", "mono"], tiny.MONO)
        for name, engine in self.engines.items():
            self.folders[name, "tri"] = folder / f"{name} tri"
            engine.train_deltas(feats, transcripts, self.tiny.lang, self.tiny.mono, self.folders[name, "tri"], DELTAS)


@pytest.fixture(scope="module")
def systems(kaldi: Kaldi, tmp_path_factory: pytest.TempPathFactory) -> Systems:
    return Systems(kaldi, tmp_path_factory.mktemp("systems"))


@pytest.fixture(params=SYSTEMS, ids=" ".join)
def model_dir(request: pytest.FixtureRequest, systems: Systems) -> Path:
    return systems.folders[request.param]


def info(text: str) -> dict[str, int]:
    """The numbers that am-info and gmm-info print: ``number of pdfs 12``."""
    return {name: int(value) for name, value in re.findall(r"^number of ([a-z\- ]+?) (\d+)$", text, re.MULTILINE)}


def test_am_info_counts_what_we_count(kaldi: Kaldi, model_dir: Path) -> None:
    table, gmms = read_gmm_model(model_dir / "final.mdl")
    found = info(kaldi.run("am-info", model_dir / "final.mdl"))
    assert found["phones"] == len(table.topology.phones)
    assert found["pdfs"] == table.num_pdfs
    assert found["transition-ids"] == len(table.log_probs) - 1
    assert found["transition-states"] == len(table.tuples)
    assert info(kaldi.run("gmm-info", model_dir / "final.mdl"))["gaussians"] == gmms.num_gauss


def test_show_transitions_lists_our_transitions(kaldi: Kaldi, systems: Systems, model_dir: Path) -> None:
    table = read_transitions(model_dir / "final.mdl")
    text = kaldi.run("show-transitions", systems.tiny.lang.path / "phones.txt", model_dir / "final.mdl")
    assert read_show_transitions(text) == expected_transitions(table, systems.tiny.lang)


def read_show_transitions(text: str) -> list[tuple[int, str, int, int, str, str]]:
    """(transition-id, phone, state, pdf, probability, destination) of each transition."""
    found = []
    for state in text.split("Transition-state")[1:]:
        phone, hmm_state, pdf = re.match(r" \d+: phone = (\S+) hmm-state = (\d+) pdf = (\d+)", state).groups()  # type: ignore[union-attr]
        for tid, probability, where in re.findall(r"Transition-id = (\d+) p = (\S+) \[(.*?)\]", state):
            found.append((int(tid), phone, int(hmm_state), int(pdf), probability, where))
    return found


def expected_transitions(table: TransitionTable, lang: Lang) -> list[tuple[int, str, int, int, str, str]]:
    names = {index: phone for phone, index in lang.phones.items()}
    found = []
    tid = 0
    for phone, state, pdf, _ in table.tuples:
        for destination, _ in table.topology.entry(phone)[state].transitions:
            tid += 1
            where = "self-loop" if destination == state else f"{state} -> {destination}"
            probability = f"{np.exp(table.log_probs[tid]):.6g}"
            found.append((tid, names[phone], state, pdf, probability, where))
    return found


def test_ali_to_pdf_and_ali_to_phones_are_our_tables(kaldi: Kaldi, model_dir: Path) -> None:
    table = read_transitions(model_dir / "final.mdl")
    alignments = read_alignments(model_dir)
    source = f"ark:gunzip -c '{model_dir}'/ali.*.gz|"
    pdfs = read_text_vectors(kaldi.run("ali-to-pdf", model_dir / "final.mdl", source, "ark,t:-"))
    phones = read_text_vectors(kaldi.run("ali-to-phones", "--per-frame", model_dir / "final.mdl", source, "ark,t:-"))
    assert pdfs == {utt: table.tid_to_pdf[ali].tolist() for utt, ali in alignments.items()}
    assert phones == {utt: tid_to_phone(table)[ali].tolist() for utt, ali in alignments.items()}


def test_show_alignments_finds_the_phones_of_the_text(kaldi: Kaldi, systems: Systems, model_dir: Path) -> None:
    text = kaldi.run(
        "show-alignments",
        systems.tiny.lang.path / "phones.txt",
        model_dir / "final.mdl",
        f"ark:gunzip -c '{model_dir}'/ali.*.gz|",
    )
    lines = [line.split() for line in text.splitlines() if line.strip()]
    shown = {utt: second for (utt, *first), (other, *second) in itertools.pairwise(lines) if utt == other}
    assert shown.keys() == systems.tiny.text.keys()
    for utt, phones in shown.items():
        assert [phone for phone in phones if phone != "sil"] == systems.tiny.text[utt]


def test_text_forms_of_kaldi_are_read_as_the_binary_ones(kaldi: Kaldi, model_dir: Path, tmp_path: Path) -> None:
    kaldi.run("gmm-copy", "--binary=false", model_dir / "final.mdl", tmp_path / "final.mdl")
    kaldi.run("copy-tree", "--binary=false", model_dir / "tree", tmp_path / "tree")
    binary, gmms = read_gmm_model(model_dir / "final.mdl")
    text, text_gmms = read_gmm_model(tmp_path / "final.mdl")
    assert text.tuples == binary.tuples
    np.testing.assert_allclose(text.log_probs, binary.log_probs, rtol=1e-5)
    for name in ("weights", "means_invvars", "inv_vars"):
        for ours, theirs in zip(getattr(text_gmms, name), getattr(gmms, name), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert read_tree_bytes(tmp_path / "tree") == read_tree_bytes(model_dir / "tree")
    load_model(tmp_path)  # the embedded engine takes both


def test_model_survives_a_way_through_kaldi_byte_for_byte(kaldi: Kaldi, model_dir: Path, tmp_path: Path) -> None:
    kaldi.run("gmm-copy", model_dir / "final.mdl", tmp_path / "copy.mdl")
    table, gmms = read_gmm_model(tmp_path / "copy.mdl")
    write_model(tmp_path / "ours.mdl", table, gmms)
    kaldi.run("gmm-copy", tmp_path / "ours.mdl", tmp_path / "again.mdl")
    assert (tmp_path / "again.mdl").read_bytes() == (tmp_path / "copy.mdl").read_bytes()
    write_model(tmp_path / "ours.trans", table)
    kaldi.run("copy-transition-model", "--binary=true", model_dir / "final.mdl", tmp_path / "copy.trans")
    assert (tmp_path / "ours.trans").read_bytes() == (tmp_path / "copy.trans").read_bytes()


def test_log_likelihoods_of_the_gmms_are_those_of_gmm_compute_likes(
    kaldi: Kaldi, systems: Systems, model_dir: Path, tmp_path: Path
) -> None:
    from kaldi_uq.io.ark import MatrixWriter, read_archive

    feats = tiny.features(systems.tiny.waves)
    with MatrixWriter(tmp_path / "feats.ark", tmp_path / "feats.scp") as writer:
        for utt, matrix in feats.items():
            writer.write(utt, matrix)
    kaldi.run("gmm-compute-likes", model_dir / "final.mdl", f"ark:{tmp_path}/feats.ark", f"ark:{tmp_path}/likes.ark")
    _, gmms = read_gmm_model(model_dir / "final.mdl")
    for utt, theirs in read_archive(tmp_path / "likes.ark"):
        # Kaldi sums in single precision, and drops Gaussians far below the best one
        np.testing.assert_allclose(gmms.loglikes(feats[utt]), theirs, rtol=2e-4, atol=2e-2)


def test_tree_of_the_monophone_system_is_the_same_file(systems: Systems) -> None:
    ours, theirs = (systems.folders[engine, "mono"] / "tree" for engine in ("embedded", "kaldi"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_transitions_are_updated_to_the_same_probabilities(systems: Systems, model_dir: Path, tmp_path: Path) -> None:
    alignments = list(read_alignments(model_dir).values())
    tables = {}
    for name, engine in systems.engines.items():
        engine.update_transitions(model_dir, iter(alignments), tmp_path / f"{name}.mdl")
        tables[name] = read_transitions(tmp_path / f"{name}.mdl")
    assert tables["embedded"].tuples == tables["kaldi"].tuples
    np.testing.assert_allclose(tables["embedded"].log_probs, tables["kaldi"].log_probs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("first", ["embedded", "kaldi"])
def test_training_goes_on_with_the_other_engines_alignments(systems: Systems, tmp_path: Path, first: str) -> None:
    second = "kaldi" if first == "embedded" else "embedded"
    shutil.copytree(systems.folders[first, "mono"], tmp_path / "mono")
    feats = tiny.features(systems.tiny.waves)
    transcripts = {utt: systems.tiny.word_ids(*words) for utt, words in systems.tiny.text.items()}
    systems.engines[second].train_deltas(
        feats, transcripts, systems.tiny.lang, tmp_path / "mono", tmp_path / "tri", DELTAS
    )
    table, gmms = read_gmm_model(tmp_path / "tri/final.mdl")
    assert table.num_pdfs == len(gmms.weights)
    assert read_alignments(tmp_path / "tri").keys() == feats.keys()
