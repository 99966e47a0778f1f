"""The tables of the page and of ``RESULTS``; the paper's numbers stand beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from kaldi_uq.report import paper, robustness
from kaldi_uq.report.run import (
    CLEAN,
    REFERENCE,
    SHOWN_STATISTICS,
    SIDES,
    USUAL_FPR,
    Run,
    arrange,
    pivot,
    rank,
    variants,
)
from kaldi_uq.report.table import EMPTY, Table, show
from kaldi_uq.results.names import (
    CHECKS,
    GATE,
    PAPER_STATISTIC,
    attack_key,
    check_limit,
    check_name,
    check_value,
    model_key,
    model_name,
    split_level,
    statistic_name,
)

TICK, CROSS = "✓", "✗"
SNR_HEAD = "SNR dB (5 %)"
SNR_NOTE = "SNR of the perturbation in dB, mean over utterances (5 % quantile)."
# what is measured of the audio: field of an attack row, heading
QUALITY = {
    "snr_db_mean": "SNR dB",
    "snr_db_q05": "SNR dB, 5 %",
    "segmental_snr_db_mean": "segmental SNR dB",
    "masking_margin_db_mean": "over masking dB",
    "share_above_masking_mean": "share over masking",
    "pesq_mean": "PESQ",
    "stoi_mean": "STOI",
}


def page_tables(run: Run) -> dict[str, list[Table]]:
    """The tables of the page by the place where they stand; those without rows are left out."""
    models = sorted(set(run.negatives["model"]), key=model_key)
    one = (
        *(overview, clean, attacks, gate, speakers, every_attack, measures),
        *(detectors, adaptive, negatives, gate_negatives, checks, timing),
    )
    places = {table.__name__: [table(run)] for table in one}
    places |= {"robustness": [robustness.table(run)], "certified": [robustness.certified(run)]}
    places |= {"worst": robustness.worst(run), "transfer": transfer(run)}
    places |= {"negatives_of": [table for m in models for table in negatives_of(run, m)]}
    return {place: [table for table in several if table.rows] for place, several in places.items()}


def clean(run: Run) -> Table:
    """Table 1."""
    names = {"accuracy": "ours", "ins": "insertions", "del": "deletions", "sub": "substitutions", "num_words": "words",
             "num_utts": "utterances"}  # fmt: skip
    rows = [
        {**row, "model": name, "paper": paper.CLEAN_ACCURACY.get(name)} for name, row in run.content["clean"].items()
    ]
    frame = pd.DataFrame(rows, columns=["model", "paper", *names]).astype({"paper": float}).rename(columns=names)
    frame = arrange(frame, "model").set_index("model")
    note = "The paper's is on TIDIGITS, and its fNN is the DNN."
    return Table.of("clean", "Table 1: word accuracy on benign audio", frame, note)


def attacks(run: Run) -> Table:
    """Every attack at the eps where most were made: what it reaches, and what the paper's detector makes of it."""
    here = run.plain[run.plain["eps"] == run.eps]
    here = here[~here["attack"].isin(variants(here["attack"]))]
    found = run.paper[run.paper["statistic"] == PAPER_STATISTIC]
    here = here.merge(found[["model", "attack", "eps", "short"]], "left", on=["model", "attack", "eps"])
    here["cell"] = _cells("{} / {}", here["target_success"], here["short"])
    cells = pivot(here, ["attack"], "model", "cell").rename(columns=model_name)
    means = (
        here.groupby("attack")[["snr_db_mean", "snr_db_q05", "masking_margin_db_mean"]].mean().dropna(axis=1, how="all")
    )
    frame = cells.join(_decibels(means).rename(columns=QUALITY))
    note = (
        "Share of utterances heard as the target, word for word / AUROC of the paper's detector, which these attacks "
        "do not know. SNR: mean and 5 % quantile over utterances. Over masking: level of the perturbation over what "
        "the audio masks. Means over models."
    )
    return Table.of("attacks", f"Attacks at eps {run.eps:g}", frame, note)


