"""Work that is shared among processes of this machine, where Python's lock would have it done by one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from kaldi_uq.errors import WorkerError

PartT = TypeVar("PartT")
ResultT = TypeVar("ResultT")

ALONE_S = 0.25  # of work that is not worth another process

_END: Any = object()


def num_workers() -> int:
    """As many processes as a job has threads: ``OMP_NUM_THREADS``, or else the cores that it may use."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    # elsewhere a process that has used its libraries cannot be copied, and one of a pool must not start any
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 1
    return int(threads) if threads.isdecimal() and int(threads) else len(os.sched_getaffinity(0))


def in_processes(work: Callable[[PartT], ResultT], parts: Sequence[PartT]) -> Iterator[ResultT]:
    """Do each part in a copy of this process, all at the same time; a part alone is done here.

    Products of matrices take one thread each, so that the numbers do not depend on how many parts there are.

    Args:
        work: what is done; all that it changes is lost.
        parts: the parts.

    Yields:
        the results, in the order of the parts.

    Raises:
        WorkerError: a process has ended without a result.
    """
    if len(parts) < 2:
        with threadpool_limits(1, user_api="blas"):
            yield from map(work, parts)
        return
    with _processes() as start:
        lines = [start(_do, work, part) for part in parts]
        for line in lines:
            yield _value(line.take())


def one_by_one(
    work: Callable[[PartT], ResultT], parts: Iterable[PartT], *, alone_s: float = ALONE_S
) -> Iterator[ResultT]:
    """Do parts as they come; once that has taken a while, in copies of this process, each of which does one at a time.

    To copy a process that uses a GPU takes up to a tenth of a second; no more than half of the time is spent on that.

    Args:
        work: what is done; all that it changes is lost.
        parts: the parts; the next one is taken when a copy has nothing to do.
        alone_s: seconds of work that are done here first.

    Yields:
        the results, in the order of the parts.

    Raises:
        WorkerError: a process has ended without a result.
        Exception: the first error in the order of the parts, of the work or of ``parts`` itself, as without processes.
    """
    left, count, spent = iter(parts), num_workers(), 0.0
    while count < 2 or spent < alone_s:
        part = next(left, _END)
        if part is _END:
            return
        begin = time.monotonic()
        result = work(part)
        spent += time.monotonic() - begin
        yield result
    with _processes() as start:
        idle: list[_Line] = []
        busy: dict[Connection, tuple[int, _Line]] = {}
        done: dict[int, Any] = {}
        given = taken = 0
        is_over, next_start = False, 0.0

        def can_give() -> bool:
            return not is_over and bool(idle or (len(busy) < count and time.monotonic() >= next_start))

        while busy or not is_over:
            if can_give():
                try:
                    part = next(left, _END)
                except Exception as error:  # noqa: BLE001 - raised when those before it have had their turn
                    part, done[given] = _END, error
                is_over = part is _END
                if not is_over:
                    if not idle:
                        begin = time.monotonic()
                        idle.append(start(_do_all, work))
                        now = time.monotonic()
                        next_start = now + (now - begin)
                    line = idle.pop()
                    line.give(part)
                    busy[line.ours] = given, line
                    given += 1
            # a short part comes back while one waits for it, and its process would be given all of them
            for ready in wait(list(busy), 0.0 if can_give() else 0.01) if busy else ():
                number, line = busy.pop(ready)  # type: ignore[call-overload]
                done[number] = line.take()
                idle.append(line)
            while taken in done:
                yield _value(done.pop(taken))
                taken += 1


class _Line:
    """To a process that shares the work."""

    def __init__(self, process: Any, ours: Connection) -> None:
        self.process, self.ours = process, ours

    def give(self, part: Any) -> None:
        try:
            self.ours.send(part)
        except OSError:  # it has ended, which is said where its result is taken
            self.process.join()

    def take(self) -> Any:
        """The result, or the error that the work has raised."""
        try:
            return self.ours.recv()
        except (EOFError, OSError):
            self.process.join()
            raise WorkerError(
                f"a process that shared the work has ended with exit code {self.process.exitcode} (below 0: a signal; "
                "-9: perhaps the memory); with OMP_NUM_THREADS=1 the work is not shared"
            ) from None


@contextmanager
def _processes() -> Iterator[Callable[..., _Line]]:
    """A function that starts a copy of this process; at the end none is left."""
    copies = multiprocessing.get_context("fork")
    lines: list[_Line] = []

    def start(work: Callable[..., None], *args: Any) -> _Line:
        ours, theirs = copies.Pipe()
        # a copy that kept the ends of the others would keep them waiting when this process is killed
        others = [ours, *(line.ours for line in lines)]
        process = copies.Process(target=_begin, args=(work, *args, theirs), kwargs={"others": others}, daemon=True)
        with warnings.catch_warnings():  # of threads, the libraries' own, which a copy does not use
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            process.start()
        theirs.close()
        lines.append(_Line(process, ours))
        return lines[-1]

    try:
        yield start
    finally:
        for line in lines:
            line.ours.close()
            line.process.terminate()
        for line in lines:
            line.process.join()


def _begin(work: Callable[..., None], *args: Any, others: Sequence[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that this is a copy of ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:
        other.close()
    with threadpool_limits(1, user_api="blas"):
        work(*args)


def _do(work: Callable[[Any], Any], part: Any, line: Connection) -> None:
    line.send(_result(work, part))


def _do_all(work: Callable[[Any], Any], line: Connection) -> None:
    while True:
        try:
            part = line.recv()
        except EOFError:  # nobody wants more
            return
        line.send(_result(work, part))


def _value(result: Any) -> Any:
    if isinstance(result, BaseException):
        raise result
    return result


def _result(work: Callable[[Any], Any], part: Any) -> Any:
    try:
        return work(part)
    except Exception as error:  # noqa: BLE001 - raised where the work was given out
        return error
