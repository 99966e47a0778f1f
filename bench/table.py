"""``RESULTS.md`` and ``results.json`` of a run."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.measure import Case, Figure, Row

Figures = Mapping[str, Figure]  # by the names of a row's cases
Measured = Mapping[str, tuple[Row, Figures]]  # by the names of the rows, with the device where that is not the CPU

HEAD = (
    "row",
    "what",
    "first",
    "other",
    "first, s",
    "other, s",
    "other / first",
    "aim",
    "first, MB",
    "other, MB",
    "notes",
)
INTRODUCTION = """\
# Measured

Made by `make bench`; `README.md` beside this file says how. Seconds are the median, in brackets the smallest and the
largest run; memory is the peak of a process of its own, in brackets what the work added. A row compares its first case
with each of the others: the ratio is the other's seconds over the first's, so that above 1 the first is the faster.
"""


def as_json(machine: Mapping[str, str], measured: Measured) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "machine": dict(machine),
        "rows": {
            name: {case: dataclasses.asdict(figure) for case, figure in figures.items()}
            for name, (_, figures) in measured.items()
        },
    }


def as_markdown(machine: Mapping[str, str], measured: Measured) -> str:
    """The page."""
    lines = [INTRODUCTION, _line(("", "")), _line(("---", "---")), *(_line(item) for item in machine.items()), ""]
    lines += [_line(HEAD), _line(["---"] * len(HEAD))]
    for name, (row, figures) in measured.items():
        lines += [_line(cells) for cells in lines_of(name, row, figures)]
    return "\n".join(lines) + "\n"


def lines_of(name: str, row: Row, figures: Figures) -> list[tuple[str, ...]]:
    """The cells of a row's lines: one for each case but the first, or one for that alone."""
    first, *others = (case for case in row.cases if case.name in figures)
    mine = figures[first.name]
    if not others:
        return [(name, row.what, _who(first, mine), "", _seconds(mine), "", "", "", _memory(mine), "", _notes(mine))]
    found = []
    for other in others:
        theirs = figures[other.name]
        ratio = ratio_of(mine, theirs)
        found.append(
            (
                name,
                row.what,
                _who(first, mine),
                _who(other, theirs),
                _seconds(mine),
                _seconds(theirs),
                "" if ratio is None else f"{ratio:.2f}",
                ""
                if not other.aim or ratio is None
                else f"{other.aim}{'' if meets(ratio, other.aim) else ' (missed)'}",
                _memory(mine),
                _memory(theirs),
                _both_notes(mine, theirs),
            )
        )
    return found


def ratio_of(first: Figure, other: Figure) -> float | None:
    """The other's seconds over the first's; ``None`` if one was not measured."""
    if not first.seconds or not other.seconds:
        return None
    return statistics.median(other.seconds) / statistics.median(first.seconds)


def meets(ratio: float, aim: str) -> bool:
    """Whether a ratio is what is aimed at.

    >>> meets(3.0, ">= 4"), meets(3.0, "<= 4")
    (False, True)
    """
    sign, value = aim.split()
    return ratio >= float(value) if sign == ">=" else ratio <= float(value)


def _aim(ratio: float | None, aim: str) -> str:
    return aim if not aim or ratio is None or meets(ratio, aim) else f"{aim} (missed)"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _who(case: Case, figure: Figure) -> str:
    return f"{case.name} {figure.version}".strip()


def _seconds(figure: Figure) -> str:
    if not figure.seconds:
        return figure.missing
    middle = f"{statistics.median(figure.seconds):.3g}"
    spread = f" ({min(figure.seconds):.3g}-{max(figure.seconds):.3g})" if len(figure.seconds) > 1 else ""
    return middle + spread


def _memory(figure: Figure) -> str:
    if not figure.seconds or not figure.peak_mb:
        return ""
    parts = [f"{figure.peak_mb:.0f}" + (f" (+{figure.work_mb:.0f})" if figure.work_mb >= 1 else "")]
    parts += [f"GPU {figure.gpu_mb:.0f}"] if figure.gpu_mb else []
    return ", ".join(parts)


def _notes(figure: Figure) -> str:
    shown = {name: value for name, value in figure.facts.items() if name not in ("result", "commands")}
    return "; ".join(f"{name} {_plain(value)}" for name, value in shown.items())


def _both_notes(first: Figure, other: Figure) -> str:
    parts = [f"{who}: {notes}" for who, notes in (("first", _notes(first)), ("other", _notes(other))) if notes]
    results = first.facts.get("result"), other.facts.get("result")
    if all(results):
        parts.append("same result" if results[0] == results[1] else "results differ")
    return "; ".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
