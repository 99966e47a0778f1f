"""Damaged files: read, or refused with one line that names the file; never a crash, a hang, or a gigabyte of memory.

``KALDI_UQ_FUZZ_INPUTS`` sets how many files are read, over all readers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import worker
from tests.fuzz.readers import Reader
from tests.recipe import LIMIT_S

pytestmark = pytest.mark.long


def num_inputs(default: int) -> int:
    return int(os.environ.get("KALDI_UQ_FUZZ_INPUTS", default))


def fuzz(folder: Path, count: int, env: dict[str, str], *options: str) -> list[str]:
    """Read ``count`` damaged files in a process of its own; returns the problems."""
    command = [sys.executable, "-m", "tests.fuzz.worker", str(folder), "--count", str(count), *options]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    (folder / "log").write_text(done.stdout + done.stderr)
    if done.returncode:
        status = signal.Signals(-done.returncode).name if done.returncode < 0 else done.returncode
        last = (folder / "progress").read_text() if (folder / "progress").exists() else "none"
        return [f"the process ended with {status} at {' '.join(last.split())}: {done.stderr[-2000:]}"]
    found = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    return [f"{row['reader']} {row['number']}: {row['problem']}" for row in found]


def test_damaged_files(tmp_path: Path, script_env: dict[str, str]) -> None:
    assert fuzz(tmp_path, num_inputs(20_000), script_env) == []


@pytest.mark.slow
def test_a_million_damaged_files(tmp_path: Path, script_env: dict[str, str]) -> None:
    assert fuzz(tmp_path, num_inputs(1_000_000), script_env, "--seed", "1") == []


class TestTheHarness:
    """What it is to find, it finds."""

    @pytest.fixture
    def reader(self, tmp_path: Path) -> Reader:
        (tmp_path / "files").mkdir()
        return Reader("x", tmp_path / "files/x", [b"one 1\ntwo 2\n"], lambda: None)

    def found(self, reader: Reader, count: int = 20) -> list[str]:
        return list(worker.run(reader, reader.path.parents[1], 0, range(count))[0])

    def test_other_exceptions(self, reader: Reader) -> None:
        reader.read = lambda: int(reader.path.read_text("latin1").split()[1])
        assert any(problem.startswith("ValueError at test_fuzz.py") for problem in self.found(reader))

    def test_messages_that_name_no_file(self, reader: Reader) -> None:
        def read() -> None:
            raise worker.KaldiUqError("damaged")

        reader.read = read
        assert self.found(reader) == ["the message does not name the file: KaldiUqError: 'damaged'"]

    def test_an_input_is_a_function_of_its_number(self, reader: Reader) -> None:
        inputs = [worker.input_of(reader, 0, number) for number in range(50)]
        assert inputs == [worker.input_of(reader, 0, number) for number in range(50)]
        assert len(set(inputs)) > 40
        assert inputs != [worker.input_of(reader, 1, number) for number in range(50)]

    @pytest.mark.parametrize(
        "code, status",
        [
            ("import ctypes; ctypes.string_at(0)", -signal.SIGSEGV),
            ("worker.SECONDS = 0.1\nreader.read = lambda: any(iter(int, 1))", -signal.SIGPROF),
            ("worker.WAIT_S = 0.1\nreader.read = lambda: os.read(os.pipe()[0], 1)", -signal.SIGALRM),
            ("bytearray(2 << 30)", 0),
        ],
        ids=["crash", "hang", "wait", "memory"],
    )
    def test_what_ends_a_process_or_fills_the_memory(
        self, tmp_path: Path, script_env: dict[str, str], code: str, status: int
    ) -> None:
        assignment = code if "reader.read" in code else f"def read():\n    {code}\nreader.read = read"
        program = (
            "import os\nfrom pathlib import Path\nfrom tests.fuzz import worker\n"
            "from tests.fuzz.readers import Reader\n"
            f"reader = Reader('x', Path({str(tmp_path / 'x')!r}), [b'one'], lambda: None)\n{assignment}\n"
            f"worker.limit_memory()\nprint(worker.run(reader, Path({str(tmp_path)!r}), 0, range(5)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=script_env,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert (tmp_path / "progress").read_text().split() == ["x", "4" if status == 0 else "0"]
        assert ("MemoryError" in done.stdout) == (status == 0)
