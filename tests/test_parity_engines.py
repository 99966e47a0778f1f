"""The two engines on one model: the same graphs, alignments and words, stage by stage interchangeable."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig, Engine, EngineOptions, Hypothesis
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.io.kaldi_model import read_gmm_model
from kaldi_uq.io.lang import read_symbols
from tests import tiny
from tests.kaldi import Kaldi, read_text_vectors
from tests.test_parity_models import DELTAS
from tests.tiny import TinySystem

ACWT = 0.3
Scores = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("parity engines"))


@pytest.fixture(scope="module", params=["mono", "tri"])
def model_dir(request: pytest.FixtureRequest, system: TinySystem) -> Path:
    """A model directory with the graphs of both engines below it."""
    if request.param == "mono":
        return system.mono
    folder = system.mono.parent / "tri"
    if not folder.exists():
        transcripts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
        feats = tiny.features(system.waves)
        EmbeddedEngine().train_deltas(feats, transcripts, system.lang, system.mono, folder, DELTAS)
    return folder


@pytest.fixture(scope="module")
def graphs(system: TinySystem, model_dir: Path, kaldi_engine: Engine) -> dict[str, Path]:
    """The decoding graphs of both engines."""
    found = {engine.name: model_dir / f"graph of {engine.name}" for engine in (EmbeddedEngine(), kaldi_engine)}
    for engine in (EmbeddedEngine(), kaldi_engine):
        engine.make_graph(system.lang, model_dir, found[engine.name], **tiny.GRAPH_SCALES)
    return found


@pytest.fixture(scope="module")
def loglikes(model_dir: Path) -> Scores:
    """Of speech that was not trained on, and of nothing: noise in which many paths are nearly as good."""
    _, gmms = read_gmm_model(model_dir / "final.mdl")
    waves, _ = tiny.make_waves(10, seed=9)
    scores = {utt: gmms.loglikes(feats) for utt, feats in tiny.features(waves).items()}
    rng = np.random.default_rng(3)
    for number in range(20):
        shape = (int(rng.integers(20, 80)), len(gmms.weights))
        scores[f"noise{number:02d}"] = (12 * rng.standard_normal(shape)).astype(np.float32)
    return scores


@pytest.mark.parametrize("scales", [(1.0, 0.1), (1.0, 1.0), (0.5, 0.0)])
@pytest.mark.parametrize("beams", [(200.0, 0.0), (10.0, 40.0), (3.0, 0.0)])
def test_alignments_are_the_same_transition_id_for_transition_id(
    system: TinySystem,
    model_dir: Path,
    kaldi_engine: Engine,
    loglikes: Scores,
    scales: tuple[float, float],
    beams: tuple[float, float],
) -> None:
    rng = np.random.default_rng(1)
    words = sorted(tiny.TONES)
    transcripts = {u: system.word_ids(*rng.choice(words, int(rng.integers(1, 5)))) for u in loglikes}
    config = DecodeConfig(
        acwt=ACWT, align_beam=beams[0], retry_beam=beams[1], transition_scale=scales[0], self_loop_scale=scales[1]
    )
    ours, theirs = (
        engine.aligner(model_dir, system.lang, config).align(loglikes.items(), transcripts)
        for engine in (EmbeddedEngine(), kaldi_engine)
    )
    assert list(ours) == list(theirs)
    assert len(ours) > len(loglikes) // 2
    for utt, alignment in ours.items():
        assert alignment.tolist() == theirs[utt].tolist(), utt


def test_alignments_with_gmms_are_those_with_their_log_likelihoods(
    system: TinySystem, model_dir: Path, kaldi_engine: Engine
) -> None:
    feats = tiny.features(system.waves)
    transcripts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
    ours, theirs = (
        engine.align_gmm(model_dir, system.lang, feats.items(), transcripts, DecodeConfig())
        for engine in (EmbeddedEngine(), kaldi_engine)
    )
    assert {u: a.tolist() for u, a in ours.items()} == {u: a.tolist() for u, a in theirs.items()}


@pytest.mark.parametrize("graph", ["embedded", "kaldi"])
@pytest.mark.parametrize("config", [DecodeConfig(acwt=ACWT), DecodeConfig(acwt=0.1, beam=6.0, max_active=200)])
def test_best_paths_are_the_same_on_either_graph(
    system: TinySystem,
    model_dir: Path,
    graphs: dict[str, Path],
    kaldi_engine: Engine,
    loglikes: Scores,
    graph: str,
    config: DecodeConfig,
) -> None:
    ours, theirs = (
        engine.decoder(model_dir, graphs[graph], config).decode(loglikes.items())
        for engine in (EmbeddedEngine(), kaldi_engine)
    )
    assert list(ours) == list(theirs) == list(loglikes)
    for utt, hypothesis in ours.items():
        assert_same(hypothesis, theirs[utt], utt)


def assert_same(ours: Hypothesis, theirs: Hypothesis, utt: str) -> None:
    assert ours.words == theirs.words, utt
    assert ours.alignment.tolist() == theirs.alignment.tolist(), utt
    assert ours.reached_final == theirs.reached_final, utt
    assert ours.score == pytest.approx(theirs.score, rel=1e-4)  # costs of Kaldi's text form have 6 digits


def test_words_on_the_two_graphs_are_the_same(model_dir: Path, graphs: dict[str, Path], loglikes: Scores) -> None:
    ours, theirs = (
        EmbeddedEngine().decoder(model_dir, graphs[name], DecodeConfig(acwt=ACWT)).decode(loglikes.items())
        for name in ("embedded", "kaldi")
    )
    for utt, hypothesis in ours.items():
        assert_same(hypothesis, theirs[utt], utt)


def test_graphs_are_equivalent(kaldi: Kaldi, graphs: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in graphs.items():
        kaldi.run("fstconvert", "--fst_type=vector", folder / "HCLG.fst", tmp_path / name)
    # random paths of each have the same cost in the other; pushing moves costs along a path, not its sum
    options = ("--random", "--npath=300", "--max_length=400", "--delta=0.01")
    kaldi.run("fstequivalent", *options, tmp_path / "embedded", tmp_path / "kaldi")


def test_graph_directory_has_what_kaldis_scripts_look_for(system: TinySystem, graphs: dict[str, Path]) -> None:
    for name in (
        "words.txt",
        "phones.txt",
        "num_pdfs",
        "disambig_tid.int",
        "phones/silence.csl",
        "phones/disambig.int",
    ):
        assert (graphs["kaldi"] / name).is_file(), name
    assert (graphs["kaldi"] / "num_pdfs").read_text() == (graphs["embedded"] / "num_pdfs").read_text()


@pytest.mark.parametrize("nj", [1, 3])
def test_best_path_of_the_lattices_is_the_hypothesis(
    kaldi: Kaldi, model_dir: Path, graphs: dict[str, Path], loglikes: Scores, tmp_path: Path, nj: int
) -> None:
    engine = kaldi.engine(EngineOptions(nj=nj, work_dir=tmp_path / "decode dir", lattices=True))
    found = engine.decoder(model_dir, graphs["kaldi"], DecodeConfig(acwt=ACWT)).decode(loglikes.items())
    lattices = sorted((tmp_path / "decode dir").glob("lat.*.gz"))
    assert [path.name for path in lattices] == [f"lat.{job}.gz" for job in range(1, nj + 1)]
    whole = tmp_path / "lat"
    whole.write_bytes(b"".join(gzip.decompress(path.read_bytes()) for path in lattices))
    kaldi.run(
        "lattice-best-path", f"--acoustic-scale={ACWT}", f"ark:{whole}", f"ark,t:{tmp_path}/w", f"ark,t:{tmp_path}/a"
    )
    words, alignments = (read_text_vectors((tmp_path / name).read_text()) for name in ("w", "a"))
    ids = read_symbols(graphs["kaldi"] / "words.txt")
    assert words == {utt: [ids[word] for word in h.words] for utt, h in found.items()}
    assert alignments == {utt: h.alignment.tolist() for utt, h in found.items()}


def test_number_of_jobs_changes_nothing(
    kaldi: Kaldi, system: TinySystem, model_dir: Path, graphs: dict[str, Path], loglikes: Scores
) -> None:
    transcripts = dict.fromkeys(loglikes, system.word_ids("one"))
    config = DecodeConfig(acwt=ACWT)
    engines = [kaldi.engine(EngineOptions(nj=nj)) for nj in (1, 4, 100)]
    decoded = [engine.decoder(model_dir, graphs["kaldi"], config).decode(loglikes.items()) for engine in engines]
    aligned = [
        engine.aligner(model_dir, system.lang, config).align(loglikes.items(), transcripts) for engine in engines
    ]
    for other in decoded[1:]:
        assert list(other) == list(decoded[0])
        assert all(other[utt].words == decoded[0][utt].words for utt in other)
        assert all(other[utt].score == decoded[0][utt].score for utt in other)
    for alignments in aligned[1:]:
        assert {u: a.tolist() for u, a in alignments.items()} == {u: a.tolist() for u, a in aligned[0].items()}


def test_number_of_jobs_changes_a_model_in_its_last_digits_only(
    kaldi: Kaldi, system: TinySystem, tmp_path: Path
) -> None:
    feats = tiny.features(system.waves)
    transcripts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
    found = []
    for nj in (1, 4):
        kaldi.engine(EngineOptions(nj=nj)).train_mono(feats, transcripts, system.lang, tmp_path / str(nj), tiny.MONO)
        found.append(read_gmm_model(tmp_path / str(nj) / "final.mdl")[1])
        assert (tmp_path / str(nj) / "num_jobs").read_text() == f"{nj}\n"
        assert len(list((tmp_path / str(nj)).glob("ali.*.gz"))) == nj
    for ours, theirs in zip(found[0].means_invvars, found[1].means_invvars, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("script", ["run.pl", "queue.pl"])
def test_jobs_run_through_kaldis_own_scripts(
    kaldi: Kaldi, system: TinySystem, tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script == "queue.pl":
        fake_grid_engine(tmp_path / "bin")
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{kaldi.env['PATH']}")
    cmd = f"{kaldi.recipe / 'utils' / script} --mem 1G"
    engine = kaldi.engine(EngineOptions(cmd=cmd, nj=2, work_dir=tmp_path / "align"))
    _, gmms = read_gmm_model(system.mono / "final.mdl")
    scores = {utt: gmms.loglikes(feats) for utt, feats in tiny.features(system.waves).items()}
    transcripts = {utt: system.word_ids(*words) for utt, words in system.text.items()}
    ours, theirs = (
        e.aligner(system.mono, system.lang, DecodeConfig()).align(scores.items(), transcripts)
        for e in (EmbeddedEngine(), engine)
    )
    assert {u: a.tolist() for u, a in ours.items()} == {u: a.tolist() for u, a in theirs.items()}
    logs = sorted((tmp_path / "align/log").glob("*.log"))
    assert [path.name for path in logs] == ["align-compiled-mapped.1.log", "align-compiled-mapped.2.log"]
    assert all("Done 8, errors on 0" in path.read_text() for path in logs)


def fake_grid_engine(folder: Path) -> None:
    """The two commands of Grid Engine that queue.pl calls: jobs of an array run here, one after the other."""
    folder.mkdir()
    (folder / "qsub").write_text(
        """#!/usr/bin/env bash
script=${!#} first=1 last=1 log=/dev/null hold=
while [ $# -gt 1 ]; do
  case $1 in
    -t) first=${2%:*} last=${2#*:}; shift 2 ;;
    -o) log=$2; shift 2 ;;
    *) shift ;;
  esac
done
echo 'Your job-array 17.1-9:1 ("x") has been submitted'
for ((task = first; task <= last; task++)); do SGE_TASK_ID=$task bash "$script" >>"$log" 2>&1; done
exit 0
"""
    )
    (folder / "qstat").write_text("#!/bin/sh\necho 'Following jobs do not exist:' >&2\nexit 1\n")
    for path in folder.iterdir():
        path.chmod(0o755)


def test_lang_directory_is_accepted_by_validate_lang(kaldi: Kaldi, system: TinySystem, tmp_path: Path) -> None:
    (tmp_path / "utils").symlink_to(kaldi.recipe / "utils")
    (tmp_path / "path.sh").write_text("")
    shutil.copytree(system.lang.path, tmp_path / "lang")  # Kaldi's script takes no blank in a path
    said = kaldi.run("utils/validate_lang.pl", "lang", cwd=tmp_path)
    assert "--> SUCCESS" in said
