"""The rows, by subject.  Importing them imports neither PyTorch nor what they compare with."""

from __future__ import annotations

from bench.measure import Row
from bench.rows import attacks, commands, decoding, features, models, scale


def all_rows() -> list[Row]:
    """Every row, in the order of the table."""
    return [*attacks.ROWS, *decoding.ROWS, *features.ROWS, *models.ROWS, *commands.ROWS, *scale.ROWS]
