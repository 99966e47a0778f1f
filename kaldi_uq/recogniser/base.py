"""What attacks, detectors and commands ask of a recogniser, whatever it is made of."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from kaldi_uq.errors import UsageError
from kaldi_uq.feats import framing
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.files import digest
from kaldi_uq.io.recording import Recording
from kaldi_uq.io.resample import Resampler
from kaldi_uq.io.wav import Source
from kaldi_uq.io.waves import Waves, read_waves, waves_digest
from kaldi_uq.lattice.posteriors import NO_LATTICE
from kaldi_uq.recogniser.audio import checked_waves, read_files, require_names
from kaldi_uq.recogniser.heard import FrameScores, Heard, Listening
from kaldi_uq.recogniser.memory import alone as alone_in_memory
from kaldi_uq.recogniser.parts import Parts
from kaldi_uq.recogniser.scorer import Scorer
from kaldi_uq.recogniser.speakers import DEFAULT_SOURCES, Sources

Statistics: TypeAlias = dict[str, dict[str, float]]  # utt -> statistic -> value
RecogniserT = TypeVar("RecogniserT", bound="BaseRecogniser")


class BaseRecogniser(Scorer):
    """A recogniser: from waveforms to posteriors of frames, and from these to words.

    ``num_draws`` and ``device`` are those of :class:`.scorer.Scorer`.

    Attributes:
        sample_rate: sample rate of the audio, Hz.
        min_samples: samples of the shortest audio that has a frame.
        frame_shift_s: seconds from one frame to the next.
        is_random: whether two passes over the same audio differ, by draws of weights or of dropout masks.
        lattice_statistics: whether hearing measures lattices, too (:mod:`kaldi_uq.lattice.posteriors`).
    """

    sample_rate: int
    min_samples: int
    frame_shift_s: float
    is_random: bool
    random_targets = "words"  # words strung together, or sentences of a grammar where there is one
    lattice_statistics = False
    code: Path | None = None  # file of the user's own code that it is made of, for runs that resume

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._parts())})"

    def _parts(self) -> list[str]:
        """What the representation says."""
        draws = [f"{self.num_draws} draws" if self.num_draws else "random"] if self.is_random else []
        return [f"{self.sample_rate} Hz", *draws, f"on {self.device}"]

    # what a subclass supplies

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

    @property
    def decodes_whole(self) -> bool:
        """Whether long audio is decoded as a whole, together with all else, as lattices ask for."""
        return self.lattice_statistics

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

    def with_speakers(self: RecogniserT, waves: Mapping[str, framing.Samples]) -> RecogniserT:
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
        return digest(waves_digest(waves), speakers) if speakers else waves_digest(waves)

    def hear(
        self,
        waves: Mapping[str, np.ndarray | Recording],
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
            waves: utt -> (N,) samples at the recogniser's rate, mono: float in [-1, 1] or int16; or a recording.
            seed, alone, parts, desc: as of :meth:`score`.
            words: whether to decode; without it ``Heard.words`` is ``None``.
            frames_to: is given the measures of the frames of each utterance, and ``Heard.frames`` is empty: of many
                utterances they take more memory than all the rest.

        Returns:
            utt -> what was heard, without a word where no path survived; in the order of ``waves``.

        Raises:
            DataError: audio that would be misheard: another shape, values beyond full scale or not finite, too short.
            TypeError: no mapping of names to samples.
        """
        samples = Waves.of(self._checked(waves))
        who = self.with_speakers(samples)
        found: dict[str, Heard] = {}
        decoded: dict[str, tuple[str, ...]] = {}
        whole = words and self.decodes_whole
        for utt, listening in () if whole else who._listen(samples, seed, alone):
            with alone_in_memory(utt, samples.lengths[utt]):
                if words:
                    decoded[utt] = self.decode_long(utt, listening)
                found[utt] = listening.heard().without_frames(frames_to)

        def scores() -> Iterator[tuple[str, np.ndarray]]:
            score = who.score if whole else who._score_short
            for utt, scored in score(samples, seed=seed, alone=alone, parts=parts, desc=desc):
                found[utt] = scored.without_frames(frames_to)
                yield utt, scored.scores

        if words:
            texts, more = self.listen(scores())
            decoded |= texts
            silent = NO_LATTICE if self.lattice_statistics else {}
            return {utt: found[utt].decoded(decoded.get(utt, ()), more.get(utt, silent)) for utt in waves}
        for _ in scores():
            pass
        return {utt: found[utt] for utt in waves}

    def _checked(self, waves: Mapping[str, np.ndarray | Recording]) -> Mapping[str, framing.Samples]:
        """What :meth:`hear` was given, checked: recordings and waveforms of a directory were when they were opened."""
        require_names(waves)
        if isinstance(waves, Waves):
            return self.check_audio(waves)
        unread = {utt: wave for utt, wave in waves.items() if isinstance(wave, Recording) and self._is_long(len(wave))}
        others = {utt: wave for utt, wave in waves.items() if utt not in unread}
        checked = self.check_audio({u: wave[:] if isinstance(wave, Recording) else wave for u, wave in others.items()})
        return {utt: unread[utt] if utt in unread else checked[utt] for utt in waves}

    def check_audio(self, waves: Mapping[str, np.ndarray], *, what: str = "judged") -> Mapping[str, np.ndarray]:
        """The utterances as float32 in [-1, 1].

        Args:
            waves: name -> samples, as of :meth:`hear`; of those that were checked when they were read
                (:class:`kaldi_uq.io.waves.Waves`) the length alone is looked at.
            what: what is to be done with them, for messages.

        Raises:
            DataError: as of :meth:`hear`; names the utterance and counts further ones.
        """
        return checked_waves(waves, self.sample_rate, self.min_samples, what)

    def read_wavs(
        self,
        paths: Mapping[str, Source],
        *,
        what: str = "judged",
        where: str = "",
        allow_pipes: bool = False,
        resample: bool = False,
        conversion: Resampler | None = None,
    ) -> Waves:
        """Read files of audio of the recogniser's sample rate, one channel each.

        Args:
            paths: name -> file, or another source that :func:`kaldi_uq.io.wav.read_wav` takes.
            what: what is to be done with them, for messages.
            where: the table that names them, for messages.
            allow_pipes: run a source that is a command.
            resample: resample audio of another rate, and log how much that was.
            conversion: does that, in place of ``resample``, and more: see :mod:`kaldi_uq.io.conversion`.

        Returns:
            name -> (N,) float32 in [-1, 1]; read again when they are asked for.

        Raises:
            DataError: a file that cannot be used; names it and lists further ones.
        """
        return read_files(
            paths,
            self.sample_rate,
            self.min_samples,
            what=what,
            where=where,
            allow_pipes=allow_pipes,
            resampler=conversion or (Resampler(self.sample_rate) if resample else None),
        )
