"""What a run measured: ``results.json`` as data frames in the order of all tables, and the one way to pivot them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kaldi_uq.errors import DataError
from kaldi_uq.report.table import FAILED
from kaldi_uq.results import names
from kaldi_uq.results.robustness import FEW
from kaldi_uq.results.table import FIELDS
from kaldi_uq.results.worst_case import interval

REFERENCE = "pgd"  # the strong attack, which knows the model and not the detector
CLEAN = "clean"  # in place of an attack's name: benign speech
USUAL_FPR = 0.01  # of results that do not say for how many false alarms their thresholds are
SHOWN_STATISTICS = (names.PAPER_STATISTIC, "mean_predictive_entropy")  # they differ in the aggregate alone
KEYS = {
    "model": names.model_key,
    "source": names.model_key,
    "attack": names.attack_key,
    "statistic": names.statistic_key,
    "check": names.check_key,
}
SIDES = ("target_success", "target_accuracy", "original_accuracy")  # what an attack does, with intervals
# fields that a row of a section need not have, behind those that every row has
_MORE = {
    "attacks": ("target_success", "snr_db_q05", "masking_margin_db_mean", "evasion", "options", "adaptive", "eps_level",
                "fpr", "by_speaker"),
    "detection": ("auroc_lo", "auroc_hi", "detector", "sided", "reached", "evasion", "fpr"),
    "worst": ("by_words", "evasion", "evasion_num_utts"),
    "checks": ("model", "check", "passed", "value", "limit", "remedy", "failed"),
}  # fmt: skip
_NUMBERS = {"eps", "level", "num_utts", "target_success", "target_accuracy", "original_accuracy", "snr_db_mean",
            "snr_db_q05", "eps_level", "masking_margin_db_mean", "auroc", "tpr_at_fpr_1pct", "reached", "evasion",
            "fpr", "fpr_at_threshold", "accuracy", "value", "limit", "success", "against_target", "against_any",
            "right", "evasion_num_utts"}  # fmt: skip
# Kinds of benign but hard audio in order, and what their level is; a high SNR is mild, a high level of others hard.
_LEVELS = {"clean": "", "uniform": ", eps {:g}", "white": ", {:g} dB SNR", "babble": ", {:g} dB SNR",
           "reverb": ", RT60 {:g} s", "gain": ", {:+g} dB"}  # fmt: skip


class Run:
    """Everything that a run measured.

    Args:
        content: the content of ``results.json``, as :meth:`kaldi_uq.results.table.Results.read` gives it.

    Attributes:
        attacks: one row a model, attack and eps; ``knows`` is the statistic whose detector the attack knows, or "";
            with the 95 % intervals of ``SIDES``, ``..._lo`` and ``..._hi``, where they are known.
        plain: those of ``attacks`` that know no detector.
        detection: one row a model, attack, eps, statistic and detector of any kind; ``name`` is the detector's label,
            ``area`` its AUROC with the 95 % interval and ``short`` without, marked where the attack ``failed``: it
            reaches the target of fewer than ``FEW`` utterances.
        paper: those of ``detection`` by the paper's detector, the two-sided Gaussian, of any statistic.
        gate: those of ``detection`` by the default detector, with ``caught``, the share of what reaches its target.
        transfer, worst, negatives, certified, checks: the sections; ``audio`` is the kind of hard audio with its level;
            ``level`` of a worst case is the one that the eps of its attacks is for, 0 if absolute.
        told: how well attacks are told from ``negatives``.
        speakers: one row a model, attack, eps and speaker: ``share`` of utterances that have what the attack wants, or
            of attack ``CLEAN`` the accuracy of the words; ``num_utts``, ``snr_db_mean``.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.attacks = arrange(_with_intervals(_frame(content["attacks"], "attacks")), "attack", "eps", "model")
        self.plain = self.attacks[self.attacks["knows"] == ""]
        self.detection = _detection([*content["detection"], *content["detection_other"]], self.attacks)
        is_paper = (self.detection["detector"] == "gaussian") & (self.detection["sided"] == "two")
        self.paper = self.detection[is_paper]
        rows = self.detection[(self.detection["statistic"] == "all") & (self.detection["detector"] == "joint")]
        self.gate = rows.assign(caught=1 - rows["evasion"] / rows["reached"].where(rows["reached"] > 0))
        self.transfer = arrange(_frame(content["transfer"], "transfer"), "attack", "eps", "source", "model")
        worst = _frame(content["worst"], "worst")
        worst["level"] = [max([0.0, *(names.split_level(a["attack"])[1] for a in of)]) for of in worst["attacks"]]
        self.worst = arrange(worst, "model", "attack", "eps")
        self.certified = arrange(_frame(content["certified"], "certified"), "model", "eps")
        self.negatives, self.told = _negatives(content["negatives"])
        self.speakers = _speakers(content["clean"], self.attacks)
        checks = [{"model": m, "check": n, **c} for m, named in content["checks"].items() for n, c in named.items()]
        rows = [{field: row.get(field) for field in _MORE["checks"]} for row in checks]
        self.checks = arrange(_frame(rows, "checks"), "check", "model")

    @property
    def eps(self) -> float:
        """The eps at which most attacks were made, the smallest if several: where attacks can be compared."""
        counts = self.plain["eps"].value_counts()
        return float(min(counts.index[counts == counts.max()], default=0.0))

    @property
    def reference(self) -> str:
        """The attack on which detectors are compared: pgd, or else the last of those that detectors were tried on."""
        tried = list(self.detection.loc[self.detection["knows"] == "", "attack"].unique())
        return self.strong[0] if self.strong else tried[-1] if tried else ""

    @property
    def strong(self) -> list[str]:
        """The strong attack as detectors were tried on it, with an absolute eps and at levels."""
        return [name for name in self.detection["attack"].unique() if names.split_level(name)[0] == REFERENCE]

    def loudness(self, attack: str, eps: float) -> str:
        """SNR of an attack's perturbations in dB, mean over models: of the mean and, in brackets, of the 5 % quantile.

        Nothing where it is not known, or nothing was added.
        """
        here = self.attacks[(self.attacks["attack"] == attack) & (self.attacks["eps"] == eps)]
        mean, worst = here["snr_db_mean"].mean(), here["snr_db_q05"].mean()
        return "" if pd.isna(mean) else f"{mean:.1f}" if pd.isna(worst) else f"{mean:.1f} ({worst:.1f})"

    def steps(self) -> pd.DataFrame:
        """Attacks that differ from the reference in nothing but the number of gradient steps, with ``steps``.

        Of two with the same number, such as those with other draws of a random model, the first counts.
        """
        options = [dict(row) if isinstance(row, Mapping) else {} for row in self.plain["options"]]
        frame = self.plain.assign(steps=[row.pop("num_steps", None) for row in options], rest=list(map(repr, options)))
        base = frame.loc[frame["attack"] == self.reference, ["model", "eps", "rest"]]
        frame = frame[frame["target_success"].notna() & frame["steps"].notna()].merge(base, on=["model", "eps", "rest"])
        frame = frame.drop_duplicates(["model", "eps", "steps"])
        return frame[frame.groupby(["model", "eps"])["steps"].transform("nunique") > 1]

    def adaptive(self) -> pd.DataFrame:
        """One row an attack that knows a detector: ``model``, ``statistic``, ``eps``, ``attack``, and

        ``detector``, ``sided``, ``fpr``: the detector that it knows, and the false-positive rate of its threshold;
        ``plain``, ``adaptive``: the share of utterances that reach their target and pass, under the attack that does
        not know the detector and under the one that does, ``adaptive_lo`` and ``_hi`` its 95 % interval; ``auroc`` of
        the latter, as text; ``num_utts`` of it, and ``reached``, the share that reaches its target, passed or not;
        ``level``: the one that eps is for, 0 if it is absolute.
        """
        by = ["model", "attack", "eps", "statistic", "detector", "sided"]
        found = self.detection.set_index(by)[["evasion", "short", "fpr"]].to_dict("index")
        rows = []
        for row in self.attacks[self.attacks["knows"] != ""].to_dict("records"):
            said = row["adaptive"] if isinstance(row["adaptive"], Mapping) else {}
            form = (said.get("detector", "gaussian"), said.get("sided", "two"))
            fpr, statistic = said.get("fpr", USUAL_FPR), row["knows"]
            if statistic == names.GATE:
                statistic, form = "all", ("joint", "two")
            blind = names.at_level(REFERENCE, names.split_level(row["attack"])[1])
            own = found.get((row["model"], row["attack"], row["eps"], statistic, *form), {})
            plain = found.get((row["model"], blind, row["eps"], statistic, *form), {})
            rates = [USUAL_FPR if pd.isna(at := of.get("fpr", fpr)) else at for of in (plain, own)]
            # None: what was measured is of another threshold
            blindly, knowingly = (
                of.get("evasion") if rate == fpr else None for of, rate in zip((plain, own), rates, strict=True)
            )
            shares = (blindly, knowingly if pd.isna(row["evasion"]) else row["evasion"], own.get("short"))
            all_of = (row["num_utts"], row["target_success"])
            rows.append((row["model"], row["knows"], row["eps"], row["attack"], *form, fpr, *shares, *all_of))
        columns = ["model", "statistic", "eps", "attack", "detector", "sided", "fpr", "plain", "adaptive", "auroc"]
        frame = pd.DataFrame(rows, columns=[*columns, "num_utts", "reached"])
        frame = frame.astype({"eps": float, "plain": float, "adaptive": float, "reached": float})
        frame["level"] = [names.split_level(name)[1] for name in frame["attack"]]
        frame["adaptive_lo"], frame["adaptive_hi"] = _edges(_intervals(frame["adaptive"], frame["num_utts"]))
        return arrange(frame, "model", "statistic", "attack", "eps")

    def strongest(self) -> pd.DataFrame:
        """Of the rows of :meth:`adaptive` on one detector at one eps, the one that reaches and passes the most.

        Left out are thresholds for more false alarms than the fewest, and budgets at a level where others are absolute.
        """
        points = self.adaptive()
        points = points[(points["fpr"] == points["fpr"].min()) & (points["level"] == points["level"].min())]
        by = ["model", "statistic", "detector", "sided", "eps"]
        points = points.sort_values("adaptive", ascending=False, kind="stable").drop_duplicates(by)
        return arrange(points, "model", "statistic", "eps")


