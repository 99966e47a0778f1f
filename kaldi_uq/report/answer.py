"""The answer at a glance: what becomes of attacked utterances, by model, by eps and by what the attacker knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

from kaldi_uq.report.run import Run, arrange
from kaldi_uq.report.style import BLUE, INK, ON_DARK, ON_LIGHT, SKY, VERMILION, legend, new_figure, tidy
from kaldi_uq.results.gate import TO_TRY
from kaldi_uq.results.names import GATE, PAPER_STATISTIC, ROBUST, model_key, model_name
from kaldi_uq.results.worst_case import interval

# What becomes of an utterance, from below: column -> label, colour, colour of text on it, hatching for print.  What is
# bad for its owner is below and warm, what is good above and blue; told apart with any common colour vision.
FATES: dict[str, tuple[str, str, str, str]] = {
    "wins": ("passed, heard as the attacker wants", VERMILION, ON_DARK, "//"),
    "other": ("passed, heard as something else", "#BDBDBD", ON_LIGHT, ""),
    "rest": ("anything else, not counted", "#EDEDED", ON_LIGHT, ".."),
    "refused": ("refused by the detector", SKY, ON_LIGHT, ""),
    "right": ("passed, heard right", BLUE, ON_DARK, ""),
}
ATTACKERS = {False: "An attacker who does not know the detector", True: "An attacker who knows the detector"}
UNTRIED = {
    False: "Nobody has attacked\nthis model.",
    True: f"Nobody who knows\nthe detector has tried.\n\nTo try: {TO_TRY}".replace(" --", "\n--"),
}
KEY, PLACE, SHARES = ("model", "knows", "eps"), ["model", "attack", "eps"], ("wins", "refused", "right")
NO_ATTACK = 0.0  # in place of eps: clean speech
SMALLEST = 0.055  # share that has room for its number


def fates(run: Run) -> tuple[str, pd.DataFrame]:
    """What becomes of the utterances of the reference attack, and of the one that does most of those that know.

    Returns:
        The detector: the default one or, where that was not tried, the paper's.  And a row a model, ``knows`` (whether
        the attacker knows the detector) and ``eps`` (0: clean speech): ``attack``, ``num_utts``, ``snr_db_mean``, and
        shares that add up to 1: ``wins`` (heard as the attacker wants and passed; ``lo``, ``hi``: 95 % interval),
        ``refused`` (whatever is heard), ``right`` (heard as it was spoken and passed; missing if not counted) and
        ``other`` or, where that is missing, ``rest``.
    """
    is_gate = bool(run.gate["evasion"].notna().any())
    name, kind = (GATE, "joint") if is_gate else (PAPER_STATISTIC, "gaussian")
    rows = run.gate if is_gate else run.paper[run.paper["statistic"] == name]
    measured = rows.set_index(PLACE).to_dict("index")
    attacks = run.attacks.set_index(PLACE).to_dict("index")
    wins = {(place, False): row["evasion"] for place, row in measured.items() if place[1] == run.reference}
    known = run.strongest()
    known = known[(known["statistic"] == name) & (known["detector"] == kind) & (known["sided"] == "two")]
    wins |= {(place, True): share for place, share in known.set_index(PLACE)["adaptive"].items()}
    found = []
    for (place, knows), share in wins.items():
        model, attack, eps = place
        if pd.isna(share) or eps == NO_ATTACK or place not in attacks:
            continue
        seen, made = measured.get(place, {}), attacks[place]
        least = max(made["target_success"] - share, 0.0)  # refused, if only what reaches its target was looked at
        row = {"attack": attack, "num_utts": made["num_utts"], "snr_db_mean": made["snr_db_mean"], "wins": share}
        row |= {"refused": seen.get("tpr_at_threshold", least), "right": seen.get("passed_right")}
        found.append({"model": model, "knows": knows, "eps": eps} | row)
    for model in {row["model"] for row in found}:
        of_clean = [row for (of, *_), row in measured.items() if of == model and pd.notna(row.get("fpr_at_threshold"))]
        for seen in of_clean[:1]:
            row = {"attack": "", "num_utts": run.content["clean"].get(model, {}).get("num_utts", 0), "wins": 0.0}
            row |= {"refused": seen["fpr_at_threshold"], "right": seen.get("benign_passed_right")}
            found += [{"model": model, "knows": knows, "eps": NO_ATTACK} | row for knows in ATTACKERS]
    frame = pd.DataFrame(found, columns=[*KEY, "attack", "num_utts", "snr_db_mean", *SHARES])
    frame = frame.astype(dict.fromkeys(("eps", "snr_db_mean", *SHARES), float))
    # an attack measured itself with draws of its own: what it claims comes first
    frame["refused"] = frame["refused"].clip(upper=1 - frame["wins"])
    frame["right"] = frame["right"].clip(upper=1 - frame["wins"] - frame["refused"])
    rest, counted = (1 - frame[list(SHARES)].sum(axis=1)).clip(lower=0.0), frame["right"].notna()
    frame["other"], frame["rest"] = rest.where(counted), rest.where(~counted)
    pairs = zip(frame["wins"], frame["num_utts"].astype(int), frame["attack"], strict=True)
    edges = [interval(round(share * n), n) if attack else (share, share) for share, n, attack in pairs]
    frame["lo"], frame["hi"] = ([edge[side] for edge in edges] for side in (0, 1))
    return name, arrange(frame, *KEY)


def shown_models(run: Run) -> list[str]:
    """The models of the picture: those that were attacked, and robust ones in any case."""
    robust = {model for model in run.content["clean"] if model.endswith(ROBUST)}
    return sorted(robust.union(run.attacks["model"]), key=model_key)


def describe(rows: pd.DataFrame, models: Sequence[str]) -> str:
    """The picture in words."""
    parts, labels = [], _labels(rows)
    for model in models:
        for knows, who in ATTACKERS.items():
            mine = rows[(rows["model"] == model) & (rows["knows"] == knows) & (rows["eps"] != NO_ATTACK)]
            said = []
            for row in mine.to_dict("records"):
                shares = [f"{100 * row[fate]:.0f} % {text}" for fate, text in labels.items() if pd.notna(row[fate])]
                said.append(f"eps {row['eps']:g}: {', '.join(shares)}")
            parts.append(f"{model_name(model)}, {who[:1].lower()}{who[1:]}: {'; '.join(said) or 'nobody has tried'}.")
    return " ".join(parts)


def answer_figure(rows: pd.DataFrame, models: Sequence[str], *, detector: str, narrow: bool = False) -> Figure:
    """A panel a model and attacker with a stacked bar for each eps; a robust model stands beside the ordinary one.

    Args:
        rows: as :func:`fates` gives them.
        models: in order, as :func:`shown_models` gives them.
        detector: the detector's name.
        narrow: for a telephone: the two attackers one below the other instead of side by side.
    """
    kinds = list(dict.fromkeys(model.removesuffix(ROBUST) for model in models))
    ends = [end for end in ("", ROBUST) if any(kind + end in models for kind in kinds)]
    eps = sorted(rows["eps"].unique())
    inches = (4.6, 0.9 + 2 * (0.55 + 2.0 * len(kinds))) if narrow else (10.0, 1.3 + 2.35 * len(kinds))
    figure = new_figure(*inches)
    groups: Any = figure.subfigures(2, 1) if narrow else figure.subfigures(1, 2)
    for group, (knows, who) in zip(groups, ATTACKERS.items(), strict=True):
        group.suptitle(who, fontsize=11, fontweight="bold", color=INK)
        panels = group.subplots(len(kinds), len(ends), sharey=True, squeeze=False)
        for axes, model in zip(panels.ravel(), [kind + end for kind in kinds for end in ends], strict=True):
            axes.set_visible(model in models)
            tidy(axes, title=model_name(model), grid=False)
            mine = rows[(rows["model"] == model) & (rows["knows"] == knows)]
            if (mine["eps"] != NO_ATTACK).any():
                utts = sorted({int(n) for n in mine.loc[mine["eps"] != NO_ATTACK, "num_utts"]})
                size = " to ".join(map(str, dict.fromkeys((utts[0], utts[-1]))))
                axes.set_title(f"n = {size}", fontsize=9, color=INK, loc="right")
                _draw_bars(axes, mine.set_index("eps").reindex(eps), _labels(rows))
            else:
                text = UNTRIED[knows].format(detector)
                axes.spines[["left", "bottom"]].set_linestyle((0, (2, 3)))
                axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=INK)
            axes.set_xticks(range(len(eps)), [_tick(e, mine) for e in eps], fontsize=9)
            axes.set_xlim(-0.6, len(eps) - 0.4)
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        for axes in panels[-1]:
            axes.set_xlabel("eps, mean SNR", color=INK, fontsize=9)
        for axes in panels[:, 0]:
            axes.set_ylabel("utterances", color=INK)
    legend(figure, columns=2 if narrow else 3)
    return figure


def _labels(rows: pd.DataFrame) -> dict[str, str]:
    """The fates that there are, with their labels."""
    return {fate: label for fate, (label, *_) in FATES.items() if rows[fate].notna().any()}


def _tick(eps: float, rows: pd.DataFrame) -> str:
    if eps == NO_ATTACK:
        return "no\nattack"
    snr = rows.loc[rows["eps"] == eps, "snr_db_mean"].mean()
    return f"{eps:g}" + (f"\n{snr:.0f} dB" if snr == snr else "\n")


def _draw_bars(axes: Axes, mine: pd.DataFrame, labels: Mapping[str, str]) -> None:
    """A stacked bar a row, with the numbers that have room, and the interval of what the attacker gets."""
    below, places = np.zeros(len(mine)), np.arange(len(mine), dtype=np.float64)
    for fate, label in labels.items():
        _, colour, ink, hatch = FATES[fate]
        heights = mine[fate].fillna(0.0).to_numpy()
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "#ffffff", "linewidth": 0.0}
        axes.bar(places, heights, 0.82, bottom=below, label=label, **style)
        for place, height, begin in zip(places, heights, below, strict=True):
            if height >= SMALLEST:
                box = {"facecolor": colour, "edgecolor": "none", "pad": 1.2} if hatch else None
                text = f"{100 * height:.0f} %"
                axes.text(place, begin + height / 2, text, ha="center", va="center", fontsize=9, color=ink, bbox=box)
        below += heights
    edges = (mine["wins"] - mine["lo"], mine["hi"] - mine["wins"])
    attacked = (mine.index != NO_ATTACK) & mine["wins"].notna()
    bars = np.array([edge.clip(lower=0.0)[attacked] for edge in edges])
    whiskers: dict[str, Any] = {"fmt": "none", "ecolor": ON_LIGHT, "capsize": 2.5, "linewidth": 1.1}
    whiskers["path_effects"] = [withStroke(linewidth=2.4, foreground=ON_DARK)]  # to be seen on any colour
    axes.errorbar(places[attacked] - 0.32, mine["wins"][attacked], bars, label="95 % interval of the first", **whiskers)
    for place in places[mine["wins"].isna()]:
        axes.text(place, 0.5, "not tried", rotation=90, ha="center", va="center", fontsize=9, color=INK)