def speakers(run: Run) -> Table:
    """By speaker: the one that does worst, and the one that does best; the attacks of :func:`attacks`."""
    rows = run.speakers[(run.speakers["attack"] == CLEAN) | (run.speakers["eps"] == run.eps)]
    rows = rows[rows["share"].notna() & ~rows["attack"].isin({*variants(run.plain["attack"]), ""})]
    rows = rows[(rows["attack"] == CLEAN) | rows["attack"].isin(run.plain["attack"])]
    rows = rows[rows.groupby("attack")["share"].transform("any")]  # not those that reached nothing at all
    cells = []
    for (attack, model), mine in rows.groupby(["attack", "model"], sort=False):
        if len(mine) > 1:
            worst, best = mine.loc[mine["share"].idxmin()], mine.loc[mine["share"].idxmax()]
            worst, best = (worst, best) if attack == CLEAN else (best, worst)
            texts = [f"{row['speaker']} {row['share']:.3f}" for row in (worst, best)]
            cells.append({"attack": attack, "model": model, "cell": " / ".join(texts)})
    frame = pivot(pd.DataFrame(cells, columns=["attack", "model", "cell"]), ["attack"], "model", "cell")
    frame = frame.loc[sorted(frame.index, key=lambda name: name != CLEAN)].rename(columns=model_name)
    note = (
        "The speaker that does worst / best: word accuracy of clean speech, and share of utterances that have what the "
        "attack wants. All speakers are in speakers.csv."
    )
    return Table.of("speakers", f"By speaker: clean speech, and attacks at eps {run.eps:g}", frame, note)


def every_attack(run: Run) -> Table:
    """All attacks with all their numbers."""
    names = {"num_utts": "utterances", "target_success": "reach", "target_accuracy": "target accuracy",
             "original_accuracy": "original accuracy", **QUALITY}  # fmt: skip
    frame = run.attacks.set_index(["attack", "eps", "model"])
    shown = _decibels(frame[[name for name in names if name in frame and frame[name].notna().any()]])
    shown = shown.rename(columns=names).assign(**{"failed checks": list(map(_failed_checks, frame["checks"]))})
    note = (
        "Accuracies are of words, against the attacker's text and against what was said; more errors than words make "
        "them negative. The measures of the audio are means over utterances."
    )
    return Table.of("every_attack", "All attacks", shown, note)


def measures(run: Run) -> Table:
    """Tables 2 and 3: AUROC of the paper's measures under its attack and under the strong one."""
    known = (paper.ATTACK, REFERENCE)
    shown = sorted({name for name in run.paper["attack"] if split_level(name)[0] in known}, key=attack_key)
    found = run.paper[
        run.paper["attack"].isin(shown) & run.paper["statistic"].isin([*paper.MEASURES, *SHOWN_STATISTICS])
    ]
    every_eps = sorted(found.loc[found["attack"] == shown[0], "eps"].unique(), reverse=True) if shown else []
    wide = found.pivot(index=["model", "statistic"], columns=["eps", "attack"], values="area").sort_index(key=rank)
    frame = pd.DataFrame(index=wide.index)
    for eps in every_eps:
        if eps in paper.AUROC:
            published = [paper.AUROC[eps].get(model, {}).get(statistic) for model, statistic in wide.index]
            frame[f"eps {eps:g}: paper"] = pd.Series(published, wide.index, dtype=float)
        for attack in shown:
            if (eps, attack) in wide:
                frame[f"eps {eps:g}: {attack}"] = wide[eps, attack]
    note = (
        "Two-sided Gaussian, 95 % bootstrap intervals; neither attack knows a detector. The paper's numbers are for "
        f"its own attack, {paper.ATTACK} here, on TIDIGITS."
    ) + _loudness(run, found)
    return Table.of("measures", "Tables 2 and 3: AUROC of the paper's measures", frame, note)


