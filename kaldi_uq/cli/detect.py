"""Judge audio files with a trained model: is this audio an attack, what is heard in it, and which parts are suspicious.

The score says how unlike that of benign speech the model's uncertainty is; above the threshold the verdict is attack.
The p-value is the share of benign speech with such a score or a higher one, by the detector's model of it.  Of several
statistics the three that are most unlike benign speech are shown.  A part is suspicious where the measure of the
(first) statistic is, for at least 2 frames on end, above the --frame-quantile of
benign frames.  A strong attack can make a network more certain than benign speech does: then no part stands out.

With --statistic consistency-one-sided other words are searched for near the audio, as nnet-consistency does: that takes
longer, and no part is suspicious.

A model that normalises by speaker (--cmvn speaker) takes each file for a speaker of its own.  One that was trained on
features with fMLLR needs the speaker's transform: --transform-dir DIR --speaker SPK.

The verdict on a file does not depend on the other files of the call; that of a model with random draws varies a little
with --seed.

WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU, CAF, Wave64 and SPHERE are read, as their contents say and not their
names.  Audio of another rate or with channels that differ is an error, unless --resample or --channel say what is to
be heard: a gate must hear what the recogniser behind it hears, and resampling can undo an attack, or make one.  What
was converted is said.

Without MODEL-DIR the model that comes with the package listens: English digits, oh and zero to nine, at 16 kHz.

 e.g.: kaldi-uq detect --resample digits.wav

As a gate in front of a recogniser: a file - is standard input, and --fail-on-attack makes an attack an exit status
of its own.  A file that is missing, damaged, too short, silent, of another rate or larger than --max-mb gets a line
that says so; the others are judged.  If the model or its detector cannot be used, nothing is.

Exit status, the first that holds:

 1  error: a file could not be judged, or none could
 2  with --fail-on-attack: a file is an attack
 0  every file was judged; with --fail-on-attack, and is benign
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kaldi_uq.cli.model_options import (
    STDIN,
    add_model_and_files,
    add_model_arguments,
    add_speaker,
    open_recogniser,
    stdin_stream,
    take_model_dir,
)
from kaldi_uq.cli.options import (
    add_audio,
    add_channel,
    conversion_of,
    directory,
    non_negative_int,
    positive_int,
    rate,
)
from kaldi_uq.errors import DataError, KaldiUqError, ModelFileError, UsageError, printable
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.pipes import check_leave
from kaldi_uq.lattice.names import LATTICE_STATISTICS
from kaldi_uq.results.names import APART, CONSISTENCY, GATE, PROBABILITIES

if TYPE_CHECKING:  # --help needs no torch
    import numpy as np

    from kaldi_uq.detector import OneClassDetector
    from kaldi_uq.detector.judge import Verdict
    from kaldi_uq.detector.normal import Normal
    from kaldi_uq.io.conversion import Conversion
    from kaldi_uq.io.recording import Recording
    from kaldi_uq.io.wav import Source
    from kaldi_uq.recogniser.base import BaseRecogniser

MAX_MB = 128  # of a file: more than an hour of 16 kHz


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_model_and_files(parser, f"audio to judge, of the model's sample rate; {STDIN}: standard input")
    parser.add_argument("--scp", metavar="FILE", help="judge the files of this wav.scp instead")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--statistic",
        metavar="NAME",
        help=f"use the detector MODEL-DIR/detector/NAME.json [{GATE}: all statistics together]",
    )
    which.add_argument("--detector", type=Path, metavar="FILE", help="use the detector in this file instead")
    parser.add_argument(
        "--fpr",
        type=rate,
        help="another threshold, for this false-positive rate (above 0, below 1) by the detector's own benign model, "
        "which for a Gaussian one is a quantile of the normal [the saved threshold]",
    )
    parser.add_argument(
        "--frame-quantile",
        type=float,
        choices=PROBABILITIES,
        default=0.99,
        help="quantile of benign frames that a suspicious one exceeds [0.99]",
    )
    parser.add_argument(
        "--graph-dir", type=directory, metavar="DIR", help="decoding graph, for the words heard [MODEL-DIR/graph]"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a file, one a line: path, verdict, score, threshold, p_value, value, hypothesis, "
        "suspicious_frames ([start, end] in seconds), suspicious_values (the peak of each), converted (what was done "
        "to the audio before, or null), ...; of a file that cannot be judged: path, verdict (error), error",
    )
    parser.add_argument("--fail-on-attack", action="store_true", help="exit with status 2 if a file is an attack")
    parser.add_argument(
        "--max-mb",
        type=positive_int,
        default=MAX_MB,
        metavar="N",
        help=f"refuse files of more than N million bytes, unpacked; an hour of 16 kHz has 115 [{MAX_MB}]",
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the draws of a random model [0]")
    add_model_arguments(parser)
    add_audio(parser)
    add_channel(parser)
    add_speaker(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from kaldi_uq.detector.judge import by_utterance, judge_each
    from kaldi_uq.detector.shown import outcome_lines, outcome_record
    from kaldi_uq.io.wav import source_name
    from kaldi_uq.recogniser.audio import with_more

    take_model_dir(args, "kaldi-uq detect")
    files = _files(args)
    recogniser = open_recogniser(args, words=args.graph_dir is not None)
    path, detector = _detector(args, recogniser)
    if not set(LATTICE_STATISTICS).isdisjoint(detector.statistics):
        recogniser.lattice_statistics = True
        if recogniser.why_no_words:
            raise ModelFileError(f"{recogniser.why_no_words}; {path} looks at lattices")
    normal = _normal(args, path, detector, recogniser)
    if recogniser.why_no_words:
        _note(f"{recogniser.why_no_words}.  The words heard are not printed without it")
    header = [f"{path} ({detector.kind}, false-positive rate {detector.fpr:g})"]
    attacks, problems = 0, list[KaldiUqError]()
    conversion = conversion_of(args, recogniser.sample_rate)
    outcomes = judge_each(
        [wav for _, wav in files],
        lambda wav: _read(args, recogniser, wav, conversion),
        by_utterance(lambda utts: _judge(args, recogniser, detector, normal, utts)),
    )
    for (utt, wav), (_, outcome) in zip(files, outcomes, strict=True):
        if isinstance(outcome, KaldiUqError):
            problems.append(outcome)
        else:
            attacks += outcome.attack
        converted = conversion.done.get(source_name(*_source(args, wav)))
        if args.json:
            record = outcome_record(outcome, detector, normal, converted=converted.record() if converted else None)
            whose = ({} if utt is None else {"utt": utt}) | {"path": _name(wav)}
            _print(json.dumps(whose | record, allow_nan=False))
        else:
            name = wav if utt is None else f"{utt} {wav}"
            lines = outcome_lines(name, outcome, detector, normal, converted=str(converted or ""), path=wav)
            _print(*map(printable, header), *lines)
            header = []
    conversion.report(args.scp or "audio", len(files))
    if not args.json:
        failed = f"; {len(problems)} cannot be judged" if problems else ""
        _print(f"{attacks} of {len(files)} {'file' if len(files) == 1 else 'files'} judged an attack{failed}")
    if problems:
        more = f"; {len(problems) - 1} more cannot be judged" if len(problems) > 1 else ""
        raise with_more(problems[0] if isinstance(problems[0], DataError) else str(problems[0]), more)
    return 2 if args.fail_on_attack and attacks else 0


def _print(*lines: str) -> None:
    """Print at once: who reads a gate's verdicts waits for them."""
    print(*lines, sep="\n", flush=True)


