"""The headlines: at most five lines made of the numbers, each of another question."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from kaldi_uq.report.frames import REFERENCE, SHOWN_STATISTICS, Run, variants
from kaldi_uq.report.paper import ATTACK
from kaldi_uq.results.gate import ELSE, ENOUGH
from kaldi_uq.results.names import GATE, PAPER_STATISTIC, model_key, model_name, split_level, statistic_name

BREAKS = 0.5  # share of attacked utterances that reach their target and pass from which on a detector is broken
AUDIO_STATISTICS = ("level_db", "noise_floor_db")  # of the audio alone
LOUDNESS = 0.75  # AUROC from which on loudness alone can be said to tell attacks from clean speech
NONE = "The results hold no attack yet."


def findings(run: Run) -> list[str]:
    """What was found, as far as there are numbers: a line a question.

    What attacks reach, what is caught of that, what is left of it against whoever knows the detector, what the defence
    costs, and whether the attacks are to be believed.
    """
    lines = [_reached(run), _caught(run), _known(run), _costs(run), _checks(run)]
    return [line for line in lines if line] if len(run.attacks) else [NONE]


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


def each(rows: pd.DataFrame, column: str, form: str = ".2f") -> str:
    """A number of each model, in the order of all tables.

    >>> each(pd.DataFrame({"model": ["bnn", "dnn"], "x": [0.5, 1.0]}), "x")
    '1.00 for fNN (dnn) and 0.50 for BNN'
    """
    rows = rows[rows[column].notna()].sort_values("model", key=lambda names: names.map(model_key), kind="stable")
    return listing(
        f"{value:{form}} for {model_name(model)}" for model, value in zip(rows["model"], rows[column], strict=True)
    )


def _here(run: Run, rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of the attacks to speak of, at the eps of comparison: the paper's and the strong one, or else all."""
    rows = rows[(rows["eps"] == run.eps) & ~rows["attack"].isin(variants(run.plain["attack"]))]
    known = rows[[split_level(name)[0] in (ATTACK, REFERENCE) for name in rows["attack"]]]
    return [(str(name), found) for name, found in (known if len(known) else rows).groupby("attack", sort=False)]


def _reached(run: Run) -> str:
    """What attackers who know the model, but no detector, get."""
    column, what = "target_success", "Heard as the attacker wants"
    if run.plain[column].isna().all():
        column, what = "target_accuracy", "Word accuracy of the attacker's text"
    parts = [f"{attack} {each(rows, column)}" for attack, rows in _here(run, run.plain[run.plain[column].notna()])]
    worst = run.worst[(run.worst["eps"] == run.eps) & run.worst["by_words"].map(lambda words: isinstance(words, list))]
    worst = worst.sort_values("success", kind="stable").drop_duplicates("model", keep="last")
    parts += [f"any of the attacks tried {each(worst, 'success')}"] if parts and len(worst) else []
    return f"{what} at eps {run.eps:g}: {'; '.join(parts)}." if parts else ""


def _caught(run: Run) -> str:
    """What the default detector, or without it the paper's, makes of these attacks, and where that is not enough."""
    gate = run.gate[(run.gate["knows"] == "") & run.gate["caught"].notna()]
    parts = [f"{attack} {each(rows, 'caught')}" for attack, rows in _here(run, gate)]
    line = ""
    if parts:
        rate = f"{100 * gate['fpr'].max():g} % false alarms"
        line = f"Of these the default detector ({GATE}, {rate}) refuses: {'; '.join(parts)}."
        few = gate.loc[gate["caught"] < ENOUGH, "attack"].unique()
        line += f" WARNING: it refuses fewer than {ENOUGH:g} under {listing(few)}: {ELSE}" if len(few) else ""
    else:
        paper = run.paper[(run.paper["knows"] == "") & ~run.paper["failed"]]
        for attack, rows in _here(run, paper):
            areas = rows[rows["statistic"].isin(SHOWN_STATISTICS)].groupby("statistic", sort=False)["auroc"]
            said = [f"{statistic_name(str(name))} {span(values)}" for name, values in areas]
            parts += [f"{attack} {', '.join(said)}"] if said else []
        line = f"AUROC of the detectors: {'; '.join(parts)}." if parts else ""
    return f"{line} {_loudness(run)}".strip()


