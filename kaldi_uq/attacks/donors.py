"""Real speech of a target: words cut out of recordings by forced alignment, to be laid over audio or to be imitated."""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import digest
from kaldi_uq.io.waves import WaveBatch, Waves, waves_digest
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.memory import in_halves

PIECES = 50  # of a word that are kept, from the longest recordings: more choice brings nothing but memory
LEVEL = 0.5  # root mean square of a word where 1 is the bound of a sample: about 5 % of the samples are clipped
CERTAIN = -30.0  # log-posterior of every other class in a frame whose class no donor has

SpeechT = TypeVar("SpeechT", bound="Speech")


@dataclass(frozen=True)
class Piece:
    """A word that was cut out of a recording.

    Attributes:
        utt: the recording.
        wave: (N,) float32.
        path: (T,) int64, the class of each frame.
        log_post: (T, C) float32.
    """

    utt: str
    wave: np.ndarray
    path: np.ndarray
    log_post: np.ndarray


class Donors:
    """Recordings with known words.

    Args:
        waves: utt -> (N,) samples at the recogniser's rate: int16, or float in [-1, 1].
        text: utt -> what is said, words or one string.
        where: the place that they come from, for messages.
    """

    def __init__(
        self, waves: Mapping[str, np.ndarray], text: Mapping[str, str | Sequence[str]], *, where: str = "donors"
    ) -> None:
        self.waves, self.where = waves if isinstance(waves, Waves) else dict(waves), where
        self.text = {utt: found.split() if isinstance(found := text[utt], str) else list(found) for utt in waves}
        self._cut: tuple[BaseRecogniser, Speech] | None = None

    @property
    def key(self) -> str:
        """Digest of the recordings and their words."""
        return digest(waves_digest(self.waves), self.text)

    def speech(self, recogniser: BaseRecogniser) -> Speech:
        """The words of the recordings, as a recogniser aligns and hears them; cut once for each recogniser.

        Raises:
            DataError: audio that cannot be used, or words that the recogniser does not know.
            ValueError: the recogniser does not say when a word begins and ends.
        """
        if self._cut is None or self._cut[0] is not recogniser:
            self._cut = recogniser, Speech.of(recogniser, self)
        return self._cut[1]


