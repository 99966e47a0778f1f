"""Training on alignments of Kaldi's later systems, and the commands after it: LDA+MLLT, fMLLR, chain models.

One file: the three systems share one small recipe and its trained models, which take seconds to make.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.ark import MatrixWriter, read_alignments, read_matrix, write_alignments
from kaldi_uq.io.datadir import invert_utt2spk, read_table, write_table
from kaldi_uq.io.event_map import PDF_CLASS, Leaf, Table, write_tree
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import HmmState, Topology, TransitionTable, read_transitions, write_model
from kaldi_uq.io.lang import Lang
from kaldi_uq.recogniser.hybrid import HybridModel
from tests.kaldi import tid_to_phone
from tests.test_transforms import write_matrix, write_trans
from tests.tiny import FRONT_END, TinySystem, make_lang, make_system, make_waves, train_mono, write_set

TRAIN = ["--hidden-dims", "16", "--num-epochs", "20", "--batch-size", "64", "--num-viterbi-epochs", "1",
         "--engine", "embedded", "--device", "cpu", "--learning-rate", "0.01",
         "--left-context", "1", "--right-context", "1"]  # fmt: skip
ROBUST = ["--robust-eps", "0.01", "--robust-steps", "1", "--robust-after", "1"]
NETWORK = """
from torch import nn


class Conv(nn.Module):
    def __init__(self, dim, pdfs):
        super().__init__()
        self.layer = nn.Conv1d(dim, pdfs, 3, padding=1)

    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


net = Conv
"""
LDA_DIM, DIM = 9, 7  # of the cepstra


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return make_system(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def place(system: TinySystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` of two speakers, ``tri3_ali`` with LDA+MLLT and fMLLR, ``decode`` with other transforms."""
    root = tmp_path_factory.mktemp("recipe")
    names = {utt: f"{'st'[number % 2]}-{utt}" for number, utt in enumerate(system.waves)}
    write_set(
        root / "data",
        {names[utt]: wave for utt, wave in system.waves.items()},
        {names[utt]: words for utt, words in system.text.items()},
    )
    utt2spk = {name: name[0] for name in sorted(names.values())}
    write_table(root / "data/utt2spk", utt2spk)
    write_table(root / "data/spk2utt", {spk: " ".join(utts) for spk, utts in invert_utt2spk(utt2spk).items()})
    write_text(root / "mfcc.conf", "--sample-frequency=8000\n--num-mel-bins=15\n--use-energy=false\n--num-ceps=7\n")
    ali = root / "tri3_ali"
    shutil.copytree(system.mono, ali, ignore=shutil.ignore_patterns("graph"))
    write_alignments(ali / "ali.1.gz", {names[utt]: a for utt, a in system.alignments.items()})
    write_text(ali / "cmvn_opts", "--norm-vars=false\n")
    write_text(ali / "splice_opts", "--left-context=2 --right-context=1\n")
    rng = np.random.default_rng(0)
    write_matrix(ali / "final.mat", rng.standard_normal((LDA_DIM, 4 * DIM)) / 10)
    write_text(ali / "full.mat", "x")
    for name, scale in (("tri3_ali", 0.1), ("tri3_ali/decode", 0.5)):
        trans = {
            spk: np.eye(LDA_DIM, LDA_DIM + 1) + scale * rng.standard_normal((LDA_DIM, LDA_DIM + 1)) for spk in "st"
        }
        write_trans(root / name, {"s": trans["s"]}, {"t": trans["t"]})
    return root


@pytest.fixture(scope="module")
def model_dir(place: Path, system: TinySystem) -> Path:
    exp = place / "exp"
    words = ["nnet-train", *TRAIN, "--mfcc-config", str(place / "mfcc.conf")]
    assert main([*words, str(place / "data"), str(system.lang.path), str(place / "tri3_ali"), str(exp)]) == 0
    shutil.copytree(system.graph, exp / "graph")
    return exp


