"""Attack a hybrid model at the waveform: targeted projected gradient descent within eps of the audio.

Writes OUT-DIR/wav/*.wav (16 bit), reads them back, decodes and scores what the recogniser hears: OUT-DIR/results.jsonl,
wav.scp, text (the original), target_text.  A killed run resumes after its last batch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.attacks.checks import check_attack, snr_db
from kaldi_uq.attacks.craft import Attacker
from kaldi_uq.cli.model_options import (
    add_data_and_graph,
    add_model_arguments,
    decoding_inputs,
    load_model,
    model_name,
    waves_of,
)
from kaldi_uq.cli.options import config_from, directory, engine_of, non_negative_int, start_logging
from kaldi_uq.errors import DataError
from kaldi_uq.evaluate import decode_waves
from kaldi_uq.hybrid import HybridModel
from kaldi_uq.io.datadir import DataDir, c_sorted, invert_utt2spk, read_table, write_table
from kaldi_uq.io.files import DoneStamp, read_json, write_json, write_text
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.wav import on_grid, read_wav
from kaldi_uq.io.waves import waves_digest
from kaldi_uq.report.records import read_attacked
from kaldi_uq.report.results import Results
from kaldi_uq.scoring import align_words
from kaldi_uq.types import AttackConfig, DecodeConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_and_graph(parser)
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR")
    parser.add_argument("--lang-dir", type=directory, required=True, metavar="LANG-DIR", help="lexicon of the targets")
    parser.add_argument("--attack", default="pgd", help="name under which results are filed [pgd]")
    parser.add_argument(
        "--num-utts", type=non_negative_int, default=0, help="attack so many utterances, spread over the data; 0: all"
    )
    parser.add_argument("--target-text", metavar="FILE", help="table utt -> target words; default: random targets")
    parser.add_argument("--results", metavar="FILE", help="also record the summary in this results.json")
    add_model_arguments(parser, AttackConfig)


def run(args: argparse.Namespace) -> None:
    start_logging()
    config, decode = config_from(args, AttackConfig), config_from(args, DecodeConfig)
    model = load_model(args)
    data = DataDir.read(args.data_dir, need=("wav.scp", "utt2spk", "text"))
    waves = {utt: on_grid(wave) for utt, wave in waves_of(data, model).items()}  # the attack is written as 16 bit
    inputs = [*decoding_inputs(args), args.data_dir / "text", args.lang_dir / "L.fst"]
    inputs += [Path(args.target_text)] if args.target_text else []
    for path in inputs:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    options = {"attack": args.attack, "config": config.to_dict(), "decode": decode.to_dict()}
    options |= {"num_utts": args.num_utts, "num_draws": args.num_draws, "audio": waves_digest(waves)}
    stamp = DoneStamp(args.out_dir, "attack", options=options, inputs=inputs)
    if not stamp.is_current():
        _attack(args, config, decode, model, data, waves, stamp)
        stamp.write()
    row = _summary(args, config)
    if args.results:
        Results(args.results).add_attack(row)
    print(
        f"{row['model']} {row['attack']} eps {row['eps']:g}: target accuracy {row['target_accuracy']:.3f}, "
        f"original accuracy {row['original_accuracy']:.3f}, {row['num_utts']} utterances"
    )


def _attack(
    args: argparse.Namespace,
    config: AttackConfig,
    decode: DecodeConfig,
    model: HybridModel,
    data: DataDir,
    waves: dict[str, np.ndarray],
    stamp: DoneStamp,
) -> None:
    if args.num_utts:
        if args.num_utts > len(waves):
            raise DataError(f"{args.data_dir}: {len(waves)} utterances, --num-utts asks for {args.num_utts}")
        waves = {utt: waves[utt] for utt in _spread(list(waves), args.num_utts)}
    text = {utt: data.words(utt) for utt in waves}
    targets = _read_targets(args.target_text, waves) if args.target_text else None
    engine = engine_of(args)
    attacker = Attacker.of_recipe(model, engine, args.model_dir, Lang.read(args.lang_dir), decode)
    targets_name = args.target_text or ""
    attacker.choose(waves, text, config, targets, targets_name)  # a mistake in them leaves an earlier result in place
    stamp.clear()
    (args.out_dir / "results.jsonl").unlink(missing_ok=True)
    crafted = attacker.craft(
        waves, text, config, args.out_dir, targets=targets, targets_name=targets_name, key=stamp.key
    )
    scp = {utt: str(args.out_dir / "wav" / f"{utt}.wav") for utt in waves}
    for left_over in {str(path) for path in (args.out_dir / "wav").rglob("*.wav")} - set(scp.values()):
        Path(left_over).unlink()  # of an earlier attack on more utterances
    rate = model.front_end.sample_rate
    heard = {utt: read_wav(path, expected_rate=rate)[0] for utt, path in scp.items()}
    hypotheses, statistics = decode_waves(
        model,
        heard,
        engine,
        args.model_dir,
        args.graph_dir,
        decode,
        num_draws=args.num_draws or None,
        seed=config.seed + 1,  # other draws than the attack's own
        desc="decoding the attack",
    )
    lines = []
    for utt in waves:
        words, record = hypotheses[utt].words, crafted[utt]
        line = {
            "utt": utt,
            "eps": config.eps,
            "target": " ".join(record["target"]),
            "original": " ".join(text[utt]),
            "hypothesis": " ".join(words),
            "target_errors": align_words(record["target"], words).counts(),
            "original_errors": align_words(text[utt], words).counts(),
            "snr_db": snr_db(waves[utt], heard[utt]),
            "first_loss": record["first_loss"],
            "last_loss": record["last_loss"],
            "statistics": statistics[utt],
        }
        lines.append(json.dumps(line, allow_nan=False))
    write_json(args.out_dir / "checks.json", check_attack(waves, heard, crafted, config))
    write_table(args.out_dir / "wav.scp", scp)
    utt2spk = {utt: data.utt2spk[utt] for utt in waves}
    write_table(args.out_dir / "utt2spk", utt2spk)
    write_table(args.out_dir / "spk2utt", {spk: " ".join(utts) for spk, utts in invert_utt2spk(utt2spk).items()})
    write_table(args.out_dir / "text", {utt: " ".join(text[utt]) for utt in waves})
    write_table(args.out_dir / "target_text", {utt: " ".join(crafted[utt]["target"]) for utt in waves})
    write_text(args.out_dir / "results.jsonl", "\n".join(lines) + "\n")


def _spread(utts: list[str], count: int) -> list[str]:
    """``count`` utterances at equal distances, so that a subset has all speakers, not the first few."""
    return [utts[int(i)] for i in np.linspace(0, len(utts) - 1, count).round()]


def _read_targets(path: str, waves: dict[str, np.ndarray]) -> dict[str, list[str]]:
    table = read_table(path, check_sorted=False)
    missing = [utt for utt in waves if utt not in table]
    if missing:
        raise DataError(
            f"{path}: no target for utterance {missing[0]!r} ({len(missing)} are missing); add a line '<utt> <words>'"
        )
    return {utt: table[utt].split() for utt in c_sorted(waves)}


def _summary(args: argparse.Namespace, config: AttackConfig) -> dict[str, Any]:
    records = read_attacked(args.out_dir / "results.jsonl")
    target = [r.target_errors for r in records if r.target_errors is not None]
    original = [r.original_errors for r in records]
    snr = [r.snr_db for r in records if r.snr_db is not None]
    return {
        "model": model_name(args.model_dir),
        "attack": args.attack,
        "eps": config.eps,
        "num_utts": len(records),
        "target_accuracy": sum(target[1:], start=target[0]).accuracy,
        "original_accuracy": sum(original[1:], start=original[0]).accuracy,
        "snr_db_mean": float(np.mean(snr)) if snr else None,
        "checks": read_json(args.out_dir / "checks.json"),
    }
