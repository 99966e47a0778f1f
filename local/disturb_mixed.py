#!/usr/bin/env python3
"""Disturb each utterance of a data directory in ways of its own, for a model that is to hold outside.

Of every utterance a random choice of these, at random levels: another microphone (7 of 10), a room (4 of 10), other
talkers (3 of 10) or white noise (3 of 10), another gain (all).  Utterance ids, lengths and timing stay, so that
alignments of the audio as it was fit; but with --cut, which first removes the silence at both ends, as in recordings
that were cut close to a word.

Example: local/disturb_mixed.py data/train data/train_mixed
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from corpus import run_script
from digits import random_generator
from tqdm import tqdm

from kaldi_uq.audio.disturb import Talkers, amplify, babble, microphone, reverberate, white_noise
from kaldi_uq.cli.main import OneLineParser, ParagraphFormatter
from kaldi_uq.errors import UsageError
from kaldi_uq.io.datadir import DataDir, write_data_dir
from kaldi_uq.io.files import DoneStamp
from kaldi_uq.io.wav import to_int16, write_wav
from kaldi_uq.io.waves import Waves, read_waves, sample_rate_of, waves_digest

NUM_TALKERS = 4


def speech_alone(wav: np.ndarray, rate: float) -> np.ndarray:
    """The audio from the first to the last 10 ms that are at most 30 dB below the loudest."""
    size = round(rate / 100)
    power = np.square(wav[: len(wav) // size * size], dtype=np.float64).reshape(-1, size).mean(axis=1)
    loud = np.flatnonzero(power > power.max() / 1000)
    return wav[loud[0] * size : (loud[-1] + 1) * size]


def mixed(args: argparse.Namespace, talkers: Talkers, waves: Waves, utt: str, rate: float) -> np.ndarray:
    """One utterance, disturbed; (N,) float32 on the 16-bit grid.

    Args:
        args: seed, and whether the ends are cut.
        talkers: chooses the others of a babble.
        waves: the set that all are of.
        utt: its id.
        rate: sample rate in Hz.
    """
    draw = random_generator(args.seed, "mixed", utt)
    wav = speech_alone(waves[utt], rate) if args.cut else waves[utt]
    if draw.random() < 0.7:
        wav = microphone(wav, float(draw.uniform(1, 6)), rate, generator=draw).wav
    if draw.random() < 0.4:
        room = {"rt60_s": float(draw.uniform(0.1, 0.6)), "drr_db": float(draw.uniform(0, 12))}
        wav = reverberate(wav, sample_rate=rate, generator=draw, **room).wav
    noise = draw.random()
    if noise < 0.3:
        others = [waves[name] for name in talkers.choose(utt, NUM_TALKERS)]
        wav = babble(wav, others, float(draw.uniform(10, 30)), generator=draw).wav
    elif noise < 0.6:
        wav = white_noise(wav, float(draw.uniform(10, 35)), generator=draw).wav
    return amplify(wav, float(draw.uniform(-15, 5))).wav


def disturb_all(args: argparse.Namespace) -> None:
    """Disturb the set, unless that is done."""
    if args.out_dir.resolve() == args.data_dir.resolve():
        raise UsageError(f"{args.out_dir}: the output would replace its own input; choose another directory")
    data = DataDir.read(args.data_dir, need=("wav.scp", "utt2spk", "text"))
    rate = sample_rate_of(data)
    waves = read_waves(data, sample_rate=rate)
    options = {"seed": args.seed, "cut": args.cut, "audio": waves_digest(waves)}
    stamp = DoneStamp(
        args.out_dir, "mixed", options=options, inputs=[args.data_dir / "text", args.data_dir / "utt2spk"]
    )
    if stamp.is_current():
        print(f"{args.out_dir}: done before with the same options, nothing to do")
        return
    stamp.clear()
    scp = {utt: str(args.out_dir / "wav" / f"{utt}.wav") for utt in data.utts}
    talkers, lengths = Talkers(data.utt2spk, seed=args.seed), {}
    for utt in tqdm(data.utts, desc=args.out_dir.name, unit="utt", disable=None):
        samples = to_int16(mixed(args, talkers, waves, utt, rate))
        write_wav(scp[utt], samples, int(rate))
        lengths[utt] = len(samples) / rate
    write_data_dir(args.out_dir, wav_scp=scp, text=data.text, utt2spk=data.utt2spk, utt2dur=lengths)
    stamp.write()
    print(f"{args.out_dir}: {len(scp)} utterances")


def main() -> int:
    """Entry point; returns the exit status."""
    script = OneLineParser(description=__doc__, formatter_class=ParagraphFormatter)
    script.add_argument("data_dir", type=Path, metavar="<data-dir>")
    script.add_argument("out_dir", type=Path, metavar="<out-data-dir>")
    script.add_argument("--cut", action="store_true", help="remove the silence at both ends first")
    script.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default 0)")
    script.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return run_script(script, disturb_all)


if __name__ == "__main__":
    sys.exit(main())
