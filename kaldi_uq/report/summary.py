"""The results in plain words, and the ``RESULTS`` file.  Every sentence is computed and says no more than a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaldi_uq.report import paper, tables
from kaldi_uq.report.findings import headlines
from kaldi_uq.report.threat import threat_text
from kaldi_uq.report.verdict import MISSED, verb, verdict
from kaldi_uq.report.words import listing, span
from kaldi_uq.results.names import CONTROLS, PAPER_STATISTIC, model_key, model_name, statistic_name

Content = Mapping[str, Any]
Rows = list[Mapping[str, Any]]
DETECTOR = f"the paper's detector ({statistic_name(PAPER_STATISTIC)}, two-sided Gaussian)"


def summary(results: Content) -> list[str]:
    """A sentence on benign audio, one for each attack and eps that has detection rows, and what adaptive ones leave."""
    sentences = [_clean_sentence(results)] if results["clean"] else []
    sentences += [_headline(results, attack, eps) for attack, eps in tables.plain_attacks(results)]
    sentences += headlines(results)
    return [text for text in sentences if text] or ["The results hold no accuracy and no detection yet."]


def describe(results: Content, attack: str, eps: float) -> str:
    """The paragraph on one attack: does it reach its target, is it detected, by what better, what the paper says."""
    return (_control_paragraph if attack in CONTROLS else _attack_paragraph)(results, attack, eps)


def _headline(results: Content, attack: str, eps: float) -> str:
    rows = [r for r in _of(results["detection"], attack, eps) if r["statistic"] == PAPER_STATISTIC]
    if not rows:
        return ""
    if attack in CONTROLS:
        flagged = span((100 * r["tpr_at_fpr_1pct"] for r in rows), ".1f")
        return (
            f"Under {attack} at eps {eps:g}, a control that nobody steers, the paper's detector flags {flagged} % of "
            "the utterances with thresholds that 1 % of clean ones exceed."
        )
    hits = [r["target_accuracy"] for r in _of(results["attacks"], attack, eps) if r["target_accuracy"] is not None]
    reach = ""
    if hits:
        verb_of_attack = "mostly fails with" if max(hits) < MISSED else "reaches"
        reach = f", which {verb_of_attack} target accuracy {span(hits, '.3f')},"
    by_verdict: dict[str, Rows] = {}
    for row in rows:
        by_verdict.setdefault(verdict(row), []).append(row)
    parts = []
    for word, some in by_verdict.items():
        who = f"all {len(rows)} models" if len(some) == len(rows) > 1 else listing(model_name(r["model"]) for r in some)
        parts.append(f"{verb(word)} for {who} (AUROC {span((r['auroc'] for r in some), '.3f')})")
    return f"Under {attack} at eps {eps:g}{reach} the paper's detector {'; it '.join(parts)}."


def _clean_sentence(results: Content) -> str:
    models = sorted(results["clean"], key=model_key)
    parts = [f"{model_name(m)} {results['clean'][m]['accuracy']:.3f}" for m in models]
    return f"On benign audio the word accuracy is {listing(parts)}."


def _of(rows: Rows, attack: str, eps: float) -> Rows:
    chosen = [row for row in rows if (row["attack"], row["eps"]) == (attack, eps)]
    return sorted(chosen, key=lambda row: model_key(row["model"]))


def _control_paragraph(results: Content, attack: str, eps: float) -> str:
    rows = [r for r in _of(results["detection"], attack, eps) if r["statistic"] == PAPER_STATISTIC]
    if not rows:
        return ""
    parts = [f"{model_name(r['model'])} {100 * r['tpr_at_fpr_1pct']:.1f} %" for r in rows]
    return (
        f"{attack.capitalize()} at eps {eps:g} is a control: nobody steers the recogniser. With thresholds that 1 % of "
        f"clean utterances exceed, {DETECTOR} flags {listing(parts)} of the utterances with {attack}."
    )


def _attack_paragraph(results: Content, attack: str, eps: float) -> str:
    where = f"Under {attack} at eps {eps:g}"
    rows = _of(results["detection"], attack, eps)
    sentences = _success_sentences(where, _of(results["attacks"], attack, eps))
    paper_rows = [row for row in rows if row["statistic"] == PAPER_STATISTIC]
    by_verdict: dict[str, list[str]] = {}
    for row in paper_rows:
        by_verdict.setdefault(verdict(row), []).append(f"{model_name(row['model'])} (AUROC {_estimate(row)})")
    if by_verdict:
        outcomes = [f"{verb(word)} for {listing(models)}" for word, models in by_verdict.items()]
        subject = DETECTOR[0].upper() + DETECTOR[1:] if sentences else f"{where} {DETECTOR}"
        sentences.append(f"{subject} {'; it '.join(outcomes)}.")
    sentences += _best_sentences(rows, paper_rows) + _paper_sentences(attack, eps, paper_rows)
    return " ".join(sentences)


def _success_sentences(where: str, rows: Rows) -> list[str]:
    hits = {row["model"]: row["target_accuracy"] for row in rows if row["target_accuracy"] is not None}
    if not hits:
        return []
    parts = [f"{model_name(m)} {value:.3f}" for m, value in hits.items()]
    sentences = [f"{where} the recogniser hears the attacker's text with accuracy {listing(parts)}."]
    missed = [model_name(m) for m, value in hits.items() if value < MISSED]
    if missed:
        who = "all models" if len(missed) == len(hits) > 1 else listing(missed)
        sentences.append(
            f"Below {MISSED:g}, as for {who}, the attack mostly fails, and its detection says little about attacks "
            "that reach their target."
        )
    return sentences


def _best_sentences(rows: Rows, paper_rows: Rows) -> list[str]:
    """Where another statistic does clearly better than the paper's (their intervals do not meet), say which."""
    parts = []
    for row in paper_rows:
        best = max((r for r in rows if r["model"] == row["model"]), key=lambda r: float(r["auroc"]))
        if best["auroc_ci95"][0] > row["auroc_ci95"][1]:
            parts.append(f"{model_name(row['model'])} with {statistic_name(best['statistic'])} {_estimate(best)}")
    if not parts:
        return []
    return [f"The best statistic, picked after the fact, is clearly above that for {listing(parts)}."]


