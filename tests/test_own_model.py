"""A user's own network in the tool chain: recipes/own_model, and the hybrid model around a foreign network."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kaldi_uq.cli.main import main
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.errors import ModelFileError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.datadir import write_table
from kaldi_uq.io.wav import read_wav, to_int16, write_wav
from kaldi_uq.nnet import deterministic, ensemble, mc_dropout, vmg
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from kaldi_uq.recogniser.recogniser import Recogniser
from tests import tiny
from tests.conftest import REPO, RunScript
from tests.tiny import FRONT_END, RATE, TinySystem

OWN_MODEL = REPO / "recipes" / "own_model"
WRAPPERS = ("mc_dropout", "ensemble", "vmg")
SETS = {"train": range(24), "fit": range(24, 32), "test": range(32, 40), "attack": range(40, 46)}


@pytest.fixture(scope="module")
def tdnn() -> ModuleType:
    """The file that a user copies, as a module."""
    spec = importlib.util.spec_from_file_location("own_tdnn", OWN_MODEL / "tdnn.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_tdnn"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe after its stage 3, of another name and with other names in it; paths in wav.scp are relative."""
    root = tmp_path_factory.mktemp("s5")
    lang = tiny.make_lang(root / "work")
    waves, text = tiny.make_waves(46)
    utts = sorted(waves)
    for name, numbers in SETS.items():
        chosen = [utts[i] for i in numbers]
        for utt in chosen:
            write_wav(root / f"audio/{utt}.wav", to_int16(waves[utt]), RATE)
        folder = root / "corpus" / name
        write_table(folder / "wav.scp", {utt: f"audio/{utt}.wav" for utt in chosen})
        write_table(folder / "text", {utt: " ".join(text[utt]) for utt in chosen})
        write_table(folder / "utt2spk", {utt: utt for utt in chosen})
    train = [utts[i] for i in SETS["train"]]
    mono = tiny.train_mono(root / "exp/tri", lang, {u: waves[u] for u in train}, {u: text[u] for u in train})
    TinySystem(lang, mono, root / "exp/graph", waves, text).engine.make_graph(
        lang, mono, root / "exp/graph", **tiny.GRAPH_SCALES
    )
    shutil.copytree(lang.path, root / "corpus/lang")
    options = {name.replace("_", "-"): str(value).lower() for name, value in FRONT_END.mfcc.to_dict().items()}
    (root / "conf").mkdir()
    (root / "conf/mfcc.conf").write_text("".join(f"--{name}={value}\n" for name, value in options.items()))
    (root / "path.sh").write_text("# nothing of its own\n")
    (root / "utils").symlink_to(REPO / "utils")
    (root / "exp/tri/num_jobs").write_text("1\n")
    (root / "conf/pgd.conf").write_text("--num-steps=60\n--realign-every=10\n")
    return root


PLACES = ["--data", "corpus", "--lang", "corpus/lang", "--ali", "exp/tri", "--mfcc-config", "conf/mfcc.conf"]


def copied(place: Path) -> Path:
    """A copy of the recipe, as a user makes it."""
    place.mkdir(parents=True)
    for name in ("run.sh", "path.sh", "tdnn.py"):
        shutil.copy(OWN_MODEL / name, place)
    shutil.copytree(OWN_MODEL / "conf", place / "conf")
    for name in ("utils", "steps"):
        (place / name).symlink_to(REPO / name)
    return place


def results(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "exp/results.json").read_text())
    return content