def _source(args: argparse.Namespace, wav: str) -> tuple[Source, str]:
    """What one of the files is read from, and where that is named, for messages."""
    return (sys.stdin.buffer, "standard input") if wav == STDIN and not args.scp else (wav, args.scp or "")


def _read(
    args: argparse.Namespace, recogniser: BaseRecogniser, wav: str, conversion: Conversion
) -> np.ndarray | Recording:
    """Read one of the files, (N,) float32; long audio stays in it."""
    from kaldi_uq.detector.judge import GROUP_SAMPLES
    from kaldi_uq.recogniser.audio import open_audio

    source, where = _source(args, wav)
    return open_audio(
        source,
        recogniser.sample_rate,
        recogniser.min_samples,
        GROUP_SAMPLES,
        where=where,
        allow_pipes=args.allow_pipes,
        max_bytes=args.max_mb * 1_000_000,
        resampler=conversion,
    )


def _judge(
    args: argparse.Namespace,
    recogniser: BaseRecogniser,
    detector: OneClassDetector,
    normal: Normal | None,
    waves: Mapping[str, np.ndarray | Recording],
) -> dict[str, Verdict]:
    """Judge some utterances, measured as the detector wants them."""
    from kaldi_uq.detector.judge import judge

    measured = None
    if CONSISTENCY in detector.statistics:
        from kaldi_uq.attacks.consistency import consistency, model_search

        whole = {utt: wave[:] for utt, wave in waves.items()}
        found = consistency(recogniser, whole, model_search(args.model_dir), alone=True)
        measured = {utt: one.statistics for utt, one in found.items()}
    return judge(recogniser, detector, waves, normal=normal, seed=args.seed, measured=measured)


