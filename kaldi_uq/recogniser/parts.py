"""Scores that several jobs make: each the batches of its share, in files that the last one puts together."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.reading import read_bytes
from kaldi_uq.recogniser.heard import Scored


@dataclass(frozen=True)
class Shard:
    """A share of the batches of a set: those whose number is ``number - 1`` modulo ``count``.

    >>> [batch for batch in range(6) if Shard.parse("2/4").has(batch)]
    [1, 5]
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``J/N``.

        Raises:
            ValueError: anything else, or J that is not from 1 to N.
        """
        found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
        if not found or int(found[1]) > int(found[2]):
            raise ValueError(f"expected J/N with J from 1 to N, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def has(self, batch: int) -> bool:
        """Whether a batch, counted from 0, is of this shard."""
        return batch % self.count == self.number - 1


class Parts:
    """Scores of batches, in a file ``<number>.npz`` for each batch that a job has made.

    A batch is the same whoever makes it, draws and rounding included, so that shards change nothing.

    Args:
        folder: directory of the files.
        key: digest of what the scores depend on: a file of another key is made again.
        shard: the share to make; ``None``: take what there is of all shares, and make the rest without files.
    """

    def __init__(self, folder: Path, key: str, shard: Shard | None = None) -> None:
        self.folder, self.key, self.shard = folder, key, shard

    def of(self, number: int, utts: Sequence[str], make: Callable[[], list[Scored]]) -> list[Scored]:
        """The scores of the utterances of a batch; of a batch that is another job's none.

        Args:
            number: number of the batch, from 0.
            utts: its utterances.
            make: makes them.
        """
        path = self.folder / f"{number}.npz"
        if self.shard is None:
            return self._read(path, utts) or make()
        if not self.shard.has(number):
            return []
        found = self._read(path, utts)
        if found is None:
            found = make()
            self._write(path, utts, found)
        return found

    def remove(self) -> None:
        """Remove the files, once nobody needs them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, path: Path, utts: Sequence[str], found: Sequence[Scored]) -> None:
        head = {"key": self.key, "utts": list(utts), "statistics": [one.statistics for one in found]}
        arrays = {"head": np.frombuffer(json.dumps(head).encode(), np.uint8)}
        for row, one in enumerate(found):
            arrays[f"{row}/scores"] = one.scores
            arrays |= {f"{row}/frames/{name}": values for name, values in one.frames.items()}
        with atomic_write(path, "wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    def _read(self, path: Path, utts: Sequence[str]) -> list[Scored] | None:
        """The scores that an earlier job left; ``None`` without any, or with those of something else."""
        try:
            with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as arrays:
                head = json.loads(arrays["head"].tobytes())
                if head["key"] != self.key or head["utts"] != list(utts):
                    return None
                return [
                    Scored(
                        words=None,
                        statistics=statistics,
                        frames={
                            name.removeprefix(f"{row}/frames/"): arrays[name]
                            for name in arrays.files
                            if name.startswith(f"{row}/frames/")
                        },
                        scores=arrays[f"{row}/scores"],
                    )
                    for row, statistics in enumerate(head["statistics"])
                ]
        except (DataError, KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile):
            return None
