"""Nothing outlives the script, or the program, that started it; nobody works where another is at work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.recipe import LIMIT_S, REPO, is_alive, wait_for

pytestmark = pytest.mark.long

MASTER = """#!/usr/bin/env bash
set -euo pipefail
nj=2   # <n>: jobs

. utils/script.sh
. utils/stages.sh
seed=0 corpus_opts="" models="a b" model_jobs=2 attack_jobs=1
use_run demo
work() { ./step.sh "exp/$1"; ./step.sh "exp/$1-next"; }
each_model work
"""
STEP = """#!/usr/bin/env bash
set -euo pipefail
nj=2   # <n>: jobs

. utils/script.sh
hold_dir "$1"
${CMD:-utils/run.pl} JOB=1:$nj "$1/log/x.JOB.log" bash -c "echo \\$\\$ >'$1/pid.JOB'; sleep 600 & sleep 600"
"""
# of Kaldi's run.pl the job alone: it passes no signals on
PLAIN_CMD = '#!/usr/bin/env bash\nshift 2\n"${@//JOB/1}" &\n"${@//JOB/2}" &\nwait\n'

Start = Callable[..., "subprocess.Popen[str]"]


def of_directory(folder: Path) -> list[int]:
    """Processes that work in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and is_alive(int(process.name)):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory with a script of two steps at a time, each of two jobs."""
    (tmp_path / "utils").symlink_to(REPO / "utils")
    for name, text in (("master.sh", MASTER), ("step.sh", STEP), ("cmd", PLAIN_CMD)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def start(work: Path, script_env: dict[str, str]) -> Iterator[Start]:
    """A function that starts a command as the leader of a process group of its own."""
    env = {name: value for name, value in script_env.items() if name != "KALDI_UQ_MASTER"}

    def run(*command: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=work, env={**env, **more}, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    yield run
    for pid in of_directory(work):  # after a test that failed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def refusal(start: Start, *command: str) -> str:
    done = start(*command)
    errors = done.communicate(timeout=LIMIT_S)[1]
    assert done.returncode == 1
    return errors.splitlines()[-1]


@pytest.mark.parametrize("cmd", ["utils/run.pl", "./cmd"])
@pytest.mark.parametrize(
    "end",
    [
        lambda process: process.send_signal(signal.SIGTERM),
        lambda process: process.send_signal(signal.SIGKILL),
        lambda process: os.killpg(process.pid, signal.SIGKILL),
        lambda process: os.killpg(process.pid, signal.SIGHUP),
    ],
    ids=["TERM", "KILL", "KILL of the group", "HUP of the group"],
)
def test_nothing_outlives_a_script(
    work: Path, start: Start, cmd: str, end: Callable[[subprocess.Popen[str]], None]
) -> None:
    master = start("./master.sh", CMD=cmd)
    wait_for(lambda: all((work / f"exp/{m}/pid.{job}").is_file() for m in "ab" for job in (1, 2)), master)
    assert len(of_directory(work)) >= 11  # the script, and of each model the step, two jobs and what these started
    line = refusal(start, "./master.sh", "--nj", "3")
    assert f"another run.sh is at work in {work}" in line
    assert f"process {master.pid} on " in line and line.endswith(": ./master.sh")
    end(master)
    master.wait(timeout=LIMIT_S)
    wait_for(lambda: not of_directory(work))
    assert not list(work.glob("exp/*-next/pid.*"))  # nor did it go on with the next step
    assert subprocess.run(["flock", "-n", "runs/.lock", "true"], cwd=work, check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_step_alone_takes_its_jobs_with_it_and_holds_its_directory(
    work: Path, start: Start, number: signal.Signals
) -> None:
    step = start("./step.sh", "--nj", "2", "out")
    wait_for(lambda: (work / "out/pid.1").is_file(), step)
    line = refusal(start, "./step.sh", "out")
    assert line.startswith("./step.sh: error: out is being written by another script; wait for it: ")
    assert f"process {step.pid} on " in line and line.endswith(": ./step.sh --nj 2 out")
    step.send_signal(number)
    step.wait(timeout=LIMIT_S)
    wait_for(lambda: not of_directory(work))
    again = start("./step.sh", "out")
    (work / "out/pid.1").unlink()
    wait_for(lambda: (work / "out/pid.1").is_file(), again)


def test_jobs_of_run_pl_that_was_killed_end(work: Path, start: Start) -> None:
    run_pl = start("utils/run.pl", "JOB=1:2", "x.JOB.log", "bash", "-c", "echo $$ >pid.JOB; sleep 600 & sleep 600")
    wait_for(lambda: all((work / f"pid.{job}").is_file() for job in (1, 2)), run_pl)
    run_pl.kill()
    run_pl.wait(timeout=LIMIT_S)
    wait_for(lambda: not of_directory(work))


def test_run_pl_ends_with_the_program_that_called_it(work: Path, start: Start) -> None:
    code = "from kaldi_uq.engine.binaries.jobs import _start\n"
    code += "_start(['utils/run.pl', 'x.log', 'bash', '-c', 'echo $$ >pid; sleep 600'])"
    program = start(sys.executable, "-c", code)
    wait_for(lambda: (work / "pid").is_file(), program)
    program.kill()
    program.wait(timeout=LIMIT_S)
    wait_for(lambda: not of_directory(work))


def test_run_pl_of_another_recipe_may_outlive_its_caller(work: Path, start: Start) -> None:
    caller = start("bash", "-c", "utils/run.pl x.log bash -c 'echo $$ >pid; sleep 1.6; echo >done' & sleep 600")
    wait_for(lambda: (work / "pid").is_file(), caller)
    caller.kill()
    wait_for(lambda: (work / "done").is_file())


def test_a_script_that_ends_by_itself_leaves_no_sentry(work: Path, start: Start, script_env: dict[str, str]) -> None:
    (work / "quick.sh").write_text(
        "#!/usr/bin/env bash\nnj=1   # <n>: jobs\n\n. utils/script.sh\necho $KALDI_UQ_MASTER >&2\nwait\n"
    )
    done = start("bash", "quick.sh")
    value = done.communicate(timeout=LIMIT_S)[1].split()[-1]
    assert done.returncode == 0 and value.startswith(f"{done.pid}.")
    cmdline = f"\0{done.pid}\0{value}\0"
    wait_for(lambda: not any(cmdline in _command(p) for p in Path("/proc").glob("[0-9]*")))


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_workers_of_a_corpus_end_with_it(work: Path, start: Start) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(REPO / 'local')!r})\n"
        "import time, corpus\n"
        "if __name__ == '__main__':\n"
        "    for n, _ in enumerate(corpus._parallel(time.sleep, [0.01] * 4 + [600], 2)): print(n, file=sys.stderr)\n"
    )
    (work / "corpus_of.py").write_text(code)
    program = start(sys.executable, "corpus_of.py")
    assert program.stderr is not None
    program.stderr.readline()
    program.kill()
    program.wait(timeout=LIMIT_S)
    wait_for(lambda: not of_directory(work))
