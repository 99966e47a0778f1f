"""The processes of a training: one, or several that torchrun has started.  Only this module knows torch.distributed.

Several take the same steps with the same weights.  Of every minibatch each takes its share, and the gradients are added
up, so that their number changes nothing but rounding, and what a network draws.  The first one writes.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kaldi_uq.errors import DataError, LostWorkerError, UsageError
from kaldi_uq.io.spool import allocated_file, mapped_array
from kaldi_uq.nnet.base import AcousticModel
from kaldi_uq.nnet.sequence import dropout_layers
from kaldi_uq.progress import Progress
from kaldi_uq.recogniser.hybrid import select_device, use_device
from kaldi_uq.recogniser.memory import is_out_of_memory

T = TypeVar("T")

STEP_TIMEOUT = datetime.timedelta(minutes=30)  # all are in the same step of the training
WAIT_TIMEOUT = datetime.timedelta(days=1)  # one decodes, or composes a graph, and others wait
_CHUNK = 1 << 16  # rows of features, or values, that are sent at once

log = logging.getLogger(__name__)


class Workers:
    """The one process of an ordinary training, which waits for nobody; base of several.

    Attributes:
        rank: number of this process, from 0.
        count: how many processes there are, N.
    """

    rank: int = 0
    count: int = 1

    def device(self, requested: str) -> torch.device:
        """The device that this process computes on, see :func:`kaldi_uq.recogniser.hybrid.use_device`."""
        return use_device(requested)

    def rows(self, count: int) -> slice:
        """Which of the ``count`` items of a minibatch are this process's.

        With fewer items than processes one of those without an item takes the first, to do what the others do; its
        :meth:`weight` is 0.
        """
        return slice(None)

    def weight(self, sizes: np.ndarray) -> float:
        """The share of a minibatch that is in this process's rows.

        Args:
            sizes: (B,) targets of each item.
        """
        return 1.0

    def check_minibatches(self, largest: int, items: str) -> None:
        """Raise UsageError if even the largest minibatch has fewer items, frames or utterances, than processes."""

    def portion(self, items: Sequence[T]) -> Sequence[T]:
        """What this process does of a list that is done once."""
        return items

    def draws(self, shared: torch.Generator, network: AcousticModel, seed: tuple[int, int]) -> torch.Generator:
        """The source of what a network draws.

        Args:
            shared: generator that is the same in all processes.
            network: the network; one without draws takes ``shared``, which every forward pass may advance.
            seed: seed of a generator of this process's own.
        """
        return shared

    def of_first(self, make: Callable[[], T]) -> T:
        """What a function returns, which the first process calls while the others wait."""
        return make()

    def same(self, value: object, what: str) -> None:
        """Raise DataError if a process has another value; ``what`` it is of."""

    def wait(self) -> None:
        """Wait until all processes are here."""

    def add_up(self, values: Tensor) -> None:
        """Replace a contiguous tensor by the sum of those of all processes."""

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by the sums over all processes; no gradient counts as 0."""

    def settle(self, module: nn.Module) -> None:
        """Give all processes the same module: the means of its buffers, such as running statistics."""

    def mapped(self, shape: tuple[int, ...], directory: str | os.PathLike[str]) -> np.ndarray:
        """As :func:`kaldi_uq.io.spool.mapped_array`, one array for all processes of a machine."""
        return mapped_array(shape, directory)

    def complete(self, feats: Tensor, spans: Iterable[tuple[int, int]]) -> None:
        """Give all processes the rows that any of them has made.

        Args:
            feats: (F, D), on this device or of :meth:`mapped`.
            spans: first row, and the one after the last, of what this process has made.
        """

    def rewrite(self, work: Callable[[], None], *, mapped: bool) -> None:
        """Change features in place; those of :meth:`mapped` once."""
        work()

    def progress(self, desc: str, unit: str, total: int | None = None) -> Progress:
        """What counts the work of this process; that of the first one is shown."""
        return Progress(desc, unit, total, quiet=self.rank > 0)


ONE = Workers()


