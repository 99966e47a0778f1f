"""utils/run.pl: Kaldi's interface, logs, failures, signals."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import RunScript
from tests.recipe import LIMIT_S, REPO, is_alive, wait_for

UTILS = REPO / "utils"


def test_log_has_command_output_and_status(run_script: RunScript, tmp_path: Path) -> None:
    done = run_script(UTILS / "run.pl", "log/a.log", "echo", "two words", "$(touch pwned)", ";touch", "pwned")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "log/a.log").read_text().splitlines()
    assert lines[0].startswith("# echo ")
    assert lines[1].startswith("# Started at ")
    assert lines[3] == "two words $(touch pwned) ;touch pwned"
    assert lines[-1].startswith("# Ended (code 0) at ")
    assert not (tmp_path / "pwned").exists()


def test_array_replaces_job_in_arguments_and_log_names(run_script: RunScript, tmp_path: Path) -> None:
    done = run_script(UTILS / "run.pl", "--mem", "2G", "JOB=2:4", "--gpu", "1", "log/x.JOB.log", "echo", "part JOB/JOB")
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "log").iterdir()) == ["x.2.log", "x.3.log", "x.4.log"]
    for job in (2, 3, 4):
        assert f"\npart {job}/{job}\n" in (tmp_path / f"log/x.{job}.log").read_text()


def test_failed_jobs_are_counted_named_and_shown_after_all_have_run(run_script: RunScript, tmp_path: Path) -> None:
    command = ["bash", "-c", "echo why JOB; exit $((JOB % 2))"]
    done = run_script(UTILS / "run.pl", "--max-jobs-run", "2", "JOB=1:5", "log/x.JOB.log", *command)
    assert done.returncode == 1
    assert "3 / 5 failed" in done.stderr
    for job in (1, 3, 5):
        assert f"log/x.{job}.log" in done.stderr
    assert "log/x.2.log" not in done.stderr
    assert "why 1" in done.stderr  # the end of the first failing log
    assert "why 3" not in done.stderr
    assert "# Ended (code 1)" in (tmp_path / "log/x.5.log").read_text()
    assert "# Ended (code 0)" in (tmp_path / "log/x.4.log").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("kill -9 $$", ["log/x.log: killed by signal 9; it says nothing"]),
        ("echo begun; kill -15 $$", ["log/x.log: killed by signal 15; it ends with", "  begun"]),
        ("exit 137", ["log/x.log: killed by signal 9; it says nothing"]),  # a shell says it of its command
        ("exit 1", ["log/x.log says nothing"]),
    ],
)
def test_job_that_was_killed_is_told(run_script: RunScript, command: str, said: list[str]) -> None:
    done = run_script(UTILS / "run.pl", "log/x.log", "bash", "-c", command)
    assert done.returncode == 1
    first, *rest = said
    assert done.stderr.splitlines() == ["run.pl: job failed, log is in log/x.log", f"run.pl: {first}", *rest]


def test_pipes_redirections_and_assignments_reach_the_shell(run_script: RunScript, tmp_path: Path) -> None:
    words = ["X=a b", "env", "|", "grep", "^X=", ">", "out put", "&&", "echo", "<eps>", "2>/dev/null"]
    assert run_script(UTILS / "run.pl", "a.log", *words).returncode == 0
    assert (tmp_path / "out put").read_text() == "X=a b\n"
    assert "\n<eps>\n" in (tmp_path / "a.log").read_text()


def test_pipeline_fails_with_its_first_part(run_script: RunScript) -> None:
    assert run_script(UTILS / "run.pl", "a.log", "false", "|", "true").returncode == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["JOB=1:0", "x.JOB.log", "true"], "range JOB=1:0 is empty"),
        (["JOB=0:3", "x.JOB.log", "true"], "must begin at 1"),
        (["JOB=1:", "x.JOB.log", "true"], "expected JOB=<first>:<last>"),
        (["JOB=1:2", "x.log", "true"], "2 jobs would write one log file"),
        (["--max-jobs-run", "0", "x.log", "true"], "positive integer"),
        (["--mem"], "has no value"),
    ],
)
def test_bad_arrays_and_options_are_refused_before_anything_runs(
    run_script: RunScript, tmp_path: Path, words: list[str], message: str
) -> None:
    done = run_script(UTILS / "run.pl", *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert not list(tmp_path.glob("x*"))


def test_max_jobs_run_is_kept(run_script: RunScript, tmp_path: Path) -> None:
    command = "touch run.JOB; echo run.* | wc -w; sleep 0.1; rm run.JOB"
    assert run_script(UTILS / "run.pl", "-tc", "2", "JOB=1:6", "x.JOB.log", "bash", "-c", command).returncode == 0
    seen = [int((tmp_path / f"x.{job}.log").read_text().splitlines()[3]) for job in range(1, 7)]
    assert max(seen) <= 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_threads_of_a_job_do_not_limit_the_number_of_jobs(run_script: RunScript, tmp_path: Path) -> None:
    command = "touch run.JOB; for i in $(seq 10000); do [ -e run.1 -a -e run.2 ] && exit 0; sleep 0.05; done; exit 1"
    words = [UTILS / "run.pl", "JOB=1:2", "x.JOB.log", "bash", "-c", command]
    assert run_script(*words, env={"OMP_NUM_THREADS": "1"}).returncode == 0


def test_signal_ends_the_jobs_and_what_they_started(script_env: dict[str, str], tmp_path: Path) -> None:
    command = [UTILS / "run.pl", "-tc", "2", "JOB=1:2", "x.JOB.log", "bash", "-c", "sleep 900 & echo $! >pid.JOB; wait"]
    process = subprocess.Popen(command, cwd=tmp_path, env=script_env, stderr=subprocess.PIPE, text=True)
    pids = [tmp_path / f"pid.{job}" for job in (1, 2)]
    wait_for(lambda: all(path.is_file() and path.read_text().endswith("\n") for path in pids), process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == -signal.SIGTERM
    assert "ended by SIGTERM" in errors
    for job in (1, 2):
        assert "signal 15" in (tmp_path / f"x.{job}.log").read_text()
        pid = int((tmp_path / f"pid.{job}").read_text())
        wait_for(lambda pid=pid: not is_alive(pid))


@pytest.mark.long
def test_watch_for_its_caller_does_not_kill_it_at_its_end(script_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "Slow.pm").write_text(  # Perl's own end takes longer than the time between two looks
        "package Slow; sub DESTROY { select(undef, undef, undef, 1.5) } our $x = bless {}; $x->{x} = $x; 1;"
    )
    slow = {"PERL5LIB": str(tmp_path), "PERL5OPT": "-MSlow", "KALDI_UQ_MASTER": str(os.getpid())}
    done = subprocess.run(
        [UTILS / "run.pl", "log/x.log", "true"],
        env={**script_env, **slow},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
