"""The kaldi engine: the programs below ``$KALDI_ROOT``, run as jobs.  Nothing of Kaldi's is loaded into this process.

Logs stay in ``log/`` of the directory that an operation writes into, lattices beside it where they are asked for.
Archives that only pass data on to a program are removed when it has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kaldi_uq.engine.base import (
    DecodeConfig,
    DeltasConfig,
    EngineOptions,
    Features,
    Hypothesis,
    Matrices,
    MonoConfig,
    SystemBuilder,
    Transcripts,
)
from kaldi_uq.engine.binaries import gmm, graph
from kaldi_uq.engine.binaries.commands import move
from kaldi_uq.engine.binaries.decode import KaldiAligner, KaldiDecoder
from kaldi_uq.engine.binaries.jobs import Jobs, KaldiRoot, quoted
from kaldi_uq.engine.checks import check_features
from kaldi_uq.engine.files import open_model
from kaldi_uq.io.ark import write_alignments
from kaldi_uq.io.digests import recorded
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import read_gmm_model
from kaldi_uq.io.lang import Lang


class KaldiEngine(SystemBuilder):
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

    def decoder(self, model_dir: Path, graph_dir: Path, config: DecodeConfig) -> KaldiDecoder:
        return KaldiDecoder(self.jobs, model_dir, graph_dir, config)

    def aligner(self, model_dir: Path, lang: Lang, config: DecodeConfig) -> KaldiAligner:
        return KaldiAligner(self.jobs, model_dir, lang, config)

    def decode_gmm(
        self, model_dir: Path, graph_dir: Path, feats: Matrices, config: DecodeConfig
    ) -> dict[str, Hypothesis]:
        read_gmm_model(Path(model_dir) / "final.mdl")  # before Kaldi's program does
        return self.decoder(model_dir, graph_dir, config).run("gmm-latgen-faster", feats)

    def align_gmm(
        self, model_dir: Path, lang: Lang, feats: Matrices, transcripts: Transcripts, config: DecodeConfig
    ) -> dict[str, np.ndarray]:
        read_gmm_model(Path(model_dir) / "final.mdl")
        return self.aligner(model_dir, lang, config).run("gmm-align-compiled", feats, transcripts)

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

    def update_transitions(self, model_dir: Path, alignments: Iterable[np.ndarray], out_path: Path) -> None:
        model = open_model(model_dir).model
        with self.jobs.workspace() as (work, logs):
            write_alignments(work / "ali.1.gz", {f"{n:09d}": ali for n, ali in enumerate(alignments)})
            source = f"ark:gunzip -c {quoted(work / 'ali.1.gz')}|"
            command = self.jobs.command("train-transitions", model, source, work / "final.mdl")
            self.jobs.run("train-transitions", lambda _: [[command]], scripts=work, logs=logs)
            with recorded(Path(out_path).parent, Path(out_path).name):
                move(work / "final.mdl", out_path)

    def train_mono(
        self, feats: Features, transcripts: Transcripts, lang: Lang, out_dir: Path, config: MonoConfig
    ) -> None:
        check_features(feats)
        gmm.train_mono(self.jobs, feats, transcripts, lang, out_dir, config)

    def train_deltas(
        self,
        feats: Features,
        transcripts: Transcripts,
        lang: Lang,
        ali_dir: Path,
        out_dir: Path,
        config: DeltasConfig,
    ) -> None:
        check_features(feats)
        gmm.train_deltas(self.jobs, feats, transcripts, lang, ali_dir, out_dir, config)

    def make_graph(
        self, lang: Lang, model_dir: Path, graph_dir: Path, *, transition_scale: float, self_loop_scale: float
    ) -> None:
        graph.make_graph(self.jobs, lang, model_dir, graph_dir, transition_scale, self_loop_scale)
