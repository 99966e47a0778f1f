"""Measure every row, each case in a process of its own, and write ``RESULTS.md`` and ``results.json``.

Example: python3 -m bench.run --only pgd,mfcc-gradient
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import table
from bench.measure import Case, Figure, Row, Setting, measure
from bench.rows import all_rows
from kaldi_uq.cli.main import OneLineParser
from kaldi_uq.cli.options import positive_int
from kaldi_uq.config import require
from kaldi_uq.io.files import write_json, write_text

REPO = Path(__file__).resolve().parents[1]
LIMIT_S = 900  # of one case: what takes longer hangs
FAILED = "failed"  # how a figure begins to say why there is none
PACKAGES = ("torch", "torchaudio", "numpy", "scikit-learn", "kaldi-hmm-gmm", "kaldifst")


def parser() -> OneLineParser:
    """The options."""
    found = OneLineParser(prog="python3 -m bench.run", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--list", action="store_true", help="name the rows and what they need, measure nothing")
    found.add_argument(
        "--only",
        default="",
        metavar="ROW,...",
        help="measure these rows; 'scale-*': all that begin so [all that are not optional]",
    )
    found.add_argument("--recipe-dir", default="", metavar="DIR", help="a recipe that has run, with exp/dnn in it")
    found.add_argument("--device", default="", choices=("cpu", "cuda"), help="measure on this one [all there are]")
    found.add_argument("--num-utts", type=positive_int, default=60, help="utterances of a case [60]")
    found.add_argument("--num-steps", type=positive_int, default=40, help="steps of an attack [40]")
    found.add_argument("--repeats", type=positive_int, default=3, help="counted runs of a case, at most [3]")
    found.add_argument("--out", type=Path, default=REPO / "bench", metavar="DIR", help="where the results go [bench]")
    return found


def chosen(names: str) -> list[Row]:
    """The rows that are asked for; without names all but the optional ones.

    Raises:
        ValueError: there is no such row.
    """
    rows = {row.name: row for row in all_rows()}
    if not names:
        return [row for row in rows.values() if not row.optional]
    wanted = {name.strip(): fnmatch.filter(rows, name.strip()) for name in names.split(",") if name.strip()}
    require(bool(wanted) and all(wanted.values()), f"--only {names}: no such row; there are {', '.join(rows)}")
    return [rows[name] for found in wanted.values() for name in found]


def isolated(row: Row, case: Case, setting: Setting) -> Figure:
    """Measure a case in a process of its own; a failure is told, and the other rows go on."""
    asked = json.dumps({"row": row.name, "case": case.name, "setting": dataclasses.asdict(setting)})
    try:
        said = json.loads(module("bench.child", given=asked).splitlines()[-1])
    except ModuleFailed as error:
        return Figure(missing=f"{FAILED}: {error}")
    return Figure(**{name: tuple(value) if isinstance(value, list) else value for name, value in said.items()})


class ModuleFailed(Exception):
    """A process ended with an error, or did not end."""


def module(name: str, *arguments: str, given: str = "") -> str:
    """Run a module of this repository in a process of its own; what it prints.

    Raises:
        ModuleFailed: its last words.
    """
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", name, *arguments],
            input=given,
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModuleFailed(f"took more than {LIMIT_S} s") from None
    if done.returncode:
        raise ModuleFailed((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:200])
    return done.stdout


def measure_row(row: Row, setting: Setting, *, alone: bool = True) -> dict[str, Figure]:
    """Every case of a row: the first one last, as it may go by what the others have found out.

    Args:
        row: the row.
        setting: what it is measured on.
        alone: each case in a process of its own; without it memory is that of this process.
    """
    figures: dict[str, Figure] = {}
    for case in reversed(row.cases):
        known = {name: figure.facts for name, figure in figures.items()}
        here = dataclasses.replace(setting, known=known)
        figures[case.name] = isolated(row, case, here) if alone else measure(case, here)
        said = figures[case.name].missing or f"{min(figures[case.name].seconds):.3g} s"
        print(f"{row.name} ({setting.device}), {case.name}: {said}", file=sys.stderr, flush=True)
    return {case.name: figures[case.name] for case in row.cases}


def make_system(work: Path, num_utts: int, recipe_dir: str) -> str:
    """The recogniser of the rows that need words; empty, and said why, where it cannot be made."""
    if not recipe_dir and importlib.util.find_spec("espeakng_loader") is None:
        return ""
    print("a recogniser for the rows that need words ...", file=sys.stderr, flush=True)
    out = work / "system"
    out.mkdir()
    try:
        module("bench.system", str(out), str(num_utts), *([recipe_dir] if recipe_dir else []))
    except ModuleFailed as error:
        print(f"bench: no recogniser: {error}", file=sys.stderr)
        return ""
    return str(out)


@functools.cache
def gpu() -> str:
    """The GPU there is, or nothing: found out in a process that ends, as this one is to stay small."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def devices() -> list[str]:
    """Where to measure."""
    return ["cpu", "cuda"] if gpu() else ["cpu"]


