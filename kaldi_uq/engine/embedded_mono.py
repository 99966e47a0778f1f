"""Monophone training on the embedded engine: Viterbi training with Gaussians added as it goes.

The recipe is that of Kaldi's ``steps/train_mono.sh`` (equal alignment first, then realignment in a growing number of
iterations).  Statistics are accumulated over all frames of a pdf at once.
Utterances are handled in a fixed order by one process, so the number of jobs cannot change the result.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import kaldifst
import numpy as np
from tqdm import tqdm

from kaldi_uq.engine import embedded
from kaldi_uq.engine.base import MonoConfig
from kaldi_uq.errors import AlignmentError, EngineError
from kaldi_uq.io.ark import write_alignments
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import DiagGmmSet, TransitionTable, read_topology, write_model
from kaldi_uq.io.lang import Lang

log = logging.getLogger(__name__)

MIN_VARIANCE, MIN_WEIGHT = 0.001, 1e-5  # Kaldi's floors


def train(
    feats: Mapping[str, np.ndarray],
    transcripts: Mapping[str, Sequence[int]],
    lang: Lang,
    out_dir: Path,
    config: MonoConfig,
) -> None:
    """Train and write ``final.mdl``, ``tree`` and ``ali.1.gz``; see :meth:`kaldi_uq.engine.base.Engine.train_mono`.

    Raises:
        AlignmentError: more utterances than ``config.max_failed`` allows cannot be aligned.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    utts = list(feats)
    table, transitions, tree = _initial_model(lang)
    tree.write(True, str(out_dir / "tree"))
    # graphs without transition probabilities, which change with every iteration and are added to a copy
    graph_compiler = embedded.compiler(transitions, tree, lang, 0.0, 0.0)
    graphs = {}
    for utt in utts:
        key = tuple(transcripts[utt])
        if key not in graphs:
            graphs[key] = embedded.compile_graph(graph_compiler, key, lang)
    tid_to_pdf = embedded.tid_to_pdf_array(transitions)
    gmms = _global_gmms(feats, int(tid_to_pdf.max()) + 1)
    rng = np.random.default_rng(config.seed)
    alignments = _equal_alignments(feats, transcripts, graphs, config.seed)
    _check_failures(utts, alignments, config.max_failed)

    increment = max(0.0, (config.totgauss - gmms.num_gauss) / max(config.max_iter_inc, 1))
    target = float(gmms.num_gauss)
    for iteration in tqdm(range(config.num_iters), desc="monophone training", unit="pass"):
        if iteration in config.realign_iters:
            beam = config.initial_beam if iteration == min(config.realign_iters) else config.beam
            alignments = _align_all(feats, transcripts, graphs, transitions, tid_to_pdf, gmms, config, beam)
            _check_failures(utts, alignments, config.max_failed)
        embedded.update_transitions(transitions, alignments.values())
        frames = np.concatenate([feats[u] for u in alignments])
        pdfs = tid_to_pdf[np.concatenate(list(alignments.values()))]
        # the first pass has only equal alignments, where a real state can be short of frames
        gmms, counts, loglike = _reestimate(gmms, frames, pdfs, min_occupancy=3.0 if iteration == 0 else 10.0)
        if iteration > 0 and iteration <= config.max_iter_inc:
            target += increment
            gmms = _split(gmms, counts, int(target), config.power, rng)
        log.info("pass %d: %.3f a frame, %d Gaussians", iteration, loglike / len(frames), gmms.num_gauss)
    write_model(out_dir / "final.mdl", embedded.with_log_probs(table, transitions), gmms)
    alignments = _align_all(feats, transcripts, graphs, transitions, tid_to_pdf, gmms, config, config.beam)
    _check_failures(utts, alignments, config.max_failed)
    write_alignments(out_dir / "ali.1.gz", alignments)
    write_text(out_dir / "num_jobs", "1\n")


