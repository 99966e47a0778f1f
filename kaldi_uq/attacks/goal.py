"""What an attack wants of a recogniser: the words of each utterance, and a loss that says how near they are.

One file: a goal makes the loss of its batches, so that the two are read together; further losses are in ``losses``.
"""

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

from kaldi_uq.attacks.donors import Donors
from kaldi_uq.attacks.texts import Texts, as_words, require_texts, shown
from kaldi_uq.errors import AlignmentError, DataError
from kaldi_uq.io.waves import Waves
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.heard import FrameScores, forget
from kaldi_uq.registry import Registry
from kaldi_uq.uncertainty import valid_frames

CONFIDENCE = 5.0  # nats by which the margin loss wants the target ahead: more brings no more words, only more noise
MAX_ATTEMPTS = 5  # random targets of an utterance, one after the other, while no path of one survives the beam

Words = Mapping[str, Sequence[str]]
Audio = Mapping[str, np.ndarray]
BatchGoalT = TypeVar("BatchGoalT", bound="BatchGoal")
FrameGoalT = TypeVar("FrameGoalT", bound="FrameGoal")


@dataclass(frozen=True, repr=False)
class Goal(ABC):
    """What is wanted of a set of utterances.

    Attributes:
        spoken: utt -> what is said, words or one string; ``None``: what the recogniser hears.
        where: the file that the words come from, for messages.
        donors: recordings of real speech, for attacks that use them; ``None``: the utterances themselves.
    """

    spoken: Texts | None = None
    where: str = "text"
    donors: Donors | None = None

    away: ClassVar[bool] = False  # from the words, instead of towards them

    def __post_init__(self) -> None:
        require_texts("spoken", self.spoken)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._parts())})"

    def _parts(self) -> list[str]:
        """What the representation says."""
        return [] if self.spoken is None else [f"spoken={shown(self.spoken)}"]

    @property
    def is_random(self) -> bool:
        """Whether another seed gives other words."""
        return False

    @abstractmethod
    def choose(self, recogniser: BaseRecogniser, waves: Audio, seed: int) -> dict[str, list[str]]:
        """The words of each utterance, checked against its length and the lexicon.

        Raises:
            AlignmentError: words too long for the audio, or audio too short for any.
            DataError: no words, or one that the recogniser does not know.
            ValueError: nothing is given for an utterance.
        """

    def again(self, who: BaseRecogniser, utt: str, scores: np.ndarray, seed: int, attempt: int) -> list[str] | None:
        """Other words for an utterance of scores (T, C), which has no path of the first; ``None`` if there are none."""
        return None

    def said(self, recogniser: BaseRecogniser, waves: Audio) -> dict[str, list[str]]:
        """The words that are spoken, or else heard, in each utterance."""
        if self.spoken is None:
            return {utt: list(heard.words or ()) for utt, heard in recogniser.hear(waves, frames_to=forget).items()}
        return self._words_of(self.spoken, waves, "text of what is spoken")

    def _words_of(self, table: Texts, waves: Audio, what: str) -> dict[str, list[str]]:
        missing = [utt for utt in waves if utt not in table]
        if missing:
            raise ValueError(f"{self.where}: no {what} for utterance {missing[0]!r} ({len(missing)} are missing)")
        return {utt: as_words(table[utt]) for utt in waves}

    def _checked(self, who: BaseRecogniser, waves: Audio, words: dict[str, list[str]]) -> dict[str, list[str]]:
        for utt, size in Waves.of(waves).lengths.items():
            who.check_target(utt, words[utt], who.num_frames(size), self.where)
        return words


@dataclass(frozen=True, repr=False)
class Say(Goal):
    """Be heard as a text: the given one, or a random one.

    Attributes:
        targets: utt -> what is to be heard, words or one string; ``None`` for random targets, which differ from what
            is spoken.

    >>> Say({"a": "one two"}).targets
    {'a': 'one two'}
    """

    targets: Texts | None = None

    def __init__(
        self,
        targets: Texts | None = None,
        *,
        spoken: Texts | None = None,
        where: str = "targets",
        donors: Donors | None = None,
    ) -> None:
        for name, value in (("targets", targets), ("spoken", spoken), ("where", where), ("donors", donors)):
            object.__setattr__(self, name, value)
        require_texts("targets", targets)
        require_texts("spoken", spoken)

    def _parts(self) -> list[str]:
        return ["random targets" if self.targets is None else shown(self.targets), *super()._parts()]

    @property
    def is_random(self) -> bool:
        return self.targets is None

    def choose(self, recogniser: BaseRecogniser, waves: Audio, seed: int) -> dict[str, list[str]]:
        if self.targets is not None:
            return self._checked(recogniser, waves, self._words_of(self.targets, waves, "target"))
        said = self.said(recogniser, waves)
        return {
            utt: recogniser.random_target(utt, said[utt], recogniser.num_frames(size), seed=seed)
            for utt, size in Waves.of(waves).lengths.items()
        }

    def require_new(self) -> None:
        """Check that no target is what is spoken.

        Raises:
            DataError: one is; names the utterance.
        """
        targets, spoken = self.targets or {}, self.spoken or {}
        same = [utt for utt in targets if utt in spoken and as_words(targets[utt]) == as_words(spoken[utt])]
        if same:
            more = f" (and so in {len(same) - 1} more)" if len(same) > 1 else ""
            raise DataError(
                f"{self.where}: {' '.join(as_words(targets[same[0]]))!r:.60} is what {same[0]} says already{more}: to "
                "be heard as that is no attack; choose another target"
            )

    def again(self, who: BaseRecogniser, utt: str, scores: np.ndarray, seed: int, attempt: int) -> list[str] | None:
        if self.targets is not None or attempt >= MAX_ATTEMPTS:
            return None
        # a text that is spoken or heard already would be no target
        said = who.decode([(utt, scores)]).get(utt, ()) if self.spoken is None else self.spoken[utt]
        return who.random_target(utt, as_words(said), len(scores), seed=seed, attempt=attempt)


