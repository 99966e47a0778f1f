"""What attacked audio does to a recogniser: its words against target and original, its uncertainty, the SNR.

The audio is what was read back from 16-bit files; the model can be the one that was attacked or any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.audio.quality import measure_all, perceptual
from kaldi_uq.engine.base import DecodeConfig, Engine
from kaldi_uq.io.waves import wave_batches
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.scores import decode_waves
from kaldi_uq.results.word_errors import ErrorRate, align_words

# what can be measured of the audio beside the SNR (:mod:`kaldi_uq.audio.quality`)
QUALITY = ("segmental_snr_db", "masking_margin_db", "share_above_masking", "pesq", "stoi")


def evaluate_examples(
    model: HybridModel,
    engine: Engine,
    model_dir: Path,
    graph_dir: Path,
    decode: DecodeConfig,
    originals: Mapping[str, np.ndarray],
    attacked: Mapping[str, np.ndarray],
    targets: Mapping[str, Sequence[str]] | None,
    text: Mapping[str, Sequence[str]],
    *,
    num_draws: int | None = None,
    seed: int = 0,
    desc: str = "decoding the attack",
) -> list[dict[str, Any]]:
    """Decode attacked audio, count the errors, measure uncertainty and loudness of the perturbation.

    Args:
        model: that listens, on its device.
        engine, model_dir, graph_dir, decode: of the decoding.
        originals: utt -> (N,) float32 in [-1, 1]; utterances that were not attacked are not looked at.
        attacked: utt -> (N,) float32 in [-1, 1], as read from 16-bit files.
        targets: utt -> target words; ``None`` for an attack without targets.
        text: utt -> what was spoken.
        num_draws: draws of a random network; ``None`` for its default.
        seed: of the draws; not the attack's own, so that no example is judged by the draws it was made with.
        desc: of the progress bar.

    Returns:
        A line of ``results.jsonl`` for each of ``attacked``, in its order: ``utt``, ``target`` (if there are targets),
        ``original``, ``hypothesis``, ``target_errors``, ``target_success`` (the words are exactly the target's),
        ``original_errors``, what :func:`kaldi_uq.audio.quality.measure` gives (null: nothing was added) and, where the
        extra ``quality`` is installed, ``perceptual``, and ``statistics``.
    """
    hypotheses, statistics = decode_waves(
        model, dict(attacked), engine, model_dir, graph_dir, decode, num_draws=num_draws, seed=seed, desc=desc
    )
    quality: dict[str, dict[str, float | None]] = {}
    for batch in wave_batches(dict(attacked)):
        before, after = ([waves[utt] for utt in batch.utts] for waves in (originals, attacked))
        found = measure_all(before, after, model.front_end.sample_rate, device=model.log_prior.device)
        heard = (perceptual(*pair, model.front_end.sample_rate) for pair in zip(before, after, strict=True))
        quality |= {utt: {**row, **more} for utt, row, more in zip(batch.utts, found, heard, strict=True)}
    lines = []
    for utt in attacked:
        words, spoken = list(hypotheses[utt].words), list(text[utt])
        line: dict[str, Any] = {"utt": utt}
        if targets is not None:
            target = list(targets[utt])
            line["target"] = " ".join(target)
        line |= {"original": " ".join(spoken), "hypothesis": " ".join(words)}
        if targets is not None:
            line["target_errors"] = align_words(target, words).counts()
            line["target_success"] = words == target
        line["original_errors"] = align_words(spoken, words).counts()
        line |= {**quality[utt], "statistics": statistics[utt]}
        lines.append(line)
    return lines


def summarise(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row of ``results.json`` says of an attack.

    Args:
        lines: of ``results.jsonl``, at least one.

    Returns:
        ``num_utts``, ``target_accuracy`` and ``target_success`` (share of utterances whose words are exactly the
        target's; both ``None`` without targets), ``original_accuracy`` (``None``: no word was spoken), ``snr_db_mean``
        (``None``: nothing was added to any utterance), and the mean of each of ``QUALITY`` that was measured, as
        ``segmental_snr_db_mean``.

    Raises:
        ValueError: no line.
    """
    lines = list(lines)
    if not lines:
        raise ValueError("there is no line to summarise")
    target = [ErrorRate.from_counts(line["target_errors"]) for line in lines if line.get("target_errors") is not None]
    spoken = sum((ErrorRate.from_counts(line["original_errors"]) for line in lines), ErrorRate())
    snr = [float(line["snr_db"]) for line in lines if line.get("snr_db") is not None]
    quality = {name: [float(line[name]) for line in lines if line.get(name) is not None] for name in QUALITY}
    return {
        "num_utts": len(lines),
        "target_accuracy": sum(target, ErrorRate()).accuracy if target else None,
        "target_success": float(np.mean([rate.errors == 0 for rate in target])) if target else None,
        "original_accuracy": spoken.accuracy if spoken.num_words else None,
        "snr_db_mean": float(np.mean(snr)) if snr else None,
        **{f"{name}_mean": float(np.mean(values)) for name, values in quality.items() if values},
    }


def shown(accuracy: float | None) -> str:
    """An accuracy for people.

    >>> shown(0.5), shown(None)
    ('0.500', 'none (no word was spoken)')
    """
    return "none (no word was spoken)" if accuracy is None else f"{accuracy:.3f}"


def evasion(lines: Iterable[Mapping[str, Any]]) -> float:
    """The share of examples that have what the attack wants *and* that the detectors pass.

    Args:
        lines: of ``results.jsonl`` of an adaptive attack, at least one: ``passes``, and the errors against the target,
            or without one against what was said.
    """
    reached = []
    for line in lines:
        target = line.get("target_errors")
        errors = ErrorRate.from_counts(line["original_errors"] if target is None else target).errors
        reached.append(line["passes"] and (errors > 0 if target is None else errors == 0))
    return float(np.mean(reached))
