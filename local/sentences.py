"""A corpus of sentences, read by the 240 synthetic speakers of the digits.

Imported by the scripts of the recipes that have sentences.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from corpus import write_corpus
from digits import SETS, Counts, join, random_generator
from prepare_synth import PEAK, SAMPLE_RATE, choose_speakers, describe, synthesizer

from kaldi_uq.audio.synth import Voice

SNR_DB = (30.0, 45.0)


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


def plan(seed: int, counts: Counts, sentences: Iterator[str]) -> list[Utterance]:
    """Who says what: speakers take turns, women and men by turns too; no speaker is in two sets."""
    utterances = []
    for set_name, voices in choose_speakers(seed).items():
        ids = sorted(voices)
        ids = [spk for pair in zip(ids[: len(ids) // 2], ids[len(ids) // 2 :], strict=True) for spk in pair]
        for index in range(counts[set_name]):
            spk = ids[index % len(ids)]
            utterances.append(Utterance(set_name, f"{spk}-{index // len(ids):03d}", spk, next(sentences), voices[spk]))
    return utterances


def write_sentences(
    args: argparse.Namespace, counts: Counts, sentences: Iterator[str], options: Mapping[str, Any]
) -> list[Utterance]:
    """Plan, then synthesise; returns the plan.

    Args:
        args: of the parser of :func:`corpus.make_parser`.
        counts: utterances of each set.
        sentences: at least as many sentences.
        options: what determines the sentences, the name of the corpus among it.
    """
    utterances = plan(args.seed, counts, sentences)
    voices = {spk: voice for speakers in choose_speakers(args.seed).values() for spk, voice in speakers.items()}
    write_corpus(
        args.out,
        utterances,
        functools.partial(render, args.seed),
        sample_rate=SAMPLE_RATE,
        options={**options, "seed": args.seed, "espeak": synthesizer().version, **{s: counts[s] for s in SETS}},
        nj=args.nj,
        tables={
            "spk2voice": {spk: describe(voice) for spk, voice in voices.items()},
            "spk2accent": {spk: voice.accent for spk, voice in voices.items()},
        },
    )
    return utterances
