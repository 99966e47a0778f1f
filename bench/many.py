"""A data directory of many short utterances: ``python -m bench.many RECIPE-DIR DATA-DIR NUM-UTTS``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from kaldi_uq.io.datadir import DataDir, write_data_dir
from kaldi_uq.io.wav import on_grid, to_int16, write_wav
from kaldi_uq.io.waves import read_waves, sample_rate_of


def many_utterances(recipe: Path, out: Path, count: int) -> int:
    """Write a data directory of ``count`` utterances of one word each, and return its sample rate in Hz.

    Raises:
        ValueError: the recipe's training data have no utterance of one word.
    """
    os.chdir(recipe)  # the paths of its tables are relative to it
    data = DataDir.read(Path("data/train"))
    short = [utt for utt in data.utts if len(data.words(utt)) == 1]
    if not short:
        raise ValueError(f"{recipe}/data/train: no utterance of one word")
    rate = sample_rate_of(data)
    spoken = dict(read_waves(data, sample_rate=rate, utts=short).items())
    wav_dir = out / "audio"
    wav_dir.mkdir(parents=True)
    wav_scp, text, utt2spk, utt2dur = {}, {}, {}, {}
    for number in range(count):
        source = short[number % len(short)]
        utt = f"{data.utt2spk[source]}-{number:06d}"
        rng = np.random.default_rng(number)
        wave = spoken[source] * rng.uniform(0.5, 0.9) + rng.normal(0, 1e-3, len(spoken[source]))
        write_wav(wav_dir / f"{utt}.wav", to_int16(on_grid(wave.astype(np.float32))), rate)
        wav_scp[utt] = f"data/many/audio/{utt}.wav"
        text[utt], utt2spk[utt], utt2dur[utt] = data.text[source], data.utt2spk[source], len(wave) / rate
    write_data_dir(out, wav_scp=wav_scp, text=text, utt2spk=utt2spk, utt2dur=utt2dur)
    return rate


if __name__ == "__main__":
    print(many_utterances(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
