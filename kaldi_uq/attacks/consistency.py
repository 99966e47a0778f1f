"""Rejection by consistency: audio is suspicious if a small change of it makes the recogniser hear other words.

The defender attacks the audio as it is played, away from whatever is heard in it.  Suppose that at most k words change
within half of the attacker's eps, of speech and of what is played.  Then the audio halfway between the two is near
both, and what is heard in them differs by at most 2k words: an attack that changes more is refused, and speech passes.
The search is a lower bound of what can change, so an attack that knows it aims to stall it
(:mod:`kaldi_uq.attacks.consistent`).

Source: Chen, Raghuram, Choi, Wu, Liang and Jha 2023, "Stratified adversarial robustness with rejection" (consistent
prediction-based rejection, of classes).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kaldi_uq.attacks.attack import random_starts
from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.config import SearchConfig
from kaldi_uq.attacks.constraints import make_constraint
from kaldi_uq.attacks.goal import LOSSES, FrameGoal
from kaldi_uq.attacks.loop import Verdict
from kaldi_uq.errors import DataError
from kaldi_uq.io.files import read_json
from kaldi_uq.io.wav import on_grid
from kaldi_uq.io.waves import WaveBatch, Waves, wave_batches
from kaldi_uq.progress import Progress
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.heard import FrameScores
from kaldi_uq.recogniser.memory import in_halves
from kaldi_uq.results.names import CONSISTENCY
from kaldi_uq.results.word_errors import align_words

SEARCH_FILE = "consistency.json"  # in the directory of a model: the options that its thresholds are of
_MOST = 30.0  # nats a frame: further ones would round the companion to 1, another word


@dataclass(frozen=True)
class Consistency:
    """What a search near an utterance found.

    Attributes:
        words: what is heard in the utterance itself.
        worst: what is heard in the changed one that differs most.
        errors: word errors of ``worst`` against ``words``.
        value: the statistic: ``errors``, plus a number in [0, 1) that grows as the loss of what is heard falls: its
            logistic function, in nats a frame, at the last step before that one.  So it is ``errors`` rounded down,
            and orders utterances in which the same number of words changes.
    """

    words: tuple[str, ...]
    worst: tuple[str, ...]
    errors: int
    value: float

    @property
    def statistics(self) -> dict[str, float]:
        """As the statistics of :class:`kaldi_uq.recogniser.base.Heard`."""
        return {CONSISTENCY: self.value}


def consistency(
    recogniser: BaseRecogniser,
    waves: Mapping[str, np.ndarray],
    config: SearchConfig | None = None,
    *,
    alone: bool = False,
    **options: Any,
) -> dict[str, Consistency]:
    """Search near each utterance for what is heard as something else.

    Args:
        recogniser: with a decoder.
        waves: utt -> (N,) samples, int16 or float in [-1, 1].
        config: options of the search.
        alone: each utterance is a batch of its own, so that not even rounding depends on the others.
        options: single options, by the names of ``SearchConfig``'s fields; they win over ``config``.

    Returns:
        utt -> what was found, in the order of ``waves``.

    Raises:
        DataError: audio that cannot be used, or a recogniser that hears no words.
        ValueError: an option out of range, or a loss that is not of frames.
    """
    config = replace(config or SearchConfig(), **options)
    if recogniser.why_no_words:
        raise DataError(f"the search compares words: {recogniser.why_no_words}")
    given = Waves.of(recogniser.check_audio(waves, what="searched")).map(on_grid)
    who = recogniser.with_speakers(given)
    found: dict[str, Consistency] = {}
    with Progress("searching", "utterances", len(given), quiet=len(given) < 32) as progress:
        for number, batch in enumerate(wave_batches(given, 0) if alone else who.batches(given)):
            rows = in_halves(functools.partial(_search_batch, who, config, 0 if alone else number), batch)
            found |= dict(zip(batch.utts, rows, strict=True))
            progress.update(len(batch.utts))
    return {utt: found[utt] for utt in given}


def model_search(model_dir: Path) -> SearchConfig:
    """The options of a model's search.

    Raises:
        DataError: there is no file of them, or another one.
    """
    path = model_dir / SEARCH_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; kaldi-uq nnet-consistency writes it, and the detector is of its search")
    try:
        return SearchConfig.from_dict(read_json(path))
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: not the options of a search: {error}") from None


def _search_batch(who: BaseRecogniser, config: SearchConfig, number: int, batch: WaveBatch) -> list[Consistency]:
    wav, sizes = (torch.from_numpy(v).to(who.device) for v in (batch.wav, batch.num_samples))
    return search(who, batch.utts, wav, sizes, config, number=number)[0]


def search(
    who: BaseRecogniser,
    utts: Sequence[str],
    wav: Tensor,
    num_samples: Tensor,
    config: SearchConfig,
    *,
    number: int = 0,
) -> tuple[list[Consistency], Tensor]:
    """Search near the utterances of a batch.

    The loss is that of the best class of each frame, which there is where no word is heard, too, and without a lexicon.

    Args:
        who: the recogniser, for the speakers of the batch.
        utts: B utterance ids.
        wav: (B, N) float32 on the 16-bit grid.
        num_samples: (B,) int64.
        config: options of the search.
        number: number of the batch, for the draws of a random recogniser.

    Returns:
        what was found, and (B, N) the changed audio that differs most.
    """
    options, seed = config.attack, config.seed * 1_000_003 + number
    lengths = who.num_frames(num_samples)
    with torch.no_grad():
        generator = torch.Generator(who.device).manual_seed(seed)
        log_post = who.mean_log_post(wav, num_samples, utts, generator=generator)
        # as the judge hears what is changed
        decoded = who.decode_batch(FrameScores(utts, who.scores(log_post), lengths.tolist()))
    words = {utt: tuple(decoded.get(utt, ())) for utt in utts}

    def noise(start: int) -> Tensor:
        starts = random_starts(utts, num_samples.tolist(), config.seed, start, width=wav.shape[1])
        return torch.from_numpy(starts).to(wav)

    kind = LOSSES.get(config.loss)
    if not issubclass(kind, FrameGoal):
        raise ValueError(f"loss {config.loss} is not of frames, as that of a search has to be: choose margin")
    batch = Batch(
        recogniser=who,
        config=options,
        utts=tuple(utts),
        wav=wav,
        lengths=lengths,
        constraint=make_constraint(options, wav, num_samples, who.sample_rate),
        goal=kind(log_post.argmax(2), lengths, away=True, of_mean=not who.is_random),
        words=words,
        noise=noise,
        seed=seed,
    )
    errors, worst = dict.fromkeys(utts, 0), dict(words)

    def judge(candidates: Tensor, rows: Tensor) -> Verdict:
        """What differs most is best; nothing is ever enough, so that every start is tried."""
        heard, _ = batch.hear(candidates, rows)
        found = [align_words(words[utts[row]], heard[i]).errors for i, row in enumerate(rows.tolist())]
        for i, row in enumerate(rows.tolist()):
            if found[i] > errors[utts[row]]:
                errors[utts[row]], worst[utts[row]] = found[i], heard[i]
        return Verdict(torch.zeros_like(rows, dtype=torch.bool), -torch.tensor(found).to(wav))

    result = batch.run(judge=judge)
    loss = result.last_loss.double().clamp(-_MOST, _MOST)
    beside = torch.where(result.steps > 0, torch.sigmoid(-loss), 0.0).tolist()  # 0: nothing could be changed
    return [Consistency(words[u], worst[u], errors[u], errors[u] + beside[i]) for i, u in enumerate(utts)], result.wav
