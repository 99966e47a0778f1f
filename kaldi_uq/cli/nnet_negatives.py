"""Measure detectors on benign but hard audio: how often do they call it an attack, how well do they tell it apart?

The detectors are those of DETECTOR-DIR if they were fitted on --fit, else such ones are fitted here.  Beside the
model's statistics stand two of the audio alone, level and noise floor: a detector that does no better than these
detects loudness.  SCORE-DIRs are of nnet-decode, ATTACK-DIRs of nnet-attack, all of one model.

 e.g.: kaldi-uq nnet-negatives --model dnn --kind white --level 10 \\
         --fit-data data/fit --fit exp/dnn/score_fit \\
         --data data/test_white10 --scored exp/dnn/score_test_white10 \\
         --results exp/results.json exp/dnn/attack_pgd_eps0.02
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kaldi_uq.audio.names import KINDS
from kaldi_uq.audio.names import STATISTICS as OF_THE_AUDIO
from kaldi_uq.cli.options import add_audio, directory, rate
from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.results.names import DETECTOR_DIR, GATE
from kaldi_uq.results.table import Results
from kaldi_uq.results.word_errors import ErrorRate

if TYPE_CHECKING:  # --help needs no numpy
    from kaldi_uq.results.utterances import AttackRecord, BenignRecord, FloatArray

CLEAN = "clean"  # for comparison: what the detectors were made for
SHOWN = (GATE, "max_predictive_entropy", "mean_predictive_entropy", *OF_THE_AUDIO)  # in the log; results.json has all
_KEPT = ("max_", "mean_")  # of the model's statistics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("attack_dirs", type=directory, nargs="*", metavar="ATTACK-DIR", help="attack_<name>_eps<eps>")
    parser.add_argument("--fit-data", type=directory, required=True, metavar="DATA-DIR", help="benign, to fit on")
    parser.add_argument("--fit", type=directory, required=True, metavar="SCORE-DIR", help="its scores")
    parser.add_argument(
        "--detector-dir", type=Path, metavar="DIR", help=f"directory of the detectors [FIT/../{DETECTOR_DIR}]"
    )
    parser.add_argument("--data", type=directory, required=True, metavar="DATA-DIR", help="the hard audio")
    parser.add_argument("--scored", type=directory, required=True, metavar="SCORE-DIR", help="its scores")
    parser.add_argument("--model", required=True, metavar="NAME", help="name of the model in the results")
    parser.add_argument(
        "--kind",
        choices=(*KINDS, CLEAN),
        required=True,
        help="kind of the hard audio, as of disturb-data, in the results",
    )
    parser.add_argument("--level", type=float, default=0.0, help="SNR in dB, RT60 in seconds or eps; clean: 0 [0]")
    parser.add_argument("--results", type=Path, required=True, metavar="FILE", help="results.json to add the rows to")
    parser.add_argument("--fpr", type=rate, default=0.01, help="false-positive rate of the threshold [0.01]")
    add_audio(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.detector.fit import detectors_of, fit_detectors
    from kaldi_uq.detector.gaussian import GaussianDetector
    from kaldi_uq.detector.negatives import evaluate_negatives
    from kaldi_uq.results.utterances import attack_of, read_attacked, read_benign

    records = read_benign(args.scored / "results.jsonl")
    how = {"allow_pipes": args.allow_pipes, "resample": args.resample}
    hard = _with_audio(records, args.data, **how)
    table = _with_audio(read_benign(args.fit / "results.jsonl"), args.fit_data, **how)
    detector_dir = args.detector_dir or args.fit.parent / DETECTOR_DIR
    detectors = detectors_of(detector_dir, args.fit / "results.jsonl", args.fpr, keep=False)
    of_the_audio = fit_detectors({name: table[name] for name in OF_THE_AUDIO}, args.fpr)
    gaussian = [
        ("+".join(detector.statistics), detector)
        for detector in (*detectors.values(), *of_the_audio.values())
        if isinstance(detector, GaussianDetector) and detector.statistics[0].startswith((*_KEPT, *OF_THE_AUDIO))
    ]
    named = [(GATE, detectors[GATE]), *gaussian]
    attacks = []
    for path in args.attack_dirs:
        attack, eps = attack_of(path)
        entry = {"attack": attack, "eps": eps}
        attacks.append((entry, _with_audio(read_attacked(path / "results.jsonl"), path)))
    errors = sum((record.errors for record in records), ErrorRate())
    common = {"model": args.model, "kind": args.kind, "level": args.level, "num_utts": len(records)}
    common["accuracy"] = errors.accuracy
    rows = evaluate_negatives(named, hard, attacks)
    Results(args.results).add_negatives([{**common, **row} for row in rows])
    for row in rows:
        if row["statistic"] not in SHOWN or row["sided"] != "two":
            continue
        tells = "".join(f", {e['attack']} eps {e['eps']:g}: AUROC {e['auroc']:.3f}" for e in row["auroc"])
        print(
            f"{args.model} {args.kind} {args.level:g} (accuracy {errors.accuracy:.3f}): {row['statistic']} calls "
            f"{row['fpr_at_threshold']:.3f} an attack{tells}"
        )


def _with_audio(
    records: list[BenignRecord] | list[AttackRecord],
    data_dir: Path,
    *,
    allow_pipes: bool = False,
    resample: bool = False,
) -> dict[str, FloatArray]:
    """The model's statistics of the scored utterances and those of the audio alone.

    Raises:
        DataError: the directory does not have one of the utterances.
    """
    import numpy as np

    from kaldi_uq.audio.loudness import loudness
    from kaldi_uq.io.waves import read_waves, sample_rate_of
    from kaldi_uq.results.utterances import statistics_table

    if not records:
        raise DataError(f"{data_dir}: no utterance of it was scored")
    table = statistics_table(records)
    data = DataDir.read(data_dir)
    missing = [record.utt for record in records if record.utt not in data.utt2spk]
    if missing:
        raise DataError(f"{data_dir / 'utt2spk'}: no utterance {missing[0]!r}, which was scored; scored other data?")
    rate = sample_rate_of(data, allow_pipes=allow_pipes)
    waves = read_waves(data, sample_rate=rate, allow_pipes=allow_pipes, resample=resample)
    measured = [loudness(waves[record.utt], rate) for record in records]
    return table | {name: np.array([values[name] for values in measured]) for name in OF_THE_AUDIO}
