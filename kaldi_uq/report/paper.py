"""The published numbers, so that ours can stand beside them.

Source: tables 1, 2 and 3 of the paper.  Its models are our ``dnn`` (fNN), ``ensemble`` (5 members), ``dropout`` (100
draws) and ``bnn`` (5 draws); its measures are maxima over the frames of an utterance (section 3.2).  Figure 1 is
published as a plot, and no numbers are read off it here.
"""

from __future__ import annotations

from typing import Final

# Table 1: word accuracy on 1000 benign TIDIGITS utterances.
CLEAN_ACCURACY: Final[dict[str, float]] = {"dnn": 0.991, "ensemble": 0.994, "dropout": 0.973, "bnn": 0.981}

# The columns of tables 2 and 3, in the paper's order: our statistic, the paper's heading.
MEASURES: Final[dict[str, str]] = {
    "max_variance": "Variance",
    "max_akld": "aKLD",
    "max_mutual_information": "MI",
    "max_predictive_entropy": "Entropy",
}


def _by_statistic(rows: dict[str, tuple[float | None, ...]]) -> dict[str, dict[str, float]]:
    return {
        model: {name: value for name, value in zip(MEASURES, values, strict=True) if value is not None}
        for model, values in rows.items()
    }


# Tables 2 and 3 by eps: AUROC of the two-sided Gaussian for 1000 benign and 1000 attacked utterances.
AUROC: Final[dict[float, dict[str, dict[str, float]]]] = {
    0.05: _by_statistic(
        {
            "dnn": (None, None, None, 0.989),
            "ensemble": (0.455, 0.892, 0.993, 0.990),
            "dropout": (0.637, 0.443, 0.498, 0.978),
            "bnn": (0.667, 0.777, 0.794, 0.988),
        }
    ),
    0.02: _by_statistic(
        {
            "dnn": (None, None, None, 0.997),
            "ensemble": (0.461, 0.624, 0.964, 0.996),
            "dropout": (0.937, 0.578, 0.411, 0.991),
            "bnn": (0.489, 0.448, 0.462, 0.998),
        }
    ),
}
TABLE_OF_EPS: Final[dict[float, int]] = {0.05: 2, 0.02: 3}

# The attack that the numbers are about, by its name here.
ATTACK: Final = "paper-pgd"
NOTES: Final[tuple[str, ...]] = (
    "The paper's numbers are for TIDIGITS, 1000 benign and 1000 attacked utterances, and for its own attack: "
    "cleverhans 2.1.0, 40 steps of 0.01 whatever eps is (here: paper-pgd). Beside another attack or another corpus "
    "they are a reminder, not a reference.",
    "The paper's code aligns texts with a gap a hundred times as dear as a substitution; accuracies here are by "
    "Kaldi's unit costs, which on differing texts are equal or higher.",
)
