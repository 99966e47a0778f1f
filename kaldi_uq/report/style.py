"""How figures look, and a figure as bytes: the same input gives the same bytes."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any common colour vision; black and grey are left for text and grid.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, GRID = "#222222", "#D9D9D9"
BENIGN, ATTACKED = BLUE, VERMILION

_DPI = 150  # of what is pixels

_RC: Any = {  # Any: matplotlib's stubs want its names as literals
    "svg.hashsalt": "kaldi-uq",  # ids of an SVG depend on its content only
    "svg.fonttype": "path",  # the same shapes whatever fonts the reader has
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10.0,
}
# neither date nor the name of the software
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
}
# what stands for a colour where the reader's screen is dark; the colours of the data are seen on both
_DARK = {"#ffffff": "#14181c", "#000000": "#e6e9ec", INK.lower(): "#e6e9ec", GRID.lower(): "#39424b"}
ON_LIGHT, ON_DARK = "#111111", "#fefefe"  # text on a coloured area, which stays as it is


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


def legend(figure: Figure, *, columns: int, title: str | None = None) -> None:
    """One legend below all panels, each label once: a panel can lack a line that its neighbour has."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles.update({label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)})
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(handles), columns), "frameon": False}
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            fontsize=8.5,
            title=title,
            title_fontsize=8.5,
            labelcolor=INK,
            **place,
        )


def figure_bytes(figure: Figure) -> dict[str, bytes]:
    """A figure as ``png``, ``svg`` and ``pdf``; it is used up by that."""
    contents = {kind: io.BytesIO() for kind in _METADATA}
    with matplotlib.rc_context(_RC):
        figure.savefig(contents["png"], format="png", dpi=_DPI, metadata=_METADATA["png"])
        figure.set_layout_engine("none")  # that of the first serves all
        # savefig() would draw each of these twice, the first time for a layout
        for kind, write in {"svg": FigureCanvasSVG(figure).print_svg, "pdf": FigureCanvasPdf(figure).print_pdf}.items():
            figure.set_dpi(_DPI)  # which they change
            write(contents[kind], metadata=_METADATA[kind])
    made = {kind: content.getvalue() for kind, content in contents.items()}
    return made | {"svg": _with_dark(made["svg"])}


def _with_dark(svg: bytes) -> bytes:
    """The same picture, which turns dark where its reader's screen is."""
    rules = [
        f'[style*="{what}: {light}"]{{{what}:{dark} !important}}'
        for light, dark in _DARK.items() for what in ("fill", "stroke")
    ]  # fmt: skip
    css = f"@media (prefers-color-scheme: dark) {{{''.join(rules)}}}</style>"
    return svg.replace(b"</style>", css.encode(), 1)
