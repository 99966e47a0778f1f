"""run_jobs of utils/script.sh: what a step says of jobs that failed on a grid, whose programs name no log."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import RunScript
from tests.recipe import REPO, error_line

Step = Callable[..., "subprocess.CompletedProcess[str]"]

STEP = """#!/usr/bin/env bash
# A step.
#
# Usage: $0
set -euo pipefail
cmd=utils/run.pl  # <command>: how to run the jobs

. utils/script.sh
run_jobs {array} {log} bash ./job.sh JOB
echo done
"""

TURN = """#!/usr/bin/env bash
# A step whose job no other may run at the same time.
#
# Usage: $0
set -euo pipefail
cmd=utils/run.pl  # <command>: how to run the jobs

. utils/script.sh
in_turn shared run_jobs log/x.log bash ./job.sh 2
flock -w 60 shared true
echo done
"""

# As queue.pl, slurm.pl and ssh.pl do it: their words at the end of a log, a pattern for all logs on the terminal.
# A log has no end if the status is 77, and is not there if it is 78.
GRID = r"""#!/usr/bin/env bash
count=1 failed=0
if [[ $1 == JOB=* ]]; then count=${1#JOB=1:}; shift; fi
pattern=$1
shift
for ((job = 1; job <= count; job++)); do
  log=${pattern//JOB/$job} status=0
  "${@//JOB/$job}" >"$log" 2>&1 || status=$?
  ((status == 0)) || ((++failed))
  ((status == 77)) || echo "# Accounting: time=0 threads=1" >>"$log"
  ((status == 77)) || echo "# Finished at Sun Nov 29 12:00:00 UTC with status $status" >>"$log"
  ((status != 78)) || rm "$log"
done
((failed == 0)) || { echo "grid: $failed / $count failed, log is in ${pattern//JOB/*}" >&2; exit 1; }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with steps of one and of three jobs, and commands that run them."""
    (tmp_path / "utils").symlink_to(REPO / "utils")
    (tmp_path / "log").mkdir()
    (tmp_path / "shared").touch()
    for name, text in (
        ("one.sh", STEP.format(array="", log="log/x.log")),
        ("three.sh", STEP.format(array="JOB=1:3", log="log/x.JOB.log")),
        ("turn.sh", TURN),
        ("grid.sh", GRID),
        ("broken.sh", 'echo "broken: no queue" >&2; exit 3'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.fixture
def step(folder: Path, run_script: RunScript) -> Step:
    """A function that runs a step, with a command for jobs that run a line of shell, whose $1 is the number."""

    def run(name: str, cmd: str, line: str) -> subprocess.CompletedProcess[str]:
        (folder / "job.sh").write_text(line + "\n")
        return run_script(f"./{name}.sh", "--cmd", cmd, cwd=folder)

    return run


@pytest.mark.long
@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("echo kaldi-uq x: error: $1.wav: bad; exit 1", "kaldi-uq x: error: 2.wav: bad"),
        ("echo 'kaldi-uq x: error: bad'; echo later; exit 1", "kaldi-uq x: error: bad"),
        (r"printf 'x: 0%%\rx: 50%%'; exit 3", "status 3; the last line is: x: 50%"),
        ("echo '# a comment'; exit 3", "status 3"),
        ("kill -9 $$", "killed by SIGKILL"),
        ("echo begun; kill -9 $$", "killed by SIGKILL; the last line is: begun"),
        ("echo begun; exit 77", "it did not end (was it killed, or its machine?); the last line is: begun"),
        ("exit 78", "no such log; the job did not start, or its machine does not have this directory"),
    ],
)
def test_failed_job_is_one_line_with_its_log_and_what_that_ends_with(step: Step, line: str, end: str) -> None:
    done = step("three", "./grid.sh", f"[ $1 != 2 ] || {{ {line}; }}")
    assert error_line(done) == f"./three.sh: error: 1 of 3 jobs failed: log/x.2.log: {end}"
    for name in ("one", "turn"):
        done = step(name, "./grid.sh", line.replace("$1", "2"))
        assert error_line(done) == f"./{name}.sh: error: 1 of 1 jobs failed: log/x.log: {end}"


def test_jobs_that_end_well_are_no_error_whatever_they_say(step: Step) -> None:
    for name in ("one", "three", "turn"):
        for cmd in ("./grid.sh", "utils/run.pl"):
            done = step(name, cmd, "echo x: error: none")
            assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_first_of_several_is_told(step: Step) -> None:
    done = step("three", "./grid.sh", "echo x: error: $1; [ $1 = 1 ]")
    assert error_line(done) == "./three.sh: error: 2 of 3 jobs failed: log/x.2.log: x: error: 2"


def test_log_of_an_earlier_run_is_not_taken_for_that_of_these_jobs(step: Step) -> None:
    assert step("three", "./grid.sh", "true").returncode == 0
    line = error_line(step("three", "./broken.sh", "true"))
    assert line.startswith("./three.sh: error: 3 of 3 jobs failed: log/x.1.log: no such log; ")


def test_grid_that_fails_though_the_jobs_did_not_is_told(folder: Path, step: Step) -> None:
    (folder / "broken.sh").write_text('#!/bin/sh\n./grid.sh "$@"; exit 3\n')
    line = error_line(step("three", "./broken.sh", "true"))
    assert line == "./three.sh: error: ./broken.sh failed, though no job did; what it says is above"


@pytest.mark.parametrize(("array", "log"), [("", "x.log"), ("JOB=1:3", "x.JOB.log")])
def test_log_below_the_directory_of_the_recipe_is_given_from_there(
    folder: Path, run_script: RunScript, array: str, log: str
) -> None:
    recipe = folder / "a recipe"  # Kaldi's run.pl does not quote the name of a log
    recipe.mkdir()
    (recipe / "utils").symlink_to(REPO / "utils")
    (recipe / "step.sh").write_text(STEP.format(array=array, log=f'"$PWD/log/{log}"'))
    (recipe / "tell.sh").write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    for path in recipe.glob("*.sh"):
        path.chmod(0o755)
    done = run_script("./step.sh", "--cmd", "./tell.sh", cwd=recipe)
    words = [*array.split(), f"log/{log}", "bash", "./job.sh", "JOB"]
    assert done.stdout == "".join(f"<{word}>" for word in words) + "done\n"


def test_log_that_a_command_would_not_quote_is_refused_before_it_starts(folder: Path, step: Step) -> None:
    for name in ("one", "three"):
        path = folder / f"{name}.sh"
        path.write_text(path.read_text().replace("log/x", '"a log/x"'))
    (folder / "broken.sh").write_text("#!/bin/sh\nlogfile=$1\ntouch started\necho >$logfile\n")  # as Kaldi's run.pl
    for name, log in (("one", "x.log"), ("three", "x.JOB.log")):
        line = f"./{name}.sh: error: a log/{log}: ./broken.sh does not quote the name of a log, which has a blank; "
        assert error_line(step(name, "./broken.sh", "true")).startswith(line)
    assert not (folder / "started").exists()
    (folder / "a log").mkdir()
    assert step("one", "utils/run.pl", "true").returncode == 0  # ours quotes it


def test_own_run_pl_has_said_it_already(step: Step) -> None:
    done = step("three", "utils/run.pl -tc 2", "echo x: error: $1; [ $1 = 1 ]")
    assert error_line(done) == "x: error: 2"


@pytest.mark.long
@pytest.mark.parametrize("cmd", ["./grid.sh", "utils/run.pl"])
def test_logs_of_the_last_five_runs_are_kept(folder: Path, step: Step, cmd: str) -> None:
    for number in range(8):
        assert step("three", cmd, f"echo run {number} of job $1").returncode == 0
    for job in (1, 2, 3):
        logs = [f"x.{job}.log", *(f"x.{job}.log.{age}" for age in range(1, 6))]
        assert sorted(path.name for path in (folder / "log").glob(f"x.{job}.*")) == logs
        for age, name in enumerate(logs):
            assert f"run {7 - age} of job {job}" in (folder / "log" / name).read_text()


def test_step_that_does_not_start_moves_no_log_twice(folder: Path, step: Step) -> None:
    step("one", "utils/run.pl", "echo first")
    step("one", "./broken.sh", "true")  # leaves no log
    step("one", "utils/run.pl", "echo third")
    assert sorted(path.name for path in (folder / "log").iterdir()) == ["x.log", "x.log.1"]
    assert "first" in (folder / "log/x.log.1").read_text()


@pytest.mark.long
def test_job_waits_for_its_turn_and_gives_it_back(folder: Path, step: Step) -> None:
    """Two steps whose jobs would find each other's traces if they ran at the same time."""
    line = "[ ! -e there ] || { echo x: error: not alone; exit 1; }; touch there; sleep 0.3; rm there"
    with subprocess.Popen(["flock", "shared", "sleep", "0.5"], cwd=folder), ThreadPoolExecutor() as pool:
        both = [pool.submit(step, "turn", "utils/run.pl", line) for _ in range(2)]
    for one in both:
        assert (one.result().returncode, one.result().stdout) == (0, "done\n"), one.result().stderr


def test_every_script_gives_its_jobs_to_run_jobs() -> None:
    """A command for jobs is only passed on as --cmd; whoever starts it himself says nothing of a job that failed."""
    started = re.compile(r"""(?<!=)\$\w*cmd (?:"|JOB=|\S*log)""")
    found = [
        f"{path.relative_to(REPO)}:{number}: {line.strip()}"
        for folder in ("local", "steps", "recipes", "utils")
        for path in sorted((REPO / folder).rglob("*.sh"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if started.search(line) and path != REPO / "utils/script.sh"
    ]
    assert not found
