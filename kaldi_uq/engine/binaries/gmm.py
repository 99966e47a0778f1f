"""Training of GMM systems on Kaldi's programs, as Kaldi's ``steps/train_mono.sh`` and ``steps/train_deltas.sh`` do it.

Sums over jobs are made in double precision in the order of the jobs, so that their number can change the last digits
of a model.  Kaldi's programs seed their random numbers themselves: the seed of the configuration has no effect.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kaldi_uq.engine.base import DeltasConfig, Features, MonoConfig, Transcripts
from kaldi_uq.engine.binaries.commands import align_options, graph_arguments, lexicon_files, move, spelled
from kaldi_uq.engine.binaries.data import Parts, write_parts
from kaldi_uq.engine.binaries.jobs import Jobs, quoted
from kaldi_uq.engine.checks import check_failures
from kaldi_uq.engine.files import existing_files, open_model
from kaldi_uq.io.ark import read_alignments, read_archive, write_alignments
from kaldi_uq.io.digests import recorded
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import read_gmm_model
from kaldi_uq.io.lang import Lang

_NO_RESULT = r"Done 0, errors on|Computed 0 alignments|Done 0 files"


class Training:
    """A system in training: its utterances in parts, training graphs, current model and alignments.

    Args:
        jobs: what runs the programs.
        work: directory for all that is not kept.
        logs: directory for logs.
        parts: features.
        transcripts: utt -> word-ids.
        config: scales, beams, growth.
    """

    def __init__(
        self,
        jobs: Jobs,
        work: Path,
        logs: Path,
        parts: Parts,
        transcripts: Transcripts,
        config: MonoConfig | DeltasConfig,
    ) -> None:
        self.jobs, self.work, self.logs, self.parts, self.config = jobs, work, logs, parts, config
        self._transcripts = transcripts
        self.model, self.tree, self.occupancies = work / "0.mdl", work / "tree", work / "0.occs"
        parts.write_transcripts(transcripts)

    def ali(self, job: int) -> Path:
        """The current alignments of a job."""
        return self.work / f"ali.{job}"

    def one(self, name: str, program: str, *arguments: str | Path) -> None:
        """Run one program as one job."""
        command = self.jobs.command(program, *arguments)
        self.jobs.run(name, lambda _: [[command]], scripts=self.work, logs=self.logs)

    def each(
        self, name: str, program: str, arguments: Callable[[int], Sequence[str | Path]], *, aligns: bool = False
    ) -> None:
        """Run a program for each part.

        Args:
            name: name of the logs.
            program: Kaldi's name of the program.
            arguments: number of the job -> the program's arguments.
            aligns: whether a part without a single alignment is no failure.
        """
        self.jobs.run(
            name,
            lambda job: [[self.jobs.command(program, *arguments(job))]],
            scripts=self.work,
            logs=self.logs,
            numbers=self.parts.numbers,
            nothing_done=_NO_RESULT if aligns else "",
        )

    def compile_graphs(self, lang: Lang) -> None:
        """Compile the training graphs with the current model's topology and tree."""
        model, tree, lexicon = str(self.model), str(self.tree), lexicon_files(lang)
        with spelled(self.jobs, lang, self._transcripts):
            self.each(
                "compile-train-graphs",
                "compile-train-graphs",
                lambda job: graph_arguments(lexicon, model, tree, self.parts.transcripts(job), self._graphs(job)),
            )

    def _graphs(self, job: int) -> Path:
        return self.work / f"fsts.{job}"

    def align_equally(self) -> None:
        """Divide each utterance equally among the states of its text."""
        self._align("align.0", "align-equal-compiled")

    def realign(self, name: str, beam: float) -> None:
        """Align with the current model."""
        config = self.config
        options = align_options((config.acwt, config.transition_scale, config.self_loop_scale), beam, config.retry_beam)
        self._align(name, "gmm-align-compiled", *options, str(self.model))

    def _align(self, name: str, program: str, *options: str) -> None:
        def arguments(job: int) -> list[str]:
            return [*options, f"ark:{self._graphs(job)}", self.parts.scp(job, sort=True), f"ark:{self.ali(job)}"]

        self.each(name, program, arguments, aligns=True)
        aligned = {utt for job in self.parts.numbers for utt in self._alignments(job)}
        check_failures(self.parts.utts, aligned, self.config.max_failed)

    def _alignments(self, job: int) -> dict[str, np.ndarray]:
        path = self.ali(job)
        return dict(read_archive(path, "int vector")) if path.is_file() and path.stat().st_size else {}

    def update(self, iteration: int, num_gauss: int, *, min_occupancy: float | None = None) -> None:
        """Accumulate statistics over all parts, re-estimate and add Gaussians."""
        model = str(self.model)
        accs = {job: self.work / f"{iteration}.{job}.acc" for job in self.parts.numbers}
        self.each(
            f"acc.{iteration}",
            "gmm-acc-stats-ali",
            lambda job: [model, self.parts.scp(job, sort=True), f"ark,s,cs:{self.ali(job)}", accs[job]],
            aligns=True,
        )
        options = [f"--mix-up={num_gauss}", f"--power={self.config.power:.9g}"]
        if min_occupancy is not None:
            options.append(f"--min-gaussian-occupancy={min_occupancy:g}")
        following, total = self.work / f"{iteration + 1}.mdl", self.work / f"{iteration}.acc"
        occupancies = self.work / f"{iteration + 1}.occs"
        sums = self.jobs.command("gmm-sum-accs", total, *accs.values())
        estimate = self.jobs.command("gmm-est", f"--write-occs={occupancies}", *options, model, total, following)
        self.jobs.run(f"update.{iteration}", lambda _: [[sums], [estimate]], scripts=self.work, logs=self.logs)
        for path in (self.model, total, *accs.values()):
            path.unlink()
        self.model, self.occupancies = following, occupancies

    def iterate(self, first_beam: float, num_gauss: int, *, first_grows: bool) -> None:
        """All passes after the initial one, with Gaussians added up to ``max_iter_inc``, as many each time.

        Kaldi's scripts round the number for each pass down, and with few passes end well below ``totgauss``.

        Args:
            first_beam: beam of the first realignment.
            num_gauss: number of Gaussians before the passes.
            first_grows: whether pass 1 adds Gaussians already.
        """
        config = self.config
        increment = max(0.0, (config.totgauss - num_gauss) / max(config.max_iter_inc, 1))
        beam = first_beam
        for iteration in range(1, config.num_iters):
            if iteration in config.realign_iters:
                self.realign(f"align.{iteration}", beam)
                beam = config.beam
            times = min(iteration if first_grows else iteration - 1, config.max_iter_inc)
            self.update(iteration, int(num_gauss + times * increment))

    def finish(self, lang: Lang, out_dir: Path) -> None:
        """Align once more and move all that is kept into ``out_dir``, the model last."""
        self.realign("align.final", self.config.beam)
        for old in out_dir.glob("ali.*.gz"):
            old.unlink()
        for number, job in enumerate(self.parts.numbers, 1):
            write_alignments(out_dir / f"ali.{number}.gz", self._alignments(job))
        write_text(out_dir / "num_jobs", f"{len(self.parts.numbers)}\n")
        shutil.copyfile(lang.path / "phones.txt", out_dir / "phones.txt")
        if self.occupancies.is_file():
            move(self.occupancies, out_dir / "final.occs")
        with recorded(out_dir, "tree", "final.mdl"):
            move(self.tree, out_dir / "tree")
            move(self.model, out_dir / "final.mdl")


