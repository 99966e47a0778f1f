"""Processes that share the training of GMMs change no result, nor do likelihoods of the needed pdfs alone."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.engine.embedded import trainer
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.engine.embedded.workers import in_processes
from kaldi_uq.errors import DataError, EngineError
from kaldi_uq.io.kaldi_model import DiagGmmSet
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

    with pytest.raises(EngineError, match=r"exit code -9 .*OMP_NUM_THREADS=1"):
        list(in_processes(work, range(3)))


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