@dataclass(frozen=True, repr=False)
class Untargeted(Goal):
    """Be heard as anything but what is spoken."""

    away: ClassVar[bool] = True

    def choose(self, recogniser: BaseRecogniser, waves: Audio, seed: int) -> dict[str, list[str]]:
        return self._checked(recogniser, waves, self.said(recogniser, waves))


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
    needs_donors = False  # whether it is made of real speech: ``goal.donors`` is given then
    of_all_frames = True  # whether every frame has a part in it: one without a gradient is a fault then

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
        cls: type[FrameGoalT],
        recogniser: BaseRecogniser,
        words: dict[str, list[str]],
        scores: Mapping[str, np.ndarray],
        goal: Goal,
        lengths: Tensor,
        *,
        seed: int,
    ) -> FrameGoalT:
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
        valid = valid_frames(self.lengths[rows], draws.shape[2])
        log_post = mean_log_post(draws)[None] if self.of_mean else draws
        losses = self._losses(log_post, rows).mean(0)
        return losses.masked_fill(~valid, 0.0) / valid.sum(1, keepdim=True)

    def _losses(self, log_post: Tensor, rows: Tensor) -> Tensor:
        """Loss (M, b, T) of each frame and draw of some utterances."""
        return self.frame_losses(log_post, fitted(self.targets[rows], log_post.shape[2]), away=self.away)

    def begin(self) -> None:
        if self._utts:
            self.targets = packed([self._paths[utt] for utt in self._utts], self.lengths)

    def follow(self, log_mean_post: Tensor, rows: Tensor) -> None:
        """New paths for the current posteriors; an utterance without one keeps the old path."""
        if self._recogniser is None:
            return
        utts = [self._utts[row] for row in rows.tolist()]
        self._follow(FrameScores(utts, self._recogniser.scores(log_mean_post), self.lengths[rows].tolist()))
        self.begin()

    def _follow(self, scores: FrameScores) -> None:
        """New paths of some utterances."""
        assert self._recogniser is not None
        self._paths |= _aligned(self._recogniser, scores, self._words)

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
        best = chosen(log_post, targets)[0]
        return best if away else -best


@LOSSES.register("margin")
class Margin(FrameGoal):
    """How much the best other class is ahead of the target, in nats, down to minus ``CONFIDENCE``.

    Away from the target there is no bound: one would leave frames without a gradient, those that are sure of what is
    spoken or those that have lost it, and made the attack weaker.

    Source: Carlini and Wagner 2017, eq. 6 (f_6, on log-posteriors, whose differences are those of the logits).
    """

    @staticmethod
    def frame_losses(log_post: Tensor, targets: Tensor, *, away: bool = False) -> Tensor:
        best, index = chosen(log_post, targets)
        lead = best - log_post.scatter(3, index, -math.inf).amax(3)
        return lead if away else (-lead).clamp(min=-CONFIDENCE)


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
        aligned |= _aligned(recogniser, FrameScores.of(missing, recogniser.device), words) if missing else {}
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


def _aligned(recogniser: BaseRecogniser, scores: FrameScores, words: Words) -> dict[str, np.ndarray]:
    """The paths of the words of those utterances that have one."""
    found = recogniser.align_batch(scores, {utt: [words[utt]] for utt in scores.utts})
    return {utt: path for utt, (path,) in found.items() if path is not None}


def mean_log_post(draws: Tensor) -> Tensor:
    """Logarithm of the mean posterior of draws ``(M, B, T, C)``: ``(B, T, C)``."""
    return draws[0] if len(draws) == 1 else torch.logsumexp(draws, 0) - math.log(len(draws))


def packed(rows: Sequence[np.ndarray], lengths: Tensor) -> Tensor:
    """Arrays (T, ...) of the utterances of a batch as one (B, T, ...), on the device of their lengths (B,)."""
    whole = np.zeros((len(rows), int(lengths.max()), *rows[0].shape[1:]), dtype=rows[0].dtype)
    for row, values in enumerate(rows):
        whole[row, : len(values)] = values
    return torch.from_numpy(whole).to(lengths.device)


def fitted(values: Tensor, num_frames: int) -> Tensor:
    """Values (b, T', ...) for T frames: more than the longest, where a recogniser goes by the padded audio."""
    missing = max(0, num_frames - values.shape[1])
    return F.pad(values, (*([0, 0] * (values.dim() - 2)), 0, missing))[:, :num_frames]


def chosen(log_post: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-posteriors (M, B, T) of the targets, and the index that picks them."""
    index = targets[None, :, :, None].expand(len(log_post), -1, -1, 1)
    return log_post.gather(3, index)[..., 0], index
