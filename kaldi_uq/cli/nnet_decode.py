"""Decode a benign data directory with a hybrid model and measure its uncertainty.

Writes OUT-DIR/results.jsonl (one line an utterance: text, hypothesis, errors, statistics), OUT-DIR/hypotheses and
OUT-DIR/frame_quantiles.json (quantiles of each measure over all frames: what is normal in one frame).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kaldi_uq.cli.model_options import (
    add_data_and_graph,
    add_model_arguments,
    audio_digest,
    decoding_inputs,
    load_model,
    model_name,
    waves_of,
)
from kaldi_uq.cli.options import add_jobs, add_lattices, engine_of, non_negative_int, start_logging
from kaldi_uq.config import config_from
from kaldi_uq.detector.normal import FILE_NAME, FrameCounter, save_frame_quantiles
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.engine.select import engine_name
from kaldi_uq.io.datadir import DataDir, write_table
from kaldi_uq.io.files import DoneStamp, file_digest, write_text
from kaldi_uq.recogniser.hybrid import MODEL_FILE
from kaldi_uq.recogniser.scores import decode_waves
from kaldi_uq.results.table import Results
from kaldi_uq.results.word_errors import ErrorRate, align_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_and_graph(parser)
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR")
    parser.add_argument("--results", metavar="FILE", help="also record the accuracy in this results.json")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the draws [0]")
    add_model_arguments(parser)
    add_jobs(parser)
    add_lattices(parser)


def run(args: argparse.Namespace) -> None:
    start_logging()
    decode = config_from(args, DecodeConfig)
    inputs = [*decoding_inputs(args), args.data_dir / "text"]
    model = load_model(args)
    data = DataDir.read(args.data_dir, need=("wav.scp", "utt2spk", "text"))
    waves = waves_of(data, model, allow_pipes=args.allow_pipes, cmvn_from=args.cmvn_from)
    options = {"decode": decode.to_dict(), "seed": args.seed, "num_draws": args.num_draws}
    options["audio"] = audio_digest(model, waves)
    stamp = DoneStamp(args.out_dir, "decode", options=options, inputs=inputs)
    without_lattices = not args.lattices or engine_name(args.engine) != "kaldi"  # only that engine makes them
    whole = (args.out_dir / FILE_NAME).is_file() and (without_lattices or any(args.out_dir.glob("lat.*.gz")))
    if not (stamp.is_current() and whole):
        engine = engine_of(args, args.out_dir)
        for old in args.out_dir.glob("lat.*.gz"):
            old.unlink()
        counter = FrameCounter()
        stamp.clear()
        (args.out_dir / "results.jsonl").unlink(missing_ok=True)
        hypotheses, statistics = decode_waves(
            model,
            waves,
            engine,
            args.model_dir,
            args.graph_dir,
            decode,
            num_draws=args.num_draws or None,
            seed=args.seed,
            desc=f"decoding {data.path.name}",
            observe=lambda _, scores: counter.add(scores.frames),
        )
        lines = []
        for utt in data.utts:
            words = hypotheses[utt].words
            record = {
                "utt": utt,
                "text": data.text[utt],
                "hypothesis": " ".join(words),
                "errors": align_words(data.words(utt), words).counts(),
                "statistics": statistics[utt],
            }
            lines.append(json.dumps(record, allow_nan=False))
        save_frame_quantiles(counter.result(model=file_digest(args.model_dir / MODEL_FILE)), args.out_dir / FILE_NAME)
        write_text(args.out_dir / "results.jsonl", "\n".join(lines) + "\n")
        write_table(args.out_dir / "hypotheses", {utt: " ".join(hypotheses[utt].words) for utt in data.utts})
        stamp.write()
    total = total_errors(args.out_dir / "results.jsonl")
    if args.results:
        Results(args.results).set_clean(model_name(args.model_dir), total)
    print(total.kaldi_line())


def total_errors(path: Path) -> ErrorRate:
    """The summed counts of a ``results.jsonl``."""
    from kaldi_uq.results.utterances import read_benign

    rates = [record.errors for record in read_benign(path)]
    return sum(rates[1:], start=rates[0])
