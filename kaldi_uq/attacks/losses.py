"""Losses of whole utterances: the CTC loss, the posteriors of a real utterance, and the decoder's own margin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kaldi_uq.attacks.donors import Speech
from kaldi_uq.attacks.goal import (
    CONFIDENCE,
    LOSSES,
    BatchGoal,
    FrameGoal,
    Goal,
    Words,
    align_all,
    chosen,
    fitted,
    mean_log_post,
    packed,
)
from kaldi_uq.attacks.texts import as_words
from kaldi_uq.errors import AlignmentError
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.heard import FrameScores
from kaldi_uq.uncertainty import valid_frames

RIVALS = 6  # texts of an utterance that a decoder's margin is kept against, the ones heard last
GUESSES = 4  # random texts among the first ones, where the decoder hears the words themselves
AHEAD = 20.0  # nats, over all frames, by which the decoder's margin wants a target ahead

Scores = Mapping[str, np.ndarray]


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


@LOSSES.register("logit_match")
class LogitMatch(FrameGoal):
    """KL(real || x) of each frame, real being the posteriors of a real utterance of the words, which donors say.

    The real utterance is warped in time so that it follows the forced alignment of the words; so it has not only the
    classes of the words but the confusions and the uncertainty of real speech, which detectors look at.  A frame whose
    class is in no recording, and a goal without donors, have all the probability on that class: the cross-entropy.

    Args:
        targets, lengths, away, of_mean: as of :class:`FrameGoal`.

    Source: Tramèr et al. 2020, "On adaptive attacks to adversarial example defenses" (matching the logits of a real
    example of the target).
    """

    needs_donors = True

    def __init__(self, targets: Tensor, lengths: Tensor, *, away: bool = False, of_mean: bool = False) -> None:
        super().__init__(targets, lengths, away=away, of_mean=of_mean)
        self._real: Tensor | None = None  # (B, T, C) log-posteriors
        self._speech: Speech | None = None
        self._seed = 0
        self._warped: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # a path, and the posteriors that follow it

    @classmethod
    def of_words(
        cls: type[LogitMatch],
        recogniser: BaseRecogniser,
        words: dict[str, list[str]],
        scores: Scores,
        goal: Goal,
        lengths: Tensor,
        *,
        seed: int,
    ) -> LogitMatch:
        new = super().of_words(recogniser, words, scores, goal, lengths, seed=seed)
        if goal.donors is not None:
            new._speech, new._seed = goal.donors.speech(recogniser), seed
            new.begin()
        return new

    def begin(self) -> None:
        super().begin()
        if self._speech is None:
            return
        for utt in self._utts:
            path = self._paths[utt]
            if utt not in self._warped or self._warped[utt][0] is not path:
                self._warped[utt] = path, self._speech.posteriors(utt, self._words[utt], path, seed=self._seed)
        self._real = packed([self._warped[utt][1] for utt in self._utts], self.lengths)

    def _losses(self, log_post: Tensor, rows: Tensor) -> Tensor:
        if self._real is None:
            return super()._losses(log_post, rows)
        real = fitted(self._real[rows], log_post.shape[2]).to(log_post)
        divergence = (real.exp() * (real - log_post)).sum(3)
        return -divergence if self.away else divergence

    @staticmethod
    def frame_losses(log_post: Tensor, targets: Tensor, *, away: bool = False) -> Tensor:
        best = chosen(log_post, targets)[0]
        return best if away else -best


@LOSSES.register("decoder_margin")
class DecoderMargin(FrameGoal):
    """How much the decoder's best other text is ahead of the target, down to minus ``AHEAD``.

    The score of a text is that of its best path, as the decoder has it: the recogniser's scores of the frames, and what
    the graph adds where the recogniser says it.  Frames in which two paths agree have no part in it.  The others are
    what the decoder heard last; at first, what it hears, what is spoken, or texts like the target.  Away from the words
    there is no bound.  Without a recogniser the other path is the best other class of each frame.

    Args:
        targets, lengths, away, of_mean: as of :class:`FrameGoal`.

    Source: Carlini and Wagner 2017, eq. 6, with the paths of a decoder instead of classes.
    """

    of_all_frames = False

    def __init__(self, targets: Tensor, lengths: Tensor, *, away: bool = False, of_mean: bool = False) -> None:
        super().__init__(targets, lengths, away=away, of_mean=of_mean)
        self._texts: dict[str, list[tuple[str, ...]]] = {}  # the other texts, the one heard last first
        self._others: dict[str, list[tuple[np.ndarray, float]]] = {}  # their paths, and what the graph adds to the lead
        self._rivals = targets.new_zeros((0, *targets.shape))  # (K, B, T) paths
        self._extra = torch.zeros(0, len(targets))  # (K, B) what the graph adds to their lead; -inf: no path

    @classmethod
    def of_words(
        cls: type[DecoderMargin],
        recogniser: BaseRecogniser,
        words: dict[str, list[str]],
        scores: Scores,
        goal: Goal,
        lengths: Tensor,
        *,
        seed: int,
    ) -> DecoderMargin:
        new = super().of_words(recogniser, words, scores, goal, lengths, seed=seed)
        new.follows = True  # away too: the paths of what is spoken and of the rest are the decoder's
        for utt, frames in scores.items():
            new._texts[utt] = _like(recogniser, utt, words, goal, len(frames), seed)
        new._follow(FrameScores.of(scores, lengths.device))
        new.begin()
        return new

    def _follow(self, scores: FrameScores) -> None:
        """Ask the decoder for another text of each utterance, and align all of them again."""
        who = self._recogniser
        assert who is not None
        for utt, heard in who.decode_batch(scores).items():
            if heard and list(heard) != list(self._words[utt]):
                known = [text for text in self._texts[utt] if text != heard]
                self._texts[utt] = [heard, *known][:RIVALS]
        found = {}
        texts = {utt: [self._words[utt], *self._texts[utt]] for utt in scores.utts}
        for utt, (own, *others) in who.align_batch(scores, texts).items():
            self._paths[utt] = self._paths[utt] if own is None else own
            found[utt] = [self._paths[utt], *(path for path in others if path is not None)]
        weights = iter(who.graph_weights([path for paths in found.values() for path in paths]))
        for utt, paths in found.items():
            first, *further = itertools.islice(weights, len(paths))
            leads = [0.0 if first is None or weight is None else weight - first for weight in further]
            self._others[utt] = list(zip(paths[1:], leads, strict=True))

    def begin(self) -> None:
        super().begin()
        if not self._utts or not self._others:
            return
        count = max(len(self._others[utt]) for utt in self._utts)
        none = np.zeros(0, dtype=np.int64), -math.inf
        padded = [[*self._others[utt], *[none] * (count - len(self._others[utt]))] for utt in self._utts]
        paths = [packed([row[k][0].astype(np.int64) for row in padded], self.lengths) for k in range(count)]
        self._rivals = torch.stack(paths) if paths else self.targets.new_zeros((0, *self.targets.shape))
        extra = np.array([[lead for _, lead in row] for row in padded], dtype=np.float32).reshape(len(padded), count)
        self._extra = torch.from_numpy(extra.T.copy()).to(self.lengths.device)

    def _losses(self, log_post: Tensor, rows: Tensor) -> Tensor:
        num_frames = log_post.shape[2]
        valid = valid_frames(self.lengths[rows], num_frames)
        who = self._recogniser
        scores = log_post if who is None else torch.stack([who.scores(part) for part in log_post])
        best, index = chosen(scores, fitted(self.targets[rows], num_frames))
        rivals, extra = self._rivals[:, rows], self._extra[:, rows].to(scores)
        others = scores.scatter(3, index, -math.inf).amax(3, keepdim=True)  # of frames, where no text is known
        is_alone = extra.isinf().all(0, keepdim=True)
        extra = torch.cat([extra, torch.where(is_alone, 0.0, -math.inf).to(extra)])
        if len(rivals):
            places = torch.stack([fitted(path, num_frames) for path in rivals], -1)
            others = torch.cat([scores.gather(3, places.expand(len(scores), -1, -1, -1)), others], 3)
        leads = (others - best[..., None]).masked_fill(~valid[..., None], 0.0)  # (M, b, T, K + 1)
        totals, first = (leads.sum(2) + extra.T).max(2)
        lead = leads.gather(3, first[:, :, None, None].expand(-1, -1, num_frames, 1))[..., 0]
        if not self.away:  # frames that are won count, but need no more: another rival would take the others
            lead = torch.where(lead < -CONFIDENCE, lead.detach(), lead)
        sizes = valid.sum(1)[:, None]
        lead = lead + (totals - lead.sum(2))[..., None] / sizes
        if self.away:
            return -lead
        return torch.where((totals < -AHEAD)[..., None], -AHEAD / sizes.to(lead), lead)

    @staticmethod
    def frame_losses(log_post: Tensor, targets: Tensor, *, away: bool = False) -> Tensor:
        raise TypeError("the decoder's margin is of whole paths, not of frames")


def _like(who: BaseRecogniser, utt: str, words: Words, goal: Goal, num_frames: int, seed: int) -> list[tuple[str, ...]]:
    """Texts that the decoder could hear instead of the words: what is spoken, a word less, and random ones."""
    own = tuple(words[utt])
    found = [tuple(as_words(goal.spoken[utt]))] if goal.spoken is not None and utt in goal.spoken else []
    found += [own[:place] + own[place + 1 :] for place in range(len(own))][: RIVALS - GUESSES]
    for attempt in range(GUESSES):
        try:
            found.append(tuple(who.random_target(utt, own, num_frames, seed=seed, attempt=attempt)))
        except (AlignmentError, ValueError):  # too short for any, or of characters without a list of words
            break
    return [text for text in dict.fromkeys(found) if text and text != own][:RIVALS]
