"""What attacks, detectors and commands ask of a recogniser, whatever it is made of."""

from __future__ import annotations

import dataclasses
import functools
import itertools
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
from kaldi_uq.io.resample import Resampler
from kaldi_uq.io.wav import as_float
from kaldi_uq.io.waves import (
    CPU_BATCH_SAMPLES,
    MAX_BATCH_SAMPLES,
    WaveBatch,
    read_waves,
    wave_batches,
    waves_digest,
)
from kaldi_uq.recogniser.audio import check_length, raise_first, read_all, read_file
from kaldi_uq.recogniser.heard import FrameScores, Heard, Pieces, Scored, measure, of_each, unpadded
from kaldi_uq.recogniser.memory import in_halves
from kaldi_uq.uncertainty import utterance_statistics

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

    def batches(self, waves: Mapping[str, np.ndarray]) -> Iterator[WaveBatch]:
        """The utterances in padded batches, long ones first."""
        return wave_batches(dict(waves), CPU_BATCH_SAMPLES if self.device.type == "cpu" else MAX_BATCH_SAMPLES)

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
        cmvn_from: str = "auto",
    ) -> tuple[RecogniserT, dict[str, np.ndarray]]:
        """Read a data directory, checked against the sample rate and the shortest audio.

        Args:
            data: the directory, with or without ``segments``.
            utts: utterances to read; all of them by default.
            allow_pipes: run the lines of tables that are commands.
            resample: resample audio of another rate, and log how much that was.
            cmvn_from: where statistics of speakers come from, see :func:`kaldi_uq.recogniser.speakers.speaker_stats`.

        Returns:
            the recogniser for the speakers of the directory, and utt -> (N,) float32 in [-1, 1].
        """
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

    def decode_batch(self, scores: FrameScores) -> dict[str, tuple[str, ...]]:
        """Words as of :meth:`decode`, for attacks: a search may have no beam, and be where the scores are."""
        return self.decode(scores.arrays().items())

    def align_batch(
        self, scores: FrameScores, texts: Mapping[str, Sequence[Sequence[str]]]
    ) -> dict[str, list[np.ndarray | None]]:
        """Paths as of :meth:`align` of some texts of each utterance, for attacks; ``None`` where there is none."""
        arrays, found = scores.arrays(), dict[str, list[np.ndarray | None]]({utt: [] for utt in texts})
        for number in range(max(map(len, texts.values()), default=0)):
            given = {utt: some[number] for utt, some in texts.items() if number < len(some)}
            paths = self.align({utt: arrays[utt] for utt in given}, given)
            for utt in given:
                found[utt].append(paths.get(utt))
        return found

    def graph_weights(self, paths: Sequence[np.ndarray]) -> list[float | None]:
        """What the decoding graph adds to the scores along paths (T,) of classes, in their unit; ``None``: no path."""
        return [None] * len(paths)

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
        long = {utt: wav for utt, wav in waves.items() if self.num_frames(len(wav)) > framing.LONG_FRAMES}
        others = {utt: wav for utt, wav in waves.items() if utt not in long}
        batches = itertools.chain(unpadded(long), wave_batches(others, 0) if alone else self.batches(others))
        with tqdm(total=len(waves), desc=desc, unit="utt", disable=len(waves) < 32) as progress:
            for number, batch in enumerate(batches):
                draws_seed = seed * 1_000_003 + (0 if alone else number)
                found = in_halves(functools.partial(self._score_batch, seed=draws_seed), batch)
                yield from zip(batch.utts, found, strict=True)
                progress.update(len(batch.utts))

    def _score_batch(self, batch: WaveBatch, seed: int) -> list[Scored]:
        """Score the utterances of a batch; ``seed`` is that of the draws."""
        generator = torch.Generator(self.device).manual_seed(seed)
        wav, num_samples = (torch.from_numpy(v).to(self.device) for v in (batch.wav, batch.num_samples))
        with torch.no_grad():
            pieces, lengths = self.pieces(wav, num_samples, batch.utts, generator=generator)
            measures, scores = measure(pieces, self.scores, int(lengths.max()))
            statistics = utterance_statistics(measures, lengths)
        return of_each(measures, statistics, scores, lengths.tolist())

    def hear(
        self,
        waves: Mapping[str, np.ndarray],
        *,
        seed: int = 0,
        alone: bool = False,
        words: bool = True,
        desc: str = "decoding",
    ) -> dict[str, Heard]:
        """Words, statistics and measures of the frames of each utterance, in one pass.

        Args:
            waves: utt -> (N,) samples at the recogniser's rate, mono: float in [-1, 1] or int16.
            seed, alone, desc: as of :meth:`score`.
            words: whether to decode; without it ``Heard.words`` is ``None``.

        Returns:
            utt -> what was heard, without a word where no path survived; in the order of ``waves``.

        Raises:
            DataError: audio that would be misheard: another shape, values beyond full scale or not finite, too short.
        """
        waves = self.check_audio(waves)
        who = self.with_speakers(waves)
        found: dict[str, Heard] = {}

        def scores() -> Iterator[tuple[str, np.ndarray]]:
            for utt, scored in who.score(waves, seed=seed, alone=alone, desc=desc):
                found[utt] = Heard(None, scored.statistics, scored.frames)
                yield utt, scored.scores

        if words:
            decoded = self.decode(scores())
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
        found, problems = {}, {}
        for name, samples in waves.items():
            try:
                checked = as_float(samples, name=name)
                is_such = isinstance(samples, np.ndarray) and samples.dtype == np.float32
                same = is_such and np.array_equal(samples, checked)
                found[name] = samples if same else checked  # of long audio one copy is enough
                check_length(name, len(found[name]), self.sample_rate, self.min_samples, what)
            except ValueError as error:
                problems[name] = str(error)
        raise_first(problems, what)
        return found

    def read_wavs(
        self,
        paths: Mapping[str, str],
        *,
        what: str = "judged",
        where: str = "",
        allow_pipes: bool = False,
        resample: bool = False,
    ) -> dict[str, np.ndarray]:
        """Read files of audio of the recogniser's sample rate, one channel each.

        Args:
            paths: name -> file, or another source that :func:`kaldi_uq.io.wav.read_wav` takes.
            what: what is to be done with them, for messages.
            where: the table that names them, for messages.
            allow_pipes: run a source that is a command.
            resample: resample audio of another rate, and log how much that was.

        Returns:
            name -> (N,) float32 in [-1, 1].

        Raises:
            DataError: a file that cannot be used; names it and lists further ones.
        """
        resampler = Resampler(self.sample_rate) if resample else None
        options: Any = {"what": what, "where": where, "allow_pipes": allow_pipes, "resampler": resampler}
        found = read_all(paths, lambda path: read_file(path, self.sample_rate, self.min_samples, **options), what)
        if resampler:
            resampler.report(where or "audio", len(found))
        return found
