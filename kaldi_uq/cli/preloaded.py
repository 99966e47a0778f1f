"""Have a command run as a copy of a process that has imported the libraries already (``kaldi-uq preload``).

This end waits: what is sent to it reaches the copy, and it ends as the copy ends.  A job of ``run.pl``, a lock that a
script holds through its files, Ctrl-C or Ctrl-Z see no difference.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

import kaldi_uq
from kaldi_uq.cli.turns import is_one_of_several

PLACE = "KALDI_UQ_PRELOADED"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
LENGTH = struct.Struct("!I")
ANSWER = struct.Struct("!ci")
REFUSED, STARTED, EXITED, KILLED = b"n", b"p", b"e", b"k"
MOST_FILES = 200  # a message takes 253

# Variables that are read when a library is imported, or that say on whose account a process runs.
_AT_IMPORT = (
    "GOMP_",
    "KMP_",
    "LC_",
    "LD_",
    "MALLOC_",
    "MKL_",
    "OMP_",
    "OPENBLAS_",
    "PBS_",
    "PYTHON",
    "SLURM_",
    "TORCH",
)
_AT_IMPORT_TOO = ("JOB_ID", "LANG", "LANGUAGE")
_RIGHTS = ("Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp")  # lines of /proc/self/status
THREADS = "OMP_NUM_THREADS"  # can be set later as well


def ask(argv: list[str]) -> int | None:
    """Run a command there; its exit status, or ``None``: it is to run here.

    Args:
        argv: the command and its arguments.
    """
    place = os.environ.get(PLACE)
    if not place or is_one_of_several():
        return None
    with socket.socket(socket.AF_UNIX) as link:
        try:
            files = _open_files()
            link.connect(place)
            request = json.dumps(_request(argv, files)).encode()
            socket.send_fds(link, [LENGTH.pack(len(request))], files)
            link.sendall(request)
            kind, pid = _answer(link)
        except (OSError, ValueError):  # nobody is there, or this process has lost its directory or its output
            return None
        if kind != STARTED:
            return None
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda received, _: _pass_on(pid, received))
        if signal.getsignal(signal.SIGTSTP) != signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, lambda *_: _stop(pid))
        kind, value = _answer(link)
        for number in (*SIGNALS, signal.SIGTSTP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)  # the copy is another's, once this link is closed
    if kind == KILLED:
        os.kill(os.getpid(), value)
    if kind != EXITED:
        _pass_on(pid, signal.SIGKILL)
        print(f"kaldi-uq {argv[0]}: error: the process that ran it has ended ({place})", file=sys.stderr)
        return 1
    return value


def fixed(environment: dict[str, str]) -> dict[str, str]:
    """What of an environment cannot be changed any more once the libraries are imported.

    >>> fixed({"PYTHONPATH": "/a", "OMP_NUM_THREADS": "2", "PATH": "/bin"})
    {'PYTHONPATH': '/a', 'OMP_WAIT_POLICY': 'passive'}
    """
    found = {name: text for name, text in environment.items() if name.startswith(_AT_IMPORT)}
    found.pop(THREADS, None)
    return {**found, "OMP_WAIT_POLICY": found.get("OMP_WAIT_POLICY", "passive")}


def this_python() -> list[str]:
    """What runs the commands here: another one is no copy."""
    return [os.path.realpath(sys.executable), sys.version, os.path.realpath(kaldi_uq.__file__)]


def inherited() -> list[Any]:
    """What a process has of the one that started it, beside files and environment: limits, priority, rights."""
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    limits = [list(resource.getrlimit(getattr(resource, name))) for name in names]
    turns = [os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))]
    here = "/proc/self"
    spaces = {name: os.readlink(f"{here}/ns/{name}") for name in sorted(os.listdir(f"{here}/ns"))}
    with open(f"{here}/status") as status, open(f"{here}/cgroup") as group, open(f"{here}/oom_score_adj") as score:
        rights = [line for line in status if line.startswith(_RIGHTS)]
        return [limits, turns, spaces, os.readlink(f"{here}/root"), rights, group.read(), score.read()]


def _request(argv: list[str], files: list[int]) -> dict[str, Any]:
    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "argv": argv,
        "files": files,
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "python": this_python(),
        "inherited": inherited(),
        "ignored": [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN],
        "umask": mask,
    }


def _open_files() -> list[int]:
    """Files that a program started from here would have, such as the locks of the calling scripts.

    Raises:
        ValueError: too many, or input or output are closed.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.get_inheritable(int(name)):
                found.append(int(name))
        except OSError:  # the list itself
            continue
    if len(found) > MOST_FILES or not {0, 1, 2} <= set(found):
        raise ValueError("not the files of a program")
    return sorted(found)


def _answer(link: socket.socket) -> tuple[bytes, int]:
    """What the other end says; it may end without a word."""
    said = b""
    while len(said) < ANSWER.size:
        more = link.recv(ANSWER.size - len(said))
        if not more:
            return b"", 0
        said += more
    kind, value = ANSWER.unpack(said)
    return kind, value


def _stop(pid: int) -> None:
    """Ctrl-Z: stop the copy, then this process; when this one goes on, so does the copy."""
    _pass_on(pid, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
    _pass_on(pid, signal.SIGCONT)


def _pass_on(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:  # it has ended in this moment
        pass
