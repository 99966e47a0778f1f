"""A network of the user's own, named on the command line: trained, resumed, saved and loaded with its code."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kaldi_uq.cli.main import main
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import ModelFileError, UsageError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.io.datadir import write_table
from kaldi_uq.io.files import write_text
from kaldi_uq.io.wav import to_int16, write_wav
from kaldi_uq.nnet import AcousticModel, deterministic, ensemble, mc_dropout, vmg
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from kaldi_uq.training.config import TrainConfig
from kaldi_uq.user_code import load_object
from tests import tiny
from tests.conftest import REPO, RunScript
from tests.test_train import Killed, train_in_pieces
from tests.tiny import FRONT_END, RATE, TinySystem

UTTERANCES = FrontEndConfig(mfcc=FRONT_END.mfcc, delta_order=1, left_context=0, right_context=0)
CONFIG = TrainConfig(num_epochs=2, num_viterbi_epochs=2, batch_size=400, learning_rate=0.01)


class Net(nn.Module):
    """A convolution over time with all that a training has to keep: buffers, dropout, weights."""

    def __init__(self, input_dim: int, num_pdfs: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(input_dim, 16, 5, padding=2)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Conv1d(16, num_pdfs, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.norm(self.first(x.transpose(1, 2)).relu()))
        logits: Tensor = self.last(hidden).transpose(1, 2)
        return logits


CODE = """
from __future__ import annotations
import torch
from torch import Tensor, nn
from kaldi_uq.nnet import ensemble, mc_dropout

"""
CODE += inspect.getsource(Net)
CODE += """
def dropped(input_dim, num_pdfs):
    return mc_dropout(Net(input_dim, num_pdfs), num_samples=3)

def several(input_dim, num_pdfs):
    return ensemble(lambda: Net(input_dim, num_pdfs), 2)

def narrow(input_dim, num_pdfs):
    return Net(input_dim, num_pdfs - 1)

def number(input_dim, num_pdfs):
    return 3

def wrong(input_dim):
    return Net(input_dim, 2)

def known(input_dim, num_pdfs):
    return mc_dropout(Net(input_dim, num_pdfs), num_pdfs=2)

def broken(input_dim, num_pdfs):
    return nn.Sequential(nn.Linear(input_dim + 1, num_pdfs))
"""


def with_dropout(input_dim: int, num_pdfs: int) -> AcousticModel:
    return mc_dropout(Net(input_dim, num_pdfs), num_samples=3)


def three(input_dim: int, num_pdfs: int) -> AcousticModel:
    return ensemble(lambda: Net(input_dim, num_pdfs), 3)


def bayesian(input_dim: int, num_pdfs: int) -> AcousticModel:
    return vmg(Net(input_dim, num_pdfs), num_samples=3)


FACTORIES = {"plain": Net, "mc_dropout": with_dropout, "ensemble": three, "vmg": bayesian}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), num_utts=12)


def build(system: TinySystem, name: str = "plain", seed: int = 0) -> HybridModel:
    return HybridModel.from_factory(UTTERANCES, FACTORIES[name], system.table.num_pdfs, seed=seed)


def loglikes(model: HybridModel, wave: np.ndarray) -> np.ndarray:
    """(T, C) of one waveform, averaged over draws."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        draws, _ = model.iter_log_post(torch.from_numpy(wave)[None], torch.tensor([len(wave)]), generator=generator)
        found: np.ndarray = model.loglikes(torch.cat(list(draws)).exp().mean(0).log())[0].numpy()
    return found


