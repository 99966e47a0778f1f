"""Attack a model at the waveform: targeted projected gradient descent within eps of the audio.

Writes OUT-DIR/wav/*.wav (16 bit), one an utterance, where DATA-DIR has segments too; reads them back, decodes and
scores what the recogniser hears: OUT-DIR/results.jsonl, wav.scp, text (the original), target_text.  A killed run
resumes after its last batch.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaldi_uq.attacks.config import ATTACK_CONFIGS, AdaptiveConfig
from kaldi_uq.cli.attack_options import add_attack_choice, attack_of, fit_file, own_code, read_donors
from kaldi_uq.cli.model_options import (
    add_data_and_graph,
    add_model_arguments,
    directory_or_none,
    model_name,
    open_recogniser,
    read_data_for,
    sources_of,
)
from kaldi_uq.cli.options import (
    add_lattice_statistics,
    add_max_bad,
    add_shard,
    non_negative_int,
    shard_of,
    start_logging,
)
from kaldi_uq.config import config_from
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.user_code import split_name

if TYPE_CHECKING:
    import numpy as np

    from kaldi_uq.attacks.goal import Goal
    from kaldi_uq.io.datadir import DataDir
    from kaldi_uq.recogniser.base import BaseRecogniser

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_data_and_graph(parser)
    add_max_bad(parser)
    parser.add_argument(
        "out_dir", type=Path, metavar="OUT-DIR", help="directory to write, such as exp/dnn/attack_pgd_eps0.02"
    )
    parser.add_argument(
        "--lang-dir", type=directory_or_none, required=True, metavar="LANG-DIR", help="lexicon of the targets"
    )
    parser.add_argument("--attack", default="pgd", metavar="NAME", help="name under which results are filed [pgd]")
    parser.add_argument(
        "--num-utts",
        type=non_negative_int,
        default=0,
        help="attack so many utterances, spread over the data; 0: all [0]",
    )
    parser.add_argument("--target-text", metavar="FILE", help="table utt -> target words [random targets]")
    parser.add_argument(
        "--random-targets",
        choices=("words", "grammar"),
        default="words",
        help="words of the lexicon strung together, or sentences of the language model, LANG-DIR/G.fst [words]",
    )
    parser.add_argument("--results", metavar="FILE", help="also record the summary in this results.json")
    add_shard(parser, "attack", "decodes and scores what they made")
    add_attack_choice(parser)
    add_lattice_statistics(parser)
    add_model_arguments(parser, *ATTACK_CONFIGS)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.attacks.directory import craft, craft_shard, shown, write_attack
    from kaldi_uq.attacks.goal import Say
    from kaldi_uq.attacks.levels import level_warnings
    from kaldi_uq.io.files import DoneStamp
    from kaldi_uq.io.names import check_not_input, wave_files
    from kaldi_uq.io.wav import on_grid
    from kaldi_uq.results.table import Results

    start_logging()
    adaptive = config_from(args, AdaptiveConfig)
    attack = attack_of(args, adaptive)
    config = attack.config
    shard = shard_of(args)
    if config.untargeted and args.target_text:
        raise UsageError(f"--target-text {args.target_text}: an untargeted attack has no target; leave it out")
    recogniser = open_recogniser(args)
    data = read_data_for(args, recogniser, args.out_dir, text=True)
    utts = spread_utts(data, args.num_utts)
    wave_files(args.out_dir, utts)  # before anything is computed
    check_not_input(args.out_dir, (data.whole or data).wav_scp.values())
    recogniser.random_targets = args.random_targets
    recogniser, spoken = recogniser.read(
        data, utts=utts, allow_pipes=args.allow_pipes, resample=args.resample, sources=sources_of(args)
    )
    waves = spoken.subset(utts).map(on_grid).held()  # the attack is written as 16 bit
    inputs = [*recogniser.files, args.data_dir / "text"]
    inputs += [args.lang_dir / "L.fst"] if args.lang_dir else []
    inputs += [Path(path) for path in (args.target_text, fit_file(args, adaptive)) if path]
    inputs += [split_name(args.method)[0]] if own_code(args.method) else []
    for path in inputs:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    options = {"attack": args.attack, "method": args.method, "config": attack.settings, **recogniser.settings}
    options |= {"num_utts": args.num_utts, "audio": recogniser.audio_key(waves), "random_targets": args.random_targets}
    donors = read_donors(args, recogniser, data) if attack.needs_donors else None
    options |= {"donors": donors.key} if donors else {}
    stamp = DoneStamp(args.out_dir, "attack", options=options, inputs=inputs)
    if not stamp.is_current():
        text = {utt: data.words(utt) for utt in waves}
        goal = replace(_goal(args, data, text, away=config.untargeted), donors=donors)
        attack.prepare(recogniser, waves, goal)  # a mistake leaves an earlier result in place
        for line in level_warnings(config, waves):
            log.warning("%s: %s", args.data_dir, line)
        if isinstance(goal, Say) and goal.targets is not None:
            goal.require_new()
            _warn_of_heard(recogniser, waves, goal)
        stamp.clear()
        (args.out_dir / "results.jsonl").unlink(missing_ok=True)
        if shard is not None:
            made = craft_shard(attack, recogniser, waves, goal, args.out_dir, key=stamp.key, shard=shard)
            print(f"shard {args.shard}: {len(made)} of {len(waves)} utterances are attacked")
            return
        adversarial = craft(attack, recogniser, waves, goal, args.out_dir, key=stamp.key)
        write_attack(attack, recogniser, adversarial, text, data.utt2spk, args.out_dir)
        stamp.write()
    elif shard is not None:
        print(f"shard {args.shard}: the attack is up to date")
        return
    config = config if recogniser.is_random else replace(config, eot_samples=1)
    row = _summary(args, config.to_dict(), adaptive)
    if args.results:
        Results(args.results).add_attack(row)
    reached = "" if config.untargeted else f"target accuracy {row['target_accuracy']:.3f}, "
    reached += f"evasion {row['evasion']:.3f}, " if "evasion" in row else ""
    print(
        f"{row['model']} {row['attack']} eps {row['eps']:g}: {reached}"
        f"original accuracy {shown(row['original_accuracy'])}, {row['num_utts']} utterances"
    )


def _goal(args: argparse.Namespace, data: DataDir, text: dict[str, list[str]], *, away: bool) -> Goal:
    from kaldi_uq.attacks.goal import Say, Untargeted
    from kaldi_uq.io.datadir import read_table

    if away:
        return Untargeted(text, where=str(data.path / "text"))
    if not args.target_text:
        return Say(spoken=text)
    table = read_table(args.target_text, check_sorted=False)
    missing = [utt for utt in text if utt not in table]
    if missing:
        raise DataError(
            f"{args.target_text}: no target for utterance {missing[0]!r} ({len(missing)} are missing); add a line "
            "'<utt> <words>'"
        )
    return Say({utt: table[utt].split() for utt in text}, spoken=text, where=args.target_text)


def _warn_of_heard(recogniser: BaseRecogniser, waves: Mapping[str, np.ndarray], goal: Goal) -> None:
    """Warn of targets that the recogniser hears without an attack, because it mishears the speech."""
    from kaldi_uq.recogniser.heard import forget

    targets = goal.choose(recogniser, waves, 0)
    found = recogniser.hear(waves, frames_to=forget)
    same = [utt for utt, heard in found.items() if list(heard.words or ()) == targets[utt]]
    if same:
        log.warning(
            "%s: %d of %d utterances are heard as their target without any change (%s, ...): they count as reached and "
            "tell nothing about the attack",
            goal.where,
            len(same),
            len(waves),
            same[0],
        )


def spread_utts(data: DataDir, count: int) -> list[str]:
    """``count`` utterances at equal distances, so that a subset has all speakers, not the first few; 0: all."""
    import numpy as np

    utts = list(data.segments or data.wav_scp)
    if count > len(utts):
        raise DataError(f"{data.path}: {len(utts)} utterances, --num-utts asks for {count}")
    return [utts[int(i)] for i in np.linspace(0, len(utts) - 1, count).round()] if count else utts


def _summary(args: argparse.Namespace, options: dict[str, Any], adaptive: AdaptiveConfig) -> dict[str, Any]:
    from kaldi_uq.attacks.directory import evasion, read_checks, read_lines, summarise
    from kaldi_uq.io.datadir import read_table
    from kaldi_uq.results.utterances import by_speaker, read_attacked

    lines = read_lines(args.out_dir)
    row = {
        "model": model_name(args.model_dir),
        "attack": args.attack,
        "eps": options["eps"],
        "eps_level": options["eps_level"],
        **summarise(lines),
        "options": options,
        "checks": read_checks(args.out_dir),
        "by_speaker": by_speaker(
            read_attacked(args.out_dir / "results.jsonl"), read_table(args.out_dir / "utt2spk", check_sorted=False)
        ),
    }
    if adaptive.names:
        row |= {"adaptive": adaptive.to_dict(), "fpr": adaptive.fpr}
    if all("passes" in line for line in lines):
        row["evasion"] = evasion(lines)
    return row
