#!/usr/bin/env python3
"""Make a synthetic corpus in the shape of TIDIGITS: 240 synthetic speakers read digit strings at 16 kHz.

A speaker is a voice variant of espeak-ng with an accent, a pitch, a rate and a vocal tract of its own; half are
women's voices.  The sets share no speaker.  Needs: pip install espeakng-loader

Example: local/prepare_synth.py --preset mini data
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import sys

import numpy as np
from corpus import counts_of, make_parser, run_script, write_corpus
from digits import SETS, WORDS, Counts, Utterance, join, plan_strings, random_generator
from flite import HELD_OUT, TRAIN, FliteVoice, flite_speakers, speak

from kaldi_uq.audio.synth import EspeakSynthesizer, Voice
from kaldi_uq.errors import UsageError

# full: the counts of the paper; fit is benign speech for the detector.
PRESETS: dict[str, Counts] = {
    "full": {"train": 8623, "fit": 1000, "test": 1000, "attack": 1000},
    "mini": {"train": 1200, "fit": 150, "test": 150, "attack": 60},
}
SPEAKERS: Counts = {"train": 144, "fit": 32, "test": 32, "attack": 32}
FLITE_EACH = 24  # speakers that are made of each voice of flite
SAMPLE_RATE = 16000
PEAK = (0.2, 0.6)  # largest sample of an utterance: the level of a careful recording with headroom

ACCENTS = (
    "en-us", "en-us-nyc", "en-gb", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-scotland", "en-029"
)  # fmt: skip

# The variants whose digits a classifier trained on all the other variants recognises (97 % or more of 176 isolated
# digits, eight accents).  Left out: whispers and breath (whisper, whisperf, Alicia, zac), echoes (RicishayMax*, Marco),
# robots and effects (robosoft*, UniRobot, anikaRobot, announcer, Demonic, Tweaky, croak), Lee and shelby (below 97 %),
# and near copies of others (klatt*, Gene2, edward2, michel, Henrique, AnxiousAndy, fast).
WOMEN = "Andrea Annie anika aunty belinda f1 f2 f3 f4 f5 grandma linda steph steph2 steph3".split()
MEN = (
    "Alex Andy Denis Diogo Gene Hugo Jacky Mario Michael Mike Nguyen Storm adam antonio benjamin boris david "
    "ed edward grandpa gustave ian iven iven2 iven3 iven4 john kaukovalta m1 m2 m3 m4 m5 m6 m7 m8 marcelo max "
    "miguel mike2 norbert pablo paul pedro quincy rob robert sandro travis victor"
).split()


def choose_speakers(seed: int, spread: float = 1.0) -> dict[str, dict[str, Voice]]:
    """The speakers of each set: ids ``f...`` and ``m...``, half each; no variant occurs twice with one accent.

    Args:
        seed: chooses them.
        spread: by how much they differ: factor on the ranges of pitch, intonation, rate and vocal tract, up to 2.
    """

    def between(low: int, high: int) -> int:
        centre, half = (low + high - 1) / 2, (high - low - 1) / 2
        return int(generator.integers(math.ceil(centre - spread * half), math.floor(centre + spread * half) + 1))

    generator = random_generator(seed, "speakers")
    sets: dict[str, dict[str, Voice]] = {name: {} for name in SETS}
    for sex, variants in (("f", WOMEN), ("m", MEN)):
        pairs = [(accent, variant) for accent in ACCENTS for variant in variants]
        order = iter(generator.permutation(len(pairs)))
        number = 0
        for name in SETS:
            for _ in range(SPEAKERS[name] // 2):
                accent, variant = pairs[int(next(order))]
                number += 1
                sets[name][f"{sex}{number:03d}"] = Voice(
                    accent=accent,
                    variant=variant,
                    pitch=between(35, 66),
                    pitch_range=between(30, 66),
                    rate=between(115, 171),
                    volume=30,  # at full volume half of the variants are compressed
                    tract_scale=round(float(generator.uniform(1 - 0.07 * spread, 1 + 0.07 * spread)), 3),
                )
    return sets


@functools.lru_cache(maxsize=1)
def synthesizer() -> EspeakSynthesizer:
    """One for each process."""
    return EspeakSynthesizer()


def render(seed: int, snr_db: tuple[float, float], utterance: Utterance) -> np.ndarray:
    """Speak a string in one or more breath groups; no two productions have quite the same pitch and rate."""
    generator = random_generator(seed, utterance.set_name, utterance.utt)
    speaker: Voice | FliteVoice = utterance.source
    groups = [utterance.code[0]]
    for letter in utterance.code[1:]:
        if generator.random() < 0.25:
            groups.append(letter)
        else:
            groups[-1] += letter
    segments = []
    for group in groups:
        text = " ".join(WORDS[letter] for letter in group)
        if isinstance(speaker, FliteVoice):
            stretch = speaker.stretch * float(generator.uniform(0.92, 1.08))
            segments.append(speak(dataclasses.replace(speaker, stretch=stretch), text, SAMPLE_RATE))
            continue
        voice = dataclasses.replace(
            speaker,
            pitch=speaker.pitch + int(generator.integers(-4, 5)),
            rate=round(speaker.rate * float(generator.uniform(0.92, 1.08))),
            word_gap=int(generator.integers(0, 4)),
        )
        segments.append(synthesizer().synthesize(text, voice=voice, sample_rate=SAMPLE_RATE) / 32768)
    return join(segments, SAMPLE_RATE, generator=generator, snr_db=snr_db, peak=PEAK)


def prepare(args: argparse.Namespace) -> None:
    """Plan, then synthesise."""
    counts = counts_of(args, PRESETS)
    if not args.min_snr_db <= args.max_snr_db:
        raise UsageError(f"--min-snr-db {args.min_snr_db:g} is above --max-snr-db {args.max_snr_db:g}")
    if not 0 <= args.spread <= 2:
        raise UsageError(f"--spread must be in [0, 2], got {args.spread:g}")
    speakers: dict[str, dict[str, Voice | FliteVoice]] = {**choose_speakers(args.seed, args.spread)}
    if args.flite:
        for name, voices in (("train", TRAIN), ("fit", HELD_OUT)):
            speakers[name] |= flite_speakers(args.flite, args.seed, voices, FLITE_EACH)
    utterances = []
    for name in SETS:
        ids = sorted(speakers[name])
        # Women and men by turns, so that a short list has both.
        ids = [spk for pair in zip(ids[: len(ids) // 2], ids[len(ids) // 2 :], strict=True) for spk in pair]
        generator = random_generator(args.seed, "strings", name)
        plan = plan_strings(name, ids, counts[name], "".join(WORDS), productions={}, generator=generator)
        utterances += [dataclasses.replace(u, source=speakers[name][u.spk]) for u in plan]
    snr_db = (args.min_snr_db, args.max_snr_db)
    write_corpus(
        args.out,
        utterances,
        functools.partial(render, args.seed, snr_db),
        sample_rate=SAMPLE_RATE,
        options={"corpus": "synth", "seed": args.seed, "snr_db": snr_db, "espeak": synthesizer().version}
        | ({} if args.spread == 1 else {"spread": args.spread})
        | ({"flite": FLITE_EACH} if args.flite else {})
        | counts,
        nj=args.nj,
        tables={"spk2voice": {spk: describe(voice) for voices in speakers.values() for spk, voice in voices.items()}},
    )


def describe(voice: Voice | FliteVoice) -> str:
    """The voice in a line, for the table spk2voice."""
    if isinstance(voice, FliteVoice):
        return str(voice)
    return (
        f"{voice.accent}+{voice.variant} pitch={voice.pitch} pitch_range={voice.pitch_range} rate={voice.rate} "
        f"tract_scale={voice.tract_scale}"
    )


def main() -> int:
    """Entry point; returns the exit status."""
    script = make_parser(__doc__, PRESETS)
    script.add_argument("--min-snr-db", type=float, default=30.0, help="noise floor, loudest (default 30)")
    script.add_argument("--max-snr-db", type=float, default=45.0, help="noise floor, softest (default 45)")
    script.add_argument("--spread", type=float, default=1.0, help="how much the voices differ, 0 to 2 (default 1)")
    script.add_argument(
        "--flite",
        metavar="PROGRAM",
        help="add voices of flite, made from recordings of people, three to train and a fourth to fit",
    )
    return run_script(script, prepare)


if __name__ == "__main__":
    sys.exit(main())
