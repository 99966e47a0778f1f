"""The report: tables, figures and one HTML page from what ``exp`` holds, and nothing it does not hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from kaldi_uq.detector import GaussianDetector
from kaldi_uq.errors import DataError
from kaldi_uq.io.files import write_text
from kaldi_uq.report import curves, html, paper, plots, tables, threat, threat_tables
from kaldi_uq.report.example import Example, entropy_figure, wav_bytes
from kaldi_uq.report.findings import evasion_points, findings
from kaldi_uq.report.spectrogram import Perturbed, perturbation_figure
from kaldi_uq.report.style import save_figure
from kaldi_uq.report.summary import describe, results_text, short_text, summary
from kaldi_uq.report.table import Table
from kaldi_uq.results.names import CONTROLS, PAPER_STATISTIC, model_key, model_name, statistic_name
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import attack_dirs, read_attacked, read_benign, statistics_table

FloatArray = npt.NDArray[np.float64]
Statistics = Mapping[str, FloatArray]
# Two histograms a model show the paper's statistic and the one that differs from it only in the aggregate.
HISTOGRAM_STATISTICS = (PAPER_STATISTIC, "mean_predictive_entropy")
WIDE_INCHES = 6.0  # a wider figure is scrolled on a narrow screen, not shrunk until nobody can read it
OPEN_ROWS = 16  # a longer table waits behind a line that opens it
ROC_STATISTICS = (*paper.MEASURES, "mean_predictive_entropy", "mean_mutual_information")


def build_report(
    exp_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    command: str,
    examples: Sequence[Example] = (),
    perturbed: Sequence[Perturbed] = (),
    fit_set: str = "fit",
    test_set: str = "test",
) -> Path:
    """Write ``report.html``, ``RESULTS``, the tables (``.md``, ``.csv``) and the figures (``.png``, ``.svg``).

    The same inputs give the same bytes.  Models, attacks and sets that are absent are left out.

    Args:
        exp_dir: holds ``results.json`` and ``MODEL/score_SET/results.jsonl``, ``MODEL/attack_A_epsE/results.jsonl``.
        out_dir: made if it does not exist.
        command: what a reader must type to make it again; it opens ``RESULTS`` and the page.
        examples: utterances to look at and listen to.
        perturbed: utterances whose perturbations are shown against what the audio masks.
        fit_set, test_set: names of the benign sets.

    Returns:
        The path of ``report.html``.

    Raises:
        DataError: there is no ``results.json``, or a file is malformed.
    """
    exp_dir, out_dir = Path(exp_dir), Path(out_dir)
    if not (exp_dir / "results.json").is_file():
        raise DataError(f"{exp_dir / 'results.json'}: no such file; run the stages that train, attack and detect first")
    results = Results(exp_dir / "results.json").read()
    out_dir.mkdir(parents=True, exist_ok=True)
    writer = _Writer(out_dir)
    sections = [
        html.Section("summary", "Summary", tuple(_summary_blocks(results, writer))),
        html.Section("threat", "Threat model", tuple(_threat_blocks(results, perturbed, writer))),
        html.Section("clean", "Benign audio", tuple(writer.tables([tables.clean_table(results)]))),
        html.Section("attacks", "Attacks", tuple(_attack_blocks(results, writer))),
        html.Section("detection", "Detection", tuple(_detection_blocks(results, exp_dir, fit_set, test_set, writer))),
        html.Section("examples", "Examples", tuple(_example_blocks(examples, writer))),
        html.Section("run", "This run", tuple(_run_blocks(results, writer))),
    ]
    write_text(out_dir / "detection.csv", tables.detection_rows_table(results).to_csv())
    write_text(out_dir / "RESULTS", results_text(results, command=command))
    head = [html.command_line(command), html.paragraph(_environment_line(results), soft=True)]
    page = html.page("Is this audio an attack?", head, [section for section in sections if section.blocks])
    write_text(out_dir / "report.html", page)
    return out_dir / "report.html"


class _Writer:
    """Writes a table or a figure to its own files and returns the block for the page."""

    def __init__(self, out_dir: Path) -> None:
        self.out_dir = out_dir

    def tables(self, several: Sequence[Table]) -> list[str]:
        blocks = []
        for table in several:
            if table.rows:
                write_text(self.out_dir / f"{table.slug}.md", table.to_markdown())
                write_text(self.out_dir / f"{table.slug}.csv", table.to_csv())
                blocks.append(table.to_html())
        return blocks

    def figure(self, figure: Figure, slug: str, *, alt: str, raster: bool = False) -> str:
        png, svg = save_figure(figure, self.out_dir / slug)
        content, mime = (png, "image/png") if raster else (svg, "image/svg+xml")
        return html.picture(content, mime, alt=alt, wide=figure.get_figwidth() > WIDE_INCHES)


def _summary_blocks(results: Mapping[str, Any], writer: _Writer) -> list[str]:
    return [html.listing(summary(results)), *writer.tables([tables.overview_table(results)])]


def _threat_blocks(results: Mapping[str, Any], perturbed: Sequence[Perturbed], writer: _Writer) -> list[str]:
    """Definitions first, then what was found, then the parts, each under a heading if it has anything."""
    if not threat.has_threats(results):
        return []
    found, remedies = findings(results), threat.remedies(results)
    quality = threat_tables.quality_table(results)
    parts = {
        "What the attacks leave of the detectors": _adaptive_blocks(results, writer),
        "How often the recogniser hears the target": _success_blocks(results, writer),
        "Certain or uncertain": writer.tables([threat_tables.sides_table(results)]),
        "Examples of one model on another": writer.tables(threat_tables.transfer_tables(results)),
        "Benign but hard audio": _negative_blocks(results, writer),
        "Can the attacks be heard": [
            *_long_tables([quality], writer),
            *(_spectrogram(example, writer) for example in perturbed),
        ],
        "Are the attacks meaningful": [
            *writer.tables([threat_tables.checklist_table(results)]),
            *([html.listing(remedies)] if remedies else []),
        ],
    }
    blocks = [html.texts(threat.threat_model(results), long=True), *([html.listing(found)] if found else [])]
    for heading, part in parts.items():
        blocks += [html.subheading(heading), *part] if part else []
    return blocks


def _spectrogram(example: Perturbed, writer: _Writer) -> str:
    title = f"{example.utt}: {model_name(example.model)}"
    figure = perturbation_figure(example.original, example.attacked, example.rate, title=title)
    names = " and ".join(example.attacked)
    alt = f"Spectrograms of {example.utt}, what it masks, and what {names} add to it; the numbers are in the table."
    return writer.figure(figure, f"spectrogram_{example.utt}", alt=alt, raster=True)


def _long_tables(several: Sequence[Table], writer: _Writer) -> list[str]:
    blocks = []
    for table in several:
        shown = writer.tables([table])
        blocks += shown if len(table.rows) <= OPEN_ROWS else [html.details(table.title, shown)]
    return blocks


def _adaptive_blocks(results: Mapping[str, Any], writer: _Writer) -> list[str]:
    blocks = writer.tables(threat_tables.adaptive_tables(results))
    points = evasion_points(results)
    if any(len(curve) > 1 for by_model in points.values() for curve in by_model.values()):
        alt = "Share of utterances that reach their target and pass the detector over eps; the table has the numbers."
        blocks.append(writer.figure(curves.evasion_figure(points), "evasion", alt=alt))
    return blocks + _long_tables([threat_tables.adaptive_table(results)], writer)


def _negative_blocks(results: Mapping[str, Any], writer: _Writer) -> list[str]:
    several = threat_tables.negatives_tables(results)
    blocks = writer.tables(several[:1])
    blocks += [html.details(table.title, writer.tables([table])) for table in several[1:]]
    return blocks + _long_tables(threat_tables.negatives_auroc_tables(results), writer)


def _success_blocks(results: Mapping[str, Any], writer: _Writer) -> list[str]:
    blocks = []
    rows = [row for row in results["attacks"] if row.get("target_success") is not None]
    for attack in threat.shown_attacks(attack for attack, _ in tables.attacks_of(results, "attacks")):
        if len({row["eps"] for row in rows if row["attack"] == attack}) > 1:
            alt = f"Success and accuracy of {attack} over eps, a line a model; the numbers are in the table of attacks."
            blocks.append(writer.figure(curves.success_figure(rows, attack=attack), f"success_{attack}", alt=alt))
    for number, (eps, series) in enumerate(threat.step_series(results), 1):
        title = f"Success over gradient steps, eps {eps:g}"
        alt = f"{title}, a line a model; the numbers are in the table of attacks."
        blocks.append(writer.figure(curves.steps_figure(series, title=title), f"steps_{number}", alt=alt))
    return blocks


def _attack_blocks(results: Mapping[str, Any], writer: _Writer) -> list[str]:
    blocks = []
    rows = results["attacks"]
    for attack in threat.shown_attacks(attack for attack, _ in tables.attacks_of(results, "attacks")):
        mine = [row for row in rows if row["attack"] == attack]
        if len({row["eps"] for row in mine}) > 1:  # one eps makes no curve
            names = ", ".join(model_name(m) for m in sorted({row["model"] for row in mine}, key=model_key))
            alt = f"Word accuracy over eps under {attack}, for {names}; the numbers are in the table of attacks."
            figure = plots.accuracy_figure(rows, attack=attack)
            blocks.append(writer.figure(figure, f"figure1_accuracy_{attack}", alt=alt))
    blocks += writer.tables([tables.averaging_table(results)])
    table = tables.attack_table(results)
    shown = writer.tables([table])
    return blocks + (shown if len(table.rows) <= OPEN_ROWS else [html.details(table.title, shown)])


def _detection_blocks(
    results: Mapping[str, Any], exp_dir: Path, fit_set: str, test_set: str, writer: _Writer
) -> list[str]:
    fit = {m: _benign(exp_dir / m / f"score_{fit_set}") for m in tables.models_of(results)}
    test = {m: _benign(exp_dir / m / f"score_{test_set}") for m in tables.models_of(results)}
    attacked = {m: {(a, e): path for a, e, path in attack_dirs(exp_dir / m)} for m in tables.models_of(results)}
    blocks = [html.paragraph(note, soft=True) for note in paper.NOTES]
    for attack, eps in tables.plain_attacks(results):
        blocks.append(html.subheading(f"{attack}, eps {eps:g}"))
        blocks.append(html.paragraph(describe(results, attack, eps)))
        blocks += writer.tables([tables.auroc_table(results, attack, eps)])
        figures = []
        for model, paths in attacked.items():
            if (attack, eps) in paths and fit[model] and test[model]:
                bad = statistics_table(read_attacked(paths[attack, eps] / "results.jsonl"))
                figures += _detection_figures(model, attack, eps, (fit[model], test[model], bad), writer)
        if figures:
            blocks.append(html.details(f"Histograms and ROC curves under {attack}, eps {eps:g}", figures))
        every = [tables.statistics_table(results, attack, eps), tables.detectors_table(results, attack, eps)]
        blocks.append(html.details(f"All statistics and detectors under {attack}, eps {eps:g}", writer.tables(every)))
    adaptive = [pair for pair in tables.attacks_of(results) if pair not in tables.plain_attacks(results)]
    if adaptive:
        every = [tables.statistics_table(results, attack, eps) for attack, eps in adaptive]
        blocks.append(html.details("All statistics under attacks that know a detector", writer.tables(every)))
    return blocks if tables.attacks_of(results) else []


def _benign(directory: Path) -> Statistics:
    path = directory / "results.jsonl"
    return statistics_table(read_benign(path)) if path.is_file() else {}


def _detection_figures(
    model: str, attack: str, eps: float, sets: tuple[Statistics, Statistics, Statistics], writer: _Writer
) -> list[str]:
    fit, benign, bad = sets
    title = f"{model_name(model)}, {attack}, eps {eps:g}"
    label = f"with {attack}" if attack in CONTROLS else "attacked"
    end = f"{model}_{attack}_eps{eps:g}"
    blocks = []
    shown = [statistic for statistic in HISTOGRAM_STATISTICS if all(statistic in table for table in sets)]
    if shown:
        figure = plots.histogram_figure(benign, bad, fit=fit, statistics=shown, title=title, label=label)
        medians = [
            f"{statistic_name(name)} {np.median(benign[name]):.3g} and {np.median(bad[name]):.3g}" for name in shown
        ]
        alt = f"Histograms for benign utterances and those {label}, {title}. Medians: {'; '.join(medians)}."
        blocks.append(writer.figure(figure, f"figure2_histogram_{end}", alt=alt))
    scores = {}
    for statistic in ROC_STATISTICS:
        if all(statistic in table for table in sets):
            detector = GaussianDetector(statistic=statistic).fit(fit)
            scores[statistic] = (detector.score(benign), detector.score(bad))
    if scores:
        alt = f"ROC curves of {len(scores)} statistics of {title}; their AUROC values are in the table below."
        blocks.append(writer.figure(plots.roc_figure(scores, title=title), f"figure3_roc_{end}", alt=alt))
    return blocks


def _example_blocks(examples: Sequence[Example], writer: _Writer) -> list[str]:
    blocks = []
    for example in examples:
        blocks.append(
            html.subheading(f"{example.utt}: {model_name(example.model)}, {example.attack}, eps {example.eps:g}")
        )
        pairs = [("said", example.original), ("target", example.target), ("heard", example.hypothesis)]
        if example.snr_db is not None:
            pairs.append(("SNR", f"{example.snr_db:.1f} dB"))
        blocks.append(html.texts(pairs))
        both = (("original", example.original_samples), ("attacked", example.attacked_samples))
        blocks.append(html.sounds(html.sound(wav_bytes(s, example.rate), f"{example.utt}, {name}") for name, s in both))
        alt = (
            f"Spectrogram of the attacked audio of {example.utt}, the predictive entropy of each frame below it, and "
            f"the words: said '{example.original}', target '{example.target}', heard '{example.hypothesis}'."
        )
        # a spectrogram is a picture; the lines beside it would make an SVG no smaller
        blocks.append(writer.figure(entropy_figure(example), example.slug, alt=alt, raster=True))
    return blocks


def _run_blocks(results: Mapping[str, Any], writer: _Writer) -> list[str]:
    pairs = [(name, short_text(value)) for name, value in results["environment"].items()]
    return ([html.texts(pairs)] if pairs else []) + writer.tables([tables.timing_table(results)])


def _environment_line(results: Mapping[str, Any]) -> str:
    names = [name for name in ("engine", "device", "seed") if name in results["environment"]]
    line = "; ".join(f"{name}: {short_text(results['environment'][name])}" for name in names)
    return line or "The results do not say in which environment they were made."
