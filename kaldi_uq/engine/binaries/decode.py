"""Decoding and forced alignment on Kaldi's programs, which read graph and lexicon anew in every job."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from kaldi_uq.engine.base import Aligner, DecodeConfig, Decoder, Hypothesis, LatticeSink, Matrices, Transcripts
from kaldi_uq.engine.binaries.commands import align_options, graph_arguments, lexicon_files, move, spelled
from kaldi_uq.engine.binaries.data import Parts, write_parts
from kaldi_uq.engine.binaries.jobs import Jobs, log_text, quoted
from kaldi_uq.engine.checks import check_scores
from kaldi_uq.engine.config import BEST_PATH_BEAM
from kaldi_uq.engine.files import open_graph, open_model
from kaldi_uq.io.ark import read_archive
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.lattice import read_lattices

_NO_RESULT = r"Done 0(, errors on| utterances)"  # in the log; the exit status then says that the program failed
_PARTIAL = re.compile(r"Outputting partial output for utterance (\S+)")


class KaldiDecoder(Decoder):
    """A decoder of one graph that runs Kaldi's programs.

    Args:
        jobs: what runs the programs.
        model_dir: directory with ``final.mdl`` and ``tree``.
        graph_dir: directory with ``HCLG.fst`` and ``words.txt``.
        config: acwt and beams.
    """

    def __init__(self, jobs: Jobs, model_dir: Path, graph_dir: Path, config: DecodeConfig) -> None:
        self._jobs, self._model_dir, self._config = jobs, model_dir, config
        opened = open_model(model_dir)
        graph = open_graph(graph_dir, opened.transitions.num_tids)
        self._model, self._num_pdfs = opened.model, opened.transitions.num_pdfs
        self._graph, self._id_to_word = graph.fst.path, graph.id_to_word
        self.keeps_lattices = jobs.options.lattice_dir is not None

    def decode(self, loglikes: Matrices, *, lattices: LatticeSink | None = None) -> dict[str, Hypothesis]:
        checked = _checked(loglikes, self._num_pdfs, self._model_dir)
        return self.run("latgen-faster-mapped", checked, lattices=lattices)

    def run(self, program: str, matrices: Matrices, *, lattices: LatticeSink | None = None) -> dict[str, Hypothesis]:
        """Decode what the program takes: log-likelihoods, or features for a program with GMMs."""
        jobs, acwt, kept_in = self._jobs, self._config.acwt, self._jobs.options.lattice_dir
        with jobs.workspace() as (work, logs):
            parts = write_parts(work, matrices, jobs.options)
            if not parts.utts:
                return {}

            def pipelines(job: int) -> list[list[list[str]]]:
                lattice, words, ali = (work / f"{name}.{job}" for name in ("lat", "words", "ali"))
                options = self._options(wide=bool(kept_in or lattices))
                decode = jobs.command(program, *options, self._model, self._graph, parts.scp(job))
                return [[[*decode, f"ark:|gzip -c >{quoted(f'{lattice}.gz')}", f"ark,t:{words}", f"ark:{ali}"]]]

            def costs(job: int) -> list[list[list[str]]]:
                lattice = f"ark:gunzip -c {quoted(work / f'lat.{job}.gz')}|"
                best = jobs.command("lattice-1best", f"--acoustic-scale={acwt:.9g}", lattice, "ark:-")
                graph_costs, acoustic_costs = (f"ark,t:{work / f'{name}.{job}'}" for name in ("lm", "ac"))
                nothing = "ark:/dev/null"
                linear = jobs.command("nbest-to-linear", "ark:-", nothing, nothing, graph_costs, acoustic_costs)
                return [[best, linear]]

            ran = jobs.run(program, pipelines, scripts=work, logs=logs, numbers=parts.numbers, nothing_done=_NO_RESULT)
            partial = {utt for path in ran for utt in _PARTIAL.findall(log_text(path))}
            alignments = _read_vectors(work, "ali", parts)
            if alignments:
                jobs.run(
                    "lattice-1best",
                    costs,
                    scripts=work,
                    logs=logs,
                    numbers=parts.numbers,
                    nothing_done=r"Done converting 0|done 0",
                )
            found = self._hypotheses(work, parts, alignments, partial)
            if lattices is not None:
                for path in _written(work, "lat", parts, ".gz"):
                    for utt, lattice in read_lattices(path):
                        lattices(utt, lattice)
            if kept_in:
                for job in parts.numbers:
                    move(work / f"lat.{job}.gz", kept_in / f"lat.{job}.gz")
            return found

    def _options(self, *, wide: bool) -> list[str]:
        config = self._config
        lattice_beam = min(config.lattice_beam if wide else BEST_PATH_BEAM, config.beam)
        return [
            f"--beam={config.beam:g}",
            f"--max-active={config.max_active}",
            f"--lattice-beam={lattice_beam:g}",
            f"--acoustic-scale={config.acwt:.9g}",
            "--allow-partial=true",
        ]

    def _hypotheses(
        self, work: Path, parts: Parts, alignments: Mapping[str, np.ndarray], partial: set[str]
    ) -> dict[str, Hypothesis]:
        word_ids, graph, acoustic = (_read_texts(work, name, parts) for name in ("words", "lm", "ac"))
        found = {}
        for utt, alignment in alignments.items():
            score = float("nan")
            if utt in graph:
                score = -(float(graph[utt]) + self._config.acwt * float(acoustic[utt]))
            words = tuple(self._id_to_word[int(word)] for word in word_ids.get(utt, "").split())
            found[utt] = Hypothesis(words, alignment, score, reached_final=utt not in partial)
        return found


class KaldiAligner(Aligner):
    """A forced aligner of one lexicon that runs Kaldi's programs.

    Args:
        jobs: what runs the programs.
        model_dir: directory with ``final.mdl`` and ``tree``.
        lang: the lexicon.
        config: acwt, beams and scales.
    """

    def __init__(self, jobs: Jobs, model_dir: Path, lang: Lang, config: DecodeConfig) -> None:
        self._jobs, self._model_dir, self._lang = jobs, model_dir, lang
        opened = open_model(model_dir)
        self._model, self._tree, self._num_pdfs = opened.model, opened.tree, opened.transitions.num_pdfs
        self._lexicon = lexicon_files(lang)
        scales = (config.acwt, config.transition_scale, config.self_loop_scale)
        self._options = align_options(scales, config.align_beam, config.retry_beam)

    def align(self, loglikes: Matrices, transcripts: Transcripts) -> dict[str, np.ndarray]:
        return self.run("align-compiled-mapped", _checked(loglikes, self._num_pdfs, self._model_dir), transcripts)

    def run(self, program: str, matrices: Matrices, transcripts: Transcripts) -> dict[str, np.ndarray]:
        """Align what the program takes: log-likelihoods, or features for a program with GMMs."""
        jobs, lang, model = self._jobs, self._lang, self._model
        with jobs.workspace() as (work, logs):
            parts = write_parts(work, matrices, jobs.options)
            if not parts.utts:
                return {}
            parts.write_transcripts(transcripts)

            def pipelines(job: int) -> list[list[list[str]]]:
                graphs = work / f"fsts.{job}"
                arguments = graph_arguments(self._lexicon, model, self._tree, parts.transcripts(job), graphs)
                aligned = [f"ark,s,cs:{graphs}", parts.scp(job, sort=True), f"ark:{work / f'ali.{job}'}"]
                return [
                    [jobs.command("compile-train-graphs", *arguments)],
                    [jobs.command(program, *self._options, model, *aligned)],
                ]

            with spelled(jobs, lang, transcripts):
                jobs.run(program, pipelines, scripts=work, logs=logs, numbers=parts.numbers, nothing_done=_NO_RESULT)
            return _read_vectors(work, "ali", parts)


def _checked(loglikes: Matrices, num_pdfs: int, model_dir: Path) -> Iterator[tuple[str, np.ndarray]]:
    for utt, scores in loglikes:
        check_scores(utt, scores, num_pdfs, model_dir)
        yield utt, scores


def _read_vectors(work: Path, name: str, parts: Parts) -> dict[str, np.ndarray]:
    """The integer vectors of all jobs, in the order in which the utterances came."""
    found = {utt: ali for path in _written(work, name, parts) for utt, ali in read_archive(path, "int vector")}
    return {utt: np.asarray(found[utt], dtype=np.int32) for utt in parts.utts if utt in found}


def _read_texts(work: Path, name: str, parts: Parts) -> dict[str, str]:
    """The lines of all jobs."""
    tables = (read_table(path, check_sorted=False, allow_empty=True) for path in _written(work, name, parts))
    return {utt: line for table in tables for utt, line in table.items()}


def _written(work: Path, name: str, parts: Parts, ending: str = "") -> list[Path]:
    """What the jobs wrote under a name, without empty files."""
    paths = [work / f"{name}.{job}{ending}" for job in parts.numbers]
    return [path for path in paths if path.is_file() and path.stat().st_size]
