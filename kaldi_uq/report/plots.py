"""Figures 1, 2 and 3 of the paper from our numbers, and curves of attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from kaldi_uq.detector import GaussianDetector, auroc, roc
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.report.run import SIDES
from kaldi_uq.report.style import ATTACKED, BENIGN, INK, MARKERS, PALETTE, legend, new_figure, tidy
from kaldi_uq.results.names import AGGREGATES, MEASURES, ROBUST, model_key, model_name, statistic_key, statistic_name

Statistics = Mapping[str, npt.NDArray[np.float64]]  # name -> (B,)
AXES = {
    "eps": "eps (full scale = 1), square-root axis",
    "steps": "gradient steps",
    "snr_db_mean": "mean SNR of an eps, dB",
}
_HEADINGS = ("Heard as the target", "Word accuracy, attacker's text", "Word accuracy, original text")
_APART = 0.13  # of the width of an axis, at least, between two ticks


def accuracy_figure(rows: pd.DataFrame, *, title: str, x: str = "eps") -> Figure:
    """Figure 1: what an attack reaches, and accuracy against the attacker's and the original text, a line a model.

    Args:
        rows: rows of :attr:`kaldi_uq.report.run.Run.attacks`, of one attack.
        title: heading.
        x: column of the horizontal axis, of ``AXES``; that of steps is logarithmic.  Over the SNR, which falls to the
            right, only what is reached is shown: the rest is beside eps.
    """
    sides = list(zip(_HEADINGS, SIDES, strict=True))[: 1 if x == "snr_db_mean" else None]
    panels = {head: rows.assign(y=rows[s], lo=rows[f"{s}_lo"], hi=rows[f"{s}_hi"]) for head, s in sides}
    figure = _lines(panels, title=title, x=x)
    for axes in figure.axes:
        axes.axhline(0, color=INK, linewidth=0.8)
        if x == "snr_db_mean":
            axes.invert_xaxis()
    return figure


def evasion_figure(points: pd.DataFrame) -> Figure:
    """Share of utterances that are heard as the target and pass a detector that the attacker knows, by statistic.

    Args:
        points: rows as :meth:`kaldi_uq.report.run.Run.adaptive` gives them.
    """
    statistics = sorted(set(points["statistic"]), key=statistic_key)
    points = points.assign(y=points["adaptive"], lo=points["adaptive_lo"], hi=points["adaptive_hi"])
    panels = {statistic_name(name): points[points["statistic"] == name] for name in statistics}
    figure = _lines(panels, title="Reach the target and pass a detector that the attacker knows")
    for axes in figure.axes:
        axes.set_ylim(-0.03, 1.03)
    return figure


def _lines(panels: Mapping[str, pd.DataFrame], *, title: str, x: str = "eps") -> Figure:
    """Panels of rows with ``model``, the column ``x``, ``y``, ``lo`` and ``hi``, a line a model with its intervals.

    Panels without numbers are left out; ticks stand where something was measured.
    """
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
                edges = [(mine["y"] - mine["lo"]).clip(lower=0), (mine["hi"] - mine["y"]).clip(lower=0)]
                axes.errorbar(mine[x], mine["y"], edges, fmt="none", ecolor=colour, elinewidth=1.0, capsize=2.0)
        tidy(axes, xlabel=AXES[x], title=name)
        if x == "steps":
            axes.set_xscale("log")
            axes.minorticks_off()
        if x == "eps":  # the small ones need room: between them lies what an attack can do and what it cannot
            axes.set_xscale("function", functions=(_root, _square))
        if x != "snr_db_mean":
            ticks = _ticks(rows[x].dropna().unique(), np.log if x == "steps" else _root)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("share", color=INK)
    legend(figure, columns=4)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def _root(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.sign(values) * np.square(values)


def _ticks(values: npt.ArrayLike, scale: Callable[[npt.ArrayLike], npt.ArrayLike]) -> list[float]:
    """Those of the measured values that are far enough apart on a scale for their labels, the largest among them."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    places = np.asarray(scale(ordered))
    kept: list[int] = []
    for number, place in enumerate(places):
        if not kept or places[kept[-1]] - place >= _APART * (places[0] - places[-1]):
            kept.append(number)
    return [float(ordered[number]) for number in reversed(kept)]


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
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
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


def roc_figure(
    scores: Mapping[str, tuple[Any, Any]], *, areas: Mapping[str, str] | None = None, title: str = ""
) -> Figure:
    """Figure 3: ROC curves of several statistics; the right panel has a logarithmic axis for few false alarms.

    Colour says the measure, the dash whether it is the maximum or the mean over frames.

    Args:
        scores: statistic -> the benign and the attacked scores ``(B,)``, higher for the more suspicious.
        areas: statistic -> its AUROC with the interval, for the legend; default: without.
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
        area = (areas or {}).get(statistic, f"{auroc(benign, attacked):.3f}")
        linear.plot(fpr, tpr, label=f"{statistic_name(statistic)} ({area})", **style)
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
    legend(figure, columns=2, title="AUROC in brackets" + (", with 95 % intervals" if areas else ""))
    return figure


def model_style(model: str, models: Sequence[str]) -> tuple[str, str]:
    """Colour and marker: the same for a known model in every figure, the next free ones for others.

    A robust model has those of the model of its kind; its line is dashed.
    """
    kinds = [name.removesuffix(ROBUST) for name in models]
    order = list(dict.fromkeys([*MODEL_KINDS, *kinds]))
    number = order.index(model.removesuffix(ROBUST))
    return PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
