"""Shards of scoring: N jobs and one that puts their parts together give the bytes of one job."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from kaldi_uq.cli.main import command_parser, main
from kaldi_uq.cli.model_options import open_recogniser
from kaldi_uq.errors import DataError
from kaldi_uq.io import waves as io_waves
from kaldi_uq.io.files import write_text
from kaldi_uq.recogniser import scorer
from kaldi_uq.recogniser.heard import Scored
from kaldi_uq.recogniser.parts import Parts, Shard
from tests import tiny
from tests.toy import ToyRecogniser, toy_waves


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "CPU_BATCH_SAMPLES", 10_000)  # two or three utterances
    monkeypatch.setattr(io_waves.plan_waves, "__defaults__", (10_000,))


def scored(value: float) -> Scored:
    frames = {"predictive_entropy": np.full(3, value, np.float32), "variance": np.zeros(3, np.float32)}
    return Scored(None, {"max_predictive_entropy": value / 3}, frames, np.full((3, 2), value, np.float32))


def same(one: Scored, other: Scored) -> None:
    assert one.statistics == other.statistics and list(one.frames) == list(other.frames)
    for name, values in one.frames.items():
        assert values.dtype == np.float32 and values.tobytes() == other.frames[name].tobytes()
    assert one.scores.tobytes() == other.scores.tobytes() and one.scores.shape == other.scores.shape


def never() -> list[Scored]:
    raise AssertionError("it is there already")


class TestParts:
    UTTS = ("a", "b/c")

    def test_what_a_job_made_is_taken(self, tmp_path: Path) -> None:
        made = [scored(0.1), scored(float(np.float32(1e-30)))]
        job = Parts(tmp_path, "k", Shard(2, 2))
        assert job.of(0, self.UTTS, never) == []  # of the other job
        for parts in (job, job, Parts(tmp_path, "k")):
            found = parts.of(1, self.UTTS, (lambda: made) if parts is job and not any(tmp_path.iterdir()) else never)
            for one, other in zip(found, made, strict=True):
                same(one, other)
        job.remove()
        assert not tmp_path.exists()

    @pytest.mark.parametrize("damage", ["key", "utterances", "cut", "text", "missing"])
    def test_what_is_of_something_else_is_made_again(self, tmp_path: Path, damage: str) -> None:
        Parts(tmp_path, "k", Shard(1, 1)).of(0, self.UTTS, lambda: [scored(1), scored(2)])
        path = tmp_path / "0.npz"
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-200])
        elif damage == "text":
            write_text(path, "no archive")
        elif damage == "missing":
            path.unlink()
        utts: Sequence[str] = ("a", "d") if damage == "utterances" else self.UTTS
        again = [scored(3), scored(4)]
        before = sorted(tmp_path.iterdir())
        assert Parts(tmp_path, "other" if damage == "key" else "k").of(0, utts, lambda: again) is again
        assert sorted(tmp_path.iterdir()) == before  # without a shard nothing is written

    def test_score_of_shards_is_that_of_the_whole(self, tmp_path: Path) -> None:
        waves = toy_waves(6, 6000)
        whole = dict(ToyRecogniser().score(waves))
        shards = [
            list(ToyRecogniser().score(waves, parts=Parts(tmp_path, "k", Shard(n, 7)))) for n in (3, 1, 4, 7, 6, 2, 5)
        ]
        assert sorted(utt for shard in shards for utt, _ in shard) == sorted(waves) and [] in shards
        together = dict(ToyRecogniser().score(waves, parts=Parts(tmp_path, "k")))
        assert list(together) == list(whole)
        for utt, one in together.items():
            same(one, whole[utt])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    system = tiny.make_system(folder, num_utts=8)
    system.write_model(system.train("dropout"), folder / "exp")  # whose draws depend on the batch
    tiny.write_set(folder / "data", system.waves, system.text)
    return folder


OUTPUTS = {"nnet-decode": ("results.jsonl", "hypotheses", "frame_quantiles.json"), "nnet-forward": ("l.ark",)}


@pytest.mark.long
@pytest.mark.parametrize("command", OUTPUTS)
def test_commands_in_shards_write_the_files_of_one_job(
    command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(out: Path, *options: str) -> None:
        out.mkdir(exist_ok=True)
        end = [out / "l.ark", out / "l.scp"] if command == "nnet-forward" else [place / "exp/graph", out]
        assert main([command, *options, *map(str, [place / "data", place / "exp", *end])]) == 0

    run(tmp_path / "whole")
    for shard in ("2/3", "1/3"):
        run(tmp_path / "shards", "--shard", shard)
        assert f"shard {shard}: " in capsys.readouterr().out
    parts = next((tmp_path / "shards").glob("*parts"))
    assert len(list(parts.iterdir())) >= 2
    shutil.copytree(tmp_path / "shards", tmp_path / "failed")
    run(tmp_path / "shards", "--shard", "3/3")
    run(tmp_path / "shards")
    run(tmp_path / "failed")  # makes what the third would have
    for name in OUTPUTS[command]:
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "shards" / name).read_bytes() == whole == (tmp_path / "failed" / name).read_bytes()
    assert not parts.exists()


def test_results_are_for_the_command_without_shards(place: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["nnet-decode", "--shard", "1/2", "--results", str(tmp_path / "r.json")]
    assert main([*words, *map(str, (place / "data", place / "exp", place / "exp/graph", tmp_path / "x"))]) == 1
    assert "--results is for the command without --shard" in capsys.readouterr().err


@pytest.mark.parametrize(
    "shard, requested, gpus, expected",
    [
        ("1/4", "", 2, "cuda:0"),
        ("2/4", "cuda", 2, "cuda:1"),
        ("3/4", "", 2, "cuda:0"),
        ("2/4", "cuda:0", 2, "cuda:0"),
        ("2/4", "cpu", 2, "cpu"),
        ("2/4", "", 1, ""),
        ("2/4", "", 0, ""),
        (None, "", 2, ""),
    ],
)
def test_shards_take_turns_on_the_gpus(
    shard: str | None, requested: str, gpus: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load(*_: Any, device: str, **__: Any) -> NoReturn:
        asked.append(device)
        raise DataError("enough")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr("kaldi_uq.recogniser.recogniser.Recogniser.load", load)
    for name in ("data", "exp/graph"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    words = ["data", "exp", "exp/graph", "out", *(["--shard", shard] if shard else [])]
    parser, _ = command_parser("nnet-decode")
    args = parser.parse_args([*words, *(["--device", requested] if requested else [])])
    with pytest.raises(DataError, match="enough"):
        open_recogniser(args)
    assert asked == [expected]
