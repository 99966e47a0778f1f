"""Audio as a recogniser takes it: files of its sample rate with at least one frame, and what is said of others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import numpy as np

from kaldi_uq.errors import DataError, OtherAudioError
from kaldi_uq.io.pipes import programs_started
from kaldi_uq.io.recording import Recording, open_recording
from kaldi_uq.io.resample import Resampler
from kaldi_uq.io.spool import Spool
from kaldi_uq.io.wav import Source, as_float, read_wav
from kaldi_uq.io.waves import Waves, compact, expanded


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


def checked_waves(
    waves: Mapping[str, np.ndarray], sample_rate: float, min_samples: int, what: str
) -> Mapping[str, np.ndarray]:
    """Audio from anywhere as float32 in [-1, 1]; of what was checked when it was read the length alone is looked at.

    Args:
        waves: name -> (N,) samples, int16 or float in [-1, 1].
        sample_rate: sample rate in Hz.
        min_samples: samples of the shortest audio that has a frame.
        what: what is to be done with it, for messages.

    Raises:
        DataError: audio that would be misheard, or too short; names it and lists further ones.
        TypeError: no mapping of names to samples.
    """
    require_names(waves)
    found: dict[str, np.ndarray] = {}
    problems: dict[str, str | DataError] = {}
    sizes = waves.lengths if isinstance(waves, Waves) else None
    for name in waves:
        try:
            if sizes is None:
                samples, checked = waves[name], as_float(waves[name], name=name)
                is_such = isinstance(samples, np.ndarray) and samples.dtype == np.float32
                same = is_such and np.array_equal(samples, checked)
                found[name] = samples if same else checked  # of long audio one copy is enough
            size = len(found[name]) if sizes is None else sizes[name]
            check_length(name, size, sample_rate, min_samples, what)
        except ValueError as error:
            problems[name] = str(error)
    raise_first(problems, what)
    return waves if sizes is not None else found


def require_names(waves: object) -> None:
    """Refuse audio that has no names.

    Raises:
        TypeError: no mapping.
    """
    if isinstance(waves, (str, os.PathLike)):
        raise TypeError('expected names with samples, got a path: read it first, recogniser.read_wavs({"a": path})')
    if not isinstance(waves, Mapping):
        raise TypeError(f'expected names with samples, such as {{"a": samples}}, got {type(waves).__name__}')


def read_files(
    paths: Mapping[str, Source],
    sample_rate: float,
    min_samples: int,
    *,
    what: str,
    where: str = "",
    allow_pipes: bool = False,
    resampler: Resampler | None = None,
) -> Waves:
    """Read every file, and only then complain of those that cannot be.

    Args:
        paths: name -> file, or another source that :func:`kaldi_uq.io.wav.read_wav` takes; a stream is read once.
        sample_rate, min_samples, what, where, allow_pipes: as of :func:`read_file`.
        resampler: converts audio of another form; the log says how much was resampled.

    Returns:
        name -> (N,) float32 in [-1, 1], read again when they are asked for; the output of programs is kept.

    Raises:
        DataError: a file that cannot be used; names it and lists further ones.
    """

    streams = {name for name, path in paths.items() if not isinstance(path, (str, os.PathLike))}

    def read(name: str, resampler: Resampler | None) -> np.ndarray:
        place = name if name in streams else where
        return read_file(
            paths[name], sample_rate, min_samples, what=what, where=place, allow_pipes=allow_pipes, resampler=resampler
        )

    def again(name: str) -> np.ndarray:
        if name in kept:
            return expanded(kept[name])
        return read(name, resampler.anew() if resampler else None)  # whose counts nobody reports

    kept, lengths, problems = Spool(), dict[str, int](), dict[str, str | DataError]()
    for name, path in paths.items():
        programs = programs_started()
        try:
            samples = read(name, resampler)
        except DataError as error:
            problems[name if name in streams else str(path)] = error
            continue
        lengths[name] = len(samples)
        if name in streams or programs_started() > programs:
            kept.put(name, compact(samples))
    raise_first(problems, what)
    if resampler:
        resampler.report(where or "audio", len(lengths))
    return Waves(lengths, again)


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


def raise_first(problems: Mapping[str, str | DataError], what: str) -> None:
    """Raise the first of the problems, if there are any, and name what has further ones.

    Args:
        problems: name of the audio -> message, or the error.
        what: what was to be done with it.

    Raises:
        DataError: there is one.
    """
    if problems:
        first, *others = problems
        more = f"; {len(others)} more cannot be {what}: {', '.join(others)}" if others else ""
        raise with_more(problems[first], more)


def with_more(problem: str | DataError, more: str) -> DataError:
    """The error, and more behind its message."""
    message = f"{problem}{more}"
    return OtherAudioError(message, problem.options) if isinstance(problem, OtherAudioError) else DataError(message)
