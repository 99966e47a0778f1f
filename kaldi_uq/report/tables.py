"""The tables of the report, from the content of ``results.json``; the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kaldi_uq.report import paper
from kaldi_uq.report.table import Cell, Interval, Table
from kaldi_uq.report.verdict import LEGEND, verdict
from kaldi_uq.results import names
from kaldi_uq.results.names import attack_key, model_key, model_name, statistic_key, statistic_name

Content = Mapping[str, Any]


def models_of(results: Content) -> list[str]:
    """Every model that any section has a number of, in the paper's order."""
    rows = [*results["attacks"], *results["detection"], *results["detection_other"]]
    return sorted({*results["clean"], *(row["model"] for row in rows)}, key=model_key)


def attacks_of(results: Content, section: str = "detection") -> list[tuple[str, float]]:
    """The (attack, eps) pairs of a section, weakest attack first, eps rising."""
    pairs = {(row["attack"], row["eps"]) for row in results[section]}
    return sorted(pairs, key=lambda pair: (attack_key(pair[0]), pair[1]))


def plain_attacks(results: Content) -> list[tuple[str, float]]:
    """Those of section "detection" that know no detector; the others have a table of their own."""
    return [(attack, eps) for attack, eps in attacks_of(results) if not attack.startswith(names.ADAPTIVE)]


def clean_table(results: Content) -> Table:
    """Table 1: word accuracy on benign audio."""
    rows: list[tuple[Cell, ...]] = []
    for model in sorted(results["clean"], key=model_key):
        ours = results["clean"][model]
        counts = (ours["ins"], ours["del"], ours["sub"], ours["num_words"], ours["num_utts"])
        rows.append((model_name(model), paper.CLEAN_ACCURACY.get(model), float(ours["accuracy"]), *counts))
    columns = ("model", "accuracy, paper", "accuracy, ours", "ins", "del", "sub", "words", "utterances")
    note = "Accuracy is (N - I - D - S) / N over the summed counts (equation 7). The paper's column is for TIDIGITS."
    return Table("table1_clean_accuracy", "Table 1: accuracy on benign audio", columns, tuple(rows), note)


def attack_table(results: Content) -> Table:
    """How well each attack does what it is for: figure 1 in numbers."""
    rows: list[tuple[Cell, ...]] = []
    ordered = sorted(results["attacks"], key=lambda r: (attack_key(r["attack"]), r["eps"], model_key(r["model"])))
    counted = any(row.get("target_success") is not None for row in ordered)
    for row in ordered:
        numbers = [_float(row["target_accuracy"]), _float(row["original_accuracy"])]
        if counted:
            numbers.insert(0, _float(row.get("target_success")))
        snr = _float(row["snr_db_mean"])
        label = (row["attack"], f"{row['eps']:g}", model_name(row["model"]), row["num_utts"])
        rows.append((*label, *numbers, snr, checks_text(row["checks"])))
    accuracies = ("target success", "target accuracy", "original accuracy")[0 if counted else 1 :]
    columns = ("attack", "eps", "model", "utterances", *accuracies, "SNR dB", "checks")
    note = "Target success: share of utterances heard as the target, word for word. " if counted else ""
    note += (
        "Target accuracy: what the recogniser hears against the attacker's text; original accuracy: against what was "
        "said. Both can be negative: more errors than words. SNR is the mean over utterances. Checks: what the attack "
        "reports about its own soundness."
    )
    return Table(
        "attacks",
        "Attacks: what the recogniser hears",
        columns,
        tuple(rows),
        note,
        coarse=frozenset({len(columns) - 2}),
    )


def averaging_table(results: Content) -> Table:
    """Does averaging the gradient over several draws of a random model help the attacker?  Section 4.2 of the paper.

    Rows are attacks whose name ends in ``-eot<n>``: n draws a gradient, the same utterances for every n.
    """
    found: dict[tuple[str, str, float], dict[int, Mapping[str, Any]]] = {}
    for row in results["attacks"]:
        base, mark, draws = row["attack"].rpartition("-eot")
        if mark and draws.isdigit():
            found.setdefault((base, row["model"], row["eps"]), {})[int(draws)] = row
    rows: list[tuple[Cell, ...]] = []
    for (base, model, eps), by_draws in sorted(found.items(), key=lambda i: (attack_key(i[0][0]), model_key(i[0][1]))):
        for draws, row in sorted(by_draws.items()):
            accuracies = (_float(row["target_accuracy"]), _float(row["original_accuracy"]))
            rows.append((base, f"{eps:g}", model_name(model), draws, row["num_utts"], *accuracies))
    columns = ("attack", "eps", "model", "draws", "utterances", "target accuracy", "original accuracy")
    note = "The paper found that averaging weakens the attack (section 4.2), so its attack uses one draw a gradient."
    return Table("averaging", "Gradients averaged over draws of a random model", columns, tuple(rows), note)


