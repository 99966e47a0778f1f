"""Play the examples made against one model to another: what does it hear, and how certain is it?

ATTACK-DIR is of nnet-attack, against any model of the same words; the audio before the attack is in ORIGINAL-DATA-DIR.
Writes OUT-DIR/results.jsonl, as nnet-attack does.  With the attacked model itself as MODEL-DIR the examples are judged
again, by other draws of a random model.

 e.g.: kaldi-uq nnet-transfer exp/dnn/attack_pgd_eps0.02 data/attack exp/bnn \\
         exp/bnn/graph exp/bnn/transfer_dnn_pgd_eps0.02
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kaldi_uq.cli.model_options import (
    add_model_arguments,
    add_speaker_sources,
    directory_or_none,
    model_name,
    open_recogniser,
    sources_of,
)
from kaldi_uq.cli.options import add_audio, directory, non_negative_int, start_logging
from kaldi_uq.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("attack_dir", type=directory, metavar="ATTACK-DIR", help="the examples")
    parser.add_argument("data_dir", type=directory, metavar="ORIGINAL-DATA-DIR", help="what was attacked")
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR", help="the model that listens")
    parser.add_argument("graph_dir", type=directory_or_none, metavar="GRAPH-DIR", help="directory with HCLG.fst")
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR", help="directory to write")
    parser.add_argument("--source", help="name of the attacked model in the results [of the directory of ATTACK-DIR]")
    parser.add_argument("--attack", help="name of the attack in the results [from attack_<name>_eps<eps>]")
    parser.add_argument("--results", metavar="FILE", help="also record the summary in this results.json")
    parser.add_argument(
        "--seed", type=non_negative_int, default=2, help="seed of the draws; nnet-attack uses 0 and 1 [2]"
    )
    add_speaker_sources(parser)
    add_model_arguments(parser)
    add_audio(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.attacks.directory import read_lines, score_examples, shown, summarise, write_lines
    from kaldi_uq.io.datadir import DataDir
    from kaldi_uq.io.files import DoneStamp
    from kaldi_uq.io.wav import on_grid
    from kaldi_uq.io.waves import waves_digest
    from kaldi_uq.results.table import Results
    from kaldi_uq.results.utterances import attack_of, read_attacked

    start_logging()
    examples = read_attacked(args.attack_dir / "results.jsonl")
    if not examples:
        raise DataError(f"{args.attack_dir / 'results.jsonl'}: empty; attack again")
    attack = args.attack or attack_of(args.attack_dir)[0]
    source = args.source or model_name(Path(os.path.abspath(args.attack_dir)).parent)
    recogniser = open_recogniser(args)
    _, attacked = recogniser.read(DataDir.read(args.attack_dir))
    # the speakers' statistics are of the benign audio, which an attack on one utterance does not move
    data = DataDir.read(args.data_dir)
    recogniser, spoken = recogniser.read(
        data, allow_pipes=args.allow_pipes, resample=args.resample, sources=sources_of(args)
    )
    originals = spoken.map(on_grid)
    for record in examples:
        for where, waves in ((args.attack_dir, attacked), (args.data_dir, originals)):
            if record.utt not in waves:
                raise DataError(f"{where / 'wav.scp'}: no utterance {record.utt!r}, which {args.attack_dir} attacked")
        if attacked.lengths[record.utt] != originals.lengths[record.utt]:
            raise DataError(f"{args.data_dir}: utterance {record.utt!r} is not the one that was attacked: other length")
    originals, attacked = (waves.subset([record.utt for record in examples]) for waves in (originals, attacked))
    options = {**recogniser.settings, "seed": args.seed}
    options["audio"] = [recogniser.audio_key(originals), waves_digest(attacked)]
    inputs = [*recogniser.files, args.attack_dir / "results.jsonl"]
    stamp = DoneStamp(args.out_dir, "transfer", options=options, inputs=inputs)
    if not (stamp.is_current() and (args.out_dir / "results.jsonl").is_file()):
        has_target = examples[0].target_errors is not None
        lines = score_examples(
            recogniser,
            originals,
            attacked,
            {record.utt: record.target.split() for record in examples} if has_target else None,
            {record.utt: record.original.split() for record in examples},
            seed=args.seed,
            desc=f"examples of {source}",
        )
        for line, record in zip(lines, examples, strict=True):
            line["eps"] = record.eps
        stamp.clear()
        write_lines(args.out_dir, lines)
        stamp.write()
    row = {
        "source": source,
        "model": model_name(args.model_dir),
        "attack": attack,
        "eps": max(record.eps for record in examples),
        **summarise(read_lines(args.out_dir)),
    }
    if args.results:
        Results(args.results).add_transfer(row)
    reached = "" if row["target_accuracy"] is None else f"target accuracy {row['target_accuracy']:.3f}, "
    print(
        f"{source} {attack} eps {row['eps']:g} on {row['model']}: {reached}"
        f"original accuracy {shown(row['original_accuracy'])}, {row['num_utts']} utterances"
    )
