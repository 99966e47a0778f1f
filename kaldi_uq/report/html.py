"""One HTML page that needs nothing else: style, pictures and sound are inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_CSS = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #57606a; --page: #ffffff; --line: #d0d7de; --box: #f6f8fa;
  --link: #0058a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --page: #14181c; --line: #39424b;
  --box: #1d2329; --link: #7cc0ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main, header, nav { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1.75rem; }
h1 { font-size: 1.65rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.75rem 0 .5rem; }
p { max-width: 46rem; margin: .6rem 0; }
a { color: var(--link); }
main ul { max-width: 46rem; padding-left: 1.2rem; } main li { margin: .35rem 0; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: .5rem 0 0; padding: 0; }
code { font: .86rem/1.5 ui-monospace, monospace; background: var(--box); border: 1px solid var(--line);
  border-radius: 4px; padding: .1rem .35rem; overflow-wrap: anywhere; }
.note, .soft { color: var(--soft); font-size: .88rem; }
figure { margin: 1.1rem 0; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: 14px; line-height: 22px; }
th, td { padding: 6px 11px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { background: var(--box); vertical-align: bottom; }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--page); }
tbody th, td { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.picture { max-width: 52rem; }
.picture .scroll { background: #fff; }
.picture img { display: block; width: 100%; height: auto; padding: .4rem; }
.picture:not(.wide) { max-width: 32rem; }
.wide img { min-width: 34rem; }
.texts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .9rem; margin: .5rem 0; }
.texts dt { color: var(--soft); } .texts dd { margin: 0; overflow-wrap: anywhere; }
.long dd { max-width: 46rem; }
@media (max-width: 40rem) { .long { display: block; } .long dd { margin-bottom: .6rem; } }
.sounds { display: flex; flex-wrap: wrap; gap: .75rem 1.5rem; }
.sounds label { display: block; font-size: .88rem; color: var(--soft); max-width: 100%; }
audio { display: block; max-width: 100%; margin-top: .2rem; }
details { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; margin: .8rem 0; }
summary { cursor: pointer; font-weight: 600; }
footer { height: 3rem; }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        anchor: its id.
        title: its heading.
        blocks: HTML, made by the functions of this module or by :meth:`kaldi_uq.report.table.Table.to_html`.
    """

    anchor: str
    title: str
    blocks: tuple[str, ...]


def data_uri(content: bytes, mime: str) -> str:
    """A ``data:`` address that holds the content itself."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def paragraph(text: str, *, soft: bool = False) -> str:
    """A paragraph of plain text."""
    return f'<p class="soft">{html.escape(text)}</p>' if soft else f"<p>{html.escape(text)}</p>"


def listing(sentences: Iterable[str]) -> str:
    """Sentences as the points of a list."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in sentences)}</ul>"


def subheading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{html.escape(text)}</h3>"


def picture(content: bytes, mime: str, *, alt: str, wide: bool = False) -> str:
    """A figure with what it shows in words, for those who do not see it; a wide one scrolls on a narrow screen."""
    if not alt:
        raise ValueError("alt must say what the picture shows")
    source = data_uri(content, mime)
    image = f'<img src="{source}" alt="{html.escape(alt, quote=True)}">'
    # what scrolls must be reachable by keyboard
    box = '<div class="scroll" role="group" tabindex="0">' if wide else '<div class="scroll">'
    return f'<figure class="picture{" wide" if wide else ""}">{box}{image}</div></figure>'


def sound(content: bytes, label: str) -> str:
    """A WAV file with its controls."""
    return (
        f'<label>{html.escape(label)}<audio controls preload="metadata" '
        f'aria-label="{html.escape(label, quote=True)}" src="{data_uri(content, "audio/wav")}"></audio></label>'
    )


def sounds(players: Iterable[str]) -> str:
    """Players side by side where there is room."""
    return f'<div class="sounds">{"".join(players)}</div>'


def texts(pairs: Iterable[tuple[str, str]], *, long: bool = False) -> str:
    """Short texts with their names; long ones stand below their names where the screen is narrow."""
    rows = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(text) or '–'}</dd>" for name, text in pairs)
    return f'<dl class="texts{" long" if long else ""}">{"".join(rows)}</dl>'


def details(summary: str, blocks: Iterable[str]) -> str:
    """Blocks behind a line that opens them."""
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(blocks)}</details>"


def command_line(command: str) -> str:
    """The command that made the page."""
    return f'<p class="soft">Made by <code>{html.escape(command)}</code></p>'


def page(title: str, head: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: of the document and its first heading.
        head: blocks between the heading and the list of sections.
        sections: in order.
    """
    links = "".join(f'<li><a href="#{s.anchor}">{html.escape(s.title)}</a></li>' for s in sections)
    body = "\n".join(
        f'<section id="{s.anchor}"><h2>{html.escape(s.title)}</h2>\n' + "\n".join(s.blocks) + "</section>"
        for s in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_CSS}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1>
{"".join(head)}</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{body}
</main>
<footer></footer>
</body>
</html>
"""
