"""The published numbers, so that ours can stand beside them.

Source: tables 1, 2 and 3 of the paper.  Its models are our ``dnn`` (fNN), ``ensemble`` (5 members), ``dropout`` (100
draws) and ``bnn`` (5 draws); its measures are maxima over the frames of an utterance (section 3.2).  Figure 1 is
published as a plot, and no numbers are read off it here.
"""

from __future__ import annotations

from typing import Final

# The attack that the numbers are about, by its name here.
ATTACK: Final = "paper-pgd"

# Table 1: word accuracy on 1000 benign TIDIGITS utterances.
CLEAN_ACCURACY: Final[dict[str, float]] = {"dnn": 0.991, "ensemble": 0.994, "dropout": 0.973, "bnn": 0.981}

# The columns of tables 2 and 3, in the paper's order.
MEASURES: Final = ("max_variance", "max_akld", "max_mutual_information", "max_predictive_entropy")

# Tables 2 and 3: eps -> model -> statistic -> AUROC of the two-sided Gaussian; 1000 utterances benign, 1000 attacked.
AUROC: Final[dict[float, dict[str, dict[str, float]]]] = {
    eps: {model: dict(zip(MEASURES[-len(row) :], row, strict=True)) for model, row in table.items()}
    for eps, table in {
        0.05: {
            "dnn": (0.989,),  # one posterior has no other measure
            "ensemble": (0.455, 0.892, 0.993, 0.990),
            "dropout": (0.637, 0.443, 0.498, 0.978),
            "bnn": (0.667, 0.777, 0.794, 0.988),
        },
        0.02: {
            "dnn": (0.997,),
            "ensemble": (0.461, 0.624, 0.964, 0.996),
            "dropout": (0.937, 0.578, 0.411, 0.991),
            "bnn": (0.489, 0.448, 0.462, 0.998),
        },
    }.items()
}
