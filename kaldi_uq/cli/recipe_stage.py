"""Say whether a stage of a recipe is done and nothing that it depends on has changed, or record that it is done.

To be run in a recipe directory.  Exit status 0: done, 2: to be done, 1: an error.  A stage depends on its options
(WORD), on the code and the configuration files of recipe and package, and on the stages before it; and its files must
be as it left them, by size and time of change.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kaldi_uq
from kaldi_uq.cli.options import non_negative_int
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.io.files import digest, file_digest, read_json, write_json

TO_BE_DONE = 2
# what steps share and rerun commands rewrite; logs and locks decide nothing
_NO_OUTPUT = {"results.json", "log"}
_CODE = ("run.sh", "path.sh", "cmd.sh", "conf", "local", "steps", "utils")
_PACKAGES = ("torch", "torchaudio", "numpy", "scipy", "scikit-learn", "kaldi-hmm-gmm", "kaldifst")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN-DIR", help="holds data and exp of the run")
    parser.add_argument("stage", type=non_negative_int, metavar="NUMBER", help="number of the stage")
    parser.add_argument("words", nargs="*", metavar="WORD", help="whatever else the stage depends on; files by content")
    parser.add_argument("--begin", action="store_true", help="check, and note the time if the stage is to be done")
    parser.add_argument("--end", action="store_true", help="record that the stage is done")


def run(args: argparse.Namespace) -> int:
    if args.begin == args.end:
        raise UsageError("give --begin or --end")
    stage = Stage(args.run_dir, args.stage, args.words)
    if args.end:
        stage.end()
        return 0
    if stage.is_done():
        return 0
    stage.begin()
    return TO_BE_DONE


class Stage:
    """One stage of one run: its stamp ``stage.<n>.json`` and the mark of the time at which it began.

    Args:
        run_dir: the directory of the run, with ``data`` and ``exp``.
        number: number of the stage.
        words: what it depends on beside code, configuration and earlier stages.
    """

    def __init__(self, run_dir: Path, number: int, words: list[str]) -> None:
        self.run_dir, self.number, self.words = run_dir, number, words

    def is_done(self) -> bool:
        """Whether it was done in the same way after the same earlier stages, and all their files are as they left them.

        A file that a later stage has written again counts as left by that one.
        """
        stamps = {path: _read(path) for path in self.run_dir.glob(".stage.*.json")}
        if stamps.get(self._stamp, {}).get("key") != self._key():
            return False
        needed = {name for path in (*self._before, self._stamp) for name in stamps.get(path, {}).get("files", {})}
        known = [stamp["files"] for stamp in stamps.values() if stamp]
        left = [(_state(self.run_dir / name), [files[name] for files in known if name in files]) for name in needed]
        return all(state in states for state, states in left)

    def begin(self) -> None:
        """Forget that it was done, and mark the time."""
        self._stamp.unlink(missing_ok=True)
        self._mark.touch()

    def end(self) -> None:
        """Record that it is done, with the state of every file that has changed since it began."""
        since = self._mark.stat().st_mtime_ns
        files = {}
        for path in _files(self.run_dir / "data", self.run_dir / "exp"):
            state = _state(path)
            if state is not None and state[1] >= since:
                files[str(path.relative_to(self.run_dir))] = state
        write_json(self._stamp, {"key": self._key(), "files": files})
        self._mark.unlink()

    @property
    def _stamp(self) -> Path:
        return self.run_dir / f".stage.{self.number}.json"

    @property
    def _before(self) -> list[Path]:
        return [self.run_dir / f".stage.{number}.json" for number in range(self.number)]

    @property
    def _mark(self) -> Path:
        return self.run_dir / f".stage.{self.number}.begun"

    def _key(self) -> str:
        package = Path(kaldi_uq.__file__).parent
        code = {str(path): file_digest(path) for path in _files(*map(Path, _CODE))}
        code |= {str(path.relative_to(package)): file_digest(path) for path in _files(package)}
        words = [(word, file_digest(word) if os.path.isfile(word) else "") for word in self.words]
        stamps = [file_digest(path) for path in self._before if path.is_file()]
        return digest(words, code, stamps, [_version(name) for name in _PACKAGES])


def _read(stamp: Path) -> dict[str, Any]:
    """Key and files of a stamp; empty if it is damaged."""
    try:
        state = read_json(stamp)
    except DataError:
        return {}
    return state if isinstance(state, dict) and isinstance(state.get("files"), dict) else {}


def _files(*places: Path) -> Iterator[Path]:
    """The files at these places, in order, but those of which nothing depends."""
    for place in places:
        if place.is_file():
            yield place
        for directory, names, files in os.walk(place):
            names[:] = sorted(name for name in names if name not in (*_NO_OUTPUT, "__pycache__"))
            for name in sorted(files):
                if name not in _NO_OUTPUT and not name.endswith(".lock"):
                    yield Path(directory, name)


def _state(path: Path) -> list[int] | None:
    """Size in bytes and time of change in nanoseconds of a file; ``None`` if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
