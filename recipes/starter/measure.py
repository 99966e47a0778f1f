#!/usr/bin/env python3
"""Measure a digit model for its card: words right, false alarms of its gate, and what it says of audio without digits.

Speech is data/test and what disturbances make of it, and with --corpus-dir the recordings of people of the Free Spoken
Digit Dataset, which no part of the model has heard: each recording alone, and strings that local/prepare_fsdd.py has
put together.  With attack directories: how often the target was reached, and how often the gate was passed too.

Example: ./measure.py exp/digits --strings data_fsdd/test --corpus-dir DIR exp/digits/attack_*
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

import kaldi_uq as uq
from kaldi_uq.audio.disturb import Talkers, amplify, babble, reverberate, white_noise
from kaldi_uq.audio.synth import EspeakSynthesizer, Voice
from kaldi_uq.detector import OneClassDetector
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.results.word_errors import score_texts

RATE = 16000
WORDS = "zero one two three four five six seven eight nine".split()
SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "please leave a message after the tone",
    "a gate must hear what the recogniser hears",
    "good morning everybody how are you today",
)

Waves = Mapping[str, np.ndarray]


def row(title: str, rec: uq.Recogniser, det: OneClassDetector, waves: Waves, text: Mapping[str, str]) -> None:
    """One line of the table: words right, and share of the files that the gate calls an attack."""
    verdicts = uq.judge(rec, det, waves)
    heard = {name: verdict.hypothesis or "" for name, verdict in verdicts.items()}
    total, _ = score_texts({name: text[name] for name in waves}, heard)
    alarms = sum(verdict.attack for verdict in verdicts.values())
    right = f"{100 * total.accuracy:.1f} %" if total.num_words else f"{total.insertions} words heard"
    print(f"| {title} | {len(waves)} | {right} | {alarms} ({100 * alarms / len(waves):.1f} %) |", flush=True)


def disturbed(waves: Waves, utt2spk: Mapping[str, str]) -> Iterable[tuple[str, Waves]]:
    """The same speech in noise, in a room and farther away."""

    def draw(utt: str) -> np.random.Generator:
        return np.random.default_rng(sum(utt.encode()))

    yield "white noise, 20 dB", {u: white_noise(w, 20, generator=draw(u)).wav for u, w in waves.items()}
    yield "white noise, 10 dB", {u: white_noise(w, 10, generator=draw(u)).wav for u, w in waves.items()}
    choice = Talkers(utt2spk, seed=0)
    talkers = {u: [waves[o] for o in choice.choose(u, 6)] for u in waves}
    yield "babble, 20 dB", {u: babble(w, talkers[u], 20, generator=draw(u)).wav for u, w in waves.items()}
    yield "reverberation, 0.3 s", {u: reverberate(w, 0.3, RATE, generator=draw(u)).wav for u, w in waves.items()}
    yield "20 dB quieter", {u: amplify(w, -20).wav for u, w in waves.items()}


def no_digits() -> Iterable[tuple[str, Waves]]:
    """Audio in which nobody says a digit."""
    draw = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    notes = 220 * 2 ** (np.array([0, 4, 7, 12, 9, 5, 2, -3, 0, 7]) / 12)
    chords = {f"c{i}": 0.1 * sum(np.sin(2 * np.pi * f * time) for f in notes[i : i + 3]) for i in range(8)}
    yield "chords of pure tones", {name: np.float32(0.3 * wav) for name, wav in chords.items()}
    yield "white noise", {f"n{i}": np.float32(0.05 * draw.standard_normal(2 * RATE)).clip(-1, 1) for i in range(20)}
    hiss = {f"s{i}": np.float32(draw.integers(-2, 3, 2 * RATE) / 32768) for i in range(20)}
    yield "nearly silence, 2 steps of 16 bit", hiss
    speaker = EspeakSynthesizer()
    voices = [Voice(accent=a, variant=v) for a in ("en-us", "en-gb") for v in ("m1", "m3", "f1", "f3")]
    said = {
        f"{i}-{j}": np.float32(speaker.synthesize(text, voice=voice, sample_rate=RATE) / 32768)
        for i, text in enumerate(SENTENCES)
        for j, voice in enumerate(voices)
    }
    yield "other sentences, synthesised", said


def attacks(det: OneClassDetector, folders: Iterable[Path]) -> None:
    """What the attacks of some directories reached."""
    print("\n| attack | utterances | target reached | and passed the gate |\n|---|---|---|---|")
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        lines = [line for line in lines if "target" in line]
        table = {name: [line["statistics"][name] for line in lines] for name in det.statistics}
        reached = np.array([line["target_success"] for line in lines])
        passed = reached & ~np.asarray(det.is_attack(table))
        print(f"| {folder.name} | {len(lines)} | {reached.sum()} | {passed.sum()} |")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("attacked", type=Path, nargs="*", help="directories of attacks")
    parser.add_argument("--corpus-dir", type=Path, help="the Free Spoken Digit Dataset")
    parser.add_argument("--strings", type=Path, help="a data directory of strings of it")
    parser.add_argument("--every", type=int, default=1, help="take every n-th utterance")
    args = parser.parse_args()
    rec, det = uq.Recogniser.load(args.model_dir), uq.load_detector(args.model_dir)
    print("| speech | files | words right | called an attack |\n|---|---|---|---|")

    def of_directory(path: Path) -> tuple[Waves, Mapping[str, str], Mapping[str, str]]:
        data = DataDir.read(path, need=("wav.scp", "utt2spk", "text"))
        utts = list(data.utts)[:: args.every]
        waves = rec.read_wavs({utt: data.wav_scp[utt] for utt in utts}, resample=True)
        return {utt: waves[utt] for utt in utts}, data.text, {utt: data.utt2spk[utt] for utt in utts}

    waves, text, utt2spk = of_directory(Path("data/test"))
    row("synthesised, voices held out", rec, det, waves, text)
    for title, changed in disturbed(waves, utt2spk):
        row(f"the same, {title}", rec, det, changed, text)
    mixed, mixed_text, _ = of_directory(Path("data/test_mixed"))
    row("the same, microphone, room, noise, gain mixed", rec, det, mixed, mixed_text)
    if args.strings:
        waves, text, utt2spk = of_directory(args.strings)
        for spk in sorted(set(utt2spk.values())):
            own = {utt: wav for utt, wav in waves.items() if utt2spk[utt] == spk}
            row(f"people, strings: {spk}", rec, det, own, text)
        for title, changed in disturbed(waves, utt2spk):
            row(f"people, strings, {title}", rec, det, changed, text)
    if args.corpus_dir:
        files = sorted((args.corpus_dir / "recordings").glob("*.wav"))[:: args.every]
        recorded = rec.read_wavs({path.stem: str(path) for path in files}, resample=True)
        speakers = defaultdict(dict)
        for name in recorded:
            speakers[name.split("_")[1]][name] = recorded[name]
        for spk, own in sorted(speakers.items()):
            row(f"people, one word, cut at its ends: {spk}", rec, det, own, {n: WORDS[int(n[0])] for n in own})
    for title, others in no_digits():
        row(f"no digits: {title}", rec, det, others, dict.fromkeys(others, ""))
    attacks(det, args.attacked)


if __name__ == "__main__":
    sys.exit(main())
