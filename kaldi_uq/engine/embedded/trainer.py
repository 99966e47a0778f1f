"""What Viterbi training of any GMM system shares on the embedded engine: graphs, realignment, one pass, the output.

Processes share the alignment of utterances, each of which is aligned for itself; all sums are over a fixed order of
utterances, in one process: the number of jobs or processes cannot change the result.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kaldi_hmm_gmm as khg
import numpy as np

from kaldi_uq.engine.base import DeltasConfig, Features, MonoConfig, Transcripts
from kaldi_uq.engine.blocks import blocks_of
from kaldi_uq.engine.checks import check_failures
from kaldi_uq.engine.embedded import wheels
from kaldi_uq.engine.embedded.gmm import reestimate, split
from kaldi_uq.io.ark import write_alignments
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import DiagGmmSet, Topology, TransitionTable, write_model
from kaldi_uq.io.lang import Lang
from kaldi_uq.workers import in_processes, num_workers

MIN_FRAMES = 10_000  # that a process aligns at least: what takes less is not worth one


def wheel_topology(topology: Topology) -> Any:
    """The topology as an object of the wheels."""
    topo = khg.HmmTopology()
    topo.read(topology.to_text())
    return topo


def initial_transitions(topology: Topology, tree: Any) -> tuple[TransitionTable, Any]:
    """A transition model with the probabilities of the topology: as ours, and as the wheels'."""
    transitions = khg.TransitionModel(tree, wheel_topology(topology))
    tuples = tuple((*t.__getstate__(),) for t in transitions.tuples)
    return TransitionTable(topology, tuples, np.asarray(transitions.log_probs, dtype=np.float32)), transitions


class Trainer:
    """A model in training.

    Attributes:
        graphs: word-ids -> training graph without transition probabilities, which change with every pass.
        gmms: the current GMMs; to be set before the first pass.
        alignments: utt -> (T,) int32 transition-ids; to be set before the first pass.
    """

    gmms: DiagGmmSet
    alignments: dict[str, np.ndarray]

    def __init__(
        self,
        feats: Features,
        transcripts: Transcripts,
        lang: Lang,
        transitions: Any,
        tree: Any,
        config: MonoConfig | DeltasConfig,
    ) -> None:
        self._feats = feats
        self._utts: dict[tuple[int, ...], list[str]] = {}  # word-ids -> whoever says them
        for utt in feats:
            self._utts.setdefault(tuple(transcripts[utt]), []).append(utt)
        self._transitions = transitions
        self._config = config
        self._rng = np.random.default_rng(config.seed)
        self._tid_to_pdf = wheels.tid_to_pdf_array(transitions)
        compiler = wheels.compiler(transitions, tree, lang, 0.0, 0.0)
        self.graphs: dict[tuple[int, ...], Any] = {key: wheels.compile_graph(compiler, key, lang) for key in self._utts}
        # few of all: their log-likelihoods alone are computed
        self._pdfs = {key: np.unique(self._tid_to_pdf[wheels.labels_of(graph)]) for key, graph in self.graphs.items()}

    @property
    def num_pdfs(self) -> int:
        """Pdfs, C."""
        return int(self._tid_to_pdf.max()) + 1

    def realign(self, beam: float) -> None:
        """Align all utterances with the current model."""
        found: dict[str, np.ndarray] = {}
        for aligned in in_processes(lambda utts: self._aligned(utts, beam), self._shares):
            found |= aligned
        alignments = {utt: found[utt] for utt in self._feats if utt in found}
        check_failures(list(self._feats), alignments, self._config.max_failed)
        self.alignments = alignments

    @functools.cached_property
    def _shares(self) -> list[dict[tuple[int, ...], list[str]]]:
        """What each process aligns: word-ids -> utterances, about the same number of frames for each."""
        utts = [(key, utt) for key, utts in self._utts.items() for utt in utts]
        frames = np.cumsum([len(self._feats[utt]) for _, utt in utts])
        count = max(1, min(num_workers(), int(frames[-1]) // MIN_FRAMES))
        shares: list[dict[tuple[int, ...], list[str]]] = [{} for _ in range(count)]
        for (key, utt), place in zip(utts, ((frames - 1) * count // frames[-1]).tolist(), strict=True):
            shares[place].setdefault(key, []).append(utt)
        return shares

    def _aligned(self, utts: Mapping[tuple[int, ...], Sequence[str]], beam: float) -> dict[str, np.ndarray]:
        """The alignments of those of the utterances that have a path."""
        config, found = self._config, {}
        for key, same in utts.items():
            graph = self.graphs[key].copy()
            khg.add_transition_probs(self._transitions, [], config.transition_scale, config.self_loop_scale, graph)
            pdfs = self._pdfs[key]
            columns = np.zeros(self.num_pdfs, dtype=np.int64)  # whatever a graph has no use for
            columns[pdfs] = np.arange(len(pdfs))
            for utt in same:
                loglikes = self.gmms.loglikes(self._feats[utt], pdfs)
                scaled = wheels.scaled_by_tid(loglikes, columns[self._tid_to_pdf], config.acwt)
                alignment = wheels.viterbi_align(utt, graph, scaled, beam, config.retry_beam)
                if alignment is not None:
                    found[utt] = alignment
        return found

    def update(self, target: int, *, min_occupancy: float = 10.0) -> float:
        """Re-estimate transitions and GMMs from the alignments, then add Gaussians.

        Args:
            target: Gaussians to grow to; below the present number nothing is added.
            min_occupancy: frames that a Gaussian needs to be kept.

        Returns:
            log-likelihood per frame before the update.
        """
        wheels.update_transitions(self._transitions, self.alignments.values())
        self.gmms, counts, loglike = reestimate(self.gmms, self._blocks(), min_occupancy=min_occupancy)
        self.gmms = split(self.gmms, counts, target, self._config.power, self._rng)
        return loglike / float(counts.sum())

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Frames (T, D) and their pdfs (T,), some utterances at a time."""
        for utts in blocks_of({utt: len(alignment) for utt, alignment in self.alignments.items()}):
            frames = np.concatenate([self._feats[utt] for utt in utts])
            yield frames, self._tid_to_pdf[np.concatenate([self.alignments[utt] for utt in utts])]

    def finish(self, out_dir: Path, table: TransitionTable) -> None:
        """Write ``final.mdl``, align once more, and write ``ali.1.gz`` and ``num_jobs``.

        Args:
            out_dir: the model directory.
            table: the transition model before the training.
        """
        write_model(out_dir / "final.mdl", wheels.with_log_probs(table, self._transitions), self.gmms)
        self.realign(self._config.beam)
        write_alignments(out_dir / "ali.1.gz", self.alignments)
        write_text(out_dir / "num_jobs", "1\n")
