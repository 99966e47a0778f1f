"""A command that dies before any of its changes to files can be run again, and then leaves what a whole run leaves.

The command runs in a copy of this process, which ends without a word when it is about to make its n-th change: open a
file for writing, rename, remove, or make a directory.  Random kills hardly ever find these moments.

``KALDI_UQ_DEATHS`` sets at how many moments each command dies.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from tests import tiny
from tests.tiny import TinySystem

pytestmark = pytest.mark.long

DIED = 77
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.utime"}


def run(root: Path, words: list[str], *, die_before: int | None = None) -> tuple[int, int]:
    """Run a command in a copy of this process.

    Args:
        root: changes below it are counted.
        words: the command.
        die_before: number of the change before which it dies.

    Returns:
        exit status, and the number of changes.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        count = 0

        def watch(event: str, args: tuple[Any, ...]) -> None:
            nonlocal count
            changes = event in _CHANGES or (event == "open" and args[2] and args[2] & _WRITING)
            if changes and isinstance(args[0], str | os.PathLike) and root in Path(args[0]).absolute().parents:
                if count == die_before:
                    os._exit(DIED)
                count += 1

        status = 98
        try:
            os.chdir(root)
            sys.addaudithook(watch)
            status = main(words)
            os.write(writer, str(count).encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        counted = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), int(counted or 0)


def contents(root: Path) -> dict[str, bytes]:
    """All files, but those that a killed process leaves beside what it wrote: temporary ones, and locks."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.endswith((".tmp", ".lock")) for part in path.parts)
    }


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), 12)


@pytest.fixture(scope="module")
def good(system: TinySystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all that commands need; names in its files are relative, so that a copy is as good."""
    root = tmp_path_factory.mktemp("good")
    shutil.copytree(system.mono.parent / "lang", root / "lang")
    shutil.copytree(system.mono.parent / "dict", root / "dict")
    system.write_model(system.train("dnn"), root / "dnn")
    few = dict(itertools.islice(system.waves.items(), 3))
    here = Path.cwd()
    os.chdir(root)
    try:
        tiny.write_set(Path("data"), few, {utt: system.text[utt] for utt in few})
        tiny.write_set(Path("fit"), system.waves, system.text)
    finally:
        os.chdir(here)
    shutil.copytree(root / "data", root / "unsorted")
    (root / "unsorted/text").write_text("utt01 one\nutt00 two\n")
    (root / "mfcc.conf").write_text("--sample-frequency=8000\n--use-energy=false\n")
    status, _ = run(root, ["nnet-decode", "fit", "dnn", "dnn/graph", "fit_scores"])
    assert status == 0
    return root


QUICK = (
    "fix-data unsorted",
    "split-data data 2",
    "prepare-lang dict <SIL> new",
    "disturb-data --kind white --snr-db 10 data noisy",
    "nnet-decode --results results.json data dnn dnn/graph scores",
    "nnet-attack --lang-dir lang --num-steps 2 --results results.json data dnn dnn/graph dnn/attack_pgd_eps0.02",
)
SLOW = (
    "fit-detector --scored fit_scores/results.jsonl dnn",
    "make-graph lang dnn new_graph",
    "train-lm fit/text lang/words.txt lm.arpa",
    "compute-mfcc --mfcc-config mfcc.conf data feats.ark feats.scp",
)


@pytest.mark.parametrize("line", QUICK)
def test_command_that_died_is_completed(good: Path, tmp_path: Path, line: str) -> None:
    assert_completed(good, tmp_path, line, int(os.environ.get("KALDI_UQ_DEATHS", 5)))


@pytest.mark.slow
@pytest.mark.parametrize("line", [*QUICK, *SLOW])
def test_command_that_died_at_any_moment_is_completed(good: Path, tmp_path: Path, line: str) -> None:
    assert_completed(good, tmp_path, line, int(os.environ.get("KALDI_UQ_DEATHS", 1000)))


def assert_completed(good: Path, tmp_path: Path, line: str, most: int) -> None:
    """Let a command die at no more than so many moments, spread over all, and run it again each time."""

    def fresh(folder: str) -> Path:
        shutil.copytree(good, tmp_path / folder)
        return tmp_path / folder

    undisturbed = fresh("undisturbed")
    status, changes = run(undisturbed, line.split())
    assert status == 0
    assert changes > 1
    expected = contents(undisturbed)
    for moment in sorted(set(np.linspace(0, changes - 1, min(most, changes)).astype(int).tolist())):
        root = fresh(f"died before {moment}")
        assert run(root, line.split(), die_before=moment)[0] == DIED
        assert run(root, line.split())[0] == 0, moment
        found = contents(root)
        assert found.keys() == expected.keys(), moment
        assert [path for path, data in found.items() if data != expected[path]] == [], moment