def _files(args: argparse.Namespace) -> list[tuple[str | None, str]]:
    """(utt, path) of the files to judge; utt is ``None`` for files of the command line."""
    if bool(args.scp) == bool(args.wavs):
        raise UsageError("give WAV files, or --scp FILE" + (", not both" if args.scp else ""))
    if args.wavs:
        stdin_stream(args.wavs)
        return [(None, wav) for wav in args.wavs]
    table = read_table(args.scp, check_sorted=False)
    for number, (utt, wav) in enumerate(table.items(), 1):
        check_leave(wav, where=f"{args.scp}:{number}: {utt!r}", allow_pipes=args.allow_pipes)
    return list(table.items())


def _detector(args: argparse.Namespace, recogniser: BaseRecogniser) -> tuple[Path, OneClassDetector]:
    """The detector that the options ask for and its file, with the threshold to use."""
    from kaldi_uq.detector.store import choose_detector, load_detector

    path = args.detector
    if path and path.is_dir():
        raise UsageError(f"{path}: a directory, expected the JSON file of a detector, such as {path}/{GATE}.json")
    path = path or choose_detector(args.model_dir, args.statistic, recommended=recogniser.recommended_statistic)
    detector = load_detector(path)
    if args.fpr is not None:
        detector.calibrate(args.fpr)
    if detector.threshold is None:
        raise DataError(f"{path}: this detector has no threshold; choose one with --fpr, such as --fpr 0.01")
    return path, detector


def _normal(
    args: argparse.Namespace, detector_path: Path, detector: OneClassDetector, recogniser: BaseRecogniser
) -> Normal | None:
    """What is normal in a frame, for the measure of the statistic; ``None``, with a note, if the file is missing."""
    from kaldi_uq.detector.normal import FILE_NAME, normal_of

    if not set(APART).isdisjoint(detector.statistics):  # of the whole utterance
        return None
    path = detector_path.parent / FILE_NAME
    if not path.is_file():
        _note(
            f"{path}: no such file, so that no part of the audio can be called suspicious; kaldi-uq fit-detector makes "
            "it"
        )
        return None
    of_model = {"model_dir": args.model_dir, "model": recogniser.model_key}
    return normal_of(path, detector.statistics[0], args.frame_quantile, **of_model)


def _name(path: str) -> str:
    """The path as text that JSON can hold: a file name may be any bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _note(text: str) -> None:
    print(f"kaldi-uq detect: {printable(text)}", file=sys.stderr)
