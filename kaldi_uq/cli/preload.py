"""Import the libraries once for all commands of a run: each of them begins as a copy of this process.

A script of many short commands spends much of its time on importing PyTorch, again and again.  run.sh of a recipe
starts this in the background, with KALDI_UQ_PRELOADED=SOCKET for what it runs; each 'kaldi-uq COMMAND' then asks here
for a copy, which gets its words, files, directory and environment.  A command for which a copy will not do, or that
comes before the libraries are imported, runs by itself.  Ends with the process that started it.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

from kaldi_uq.cli.preloaded import (
    ANSWER,
    EXITED,
    KILLED,
    LENGTH,
    MOST_FILES,
    REFUSED,
    SIGNALS,
    STARTED,
    THREADS,
    fixed,
    inherited,
    this_python,
)

_MODULES = (  # what the commands of a recipe import
    "sklearn",
    "kaldi_uq.attacks.directory",
    "kaldi_uq.detector.evaluate",
    "kaldi_uq.engine.embedded",
    "kaldi_uq.recogniser.recogniser",
    "kaldi_uq.training.trainer",
)
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_INTERVAL_S = 1.0  # between two looks at who started this
_PATIENCE_S = 10.0  # for a request whose sender was stopped in the middle
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "socket",
        type=Path,
        metavar="SOCKET",
        help="to be made, alone in a directory that is only yours, which goes with it",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; in a copy, the command that was asked for."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # locks of the script above all
    starter, environment = os.getppid(), dict(os.environ)  # some libraries change it
    os.environ.setdefault(_BLAS_THREADS, "1")  # a copy has no threads but the one that makes it
    for name in _MODULES:
        with contextlib.suppress(ImportError):  # not installed, which the command that needs it says
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a copy would touch, and so copy, every page
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(args.socket))
        listener.listen()
        copies = _Copies(listener, environment)
        request = copies.serve(starter)
    if request is None:
        copies.end()
        args.socket.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else has files there
            args.socket.parent.rmdir()
        return 0
    status = _run_command(request["argv"])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk, of which the command has spoken
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(status)  # to take all modules apart would take longer than many a command does


def _run_command(argv: list[str]) -> int:
    """A command as the interpreter would run it: nothing comes back but its exit status."""
    from kaldi_uq.cli.main import main

    try:
        return main(argv)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - this is the end of a process, and says why
        traceback.print_exc()
        return 1


class _Copies:
    """The commands that run as copies of this process.

    Args:
        listener: where requests come in.
        environment: that of this process before the libraries were imported.
    """

    def __init__(self, listener: socket.socket, environment: dict[str, str]) -> None:
        self._listener, self._environment = listener, environment
        self._links: dict[int, socket.socket] = {}  # pid -> who waits for it
        self._selector = selectors.DefaultSelector()
        self._woken, self._wakes = socket.socketpair()
        self._stopped = False

    def serve(self, starter: int) -> dict[str, Any] | None:
        """Serve until the process ``starter`` has ended, or SIGTERM; returns in a copy, with the request."""
        for end in (self._woken, self._wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        while not self._stopped and os.getppid() == starter:
            for key, _ in self._selector.select(_INTERVAL_S):
                if key.fileobj is self._listener:
                    request = self._take()
                    if request is not None:
                        return request
                elif key.fileobj is self._woken:
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
                else:  # nobody waits for it any more
                    self._kill(key.data, signal.SIGKILL)
                    self._selector.unregister(key.fileobj)
            self._reap()
        return None

    def end(self) -> None:
        """End the copies that are left."""
        for pid in self._links:
            self._kill(pid, signal.SIGTERM)

    def _take(self) -> dict[str, Any] | None:
        """Start what somebody asks for; returns in the copy, with the request."""
        link, _ = self._listener.accept()
        link.settimeout(_PATIENCE_S)
        files: list[int] = []
        try:
            request = _read(link, files)
            if not _can_be_a_copy(request, self._environment):
                link.sendall(ANSWER.pack(REFUSED, 0))
                raise ValueError("another process")
        except (OSError, ValueError, LookupError, TypeError):  # or it was killed in the middle of asking
            link.close()
            _close(files)
            return None
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # what is sent to the copy waits until it can answer
        pid = os.fork()
        if pid == 0:
            self._forget(link)
            _become(request, files)
            return request
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _close(files)
        with contextlib.suppress(OSError):  # the copy has done it, or has ended even
            os.setpgid(pid, pid)
        self._links[pid] = link
        self._selector.register(link, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):  # killed: the link says so as well
            link.sendall(ANSWER.pack(STARTED, pid))
        return None

    def _reap(self) -> None:
        while self._links:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            link = self._links.pop(pid)
            with contextlib.suppress(KeyError):
                self._selector.unregister(link)
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):
                link.sendall(ANSWER.pack(KILLED, -code) if code < 0 else ANSWER.pack(EXITED, code))
            link.close()

    def _stop(self, *_: Any) -> None:
        self._stopped = True

    @staticmethod
    def _kill(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)

    def _forget(self, link: socket.socket) -> None:
        """In a copy: what belongs to the process that it is a copy of."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for end in (self._listener, self._woken, self._wakes, link, *self._links.values()):
            end.close()
        self._links.clear()


def _read(link: socket.socket, files: list[int]) -> dict[str, Any]:
    """A request; its files are added to ``files``."""
    credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(credentials)[1] != os.getuid():
        raise ValueError("a stranger")
    said, received, _, _ = socket.recv_fds(link, LENGTH.size, MOST_FILES)
    files += received
    if len(said) < LENGTH.size:
        raise ValueError("half a request")
    rest = LENGTH.unpack(said)[0]
    parts = []
    while rest:
        part = link.recv(min(rest, 1 << 16))
        if not part:
            raise ValueError("half a request")
        parts.append(part)
        rest -= len(part)
    request: dict[str, Any] = json.loads(b"".join(parts))
    if len(request["files"]) != len(files):
        raise ValueError("not all files have come")
    return request


def _can_be_a_copy(request: dict[str, Any], mine: dict[str, str]) -> bool:
    theirs = request["environment"]
    threads = theirs.get(THREADS, "")
    return (
        request["python"] == this_python()
        and request["inherited"] == inherited()
        and fixed(theirs) == fixed(mine)
        and (threads.isdecimal() and int(threads) > 0 if threads else not mine.get(THREADS))
    )


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Make this process what the sender of a request would have been."""
    os.setpgid(0, 0)
    above = max(request["files"]) + 1
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, max(above, 3)) for file in files]
    _close(files)
    for file, number in zip(moved, request["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    for number in (*SIGNALS, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else signal.SIG_DFL)
    if signal.SIGINT not in request["ignored"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.umask(request["umask"])
    os.chdir(request["directory"])
    sys.argv[1:] = request["argv"]
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        before = getattr(sys, f"__{name}__")
        stream = open(
            number,
            "w" if number else "r",
            encoding=before.encoding,
            errors=before.errors,
            buffering=1 if number == 2 else -1,
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    _start_threads(os.environ.get(THREADS))


def _start_threads(wanted: str | None) -> None:
    """As many as the libraries would have started, had they been imported in this process."""
    import torch
    from threadpoolctl import threadpool_limits

    if wanted:
        torch.set_num_threads(int(wanted))
        threadpool_limits(int(wanted), user_api="openmp")
    if _BLAS_THREADS not in os.environ:
        threadpool_limits(int(wanted or len(os.sched_getaffinity(0))), user_api="blas")
