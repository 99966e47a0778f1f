"""The threat model in plain sentences, and everything else that belongs to it: tables, series of steps, remedies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kaldi_uq.report.findings import findings
from kaldi_uq.report.table import Table
from kaldi_uq.report.threat_tables import (
    adaptive_tables,
    attacks,
    checklist_table,
    false_alarms,
    known_statistic,
    negatives_auroc_tables,
    negatives_tables,
    quality_table,
    sides_table,
    transfer_tables,
)
from kaldi_uq.report.words import listing
from kaldi_uq.results.names import (
    CONTROLS,
    attack_key,
    check_key,
    check_limit,
    check_name,
    check_value,
    model_key,
    model_name,
)

Content = Mapping[str, Any]
Row = Mapping[str, Any]
_CONSTRAINTS = {
    "l2": "the root mean square of the perturbation (L2)",
    "snr": "the perturbation's power against that of the audio (SNR)",
    "masking": "the perturbation's spectrum by what the audio masks",
}


def has_threats(results: Content) -> bool:
    """Whether the results hold more than accuracies and AUROC."""
    measured = any(row.get("target_success") is not None for row in results["attacks"])
    return measured or any(results.get(name) for name in ("transfer", "negatives", "checks"))


def threat_model(results: Content) -> list[tuple[str, str]]:
    """Who attacks, what he knows, may change and wants, and what counts: heading and plain sentences."""
    rows = [row for row in results["attacks"] if row["attack"] not in CONTROLS]
    names = sorted({row["attack"] for row in rows}, key=attack_key)
    adaptive = [name for name in names if known_statistic(name)]
    blind = [name for name in names if name.startswith("nes")]
    knows = (
        "The whole recogniser: front end, network, weights, pdf priors, decoding graph and decoder. Of a random model "
        "the distribution of the weights or masks, but not the draws with which it will listen."
    )
    if adaptive:
        knows += (
            f" Attacks named adaptive-<statistic> ({len(adaptive)} here) also know the detector of that statistic, its "
            "fit and its threshold; the others do not know that there is one."
        )
    if blind:
        knows += f" {listing(blind)} sees scores alone, no gradient; it is a check of the others."
    if results.get("transfer"):
        knows += " In the transfer tables the attacker knows another model than the one that listens."
    change = (
        "The waveform itself, digitally: no sample moves by more than eps (L-infinity, full scale 1), the length is "
        "kept, and the result is a 16-bit file. What counts is what the recogniser hears when that file is read back."
    )
    further: dict[str, list[str]] = {}
    for row in rows:
        constraint = str((row.get("options") or {}).get("constraint", "linf"))
        if constraint != "linf" and row["attack"] not in further.setdefault(constraint, []):
            further[constraint].append(row["attack"])
    for constraint, named in sorted(further.items()):
        change += f" {listing(named)} also bounds {_CONSTRAINTS.get(constraint, constraint)}."
    eps = sorted({float(row["eps"]) for row in rows})
    if eps:
        change += f" Eps: {listing(f'{e:g}' for e in eps)}."
    pairs = [
        ("Attacker knows", knows),
        ("May change", change),
        (
            "Wants",
            "That the decoder writes down, word for word, a text of the attacker's choice, other than what was said.",
        ),
        (
            "Success",
            "The decoder's words are exactly the target's, not its loss and not its frames. Against a detector: that, "
            f"and a score at or below the threshold that {false_alarms(results)} of benign utterances exceed.",
        ),
        (
            "Not covered",
            "Playing the audio over the air, a defender who changes the model after the attack, and a detector that "
            "the attacker may query but does not know.",
        ),
    ]
    untargeted = [row["attack"] for row in rows if row.get("target_success") is None and row["target_accuracy"] is None]
    if untargeted:
        pairs[2] = (
            "Wants",
            f"{pairs[2][1]} Untargeted ({listing(dict.fromkeys(untargeted))}): any words but those that were said.",
        )
    return pairs


def step_series(results: Content) -> list[tuple[float, list[tuple[Row, int]]]]:
    """Rows of one attack that differ in nothing but the number of steps: eps, and the rows with their steps.

    Of random models a gradient is of several draws, of the others of one; they stand side by side nevertheless.
    """
    chosen: list[tuple[Row, int, Any, tuple[float, str]]] = []
    draws: dict[tuple[str, tuple[float, str]], set[Any]] = {}
    for (model, attack, eps), row in attacks(results).items():
        options = dict(row.get("options") or {})
        steps, samples = options.pop("num_steps", None), options.pop("eot_samples", 1)
        reaches = row.get("target_success") is not None
        # <attack>-eot<n> is there to be compared with its own kind
        if steps is not None and reaches and not known_statistic(attack) and "-eot" not in attack:
            like = (eps, repr(sorted(options.items(), key=str)))
            chosen.append((row, int(steps), samples, like))
            draws.setdefault((model, like), set()).add(samples)
    groups: dict[tuple[tuple[float, str], Any], list[tuple[Row, int]]] = {}
    for row, steps, samples, like in chosen:
        differ = len(draws[row["model"], like]) > 1
        groups.setdefault((like, samples if differ else None), []).append((row, steps))
    series = [(like[0], rows) for (like, _), rows in groups.items() if len({steps for _, steps in rows}) > 1]
    return sorted(series, key=lambda pair: (pair[0], -len(pair[1])))


def remedies(results: Content) -> list[str]:
    """What to do about each check that failed."""
    checks = results.get("checks", {})
    found = []
    for model in sorted(checks, key=model_key):
        for name in sorted(checks[model], key=check_key):
            check = checks[model][name]
            if not check["passed"]:
                asked = check_limit(name, check["limit"])
                where = f" in {listing(check['failed'])}" if check.get("failed") else ""
                seen = check_value(name, check["value"])
                found.append(
                    f"{model_name(model)}, {check_name(name)}{where}: {seen}, asked for {asked}. "
                    f"{str(check['remedy'])[:1].upper()}{str(check['remedy'])[1:]}."
                )
    return found


def threat_tables(results: Content) -> list[Table]:
    """All tables of the section that have rows."""
    tables = [*adaptive_tables(results), sides_table(results), *transfer_tables(results)]
    tables += [*negatives_tables(results), *negatives_auroc_tables(results), quality_table(results)]
    return [table for table in [*tables, checklist_table(results)] if table.rows]


def threat_text(results: Content) -> str:
    """The same for the ``RESULTS`` file; empty if there is nothing to say."""
    if not has_threats(results):
        return ""
    parts = ["\n".join(f"{name}: {text}" for name, text in threat_model(results)), "\n".join(findings(results))]
    parts += [table.to_markdown().rstrip("\n") for table in threat_tables(results)]
    return "\n\n".join(part for part in [*parts, "\n".join(remedies(results))] if part)


def shown_attacks(names: Iterable[str]) -> list[str]:
    """Attacks whose success is worth a curve of its own: not the ones that know a detector."""
    return [name for name in dict.fromkeys(names) if not known_statistic(name)]