class TestTraining:
    @pytest.mark.long
    @pytest.mark.parametrize("name", FACTORIES)
    def test_killed_training_on_utterances_resumes_to_the_same_bits(
        self, system: TinySystem, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(11)  # the global generator must not matter
        model = system.trainer(tmp_path / "whole", build(system, name), CONFIG).run()
        assert not model.network.frame_wise
        torch.manual_seed(12)
        starts = train_in_pieces(lambda: system.trainer(tmp_path / "pieces", build(system, name), CONFIG), monkeypatch)
        assert starts == 9
        for file in (MODEL_FILE, "final.mdl", "tree", "history.json"):
            assert (tmp_path / "pieces" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
        loaded = HybridModel.load(tmp_path / "whole", network=FACTORIES[name])
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())

    def test_seed_decides_initial_weights_and_order(self, system: TinySystem, tmp_path: Path) -> None:
        before = torch.random.get_rng_state()
        for name in FACTORIES:
            weights = [build(system, name, seed).state_dict() for seed in (0, 0, 1)]
            assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
            assert any(not torch.equal(weights[0][key], weights[2][key]) for key in weights[0])
        assert torch.equal(torch.random.get_rng_state(), before)
        config = TrainConfig(num_epochs=1, num_viterbi_epochs=0, batch_size=400)
        found = []
        for seed in (0, 1):
            trainer = system.trainer(
                tmp_path / str(seed), build(system), TrainConfig(**{**config.to_dict(), "seed": seed})
            )
            found.append(trainer.run().state_dict()["network.module.first.weight"])
        assert not torch.equal(found[0], found[1])  # the same initial weights, another order

    @pytest.mark.long
    def test_recognises_words_it_has_not_seen(self, tmp_path: Path) -> None:
        system = tiny.make_system(tmp_path / "system", num_utts=24)
        config = TrainConfig(num_epochs=40, num_viterbi_epochs=1, batch_size=400, learning_rate=0.01)
        model = system.trainer(tmp_path / "net", build(system, "mc_dropout"), config).run()
        waves, text = tiny.make_waves(5, seed=77)
        system.engine.make_graph(system.lang, tmp_path / "net", tmp_path / "graph", **tiny.GRAPH_SCALES)
        scores = [(utt, loglikes(model, wave)) for utt, wave in waves.items()]
        found = system.engine.decoder(tmp_path / "net", tmp_path / "graph", DecodeConfig()).decode(scores)
        assert sum(list(h.words) == text[utt] for utt, h in found.items()) >= 4  # of five

    def test_loss_of_an_ensemble_is_that_of_a_member(self, system: TinySystem, tmp_path: Path) -> None:
        config = TrainConfig(num_epochs=1, num_viterbi_epochs=0, batch_size=10**6, learning_rate=1e-9)
        losses = []
        for name in ("plain", "ensemble"):
            trainer = system.trainer(tmp_path / name, build(system, name), config)
            trainer.run()
            losses.append(trainer.history[0]["loss"])
        assert losses[1] == pytest.approx(losses[0], rel=0.3)  # three members, not three times the loss


class TestFactory:
    def test_weights_of_another_network_are_refused(self, system: TinySystem, tmp_path: Path) -> None:
        build(system).save(tmp_path / MODEL_FILE)
        with pytest.raises(ModelFileError, match="not of this network") as error:
            HybridModel.load(tmp_path, network=lambda dim, pdfs: nn.Linear(dim, pdfs))
        assert "\n" not in str(error.value)
        HybridModel(FRONT_END, system.network()).save(tmp_path / MODEL_FILE)
        with pytest.raises(ModelFileError, match="not of this network"):
            HybridModel.load(tmp_path, network=Net)

    def test_frame_wise_network_of_the_package_is_taken_as_it_is(self, system: TinySystem, tmp_path: Path) -> None:
        expected = HybridModel(FRONT_END, system.network("bnn"), seed=2)
        expected.save(tmp_path / MODEL_FILE)
        again = HybridModel.load(
            tmp_path, network=lambda dim, pdfs: HybridModel(FRONT_END, system.network("bnn")).network
        )
        assert again.network.frame_wise
        assert all(torch.equal(value, expected.state_dict()[key]) for key, value in again.state_dict().items())

    @pytest.mark.parametrize(
        "name, message",
        [
            (
                "narrow",
                r"tried on 32 frames of zeros, failed with ValueError: the module must give logits \(1, 3",
            ),
            ("number", r"^number\(14, 8\) must return an nn\.Module, got int"),
            ("wrong", r"^wrong\(14, 8\) failed with TypeError: .*takes 1 positional argument but 2 were given"),
            ("known", r"^known\(14, 8\) must return a network for 8 pdfs, its num_pdfs is 2"),
            (
                "broken",
                r"of broken\(14, 8\), tried on 32 frames of zeros, failed with RuntimeError: mat1 and mat2",
            ),
        ],
    )
    def test_mistake_in_the_code_is_named_in_one_line(self, tmp_path: Path, name: str, message: str) -> None:
        write_text(tmp_path / "net.py", CODE)
        with pytest.raises(UsageError, match=message) as error:
            HybridModel.from_factory(UTTERANCES, load_object(f"{tmp_path / 'net.py'}:{name}"), 8)
        assert "\n" not in str(error.value)

    def test_network_is_deterministic_unless_it_is_wrapped(self) -> None:
        plain, wrapped = (HybridModel.from_factory(UTTERANCES, factory, 8).network for factory in (Net, with_dropout))
        assert (plain.num_pdfs, plain.is_random, plain.kind) == (8, False, deterministic(Net(3, 8)).kind)
        assert (wrapped.num_pdfs, wrapped.is_random, wrapped.default_num_samples) == (8, True, 3)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, system: TinySystem) -> Path:
    """A directory of a recipe with data, features, alignments, and code in net.py."""
    root = tmp_path_factory.mktemp("s5")
    for utt, wave in system.waves.items():
        write_wav(root / f"audio/{utt}.wav", to_int16(wave), RATE)
    write_table(root / "train/wav.scp", {utt: f"audio/{utt}.wav" for utt in system.waves})
    write_table(root / "train/text", {utt: " ".join(words) for utt, words in system.text.items()})
    write_table(root / "train/utt2spk", {utt: utt for utt in system.waves})
    shutil.copytree(system.lang.path, root / "lang")
    shutil.copytree(system.mono, root / "ali")
    write_text(root / "ali/splice_opts", "--left-context=3 --right-context=3\n")
    options = ("--sample-frequency=8000", "--use-energy=false", "--num-mel-bins=15", "--num-ceps=7")  # of FRONT_END
    write_text(root / "mfcc.conf", "\n".join(options) + "\n")
    write_text(root / "net.py", CODE)
    write_text(root / "path.sh", "")
    for name in ("steps", "utils"):
        (root / name).symlink_to(REPO / name)
    return root


