"""Rows, cases and figures, and how one figure is taken in the process that is running.

Nothing but the standard library is imported until the case itself needs it, so that the memory is that of the case.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WARM_S = 5.0  # a first run shorter than this is a warm-up, and is not counted
ENOUGH_S = 20.0  # no further run is begun once the counted ones took so long together

# What a run of a case tells, JSON-able.  "units" divides the seconds, "result" is compared between cases, "seconds" and
# "peak_mb" stand for what would be measured here.
Facts = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all cases of a run are measured on.

    Attributes:
        work: directory of the run's own files.
        device: ``cpu`` or ``cuda``.
        num_utts: utterances of a case, of 0.5 to 3 s.
        num_steps: steps of an attack.
        repeats: runs of a case that are counted, at most.
        recipe_dir: a recipe that has run, such as ``recipes/tidigits``; empty if there is none.
        system_dir: what :mod:`bench.system` has made; empty if there is none.
        known: what has been found out by the cases of the row that were measured before, by their names.
    """

    work: str
    device: str = "cpu"
    num_utts: int = 60
    num_steps: int = 40
    repeats: int = 3
    recipe_dir: str = ""
    system_dir: str = ""
    known: dict[str, Facts] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One side of a comparison.

    Attributes:
        name: what it is called in the table.
        make: prepares everything and returns what is timed, which may return facts.
        package: the distribution that it needs, and whose version the table shows.
        needs: what else it needs: ``kaldi``, ``system``, ``recipe``, or another distribution.
        in_children: whether the work is done by processes that it starts: their memory counts.
        aim: what its seconds over those of the row's first case should be, such as ``>= 4``; empty if nothing.
    """

    name: str
    make: Callable[[Setting], Callable[[], Facts | None]]
    package: str = ""
    needs: tuple[str, ...] = ()
    in_children: bool = False
    aim: str = ""


@dataclass(frozen=True)
class Row:
    """A comparison: the first case with each of the others; or one case alone.

    Attributes:
        name: its name on the command line.
        what: what is measured, for the table.
        cases: the cases.
        on_gpu: whether it is measured on a GPU too, where there is one.
        optional: whether it is measured only when it is asked for by name.
    """

    name: str
    what: str
    cases: tuple[Case, ...]
    on_gpu: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Figure:
    """What was measured of a case.

    Attributes:
        seconds, cpu_seconds: of each counted run, divided by the case's ``units``.
        peak_mb: most memory that the process held during the counted runs.
        work_mb: the same above what it held just before them.
        gpu_mb: most memory of the GPU that PyTorch held.
        version: of the case's package.
        facts: what the case returned.
        missing: why it was not measured; empty if it was.
    """

    seconds: tuple[float, ...] = ()
    cpu_seconds: tuple[float, ...] = ()
    peak_mb: float = 0.0
    work_mb: float = 0.0
    gpu_mb: float = 0.0
    version: str = ""
    facts: Facts = field(default_factory=dict)
    missing: str = ""


def missing(case: Case, setting: Setting) -> str:
    """What a case lacks here, in one line; empty if nothing."""
    there = {
        "kaldi": (bool(os.environ.get("KALDI_ROOT")), "not installed (KALDI_ROOT is not set)"),
        "system": (bool(setting.system_dir), "no recogniser (pip install -e .[synth], or --recipe-dir)"),
        "recipe": (bool(setting.recipe_dir), "no recipe that has run (--recipe-dir)"),
    }
    for need in filter(None, (case.package, *case.needs)):
        is_there, lack = there.get(need) or (_version(need) is not None, "not installed (pip install -e .[bench])")
        if not is_there:
            return lack
    return ""


def measure(case: Case, setting: Setting) -> Figure:
    """Measure a case in this process."""
    lack = missing(case, setting)
    if lack:
        return Figure(missing=lack)
    work = case.make(setting)
    gpu = _gpu(setting.device)
    walls: list[float] = []
    cpus: list[float] = []
    facts: Facts = {}
    _forget_peak()
    before = _status_mb("VmRSS")
    if gpu is not None:
        gpu.reset_peak_memory_stats()
    warm = False
    while len(walls) < setting.repeats and (not walls or sum(walls) < ENOUGH_S):
        wall, cpu = time.perf_counter(), _cpu_s()
        facts = work() or {}
        if gpu is not None:
            gpu.synchronize()
        wall, cpu = time.perf_counter() - wall, _cpu_s() - cpu
        if not warm and wall < WARM_S and setting.repeats > 1:
            warm = True
            continue
        warm = True
        walls.append(wall)
        cpus.append(cpu)
    units = facts.pop("units", 1)
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    peak = of_children if case.in_children else _status_mb("VmHWM")
    elsewhere = case.in_children or "peak_mb" in facts
    return Figure(
        seconds=tuple(facts.pop("seconds", [wall / units for wall in walls])),
        cpu_seconds=tuple(cpu / units for cpu in cpus),
        peak_mb=facts.pop("peak_mb", peak),
        work_mb=0.0 if elsewhere else max(0.0, peak - before),
        gpu_mb=0.0 if gpu is None else gpu.max_memory_allocated() / 2**20,
        version=(_version(case.package) or "") if case.package else "",
        facts=facts,
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu(device: str) -> Any:
    """PyTorch's module of the GPU; ``None`` if the device is the CPU."""
    if device == "cpu":
        return None
    import torch

    return torch.cuda


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _status_mb(name: str) -> float:
    """An entry of ``/proc/self/status`` in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _forget_peak() -> None:
    """Let ``VmHWM`` begin anew, so that what was needed to prepare does not count (see proc(5), clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # a sandbox may not let it: the peak is then that of the whole process
        return