def auroc_table(results: Content, attack: str, eps: float) -> Table:
    """Table 2 or 3 for one attack: AUROC of the paper's measures, the paper's numbers beside ours where it has any."""
    published = {} if attack in names.CONTROLS else paper.AUROC.get(eps, {})
    found = {(r["model"], r["statistic"]): r for r in results["detection"] if (r["attack"], r["eps"]) == (attack, eps)}
    columns = ["model"]
    for heading in paper.MEASURES.values():
        columns += [f"{heading}, paper", f"{heading}, ours"] if published else [heading]
    rows: list[tuple[Cell, ...]] = []
    strong: set[tuple[int, int]] = set()
    for model in sorted({model for model, _ in found}, key=model_key):
        cells: list[Cell] = [model_name(model)]
        ours: dict[int, float] = {}
        theirs: dict[int, float] = {}
        for statistic in paper.MEASURES:
            if published:
                number = published.get(model, {}).get(statistic)
                if number is not None:
                    theirs[len(cells)] = number
                cells.append(number)
            row = found.get((model, statistic))
            if row is not None:
                ours[len(cells)] = row["auroc"]
            cells.append(None if row is None else _interval(row))
        for numbers in () if attack in names.CONTROLS else (ours, theirs):
            strong |= {(len(rows), c) for c, number in numbers.items() if number == max(numbers.values())}
        rows.append(tuple(cells))
    number_of_table = paper.TABLE_OF_EPS.get(eps) if published else None
    start = f"Table {number_of_table}: " if number_of_table else ""
    title = f"{start}AUROC of the paper's measures under {attack}, eps {eps:g}"
    note = (
        "Two-sided Gaussian on the maximum over frames; ours with 95 % bootstrap interval; best of each model stressed."
        if attack not in names.CONTROLS
        else f"Two-sided Gaussian on the maximum over frames, 95 % bootstrap interval. {attack.capitalize()} is a "
        "control and no attack: 0.5 is what one hopes for."
    )
    if published and attack != paper.ATTACK:
        note += f" The paper's columns are for its own attack, which is {paper.ATTACK} here, not {attack}."
    return Table(
        f"auroc_{attack}_eps{eps:g}", title[0].upper() + title[1:], tuple(columns), tuple(rows), note, frozenset(strong)
    )


def overview_table(results: Content) -> Table:
    """What became of the paper's detector under each attack, in a word."""
    found = {
        (r["attack"], r["eps"], r["model"]): r for r in results["detection"] if r["statistic"] == names.PAPER_STATISTIC
    }
    models = sorted({model for _, _, model in found}, key=model_key)
    rows: list[tuple[Cell, ...]] = []
    for attack, eps in attacks_of(results):
        if attack.startswith(names.ADAPTIVE) and attack != names.ADAPTIVE + names.PAPER_STATISTIC:
            continue  # it knows another detector than this one
        cells: list[Cell] = []
        for model in models:
            row = found.get((attack, eps, model))
            word = "" if row is None or attack in names.CONTROLS else f", {verdict(row)}"
            cells.append(None if row is None else f"{row['auroc']:.3f}{word}")
        if any(cells):
            rows.append((attack, f"{eps:g}", *cells))
    title = f"At a glance: AUROC of the paper's detector ({statistic_name(names.PAPER_STATISTIC)})"
    controls = [attack for attack, _ in attacks_of(results) if attack in names.CONTROLS]
    note = LEGEND
    if controls:
        note += f" {controls[0].capitalize()} is a control and no attack: a high AUROC there means false alarms."
    return Table("overview", title, ("attack", "eps", *map(model_name, models)), tuple(rows), note)


