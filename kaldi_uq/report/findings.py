"""The headlines: at most five, each one sentence on another question, for a reader who knows nothing of this yet."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from kaldi_uq.report.paper import ATTACK
from kaldi_uq.report.run import REFERENCE, Run, variants
from kaldi_uq.results.gate import ADVICE, ENOUGH, OF_ROBUST, TO_TRY
from kaldi_uq.results.names import GATE, PAPER_STATISTIC, ROBUST, attack_name, model_key, model_name, split_level

BREAKS = 0.5  # share of attacked utterances that reach their target and pass from which on a detector is broken
AUDIO_STATISTICS = ("level_db", "noise_floor_db")  # of the audio alone
LOUDNESS = 0.75  # AUROC from which on loudness alone can be said to tell attacks from clean speech
NONE = "The results hold no attack yet."


def findings(run: Run) -> list[str]:
    """What was found, as far as there are numbers: a sentence a question.

    What is heard without an attack, what attacks reach, what is caught of that, what is left of it against whoever
    knows the detector, and whether the attacks are to be believed.
    """
    lines = [_clean(run), _reached(run), _caught(run), _known(run), _checks(run)]
    return [line for line in lines if line] if len(run.attacks) else [NONE]


def summary(run: Run) -> str:
    """The same as a list in 80 columns; no line begins with a percent sign."""
    shape: dict[str, Any] = {"initial_indent": "* ", "subsequent_indent": "  ", "break_on_hyphens": False}
    points = [textwrap.fill(unbroken(line), 80, **shape) for line in findings(run)]
    return "".join(f"{point}\n" for point in points).replace(unbroken(" %"), " %")


def unbroken(text: str) -> str:
    """The same with blanks before percent signs at which no line ends."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def span(values: Iterable[float], form: str = ".3f") -> str:
    """The smallest and the largest of some numbers, once if they read the same.

    >>> span([0.5, 0.25, 0.75], ".2f"), span([1.0, 1.0], "g")
    ('0.25 to 0.75', '1')
    """
    texts = [f"{value:{form}}" for value in sorted(values)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def each(rows: pd.DataFrame, column: str, digits: int = 0) -> str:
    """A share of each model as percentage, in the order of all tables; models without one are left out.

    >>> each(pd.DataFrame({"model": ["bnn", "mine", "dnn"], "x": [0.5, None, 0.994]}), "x")
    'DNN 99 %, BNN 50 %'
    """
    rows = rows[rows[column].notna()].sort_values("model", key=lambda names: names.map(model_key), kind="stable")
    pairs = zip(rows["model"], rows[column], strict=True)
    return ", ".join(f"{model_name(model)} {100 * share:.{digits}f} %" for model, share in pairs)


def by_eps(rows: pd.DataFrame, column: str) -> str:
    """The same at each eps.

    >>> by_eps(pd.DataFrame({"model": ["dnn", "bnn"], "eps": [0.02, 0.01], "x": [0.5, 1.0]}), "x")
    'at eps 0.01 BNN 100 %, at eps 0.02 DNN 50 %'
    """
    return ", ".join(f"at eps {eps:g} {each(found, column)}" for eps, found in rows.groupby("eps"))


def _here(run: Run, rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of the attacks to speak of, at the eps of comparison: the paper's and the strong one, or else all."""
    rows = rows[(rows["eps"] == run.eps) & ~rows["attack"].isin(variants(run.plain["attack"]))]
    known = rows[[split_level(name)[0] in (ATTACK, REFERENCE) for name in rows["attack"]]]
    return [(str(name), found) for name, found in (known if len(known) else rows).groupby("attack", sort=False)]


def _clean(run: Run) -> str:
    """What is heard where nobody attacks, and which harmless audio is called an attack."""
    models = set(run.attacks["model"])
    rows = [{"model": m, "accuracy": row["accuracy"]} for m, row in run.content["clean"].items() if m in models]
    shares = each(pd.DataFrame(rows), "accuracy", 1) if rows else ""
    said = [f"without an attack these shares of the words are heard right: {shares}"] if shares else []
    kept = GATE if (run.negatives["statistic"] == GATE).any() else PAPER_STATISTIC
    hard = run.negatives[(run.negatives["statistic"] == kept) & (run.negatives["sided"] == "two")]
    hard = hard[hard["kind"] != "clean"]
    if len(hard):
        worst = hard.loc[hard["fpr_at_threshold"].idxmax()]
        alarms = f"up to {100 * worst['fpr_at_threshold']:.1f} % for an attack ({model_name(worst['model'])})"
        whose = "the detector" if kept == GATE else "the paper's detector"
        said.append(f"of harmless but hard audio ({worst['audio']}) {whose} takes {alarms}")
    return _sentence(said)


def _reached(run: Run) -> str:
    """What attackers who know the model, but no detector, get."""
    column, what = "target_success", "what the attacker wants in these shares of the utterances"
    if run.plain[column].isna().all():
        column, what = "target_accuracy", "these shares of the attacker's words"
    here = _here(run, run.plain[run.plain[column].notna()])
    parts = [f"under {attack_name(attack)} {each(rows, column)}" for attack, rows in here]
    worst = run.worst[(run.worst["eps"] == run.eps) & run.worst["by_words"].map(lambda words: isinstance(words, list))]
    worst = worst.sort_values("success", kind="stable").drop_duplicates("model", keep="last")
    parts += [f"under any of the attacks tried {each(worst, 'success')}"] if parts and len(worst) else []
    levels = {split_level(attack)[1] for attack, _ in here}
    level = f"; for speech of root mean square {max(levels):g}" if len(levels) == 1 and max(levels) else ""
    change = f"a change of the waveform by at most {run.eps:g} of full scale (eps{level})"
    return _sentence([f"{change} makes the recogniser hear {what}: {'; '.join(parts)}"] if parts else [])


def _caught(run: Run) -> str:
    """What the default detector, or without it the paper's, makes of these attacks, and where that is not enough."""
    gate = run.gate[(run.gate["knows"] == "") & run.gate["caught"].notna()]

    def shares_of(gate: pd.DataFrame) -> str:
        return "; ".join(f"under {attack} {each(rows, 'caught')}" for attack, rows in _here(run, gate))

    weak = gate["caught"] < ENOUGH
    low, enough = shares_of(gate[weak]), shares_of(gate[~weak])
    detector = f"the detector (set to {100 * gate['fpr'].max():g} % false alarms)"
    if low:
        rest = f" (but {enough})" if enough else ""
        advice = OF_ROBUST if gate.loc[weak, "model"].str.endswith(ROBUST).all() else ADVICE
        return f"WARNING: {detector} refuses too few of these to be relied on alone: {low}{rest}; {advice}."
    if enough:
        return _sentence([f"of these {detector} refuses: {enough}"])
    paper = run.paper[(run.paper["knows"] == "") & ~run.paper["failed"] & (run.paper["statistic"] == PAPER_STATISTIC)]
    shares = ", ".join(f"under {attack} {span(rows['auroc'])}" for attack, rows in _here(run, paper))
    line = f"the paper's detector tells attacked from clean speech (AUROC, 1 is always, 0.5 is chance): {shares}"
    return _sentence([line, *_loudness(run)] if shares else [])


def _known(run: Run) -> str:
    """Where an attack that knows the default or the paper's detector breaks it, and where nobody has tried."""
    points = run.strongest()
    points = points[(points["sided"] == "two") & points["adaptive"].notna()]
    said: list[str] = []
    for what, statistic, kind, measured in (
        ("the detector", GATE, "joint", run.gate),
        ("the paper's detector", PAPER_STATISTIC, "gaussian", run.paper),
    ):
        mine = points[(points["statistic"] == statistic) & (points["detector"] == kind)]
        untried = sorted(set(measured["model"]) - set(mine["model"]), key=model_key)
        if kind == "gaussian" and mine.empty and len(run.gate):
            continue  # it is the default detector that counts
        broken = mine[mine["adaptive"] >= BREAKS].groupby("model", as_index=False).first()
        held = mine[~mine["model"].isin(broken["model"])].groupby("model", as_index=False).last()
        is_passed = held["adaptive"] >= BREAKS * held["reached"]
        held, passed = held[~is_passed], held[is_passed]
        parts = []
        if len(broken):
            parts.append(f"break it, half or more pass and are heard as wanted: {by_eps(broken, 'adaptive')}")
        if len(held):
            parts.append(f"do not break it up to the largest eps tried: {by_eps(held, 'adaptive')}")
        if len(passed):
            parts.append(
                "are heard as wanted less than half of the time up to the largest eps tried, but half or more of "
                f"these pass: {by_eps(passed, 'adaptive')}"
            )
        said += [f"attacks that know {what} {'; they '.join(parts)}"] if parts else []
        if untried:
            names, how = ", ".join(map(model_name, untried)), TO_TRY.format(statistic)
            said.append(f"nobody has tried an attack that knows {what} on {names} (to try: {how})")
    return _sentence(said)


def _loudness(run: Run) -> list[str]:
    """Whether a statistic of the audio alone does as well as the model's."""
    told = run.told[(run.told["kind"] == "clean") & (run.told["sided"] == "two") & (run.told["knows"] == "")]
    wide = told.pivot(index=["attack", "eps", "model"], columns="statistic", values="auroc")
    audio = [name for name in AUDIO_STATISTICS if name in wide]
    if not audio or PAPER_STATISTIC not in wide:
        return []
    louder = wide[audio].max(axis=1) >= wide[PAPER_STATISTIC].clip(lower=LOUDNESS)
    line = f"the loudness of the audio alone does as well in {louder.sum()} of {len(louder)} attacks"
    return [line] if louder.any() else []


def _checks(run: Run) -> str:
    """Whether the attacks are to be believed."""
    passed = {model: run.checks.loc[run.checks["model"] == model, "passed"] for model in set(run.checks["model"])}
    models = sorted(passed, key=model_key)
    said = ", ".join(f"{model_name(model)} {passed[model].sum()} of {len(passed[model])}" for model in models)
    return _sentence([f"the attacks passed these checks of whether they are sound: {said}"] if said else [])


def _sentence(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