def machine() -> dict[str, str]:
    """What was measured on: name -> value."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) / 2**20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPO, capture_output=True, text=True, check=False
    )
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": git.stdout.strip() or "unknown",
        "processor": f"{cpu or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB",
        **({"GPU": gpu()} if gpu() else {}),
        "threads": os.environ.get("OMP_NUM_THREADS", "one for each core"),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{n} {v}" for n, v in versions.items())]),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def run(args: argparse.Namespace, rows: Sequence[Row], *, alone: bool = True) -> table.Measured:
    """Measure rows, and write the results after each, so that an interrupted run leaves what it has."""
    about = machine()
    measured: dict[str, tuple[Row, dict[str, Figure]]] = {}
    with tempfile.TemporaryDirectory(prefix="kaldi-uq-bench.") as work:
        needed = any("system" in case.needs for row in rows for case in row.cases)
        setting = Setting(
            work=work,
            num_utts=args.num_utts,
            num_steps=args.num_steps,
            repeats=args.repeats,
            recipe_dir=str(Path(args.recipe_dir).resolve()) if args.recipe_dir else "",
            system_dir=make_system(Path(work), args.num_utts, args.recipe_dir) if needed else "",
        )
        for device in [args.device] if args.device else devices():
            for row in rows:
                if device != "cpu" and not row.on_gpu:
                    continue
                name = row.name if device == "cpu" else f"{row.name} ({device})"
                measured[name] = row, measure_row(row, dataclasses.replace(setting, device=device), alone=alone)
                write_json(args.out / "results.json", table.as_json(about, measured))
                write_text(args.out / "RESULTS.md", table.as_markdown(about, measured))
    return measured


def main(argv: Sequence[str] | None = None, *, alone: bool = True) -> int:
    """Entry point; returns the exit status: 1 if a case failed, which the table says too."""
    args = parser().parse_args(argv)
    try:
        rows = chosen(args.only)
        exp = Path(args.recipe_dir) / "exp"
        require(
            not args.recipe_dir or (exp / "dnn/final.safetensors").is_file(),
            f"--recipe-dir {args.recipe_dir}: no exp/dnn/final.safetensors there; run its run.sh, or leave it out",
        )
    except ValueError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    if args.list:
        for row in all_rows():
            print(f"{row.name}: {row.what}: {', '.join(case.name for case in row.cases)}")
        return 0
    measured = run(args, rows, alone=alone)
    failed = [name for name, (_, figures) in measured.items() if any(_failed(f) for f in figures.values())]
    for name in failed:
        print(f"bench: error: {name} failed: see {args.out / 'RESULTS.md'}", file=sys.stderr)
    return 1 if failed else 0


def _failed(figure: Figure) -> bool:
    return figure.missing.startswith(FAILED)


if __name__ == "__main__":
    sys.exit(main())
