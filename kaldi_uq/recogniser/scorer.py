"""From waveforms to posteriors, measures and scores of frames: batch by batch, long audio stretch by stretch."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.feats import framing
from kaldi_uq.io.waves import CPU_BATCH_SAMPLES, MAX_BATCH_SAMPLES, WaveBatch, Waves, pad, plan_waves
from kaldi_uq.nnet.base import concatenate
from kaldi_uq.progress import Progress
from kaldi_uq.recogniser.heard import Listening, Pieces, Scored, heard_of
from kaldi_uq.recogniser.memory import alone as alone_in_memory
from kaldi_uq.recogniser.memory import in_halves
from kaldi_uq.recogniser.parts import Parts
from kaldi_uq.uncertainty import measures_from_draws


class Scorer(ABC):
    """The part of a recogniser that knows nothing of words.

    Attributes:
        num_draws: draws of a random recogniser when it listens; ``None`` for its default.
        device: where it computes.
    """

    num_draws: int | None
    device: torch.device

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

    # what a subclass may do in another way

    def passes(
        self,
        num_samples: Tensor,
        utts: Sequence[str],
        *,
        num_draws: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """:meth:`draws` for many passes over one batch: a function of its audio (B, N), which gives (M, B, T, C).

        Its draws go on from pass to pass.  A subclass may do once what is the same in every pass.
        """

        def one(wav: Tensor) -> Tensor:
            chunks, _ = self.draws(wav, num_samples, utts, num_draws=num_draws, generator=generator)
            return concatenate(chunks)

        return one

    def pieces(self, utt: str, samples: framing.Samples, *, generator: torch.Generator) -> Pieces:
        """Log-posteriors as of :meth:`draws` of one long utterance, without gradients: one stretch after the other.

        Returns:
            an iterator over stretches of the frames, each with chunks (m, 1, t, C); here there is just one.
        """
        wav = torch.from_numpy(np.require(samples[:], np.float32, "W"))[None].to(self.device)
        sizes = torch.tensor([len(samples)], device=self.device)
        return iter([self.draws(wav, sizes, (utt,), num_draws=self.num_draws, generator=generator)[0]])

    def plan(self, waves: Mapping[str, np.ndarray]) -> list[list[str]]:
        """The utterances of each batch, long ones first."""
        return plan_waves(waves, CPU_BATCH_SAMPLES if self.device.type == "cpu" else MAX_BATCH_SAMPLES)

    # what follows from it

    def batches(self, waves: Mapping[str, np.ndarray]) -> Iterator[WaveBatch]:
        """The utterances in the padded batches of :meth:`plan`, each read when it is asked for."""
        waves = Waves.of(waves)
        return (pad(waves, utts) for utts in self.plan(waves))

    def score(
        self,
        waves: Mapping[str, framing.Samples],
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
            parts: what other jobs make, or have made, of the batches; utterances that are too long for one are for the
                job that puts the parts together.
            desc: label of the progress bar.

        Yields:
            (utt, scored), batches of long utterances first; without those of other jobs.
        """
        waves = Waves.of(waves)
        for utt, listening in () if parts and parts.shard else self._listen(waves, seed, alone):
            with alone_in_memory(utt, waves.lengths[utt]):
                scores = listening.all_scores()
                found = listening.heard()
            yield utt, Scored(None, found.statistics, found.frames, scores)
        yield from self._score_short(waves, seed, alone, parts, desc)

    def _is_long(self, num_samples: int) -> bool:
        """Whether audio is listened to stretch by stretch."""
        return self.num_frames(num_samples) > framing.LONG_FRAMES

    def _listen(self, waves: Waves, seed: int, alone: bool) -> Iterator[tuple[str, Listening]]:
        """The long utterances, the longest first; arguments as of :meth:`score`."""
        long = {utt: size for utt, size in waves.lengths.items() if self._is_long(size)}
        for number, utt in enumerate(sorted(long, key=lambda utt: -long[utt])):
            generator = torch.Generator(self.device).manual_seed(seed * 1_000_003 + (0 if alone else number))
            pieces = self.pieces(utt, waves[utt], generator=generator)
            yield utt, Listening(pieces, self.scores, self.num_frames(long[utt]))

    def _score_short(
        self, waves: Waves, seed: int, alone: bool, parts: Parts | None, desc: str
    ) -> Iterator[tuple[str, Scored]]:
        """The other utterances, batch by batch; arguments as of :meth:`score`."""
        short = waves.subset([utt for utt, size in waves.lengths.items() if not self._is_long(size)])
        plan = plan_waves(short, 0) if alone else self.plan(short)
        with Progress(desc, "utterances", len(short), quiet=len(short) < 32) as progress:
            for number, utts in enumerate(plan, len(waves) - len(short)):
                draws_seed = seed * 1_000_003 + (0 if alone else number)

                def make(utts: list[str] = utts, draws_seed: int = draws_seed) -> list[Scored]:
                    return in_halves(functools.partial(self._score_batch, seed=draws_seed), pad(short, utts))

                yield from zip(utts, parts.of(number, utts, make) if parts else make(), strict=parts is None)
                progress.update(len(utts))

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
