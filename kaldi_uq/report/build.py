"""The report: figures, CSV files, ``RESULTS`` and one HTML page, from what ``exp`` holds and nothing else."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from kaldi_uq.errors import DataError
from kaldi_uq.report import tables
from kaldi_uq.report.examples import Example, Perturbed, wav_bytes
from kaldi_uq.report.findings import BREAKS, findings, span, summary, unbroken
from kaldi_uq.report.folder import Folder
from kaldi_uq.report.pictures import Pictures, data_uri, file_name
from kaldi_uq.report.run import Run
from kaldi_uq.results.names import model_key, model_name
from kaldi_uq.results.table import Results

# tables of RESULTS; all others are on the page alone
TEXT_PLACES = ("robustness", "certified", "clean", "attacks", "gate", "speakers", "measures", "detectors",
               "adaptive", "transfer", "negatives", "gate_negatives")  # fmt: skip
TERMS = (
    f"An attack breaks a detector if it knows the detector and at least {BREAKS:g} of its utterances are heard as the "
    "target and pass. The paper's detector is a two-sided Gaussian on the maximum predictive entropy."
)


def build_report(
    exp_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    command: str,
    counts: Mapping[str, int] | None = None,
    tries: Sequence[tuple[str, Sequence[str]]] = (),
    examples: Sequence[Example] = (),
    perturbed: Sequence[Perturbed] = (),
) -> Path:
    """Write ``report.html``, ``RESULTS``, all numbers (``.csv``, ``results.json.gz``), figures and tables.

    ``SUMMARY`` has the headlines for a terminal.  Figures are ``figures/*.png``, ``.svg`` and ``.pdf``, the first
    ``answer``; tables ``tables/*.tex`` and ``.csv``.

    The same inputs give the same bytes.  Models, attacks and sets that are absent are left out, and so are the files
    that an earlier report wrote of them.

    Args:
        exp_dir: holds ``results.json`` (or ``results.json.gz``) and, for histograms and ROC curves,
            ``MODEL/score_fit/results.jsonl``, ``score_test`` and ``MODEL/attack_A_epsE/results.jsonl``.
        out_dir: made if it does not exist.
        command: what a reader must type to make it again; it opens ``RESULTS`` and the page.
        counts: set -> number of its utterances, for the head of the page.
        tries: what a reader can try: a heading and commands each.
        examples: utterances to look at and listen to.
        perturbed: utterances whose perturbations are shown against what the audio masks.

    Returns:
        The path of ``report.html``.

    Raises:
        DataError: there is no ``results.json``, or a file is malformed.
    """
    exp_dir = Path(exp_dir)
    results = Results(exp_dir / "results.json")
    if not results.exists():
        raise DataError(f"{results.path}: no such file; run the stages that train, attack and detect first")
    run, folder = Run(results.read()), Folder(out_dir)
    pictures = Pictures(run, folder)
    shown = tables.page_tables(run)
    detection = [
        (f"{attack}, eps {eps:g}", drawn, tables.statistics(run, attack, eps))
        for (attack, eps), drawn in pictures.detection(exp_dir).items()
    ]
    page = {
        "command": command,
        "about": _about(run, counts or {}),
        "environment": {name: short_text(value) for name, value in run.content["environment"].items()},
        "findings": list(map(unbroken, findings(run))),
        "breaks": BREAKS,
        "rate": tables.false_alarms(run),
        "tries": tries,
        "tables": shown,
        "failed": tables.failed(run),
        "answer": pictures.answer(),
        "curves": pictures.curves(),
        "detection": detection,
        "examples": [(example, pictures.example(example)) for example in examples],
        "perturbed": [pictures.perturbed(example) for example in perturbed],
    }
    pictures.draw()
    for table in itertools.chain(*shown.values(), [table for *_, table in detection]):
        folder.write(f"tables/{file_name(table.slug)}.tex", table.latex() + "\n")
        folder.write(f"tables/{file_name(table.slug)}.csv", table.csv())
    for name, text in numbers(run, command=command).items():
        folder.write(name, text)
    folder.write("results.json.gz", results.pack())
    folder.write("SUMMARY", summary(run))
    # Ids and texts come from strangers: every value is escaped.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["wav"] = lambda samples, rate: data_uri(wav_bytes(samples, rate), "audio/wav")
    environment.filters["model_name"] = model_name
    template = resources.files("kaldi_uq.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    written = folder.write("report.html", environment.from_string(template).render(page) + "\n")
    folder.close()
    return written


def numbers(run: Run, *, command: str) -> dict[str, str]:
    """The files of a report that have its numbers, ``RESULTS`` and ``*.csv``, by their names."""
    files = {
        name: frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        for name, frame in tables.csv_files(run).items()
    }
    return {**files, "RESULTS": results_text(run, command=command)}


def results_text(run: Run, *, command: str) -> str:
    """The ``RESULTS`` file: the command that made it, what was found, the main tables, and where the others are."""
    environment = ", ".join(f"{name}: {short_text(value)}" for name, value in run.content["environment"].items())
    shown = tables.page_tables(run)
    parts = [f"# {command}" + (f"\n# {environment}" if environment else ""), "\n".join(findings(run))]
    for place in TEXT_PLACES:
        if place == "negatives" and shown["gate_negatives"]:
            continue  # the detector that judges by default stands for the paper's
        parts += [table.markdown() for table in shown[place]]
    files = ", ".join(tables.csv_files(run))
    parts += [
        "\n".join(tables.failed(run)),
        TERMS if len(run.attacks) else "",
        f"All numbers are beside results.json.gz: {files}." if files else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def short_text(value: Any) -> str:
    """A JSON value on one line.

    >>> short_text({"preset": "mini", "models": ["dnn", "bnn"]})
    'preset mini, models dnn bnn'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short_text(inner)}" for name, inner in value.items())
    return " ".join(map(short_text, value)) if isinstance(value, list) else " ".join(str(value).split())


def _about(run: Run, counts: Mapping[str, int]) -> dict[str, str]:
    """What the head of the page says of the run."""
    environment, seconds = run.content["environment"], run.content["timing_s"].values()
    options = environment.get("options", {})
    days = sorted(stage["finished"] for stage in run.content["stages"].values() if stage.get("finished"))
    attacked = f"attacked {span(run.attacks['num_utts'], 'g')}" if len(run.attacks) else ""
    models = sorted(set(run.attacks["model"]), key=model_key)
    about = {
        "corpus": " ".join(str(options[name]) for name in ("corpus", "preset") if name in options),
        "utterances": ", ".join(f"{name} {number}" for name, number in counts.items()) or attacked,
        "models": ", ".join(map(model_name, models)),
        "seed": short_text(environment.get("seed", "")),
        "date": days[-1][:10] if days else "",
        "time": f"{sum(seconds) / 60:.0f} min" if seconds else "",
        "device": short_text(environment.get("device", "")),
    }
    return {name: text for name, text in about.items() if text}