def overview(run: Run) -> Table:
    """The paper's detector under every attack, the one that knows it among them."""
    found = run.paper[run.paper["statistic"] == PAPER_STATISTIC]
    frame = pivot(found[found["knows"].isin(["", PAPER_STATISTIC])], ["attack", "eps"], "model", "area")
    frame = _with_loudness(run, frame.rename(columns=model_name))
    title = f"AUROC of the paper's detector ({statistic_name(PAPER_STATISTIC)}) by attack"
    return Table.of("overview", title, frame, SNR_NOTE if SNR_HEAD in frame else "")


def detectors(run: Run) -> Table:
    """Every kind of detector under the strong attack."""
    found = run.detection[(run.detection["attack"] == run.reference)]
    found = found[found["eps"] == (run.eps if run.eps in set(found["eps"]) else found["eps"].min())]
    for shown in (["all"], SHOWN_STATISTICS):  # of a detector with neither all statistics are shown
        have = set(found.loc[found["statistic"].isin(shown), "name"])
        found = found[found["statistic"].isin(shown) | ~found["name"].isin(have)]
    title = f"Detectors under {run.reference}, eps {found['eps'].min():g}: AUROC"
    note = "One-sided: suspicious is only what is less certain than benign speech; below 0.5 attacks are more certain."
    note += _loudness(run, found)
    return Table.of("detectors", title, pivot(found, ["name", "statistic"], "model", "short"), note)


def gate(run: Run) -> Table:
    """What the default detector catches of each attack."""
    rows = run.gate.assign(cell=_cells("{} / {}", run.gate["reached"], run.gate["caught"]))
    note = (
        "Share of utterances that reach their target / of these, the share that the detector catches (threshold for "
        f"{false_alarms(run)} false alarms)."
    )
    frame = pivot(rows[rows["reached"].notna()], ["attack", "eps"], "model", "cell").rename(columns=model_name)
    return Table.of("gate", f"The default detector ({GATE})", frame, note)


def statistics(run: Run, attack: str, eps: float) -> Table:
    """Every detector and statistic under one attack."""
    found = run.detection[(run.detection["attack"] == attack) & (run.detection["eps"] == eps)]
    found = found.assign(cell=_cells("{} / {}", found["area"], found["tpr_at_fpr_1pct"]))
    frame = pivot(found, ["name", "statistic"], "model", "cell")
    note = "AUROC / share of attacked utterances over the threshold that 1 % of benign ones exceed."
    note += _loudness(run, found)
    return Table.of(f"statistics_{attack}_eps{eps:g}", f"All detectors under {attack}, eps {eps:g}", frame, note)


def adaptive(run: Run) -> Table:
    """What an attack that knows the detector leaves of it, beside the one that does not."""
    points = run.adaptive()
    points["cell"] = _cells("{} → {} ({})", points["plain"], points["adaptive"], points["auroc"])
    note = (
        f"Share of utterances heard as the target that pass the detector (threshold for {_rates(points['fpr'])} false "
        f"alarms): under {REFERENCE}, which does not know the detector → under the attack that knows it (AUROC)."
    )
    note += _loudness(run, points)
    several = bool(points.duplicated(["model", "statistic", "eps"]).any())
    frame = pivot(points, ["model", "statistic", *(["attack"] if several else [])], "eps", "cell")
    return Table.of("adaptive", "Attacks that know the detector", frame, note)


def transfer(run: Run) -> list[Table]:
    """Examples of each model on every other, a table an attack and eps."""
    found = []
    rows = run.transfer[run.transfer["target_success"].notna()]
    for (attack, eps), mine in rows.groupby(["attack", "eps"], sort=False):
        frame = pivot(mine, ["source"], "model", "target_success")
        note = f"Share of {mine['num_utts'].max():g} utterances that the model of the column hears as the target."
        note += _loudness(run, mine)
        title = f"Transfer: {attack} examples of one model on another, eps {eps:g}"
        found.append(Table.of(f"transfer_{attack}_eps{eps:g}", title, frame, note))
    return found