class Speech:
    """Words of donors, and how to say a text with them.

    Args:
        pieces: word -> its pieces.
        runs: class -> (n, C) log-posteriors of the longest run of frames of this class, for what is between words.
        sample_rate, frame_shift_s: of the recogniser.
        where: the place that they come from, for messages.
    """

    def __init__(
        self,
        pieces: Mapping[str, Sequence[Piece]],
        runs: Mapping[int, np.ndarray],
        *,
        sample_rate: float,
        frame_shift_s: float,
        where: str = "donors",
    ) -> None:
        self._pieces, self._runs, self._where = pieces, runs, where
        self._rate, self._shift_s = sample_rate, frame_shift_s

    @classmethod
    def of(cls: type[SpeechT], recogniser: BaseRecogniser, donors: Donors) -> SpeechT:
        """Cut the words out; see :meth:`Donors.speech`."""
        waves = recogniser.check_audio(donors.waves, what="used as donors")
        who = recogniser.with_speakers(waves)
        pieces: dict[str, list[Piece]] = {}
        runs: dict[int, np.ndarray] = {}
        for batch in who.batches(waves):
            for utt, row, log_post, scores in in_halves(functools.partial(_scored, who), batch):
                words = donors.text[utt]
                path = who.align({utt: scores}, {utt: words}).get(utt) if words else None
                if path is None:
                    continue
                for label, start, end in runs_of(path):
                    if end - start > len(runs.get(label, ())):
                        runs[label] = log_post[start:end].copy()
                for word, begin, finish in who.word_times(words, scores):
                    start, end = (round(time / who.frame_shift_s) for time in (begin, finish))
                    wave = row[round(begin * who.sample_rate) : round(finish * who.sample_rate)]
                    known = pieces.setdefault(word, [])
                    if len(known) < PIECES and len(wave):
                        known.append(Piece(utt, wave.copy(), path[start:end].copy(), log_post[start:end].copy()))
        if runs and not pieces:
            raise ValueError(
                f"{type(who).__name__} does not say when a word begins and ends (word_times), which is needed to cut "
                "words out of recordings: choose another start than speech, and another loss than logit_match"
            )
        rate, shift_s = who.sample_rate, who.frame_shift_s
        return cls(pieces, runs, sample_rate=rate, frame_shift_s=shift_s, where=donors.where)

    def choose(self, utt: str, words: Sequence[str], seed: int) -> list[Piece]:
        """A piece for each word, by chance and from other recordings than the utterance itself where there is one.

        Raises:
            DataError: nobody says a word.
        """
        rng = np.random.default_rng([seed, zlib.crc32(utt.encode())])
        chosen = []
        for word in words:
            known = self._pieces.get(word, ())
            if not known:
                raise DataError(
                    f"{self._where}: no recording in which {word!r} can be cut out, a word of the target of {utt!r}; "
                    "name recordings that have it with --donors"
                )
            others = [piece for piece in known if piece.utt != utt] or known
            chosen.append(others[int(rng.integers(len(others)))])
        return chosen

    def overlay(
        self, utt: str, words: Sequence[str], times: Sequence[tuple[str, float, float]], num_samples: int, *, seed: int
    ) -> np.ndarray:
        """A text said in the voices of the donors, as long as an utterance.

        The words begin where the forced alignment has them, at their own speed, if they fit there one after the other.
        Otherwise they are spread evenly, and said faster if there is not enough room.

        Args:
            utt: the utterance.
            words: the text.
            times: (word, begin, end) in seconds of the forced alignment of the text; empty if there is none.
            num_samples: samples of the utterance.
            seed: seed of the choice of the donors.

        Returns:
            (num_samples,) float32 in [-1, 1], 0 between the words; 1 stands for the bound of a sample.
        """
        waves = [piece.wave for piece in self.choose(utt, words, seed)]
        sizes = [len(wave) for wave in waves]
        begins = [round(begin * self._rate) for _, begin, _ in times]
        ends = [begin + size for begin, size in zip(begins, sizes, strict=False)]
        fits = len(begins) == len(sizes) and all(e <= b for e, b in zip(ends, [*begins[1:], num_samples], strict=True))
        if not fits:
            faster = min(1.0, num_samples / sum(sizes))
            sizes = [int(size * faster) for size in sizes]
            gap = (num_samples - sum(sizes)) // (len(sizes) + 1)
            begins = [gap * (i + 1) + sum(sizes[:i]) for i in range(len(sizes))]
        said = np.zeros(num_samples, dtype=np.float32)
        for wave, size, begin in zip(waves, sizes, begins, strict=True):
            at = np.linspace(0, len(wave) - 1, size)
            level = max(float(np.sqrt(np.mean(np.square(wave)))), 1e-9)
            said[begin : begin + size] = np.interp(at, np.arange(len(wave)), wave) * (LEVEL / level)
        return said.clip(-1.0, 1.0)

    def posteriors(self, utt: str, words: Sequence[str], path: np.ndarray, *, seed: int) -> np.ndarray:
        """Log-posteriors of a real utterance of a text, warped in time so that it follows a path.

        The first run of a class in the path takes the frames of the first run of this class in the donors' words, and
        so on; a class that is in none of the words, such as silence, those of its longest run in any recording.

        Args:
            utt, words, seed: as of :meth:`overlay`; the donors are the same.
            path: (T,) int64 classes, the forced alignment of the text.

        Returns:
            (T, C) float32.
        """
        pieces = self.choose(utt, words, seed)
        found: dict[int, list[np.ndarray]] = {}
        for piece in pieces:
            for label, start, end in runs_of(piece.path):
                found.setdefault(label, []).append(piece.log_post[start:end])
        parts, used = [], dict.fromkeys(found, 0)
        for label, start, end in runs_of(path):
            if label in found:
                source = found[label][min(used[label], len(found[label]) - 1)]
                used[label] += 1
            elif label in self._runs:
                source = self._runs[label]
            else:
                source = np.full((1, pieces[0].log_post.shape[1]), CERTAIN, dtype=np.float32)
                source[0, label] = 0.0
            parts.append(source[np.arange(end - start) * len(source) // (end - start)])
        return np.concatenate(parts)


def runs_of(path: np.ndarray) -> list[tuple[int, int, int]]:
    """The runs of equal classes in a path (T,): class, first frame, frame after the last.

    >>> runs_of(np.array([3, 3, 1]))
    [(3, 0, 2), (1, 2, 3)]
    """
    bounds = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
    return [(int(path[a]), a, b) for a, b in itertools.pairwise(bounds) if b > a]


def _scored(who: BaseRecogniser, batch: WaveBatch) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Utterance, samples (N,), log-posteriors (T, C) and scores (T, C) of each of a batch."""
    wav, num_samples = (torch.from_numpy(values).to(who.device) for values in (batch.wav, batch.num_samples))
    with torch.no_grad():
        generator = torch.Generator(who.device).manual_seed(0)
        mean = who.mean_log_post(wav, num_samples, batch.utts, generator=generator)
        scores = who.scores(mean).float().cpu().numpy()
    log_post = mean.float().cpu().numpy()
    return [
        (utt, batch.wav[row, : batch.num_samples[row]], log_post[row, :size], np.ascontiguousarray(scores[row, :size]))
        for row, (utt, size) in enumerate(zip(batch.utts, who.num_frames(num_samples).tolist(), strict=True))
    ]
