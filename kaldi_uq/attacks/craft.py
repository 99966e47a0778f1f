"""Attack a whole data directory: batches, targets, 16-bit files, and a run that resumes where it was killed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kaldi_uq.attacks.pgd import pgd, random_starts
from kaldi_uq.attacks.targets import align_targets, check_target, min_word_frames, random_target, target_words
from kaldi_uq.engine.base import Engine
from kaldi_uq.errors import AlignmentError
from kaldi_uq.hybrid import HybridModel
from kaldi_uq.io.files import digest, write_text
from kaldi_uq.io.kaldi_model import read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.wav import INT16_SCALE, to_int16, write_wav
from kaldi_uq.io.waves import WaveBatch, wave_batches
from kaldi_uq.types import AttackConfig, DecodeConfig

MAX_ATTEMPTS = 5  # random targets of an utterance, one after the other, while no path of one survives the beam


@dataclass(frozen=True)
class Attacker:
    """The model under attack and what the attack needs to know of it.

    Attributes:
        model: the hybrid model, on its device.
        engine, model_dir, lang: align the targets.
        tid_to_pdf: (num_transition_ids + 1,) pdf-ids.
        shortest: word -> fewest frames, of every word of the lexicon.
        choices: word -> fewest frames, of the words that random targets hold.
        decode: acwt and beams of the alignment.
    """

    model: HybridModel
    engine: Engine
    model_dir: Path
    lang: Lang
    tid_to_pdf: np.ndarray
    shortest: Mapping[str, int]
    choices: Mapping[str, int]
    decode: DecodeConfig

    @classmethod
    def of_recipe(
        cls, model: HybridModel, engine: Engine, model_dir: Path, lang: Lang, decode: DecodeConfig
    ) -> Attacker:
        """An attacker who reads the rest from ``model_dir/final.mdl`` and the lexicon."""
        transitions = read_transitions(model_dir / "final.mdl")
        return cls(
            model=model,
            engine=engine,
            model_dir=model_dir,
            lang=lang,
            tid_to_pdf=transitions.tid_to_pdf,
            shortest=min_word_frames(lang, transitions.topology),
            choices=target_words(lang, transitions.topology),
            decode=decode,
        )

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
    ) -> dict[str, dict[str, Any]]:
        """Attack every utterance and write ``wav/<utt>.wav``.

        Args:
            waves: utt -> (N,) float32 on the 16-bit grid.
            text: utt -> what is spoken.
            config: the attack.
            out_dir: the attack directory.
            targets: utt -> target words; ``None`` for random ones.
            targets_name: the file that they come from, for messages.
            key: of the model and the audio; batches of an earlier run with another key are made again.

        Returns:
            utt -> ``{"target": words, "first_loss", "last_loss", "live_samples"}``, in the order of ``waves``.
        """
        chosen = self.choose(waves, text, config, targets, targets_name)
        key = digest(key, config.to_dict(), chosen, self.decode.to_dict())
        for part in (out_dir / "parts").glob("*.json"):
            if _finished(part, key) is None:  # this run overwrites waveforms that it stands for
                part.unlink()
        device = self.model.log_prior.device
        records: dict[str, dict[str, Any]] = {}
        with tqdm(total=len(waves), desc=f"attack eps {config.eps:g}", unit="utt") as progress:
            for number, batch in enumerate(wave_batches(waves)):
                part = out_dir / "parts" / f"{number}.json"
                done = _finished(part, key)
                if done is None:
                    generator = torch.Generator(device).manual_seed(config.seed * 1_000_003 + number)
                    done = self._batch(batch, chosen, text, config, generator, fixed=targets is not None)
                    for utt, samples in done.pop("samples").items():
                        write_wav(out_dir / "wav" / f"{utt}.wav", samples, self.model.front_end.sample_rate)
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
        """The target words of each utterance: the given ones, checked, or random ones; arguments as of ``craft``.

        Raises:
            AlignmentError: a target is too long for the audio, or the audio too short for any.
            DataError: a target has no words, or one outside the lexicon.
        """
        chosen = {}
        for utt, wav in waves.items():
            num_frames = int(self.model.front_end.num_frames(len(wav)))
            if targets is None:
                chosen[utt] = random_target(utt, text[utt], num_frames, self.choices, seed=config.seed)
            else:
                check_target(utt, targets[utt], num_frames, self.shortest, where)
                self.lang.word_ids(targets[utt], where=f"{where}: {utt}")
                chosen[utt] = targets[utt]
        return chosen

    def _batch(
        self,
        batch: WaveBatch,
        chosen: Mapping[str, list[str]],
        text: Mapping[str, list[str]],
        config: AttackConfig,
        generator: torch.Generator,
        *,
        fixed: bool,
    ) -> dict[str, Any]:
        device = self.model.log_prior.device
        wav = torch.from_numpy(np.round(batch.wav * INT16_SCALE) / np.float32(INT16_SCALE)).to(device)
        num_samples = torch.from_numpy(batch.num_samples).to(device)
        num_draws = config.eot_samples if self.model.network.is_random else None

        def log_post(x: Tensor, sizes: Tensor) -> Tensor:
            chunks, _ = self.model.iter_log_post(x, sizes, num_draws=num_draws, generator=generator)
            draws = torch.cat(list(chunks))
            if not self.model.network.is_random and len(draws) > 1:  # an ensemble is attacked as the one model it is
                return (torch.logsumexp(draws, 0) - math.log(len(draws)))[None]
            return draws

        lengths = self.model.front_end.num_frames(num_samples)
        with torch.no_grad():
            features, _ = self.model.front_end(wav, num_samples)
            clean = self.model.loglikes(self.model.network(features, generator=generator)).cpu().numpy()
        words = {utt: chosen[utt] for utt in batch.utts}
        aligned = self._align(batch, clean, lengths.tolist(), words, text, config, fixed=fixed)

        def pack(pdfs: Mapping[str, np.ndarray]) -> Tensor:
            packed = np.zeros((len(batch.utts), int(lengths.max())), dtype=np.int64)
            for row, utt in enumerate(batch.utts):
                packed[row, : len(pdfs[utt])] = pdfs[utt]
            return torch.from_numpy(packed).to(device)

        def realign(log_mean_post: Tensor) -> Tensor:
            scores = self.model.loglikes(log_mean_post).cpu().numpy()
            current = {u: np.ascontiguousarray(scores[i, : lengths[i]]) for i, u in enumerate(batch.utts)}
            found = align_targets(self.engine, self.model_dir, self.lang, current, words, self.tid_to_pdf, self.decode)
            aligned.update(found)
            return pack(aligned)

        start = torch.from_numpy(random_starts(batch.utts, batch.num_samples.tolist(), config.seed)).to(device)
        result = pgd(log_post, wav, num_samples, pack(aligned), lengths, config, start=start, realign=realign)
        output = result.wav.cpu().numpy()
        samples = {u: to_int16(output[i, : batch.num_samples[i]]) for i, u in enumerate(batch.utts)}
        columns = [v.cpu().tolist() for v in (result.first_loss, result.last_loss, result.live_samples)]
        records = {
            utt: {"target": words[utt], "first_loss": first, "last_loss": last, "live_samples": live}
            for utt, first, last, live in zip(batch.utts, *columns, strict=True)
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
                words[utt] = random_target(utt, text[utt], size, self.choices, seed=config.seed, attempt=attempt)
            aligned |= align_targets(
                self.engine, self.model_dir, self.lang, missing, words, self.tid_to_pdf, self.decode
            )
            missing = {u: scores[u] for u in batch.utts if u not in aligned}
            if not missing:
                break
        lost = [u for u in batch.utts if u not in aligned]
        if lost:
            raise AlignmentError(
                f"utterance {lost[0]!r} cannot be aligned with its target {' '.join(words[lost[0]])!r} "
                f"({len(scores[lost[0]])} frames): choose a shorter target, or widen --align-beam"
            )
        return aligned


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
