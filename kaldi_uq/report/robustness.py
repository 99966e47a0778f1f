"""Robustness: what attacks of all sorts reach of each model, ordinary and robust side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kaldi_uq.report.run import REFERENCE, Run, arrange, pivot
from kaldi_uq.report.table import FAILED, Table
from kaldi_uq.results.names import GATE, ROBUST, at_level, split_level
from kaldi_uq.results.robustness import FEW, robust_auroc
from kaldi_uq.results.worst_case import interval

RATES = (0.01, 0.05)  # of false alarms, at which a detector is to be judged
UNTRIED = "not tried"
UNTARGETED = "untargeted"
_PLACE = ["model", "eps", "eps_level"]


def robustness(run: Run) -> pd.DataFrame:
    """One row a model, eps and eps_level, with a column for each measure; missing where nobody has tried.

    Returns:
        ``clean_accuracy``, ``snr_db_mean``; ``reached`` under the strong attack, ``worst`` of all attacks and
        ``passed_fpr0.01`` and of the other rates, reached and passed the default detector, by the attack made for that
        rate that does most, each with ``_num_utts``, ``_lo`` and ``_hi``; ``untargeted_accuracy``;
        ``certified_target`` and ``certified_right``; ``auroc`` of the default detector under the strong attack, and
        ``robust_auroc``.
    """
    places: dict[tuple[str, float, float], dict[str, Any]] = {}

    def at(row: Mapping[str, Any], level: float) -> dict[str, Any]:
        return places.setdefault((row["model"], row["eps"], level), {})

    def most(name: str, row: Mapping[str, Any], share: float, level: float) -> None:
        place = at(row, level)
        if share > place.get(name, -1.0):
            place |= _share(name, share, row["num_utts"])

    rows = [(row, *split_level(row["attack"])) for row in run.attacks.to_dict("records") if row["eps"] > 0]
    targeted = {(row["model"], row["attack"], row["eps"]) for row, *_ in rows if pd.notna(row["target_accuracy"])}
    for row in run.adaptive().to_dict("records"):
        is_targeted = (row["model"], row["attack"], row["eps"]) in targeted
        if row["statistic"] == GATE and is_targeted and pd.notna(row["adaptive"]):
            most(f"passed_fpr{row['fpr']:g}", row, row["adaptive"], row["level"])
    for row in run.worst.to_dict("records"):
        if isinstance(row["by_words"], list):  # without it the attacks have no target
            most("worst", row, row["success"], row["level"])
    for row in run.certified.to_dict("records"):
        at(row, 0.0).update(certified_target=row["against_target"], certified_right=row["right"])
    for row, base, level in rows:
        if base == UNTARGETED:
            at(row, level)["untargeted_accuracy"] = row["original_accuracy"]
    # of a curve over eps only those of which more is known than the curve
    strong = [(row, level) for row, base, level in rows if base == REFERENCE and pd.notna(row["target_success"])]
    seen = {eps for _, eps, _ in places} | set(run.detection.loc[run.detection["attack"].isin(run.strong), "eps"])
    for row, level in strong:
        if row["eps"] in seen or not seen:
            most("reached", row, row["target_success"], level)
    untried = {name for name in run.content["clean"] if name.endswith(ROBUST)} - {model for model, *_ in places}
    for model in untried:
        at({"model": model, "eps": run.eps}, 0.0)
    found = [dict(zip(_PLACE, place, strict=True)) | values for place, values in places.items()]
    shares = [f"{name}{end}" for name in _names(found) for end in ("", "_num_utts", "_lo", "_hi")]
    columns = [*_PLACE, "clean_accuracy", "snr_db_mean", *shares, "untargeted_accuracy", "certified_target"]
    columns += ["certified_right", "auroc", "robust_auroc"]
    frame = pd.DataFrame([row | _judged(run, row) for row in found], columns=columns)
    return arrange(frame, "eps_level", "eps", "model")


def _names(found: list[dict[str, Any]]) -> list[str]:
    """The columns of shares, and those of rates that are shown always."""
    rates = {name for row in found for name in row if name.startswith("passed_fpr") and name.count("_") == 1}
    rates |= {f"passed_fpr{rate:g}" for rate in RATES}
    return ["reached", "worst", *sorted(rates, key=_rate)]


def _rate(name: str) -> float:
    return float(name.removeprefix("passed_fpr"))


def _share(name: str, share: float, num_utts: float) -> dict[str, float]:
    low, high = interval(round(share * num_utts), int(num_utts))
    return {name: share, f"{name}_num_utts": int(num_utts), f"{name}_lo": low, f"{name}_hi": high}


def _judged(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    """What else is known of a model at an eps."""
    model, eps, level = (row[name] for name in _PLACE)
    mine = run.attacks[(run.attacks["model"] == model) & (run.attacks["eps"] == eps)]
    mine = mine[mine["attack"].map(lambda name: split_level(name)[1]) == level]
    strong = mine[mine["attack"] == at_level(REFERENCE, level)]
    detected = run.gate[(run.gate["model"] == model) & (run.gate["eps"] == eps)]
    areas = detected.loc[detected["attack"] == at_level(REFERENCE, level), "auroc"]
    reached = [row[name] for name in ("reached", "worst") if name in row]
    passed = {_rate(name): row[name] for name in _names([dict(row)]) if name.startswith("passed") and name in row}
    return {
        "clean_accuracy": run.content["clean"].get(model, {}).get("accuracy"),
        "snr_db_mean": (strong if len(strong) else mine)["snr_db_mean"].mean(),
        "auroc": areas.iloc[0] if len(areas) else None,
        "robust_auroc": robust_auroc(max(reached), passed) if reached else None,
    }


def table(run: Run) -> Table:
    """The main table: each model at each eps."""
    frame = robustness(run)
    shown = pd.DataFrame(index=frame.index)
    shown["word accuracy"] = _texts(frame["clean_accuracy"])
    shown["SNR dB"] = [f"{value:.1f}" if pd.notna(value) else UNTRIED for value in frame["snr_db_mean"]]
    shown[f"reached, {REFERENCE}"] = _shares(frame, "reached")
    shown["reached, worst"] = _shares(frame, "worst")
    for rate in RATES:
        shown[f"reached and passed, {100 * rate:g} %"] = _shares(frame, f"passed_fpr{rate:g}")
    shown["robust AUROC"] = [UNTRIED if pd.isna(x) else f"≥ {x:.3f}" for x in frame["robust_auroc"]]
    failed = (frame["reached"] * frame["reached_num_utts"]).round() < FEW
    areas = zip(_texts(frame["auroc"]), frame["auroc"].notna() & failed, strict=True)
    shown[f"AUROC, {REFERENCE}"] = [text + FAILED * marked for text, marked in areas]
    shown["word accuracy, untargeted"] = _texts(frame["untargeted_accuracy"])
    pairs = zip(frame["certified_target"], frame["certified_right"], strict=True)
    shown["certified"] = [UNTRIED if pd.isna(target) else f"{target:.3f} /\n{right:.3f}" for target, right in pairs]
    untried = [head for head in shown if len(shown) and (shown[head] == UNTRIED).all()]
    shown = shown.drop(columns=untried)
    by = _PLACE if frame["eps_level"].any() else _PLACE[:2]
    shown = shown.set_index(pd.MultiIndex.from_frame(frame[by])) if len(frame) else shown
    said = {
        f"reached, {REFERENCE}": "Reached: share heard as the target, count, 95 % Clopper-Pearson interval.",
        "reached, worst": "Worst: under any of the attacks tried (kaldi-uq worst-case); one on fewer utterances counts "
        "where it was made.",
        "reached and passed, 1 %": f"Passed: by the default detector ({GATE}), under the attack made for this rate of "
        "false alarms that does most.",
        "robust AUROC": "Robust AUROC: under attacks that know the detector, a lower bound as far as they go, at least "
        "1 - reached.",
        f"AUROC, {REFERENCE}": "AUROC: under an attack that does not know it.",
        "certified": "Certified: share of which no change within eps makes the target / anything but what was said.",
    }
    parts = [text for head, text in said.items() if head in shown]
    parts += [f"Measured by nobody: {'; '.join(untried)}."] if untried else []
    note = " ".join(parts)
    return Table.of("robustness", "Robustness of each model, by attack", shown, note)


def _texts(values: pd.Series) -> list[str]:
    return [UNTRIED if pd.isna(value) else f"{value:.3f}" for value in values]


def _shares(frame: pd.DataFrame, name: str) -> list[str]:
    columns = (frame[f"{name}{end}"] for end in ("", "_num_utts", "_lo", "_hi"))
    return [_share_text(*row) for row in zip(*columns, strict=True)]


def _share_text(share: float, num_utts: float, low: float, high: float) -> str:
    """A share with its count and, on a line of its own, its interval.

    >>> _share_text(0.25, 100, 0.169, 0.347), _share_text(float("nan"), 0, 0, 0)
    ('0.250 25/100\\n[0.169, 0.347]', 'not tried')
    """
    if pd.isna(share):
        return UNTRIED
    return f"{share:.3f} {round(share * num_utts)}/{num_utts:g}\n[{low:.3f}, {high:.3f}]"


def worst(run: Run) -> list[Table]:
    """The worst case over attacks: by the number of target words, and what each attack does alone."""
    frame = worst_csv(run).rename(columns={"name": "worst case"})
    frame["cell"] = _shares(frame, "success")
    alone = frame[frame["by"] == "attack"].rename(columns={"part": "attack"})
    alone = pivot(alone, ["worst case", "eps", "attack"], "model", "cell")
    whole = frame[frame["by"] != "attack"]
    order = sorted(set(whole["part"]), key=lambda part: (part == "passed", part != "all", len(part), part))
    place = ["model", "worst case", "eps"]
    whole = pivot(whole, place, "part", "cell").reindex(columns=order)
    note = (
        "Share of the utterances that any of the attacks reached, with the count and the 95 % Clopper-Pearson "
        "interval; passed: reached and passed, of the attacks that know detectors."
    )
    each = "The share that each attack of it reaches."
    return [
        Table.of("worst", "Worst case over attacks, by the number of target words", whole.fillna(UNTRIED), note),
        Table.of("worst_attacks", "Worst case over attacks: each attack alone", alone.fillna(UNTRIED), each),
    ]


def worst_csv(run: Run) -> pd.DataFrame:
    """Section ``worst`` in rows: ``by`` is all, words, attack or passed, and ``part`` which of these."""
    found = []
    for row in run.worst.to_dict("records"):
        place = {"model": row["model"], "name": row["attack"], "eps": row["eps"]}
        parts = [("all", "all", row["success"], row["num_utts"])]
        if isinstance(row["by_words"], list):
            of = [("words", f"{n} word{'s' * (n != 1)}", part) for part in row["by_words"] for n in [part["num_words"]]]
            parts += [(by, name, part["success"], part["num_utts"]) for by, name, part in of]
        parts += [("attack", one["attack"], one["success"], one["num_utts"]) for one in row["attacks"]]
        if pd.notna(row["evasion"]):
            parts.append(("passed", "passed", row["evasion"], row["evasion_num_utts"]))
        for by, part, share, num_utts in parts:
            if num_utts:
                found.append(place | {"by": by, "part": part} | _share("success", share, num_utts))
    columns = ["model", "name", "eps", "by", "part", "success", "success_num_utts", "success_lo", "success_hi"]
    return pd.DataFrame(found, columns=columns)


def certified(run: Run) -> Table:
    """What is proved of each model."""
    rows = run.certified
    names = {"against_target": "against the target", "against_any": "against any other text", "right": "and right"}
    cells = {
        head: [_share_text(*row) for row in _with_interval(rows[field], rows["num_utts"])]
        for field, head in names.items()
    }
    frame = pd.DataFrame(cells, index=pd.MultiIndex.from_frame(rows[["model", "eps"]]))
    note = (
        "Share of the utterances of which it is proved that no change within eps makes the recogniser write the "
        "target / any other text than it writes / and this is what was said; count and 95 % Clopper-Pearson interval. "
        "Not certified is not broken."
    )
    return Table.of("certified", "Certified utterances", frame, note)


def _with_interval(shares: pd.Series, counts: pd.Series) -> list[tuple[float, ...]]:
    return [tuple(_share("x", share, num_utts).values()) for share, num_utts in zip(shares, counts, strict=True)]