class SeveralWorkers(Workers):
    """One of several processes that torchrun has started, on this machine or on others.

    Args:
        requested: ``cpu``, ``cuda``, or empty for CUDA if there is one; each process takes a GPU of its own.

    Raises:
        UsageError: fewer GPUs than processes, or one GPU for all of them.
        LostWorkerError: the others do not come.
    """

    def __init__(self, requested: str = "") -> None:
        self.rank, self.count, self._local, self._machine = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK")
        )
        self._device = _own_device(requested, self._local)
        _end_with_launcher()
        with _reaching_others():
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            dist.init_process_group("nccl" if self._device.type == "cuda" else "gloo", timeout=STEP_TIMEOUT)
            self._waiting = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
        machines = len(set(self._gather(self._machine)))
        log.info("%d processes share each minibatch; machines: %d, device: %s", self.count, machines, self._device.type)

    def device(self, requested: str) -> torch.device:
        return self._device

    def rows(self, count: int) -> slice:
        return slice(self.rank, None, self.count) if self.rank < count else slice(0, 1)

    def weight(self, sizes: np.ndarray) -> float:
        return float(sizes[self.rank :: self.count].sum() / sizes.sum())

    def check_minibatches(self, largest: int, items: str) -> None:
        if largest < self.count:
            raise UsageError(
                f"{items} in the largest minibatch: {largest}, fewer than the {self.count} processes that share it; "
                "choose a larger --batch-size, or start fewer processes"
            )

    def portion(self, items: Sequence[T]) -> Sequence[T]:
        return items[self.rank :: self.count]

    def draws(self, shared: torch.Generator, network: AcousticModel, seed: tuple[int, int]) -> torch.Generator:
        if not (network.is_random or dropout_layers(network)):
            return shared
        own = np.random.SeedSequence(seed[0], spawn_key=(seed[1], self.rank)).generate_state(1, np.uint64)[0]
        return torch.Generator(shared.device).manual_seed(int(own >> np.uint64(1)))

    def of_first(self, make: Callable[[], T]) -> T:
        value: list[Any] = [make() if self.rank == 0 else None]
        with _reaching_others():
            dist.broadcast_object_list(value, src=0, group=self._waiting)
        return value[0]  # type: ignore[no-any-return]

    def same(self, value: object, what: str) -> None:
        found = self._gather((socket.gethostname(), value))
        for number, (host, other) in enumerate(found):
            if other != found[0][1]:
                raise DataError(
                    f"process {number + 1} of {self.count}, on {host}, and the first, on {found[0][0]}, have different "
                    f"{what}: start all with the same options, on machines that see the same files"
                )

    def wait(self) -> None:
        with _reaching_others():
            dist.barrier(group=self._waiting)

    def add_up(self, values: Tensor) -> None:
        with _reaching_others():
            for part in values.view(-1).split(_CHUNK):
                dist.all_reduce(part, group=self._group(part))

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        flat = torch.cat([torch.zeros_like(p).view(-1) if p.grad is None else p.grad.reshape(-1) for p in trained])
        with _reaching_others():
            dist.all_reduce(flat)
        for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            total = part.view_as(parameter).to(parameter.dtype)
            parameter.grad = total if parameter.grad is None else parameter.grad.copy_(total)

    def settle(self, module: nn.Module) -> None:
        with _reaching_others(), torch.no_grad():
            for parameter in module.parameters():  # equal already, but for machines that round in their own ways
                self._take_first(parameter)
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    total = buffer.double().contiguous()  # so that the mean of equal numbers is that number
                    dist.all_reduce(total, group=self._group(total))
                    buffer.copy_(total / self.count)
                else:
                    self._take_first(buffer)

    def _take_first(self, value: Tensor) -> None:
        sent = value.detach().contiguous()
        dist.broadcast(sent, src=0, group=self._group(sent))
        value.copy_(sent)

    def _group(self, value: Tensor) -> dist.ProcessGroup | None:
        """Who exchanges a tensor: NCCL takes those of GPUs alone."""
        return None if value.device == self._device else self._waiting

    def mapped(self, shape: tuple[int, ...], directory: str | os.PathLike[str]) -> np.ndarray:
        with contextlib.ExitStack() as stack:
            place = ""
            if self._local == 0:
                file = stack.enter_context(allocated_file(shape, directory))
                place = f"/proc/{os.getpid()}/fd/{file.fileno()}"
            found = self._gather((self._machine, place))
            array = np.memmap(next(p for m, p in found if m == self._machine and p), np.float32, "r+", shape=shape)
            self.wait()
        return array

    def complete(self, feats: Tensor, spans: Iterable[tuple[int, int]]) -> None:
        made = torch.zeros(len(feats), dtype=torch.bool)
        for start, end in spans:
            made[start:end] = True
        self.wait()
        for part, mine in zip(feats.split(_CHUNK), made.split(_CHUNK), strict=True):
            # those who share an array all write the same into it, after each has read what it made of these rows
            rows = part.masked_fill(~mine.to(part.device)[:, None], 0.0)
            self.add_up(rows)
            part.copy_(rows)
        self.wait()

    def rewrite(self, work: Callable[[], None], *, mapped: bool) -> None:
        self.wait()
        if not mapped or self._local == 0:
            work()
        self.wait()

    def _gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their numbers."""
        found: list[Any] = [None] * self.count
        with _reaching_others():
            dist.all_gather_object(found, value, group=self._waiting)
        return found


@contextlib.contextmanager
def joined(requested: str = "") -> Iterator[Workers]:
    """The processes of a training: several if torchrun has started several, else this one.

    Args:
        requested: device, as of :class:`SeveralWorkers`.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ONE
        return
    if os.environ["RANK"] != "0":
        logging.disable(logging.WARNING)  # the first one says it
    workers = SeveralWorkers(requested)
    yield workers
    workers.wait()  # after an error nobody waits: the launcher ends the others
    dist.destroy_process_group()


def _own_device(requested: str, local: int) -> torch.device:
    chosen = select_device(requested)
    if chosen.type != "cuda":
        return chosen
    if ":" in requested:
        raise UsageError(f"--device {requested}: each of several processes takes a GPU of its own; pass --device cuda")
    if local >= torch.cuda.device_count():
        raise UsageError(
            f"more processes than GPUs: PyTorch sees {torch.cuda.device_count()} on {socket.gethostname()}; start as "
            "many processes there, or pass --device cpu"
        )
    return torch.device("cuda", local)


def _end_with_launcher() -> None:
    """End this process when torchrun has ended, which ends it itself unless it was killed."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="launcher").start()


@contextlib.contextmanager
def _reaching_others() -> Iterator[None]:
    """Say it in one line if another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise LostWorkerError(
            "another process of this training has ended, or cannot be reached: what it said is here, or in the log of "
            f"its machine; the same command goes on after the last epoch (PyTorch says: {said[0]:.200})"
        ) from error