def arrange(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows sorted by columns, names in the order of all tables."""
    return frame.sort_values(list(columns), key=rank, kind="stable", ignore_index=True)


def pivot(frame: pd.DataFrame, index: Sequence[str], columns: str, values: str) -> pd.DataFrame:
    """A row for each value of ``index``, a column for each of ``columns``, names in the order of all tables."""
    wide = frame.pivot(index=list(index), columns=columns, values=values)
    return wide.sort_index(key=rank).sort_index(axis=1, key=rank)


def rank(values: Any) -> Any:
    """The key to sort an index or a series by: positions in the order of all tables."""
    key = KEYS.get(str(values.name))
    if key is None:
        return values
    places = {value: place for place, value in enumerate(sorted(set(values), key=key))}
    return values.map(places)


def variants(attacks: Iterable[str]) -> set[str]:
    """Attacks that are another attack with one thing changed, by their names.

    >>> sorted(variants(["pgd", "pgd-2x", "paper-pgd", "paper-pgd-eot10"]))
    ['paper-pgd-eot10', 'pgd-2x']
    """
    known = {name: names.split_level(name) for name in attacks}
    return {
        name
        for name, (own, level) in known.items()
        if any(own.startswith(f"{other}-") and level == at for other, at in known.values())
    }


def _frame(rows: Sequence[Mapping[str, Any]], section: str) -> pd.DataFrame:
    """The rows of a section with all of its columns, and what else they have behind these."""
    missing = {name for row in rows for name in FIELDS.get(section, ()) if name not in row}
    if missing:
        raise DataError(f"results.json: a row of section {section!r} has no {', '.join(sorted(missing))}")
    columns = [*FIELDS.get(section, ()), *_MORE.get(section, ())]
    frame = pd.DataFrame.from_records(rows)
    frame = frame.reindex(columns=[*columns, *(name for name in frame.columns if name not in columns)])
    for name in set(frame.columns) & (_NUMBERS - {"auroc"} if section == "negatives" else _NUMBERS):
        try:
            frame[name] = pd.to_numeric(frame[name])
        except (TypeError, ValueError) as error:
            raise DataError(f"results.json: field {name!r} must hold numbers: {error}") from None
    if "attack" in frame:
        frame["knows"] = [names.known_statistic(name) for name in frame["attack"]]
    return frame


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """The ends of the intervals: of shares of utterances by Clopper and Pearson, of accuracies as measured."""
    success, *accuracies = SIDES
    intervals = {success: _intervals(frame[success], frame["num_utts"])}
    for side in accuracies:
        intervals[side] = frame.pop(f"{side}_ci95") if f"{side}_ci95" in frame else [None] * len(frame)
    for side in SIDES:
        low, high = _edges(intervals[side])
        frame = frame.assign(**{f"{side}_lo": low, f"{side}_hi": high})
    return frame


def _intervals(shares: pd.Series, totals: pd.Series) -> list[tuple[float, float] | None]:
    """The Clopper-Pearson interval of each share that is known."""
    pairs = zip(shares, totals, strict=True)
    return [interval(round(share * total), int(total)) if share == share else None for share, total in pairs]


def _edges(intervals: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends; NaN where there is no interval."""
    pairs = [pair if isinstance(pair, list | tuple) else (None, None) for pair in intervals]
    low, high = (np.array([pair[side] for pair in pairs], dtype=np.float64) for side in (0, 1))
    return low, high


def _speakers(clean: Mapping[str, Any], attacks: pd.DataFrame) -> pd.DataFrame:
    rows = [(model, CLEAN, 0.0, row.get("by_speaker")) for model, row in clean.items()]
    rows += list(attacks[["model", "attack", "eps", "by_speaker"]].itertuples(index=False, name=None))
    found = [
        {"model": model, "attack": attack, "eps": eps, "speaker": spk, "num_utts": of["num_utts"],
         "share": of.get("success", of.get("accuracy")), "snr_db_mean": of.get("snr_db_mean")}
        for model, attack, eps, speakers in rows if isinstance(speakers, Mapping) for spk, of in speakers.items()
    ]  # fmt: skip
    columns = ["model", "attack", "eps", "speaker", "num_utts", "share", "snr_db_mean"]
    return pd.DataFrame(found, columns=columns).astype({"share": float, "snr_db_mean": float})


def _detection(rows: Sequence[Mapping[str, Any]], attacks: pd.DataFrame) -> pd.DataFrame:
    whole = [{"detector": "gaussian", "sided": "two", **row} for row in rows]
    frame = _frame(sorted(whole, key=names.detector_key), "detection")
    frame["auroc_lo"], frame["auroc_hi"] = ([interval[i] for interval in frame["auroc_ci95"]] for i in (0, 1))
    by = ["model", "attack", "eps"]
    counts = attacks.assign(count=(attacks["target_success"] * attacks["num_utts"]).round())
    reached = counts.groupby(by)["count"].max().to_dict()
    places = frame[by].itertuples(index=False, name=None)
    frame["failed"] = pd.Series([reached.get(place, FEW) < FEW for place in places], frame.index, dtype=bool)
    marks = [FAILED * failed for failed in frame["failed"]]
    numbers = zip(frame["auroc"], frame["auroc_lo"], frame["auroc_hi"], marks, strict=True)
    frame["area"] = [f"{area:.3f} [{lo:.3f}, {hi:.3f}]{mark}" for area, lo, hi, mark in numbers]
    frame["short"] = [f"{area:.3f}{mark}" for area, mark in zip(frame["auroc"], marks, strict=True)]
    # the side is part of the label only where a detector has both
    sides = frame.groupby("detector")["sided"].nunique()
    pairs = zip(frame["detector"], frame["sided"], strict=True)
    labels = [f"{kind}, {sided}-sided" if sides[kind] > 1 else str(kind) for kind, sided in pairs]
    frame["name"] = pd.Categorical(labels, categories=dict.fromkeys(labels), ordered=True)
    return arrange(frame, "attack", "eps", "name", "statistic", "model")


def _negatives(rows: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = _frame(rows, "negatives")
    kinds = [*_LEVELS, *sorted(set(frame["kind"]) - set(_LEVELS))]
    mild_if_high = frame["kind"].isin([kind for kind, level in _LEVELS.items() if "dB" in level])
    frame = frame.assign(place=frame["kind"].map(kinds.index), order=frame["level"].mask(mild_if_high, -frame["level"]))
    frame = frame.sort_values(["place", "order"], kind="stable", ignore_index=True).drop(columns=["place", "order"])
    pairs = zip(frame["kind"], frame["level"], strict=True)
    labels = [kind + _LEVELS.get(kind, " {:g}").format(level) for kind, level in pairs]
    frame["audio"] = pd.Categorical(labels, categories=dict.fromkeys(labels), ordered=True)
    told = frame[["model", "audio", "kind", "level", "statistic", "sided", "auroc"]].explode("auroc", ignore_index=True)
    told = told[told["auroc"].notna()]
    told = told.assign(**{field: [entry[field] for entry in told["auroc"]] for field in ("attack", "eps", "auroc")})
    return frame.drop(columns="auroc"), told.assign(knows=list(map(names.known_statistic, told["attack"])))
