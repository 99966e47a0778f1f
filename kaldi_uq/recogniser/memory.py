"""Batches that do not fit into memory: run as two halves."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from kaldi_uq.errors import DataError
from kaldi_uq.io.waves import WaveBatch

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

# in messages of a plain RuntimeError: of PyTorch's allocator on the CPU, and of CUDA's libraries
_SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc")


def in_halves(run: Callable[[WaveBatch], list[ResultT]], batch: WaveBatch) -> list[ResultT]:
    """What a function makes of each utterance of a batch; without enough memory, of its halves, which the log tells.

    The values are those of the whole batch but for rounding; a random model's draws are those of other batches.  Linux
    may end a process on the CPU before any allocation fails, which nothing here can prevent.

    Args:
        run: gives a value for each utterance, in their order, and has changed nothing when it fails.
        batch: the utterances.

    Raises:
        DataError: there is not enough memory for an utterance alone.
    """
    try:
        return run(batch)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Not in the handler: there the traceback would keep what the attempt had allocated.
    size, longest = batch.wav.shape
    if size == 1:
        raise _too_long(batch.utts[0], longest)
    log.warning("out of memory with %d utterances of up to %d samples; goes on with half as many", size, longest)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return [result for half in _halves(batch) for result in in_halves(run, half)]


@contextlib.contextmanager
def alone(utt: str, num_samples: int) -> Iterator[None]:
    """A context for the work on one utterance, which has no halves.

    Raises:
        DataError: there is not enough memory for it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_long(utt, num_samples) from None


def _too_long(utt: str, num_samples: int) -> DataError:
    return DataError(
        f"utterance {utt!r}: out of memory with its {num_samples} samples alone: use fewer draws (--num-samples), cut "
        "it into segments, or use a machine with more memory"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory, of the CPU or of CUDA, was not enough."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return type(error) is RuntimeError and any(sign in str(error) for sign in _SIGNS)


def _halves(batch: WaveBatch) -> Iterator[WaveBatch]:
    middle = (len(batch.utts) + 1) // 2
    for rows in (slice(None, middle), slice(middle, None)):
        sizes = batch.num_samples[rows]
        yield WaveBatch(batch.utts[rows], batch.wav[rows, : sizes.max()].copy(), sizes)
