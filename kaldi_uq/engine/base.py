"""What every engine can do.  Directories are Kaldi's: a model is a directory with ``final.mdl`` and ``tree``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.io.lang import Lang
from kaldi_uq.types import Config, DecodeConfig


@dataclass(frozen=True)
class Hypothesis:
    """What the decoder wrote down for an utterance.

    Attributes:
        words: the words.
        alignment: (T,) int32 transition-ids of the best path.
        score: total log-likelihood of the path, acoustic scores scaled by acwt.
        reached_final: whether the path ends in a final state; if not, the words are of a cut-off path.
    """

    words: tuple[str, ...]
    alignment: np.ndarray
    score: float
    reached_final: bool = True


@dataclass(frozen=True)
class MonoConfig(Config):
    """Monophone training; names and defaults as in Kaldi's ``steps/train_mono.sh`` where both have them."""

    num_iters: int = 20
    max_iter_inc: int = 15  # last iteration that adds Gaussians
    totgauss: int = 400
    realign_iters: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18)
    power: float = 0.25  # Gaussians of a state grow with its count to this power
    beam: float = 10.0
    retry_beam: float = 40.0
    initial_beam: float = 6.0  # beam of the first realignment
    acwt: float = 0.1
    transition_scale: float = 1.0
    self_loop_scale: float = 0.1
    max_failed: float = 0.05  # share of utterances that may fail to align before it is an error
    seed: int = 0


class Engine(ABC):
    """An engine.  Loglikes are (T, C) float32, unscaled; an engine applies ``acwt`` once."""

    name: str

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Names and versions of what the engine runs on, for logs and results."""

    @abstractmethod
    def compile_fst(self, text: str, path: Path, *, sort: str) -> None:
        """Compile OpenFst's text form, with integer labels, into a file.

        Args:
            text: arcs ``src dst ilabel olabel [cost]`` and final states ``state [cost]``.
            path: the FST file.
            sort: ``"ilabel"`` or ``"olabel"``.
        """

    @abstractmethod
    def train_mono(
        self,
        feats: Mapping[str, np.ndarray],
        transcripts: Mapping[str, Sequence[int]],
        lang: Lang,
        out_dir: Path,
        config: MonoConfig,
    ) -> None:
        """Train a monophone system; writes ``final.mdl``, ``tree`` and ``ali.1.gz`` into ``out_dir``.

        Args:
            feats: utt -> (T, D) float32, normalised, with deltas.
            transcripts: utt -> word-ids.
            lang: the language directory.
            out_dir: the model directory.
            config: the options.
        """

    @abstractmethod
    def make_graph(
        self, lang: Lang, model_dir: Path, graph_dir: Path, *, transition_scale: float, self_loop_scale: float
    ) -> None:
        """Compose ``HCLG.fst`` into ``graph_dir``."""

    @abstractmethod
    def align(
        self,
        model_dir: Path,
        lang: Lang,
        loglikes: Iterable[tuple[str, np.ndarray]],
        transcripts: Mapping[str, Sequence[int]],
        config: DecodeConfig,
    ) -> dict[str, np.ndarray]:
        """Forced alignment.

        Args:
            model_dir: for the transition model and the tree.
            lang: the lexicon.
            loglikes: (utt, (T, C)) pairs.
            transcripts: utt -> word-ids.
            config: acwt and beams.

        Returns:
            utt -> (T,) int32 transition-ids; an utterance without a surviving path is absent.
        """

    @abstractmethod
    def decode(
        self, model_dir: Path, graph_dir: Path, loglikes: Iterable[tuple[str, np.ndarray]], config: DecodeConfig
    ) -> dict[str, Hypothesis]:
        """Decode with ``HCLG.fst``; an utterance without any surviving path is absent."""

    @abstractmethod
    def update_transitions(self, model_dir: Path, alignments: Iterable[np.ndarray], out_path: Path) -> None:
        """Re-estimate the transition probabilities from alignments; writes a model without GMMs to ``out_path``."""
