"""A command that begins as a copy of a process with the libraries is what it is without one."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket as sockets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kaldi_uq.cli import copies, preloaded
from tests.recipe import LIMIT_S, is_alive, wait_for

pytestmark = pytest.mark.long

# A "recogniser" that tells where it is loaded, and waits if it is told to.
SPY = """
import json, os, sys, time, torch, scipy.linalg
from threadpoolctl import threadpool_info
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "here": os.getcwd(),
    "word": os.environ.get("WORD"), "argv": sys.argv[1:],
    "umask": os.umask(0o22), "files": sorted(map(int, os.listdir("/proc/self/fd"))),
    "stdin": sys.stdin.read(), "threads": torch.get_num_threads(),
    "blas": [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"],
}), flush=True)
if "WAIT" in os.environ:
    open(os.environ["WAIT"], "w").close()
    time.sleep(600)
make = None
"""
COMMAND = ("kaldi-uq", "detect", "--recogniser", "spy.py:make", ".", "a.wav")


class Run:
    """Commands with one preloading process, in a directory with the spy."""

    def __init__(self, place: Path, env: dict[str, str], socket: Path, server: subprocess.Popen[bytes]) -> None:
        self.place, self.socket, self.server = place, socket, server
        self.env = {**env, preloaded.PLACE: str(socket)}

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        env = {**self.env, **options.pop("env", {})}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, **{"cwd": self.place, "env": env, "text": True, **pipes, **options})

    def __call__(self, *command: str, **options: Any) -> tuple[int, str, str]:
        process = self.start(*command, **options)
        said = process.communicate(timeout=LIMIT_S)
        return process.returncode, *said

    def spy(self, **options: Any) -> dict[str, Any]:
        status, output, errors = self(*COMMAND, **options)
        assert status == 1 and "spy.py" in errors, errors
        found: dict[str, Any] = json.loads(output)
        return found


def start_server(env: dict[str, str], *options: str) -> tuple[Path, subprocess.Popen[bytes]]:
    env = {name: text for name, text in env.items() if name != "OMP_NUM_THREADS"}
    socket = Path(tempfile.mkdtemp(), "socket")  # not below tmp_path, whose name may be too long for a socket
    server = subprocess.Popen(["kaldi-uq", "preload", *options, str(socket)], env=env)
    wait_for(socket.exists, server)
    return socket, server


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, script_env: dict[str, str]) -> Iterator[Run]:
    place = tmp_path_factory.mktemp("preload")
    (place / "spy.py").write_text(SPY)
    (place / "a.wav").touch()
    socket, server = start_server(script_env)
    yield Run(place, script_env, socket, server)
    server.terminate()
    server.wait(LIMIT_S)


def test_copy_has_words_files_directory_and_environment_of_the_caller(run: Run) -> None:
    with open(run.place / "lock", "w") as lock, open(run.place / "spy.py") as text:
        found = run.spy(
            env={"WORD": "a b\n", "OMP_NUM_THREADS": "3"}, umask=0o027, pass_fds=[lock.fileno()], stdin=text
        )
        assert found["parent"] == run.server.pid
        assert (found["here"], found["word"], found["umask"]) == (str(run.place), "a b\n", 0o027)
        assert found["argv"] == list(COMMAND[1:]) and found["stdin"] == SPY
        assert {0, 1, 2, lock.fileno()} <= set(found["files"])


@pytest.mark.parametrize("threads", ["", "1"])
def test_copy_has_the_threads_that_a_program_would_have(run: Run, threads: str) -> None:
    wanted = {"OMP_NUM_THREADS": threads} if threads else {}
    env = {name: text for name, text in run.env.items() if name != "OMP_NUM_THREADS"} | wanted
    here, there = (
        json.loads(
            subprocess.run(COMMAND, cwd=run.place, env=each, stdin=subprocess.DEVNULL, capture_output=True).stdout
        )
        for each in ({**env, preloaded.PLACE: ""}, env)
    )
    assert there["parent"] == run.server.pid != here["parent"]
    assert (there["threads"], there["blas"]) == (here["threads"], here["blas"]) and here["blas"]


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "LD_BIND_NOW", "OMP_DYNAMIC", "SLURM_JOB_ID"])
def test_what_is_read_at_import_makes_a_command_run_by_itself(run: Run, name: str) -> None:
    assert run.spy(env={name: "1"})["parent"] != run.server.pid


def lower_limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))


def one_processor() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def in_batch() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def no_new_rights() -> None:
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


@pytest.mark.parametrize("change", [lower_limit, one_processor, in_batch, no_new_rights, lambda: os.nice(1)])
def test_other_limits_processors_or_priority_make_a_command_run_by_itself(run: Run, change: Callable[[], Any]) -> None:
    if change is one_processor and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one processor")
    assert run.spy(preexec_fn=change)["parent"] != run.server.pid


@pytest.mark.parametrize("words", [("--debug", "nothing", "a.wav"), ("nothing", "a.wav"), ("--nothing",)])
def test_copy_fails_as_a_program_does(run: Run, words: tuple[str, ...]) -> None:
    here, there = (run("kaldi-uq", "detect", *words, env={preloaded.PLACE: place}) for place in ("", str(run.socket)))
    assert here[:2] == there[:2] and here[2].splitlines()[-1] == there[2].splitlines()[-1]
    assert ("Traceback" in here[2]) == ("Traceback" in there[2])


def test_full_disk_is_told_once(run: Run) -> None:
    with open("/dev/full", "w") as full:
        status, _, errors = run("kaldi-uq", "doctor", stdout=full)
    assert status == 1 and len(errors.splitlines()) == 1, errors


@pytest.mark.parametrize("place", ["", "nothing/here"])
def test_where_nobody_answers_a_command_runs_by_itself(run: Run, place: str) -> None:
    assert run.spy(env={preloaded.PLACE: place})["parent"] != run.server.pid


def test_command_without_input_runs_by_itself(run: Run) -> None:
    assert run("bash", "-c", "kaldi-uq check-eps 0.02 <&-") == (0, "0.02\n", "")


def test_processes_of_torchrun_run_by_themselves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(preloaded.PLACE, str(run.socket))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert preloaded.ask(["check-eps", "0.02"]) is None


@pytest.mark.parametrize(
    "words", [("check-eps", "0.020"), ("check-eps", "2"), ("check-eps",), ("validate-data", "none")]
)
def test_output_errors_and_status_are_the_same(run: Run, words: tuple[str, ...]) -> None:
    assert run("kaldi-uq", *words) == run("kaldi-uq", *words, env={preloaded.PLACE: ""})


def waiting(run: Run, name: str, **options: Any) -> tuple[subprocess.Popen[str], int]:
    """A command that waits in a copy, and the copy."""
    mark = run.place / name
    process = run.start(*COMMAND, env={"WAIT": str(mark)}, **options)
    wait_for(mark.exists, process)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["pid"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_copy_and_its_end_is_the_end(run: Run, number: signal.Signals) -> None:
    process, copy = waiting(run, number.name, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == -number and not is_alive(copy)
    assert errors == ("kaldi-uq detect: interrupted\n" if number == signal.SIGINT else "")


def test_stopped_caller_stops_its_copy_until_it_goes_on(run: Run) -> None:
    process, copy = waiting(run, "stopped")

    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    process.send_signal(signal.SIGTSTP)
    wait_for(lambda: state(copy) == state(process.pid) == "T")
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: "T" not in (state(copy), state(process.pid)))
    process.terminate()
    assert process.wait(LIMIT_S) == -signal.SIGTERM


def test_killed_copy_kills_the_caller(run: Run) -> None:
    process, copy = waiting(run, "killed copy")
    os.kill(copy, signal.SIGKILL)
    assert process.wait(LIMIT_S) == -signal.SIGKILL


def test_killed_caller_takes_its_copy_along_which_holds_its_locks_until_then(run: Run) -> None:
    with open(run.place / "held", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process, copy = waiting(run, "killed caller", pass_fds=[held.fileno()])
    with open(run.place / "held") as again:
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.kill()
        process.wait(LIMIT_S)
        wait_for(lambda: not is_alive(copy))
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_commands_run_at_the_same_time(run: Run) -> None:
    processes = [run.start("kaldi-uq", "check-eps", f"0.0{n}") for n in range(1, 10)]
    assert [process.communicate(timeout=LIMIT_S)[0] for process in processes] == [f"0.0{n}\n" for n in range(1, 10)]


def test_lost_server_is_an_error_of_one_line_and_its_copies_end(script_env: dict[str, str], run: Run) -> None:
    socket, server = start_server(script_env)
    other = Run(run.place, script_env, socket, server)
    process, copy = waiting(other, "lost server")
    server.kill()
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert errors == f"kaldi-uq detect: error: the process that ran it has ended ({socket})\n"
    wait_for(lambda: not is_alive(copy))


def test_server_ends_with_its_starter_and_leaves_nothing(script_env: dict[str, str]) -> None:
    place = Path(tempfile.mkdtemp())
    starter = subprocess.Popen(
        ["bash", "-c", 'kaldi-uq preload "$0/socket" & echo $!; sleep 600', str(place)],
        env=script_env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    server = int(starter.stdout.readline())
    wait_for((place / "socket").exists, starter)
    starter.kill()
    wait_for(lambda: not is_alive(server))
    assert not place.exists()


def test_half_a_request_is_turned_away(run: Run) -> None:
    for said in (b"", b"\0\0", b"\0\0\0\2{}", b"\0\0\0\2[]", b"\0\0\0\2x", b"\xff\xff\xff\xff{}"):
        with sockets.socket(sockets.AF_UNIX) as link:
            link.connect(str(run.socket))
            link.sendall(said)
            link.shutdown(sockets.SHUT_WR)
            assert link.recv(1) == b""
    assert run("kaldi-uq", "check-eps", "0.02") == (0, "0.02\n", "")


def test_threads_can_be_set_where_they_were_not() -> None:
    request = {"python": preloaded.this_python(), "inherited": preloaded.inherited()}
    request["environment"] = {"OMP_NUM_THREADS": "2", "PYTHONPATH": "/a"}
    assert copies._can_be_a_copy(request, {"PYTHONPATH": "/a"})
    assert not copies._can_be_a_copy(request, {})
    request["environment"] = {}
    assert not copies._can_be_a_copy(request, {"OMP_NUM_THREADS": "2"})
    assert not copies._can_be_a_copy({**request, "python": [sys.executable]}, {})
