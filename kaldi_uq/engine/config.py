"""Configurations of decoding, alignment and the training of Gaussian mixtures, and how an engine's jobs run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kaldi_uq.config import Config, require
from kaldi_uq.errors import EngineError

BEST_PATH_BEAM = 0.5  # lattice beam where only the best path is taken: whole lattices of noise take minutes
ENGINES = ("embedded", "kaldi", "pykaldi")

_ALIGNMENT = ("align_beam", "retry_beam", "transition_scale", "self_loop_scale")


def engine_name(requested: str | None = None) -> str:
    """Name of the engine that runs: ``requested`` if given, else ``kaldi`` if ``KALDI_ROOT`` is set, else ``embedded``.

    Raises:
        EngineError: an unknown name.
    """
    if requested:
        if requested not in ENGINES:
            raise EngineError(f"--engine must be one of {', '.join(ENGINES)}, got {requested!r}")
        return requested
    return "kaldi" if os.environ.get("KALDI_ROOT") else "embedded"


@dataclass(frozen=True)
class EngineOptions:
    """How an engine that starts jobs runs them, and what decoding leaves behind; the embedded engine starts none.

    Attributes:
        cmd: command that runs jobs, with the interface of Kaldi's ``run.pl``; empty: ``utils/run.pl``.
        nj: number of parallel jobs of an operation on many utterances.
        first_job: number of the first job; a command that is itself a job of an array passes its own.
        work_dir: directory of logs (``log/``), lattices and temporary archives of operations that have no output
            directory of their own; jobs on other machines must see it.  ``None``: a temporary directory.
        lattices: whether the lattices of decoding, ``lat.JOB.gz``, are kept in ``work_dir``.  The embedded engine,
            which searches for them after it has decoded, writes ``lat.<first_job>.gz``.
    """

    cmd: str = ""
    nj: int = 1
    first_job: int = 1
    work_dir: Path | None = None
    lattices: bool = False

    @property
    def lattice_dir(self) -> Path | None:
        """Where the lattices of decoding are kept; ``None`` if they are not."""
        return self.work_dir if self.lattices else None


@dataclass(frozen=True)
class DecodeConfig(Config):
    """Viterbi decoding and alignment.  ``acwt`` scales the unscaled log-likelihoods, once, here.

    Attributes:
        acwt: acoustic scale: weight of the acoustic log-likelihoods against the costs of the graph
        beam: beam of the decoder: paths so much worse than the best, in scaled log-likelihood, are given up
        max_active: states of the graph that the decoder follows at most at a time
        lattice_beam: paths up to so much worse than the best are in a lattice; has no part in the words
        align_beam: beam of the alignment of audio with a text
        retry_beam: beam of a second try, where the first finds no path; 0: no second try
        transition_scale: weight of the transition probabilities in alignment; the decoding graph has its own
        self_loop_scale: weight of the self-loops' probabilities in alignment
    """

    acwt: float = 0.1
    beam: float = 13.0
    max_active: int = 7000
    lattice_beam: float = 6.0  # as in Kaldi's steps/decode.sh
    align_beam: float = 200.0
    retry_beam: float = 0.0
    transition_scale: float = 1.0
    self_loop_scale: float = 0.1

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "decoding": ("acwt", "beam", "max_active", "lattice_beam"),
        "alignment with a text": _ALIGNMENT,
    }

    def __post_init__(self) -> None:
        require(self.acwt > 0, f"acwt must be positive, got {self.acwt}")
        require(min(self.beam, self.align_beam, self.lattice_beam) > 0, "beams must be positive")


@dataclass(frozen=True)
class _GmmConfig(Config):
    """What the trainings of Gaussian mixtures share; each sets the defaults that its script of Kaldi has.

    Attributes:
        num_iters: iterations of the training
        max_iter_inc: last iteration that adds Gaussians
        totgauss: Gaussians of all states together at the end
        realign_iters: iterations that align the data again
        power: Gaussians of a state grow with its frames to this power
        beam: beam of an alignment: paths so much worse than the best are given up
        retry_beam: beam of a second try, where the first finds no path
        acwt: acoustic scale of the alignments
        transition_scale: weight of the transition probabilities in an alignment
        self_loop_scale: weight of the self-loops' probabilities in an alignment
        max_failed: share of the utterances that may fail to align before it is an error, 0 to 1
        seed: seed of all that is random in the training
    """

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "training": ("num_leaves", "num_iters", "max_iter_inc", "totgauss", "power", "cluster_thresh", "seed"),
        "alignment while training": ("realign_iters", "initial_beam", "beam", "retry_beam", "acwt", "transition_scale")
        + ("self_loop_scale", "max_failed"),
    }


@dataclass(frozen=True)
class MonoConfig(_GmmConfig):
    """Monophone training; names and defaults as in Kaldi's ``steps/train_mono.sh`` where both have them.

    Attributes:
        initial_beam: beam of the first alignment of the training
    """

    num_iters: int = 20
    max_iter_inc: int = 15
    totgauss: int = 400
    realign_iters: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18)
    power: float = 0.25
    beam: float = 10.0
    retry_beam: float = 40.0
    initial_beam: float = 6.0
    acwt: float = 0.1
    transition_scale: float = 1.0
    self_loop_scale: float = 0.1
    max_failed: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class DeltasConfig(_GmmConfig):
    """Triphone training on features with deltas; names and defaults as in Kaldi's ``steps/train_deltas.sh``.

    Attributes:
        num_leaves: leaves of the tree: at most so many pdfs
        cluster_thresh: leaves are merged up to this loss of log-likelihood; below 0: up to the smallest gain of a split
    """

    num_leaves: int = 2000
    totgauss: int = 10000
    num_iters: int = 35
    max_iter_inc: int = 25
    realign_iters: tuple[int, ...] = (10, 20, 30)
    power: float = 0.25
    cluster_thresh: float = -1.0
    beam: float = 10.0
    retry_beam: float = 40.0
    acwt: float = 0.1
    transition_scale: float = 1.0
    self_loop_scale: float = 0.1
    max_failed: float = 0.05
    seed: int = 0