def statistics_table(results: Content, attack: str, eps: float) -> Table:
    """Every statistic of every model under one attack: AUROC, and the share caught at 1 % false alarms."""
    found = _by_model(results["detection"], attack, eps, lambda row: row["statistic"])
    models = sorted(found, key=model_key)
    columns = ["statistic"]
    for model in models:
        columns += [f"{model_name(model)}, AUROC", f"{model_name(model)}, caught"]
    rows: list[tuple[Cell, ...]] = []
    for statistic in sorted({name for rows_of in found.values() for name in rows_of}, key=statistic_key):
        cells: list[Cell] = [statistic_name(statistic)]
        for model in models:
            row = found[model].get(statistic)
            cells += [None, None] if row is None else [_interval(row), float(row["tpr_at_fpr_1pct"])]
        rows.append(tuple(cells))
    title = f"All statistics under {attack}, eps {eps:g}"
    note = (
        "Two-sided Gaussian; AUROC with 95 % bootstrap interval; caught: share above the threshold that 1 % "
        "of benign utterances exceed. The best of many rows, chosen after seeing them, is an optimistic choice."
    )
    return Table(f"statistics_{attack}_eps{eps:g}", title, tuple(columns), tuple(rows), note)


def detectors_table(results: Content, attack: str, eps: float) -> Table:
    """AUROC of the detectors other than the paper's."""
    found = _by_model(results["detection_other"], attack, eps, lambda r: (r["statistic"], r["detector"], r["sided"]))
    models = sorted(found, key=model_key)
    keys = sorted({key for rows_of in found.values() for key in rows_of}, key=lambda k: (k[1:], statistic_key(k[0])))
    rows: list[tuple[Cell, ...]] = []
    for key in keys:
        cells = (found[model].get(key) for model in models)
        detector = f"{key[1]}, {key[2]}-sided" if key[1] == "gaussian" else key[1]
        rows.append(
            (detector, statistic_name(key[0]), *(None if row is None else float(row["auroc"]) for row in cells))
        )
    title = f"Other detectors under {attack}, eps {eps:g}"
    note = "AUROC, for comparison with the two-sided Gaussian; 'all' uses every statistic of the model together."
    columns = ("detector", "statistic", *map(model_name, models))
    return Table(f"detectors_{attack}_eps{eps:g}", title, columns, tuple(rows), note)


def detection_rows_table(results: Content) -> Table:
    """Every detection row with every number, for further work; meant for CSV."""
    columns = ("model", "attack", "eps", "statistic", "detector", "sided", "auroc", "tpr_at_fpr_1pct")
    extra = ("threshold", "fpr_at_threshold", "tpr_at_threshold")
    rows: list[tuple[Cell, ...]] = []
    for row in (*results["detection"], *results["detection_other"]):
        cells = (_interval(row) if name == "auroc" else row[name] for name in columns)
        rows.append((*cells, *(row.get(name) for name in extra)))
    return Table("detection", "All detection rows", (*columns, *extra), tuple(rows))


def timing_table(results: Content) -> Table:
    """Wall-clock seconds of the stages."""
    rows = tuple((stage, float(seconds)) for stage, seconds in results["timing_s"].items())
    return Table("timing", "Time of the stages", ("stage", "seconds"), rows, coarse=frozenset({1}))


def checks_text(checks: Any) -> str:
    """An attack's checks in one cell.

    Args:
        checks: a list of warnings, or what :func:`kaldi_uq.attacks.checks.check_attack` gives.

    >>> checks_text([]), checks_text(["gradient is zero"])
    ('none', 'gradient is zero')
    >>> checks_text({"eps_respected": {"passed": True, "value": 0.1, "limit": 0.2, "remedy": ""}})
    '1 passed'
    >>> checks_text({"eps_respected": {"passed": False, "value": 0.3, "limit": 0.2, "remedy": "mend it"}})
    'eps respected: 0.3, limit 0.2: mend it'
    """
    if not checks:
        return "none"
    if not isinstance(checks, Mapping):
        return checks if isinstance(checks, str) else "; ".join(map(str, checks))
    failed = {name: outcome for name, outcome in checks.items() if not outcome["passed"]}
    if not failed:
        return f"{len(checks)} passed"
    return "; ".join(
        f"{name.replace('_', ' ')}: {o['value']:.4g}, limit {o['limit']:g}: {o['remedy']}" for name, o in failed.items()
    )


def _interval(row: Mapping[str, Any]) -> Interval:
    return Interval(float(row["auroc"]), *map(float, row["auroc_ci95"]))


def _by_model(
    rows: Sequence[Mapping[str, Any]], attack: str, eps: float, key: Callable[[Mapping[str, Any]], Any]
) -> dict[str, dict[Any, Mapping[str, Any]]]:
    found: dict[str, dict[Any, Mapping[str, Any]]] = {}
    for row in rows:
        if (row["attack"], row["eps"]) == (attack, eps):
            found.setdefault(row["model"], {})[key(row)] = row
    return found


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
