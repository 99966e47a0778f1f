"""What the attacks leave of the detectors, in sentences; every one is computed and says no more than its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kaldi_uq.report.threat_tables import (
    AUDIO_STATISTICS,
    REFERENCE,
    SIDED_STATISTICS,
    attacks,
    detections,
    evasions,
    known_statistic,
    negative_name,
)
from kaldi_uq.report.words import listing, span
from kaldi_uq.results.names import CONTROLS, PAPER_STATISTIC, attack_key, model_key, model_name, statistic_name

Content = Mapping[str, Any]
Row = Mapping[str, Any]
BREAKS = 0.5  # share of attacked utterances that reach their target and pass: at least half, and the detector is broken
LOUDNESS = 0.75  # AUROC from which on loudness alone can be said to tell attacks from clean speech
EQUAL = 0.05  # two shares of success that differ by no more are about equal


def findings(results: Content) -> list[str]:
    """Where the detectors break, what held longest, who is certain: a sentence each, as far as there are numbers."""
    sentences = [*_paper_detector(results), *_held_longest(results), *_certainty(results)]
    sentences += [*_false_alarms(results), *_loudness(results), *_psychoacoustic(results)]
    return sentences


def evasion_points(results: Content) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Statistic -> model -> (eps, share that reaches its target and passes) where the attack knows the detector."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for (model, attack, eps, statistic), share in sorted(evasions(results).items(), key=lambda item: item[0][2]):
        if known_statistic(attack) == statistic:
            points.setdefault(statistic, {}).setdefault(model, []).append((eps, share))
    return points


def headlines(results: Content) -> list[str]:
    """What belongs into the summary: where the paper's detector breaks, what held longest, which checks failed."""
    return [*_paper_detector(results), *_held_longest(results), *_checks(results)]


def _checks(results: Content) -> list[str]:
    counts = {
        model: [check["passed"] for check in checks.values()] for model, checks in results.get("checks", {}).items()
    }
    if not counts:
        return []
    parts = [f"{sum(counts[m])} of {len(counts[m])} for {model_name(m)}" for m in sorted(counts, key=model_key)]
    return [f"Checks of the attacks that passed: {listing(parts)}."]


def _paper_detector(results: Content) -> list[str]:
    """At which eps the paper's detector breaks, under the attack that is worst for it."""
    worst: dict[str, dict[float, tuple[float, str, Row]]] = {}
    aimless = {key for key, row in attacks(results).items() if row.get("target_success") is None}
    for (model, attack, eps, statistic), row in detections(results).items():
        if (model, attack, eps) in aimless or attack in CONTROLS:
            continue
        if statistic == PAPER_STATISTIC and row.get("evasion") is not None:
            entry = (float(row["evasion"]), attack, row)
            by_eps = worst.setdefault(model, {})
            if eps not in by_eps or entry[0] > by_eps[eps][0]:
                by_eps[eps] = entry
    if not worst:
        return []
    broken: dict[str, dict[float, Row]] = {}
    held: dict[str, dict[float, float]] = {}
    for model, by_eps in worst.items():
        breaks_at = [eps for eps, (share, _, _) in by_eps.items() if share >= BREAKS]
        if breaks_at:
            broken[model] = {min(breaks_at): by_eps[min(breaks_at)][2]}
        else:
            held[model] = {max(by_eps): by_eps[max(by_eps)][0]}
    meaning = "at least half of the attacked utterances reach their target and pass it"
    shares = [share for by_eps in held.values() for share in by_eps.values()]
    safe = f"for {_where(held, 'up to eps')} ({span(shares, '.2f')} reach and pass there)" if held else ""
    start = f"The paper's detector ({statistic_name(PAPER_STATISTIC)}, two-sided)"
    if not broken:
        return [f"{start} does not break, in that nowhere {meaning}: {safe}."]
    rows = [row for by_eps in broken.values() for row in by_eps.values()]
    numbers = f"{span((row['evasion'] for row in rows), '.2f')}, AUROC {span((row['auroc'] for row in rows), '.3f')}"
    under = listing(sorted({row["attack"] for row in rows}, key=attack_key))
    end = f" It does not {safe}." if held else ""
    return [f"{start} breaks for {_where(broken)}: there, under {under}, {meaning} ({numbers}).{end}"]


