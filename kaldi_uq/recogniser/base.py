"""What attacks, detectors and commands ask of a recogniser, whatever it is made of."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kaldi_uq.feats import framing
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.files import digest
from kaldi_uq.io.recording import Recording
from kaldi_uq.io.waves import (
    CPU_BATCH_SAMPLES,
    MAX_BATCH_SAMPLES,
    WaveBatch,
    read_waves,
    wave_batches,
    waves_digest,
)
from kaldi_uq.recogniser.audio import checked_waves, read_files
from kaldi_uq.recogniser.heard import Heard, Listening, Pieces, Scored, heard_of
from kaldi_uq.recogniser.memory import alone as alone_in_memory
from kaldi_uq.recogniser.memory import in_halves
from kaldi_uq.uncertainty import measures_from_draws

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
    """

    sample_rate: int
    min_samples: int
    frame_shift_s: float
    is_random: bool
    num_draws: int | None
    device: torch.device
    random_targets = "words"  # words strung together, or sentences of a grammar where there is one
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

    def pieces(self, utt: str, samples: framing.Samples, *, generator: torch.Generator) -> Pieces:
        """Log-posteriors as of :meth:`draws` of one long utterance, without gradients: one stretch after the other.

        Returns:
            an iterator over stretches of the frames, each with chunks (m, 1, t, C); here there is just one.
        """
        wav = torch.from_numpy(np.require(samples[:], np.float32, "W"))[None].to(self.device)
        sizes = torch.tensor([len(samples)], device=self.device)
        return iter([self.draws(wav, sizes, (utt,), num_draws=self.num_draws, generator=generator)[0]])

    def decode_long(self, utt: str, listening: Listening) -> tuple[str, ...]:
        """Words of one long utterance; none where no path survives."""
        return self.decode([(utt, listening.all_scores())]).get(utt, ())

    @property
    def recommended_statistic(self) -> str:
        """The one statistic to detect attacks with, where no detector looks at all of them."""
        return "mean_predictive_entropy"

    @property
    def why_no_words(self) -> str:
        """What is missing for the words, in one line; empty if it can decode."""
        return ""

    def batches(self, waves: Mapping[str, np.ndarray]) -> Iterator[WaveBatch]:
        """The utterances in padded batches, long ones first."""
        return wave_batches(dict(waves), CPU_BATCH_SAMPLES if self.device.type == "cpu" else MAX_BATCH_SAMPLES)

    def with_speakers(self: RecogniserT, waves: Mapping[str, framing.Samples]) -> RecogniserT:
        """The recogniser for these utterances, each a speaker of its own, where speakers matter and are not known."""
        return self

    def read(
        self: RecogniserT,
        data: DataDir,
        *,
        utts: Sequence[str] | None = None,
        allow_pipes: bool = False,
        cmvn_from: str = "auto",
    ) -> tuple[RecogniserT, dict[str, np.ndarray]]:
        """Read a data directory, checked against the sample rate and the shortest audio.

        Args:
            data: the directory, with or without ``segments``.
            utts: utterances to read; all of them by default.
            allow_pipes: run the lines of tables that are commands.
            cmvn_from: where statistics of speakers come from, see :func:`kaldi_uq.recogniser.speakers.speaker_stats`.

        Returns:
            the recogniser for the speakers of the directory, and utt -> (N,) float32 in [-1, 1].
        """
        rate, shortest = self.sample_rate, self.min_samples
        return self, read_waves(data, sample_rate=rate, min_samples=shortest, utts=utts, allow_pipes=allow_pipes)

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

    def audio_key(self, waves: Mapping[str, np.ndarray]) -> str:
        """Digest of audio and of what is known of its speakers, for runs that resume."""
        speakers = self.speakers_key(list(waves))
        return digest(waves_digest(dict(waves)), speakers) if speakers else waves_digest(dict(waves))

    def score(
        self, waves: Mapping[str, np.ndarray], *, seed: int = 0, alone: bool = False, desc: str = "scoring"
    ) -> Iterator[tuple[str, Scored]]:
        """Score utterances batch by batch.

        Args:
            waves: utt -> (N,) float32 in [-1, 1].
            seed: seed of the draws; each batch has a generator of its own.
            alone: each utterance is a batch of its own with the same generator, so that the draws of a random
                recogniser, and with them its statistics, do not depend on the other utterances.  Slower on a GPU.
            desc: label of the progress bar.

        Yields:
            (utt, scored), batches of long utterances first.
        """
        for utt, listening in self._listen(waves, seed, alone):
            with alone_in_memory(utt, len(waves[utt])):
                scores = listening.all_scores()
                found = listening.heard()
            yield utt, Scored(None, found.statistics, found.frames, scores)
        yield from self._score_short(waves, seed, alone, desc)

    def _is_long(self, samples: framing.Samples) -> bool:
        """Whether audio is listened to stretch by stretch."""
        return self.num_frames(len(samples)) > framing.LONG_FRAMES

    def _listen(self, waves: Mapping[str, framing.Samples], seed: int, alone: bool) -> Iterator[tuple[str, Listening]]:
        """The long utterances, the longest first; arguments as of :meth:`score`."""
        long = sorted(filter(lambda utt: self._is_long(waves[utt]), waves), key=lambda utt: -len(waves[utt]))
        for number, utt in enumerate(long):
            generator = torch.Generator(self.device).manual_seed(seed * 1_000_003 + (0 if alone else number))
            pieces = self.pieces(utt, waves[utt], generator=generator)
            yield utt, Listening(pieces, self.scores, self.num_frames(len(waves[utt])))

    def _score_short(
        self, waves: Mapping[str, framing.Samples], seed: int, alone: bool, desc: str
    ) -> Iterator[tuple[str, Scored]]:
        """The other utterances, batch by batch; arguments as of :meth:`score`."""
        short = {utt: np.asarray(wave) for utt, wave in waves.items() if not self._is_long(wave)}
        batches = wave_batches(short, 0) if alone else self.batches(short)
        with tqdm(total=len(short), desc=desc, unit="utt", disable=len(short) < 32) as progress:
            for number, batch in enumerate(batches, len(waves) - len(short)):
                draws_seed = seed * 1_000_003 + (0 if alone else number)
                found = in_halves(functools.partial(self._score_batch, seed=draws_seed), batch)
                yield from zip(batch.utts, found, strict=True)
                progress.update(len(batch.utts))

    def _score_batch(self, batch: WaveBatch, seed: int) -> list[Scored]:
        """Score the utterances of a batch; ``seed`` is that of the draws."""
        generator = torch.Generator(self.device).manual_seed(seed)
        wav, num_samples = (torch.from_numpy(v).to(self.device) for v in (batch.wav, batch.num_samples))
        with torch.no_grad():
            draws, lengths = self.draws(wav, num_samples, batch.utts, num_draws=self.num_draws, generator=generator)
            measures = measures_from_draws(draws)
            scores = self.scores(measures.pop("log_mean_post")).float().cpu().numpy()
            heard = heard_of(measures, lengths)
        return [
            Scored(None, one.statistics, one.frames, np.ascontiguousarray(scores[row, :length], dtype=np.float32))
            for row, (one, length) in enumerate(zip(heard, lengths.tolist(), strict=True))
        ]

    def hear(
        self,
        waves: Mapping[str, np.ndarray | Recording],
        *,
        seed: int = 0,
        alone: bool = False,
        words: bool = True,
        desc: str = "decoding",
    ) -> dict[str, Heard]:
        """Words, statistics and measures of the frames of each utterance, in one pass.

        Args:
            waves: utt -> (N,) samples at the recogniser's rate, mono: float in [-1, 1] or int16; or a recording.
            seed, alone, desc: as of :meth:`score`.
            words: whether to decode; without it ``Heard.words`` is ``None``.

        Returns:
            utt -> what was heard, without a word where no path survived; in the order of ``waves``.

        Raises:
            DataError: audio that would be misheard: another shape, values beyond full scale or not finite, too short.
        """
        # a recording was checked when it was opened
        unread = {utt: wave for utt, wave in waves.items() if isinstance(wave, Recording) and self._is_long(wave)}
        checked = self.check_audio({utt: wave[:] for utt, wave in waves.items() if utt not in unread})
        samples = {utt: unread[utt] if utt in unread else checked[utt] for utt in waves}
        who = self.with_speakers(samples)
        found: dict[str, Heard] = {}
        decoded: dict[str, tuple[str, ...]] = {}
        for utt, listening in who._listen(samples, seed, alone):
            with alone_in_memory(utt, len(samples[utt])):
                if words:
                    decoded[utt] = self.decode_long(utt, listening)
                found[utt] = listening.heard()

        def scores() -> Iterator[tuple[str, np.ndarray]]:
            for utt, scored in who._score_short(samples, seed, alone, desc):
                found[utt] = Heard(None, scored.statistics, scored.frames)
                yield utt, scored.scores

        if words:
            decoded |= self.decode(scores())
            return {utt: dataclasses.replace(found[utt], words=decoded.get(utt, ())) for utt in waves}
        for _ in scores():
            pass
        return {utt: found[utt] for utt in waves}

    def check_audio(self, waves: Mapping[str, np.ndarray], *, what: str = "judged") -> dict[str, np.ndarray]:
        """The utterances as float32 in [-1, 1].

        Args:
            waves: name -> samples, as of :meth:`hear`.
            what: what is to be done with them, for messages.

        Raises:
            DataError: as of :meth:`hear`; names the utterance and counts further ones.
        """
        return checked_waves(waves, self.sample_rate, self.min_samples, what)

    def read_wavs(
        self, paths: Mapping[str, str], *, what: str = "judged", where: str = "", allow_pipes: bool = False
    ) -> dict[str, np.ndarray]:
        """Read WAV files of the recogniser's sample rate, one channel each.

        Args:
            paths: name -> file, or another source that :func:`kaldi_uq.io.wav.read_wav` takes.
            what: what is to be done with them, for messages.
            where: the table that names them, for messages.
            allow_pipes: run a source that is a command.

        Returns:
            name -> (N,) float32 in [-1, 1].

        Raises:
            DataError: a file that cannot be used; names it and lists further ones.
        """
        return read_files(paths, self.sample_rate, self.min_samples, what=what, where=where, allow_pipes=allow_pipes)
