"""One word for an AUROC and its interval, with bounds that are stated, so that nobody has to guess what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOLDS, FAILS, MISSED = 0.95, 0.75, 0.5
LEGEND = (
    f"A detector 'holds' if the 95 % interval of its AUROC lies at or above {HOLDS:g}, 'fails' if it lies below "
    f"{FAILS:g}, is 'at chance' if it includes 0.5, 'below chance' if it lies below that, and 'holds in part' "
    "otherwise."
)
_IN_A_SENTENCE = {"at chance": "is at chance", "below chance": "is below chance"}


def verdict(row: Mapping[str, Any]) -> str:
    """What an AUROC and its interval allow to be said.

    >>> verdict({"auroc": 0.59, "auroc_ci95": [0.55, 0.63]})
    'fails'
    """
    lo, hi = row["auroc_ci95"]
    if lo <= 0.5:
        return "below chance" if hi < 0.5 else "at chance"
    if lo >= HOLDS:
        return "holds"
    return "fails" if hi < FAILS else "holds in part"


def verb(word: str) -> str:
    """A verdict as the verb of a sentence.

    >>> verb("at chance"), verb("fails")
    ('is at chance', 'fails')
    """
    return _IN_A_SENTENCE.get(word, word)