def _held_longest(results: Content) -> list[str]:
    """The pair of model and statistic that breaks at the largest eps under the attack that knows it.

    Only pairs that were attacked at every eps are compared: what was not tried did not hold.
    """
    points = evasion_points(results)
    every_eps = {eps for by_model in points.values() for curve in by_model.values() for eps, _ in curve}
    ranked = []
    for statistic, by_model in points.items():
        for model, curve in by_model.items():
            if {eps for eps, _ in curve} != every_eps:
                continue
            broken = [eps for eps, share in sorted(curve) if share >= BREAKS]
            last_eps, last_share = max(curve)
            ranked.append((broken[0] if broken else float("inf"), last_eps, -last_share, statistic, model))
    if len(ranked) < 2:
        return []
    breaks_at, last_eps, last_share, statistic, model = max(ranked)
    name = f"{statistic_name(statistic)} of {model_name(model)}"
    start = f"Of the {len(ranked)} pairs of model and statistic whose detector the attacker knows, {name} held longest:"
    end = f"at eps {last_eps:g}, the largest tried, {-last_share:.2f} of the utterances reach their target and pass it."
    if breaks_at == float("inf"):
        return [f"{start} it never breaks; {end}"]
    first = min(eps for eps, *_ in ranked)
    if breaks_at == first:
        return [
            f"Every one of the {len(ranked)} pairs of model and statistic whose detector the attacker knows breaks at "
            f"the smallest eps at which any does, {first:g}."
        ]
    return [f"{start} it breaks at eps {breaks_at:g}, the first of them at eps {first:g}; {end}"]


def _certainty(results: Content) -> list[str]:
    """Whether attacked audio is more certain than clean speech: where the one-sided AUROC is below chance."""
    below: dict[tuple[str, str], dict[str, dict[float, float]]] = {}
    caught: dict[tuple[str, str], list[float]] = {}
    for (model, attack, eps, statistic), row in detections(results, "one").items():
        # an attack that knows a detector is as certain as it was told to be
        if statistic in SIDED_STATISTICS and attack not in CONTROLS and not known_statistic(attack):
            if row["auroc_ci95"][1] < 0.5:
                below.setdefault((attack, statistic), {}).setdefault(model, {})[eps] = float(row["auroc"])
                caught.setdefault((attack, statistic), []).append(float(row["tpr_at_fpr_1pct"]))
    sentences = []
    for attack, statistic in sorted(below, key=lambda key: (attack_key(key[0]), SIDED_STATISTICS.index(key[1]))):
        by_model = below[attack, statistic]
        numbers = [value for by_eps in by_model.values() for value in by_eps.values()]
        shares = span(caught[attack, statistic], ".2f")
        sentences.append(
            f"Under {attack} the {statistic_name(statistic)} of attacked utterances is below that of clean speech for "
            f"{_where(by_model)} (one-sided AUROC {span(numbers, '.3f')}): these examples are more certain than clean "
            f"speech, not less, and a detector of large uncertainty alone catches {shares} of them at 1 % false alarms."
        )
    return sentences


def _where(by_model: Mapping[str, Mapping[float, Any]], word: str = "at eps") -> str:
    """Models and eps: those with the same eps together."""
    together: dict[tuple[float, ...], list[str]] = {}
    for model in sorted(by_model, key=model_key):
        together.setdefault(tuple(sorted(by_model[model])), []).append(model_name(model))
    return "; ".join(f"{listing(models)} {word} {listing(f'{e:g}' for e in eps)}" for eps, models in together.items())


