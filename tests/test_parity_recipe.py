"""The digit recipe beside Kaldi's own ``steps/``: on recorded digits, with KALDI_ROOT and KALDI_UQ_FSDD."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig, EngineOptions, MonoConfig
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.io.ark import read_alignments
from kaldi_uq.io.datadir import DataDir, read_table
from kaldi_uq.io.feats_dir import gmm_features
from kaldi_uq.io.kaldi_model import read_gmm_model, read_transitions
from kaldi_uq.io.lang import Lang, read_symbols
from kaldi_uq.results.word_errors import align_words
from tests.kaldi import Kaldi, read_text_vectors
from tests.recipe import Recipe, make_recipe

CORPUS = "--num-train 400 --num-fit 60 --num-test 100 --num-attack 8"
ENGINES = ("embedded", "kaldi")
NEED = ("utt2spk", "text", "feats.scp", "cmvn.scp")


@pytest.fixture(scope="module")
def recipe(
    kaldi: Kaldi, fsdd_dir: Path, script_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Recipe:
    """The recipe on recorded digits with a phone lexicon, up to the features, made without Kaldi."""
    recipe = make_recipe(tmp_path_factory.mktemp("parity_recipe"), script_env)  # Kaldi's scripts take no blanks
    recipe.run_sh(
        *("--corpus", "fsdd", "--corpus-dir", fsdd_dir, "--corpus-opts", CORPUS, "--lexicon", "phones"),
        *("--stop-stage", 1, "--seed", 3),
    )
    return recipe


@pytest.fixture(scope="module")
def theirs(kaldi: Kaldi, recipe: Recipe) -> Recipe:
    """A recipe directory of Kaldi's: its ``steps`` and ``utils``, our data; mono, tri1 and tri1_ali trained by them."""
    place = recipe.path.parent / "kaldi"
    place.mkdir()
    for name in ("steps", "utils"):
        (place / name).symlink_to(kaldi.recipe / name)
    shutil.copytree(recipe.path / "data", place / "data")
    for table in place.glob("data/*/*.scp"):  # the paths in them are relative to the recipe directory
        table.write_text(table.read_text().replace(f"{recipe.path}/", ""))
    (place / "path.sh").write_text(f"export PATH={kaldi.env['PATH']}:$PWD/utils\nexport LC_ALL=C\n")
    train, lang = "data/train", "data/lang"
    jobs = ("--nj", "2", "--cmd", "run.pl")
    for command in (
        ("utils/validate_data_dir.sh", train),
        ("utils/validate_data_dir.sh", "data/test"),
        ("steps/train_mono.sh", *jobs, "--num-iters", "12", "--totgauss", "200", train, lang, "exp/mono"),
        ("steps/align_si.sh", *jobs, train, lang, "exp/mono", "exp/mono_ali"),
        ("steps/train_deltas.sh", "--cmd", "run.pl", "--num-iters", "12", "80", "300", train, lang)
        + ("exp/mono_ali", "exp/tri1"),
        ("steps/align_si.sh", *jobs, train, lang, "exp/tri1", "exp/tri1_ali"),
        ("utils/mkgraph.sh", lang, "exp/tri1", "exp/tri1/graph"),
        ("steps/decode.sh", *jobs, "--skip-scoring", "true", "--acwt", "0.1")
        + ("exp/tri1/graph", "data/test", "exp/tri1/decode_test"),
    ):
        kaldi.run(*command, cwd=place)
    (recipe.path / "theirs").symlink_to(place)
    return recipe


def step(recipe: Recipe, kaldi: Kaldi, engine: str, *command: object) -> None:
    """Run a step on an engine, which KALDI_ROOT chooses."""
    done = recipe.run(*command, KALDI_ROOT=str(kaldi.root) if engine == "kaldi" else "")
    assert done.returncode == 0, done.stderr[-3000:]


def hypotheses(folder: Path) -> dict[str, list[str]]:
    parts = sorted(folder.glob("hypotheses*"))
    return {utt: text.split() for part in parts for utt, text in read_table(part, allow_empty=True).items()}


def test_kaldis_own_validation_accepts_data_and_lang(kaldi: Kaldi, theirs: Recipe) -> None:
    place = theirs.path / "theirs"
    for part in ("train", "test"):
        said = kaldi.run("utils/validate_data_dir.sh", f"data/{part}", cwd=place)
        assert f"Successfully validated data-directory data/{part}" in said
    assert "--> SUCCESS" in kaldi.run("utils/validate_lang.pl", "data/lang", cwd=place)


def test_gmm_system_of_kaldis_steps_decodes_to_the_same_words_with_both_engines(kaldi: Kaldi, theirs: Recipe) -> None:
    place = theirs.path / "theirs/exp/tri1"
    found = {}
    for engine in ENGINES:
        out = f"theirs/exp/tri1/decode_{engine}"
        step(theirs, kaldi, engine, "steps/decode.sh", "theirs/exp/tri1/graph", "data/test", out)
        found[engine] = hypotheses(place / f"decode_{engine}")
    assert found["embedded"] == found["kaldi"]
    lattices = b"".join(gzip.decompress(path.read_bytes()) for path in sorted((place / "decode_test").glob("lat.*.gz")))
    (place / "lat").write_bytes(lattices)
    text = kaldi.run("lattice-best-path", "--acoustic-scale=0.1", f"ark:{place / 'lat'}", "ark,t:-")
    words = {index: word for word, index in read_symbols(place / "graph/words.txt").items()}
    assert {utt: [words[i] for i in ids] for utt, ids in read_text_vectors(text).items()} == found["kaldi"]


