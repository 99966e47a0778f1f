"""What every engine can do.  Directories are Kaldi's: a model is a directory with ``final.mdl`` and ``tree``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.engine.config import DecodeConfig as DecodeConfig
from kaldi_uq.engine.config import DeltasConfig as DeltasConfig
from kaldi_uq.engine.config import EngineOptions as EngineOptions
from kaldi_uq.engine.config import MonoConfig as MonoConfig
from kaldi_uq.errors import EngineError
from kaldi_uq.io.fst import FstArrays
from kaldi_uq.io.kaldi_model import read_gmm_model
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.lattice import Lattice

Matrices = Iterable[tuple[str, np.ndarray]]  # (utt, (T, C) log-likelihoods or (T, D) features), float32
Features = Mapping[str, np.ndarray]  # utt -> (T, D) float32
Transcripts = Mapping[str, Sequence[int]]  # utt -> word-ids
LatticeSink = Callable[[str, Lattice], None]  # takes the lattice of an utterance, with unscaled acoustic costs


@dataclass(frozen=True)
class Hypothesis:
    """What the decoder found for an utterance.

    Attributes:
        words: the words.
        alignment: (T,) int32 transition-ids of the best path.
        score: total log-likelihood of the path, acoustic scores scaled by acwt.
        reached_final: whether the path ends in a final state; if not, the last word may be incomplete.
    """

    words: tuple[str, ...]
    alignment: np.ndarray
    score: float
    reached_final: bool = True


class Decoder(ABC):
    """A decoder of one graph.  Transition model, graph and words are read once, when it is made.

    Attributes:
        keeps_lattices: whether :meth:`decode` writes the lattices of its utterances, over those of an earlier call.
    """

    keeps_lattices = False

    @abstractmethod
    def decode(self, loglikes: Matrices, *, lattices: LatticeSink | None = None) -> dict[str, Hypothesis]:
        """Decode utterances.

        Args:
            loglikes: (utt, (T, C) float32) pairs, unscaled: the decoder applies ``acwt``.
            lattices: gets the deterministic lattice of each utterance that has a path; without it none is made.

        Returns:
            utt -> hypothesis; an utterance without any surviving path is absent.

        Raises:
            EngineError: scores that are not those of the model's C pdfs, or lattices of an engine that makes none.
        """

    def decode_long(self, utt: str, stretches: Iterable[np.ndarray]) -> tuple[str, ...]:
        """The words of one long utterance; none where no path survives.

        Args:
            utt: its name.
            stretches: successive stretches (t, C) of its scores; here they are all in memory together.
        """
        hypothesis = self.decode([(utt, np.concatenate(list(stretches)))]).get(utt)
        return hypothesis.words if hypothesis else ()


class Aligner(ABC):
    """A forced aligner of one lexicon.  Transition model, tree and lexicon are read once, when it is made."""

    @abstractmethod
    def align(self, loglikes: Matrices, transcripts: Transcripts) -> dict[str, np.ndarray]:
        """Align utterances with their words.

        Args:
            loglikes: (utt, (T, C) float32) pairs, unscaled: the aligner applies ``acwt``.
            transcripts: utt -> word-ids.

        Returns:
            utt -> (T,) int32 transition-ids; an utterance without a surviving path is absent.

        Raises:
            EngineError: scores that are not those of the model's C pdfs, or a word that the lexicon lacks.
        """

    def graph(self, words: Sequence[int]) -> FstArrays | None:
        """The training graph of word-ids, from transition-ids, for a search of one's own.

        Returns:
            the graph; ``None`` from an engine that keeps its graphs to itself.

        Raises:
            EngineError: a word that the lexicon lacks.
        """
        return None


class Engine(ABC):
    """An engine: it hands out decoders and aligners.  An engine that also makes systems is a :class:`SystemBuilder`."""

    name: str

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Names and versions of what the engine runs on, for logs and results."""

    @abstractmethod
    def decoder(self, model_dir: Path, graph_dir: Path, config: DecodeConfig) -> Decoder:
        """A decoder with ``HCLG.fst`` of ``graph_dir`` and the transition model of ``model_dir``.

        Raises:
            EngineError: a file of the graph is missing or damaged.
            ModelFileError: a file of the model is missing or damaged.
        """

    @abstractmethod
    def aligner(self, model_dir: Path, lang: Lang, config: DecodeConfig) -> Aligner:
        """An aligner with the lexicon of ``lang``, and the transition model and the tree of ``model_dir``.

        Raises:
            EngineError: the lexicon is missing or damaged.
            ModelFileError: a file of the model is missing or damaged.
        """

    def decode_gmm(
        self, model_dir: Path, graph_dir: Path, feats: Matrices, config: DecodeConfig
    ) -> dict[str, Hypothesis]:
        """Decode (utt, (T, D)) features with the GMMs of ``final.mdl``; results as of :meth:`Decoder.decode`."""
        return self.decoder(model_dir, graph_dir, config).decode(_gmm_loglikes(model_dir, feats))

    def align_gmm(
        self, model_dir: Path, lang: Lang, feats: Matrices, transcripts: Transcripts, config: DecodeConfig
    ) -> dict[str, np.ndarray]:
        """Align (utt, (T, D)) features with the GMMs of ``final.mdl``; results as of :meth:`Aligner.align`."""
        return self.aligner(model_dir, lang, config).align(_gmm_loglikes(model_dir, feats), transcripts)

    @abstractmethod
    def compile_fst(self, text: str, path: Path, *, sort: str) -> None:
        """Compile OpenFst's text form, with integer labels, into a file.

        Args:
            text: arcs ``src dst ilabel olabel [cost]`` and final states ``state [cost]``.
            path: the FST file.
            sort: ``"ilabel"`` or ``"olabel"``.
        """

    @abstractmethod
    def update_transitions(self, model_dir: Path, alignments: Iterable[np.ndarray], out_path: Path) -> None:
        """Re-estimate the transition probabilities from alignments; writes a model without GMMs to ``out_path``."""


