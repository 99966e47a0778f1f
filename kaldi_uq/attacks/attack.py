"""An attack: a class that owns its options and says what is done with a batch; here is what all attacks share."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.constraints import CONSTRAINTS, make_constraint
from kaldi_uq.attacks.donors import Donors
from kaldi_uq.attacks.goal import LOSSES, Goal
from kaldi_uq.attacks.loop import AttackResult
from kaldi_uq.attacks.steps import STEP_RULES
from kaldi_uq.config import Config as AnyConfig
from kaldi_uq.io.spool import Spool
from kaldi_uq.io.wav import INT16_SCALE, on_grid, to_int16
from kaldi_uq.io.waves import WaveBatch, Waves, expanded, pad
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.memory import in_halves
from kaldi_uq.registry import Registry

_NEXT_TARGET = 1 << 20  # added to the seed: another target has other words, starts and draws

ATTACKS: Registry[type[Attack]] = Registry("attack", "kaldi_uq.attacks")


@dataclass(frozen=True)
class Adversarial:
    """What an attack made of a set of utterances.

    Attributes:
        waves: utt -> (N,) float32 in [-1, 1], on the grid of 16-bit audio; of files, read when they are asked for.
        records: utt -> ``target`` (words; ``None`` if untargeted), ``first_loss``, ``last_loss`` (nats a frame),
            ``live_samples`` (share that had a gradient), ``dead_frames`` (frames without any), ``steps``, ``starts``,
            ``eps_used`` (the largest change that was allowed, on the 16-bit grid), with several targets
            ``targets_tried``, and what the attack adds.  Steps are counted over all targets.
        originals: utt -> the audio before, as ``waves``.
        config: options of the attack.
    """

    waves: Mapping[str, np.ndarray]
    records: dict[str, dict[str, Any]]
    originals: Mapping[str, np.ndarray]
    config: AttackConfig


class Attack:
    """The loop as it is configured; a subclass does something else with a batch.

    Args:
        config: options; default: those of ``Config``.
        options: single options, by the names of ``Config``'s fields; they win over ``config``.

    Raises:
        ValueError: an option out of range, or a name that is not registered.
    """

    Config: ClassVar[type[AttackConfig]] = AttackConfig
    # the option that asks for this attack, where options are all that is known, and the configuration that has it
    asked_by: ClassVar[str] = ""
    asking: ClassVar[type[AnyConfig] | None] = None  # None: ``Config``

    def __init__(self, config: AttackConfig | None = None, **options: Any) -> None:
        self.config = self.Config(**options) if config is None else replace(config, **options)
        if not isinstance(self.config, self.Config):
            given = type(self.config).__name__
            raise ValueError(f"{type(self).__name__}: expected options of {self.Config.__name__}, got {given}")
        CONSTRAINTS.get(self.config.constraint)
        STEP_RULES.get(self.config.step_rule)
        LOSSES.get(self.config.loss)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._parts())})"

    def _parts(self) -> list[str]:
        """What the representation says: eps, and the options that are not the default."""
        default = {f.name: f.default for f in fields(self.config)}
        chosen = {name: value for name, value in self.config.to_dict().items() if value != default[name]}
        return [f"{name}={value!r}" for name, value in {"eps": self.config.eps, **chosen}.items()]

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able options that the result depends on."""
        return self.config.to_dict()

    @property
    def needs_donors(self) -> bool:
        """Whether the attack uses real speech of the target: ``goal.donors``, or the attacked utterances."""
        starts = {self.config.start_of(number) for number in range(self.config.num_starts)}
        return "speech" in starts or LOSSES.get(self.config.loss).needs_donors

    def prepare(
        self, recogniser: BaseRecogniser, waves: Mapping[str, np.ndarray], goal: Goal
    ) -> tuple[Goal, dict[str, list[str]]]:
        """The goal with what the attack needs of it, and the words that it chooses; before anything is computed.

        Raises:
            DataError: there is no recording of a word.
            ValueError: goal and options do not fit each other; and as of :meth:`Goal.choose`.
        """
        config = self.config
        if config.untargeted and not goal.away:
            raise ValueError("the attack is untargeted, but the goal is a text: take Untargeted(), or another attack")
        if config.num_targets > 1 and not goal.is_random:
            raise ValueError(f"num_targets {config.num_targets} is of random targets: leave it 1, or give no targets")
        words = goal.choose(recogniser, waves, config.seed)
        if not self.needs_donors:
            return goal, words
        if goal.donors is None:
            goal = replace(goal, donors=Donors(waves, goal.said(recogniser, waves), where="the attacked set"))
        assert goal.donors is not None
        speech = goal.donors.speech(recogniser)
        for utt in waves:
            speech.choose(utt, words[utt], config.seed)
        return goal, words

    def on_batch(self, batch: Batch) -> tuple[AttackResult, Mapping[str, Sequence[Any]]]:
        """Attack a batch.

        Returns:
            the result, and further fields of each utterance's record, (B,) values by name.
        """
        return batch.run(), {}

    def record(self, statistics: Mapping[str, float]) -> dict[str, Any]:
        """Further fields of an utterance's record, once its file has been scored."""
        return {}

    def __call__(self, recogniser: BaseRecogniser, waves: Mapping[str, np.ndarray], goal: Goal) -> Adversarial:
        """Attack utterances.

        Args:
            recogniser: the recogniser under attack.
            waves: utt -> (N,) samples, int16 or float in [-1, 1]; of those that are read when they are asked for
                (:class:`kaldi_uq.io.waves.Waves`) the result is not held in memory either.
            goal: what is wanted.

        Raises:
            DataError: audio that cannot be used, or words that the recogniser does not know.
            AlignmentError: words that do not fit into the audio.
            TypeError: arguments of another kind, or in another order.
        """
        if not isinstance(recogniser, BaseRecogniser):
            raise TypeError(f"expected a recogniser, then audio and a goal, got {type(recogniser).__name__} first")
        if not isinstance(goal, Goal):
            raise TypeError(f"the goal must be Say({{name: text}}) or Untargeted(), got {type(goal).__name__}")
        originals = Waves.of(recogniser.check_audio(waves, what="attacked")).map(on_grid)
        who = recogniser.with_speakers(originals)
        goal, words = self.prepare(who, originals, goal)
        made, records = Spool(), dict[str, dict[str, Any]]()
        for number, batch in enumerate(who.batches(originals)):
            for utt, (samples, record) in self.attack(who, batch, goal, words, number).items():
                made.put(utt, samples)
                records[utt] = record
        attacked = Waves(originals.lengths, lambda utt: expanded(made[utt]))
        streams = isinstance(waves, Waves)
        return Adversarial(
            attacked if streams else dict(attacked),
            {utt: records[utt] for utt in originals},
            originals if streams else dict(originals),
            replace(self.config, untargeted=goal.away),
        )

    def attack(
        self, recogniser: BaseRecogniser, waves: WaveBatch, goal: Goal, words: Mapping[str, list[str]], number: int
    ) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
        """Attack one batch of a set, in halves if the memory is not enough.

        Args:
            recogniser: the recogniser under attack, for the speakers of the batch.
            waves: the batch.
            goal: what is wanted.
            words: utt -> what the goal chose.
            number: number of the batch in the set, for the seeds.

        Returns:
            utt -> (N,) int16 samples, and its record.
        """
        found = in_halves(lambda part: list(self._attack(recogniser, part, goal, words, number).items()), waves)
        return dict(found)

    def _attack(
        self, recogniser: BaseRecogniser, waves: WaveBatch, goal: Goal, words: Mapping[str, list[str]], number: int
    ) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
        found: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}
        ranks: dict[str, tuple[bool, float]] = {}  # of the kept examples: failure, and what the judge said
        for target in range(self.config.num_targets):
            left = [utt for utt in waves.utts if utt not in ranks or ranks[utt][0]]
            if not left:
                break
            seed = self.config.seed + target * _NEXT_TARGET
            part = waves
            if target:
                samples = {utt: waves.wav[i, : waves.num_samples[i]] for i, utt in enumerate(waves.utts)}
                part, words = pad(samples, left), goal.choose(recogniser, {utt: samples[utt] for utt in left}, seed)
            batch = self._batch(recogniser, part, goal, {utt: words[utt] for utt in left}, number, seed)
            result, records = self._records(batch, part)
            for i, utt in enumerate(left):
                rank = not bool(result.success[i]), float(result.rank[i])
                record = records[utt]
                cost: dict[str, Any] = {name: record[name] for name in ("steps", "queries") if name in record}
                if target:
                    cost = {name: value + found[utt][1][name] for name, value in cost.items()}
                    cost["targets_tried"] = target + 1
                if utt not in ranks or rank < ranks[utt]:
                    found[utt] = to_int16(result.wav[i, : part.num_samples[i]].cpu().numpy()), record
                    ranks[utt] = rank
                found[utt][1].update(cost)
        return found

    def _records(self, batch: Batch, waves: WaveBatch) -> tuple[AttackResult, dict[str, dict[str, Any]]]:
        """What the attack makes of a batch, and the record of each utterance."""
        result, further = self.on_batch(batch)
        shift = round(batch.recogniser.frame_shift_s * batch.recogniser.sample_rate)
        columns: dict[str, Sequence[Any]] = {
            "first_loss": result.first_loss.tolist(),
            "last_loss": result.last_loss.tolist(),
            "live_samples": (result.live.sum(1) / batch.num_samples).tolist(),
            "dead_frames": dead_frames(result.live, batch.num_samples, batch.lengths, shift).tolist(),
            "steps": result.steps.tolist(),
            "starts": result.starts.tolist(),
            "eps_used": batch.constraint.eps.tolist(),
            **({"targets_tried": [1] * len(batch.utts)} if batch.config.num_targets > 1 else {}),
            **further,
        }
        away = batch.config.untargeted
        return result, {
            utt: {"target": None if away else list(batch.words[utt]), **{k: v[i] for k, v in columns.items()}}
            for i, utt in enumerate(waves.utts)
        }

    def _batch(
        self, who: BaseRecogniser, waves: WaveBatch, goal: Goal, words: dict[str, list[str]], number: int, seed: int
    ) -> Batch:
        config = replace(self.config, untargeted=goal.away)
        draws_seed = seed * 1_000_003 + number
        wav = torch.from_numpy(np.round(waves.wav * INT16_SCALE) / np.float32(INT16_SCALE)).to(who.device)
        num_samples = torch.from_numpy(waves.num_samples).to(who.device)
        lengths = who.num_frames(num_samples)
        with torch.no_grad():
            generator = torch.Generator(who.device).manual_seed(draws_seed)
            clean = who.scores(who.mean_log_post(wav, num_samples, waves.utts, generator=generator)).cpu().numpy()
        sizes = zip(waves.utts, lengths.tolist(), strict=True)
        scores = {utt: np.ascontiguousarray(clean[i, :size]) for i, (utt, size) in enumerate(sizes)}
        loss = LOSSES.get(config.loss).of_words(who, words, scores, goal, lengths, seed=seed)

        def noise(start: int) -> Tensor:
            if config.start_of(start) == "speech":
                starts = speech_starts(who, scores, words, goal, waves, seed=seed + start)
            else:
                starts = random_starts(waves.utts, waves.num_samples.tolist(), seed, start)
            return torch.from_numpy(starts).to(who.device)

        return Batch(
            recogniser=who,
            config=config,
            utts=waves.utts,
            wav=wav,
            lengths=lengths,
            constraint=make_constraint(config, wav, num_samples, who.sample_rate),
            goal=loss,
            words=words,
            noise=noise,
            seed=draws_seed,
        )