def negatives(run: Run) -> Table:
    """False alarms of the paper's detector on benign but hard audio."""
    rows = run.negatives[(run.negatives["statistic"] == PAPER_STATISTIC) & (run.negatives["sided"] == "two")]
    frame = pivot(rows, ["audio"], "model", "fpr_at_threshold")
    fpr = rows["fpr"].max()
    note = f"Share that the paper's detector calls an attack, with a threshold for {100 * fpr:g} % on clean speech."
    return Table.of("negatives", "False alarms on benign but hard audio", frame, note)


def gate_negatives(run: Run) -> Table:
    """False alarms of the default detector on the same audio, beside the words that are heard in it."""
    rows = run.negatives[run.negatives["statistic"] == GATE]
    rows = rows.assign(cell=_cells("{} / {}", rows["fpr_at_threshold"], rows["accuracy"]))
    note = (
        f"Share that {GATE} calls an attack, with a threshold for {100 * rows['fpr'].max():g} % on clean speech / "
        "word accuracy."
    )
    title = "The default detector on benign but hard audio"
    return Table.of("gate_negatives", title, pivot(rows, ["audio"], "model", "cell").rename(columns=model_name), note)


def negatives_of(run: Run, model: str) -> list[Table]:
    """The same for one model and every statistic, and how well attacks are told from this audio."""
    rows = run.negatives[(run.negatives["model"] == model) & (run.negatives["sided"] == "two")]
    frame = pivot(rows, ["audio"], "statistic", "fpr_at_threshold")
    accuracy = rows.drop_duplicates("audio").set_index("audio")["accuracy"]
    frame.columns = pd.Index([statistic_name(name) for name in frame.columns])
    frame.insert(0, "word accuracy", accuracy.reindex(frame.index))
    note = "Two-sided Gaussian. Level and noise floor are of the audio alone: no model listens."
    alarms = Table.of(f"negatives_{model}", f"False alarms on benign but hard audio: {model_name(model)}", frame, note)
    told = run.told[(run.told["model"] == model) & (run.told["sided"] == "two")]
    told = told[told["knows"] == ""]
    areas = pivot(told, ["attack", "eps", "audio"], "statistic", "auroc")
    loud = _loudness(run, told)
    note = "AUROC; below 0.5 the harmless audio looks more like an attack than the attack does." + loud
    title = f"Attacks told from benign but hard audio: {model_name(model)}"
    return [alarms, Table.of(f"told_{model}", title, areas, note)]


def checks(run: Run) -> Table:
    """Ticks and crosses: a row a check, a column a model."""
    asked = zip(run.checks["check"], run.checks["limit"], strict=True)
    rows = run.checks.assign(
        cell=_cells("{} {:.4g}", run.checks["passed"].map({True: TICK, False: CROSS}), run.checks["value"]),
        asked=[f"{CHECKS.get(n, ('value',))[0]} {check_limit(n, limit)}" for n, limit in asked],
    )
    frame = pivot(rows, ["check"], "model", "cell").rename(columns=model_name)
    limits = rows.groupby("check")["asked"].agg(lambda texts: texts.iloc[0] if texts.nunique() == 1 else "by model")
    frame = frame.join(limits.rename("asked for"))
    return Table.of("checks", "Checks of the attacks", frame, "The number is the worst that was seen.")


def failed(run: Run) -> list[str]:
    """Each check that failed: for whom, what was seen, and what to do."""
    lines = []
    for name, rows in run.checks[~run.checks["passed"].astype(bool)].groupby("check", sort=False):
        seen = []
        for row in rows.to_dict("records"):
            runs = f" in {', '.join(row['failed'])}" if isinstance(row["failed"], list) and row["failed"] else ""
            seen.append(f"{model_name(row['model'])} {check_value(str(name), row['value'])}{runs}")
        asked = " or ".join(dict.fromkeys(check_limit(str(name), limit) for limit in rows["limit"]))
        remedy = "; ".join(dict.fromkeys(rows["remedy"]))
        lines.append(
            f"{CROSS} {check_name(str(name))}: {', '.join(seen)}; asked for: {asked}. {remedy[:1].upper()}{remedy[1:]}."
        )
    return lines


