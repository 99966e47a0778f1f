"""Search near scored audio for small changes after which a model hears other words; adds the statistic "consistency".

SCORE-DIR holds results.jsonl of nnet-decode or nnet-attack, DATA-DIR its audio: of an attack both are the attack's
directory.  The statistic is the number of words that the search changes, plus a number below 1 that orders utterances
with the same one.  It is fitted, measured and used as others are, by fit-detector, nnet-detect and detect (--statistic
consistency-one-sided), but for detectors of all statistics, which do without it.

The search is one of the model: its options are kept in MODEL-DIR/consistency.json by the first call, and further calls
have the same.  --eps is best half of the eps of the attacks that are to be refused, at the same --eps-level.

 e.g.: kaldi-uq nnet-consistency --eps 0.01 --eps-level 0.05 \\
         data/test exp/dnn exp/dnn/graph exp/dnn/score_test
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from kaldi_uq.attacks.config import SearchConfig
from kaldi_uq.cli.model_options import add_data_and_graph, add_model_arguments, model_name, open_recogniser, sources_of
from kaldi_uq.cli.options import directory, start_logging
from kaldi_uq.config import config_from
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.results.names import CONSISTENCY

SHOWN = (0, 1, 2, 4)  # words that may change, in the log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_data_and_graph(parser)
    parser.add_argument("score_dir", type=directory, metavar="SCORE-DIR", help="directory with results.jsonl")
    add_model_arguments(parser, SearchConfig)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.attacks.consistency import SEARCH_FILE, consistency, model_search
    from kaldi_uq.attacks.directory import read_lines, write_lines
    from kaldi_uq.io.datadir import DataDir
    from kaldi_uq.io.files import DoneStamp, write_json

    start_logging()
    path = args.model_dir / SEARCH_FILE
    kept = model_search(args.model_dir) if path.is_file() else None
    config = config_from(args, SearchConfig, beneath=kept.to_dict() if kept else None)
    if kept and kept != config:
        raise UsageError(
            f"{path}: the search of this model has other options: {_differences(kept, config)}; ask for the same, or "
            "remove the file and search near all its scored audio again"
        )
    if not (args.score_dir / "results.jsonl").is_file():
        raise DataError(f"{args.score_dir / 'results.jsonl'}: no such file; nnet-decode and nnet-attack write it")
    lines = read_lines(args.score_dir)
    data = DataDir.read(args.data_dir, need=("wav.scp", "utt2spk"))
    utts = [line["utt"] for line in lines]
    missing = [utt for utt in utts if utt not in data.utt2spk]
    if missing:
        raise DataError(f"{data.path}: no utterance {missing[0]!r}, which is in {args.score_dir} (of {len(missing)})")
    recogniser = open_recogniser(args, work_dir=args.score_dir)
    recogniser, waves = recogniser.read(
        data, utts=utts, allow_pipes=args.allow_pipes, resample=args.resample, sources=sources_of(args)
    )
    options = {**recogniser.settings, "search": config.to_dict(), "audio": recogniser.audio_key(waves)}
    stamp = DoneStamp(args.score_dir, CONSISTENCY, options=options, inputs=recogniser.files)
    if not (stamp.is_current() and all(CONSISTENCY in line["statistics"] for line in lines)):
        stamp.clear()
        found = consistency(recogniser, waves, config)
        for line in lines:
            line["statistics"][CONSISTENCY] = found[line["utt"]].value
            line["nearby"] = " ".join(found[line["utt"]].worst)
        if not kept:
            write_json(path, config.to_dict())
        write_lines(args.score_dir, lines)
        stamp.write()
    print(_summary(model_name(args.model_dir), args.score_dir.resolve().name, lines))


def _differences(kept: SearchConfig, asked: SearchConfig) -> str:
    new = asked.to_dict()
    return ", ".join(f"{name} {value}, not {new[name]}" for name, value in kept.to_dict().items() if value != new[name])


def _summary(model: str, name: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """How many utterances have more than some words changed: all, and of an attack those that reach their target."""
    reached = [line for line in lines if line.get("target_success")]
    text = [f"{model} {name}: {_shares(lines)} of {len(lines)} utterances"]
    if any("target_success" in line for line in lines):
        text.append(f"{_shares(reached)} of {len(reached)} that reach their target" if reached else "none reaches it")
    return "; ".join(text)


def _shares(lines: Sequence[Mapping[str, Any]]) -> str:
    errors = [int(line["statistics"][CONSISTENCY]) for line in lines]
    return ", ".join(f"more than {k} words change in {sum(e > k for e in errors) / len(errors):.3f}" for k in SHOWN)
