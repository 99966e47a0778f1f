"""The nnet commands on directories as other recipes have them: segments, pipes, filter banks, CMVN of speakers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError
from kaldi_uq.feats.adaptation import Adaptation
from kaldi_uq.feats.cmvn_stats import accumulate_cmvn_stats
from kaldi_uq.feats.config import FbankConfig, FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.ark import MatrixWriter, read_matrix
from kaldi_uq.io.datadir import DataDir, invert_utt2spk, read_table, write_table
from kaldi_uq.io.files import write_text
from kaldi_uq.io.wav import to_int16, write_wav
from kaldi_uq.io.waves import read_waves
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.speakers import speaker_stats, stats_of_waves
from tests.conftest import REPO, RunScript
from tests.tiny import RATE, TinySystem, make_system

# as the tiny system's front end, so that its alignments have the right length
CONF = "--sample-frequency=8000\n--num-mel-bins=15\n--use-energy=false\n"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return make_system(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def place(system: TinySystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``whole``: a file an utterance; ``cut``: the same utterances as segments of pipes; ``ali`` with cmvn_opts."""
    root = tmp_path_factory.mktemp("recipe")
    utts = list(system.waves)
    utt2spk = {utt: "s" for utt in utts[:8]} | {utt: "t" for utt in utts[8:]}
    names = {utt: f"{spk}-{utt}" for utt, spk in utt2spk.items()}
    whole, cut, segments, recordings = {}, {}, {}, {}
    for spk in ("s", "t"):
        parts, at = [], 0
        for utt in (utt for utt in utts if utt2spk[utt] == spk):
            samples = to_int16(system.waves[utt])
            whole[names[utt]] = str(root / "wav" / f"{utt}.wav")
            write_wav(whole[names[utt]], samples, RATE)
            segments[names[utt]] = f"{spk} {(at + 50) / RATE:.6f} {(at + 50 + len(samples)) / RATE:.6f}"
            parts += [np.ones(50, np.int16), samples]
            at += 50 + len(samples)
        write_wav(root / f"{spk}.wav", np.concatenate(parts), RATE)
        recordings[spk] = root / f"{spk}.wav"
        cut[spk] = f"tail -c +1 {root / f'{spk}.wav'} |"
    tables = {
        "text": {names[utt]: " ".join(system.text[utt]) for utt in utts},
        "utt2spk": {names[utt]: spk for utt, spk in utt2spk.items()},
    }
    tables["spk2utt"] = {spk: " ".join(of_spk) for spk, of_spk in invert_utt2spk(tables["utt2spk"]).items()}
    for name, scp in (("whole", whole), ("cut", cut)):
        for table, content in (tables | {"wav.scp": scp}).items():
            write_table(root / name / table, content)
    write_table(root / "cut/segments", segments)
    ali = root / "ali"
    shutil.copytree(system.mono, ali)
    (ali / "graph").exists() and shutil.rmtree(ali / "graph")
    from kaldi_uq.io.ark import write_alignments

    write_alignments(ali / "ali.1.gz", {names[utt]: a for utt, a in system.alignments.items()})
    write_text(ali / "cmvn_opts", "--norm-vars=true\n")
    write_text(root / "fbank.conf", CONF + "--num-mel-bins=12\n")
    write_text(root / "mfcc.conf", CONF + "--num-ceps=7\n")
    return root


