"""Triphone training on the embedded engine, by the recipe of Kaldi's ``steps/train_deltas.sh``.

Statistics of the alignments, questions by clustering, a decision tree, one Gaussian a leaf, Gaussians added as the
training goes on, a few realignments.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kaldi_uq.engine.base import DeltasConfig, Features, Transcripts
from kaldi_uq.engine.blocks import blocks_of
from kaldi_uq.engine.checks import check_failures, check_features
from kaldi_uq.engine.embedded import wheels
from kaldi_uq.engine.embedded.gmm import split
from kaldi_uq.engine.embedded.trainer import Trainer, initial_transitions
from kaldi_uq.engine.embedded.tree_build import TreeBuilder, read_roots
from kaldi_uq.engine.embedded.tree_questions import obtain_questions, read_phone_sets
from kaldi_uq.engine.embedded.tree_stats import VARIANCE_FLOOR, TreeStats, accumulate, frames_of
from kaldi_uq.errors import EngineError
from kaldi_uq.io.ark import read_alignments
from kaldi_uq.io.event_map import PDF_CLASS, EventMap, map_event, write_tree
from kaldi_uq.io.kaldi_model import DiagGmmSet, Topology, TransitionTable, read_topology, read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.progress import progressing

log = logging.getLogger(__name__)

CONTEXT_WIDTH, CENTRAL_POSITION = 3, 1


def train(
    feats: Features,
    transcripts: Transcripts,
    lang: Lang,
    ali_dir: Path,
    out_dir: Path,
    config: DeltasConfig,
) -> None:
    """Train, and write the model directory; see :meth:`kaldi_uq.engine.base.SystemBuilder.train_deltas`.

    Raises:
        AlignmentError: too many utterances have no alignment, or cannot be aligned later.
        EngineError: the topology of the alignments is not that of ``lang``.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    check_features(feats)
    topology, source = read_topology(lang.path / "topo"), read_transitions(ali_dir / "final.mdl")
    if source.topology != topology:
        raise EngineError(f"{ali_dir / 'final.mdl'}: its topology is not that of {lang.path / 'topo'}; align again")
    read = read_alignments(ali_dir)
    alignments = {utt: read[utt] for utt, x in feats.items() if utt in read and len(read[utt]) == len(x)}
    check_failures(list(feats), alignments, config.max_failed)

    tree, stats = _build_tree(feats, alignments, source, lang, topology, config)
    write_tree(out_dir / "tree", tree, context_width=CONTEXT_WIDTH, central_position=CENTRAL_POSITION)
    wheel_tree = wheels.read_tree(out_dir / "tree")
    table, transitions = initial_transitions(topology, wheel_tree)
    rng = np.random.default_rng(config.seed)
    trainer = Trainer(feats, transcripts, lang, transitions, wheel_tree, config)
    gmms, counts = _initial_gmms(stats, tree, trainer.num_pdfs)
    trainer.gmms = split(gmms, counts, config.num_leaves, config.power, rng)
    trainer.alignments = convert_alignments(alignments, source, table, tree)

    target = float(config.num_leaves)
    increment = max(0.0, (config.totgauss - target) / max(config.max_iter_inc, 1))
    for iteration in progressing(range(1, config.num_iters), "triphone training", "passes", config.num_iters - 1):
        if iteration in config.realign_iters:
            trainer.realign(config.beam)
        loglike = trainer.update(int(target))
        target += increment if iteration <= config.max_iter_inc else 0.0
        log.info("pass %d: %.3f a frame, %d Gaussians", iteration, loglike, trainer.gmms.num_gauss)
    trainer.finish(out_dir, table)