def _initial_model(lang: Lang) -> tuple[TransitionTable, Any, Any]:
    topology = read_topology(lang.path / "topo")
    topo = khg.HmmTopology()
    topo.read(topology.to_text())
    sets = lang.path / "phones/sets.int"
    if not sets.is_file():
        raise EngineError(f"{sets}: no such file; utils/prepare_lang.sh makes it")
    shared = [[int(phone) for phone in line.split()] for line in sets.read_text().splitlines()]
    tree = khg.monophone_context_dependency_shared(shared, topo.get_phone_to_num_pdf_classes())
    transitions = khg.TransitionModel(tree, topo)
    tuples = tuple((*t.__getstate__(),) for t in transitions.tuples)
    table = TransitionTable(topology, tuples, np.asarray(transitions.log_probs, dtype=np.float32))
    return table, transitions, tree


def _global_gmms(feats: Mapping[str, np.ndarray], num_pdfs: int) -> DiagGmmSet:
    frames = np.concatenate(list(feats.values()))
    mean, variance = frames.mean(0, dtype=np.float64), frames.var(0, dtype=np.float64)
    if np.any(variance < 1e-10):
        raise EngineError(f"feature dimension {int(np.argmin(variance))} is constant over the data; check the features")
    inverse = (1.0 / variance).astype(np.float32)[None]
    weighted = (mean / variance).astype(np.float32)[None]
    one = np.ones(1, dtype=np.float32)
    return DiagGmmSet((one,) * num_pdfs, (weighted,) * num_pdfs, (inverse,) * num_pdfs)


def _equal_alignments(
    feats: Mapping[str, np.ndarray],
    transcripts: Mapping[str, Sequence[int]],
    graphs: Mapping[tuple[int, ...], Any],
    seed: int,
) -> dict[str, np.ndarray]:
    alignments = {}
    for number, (utt, features) in enumerate(feats.items()):
        found, path = kaldifst.equal_align(graphs[tuple(transcripts[utt])], len(features), seed + number, 10)
        if found:
            _, labels, _, _ = kaldifst.get_linear_symbol_sequence(path)
            alignments[utt] = np.asarray(labels, dtype=np.int32)
    return alignments


def _align_all(
    feats: Mapping[str, np.ndarray],
    transcripts: Mapping[str, Sequence[int]],
    graphs: Mapping[tuple[int, ...], Any],
    transitions: Any,
    tid_to_pdf: np.ndarray,
    gmms: DiagGmmSet,
    config: MonoConfig,
    beam: float,
) -> dict[str, np.ndarray]:
    weighted: dict[tuple[int, ...], Any] = {}
    alignments = {}
    for utt, features in feats.items():
        key = tuple(transcripts[utt])
        if key not in weighted:
            weighted[key] = graphs[key].copy()
            khg.add_transition_probs(transitions, [], config.transition_scale, config.self_loop_scale, weighted[key])
        scaled = embedded.scaled_by_tid(gmms.loglikes(features), tid_to_pdf, config.acwt)
        alignment = embedded.viterbi_align(utt, weighted[key], scaled, beam, config.retry_beam)
        if alignment is not None:
            alignments[utt] = alignment
    return alignments


def _check_failures(utts: list[str], alignments: Mapping[str, np.ndarray], max_failed: float) -> None:
    failed = [utt for utt in utts if utt not in alignments]
    if failed:
        names = ", ".join(failed[:5]) + (" ..." if len(failed) > 5 else "")
        if len(failed) > max_failed * len(utts):
            raise AlignmentError(
                f"{len(failed)} of {len(utts)} utterances cannot be aligned with their text ({names}), more than "
                f"{max_failed:.0%}: are they long enough for it, and is the text theirs?"
            )
        log.warning(
            "%d of %d utterances cannot be aligned and are left out of this pass: %s", len(failed), len(utts), names
        )


