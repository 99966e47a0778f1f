"""The report: figures, CSV files, ``RESULTS`` and one HTML page, from what ``exp`` holds and nothing else."""

from __future__ import annotations

import base64
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from kaldi_uq.detector import GaussianDetector
from kaldi_uq.errors import DataError
from kaldi_uq.io.files import atomic_write, write_text
from kaldi_uq.report import answer, paper, plots, tables
from kaldi_uq.report.example import Example, Perturbed, entropy_figure, perturbation_figure, wav_bytes
from kaldi_uq.report.findings import BREAKS, findings, span
from kaldi_uq.report.frames import SHOWN_STATISTICS, Run
from kaldi_uq.report.style import save_figure
from kaldi_uq.results.names import known_statistic, model_key, model_name, statistic_name
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import attack_dirs, read_attacked, read_benign, statistics_table

# (figure, name of its files, what it shows in words, keep it as pixels) -> what the page needs of it
Draw = Callable[..., dict[str, Any]]
WIDE_INCHES = 6.0  # a wider figure is scrolled on a narrow screen, not shrunk until nobody can read it
# tables of RESULTS; all others are on the page alone
TEXT_PLACES = ("robustness", "worst", "certified", "clean", "attacks", "gate", "speakers", "measures", "detectors",
               "adaptive", "transfer", "negatives", "gate_negatives")  # fmt: skip