def _build_tree(
    feats: Features,
    alignments: Mapping[str, np.ndarray],
    source: TransitionTable,
    lang: Lang,
    topology: Topology,
    config: DeltasConfig,
) -> tuple[EventMap, TreeStats]:
    phones = lang.path / "phones"
    context_independent = [p for group in read_phone_sets(phones / "context_indep.int") for p in group]
    stats = accumulate(feats, alignments, source, context_independent)
    questions = obtain_questions(
        stats, read_phone_sets(phones / "sets.int"), generator=np.random.default_rng(config.seed)
    )
    questions = list(dict.fromkeys([*questions, *map(frozenset, read_phone_sets(phones / "extra_questions.int"))]))
    num_classes = {p: 1 + max(s.forward_pdf_class for s in topology.entry(p)) for p in topology.phones}
    builder = TreeBuilder(stats, questions, num_classes, read_roots(phones / "roots.int"))
    tree = builder.build(config.num_leaves, config.cluster_thresh)
    log.info("%d phones in context, %d questions", len(stats.events), len(questions))
    return tree, stats


def _initial_gmms(stats: TreeStats, tree: EventMap, num_pdfs: int) -> tuple[DiagGmmSet, np.ndarray]:
    """A Gaussian for each leaf, from the statistics; that of all data for a leaf without any."""
    dim = (stats.sums.shape[1] - 1) // 2
    sums = np.zeros((num_pdfs, 1 + 2 * dim))
    np.add.at(sums, _pdfs_of(stats.events, tree), stats.sums)
    empty = sums[:, 0] == 0
    if empty.any():
        log.warning("%d of %d leaves have no data and begin with the Gaussian of all data", int(empty.sum()), num_pdfs)
    counts = sums[:, 0].copy()
    sums[empty] = stats.sums.sum(0)
    mean = sums[:, 1 : 1 + dim] / sums[:, :1]
    inverse = 1.0 / np.maximum(sums[:, 1 + dim :] / sums[:, :1] - mean**2, VARIANCE_FLOOR)
    means, inverses = (mean * inverse).astype(np.float32), inverse.astype(np.float32)
    one = np.ones(1, dtype=np.float32)
    return DiagGmmSet((one,) * num_pdfs, tuple(means[:, None]), tuple(inverses[:, None])), counts


def _pdfs_of(events: np.ndarray, tree: EventMap) -> np.ndarray:
    """(N,) pdf-ids of (N, 4) events."""
    pdfs = [map_event(tree, {0: left, 1: mid, 2: right, PDF_CLASS: c}) for left, mid, right, c in events.tolist()]
    if None in pdfs:
        event = events[pdfs.index(None)].tolist()
        raise EngineError(f"the tree has no leaf for phone {event[1]}, pdf class {event[3]}; see phones/roots.int")
    return np.array(pdfs, dtype=np.int64)


def convert_alignments(
    alignments: Mapping[str, np.ndarray], source: TransitionTable, table: TransitionTable, tree: EventMap
) -> dict[str, np.ndarray]:
    """The same phones and states with the transition-ids of another model (Kaldi's ``convert-ali``).

    Args:
        alignments: utt -> (T,) transition-ids of ``source``.
        source, table: the old and the new transition model, with equal topologies.
        tree: the decision tree of the new model, context of one phone on each side.
    """
    converted: dict[str, np.ndarray] = {}
    for utts in blocks_of({utt: len(alignment) for utt, alignment in alignments.items()}):
        converted |= _convert({utt: alignments[utt] for utt in utts}, source, table, tree)
    return converted


def _convert(
    alignments: Mapping[str, np.ndarray], source: TransitionTable, table: TransitionTable, tree: EventMap
) -> dict[str, np.ndarray]:
    """The same of some utterances."""
    frames = frames_of(list(alignments.values()), source)
    columns = (frames.left, frames.central, frames.right, frames.state, frames.pdf_class)
    states, index = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    pdfs = _pdfs_of(states[:, [0, 1, 2, 4]], tree)
    first: dict[tuple[int, int, int], int] = {}  # the first transition-id of (phone, state, pdf)
    tid = 1
    for phone, state, forward, _ in table.tuples:
        first[phone, state, forward] = tid
        tid += len(table.topology.entry(phone)[state].transitions)
    starts = [
        first[phone, state, pdf] for (_, phone, _, state, _), pdf in zip(states.tolist(), pdfs.tolist(), strict=True)
    ]
    tids = (np.array(starts)[index.reshape(-1)] + frames.arc).astype(np.int32)
    bounds = np.cumsum([len(a) for a in alignments.values()])[:-1]
    return dict(zip(alignments, np.split(tids, bounds), strict=True))