def random_starts(
    utts: Sequence[str], num_samples: Sequence[int], seed: int, start: int = 0, *, width: int = 0
) -> np.ndarray:
    """Uniform noise in [-1, 1] for each utterance, the same whatever batch it is in; zero padding.

    Args:
        utts: B utterance ids.
        num_samples: samples of each.
        seed: seed of the noise.
        start: number of the start; each has its own noise.
        width: N, of a part of a wider batch; by default the longest utterance.

    Returns:
        (B, N) float32.
    """
    starts = np.zeros((len(utts), width or max(num_samples)), dtype=np.float32)
    for row, (utt, size) in enumerate(zip(utts, num_samples, strict=True)):
        rng = np.random.default_rng([seed, 1 + start, zlib.crc32(utt.encode())])
        starts[row, :size] = rng.uniform(-1.0, 1.0, size)
    return starts


def speech_starts(
    who: BaseRecogniser,
    scores: Mapping[str, np.ndarray],
    words: Mapping[str, Sequence[str]],
    goal: Goal,
    waves: WaveBatch,
    *,
    seed: int,
) -> np.ndarray:
    """Speech of each utterance's target in the voices of donors, the same whatever batch it is in; zero padding.

    Args:
        who: the recogniser under attack.
        scores: utt -> (T, C) float32 of the audio as it is.
        words: utt -> the target; away from the words, random other ones are said.
        goal: has the donors.
        waves: the batch.
        seed: seed of the choice of the donors.

    Returns:
        (B, N) float32 in [-1, 1].
    """
    assert goal.donors is not None
    speech = goal.donors.speech(who)
    starts = np.zeros_like(waves.wav)
    for row, (utt, size) in enumerate(zip(waves.utts, waves.num_samples.tolist(), strict=True)):
        text = words[utt]
        if goal.away:
            text = who.random_target(utt, text, len(scores[utt]), seed=seed)
        starts[row, :size] = speech.overlay(utt, text, who.word_times(text, scores[utt]), size, seed=seed)
    return starts


def dead_frames(live: Tensor, num_samples: Tensor, lengths: Tensor, shift: int) -> Tensor:
    """How many frames no sample of which had a gradient.

    A frame is here what lies between its beginning and that of the next, so that a neighbour cannot answer for it.

    Args:
        live: (B, N) bool, samples that had a gradient other than zero in at least one step.
        num_samples: (B,) int64.
        lengths: (B,) int64, frames.
        shift: samples from one frame to the next.

    Returns:
        (B,) int64.

    >>> live = torch.tensor([[True, False, False, False, False, True, False, False]])
    >>> dead_frames(live, torch.tensor([8]), torch.tensor([4]), 2)
    tensor([2])
    """
    count = int(lengths.max())
    inside = torch.arange(live.shape[1], device=live.device) < num_samples.to(live.device)[:, None]
    missing = count * shift - live.shape[1]
    padded = torch.nn.functional.pad(live & inside, (0, max(0, missing)))[:, : count * shift]
    alive = padded.reshape(len(live), count, shift).any(2)
    begin = torch.arange(count, device=live.device)
    there = (begin < lengths.to(live.device)[:, None]) & (begin * shift < num_samples.to(live.device)[:, None])
    return (there & ~alive).sum(1)
