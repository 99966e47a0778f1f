"""Features and CMVN against Kaldi's own programs; skipped without a KALDI_ROOT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from kaldi_uq.cli.main import main
from kaldi_uq.feats.conf import read_fbank_conf, read_mfcc_conf
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.splice import splice
from kaldi_uq.feats.transforms import FixedTransform, affine, transform
from kaldi_uq.io.ark import read_matrix
from kaldi_uq.io.datadir import DataDir, read_table, write_data_dir
from kaldi_uq.io.feats_dir import gmm_features
from kaldi_uq.io.transforms import read_transforms
from kaldi_uq.io.wav import to_int16
from tests import tiny
from tests.kaldi import Kaldi, read_text_matrices
from tests.test_transforms import write_matrix, write_trans

# Kaldi computes in single precision, and its logarithm of a mel energy is as exact as that energy: of quiet frames to
# about 1e-3.  Everything that is wrong in a front end (a window, a filter, an edge) changes values by far more.
ATOL = 5e-3

RATE = "--sample-frequency=8000\n"
MFCC_CONFS = {
    "defaults": RATE,
    "no energy": RATE + "--use-energy=false\n--num-mel-bins=30\n--num-ceps=20\n",
    "edges": RATE + "--snip-edges=false\n--low-freq=64\n--high-freq=-200\n",
    "window": RATE + "--window-type=hamming\n--raw-energy=false\n--frame-length=32\n--frame-shift=8\n",
    "htk": RATE + "--htk-compat=true\n--remove-dc-offset=false\n--preemphasis-coefficient=0\n",
    "no lifter": RATE + "--cepstral-lifter=0\n--window-type=blackman\n--round-to-power-of-two=false\n",
}
FBANK_CONFS = {
    "defaults": RATE,
    "energy": RATE + "--use-energy=true\n--num-mel-bins=40\n--window-type=hanning\n",
    "linear": RATE + "--use-log-fbank=false\n--window-type=rectangular\n",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory: eight utterances of two speakers."""
    folder = tmp_path_factory.mktemp("parity features")
    waves, text = tiny.make_waves(8)
    names = {utt: f"spk{number % 2}-{utt}" for number, utt in enumerate(waves)}
    for utt, wave in waves.items():
        wavfile.write(folder / f"{utt}.wav", tiny.RATE, to_int16(wave))
    write_data_dir(
        folder / "data",
        wav_scp={name: str(folder / f"{utt}.wav") for utt, name in names.items()},
        text={name: " ".join(text[utt]) for utt, name in names.items()},
        utt2spk={name: name[:4] for name in names.values()},
        utt2dur={name: len(waves[utt]) / tiny.RATE for utt, name in names.items()},
    )
    # Kaldi's tools do not take blanks in the names of files in a table
    (folder / "data/wav.scp").write_text(
        "".join(f"{name} cat '{folder / utt}.wav' |\n" for name, utt in sorted((n, u) for u, n in names.items()))
    )
    return folder / "data"


def our_features(front_end: FrontEnd, data: Path) -> dict[str, np.ndarray]:
    found = {}
    for utt, source in read_table(data / "wav.scp").items():
        wave = wavfile.read(source.split("'")[1])[1].astype(np.float32) / 32768
        with torch.no_grad():
            found[utt] = front_end.cepstra_of(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][0].numpy()
    return found


@pytest.mark.parametrize(
    ("kind", "name"), [*(("mfcc", name) for name in MFCC_CONFS), *(("fbank", name) for name in FBANK_CONFS)]
)
def test_features_are_those_of_kaldis_program(kaldi: Kaldi, data: Path, tmp_path: Path, kind: str, name: str) -> None:
    confs = MFCC_CONFS if kind == "mfcc" else FBANK_CONFS
    conf = tmp_path / "feats.conf"
    conf.write_text(confs[name] + "--dither=0\n")
    config = (
        FrontEndConfig(mfcc=read_mfcc_conf(conf))
        if kind == "mfcc"
        else FrontEndConfig(kind="fbank", fbank=read_fbank_conf(conf))
    )
    ours = our_features(FrontEnd(config), data)
    theirs = read_text_matrices(
        kaldi.run(f"compute-{kind}-feats", f"--config={conf}", f"scp:{data / 'wav.scp'}", "ark,t:-")
    )
    assert ours.keys() == theirs.keys()
    for utt, feats in ours.items():
        assert feats.shape == theirs[utt].shape
        scale = max(1.0, float(np.abs(theirs[utt]).max()) / 100)  # energies that are not logarithms are large
        np.testing.assert_allclose(feats, theirs[utt], atol=ATOL * scale, rtol=1e-4)