@pytest.mark.long
class TestRecipe:
    def test_trains_attacks_and_detects_with_every_wrapper(
        self, recipe: Path, tmp_path: Path, run_script: RunScript
    ) -> None:
        place = copied(tmp_path / "recipes/mine")
        line = [*PLACES, "--recipe", recipe.name, "--eps", ".050", "--wrap", " ".join(WRAPPERS)]
        line += ["--train-opts", "--num-epochs 50 --batch-size 200"]
        done = run_script(place / "run.sh", *line, cwd=recipe.parent)
        assert done.returncode == 0, done.stderr
        found = results(place)
        assert [row["eps"] for row in found["attacks"]] == [0.05] * 3
        attacks = {row["model"]: row for row in found["attacks"]}
        for wrap in WRAPPERS:
            model, attack = f"tdnn_{wrap}", attacks[f"tdnn_{wrap}"]
            assert found["clean"][model]["num_utts"] == 8
            assert found["clean"][model]["accuracy"] > 0.9  # tones: an untrained network reaches nothing
            assert (attack["attack"], attack["num_utts"]) == ("pgd", 6)
            assert all(check["passed"] for check in attack["checks"].values()), attack["checks"]
            assert attack["original_accuracy"] < 0.8 < found["clean"][model]["accuracy"]
            statistics = {row["statistic"] for row in found["detection"] if row["model"] == model}
            measures = ("predictive_entropy", "expected_entropy", "mutual_information", "variance", "akld")
            assert statistics == {f"{kind}_{name}" for kind in ("max", "mean", "q95") for name in measures}
            for utt in (f"utt{i}" for i in SETS["attack"]):
                heard, _ = read_wav(place / f"exp/{model}/attack_pgd_eps0.05/wav/{utt}.wav")
                spoken, _ = read_wav(recipe / f"audio/{utt}.wav")
                assert 0.01 < np.abs(heard - spoken).max() <= 0.05
        # a second run takes the weights and the attacked audio that are there, and finds the same
        weights = place / f"exp/tdnn_vmg/{MODEL_FILE}"
        before = weights.stat().st_mtime_ns
        assert run_script(place / "run.sh", *line, "--wrap", "vmg", cwd=recipe.parent).returncode == 0
        assert results(place) == found
        assert weights.stat().st_mtime_ns == before

    @pytest.mark.parametrize(
        "options, message",
        [
            (["--recipe", "nowhere"], "nowhere: no such directory"),
            (["--wrap", "dnn"], "tdnn.py: there is no 'dnn' in it; it defines"),
            (["--ali", "exp/none"], "exp/none/final.mdl: no such file"),
            (["--data", "none"], "none/train/wav.scp: no such file"),
            (["--mfcc-config", "conf/none"], "conf/none: no such file"),
            (["--eps", "2"], "eps must be"),
            (["--no-such-option", "x"], "unknown option --no-such-option"),
        ],
    )
    def test_mistakes_are_named(
        self, recipe: Path, tmp_path: Path, run_script: RunScript, options: list[str], message: str
    ) -> None:
        place = copied(tmp_path / "recipes/mine")
        done = run_script(place / "run.sh", *PLACES, "--recipe", str(recipe), *options)
        assert done.returncode == 1
        assert message in done.stderr

    def test_help_needs_no_environment_and_knows_the_defaults(self, run_script: RunScript) -> None:
        done = run_script(OWN_MODEL / "run.sh", "--help", env={"KALDI_UQ_ENV": ""})
        assert done.returncode == 0
        assert "e.g." in done.stdout

    def test_what_its_user_writes_is_short(self) -> None:
        text = (OWN_MODEL / "tdnn.py").read_text()
        assert len(text.splitlines()) <= 90
        assert len(re.findall(r"^(?:import|from) kaldi_uq", text, re.MULTILINE)) == 1

    def test_links_and_the_readme_go_with_the_files(self, run_script: RunScript) -> None:
        for name in ("local", "steps", "utils"):
            assert (OWN_MODEL / name).resolve() == REPO / name
        text = (OWN_MODEL / "README.md").read_text().replace("\\\n", "")
        commands = re.findall(r"^recipes/own_model/run\.sh(.*)$", text, re.MULTILINE)
        assert len(commands) >= 4
        known = run_script(OWN_MODEL / "run.sh", "--help").stdout
        for option in re.findall(r"--[a-z-]+", " ".join(commands)):
            assert f"  {option} " in known, option
        for place in re.findall(r"conf/[a-z0-9_/]+\.conf", text):
            there = (REPO / "recipes/tidigits" / place, OWN_MODEL / place)
            assert place == "conf/mfcc.conf" or any(path.is_file() for path in there), place


class TestTdnn:
    def test_utterance_is_read_alike_in_every_batch(self, tdnn: ModuleType) -> None:
        torch.manual_seed(0)
        module = tdnn.Tdnn(5, 7).eval()
        x = torch.randn(1, 20, 5)
        longer = torch.cat([x, torch.zeros(1, 30, 5)], 1)
        with torch.no_grad():
            torch.testing.assert_close(module(longer)[:, :20], module(x), rtol=0, atol=1e-6)

    def test_frame_sees_its_context_and_no_more(self, tdnn: ModuleType) -> None:
        torch.manual_seed(0)
        module = tdnn.Tdnn(5, 7).eval()
        x = torch.randn(1, 40, 5, requires_grad=True)
        module(x)[0, 20].sum().backward()
        assert x.grad is not None
        seen = x.grad[0].abs().sum(1).nonzero()[:, 0]
        assert (int(seen.min()), int(seen.max())) == (20 - module.context, 20 + module.context)


class Linear(nn.Module):
    """The smallest network of a user's, with two names for one matrix."""

    def __init__(self, dim: int, num_pdfs: int = 6) -> None:
        super().__init__()
        self.output = nn.Linear(dim, num_pdfs)
        self.same = self.output
        self.drop = nn.Dropout(0.3)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.same(self.drop(self.norm(x.transpose(1, 2)).transpose(1, 2)))
        return logits


