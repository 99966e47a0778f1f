"""Monophone training on the embedded engine: Viterbi training with Gaussians added as it goes.

The recipe is that of Kaldi's ``steps/train_mono.sh`` (equal alignment first, then realignment in a growing number of
iterations).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import kaldifst
import numpy as np

from kaldi_uq.engine.base import Features, MonoConfig, Transcripts
from kaldi_uq.engine.checks import check_failures, check_features
from kaldi_uq.engine.embedded.trainer import Trainer, initial_transitions, wheel_topology
from kaldi_uq.engine.embedded.tree_questions import read_phone_sets
from kaldi_uq.errors import DataError
from kaldi_uq.io.digests import recorded
from kaldi_uq.io.kaldi_model import DiagGmmSet, TransitionTable, read_topology
from kaldi_uq.io.lang import Lang
from kaldi_uq.progress import progressing

log = logging.getLogger(__name__)


def train(feats: Features, transcripts: Transcripts, lang: Lang, out_dir: Path, config: MonoConfig) -> None:
    """Train, and write the model directory; see :meth:`kaldi_uq.engine.base.SystemBuilder.train_mono`.

    Raises:
        AlignmentError: more utterances than ``config.max_failed`` allows cannot be aligned.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    utts = list(feats)
    table, transitions, tree = _initial_model(lang)
    with recorded(out_dir, "tree"):
        tree.write(True, str(out_dir / "tree"))
    trainer = Trainer(feats, transcripts, lang, transitions, tree, config)
    trainer.gmms = _global_gmms(feats, trainer.num_pdfs)
    trainer.alignments = _equal_alignments(feats, transcripts, trainer.graphs, config.seed)
    check_failures(utts, trainer.alignments, config.max_failed)

    increment = max(0.0, (config.totgauss - trainer.gmms.num_gauss) / max(config.max_iter_inc, 1))
    target = float(trainer.gmms.num_gauss)
    for iteration in progressing(range(config.num_iters), "monophone training", "passes", config.num_iters):
        if iteration in config.realign_iters:
            trainer.realign(config.initial_beam if iteration == min(config.realign_iters) else config.beam)
        grow = 0 < iteration <= config.max_iter_inc
        target += increment if grow else 0.0
        # the first pass has only equal alignments, where a real state can be short of frames
        loglike = trainer.update(int(target) if grow else 0, min_occupancy=3.0 if iteration == 0 else 10.0)
        log.info("pass %d: %.3f a frame, %d Gaussians", iteration, loglike, trainer.gmms.num_gauss)
    trainer.finish(out_dir, table)


def _initial_model(lang: Lang) -> tuple[TransitionTable, Any, Any]:
    topology = read_topology(lang.path / "topo")
    sets = lang.path / "phones/sets.int"
    shared = [list(phones) for phones in read_phone_sets(sets)]
    if sorted(phone for phones in shared for phone in phones) != sorted(topology.phones):
        raise DataError(f"{sets}: expected each phone of {lang.path / 'topo'} once; make both again")
    tree = khg.monophone_context_dependency_shared(shared, wheel_topology(topology).get_phone_to_num_pdf_classes())
    return *initial_transitions(topology, tree), tree


def _global_gmms(feats: Features, num_pdfs: int) -> DiagGmmSet:
    mean, variance = check_features(feats)
    inverse = (1.0 / variance).astype(np.float32)[None]
    weighted = (mean / variance).astype(np.float32)[None]
    one = np.ones(1, dtype=np.float32)
    return DiagGmmSet((one,) * num_pdfs, (weighted,) * num_pdfs, (inverse,) * num_pdfs)


def _equal_alignments(
    feats: Features, transcripts: Transcripts, graphs: Mapping[tuple[int, ...], Any], seed: int
) -> dict[str, np.ndarray]:
    alignments = {}
    for utt, features in feats.items():
        number = _path_seed(utt, seed)
        found, path = kaldifst.equal_align(graphs[tuple(transcripts[utt])], len(features), number, 10)
        if found:
            _, labels, _, _ = kaldifst.get_linear_symbol_sequence(path)
            alignments[utt] = np.asarray(labels, dtype=np.int32)
    return alignments


def _path_seed(utt: str, seed: int) -> int:
    """Seed of an utterance's random path: for seed 0 that of Kaldi's ``align-equal-compiled``, so that paths are equal.

    Consecutive numbers would not do: the first draws of their generators are nearly the same.

    Source: Kaldi ``src/util/stl-utils.h``, ``StringHasher``.
    """
    value = 0
    for byte in (f"{seed} {utt}" if seed else utt).encode():
        value = (value * 7853 + (byte - 256 if byte > 127 else byte)) % (1 << 32)
    return value - (1 << 32) if value >= 1 << 31 else value
