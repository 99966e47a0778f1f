"""Features, log-likelihoods and transcripts for Kaldi's programs: an archive, split into parts for jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.engine.base import EngineOptions, Matrices, Transcripts
from kaldi_uq.errors import EngineError
from kaldi_uq.io.ark import MatrixWriter
from kaldi_uq.io.datadir import c_sorted, read_table, write_table
from kaldi_uq.io.files import write_text


@dataclass(frozen=True)
class Parts:
    """An archive of matrices and its parts, consecutive in C-locale order.

    Attributes:
        folder: directory of the archive and its parts.
        utts: utterances with at least one frame, in the order in which they came.
        of_job: number of the job -> its utterances.
    """

    folder: Path
    utts: tuple[str, ...]
    of_job: dict[int, tuple[str, ...]]

    @property
    def numbers(self) -> list[int]:
        """Numbers of the jobs."""
        return list(self.of_job)

    def scp(self, job: int, *, sort: bool = False) -> str:
        """Specifier of the matrices of a job."""
        return f"scp{',s,cs' if sort else ''}:{self.folder / f'feats.{job}.scp'}"

    def write_transcripts(self, transcripts: Transcripts) -> None:
        """Write the word-ids of each utterance."""
        for job, utts in self.of_job.items():
            lines = [f"{utt} {' '.join(map(str, transcripts[utt]))}\n" for utt in utts]
            write_text(self.folder / f"text.{job}", "".join(lines))

    def transcripts(self, job: int) -> str:
        """Specifier of the word-ids of a job."""
        return f"ark,t:{self.folder / f'text.{job}'}"


def write_parts(folder: Path, matrices: Matrices, options: EngineOptions) -> Parts:
    """Write matrices (T, D) as float32; those without a frame are left out.

    Raises:
        EngineError: an utterance has a name that Kaldi's tables cannot hold.
    """
    utts = []
    with MatrixWriter(folder / "feats.ark", folder / "feats.scp") as writer:
        for utt, matrix in matrices:
            if utt.split() != [utt]:
                raise EngineError(
                    f"utterance {utt!r}: Kaldi's programs take no name that is empty or has a blank; give it another, "
                    "or use --engine embedded"
                )
            if len(matrix):
                writer.write(utt, np.ascontiguousarray(matrix, dtype=np.float32))
                utts.append(utt)
    if not utts:
        return Parts(folder, (), {})
    table = read_table(folder / "feats.scp")
    num_jobs = max(1, min(options.nj, len(utts)))
    pieces = np.array_split(np.array(c_sorted(utts), dtype=object), num_jobs)
    of_job = {options.first_job + n: tuple(map(str, piece)) for n, piece in enumerate(pieces)}
    for job, names in of_job.items():
        write_table(folder / f"feats.{job}.scp", {utt: table[utt] for utt in names})
    return Parts(folder, tuple(utts), of_job)
