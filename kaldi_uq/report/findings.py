"""The headlines: short lines made of the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from kaldi_uq.report import paper, robustness
from kaldi_uq.report.frames import REFERENCE, SHOWN_STATISTICS, Run, arrange, variants
from kaldi_uq.results.gate import ELSE, ENOUGH
from kaldi_uq.results.names import GATE, PAPER_STATISTIC, model_key, model_name, split_level, statistic_name

BREAKS = 0.5  # share of attacked utterances that reach their target and pass from which on a detector is broken
AUDIO_STATISTICS = ("level_db", "noise_floor_db")  # of the audio alone
LOUDNESS = 0.75  # AUROC from which on loudness alone can be said to tell attacks from clean speech
TERMS = (
    f"The paper's detector is a two-sided Gaussian on {statistic_name(PAPER_STATISTIC)}. An attack breaks a detector "
    "if it knows the detector and at least half of its utterances are heard as the target and pass."
)


def findings(run: Run) -> list[str]:
    """What was found, as far as there are numbers: a short line each."""
    lines = [*robustness.finding(run), *_reached(run), *_gate(run)]
    lines += [*_known_detector(run), _held_longest(run), *_certain(run), _hard_audio(run)]
    lines += [_loudness(run), _checks(run)]
    terms = [TERMS] if len(run.paper) else []
    return terms + ([line for line in lines if line] or ["The results hold no attack yet."])


def listing(parts: Iterable[str]) -> str:
    """One, two and three.

    >>> listing(["one"]), listing(["one", "two", "three"])
    ('one', 'one, two and three')
    """
    items = list(parts)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def span(values: Iterable[float], form: str = ".3f") -> str:
    """The smallest and the largest of some numbers, once if they read the same.

    >>> span([0.5, 0.25, 0.75], ".2f"), span([1.0, 1.0], "g")
    ('0.25 to 0.75', '1')
    """
    texts = [f"{value:{form}}" for value in sorted(values)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def where(rows: pd.DataFrame) -> str:
    """The models and eps of some rows, models with the same eps together.

    >>> where(pd.DataFrame({"model": ["dnn", "bnn", "mine", "mine"], "eps": [0.02, 0.02, 0.01, 0.02]}))
    'fNN (dnn) and BNN at eps 0.02; mine at eps 0.01 and 0.02'
    """
    together: dict[tuple[float, ...], list[str]] = {}
    for model in sorted(set(rows["model"]), key=model_key):
        eps = sorted(set(rows.loc[rows["model"] == model, "eps"]))
        together.setdefault(tuple(eps), []).append(model_name(model))
    return "; ".join(f"{listing(models)} at eps {listing(f'{e:g}' for e in eps)}" for eps, models in together.items())


def _reached(run: Run) -> list[str]:
    """What the paper's attack, the strong one or, without them, any other reaches, and what detects it."""
    here = run.plain[run.plain["eps"] == run.eps]
    names = [name for name in here["attack"].unique() if name not in variants(here["attack"])]
    lines = []
    for name in [name for name in names if split_level(name)[0] in (paper.ATTACK, REFERENCE)] or names:
        accuracy = here.loc[here["attack"] == name, "target_accuracy"].dropna()
        parts = [f"word accuracy of the attacker's text {span(accuracy)}"] if len(accuracy) else []
        rows = run.paper[(run.paper["attack"] == name) & (run.paper["eps"] == run.eps)]
        for statistic in SHOWN_STATISTICS:
            areas = rows.loc[(rows["statistic"] == statistic) & ~rows["failed"], "auroc"]
            parts += [f"AUROC of {statistic_name(statistic)} {span(areas)}"] if len(areas) else []
        lines += [f"{name}, eps {run.eps:g}: {'; '.join(parts)}."] if parts else []
    return lines


def _gate(run: Run) -> list[str]:
    """What the default detector catches of each attack, and where that is not enough."""
    rows = run.gate[(run.gate["knows"] == "") & run.gate["caught"].notna()]
    here = rows[(rows["eps"] == run.eps) & ~rows["attack"].isin(variants(rows["attack"]))]
    lines = []
    for attack, found in here.groupby("attack", sort=False):
        reached = [f"{row.caught:.2f} for {model_name(row.model)}" for row in found.itertuples()]
        lines.append(
            f"{attack}, eps {run.eps:g}: of the utterances that reach their target the default detector, {GATE}, "
            f"catches {listing(reached)} ({100 * found['fpr'].max():g} % false alarms)."
        )
    few = rows[rows["caught"] < ENOUGH]
    if len(few):
        pairs = few.groupby("attack", sort=False)
        places = "; ".join(f"{attack} on {where(found)}" for attack, found in pairs)
        lines.append(
            f"WARNING: the default detector catches fewer than {ENOUGH:g} of what reaches its target: {places}: {ELSE}"
        )
    return lines


def _known_detector(run: Run) -> list[str]:
    """Where an attack that knows the paper's or the default detector breaks it, and where nobody has tried."""
    gaussian = ("the paper's detector", PAPER_STATISTIC, "gaussian", run.paper)
    return [*_known(run, *gaussian), *_known(run, "the default detector", GATE, "joint", run.gate)]