def _paper_sentences(attack: str, eps: float, paper_rows: Rows) -> list[str]:
    published = {m: numbers[PAPER_STATISTIC] for m, numbers in paper.AUROC.get(eps, {}).items()}
    parts = [f"{model_name(r['model'])} {published[r['model']]:.3f}" for r in paper_rows if r["model"] in published]
    if not parts:
        return []
    which = "this attack" if attack == paper.ATTACK else f"its own attack ({paper.ATTACK} here)"
    return [f"The paper's numbers, on TIDIGITS and for {which}, are {listing(parts)}."]


def _estimate(row: Mapping[str, Any]) -> str:
    lo, hi = row["auroc_ci95"]
    return f"{row['auroc']:.3f} [{lo:.3f}, {hi:.3f}]"


def results_text(results: Content, *, command: str) -> str:
    """The ``RESULTS`` file: the command that made it, the environment, the summary, the tables."""
    environment = ", ".join(f"{name}: {short_text(value)}" for name, value in results["environment"].items())
    head = [f"# {command}", f"# {environment}"] if environment else [f"# {command}"]
    chosen = [tables.overview_table(results), tables.clean_table(results)]
    chosen += [tables.attack_table(results), tables.averaging_table(results)]
    shown = [table.to_markdown() for table in chosen if table.rows]
    threats = threat_text(results)
    shown += [threats] if threats else []
    for attack, eps in tables.plain_attacks(results):
        several = (tables.auroc_table(results, attack, eps), tables.statistics_table(results, attack, eps))
        shown += [describe(results, attack, eps), *(table.to_markdown() for table in several if table.rows)]
    shown = [text.rstrip("\n") for text in shown if text]
    return "\n\n".join(["\n".join(head), "\n".join(summary(results)), *shown, *paper.NOTES]) + "\n"


def short_text(value: Any) -> str:
    """A JSON value on one line.

    >>> short_text({"preset": "mini", "models": ["dnn", "bnn"]})
    'preset mini, models dnn bnn'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short_text(inner)}" for name, inner in value.items())
    return " ".join(map(short_text, value)) if isinstance(value, list) else str(value)
