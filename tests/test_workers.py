"""Processes that share training and decoding change no result, nor do likelihoods of the needed pdfs alone."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.base import DecodeConfig, EngineOptions
from kaldi_uq.engine.embedded import decode, trainer
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.errors import DataError, WorkerError
from kaldi_uq.io.kaldi_model import DiagGmmSet
from kaldi_uq.workers import in_processes, one_by_one
from tests.recipe import is_alive, wait_for
from tests.tiny import make_lang, make_waves, train_mono

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are not copied here")


def test_results_come_in_order_and_from_other_processes() -> None:
    def work(part: int) -> tuple[int, int, np.ndarray]:
        return part, os.getpid(), np.full(100_000, part)

    found = list(in_processes(work, range(5)))
    assert [part for part, *_ in found] == list(range(5))
    assert len({pid for _, pid, _ in found} | {os.getpid()}) == 6
    assert all((array == part).all() for part, _, array in found)
    assert [pid for _, pid, _ in in_processes(work, [7])] == [os.getpid()]


def test_error_of_a_process_is_raised_here() -> None:
    def work(part: int) -> int:
        if part == 1:
            raise DataError("utt7: no frames")
        return part

    with pytest.raises(DataError, match=r"^utt7: no frames$"):
        list(in_processes(work, range(3)))


def test_killed_process_is_told() -> None:
    def work(part: int) -> int:
        if part == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    with pytest.raises(WorkerError, match=r"exit code -9 .*OMP_NUM_THREADS=1"):
        list(in_processes(work, range(3)))


def test_parts_go_to_processes_once_they_have_taken_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    asked: list[int] = []

    def parts() -> Iterator[tuple[int, np.ndarray]]:
        for part in range(40):
            asked.append(part)
            yield part, np.full(50_000, part)

    def work(pair: tuple[int, np.ndarray]) -> tuple[int, int, np.ndarray]:
        time.sleep(0.02 if pair[0] % 7 else 0.1)  # some take longer than others
        return pair[0], os.getpid(), pair[1] * 2

    found = []
    for result in one_by_one(work, parts(), alone_s=0.05):
        found.append(result)
        assert len(asked) <= len(found) + 20  # no more are taken than are needed to keep the processes at work
    assert [part for part, *_ in found] == list(range(40))
    assert all((array == 2 * part).all() for part, _, array in found)
    assert found[0][1] == os.getpid() and len({pid for _, pid, _ in found}) == 4
    assert {pid for _, pid, _ in one_by_one(work, parts(), alone_s=1e9)} == {os.getpid()}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert {pid for _, pid, _ in one_by_one(work, parts(), alone_s=0.0)} == {os.getpid()}
    assert list(one_by_one(work, iter(()))) == []


def test_short_parts_are_shared_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    pids: set[int] = set()

    def parts() -> Iterator[int]:  # until both are at work
        for part in range(20_000):
            if len(pids) == 2:
                return
            yield part

    def work(part: int) -> int:
        time.sleep(0.001)
        return os.getpid()

    for pid in one_by_one(work, parts(), alone_s=0.0):
        pids.add(pid)
    assert len(pids) == 2 and os.getpid() not in pids


@pytest.mark.parametrize("what", ["error", "kill", "parts"])
def test_parts_that_fail_end_the_processes(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    def parts() -> Iterator[int]:
        yield from range(5)
        if what == "parts":
            raise DataError("utt5: no frames")
        yield from range(5, 50)

    def work(part: int) -> int:
        if part == 5 and what == "error":
            raise DataError("utt5: no frames")
        if part == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    pids: set[int] = set()
    expected = (WorkerError, r"exit code -9") if what == "kill" else (DataError, r"^utt5: no frames$")
    with pytest.raises(expected[0], match=expected[1]):
        pids.update(one_by_one(work, parts(), alone_s=0.0))
    assert pids and not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("source_fails", [False, True])
def test_first_error_is_raised_whichever_comes_first(source_fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    def parts() -> Iterator[int]:
        yield from range(4)
        if source_fails:
            raise DataError("utt4: no file")
        yield from range(4, 9)

    def work(part: int) -> int:
        if part == 2:
            time.sleep(0.3)  # meanwhile the others have failed
            raise DataError("utt2: no frames")
        if part == 3:
            raise DataError("utt3: no frames")
        return part

    results = one_by_one(work, parts(), alone_s=0.0)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match=r"^utt2: no frames$"):
        next(results)


def test_process_of_a_pool_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(pids_of_parts) == {"one"}


def pids_of_parts() -> set[str]:
    pids = set(one_by_one(lambda part: os.getpid(), range(9), alone_s=0.0))
    return {"one"} if pids == {os.getpid()} else {"several"}


def test_processes_do_not_heed_signals_as_their_starter_does() -> None:
    code = textwrap.dedent("""
        import os, signal
        from kaldi_uq.workers import one_by_one

        signal.signal(signal.SIGTERM, lambda *_: print("heeded", flush=True))
        print(len(set(one_by_one(lambda part: os.getpid(), range(20), alone_s=0.0))))
    """)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() in ("1", "2")


def test_processes_end_with_the_one_that_is_killed(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import itertools, os, time
        from kaldi_uq.workers import one_by_one

        for pid in one_by_one(lambda part: time.sleep(0.01) or os.getpid(), itertools.count(), alone_s=0.0):
            print(pid, flush=True)
    """)
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        pids: set[int] = set()
        while len(pids) < 3:
            pids.add(int(process.stdout.readline()))
        process.kill()
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def test_number_of_processes_changes_no_words_and_no_lattice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lang, (waves, text), engine = make_lang(tmp_path), make_waves(6), EmbeddedEngine()
    model = tmp_path / "mono"
    train_mono(model, lang, waves, text, engine)
    engine.make_graph(lang, model, model / "graph", transition_scale=1.0, self_loop_scale=0.1)
    num_pdfs = int((model / "graph" / "num_pdfs").read_text())
    rng = np.random.default_rng(0)
    scores = {f"utt{n}": rng.normal(size=(40 + n, num_pdfs)).astype(np.float32) for n in range(9)}
    scores["utt3"] = scores["utt3"][:0]
    found = {}
    for count in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        monkeypatch.setattr(decode, "one_by_one", functools.partial(one_by_one, alone_s=0.0))
        kept = tmp_path / count
        decoder = EmbeddedEngine(EngineOptions(work_dir=kept, lattices=True)).decoder(
            model, model / "graph", DecodeConfig()
        )
        hypotheses = decoder.decode(scores.items())
        found[count] = (
            [(utt, each.words, each.score, each.alignment.tolist()) for utt, each in hypotheses.items()],
            (kept / "lat.1.gz").read_bytes(),
        )
    assert found["1"] == found["3"] and len(found["1"][0]) == 8


