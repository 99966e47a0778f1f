"""An attack directory: 16-bit files that an attack made, what the recogniser hears in them, and a run that resumes.

``wav/<utt>.wav``, ``wav.scp``, ``utt2spk``, ``spk2utt``, ``text`` (the original), ``target_text``, ``results.jsonl`` (a
line an utterance), ``checks.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.attacks.attack import Adversarial, Attack
from kaldi_uq.attacks.checks.one_run import check
from kaldi_uq.attacks.goal import Goal
from kaldi_uq.audio.quality import measure_all, perceptual, perceptual_packages
from kaldi_uq.io.datadir import invert_utt2spk, write_table
from kaldi_uq.io.files import digest, read_json, read_json_lines, read_state, write_json, write_text
from kaldi_uq.io.names import remove_left_over, wave_files
from kaldi_uq.io.wav import write_wav
from kaldi_uq.io.waves import Waves, pad, plan_waves, waves_of_files
from kaldi_uq.progress import Progress
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.heard import forget
from kaldi_uq.recogniser.parts import Shard
from kaldi_uq.results.utterances import accuracy_interval, movable
from kaldi_uq.results.word_errors import ErrorRate, align_words

# what can be measured of the audio beside the SNR (:mod:`kaldi_uq.audio.quality`)
QUALITY = ("segmental_snr_db", "masking_margin_db", "share_above_masking", "pesq", "stoi")


def craft(
    attack: Attack,
    recogniser: BaseRecogniser,
    waves: Mapping[str, np.ndarray],
    goal: Goal,
    out_dir: Path,
    *,
    key: str = "",
) -> Adversarial:
    """Attack every utterance, write ``wav/<utt>.wav`` and read it back; what :func:`craft_shard` has made is taken.

    The waveforms of the result are read from these files whenever they are asked for.

    Args:
        attack: the attack.
        recogniser: the recogniser under attack.
        waves: utt -> (N,) float32 on the 16-bit grid.
        goal: what is wanted.
        out_dir: the attack directory.
        key: digest of the recogniser and the audio; batches of an earlier run with another key are made again.
    """
    records = craft_shard(attack, recogniser, waves, goal, out_dir, key=key)
    files = wave_files(out_dir, waves)
    heard = waves_of_files(files, recogniser.sample_rate).held()
    config = replace(attack.config, untargeted=goal.away)
    return Adversarial(heard, {utt: records[utt] for utt in waves}, waves, config)


def craft_shard(
    attack: Attack,
    recogniser: BaseRecogniser,
    waves: Mapping[str, np.ndarray],
    goal: Goal,
    out_dir: Path,
    *,
    key: str = "",
    shard: Shard | None = None,
) -> dict[str, dict[str, Any]]:
    """Attack the batches of a shard and write their ``wav/<utt>.wav``; a killed run resumes after its last batch.

    A batch is the same whichever shard it is in, so that shards change nothing but who makes it.

    Args:
        attack, recogniser, waves, goal, out_dir, key: as of :func:`craft`; ``waves`` are those of all shards.
        shard: the shard; by default all batches.

    Returns:
        utt -> its record, for the utterances of the shard.
    """
    shard = shard or Shard()
    goal, words = attack.prepare(recogniser, waves, goal)
    donors = goal.donors.key if goal.donors and attack.needs_donors else ""
    key = digest(key, type(attack).__qualname__, attack.settings, goal.away, words, recogniser.settings, donors)
    waves, files = Waves.of(waves), wave_files(out_dir, waves)
    for part in (out_dir / "parts").glob("*.json"):
        # this run overwrites waveforms that it stands for; those of the other shards are theirs
        if shard.has(int(part.stem)) and _finished(part, key, files) is None:
            part.unlink(missing_ok=True)  # a job that a grid has started twice may have come first
    records: dict[str, dict[str, Any]] = {}
    total = len(waves) if shard.count == 1 else None
    with Progress(f"attack eps {attack.config.eps:g}", "utterances", total) as progress:
        for number, utts in enumerate(recogniser.plan(waves)):
            if not shard.has(number):
                continue
            part = out_dir / "parts" / f"{number}.json"
            done = _finished(part, key, files)
            if done is None:
                done = {}
                batch = pad(waves, utts)
                for utt, (samples, record) in attack.attack(recogniser, batch, goal, words, number).items():
                    write_wav(files[utt], samples, recogniser.sample_rate)
                    done[utt] = record
                write_text(part, json.dumps({"key": key, "records": done}))
            records |= done
            progress.update(len(utts))
    return records


def _finished(part: Path, key: str, files: Mapping[str, Path]) -> dict[str, dict[str, Any]] | None:
    """The records of a batch that an earlier run finished with the same options, if its ``files`` are there."""
    state = read_state(part)
    records: dict[str, dict[str, Any]] = state.get("records", {})
    if state.get("key") != key or not isinstance(records, dict):
        return None
    return records if all(utt in files and files[utt].is_file() for utt in records) else None


def write_attack(
    attack: Attack,
    recogniser: BaseRecogniser,
    adversarial: Adversarial,
    text: Mapping[str, Sequence[str]],
    utt2spk: Mapping[str, str],
    out_dir: Path,
) -> None:
    """Decode and score what :func:`craft` wrote, and write the rest of the directory, ``results.jsonl`` last.

    Args:
        attack: the attack.
        recogniser: the recogniser that was attacked.
        adversarial: what :func:`craft` gave.
        text: utt -> what is spoken.
        utt2spk: utt -> speaker.
        out_dir: the attack directory.
    """
    records, config = adversarial.records, adversarial.config
    targets = None if config.untargeted else {utt: record["target"] for utt, record in records.items()}
    # other draws than the attack's own
    lines = score_examples(recogniser, adversarial.originals, adversarial.waves, targets, text, seed=config.seed + 1)
    for line in lines:
        record = {name: value for name, value in records[line["utt"]].items() if name != "target"}
        # what the attack says of its detectors is of the draws that it chose the example by
        line |= {"eps": config.eps, **record, **attack.record(line["statistics"])}
        if "target_success" in line:
            line["target_success"] &= movable(line)
    scp = wave_files(out_dir, records)
    remove_left_over(out_dir, scp.values())
    write_json(out_dir / "checks.json", check(recogniser, adversarial))
    write_table(out_dir / "wav.scp", {utt: str(file) for utt, file in scp.items()})
    speakers = {utt: utt2spk[utt] for utt in records}
    write_table(out_dir / "utt2spk", speakers)
    write_table(out_dir / "spk2utt", {spk: " ".join(utts) for spk, utts in invert_utt2spk(speakers).items()})
    write_table(out_dir / "text", {utt: " ".join(text[utt]) for utt in records})
    (out_dir / "target_text").unlink(missing_ok=True)  # of an earlier attack, which may have had targets
    if targets is not None:
        write_table(out_dir / "target_text", {utt: " ".join(words) for utt, words in targets.items()})
    write_lines(out_dir, lines)


def write_lines(out_dir: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write ``results.jsonl``."""
    write_text(out_dir / "results.jsonl", "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def read_lines(out_dir: Path) -> list[dict[str, Any]]:
    """Read ``results.jsonl``."""
    return [line for _, line in read_json_lines(out_dir / "results.jsonl")]


def read_checks(out_dir: Path) -> dict[str, Any]:
    """Read ``checks.json``."""
    checks: dict[str, Any] = read_json(out_dir / "checks.json")
    return checks


def score_examples(
    recogniser: BaseRecogniser,
    originals: Mapping[str, np.ndarray],
    attacked: Mapping[str, np.ndarray],
    targets: Mapping[str, Sequence[str]] | None,
    text: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    desc: str = "decoding the attack",
) -> list[dict[str, Any]]:
    """Decode attacked audio, count the errors, measure uncertainty and loudness of the perturbation.

    Args:
        recogniser: the recogniser that listens: the one that was attacked, or any other.
        originals: utt -> (N,) float32 in [-1, 1]; utterances that were not attacked are not looked at.
        attacked: utt -> (N,) float32 in [-1, 1], as read from 16-bit files.
        targets: utt -> target words; ``None`` for an attack without targets.
        text: utt -> what was spoken.
        seed: seed of the draws; another than the attack's, so that no example is judged by the draws it was made with.
        desc: label of the progress bar.

    Returns:
        A line of ``results.jsonl`` for each of ``attacked``, in its order: ``utt``, ``target`` (if there are targets),
        ``original``, ``hypothesis``, ``target_errors``, ``target_success`` (the words are exactly the target's),
        ``original_errors``, what :func:`kaldi_uq.audio.quality.measure` gives (null: nothing was added) and, where the
        extra ``quality`` is installed, ``perceptual``, and ``statistics``.
    """
    found = recogniser.hear(attacked, seed=seed, frames_to=forget, desc=desc)
    rate, packages = recogniser.sample_rate, perceptual_packages()
    quality: dict[str, dict[str, float | None]] = {}
    for utts in plan_waves(attacked):
        before, after = ([waves[utt] for utt in utts] for waves in (originals, attacked))
        rows = measure_all(before, after, rate, device=recogniser.device)
        heard = (perceptual(*pair, rate, packages) for pair in zip(before, after, strict=True))
        quality |= {utt: {**row, **more} for utt, row, more in zip(utts, rows, heard, strict=True)}
    lines = []
    for utt in attacked:
        words, spoken = list(found[utt].words or ()), list(text[utt])
        line: dict[str, Any] = {"utt": utt}
        if targets is not None:
            line["target"] = " ".join(targets[utt])
        line |= {"original": " ".join(spoken), "hypothesis": " ".join(words)}
        if targets is not None:
            line["target_errors"] = align_words(list(targets[utt]), words).counts()
            line["target_success"] = words == list(targets[utt])
        line["original_errors"] = align_words(spoken, words).counts()
        lines.append(line | {**quality[utt], "statistics": found[utt].statistics})
    return lines


def summarise(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a row of ``results.json`` says of an attack.

    Args:
        lines: lines of ``results.jsonl``, at least one.

    Returns:
        ``num_utts``, ``target_accuracy`` and ``target_success`` (share of utterances that were attacked and whose
        words are exactly the target's; both ``None`` without targets), ``original_accuracy`` (``None``: no word was
        spoken), the 95 % intervals of both accuracies as ``target_accuracy_ci95`` and ``original_accuracy_ci95`` where
        they are known, ``snr_db_mean`` and ``snr_db_q05``, the quantile of 5 % (``None``: nothing was added to any
        utterance), and the mean of each of ``QUALITY`` that was measured, as ``segmental_snr_db_mean``.

    Raises:
        ValueError: no line.
    """
    lines = list(lines)
    if not lines:
        raise ValueError("there is no line to summarise")
    targeted = [line for line in lines if line.get("target_errors") is not None]
    target = [ErrorRate.from_counts(line["target_errors"]) for line in targeted]
    reached = [rate.errors == 0 and movable(line) for rate, line in zip(target, targeted, strict=True)]
    original = [ErrorRate.from_counts(line["original_errors"]) for line in lines]
    spoken = sum(original, ErrorRate())
    snr = [float(line["snr_db"]) for line in lines if line.get("snr_db") is not None]
    quality = {name: [float(line[name]) for line in lines if line.get(name) is not None] for name in QUALITY}
    return {
        "num_utts": len(lines),
        "target_accuracy": sum(target, ErrorRate()).accuracy if target else None,
        "target_success": float(np.mean(reached)) if target else None,
        "original_accuracy": spoken.accuracy if spoken.num_words else None,
        "snr_db_mean": float(np.mean(snr)) if snr else None,
        "snr_db_q05": float(np.quantile(snr, 0.05)) if snr else None,
        **{f"{name}_mean": float(np.mean(values)) for name, values in quality.items() if values},
        **{
            f"{name}_accuracy_ci95": accuracy_interval(rates)
            for name, rates in (("target", target), ("original", original))
            if sum(rate.num_words for rate in rates)
        },
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
        lines: lines of an adaptive attack, at least one: ``passes``, and the errors against the target,
            or without one against what was said.
    """
    reached = []
    for line in lines:
        target = line.get("target_errors")
        errors = ErrorRate.from_counts(line["original_errors"] if target is None else target).errors
        reached.append(movable(line) and line["passes"] and (errors > 0 if target is None else errors == 0))
    return float(np.mean(reached))
