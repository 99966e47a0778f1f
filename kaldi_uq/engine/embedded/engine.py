"""The embedded engine: Kaldi's C++ as Python wheels, ``kaldi-hmm-gmm`` and ``kaldifst``.  No Kaldi installation.

The wheels' logs go to standard error.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

import kaldifst
import numpy as np

from kaldi_uq.engine.base import (
    DecodeConfig,
    DeltasConfig,
    EngineOptions,
    Features,
    MonoConfig,
    SystemBuilder,
    Transcripts,
)
from kaldi_uq.engine.embedded import deltas, graph, mono, wheels
from kaldi_uq.engine.embedded.decode import EmbeddedAligner, EmbeddedDecoder
from kaldi_uq.io.kaldi_model import read_transitions, write_model
from kaldi_uq.io.lang import Lang


class EmbeddedEngine(SystemBuilder):
    """Kaldi's own C++, in this process.

    Args:
        options: whether decoding keeps lattices, and where; it starts no jobs.
    """

    name = "embedded"

    def __init__(self, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()

    def versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in ("kaldi-hmm-gmm", "kaldifst")}

    def decoder(self, model_dir: Path, graph_dir: Path, config: DecodeConfig) -> EmbeddedDecoder:
        return EmbeddedDecoder(model_dir, graph_dir, config, self.options)

    def aligner(self, model_dir: Path, lang: Lang, config: DecodeConfig) -> EmbeddedAligner:
        return EmbeddedAligner(model_dir, lang, config)

    def compile_fst(self, text: str, path: Path, *, sort: str) -> None:
        fst = kaldifst.compile(text)
        kaldifst.arcsort(fst, sort_type=sort)
        wheels.write_fst(fst, path)

    def update_transitions(self, model_dir: Path, alignments: Iterable[np.ndarray], out_path: Path) -> None:
        table = read_transitions(model_dir / "final.mdl")
        cached, _ = wheels.load_model(model_dir)
        transitions = wheels.set_log_probs(cached, table.log_probs)
        wheels.update_transitions(transitions, alignments)
        write_model(out_path, wheels.with_log_probs(table, transitions))

    def train_mono(
        self, feats: Features, transcripts: Transcripts, lang: Lang, out_dir: Path, config: MonoConfig
    ) -> None:
        mono.train(feats, transcripts, lang, out_dir, config)

    def train_deltas(
        self,
        feats: Features,
        transcripts: Transcripts,
        lang: Lang,
        ali_dir: Path,
        out_dir: Path,
        config: DeltasConfig,
    ) -> None:
        deltas.train(feats, transcripts, lang, ali_dir, out_dir, config)

    def make_graph(
        self, lang: Lang, model_dir: Path, graph_dir: Path, *, transition_scale: float, self_loop_scale: float
    ) -> None:
        graph.make_graph(lang, model_dir, graph_dir, transition_scale, self_loop_scale)
