"""How figures look and how they are written: the same input gives the same bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kaldi_uq.io.files import atomic_write

# Okabe and Ito's palette, told apart with any common colour vision; black and grey are left for text and grid.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, GRID = "#222222", "#D9D9D9"
BENIGN, ATTACKED = BLUE, VERMILION
DPI = 150

_RC: Any = {  # Any: matplotlib's stubs want its names as literals
    "svg.hashsalt": "kaldi-uq",  # ids of an SVG depend on its content only
    "svg.fonttype": "path",  # the same shapes whatever fonts the reader has
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10.0,
}


def new_figure(width: float, height: float) -> Figure:
    """A figure of ``width`` by ``height`` inches with its own canvas: no global state, no window system."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, *, xlabel: str = "", ylabel: str = "", title: str = "", grid: bool = True) -> None:
    """Labels, a light grid behind the data, no box on top and right."""
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    if title:
        axes.set_title(title, fontsize=10.5, color=INK, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    if grid:
        axes.grid(True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG, without date or any other metadata."""
    stream = io.BytesIO()
    with matplotlib.rc_context(_RC):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    return stream.getvalue()


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, without the name of the software."""
    stream = io.BytesIO()
    with matplotlib.rc_context(_RC):
        figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def save_figure(figure: Figure, stem: Path) -> tuple[bytes, bytes]:
    """Write ``stem.png`` and ``stem.svg``; what is in them, in this order."""
    contents = png_bytes(figure), svg_bytes(figure)
    # not with_suffix, which would cut a name like eps0.02 at its point
    for suffix, content in zip((".png", ".svg"), contents, strict=True):
        with atomic_write(stem.with_name(stem.name + suffix), "wb") as stream:
            stream.write(content)
    return contents
