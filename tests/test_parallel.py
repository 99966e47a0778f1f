"""Training by several processes: what one process would train, whoever is killed, fails or sees other data."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kaldi_uq.cli import main as cli
from kaldi_uq.cli import turns
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import DataError, LostWorkerError, UsageError
from kaldi_uq.io.files import write_text
from kaldi_uq.nnet.sequence import SequenceModel
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from kaldi_uq.training import parallel
from kaldi_uq.training.parallel import ONE, SeveralWorkers, Workers
from tests import tiny, together
from tests.conftest import REPO, RunScript
from tests.recipe import LIMIT_S, error_line
from tests.tiny import TinySystem

EXACT = ("dnn", "ensemble", "sequence", "robust", "robust_sequence")  # nothing is drawn
RANDOM = ("dropout", "batch_norm")


def a_worker(rank: int, count: int) -> SeveralWorkers:
    """One that nobody is connected to."""
    worker = SeveralWorkers.__new__(SeveralWorkers)
    worker.rank, worker.count = rank, count
    return worker


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("count", [2, 3])
def test_every_item_of_a_minibatch_is_of_one_process_and_the_weights_add_up(size: int, count: int) -> None:
    items, sizes = list(range(size)), np.arange(size) + 5
    workers = [a_worker(rank, count) for rank in range(count)]
    found = [items[worker.rows(size)] for worker in workers]
    weights = [worker.weight(sizes) for worker in workers]
    assert sorted(itertools.chain(*found[:size])) == items
    assert all(one == [0] for one in found[size:]) and not any(weights[size:])  # they do what the others do
    for rows, weight in zip(found[:size], weights, strict=False):
        assert weight == pytest.approx(sizes[rows].sum() / sizes.sum())
    assert sum(weights) == pytest.approx(1)
    assert sorted(itertools.chain(*(worker.portion(items) for worker in workers))) == items
    assert (items[ONE.rows(size)], ONE.weight(sizes), ONE.portion(items)) == (items, 1.0, items)


def test_each_process_draws_for_itself_and_the_same_again(tmp_path: Path) -> None:
    def first(worker: Workers, network: torch.nn.Module, seed: tuple[int, int] = (0, 1)) -> float:
        shared = torch.Generator().manual_seed(3)
        return float(torch.rand((), generator=worker.draws(shared, SequenceModel(network), seed)))

    dropout, plain = torch.nn.Dropout(0.5), torch.nn.Linear(1, 1)
    workers = [a_worker(rank, 3) for rank in range(3)]
    found = {first(worker, dropout) for worker in workers} | {first(workers[0], dropout, (0, 2))}
    assert len(found | {first(ONE, dropout)}) == 5
    assert first(workers[1], dropout) == first(a_worker(1, 5), dropout)
    assert {first(worker, plain) for worker in (*workers, ONE)} == {first(ONE, dropout)}


def test_more_processes_than_items_are_refused() -> None:
    with pytest.raises(UsageError, match="utterances in the largest minibatch: 2, fewer than the 3 processes"):
        a_worker(0, 3).check_minibatches(2, "utterances")
    a_worker(0, 3).check_minibatches(3, "utterances")
    ONE.check_minibatches(1, "frames")


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [parallel._own_device(asked, 1) for asked in ("", "cuda", "cpu")] == list(
        map(torch.device, ("cuda:1", "cuda:1", "cpu"))
    )
    with pytest.raises(UsageError, match="more processes than GPUs: PyTorch sees 2 on "):
        parallel._own_device("", 2)
    with pytest.raises(UsageError, match="--device cuda:1: each of several processes takes a GPU of its own"):
        parallel._own_device("cuda:1", 0)


def test_lost_process_is_told_from_other_errors() -> None:
    with (
        pytest.raises(LostWorkerError, match="another process of this training has ended"),
        parallel._reaching_others(),
    ):
        raise RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:36442")
    for error in (torch.OutOfMemoryError("CUDA out of memory"), DataError("a")):
        with pytest.raises(type(error)), parallel._reaching_others():
            raise error


@pytest.fixture
def as_second(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The environment of the second of two processes; how long it has waited for the first."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    waits: list[float] = []
    monkeypatch.setattr(turns.time, "sleep", waits.append)
    return waits


def test_other_commands_share_nothing(as_second: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score-text", "a", "b"]) == 1
    expected = "kaldi-uq score-text: error: torchrun starts several processes, and only nnet-train shares its work"
    assert capsys.readouterr().err.startswith(expected)
    assert as_second == [turns.PATIENCE_S]


def test_mistake_in_the_options_is_left_to_the_first_to_say(
    as_second: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["nnet-train", "--no-such-option"])
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(SystemExit):
        cli.main(["nnet-train", "--no-such-option"])
    assert as_second == [turns.PATIENCE_S]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    folder = tmp_path_factory.mktemp("a system")
    tiny.make_system(folder, together.NUM_UTTS)
    return together.read_system(folder)


@pytest.fixture(scope="module")
def alone(system: TinySystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains."""
    out = tmp_path_factory.mktemp("alone")
    for name, make in together.TRAININGS.items():
        make(system, out / name, ONE).run()
    return out


