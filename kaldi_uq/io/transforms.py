"""The fMLLR transforms that Kaldi's steps leave beside alignments and lattices: ``trans.JOB``, archives of matrices."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.ark import read_archive
from kaldi_uq.io.files import read_integers


def has_transforms(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory has ``trans.JOB``."""
    return bool(_archives(Path(directory)))


def read_transforms(directory: str | os.PathLike[str], utt2spk: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The transform of each utterance's speaker, or of the utterance where the archives are by utterance.

    Args:
        directory: such as ``exp/tri3_ali`` or ``exp/tri3/decode_test``.
        utt2spk: utt -> spk, of the utterances that are wanted.

    Returns:
        utt -> (R, C) as in the file.

    Raises:
        DataError: no transforms, an archive is missing or damaged, or a speaker has none.

    Source: Kaldi ``egs/wsj/s5/steps/decode_fmllr.sh``, ``decode_basis_fmllr.sh``, ``align_fmllr.sh``.
    """
    folder = Path(directory)
    archives = _archives(folder)
    if not archives:
        raw = sorted(folder.glob("raw_trans.*"))
        what = f"only {raw[0].name}: raw fMLLR, which is not supported here" if raw else "none of fMLLR"
        raise DataError(
            f"{folder}/trans.1: no such transforms, {what}; name a directory that steps/align_fmllr.sh, "
            "steps/decode_fmllr.sh or their basis variants made of this data"
        )
    count_file = folder / "num_jobs"
    counts = read_integers(count_file) if count_file.is_file() else [len(archives)]
    if counts != [len(archives)] or set(archives) != set(range(1, len(archives) + 1)):
        raise DataError(f"{folder}: trans.* are {len(archives)} archives, num_jobs says {counts}; make them again")
    found: dict[str, np.ndarray] = {}
    for number in sorted(archives):
        for key, matrix in read_archive(archives[number]):
            if key in found:
                raise DataError(
                    f"{archives[number]}: {key!r} is in another archive too; remove those of an earlier run"
                )
            found[key] = matrix
    transforms = {}
    for utt, spk in utt2spk.items():
        key = spk if spk in found else utt
        if key not in found:
            raise DataError(
                f"{folder}: trans.* have no transform of speaker {spk!r} (utterance {utt!r}), they are of {len(found)} "
                f"others such as {min(found, default='nobody')!r}; name the directory that was made of this data"
            )
        transforms[utt] = found[key]
    return transforms


def _archives(folder: Path) -> dict[int, Path]:
    """Number of the job -> its archive."""
    matches = ((re.fullmatch(r"trans\.([1-9][0-9]*)", path.name), path) for path in folder.glob("trans.*"))
    return {int(match[1]): path for match, path in matches if match}