TRAIN = ["--hidden-dims", "16", "--num-epochs", "12", "--batch-size", "64", "--num-viterbi-epochs", "1",
         "--engine", "embedded", "--device", "cpu", "--learning-rate", "0.01", "--delta-order", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def model_dir(place: Path, system: TinySystem) -> Path:
    """Filter banks normalised by speaker, trained on segments of pipes."""
    words = ["nnet-train", *TRAIN, "--allow-pipes", "--fbank-config", str(place / "fbank.conf")]
    assert main([*words, str(place / "cut"), str(system.lang.path), str(place / "ali"), str(place / "exp")]) == 0
    return place / "exp"


def forward(model_dir: Path, data: Path, out: Path, *options: str) -> dict[str, np.ndarray]:
    words = ["nnet-forward", "--device", "cpu", *options, str(data), str(model_dir), f"{out}.ark", f"{out}.scp"]
    assert main(words) == 0
    return {utt: read_matrix(rx) for utt, rx in read_table(f"{out}.scp").items()}


def test_model_file_carries_the_recipes_front_end(model_dir: Path) -> None:
    config = HybridModel.load(model_dir).front_end.config
    assert config == FrontEndConfig(
        kind="fbank",
        fbank=FbankConfig(sample_frequency=8000, num_mel_bins=12, use_energy=False),
        cmvn="speaker",
        norm_vars=True,
        delta_order=1,
    )


@pytest.mark.long
def test_flags_win_over_the_recipes_options(place: Path, system: TinySystem, tmp_path: Path) -> None:
    words = ["nnet-train", *TRAIN, "--mfcc-config", str(place / "mfcc.conf")]
    places = [str(place / "whole"), str(system.lang.path), str(place / "ali")]
    assert main([*words, "--norm-vars", "false", *places, str(tmp_path / "one")]) == 0
    assert main([*words, "--opts-dir", "none", *places, str(tmp_path / "two")]) == 0
    one, two = (HybridModel.load(tmp_path / name).front_end.config for name in ("one", "two"))
    assert (one.kind, one.cmvn, one.norm_vars) == ("kaldi", "speaker", False)
    assert (two.cmvn, two.norm_vars) == ("none", False)


def test_features_must_be_said_and_only_once(
    place: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(place / "whole"), str(system.lang.path), str(place / "ali"), str(tmp_path / "exp")]
    assert main(["nnet-train", *TRAIN, *places]) == 1
    assert "give the features of the model: --mfcc-config FILE, or --fbank-config FILE" in capsys.readouterr().err
    both = ["--mfcc-config", str(place / "mfcc.conf"), "--fbank-config", str(place / "fbank.conf")]
    with pytest.raises(SystemExit):
        main(["nnet-train", *TRAIN, *both, *places])
    assert "not allowed with" in capsys.readouterr().err


def test_segments_of_pipes_and_files_give_the_same_log_likelihoods(
    place: Path, model_dir: Path, tmp_path: Path
) -> None:
    cut = forward(model_dir, place / "cut", tmp_path / "cut", "--allow-pipes")
    whole = forward(model_dir, place / "whole", tmp_path / "whole")
    assert list(cut) == list(whole) and len(cut) == 16
    assert all(np.array_equal(cut[utt], whole[utt]) for utt in cut)


def test_decode_reads_segments_and_hears_the_words(
    place: Path, model_dir: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--engine", "embedded", "--device", "cpu"]
    places = [str(place / "cut"), str(model_dir), str(system.graph), str(tmp_path / "decoded")]
    assert main(["nnet-decode", *common, *places]) == 1
    assert "wav.scp:1: 'tail " in capsys.readouterr().err
    assert main(["nnet-decode", *common, "--allow-pipes", *places]) == 0
    words = read_table(tmp_path / "decoded/hypotheses", allow_empty=True)
    right = sum(words[utt] == text for utt, text in read_table(place / "cut/text").items())
    assert right >= 14  # of 16: the network has learnt something


def test_statistics_of_cmvn_scp_and_of_the_waveforms_are_the_same(place: Path, model_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(place / "whole", data)
    front_end = HybridModel.load(model_dir).front_end
    waves = read_waves(DataDir.read(data), sample_rate=RATE, min_samples=1)
    utt2spk = read_table(data / "utt2spk")
    stats = stats_of_waves(front_end, waves, utt2spk)
    one = [utt for utt in waves if utt2spk[utt] == "t"]
    feats = [front_end.cepstra_of(torch.from_numpy(waves[u])[None], torch.tensor([len(waves[u])]))[0][0] for u in one]
    expected = sum(accumulate_cmvn_stats(f.numpy()) for f in feats)
    np.testing.assert_allclose(stats["t"], expected, rtol=1e-6)
    with MatrixWriter(data / "cmvn.ark", data / "cmvn.scp") as writer:
        for spk, values in stats.items():
            writer.write(spk, values)
    computed = forward(model_dir, place / "whole", tmp_path / "w")
    for source in ("auto", "scp"):
        read = forward(model_dir, data, tmp_path / source, "--cmvn-from", source)
        assert all(np.array_equal(read[utt], computed[utt]) for utt in read)
    # other statistics are noticed, and --cmvn-from waves leaves them alone
    with MatrixWriter(data / "cmvn.ark", data / "cmvn.scp") as writer:
        for spk, values in stats.items():
            writer.write(spk, values * 0.5 + np.eye(*values.shape))
    other = forward(model_dir, data, tmp_path / "other")
    assert not any(np.allclose(other[utt], computed[utt]) for utt in other)
    again = forward(model_dir, data, tmp_path / "again", "--cmvn-from", "waves")
    assert all(np.array_equal(again[utt], computed[utt]) for utt in again)


def test_statistics_of_other_features_are_not_taken(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "whole", tmp_path / "data")
    with MatrixWriter(tmp_path / "cmvn.ark", tmp_path / "data/cmvn.scp") as writer:
        for spk in ("s", "t"):
            writer.write(spk, np.ones((2, 14)))
    front_end = FrontEnd(
        FrontEndConfig(mfcc=MfccConfig(sample_frequency=RATE, num_ceps=7, num_mel_bins=15), cmvn="speaker")
    )
    data = DataDir.read(tmp_path / "data")
    waves = read_waves(data, sample_rate=RATE, min_samples=1)
    assert {s.shape for s in speaker_stats(front_end, data, waves).values()} == {(2, 8)}
    with pytest.raises(DataError, match=r"cmvn\.scp: statistics of 13 dimensions, the front end has 7; .*--cmvn-from"):
        speaker_stats(front_end, data, waves, source="scp")
    (tmp_path / "data/cmvn.scp").unlink()
    with pytest.raises(DataError, match=r"cmvn\.scp: no statistics of speaker 's'"):
        speaker_stats(front_end, DataDir.read(tmp_path / "data"), waves, source="scp")


def test_utterance_without_statistics_is_named(model_dir: Path) -> None:
    model = HybridModel.load(model_dir)
    with pytest.raises(DataError, match=r"utterance 'x': no CMVN statistics of its speaker"):
        model.adaptation_of(["x"])
    model.set_speakers({"x": Adaptation(np.ones((2, 13)))})
    assert model.adaptation_of(["x", "x"]).cmvn_stats.shape == (2, 2, 13)  # type: ignore[union-attr]


def test_other_sample_rate_than_the_confs_is_one_error(
    place: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path / "mfcc.conf", "--num-ceps=7\n")  # 16 kHz
    words = ["nnet-train", *TRAIN, "--mfcc-config", str(tmp_path / "mfcc.conf"), str(place / "whole")]
    assert main([*words, str(system.lang.path), str(place / "ali"), str(tmp_path / "exp")]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "sample rate 8000 Hz, expected 16000 Hz (--sample-frequency" in line
    assert not (tmp_path / "exp").exists()


def test_lang_without_grammar_needs_no_viterbi_epochs(
    place: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(system.lang.path, tmp_path / "lang")
    (tmp_path / "lang/G.fst").unlink()
    words = ["nnet-train", *TRAIN, "--mfcc-config", str(place / "mfcc.conf"), str(place / "whole"),
             str(tmp_path / "lang"), str(place / "ali"), str(tmp_path / "exp")]  # fmt: skip
    assert main(words) == 1
    assert "G.fst: no such file; take the language directory" in capsys.readouterr().err
    assert main([*words, "--num-viterbi-epochs", "0"]) == 0


@pytest.mark.long
def test_steps_work_on_the_directories_of_another_recipe(
    place: Path, system: TinySystem, run_script: RunScript, tmp_path: Path
) -> None:
    for name in ("steps", "utils", "local"):
        (tmp_path / name).symlink_to(REPO / name)
    (tmp_path / "path.sh").write_text(". utils/env.sh\n")
    words = [word for word in TRAIN if word not in ("--engine", "embedded", "--device", "cpu")]
    common = ("--device", "cpu", "--allow-pipes", "true")

    def step(name: str, *arguments: object) -> str:
        done = run_script(f"steps/uq/{name}.sh", *map(str, arguments))
        assert done.returncode == 0, done.stderr
        return done.stderr

    step("train", *common, "--engine", "embedded", "--train-opts", " ".join(words), "--fbank-config",
         place / "fbank.conf", place / "cut", system.lang.path, place / "ali", "exp/dnn")  # fmt: skip
    assert HybridModel.load(tmp_path / "exp/dnn").front_end.config.kind == "fbank"
    said = step("forward", *common, place / "cut", "exp/dnn", "exp/forward")
    assert "exp/forward/loglikes.scp: 16 utterances" in said
    said = step("decode", *common, "--engine", "embedded", "exp/dnn/graph", place / "cut", "exp/dnn", "exp/decode")
    assert "%WER" in said
    refused = run_script("steps/uq/forward.sh", place / "cut", "exp/dnn", "exp/other")
    assert refused.returncode == 1
    assert "wav.scp:1: 'tail " in refused.stderr and "--allow-pipes" in refused.stderr