def test_number_of_processes_changes_no_model_and_no_alignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lang, (waves, text) = make_lang(tmp_path), make_waves(12)
    made = {}
    for count in (1, 2, 5):
        monkeypatch.setattr(trainer, "num_workers", lambda count=count: count)
        monkeypatch.setattr(trainer, "MIN_FRAMES", 1)
        folder = tmp_path / str(count)
        train_mono(folder, lang, waves, text, EmbeddedEngine())
        made[count] = [(folder / name).read_bytes() for name in ("final.mdl", "ali.1.gz")]
    assert made[1] == made[2] == made[5]


@pytest.mark.parametrize("pdfs", [[2, 0], [3], [0, 1, 2, 3], [1, 3]])
def test_log_likelihoods_of_some_pdfs_are_those_of_all(pdfs: list[int]) -> None:
    rng = np.random.default_rng(0)
    sizes = [3, 1, 4, 2]
    gmms = DiagGmmSet(
        tuple(rng.dirichlet(np.ones(size)).astype(np.float32) for size in sizes),
        tuple(rng.normal(size=(size, 5)).astype(np.float32) for size in sizes),
        tuple(rng.uniform(0.5, 2, (size, 5)).astype(np.float32) for size in sizes),
    )
    feats = rng.normal(size=(7, 5)).astype(np.float32)
    assert np.allclose(gmms.loglikes(feats, np.array(pdfs)), gmms.loglikes(feats)[:, pdfs], rtol=1e-6, atol=1e-6)