def _false_alarms(results: Content) -> list[str]:
    """The benign disturbance that the paper's detector takes for an attack most often."""
    rows = [r for r in results.get("negatives", ()) if r["statistic"] == PAPER_STATISTIC and r["sided"] == "two"]
    hard = [row for row in rows if row["kind"] != "clean"]
    if not hard:
        return []
    worst = max(hard, key=lambda row: float(row["fpr_at_threshold"]))
    where = negative_name(worst["kind"], float(worst["level"]))
    return [
        f"Benign audio with {where} is called an attack by the paper's detector for {model_name(worst['model'])} in "
        f"{100 * worst['fpr_at_threshold']:.1f} % of the utterances, with a threshold for {100 * worst['fpr']:g} % on "
        "clean speech."
    ]


def _loudness(results: Content) -> list[str]:
    """Whether a statistic of the audio alone does as well as the model's."""
    scores: dict[tuple[str, str, float], dict[str, float]] = {}
    for row in results.get("negatives", ()):
        if row["kind"] == "clean" and row["sided"] == "two":
            for entry in row["auroc"]:
                key = (row["model"], entry["attack"], float(entry["eps"]))
                scores.setdefault(key, {})[row["statistic"]] = float(entry["auroc"])
    louder: dict[str, dict[str, dict[float, tuple[float, float]]]] = {}
    for (model, attack, eps), by_statistic in scores.items():
        ours = by_statistic.get(PAPER_STATISTIC)
        audio = [by_statistic[name] for name in AUDIO_STATISTICS if name in by_statistic]
        if ours is not None and audio and max(audio) >= max(ours, LOUDNESS) and not known_statistic(attack):
            louder.setdefault(attack, {}).setdefault(model, {})[eps] = (max(audio), ours)
    sentences = []
    for attack in sorted(louder, key=attack_key):
        pairs = [pair for by_eps in louder[attack].values() for pair in by_eps.values()]
        sentences.append(
            f"Under {attack} level or noise floor of the audio, for which no model listens, tells attacks from clean "
            f"speech at least as well as the paper's detector for {_where(louder[attack])} (AUROC "
            f"{span((pair[0] for pair in pairs), '.3f')} and {span((pair[1] for pair in pairs), '.3f')}): there a "
            "detector of loudness would do."
        )
    return sentences


def _psychoacoustic(results: Content) -> list[str]:
    """The attack under the masking threshold against the plain one of about the same success."""
    sentences = []
    plain = attacks(results, REFERENCE)
    for (model, _, eps), row in attacks(results, "psychoacoustic").items():
        reach, margin = row.get("target_success"), row.get("masking_margin_db_mean")
        rivals = [
            (abs(other["target_success"] - reach), other_eps, other)
            for (name, _, other_eps), other in plain.items()
            if name == model
            and reach is not None
            and other.get("target_success") is not None
            and other.get("masking_margin_db_mean") is not None
        ]
        if margin is None or not rivals:
            continue
        # at the same eps if success is about equal there, or else where it is nearest
        difference, other_eps, other = min(rivals, key=lambda r: (r[0] > EQUAL or r[1] != eps, r[0], r[1]))
        if difference > EQUAL:
            continue
        words = "quieter" if margin < other["masking_margin_db_mean"] else "not quieter"
        text = (
            f"At about equal success on {model_name(model)} ({reach:.2f} with eps {eps:g}; {REFERENCE} "
            f"{other['target_success']:.2f} with eps {other_eps:g}) the psychoacoustic attack is {words} under "
            f"masking: its masking margin is {margin:.1f} dB against {other['masking_margin_db_mean']:.1f} dB"
        )
        segmental = (row.get("segmental_snr_db_mean"), other.get("segmental_snr_db_mean"))
        if None not in segmental:
            text += f", its segmental SNR {segmental[0]:.1f} dB against {segmental[1]:.1f} dB"
        sentences.append(text + ".")
    return sentences
