"""The figures of the page: which there are, the names of their files, and what they show in words."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kaldi_uq.detector import GaussianDetector
from kaldi_uq.report import answer, paper, plots
from kaldi_uq.report.examples import Example, Perturbed
from kaldi_uq.report.folder import Folder
from kaldi_uq.report.run import SHOWN_STATISTICS, Run
from kaldi_uq.report.spectrograms import entropy_figure, perturbation_figure
from kaldi_uq.report.style import figure_bytes
from kaldi_uq.results.names import known_statistic, model_key, model_name, statistic_name
from kaldi_uq.results.utterances import attack_dirs, read_attacked, read_benign, statistics_table
from kaldi_uq.workers import one_by_one

Picture = dict[str, Any]  # what the page needs of a figure
WIDE_INCHES = 6.0  # a wider figure is scrolled on a narrow screen, not shrunk until nobody can read it
ROC_STATISTICS = (*paper.MEASURES, "mean_predictive_entropy", "mean_mutual_information")


class Pictures:
    """The figures of a run: they are drawn, and written to ``figures`` of a folder, when all are known."""

    def __init__(self, run: Run, folder: Folder) -> None:
        self._run, self._folder = run, folder
        self._waiting: list[tuple[Figure, Picture]] = []

    def _add(self, figure: Figure, name: str, alt: str, *, raster: bool = False) -> Picture:
        """``alt`` says in words what it shows; ``raster``: on the page it is pixels."""
        wide = figure.get_figwidth() > WIDE_INCHES
        picture = {"source": "", "alt": alt, "wide": wide, "raster": raster, "name": file_name(name)}
        self._waiting.append((figure, picture))
        return picture

    def draw(self) -> None:
        """Draw those that have been added, several at a time, and give each its ``source``."""
        figures = self._waiting
        drawn = one_by_one(lambda number: figure_bytes(figures[number][0]), range(len(figures)))
        for (_, picture), content in zip(figures, drawn, strict=True):
            for kind, data in content.items():
                self._folder.write(f"figures/{picture['name']}.{kind}", data)
            kind, mime = ("png", "image/png") if picture["raster"] else ("svg", "image/svg+xml")
            picture["source"] = data_uri(content[kind], mime)
        self._waiting = []

    def answer(self) -> Picture | None:
        """The picture that answers the title, for wide and for narrow screens, where any detector was tried."""
        detector, rows = answer.fates(self._run)
        if rows.empty:
            return None
        models = answer.shown_models(self._run)
        alt = answer.describe(rows, models)
        wide, narrow = (
            self._add(answer.answer_figure(rows, models, detector=detector, narrow=is_narrow), name, alt)
            for name, is_narrow in (("answer", False), ("answer_narrow", True))
        )
        knowing = sorted(set(rows.loc[rows["knows"] & (rows["attack"] != ""), "attack"]))
        blind = {"attack": self._run.reference, "detector": statistic_name(detector), "knowing": ", ".join(knowing)}
        wide.update(blind, narrow=narrow)
        return wide

    def curves(self) -> dict[str, list[Picture]]:
        """Accuracy over eps (figure 1), SNR and steps, and what attacks that know the detector keep, over eps."""
        attacks, evasion = [], []
        for attack, rows in self._run.plain.groupby("attack", sort=False):
            if rows["eps"].nunique() > 1:  # one eps makes no curve
                title = f"{attack} over eps"
                alt = f"{title}: success and word accuracy, a line a model; the numbers are in the table."
                attacks.append(self._add(plots.accuracy_figure(rows, title=title), f"figure1_accuracy_{attack}", alt))
            if rows.groupby("model")["snr_db_mean"].nunique().max() > 1:
                title = f"{attack} over the SNR of its perturbations"
                alt = f"{title}, the mean of each eps: success and word accuracy; the numbers are in the table."
                figure = plots.accuracy_figure(rows, title=title, x="snr_db_mean")
                attacks.append(self._add(figure, f"snr_{attack}", alt))
        for eps, rows in self._run.steps().groupby("eps"):
            title = f"{self._run.reference} over the number of gradient steps, eps {eps:g}"
            figure = plots.accuracy_figure(rows, title=title, x="steps")
            attacks.append(self._add(figure, f"steps_eps{eps:g}", f"{title}; the numbers are in the table."))
        points = self._run.strongest()
        if points["eps"].nunique() > 1:
            alt = (
                "Share of utterances that reach their target and pass the detector over eps; the table has the numbers."
            )
            evasion.append(self._add(plots.evasion_figure(points), "evasion", alt))
        return {"attacks": attacks, "evasion": evasion}

    def detection(self, exp_dir: Path) -> dict[tuple[str, float], list[Picture]]:
        """Attack and eps -> histograms and ROC curves of each model; none of attacks that know a detector."""
        models = sorted(set(self._run.detection["model"]), key=model_key)
        scored: dict[str, list[plots.Statistics]] = {}
        for model in models:
            files = [exp_dir / model / f"score_{name}" / "results.jsonl" for name in ("fit", "test")]
            if all(file.is_file() for file in files):
                scored[model] = [statistics_table(read_benign(file)) for file in files]
        paths = {(model, a, e): path for model in scored for a, e, path in attack_dirs(exp_dir / model)}
        areas = self._run.paper.set_index(["model", "attack", "eps", "statistic"])["area"].to_dict()
        found: dict[tuple[str, float], list[Picture]] = {}
        for attack, eps in self._run.detection[["attack", "eps"]].drop_duplicates().itertuples(index=False):
            found[attack, eps] = []
            for model in scored if not known_statistic(attack) else ():
                if (model, attack, eps) in paths:
                    bad = statistics_table(read_attacked(paths[model, attack, eps] / "results.jsonl"))
                    title = f"{model_name(model)}, {attack}, eps {eps:g}"
                    end = f"{model}_{attack}_eps{eps:g}"
                    mine = {name: area for (*of, name), area in areas.items() if of == [model, attack, eps]}
                    found[attack, eps] += self._histogram_and_roc((*scored[model], bad), title, end, mine)
        return found

    def _histogram_and_roc(
        self, sets: tuple[plots.Statistics, ...], title: str, end: str, areas: Mapping[str, str]
    ) -> list[Picture]:
        """``sets``: statistics of the set that detectors are fitted on, of benign and of attacked utterances."""
        fit, benign, bad = sets
        common = [name for name in (*ROC_STATISTICS, *SHOWN_STATISTICS) if all(name in table for table in sets)]
        shown = [name for name in SHOWN_STATISTICS if name in common]
        pictures = []
        if shown:
            figure = plots.histogram_figure(benign, bad, fit=fit, names=shown, title=title)
            alt = f"Histograms of {' and '.join(shown)} for benign and attacked utterances, {title}."
            pictures.append(self._add(figure, f"figure2_histogram_{end}", alt))
        scores = {}
        for name in common:
            detector = GaussianDetector(statistic=name).fit(fit)
            scores[name] = (detector.score(benign), detector.score(bad))
        if scores:
            alt = f"ROC curves of {len(scores)} statistics, {title}; their AUROC values are in the table below."
            pictures.append(self._add(plots.roc_figure(scores, areas=areas, title=title), f"figure3_roc_{end}", alt))
        return pictures

    def example(self, example: Example) -> Picture:
        """Spectrograms, entropy and words of an utterance."""
        name = f"example_{example.model}_{example.attack}_eps{example.eps:g}_{example.utt}"
        audio = "original and attacked" if example.compare else "attacked"
        alt = (
            f"Spectrogram of {example.utt}, {audio}, the predictive entropy of each frame below it, and the words: "
            f"said '{example.original}', target '{example.target}', heard '{example.hypothesis}'."
        )
        # a spectrogram is a picture; the lines beside it would make an SVG no smaller
        return self._add(entropy_figure(example), name, alt, raster=True)

    def perturbed(self, example: Perturbed) -> Picture:
        """What attacks add to an utterance, beside what it masks."""
        added = " and ".join(example.attacked)
        alt = f"Spectrograms of {example.utt}, what it masks, and what {added} add to it; the numbers are in the table."
        return self._add(perturbation_figure(example), f"spectrogram_{example.utt}", alt, raster=True)


def file_name(name: str) -> str:
    """A name as that of a file on any system.

    >>> file_name("roc_dnn_eps0.02_a<b")
    'roc_dnn_eps0.02_a_b'
    """
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)


def data_uri(content: bytes, mime: str) -> str:
    """A ``data:`` address that holds the content itself."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
