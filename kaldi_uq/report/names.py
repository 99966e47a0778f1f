"""Names and order of models, attacks, measures and statistics in every table and figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kaldi_uq.types import MODEL_KINDS

MODEL_NAMES = {
    "dnn": "fNN (dnn)",
    "ensemble": "deep ensemble",
    "dropout": "MC dropout",
    "bnn": "BNN",
    "mono": "GMM monophone",
}
ATTACK_ORDER = ("noise", "paper-pgd", "pgd", "adaptive")
AGGREGATES = ("max", "mean", "q95")
MEASURES = ("predictive_entropy", "expected_entropy", "mutual_information", "variance", "akld")
CONTROLS = ("noise",)  # nobody steers the recogniser: whatever a detector flags here is a false alarm
DETECTOR_ORDER = (("gaussian", "two"), ("gaussian", "one"))

PAPER_STATISTIC = "max_predictive_entropy"


def model_name(model: str) -> str:
    """The name of a model as the paper's tables have it, the package's kind in brackets where it differs."""
    return MODEL_NAMES.get(model, model)


def statistic_name(statistic: str) -> str:
    """A statistic for people.

    >>> statistic_name("max_mutual_information")
    'max mutual information'
    """
    return statistic.replace("_", " ").replace("akld", "aKLD")


def _rank(value: str, order: Iterable[str]) -> tuple[int, str]:
    known = list(order)
    return (known.index(value) if value in known else len(known), value)


def model_key(model: str) -> tuple[int, str]:
    """Sort key: the paper's order, then others by name."""
    return _rank(model, MODEL_KINDS)


def attack_key(attack: str) -> tuple[int, str]:
    """Sort key: from the weakest to the strongest, then others by name."""
    return _rank(attack, ATTACK_ORDER)


def statistic_key(statistic: str) -> tuple[tuple[int, str], tuple[int, str]]:
    """Sort key: the aggregate over frames first, then the measure."""
    aggregate, _, measure = statistic.partition("_")
    return _rank(aggregate, AGGREGATES), _rank(measure, MEASURES)


def detector_key(row: dict[str, Any]) -> tuple[int, str, str]:
    """Sort key: the paper's two-sided Gaussian before its one-sided form before others."""
    name = (row["detector"], row["sided"])
    return (DETECTOR_ORDER.index(name) if name in DETECTOR_ORDER else len(DETECTOR_ORDER), *name)
