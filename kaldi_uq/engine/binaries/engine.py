"""The kaldi engine: the programs below ``$KALDI_ROOT``, run as jobs.  Nothing of Kaldi's is loaded into this process.

Logs stay in ``log/`` of the directory that an operation writes into, lattices beside it where they are asked for.
Archives that only pass data on to a program are removed when it has ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kaldi_uq.engine.base import (
    DecodeConfig,
    DeltasConfig,
    Engine,
    EngineOptions,
    Hypothesis,
    MonoConfig,
    check_features,
    check_scores,
)
from kaldi_uq.engine.binaries.commands import absolute, align_options, compile_graphs, model_files, move, spelled
from kaldi_uq.engine.binaries.data import Parts, write_parts
from kaldi_uq.engine.binaries.jobs import Jobs, KaldiRoot, log_text, quoted
from kaldi_uq.errors import EngineError
from kaldi_uq.io.ark import read_archive, write_alignments
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import read_transitions
from kaldi_uq.io.lang import Lang, read_symbols

LATTICE_BEAM = 6.0  # as in Kaldi's steps/decode.sh
BEST_PATH_BEAM = 0.5  # of lattices that only the best path is taken from: of noise, whole ones take minutes
_NO_RESULT = r"Done 0(, errors on| utterances)"  # the programs' status says then that they failed
_PARTIAL = re.compile(r"Outputting partial output for utterance (\S+)")


class KaldiEngine(Engine):
    """Kaldi's own programs.

    Args:
        options: how they are run.

    Raises:
        EngineError: ``KALDI_ROOT`` is not set or has no built Kaldi.
    """

    name = "kaldi"

    def __init__(self, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()
        self.jobs = Jobs(KaldiRoot.find(), self.options)

    def versions(self) -> dict[str, str]:
        return {"kaldi": self.jobs.kaldi.version}

    def compile_fst(self, text: str, path: Path, *, sort: str) -> None:
        command = self.jobs.command
        with self.jobs.workspace() as (work, logs):
            write_text(work / "text", text)
            pipeline = [
                command("fstcompile", work / "text"),
                command("fstarcsort", f"--sort_type={sort}", "-", work / "fst"),
            ]
            self.jobs.run("compile_fst", lambda _: [pipeline], scripts=work, logs=logs)
            move(work / "fst", path)

    def train_mono(
        self,
        feats: Mapping[str, np.ndarray],
        transcripts: Mapping[str, Sequence[int]],
        lang: Lang,
        out_dir: Path,
        config: MonoConfig,
    ) -> None:
        from kaldi_uq.engine.binaries.gmm import train_mono

        check_features(feats)
        train_mono(self.jobs, feats, transcripts, lang, out_dir, config)

    def train_deltas(
        self,
        feats: Mapping[str, np.ndarray],
        transcripts: Mapping[str, Sequence[int]],
        lang: Lang,
        ali_dir: Path,
        out_dir: Path,
        config: DeltasConfig,
    ) -> None:
        from kaldi_uq.engine.binaries.gmm import train_deltas

        check_features(feats)
        train_deltas(self.jobs, feats, transcripts, lang, ali_dir, out_dir, config)

    def make_graph(
        self, lang: Lang, model_dir: Path, graph_dir: Path, *, transition_scale: float, self_loop_scale: float
    ) -> None:
        from kaldi_uq.engine.binaries.graph import make_graph

        model, tree = model_files(model_dir)
        make_graph(self.jobs, lang, model, tree, graph_dir, transition_scale, self_loop_scale)

    def align(
        self,
        model_dir: Path,
        lang: Lang,
        loglikes: Iterable[tuple[str, np.ndarray]],
        transcripts: Mapping[str, Sequence[int]],
        config: DecodeConfig,
    ) -> dict[str, np.ndarray]:
        return self._align("align-compiled-mapped", model_dir, lang, _checked(loglikes, model_dir), transcripts, config)

    def align_gmm(
        self,
        model_dir: Path,
        lang: Lang,
        feats: Iterable[tuple[str, np.ndarray]],
        transcripts: Mapping[str, Sequence[int]],
        config: DecodeConfig,
    ) -> dict[str, np.ndarray]:
        return self._align("gmm-align-compiled", model_dir, lang, feats, transcripts, config)

    def _align(
        self,
        program: str,
        model_dir: Path,
        lang: Lang,
        matrices: Iterable[tuple[str, np.ndarray]],
        transcripts: Mapping[str, Sequence[int]],
        config: DecodeConfig,
    ) -> dict[str, np.ndarray]:
        model, tree = model_files(model_dir)
        with self.jobs.workspace() as (work, logs):
            parts = write_parts(work, matrices, self.options)
            if not parts.utts:
                return {}
            parts.write_transcripts(transcripts)
            scales = (config.acwt, config.transition_scale, config.self_loop_scale)

            def pipelines(job: int) -> list[list[list[str]]]:
                graphs = work / f"fsts.{job}"
                compiled = compile_graphs(self.jobs, lang, model, tree, parts.transcripts(job), graphs)
                options = align_options(scales, config.align_beam, config.retry_beam)
                aligned = [f"ark,s,cs:{graphs}", parts.scp(job, sort=True), f"ark:{work / f'ali.{job}'}"]
                return [[compiled], [self.jobs.command(program, *options, model, *aligned)]]

            with spelled(self.jobs, lang, transcripts):
                self.jobs.run(
                    program, pipelines, scripts=work, logs=logs, numbers=parts.numbers, nothing_done=_NO_RESULT
                )
            return _read_vectors(work, "ali", parts)

    def decode(
        self, model_dir: Path, graph_dir: Path, loglikes: Iterable[tuple[str, np.ndarray]], config: DecodeConfig
    ) -> dict[str, Hypothesis]:
        return self._decode("latgen-faster-mapped", model_dir, graph_dir, _checked(loglikes, model_dir), config)

    def decode_gmm(
        self, model_dir: Path, graph_dir: Path, feats: Iterable[tuple[str, np.ndarray]], config: DecodeConfig
    ) -> dict[str, Hypothesis]:
        return self._decode("gmm-latgen-faster", model_dir, graph_dir, feats, config)

    def _decode(
        self,
        program: str,
        model_dir: Path,
        graph_dir: Path,
        matrices: Iterable[tuple[str, np.ndarray]],
        config: DecodeConfig,
    ) -> dict[str, Hypothesis]:
        model, _ = model_files(model_dir)
        graph, words = Path(graph_dir) / "HCLG.fst", Path(graph_dir) / "words.txt"
        for path in (graph, words):
            if not path.is_file():
                raise EngineError(f"{path}: no such file; utils/mkgraph.sh makes it")
        keep = self.options.lattices and self.options.work_dir is not None
        lattice_beam = min(LATTICE_BEAM if keep else BEST_PATH_BEAM, config.beam)
        options = [
            f"--beam={config.beam:g}",
            f"--max-active={config.max_active}",
            f"--lattice-beam={lattice_beam:g}",
            f"--acoustic-scale={config.acwt:.9g}",
            "--allow-partial=true",
        ]
        with self.jobs.workspace() as (work, logs):
            parts = write_parts(work, matrices, self.options)
            if not parts.utts:
                return {}

            def pipelines(job: int) -> list[list[list[str]]]:
                lattice, words_out, ali = (work / f"{name}.{job}" for name in ("lat", "words", "ali"))
                decode = self.jobs.command(program, *options, model, absolute(graph), parts.scp(job))
                return [[[*decode, f"ark:|gzip -c >{quoted(f'{lattice}.gz')}", f"ark,t:{words_out}", f"ark:{ali}"]]]

            def costs(job: int) -> list[list[list[str]]]:
                lattice = f"ark:gunzip -c {quoted(work / f'lat.{job}.gz')}|"
                best = self.jobs.command("lattice-1best", f"--acoustic-scale={config.acwt:.9g}", lattice, "ark:-")
                graph_costs, acoustic_costs = (f"ark,t:{work / f'{name}.{job}'}" for name in ("lm", "ac"))
                nothing = "ark:/dev/null"
                linear = self.jobs.command("nbest-to-linear", "ark:-", nothing, nothing, graph_costs, acoustic_costs)
                return [[best, linear]]

            ran = self.jobs.run(
                program, pipelines, scripts=work, logs=logs, numbers=parts.numbers, nothing_done=_NO_RESULT
            )
            partial = {utt for path in ran for utt in _PARTIAL.findall(log_text(path))}
            alignments = _read_vectors(work, "ali", parts)
            if alignments:
                self.jobs.run(
                    "lattice-1best",
                    costs,
                    scripts=work,
                    logs=logs,
                    numbers=parts.numbers,
                    nothing_done=r"Done converting 0|done 0",
                )
            found = _hypotheses(work, parts, words, alignments, partial, config.acwt)
            if self.options.lattices and self.options.work_dir:
                for job in parts.numbers:
                    move(work / f"lat.{job}.gz", self.options.work_dir / f"lat.{job}.gz")
            return found

    def update_transitions(self, model_dir: Path, alignments: Iterable[np.ndarray], out_path: Path) -> None:
        model, _ = model_files(model_dir)
        with self.jobs.workspace() as (work, logs):
            write_alignments(work / "ali.1.gz", {f"{n:09d}": ali for n, ali in enumerate(alignments)})
            source = f"ark:gunzip -c {quoted(work / 'ali.1.gz')}|"
            command = self.jobs.command("train-transitions", model, source, work / "final.mdl")
            self.jobs.run("train-transitions", lambda _: [[command]], scripts=work, logs=logs)
            move(work / "final.mdl", out_path)


def _checked(loglikes: Iterable[tuple[str, np.ndarray]], model_dir: Path) -> Iterable[tuple[str, np.ndarray]]:
    num_pdfs = read_transitions(Path(model_dir) / "final.mdl").num_pdfs
    for utt, scores in loglikes:
        check_scores(utt, scores, num_pdfs, model_dir)
        yield utt, scores


def _read_vectors(work: Path, name: str, parts: Parts) -> dict[str, np.ndarray]:
    """The integer vectors of all jobs, in the order in which the utterances came."""
    found: dict[str, np.ndarray] = {}
    for job in parts.numbers:
        path = work / f"{name}.{job}"
        if path.is_file() and path.stat().st_size:
            found |= {utt: np.asarray(ali, dtype=np.int32) for utt, ali in read_archive(path, "int vector")}
    return {utt: found[utt] for utt in parts.utts if utt in found}


def _read_texts(work: Path, name: str, parts: Parts) -> dict[str, str]:
    found: dict[str, str] = {}
    for job in parts.numbers:
        path = work / f"{name}.{job}"
        if path.is_file() and path.stat().st_size:
            found |= read_table(path, check_sorted=False, allow_empty=True)
    return found


def _hypotheses(
    work: Path, parts: Parts, words: Path, alignments: Mapping[str, np.ndarray], partial: set[str], acwt: float
) -> dict[str, Hypothesis]:
    id_to_word = {index: word for word, index in read_symbols(words).items()}
    word_ids, graph, acoustic = (_read_texts(work, name, parts) for name in ("words", "lm", "ac"))
    found = {}
    for utt, alignment in alignments.items():
        score = -(float(graph[utt]) + acwt * float(acoustic[utt])) if utt in graph else float("nan")
        text = tuple(id_to_word[int(word)] for word in word_ids.get(utt, "").split())
        found[utt] = Hypothesis(text, alignment, score, reached_final=utt not in partial)
    return found
