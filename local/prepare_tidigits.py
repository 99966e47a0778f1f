#!/usr/bin/env python3
"""Prepare TIDIGITS (LDC93S10) in the layout that Kaldi's recipe expects, converted to 16-bit WAV.

DIR/data/adults/{train,test}/{man,woman}/SPK/1z23a.wav, or DIR/tidigits/{train,test}/... .  The files are NIST SPHERE
at 20 kHz; shorten-compressed ones need Kaldi's sph2pipe.  train comes from the train tree.  The speakers of the test
tree are divided into three parts, women and men alike: test, attack, and fit (benign speech for the detector).  So the
four sets share no speaker.

Example: local/prepare_tidigits.py --corpus-dir /corpora/LDC93S10 --preset full data
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import re
import sys
from pathlib import Path

import numpy as np
from corpus import counts_of, make_parser, run_script, write_corpus
from digits import SETS, Counts, Utterance, random_generator
from scipy.signal import resample_poly

from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.io.files import digest
from kaldi_uq.io.sphere import find_sph2pipe, parse_sphere_header
from kaldi_uq.io.wav import read_wav, to_int16

PRESETS: dict[str, Counts] = {
    "full": {"train": 8623, "fit": 1000, "test": 1000, "attack": 1000},
    "mini": {"train": 1200, "fit": 150, "test": 150, "attack": 60},
}
EXPECTED = {"train": 8623, "test": 8700}
SEXES = ("man", "woman")
NAME = re.compile(r"([1-9zo]+)([ab])\.wav", re.IGNORECASE)


def find_root(corpus_dir: Path) -> Path:
    """The directory with the trees train and test."""
    candidates = (corpus_dir / "data" / "adults", corpus_dir / "tidigits", corpus_dir)
    for root in candidates:
        if (root / "train").is_dir() and (root / "test").is_dir():
            return root
    raise DataError(
        f"{corpus_dir}: not TIDIGITS: expected data/adults/train and data/adults/test in it, or tidigits/train and "
        "tidigits/test"
    )


def find_utterances(root: Path, tree: str) -> dict[str, dict[str, list[Utterance]]]:
    """sex -> spk -> utterances of one tree, all sorted; ``source`` is the file."""
    found: dict[str, dict[str, list[Utterance]]] = {}
    for sex in SEXES:
        for path in sorted((root / tree / sex).glob("*/*")):
            if path.suffix.lower() != ".wav":
                continue
            match = NAME.fullmatch(path.name)
            if not match:
                raise DataError(f"{path}: expected a name like 1z23a.wav: digits, then a or b")
            spk, code, production = path.parent.name, match[1].lower(), match[2].lower()
            utterance = Utterance(tree, f"{spk}-{code}{production}", spk, code, str(path))
            found.setdefault(sex, {}).setdefault(spk, []).append(utterance)
    count = sum(len(utts) for speakers in found.values() for utts in speakers.values())
    if not count:
        raise DataError(f"{root / tree}: no .wav files; expected {{man,woman}}/SPK/1z23a.wav")
    if count != EXPECTED[tree]:
        print(f"warning: {root / tree}: {count} files, TIDIGITS has {EXPECTED[tree]}", file=sys.stderr)
    return found


def choose(seed: int, counts: Counts, root: Path) -> list[Utterance]:
    """The utterances of each set."""
    train, test = find_utterances(root, "train"), find_utterances(root, "test")
    sets: dict[str, list[Utterance]] = {name: [] for name in SETS}
    sets["train"] = [u for sex in SEXES for utts in train.get(sex, {}).values() for u in utts]
    start = 0
    for sex in SEXES:
        speakers = sorted(test.get(sex, {}))
        order = random_generator(seed, "speakers", sex).permutation(len(speakers))
        for index in order:
            # One counter for both sexes: the parts differ by at most one speaker.
            sets[("test", "attack", "fit")[start % 3]] += test[sex][speakers[int(index)]]
            start += 1
    chosen: list[Utterance] = []
    for name in SETS:
        utts, wanted = sets[name], counts[name]
        if not utts:
            raise DataError(f"{root / 'test'}: {start} speakers, too few to divide into test, attack and fit")
        if len(utts) < wanted:
            print(f"warning: {name}: {len(utts)} utterances, not the {wanted} asked for", file=sys.stderr)
        order = random_generator(seed, "utterances", name).permutation(len(utts))
        chosen += [dataclasses.replace(utts[int(i)], set_name=name) for i in order[:wanted]]
    _check_names(chosen)
    return chosen


def _check_names(utterances: list[Utterance]) -> None:
    seen: dict[str, Utterance] = {}
    for utterance in utterances:
        other = seen.setdefault(utterance.utt, utterance)
        if other is not utterance:
            raise DataError(f"{utterance.source}: the same speaker and name as {other.source}; remove one of them")


def render(sample_rate: int, utterance: Utterance) -> np.ndarray:
    """Read the SPHERE file and resample it."""
    wave, rate = read_wav(utterance.source)
    samples = to_int16(wave)
    if rate == sample_rate:
        return samples
    divisor = math.gcd(rate, sample_rate)
    resampled = resample_poly(samples.astype(np.float64), sample_rate // divisor, rate // divisor)
    return np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)


def prepare(args: argparse.Namespace) -> None:
    """Find the files, choose, convert."""
    counts = counts_of(args, PRESETS)
    if args.sample_rate < 1000:
        raise UsageError(f"--sample-rate is in Hz, got {args.sample_rate}")
    utterances = choose(args.seed, counts, find_root(Path(args.corpus_dir)))
    first = Path(utterances[0].source)
    if "shorten" in parse_sphere_header(first.read_bytes(), str(first)).coding:
        find_sph2pipe()  # not there: say so before anything is written
    stats = [(u.source, Path(u.source).stat()) for u in utterances]
    contents = digest([(source, stat.st_size, stat.st_mtime_ns) for source, stat in stats])
    write_corpus(
        args.out,
        utterances,
        functools.partial(render, args.sample_rate),
        sample_rate=args.sample_rate,
        options={"corpus": "tidigits", "seed": args.seed, "contents": contents} | counts,
        nj=args.nj,
    )


def main() -> int:
    """Entry point; returns the exit status."""
    script = make_parser(__doc__, PRESETS)
    script.add_argument("--corpus-dir", required=True, metavar="DIR", help="the LDC's directory")
    script.add_argument("--sample-rate", type=int, default=16000, metavar="HZ", help="of the WAV files (default 16000)")
    return run_script(script, prepare)


if __name__ == "__main__":
    sys.exit(main())