def train(*words: object) -> int:
    line = ["nnet-train", *words, "--mfcc-config", "mfcc.conf", "--delta-order", "1", "--num-epochs", "1"]
    return main([*map(str, line), "--num-viterbi-epochs", "1", "--device", "cpu", "--engine", "embedded"])


class TestCommand:
    def test_trains_a_network_by_its_name_and_again_only_if_its_code_changes(
        self, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(recipe)
        places = ("train", "lang", "ali", tmp_path / "exp")
        shutil.copy("net.py", tmp_path / "net.py")
        network = f"{tmp_path / 'net.py'}:dropped"
        assert train("--network", network, *places) == 0
        assert "10 pdfs" in capsys.readouterr().out
        model = HybridModel.load(tmp_path / "exp", network=load_object(network))
        # of the alignment's recipe it has no context frames, as it looks at neighbours itself
        assert (model.front_end.config.left_context, model.front_end.config.right_context) == (0, 0)
        assert model.kind == "SequenceDropout"
        assert np.isfinite(loglikes(model, tiny.make_waves(1)[0]["utt00"])).all()
        assert train("--network", network, *places) == 0
        assert "is up to date" in capsys.readouterr().out
        with open(tmp_path / "net.py", "a", encoding="utf-8") as stream:
            stream.write("# changed\n")
        assert train("--network", network, *places) == 0
        assert "is up to date" not in capsys.readouterr().out

    def test_file_needs_its_code_and_says_so(
        self, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(recipe)
        HybridModel.from_factory(UTTERANCES, Net, 8).save(tmp_path / MODEL_FILE)
        with pytest.raises(ModelFileError, match=r"name its code with --network FILE\.py:NAME"):
            HybridModel.load(tmp_path)
        assert main(["nnet-forward", "train", str(tmp_path), "x.ark", "x.scp"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "--network FILE.py:NAME" in error

    @pytest.mark.parametrize(
        "words, message",
        [
            (["--network", "net.py:dropped", "--hidden-dims", "3,3"], "--hidden-dims is no option of --network"),
            (["--network", "net.py:dropped", "--num-members", "3"], "--num-members is no option of --network"),
            (["--model", "dnn", "--num-members", "3"], "--num-members is no option of --model dnn"),
            (["--network", "net.py:dropped", "--config", "c.conf"], "c.conf:1: unknown option --dropout"),
            (["--model", "ensemble", "--config", "c.conf"], "c.conf:1: unknown option --dropout"),
            (["--network", "none.py:net"], "none.py: no such file"),
            (["--network", "net.py:nobody"], "there is no 'nobody' in it; it defines Net, dropped, several"),
            (["--network", "net.py:number"], "must return an nn.Module, got int"),
        ],
    )
    def test_mistakes_are_one_line_and_nothing_is_written(
        self,
        recipe: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        words: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(recipe)
        write_text(recipe / "c.conf", "--dropout=0.2\n")
        assert train(*words, "train", "lang", "ali", tmp_path / "exp") == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("kaldi-uq nnet-train: error: ") == 1
        assert not (tmp_path / "exp").exists()

    def test_kind_and_network_exclude_each_other(self, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            train("--model", "dnn", "--network", "net.py:dropped", recipe, recipe, recipe, "exp")
        assert "--network: not allowed with argument --model" in capsys.readouterr().err

    @pytest.mark.long
    def test_script_passes_the_network_on(self, recipe: Path, run_script: RunScript) -> None:
        write_text(recipe / "ali/num_jobs", "1\n")
        options = [
            "--network",
            "net.py:several",
            "--mfcc-config",
            "mfcc.conf",
            "--device",
            "cpu",
            "--engine",
            "embedded",
        ]
        options += ["--train-opts", "--num-epochs 1 --num-viterbi-epochs 0 --delta-order 1"]
        done = run_script("steps/uq/train.sh", *options, "train", "lang", "ali", "exp/several", cwd=recipe)
        assert done.returncode == 0, done.stderr
        loaded = HybridModel.load(recipe / "exp/several", network=load_object(f"{recipe}/net.py:several"))
        assert loaded.network.num_members == 2
        graph = recipe / "exp/several/graph"
        assert (graph / "HCLG.fst").is_file()
        # another model of this HMM takes the graph, until a Viterbi epoch changes the HMM
        shared = recipe / "exp/shared/graph"
        line = [*options, "--graph-dir", "exp/several/graph", "train", "lang", "ali", "exp/shared"]
        assert run_script("steps/uq/train.sh", *line, cwd=recipe).returncode == 0
        assert shared.is_symlink() and shared.resolve() == graph
        shutil.copytree(recipe / "lang", recipe / "lang_nog", ignore=shutil.ignore_patterns("G.fst"))
        done = run_script("steps/uq/train.sh", *line[:-3], "lang_nog", "ali", "exp/no_grammar", cwd=recipe)
        assert done.returncode == 0, done.stderr
        assert (recipe / "exp/no_grammar/graph").resolve() == graph
        # Kaldi's scripts ask a directory of lattices how many jobs made them
        decode = ["--network", "net.py:several", "--device", "cpu", "--engine", "embedded", "--lattices", "true"]
        done = run_script("steps/uq/decode.sh", *decode, graph, "train", "exp/several", "exp/score", cwd=recipe)
        assert done.returncode == 0, done.stderr
        assert (recipe / "exp/score/lat.1.gz").is_file() and (recipe / "exp/score/num_jobs").read_text() == "1\n"
        done = run_script("steps/uq/train.sh", "--graph-opts", "--self-loop-scale 1", *line, cwd=recipe)
        assert (done.returncode, "--graph-opts is for a graph that is composed here" in done.stderr) == (1, True)
        line[line.index("--train-opts") + 1] = "--num-epochs 1 --num-viterbi-epochs 1 --delta-order 1"
        done = run_script("steps/uq/train.sh", *line, cwd=recipe)
        assert done.returncode == 0
        # after one epoch the network knows few words, and the terminal tells what comes of it
        told = [
            text for text in done.stderr.splitlines() if text.startswith("WARNING (kaldi_uq.training.trainer) epoch 2")
        ]
        assert len(told) == 1 and "utterances realigned, fewer than 95 %" in told[0]
        assert not shared.is_symlink() and (shared / "HCLG.fst").is_file()
        assert (graph / "HCLG.fst").is_file()


def test_nothing_is_caught_that_stands_for_a_signal() -> None:
    def killed(input_dim: int, num_pdfs: int) -> nn.Module:
        raise Killed

    with pytest.raises(Killed):
        HybridModel.from_factory(UTTERANCES, killed, 8)