@pytest.fixture(scope="module")
def both(kaldi: Kaldi, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data directories with features and CMVN statistics by each engine, made by the commands of the steps."""
    conf = tmp_path_factory.mktemp("conf") / "mfcc.conf"
    conf.write_text(MFCC_CONFS["no energy"])
    found = {}
    for engine in ("embedded", "kaldi"):
        folder = tmp_path_factory.mktemp(f"feats {engine}") / "data"
        folder.mkdir()
        for name in ("wav.scp", "utt2spk", "spk2utt", "text", "utt2dur"):
            (folder / name).write_text((data / name).read_text())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KALDI_ROOT", str(kaldi.root))
            options = ["--engine", engine, "--allow-pipes"]
            for command, name, more in (
                ("compute-mfcc", "feats", ["--mfcc-config", str(conf), "--num-frames", str(folder / "utt2num_frames")]),
                ("compute-cmvn", "cmvn", []),
            ):
                places = [str(folder), str(folder / f"{name}.ark"), str(folder / f"{name}.scp")]
                assert main([command, *options, *more, *places]) == 0
        found[engine] = folder
    return found


def test_commands_of_both_engines_write_the_same_features_and_statistics(both: dict[str, Path]) -> None:
    for name, atol in (("feats", ATOL), ("cmvn", 1.0)):  # statistics are sums over hundreds of frames, and of squares
        ours, theirs = (read_table(both[engine] / f"{name}.scp") for engine in ("embedded", "kaldi"))
        assert ours.keys() == theirs.keys()
        for key in ours:
            a, b = read_matrix(ours[key], dtype=np.float64), read_matrix(theirs[key], dtype=np.float64)
            np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5)
    frames = [(both[engine] / "utt2num_frames").read_text() for engine in both]
    assert frames[0] == frames[1]


def test_log_of_the_program_is_kept(both: dict[str, Path]) -> None:
    log = (both["kaldi"] / "log/compute-mfcc-feats.1.log").read_text()
    assert "--dither=0" in log
    assert "Done 8 out of 8 utterances" in log


def test_statistics_of_the_same_features_are_those_of_kaldis_program(kaldi: Kaldi, both: dict[str, Path]) -> None:
    folder = both["embedded"]
    theirs = read_text_matrices(
        kaldi.run("compute-cmvn-stats", f"--spk2utt=ark:{folder / 'spk2utt'}", f"scp:{folder / 'feats.scp'}", "ark,t:-")
    )
    for spk, place in read_table(folder / "cmvn.scp").items():
        # sums in double precision of the same single-precision numbers; the text form has 7 digits
        np.testing.assert_allclose(read_matrix(place, dtype=np.float64), theirs[spk], rtol=2e-6, atol=1e-6)


def test_features_of_gmm_systems_are_those_of_apply_cmvn_and_add_deltas(kaldi: Kaldi, both: dict[str, Path]) -> None:
    folder = both["embedded"]
    theirs = read_text_matrices(
        kaldi.shell(
            f"apply-cmvn --utt2spk=ark:'{folder}/utt2spk' 'scp:{folder}/cmvn.scp' 'scp:{folder}/feats.scp' ark:- "
            "| add-deltas ark:- ark,t:-"
        )
    )
    ours = dict(gmm_features(DataDir.read(folder)))
    assert ours.keys() == theirs.keys()
    for utt, feats in ours.items():
        np.testing.assert_allclose(feats, theirs[utt], atol=2e-4)


def test_kaldi_reads_our_archives_and_we_read_its(kaldi: Kaldi, both: dict[str, Path], tmp_path: Path) -> None:
    source = f"scp:{both['embedded'] / 'feats.scp'}"
    ours = read_table(both["embedded"] / "feats.scp")
    theirs = read_text_matrices(kaldi.run("copy-feats", source, "ark,t:-"))
    for compress, atol in ((False, 0.0), (True, 0.6)):
        kaldi.run("copy-feats", f"--compress={str(compress).lower()}", source, f"ark,scp:{tmp_path}/a,{tmp_path}/s")
        for utt, place in read_table(tmp_path / "s").items():
            feats = read_matrix(ours[utt])
            np.testing.assert_allclose(theirs[utt], feats, rtol=1e-6, atol=1e-5)
            np.testing.assert_allclose(read_matrix(place), feats, atol=atol)


@pytest.mark.parametrize("columns", [0, 1], ids=["linear", "affine"])
def test_lda_and_fmllr_are_those_of_splice_feats_and_transform_feats(
    kaldi: Kaldi, both: dict[str, Path], tmp_path: Path, columns: int
) -> None:
    folder, rng = both["embedded"], np.random.default_rng(0)
    dim = read_matrix(next(iter(read_table(folder / "feats.scp").values()))).shape[1]
    lda = write_matrix(tmp_path / "final.mat", rng.standard_normal((9, 6 * dim + columns)))
    trans = {spk: rng.standard_normal((9, 9 + columns)) for spk in ("spk0", "spk1")}
    write_trans(tmp_path, {"spk0": trans["spk0"]}, {"spk1": trans["spk1"]})
    utt2spk = read_table(folder / "utt2spk")
    theirs = read_text_matrices(
        kaldi.shell(
            f"cat {tmp_path}/trans.1 {tmp_path}/trans.2 > {tmp_path}/all; "
            f"splice-feats --left-context=3 --right-context=2 'scp:{folder}/feats.scp' ark:- "
            f"| transform-feats {lda} ark:- ark:- "
            f"| transform-feats --utt2spk=ark:'{folder}/utt2spk' ark:{tmp_path}/all ark:- ark,t:-"
        )
    )
    matrices = read_transforms(tmp_path, utt2spk)
    fixed = FixedTransform(6 * dim, 9).double()
    fixed.set_matrix(read_matrix(str(lda)), str(lda))
    for utt, place in read_table(folder / "feats.scp").items():
        feats = torch.from_numpy(read_matrix(place, dtype=np.float64))[None]
        lengths = torch.tensor([feats.shape[1]])
        fmllr = torch.from_numpy(affine(matrices[utt], 9, utt))[None]
        ours = transform(fixed(splice(feats, lengths, 3, 2), lengths), lengths, fmllr)
        np.testing.assert_allclose(ours[0].numpy(), theirs[utt], rtol=1e-3, atol=1e-2)
