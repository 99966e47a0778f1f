"""Attack WAV files: make the recogniser write down a text of your choice, by changes of at most --eps a sample.

The result is written as 16-bit WAV of the same length, read back and only then decoded: what is printed is what the
recogniser hears in the file.  If MODEL-DIR/detector holds a detector, its verdict is printed too.  With --statistics
the attack knows the detectors of these statistics, and tries to pass them as well.

The defaults are the strong attack of a recipe's conf/pgd.conf; --config reads another of conf/*.conf.

 e.g.: kaldi-uq attack in.wav --target-text "one two" --model-dir exp/dnn
         --out out.wav

Every file is checked before any is attacked.  Exit status: 0 if all were attacked, whether they reach their target or
not; 1 if a file, the text or the model cannot be used, and then nothing is written.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.craft import Attacker
from kaldi_uq.attacks.evaluation import evaluate_examples
from kaldi_uq.attacks.methods import make_strategy
from kaldi_uq.cli.adaptive_options import add_fit, fit_file, fit_sentries
from kaldi_uq.cli.model_options import add_network_arguments, decoding_inputs, load_model
from kaldi_uq.cli.options import add_engine, directory, engine_of
from kaldi_uq.config import add_config_file, add_config_flags, config_from
from kaldi_uq.detector import OneClassDetector, load_detector
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.lang import RESERVED_WORDS, Lang
from kaldi_uq.io.wav import INT16_SCALE, on_grid, read_wav
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.scores import decode_waves

WIDTH = 80  # columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("wavs", nargs="+", type=Path, metavar="WAV", help="mono, of the model's sample rate")
    parser.add_argument("--model-dir", type=directory, required=True, metavar="DIR", help="such as exp/dnn")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--target-text", metavar="TEXT", help="what is to be heard, such as 'one two'")
    what.add_argument("--untargeted", action="store_const", const=True, help="anything but what is heard now")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="WAV", help="of one file: the attacked one")
    where.add_argument("--out-dir", type=Path, metavar="DIR", help="of several: DIR/<name>.wav of each")
    parser.add_argument("--force", action="store_true", help="replace outputs that exist")
    parser.add_argument("--graph-dir", type=directory, metavar="DIR", help="decoding graph [MODEL-DIR/graph]")
    parser.add_argument(
        "--lang-dir", type=directory, metavar="DIR", help="lexicon [MODEL-DIR/../../data/lang, as in a recipe]"
    )
    parser.add_argument("--statistic", help="of the detector to ask, MODEL-DIR/detector/STATISTIC.json")
    parser.add_argument("--json", action="store_true", help="print one JSON object a file, one a line")
    add_fit(parser)
    add_network_arguments(parser)
    add_engine(parser)
    add_config_file(parser, DecodeConfig, AttackConfig, AdaptiveConfig)
    add_config_flags(parser, DecodeConfig)
    add_config_flags(parser, AttackConfig, skip=("untargeted",))
    add_config_flags(parser, AdaptiveConfig)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    config, decode = config_from(args, AttackConfig), config_from(args, DecodeConfig)
    adaptive = config_from(args, AdaptiveConfig)
    target = _target(args, config)
    outputs = _outputs(args)
    args.graph_dir = args.graph_dir or args.model_dir / "graph"
    decoding_inputs(args)
    lang = Lang.read(args.lang_dir or _find_lang(args.model_dir))
    for word in target or ():
        if word not in lang.words or word in RESERVED_WORDS:
            known = [w for w in lang.words if w not in RESERVED_WORDS and w != lang.oov]
            few = f"; it knows {', '.join(known)}" if len(known) <= 20 else ""
            raise DataError(f"--target-text: word {word!r} is not in {lang.path / 'words.txt'}{few}")
    model = load_model(args)
    detector = _detector(args, model)
    sentries = fit_sentries(fit_file(args, adaptive), adaptive)
    originals = _read(outputs, model)
    engine = engine_of(args)
    num_draws = args.num_draws or None
    attacker = Attacker.of_recipe(
        model, engine, args.model_dir, lang, decode, graph_dir=args.graph_dir, num_draws=num_draws
    )
    before, _ = decode_waves(
        model, originals, engine, args.model_dir, args.graph_dir, decode, num_draws=num_draws, seed=config.seed + 1
    )
    text = {name: list(before[name].words) for name in originals}
    if config.untargeted:
        for name, words in text.items():
            if not words:
                raise DataError(f"{outputs[name][0]}: the recogniser hears no word in it, so none can be made another")
    targets = None if target is None else {name: target for name in originals}
    try:
        strategy = make_strategy(config, adaptive, sentries)
    except ValueError as error:
        raise UsageError(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        crafted = attacker.craft(
            originals, text, config, Path(folder), targets=targets, targets_name="--target-text", strategy=strategy
        )
        made = {name: Path(folder) / "wav" / f"{name}.wav" for name in originals}
        heard = {name: read_wav(path, expected_rate=model.front_end.sample_rate)[0] for name, path in made.items()}
        lines = evaluate_examples(
            model,
            engine,
            args.model_dir,
            args.graph_dir,
            decode,
            originals,
            heard,
            targets,
            text,
            num_draws=num_draws,
            seed=config.seed + 1,  # other draws than the attack's own
        )
        for name, path in made.items():
            with atomic_write(outputs[name][1], "wb") as stream:
                stream.write(path.read_bytes())
    for line in lines:
        name = line.pop("utt")
        wav, out = outputs[name]
        record = {"path": str(wav), "out": str(out), "eps": config.eps, **line}
        record["largest_change"] = float(np.max(np.abs(heard[name] - originals[name]), initial=0.0))
        record |= {key: value for key, value in crafted[name].items() if key != "target"}
        record |= {} if sentries is None else sentries.record(line["statistics"])
        record |= _verdict(detector, line["statistics"])
        print(json.dumps(record, allow_nan=False) if args.json else "\n".join(_lines(record)))


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
        out = args.out if args.out is not None else args.out_dir / f"{wav.stem}.wav"
        name = "".join(c if c.isalnum() or c in "._-" else "_" for c in wav.stem) or "_"
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


def _find_lang(model_dir: Path) -> Path:
    places = (model_dir / "lang", model_dir / "../../data/lang", Path("data/lang"))
    for place in places:
        if (place / "words.txt").is_file():
            return place
    raise DataError(
        f"{places[1]}: no such language directory; say where the lexicon is with --lang-dir (utils/prepare_lang.sh "
        "makes one)"
    )


def _detector(args: argparse.Namespace, model: HybridModel) -> OneClassDetector | None:
    statistic = args.statistic or model.network.recommended_statistic
    path = args.model_dir / "detector" / f"{statistic}.json"
    if not path.is_file():
        if args.statistic:
            raise DataError(f"{path}: no such detector; steps/uq/detect.sh makes it (stage 7 of a recipe)")
        return None
    detector = load_detector(path)
    return detector if detector.threshold is not None else None


def _read(outputs: Mapping[str, tuple[Path, Path]], model: HybridModel) -> dict[str, np.ndarray]:
    rate, shortest = model.front_end.sample_rate, model.front_end.min_samples
    waves = {}
    for name, (path, _) in outputs.items():
        samples, _ = read_wav(path, expected_rate=rate)
        if len(samples) < shortest:
            raise DataError(
                f"{path}: {len(samples)} samples ({len(samples) / rate:.4f} s), the shortest that can be attacked is "
                f"{shortest} ({shortest / rate:.4f} s)"
            )
        waves[name] = on_grid(samples)  # the attack is written as 16 bit
    return waves


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
    steps = round(record["largest_change"] * INT16_SCALE)
    snr = "nothing was added" if record["snr_db"] is None else f"SNR {record['snr_db']:.1f} dB"
    lines = [f"{'REACHED' if reached else 'missed '} {record['path']} -> {record['out']}"]
    if "target" in record:
        lines.append(f"  target: {record['target']}")
    lines.append(f"  heard:  {record['hypothesis'] or '(nothing)'} (before: {record['original'] or '(nothing)'})")
    change = f"{record['largest_change']:.4g} of {record['eps']:g} ({steps} steps of 16 bit)"
    lines.append(f"  {snr}, largest change {change}, {record['steps']} gradient steps")
    shown = {name: value for name, value in record["statistics"].items() if name.startswith(("max_", "mean_"))}
    lines.append("  " + ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in shown.items()))
    if "passes" in record:
        verdict = "passes" if record["passes"] else "CAUGHT"
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
