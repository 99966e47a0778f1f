"""Bad utterances of a data directory: named with reasons in one file, so that a command can go on with the others.

The commands are strict unless told how many bad utterances they may leave out.  What is left is then a directory like
one that never had them, down to every number that is computed of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from kaldi_uq.errors import DataError, printable
from kaldi_uq.io.datadir import DataDir, c_sorted
from kaldi_uq.io.files import REPORT as REPORT
from kaldi_uq.io.files import write_text

log = logging.getLogger(__name__)


def read_data_dir(
    path: Path,
    *,
    need: Iterable[str] = ("wav.scp", "utt2spk"),
    sample_rate: float | None = None,
    min_samples: int = 1,
    allow_pipes: bool = False,
    resample: bool = False,
    max_bad: int = 0,
    report: Path,
    write: bool = True,
) -> DataDir:
    """Read a data directory, and leave out the utterances that cannot be used, if they are few.

    To find them all audio is read, one recording after the other.

    Args:
        path: the directory.
        need: files that must be there.
        sample_rate: sample rate in Hz that the audio must have; ``None``: that of most files.
        min_samples: samples of the shortest audio that can be used.
        allow_pipes: run the lines of ``wav.scp`` that are commands.
        resample: audio of another rate is resampled when it is read.
        max_bad: number of utterances that may be left out; 0: the directory must be whole, and no audio is read here.
        report: file that names those left out, and why: ``utt<TAB>file<TAB>reason`` lines; none if there are none.
        write: whether that file is written; ``False`` where another process does it.

    Raises:
        DataError: more are bad, or all; names the first and counts them.  Or a table cannot be read at all.
    """
    from kaldi_uq.io.waves import unusable

    if write:
        report.unlink(missing_ok=True)  # of an earlier run
    if not max_bad:
        return DataDir.read(path, need=need)
    data = DataDir.read(path, need=need, complete=False)
    bad = {utt: (str(path / name), f"{path / name}: no entry") for utt, name in data.incomplete().items()}
    num_utts = len(bad)
    whole = [utt for utt in data.utts if utt not in bad]
    if whole:
        complete = data.subset(whole)
        problems = unusable(
            complete, sample_rate=sample_rate, min_samples=min_samples, allow_pipes=allow_pipes, resample=resample
        )
        bad |= {utt: (data.source(utt), str(error)) for utt, error in problems.items()}
    num_utts += len(whole)
    if not bad:
        return DataDir.read(path, need=need)
    utts = c_sorted(bad)
    if write:
        write_text(report, "".join("\t".join(map(printable, (utt, *bad[utt]))) + "\n" for utt in utts))
    if len(bad) > max_bad or len(bad) == num_utts:
        raise DataError(
            f"{path}: {len(bad)} of {num_utts} utterances are bad, --max-bad allows {max_bad}; the first, {utts[0]!r}: "
            f"{bad[utts[0]][1]}; all are in {report}"
        )
    log.warning("%s: %d of %d utterances are bad and left out: %s", path, len(bad), num_utts, report)
    return data.subset([utt for utt in whole if utt not in bad])
