"""Curves of attacks: success against eps and against steps, and what an attack that knows the detector keeps of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kaldi_uq.report.plots import model_style
from kaldi_uq.report.style import INK, new_figure, tidy
from kaldi_uq.results.names import model_key, model_name, statistic_name

Row = Mapping[str, Any]
Point = tuple[float, float]
SIDES = (("target_success", "utterances heard as the target"), ("target_accuracy", "word accuracy against the target"))


def success_figure(rows: Sequence[Row], *, attack: str) -> Figure:
    """Share of utterances that are heard as their target, and word accuracy against it, over eps, one line a model.

    Args:
        rows: the ``attacks`` rows of ``results.json``; those of other attacks are left out.
        attack: which attack.
    """
    chosen = [row for row in rows if row["attack"] == attack]
    return _over([(row, float(row["eps"])) for row in chosen], "eps (full scale = 1)", f"Success of {attack} over eps")


def steps_figure(rows: Sequence[tuple[Row, int]], *, title: str) -> Figure:
    """The same over the number of gradient steps, on a logarithmic axis.

    Args:
        rows: rows of ``attacks``, each with its number of steps.
        title: heading, with the eps.
    """
    figure = _over([(row, float(steps)) for row, steps in rows], "gradient steps", title)
    ticks = sorted({steps for _, steps in rows})
    for axes in figure.axes:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(step) for step in ticks])
        axes.minorticks_off()
    return figure


def evasion_figure(points: Mapping[str, Mapping[str, Sequence[Point]]]) -> Figure:
    """Share of utterances that reach their target and pass the detector over eps: a panel a statistic, a line a model.

    Args:
        points: statistic -> model -> (eps, share) of the attack that knows this statistic's detector.
    """
    names = list(points)
    models = sorted({model for by_model in points.values() for model in by_model}, key=model_key)
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure = new_figure(4.6 * columns, 0.7 + 2.9 * lines)
    panels = np.atleast_1d(figure.subplots(lines, columns, sharey=True, squeeze=False)).ravel()
    for axes, name in zip(panels, names, strict=False):
        for model in models:
            _line(axes, sorted(points[name].get(model, ())), model, models)
        tidy(axes, xlabel="eps (full scale = 1)", title=statistic_name(name))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylim(-0.03, 1.03)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(
        "Reach their target and pass a detector that the attacker knows", fontsize=11, color=INK, x=0.01, ha="left"
    )
    for axes in panels[::columns]:
        axes.set_ylabel("reach and pass", color=INK)
    _legend(figure, panels)
    return figure


def _over(rows: Sequence[tuple[Row, float]], xlabel: str, title: str) -> Figure:
    models = sorted({row["model"] for row, _ in rows}, key=model_key)
    sides = [side for side in SIDES if any(row.get(side[0]) is not None for row, _ in rows)] or [SIDES[1]]
    figure = new_figure(8.0 if len(sides) > 1 else 4.8, 3.6)
    panels = np.atleast_1d(figure.subplots(1, len(sides), sharey=True))
    for axes, (field, name) in zip(panels, sides, strict=True):
        for model in models:
            points = sorted((x, row[field]) for row, x in rows if row["model"] == model and row.get(field) is not None)
            _line(axes, points, model, models)
        tidy(axes, xlabel=xlabel, title=name[0].upper() + name[1:])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.axhline(0, color=INK, linewidth=0.8)
    panels[0].set_ylabel("share", color=INK)
    _legend(figure, panels)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def _line(axes: Axes, points: Sequence[Point], model: str, models: Sequence[str]) -> None:
    if points:
        colour, marker = model_style(model, models)
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.6, label=model_name(model))


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    by_label = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        by_label.update(dict(zip(labels, handles, strict=True)))
    if by_label:
        figure.legend(
            list(by_label.values()), list(by_label), loc="outside lower center", ncols=min(len(by_label), 4),
            frameon=False, fontsize=9,
        )  # fmt: skip
