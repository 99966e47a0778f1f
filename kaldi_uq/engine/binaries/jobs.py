"""Where Kaldi's programs are and how they are run: job scripts, given to a command such as ``run.pl``, with logs.

A job is a shell script of one or more pipelines.  The command that runs it is only told the name of the script, so
that no path or option depends on how that command quotes its arguments: Kaldi's ``run.pl``, ``queue.pl``, ``slurm.pl``
and ``ssh.pl`` each do it in another way.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaldi_uq.engine.base import EngineOptions
from kaldi_uq.errors import EngineError
from kaldi_uq.io.files import write_text

OPENFST = "tools/openfst/bin"

# program -> its directory below KALDI_ROOT
PROGRAMS: dict[str, str] = {
    "fstarcsort": OPENFST,
    "fstcompile": OPENFST,
    "fstconvert": OPENFST,
    "fstprint": OPENFST,
    "acc-tree-stats": "src/bin",
    "add-self-loops": "src/bin",
    "align-compiled-mapped": "src/bin",
    "align-equal-compiled": "src/bin",
    "build-tree": "src/bin",
    "cluster-phones": "src/bin",
    "compile-questions": "src/bin",
    "compile-train-graphs": "src/bin",
    "convert-ali": "src/bin",
    "latgen-faster-mapped": "src/bin",
    "make-h-transducer": "src/bin",
    "sum-tree-stats": "src/bin",
    "tree-info": "src/bin",
    "compute-cmvn-stats": "src/featbin",
    "compute-fbank-feats": "src/featbin",
    "compute-mfcc-feats": "src/featbin",
    "copy-feats": "src/featbin",
    "fstcomposecontext": "src/fstbin",
    "fstdeterminizestar": "src/fstbin",
    "fstminimizeencoded": "src/fstbin",
    "fstpushspecial": "src/fstbin",
    "fstrmepslocal": "src/fstbin",
    "fstrmsymbols": "src/fstbin",
    "fsttablecompose": "src/fstbin",
    "gmm-acc-stats-ali": "src/gmmbin",
    "gmm-align-compiled": "src/gmmbin",
    "gmm-est": "src/gmmbin",
    "gmm-init-model": "src/gmmbin",
    "gmm-init-mono": "src/gmmbin",
    "gmm-latgen-faster": "src/gmmbin",
    "gmm-mixup": "src/gmmbin",
    "gmm-sum-accs": "src/gmmbin",
    "lattice-1best": "src/latbin",
    "nbest-to-linear": "src/latbin",
    "train-transitions": "src/nnetbin",
}

Pipeline = Sequence[Sequence[str]]  # commands, the output of each the input of the next; a command is its words

_NOT_STARTED = 127  # exit status of a program whose libraries are not found
_TAIL_LINES = 8
# how run.pl, and how queue.pl, slurm.pl and ssh.pl end a log; "0; signal 9" is no 0
_ENDED = re.compile(r"^# (?:Ended \(code |Finished at .* with status )(\d+(?:; signal \d+)?)", re.MULTILINE)


@dataclass(frozen=True)
class KaldiRoot:
    """The root of a built Kaldi."""

    path: Path

    @classmethod
    def find(cls) -> KaldiRoot:
        """The Kaldi of ``KALDI_ROOT``.

        Raises:
            EngineError: the variable is not set, or there is no built Kaldi there.
        """
        root = os.environ.get("KALDI_ROOT", "")
        if not root:
            raise EngineError(
                "the engine kaldi needs KALDI_ROOT, the root directory of a built Kaldi; "
                "export KALDI_ROOT=<directory>, or pass --engine embedded"
            )
        path = Path(os.path.abspath(root))
        remedy = "correct or unset KALDI_ROOT, or pass --engine embedded"
        if not path.is_dir():
            raise EngineError(f"KALDI_ROOT={root}: no such directory; {remedy}")
        if not any(os.access(path / place / name, os.X_OK) for name, place in PROGRAMS.items() if place != OPENFST):
            raise EngineError(f"KALDI_ROOT={root}: no built Kaldi there (no src/bin/compile-train-graphs); {remedy}")
        return cls(path)

    def program(self, name: str) -> str:
        """The path of a program.

        Raises:
            EngineError: it has not been built; the message says how to.
        """
        path = self.path / PROGRAMS[name]
        if not os.access(path / name, os.X_OK):
            raise EngineError(f"{path / name}: no such program; build it with: {self.how_to_build(name)}")
        return str(path / name)

    def how_to_build(self, name: str) -> str:
        """The command that builds a program, and the others beside it."""
        if PROGRAMS[name] == OPENFST:
            return f"make -C {self.path / 'tools'} openfst"
        return f"make -C {self.path / 'src'} {Path(PROGRAMS[name]).name}"

    def missing(self) -> list[str]:
        """The programs that have not been built."""
        return [name for name, place in PROGRAMS.items() if not os.access(self.path / place / name, os.X_OK)]

    def broken(self) -> dict[str, str]:
        """The programs that are there and do not start, as without Kaldi's shared libraries: name -> why."""
        found = {}
        for name in PROGRAMS.keys() - set(self.missing()):
            try:
                command = [self.program(name), "--help"]
                done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            except OSError as error:  # of another machine, or cut off
                found[name] = error.strerror or str(error)
                continue
            if done.returncode == _NOT_STARTED or done.returncode < 0:
                said = done.stderr.decode(errors="replace").strip().splitlines()
                found[name] = said[-1] if said else f"exit status {done.returncode}"
        return dict(sorted(found.items()))

    @property
    def version(self) -> str:
        """Kaldi's version, from the file that its build writes; ``unknown`` if there is none."""
        for name, pattern in (("src/base/version.h", r'KALDI_VERSION "([^"]+)"'), ("src/.version", r"^(\S+)")):
            if (self.path / name).is_file():
                found = re.search(pattern, (self.path / name).read_text(errors="replace"), re.MULTILINE)
                if found:
                    return found[1]
        return "unknown"


