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
    model_name,
    open_recogniser,
    read_data_for,
    sources_of,
)
from kaldi_uq.cli.options import (
    add_jobs,
    add_lattice_statistics,
    add_lattices,
    add_max_bad,
    add_shard,
    non_negative_int,
    shard_of,
    start_logging,
)
from kaldi_uq.engine.config import engine_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_data_and_graph(parser)
    add_max_bad(parser)
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR", help="directory to write, such as exp/dnn/score_test")
    parser.add_argument("--results", metavar="FILE", help="also record the accuracy in this results.json")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the draws [0]")
    add_shard(parser, "compute the network's part of", "decodes what they computed")
    add_model_arguments(parser)
    add_jobs(parser)
    add_lattices(parser)
    add_lattice_statistics(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.detector.normal import FILE_NAME, FrameCounter, save_frame_quantiles
    from kaldi_uq.io.datadir import write_table
    from kaldi_uq.io.files import DoneStamp, write_text
    from kaldi_uq.recogniser.parts import Parts
    from kaldi_uq.results.table import Results
    from kaldi_uq.results.utterances import by_speaker, read_benign
    from kaldi_uq.results.word_errors import align_words

    start_logging()
    shard = shard_of(args)
    recogniser = open_recogniser(args, work_dir=args.out_dir)
    data = read_data_for(args, recogniser, args.out_dir, text=True)
    recogniser, waves = recogniser.read(
        data, allow_pipes=args.allow_pipes, resample=args.resample, sources=sources_of(args)
    )
    options = {**recogniser.settings, "seed": args.seed, "audio": recogniser.audio_key(waves)}
    stamp = DoneStamp(args.out_dir, "decode", options=options, inputs=[*recogniser.files, args.data_dir / "text"])
    without_lattices = not args.lattices or bool(args.recogniser) or engine_name(args.engine) == "pykaldi"
    whole = (args.out_dir / FILE_NAME).is_file() and (without_lattices or any(args.out_dir.glob("lat.*.gz")))
    parts = Parts(args.out_dir / "parts", stamp.key, shard)
    if shard is not None:
        done = stamp.is_current() and whole
        made = 0 if done else sum(1 for _ in recogniser.score(waves, seed=args.seed, parts=parts))
        print(f"shard {args.shard}: " + ("all is up to date" if done else f"{made} of {len(waves)} utterances"))
        return
    if not (stamp.is_current() and whole):
        for old in args.out_dir.glob("lat.*.gz"):
            old.unlink()
        stamp.clear()
        (args.out_dir / "results.jsonl").unlink(missing_ok=True)
        counter = FrameCounter()
        heard = recogniser.hear(
            waves, seed=args.seed, frames_to=counter.add, parts=parts, desc=f"decoding {data.path.name}"
        )
        lines = []
        for utt in data.utts:
            words = heard[utt].words or ()
            record = {
                "utt": utt,
                "text": data.text[utt],
                "hypothesis": " ".join(words),
                "errors": align_words(data.words(utt), words).counts(),
                "statistics": heard[utt].statistics,
            }
            lines.append(json.dumps(record, allow_nan=False))
        save_frame_quantiles(counter.result(model=recogniser.model_key), args.out_dir / FILE_NAME)
        write_text(args.out_dir / "results.jsonl", "\n".join(lines) + "\n")
        write_table(args.out_dir / "hypotheses", {utt: " ".join(heard[utt].words or ()) for utt in data.utts})
        stamp.write()
        parts.remove()
    records = read_benign(args.out_dir / "results.jsonl")
    rates = [record.errors for record in records]
    total = sum(rates[1:], start=rates[0])
    if args.results:
        Results(args.results).set_clean(model_name(args.model_dir), total, by_speaker(records, data.utt2spk))
    print(total.kaldi_line())
