"""Work that is shared among processes of this machine: the wheels hold Python's lock while they search."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from kaldi_uq.errors import EngineError

PartT = TypeVar("PartT")
ResultT = TypeVar("ResultT")


def num_workers() -> int:
    """As many processes as a job has threads: ``OMP_NUM_THREADS``, or else the cores that it may use."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if sys.platform != "linux":  # where a process that has used its libraries cannot be copied
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
        EngineError: a process has ended without a result.
    """
    if len(parts) < 2:
        with threadpool_limits(1, user_api="blas"):
            yield from map(work, parts)
        return
    copies = multiprocessing.get_context("fork")
    running = []
    try:
        for part in parts:
            ours, theirs = copies.Pipe(duplex=False)
            process = copies.Process(target=_do, args=(work, part, theirs), daemon=True)
            process.start()
            theirs.close()
            running.append((process, ours))
        for process, ours in running:
            try:
                result = ours.recv()
            except EOFError:
                process.join()
                raise EngineError(
                    f"a process that shared the work has ended with exit code {process.exitcode} (below 0: a signal; "
                    "-9: perhaps the memory); with OMP_NUM_THREADS=1 the work is not shared"
                ) from None
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        for process, ours in running:
            ours.close()
            process.terminate()
            process.join()


def _do(work: Callable[[Any], Any], part: Any, answer: Connection) -> None:
    with threadpool_limits(1, user_api="blas"):
        try:
            result = work(part)
        except Exception as error:  # noqa: BLE001 - raised where the work was given out
            result = error
    answer.send(result)
