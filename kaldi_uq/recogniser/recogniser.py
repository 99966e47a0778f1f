"""A hybrid recogniser: acoustic model, lexicon and decoding graph of a Kaldi recipe, opened once.

One file: one class, which fills in what every recogniser offers and hands each part to the room that does it.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from kaldi_uq.engine.base import Aligner, DecodeConfig, Decoder, Engine
from kaldi_uq.engine.batched import BatchAligner, BatchDecoder
from kaldi_uq.engine.files import check_num_pdfs
from kaldi_uq.engine.select import select_engine
from kaldi_uq.errors import DataError, ModelFileError
from kaldi_uq.feats import framing
from kaldi_uq.feats.adaptation import Adaptation, BatchAdaptation, adaptations_digest
from kaldi_uq.feats.sizes import Sizes
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.files import file_digest, read_integers
from kaldi_uq.io.kaldi_model import TransitionTable, read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.lattice import Lattice
from kaldi_uq.io.waves import Waves, read_waves
from kaldi_uq.io.word_times import word_times
from kaldi_uq.language.sentences import GrammarSentences
from kaldi_uq.language.targets import (
    check_target,
    min_word_frames,
    random_target,
    read_pronunciations,
    target_words,
)
from kaldi_uq.lattice.posteriors import lattice_statistics
from kaldi_uq.nnet.base import FrameModel, concatenate
from kaldi_uq.recogniser.base import BaseRecogniser, Statistics
from kaldi_uq.recogniser.heard import FrameScores, Listening, Pieces
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel, use_device
from kaldi_uq.recogniser.replay import Replay
from kaldi_uq.recogniser.speakers import (
    DEFAULT_SOURCES,
    Sources,
    adaptations,
    adaptations_of_waves,
    batch_adaptation,
    given_adaptations,
)

HMM_FILES = ("final.mdl", "tree")  # in the directory of the model
GRAPH_FILES = ("HCLG.fst", "words.txt")
OFF_PATH = -1e5  # score of a class that a path does not have in a frame: far beyond any beam


class Recogniser(BaseRecogniser):
    """A hybrid model with its decoder and its aligner.

    Graph, lexicon and transition model are read when they are first needed, and then kept.

    Args:
        model: the acoustic model, on its device.
        engine: decodes and aligns; an engine, or the name of one, which is made when it is first needed; default:
            ``kaldi`` if ``KALDI_ROOT`` is set, else ``embedded``.
        model_dir: directory of ``final.mdl`` and ``tree``.
        graph_dir: directory of ``HCLG.fst`` and ``words.txt``; default: ``model_dir/graph``.
        lang_dir: language directory, for targets; default: the recipe's, see :meth:`lang`.
        decode: acoustic scale and beams.
        num_draws: draws of a random network; ``None`` for its default.

    Attributes:
        model: the acoustic model.
        model_dir: where it is from.
        graph_dir: where its decoding graph is.
        random_targets: ``words`` for random targets of words strung together, ``grammar`` for sentences of ``G.fst``.
    """

    def __init__(
        self,
        model: HybridModel,
        engine: Engine | str | None,
        model_dir: Path,
        *,
        graph_dir: Path | None = None,
        lang_dir: Path | None = None,
        decode: DecodeConfig | None = None,
        num_draws: int | None = None,
    ) -> None:
        front_end = model.front_end
        if num_draws is not None and num_draws > 1 and not model.network.is_random:
            raise ValueError(f"num_draws {num_draws}: {model_dir} is not random, leave the option out")
        self.model, self._engine = model, engine
        self.model_dir, self.lang_dir = Path(model_dir), lang_dir
        self.graph_dir = Path(graph_dir) if graph_dir is not None else self.model_dir / "graph"
        check_num_pdfs(self.graph_dir, self.model_dir, model.network.num_pdfs)
        self.decode_config = decode or DecodeConfig()
        self.num_draws = num_draws
        self.sample_rate, self.min_samples = front_end.sample_rate, front_end.min_samples
        self.frame_shift_s = front_end.frame_shift_s
        self.is_random = model.network.is_random
        self.device = model.log_prior.device
        self._known: dict[str, Adaptation] = {}
        self._given: Adaptation | None = None  # of utterances of which nothing is known
        # copies for other speakers share them
        self._decoder, self._aligner = functools.cache(self._open_decoder), functools.cache(self._open_aligner)
        self._batch_decoder = functools.cache(self._open_batch_decoder)
        self._batch_aligner = functools.cache(self._open_batch_aligner)

    def _parts(self) -> list[str]:
        return [repr(str(self.model_dir)), self.kind, *super()._parts()]

    @classmethod
    def load(
        cls,
        model_dir: str | Path,
        *,
        graph_dir: str | Path | None = None,
        lang_dir: str | Path | None = None,
        engine: Engine | str | None = None,
        device: str = "",
        decode: DecodeConfig | None = None,
        num_draws: int | None = None,
        network: Callable[[int, int], nn.Module] | None = None,
    ) -> Recogniser:
        """Open what a recipe has trained.

        Args:
            model_dir: such as ``exp/dnn``, with ``final.safetensors``; ``final.mdl`` and ``tree`` for words.
            graph_dir, lang_dir, engine, decode, num_draws: as of the class.
            device: ``cpu`` or ``cuda``; default: ``cuda`` if there is one.
            network: function (input_dim, num_pdfs) that builds the network, where it is no part of this package.

        Raises:
            ModelFileError: a file is missing or damaged.
            EngineError: the graph is of a model with another number of pdfs.
            ValueError: a device that is not there, or draws of a network that is not random.
        """
        model_dir = Path(model_dir)
        model = HybridModel.load(model_dir, use_device(device), network=network)
        return cls(
            model,
            engine,
            model_dir,
            graph_dir=None if graph_dir is None else Path(graph_dir),
            lang_dir=None if lang_dir is None else Path(lang_dir),
            decode=decode,
            num_draws=num_draws,
        )

    @property
    def kind(self) -> str:
        return self.model.kind

    @property
    def model_key(self) -> str:
        return file_digest(self.model_dir / MODEL_FILE)

    @property
    def recommended_statistic(self) -> str:
        return self.model.network.recommended_statistic

    @property
    def files(self) -> list[Path]:
        found = [path for path in (self.model_dir / MODEL_FILE, *self._word_files) if path.is_file()]
        return [*found, *([self.code] if self.code else [])]

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {"decode": self.decode_config.to_dict(), "num_draws": self.num_draws or 0}
        return {**found, "lattice_statistics": True} if self.lattice_statistics else found

    @property
    def why_no_words(self) -> str:
        missing = next((path for path in self._word_files if not path.is_file()), None)
        return f"{missing}: no such file; {self._word_files[missing]} makes it" if missing else ""

    @property
    def _word_files(self) -> dict[Path, str]:
        """The files that decoding needs, and what makes each."""
        hmm = {self.model_dir / name: "steps/uq/train.sh" for name in HMM_FILES}
        return hmm | {self.graph_dir / name: "utils/mkgraph.sh" for name in GRAPH_FILES}

    @functools.cached_property
    def engine(self) -> Engine:
        """What decodes and aligns."""
        return self._engine if isinstance(self._engine, Engine) else select_engine(self._engine)

    @functools.cached_property
    def lang(self) -> Lang:
        """The language directory: the given one, or ``MODEL-DIR/lang``, or ``data/lang`` as in a recipe."""
        places = (self.model_dir / "lang", self.model_dir / "../../data/lang", Path("data/lang"))
        found = [place for place in places if (place / "words.txt").is_file()]
        if self.lang_dir is None and not found:
            raise DataError(
                f"{places[1]}: no such language directory; say where the lexicon is with --lang-dir "
                "(utils/prepare_lang.sh makes one)"
            )
        lang = Lang.read(self.lang_dir or found[0])
        lang.check_phones(self.model_dir)
        return lang

    def _open_decoder(self) -> Decoder:
        if self.why_no_words:
            raise ModelFileError(self.why_no_words)
        return self.engine.decoder(self.model_dir, self.graph_dir, self.decode_config)

    def _open_aligner(self) -> Aligner:
        return self.engine.aligner(self.model_dir, self.lang, self.decode_config)

    def _open_batch_decoder(self) -> BatchDecoder | None:
        if self.why_no_words:
            raise ModelFileError(self.why_no_words)
        return BatchDecoder.open(self.graph_dir, self._table, self.decode_config.acwt, self.device)

    def _open_batch_aligner(self) -> BatchAligner:
        return BatchAligner(self._aligner(), self._table, self.decode_config.acwt, self.device)

    @functools.cached_property
    def _table(self) -> TransitionTable:
        return read_transitions(self.model_dir / "final.mdl")

    @functools.cached_property
    def _tid_to_pdf(self) -> np.ndarray:
        return self._table.tid_to_pdf

    @functools.cached_property
    def _word_frames(self) -> tuple[dict[str, int], dict[str, int]]:
        """Fewest frames of every word, and of those that random targets hold."""
        topology = self._table.topology
        return min_word_frames(self.lang, topology), target_words(self.lang, topology)

    @functools.cached_property
    def _sample(self) -> Callable[..., list[str]]:
        return random_target if self.random_targets == "words" else GrammarSentences.of_lang(self.lang).sample

    @overload
    def num_frames(self, num_samples: int) -> int: ...
    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...
    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        return self.model.front_end.num_frames(num_samples)

    def draws(
        self,
        wav: Tensor,
        num_samples: Tensor,
        utts: Sequence[str],
        *,
        num_draws: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Iterator[Tensor], Tensor]:
        return self.model.iter_log_post(
            wav, num_samples, num_draws=num_draws, generator=generator, adaptation=self.adaptation(utts)
        )

    def passes(
        self,
        num_samples: Tensor,
        utts: Sequence[str],
        *,
        num_draws: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Callable[[Tensor], Tensor]:
        model, adaptation = self.model, self.adaptation(utts)
        sizes = Sizes.of(num_samples, self.device)
        packing = model.front_end.packing(sizes) if model.network.frame_wise else None

        def one(wav: Tensor) -> Tensor:
            chunks, _ = model.iter_log_post(
                wav, sizes, num_draws=num_draws, generator=generator, adaptation=adaptation, packing=packing
            )
            return concatenate(chunks)

        # What speakers bring comes from the CPU, what is spliced before LDA waits for the GPU to count its frames, and
        # what somebody else's module does nobody knows.
        waits = model.needs_speakers or model.front_end.lda is not None
        if self.device.type == "cuda" and isinstance(model.network, FrameModel) and not waits:
            return Replay(one, generator)
        return one

    def pieces(self, utt: str, samples: framing.Samples, *, generator: torch.Generator) -> Pieces:
        network = self.model.network
        if not network.frame_wise:
            return super().pieces(utt, samples, generator=generator)
        windows = self.model.front_end.windows(samples, adaptation=self.adaptation([utt]))
        return (network.iter_log_post(x, num_samples=self.num_draws, generator=generator) for x in windows)

    def mean_log_post(
        self, wav: Tensor, num_samples: Tensor, utts: Sequence[str], *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.model.mean_log_post(wav, num_samples, generator=generator, adaptation=self.adaptation(utts))

    def scores(self, log_mean_post: Tensor) -> Tensor:
        return self.model.loglikes(log_mean_post)

    def decode(self, scores: Iterable[tuple[str, np.ndarray]]) -> dict[str, tuple[str, ...]]:
        return {utt: hypothesis.words for utt, hypothesis in self._decoder().decode(scores).items()}

    @property
    def decodes_whole(self) -> bool:
        return self.lattice_statistics or self._decoder().keeps_lattices

    def decode_long(self, utt: str, listening: Listening) -> tuple[str, ...]:
        return self._decoder().decode_long(utt, listening)

    def listen(self, scores: Iterable[tuple[str, np.ndarray]]) -> tuple[dict[str, tuple[str, ...]], Statistics]:
        if not self.lattice_statistics:
            return super().listen(scores)
        measured: Statistics = {}

        def measure(utt: str, lattice: Lattice) -> None:
            measured[utt] = lattice_statistics(lattice, self.decode_config.acwt)

        found = self._decoder().decode(scores, lattices=measure)
        return {utt: hypothesis.words for utt, hypothesis in found.items()}, measured

    def align(self, scores: Mapping[str, np.ndarray], targets: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        transcripts = {utt: self.lang.word_ids(targets[utt], where=f"target of {utt}") for utt in scores}
        alignments = self._aligner().align(scores.items(), transcripts)
        return {utt: self._tid_to_pdf[alignment] for utt, alignment in alignments.items()}

    def check_target(self, utt: str, words: Sequence[str], num_frames: int, where: str) -> None:
        check_target(utt, words, num_frames, self._word_frames[0], where)
        self.lang.word_ids(words, where=f"{where}: {utt}")

    def random_target(
        self, utt: str, original: Sequence[str], num_frames: int, *, seed: int, attempt: int = 0
    ) -> list[str]:
        return self._sample(utt, original, num_frames, self._word_frames[1], seed=seed, attempt=attempt)

    def word_times(self, words: Sequence[str], scores: np.ndarray) -> list[tuple[str, float, float]]:
        if not words:
            return []
        utt = "utt"  # Kaldi's programs take no empty name
        found = self._aligner().align([(utt, scores)], {utt: self.lang.word_ids(words, where="word times")})
        if utt not in found:
            return []
        silence = frozenset(read_integers(self.lang.path / "phones/silence.int"))
        return word_times(found[utt], words, self._table, read_pronunciations(self.lang), silence, self.frame_shift_s)

    def decode_batch(self, scores: FrameScores) -> dict[str, tuple[str, ...]]:
        search = self._batch_decoder()
        if search is None:
            return super().decode_batch(scores)
        return dict(zip(scores.utts, search.decode(scores.values, scores.lengths), strict=True))

    def align_batch(
        self, scores: FrameScores, texts: Mapping[str, Sequence[Sequence[str]]]
    ) -> dict[str, list[np.ndarray | None]]:
        rows = {utt: row for row, utt in enumerate(scores.utts)}
        pairs = [
            (rows[utt], self.lang.word_ids(text, where=f"target of {utt}")) for utt in texts for text in texts[utt]
        ]
        found = self._batch_aligner().align(scores.values, scores.lengths, pairs)
        if found is None:
            return super().align_batch(scores, texts)
        paths = iter(found)
        return {utt: list(itertools.islice(paths, len(some))) for utt, some in texts.items()}

    def graph_weights(self, paths: Sequence[np.ndarray]) -> list[float | None]:
        search = self._batch_decoder()
        if search is not None:
            return [weight if weight > -np.inf else None for weight in search.weights(paths)]

        def only(path: np.ndarray) -> np.ndarray:
            scores = np.full((len(path), len(self.model.log_prior)), OFF_PATH, dtype=np.float32)
            scores[np.arange(len(path)), path] = 0.0
            return scores

        # what is left of the score of the decoder's best path, where scores let it take no other
        found = self._decoder().decode((str(place), only(path)) for place, path in enumerate(paths))
        acwt = self.decode_config.acwt
        weights = {name: hypothesis.score / acwt for name, hypothesis in found.items() if hypothesis.reached_final}
        known = {name: weight for name, weight in weights.items() if weight > OFF_PATH / 2}
        return [known.get(str(place)) for place in range(len(paths))]

    def in_double(self) -> Recogniser:
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model).double().eval()
        return other

    # speakers

    def adaptation(self, utts: Sequence[str]) -> BatchAdaptation:
        """What the model's front end is told of the speakers of utterances."""
        return batch_adaptation(self.model.front_end, self._known, utts)

    def with_speakers(self, waves: Mapping[str, framing.Samples]) -> Recogniser:
        if not self.model.needs_speakers or all(utt in self._known for utt in waves):
            return self
        return self._with(adaptations_of_waves(self.model.front_end, waves, self._given))

    def of_speaker(self, sources: Sources, key: str) -> Recogniser:
        """The recogniser for audio of one speaker whose fMLLR transform or i-vectors are known.

        Args:
            sources: directories of transforms and i-vectors.
            key: the speaker, or the utterance, as these name it.

        Raises:
            DataError: nothing of this name, or something that does not fit the model.
            UsageError: the model takes none, or more.
        """
        sources.check(self.model.front_end)
        other = copy.copy(self)
        other._given = given_adaptations(self.model.front_end, sources, {key: key})[key]
        return other

    def _with(self, known: Mapping[str, Adaptation]) -> Recogniser:
        other = copy.copy(self)
        other._known = dict(known)
        return other

    def read(
        self,
        data: DataDir,
        *,
        utts: Sequence[str] | None = None,
        allow_pipes: bool = False,
        resample: bool = False,
        sources: Sources = DEFAULT_SOURCES,
    ) -> tuple[Recogniser, Waves]:
        front_end = self.model.front_end
        by_speaker = front_end.config.cmvn == "speaker"  # statistics are of all that a speaker says in the directory
        waves = read_waves(
            data,
            sample_rate=self.sample_rate,
            min_samples=self.min_samples,
            utts=None if by_speaker else utts,
            allow_pipes=allow_pipes,
            resample=resample,
        )
        known = adaptations(front_end, data, waves, sources, allow_pipes=allow_pipes)
        return self._with(known), waves if utts is None else waves.subset(utts)

    def speakers_key(self, utts: Sequence[str]) -> str:
        return adaptations_digest({utt: self._known[utt] for utt in utts}) if self.model.needs_speakers else ""
