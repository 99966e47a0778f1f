"""A table for reading: made of a data frame, shown on the page, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kaldi_uq.results.names import check_name, model_name, statistic_name
from kaldi_uq.results.robustness import FEW

EMPTY = "–"
FAILED = "†"  # behind an AUROC over attacks that failed
_LABELS: dict[str | None, Callable[[Any], str]] = {
    "model": model_name,
    "source": model_name,
    "statistic": statistic_name,
    "check": check_name,
    "eps": "{:g}".format,
    "eps_level": lambda level: f"{level:g}" if level else "absolute",
}
FAILED_NOTE = (
    f"{FAILED}: the attack failed, fewer than {FEW} utterances reach their target; an AUROC over attacks that failed "
    "means nothing."
)
_HEADS = {"source": "made against", "eps_level": "eps for level", "name": "detector", "audio": "benign audio"}


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Args:
        slug: id on the page.
        title: one line.
        heads: headings.
        rows: cells.
        labels: how many columns from the left are names; what follows are mostly numbers.
        note: what a reader must know to read it rightly.
    """

    slug: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int
    note: str = ""

    @classmethod
    def of(cls, slug: str, title: str, frame: pd.DataFrame, note: str = "") -> Table:
        """The index levels of a frame are the names of its rows; rows and columns without anything are left out."""
        frame = frame.dropna(how="all")
        frame = frame.loc[:, [bool((column.notna() & (column != "")).any()) for _, column in frame.items()]]
        levels = frame.index.names
        rows = []
        for key, cells in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
            parts = key if isinstance(key, tuple) else (key,)
            names = [_LABELS.get(level, str)(part) for level, part in zip(levels, parts, strict=True)]
            rows.append((*names, *map(show, cells)))
        if any(FAILED in cell for row in rows for cell in row):
            note = f"{note} {FAILED_NOTE}".strip()
        by = frame.columns.name
        columns = [("eps " if by == "eps" else "") + _LABELS.get(by, str)(name) for name in frame.columns]
        return cls(slug, title, (*(_HEADS.get(x, x) for x in levels), *columns), tuple(rows), len(levels), note)

    def markdown(self) -> str:
        """Title, note and table."""
        # a line break or a bar inside a cell would end it
        lines = [[" ".join(text.split()).replace("|", "\\|") for text in line] for line in (self.heads, *self.rows)]
        widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
        sides = ["<" if c < self.labels else ">" for c in range(len(widths))]
        lines.insert(1, ["-" * (w - (s == ">")) + ":" * (s == ">") for w, s in zip(widths, sides, strict=True)])
        padded = [" | ".join(f"{t:{s}{w}}" for t, s, w in zip(line, sides, widths, strict=True)) for line in lines]
        return "\n".join([f"**{self.title}.** {self.note}".rstrip(), *(f"| {line} |" for line in padded)])

    def latex(self) -> str:
        """A ``table`` environment in the style of the package ``booktabs``; no character of a cell is a command."""
        lines = [" & ".join(map(escape_latex, line)) + r" \\" for line in (self.heads, *self.rows)]
        columns = "l" * self.labels + "r" * (len(self.heads) - self.labels)
        caption = escape_latex(f"{self.title}. {self.note}".rstrip())
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{caption}}}",
                rf"\label{{tab:{''.join(c if c.isascii() and c.isalnum() else '-' for c in self.slug)}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                lines[0],
                r"\midrule",
                *lines[1:],
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )

    def csv(self) -> str:
        """The cells as they are shown, line breaks as blanks."""
        stream = io.StringIO()
        lines = ([" ".join(cell.split()) for cell in line] for line in (self.heads, *self.rows))
        csv.writer(stream, lineterminator="\n").writerows(lines)
        return stream.getvalue()


_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{c: f"{{{c}}}" for c in "[]*"},  # behind the end of a row they would belong to it
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "–": r"\textendash{}", "−": "$-$", "→": r"$\rightarrow$",
    "≥": r"$\geq$", "†": r"$\dagger$", "✓": r"$\surd$", "✗": r"$\times$",
}  # fmt: skip
_LATIN = "\u024f"  # the last letter that LaTeX knows without a further package


def escape_latex(text: str) -> str:
    r"""Text that LaTeX sets as it is, on one line; a character that it may not know becomes a question mark.

    >>> print(escape_latex("a_b -5 % {x} \\emph --eps"))
    a\_b $-$5 \% \{x\} \textbackslash{}emph -{}-eps
    """
    text = re.sub(r"(?<!\S)-(?=[\d.])", "−", " ".join(text.split()))
    known = [_LATEX.get(c, c if c.isascii() or (c.isalpha() and c <= _LATIN) else "?") for c in text if c.isprintable()]
    return "".join(known).replace("--", "-{}-")


def show(cell: Any) -> str:
    """A cell as text.

    >>> show(0.12345), show(7), show(None), show("as it is")
    ('0.123', '7', '–', 'as it is')
    """
    if isinstance(cell, str):
        return cell or EMPTY
    if cell is None or pd.isna(cell):
        return EMPTY
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