def _known(run: Run) -> str:
    """Where an attack that knows the default or the paper's detector breaks it, and where nobody has tried."""
    points = run.strongest()
    points = points[(points["sided"] == "two") & points["adaptive"].notna()]
    said = []
    for what, statistic, kind, measured in (
        ("the default detector", GATE, "joint", run.gate),
        ("the paper's detector", PAPER_STATISTIC, "gaussian", run.paper),
    ):
        mine = points[(points["statistic"] == statistic) & (points["detector"] == kind)]
        untried = sorted(set(measured["model"]) - set(mine["model"]), key=model_key)
        if kind == "gaussian" and mine.empty and len(run.gate):
            continue  # it is the default detector that counts
        broken = mine[mine["adaptive"] >= BREAKS].groupby("model", as_index=False).first()
        held = mine[~mine["model"].isin(broken["model"])].groupby("model", as_index=False).last()
        for verb, found, end in (("breaks", broken, ""), ("does not break", held, ", the largest tried")):
            if len(found):
                shares = f"{span(found['adaptive'], '.2f')} heard as the target and passed"
                said.append(f"An attack that knows {what} {verb} it for {where(found)}{end} ({shares}).")
        if untried:
            names = listing(map(model_name, untried))
            how = f"kaldi-uq nnet-attack --statistics {statistic}"
            said.append(f"Nobody who knows {what} has tried to pass it for {names}; to try: {how}.")
    return " ".join(said)


def _costs(run: Run) -> str:
    """What the defence costs those who attack nobody."""
    models = set(run.attacks["model"])
    rows = [
        {"model": name, "accuracy": row["accuracy"]} for name, row in run.content["clean"].items() if name in models
    ]
    said = [f"Clean speech: word accuracy {each(pd.DataFrame(rows), 'accuracy', '.3f')}."] if rows else []
    kept = GATE if (run.negatives["statistic"] == GATE).any() else PAPER_STATISTIC
    hard = run.negatives[(run.negatives["statistic"] == kept) & (run.negatives["sided"] == "two")]
    hard = hard[hard["kind"] != "clean"]
    if len(hard):
        worst = hard.loc[hard["fpr_at_threshold"].idxmax()]
        whose = "the default" if kept == GATE else "the paper's"
        said.append(
            f"Benign audio that {whose} detector most often calls an "
            f"attack: {worst['audio']}, {model_name(worst['model'])}, {100 * worst['fpr_at_threshold']:.1f} % "
            f"(threshold for {100 * worst['fpr']:g} %)."
        )
    return " ".join(said)


def _loudness(run: Run) -> str:
    """Whether a statistic of the audio alone does as well as the model's."""
    told = run.told[(run.told["kind"] == "clean") & (run.told["sided"] == "two") & (run.told["knows"] == "")]
    wide = told.pivot(index=["attack", "eps", "model"], columns="statistic", values="auroc")
    audio = [name for name in AUDIO_STATISTICS if name in wide]
    if not audio or PAPER_STATISTIC not in wide:
        return ""
    louder = wide[wide[audio].max(axis=1) >= wide[PAPER_STATISTIC].clip(lower=LOUDNESS)].reset_index()
    places = "; ".join(f"{attack} for {where(rows)}" for attack, rows in louder.groupby("attack", sort=False))
    return f"The loudness of the audio alone tells as well as the paper's detector: {places}." if places else ""


def _checks(run: Run) -> str:
    parts = []
    for model in sorted(set(run.checks["model"]), key=model_key):
        passed = run.checks.loc[run.checks["model"] == model, "passed"]
        parts.append(f"{passed.sum()} of {len(passed)} for {model_name(model)}")
    return f"Checks of the attacks that passed: {listing(parts)}." if parts else ""