def train_mono(
    jobs: Jobs, feats: Features, transcripts: Transcripts, lang: Lang, out_dir: Path, config: MonoConfig
) -> None:
    """Train a monophone system; see :meth:`kaldi_uq.engine.base.SystemBuilder.train_mono`."""
    sets, topology = existing_files(lang.path, "phones/sets.int", "topo")
    dim = str(next(iter(feats.values())).shape[1])
    with jobs.workspace(out_dir) as (work, logs):
        parts = write_parts(work, feats.items(), jobs.options)
        training = Training(jobs, work, logs, parts, transcripts, config)
        options = (f"--shared-phones={sets}", f"--train-feats=scp:{work / 'feats.scp'}")
        training.one("init", "gmm-init-mono", *options, topology, dim, training.model, training.tree)
        training.compile_graphs(lang)
        training.align_equally()
        num_gauss = read_gmm_model(training.model)[1].num_gauss
        # the first pass has only equal alignments, where a real state can be short of frames
        training.update(0, num_gauss, min_occupancy=3.0)
        training.iterate(config.initial_beam, num_gauss, first_grows=True)
        training.finish(lang, Path(out_dir))


def train_deltas(
    jobs: Jobs,
    feats: Features,
    transcripts: Transcripts,
    lang: Lang,
    ali_dir: Path,
    out_dir: Path,
    config: DeltasConfig,
) -> None:
    """Train a triphone system; see :meth:`kaldi_uq.engine.base.SystemBuilder.train_deltas`."""
    old_model = open_model(ali_dir).model
    alignments = {utt: ali for utt, ali in read_alignments(ali_dir).items() if utt in feats}
    check_failures(list(feats), alignments, config.max_failed)
    with jobs.workspace(out_dir) as (work, logs):
        parts = write_parts(work, ((utt, f) for utt, f in feats.items() if utt in alignments), jobs.options)
        training = Training(jobs, work, logs, parts, transcripts, config)
        for job, utts in parts.of_job.items():
            write_alignments(work / f"old.{job}.gz", {utt: alignments[utt] for utt in utts})
        _build_tree(training, lang, old_model, config)
        model, occupancies = training.model, work / "1.occs"
        training.model = work / "1.mdl"
        training.one("mixup", "gmm-mixup", f"--mix-up={config.num_leaves}", model, occupancies, training.model)
        models = (old_model, training.model, training.tree)
        training.each(
            "convert", "convert-ali", lambda job: [*models, f"ark:{_old(work, job)}", f"ark:{training.ali(job)}"]
        )
        training.compile_graphs(lang)
        training.iterate(config.beam, config.num_leaves, first_grows=False)
        training.finish(lang, Path(out_dir))


