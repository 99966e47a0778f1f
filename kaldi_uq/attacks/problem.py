"""One batch of utterances under attack: the model's side of the loop, and the decoder's opinion of candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import Constraint
from kaldi_uq.attacks.loop import AttackResult, Gradient, Judge, Penalty, Verdict, run_attack
from kaldi_uq.attacks.targets import align_targets
from kaldi_uq.engine.base import DecodeConfig, Engine
from kaldi_uq.io.lang import Lang
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.results.word_errors import align_words
from kaldi_uq.uncertainty import measures_from_draws, utterance_statistics


@dataclass(frozen=True)
class Recogniser:
    """The model under attack and what the attack needs to know of it.

    Attributes:
        model: the hybrid model, on its device.
        engine, model_dir, lang: align the targets.
        graph_dir: with ``HCLG.fst``, for the judge; ``None`` if there is none.
        tid_to_pdf: (num_transition_ids + 1,) pdf-ids.
        decode: acwt and beams.
        num_draws: draws of a random model when it decodes; ``None`` for its default.
    """

    model: HybridModel
    engine: Engine
    model_dir: Path
    graph_dir: Path | None
    lang: Lang
    tid_to_pdf: np.ndarray
    decode: DecodeConfig
    num_draws: int | None = None

    @property
    def device(self) -> torch.device:
        return self.model.log_prior.device

    def align(self, scores: Mapping[str, np.ndarray], targets: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """utt -> (T,) int64 pdf-ids of the target words; an utterance without a path is absent."""
        return align_targets(self.engine, self.model_dir, self.lang, scores, targets, self.tid_to_pdf, self.decode)


@dataclass(frozen=True)
class Heard:
    """What the recogniser makes of candidates: words, and statistics ``(b,)`` by name."""

    words: list[tuple[str, ...]]
    statistics: dict[str, Tensor]


@dataclass
class Problem:
    """A batch, its targets and everything random about it.

    Attributes:
        recogniser: under attack.
        config: the attack.
        utts: B utterance ids.
        wav: (B, N) float32 on the 16-bit grid; num_samples (B,), lengths (B,) int64 in frames.
        constraint: of the batch.
        words: utt -> the target words, or the spoken ones of an untargeted attack.
        pdfs: utt -> (T,) int64 pdf-ids of the words; follows the posteriors if the attack realigns.
        noise: number of the start -> (B, N) uniform noise in [-1, 1].
        seed: of the draws of a random model.
    """

    recogniser: Recogniser
    config: AttackConfig
    utts: tuple[str, ...]
    wav: Tensor
    num_samples: Tensor
    lengths: Tensor
    constraint: Constraint
    words: Mapping[str, Sequence[str]]
    pdfs: dict[str, np.ndarray]
    noise: Callable[[int], Tensor]
    seed: int
    _generators: dict[str, torch.Generator] = field(default_factory=dict)

    def run(
        self,
        config: AttackConfig | None = None,
        *,
        start_delta: Tensor | None = None,
        penalty: Penalty | None = None,
        judge: Judge | None = None,
        gradient: Gradient | None = None,
    ) -> AttackResult:
        """Run the loop on the batch.

        Args:
            config: another one than the attack's, such as with fewer steps.
            start_delta, penalty, gradient: as of :func:`kaldi_uq.attacks.loop.run_attack`.
            judge: default: the decoder, if the configuration needs one.
        """
        config = config or self.config
        if judge is None and config.needs_judge:
            judge = self.judge
        network = self.recogniser.model.network
        return run_attack(
            lambda wav, sizes, rows: self.log_post(wav, sizes, rows, config=config),
            self.wav,
            self.num_samples,
            self.targets(),
            self.lengths,
            config,
            self.constraint,
            noise=self.noise,
            start_delta=start_delta,
            realign=self.realign if config.realign_every and not config.untargeted else None,
            penalty=penalty,
            judge=judge,
            gradient=gradient,
            of_mean=not network.is_random,  # an ensemble is attacked as the one model it is
        )

    def select(self, rows: Tensor) -> Problem:
        """Some utterances of the batch, int64 (b,); draws and targets go on where the whole batch left them."""
        return replace(
            self,
            utts=tuple(self.utts[row] for row in rows.tolist()),
            wav=self.wav[rows],
            num_samples=self.num_samples[rows],
            lengths=self.lengths[rows],
            constraint=self.constraint.select(rows),
            noise=lambda start: self.noise(start)[rows],
        )

    def log_post(
        self, wav: Tensor, sizes: Tensor, rows: Tensor | None = None, *, config: AttackConfig | None = None
    ) -> Tensor:
        """Log-posteriors (M, b, T, C) of some rows (default: all), of ``eot_samples`` draws or of all members."""
        config = config or self.config
        network = self.recogniser.model.network
        generator = self._generator("gradient")
        if config.eot_draws == "fixed":
            generator.manual_seed(self.seed)
        num_draws = config.eot_samples if network.is_random else None
        chunks, _ = self.recogniser.model.iter_log_post(
            wav, sizes, num_draws=num_draws, generator=generator, cmvn_stats=self._speakers_of(rows)
        )
        draws = list(chunks)
        return draws[0] if len(draws) == 1 else torch.cat(draws)

    def targets(self) -> Tensor:
        """The target pdfs, (B, T) int64, zero on padding."""
        packed = np.zeros((len(self.utts), int(self.lengths.max())), dtype=np.int64)
        for row, utt in enumerate(self.utts):
            packed[row, : len(self.pdfs[utt])] = self.pdfs[utt]
        return torch.from_numpy(packed).to(self.wav.device)

    def realign(self, log_mean_post: Tensor, rows: Tensor) -> Tensor:
        """New targets for the current posteriors; an utterance without a path keeps the old ones."""
        scores = self.recogniser.model.loglikes(log_mean_post).cpu().numpy()
        utts = [self.utts[row] for row in rows.tolist()]
        sizes = self.lengths[rows].tolist()
        current = {u: np.ascontiguousarray(scores[i, : sizes[i]]) for i, u in enumerate(utts)}
        self.pdfs |= self.recogniser.align(current, {u: self.words[u] for u in utts})
        return self.targets()[rows]

    def hear(self, wav: Tensor, rows: Tensor) -> Heard:
        """Decode candidates (b, N) of some rows with draws of their own, and measure their uncertainty."""
        who = self.recogniser
        if who.graph_dir is None:
            raise ValueError("the judge decodes: the attack needs the directory with HCLG.fst")
        measures, statistics = self.measure(wav, rows)
        scores = who.model.loglikes(measures["log_mean_post"]).cpu().numpy()
        utts, lengths = [self.utts[row] for row in rows.tolist()], self.lengths[rows].tolist()
        pairs = ((u, np.ascontiguousarray(scores[i, : lengths[i]])) for i, u in enumerate(utts))
        found = who.engine.decoder(who.model_dir, who.graph_dir, who.decode).decode(pairs)
        return Heard([found[u].words if u in found else () for u in utts], statistics)

    def measure(self, wav: Tensor, rows: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Measures of the frames (b, T) and statistics (b,) of candidates, with new draws of the judge's."""
        who, lengths = self.recogniser, self.lengths[rows]
        generator = self._generator("judge")
        with torch.no_grad():
            draws, _ = who.model.iter_log_post(
                wav,
                self.num_samples[rows],
                num_draws=who.num_draws,
                generator=generator,
                cmvn_stats=self._speakers_of(rows),
            )
            measures = measures_from_draws(draws)
            return measures, utterance_statistics(measures, lengths)

    def judge(self, wav: Tensor, rows: Tensor) -> Verdict:
        """The decoder's opinion: the fewest word errors against the target, or any against what is spoken."""
        return self.verdict(self.hear(wav, rows), rows)

    def verdict(self, heard: Heard, rows: Tensor) -> Verdict:
        """Success and rank of what was heard: word errors against the target, or minus those against the text."""
        errors = [
            align_words(list(self.words[self.utts[row]]), list(words)).errors
            for row, words in zip(rows.tolist(), heard.words, strict=True)
        ]
        count = torch.tensor(errors, dtype=torch.float32, device=self.wav.device)
        return Verdict(count > 0, -count) if self.config.untargeted else Verdict(count == 0, count)

    def _speakers_of(self, rows: Tensor | None) -> Tensor | None:
        """CMVN statistics of the speakers, of their benign audio: an attack on one utterance does not move them."""
        utts = self.utts if rows is None else [self.utts[row] for row in rows.tolist()]
        return self.recogniser.model.cmvn_stats_of(utts)

    def _generator(self, name: str) -> torch.Generator:
        if name not in self._generators:
            seed = self.seed + (0 if name == "gradient" else 1 << 40)  # the judge's draws are not the attack's
            self._generators[name] = torch.Generator(self.wav.device).manual_seed(seed)
        return self._generators[name]


# what is done with a batch: the result, and further fields of each utterance's record, (B,) values by name
Strategy: TypeAlias = Callable[[Problem], tuple[AttackResult, Mapping[str, Sequence[Any]]]]


def plain(problem: Problem) -> tuple[AttackResult, Mapping[str, Sequence[Any]]]:
    """The loop as it is configured."""
    return problem.run(), {}
