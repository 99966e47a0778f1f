#!/usr/bin/env python3
"""Make a corpus of spoken commands: sentences of local/grammar.txt, read by the 240 synthetic speakers of the digits.

No sentence and no speaker is in two of the sets.  Needs: pip install espeakng-loader

Example: local/prepare_commands.py --preset mini data
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from corpus import counts_of, make_parser, run_script, write_corpus
from digits import SETS, Counts, join, random_generator
from grammar import Grammar
from prepare_synth import PEAK, SAMPLE_RATE, choose_speakers, describe, synthesizer

from kaldi_uq.audio.synth import Voice
from kaldi_uq.io.files import file_digest

PRESETS: dict[str, Counts] = {
    "full": {"train": 6000, "fit": 500, "test": 500, "attack": 200},
    "mini": {"train": 1000, "fit": 100, "test": 100, "attack": 24},
}
SNR_DB = (30.0, 45.0)
GRAMMAR = Path(__file__).with_name("grammar.txt")


@dataclass(frozen=True)
class Utterance:
    """One utterance of the plan."""

    set_name: str
    utt: str
    spk: str
    text: str
    voice: Voice


def render(seed: int, utterance: Utterance) -> np.ndarray:
    """Speak a sentence; no two have quite the same pitch and rate."""
    generator = random_generator(seed, utterance.set_name, utterance.utt)
    voice = dataclasses.replace(
        utterance.voice,
        pitch=utterance.voice.pitch + int(generator.integers(-4, 5)),
        rate=round(utterance.voice.rate * float(generator.uniform(0.92, 1.08))),
    )
    speech = synthesizer().synthesize(utterance.text, voice=voice, sample_rate=SAMPLE_RATE) / 32768
    return join([speech], SAMPLE_RATE, generator=generator, snr_db=SNR_DB, peak=PEAK)


def plan(seed: int, counts: Counts) -> list[Utterance]:
    """Who says what: speakers take turns, women and men by turns too."""
    sentences = iter(Grammar(GRAMMAR).sentences(sum(counts.values()), random_generator(seed, "sentences")))
    utterances = []
    for set_name, voices in choose_speakers(seed).items():
        ids = sorted(voices)
        ids = [spk for pair in zip(ids[: len(ids) // 2], ids[len(ids) // 2 :], strict=True) for spk in pair]
        for index in range(counts[set_name]):
            spk = ids[index % len(ids)]
            utt = f"{spk}-{index // len(ids):03d}"
            utterances.append(Utterance(set_name, utt, spk, " ".join(next(sentences)), voices[spk]))
    return utterances


def prepare(args: argparse.Namespace) -> None:
    """Plan, then synthesise."""
    counts = counts_of(args, PRESETS)
    voices = {spk: voice for speakers in choose_speakers(args.seed).values() for spk, voice in speakers.items()}
    write_corpus(
        args.out,
        plan(args.seed, counts),
        functools.partial(render, args.seed),
        sample_rate=SAMPLE_RATE,
        options={"corpus": "commands", "seed": args.seed, "espeak": synthesizer().version}
        | {"grammar": file_digest(GRAMMAR)}
        | {name: counts[name] for name in SETS},
        nj=args.nj,
        tables={
            "spk2voice": {spk: describe(voice) for spk, voice in voices.items()},
            "spk2accent": {spk: voice.accent for spk, voice in voices.items()},
        },
    )


def main() -> int:
    """Entry point; returns the exit status."""
    return run_script(make_parser(__doc__, PRESETS), prepare)


if __name__ == "__main__":
    sys.exit(main())
