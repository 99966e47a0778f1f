"""Figures 1, 2 and 3 of the paper from our numbers, and curves of attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from kaldi_uq.detector import GaussianDetector, auroc, roc
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.report.robustness import FATES, KNOWLEDGE, UNTRIED
from kaldi_uq.report.style import ATTACKED, BENIGN, GRID, INK, MARKERS, PALETTE, legend, new_figure, tidy
from kaldi_uq.results.names import AGGREGATES, MEASURES, ROBUST, model_key, model_name, statistic_key, statistic_name

Statistics = Mapping[str, npt.NDArray[np.float64]]  # name -> (B,)
AXES = {"eps": "eps (full scale = 1)", "steps": "gradient steps", "snr_db_mean": "mean SNR of an eps, dB"}
_SIDES = {
    "target_success": "Heard as the target",
    "target_accuracy": "Accuracy, attacker's text",
    "original_accuracy": "Accuracy, original text",
}


def accuracy_figure(rows: pd.DataFrame, *, title: str, x: str = "eps") -> Figure:
    """Figure 1: what an attack reaches, and accuracy against the attacker's and the original text, a line a model.

    Args:
        rows: rows of :attr:`kaldi_uq.report.frames.Run.attacks`, of one attack.
        title: heading.
        x: column of the horizontal axis, of ``AXES``; that of steps is logarithmic, and the SNR falls to the right.
    """
    figure = _lines({name: rows.assign(y=rows[side]) for side, name in _SIDES.items()}, title=title, x=x)
    for axes in figure.axes:
        axes.axhline(0, color=INK, linewidth=0.8)
        if x == "steps":
            ticks = sorted(rows[x].unique())
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        if x == "snr_db_mean":
            axes.invert_xaxis()
    return figure


def evasion_figure(points: pd.DataFrame) -> Figure:
    """Share of utterances that are heard as the target and pass a detector that the attacker knows, by statistic.

    Args:
        points: rows as :meth:`kaldi_uq.report.frames.Run.adaptive` gives them.
    """
    statistics = sorted(set(points["statistic"]), key=statistic_key)
    points = points.assign(y=points["adaptive"])
    panels = {statistic_name(name): points[points["statistic"] == name] for name in statistics}
    figure = _lines(panels, title="Reach the target and pass a detector that the attacker knows")
    for axes in figure.axes:
        axes.set_ylim(-0.03, 1.03)
    return figure


def knowledge_figure(rows: pd.DataFrame, *, title: str) -> Figure:
    """What becomes of attacked utterances, a bar a model and a panel for each sort of attacker.

    Args:
        rows: as :func:`kaldi_uq.report.robustness.who_knows_what` gives them.
        title: heading.
    """
    models = list(dict.fromkeys(rows["model"]))
    colours = dict(zip(FATES, (ATTACKED, BENIGN, GRID), strict=True))
    hatches = dict(zip(FATES, ("////", "", ""), strict=True))  # for print without colour
    figure = new_figure(9.6, 1.3 + 0.34 * len(models))
    for axes, (who, heading) in zip(figure.subplots(1, len(KNOWLEDGE), sharey=True), KNOWLEDGE.items(), strict=True):
        mine = rows[rows["knows"] == who].set_index("model").reindex(models)
        left = np.zeros(len(models))
        for fate, label in FATES.items():
            widths = mine[fate].fillna(0.0).to_numpy()
            style: dict[str, Any] = {
                "color": colours[fate],
                "hatch": hatches[fate],
                "edgecolor": "white",
                "label": label,
            }
            axes.barh(models, widths, left=left, height=0.7, linewidth=0.0, **style)
            left += widths
        for place in np.flatnonzero(mine["passed"].isna()):
            axes.text(0.02, int(place), UNTRIED, va="center", fontsize=9, color=INK)
        tidy(axes, xlabel="share of utterances", title=heading)
        axes.set_xlim(0, 1)
        axes.set_yticks(range(len(models)), [model_name(model) for model in models])
    axes.invert_yaxis()  # the panels share it
    legend(figure, columns=len(FATES))
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def _lines(panels: Mapping[str, pd.DataFrame], *, title: str, x: str = "eps") -> Figure:
    """Panels of rows with ``model``, the column ``x`` and ``y``, a line a model; those without numbers are left out."""
    panels = {name: rows for name, rows in panels.items() if rows["y"].notna().any()}
    models = sorted({model for rows in panels.values() for model in rows["model"]}, key=model_key)
    columns = max(1, min(3, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure = new_figure(0.6 + (3.4 if columns > 2 else 4.2) * columns, 0.7 + 2.9 * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, rows) in zip(grid, panels.items(), strict=False):
        for model in models:
            mine = rows[(rows["model"] == model) & rows["y"].notna() & rows[x].notna()].sort_values(x)
            colour, marker = model_style(model, models)
            style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.6}
            if model.endswith(ROBUST):
                style |= {"linestyle": "--", "markerfacecolor": "white"}
            if len(mine):
                axes.plot(mine[x], mine["y"], label=model_name(model), **style)
        tidy(axes, xlabel=AXES[x], title=name)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("share", color=INK)
    legend(figure, columns=4)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def histogram_figure(
    benign: Statistics, attacked: Statistics, *, fit: Statistics, names: Sequence[str], title: str = ""
) -> Figure:
    """Figure 2: histograms of a statistic over benign and attacked utterances, a panel each.

    Args:
        benign, attacked: ``(B,)`` per statistic, the benign test set and the attacked one.
        fit: ``(B0,)`` per statistic, the set that the detector is fitted on; the fitted normal density and its two
            thresholds at 1 % false positives are drawn.
        names: the statistics to draw.
        title: heading, such as the model and the attack.
    """
    figure = new_figure(4.4 * len(names) + 0.4 * (len(names) == 1), 3.5)
    panels = np.atleast_1d(figure.subplots(1, len(names)))
    for axes, name in zip(panels, names, strict=True):
        edges = _draw_shares(axes, {"benign": benign[name], "attacked": attacked[name]})
        if len(fit[name]) > 1:
            _draw_normal(axes, GaussianDetector(statistic=name).fit(fit), edges)
        tidy(axes, xlabel=statistic_name(name) + ("" if name.endswith("variance") else ", nats"))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.margins(x=0.01)
    panels[0].set_ylabel("share of utterances", color=INK)
    panels[0].set_title(title, fontsize=10.5, color=INK, loc="left")
    legend(figure, columns=2 * len(names))
    return figure


def _draw_shares(axes: Axes, samples: Statistics) -> list[float]:
    edges: list[float] = np.histogram_bin_edges(np.concatenate(list(samples.values())), bins=40).tolist()
    for (name, sample), colour, hatch in zip(samples.items(), (BENIGN, ATTACKED), ("", "////"), strict=True):
        # shares, so that sets of different size can be compared; hatching, for print without colour
        common: dict[str, Any] = {"bins": edges, "weights": np.full(len(sample), 1 / max(len(sample), 1))}
        axes.hist(sample, color=colour, alpha=0.5, label=f"{name} ({len(sample)})", **common)
        axes.hist(sample, color=colour, alpha=0.8, histtype="step", linewidth=1.2, hatch=hatch, **common)
    return edges


def _draw_normal(axes: Axes, detector: GaussianDetector, edges: list[float]) -> None:
    width = edges[1] - edges[0]
    if detector.std > width / 10:  # else the curve is a needle that squeezes the rest
        x = np.linspace(edges[0], edges[-1], 400)
        density = np.exp(-0.5 * ((x - detector.mean) / detector.std) ** 2) / (detector.std * np.sqrt(2 * np.pi))
        axes.plot(x, density * width, color=INK, linewidth=1.4, label="normal fitted to held-out benign")
    reach = detector.threshold_at(0.01) * detector.std
    for edge in (detector.mean - reach, detector.mean + reach):
        if edges[0] <= edge <= edges[-1]:
            axes.axvline(edge, color=INK, linewidth=1.0, linestyle=":", label="its 1 % thresholds")


def roc_figure(scores: Mapping[str, tuple[Any, Any]], *, title: str = "") -> Figure:
    """Figure 3: ROC curves of several statistics; the right panel has a logarithmic axis for few false alarms.

    Colour says the measure, the dash whether it is the maximum or the mean over frames.

    Args:
        scores: statistic -> the benign and the attacked scores ``(B,)``, higher for the more suspicious.
        title: heading.
    """
    figure = new_figure(8.4, 4.0)
    linear, logarithmic = figure.subplots(1, 2)
    lowest = min([1.0, *(0.5 / len(benign) for benign, _ in scores.values())])
    for statistic in sorted(scores, key=statistic_key):
        benign, attacked = scores[statistic]
        fpr, tpr = roc(benign, attacked)
        aggregate, _, measure = statistic.partition("_")
        style: dict[str, Any] = {
            "color": PALETTE[MEASURES.index(measure) if measure in MEASURES else -1],
            "linestyle": ("-", "--", "-.")[AGGREGATES.index(aggregate)] if aggregate in AGGREGATES else ":",
            "linewidth": 1.6,
        }
        linear.plot(fpr, tpr, label=f"{statistic_name(statistic)} ({auroc(benign, attacked):.3f})", **style)
        # on this axis a straight line between two observed rates would bend; what is reached for certain is the step
        logarithmic.step(np.maximum(fpr, 0.5 / len(benign)), tpr, where="post", **style)
    chance = np.geomspace(lowest, 1, 100)
    for axes in (linear, logarithmic):
        axes.plot(chance, chance, color=INK, linewidth=0.8, linestyle=":", label="chance")
        axes.set_ylim(-0.02, 1.02)
    tidy(linear, xlabel="false-positive rate", ylabel="true-positive rate", title=title)
    tidy(logarithmic, xlabel="false-positive rate, logarithmic", title="Few false alarms")
    logarithmic.set_xscale("log")
    logarithmic.set_xlim(lowest, 1)
    logarithmic.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    logarithmic.axvline(0.01, color=INK, linewidth=0.8)
    legend(figure, columns=3, title="AUROC in brackets")
    return figure


def model_style(model: str, models: Sequence[str]) -> tuple[str, str]:
    """Colour and marker: the same for a known model in every figure, the next free ones for others.

    A robust model has those of the model of its kind; its line is dashed.
    """
    kinds = [name.removesuffix(ROBUST) for name in models]
    order = list(dict.fromkeys([*MODEL_KINDS, *kinds]))
    number = order.index(model.removesuffix(ROBUST))
    return PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