@pytest.fixture(scope="module")
def shared(system: TinySystem, tmp_path_factory: pytest.TempPathFactory, script_env: dict[str, str]) -> Path:
    """What two processes train."""
    out = tmp_path_factory.mktemp("two processes")
    launcher = [sys.executable, REPO / "utils/torchrun.py", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*map(str, [*launcher, REPO / "tests/together.py", system.lang.path.parent, out])],
        env=script_env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def said(out: Path) -> list[dict[str, Any]]:
    """What each of the two processes found."""
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / MODEL_FILE)


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((folder / "history.json").read_text())]


def assert_same_but_for_rounding(one: Path, other: Path) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=1e-5, atol=1e-5)
    assert losses(other) == pytest.approx(losses(one), abs=1e-5)
    for name in ("final.mdl", "tree", "phones.txt"):
        assert (other / name).read_bytes() == (one / name).read_bytes()
    assert sorted(path.name for path in other.iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.long
class TestTogether:
    @pytest.mark.parametrize("name", EXACT)
    def test_two_processes_train_what_one_does(self, alone: Path, shared: Path, name: str) -> None:
        assert_same_but_for_rounding(alone / name, shared / name)
        assert losses(shared / name)[-1] < losses(shared / name)[0]

    def test_words_are_the_same(self, system: TinySystem, alone: Path, shared: Path, tmp_path: Path) -> None:
        waves, _ = tiny.make_waves(5, seed=77)
        system.engine.make_graph(system.lang, alone / "dnn", tmp_path, **tiny.GRAPH_SCALES)
        decoder = system.engine.decoder(alone / "dnn", tmp_path, DecodeConfig())
        found = []
        for place in (alone, shared):
            model, scores = HybridModel.load(place / "dnn"), []
            for utt, wave in waves.items():
                with torch.no_grad():
                    log_post = model.mean_log_post(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
                scores.append((utt, model.loglikes(log_post)[0].numpy()))
            found.append(decoder.decode(scores))
        assert {utt: h.words for utt, h in found[0].items()} == {utt: h.words for utt, h in found[1].items()}
        assert any(h.words for h in found[0].values())

    @pytest.mark.parametrize("name", RANDOM)
    def test_what_draws_is_trained_as_well(self, alone: Path, shared: Path, name: str) -> None:
        assert losses(shared / name) != losses(alone / name)
        assert losses(shared / name) == pytest.approx(losses(alone / name), rel=0.1)
        assert losses(shared / name)[-1] < losses(shared / name)[0]

    def test_all_processes_have_the_same_weights_and_statistics(self, shared: Path) -> None:
        first, second = said(shared)
        assert first == second
        assert set(together.TRAININGS) < set(first)

    def test_same_seed_and_number_of_processes_give_the_same_bits_also_when_resumed(self, shared: Path) -> None:
        found = said(shared)[0]
        assert found["again"] == found["pieces"] == found["dropout"]
        for name in ("final.mdl", "history.json", MODEL_FILE):
            assert (shared / "pieces" / name).read_bytes() == (shared / "dropout" / name).read_bytes()

    def test_other_number_of_processes_resumes(self, system: TinySystem, alone: Path, shared: Path) -> None:
        assert_same_but_for_rounding(alone / "dnn", shared / "taken")  # one process began
        together.TRAININGS["dnn"](system, shared / "left", ONE).run()  # two began
        assert_same_but_for_rounding(alone / "dnn", shared / "left")

    def test_wrong_uses_are_named(self, shared: Path) -> None:
        unequal, *small = said(shared)[0]["refused"]
        assert unequal.startswith("process 2 of 2, on ") and "have different audio in data/train: start all" in unequal
        units = ("frames in the largest minibatch: 1, ", *["utterances in the largest minibatch: 1, "] * 2)
        assert all(line.startswith(unit) for line, unit in zip(small, units, strict=True))
        assert list((shared / "refused").iterdir()) == []


NETWORK = """
import os, signal
from torch import nn

class Net(nn.Module):
    def __init__(self, input_dim, num_pdfs):
        super().__init__()
        self.layer, self.step = nn.Linear(input_dim, num_pdfs), 0

    def forward(self, x):
        self.step += self.training
        if os.environ.get("RANK") == "1":
            self.trouble()
        return self.layer(x)

    def trouble(self):
        if self.step == 9:  # of four steps an epoch
            os.kill(os.getpid(), signal.SIGKILL)

class Broken(Net):
    def trouble(self):
        if self.step == 3:
            raise ValueError("no third step")
"""


@pytest.fixture
def recipe(system: TinySystem, tmp_path: Path) -> Path:
    """A recipe directory with data, language, alignments and networks of its own."""
    root = tmp_path / "a recipe"
    tiny.write_set(root / "train", system.waves, system.text)
    for name, place in {"lang": system.lang.path, "ali": system.mono, "steps": REPO / "steps"}.items():
        (root / name).symlink_to(place)
    (root / "utils").symlink_to(REPO / "utils")
    write_text(system.mono / "num_jobs", "1\n")
    options = ("--sample-frequency=8000", "--use-energy=false", "--num-mel-bins=15", "--num-ceps=7")
    write_text(root / "mfcc.conf", "\n".join(options) + "\n")
    write_text(root / "path.sh", "")
    write_text(root / "net.py", NETWORK)
    return root


WORDS = ("train", "lang", "ali")
OPTIONS = ("--mfcc-config", "mfcc.conf", "--engine", "embedded")
FEW = "--num-epochs 3 --num-viterbi-epochs 0 --delta-order 1 --batch-size 400"


@pytest.mark.long
class TestScript:
    def train(self, recipe: Path, run_script: RunScript, name: str, *options: str) -> Any:
        script = ("steps/uq/train.sh", "--network", f"net.py:{name}", *OPTIONS, "--train-opts", FEW, *options)
        return run_script(*script, *WORDS, f"exp/{name}", cwd=recipe)

    def test_killed_process_ends_the_others_and_one_alone_goes_on(
        self,
        recipe: Path,
        run_script: RunScript,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        done = self.train(recipe, run_script, "Net", "--num-processes", "2", "--device", "cpu")
        assert error_line(done) == "torchrun: error: process 2 was killed by SIGKILL, and the others ended"
        assert sorted(path.name for path in (recipe / "exp/Net").iterdir()) == ["checkpoint.pt", "log"]
        monkeypatch.chdir(recipe)
        line = ["nnet-train", "--network", "net.py:Net", *OPTIONS, "--device", "cpu", *FEW.split()]
        with caplog.at_level(logging.INFO):
            assert cli.main([*line, *WORDS, "exp/Net"]) == 0
        assert "resuming after epoch 2" in caplog.text
        assert cli.main([*line, *WORDS, "exp/whole"]) == 0
        for name, value in weights(recipe / "exp/whole").items():
            torch.testing.assert_close(weights(recipe / "exp/Net")[name], value, rtol=1e-5, atol=1e-5)
        assert losses(recipe / "exp/Net") == pytest.approx(losses(recipe / "exp/whole"), abs=1e-5)

    def test_error_in_one_process_ends_all_with_one_line(self, recipe: Path, run_script: RunScript) -> None:
        done = self.train(recipe, run_script, "Broken", "--num-processes", "2", "--device", "cpu")
        assert error_line(done) == "kaldi-uq nnet-train: error: no third step"
        log = (recipe / "exp/Broken/log/train.log").read_text()
        assert log.count("error") == 1 and "Traceback" not in log
        assert [path.name for path in (recipe / "exp/Broken").iterdir()] == ["log"]


def test_number_of_processes_is_passed_to_the_command_that_runs_the_job(recipe: Path, run_script: RunScript) -> None:
    write_text(recipe / "grid.sh", 'printf "%s\\n" "$@" >asked; exit 1\n')
    (recipe / "grid.sh").chmod(0o755)
    for device, expected in (("cuda", ["--num-threads", "3", "--gpu", "3"]), ("cpu", ["--num-threads", "3"])):
        words = ("--cmd", "bash ./grid.sh -q x", "--num-processes", "3", "--device", device, *WORDS, "exp/asked")
        run_script("steps/uq/train.sh", *OPTIONS, *words, cwd=recipe)
        asked = (recipe / "asked").read_text().splitlines()
        assert asked[: asked.index("exp/asked/log/train.log")] == ["-q", "x", *expected]
        start = asked.index("--nproc-per-node")
        assert asked[start : start + 5] == ["--nproc-per-node", "3", "--no-python", "kaldi-uq", "nnet-train"]
    done = run_script("steps/uq/train.sh", *OPTIONS, "--cmd", "bash ./grid.sh", *WORDS, "exp/asked", cwd=recipe)
    assert (recipe / "asked").read_text().splitlines()[1:3] == ["kaldi-uq", "nnet-train"], done.stderr
    done = run_script("steps/uq/train.sh", *OPTIONS, "--num-processes", "0", *WORDS, "exp/asked", cwd=recipe)
    assert error_line(done).endswith("--num-processes must be a whole number above 0, got '0'")
