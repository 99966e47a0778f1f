"""Certify a model: how small must a change of the audio be so that none makes the recogniser write another text?

Writes OUT-DIR/results.jsonl, a line an utterance: the largest eps of --eps within which no change of the waveform makes
the recogniser write the target (eps_target), and within which it always writes the same words (eps_any); 0 if none is
certified.  What is proved is of the recogniser in exact arithmetic and of a Viterbi search without a beam; the float32
rounding of a real decoder, and its beam, are not part of it.  For networks of kind dnn and ensemble; dropout and bnn
are random and not certified.

 e.g.: kaldi-uq nnet-certify --eps 0.0001,0.001 exp/dnn data/attack \\
         exp/dnn/certificate
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaldi_uq.cli.model_options import add_model_arguments, model_name, open_recogniser
from kaldi_uq.cli.nnet_attack import spread_utts
from kaldi_uq.cli.options import add_audio, directory, non_negative_int, start_logging
from kaldi_uq.errors import DataError, UsageError

if TYPE_CHECKING:
    from kaldi_uq.certificate.certify import Certificate

RANDOM = "random"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR", help="model, such as exp/dnn")
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR", help="data directory, with wav.scp and text")
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR", help="directory to write, such as exp/dnn/certificate")
    parser.add_argument(
        "--eps",
        required=True,
        metavar="LIST",
        help="largest changes of a sample to try, full scale 1, separated by commas",
    )
    parser.add_argument(
        "--targets",
        default=RANDOM,
        metavar="FILE",
        help="table utt -> target words, or 'random': the targets of nnet-attack with the same seed [random]",
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the random targets [0]")
    parser.add_argument(
        "--num-utts",
        type=non_negative_int,
        default=0,
        help="certify so many utterances, spread over the data; 0: all [0]",
    )
    parser.add_argument("--graph-dir", type=directory, metavar="DIR", help="directory of HCLG.fst [MODEL-DIR/graph]")
    parser.add_argument("--lang-dir", type=directory, metavar="DIR", help="lexicon of random targets [data/lang]")
    parser.add_argument("--results", metavar="FILE", help="also record the shares in this results.json")
    add_audio(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.attacks.goal import Say
    from kaldi_uq.certificate.cells import check_front_end
    from kaldi_uq.certificate.certify import certify
    from kaldi_uq.io.datadir import DataDir, read_table
    from kaldi_uq.io.files import write_text
    from kaldi_uq.recogniser.recogniser import Recogniser
    from kaldi_uq.results.table import Results

    start_logging()
    grid = _grid(args.eps)
    data = DataDir.read(args.data_dir, need=("wav.scp", "utt2spk", "text"))
    recogniser = open_recogniser(args)
    try:
        if isinstance(recogniser, Recogniser):
            check_front_end(recogniser.model.front_end.config)
    except ValueError as error:
        raise UsageError(f"{args.model_dir}: {error}") from None
    recogniser, waves = recogniser.read(
        data, utts=spread_utts(data, args.num_utts), allow_pipes=args.allow_pipes, resample=args.resample
    )
    text = {utt: data.words(utt) for utt in waves}
    table = None if args.targets == RANDOM else read_table(args.targets, check_sorted=False)
    missing = [utt for utt in waves if table is not None and utt not in table]
    if missing:
        raise DataError(f"{args.targets}: no target for utterance {missing[0]!r} ({len(missing)} are missing)")
    chosen = None if table is None else {utt: table[utt].split() for utt in waves}
    targets = Say(chosen, spoken=text, where=args.targets).choose(recogniser, waves, args.seed)
    start = time.monotonic()
    try:
        found = certify(recogniser, waves, grid, targets)
    except ValueError as error:
        raise UsageError(str(error)) from None
    seconds = time.monotonic() - start
    lines = [json.dumps(_line(utt, " ".join(text[utt]), found[utt]), allow_nan=False) for utt in waves]
    write_text(args.out_dir / "results.jsonl", "\n".join(lines) + "\n")
    rows = [_row(model_name(args.model_dir), eps, text, found) for eps in grid]
    if args.results:
        Results(args.results).add_certified(rows)
    for row in rows:
        print(
            f"{row['model']} eps {row['eps']:g}: certified against the target {row['against_target']:.3f}, against any "
            f"other text {row['against_any']:.3f}, and right {row['right']:.3f}, {row['num_utts']} utterances"
        )
    print(f"{seconds:.0f} seconds")


def _grid(text: str) -> list[float]:
    try:
        grid = sorted({float(part) for part in text.split(",")})
    except ValueError:
        grid = []
    if not grid or not all(0 < eps <= 1 for eps in grid):
        raise UsageError(f"--eps {text}: expected numbers in (0, 1], separated by commas")
    return grid


def _line(utt: str, text: str, found: Certificate) -> dict[str, Any]:
    def finite(lead: float) -> float | None:
        return lead if math.isfinite(lead) else None  # no path that long writes the target

    return {
        "utt": utt,
        "text": text,
        "hypothesis": " ".join(found.words),
        "target": " ".join(found.target or ()),
        "eps_target": found.eps_target,
        "eps_any": found.eps_any,
        "leads": [{"eps": e, "target": finite(t), "any": finite(a)} for e, (t, a) in found.leads.items()],
    }


def _row(model: str, eps: float, text: dict[str, list[str]], found: dict[str, Certificate]) -> dict[str, Any]:
    """The shares of utterances that are certified at an eps."""
    stays = [utt for utt in found if found[utt].eps_any >= eps]
    return {
        "model": model,
        "eps": eps,
        "num_utts": len(found),
        "against_target": sum(one.eps_target >= eps for one in found.values()) / len(found),
        "against_any": len(stays) / len(found),
        "right": sum(list(found[utt].words) == text[utt] for utt in stays) / len(found),
    }