def _reestimate(
    gmms: DiagGmmSet, frames: np.ndarray, pdfs: np.ndarray, *, min_occupancy: float
) -> tuple[DiagGmmSet, np.ndarray, float]:
    """One maximum-likelihood update; returns the GMMs, the number of frames of each pdf, the total log-likelihood.

    Source: Kaldi ``src/gmm/mle-diag-gmm.cc`` (floors, removal of Gaussians with few frames).
    """
    order = np.argsort(pdfs, kind="stable")
    bounds = np.searchsorted(pdfs[order], np.arange(len(gmms.weights) + 1))
    weights, means, variances = [], [], []
    total = 0.0
    for pdf, gconst in enumerate(gmms.gconsts):
        weight, mean, variance = gmms.weights[pdf], gmms.means_invvars[pdf], gmms.inv_vars[pdf]
        x = frames[order[bounds[pdf] : bounds[pdf + 1]]].astype(np.float64)
        if len(x):
            scores = gconst + x @ mean.T.astype(np.float64) - 0.5 * (x**2) @ variance.T.astype(np.float64)
            peak = scores.max(1, keepdims=True)
            gamma = np.exp(scores - peak)
            norm = gamma.sum(1, keepdims=True)
            total += float((peak + np.log(norm)).sum())
            gamma /= norm
            weight, mean, variance = _update_gmm(
                (weight, mean, variance), gamma.sum(0), gamma.T @ x, gamma.T @ x**2, min_occupancy
            )
        weights.append(weight)
        means.append(mean)
        variances.append(variance)
    return DiagGmmSet(tuple(weights), tuple(means), tuple(variances)), np.diff(bounds).astype(np.float64), total


def _update_gmm(
    old: tuple[np.ndarray, np.ndarray, np.ndarray],
    occupancy: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    min_occupancy: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    share = occupancy / occupancy.sum()
    keep = (occupancy > min_occupancy) & (share > MIN_WEIGHT)
    if not keep.any():  # too few frames for any Gaussian: the old model is the better guess
        return old
    mean = first[keep] / occupancy[keep, None]
    variance = np.maximum(second[keep] / occupancy[keep, None] - mean**2, MIN_VARIANCE)
    weight = share[keep] / share[keep].sum()
    inverse = 1.0 / variance
    return weight.astype(np.float32), (mean * inverse).astype(np.float32), inverse.astype(np.float32)


def _split(gmms: DiagGmmSet, counts: np.ndarray, target: int, power: float, rng: np.random.Generator) -> DiagGmmSet:
    """Add Gaussians up to ``target``, where the count to ``power`` per Gaussian is largest; split the heaviest ones."""
    sizes = np.array([len(w) for w in gmms.weights])
    scaled = np.maximum(counts, 0.0) ** power
    min_count = 20.0  # frames a Gaussian should have after the split, as in Kaldi
    while sizes.sum() < target:
        score = np.where(counts > min_count * (sizes + 1), scaled / sizes, 0.0)
        best = int(np.argmax(score))
        if score[best] <= 0:
            break
        sizes[best] += 1
    weights, means, variances = list(gmms.weights), list(gmms.means_invvars), list(gmms.inv_vars)
    for pdf, size in enumerate(sizes):
        while len(weights[pdf]) < size:
            heaviest = int(np.argmax(weights[pdf]))
            halved = weights[pdf].copy()
            halved[heaviest] /= 2
            offset = 0.01 * rng.standard_normal(means[pdf].shape[1]) * np.sqrt(variances[pdf][heaviest])
            moved = means[pdf].copy()
            moved[heaviest] -= offset.astype(np.float32)
            weights[pdf] = np.append(halved, halved[heaviest])
            means[pdf] = np.vstack([moved, means[pdf][heaviest] + offset.astype(np.float32)])
            variances[pdf] = np.vstack([variances[pdf], variances[pdf][heaviest]])
    return DiagGmmSet(tuple(weights), tuple(means), tuple(variances))
