"""Online i-vectors as Kaldi's recipes extract them: ``ivector_online.scp`` and ``ivector_period`` of a directory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.ark import read_matrix
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.files import read_integers, read_lines


@dataclass(frozen=True)
class IvectorDir:
    """A directory of i-vectors.

    Attributes:
        path: the directory.
        table: utt -> ``file.ark:offset``.
        period: frames from one i-vector to the next.
        extractor: id of the extractor; empty if the directory does not say it.

    Source: Kaldi ``egs/wsj/s5/steps/online/nnet2/extract_ivectors_online.sh``.
    """

    path: Path
    table: dict[str, str]
    period: int
    extractor: str

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> IvectorDir:
        """Read the table and the period.

        Raises:
            DataError: a file is missing, or the period is no positive number.
        """
        path = Path(directory)
        table = read_table(path / "ivector_online.scp", check_sorted=False)
        period = read_integers(path / "ivector_period")
        if len(period) != 1 or period[0] < 1:
            raise DataError(f"{path / 'ivector_period'}: expected one positive number, found {period}")
        identity = path / "final.ie.id"
        return cls(path, table, period[0], read_lines(identity)[0][1] if identity.is_file() else "")

    @property
    def dim(self) -> int:
        """Dimension of the i-vectors."""
        first = next(iter(self.table))
        return int(self.read([first])[first].shape[1])

    def read(self, utts: Iterable[str]) -> dict[str, np.ndarray]:
        """The i-vectors of some utterances.

        Returns:
            utt -> (P, I) float32, one for each period.

        Raises:
            DataError: an utterance without, a damaged archive, values that are not finite.
        """
        found = {}
        scp = self.path / "ivector_online.scp"
        lines = {utt: number for number, utt in enumerate(self.table, 1)}
        for utt in utts:
            if utt not in self.table:
                raise DataError(
                    f"{scp}: no i-vectors of utterance {utt!r}; extract them for this data "
                    "(steps/online/nnet2/extract_ivectors_online.sh)"
                )
            matrix = read_matrix(self.table[utt], where=f"{scp}:{lines[utt]}")
            if not matrix.size or not np.isfinite(matrix).all():
                raise DataError(
                    f"{scp}:{lines[utt]}: {utt!r}: i-vectors that are empty, NaN or infinite; make them again"
                )
            found[utt] = matrix
        return found