def quoted(path: str | os.PathLike[str]) -> str:
    """A file name as it stands within a pipe of a table specifier (``ark:gunzip -c <name>|``)."""
    return shlex.quote(str(path))


@dataclass(frozen=True)
class Jobs:
    """Runs jobs of Kaldi's programs.

    Attributes:
        kaldi: where the programs are.
        options: the command, the number of jobs and their place.
    """

    kaldi: KaldiRoot
    options: EngineOptions

    @contextlib.contextmanager
    def workspace(self, place: Path | None = None) -> Iterator[tuple[Path, Path]]:
        """A temporary directory for archives, and the directory for logs.

        Args:
            place: directory that the operation writes into, so that jobs on other machines see it; ``None``: that of
                the options, or else the system's temporary directory, for logs too.
        """
        place = place or self.options.work_dir
        if place:
            place = Path(os.path.abspath(place))
            place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".kaldi.", suffix=".tmp", dir=place) as folder:
            yield Path(folder), (place or Path(folder)) / "log"

    def command(self, name: str, *arguments: str | os.PathLike[str]) -> list[str]:
        """A command of one of Kaldi's programs."""
        return [self.kaldi.program(name), *map(str, arguments)]

    def run(
        self,
        name: str,
        pipelines: Callable[[int], Sequence[Pipeline]],
        *,
        scripts: Path,
        logs: Path,
        numbers: Sequence[int] = (),
        nothing_done: str = "",
    ) -> list[Path]:
        """Run an array of jobs and wait for all of them.

        Args:
            name: name of the logs, ``<name>.<job>.log``.
            pipelines: number of a job -> what it runs, one pipeline after another.
            scripts: directory for the scripts of the jobs.
            logs: directory for the logs.
            numbers: numbers of the jobs, without gaps; by default one job.
            nothing_done: pattern; a job that failed is taken for finished if its log matches and has no error. For
                programs whose exit status says that not one utterance had a result.

        Returns:
            the log of each job.

        Raises:
            EngineError: a job failed; the message has the end of its log.
        """
        numbers = list(numbers) or [self.options.first_job]
        logs.mkdir(parents=True, exist_ok=True)
        for number in numbers:
            write_text(scripts / f"{name}.{number}.sh", _script(pipelines(number)))
        paths = [logs / f"{name}.{number}.log" for number in numbers]
        for path in paths:
            path.unlink(missing_ok=True)  # what is read below must be of these jobs
        command = [*_split_command(self.options.cmd), f"JOB={numbers[0]}:{numbers[-1]}"]
        command += [str(logs / f"{name}.JOB.log"), "bash", str(scripts / f"{name}.JOB.sh")]
        status, said = _start(command)
        if status:
            failed = [path for path in paths if not _ended_well(path)]
            if nothing_done:
                failed = [path for path in failed if not _did_nothing(path, nothing_done)]
                if not failed and all(path.is_file() for path in paths):
                    return paths
            raise EngineError(_failure(name, failed, said or f"exit status {status}", command))
        return paths

    def output(self, name: str, *arguments: str | os.PathLike[str]) -> str:
        """What a program prints, run here and now.

        Raises:
            EngineError: it fails.
        """
        command = self.command(name, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise EngineError(f"{' '.join(command)}: {_gist(done.stderr) or f'exit status {done.returncode}'}")
        return done.stdout


def log_text(path: Path) -> str:
    """A log, without the lines of the command that ran the job."""
    if not path.is_file():
        return ""
    return "".join(line for line in path.read_text(errors="replace").splitlines(True) if not line.startswith("#"))


def default_cmd() -> str:
    """The command that runs jobs on this machine: ``utils/run.pl`` here, or of this repository.

    Raises:
        EngineError: there is neither.
    """
    for path in (Path("utils/run.pl"), Path(__file__).resolve().parents[3] / "utils/run.pl"):
        if os.access(path, os.X_OK):
            return shlex.quote(str(path))
    raise EngineError("utils/run.pl: no such program here; pass --cmd, the command that runs jobs")


def _script(pipelines: Sequence[Pipeline]) -> str:
    lines = ["set -euo pipefail"]
    for pipeline in pipelines:
        text = " | ".join(shlex.join(command) for command in pipeline)
        lines += [f"printf '%s\\n' {shlex.quote(text)} >&2", text]  # the log says what ran
    return "\n".join([*lines, ""])


def _split_command(cmd: str) -> list[str]:
    try:
        words = shlex.split(cmd or default_cmd())
    except ValueError as error:
        raise EngineError(f"--cmd {cmd!r}: {error}") from None
    if not words:
        raise EngineError("--cmd is blank; leave it out, or name the command that runs jobs")
    return words


def _start(command: list[str]) -> tuple[int, str]:
    """Run a command; its status and output.  If this process is interrupted, the command and its jobs are ended."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={
                "KALDI_UQ_MASTER": str(os.getpid()),
                **os.environ,
            },  # utils/run.pl ends with the process that called it
        )
    except OSError as error:
        raise EngineError(f"--cmd {shlex.join(command[:1])}: cannot be run ({error.strerror})") from None
    with process:
        try:
            said, _ = process.communicate()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return process.returncode, said


def _ended_well(path: Path) -> bool:
    codes = _ENDED.findall(path.read_text(errors="replace")) if path.is_file() else []
    return bool(codes) and codes[-1] == "0"


def _did_nothing(path: Path, pattern: str) -> bool:
    text = log_text(path)
    return bool(re.search(pattern, text)) and not re.search(r"^(ERROR|ASSERTION_FAILED) \(", text, re.MULTILINE)


def _gist(text: str) -> str:
    """The errors in what a program said, or else its last lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(ERROR|ASSERTION_FAILED) \(|.*: error: |FATAL: ", line)]
    return "\n".join(errors[:2] or lines[-_TAIL_LINES:])


def _failure(name: str, failed: Sequence[Path], said: str, command: list[str]) -> str:
    if not failed:
        return f"{name}: {command[0]} failed: {_gist(said)}"
    first = failed[0]
    more = f" ({len(failed)} jobs failed)" if len(failed) > 1 else ""
    if not first.is_file():
        return f"{name}: {command[0]} failed and wrote no log {first}: {_gist(said)}"
    end = _ENDED.findall(first.read_text(errors="replace"))
    state = f"ended with status {end[-1]}" if end else "did not end: killed?"
    return f"{first}: the job {state}{more}: {_gist(log_text(first)) or 'it said nothing'}"