class SystemBuilder(Engine):
    """An engine that also makes systems: it trains Gaussian mixtures and composes decoding graphs."""

    @abstractmethod
    def train_mono(
        self, feats: Features, transcripts: Transcripts, lang: Lang, out_dir: Path, config: MonoConfig
    ) -> None:
        """Train a monophone system; writes ``final.mdl``, ``tree`` and ``ali.*.gz`` into ``out_dir``.

        Args:
            feats: utt -> (T, D) float32, normalised, with deltas.
            transcripts: utt -> word-ids.
            lang: the language directory.
            out_dir: the model directory.
            config: the options.

        Raises:
            AlignmentError: more utterances than ``config.max_failed`` allows cannot be aligned with their text.
        """

    @abstractmethod
    def train_deltas(
        self,
        feats: Features,
        transcripts: Transcripts,
        lang: Lang,
        ali_dir: Path,
        out_dir: Path,
        config: DeltasConfig,
    ) -> None:
        """Train a triphone system from alignments; writes ``final.mdl``, ``tree`` and ``ali.*.gz`` into ``out_dir``.

        Args:
            feats: utt -> (T, D) float32, normalised, with deltas.
            transcripts: utt -> word-ids.
            lang: the language directory, with ``phones/sets.int``, ``roots.int`` and ``extra_questions.int``.
            ali_dir: alignments of the utterances by an earlier system: ``ali.*.gz``, ``final.mdl``, ``tree``.
            out_dir: the model directory.
            config: the options.

        Raises:
            AlignmentError: more utterances than ``config.max_failed`` allows have no alignment in ``ali_dir``, or
                cannot be aligned with their text.
        """

    @abstractmethod
    def make_graph(
        self, lang: Lang, model_dir: Path, graph_dir: Path, *, transition_scale: float, self_loop_scale: float
    ) -> None:
        """Compose ``HCLG.fst`` into ``graph_dir``.

        Raises:
            EngineError: lexicon or grammar is missing, or they share no word.
        """


def builder_of(engine: Engine) -> SystemBuilder:
    """The engine as one that makes systems.

    Raises:
        EngineError: it only decodes and aligns.
    """
    if not isinstance(engine, SystemBuilder):
        raise EngineError(
            f"--engine {engine.name} trains no Gaussian mixtures and composes no decoding graph: use --engine embedded "
            "or --engine kaldi for this step"
        )
    return engine


def _gmm_loglikes(model_dir: Path, feats: Matrices) -> Iterator[tuple[str, np.ndarray]]:
    _, gmms = read_gmm_model(Path(model_dir) / "final.mdl")
    return ((utt, gmms.loglikes(features)) for utt, features in feats)
