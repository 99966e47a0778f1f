"""Directives that show the committed results: no number of theirs is typed into a page.

``results RUN TABLE...``: tables of one run, as ``kaldi-uq report`` makes them; ``findings RUN``: its headlines;
``beside-paper``: the paper's tables 1, 2 and 3 beside ours; ``robust-models``: what attacks reach of robust models.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.report import paper
from kaldi_uq.report.findings import findings
from kaldi_uq.report.run import REFERENCE, Run
from kaldi_uq.report.table import EMPTY, Table
from kaldi_uq.report.tables import page_tables
from kaldi_uq.results.names import model_name, statistic_name
from kaldi_uq.results.table import Results

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# name in a page -> directory of results.json.gz
RUNS = {
    "synth": "tidigits/results/synth_full",
    "fsdd": "tidigits/results/fsdd_full",
    "synth-robust": "tidigits/results/synth_robust",
    "fsdd-robust": "tidigits/results/fsdd_robust",
    "commands": "commands/results",
}
NAMES = {"synth": "synthesised", "fsdd": "recorded"}  # digits
CLOSE = 0.05  # of an AUROC or an accuracy: as far as this from the paper's counts as the same
SAME = " ="
# rows of the table of robust models: attack at eps 0.02 and level 0.05, section of the results, what is counted
ROBUST_ROWS = {
    "pgd": ("attacks", "target_success", "`pgd`: target reached"),
    "speech-start": ("attacks", "target_success", "`speech-start`: target reached"),
    "logit-match": ("attacks", "target_success", "`logit-match`: target reached"),
    "decoder-margin": ("attacks", "target_success", "`decoder-margin`: target reached"),
    "strongest": ("attacks", "target_success", "`strongest`: target reached"),
    "worst": ("worst", "success", "any of these, where it was made: target reached"),
    "ten-targets": ("attacks", "target_success", "`ten-targets`: one of ten reached"),
    "worst-known": ("worst", "evasion", "knows the detector: reached and passed"),
}
HALF = "at half of that eps, 0.01: "
ROBUST_COLUMNS = (
    ("fsdd", "dnn"),
    ("fsdd", "dnn-robust"),
    ("fsdd", "ensemble-robust"),
    ("synth", "dnn"),
    ("synth", "dnn-robust"),
    ("synth", "ensemble-robust"),
)


@functools.cache
def run_of(name: str) -> Run:
    """A run by its name in ``RUNS``."""
    return Run(Results(RECIPES / RUNS[name] / "results.json").read())


class ResultsTables(SphinxDirective):
    """Tables of one run, by the places that they have on the report's page."""

    required_arguments, optional_arguments = 1, 20

    def run(self) -> list[nodes.Node]:
        name, *wanted = self.arguments
        places = page_tables(run_of(name))
        found = [node for place in wanted for table in places[place] for node in shown(table)]
        self.env.note_reread()
        return found


class Findings(SphinxDirective):
    """The headlines of a run, as the report prints them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return [bullets(findings(run_of(self.arguments[0])))]


class BesidePaper(SphinxDirective):
    """The paper's tables beside ours, and how many of its numbers ours are close to."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        found = shown(accuracies())
        for number, eps in enumerate(sorted(paper.AUROC, reverse=True), 2):
            found += shown(areas(number, eps))
        return [*found, nodes.paragraph("", agreement())]


class RobustModels(SphinxDirective):
    """What attacks at eps 0.02 for speech of level 0.05 reach of ordinary and robust models."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return shown(robust_models())


def accuracies() -> Table:
    """Table 1 with both corpora."""
    rows = []
    for model in MODEL_KINDS:
        published = paper.CLEAN_ACCURACY[model]
        ours = [run_of(corpus).content["clean"][model]["accuracy"] for corpus in NAMES]
        rows.append((model_name(model), f"{published:.3f}", *(marked(value, published) for value in ours)))
    heads = ("model", "paper, TIDIGITS", *(f"ours, {name}" for name in NAMES.values()))
    return Table("table1", "Table 1: word accuracy on benign audio", heads, tuple(rows), 1)


def areas(number: int, eps: float) -> Table:
    """Table 2 or 3 with both corpora, under the paper's attack and the strong one."""
    rows = []
    for model, published in paper.AUROC[eps].items():
        for statistic in reversed(published):
            cells = [model_name(model), statistic_name(statistic), f"{published[statistic]:.3f}"]
            cells += [marked(area(c, paper.ATTACK, model, statistic, eps), published[statistic]) for c in NAMES]
            cells += [f"{area(c, REFERENCE, model, statistic, eps):.3f}" for c in NAMES]
            rows.append(tuple(cells))
    heads = ["model", "statistic", "paper"]
    heads += [f"{attack}, {name}" for attack in (paper.ATTACK, REFERENCE) for name in NAMES.values()]
    title = f"Table {number}: AUROC of the paper's measures, eps {eps:g}"
    return Table(f"table{number}", title, tuple(heads), tuple(rows), 2)


