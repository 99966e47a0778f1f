"""Attack a hybrid model at the waveform: targeted projected gradient descent within eps of the audio.

Writes OUT-DIR/wav/*.wav (16 bit), one an utterance, where DATA-DIR has segments too; reads them back, decodes and
scores what the recogniser hears: OUT-DIR/results.jsonl, wav.scp, text (the original), target_text.  A killed run
resumes after its last batch.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.attacks.adaptive import Sentries
from kaldi_uq.attacks.checks import check_attack, check_gradient
from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.craft import Attacker
from kaldi_uq.attacks.evaluation import evaluate_examples, evasion, shown, summarise
from kaldi_uq.attacks.methods import make_strategy
from kaldi_uq.cli.adaptive_options import add_fit, fit_file, fit_sentries
from kaldi_uq.cli.model_options import (
    add_data_and_graph,
    add_model_arguments,
    audio_digest,
    decoding_inputs,
    load_model,
    model_name,
    waves_of,
)
from kaldi_uq.cli.options import directory, engine_of, non_negative_int, start_logging
from kaldi_uq.config import config_from
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.io.datadir import DataDir, c_sorted, invert_utt2spk, read_table, write_table
from kaldi_uq.io.files import DoneStamp, read_json, write_json, write_text
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.wav import on_grid, read_wav
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.results.table import Results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_and_graph(parser)
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR")
    parser.add_argument("--lang-dir", type=directory, required=True, metavar="LANG-DIR", help="lexicon of the targets")
    parser.add_argument("--attack", default="pgd", help="name under which results are filed [pgd]")
    parser.add_argument(
        "--num-utts", type=non_negative_int, default=0, help="attack so many utterances, spread over the data; 0: all"
    )
    parser.add_argument("--target-text", metavar="FILE", help="table utt -> target words; default: random targets")
    parser.add_argument(
        "--random-targets",
        choices=("words", "grammar"),
        default="words",
        help="words of the lexicon strung together, or sentences of the language model, LANG-DIR/G.fst [words]",
    )
    parser.add_argument("--results", metavar="FILE", help="also record the summary in this results.json")
    add_fit(parser)
    add_model_arguments(parser, AttackConfig, AdaptiveConfig)


def run(args: argparse.Namespace) -> None:
    start_logging()
    config, decode = config_from(args, AttackConfig), config_from(args, DecodeConfig)
    adaptive = config_from(args, AdaptiveConfig)
    if config.untargeted and args.target_text:
        raise UsageError(f"--target-text {args.target_text}: an untargeted attack has no target; leave it out")
    model = load_model(args)
    data = DataDir.read(args.data_dir, need=("wav.scp", "utt2spk", "text"))
    spoken = waves_of(data, model, allow_pipes=args.allow_pipes, cmvn_from=args.cmvn_from)
    waves = {utt: on_grid(wave) for utt, wave in spoken.items()}  # the attack is written as 16 bit
    inputs = [*decoding_inputs(args), args.data_dir / "text", args.lang_dir / "L.fst"]
    inputs += [Path(args.target_text)] if args.target_text else []
    fit = fit_file(args, adaptive)
    inputs += [fit] if fit else []
    for path in inputs:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    options = {"attack": args.attack, "config": config.to_dict(), "decode": decode.to_dict()}
    options |= {"num_utts": args.num_utts, "num_draws": args.num_draws, "audio": audio_digest(model, waves)}
    options |= {"random_targets": args.random_targets}
    options |= {"adaptive": adaptive.to_dict()} if adaptive.names else {}
    stamp = DoneStamp(args.out_dir, "attack", options=options, inputs=inputs)
    if not stamp.is_current():
        _attack(args, config, adaptive, fit_sentries(fit, adaptive), decode, model, data, waves, stamp)
        stamp.write()
    row = _summary(args, config if model.network.is_random else replace(config, eot_samples=1), adaptive)
    if args.results:
        Results(args.results).add_attack(row)
    reached = "" if config.untargeted else f"target accuracy {row['target_accuracy']:.3f}, "
    reached += f"evasion {row['evasion']:.3f}, " if "evasion" in row else ""
    print(
        f"{row['model']} {row['attack']} eps {row['eps']:g}: {reached}"
        f"original accuracy {shown(row['original_accuracy'])}, {row['num_utts']} utterances"
    )


def _attack(
    args: argparse.Namespace,
    config: AttackConfig,
    adaptive: AdaptiveConfig,
    sentries: Sentries | None,
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
    try:
        strategy = make_strategy(config, adaptive, sentries)
    except ValueError as error:
        raise UsageError(str(error)) from None
    engine = engine_of(args)
    attacker = Attacker.of_recipe(
        model,
        engine,
        args.model_dir,
        Lang.read(args.lang_dir),
        decode,
        graph_dir=args.graph_dir,
        num_draws=args.num_draws or None,
        random_targets=args.random_targets,
    )
    targets_name = str(args.data_dir / "text") if config.untargeted else args.target_text or ""
    attacker.choose(waves, text, config, targets, targets_name)  # a mistake in them leaves an earlier result in place
    stamp.clear()
    (args.out_dir / "results.jsonl").unlink(missing_ok=True)
    crafted = attacker.craft(
        waves,
        text,
        config,
        args.out_dir,
        targets=targets,
        targets_name=targets_name,
        key=stamp.key,
        strategy=strategy,
    )
    scp = {utt: str(args.out_dir / "wav" / f"{utt}.wav") for utt in waves}
    for left_over in {str(path) for path in (args.out_dir / "wav").rglob("*.wav")} - set(scp.values()):
        Path(left_over).unlink()  # of an earlier attack on more utterances
    rate = model.front_end.sample_rate
    heard = {utt: read_wav(path, expected_rate=rate)[0] for utt, path in scp.items()}
    aims = None if config.untargeted else {utt: crafted[utt]["target"] for utt in waves}
    lines = evaluate_examples(
        model,
        engine,
        args.model_dir,
        args.graph_dir,
        decode,
        waves,
        heard,
        aims,
        text,
        num_draws=args.num_draws or None,
        seed=config.seed + 1,  # other draws than the attack's own
    )
    for line in lines:
        record = crafted[line["utt"]]
        line |= {"eps": config.eps, **{name: value for name, value in record.items() if name != "target"}}
    if sentries is not None:  # what the strategy says of them is of the draws that it chose the example by
        for line in lines:
            line |= sentries.record(line["statistics"])
    text_of_lines = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    checks = check_attack(waves, heard, crafted, config) | check_gradient(model, waves, seed=config.seed)
    write_json(args.out_dir / "checks.json", checks)
    write_table(args.out_dir / "wav.scp", scp)
    utt2spk = {utt: data.utt2spk[utt] for utt in waves}
    write_table(args.out_dir / "utt2spk", utt2spk)
    write_table(args.out_dir / "spk2utt", {spk: " ".join(utts) for spk, utts in invert_utt2spk(utt2spk).items()})
    write_table(args.out_dir / "text", {utt: " ".join(text[utt]) for utt in waves})
    (args.out_dir / "target_text").unlink(missing_ok=True)  # of an earlier attack, which may have had targets
    if aims is not None:
        write_table(args.out_dir / "target_text", {utt: " ".join(words) for utt, words in aims.items()})
    write_text(args.out_dir / "results.jsonl", text_of_lines)


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


def _summary(args: argparse.Namespace, config: AttackConfig, adaptive: AdaptiveConfig) -> dict[str, Any]:
    lines = [json.loads(line) for line in (args.out_dir / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    row = {
        "model": model_name(args.model_dir),
        "attack": args.attack,
        "eps": config.eps,
        **summarise(lines),
        "options": config.to_dict(),
        "checks": read_json(args.out_dir / "checks.json"),
    }
    if adaptive.names:
        row |= {"adaptive": adaptive.to_dict(), "evasion": evasion(lines)}
    return row
