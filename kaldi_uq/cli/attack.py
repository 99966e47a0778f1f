"""Attack audio files: make the recogniser write down a text of your choice, by changes of at most --eps a sample.

The result is written as 16-bit WAV of the same length, whatever the input is (WAV, FLAC, Ogg, MP3, ..., as of kaldi-uq
detect), read back and only then decoded: what is printed is what the recogniser hears in the file.  If
MODEL-DIR/detector holds a detector, its verdict is printed too.  With --statistics the attack knows the detectors of
these statistics, and tries to pass them as well.

The defaults are the strong attack, --preset pgd; another is asked for by its name, or by its file with --config.

 e.g.: kaldi-uq attack in.wav --target-text "one two" --model-dir exp/dnn \\
         --out out.wav

Without --model-dir the model that comes with the package is attacked: English digits, oh and zero to nine, at 16 kHz.

Every file is checked before any is attacked.  Exit status: 0 if all were attacked, whether they reach their target or
not; 1 if a file, the text or the model cannot be used, and then nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaldi_uq.attacks.config import ATTACK_CONFIGS, AdaptiveConfig, AttackConfig
from kaldi_uq.cli.attack_options import add_attack_choice, attack_of, read_donors
from kaldi_uq.cli.model_options import (
    STDIN,
    add_network_arguments,
    add_speaker,
    open_recogniser,
    starter_dir,
    stdin_stream,
)
from kaldi_uq.cli.options import add_channel, add_engine, add_resample, conversion_of, directory
from kaldi_uq.config import add_config_file, add_flags_once, config_from
from kaldi_uq.engine.config import DecodeConfig
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.models import STARTER

if TYPE_CHECKING:  # --help needs no torch
    from kaldi_uq.attacks.goal import Goal
    from kaldi_uq.detector import OneClassDetector
    from kaldi_uq.recogniser.base import BaseRecogniser

WIDTH = 80  # columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "wavs",
        nargs="+",
        type=Path,
        metavar="WAV",
        help=f"audio to attack, of the model's sample rate; {STDIN}: standard input, which is named stdin",
    )
    parser.add_argument(
        "--model-dir", type=directory, metavar="DIR", help=f"trained model, such as exp/dnn [{STARTER}]"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--target-text", metavar="TEXT", help="words that are to be heard, such as 'one two'")
    what.add_argument("--untargeted", action="store_const", const=True, help="instead: anything but what is heard now")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="WAV", help="file to write, where one file is attacked")
    where.add_argument("--out-dir", type=Path, metavar="DIR", help="directory to write, DIR/<name>.wav")
    parser.add_argument("--force", action="store_true", help="replace outputs that exist")
    parser.add_argument("--graph-dir", type=directory, metavar="DIR", help="decoding graph [MODEL-DIR/graph]")
    parser.add_argument(
        "--lang-dir",
        type=directory,
        metavar="DIR",
        help="language directory of the target's words [MODEL-DIR/../../data/lang, as in a recipe]",
    )
    parser.add_argument(
        "--statistic",
        metavar="NAME",
        help="detector whose verdict is printed, MODEL-DIR/detector/NAME.json [the one that detect asks]",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object a file, one a line, instead of text")
    add_resample(parser)
    add_channel(parser)
    add_attack_choice(parser)
    add_network_arguments(parser)
    add_speaker(parser)
    add_engine(parser)
    add_config_file(parser, DecodeConfig, *ATTACK_CONFIGS)
    add_flags_once(parser, *ATTACK_CONFIGS, DecodeConfig, skip=("untargeted",))


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    import numpy as np

    from kaldi_uq.attacks.directory import score_examples
    from kaldi_uq.attacks.goal import Say, Untargeted
    from kaldi_uq.attacks.levels import level_warnings
    from kaldi_uq.io.wav import on_grid, to_int16, write_wav
    from kaldi_uq.recogniser.heard import forget

    adaptive = config_from(args, AdaptiveConfig)
    target = _target(args, config_from(args, AttackConfig))
    outputs = _outputs(args)
    stream = stdin_stream([str(wav) for wav in args.wavs])
    if not args.model_dir and (args.recogniser or args.network):
        raise UsageError("--recogniser and --network need --model-dir")
    args.model_dir = args.model_dir or starter_dir("kaldi-uq attack")
    attack = attack_of(args, adaptive)
    config = attack.config
    recogniser = open_recogniser(args)
    detector = _detector(args, recogniser)
    conversion = conversion_of(args, recogniser.sample_rate)
    sources = {name: stream if stream and str(wav) == STDIN else str(wav) for name, (wav, _) in outputs.items()}
    read = recogniser.read_wavs(sources, what="attacked", conversion=conversion)
    originals = read.map(on_grid)  # the attack is written as 16 bit
    who = recogniser.with_speakers(originals)
    text = {
        name: list(h.words or ()) for name, h in who.hear(originals, seed=config.seed + 1, frames_to=forget).items()
    }
    if target is None:
        for name, words in text.items():
            if not words:
                raise DataError(f"{outputs[name][0]}: the recogniser hears no word in it, so none can be made another")
    targets = None if target is None else {name: target for name in originals}
    donors = read_donors(args, recogniser) if attack.needs_donors else None
    if targets is None:
        goal: Goal = Untargeted(text, donors=donors)
    else:
        goal = Say(targets, spoken=text, where="--target-text", donors=donors)
        goal.require_new()
    for warning in level_warnings(config, originals):
        print(f"kaldi-uq attack: warning: {warning}", file=sys.stderr)
    adversarial = attack(who, originals, goal)
    heard = adversarial.waves  # on the 16-bit grid: what a file of them holds
    # other draws than the attack's own
    lines = score_examples(who, originals, heard, targets, text, seed=config.seed + 1)
    for name, samples in heard.items():
        write_wav(outputs[name][1], to_int16(samples), recogniser.sample_rate)
    for line in lines:
        name = line.pop("utt")
        wav, out = outputs[name]
        record = {"path": str(wav), "out": str(out), "eps": config.eps, **line}
        if converted := conversion.done.get(name if str(wav) == STDIN else str(wav)):
            record["converted"] = converted.record()
        record["largest_change"] = float(np.max(np.abs(heard[name] - originals[name]), initial=0.0))
        record |= {key: value for key, value in adversarial.records[name].items() if key != "target"}
        record |= attack.record(line["statistics"])
        record |= _verdict(detector, line["statistics"])
        said = [] if converted is None else _wrap(f"  converted before: {converted}")
        print(json.dumps(record, allow_nan=False) if args.json else "\n".join([*_lines(record), *said]))


def _target(args: argparse.Namespace, config: AttackConfig) -> list[str] | None:
    if config.untargeted and args.target_text is None:
        return None
    if config.untargeted or args.target_text is None:
        raise UsageError("give --target-text TEXT, or --untargeted" + (", not both" if config.untargeted else ""))
    words: list[str] = args.target_text.split()
    if not words:
        raise UsageError("--target-text is empty: say what is to be heard, such as --target-text 'one two'")
    return words


def _outputs(args: argparse.Namespace) -> dict[str, tuple[Path, Path]]:
    """Name of each utterance -> its file and where the attacked one goes."""
    if args.out is None and args.out_dir is None:
        raise UsageError("say where the result goes: --out WAV, or --out-dir DIR")
    if args.out is not None and len(args.wavs) > 1:
        raise UsageError(f"--out is for one file, {len(args.wavs)} were given: use --out-dir")
    pairs: dict[str, tuple[Path, Path]] = {}
    for wav in args.wavs:
        stem = "stdin" if str(wav) == STDIN else wav.stem
        out = args.out if args.out is not None else args.out_dir / f"{stem}.wav"
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in stem) or "_"
        if name in pairs:
            raise UsageError(f"{pairs[name][0]} and {wav}: their names are too much alike; attack them one at a time")
        if out.resolve() in {other.resolve() for other in args.wavs}:
            raise UsageError(f"{out}: the output would replace an input; choose another name")
        if out.is_dir():
            raise UsageError(f"{out}: is a directory; --out is the name of a file, --out-dir that of a directory")
        if out.exists() and not args.force:
            raise UsageError(f"{out}: exists already; choose another name, or --force to replace it")
        pairs[name] = (wav, out)
    return pairs


def _detector(args: argparse.Namespace, recogniser: BaseRecogniser) -> OneClassDetector | None:
    from kaldi_uq.detector.store import default_detector, load_detector

    own = args.model_dir / "detector" / f"{args.statistic}.json"
    path = own if args.statistic else default_detector(args.model_dir, recogniser.recommended_statistic)
    if not path.is_file():
        if args.statistic:
            raise DataError(f"{path}: no such detector; kaldi-uq fit-detector makes it of benign speech")
        return None
    detector = load_detector(path)
    return detector if detector.threshold is not None else None


def _verdict(detector: OneClassDetector | None, statistics: Mapping[str, float]) -> dict[str, Any]:
    """What the detector says, or nothing."""
    if detector is None:
        return {}
    missing = [name for name in detector.statistics if name not in statistics]
    if missing:
        raise DataError(f"the detector looks at {missing[0]!r:.60}, which the model does not measure")
    table = {name: [statistics[name]] for name in detector.statistics}
    return {
        "detector": ",".join(detector.statistics),
        "verdict": "attack" if bool(detector.is_attack(table)[0]) else "benign",
        "score": float(detector.score(table)[0]),
        "threshold": detector.threshold,
    }


def _lines(record: Mapping[str, Any]) -> list[str]:
    """What happened to a file as text of at most 80 columns; a word that is longer, a path, is not broken."""
    reached = record["target_success"] if "target" in record else record["hypothesis"] != record["original"]
    steps = round(record["largest_change"] * 32768)
    snr = "nothing was added" if record["snr_db"] is None else f"SNR {record['snr_db']:.1f} dB"
    lines = [f"{'REACHED' if reached else 'missed '} {record['path']} -> {record['out']}"]
    if "target" in record:
        lines.append(f"  target: {record['target']}")
    lines.append(f"  heard:  {record['hypothesis'] or '(nothing)'} (before: {record['original'] or '(nothing)'})")
    change = f"{record['largest_change']:.4g} of {record['eps_used']:.4g} ({steps} steps of 16 bit)"
    lines.append(f"  {snr}, largest change {change}, {record['steps']} gradient steps")
    shown = {name: value for name, value in record["statistics"].items() if name.startswith(("max_", "mean_"))}
    lines.append("  " + ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in shown.items()))
    verdict = "passes" if record.get("passes") else "CAUGHT"
    if "consistency" in record:
        lines.append(f"  search near it: {verdict}, consistency {record['consistency']:.3g}, {record['rounds']} rounds")
    elif "passes" in record:
        lines.append(
            f"  detectors it knows: {verdict}, score {record['excess']:+.3g} from the threshold, lambda "
            f"{record['lambda']:.3g}, {record['rounds']} rounds"
        )
    if "verdict" in record:
        relation = ">" if record["verdict"] == "attack" else "<="
        word = record["verdict"].upper() if record["verdict"] == "attack" else record["verdict"]
        lines.append(
            f"  detector {record['detector'].replace('_', ' ')}: {word}, score {record['score']:.3g} {relation} "
            f"{record['threshold']:.3g}"
        )
    return [part for line in lines for part in _wrap(line)]


def _wrap(line: str) -> Sequence[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