def timing(run: Run) -> Table:
    """Wall-clock seconds of the stages, and what each does."""
    stages = run.content["stages"]
    rows = []
    for stage, spent in run.content["timing_s"].items():
        name = f"{stage.removeprefix('stage')} {stages.get(stage, {}).get('name', '')}".strip()
        rows.append({"stage": name, "seconds": f"{spent:.1f}"})
    frame = pd.DataFrame(rows, columns=["stage", "seconds"]).set_index("stage")
    return Table.of("timing", "Time of the stages", frame, "Wall clock.")


def false_alarms(run: Run) -> str:
    """The false-positive rate that the thresholds of the detection rows are for, such as ``1 %``."""
    return _rates(run.detection["fpr"])


def _rates(rates: pd.Series) -> str:
    found = sorted(rates.fillna(USUAL_FPR).unique()) or [USUAL_FPR]
    return " and ".join(f"{100 * rate:g} %" for rate in found)


def _loudness(run: Run, rows: pd.DataFrame) -> str:
    """The end of a note: how loud the perturbations of the attacks in some rows are, by attack and eps."""
    pairs = rows[["attack", "eps"]].drop_duplicates().itertuples(index=False, name=None)
    found = [f"{attack}, eps {eps:g}: {text}" for attack, eps in pairs if (text := run.loudness(attack, eps))]
    return f" {SNR_NOTE} {'; '.join(found)}." if found else ""


def _with_loudness(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of attack and eps with a column of the SNR, where one is known."""
    found = [run.loudness(attack, eps) for attack, eps in frame.index]
    return frame.assign(**{SNR_HEAD: found}) if any(found) else frame


def csv_files(run: Run) -> dict[str, pd.DataFrame]:
    """Every number in rows: file name -> frame."""
    intervals = [f"{side}_{end}" for side in SIDES for end in ("lo", "hi")]
    unused = [n for n in ("snr_db_q05", "eps_level", "fpr", *intervals[2:]) if run.attacks[n].isna().all()]
    unused += intervals[:2]  # whoever has share and count has the interval
    attacks = run.attacks.drop(columns=unused).assign(failed_checks=list(map(_failed_checks, run.attacks["checks"])))
    where = ["model", "kind", "level", "statistic", "sided"]
    told = run.told.assign(against=_cells("auroc_{}_eps{:g}", run.told["attack"], run.told["eps"]))
    told = told.pivot(index=where, columns="against", values="auroc").reset_index()
    files = {
        "attacks.csv": attacks.drop(columns=["options", "adaptive", "checks", "knows", "by_speaker"]),
        "speakers.csv": run.speakers,
        "detection.csv": run.detection.drop(columns=["auroc_ci95", "area", "short", "failed", "name", "knows"]),
        "robustness.csv": robustness.robustness(run).dropna(axis=1, how="all"),
        "worst.csv": robustness.worst_csv(run),
        "certified.csv": run.certified,
        "transfer.csv": run.transfer.drop(columns="knows"),
        "negatives.csv": run.negatives.merge(told, "left", on=where).drop(columns="audio"),
        "checks.csv": run.checks.drop(columns="failed"),
    }
    return {name: frame for name, frame in files.items() if len(frame)}


def _failed_checks(checks: Any) -> str:
    """An attack's own checks that failed: of name -> ``passed``, ``value``, ``limit``, or a list of warnings."""
    if not isinstance(checks, Mapping):
        return "; ".join(map(str, checks or ()))
    failed = {name: check for name, check in checks.items() if not check["passed"]}
    return "; ".join(f"{check_name(name)}: {c['value']:.4g}, limit {c['limit']:g}" for name, c in failed.items())


def _cells(form: str, *columns: Iterable[Any]) -> list[str]:
    """A text a row, of several columns."""
    plain = "{:" not in form
    return [form.format(*map(show, row) if plain else row) for row in zip(*columns, strict=True)]


def _decibels(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of decibels as text with one decimal."""
    texts = {n: [f"{x:.1f}" if pd.notna(x) else EMPTY for x in frame[n]] for n in frame if "_db_" in n}
    return frame.assign(**texts)
