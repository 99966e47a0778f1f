"""The commands that run as copies of a process that has imported the libraries: who has asked, who works, who rests."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import struct
import time
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

STATUS = struct.Struct("!i")  # what a copy that stays says of its command
MAY_STAY = "nnet-"  # how the commands begin that work on a GPU
_REST_S = 60.0  # that a copy waits for the next command
_INTERVAL_S = 1.0  # between two looks at who started this
_PATIENCE_S = 10.0  # for a request whose sender was stopped in the middle
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_OF_A_JOB = ("KALDI_UQ_MASTER", "_")  # variables in which two jobs of a recipe differ

# what a copy is asked for, the files of that command, and where it can say that it stays
Asked = tuple[dict[str, Any], list[int], socket.socket]


class Copies:
    """The commands that run as copies of this process.

    Args:
        listener: where requests come in.
        environment: that of this process before the libraries were imported.
    """

    def __init__(self, listener: socket.socket, environment: dict[str, str]) -> None:
        self._listener, self._environment = listener, environment
        self._links: dict[int, socket.socket] = {}  # pid -> who waits for it
        self._lines: dict[int, socket.socket] = {}  # pid -> the copy itself
        self._requests: dict[int, dict[str, Any]] = {}  # pid -> the last that it was given
        self._over: dict[int, float] = {}  # pids of copies whose command has ended, and who stay, and since when
        self._selector = selectors.DefaultSelector()
        self._woken, self._wakes = socket.socketpair()
        self._stopped = False

    def serve(self, starter: int) -> Asked | None:
        """Serve until the process ``starter`` has ended, or SIGTERM.

        Returns:
            in a copy, what it is asked for; otherwise ``None``.
        """
        for end in (self._woken, self._wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        while not self._stopped and os.getppid() == starter:
            events = self._selector.select(_INTERVAL_S)
            for key, _ in sorted(events, key=lambda event: event[0].fileobj is self._listener):  # new ones last
                if key.fileobj is self._listener:
                    asked = self._take()
                    if asked is not None:
                        return asked
                elif key.fileobj is self._woken:
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
                elif key.fileobj is self._lines.get(key.data):
                    self._hear(key.data)
                else:  # who has asked has ended
                    self._selector.unregister(key.fileobj)
                    if key.data in self._over:
                        self._links.pop(key.data).close()
                    else:  # and waits for nothing any more
                        self._kill(key.data, signal.SIGKILL)
            self._dismiss()
            self._reap()
        return None

    def _dismiss(self, longest_s: float = _REST_S, gpu: str | None = None) -> None:
        """End those that have rested longer: they keep memory of the GPU, and some GPUs take one process alone.

        ``gpu``: only those on this one, as ``_gpu_of`` names it.
        """
        for pid in self._over.keys() - self._links.keys():
            is_there = gpu in (None, _gpu_of(self._requests[pid]))
            if is_there and time.monotonic() - self._over[pid] > longest_s:
                del self._over[pid]
                self._kill(pid, signal.SIGKILL)

    def _hear(self, pid: int) -> None:
        """A copy says that its command is over and that it stays, or has ended."""
        try:
            said = self._lines[pid].recv(STATUS.size)
        except OSError:
            said = b""
        if len(said) < STATUS.size:  # what it ended with is told when it is reaped
            self._selector.unregister(self._lines[pid])
            return
        self._over[pid] = time.monotonic()
        with contextlib.suppress(OSError):
            self._links[pid].sendall(ANSWER.pack(EXITED, STATUS.unpack(said)[0]))

    def end(self) -> None:
        """End the copies that are left."""
        for pid in self._lines:
            self._kill(pid, signal.SIGTERM)

    def _take(self) -> Asked | None:
        """Start what somebody asks for; returns in the copy, with the request."""
        link, _ = self._listener.accept()
        link.settimeout(_PATIENCE_S)
        files: list[int] = []
        try:
            request = read(link, files)
            if not _can_be_a_copy(request, self._environment):
                link.sendall(ANSWER.pack(REFUSED, 0))
                raise ValueError("another process")
            resting = self._resting(request, files)
        except (OSError, ValueError, LookupError, TypeError):  # or it was killed in the middle of asking
            link.close()
            close(files)
            return None
        if resting is not None:
            close(files)
            self._begin(resting, link, request)
            return None
        if request["argv"][0].startswith(MAY_STAY):
            self._dismiss(0.0, _gpu_of(request))
        line, theirs = socket.socketpair()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # what is sent to the copy waits until it can answer
        pid = os.fork()
        if pid == 0:
            line.close()
            self._forget(link)
            return request, files, theirs
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()
        close(files)
        with contextlib.suppress(OSError):  # the copy has done it, or has ended even
            os.setpgid(pid, pid)
        self._lines[pid] = line
        self._selector.register(line, selectors.EVENT_READ, pid)
        self._begin(pid, link, request)
        return None

    def _resting(self, request: dict[str, Any], files: list[int]) -> int | None:
        """Give a request to a copy that rests and that was asked for the like before, if there is one."""
        for pid in self._over.keys() - self._links.keys():
            if not _is_like(request, self._requests[pid]):
                continue
            said = json.dumps(request).encode()
            try:
                socket.send_fds(self._lines[pid], [LENGTH.pack(len(said))], files)
                self._lines[pid].sendall(said)
            except OSError:  # it has ended in this moment
                continue
            del self._over[pid]
            request["files"] = self._requests[pid]["files"]  # whose numbers it keeps
            return pid
        return None

    def _begin(self, pid: int, link: socket.socket, request: dict[str, Any]) -> None:
        self._links[pid], self._requests[pid] = link, request
        self._selector.register(link, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):  # killed: the link says so as well
            link.sendall(ANSWER.pack(STARTED, pid))

    def _reap(self) -> None:
        while self._lines:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            link, line = self._links.pop(pid, None), self._lines.pop(pid)
            for end in filter(None, (link, line)):
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
            line.close()
            del self._requests[pid]
            code = os.waitstatus_to_exitcode(status)
            if self._over.pop(pid, None) is None and link is not None:  # it was at work
                with contextlib.suppress(OSError):
                    link.sendall(ANSWER.pack(KILLED, -code) if code < 0 else ANSWER.pack(EXITED, code))
            if link is not None:
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
        for end in (self._listener, self._woken, self._wakes, link, *self._links.values(), *self._lines.values()):
            end.close()
        self._links.clear()
        self._lines.clear()


def read(link: socket.socket, files: list[int]) -> dict[str, Any]:
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


def _is_like(request: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a copy that has run one command can run another: what it remembers and has open fits both."""
    here, there = (
        {name: text for name, text in each["environment"].items() if name not in _OF_A_JOB}
        for each in (request, before)
    )
    return (
        request["argv"][0].startswith(MAY_STAY)
        and request["directory"] == before["directory"]
        and here == there
        and set(request["files"]) <= set(before["files"])
    )


def _gpu_of(request: dict[str, Any]) -> str:
    """The GPU that a command works on: the first that it sees."""
    seen: str = request["environment"].get("CUDA_VISIBLE_DEVICES", "")
    return seen.partition(",")[0]


def close(files: list[int]) -> None:
    for file in files:
        os.close(file)
