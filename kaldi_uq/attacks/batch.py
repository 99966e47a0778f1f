"""One batch of utterances under attack: the recogniser's side of the loop, and the decoder's opinion of candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import Constraint
from kaldi_uq.attacks.goal import BatchGoal
from kaldi_uq.attacks.loop import AttackResult, Gradient, Judge, Verdict, run_attack
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.heard import FrameScores
from kaldi_uq.results.word_errors import align_words
from kaldi_uq.uncertainty import measures_from_draws, utterance_statistics


@dataclass(frozen=True)
class _Passes:
    """The model as a function of the audio of some rows (all: ``None``), which the steps of an attack share."""

    rows: Tensor | None
    num_draws: int | None
    log_post: Callable[[Tensor], Tensor]


@dataclass
class Batch:
    """A batch, its goal and everything random about it.

    Attributes:
        recogniser: the recogniser under attack.
        config: options of the attack.
        utts: B utterance ids.
        wav: (B, N) float32 on the 16-bit grid.
        lengths: (B,) int64 in frames.
        constraint: the admissible perturbations.
        goal: the loss.
        words: utt -> the target words, or the spoken ones of an untargeted attack.
        noise: number of the start -> (B, N) uniform noise in [-1, 1].
        seed: seed of the draws of a random recogniser.
    """

    recogniser: BaseRecogniser
    config: AttackConfig
    utts: tuple[str, ...]
    wav: Tensor
    lengths: Tensor
    constraint: Constraint
    goal: BatchGoal
    words: Mapping[str, Sequence[str]]
    noise: Callable[[int], Tensor]
    seed: int
    _generators: dict[str, torch.Generator] = field(default_factory=dict)
    _passes: _Passes | None = field(default=None, init=False)

    @property
    def num_samples(self) -> Tensor:
        """(B,) int64."""
        return self.constraint.num_samples

    def run(
        self,
        config: AttackConfig | None = None,
        *,
        goal: BatchGoal | None = None,
        start_delta: Tensor | None = None,
        judge: Judge | None = None,
        gradient: Gradient | None = None,
    ) -> AttackResult:
        """Run the loop on the batch.

        Args:
            config: other options than the attack's, such as fewer steps.
            goal: another loss than the batch's.
            start_delta, gradient: as of :func:`kaldi_uq.attacks.loop.run_attack`.
            judge: default: the decoder, if the configuration needs one.
        """
        config = config or self.config
        if judge is None and config.needs_judge:
            judge = self.judge
        return run_attack(
            lambda wav, sizes, rows: self.log_post(wav, sizes, rows, config=config),
            self.wav,
            goal or self.goal,
            self.constraint,
            config,
            noise=self.noise,
            start_delta=start_delta,
            judge=judge,
            gradient=gradient,
        )

    def select(self, rows: Tensor) -> Batch:
        """Some utterances of the batch, int64 (b,); draws and targets go on where the whole batch left them."""
        return replace(
            self,
            utts=tuple(self.utts[row] for row in rows.tolist()),
            wav=self.wav[rows],
            lengths=self.lengths[rows],
            constraint=self.constraint.select(rows),
            goal=self.goal.select(rows),
            noise=lambda start: self.noise(start)[rows],
        )

    def log_post(
        self, wav: Tensor, sizes: Tensor, rows: Tensor | None = None, *, config: AttackConfig | None = None
    ) -> Tensor:
        """Log-posteriors (M, b, T, C) of some rows (default: all), of ``eot_samples`` draws or of all members."""
        config = config or self.config
        generator = self._generator("gradient")
        if config.eot_draws == "fixed":
            generator.manual_seed(self.seed)
        num_draws = config.eot_samples if self.recogniser.is_random else None
        if self._passes is None or self._passes.rows is not rows or self._passes.num_draws != num_draws:
            function = self.recogniser.passes(sizes, self._utts(rows), num_draws=num_draws, generator=generator)
            self._passes = _Passes(rows, num_draws, function)
        return self._passes.log_post(wav)

    def hear(self, wav: Tensor, rows: Tensor) -> tuple[list[tuple[str, ...]], dict[str, Tensor]]:
        """Words and statistics (b,) of candidates (b, N) of some rows, with draws of their own."""
        measures, statistics = self.measure(wav, rows)
        return self.words_of(measures["log_mean_post"], rows), statistics

    def words_of(self, log_mean_post: Tensor, rows: Tensor) -> list[tuple[str, ...]]:
        """What the decoder hears in the mean posteriors (b, T, C) of some rows."""
        utts, scores = self._utts(rows), self.recogniser.scores(log_mean_post)
        found = self.recogniser.decode_batch(FrameScores(utts, scores, self.lengths[rows].tolist()))
        return [found.get(utt, ()) for utt in utts]

    def measure(self, wav: Tensor, rows: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Measures of the frames (b, T) and statistics (b,) of candidates, with new draws of the judge's."""
        who = self.recogniser
        with torch.no_grad():
            draws, lengths = who.draws(
                wav,
                self.num_samples[rows],
                self._utts(rows),
                num_draws=who.num_draws,
                generator=self._generator("judge"),
            )
            measures = measures_from_draws(draws)
            return measures, utterance_statistics(measures, lengths)

    def judge(self, wav: Tensor, rows: Tensor) -> Verdict:
        """The decoder's opinion: the fewest word errors against the target, or any against what is spoken."""
        return self.verdict(self.hear(wav, rows)[0], rows)

    def verdict(self, heard: Sequence[Sequence[str]], rows: Tensor) -> Verdict:
        """Success and rank of what was heard: word errors against the target, or minus those against the text."""
        errors = [
            align_words(list(self.words[utt]), list(words)).errors
            for utt, words in zip(self._utts(rows), heard, strict=True)
        ]
        count = torch.tensor(errors, dtype=torch.float32, device=self.wav.device)
        return Verdict(count > 0, -count) if self.goal.away else Verdict(count == 0, count)

    def _utts(self, rows: Tensor | None) -> Sequence[str]:
        return self.utts if rows is None else [self.utts[row] for row in rows.tolist()]

    def _generator(self, name: str) -> torch.Generator:
        if name not in self._generators:
            seed = self.seed + (0 if name == "gradient" else 1 << 40)  # the judge's draws are not the attack's
            self._generators[name] = torch.Generator(self.wav.device).manual_seed(seed)
        return self._generators[name]