def area(corpus: str, attack: str, model: str, statistic: str, eps: float) -> float:
    """AUROC of the two-sided Gaussian."""
    frame = run_of(corpus).paper
    where = (frame["model"] == model) & (frame["attack"] == attack) & (frame["eps"] == eps)
    (value,) = frame.loc[where & (frame["statistic"] == statistic), "auroc"]
    return float(value)


def marked(value: float, published: float) -> str:
    """Our number, marked where it is close to the paper's."""
    return f"{value:.3f}{SAME if abs(value - published) <= CLOSE else ''}"


def agreement() -> str:
    """How many of the paper's AUROC ours are close to, by corpus and statistic."""
    parts = []
    for corpus, name in NAMES.items():
        close: dict[str, list[bool]] = {}
        for eps, models in paper.AUROC.items():
            for model, published in models.items():
                for statistic, value in published.items():
                    near = abs(area(corpus, paper.ATTACK, model, statistic, eps) - value) <= CLOSE
                    close.setdefault(statistic, []).append(near)
        counts = ", ".join(
            f"{sum(close[statistic])} of {len(close[statistic])} for {statistic_name(statistic)}"
            for statistic in reversed(paper.MEASURES)
        )
        parts.append(f"on {name} digits {counts}")
    return f"Within {CLOSE:g} of the paper's AUROC, under its own attack ({paper.ATTACK}): {'; '.join(parts)}."


def robust_models() -> Table:
    """A row an attack, a column a corpus and model; empty where nobody has tried."""
    columns = [(run_of(f"{corpus}-robust").content, model) for corpus, model in ROBUST_COLUMNS]
    clean = [f"{content['clean'][model]['accuracy']:.3f}" for content, model in columns]
    rows = [("clean speech: words right", *clean)]
    wanted = [(attack, 0.02, *row) for attack, row in ROBUST_ROWS.items()]
    for attack in ("worst", "worst-known"):
        section, value, label = ROBUST_ROWS[attack]
        wanted.append((attack, 0.01, section, value, HALF + label))
    for attack, eps, section, value, label in wanted:
        place = (f"{attack}-level0.05", eps)
        cells = []
        for content, model in columns:
            found = [r for r in content[section] if (r["attack"], r["eps"], r["model"]) == (*place, model)]
            cells.append(f"{found[0][value]:.3f}" if found else EMPTY)
        rows.append((label, *cells))
    heads = ("", *(f"{NAMES[corpus]}: {model_name(model)}" for corpus, model in ROBUST_COLUMNS))
    title = "Share of utterances heard as the attacker wants, eps 0.02 for speech of root mean square 0.05"
    return Table("robust_models", title, heads, tuple(rows), 1, f"{EMPTY}: not tried.")


def shown(table: Table) -> list[nodes.Node]:
    """A table with its title and note."""
    group = nodes.tgroup(cols=len(table.heads))
    group += [nodes.colspec(colwidth=1) for _ in table.heads]
    head, body = nodes.thead(), nodes.tbody()
    head += line(table.heads, table.labels)
    body += [line(row, table.labels) for row in table.rows]
    group += [head, body]
    title = nodes.paragraph("", table.title, classes=["title-of-table"])  # a caption would be as wide as the table
    note = [nodes.paragraph("", table.note, classes=["note-of-table"])] if table.note else []
    return [title, nodes.table("", group, classes=["results"]), *note]


def line(cells: Sequence[str], labels: int) -> nodes.row:
    """A row; numbers stand on the right."""
    row = nodes.row()
    for number, cell in enumerate(cells):
        row += nodes.entry("", nodes.paragraph("", "", *code(cell)), classes=[] if number < labels else ["number"])
    return row


def code(cell: str) -> Iterator[nodes.Node]:
    """Text with what stands in backticks as code."""
    for number, part in enumerate(cell.split("`")):
        yield nodes.literal("", part) if number % 2 else nodes.Text(part)


def bullets(lines: Sequence[str]) -> nodes.bullet_list:
    """A list."""
    found = nodes.bullet_list()
    found += [nodes.list_item("", nodes.paragraph("", text)) for text in lines]
    return found


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.add_directive("results", ResultsTables)
    app.add_directive("findings", Findings)
    app.add_directive("beside-paper", BesidePaper)
    app.add_directive("robust-models", RobustModels)
    return {"parallel_read_safe": True}