def test_gmm_system_of_kaldis_steps_aligns_the_same_with_both_engines(kaldi: Kaldi, theirs: Recipe) -> None:
    found = {}
    for engine in ENGINES:
        out = f"exp/tri1_ali_{engine}"
        step(theirs, kaldi, engine, "steps/align_si.sh", "data/train", "data/lang", "theirs/exp/tri1", out)
        found[engine] = read_alignments(theirs.path / out)
    assert found["embedded"].keys() == found["kaldi"].keys()
    # our log-likelihoods are more precise than Kaldi's: a frame at a border may fall on the other side of it
    frames = sum(len(ali) for ali in found["kaldi"].values())
    same = sum(int((ali == found["kaldi"][utt]).sum()) for utt, ali in found["embedded"].items())
    assert same / frames > 0.9999


def test_gmm_system_of_kaldis_steps_is_taken_over_by_ours_with_the_same_words(kaldi: Kaldi, theirs: Recipe) -> None:
    options = "--num-epochs 3 --num-viterbi-epochs 1 --hidden-dims 128,128"
    found = {}
    for engine in ENGINES:
        model = f"exp/dnn_{engine}"
        places = ("data/train", "data/lang", "theirs/exp/tri1_ali", model)
        step(
            *(theirs, kaldi, engine, "steps/uq/train.sh", "--mfcc-config", "conf/mfcc_8k.conf"),
            *("--train-opts", options, "--device", "cpu", *places),
        )
        assert read_transitions(theirs.path / model / "final.mdl").num_pdfs == num_pdfs(theirs, "theirs/exp/tri1")
    # one model, decoded by both engines, on the graphs of both and on Kaldi's own
    for model in ("exp/dnn_embedded", "exp/dnn_kaldi"):
        for graph in (f"{model}/graph", "theirs/exp/tri1/graph"):
            for engine in ENGINES:
                out = f"{model}/score_{engine}_{Path(graph).parent.name}"
                step(theirs, kaldi, engine, "steps/uq/decode.sh", "--device", "cpu", graph, "data/test", model, out)
                found[model, graph, engine] = hypotheses(theirs.path / out)
            assert found[model, graph, "embedded"] == found[model, graph, "kaldi"]
    # and the networks of both, whose Viterbi epochs were aligned by different engines
    assert (
        found["exp/dnn_embedded", "exp/dnn_embedded/graph", "embedded"]
        == (found["exp/dnn_kaldi", "exp/dnn_kaldi/graph", "kaldi"])
    )
    texts = read_table(theirs.path / "data/test/text")
    errors = [
        align_words(texts[u].split(), h) for u, h in found["exp/dnn_kaldi", "exp/dnn_kaldi/graph", "kaldi"].items()
    ]
    total = sum(errors[1:], start=errors[0])
    assert total.accuracy > 0.9


def num_pdfs(recipe: Recipe, model: str) -> int:
    return read_transitions(recipe.path / model / "final.mdl").num_pdfs


@pytest.mark.parametrize(("totgauss", "tolerance"), [(0, 0.2), (250, 1.0)])
def test_monophone_training_of_both_engines_is_the_same(
    kaldi: Kaldi,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    totgauss: int,
    tolerance: float,
) -> None:
    # With one Gaussian a state all that is random is the first alignment, and it is the same.  Where Gaussians split is
    # random too: the error rates of one engine's own seeds are up to a percent apart, the likelihoods are not.
    monkeypatch.chdir(recipe.path)  # the tables have paths that are relative to it
    lang = Lang.read("data/lang")
    train, test = (DataDir.read(f"data/{name}", need=NEED) for name in ("train", "test"))
    feats, tests, transcripts = dict(gmm_features(train)), dict(gmm_features(test)), lang.transcripts(train)
    rates, likelihoods, alignments = [], [], []
    for engine in (EmbeddedEngine(), kaldi.engine(EngineOptions(nj=2))):
        out = tmp_path / engine.name
        engine.train_mono(feats, transcripts, lang, out, MonoConfig(totgauss=totgauss))
        engine.make_graph(lang, out, out / "graph", transition_scale=1.0, self_loop_scale=0.1)
        found = engine.decode_gmm(out, out / "graph", tests.items(), DecodeConfig())
        errors = [align_words(test.words(utt), found[utt].words) for utt in test.utts]
        rates.append(100 * (1 - sum(errors[1:], start=errors[0]).accuracy))
        table, gmms = read_gmm_model(out / "final.mdl")
        alignments.append(read_alignments(out))
        scores = [gmms.loglikes(feats[u])[range(len(a)), table.tid_to_pdf[a]] for u, a in alignments[-1].items()]
        likelihoods.append(float(np.concatenate(scores).mean()))
    assert abs(rates[0] - rates[1]) <= tolerance
    assert likelihoods[0] == pytest.approx(likelihoods[1], abs=0.002 if totgauss == 0 else 0.1)
    if totgauss == 0:
        same = [alignments[0][utt] == alignments[1][utt] for utt in feats]
        assert np.concatenate(same).mean() > 0.999
