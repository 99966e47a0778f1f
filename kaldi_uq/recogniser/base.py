"""What attacks, detectors and commands ask of a recogniser, whatever it is made of."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kaldi_uq.errors import UsageError
from kaldi_uq.feats import framing
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.files import digest
from kaldi_uq.io.waves import (
    CPU_BATCH_SAMPLES,
    MAX_BATCH_SAMPLES,
    WaveBatch,
    Waves,
    pad,
    plan_waves,
    read_waves,
    waves_digest,
)
from kaldi_uq.lattice.posteriors import NO_LATTICE
from kaldi_uq.recogniser.audio import check_all, read_all
from kaldi_uq.recogniser.heard import Heard, Pieces, Scored, by_utterance, measure, unpadded
from kaldi_uq.recogniser.memory import in_halves
from kaldi_uq.recogniser.parts import Parts
from kaldi_uq.recogniser.speakers import DEFAULT_SOURCES, Sources

Statistics: TypeAlias = dict[str, dict[str, float]]  # utt -> statistic -> value
RecogniserT = TypeVar("RecogniserT", bound="BaseRecogniser")


class BaseRecogniser(ABC):
    """A recogniser: from waveforms to posteriors of frames, and from these to words.

    Attributes:
        sample_rate: sample rate of the audio, Hz.
        min_samples: samples of the shortest audio that has a frame.
        frame_shift_s: seconds from one frame to the next.
        is_random: whether two passes over the same audio differ, by draws of weights or of dropout masks.
        num_draws: draws of a random recogniser when it listens; ``None`` for its default.
        device: where it computes.
        lattice_statistics: whether hearing measures lattices, too (:mod:`kaldi_uq.lattice.posteriors`).
    """

    sample_rate: int
    min_samples: int
    frame_shift_s: float
    is_random: bool
    num_draws: int | None
    device: torch.device
    random_targets = "words"  # words strung together, or sentences of a grammar where there is one
    lattice_statistics = False
    code: Path | None = None  # file of the user's own code that it is made of, for runs that resume

    # what a subclass supplies

    @overload
    def num_frames(self, num_samples: int) -> int: ...
    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...
    @abstractmethod
    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Number of frames of so many samples."""

    @abstractmethod
    def draws(
        self,
        wav: Tensor,
        num_samples: Tensor,
        utts: Sequence[str],
        *,
        num_draws: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Iterator[Tensor], Tensor]:
        """Log-posteriors of every frame, differentiable in the audio.

        Args:
            wav: (B, N) float32 in [-1, 1], zero behind the end of an utterance.
            num_samples: (B,) int64.
            utts: B utterance ids, for what is known of each utterance, such as its speaker.
            num_draws: draws of a random recogniser; ``None`` for its network's default.
            generator: generator of the draws, on ``device``.

        Returns:
            an iterator over chunks (m, B, T, C) of draws or members, and the lengths (B,) int64 in frames.
        """

    @abstractmethod
    def mean_log_post(
        self, wav: Tensor, num_samples: Tensor, utts: Sequence[str], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logarithm of the mean posterior over all draws, (B, T, C); arguments as of :meth:`draws`."""

    @abstractmethod
    def scores(self, log_mean_post: Tensor) -> Tensor:
        """What decoder and aligner take, from log-posteriors (B, T, C)."""

    @abstractmethod
    def decode(self, scores: Iterable[tuple[str, np.ndarray]]) -> dict[str, tuple[str, ...]]:
        """Words of each utterance.

        Args:
            scores: (utt, (T, C) float32) pairs.

        Returns:
            utt -> words; an utterance in which no path survives is absent.
        """

    def listen(self, scores: Iterable[tuple[str, np.ndarray]]) -> tuple[dict[str, tuple[str, ...]], Statistics]:
        """Words of each utterance as of :meth:`decode`, and utt -> statistic -> value of what decoding measures."""
        return self.decode(scores), {}

    @abstractmethod
    def align(self, scores: Mapping[str, np.ndarray], targets: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """Best path of given words through the scores of the audio (step 1 of the paper's attack).

        Args:
            scores: utt -> (T, C) float32.
            targets: utt -> words.

        Returns:
            utt -> (T,) int64 classes, one a frame; an utterance without a path is absent.
        """

    @abstractmethod
    def check_target(self, utt: str, words: Sequence[str], num_frames: int, where: str) -> None:
        """Refuse words that the audio cannot hold or the recogniser does not know.

        Raises:
            AlignmentError: too long for the audio.
            DataError: no words, or one that the recogniser does not know.
        """

    @abstractmethod
    def random_target(
        self, utt: str, original: Sequence[str], num_frames: int, *, seed: int, attempt: int = 0
    ) -> list[str]:
        """Random words that the audio can hold, other than the original ones; a pure function of its arguments."""

    @property
    @abstractmethod
    def files(self) -> list[Path]:
        """Files that its answers depend on, for runs that resume."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON-able options that its answers depend on, beside the files."""

    # what a subclass may add

    @property
    def kind(self) -> str:
        """Name of the kind of model; of one from elsewhere, the name of its class."""
        return type(self).__name__

    @property
    @abstractmethod
    def model_key(self) -> str:
        """Digest of the model that measures, by which a file of what is normal in a frame is recognised."""

    def pieces(
        self, wav: Tensor, num_samples: Tensor, utts: Sequence[str], *, generator: torch.Generator
    ) -> tuple[Pieces, Tensor]:
        """Log-posteriors as of :meth:`draws`, without gradients: of long audio one stretch after the other.

        Returns:
            an iterator over stretches of the frames, each with chunks (m, B, t, C), and the lengths (B,) in frames.
        """
        draws, lengths = self.draws(wav, num_samples, utts, num_draws=self.num_draws, generator=generator)
        return iter([draws]), lengths

    @property
    def recommended_statistic(self) -> str:
        """The one statistic to detect attacks with, where no detector looks at all of them."""
        return "mean_predictive_entropy"

    @property
    def why_no_words(self) -> str:
        """What is missing for the words, in one line; empty if it can decode."""
        return ""

    def plan(self, waves: Mapping[str, np.ndarray]) -> list[list[str]]:
        """The utterances of each batch, long ones first."""
        return plan_waves(waves, CPU_BATCH_SAMPLES if self.device.type == "cpu" else MAX_BATCH_SAMPLES)

    def with_speakers(self: RecogniserT, waves: Mapping[str, np.ndarray]) -> RecogniserT:
        """The recogniser for these utterances, each a speaker of its own, where speakers matter and are not known."""
        return self

    def read(
        self: RecogniserT,
        data: DataDir,
        *,
        utts: Sequence[str] | None = None,
        allow_pipes: bool = False,
        resample: bool = False,
        sources: Sources = DEFAULT_SOURCES,
    ) -> tuple[RecogniserT, Waves]:
        """Read a data directory, checked against the sample rate and the shortest audio.

        Args:
            data: the directory, with or without ``segments``.
            utts: utterances to read; all of them by default.
            allow_pipes: run the lines of tables that are commands.
            resample: resample audio of another rate, and log how much that was.
            sources: where what is known of the speakers comes from.

        Returns:
            the recogniser for the speakers of the directory, and utt -> (N,) float32 in [-1, 1], read again when they
            are asked for.
        """
        if sources.transform_dir is not None or sources.ivector_dir is not None:
            option = "--transform-dir" if sources.transform_dir is not None else "--online-ivector-dir"
            raise UsageError(f"{option}: {type(self).__name__} is told nothing of speakers; leave it out")
        return self, read_waves(
            data,
            sample_rate=self.sample_rate,
            min_samples=self.min_samples,
            utts=utts,
            allow_pipes=allow_pipes,
            resample=resample,
        )

    def word_times(self, words: Sequence[str], scores: np.ndarray) -> list[tuple[str, float, float]]:
        """When each of the words begins and ends, in seconds, by forced alignment; empty where that is not known.

        Args:
            words: what is heard, or to be heard.
            scores: (T, C) float32 of the utterance.
        """
        return []

    def graph_weights(self, paths: Mapping[str, np.ndarray]) -> dict[str, float]:
        """What the decoding graph adds to the scores along paths, in their unit; a path without is not known.

        Args:
            paths: name -> (T,) int64 classes, one a frame.
        """
        return {}

    def in_double(self: RecogniserT) -> RecogniserT:
        """A copy that computes in float64, for checks of the gradient."""
        raise ValueError(f"{type(self).__name__} does not compute in float64")

    def ctc_tokens(self, words: Sequence[str]) -> list[int]:
        """The tokens of words, for the CTC loss."""
        raise ValueError("the loss ctc is for a recogniser trained by CTC: choose cross_entropy or margin")

    ctc_blank = 0  # the blank token

    def speakers_key(self, utts: Sequence[str]) -> str:
        """Digest of what is known of the speakers of some utterances; empty where that does not matter."""
        return ""

    # what follows from it

    def batches(self, waves: Mapping[str, np.ndarray]) -> Iterator[WaveBatch]:
        """The utterances in the padded batches of :meth:`plan`, each read when it is asked for."""
        waves = Waves.of(waves)
        return (pad(waves, utts) for utts in self.plan(waves))

    def audio_key(self, waves: Mapping[str, np.ndarray]) -> str:
        """Digest of audio and of what is known of its speakers, for runs that resume."""
        speakers = self.speakers_key(list(waves))
        return digest(waves_digest(waves), speakers) if speakers else waves_digest(waves)

    def score(
        self,
        waves: Mapping[str, np.ndarray],
        *,
        seed: int = 0,
        alone: bool = False,
        parts: Parts | None = None,
        desc: str = "scoring",
    ) -> Iterator[tuple[str, Scored]]:
        """Score utterances batch by batch.

        Args:
            waves: utt -> (N,) float32 in [-1, 1].
            seed: seed of the draws; each batch has a generator of its own.
            alone: each utterance is a batch of its own with the same generator, so that the draws of a random
                recogniser, and with them its statistics, do not depend on the other utterances.  Slower on a GPU.
            parts: what other jobs make, or have made.
            desc: label of the progress bar.

        Yields:
            (utt, scored), batches of long utterances first; without those of other jobs.
        """
        waves = Waves.of(waves)
        is_long = {utt: self.num_frames(size) > framing.LONG_FRAMES for utt, size in waves.lengths.items()}
        long, others = (waves.subset([utt for utt in waves if is_long[utt] == which]) for which in (True, False))
        plan = [[utt] for utt in sorted(long, key=lambda utt: -long.lengths[utt])]
        plan += plan_waves(others, 0) if alone else self.plan(others)
        with tqdm(total=len(waves), desc=desc, unit="utt", disable=len(waves) < 32) as progress:
            for number, utts in enumerate(plan):
                draws_seed = seed * 1_000_003 + (0 if alone else number)

                def make(utts: list[str] = utts, draws_seed: int = draws_seed) -> list[Scored]:
                    batch = unpadded(waves, utts[0]) if is_long[utts[0]] else pad(waves, utts)
                    return in_halves(functools.partial(self._score_batch, seed=draws_seed), batch)

                yield from zip(utts, parts.of(number, utts, make) if parts else make(), strict=parts is None)
                progress.update(len(utts))

    def _score_batch(self, batch: WaveBatch, seed: int) -> list[Scored]:
        """Score the utterances of a batch; ``seed`` is that of the draws."""
        generator = torch.Generator(self.device).manual_seed(seed)
        wav, num_samples = (torch.from_numpy(v).to(self.device) for v in (batch.wav, batch.num_samples))
        with torch.no_grad():
            pieces, lengths = self.pieces(wav, num_samples, batch.utts, generator=generator)
            measures, scores = measure(pieces, self.scores, int(lengths.max()))
            return by_utterance(measures, scores, lengths)

    def hear(
        self,
        waves: Mapping[str, np.ndarray],
        *,
        seed: int = 0,
        alone: bool = False,
        words: bool = True,
        frames_to: Callable[[dict[str, np.ndarray]], object] | None = None,
        parts: Parts | None = None,
        desc: str = "decoding",
    ) -> dict[str, Heard]:
        """Words, statistics and measures of the frames of each utterance, in one pass.

        Args:
            waves: utt -> (N,) samples at the recogniser's rate, mono: float in [-1, 1] or int16.
            seed, alone, parts, desc: as of :meth:`score`.
            words: whether to decode; without it ``Heard.words`` is ``None``.
            frames_to: is given the measures of the frames of each utterance, and ``Heard.frames`` is empty: of many
                utterances they take more memory than all the rest.

        Returns:
            utt -> what was heard, without a word where no path survived; in the order of ``waves``.

        Raises:
            DataError: audio that would be misheard: another shape, values beyond full scale or not finite, too short.
        """
        waves = self.check_audio(waves)
        who = self.with_speakers(waves)
        found: dict[str, Heard] = {}

        def scores() -> Iterator[tuple[str, np.ndarray]]:
            for utt, scored in who.score(waves, seed=seed, alone=alone, parts=parts, desc=desc):
                if frames_to is not None:
                    frames_to(scored.frames)
                found[utt] = Heard(None, scored.statistics, {} if frames_to is not None else scored.frames)
                yield utt, scored.scores

        if words:
            decoded, more = self.listen(scores())
            silent = NO_LATTICE if self.lattice_statistics else {}
            return {utt: found[utt].decoded(decoded.get(utt, ()), more.get(utt, silent)) for utt in waves}
        for _ in scores():
            pass
        return {utt: found[utt] for utt in waves}

    def check_audio(self, waves: Mapping[str, np.ndarray], *, what: str = "judged") -> Mapping[str, np.ndarray]:
        """The utterances as float32 in [-1, 1].

        Args:
            waves: name -> samples, as of :meth:`hear`; of those that were checked when they were read
                (:class:`kaldi_uq.io.waves.Waves`) the length alone is looked at.
            what: what is to be done with them, for messages.

        Raises:
            DataError: as of :meth:`hear`; names the utterance and counts further ones.
        """
        return check_all(waves, self.sample_rate, self.min_samples, what)

    def read_wavs(
        self,
        paths: Mapping[str, str],
        *,
        what: str = "judged",
        where: str = "",
        allow_pipes: bool = False,
        resample: bool = False,
    ) -> Waves:
        """Read files of audio of the recogniser's sample rate: :func:`kaldi_uq.recogniser.audio.read_all`."""
        return read_all(
            *(paths, self.sample_rate, self.min_samples),
            what=what,
            where=where,
            allow_pipes=allow_pipes,
            resample=resample,
        )