TERMS = (
    f"An attack breaks a detector if it knows the detector and at least {BREAKS:g} of its utterances are heard as the "
    "target and pass. The paper's detector is a two-sided Gaussian on the maximum predictive entropy."
)
ROC_STATISTICS = (*paper.MEASURES, "mean_predictive_entropy", "mean_mutual_information")


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

    Figures are ``figures/*.png``, ``.svg`` and ``.pdf``, the first ``answer``; tables ``tables/*.tex`` and ``.csv``.

    The same inputs give the same bytes.  Models, attacks and sets that are absent are left out.

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
    exp_dir, out_dir = Path(exp_dir), Path(out_dir)
    results = Results(exp_dir / "results.json")
    if not results.exists():
        raise DataError(f"{results.path}: no such file; run the stages that train, attack and detect first")
    run = Run(results.read())
    out_dir.mkdir(parents=True, exist_ok=True)

    (out_dir / "figures").mkdir(exist_ok=True)

    def draw(figure: Figure, name: str, alt: str, raster: bool = False) -> dict[str, Any]:
        name, wide = file_name(name), figure.get_figwidth() > WIDE_INCHES
        content = save_figure(figure, out_dir / "figures" / name)
        source = data_uri(content["png"], "image/png") if raster else data_uri(content["svg"], "image/svg+xml")
        return {"source": source, "alt": alt, "wide": wide, "raster": raster, "name": name}

    detection = _detection(run, exp_dir, draw)
    shown = tables.page_tables(run)
    page = {
        "command": command,
        "about": _about(run, counts or {}),
        "environment": {name: short_text(value) for name, value in run.content["environment"].items()},
        "findings": findings(run),
        "breaks": BREAKS,
        "rate": tables.false_alarms(run),
        "tries": tries,
        "tables": shown,
        "failed": tables.failed(run),
        "answer": _answer(run, draw),
        "curves": _curves(run, draw),
        "detection": detection,
        "examples": [(example, _example(example, draw)) for example in examples],
        "perturbed": [_perturbed(example, draw) for example in perturbed],
    }
    (out_dir / "tables").mkdir(exist_ok=True)
    for table in itertools.chain(*shown.values(), *(part["tables"] for part in detection)):
        stem = out_dir / "tables" / file_name(table.slug)
        write_text(stem.with_name(f"{stem.name}.tex"), table.latex() + "\n")
        write_text(stem.with_name(f"{stem.name}.csv"), table.csv())
    for name, frame in tables.csv_files(run).items():
        write_text(out_dir / name, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    with atomic_write(out_dir / "results.json.gz", "wb") as stream:
        stream.write(results.pack())
    write_text(out_dir / "RESULTS", results_text(run, command=command))
    # Ids and texts come from strangers: every value is escaped.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["wav"] = lambda samples, rate: data_uri(wav_bytes(samples, rate), "audio/wav")
    environment.filters["model_name"] = model_name
    template = resources.files("kaldi_uq.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    write_text(out_dir / "report.html", environment.from_string(template).render(page) + "\n")
    return out_dir / "report.html"


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


def file_name(name: str) -> str:
    """A name as that of a file on any system.

    >>> file_name("roc_dnn_eps0.02_a<b")
    'roc_dnn_eps0.02_a_b'
    """
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)


def data_uri(content: bytes, mime: str) -> str:
    """A ``data:`` address that holds the content itself."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def _curves(run: Run, draw: Draw) -> dict[str, list[dict[str, Any]]]:
    """Accuracy over eps (figure 1), SNR and steps, and what attacks that know the detector keep, over eps."""
    attacks, evasion = [], []
    for attack, rows in run.plain.groupby("attack", sort=False):
        if rows["eps"].nunique() > 1:  # one eps makes no curve
            title = f"{attack} over eps"
            alt = f"{title}: success and word accuracy, a line a model; the numbers are in the table."
            attacks.append(draw(plots.accuracy_figure(rows, title=title), f"figure1_accuracy_{attack}", alt))
        if rows.groupby("model")["snr_db_mean"].nunique().max() > 1:
            title = f"{attack} over the SNR of its perturbations"
            alt = f"{title}, the mean of each eps: success and word accuracy; the numbers are in the table."
            figure = plots.accuracy_figure(rows, title=title, x="snr_db_mean")
            attacks.append(draw(figure, f"snr_{attack}", alt))
    for eps, rows in run.steps().groupby("eps"):
        title = f"{run.reference} over the number of gradient steps, eps {eps:g}"
        figure = plots.accuracy_figure(rows, title=title, x="steps")
        attacks.append(draw(figure, f"steps_eps{eps:g}", f"{title}; the numbers are in the table."))
    points = run.strongest()
    if points["eps"].nunique() > 1:
        alt = "Share of utterances that reach their target and pass the detector over eps; the table has the numbers."
        evasion.append(draw(plots.evasion_figure(points), "evasion", alt))
    return {"attacks": attacks, "evasion": evasion}


def _answer(run: Run, draw: Draw) -> dict[str, Any] | None:
    """The picture that answers the title, for wide and for narrow screens, where any detector was tried."""
    detector, rows = answer.fates(run)
    if rows.empty:
        return None
    models = answer.shown_models(run)
    alt = answer.describe(rows, models)
    wide, narrow = (
        draw(answer.answer_figure(rows, models, detector=detector, narrow=narrow), f"answer{'_narrow' * narrow}", alt)
        for narrow in (False, True)
    )
    knowing = sorted(set(rows.loc[rows["knows"] & (rows["attack"] != ""), "attack"]))
    blind = {"attack": run.reference, "detector": statistic_name(detector), "knowing": ", ".join(knowing)}
    return wide | {"narrow": narrow["source"]} | blind


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


def _detection(run: Run, exp_dir: Path, draw: Draw) -> list[dict[str, Any]]:
    """Each attack with its table of all detectors and, without those that know one, its histograms and ROC curves."""
    models = sorted(set(run.detection["model"]), key=model_key)
    scored: dict[str, list[plots.Statistics]] = {}
    for model in models:
        files = [exp_dir / model / f"score_{name}" / "results.jsonl" for name in ("fit", "test")]
        if all(file.is_file() for file in files):
            scored[model] = [statistics_table(read_benign(file)) for file in files]
    paths = {(model, a, e): path for model in scored for a, e, path in attack_dirs(exp_dir / model)}
    areas = run.paper.set_index(["model", "attack", "eps", "statistic"])["area"].to_dict()
    found = []
    for attack, eps in run.detection[["attack", "eps"]].drop_duplicates().itertuples(index=False):
        pictures = []
        for model in scored if not known_statistic(attack) else ():
            if (model, attack, eps) in paths:
                bad = statistics_table(read_attacked(paths[model, attack, eps] / "results.jsonl"))
                title = f"{model_name(model)}, {attack}, eps {eps:g}"
                end = f"{model}_{attack}_eps{eps:g}"
                mine = {name: area for (*of, name), area in areas.items() if of == [model, attack, eps]}
                pictures += _histogram_and_roc((*scored[model], bad), title, end, mine, draw)
        table = tables.statistics(run, attack, eps)
        found.append({"title": f"{attack}, eps {eps:g}", "pictures": pictures, "tables": [table]})
    return found


def _histogram_and_roc(
    sets: tuple[plots.Statistics, ...], title: str, end: str, areas: Mapping[str, str], draw: Draw
) -> list[dict[str, Any]]:
    fit, benign, bad = sets
    common = [name for name in (*ROC_STATISTICS, *SHOWN_STATISTICS) if all(name in table for table in sets)]
    shown = [name for name in SHOWN_STATISTICS if name in common]
    pictures = []
    if shown:
        figure = plots.histogram_figure(benign, bad, fit=fit, names=shown, title=title)
        alt = f"Histograms of {' and '.join(shown)} for benign and attacked utterances, {title}."
        pictures.append(draw(figure, f"figure2_histogram_{end}", alt))
    scores = {}
    for name in common:
        detector = GaussianDetector(statistic=name).fit(fit)
        scores[name] = (detector.score(benign), detector.score(bad))
    if scores:
        alt = f"ROC curves of {len(scores)} statistics, {title}; their AUROC values are in the table below."
        pictures.append(draw(plots.roc_figure(scores, areas=areas, title=title), f"figure3_roc_{end}", alt))
    return pictures


def _example(example: Example, draw: Draw) -> dict[str, Any]:
    name = f"example_{example.model}_{example.attack}_eps{example.eps:g}_{example.utt}"
    audio = "original and attacked" if example.compare else "attacked"
    alt = (
        f"Spectrogram of {example.utt}, {audio}, the predictive entropy of each frame below it, and the words: said "
        f"'{example.original}', target '{example.target}', heard '{example.hypothesis}'."
    )
    # a spectrogram is a picture; the lines beside it would make an SVG no smaller
    return draw(entropy_figure(example), name, alt, raster=True)


def _perturbed(example: Perturbed, draw: Draw) -> dict[str, Any]:
    added = " and ".join(example.attacked)
    alt = f"Spectrograms of {example.utt}, what it masks, and what {added} add to it; the numbers are in the table."
    return draw(perturbation_figure(example), f"spectrogram_{example.utt}", alt, raster=True)