SEQUENCES = FrontEndConfig(mfcc=FRONT_END.mfcc, delta_order=1, left_context=0, right_context=0)


def foreign(wrap: str = "mc_dropout", *, config: FrontEndConfig = SEQUENCES, seed: int = 0) -> HybridModel:
    """A hybrid model around a foreign network."""
    front_end = FrontEnd(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dim = front_end.output_dim
        network = {
            "deterministic": lambda: deterministic(Linear(dim), num_pdfs=6),
            "mc_dropout": lambda: mc_dropout(Linear(dim), num_samples=4, num_pdfs=6),
            "ensemble": lambda: ensemble(lambda: Linear(dim), 3, seed, num_pdfs=6),
            "vmg": lambda: vmg(Linear(dim), num_samples=4, num_pdfs=6),
        }[wrap]()
    model = HybridModel.from_modules(front_end, network).eval()
    model.front_end.norm.set_stats(torch.randn(dim, generator=torch.Generator().manual_seed(seed)), torch.ones(dim))
    model.set_prior(np.arange(6) + seed)
    return model


class TestForeignNetwork:
    @pytest.mark.parametrize("wrap", ["deterministic", *WRAPPERS])
    def test_scores_are_those_of_the_network_on_the_features(self, wrap: str) -> None:
        model = foreign(wrap)
        waves, _ = tiny.make_waves(1)
        recogniser = Recogniser(model, EmbeddedEngine(), Path("nowhere"))
        ((_, scored),) = recogniser.score(waves, seed=5)
        wav = torch.from_numpy(waves["utt00"])[None]
        with torch.no_grad():
            x, _ = model.front_end(wav, torch.tensor([wav.shape[1]]))
            draws = model.network.log_post(x, generator=torch.Generator().manual_seed(5 * 1_000_003))
        expected = draws.exp().mean(0).log() - model.log_prior
        np.testing.assert_allclose(scored.scores, expected[0].numpy(), rtol=0, atol=1e-5)

    def test_kind_is_the_class(self) -> None:
        assert foreign("vmg").kind == "SequenceVmg"

    def test_number_of_pdfs_must_be_known(self) -> None:
        with pytest.raises(ValueError, match="SequenceModel does not say how many pdfs it has: wrap the module with"):
            HybridModel.from_modules(FrontEnd(SEQUENCES), deterministic(Linear(14)))

    @pytest.mark.parametrize("wrap", ["deterministic", *WRAPPERS])
    def test_weights_survive_the_file(self, tmp_path: Path, wrap: str) -> None:
        model, other = foreign(wrap), foreign(wrap, seed=1)
        model.save(tmp_path / MODEL_FILE)
        state, before = model.state_dict(), other.state_dict()
        assert not all(torch.equal(state[name], before[name]) for name in state)
        other.load_weights(tmp_path / MODEL_FILE)
        after = other.state_dict()
        assert list(after) == list(state)
        assert all(torch.equal(after[name], state[name]) for name in state)

    def test_file_without_code_cannot_be_loaded_and_says_what_can(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        foreign().save(tmp_path / MODEL_FILE)
        with pytest.raises(ModelFileError, match=r"no part of kaldi_uq; name its code with --network FILE\.py:NAME"):
            HybridModel.load(tmp_path)
        assert main(["nnet-forward", str(tmp_path), str(tmp_path), "x.ark", "x.scp"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "--network" in error

    def test_weights_of_another_model_are_refused_and_leave_the_model_alone(self, tmp_path: Path) -> None:
        path = tmp_path / MODEL_FILE
        foreign("ensemble").save(path)
        with pytest.raises(ModelFileError, match="not of a model that was built in the same way") as error:
            foreign("vmg").load_weights(path)
        assert "\n" not in str(error.value)
        context = FrontEndConfig(mfcc=FRONT_END.mfcc, delta_order=1, left_context=0, right_context=0, cmvn="utterance")
        foreign(config=context).save(path)
        model = foreign(seed=1)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ModelFileError, match="the front end has other options"):
            model.load_weights(path)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        path.write_bytes(b"not a model")
        with pytest.raises(ModelFileError, match=r"final.safetensors: damaged or replaced"):
            model.load_weights(path)
        (tmp_path / ".sha256").unlink()
        with pytest.raises(ModelFileError, match="not a model file, or a damaged one"):
            model.load_weights(path)
        with pytest.raises(ModelFileError, match="no such model; save"):
            model.load_weights(tmp_path / "nowhere")
