"""Lists and ranges in a sentence."""

from __future__ import annotations

from collections.abc import Iterable


def listing(parts: Iterable[str]) -> str:
    """One, two and three.

    >>> listing(["one"]), listing(["one", "two", "three"])
    ('one', 'one, two and three')
    """
    items = list(parts)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def span(values: Iterable[float], form: str) -> str:
    """The smallest and the largest of some numbers, once if they read the same.

    >>> span([0.5, 0.25, 0.75], ".2f"), span([1.0, 1.0], "g")
    ('0.25 to 0.75', '1')
    """
    texts = sorted({f"{value:{form}}" for value in values}, key=float)
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"
