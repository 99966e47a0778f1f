"""Figures 1, 2 and 3 of the paper, from our numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from kaldi_uq.detector import GaussianDetector, auroc, roc
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.report.style import ATTACKED, BENIGN, INK, MARKERS, PALETTE, new_figure, tidy
from kaldi_uq.results.names import PAPER_STATISTIC, model_key, model_name, statistic_key, statistic_name

FloatArray = npt.NDArray[np.float64]
_MEASURE_COLOURS = {
    "predictive_entropy": PALETTE[0],
    "mutual_information": PALETTE[1],
    "akld": PALETTE[2],
    "variance": PALETTE[3],
    "expected_entropy": PALETTE[4],
}
_AGGREGATE_LINES = {"max": "-", "mean": "--"}


def accuracy_figure(rows: Sequence[Mapping[str, Any]], *, attack: str) -> Figure:
    """Figure 1: accuracy against the attacker's and against the original text over eps, one line a model.

    Args:
        rows: the ``attacks`` rows of ``results.json``; those of other attacks are left out.
        attack: which attack.
    """
    chosen = [row for row in rows if row["attack"] == attack]
    models = sorted({row["model"] for row in chosen}, key=model_key)
    sides = [("target_accuracy", "attacker's text"), ("original_accuracy", "original text")]
    sides = [side for side in sides if any(row[side[0]] is not None for row in chosen)]  # noise has no target
    figure = new_figure(8.0 if len(sides) > 1 else 4.8, 3.6)
    panels = np.atleast_1d(figure.subplots(1, max(1, len(sides)), sharey=True))
    for axes, (field, title) in zip(panels, sides, strict=False):
        for model in models:
            points = sorted((r["eps"], r[field]) for r in chosen if r["model"] == model and r[field] is not None)
            if not points:
                continue
            colour, marker = model_style(model, models)
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.6, label=model_name(model))
        tidy(axes, xlabel="eps (full scale = 1)", title=f"Against the {title}")
        axes.axhline(0, color=INK, linewidth=0.8)
    panels[0].set_ylabel("word accuracy", color=INK)
    handles, labels = max((axes.get_legend_handles_labels() for axes in panels), key=lambda pair: len(pair[1]))
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False, fontsize=9)
    figure.suptitle(f"Accuracy under {attack}", fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def histogram_figure(
    benign: Mapping[str, FloatArray],
    attacked: Mapping[str, FloatArray],
    *,
    fit: Mapping[str, FloatArray] | None = None,
    statistics: Sequence[str] = (PAPER_STATISTIC,),
    title: str = "",
    label: str = "attacked",
) -> Figure:
    """Figure 2: histograms of a statistic over benign and attacked utterances, a panel each.

    Args:
        benign: ``(B1,)`` per statistic, benign test set.
        attacked: ``(B2,)`` per statistic, under attack.
        fit: ``(B0,)`` per statistic, the set that the detector is fitted on; with it the fitted normal density and
            its two thresholds at 1 % false positives are drawn.
        statistics: which ones.
        title: heading, such as the model and the attack.
        label: what the second set is called.
    """
    figure = new_figure(4.4 * len(statistics) + 0.4 * (len(statistics) == 1), 3.5)
    panels = np.atleast_1d(figure.subplots(1, len(statistics)))
    for axes, statistic in zip(panels, statistics, strict=True):
        edges = _draw_shares(axes, {"benign": benign[statistic], label: attacked[statistic]})
        if fit is not None and len(fit[statistic]) > 1:
            _draw_normal(axes, GaussianDetector(statistic=statistic).fit(fit), edges)
        tidy(axes, xlabel=f"{statistic_name(statistic)}{_unit(statistic)}")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.margins(x=0.01)
    panels[0].set_ylabel("share of utterances", color=INK)
    panels[0].set_title(title, fontsize=10.5, color=INK, loc="left")
    by_label = {}
    for axes in panels:  # a panel can lack a line that its neighbour has
        handles, labels = axes.get_legend_handles_labels()
        by_label.update(dict(zip(labels, handles, strict=True)))
    figure.legend(
        list(by_label.values()), list(by_label), loc="outside lower center", ncols=len(statistics) * 2, frameon=False,
        fontsize=8.5,
    )  # fmt: skip
    return figure


def _draw_shares(axes: Axes, samples: Mapping[str, FloatArray]) -> list[float]:
    edges: list[float] = np.histogram_bin_edges(np.concatenate(list(samples.values())), bins=40).tolist()
    for (name, sample), colour, hatch in zip(samples.items(), (BENIGN, ATTACKED), ("", "////"), strict=True):
        # shares, so that sets of different size can be compared; hatching, for print without colour
        weights = np.full(len(sample), 1 / max(len(sample), 1))
        axes.hist(sample, bins=edges, weights=weights, color=colour, alpha=0.5, label=f"{name} ({len(sample)})")
        axes.hist(
            sample, bins=edges, weights=weights, histtype="step", color=colour, linewidth=1.2, hatch=hatch, alpha=0.8
        )
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


def roc_figure(scores: Mapping[str, tuple[FloatArray, FloatArray]], *, title: str = "") -> Figure:
    """Figure 3: ROC curves of several statistics; the right panel has a logarithmic axis for few false alarms.

    Colour says the measure, the dash whether it is the maximum or the mean over frames.

    Args:
        scores: for each statistic the benign and the attacked scores, higher for the more suspicious.
        title: heading.
    """
    figure = new_figure(8.4, 4.0)
    linear, logarithmic = figure.subplots(1, 2)
    lowest = 1.0
    spare = iter(PALETTE[5:] * len(scores))
    for statistic in sorted(scores, key=statistic_key):
        benign, attacked = scores[statistic]
        fpr, tpr = roc(benign, attacked)
        aggregate, _, measure = statistic.partition("_")
        colour = _MEASURE_COLOURS.get(measure) or next(spare)
        line = _AGGREGATE_LINES.get(aggregate, ":")
        label = f"{statistic_name(statistic)} ({auroc(benign, attacked):.3f})"
        floor = 0.5 / len(benign)
        lowest = min(lowest, floor)
        linear.plot(fpr, tpr, color=colour, linestyle=line, linewidth=1.6, label=label)
        # on this axis a straight line between two observed rates would bend; what is reached for certain is the step
        logarithmic.step(np.maximum(fpr, floor), tpr, where="post", color=colour, linestyle=line, linewidth=1.6)
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
    handles, labels = linear.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, title="AUROC in brackets",
        title_fontsize=8.5,
    )  # fmt: skip
    return figure


def model_style(model: str, models: Sequence[str]) -> tuple[str, str]:
    """Colour and marker: the same for a known model in every figure, the next free ones for others."""
    others = [m for m in models if m not in MODEL_KINDS]
    number = MODEL_KINDS.index(model) if model in MODEL_KINDS else len(MODEL_KINDS) + others.index(model)
    return PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]


def _unit(statistic: str) -> str:
    return "" if statistic.endswith("variance") else ", nats"
