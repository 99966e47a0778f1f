"""A table once, as Markdown, CSV or HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias


class Interval(NamedTuple):
    """An estimate with its 95 % interval; three columns in CSV."""

    value: float
    lo: float
    hi: float


Cell: TypeAlias = str | int | float | Interval | None
EMPTY = "–"


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; numbers keep their value and are rounded only for reading.

    Args:
        slug: name of its files.
        title: one line.
        columns: headings.
        rows: cells, None where there is nothing.
        note: what a reader must know to read it rightly.
        strong: (row, column) of the cells to stress.
        coarse: columns whose floats are shown with one decimal; the others have three.
    """

    slug: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    strong: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    coarse: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.slug!r}: row {row} has {len(row)} cells for {len(self.columns)} columns")

    def _show(self, cell: Cell, column: int) -> str:
        if cell is None:
            return EMPTY
        if isinstance(cell, Interval):
            value, lo, hi = (f"{part:.3f}" for part in cell)
            return f"{value} [{lo}, {hi}]"
        return f"{cell:.{1 if column in self.coarse else 3}f}" if isinstance(cell, float) else str(cell)

    def to_markdown(self) -> str:
        """Title, table, note."""
        # a line break or a bar inside a cell would end it
        lines = [[" ".join(name.split()).replace("|", "\\|") for name in self.columns]]
        for r, row in enumerate(self.rows):
            shown = [" ".join(self._show(cell, c).split()).replace("|", "\\|") for c, cell in enumerate(row)]
            lines.append([f"**{text}**" if (r, c) in self.strong else text for c, text in enumerate(shown)])
        widths = [max(3, *(len(line[c]) for line in lines)) for c in range(len(self.columns))]
        numeric = [self._is_numeric(c) for c in range(len(self.columns))]
        rule = ["-" * (w - 1) + ":" if right else "-" * w for w, right in zip(widths, numeric, strict=True)]
        padded = [
            "| " + " | ".join(_pad(*cell) for cell in zip(line, widths, numeric, strict=True)) + " |"
            for line in [lines[0], rule, *lines[1:]]
        ]
        note = f"\n{self.note}\n" if self.note else ""
        return f"**{self.title}**\n\n" + "\n".join(padded) + "\n" + note

    def to_csv(self) -> str:
        """Headings and unrounded values; an interval becomes three columns."""
        expand = [any(isinstance(row[c], Interval) for row in self.rows) for c in range(len(self.columns))]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_expanded(self.columns, expand, lambda name: [name, f"{name} lo", f"{name} hi"]))
        for row in self.rows:
            writer.writerow(
                _expanded(row, expand, lambda cell: list(cell) if isinstance(cell, Interval) else [cell] * 3)
            )
        return stream.getvalue()

    def to_html(self) -> str:
        """A ``<figure>`` whose table scrolls inside its box on a narrow screen."""
        heads = "".join(
            f'<th scope="col"{self._css(c)}>{html.escape(name)}</th>' for c, name in enumerate(self.columns)
        )
        body = []
        for r, row in enumerate(self.rows):
            cells = [html.escape(self._show(cell, c)) for c, cell in enumerate(row)]
            cells = [f"<strong>{text}</strong>" if (r, c) in self.strong else text for c, text in enumerate(cells)]
            first, rest = cells[0], cells[1:]
            tail = "".join(f"<td{self._css(c)}>{text}</td>" for c, text in enumerate(rest, 1))
            body.append(f'<tr><th scope="row">{first}</th>{tail}</tr>')
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        label = html.escape(self.title, quote=True)
        return (
            f'<figure class="table" id="{html.escape(self.slug, quote=True)}">'
            f"<figcaption>{html.escape(self.title)}</figcaption>"
            f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
            f"<table><thead><tr>{heads}</tr></thead>\n<tbody>"
            + "\n".join(body)
            + f"</tbody></table></div>{note}</figure>"
        )

    def _is_numeric(self, column: int) -> bool:
        cells = [row[column] for row in self.rows if row[column] is not None]
        return column > 0 and bool(cells) and not any(isinstance(cell, str) for cell in cells)

    def _css(self, column: int) -> str:
        return ' class="number"' if self._is_numeric(column) else ""


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def _expanded(cells: Sequence[Cell], expand: Sequence[bool], three: Callable[[Cell], list[Cell]]) -> list[Cell]:
    result: list[Cell] = []
    for cell, is_wide in zip(cells, expand, strict=True):
        result += three(cell) if is_wide else [cell]
    return result