def forward(place: Path, model_dir: Path, out: Path, *options: str) -> dict[str, np.ndarray]:
    places = [str(place / "data"), str(model_dir), f"{out}.ark", f"{out}.scp"]
    assert main(["nnet-forward", "--device", "cpu", *options, *places]) == 0
    return {utt: read_matrix(rx) for utt, rx in read_table(f"{out}.scp").items()}


def attack_words(wav: str, model_dir: Path, lang_dir: Path, out: Path) -> list[str]:
    places = ["--model-dir", str(model_dir), "--lang-dir", str(lang_dir), "--out", str(out)]
    return ["attack", wav, *places, "--untargeted", "--device", "cpu", "--engine", "embedded", "--num-steps", "2"]


class TestLdaAndFmllr:
    def test_model_file_carries_final_mat_and_the_options(self, place: Path, model_dir: Path) -> None:
        front_end = HybridModel.load(model_dir).front_end
        config = front_end.config
        assert (config.cmvn, config.delta_order, config.splice_left, config.splice_right) == ("speaker", 0, 2, 1)
        assert (config.lda_dim, config.fmllr, config.left_context) == (LDA_DIM, True, 1)
        np.testing.assert_allclose(
            front_end.lda.matrix[:, :-1].numpy(), read_matrix(str(place / "tri3_ali/final.mat")), rtol=1e-6
        )

    def test_transforms_of_the_data_change_what_the_network_sees(
        self, place: Path, model_dir: Path, tmp_path: Path
    ) -> None:
        ali, decode = (
            forward(place, model_dir, tmp_path / name.replace("/", "_"), "--transform-dir", str(place / name))
            for name in ("tri3_ali", "tri3_ali/decode")
        )
        assert len(ali) == 16 and not any(np.allclose(ali[utt], decode[utt]) for utt in ali)

    def test_decoding_hears_the_words_and_an_attack_goes_through(
        self, place: Path, model_dir: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = ["--engine", "embedded", "--device", "cpu", "--transform-dir", str(place / "tri3_ali")]
        places = [str(place / "data"), str(model_dir), str(model_dir / "graph")]
        assert main(["nnet-decode", *given, *places, str(tmp_path / "score")]) == 0
        assert float(capsys.readouterr().out.split()[1]) < 15  # %WER of speech that it was trained on
        attack = ["nnet-attack", *given, "--lang-dir", str(system.lang.path), "--num-utts", "2", "--eps", "0.05"]
        assert main([*attack, "--num-steps", "3", *places, str(tmp_path / "attack_pgd_eps0.05")]) == 0
        assert len((tmp_path / "attack_pgd_eps0.05/results.jsonl").read_text().splitlines()) == 2

    def test_one_file_is_heard_with_the_transform_of_its_speaker(
        self, place: Path, model_dir: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wav = read_table(place / "data/wav.scp")["s-utt00"]
        words = attack_words(wav, model_dir, system.lang.path, tmp_path / "out.wav")
        assert main(words) == 1
        assert "no fMLLR transform of its speaker, with which this model was trained" in capsys.readouterr().err
        assert main([*words, "--speaker", "s"]) == 1
        assert "--speaker and --transform-dir (or --online-ivector-dir) go together" in capsys.readouterr().err
        assert main([*words, "--transform-dir", str(place / "tri3_ali"), "--speaker", "q"]) == 1
        assert "no transform of speaker 'q'" in capsys.readouterr().err
        assert main([*words, "--transform-dir", str(place / "tri3_ali"), "--speaker", "s"]) == 0
        assert (tmp_path / "out.wav").is_file()

    def test_detectors_are_fitted_and_asked_with_it(
        self, place: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wavs = [wav for utt, wav in read_table(place / "data/wav.scp").items() if utt.startswith("s")]
        given = ["--device", "cpu", "--transform-dir", str(place / "tri3_ali"), "--speaker", "s"]
        assert main(["fit-detector", str(model_dir), *wavs, *given]) == 0
        assert main(["detect", str(model_dir), wavs[0], *given]) == 0
        heard = capsys.readouterr().out
        assert "1 file judged" in heard
        assert main(["detect", str(model_dir), wavs[0], "--device", "cpu"]) == 1
        assert "no fMLLR transform of its speaker" in capsys.readouterr().err

    def test_there_is_no_certificate(
        self, place: Path, model_dir: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        places = [str(model_dir), str(place / "data"), str(tmp_path)]
        assert main(["nnet-certify", "--device", "cpu", "--eps", "0.001", *places]) == 1
        assert "no certificate: the front end normalises by statistics of the speaker" in capsys.readouterr().err

    def test_warp_factors_of_the_data_are_said(
        self, place: Path, model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_table(place / "data/spk2warp", {"s": "0.9", "t": "1.1"})
        try:
            forward(place, model_dir, tmp_path / "out", "--transform-dir", str(place / "tri3_ali"))
        finally:
            (place / "data/spk2warp").unlink()
        assert "spk2warp: VTLN is not applied to features here" in caplog.text

    def test_transforms_that_are_missing_or_not_wanted(
        self, place: Path, model_dir: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        places = [str(place / "data"), str(model_dir), f"{tmp_path}/ark", f"{tmp_path}/scp"]
        assert main(["nnet-forward", "--device", "cpu", *places]) == 1
        assert "with fMLLR transforms (trans.*): give those of this speech, --transform-dir" in capsys.readouterr().err
        other = write_trans(tmp_path / "other", {"q": np.eye(LDA_DIM)})
        assert main(["nnet-forward", "--device", "cpu", "--transform-dir", str(other), *places]) == 1
        assert "trans.* have no transform of speaker 's'" in capsys.readouterr().err
        words = ["nnet-train", *TRAIN, "--mfcc-config", str(place / "mfcc.conf"), "--num-viterbi-epochs", "0"]
        places = [str(place / "data"), str(system.lang.path), str(place / "tri3_ali"), str(tmp_path / "exp")]
        assert main([*words, "--transform-dir", "none", *places]) == 0
        config = HybridModel.load(tmp_path / "exp").front_end.config
        assert (config.lda_dim, config.fmllr) == (LDA_DIM, False)
        forwarding = ["nnet-forward", "--device", "cpu", "--transform-dir", str(place / "tri3_ali")]
        assert main([*forwarding, str(place / "data"), str(tmp_path / "exp"), f"{tmp_path}/a", f"{tmp_path}/s"]) == 1
        assert "this model was trained without fMLLR transforms (trans.*); leave it out" in capsys.readouterr().err

    def test_final_mat_of_other_features(
        self, place: Path, system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ali = tmp_path / "ali"
        shutil.copytree(place / "tri3_ali", ali, ignore=shutil.ignore_patterns("decode"))
        write_text(ali / "splice_opts", "--left-context=3 --right-context=3\n")
        words = ["nnet-train", *TRAIN, "--mfcc-config", str(place / "mfcc.conf"), str(place / "data")]
        assert main([*words, str(system.lang.path), str(ali), str(tmp_path / "exp")]) == 1
        said = capsys.readouterr().err
        assert "final.mat: a matrix of 9 x 28, for features of 49 dimensions it must have 49 columns, or 50" in said
        assert not (tmp_path / "exp").exists()


def write_ivectors(folder: Path, num_frames: dict[str, int], dim: int, *, period: int = 10, scale: float = 1.0) -> Path:
    rng = np.random.default_rng(1)
    folder.mkdir()
    with MatrixWriter(folder / "ivector_online.ark", folder / "ivector_online.scp") as writer:
        for utt, frames in num_frames.items():
            writer.write(utt, (scale * rng.standard_normal((-(-frames // period), dim))).astype(np.float32))
    write_text(folder / "ivector_period", f"{period}\n")
    write_text(folder / "final.ie.id", "0123abcd\n")
    return folder


def chain_hmm(phones: tuple[int, ...], folder: Path) -> None:
    """The tree and the transition model of a chain system: one state, whose self-loop has a pdf of its own."""
    states = (HmmState(0, 1, ((0, 0.5), (1, 0.5))), HmmState(-1, -1, ()))
    topology = Topology(phones, (-1, *[0] * len(phones)), (states,))
    tuples = tuple((phone, 0, 2 * i, 2 * i + 1) for i, phone in enumerate(phones))
    log_probs = np.log(np.array([1.0] + [0.5] * (2 * len(phones)), np.float32))
    folder.mkdir()
    write_model(folder / "final.mdl", TransitionTable(topology, tuples, log_probs))
    branches = [Table(PDF_CLASS, (Leaf(2 * i), Leaf(2 * i + 1))) for i in range(len(phones))]
    write_tree(folder / "tree", Table(0, (None, *branches)), context_width=1, central_position=0)


@dataclass(frozen=True)
class ChainPlace:
    """``data``, ``chain_ali`` with a frame subsampling factor of 3, language directory and mfcc.conf."""

    root: Path
    lang: Lang
    num_frames: dict[str, int]  # of the features

    @property
    def train(self) -> list[str]:
        return ["nnet-train", *TRAIN, "--mfcc-config", str(self.root / "mfcc.conf"), "--self-loop-scale", "1.0",
                "--acwt", "0.5", str(self.root / "data"), str(self.lang.path)]  # fmt: skip


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> ChainPlace:
    root = tmp_path_factory.mktemp("chain")
    lang = make_lang(root, dict.fromkeys(("sil", "one", "three", "two"), 1))
    waves, text = make_waves(16)
    mono = train_mono(root / "mono", lang, waves, text)
    write_set(root / "data", waves, text)
    write_text(root / "mfcc.conf", "--sample-frequency=8000\n--num-mel-bins=15\n--use-energy=false\n--num-ceps=7\n")
    table = read_transitions(mono / "final.mdl")
    ali = root / "chain_ali"
    chain_hmm(table.topology.phones, ali)
    alignments = {}
    for utt, tids in read_alignments(mono).items():
        phones = tid_to_phone(table)[tids][::3]
        stays = np.concatenate([[False], phones[1:] == phones[:-1]])
        alignments[utt] = np.where(stays, 2 * phones - 1, 2 * phones).astype(np.int32)  # the self-loop is the first arc
    write_alignments(ali / "ali.1.gz", alignments)
    write_text(ali / "num_jobs", "1\n")
    write_text(ali / "frame_subsampling_factor", "3\n")
    front_end = FrontEnd(FRONT_END)
    return ChainPlace(root, lang, {utt: front_end.num_frames(len(wave)) for utt, wave in waves.items()})


@pytest.fixture(scope="module")
def chain_model(chain: ChainPlace) -> Path:
    exp = chain.root / "exp"
    assert main([*chain.train, str(chain.root / "chain_ali"), str(exp)]) == 0
    scales = {"transition_scale": 1.0, "self_loop_scale": 1.0}
    EmbeddedEngine().make_graph(chain.lang, exp, exp / "graph", **scales)
    return exp


class TestChain:
    def test_model_says_its_frame_rate(self, chain_model: Path) -> None:
        front_end = HybridModel.load(chain_model).front_end
        assert (front_end.factor, front_end.frame_shift_s) == (3, pytest.approx(0.03))
        assert (chain_model / "frame_subsampling_factor").read_text() == "3\n"

    def test_log_likelihoods_have_a_third_of_the_frames(
        self, chain: ChainPlace, chain_model: Path, tmp_path: Path
    ) -> None:
        found = forward(chain.root, chain_model, tmp_path / "out")
        assert {utt: len(values) for utt, values in found.items()} == {
            utt: (frames + 2) // 3 for utt, frames in chain.num_frames.items()
        }
        assert {values.shape[1] for values in found.values()} == {8}  # pdfs: two of each phone

    def test_words_are_heard_and_attacked_at_that_rate(
        self, chain: ChainPlace, chain_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = ["--engine", "embedded", "--device", "cpu", "--acwt", "0.5"]
        places = [str(chain.root / "data"), str(chain_model), str(chain_model / "graph")]
        assert main(["nnet-decode", *given, *places, str(tmp_path / "score")]) == 0
        assert float(capsys.readouterr().out.split()[1]) < 10  # %WER
        out = tmp_path / "attack_pgd_eps0.1"
        attack = ["nnet-attack", *given, "--lang-dir", str(chain.lang.path), "--num-utts", "2", "--eps", "0.1"]
        assert main([*attack, "--num-steps", "60", *places, str(out)]) == 0
        records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        assert len(records) == 2 and all(record["last_loss"] < record["first_loss"] for record in records)

    @pytest.mark.parametrize("content, message", [
        (None, r"the features have \d+; --frame-subsampling-factor 3 would fit"),
        ("2", r"of which frame_subsampling_factor 2 takes \d+; --frame-subsampling-factor 3 would fit"),
        ("0", r"frame_subsampling_factor: expected a positive number, found 0"),
    ])  # fmt: skip
    def test_factor_that_does_not_fit_the_lengths(
        self, chain: ChainPlace, tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ali = tmp_path / "ali"
        shutil.copytree(chain.root / "chain_ali", ali)
        (ali / "frame_subsampling_factor").unlink()
        if content is not None:
            write_text(ali / "frame_subsampling_factor", content + "\n")
        assert main([*chain.train, str(ali), str(tmp_path / "exp")]) == 1
        assert re.search(message, capsys.readouterr().err)

    def test_factor_can_be_given_where_no_file_says_it(self, chain: ChainPlace, tmp_path: Path) -> None:
        ali = tmp_path / "tree"  # steps/nnet3/chain/build_tree.sh writes none
        shutil.copytree(chain.root / "chain_ali", ali, ignore=shutil.ignore_patterns("frame_subsampling_factor"))
        words = [*chain.train, "--num-epochs", "1", "--num-viterbi-epochs", "0", "--frame-subsampling-factor", "3"]
        assert main([*words, str(ali), str(tmp_path / "exp")]) == 0
        assert HybridModel.load(tmp_path / "exp").front_end.factor == 3

    def test_frames_are_attacked_in_training_at_that_rate(self, chain: ChainPlace, tmp_path: Path) -> None:
        words = [*chain.train, *ROBUST, "--num-epochs", "2", "--num-viterbi-epochs", "0"]
        assert main([*words, str(chain.root / "chain_ali"), str(tmp_path / "exp")]) == 0

    @pytest.mark.parametrize("options", [[], ROBUST], ids=["plain", "robust"])
    def test_networks_that_read_whole_utterances_are_trained_at_that_rate(
        self, chain: ChainPlace, tmp_path: Path, options: list[str]
    ) -> None:
        code = tmp_path / "net.py"
        code.write_text(NETWORK)
        words = [*chain.train, "--network", f"{code}:net", *options, "--num-epochs", "2", "--num-viterbi-epochs", "0"]
        words += ["--left-context", "0", "--right-context", "0"]
        hidden = words.index("--hidden-dims")
        assert main([*words[:hidden], *words[hidden + 2 :], str(chain.root / "chain_ali"), str(tmp_path / "exp")]) == 0
        found = forward(chain.root, tmp_path / "exp", tmp_path / "out", "--network", f"{code}:net")
        assert all(len(found[utt]) == (frames + 2) // 3 for utt, frames in chain.num_frames.items())


@pytest.fixture(scope="module")
def ivectors(chain: ChainPlace) -> Path:
    return write_ivectors(chain.root / "ivectors", chain.num_frames, 4)


@pytest.fixture(scope="module")
def ivector_model(chain: ChainPlace, ivectors: Path) -> Path:
    exp = chain.root / "exp_ivectors"
    assert main([*chain.train, "--online-ivector-dir", str(ivectors), str(chain.root / "chain_ali"), str(exp)]) == 0
    EmbeddedEngine().make_graph(chain.lang, exp, exp / "graph", transition_scale=1.0, self_loop_scale=1.0)
    return exp


class TestIvectors:
    """Together with a chain model, as in Kaldi's recipes."""

    def test_network_sees_them_and_they_are_no_part_of_the_context(
        self, chain: ChainPlace, ivector_model: Path, ivectors: Path, tmp_path: Path
    ) -> None:
        front_end = HybridModel.load(ivector_model).front_end
        assert (front_end.feature_dim, front_end.output_dim) == (21 + 4, 3 * 21 + 4)
        assert front_end.config.ivector_extractor == "0123abcd"
        one = forward(chain.root, ivector_model, tmp_path / "one", "--online-ivector-dir", str(ivectors))
        louder = write_ivectors(tmp_path / "louder", chain.num_frames, 4, scale=3.0)
        two = forward(chain.root, ivector_model, tmp_path / "two", "--online-ivector-dir", str(louder))
        assert not any(np.allclose(one[utt], two[utt]) for utt in one)

    def test_words_are_heard_and_attacked(
        self, chain: ChainPlace, ivector_model: Path, ivectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = ["--engine", "embedded", "--device", "cpu", "--acwt", "0.5", "--online-ivector-dir", str(ivectors)]
        places = [str(chain.root / "data"), str(ivector_model), str(ivector_model / "graph")]
        assert main(["nnet-decode", *given, *places, str(tmp_path / "score")]) == 0
        assert float(capsys.readouterr().out.split()[1]) < 20  # %WER
        attack = ["nnet-attack", *given, "--lang-dir", str(chain.lang.path), "--num-utts", "2", "--num-steps", "3"]
        assert main([*attack, *places, str(tmp_path / "attack_pgd_eps0.02")]) == 0

    def test_one_file_is_heard_with_the_ivectors_of_its_utterance(
        self, chain: ChainPlace, ivector_model: Path, ivectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wav = read_table(chain.root / "data/wav.scp")["utt00"]
        words = attack_words(wav, ivector_model, chain.lang.path, tmp_path / "out.wav")
        assert main(words) == 1
        assert "no i-vectors of its speaker" in capsys.readouterr().err
        assert main([*words, "--online-ivector-dir", str(ivectors), "--speaker", "utt00"]) == 0

    @pytest.mark.parametrize("change, message", [
        ({"drop": "utt03"}, r"ivector_online\.scp: no i-vectors of utterance 'utt03'; extract them for this data"),
        ({"period": 5}, r"i-vectors, one every 5 frames, but the utterance has \d+ frames"),
        ({"dim": 5}, r"'utt00': i-vectors of 5 dimensions, the model was trained with 4"),
        ({"id": "feed"}, r"final\.ie\.id: i-vectors of another extractor \(feed\)"),
        ({"period": 0}, r"ivector_period: expected one positive number, found \[0\]"),
        ({"nan": True}, r"ivector_online\.scp:1: 'utt00': i-vectors that are empty, NaN"),
        (None, r"trained with i-vectors \(ivector_online\.scp\): give those of this speech, --online-ivector-dir DIR"),
    ])  # fmt: skip
    def test_ivectors_that_do_not_fit(
        self,
        chain: ChainPlace,
        ivector_model: Path,
        tmp_path: Path,
        change: dict[str, Any] | None,
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        places = [str(chain.root / "data"), str(ivector_model), f"{tmp_path}/ark", f"{tmp_path}/scp"]
        options = []
        if change is not None:
            scale = np.nan if "nan" in change else 1.0
            folder = write_ivectors(tmp_path / "ivectors", chain.num_frames, change.get("dim", 4), scale=scale)
            if "drop" in change:
                table = read_table(folder / "ivector_online.scp")
                del table[change["drop"]]
                write_table(folder / "ivector_online.scp", table)
            if "period" in change:
                write_text(folder / "ivector_period", f"{change['period']}\n")
            if "id" in change:
                write_text(folder / "final.ie.id", f"{change['id']}\n")
            options = ["--online-ivector-dir", str(folder)]
        assert main(["nnet-forward", "--device", "cpu", *options, *places]) == 1
        assert re.search(message, capsys.readouterr().err)

    def test_model_without_refuses_them(
        self, chain: ChainPlace, chain_model: Path, ivectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        places = [str(chain.root / "data"), str(chain_model), f"{tmp_path}/ark", f"{tmp_path}/scp"]
        assert main(["nnet-forward", "--device", "cpu", "--online-ivector-dir", str(ivectors), *places]) == 1
        assert "this model was trained without i-vectors" in capsys.readouterr().err
