"""What an attack wants of a recogniser: the words of each utterance, and a loss that says how near they are."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kaldi_uq.errors import AlignmentError
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.registry import Registry
from kaldi_uq.uncertainty import valid_frames

CONFIDENCE = 5.0  # nats by which the margin loss wants the target ahead: more brings no more words, only more noise
MAX_ATTEMPTS = 5  # random targets of an utterance, one after the other, while no path of one survives the beam

Words = Mapping[str, Sequence[str]]
Texts = Mapping[str, "str | Sequence[str]"]
Waves = Mapping[str, np.ndarray]
BatchGoalT = TypeVar("BatchGoalT", bound="BatchGoal")


@dataclass(frozen=True)
class Goal(ABC):
    """What is wanted of a set of utterances.

    Attributes:
        spoken: utt -> what is said, words or one string; ``None``: what the recogniser hears.
        where: the file that the words come from, for messages.
    """

    spoken: Texts | None = None
    where: str = "text"

    away: ClassVar[bool] = False  # from the words, instead of towards them

    @abstractmethod
    def choose(self, recogniser: BaseRecogniser, waves: Waves, seed: int) -> dict[str, list[str]]:
        """The words of each utterance, checked against its length and the lexicon.

        Raises:
            AlignmentError: words too long for the audio, or audio too short for any.
            DataError: no words, or one that the recogniser does not know.
            ValueError: nothing is given for an utterance.
        """

    def again(self, who: BaseRecogniser, utt: str, scores: np.ndarray, seed: int, attempt: int) -> list[str] | None:
        """Other words for an utterance of scores (T, C), which has no path of the first; ``None`` if there are none."""
        return None

    def _said(self, recogniser: BaseRecogniser, waves: Waves) -> dict[str, list[str]]:
        if self.spoken is None:
            return {utt: list(heard.words or ()) for utt, heard in recogniser.hear(waves).items()}
        return self._words_of(self.spoken, waves, "text of what is spoken")

    def _words_of(self, table: Texts, waves: Waves, what: str) -> dict[str, list[str]]:
        missing = [utt for utt in waves if utt not in table]
        if missing:
            raise ValueError(f"{self.where}: no {what} for utterance {missing[0]!r} ({len(missing)} are missing)")
        return {utt: as_words(table[utt]) for utt in waves}

    def _checked(self, who: BaseRecogniser, waves: Waves, words: dict[str, list[str]]) -> dict[str, list[str]]:
        for utt, wav in waves.items():
            who.check_target(utt, words[utt], who.num_frames(len(wav)), self.where)
        return words


@dataclass(frozen=True)
class Say(Goal):
    """Be heard as a text: the given one, or a random one.

    Attributes:
        targets: utt -> what is to be heard, words or one string; ``None`` for random targets, which differ from what
            is spoken.

    >>> Say({"a": "one two"}).targets
    {'a': 'one two'}
    """

    targets: Texts | None = None

    def __init__(self, targets: Texts | None = None, *, spoken: Texts | None = None, where: str = "targets") -> None:
        for name, value in (("targets", targets), ("spoken", spoken), ("where", where)):
            object.__setattr__(self, name, value)

    def choose(self, recogniser: BaseRecogniser, waves: Waves, seed: int) -> dict[str, list[str]]:
        if self.targets is not None:
            return self._checked(recogniser, waves, self._words_of(self.targets, waves, "target"))
        said = self._said(recogniser, waves)
        return {
            utt: recogniser.random_target(utt, said[utt], recogniser.num_frames(len(wav)), seed=seed)
            for utt, wav in waves.items()
        }

    def again(self, who: BaseRecogniser, utt: str, scores: np.ndarray, seed: int, attempt: int) -> list[str] | None:
        if self.targets is not None or attempt >= MAX_ATTEMPTS:
            return None
        # a text that is spoken or heard already would be no target
        said = who.decode([(utt, scores)]).get(utt, ()) if self.spoken is None else self.spoken[utt]
        return who.random_target(utt, as_words(said), len(scores), seed=seed, attempt=attempt)


@dataclass(frozen=True)
class Untargeted(Goal):
    """Be heard as anything but what is spoken."""

    away: ClassVar[bool] = True

    def choose(self, recogniser: BaseRecogniser, waves: Waves, seed: int) -> dict[str, list[str]]:
        return self._checked(recogniser, waves, self._said(recogniser, waves))


def as_words(text: str | Sequence[str]) -> list[str]:
    """A text as words.

    >>> as_words("one two"), as_words(["one", "two"])
    (['one', 'two'], ['one', 'two'])
    """
    return text.split() if isinstance(text, str) else list(text)


# The loss of a batch -------------------------------------------------------------------------------------------------

LOSSES: Registry[type[BatchGoal]] = Registry("loss", "kaldi_uq.attacks")


class BatchGoal(ABC):
    """A goal for one batch: the loss that the attack descends.

    Args:
        lengths: (B,) int64, frames.
        away: away from the words, instead of towards them.
        of_mean: the loss of the mean posterior, as for an ensemble that is attacked as the one model it is; otherwise
            the mean over draws of their losses, the expectation over a random model.
    """

    follows = False  # whether :meth:`follow` does anything

    def __init__(self, lengths: Tensor, *, away: bool = False, of_mean: bool = False) -> None:
        self.lengths, self.away, self.of_mean = lengths, away, of_mean

    @classmethod
    @abstractmethod
    def of_words(
        cls: type[BatchGoalT],
        recogniser: BaseRecogniser,
        words: dict[str, list[str]],
        scores: Mapping[str, np.ndarray],
        goal: Goal,
        lengths: Tensor,
        *,
        seed: int,
    ) -> BatchGoalT:
        """The goal of a batch.

        Args:
            recogniser: the recogniser under attack.
            words: utt -> words of the batch, in its order; random ones without a path are replaced, here too.
            scores: utt -> (T, C) float32 of the audio as it is.
            goal: the goal of all utterances.
            lengths: (B,) int64, frames.
            seed: seed of random targets.
        """

    @abstractmethod
    def shares(self, draws: Tensor, rows: Tensor) -> Tensor:
        """What each frame adds to the loss.

        Args:
            draws: (M, b, T, C) log-posteriors of some utterances.
            rows: (b,) int64, which of the batch.

        Returns:
            (b, T) nats, zero on padding; the sum over frames is the loss of an utterance.
        """

    def begin(self) -> None:  # noqa: B027 (most goals have nothing to do)
        """Called before the first step of a run."""

    def follow(self, log_mean_post: Tensor, rows: Tensor) -> None:  # noqa: B027 (nor do these follow)
        """Adapt to the current posteriors (b, T, C) of some utterances."""

    def select(self: BatchGoalT, rows: Tensor) -> BatchGoalT:
        """The goal of some utterances of the batch, int64 (b,)."""
        part = copy.copy(self)
        part.lengths = self.lengths[rows]
        return part


class FrameGoal(BatchGoal):
    """A class for each frame, which the recogniser's forced alignment of the words gives (step 1 of the paper).

    The best path of the words is a choice: with a recogniser it can follow the posteriors as the audio changes.

    Args:
        targets: (B, T) int64 classes; padded frames are not read.
        lengths, away, of_mean: as of :class:`BatchGoal`.

    Source: section 2.1 of the paper.
    """

    def __init__(self, targets: Tensor, lengths: Tensor, *, away: bool = False, of_mean: bool = False) -> None:
        super().__init__(lengths, away=away, of_mean=of_mean)
        self.targets = targets
        self._recogniser: BaseRecogniser | None = None
        self._words: Words = {}
        self._utts: tuple[str, ...] = ()
        self._paths: dict[str, np.ndarray] = {}  # shared by all parts of a batch: a path that one finds serves all

    @classmethod
    def of_words(
        cls: type[FrameGoal],
        recogniser: BaseRecogniser,
        words: dict[str, list[str]],
        scores: Mapping[str, np.ndarray],
        goal: Goal,
        lengths: Tensor,
        *,
        seed: int,
    ) -> FrameGoal:
        new = cls(lengths.new_zeros(0, 0), lengths, away=goal.away, of_mean=not recogniser.is_random)
        new._recogniser, new._words, new._utts = recogniser, words, tuple(words)
        new._paths = align_all(recogniser, words, scores, goal, seed)
        new.follows = not goal.away
        new.begin()
        return new

    @staticmethod
    @abstractmethod
    def frame_losses(log_post: Tensor, targets: Tensor, *, away: bool = False) -> Tensor:
        """Loss (M, B, T) of each frame and draw, from log-posteriors (M, B, T, C) and targets (B, T)."""

    def shares(self, draws: Tensor, rows: Tensor) -> Tensor:
        num_frames = draws.shape[2]  # more than the longest of a part, where a recogniser goes by the padded audio
        valid = valid_frames(self.lengths[rows], num_frames)
        targets = F.pad(self.targets[rows], (0, max(0, num_frames - self.targets.shape[1])))[:, :num_frames]
        log_post = mean_log_post(draws)[None] if self.of_mean else draws
        losses = self.frame_losses(log_post, targets, away=self.away).mean(0)
        return losses.masked_fill(~valid, 0.0) / valid.sum(1, keepdim=True)

    def begin(self) -> None:
        if self._utts:
            packed = np.zeros((len(self._utts), int(self.lengths.max())), dtype=np.int64)
            for row, utt in enumerate(self._utts):
                packed[row, : len(self._paths[utt])] = self._paths[utt]
            self.targets = torch.from_numpy(packed).to(self.lengths.device)

    def follow(self, log_mean_post: Tensor, rows: Tensor) -> None:
        """New paths for the current posteriors; an utterance without one keeps the old path."""
        if self._recogniser is None:
            return
        scores = self._recogniser.scores(log_mean_post).cpu().numpy()
        utts, sizes = [self._utts[row] for row in rows.tolist()], self.lengths[rows].tolist()
        current = {u: np.ascontiguousarray(scores[i, : sizes[i]]) for i, u in enumerate(utts)}
        self._paths |= self._recogniser.align(current, {u: self._words[u] for u in utts})
        self.begin()

    def select(self, rows: Tensor) -> FrameGoal:
        part = super().select(rows)
        part._utts = tuple(self._utts[row] for row in rows.tolist()) if self._utts else ()
        part.targets = self.targets[rows]
        part.begin()
        return part


@LOSSES.register("cross_entropy")
class CrossEntropy(FrameGoal):
    """-log P(target), in nats.  Source: eq. 1 of the paper."""

    @staticmethod
    def frame_losses(log_post: Tensor, targets: Tensor, *, away: bool = False) -> Tensor:
        chosen = _chosen(log_post, targets)[0]
        return chosen if away else -chosen


@LOSSES.register("margin")
class Margin(FrameGoal):
    """How much the best other class is ahead of the target, in nats, down to minus ``CONFIDENCE``.

    Away from the target there is no bound: one would leave frames without a gradient, those that are sure of what is
    spoken or those that have lost it, and made the attack weaker.

    Source: Carlini and Wagner 2017, eq. 6 (f_6, on log-posteriors, whose differences are those of the logits).
    """

    @staticmethod
    def frame_losses(log_post: Tensor, targets: Tensor, *, away: bool = False) -> Tensor:
        chosen, index = _chosen(log_post, targets)
        lead = chosen - log_post.scatter(3, index, -math.inf).amax(3)
        return lead if away else (-lead).clamp(min=-CONFIDENCE)


@LOSSES.register("ctc")
class Ctc(BatchGoal):
    """-log P(words) over all their paths, of a recogniser trained by connectionist temporal classification.

    The loss is divided by the number of frames, so that it is in nats a frame as the others are.

    Args:
        targets: (B, L) int64 tokens, padded with anything; sizes: (B,) int64, tokens of each.
        lengths, away, of_mean: as of :class:`BatchGoal`.
        blank: the blank token.

    Source: Graves et al. 2006; Carlini and Wagner 2018, "Audio adversarial examples", section III.
    """

    def __init__(
        self, targets: Tensor, sizes: Tensor, lengths: Tensor, *, blank: int, away: bool = False, of_mean: bool = False
    ) -> None:
        super().__init__(lengths, away=away, of_mean=of_mean)
        self.targets, self.sizes, self.blank = targets, sizes, blank

    @classmethod
    def of_words(
        cls: type[Ctc],
        recogniser: BaseRecogniser,
        words: dict[str, list[str]],
        scores: Mapping[str, np.ndarray],
        goal: Goal,
        lengths: Tensor,
        *,
        seed: int,
    ) -> Ctc:
        align_all(recogniser, words, scores, goal, seed)  # only words that the audio can hold
        tokens = [torch.tensor(recogniser.ctc_tokens(words[utt])) for utt in words]
        return cls(
            torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True).to(lengths.device),
            torch.tensor([len(part) for part in tokens], device=lengths.device),
            lengths,
            blank=recogniser.ctc_blank,
            away=goal.away,
            of_mean=not recogniser.is_random,
        )

    def shares(self, draws: Tensor, rows: Tensor) -> Tensor:
        log_post = mean_log_post(draws)[None] if self.of_mean else draws
        lengths = self.lengths[rows]
        losses = [
            F.ctc_loss(
                part.transpose(0, 1), self.targets[rows], lengths, self.sizes[rows], blank=self.blank, reduction="none"
            )
            for part in log_post
        ]
        loss = torch.stack(losses).mean(0) / lengths
        valid = valid_frames(lengths, draws.shape[2])
        return valid * ((-loss if self.away else loss) / lengths)[:, None]

    def select(self, rows: Tensor) -> Ctc:
        part = super().select(rows)
        part.targets, part.sizes = self.targets[rows], self.sizes[rows]
        return part


def align_all(
    recogniser: BaseRecogniser, words: dict[str, list[str]], scores: Mapping[str, np.ndarray], goal: Goal, seed: int
) -> dict[str, np.ndarray]:
    """Align every utterance; random words without a path are replaced by others, in ``words`` too.

    Raises:
        AlignmentError: an utterance has no path.
    """
    aligned: dict[str, np.ndarray] = {}
    missing = dict(scores)
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            new = {utt: goal.again(recogniser, utt, missing[utt], seed, attempt) for utt in missing}
            words |= {utt: other for utt, other in new.items() if other is not None}
            missing = {utt: missing[utt] for utt, other in new.items() if other is not None}
        aligned |= recogniser.align(missing, words) if missing else {}
        missing = {utt: scores[utt] for utt in scores if utt not in aligned}
        if not missing:
            return {utt: aligned[utt] for utt in scores}
    lost = next(iter(missing))
    raise AlignmentError(
        f"utterance {lost!r} cannot be aligned with {'what is spoken' if goal.away else 'its target'} "
        f"{' '.join(words[lost])!r} ({len(scores[lost])} frames): "
        + ("leave it out" if goal.away else "choose a shorter target")
        + ", or widen --align-beam"
    )


def mean_log_post(draws: Tensor) -> Tensor:
    """Logarithm of the mean posterior of draws ``(M, B, T, C)``: ``(B, T, C)``."""
    return draws[0] if len(draws) == 1 else torch.logsumexp(draws, 0) - math.log(len(draws))


def _chosen(log_post: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-posteriors (M, B, T) of the targets, and the index that picks them."""
    index = targets[None, :, :, None].expand(len(log_post), -1, -1, 1)
    return log_post.gather(3, index)[..., 0], index
