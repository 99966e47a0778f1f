#!/usr/bin/env python3
"""Choose what the recogniser is to be made to hear: for each utterance, another sentence of about its length.

The sentences are those of a text that the attacked speakers do not say.  A target has at least --min-ratio and at most
--max-ratio times the phones of what is spoken, and shares at most half of its words with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from digits import random_generator

from kaldi_uq.cli.parser import OneLineParser, ParagraphFormatter
from kaldi_uq.errors import DataError, KaldiUqError
from kaldi_uq.io.datadir import read_table, write_table


def choose_targets(
    text: dict[str, str], pool: list[str], num_phones: dict[str, int], *, seed: int, ratios: tuple[float, float]
) -> dict[str, str]:
    """A target for each utterance.

    Args:
        text: utt -> what is spoken.
        pool: the sentences to choose from.
        num_phones: word -> its phones.
        seed: of the choice.
        ratios: smallest and largest number of phones, of those spoken.

    Raises:
        DataError: the pool holds nothing else than what is spoken.
    """
    sizes = np.array([sum(num_phones[word] for word in sentence.split()) for sentence in pool])
    targets = {}
    for utt, spoken in text.items():
        size = sum(num_phones[word] for word in spoken.split())
        fitting = np.flatnonzero((sizes >= ratios[0] * size) & (sizes <= ratios[1] * size)).tolist()
        words = set(spoken.split())
        fitting = [i for i in fitting if 2 * len(words & set(pool[i].split())) <= len(set(pool[i].split()))]
        if not fitting:
            fitting = sorted((i for i in range(len(pool)) if pool[i] != spoken), key=lambda i: abs(sizes[i] - size))[:1]
        if not fitting:
            raise DataError(f"no sentence for {utt} but its own, {spoken!r}; give more sentences")
        targets[utt] = pool[fitting[int(random_generator(seed, "target", utt).integers(len(fitting)))]]
    return targets


def main() -> int:
    """Entry point; returns the exit status."""
    parser = OneLineParser(description=__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("--min-ratio", type=float, default=0.5, help="[0.5]")
    parser.add_argument("--max-ratio", type=float, default=1.1, help="[1.1]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("text", type=Path, metavar="TEXT", help="what is spoken")
    parser.add_argument("pool", type=Path, metavar="OTHER-TEXT", help="the sentences to choose from")
    parser.add_argument("lexicon", type=Path, metavar="LEXICON", help="for the number of phones of each word")
    parser.add_argument("target_text", type=Path, metavar="TARGET-TEXT", help="table to write")
    args = parser.parse_args()
    try:
        num_phones: dict[str, int] = {}
        for line in args.lexicon.read_text(encoding="utf-8").splitlines():
            word, *phones = line.split()
            num_phones.setdefault(word, len(phones))
        pool = sorted(set(read_table(args.pool).values()))
        targets = choose_targets(
            read_table(args.text), pool, num_phones, seed=args.seed, ratios=(args.min_ratio, args.max_ratio)
        )
        write_table(args.target_text, targets)
    except (KaldiUqError, OSError, KeyError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 1
    print(f"{args.target_text}: {len(targets)} targets, {len(set(targets.values()))} different sentences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