def _build_tree(training: Training, lang: Lang, old_model: str, config: DeltasConfig) -> None:
    """Grow the decision tree from the old alignments, and make a model with a Gaussian for each leaf."""
    work, parts = training.work, training.parts
    names = ("phones/sets.int", "phones/roots.int", "topo", "phones/context_indep.csl")
    sets, roots, topology, silence = existing_files(lang.path, *names)
    context_independent = f"--ci-phones={Path(silence).read_text().strip()}"
    accs = {job: work / f"{job}.treeacc" for job in parts.numbers}
    training.each(
        "acc_tree",
        "acc-tree-stats",
        lambda job: [
            context_independent,
            old_model,
            parts.scp(job, sort=True),
            f"ark,s,cs:{_old(work, job)}",
            accs[job],
        ],
    )
    stats, questions, compiled = (work / name for name in ("treeacc", "questions.int", "questions.qst"))
    training.one("sum_tree_acc", "sum-tree-stats", stats, *accs.values())
    training.one("questions", "cluster-phones", stats, sets, questions)
    extra = lang.path / "phones/extra_questions.int"
    if extra.is_file():
        write_text(questions, questions.read_text() + extra.read_text())
    training.one("compile_questions", "compile-questions", topology, questions, compiled)
    options = ("--verbose=1", f"--max-leaves={config.num_leaves}", f"--cluster-thresh={config.cluster_thresh:.9g}")
    training.one("build_tree", "build-tree", *options, stats, roots, compiled, topology, training.tree)
    training.model = work / "init.mdl"
    occupancies = f"--write-occs={work / '1.occs'}"
    training.one("init_model", "gmm-init-model", occupancies, training.tree, stats, topology, training.model)


def _old(work: Path, job: int) -> str:
    """The old alignments of a job, as what follows ``ark:``."""
    return f"gunzip -c {quoted(work / f'old.{job}.gz')}|"