def _known(run: Run, what: str, statistic: str, kind: str, measured: pd.DataFrame) -> list[str]:
    points = run.strongest()
    points = points[(points["statistic"] == statistic) & (points["detector"] == kind) & (points["sided"] == "two")]
    points = points[points["adaptive"].notna()]
    broken = points[points["adaptive"] >= BREAKS].groupby("model", as_index=False).first()
    held = points[~points["model"].isin(broken["model"])].groupby("model", as_index=False).last()
    lines = []
    for verb, found, end in (("breaks", broken, ""), ("does not break", held, ", the largest tried")):
        if len(found):
            shares = f"{span(found['adaptive'], '.2f')} heard as the target and passed"
            lines.append(f"An attack that knows {what} {verb} it for {where(found)}{end} ({shares}).")
    untried = sorted(set(measured["model"]) - set(points["model"]), key=model_key)
    if untried:
        lines.append(
            f"Nobody who knows {what} has tried to pass it for {listing(map(model_name, untried))}; to try: "
            f"kaldi-uq nnet-attack --statistics {statistic}."
        )
    return lines


def _held_longest(run: Run) -> str:
    """The model and statistic whose detector breaks at the largest eps under the attack that knows it.

    Only those that were attacked at every eps are compared: what was not tried did not hold.
    """
    points = run.strongest()
    points = points[points["adaptive"].notna()]
    ranked = []
    for (model, statistic), curve in points.groupby(["model", "statistic"]):
        if curve["eps"].nunique() == points["eps"].nunique():
            broken = curve.loc[curve["adaptive"] >= BREAKS, "eps"]
            ranked.append((min(broken, default=math.inf), -curve["adaptive"].iloc[-1], statistic, model))
    if len(ranked) < 2:
        return ""
    breaks_at, share, statistic, model = max(ranked)
    first = min(ranked)[0]
    if first == breaks_at:
        until = "none is broken" if first == math.inf else f"every one is broken at eps {first:g}"
        return f"Of {len(ranked)} detectors that the attacker knows, {until}."
    until = "never broken" if breaks_at == math.inf else f"broken at eps {breaks_at:g}"
    return (
        f"Of {len(ranked)} detectors that the attacker knows, the one of {model_name(model)} on "
        f"{statistic_name(statistic)} holds longest: it is {until}, the first at eps {first:g}; with eps "
        f"{points['eps'].max():g}, {-share:.2f} are heard as the target and pass it."
    )


def _certain(run: Run) -> list[str]:
    """Where attacked audio is more certain than clean speech: the one-sided AUROC is below chance."""
    rows = run.detection[(run.detection["detector"] == "gaussian") & (run.detection["sided"] == "one")]
    # an attack that knows a detector is as certain as it was told to be
    rows = rows[rows["statistic"].isin(SHOWN_STATISTICS) & (rows["auroc_hi"] < 0.5) & (rows["knows"] == "")]
    rows = rows[~rows["failed"]]
    return [
        f"Attacked audio is more certain than clean speech by {statistic_name(str(statistic))} under "
        f"{listing(found['attack'].unique())}: {where(found)} (one-sided AUROC {span(found['auroc'])})."
        for statistic, found in rows.groupby("statistic", sort=False)
    ]


def _hard_audio(run: Run) -> str:
    """The benign disturbance that the paper's detector takes for an attack most often."""
    rows = run.negatives[(run.negatives["statistic"] == PAPER_STATISTIC) & (run.negatives["sided"] == "two")]
    rows = rows[rows["kind"] != "clean"]
    if rows.empty:
        return ""
    worst = rows.loc[rows["fpr_at_threshold"].idxmax()]
    return (
        f"Benign audio that the paper's detector most often calls an attack: {worst['audio']}, "
        f"{model_name(worst['model'])}, {100 * worst['fpr_at_threshold']:.1f} % (threshold for "
        f"{100 * worst['fpr']:g} %)."
    )


def _loudness(run: Run) -> str:
    """Whether a statistic of the audio alone does as well as the model's."""
    told = run.told[(run.told["kind"] == "clean") & (run.told["sided"] == "two") & (run.told["knows"] == "")]
    wide = told.pivot(index=["attack", "eps", "model"], columns="statistic", values="auroc")
    audio = [name for name in AUDIO_STATISTICS if name in wide]
    if not audio or PAPER_STATISTIC not in wide:
        return ""
    louder = wide[wide[audio].max(axis=1) >= wide[PAPER_STATISTIC].clip(lower=LOUDNESS)].reset_index()
    if louder.empty:
        return ""
    by_place: dict[str, list[str]] = {}
    for name, rows in arrange(louder, "attack").groupby("attack", sort=False):
        by_place.setdefault(where(rows), []).append(str(name))
    places = "; ".join(f"{listing(names)} for {place}" for place, names in by_place.items())
    return f"Level or noise floor of the audio alone tells attacks as well as the paper's detector: {places}."


def _checks(run: Run) -> str:
    parts = []
    for model in sorted(set(run.checks["model"]), key=model_key):
        passed = run.checks.loc[run.checks["model"] == model, "passed"]
        parts.append(f"{passed.sum()} of {len(passed)} for {model_name(model)}")
    return f"Checks of the attacks that passed: {listing(parts)}." if parts else ""
