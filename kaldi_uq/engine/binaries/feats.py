"""Features and CMVN statistics by Kaldi's own programs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from kaldi_uq.engine.base import EngineOptions
from kaldi_uq.engine.binaries.commands import move
from kaldi_uq.engine.binaries.data import write_parts
from kaldi_uq.engine.binaries.jobs import Jobs
from kaldi_uq.io.datadir import read_table, write_table
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.wav import to_int16

COMPUTE = {"mfcc": "compute-mfcc-feats", "fbank": "compute-fbank-feats"}


def compute_features(
    jobs: Jobs,
    waves: Mapping[str, np.ndarray],
    config: Path,
    ark: Path,
    scp: Path,
    *,
    sample_rate: float,
    kind: str = "mfcc",
    num_frames: Path | None = None,
    compress: bool = False,
) -> None:
    """Compute features.

    Args:
        jobs: what runs the programs.
        waves: utt -> (N,) float32 in [-1, 1]; they are rounded to 16 bit.
        config: ``conf/mfcc.conf`` or ``conf/fbank.conf``.  ``--dither=0`` is added to it.
        ark: the archive; the ``scp`` names it as given here.
        scp: the table.
        sample_rate: Hz.
        kind: ``"mfcc"`` or ``"fbank"``.
        num_frames: also write ``utt2num_frames`` here.
        compress: write compressed matrices.

    Raises:
        EngineError: a program fails, or there is none.
    """
    with jobs.workspace(jobs.options.work_dir or ark.parent) as (work, logs):
        with atomic_write(work / "wav.ark", "wb") as stream:
            for utt, wave in waves.items():
                memory = io.BytesIO()
                wavfile.write(memory, int(sample_rate), to_int16(wave))
                stream.write(f"{utt} ".encode() + memory.getvalue())
        compute = jobs.command(COMPUTE[kind], "--verbose=2", f"--config={config.absolute()}", "--dither=0")
        copy = jobs.command(
            "copy-feats",
            f"--compress={str(compress).lower()}",
            f"--write-num-frames=ark,t:{work / 'num_frames'}",
            "ark:-",
            f"ark,scp:{work / 'out.ark'},{work / 'out.scp'}",
        )
        pipeline = [[*compute, f"ark:{work / 'wav.ark'}", "ark:-"], copy]
        jobs.run(f"compute-{kind}-feats", lambda _: [pipeline], scripts=work, logs=logs)
        _place(work, ark, scp)
        if num_frames:
            write_table(num_frames, read_table(work / "num_frames"))


def compute_cmvn(
    jobs: Jobs, feats: Iterable[tuple[str, np.ndarray]], spk2utt: Mapping[str, Sequence[str]], ark: Path, scp: Path
) -> None:
    """Accumulate CMVN statistics of each speaker over (utt, (T, D)) features."""
    with jobs.workspace(jobs.options.work_dir or ark.parent) as (work, logs):
        parts = write_parts(work, feats, EngineOptions())
        write_table(work / "spk2utt", {spk: " ".join(utts) for spk, utts in spk2utt.items()})
        command = jobs.command(
            "compute-cmvn-stats",
            f"--spk2utt=ark:{work / 'spk2utt'}",
            parts.scp(1),
            f"ark,scp:{work / 'out.ark'},{work / 'out.scp'}",
        )
        jobs.run("compute-cmvn-stats", lambda _: [[command]], scripts=work, logs=logs)
        _place(work, ark, scp)


def _place(work: Path, ark: Path, scp: Path) -> None:
    """Put archive and table into place; the table names the archive as it was given."""
    table = {key: f"{ark}:{place.rpartition(':')[2]}" for key, place in read_table(work / "out.scp").items()}
    move(work / "out.ark", ark)
    write_table(scp, table)
