"""The tables on what attacks leave of the detectors, from the content of ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaldi_uq.report.table import Cell, Interval, Table
from kaldi_uq.report.words import listing
from kaldi_uq.results.names import (
    ADAPTIVE,
    CHECKS,
    PAPER_STATISTIC,
    attack_key,
    check_key,
    check_limit,
    check_name,
    model_key,
    model_name,
    statistic_key,
    statistic_name,
)

Content = Mapping[str, Any]
Row = Mapping[str, Any]
REFERENCE = "pgd"  # the attack that knows the model and not the detector
TICK, CROSS = "✓", "✗"
SIDED_STATISTICS = (PAPER_STATISTIC, "mean_predictive_entropy")
AUDIO_STATISTICS = ("level_db", "noise_floor_db")  # of the audio alone
NEGATIVE_STATISTICS = (
    PAPER_STATISTIC,
    "mean_predictive_entropy",
    "max_mutual_information",
    "mean_akld",
    *AUDIO_STATISTICS,
)
_NEGATIVE_KINDS = ("clean", "uniform", "white", "babble", "reverb")
_LEVELS = {"white": "{:g} dB SNR", "babble": "{:g} dB SNR", "reverb": "RT60 {:g} s", "uniform": "eps {:g}"}
# what is measured of the audio: field of an attack row, heading
QUALITY = {
    "snr_db_mean": "SNR dB",
    "segmental_snr_db_mean": "segmental SNR dB",
    "masking_margin_db_mean": "masking margin dB",
    "share_above_masking_mean": "share above masking",
    "pesq_mean": "PESQ",
    "stoi_mean": "STOI",
}


def attacks(results: Content, attack: str | None = None) -> dict[tuple[str, str, float], Row]:
    """(model, attack, eps) -> row of section "attacks", in the order of all tables."""
    rows = [row for row in results["attacks"] if attack is None or row["attack"] == attack]
    rows.sort(key=lambda row: (attack_key(row["attack"]), row["eps"], model_key(row["model"])))
    return {(row["model"], row["attack"], float(row["eps"])): row for row in rows}


def detections(results: Content, sided: str = "two") -> dict[tuple[str, str, float, str], Row]:
    """(model, attack, eps, statistic) -> row of the Gaussian detector of that form."""
    rows = results["detection"] if sided == "two" else results["detection_other"]
    chosen = (row for row in rows if (row.get("detector", "gaussian"), row.get("sided", "two")) == ("gaussian", sided))
    return {(row["model"], row["attack"], float(row["eps"]), row["statistic"]): row for row in chosen}


def evasions(results: Content) -> dict[tuple[str, str, float, str], float]:
    """(model, attack, eps, statistic) -> share of attacked utterances that reach their target and pass the detector.

    Of an attack that knows several detectors, or one-sided ones, it is what the attack's own row says of them.
    """
    found = {key: row["evasion"] for key, row in detections(results).items() if row.get("evasion") is not None}
    for (model, attack, eps), row in attacks(results).items():
        key = (model, attack, eps, known_statistic(attack))
        is_other = (row.get("adaptive") or {}).get("sided", "two") != "two"  # than the detector of the detection rows
        if known_statistic(attack) and row.get("evasion") is not None and (is_other or key not in found):
            found[key] = row["evasion"]
    return {key: float(value) for key, value in found.items()}


def false_alarms(results: Content) -> str:
    """The false-positive rate that the thresholds of the detection rows are for, such as ``1 %``."""
    rates = sorted({float(row.get("fpr", 0.01)) for row in results["detection"]}) or [0.01]
    return listing(f"{100 * rate:g} %" for rate in rates)


def known_statistic(attack: str) -> str:
    """The statistic whose detector an adaptive attack knows, or nothing.

    >>> known_statistic("adaptive-max_akld"), known_statistic("pgd")
    ('max_akld', '')
    """
    return attack.removeprefix(ADAPTIVE) if attack.startswith(ADAPTIVE) else ""


def adaptive_table(results: Content) -> Table:
    """What an attack that knows the detector leaves of it, beside the one that does not."""
    found, evasion = detections(results), evasions(results)
    plain = attacks(results, REFERENCE)
    rows: list[tuple[Cell, ...]] = []
    keys = [key for key in attacks(results) if known_statistic(key[1])]
    keys.sort(key=lambda key: (key[2], model_key(key[0]), statistic_key(known_statistic(key[1]))))
    for model, attack, eps in keys:
        statistic = known_statistic(attack)
        cells: list[Cell] = [f"{eps:g}", model_name(model), statistic_name(statistic)]
        for name, row in (
            (REFERENCE, plain.get((model, REFERENCE, eps))),
            (attack, attacks(results, attack)[model, attack, eps]),
        ):
            detection = found.get((model, name, eps, statistic))
            cells.append(None if row is None else _float(row.get("target_success")))
            cells.append(evasion.get((model, name, eps, statistic)))
            cells.append(None if detection is None else _interval(detection))
        rows.append(tuple(cells))
    columns = ["eps", "model", "detector on"]
    for who in (REFERENCE, "adaptive"):
        columns += [f"{who}: reach", f"{who}: reach and pass", f"{who}: AUROC"]
    note = (
        f"{REFERENCE} knows the model; adaptive knows the model and this detector. Reach: share of utterances that the "
        "recogniser writes down as the target, word for word. Reach and pass: of those whose score is also at or below "
        f"the threshold that {false_alarms(results)} of the benign utterances it is fitted on exceed. Two-sided "
        "Gaussian (reach and pass: in the form that the attack knows), AUROC with 95 % "
        "bootstrap interval over all attacked utterances, whether they reach their target or not."
    )
    return Table("adaptive", "The attack that knows the detector: every number", tuple(columns), tuple(rows), note)


def adaptive_tables(results: Content) -> list[Table]:
    """The two numbers that matter, a column an eps: share that reaches its target and passes, and AUROC."""
    aurocs = {key: float(row["auroc"]) for key, row in detections(results).items()}
    keys = [key for key in attacks(results) if known_statistic(key[1])]
    every_eps = sorted({eps for _, _, eps in keys})
    pairs = sorted(
        {(model, known_statistic(attack)) for model, attack, _ in keys},
        key=lambda pair: (model_key(pair[0]), statistic_key(pair[1])),
    )
    columns = ["model", "detector on"]
    for eps in every_eps:
        columns += [f"eps {eps:g}: {REFERENCE}", f"eps {eps:g}: adaptive"]
    tables = []
    for field, numbers, title, note in (
        (
            "evasion",
            evasions(results),
            "Utterances that reach their target and pass the detector",
            f"{REFERENCE} knows the model, adaptive knows the model and this detector. Share of utterances that the "
            "recogniser writes down as the target, word for word, and whose score is at or below the threshold that "
            f"{false_alarms(results)} of benign utterances exceed (two-sided Gaussian). Stressed: at least half.",
        ),
        (
            "auroc",
            aurocs,
            "AUROC under the attack that knows the detector",
            f"{REFERENCE} knows the model, adaptive knows the model and this detector. Two-sided Gaussian, every "
            "attacked utterance, whether it reaches its target or not. Stressed: 0.5 or less.",
        ),
    ):
        rows: list[tuple[Cell, ...]] = []
        for model, statistic in pairs:
            cells: list[Cell] = [model_name(model), statistic_name(statistic)]
            for eps in every_eps:
                for attack in (REFERENCE, ADAPTIVE + statistic):
                    cells.append(numbers.get((model, attack, eps, statistic)))
            if any(cell is not None for cell in cells[2:]):
                rows.append(tuple(cells))
        shown = ((r, c, cell) for r, row in enumerate(rows) for c, cell in enumerate(row) if isinstance(cell, float))
        strong = {(r, c) for r, c, number in shown if (number >= 0.5 if field == "evasion" else number <= 0.5)}
        tables.append(Table(f"adaptive_{field}", title, tuple(columns), tuple(rows), note, frozenset(strong)))
    return tables


def sides_table(results: Content) -> Table:
    """The two-sided and the one-sided form of the same detector, side by side."""
    two, one = detections(results), detections(results, "one")
    rows: list[tuple[Cell, ...]] = []
    statistics = [s for s in SIDED_STATISTICS if any(key[3] == s for key in one)]
    keys = {key[:3] for key in two.keys() & one.keys() if key[3] in statistics and not known_statistic(key[1])}
    for model, attack, eps in sorted(keys, key=lambda key: (attack_key(key[1]), key[2], model_key(key[0]))):
        cells: list[Cell] = [attack, f"{eps:g}", model_name(model)]
        for statistic in statistics:
            pair = (two.get((model, attack, eps, statistic)), one.get((model, attack, eps, statistic)))
            cells += [None if row is None else _interval(row) for row in pair]
        rows.append(tuple(cells))
    columns = ["attack", "eps", "model"]
    for statistic in statistics:
        columns += [f"{statistic_name(statistic)}, two-sided", f"{statistic_name(statistic)}, one-sided"]
    note = (
        "AUROC of the Gaussian detector with 95 % bootstrap interval. Two-sided: suspicious is what is unlike benign "
        "speech in either direction; one-sided: only what is less certain than it. A one-sided AUROC below 0.5 means "
        "that attacked audio is more certain than clean speech."
    )
    return Table("sides", "Two-sided and one-sided detectors", tuple(columns), tuple(rows), note)


def transfer_tables(results: Content) -> list[Table]:
    """Examples of each model on every other: a matrix an attack and eps."""
    rows = [row for row in results.get("transfer", ()) if row["target_success"] is not None]
    tables = []
    pairs = sorted({(row["attack"], float(row["eps"])) for row in rows}, key=lambda p: (attack_key(p[0]), p[1]))
    for attack, eps in pairs:
        mine = {(r["source"], r["model"]): r for r in rows if (r["attack"], float(r["eps"])) == (attack, eps)}
        sources = sorted({source for source, _ in mine}, key=model_key)
        listeners = sorted({model for _, model in mine}, key=model_key)
        cells = [
            (model_name(s), *(_float(mine[s, m]["target_success"]) if (s, m) in mine else None for m in listeners))
            for s in sources
        ]
        own = frozenset((i, 1 + listeners.index(s)) for i, s in enumerate(sources) if s in listeners)
        count = max(row["num_utts"] for row in mine.values())
        note = (
            f"Share of {count} utterances that the model of the column hears as the target that was put into them "
            "against the model of the row; on its own model stressed."
        )
        columns = ("examples made against", *map(model_name, listeners))
        title = f"Transfer of {attack} examples, eps {eps:g}"
        tables.append(Table(f"transfer_{attack}_eps{eps:g}", title, columns, tuple(cells), note, own))
    return tables


def negatives_tables(results: Content) -> list[Table]:
    """Benign but hard audio, a table a model: how many utterances each detector calls an attack."""
    tables = []
    every = [row for row in results.get("negatives", ()) if row["sided"] == "two"]
    for model in sorted({row["model"] for row in every}, key=model_key):
        mine = {(r["kind"], float(r["level"]), r["statistic"]): r for r in every if r["model"] == model}
        statistics = [name for name in NEGATIVE_STATISTICS if any(key[2] == name for key in mine)]
        rows: list[tuple[Cell, ...]] = []
        for kind, level in _negative_levels(mine):
            there = [mine.get((kind, level, name)) for name in statistics]
            accuracy = next(row["accuracy"] for row in there if row is not None)
            rates = (None if row is None else float(row["fpr_at_threshold"]) for row in there)
            rows.append((negative_name(kind, level), float(accuracy), *rates))
        fpr = next(iter(mine.values()))["fpr"]
        note = (
            f"Share of benign utterances that a two-sided Gaussian detector with a threshold for {100 * fpr:g} % false "
            "alarms on clean speech calls an attack, after the disturbance. Level and noise floor are of the audio "
            "alone: no model listens."
        )
        columns = ("benign audio", "word accuracy", *map(statistic_name, statistics))
        title = f"False alarms on benign but hard audio: {model_name(model)}"
        tables.append(Table(f"negatives_{model}", title, columns, tuple(rows), note))
    return tables


def negatives_auroc_tables(results: Content) -> list[Table]:
    """How well attacks are told from benign but hard audio, a table a model."""
    tables = []
    every = [row for row in results.get("negatives", ()) if row["sided"] == "two"]
    for model in sorted({row["model"] for row in every}, key=model_key):
        mine = {(r["kind"], float(r["level"]), r["statistic"]): r for r in every if r["model"] == model}
        entries = {
            (*key, e["attack"], float(e["eps"])): float(e["auroc"]) for key, row in mine.items() for e in row["auroc"]
        }
        against = {key[3:] for key in entries if not known_statistic(key[3])}
        columns = ["attack", "eps", "told from"]
        statistics = [name for name in NEGATIVE_STATISTICS if any(key[2] == name for key in entries)]
        rows: list[tuple[Cell, ...]] = []
        for attack, eps in sorted(against, key=lambda pair: (attack_key(pair[0]), pair[1])):
            for kind, level in _negative_levels(mine):
                cells = [entries.get((kind, level, name, attack, eps)) for name in statistics]
                if any(cell is not None for cell in cells):
                    rows.append((attack, f"{eps:g}", negative_name(kind, level), *cells))
        if rows:
            note = (
                "AUROC of attacked against benign but hard utterances: below 0.5 the harmless disturbance looks more "
                "like an attack than the attack does."
            )
            columns += [statistic_name(name) for name in statistics]
            title = f"Attacks told from benign but hard audio: {model_name(model)}"
            tables.append(Table(f"negatives_auroc_{model}", title, tuple(columns), tuple(rows), note))
    return tables


def negative_name(kind: str, level: float) -> str:
    """A kind of benign but hard audio for people.

    >>> negative_name("white", 10.0), negative_name("clean", 0.0)
    ('white, 10 dB SNR', 'clean')
    """
    return f"{kind}, {_LEVELS[kind].format(level)}" if kind in _LEVELS else kind


def checklist_table(results: Content) -> Table:
    """Ticks and crosses: a row a check, a column a model."""
    checks = results.get("checks", {})
    models = sorted(checks, key=model_key)
    rows: list[tuple[Cell, ...]] = []
    for name in sorted({name for model in models for name in checks[model]}, key=check_key):
        limits = {check_limit(name, checks[model][name]["limit"]) for model in models if name in checks[model]}
        cells = (check_text(checks[model].get(name)) for model in models)
        value = CHECKS[name][0] if name in CHECKS else "value"
        rows.append((f"{check_name(name)} ({value})", *cells, limits.pop() if len(limits) == 1 else "by model"))
    columns = ("check", *map(model_name, models), "asked for")
    note = (
        f"{TICK} passed, {CROSS} failed; the number is the worst that was seen. A point is one utterance in a hundred, "
        "or one utterance where there are fewer. What to do about a failed check is said below the table."
    )
    crosses = {(r, c) for r, row in enumerate(rows) for c, cell in enumerate(row) if str(cell).startswith(CROSS)}
    return Table("checks", "Checks of the attacks", columns, tuple(rows), note, frozenset(crosses))


def check_text(check: Mapping[str, Any] | None) -> str | None:
    """A check in one cell.

    >>> check_text({"passed": True, "value": 0.0123456})
    '✓ 0.01235'
    """
    return None if check is None else f"{TICK if check['passed'] else CROSS} {check['value']:.4g}"


def quality_table(results: Content) -> Table:
    """How audible each attack is, where that was measured."""
    fields = [field for field in QUALITY if any(row.get(field) is not None for row in results["attacks"])]
    if fields in ([], ["snr_db_mean"]):
        return Table("quality", "", (), ())
    rows: list[tuple[Cell, ...]] = []
    for (model, attack, eps), row in attacks(results).items():
        if any(row.get(field) is not None for field in fields if field != "snr_db_mean"):
            cells = (_float(row.get(field)) for field in ("target_success", *fields))
            rows.append((attack, f"{eps:g}", model_name(model), *cells))
    columns = ("attack", "eps", "model", "reach", *(QUALITY[field] for field in fields))
    note = (
        "Means over utterances. Segmental SNR: mean over segments of 25 ms of speech. Masking margin: level of the "
        "perturbation above what the audio masks (noise-to-mask ratio), lower is less audible. Share above masking: of "
        "the cells of the spectrum in which the perturbation is above the masking threshold."
    )
    coarse = frozenset(i for i, name in enumerate(columns) if name.endswith("dB"))
    return Table("quality", "How audible the attacks are", columns, tuple(rows), note, coarse=coarse)


def _negative_levels(rows: Mapping[tuple[str, float, str], Row]) -> list[tuple[str, float]]:
    """Kinds and levels, the mildest of each kind first: a high SNR, a short reverberation, a small eps."""

    def key(pair: tuple[str, float]) -> tuple[int, str, float]:
        kind, level = pair
        rank = _NEGATIVE_KINDS.index(kind) if kind in _NEGATIVE_KINDS else len(_NEGATIVE_KINDS)
        return rank, kind, -level if kind in ("white", "babble") else level

    return sorted({(kind, level) for kind, level, _ in rows}, key=key)


def _interval(row: Row) -> Interval:
    return Interval(float(row["auroc"]), *map(float, row["auroc_ci95"]))


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
