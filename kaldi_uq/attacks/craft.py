"""Attack a whole data directory: batches, targets, 16-bit files, and a run that resumes where it was killed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kaldi_uq.attacks.checks import dead_frames
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.attacks.methods import make_constraint
from kaldi_uq.attacks.problem import Problem, Recogniser, Strategy, plain
from kaldi_uq.attacks.targets import check_target, min_word_frames, random_target, target_words
from kaldi_uq.engine.base import DecodeConfig, Engine
from kaldi_uq.errors import AlignmentError
from kaldi_uq.io.files import digest, write_text
from kaldi_uq.io.kaldi_model import read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.wav import INT16_SCALE, to_int16, write_wav
from kaldi_uq.io.waves import WaveBatch, wave_batches
from kaldi_uq.language.sentences import GrammarSentences
from kaldi_uq.recogniser.hybrid import HybridModel

MAX_ATTEMPTS = 5  # random targets of an utterance, one after the other, while no path of one survives the beam


@dataclass(frozen=True)
class Attacker:
    """Attacks whole sets of utterances on one recogniser.

    Attributes:
        recogniser: under attack.
        shortest: word -> fewest frames, of every word of the lexicon.
        choices: word -> fewest frames, of the words that random targets hold.
        sample: draws a random target; words strung together, or a sentence of :mod:`kaldi_uq.language.sentences`.
    """

    recogniser: Recogniser
    shortest: Mapping[str, int]
    choices: Mapping[str, int]
    sample: Callable[..., list[str]] = random_target

    @classmethod
    def of_recipe(
        cls,
        model: HybridModel,
        engine: Engine,
        model_dir: Path,
        lang: Lang,
        decode: DecodeConfig,
        *,
        graph_dir: Path | None = None,
        num_draws: int | None = None,
        random_targets: str = "words",
    ) -> Attacker:
        """An attacker who reads the rest from ``model_dir/final.mdl`` and the lexicon.

        Args:
            random_targets: ``words`` of the lexicon strung together, or sentences of the ``grammar`` ``G.fst``.
        """
        transitions = read_transitions(model_dir / "final.mdl")
        recogniser = Recogniser(
            model, engine, model_dir, graph_dir, lang, transitions.tid_to_pdf, decode, num_draws=num_draws
        )
        topology = transitions.topology
        sample = random_target if random_targets == "words" else GrammarSentences.of_lang(lang).sample
        return cls(recogniser, min_word_frames(lang, topology), target_words(lang, topology), sample)

    def craft(
        self,
        waves: dict[str, np.ndarray],
        text: Mapping[str, list[str]],
        config: AttackConfig,
        out_dir: Path,
        *,
        targets: Mapping[str, list[str]] | None = None,
        targets_name: str = "",
        key: str = "",
        strategy: Strategy = plain,
    ) -> dict[str, dict[str, Any]]:
        """Attack every utterance and write ``wav/<utt>.wav``.

        Args:
            waves: utt -> (N,) float32 on the 16-bit grid.
            text: utt -> what is spoken.
            config: the attack.
            out_dir: the attack directory.
            targets: utt -> target words; ``None`` for random ones.
            targets_name: the file that they come from, for messages.
            key: of the model, the audio and the strategy; batches of an earlier run with another key are made again.
            strategy: what is done with each batch; default: the loop as it is configured.

        Returns:
            utt -> record, in the order of ``waves``: ``target`` (words; ``None`` if untargeted), ``first_loss``,
            ``last_loss`` (nats a frame), ``live_samples`` (share that had a gradient), ``dead_frames`` (frames without
            any), ``steps``, ``starts``, and what the strategy adds.
        """
        chosen = self.choose(waves, text, config, targets, targets_name)
        key = digest(key, config.to_dict(), chosen, self.recogniser.decode.to_dict())
        for part in (out_dir / "parts").glob("*.json"):
            if _finished(part, key) is None:  # this run overwrites waveforms that it stands for
                part.unlink()
        sample_rate = self.recogniser.model.front_end.sample_rate
        records: dict[str, dict[str, Any]] = {}
        with tqdm(total=len(waves), desc=f"attack eps {config.eps:g}", unit="utt") as progress:
            for number, batch in enumerate(wave_batches(waves)):
                part = out_dir / "parts" / f"{number}.json"
                done = _finished(part, key)
                if done is None:
                    seed = config.seed * 1_000_003 + number
                    done = self._batch(batch, chosen, text, config, seed, strategy, fixed=targets is not None)
                    for utt, samples in done.pop("samples").items():
                        write_wav(out_dir / "wav" / f"{utt}.wav", samples, sample_rate)
                    write_text(part, json.dumps({"key": key, "records": done["records"]}))
                records |= done["records"]
                progress.update(len(batch.utts))
        return {utt: records[utt] for utt in waves}

    def choose(
        self,
        waves: dict[str, np.ndarray],
        text: Mapping[str, list[str]],
        config: AttackConfig,
        targets: Mapping[str, list[str]] | None,
        where: str,
    ) -> dict[str, list[str]]:
        """The words to align with each utterance: given targets, checked, or random ones; untargeted, the spoken ones.

        Raises:
            AlignmentError: a target is too long for the audio, or the audio too short for any.
            DataError: a target has no words, or one outside the lexicon.
        """
        given = text if config.untargeted else targets
        chosen = {}
        for utt, wav in waves.items():
            num_frames = int(self.recogniser.model.front_end.num_frames(len(wav)))
            if given is None:
                chosen[utt] = self.sample(utt, text[utt], num_frames, self.choices, seed=config.seed)
            else:
                check_target(utt, given[utt], num_frames, self.shortest, where)
                self.recogniser.lang.word_ids(given[utt], where=f"{where}: {utt}")
                chosen[utt] = list(given[utt])
        return chosen

    def _batch(
        self,
        batch: WaveBatch,
        chosen: Mapping[str, list[str]],
        text: Mapping[str, list[str]],
        config: AttackConfig,
        seed: int,
        strategy: Strategy,
        *,
        fixed: bool,
    ) -> dict[str, Any]:
        who = self.recogniser
        wav = torch.from_numpy(np.round(batch.wav * INT16_SCALE) / np.float32(INT16_SCALE)).to(who.device)
        num_samples = torch.from_numpy(batch.num_samples).to(who.device)
        front_end = who.model.front_end
        lengths = front_end.num_frames(num_samples)
        with torch.no_grad():
            features, _ = front_end(wav, num_samples, cmvn_stats=who.model.cmvn_stats_of(batch.utts))
            generator = torch.Generator(who.device).manual_seed(seed)
            clean = who.model.loglikes(who.model.network(features, generator=generator)).cpu().numpy()
        words = {utt: chosen[utt] for utt in batch.utts}
        pdfs = self._align(batch, clean, lengths.tolist(), words, text, config, fixed=fixed or config.untargeted)

        def noise(start: int) -> Tensor:
            starts = random_starts(batch.utts, batch.num_samples.tolist(), config.seed, start)
            return torch.from_numpy(starts).to(who.device)

        problem = Problem(
            recogniser=who,
            config=config,
            utts=batch.utts,
            wav=wav,
            num_samples=num_samples,
            lengths=lengths,
            constraint=make_constraint(config, wav, num_samples, front_end.sample_rate),
            words=words,
            pdfs=pdfs,
            noise=noise,
            seed=seed,
        )
        result, further = strategy(problem)
        shift = round(front_end.frame_shift_s * front_end.sample_rate)
        output = result.wav.cpu().numpy()
        samples = {u: to_int16(output[i, : batch.num_samples[i]]) for i, u in enumerate(batch.utts)}
        columns: dict[str, Sequence[Any]] = {
            "first_loss": result.first_loss.tolist(),
            "last_loss": result.last_loss.tolist(),
            "live_samples": (result.live.sum(1) / num_samples).tolist(),
            "dead_frames": dead_frames(result.live, num_samples, lengths, shift).tolist(),
            "steps": result.steps.tolist(),
            "starts": result.starts.tolist(),
            **further,
        }
        records = {
            utt: {"target": None if config.untargeted else words[utt], **{k: v[i] for k, v in columns.items()}}
            for i, utt in enumerate(batch.utts)
        }
        return {"samples": samples, "records": records}

    def _align(
        self,
        batch: WaveBatch,
        clean: np.ndarray,
        lengths: list[int],
        words: dict[str, list[str]],
        text: Mapping[str, list[str]],
        config: AttackConfig,
        *,
        fixed: bool,
    ) -> dict[str, np.ndarray]:
        """Align the targets; a random target without a path is replaced by another one, in ``words`` too."""
        scores = {u: np.ascontiguousarray(clean[i, : lengths[i]]) for i, u in enumerate(batch.utts)}
        aligned: dict[str, np.ndarray] = {}
        missing = scores
        for attempt in range(1 if fixed else MAX_ATTEMPTS):
            for utt in missing if attempt else ():
                size = len(scores[utt])
                words[utt] = self.sample(utt, text[utt], size, self.choices, seed=config.seed, attempt=attempt)
            aligned |= self.recogniser.align(missing, words)
            missing = {u: scores[u] for u in batch.utts if u not in aligned}
            if not missing:
                break
        lost = [u for u in batch.utts if u not in aligned]
        if lost:
            what = "what is spoken" if config.untargeted else "its target"
            raise AlignmentError(
                f"utterance {lost[0]!r} cannot be aligned with {what} {' '.join(words[lost[0]])!r} "
                f"({len(scores[lost[0]])} frames): "
                + ("leave it out" if config.untargeted else "choose a shorter target")
                + ", or widen --align-beam"
            )
        return aligned


def random_starts(utts: Sequence[str], num_samples: Sequence[int], seed: int, start: int = 0) -> np.ndarray:
    """Uniform noise in [-1, 1] for each utterance, the same whatever batch it is in; zero padding.

    Args:
        utts: B utterance ids.
        num_samples: samples of each.
        seed: of the noise.
        start: each start has its own noise.

    Returns:
        (B, N) float32.
    """
    starts = np.zeros((len(utts), max(num_samples)), dtype=np.float32)
    for row, (utt, size) in enumerate(zip(utts, num_samples, strict=True)):
        rng = np.random.default_rng([seed, 1 + start, zlib.crc32(utt.encode())])
        starts[row, :size] = rng.uniform(-1.0, 1.0, size)
    return starts


def _finished(part: Path, key: str) -> dict[str, Any] | None:
    """The record of a batch that an earlier run finished with the same options, or ``None``."""
    try:
        state = json.loads(part.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none, or damaged
        return None
    if not isinstance(state, dict) or state.get("key") != key:
        return None
    wavs = [part.parents[1] / "wav" / f"{utt}.wav" for utt in state["records"]]
    return {"records": state["records"]} if all(path.is_file() for path in wavs) else None
