#!/usr/bin/env python3
"""Cut digit strings together from the recordings of the Free Spoken Digit Dataset (real speech, 8 kHz).

A string is cut from the recordings of one speaker.  The sets share no recording: of the 50 recordings that each
speaker has of each digit, 0-4 go to test (the dataset's own test split), 5-9 to fit, 10-14 to attack, the rest to
train; of fewer, a tenth each (at least one), the rest to train.  With --held-out-speakers, train and fit have the
other speakers only, and test and attack have half of the held-out speakers' recordings each.

Example: local/prepare_fsdd.py --corpus-dir free-spoken-digit-dataset data
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from corpus import counts_of, make_parser, run_script, write_corpus
from digits import SETS, Counts, Utterance, join, plan_strings, random_generator

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import digest
from kaldi_uq.io.wav import read_wav

# There are 2,000 to 3,000 recordings: more train strings than these would repeat the same words.
PRESETS: dict[str, Counts] = {
    "full": {"train": 2400, "fit": 1000, "test": 1000, "attack": 1000},
    "mini": {"train": 1200, "fit": 200, "test": 200, "attack": 100},
}
SAMPLE_RATE = 8000
LETTERS = "z123456789"  # the digits 0 to 9; nobody says "oh"
NAME = re.compile(r"([0-9])_([A-Za-z0-9_]+)_([0-9]+)\.wav")

# spk -> digit -> files, in the order of their numbers
Recordings = dict[str, dict[int, list[Path]]]


def find_recordings(corpus_dir: Path) -> Recordings:
    """The recordings of each speaker and digit, by the names of the files."""
    root = corpus_dir / "recordings" if (corpus_dir / "recordings").is_dir() else corpus_dir
    if not root.is_dir():
        raise DataError(f"{corpus_dir}: no such directory; clone the Free Spoken Digit Dataset and pass its directory")
    numbered: dict[str, dict[int, dict[int, Path]]] = {}
    for path in sorted(root.glob("*.wav")):
        match = NAME.fullmatch(path.name)
        if not match:
            raise DataError(f"{path}: expected a name like 7_jackson_32.wav: digit, speaker, number")
        digit, spk, number = int(match[1]), match[2], int(match[3])
        same = numbered.setdefault(spk, {}).setdefault(digit, {})
        if number in same:
            raise DataError(f"{path}: {same[number].name} is the same digit, speaker and number; remove one of them")
        same[number] = path
    if not numbered:
        raise DataError(f"{root}: no .wav files; expected recordings/<digit>_<speaker>_<number>.wav")
    return {
        spk: {digit: [files[number] for number in sorted(files)] for digit, files in sorted(digits.items())}
        for spk, digits in sorted(numbered.items())
    }


def divide(files: Sequence[Path], names: Sequence[str]) -> dict[str, list[Path]]:
    """Divide the recordings of one digit of one speaker among sets, so that none is in two of them."""
    if len(files) < len(names):
        raise DataError(
            f"{len(files)} recordings; the sets {', '.join(names)} need at least {len(names)}, as they share none"
        )
    if "train" not in names:
        half = (len(files) + 1) // 2
        return {names[0]: list(files[:half]), names[1]: list(files[half:])}
    share = max(1, min(5, len(files) // 10))
    if names == ("train", "fit"):  # fit keeps its place behind the dataset's test split where there is one
        start = share if len(files) > 2 * share else 0
        chosen = {"fit": list(files[start : start + share])}
    else:
        chosen = {name: list(files[i * share : (i + 1) * share]) for i, name in enumerate(("test", "fit", "attack"))}
    taken = {path for paths in chosen.values() for path in paths}
    return chosen | {"train": [path for path in files if path not in taken]}


def choose_recordings(recordings: Recordings, held_out: Sequence[str]) -> dict[str, Recordings]:
    """The recordings of each set."""
    for spk in held_out:
        if spk not in recordings:
            raise DataError(f"--held-out-speakers: no speaker {spk!r}; there are {', '.join(recordings)}")
    if held_out and not set(recordings) - set(held_out):
        raise DataError("--held-out-speakers: every speaker is held out, none is left for train")
    sets: dict[str, Recordings] = {name: {} for name in SETS}
    for spk, digits in recordings.items():
        names = SETS if not held_out else ("test", "attack") if spk in held_out else ("train", "fit")
        for digit in range(10):
            try:
                parts = divide(digits.get(digit, []), names)
            except DataError as error:
                raise DataError(f"speaker {spk!r}, digit {digit}: {error}") from None
            for name, files in parts.items():
                sets[name].setdefault(spk, {})[digit] = files
    return sets


def plan(seed: int, counts: Counts, sets: dict[str, Recordings]) -> list[Utterance]:
    """Random strings of each set; the source of an utterance is the list of its recordings."""
    utterances = []
    productions: dict[str, int] = {}
    for name in reversed(SETS):  # train last: another size of it leaves the other sets as they are
        generator = random_generator(seed, "strings", name)
        speakers = list(sets[name])
        strings = plan_strings(name, speakers, counts[name], LETTERS, productions=productions, generator=generator)
        for utterance in strings:
            choices = [sets[name][utterance.spk][LETTERS.index(letter)] for letter in utterance.code]
            files = [str(paths[int(generator.integers(len(paths)))]) for paths in choices]
            utterances.append(dataclasses.replace(utterance, source=files))
    return utterances


def render(seed: int, utterance: Utterance) -> np.ndarray:
    """Cut the recordings together at the level that they have: what eps means depends on it."""
    generator = random_generator(seed, utterance.set_name, utterance.utt)
    segments = [read_wav(path, expected_rate=SAMPLE_RATE)[0] for path in utterance.source]
    return join(segments, SAMPLE_RATE, generator=generator)


def prepare(args: argparse.Namespace) -> None:
    """Check the corpus, divide it, plan, cut."""
    counts = counts_of(args, PRESETS)
    held_out = sorted(set(args.held_out_speakers.split()))
    recordings = find_recordings(Path(args.corpus_dir))
    sets = choose_recordings(recordings, held_out)
    files = [path for digits in recordings.values() for paths in digits.values() for path in paths]
    for path in files:  # all of them now, not the first bad one in the middle of the work
        read_wav(path, expected_rate=SAMPLE_RATE)
    contents = digest([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    write_corpus(
        args.out,
        plan(args.seed, counts, sets),
        functools.partial(render, args.seed),
        sample_rate=SAMPLE_RATE,
        options={"corpus": "fsdd", "seed": args.seed, "held_out_speakers": held_out, "contents": contents} | counts,
        nj=args.nj,
    )


def main() -> int:
    """Entry point; returns the exit status."""
    script = make_parser(__doc__, PRESETS)
    script.add_argument("--corpus-dir", required=True, metavar="DIR", help="the dataset, or its recordings directory")
    script.add_argument(
        "--held-out-speakers", default="", metavar="SPKS", help='e.g. "lucas theo": only in test and attack'
    )
    return run_script(script, prepare)


if __name__ == "__main__":
    sys.exit(main())
