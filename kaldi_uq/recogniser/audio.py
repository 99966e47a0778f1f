"""Audio as a recogniser takes it: files of its sample rate with at least one frame, and what is said of others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import numpy as np

from kaldi_uq.errors import DataError
from kaldi_uq.io.recording import Recording, open_recording
from kaldi_uq.io.resample import Resampler
from kaldi_uq.io.wav import Source, as_float, read_wav


def read_file(
    source: Source,
    sample_rate: float,
    min_samples: int,
    *,
    what: str = "judged",
    where: str = "",
    allow_pipes: bool = False,
    max_bytes: int | None = None,
    resampler: Resampler | None = None,
) -> np.ndarray:
    """Read one file of audio.

    Args:
        source: a file, or another source that :func:`kaldi_uq.io.wav.read_wav` takes.
        sample_rate: sample rate in Hz that it must have.
        min_samples: samples of the shortest audio that has a frame.
        what: what is to be done with it, for messages.
        where: the table that names it, or the name of a stream, for messages.
        allow_pipes: run a source that is a command.
        max_bytes: length of the longest file.
        resampler: brings audio of another rate to this one; without it such audio is an error.

    Returns:
        (N,) float32 in [-1, 1].

    Raises:
        DataError: the file cannot be used; the message names it.
        MissingDependencyError: a package is needed to read it.
    """
    with _as_data_errors(source, where) as name:
        samples, _ = read_wav(
            source,
            expected_rate=sample_rate,
            where=where,
            allow_pipes=allow_pipes,
            max_bytes=max_bytes,
            resampler=resampler,
        )
        check_length(name, len(samples), sample_rate, min_samples, what)
    return samples


def open_audio(
    source: Source,
    sample_rate: float,
    min_samples: int,
    longest: int,
    *,
    what: str = "judged",
    where: str = "",
    allow_pipes: bool = False,
    max_bytes: int | None = None,
    resampler: Resampler | None = None,
) -> np.ndarray | Recording:
    """The same, but audio of more than ``longest`` samples stays a recording, in its file."""
    with _as_data_errors(source, where) as name:
        samples = open_recording(
            source,
            longest,
            expected_rate=sample_rate,
            where=where,
            allow_pipes=allow_pipes,
            max_bytes=max_bytes,
            resampler=resampler,
        )
        check_length(name, len(samples), sample_rate, min_samples, what)
    return samples


@contextlib.contextmanager
def _as_data_errors(source: Source, where: str) -> Iterator[str]:
    """A context, with the name of the source, in which other errors that are the file's become a ``DataError``."""
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else where
    try:
        yield name
    except ValueError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None


def read_files(
    paths: Mapping[str, str],
    sample_rate: float,
    min_samples: int,
    *,
    what: str,
    where: str,
    allow_pipes: bool,
    resample: bool,
) -> dict[str, np.ndarray]:
    """Read files of audio; arguments and errors as of :meth:`kaldi_uq.recogniser.base.BaseRecogniser.read_wavs`."""
    resampler = Resampler(sample_rate) if resample else None
    found: dict[str, np.ndarray] = {}
    problems: dict[str, str] = {}
    for name, path in paths.items():
        try:
            found[name] = read_file(
                path, sample_rate, min_samples, what=what, where=where, allow_pipes=allow_pipes, resampler=resampler
            )
        except DataError as error:
            problems[path] = str(error)
    raise_first(problems, what)
    if resampler:
        resampler.report(where or "audio", len(found))
    return found


def checked_waves(
    waves: Mapping[str, np.ndarray], sample_rate: float, min_samples: int, what: str
) -> dict[str, np.ndarray]:
    """Audio from Python as float32 in [-1, 1]; see :meth:`kaldi_uq.recogniser.base.BaseRecogniser.check_audio`."""
    found: dict[str, np.ndarray] = {}
    problems: dict[str, str] = {}
    for name, samples in waves.items():
        try:
            checked = as_float(samples, name=name)
            is_such = isinstance(samples, np.ndarray) and samples.dtype == np.float32
            same = is_such and np.array_equal(samples, checked)
            found[name] = samples if same else checked  # of long audio one copy is enough
            check_length(name, len(found[name]), sample_rate, min_samples, what)
        except ValueError as error:
            problems[name] = str(error)
    raise_first(problems, what)
    return found


def check_length(name: str, size: int, sample_rate: float, min_samples: int, what: str) -> None:
    """Refuse audio without a frame.

    Raises:
        ValueError: fewer than ``min_samples``; begins with the name.
    """
    if size < min_samples:
        raise ValueError(
            f"{name}: {size} samples ({size / sample_rate:.4f} s), the shortest that can be {what} is {min_samples} "
            f"({min_samples / sample_rate:.4f} s)"
        )


def raise_first(problems: Mapping[str, str], what: str) -> None:
    """Raise the first of the problems, if there are any, and name what has further ones.

    Args:
        problems: name of the audio -> message.
        what: what was to be done with it.

    Raises:
        DataError: there is one.
    """
    if problems:
        first, *others = problems
        more = f"; {len(others)} more cannot be {what}: {', '.join(others)}" if others else ""
        raise DataError(problems[first] + more)
