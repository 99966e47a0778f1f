"""Import the libraries once for all commands of a run: each of them begins as a copy of this process.

A script of many short commands spends much of its time on importing PyTorch, again and again.  run.sh of a recipe
starts this in the background, with KALDI_UQ_PRELOADED=SOCKET for what it runs; each 'kaldi-uq COMMAND' then asks here
for a copy, which gets its words, files, directory and environment.  A command for which a copy will not do, or that
comes before the libraries are imported, runs by itself.  Ends with the process that started it.

A copy that has used a GPU stays for the next command that works there: to start on a GPU takes seconds.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import fcntl
import gc
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from kaldi_uq.cli.copies import MAY_STAY, STATUS, Copies, close, read
from kaldi_uq.cli.preloaded import SIGNALS, THREADS, inherited
from kaldi_uq.user_code import is_any_loaded

_MODULES = (  # what the commands of a recipe import
    "sklearn",
    "kaldi_uq.attacks.directory",
    "kaldi_uq.detector.evaluate",
    "kaldi_uq.engine.embedded",
    "kaldi_uq.recogniser.recogniser",
    "kaldi_uq.training.trainer",
    "torch._dynamo",  # which every optimiser imports
)
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "socket",
        type=Path,
        metavar="SOCKET",
        help="to be made, alone in a directory that is only yours, which goes with it",
    )
    parser.add_argument(
        "--stay",
        choices=("gpu", "always", "never"),
        default="gpu",
        help="which copies stay for the next nnet-* command: those that have used a GPU, all of such, or none [gpu]",
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
        copies = Copies(listener, environment)
        asked = copies.serve(starter)
    if asked is None:
        copies.end()
        args.socket.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else has files there
            args.socket.parent.rmdir()
        return 0
    request, files, line = asked
    seed = _seed()
    while True:
        line = _above(line, request["files"])
        _become(request, files)
        status = _run_command(request["argv"])
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk, of which the command has spoken
                stream.flush()
        if status or not _can_stay(request, args.stay):
            break
        _rest(request["files"], seed)
        try:
            line.sendall(STATUS.pack(status))
            files = []
            request = read(line, files)
        except (OSError, ValueError):  # nobody wants more
            os._exit(0)
    atexit._run_exitfuncs()
    os._exit(status)  # to take all modules apart would take longer than many a command does


def _seed() -> int:
    import torch

    return torch.initial_seed()


def _can_stay(request: dict[str, Any], which: str) -> bool:
    """Whether nothing of a command that has succeeded is left which the next one could meet."""
    import torch

    wanted = which == "always" or (which == "gpu" and torch.cuda.is_initialized())
    is_changed = threading.active_count() > 1 or is_any_loaded() or request["inherited"] != inherited()
    if not wanted or is_changed or not request["argv"][0].startswith(MAY_STAY):
        return False
    with contextlib.suppress(ChildProcessError):  # it has none
        os.waitpid(-1, os.WNOHANG)
        return False
    return True


def _rest(files: list[int], seed: int) -> None:
    """Let go of a command's files and memory, and have the global generators as they were."""
    import torch

    nothing = os.open(os.devnull, os.O_RDWR)
    for number in files:  # the numbers stay taken, for the driver may open files of its own at any time
        os.dup2(nothing, number, inheritable=number <= 2)
    os.close(nothing)
    for number in SIGNALS:  # a copy that rests ends of what is sent to it, without a word
        signal.signal(number, signal.SIG_DFL)
    logging.getLogger().handlers.clear()
    with warnings.catch_warnings():  # at its end what was said once may be said again
        pass
    torch.manual_seed(seed)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


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


def _above(line: socket.socket, files: list[int]) -> socket.socket:
    """The same line, out of the way of files that are to get these numbers."""
    moved = socket.socket(fileno=fcntl.fcntl(line, fcntl.F_DUPFD_CLOEXEC, max(files) + 1))
    line.close()
    return moved


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Make this process what the sender of a request would have been."""
    os.setpgid(0, 0)
    above = max(request["files"]) + 1
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, max(above, 3)) for file in files]
    close(files)
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
