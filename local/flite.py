"""Voices of flite, which were built from the recordings of four people: more like a human voice than formants are.

Imported by prepare_synth.py beside it.  flite is free software of Carnegie Mellon University (http://cmuflite.org),
code and voices under a licence like BSD's; Debian and Ubuntu: apt-get install flite.  Nothing of it is in this package.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from digits import random_generator

from kaldi_uq.errors import MissingDependencyError
from kaldi_uq.io.resample import resample
from kaldi_uq.io.wav import read_wav

# voice -> mean pitch of the talker, Hz
VOICES = {"kal16": 105, "rms": 100, "slt": 175, "awb": 130}
TRAIN, HELD_OUT = ("kal16", "rms", "slt"), ("awb",)


@dataclass(frozen=True)
class FliteVoice:
    """How one of the talkers is changed.

    Attributes:
        program: the program, a name on PATH or a path.
        voice: its voice, of 16 kHz.
        pitch: mean fundamental frequency before the change of the tract, Hz.
        stretch: how much slower than usual.
        tract_scale: factor on all frequencies.
    """

    program: str
    voice: str
    pitch: int
    stretch: float
    tract_scale: float

    def __str__(self) -> str:
        return f"flite+{self.voice} pitch={self.pitch} stretch={self.stretch} tract_scale={self.tract_scale}"


def flite_speakers(program: str, seed: int, voices: tuple[str, ...], each: int) -> dict[str, FliteVoice]:
    """Speakers ``x...`` made of some voices by turns, ``each`` of every voice."""
    if not shutil.which(program):
        raise MissingDependencyError(f"{program}: no such program; install flite (apt-get install flite)")
    found = {}
    for number in range(each * len(voices)):
        name = voices[number % len(voices)]
        generator = random_generator(seed, "flite", name, number)
        found[f"x{name}{number // len(voices):02d}"] = FliteVoice(
            program=program,
            voice=name,
            pitch=round(VOICES[name] * float(generator.uniform(0.75, 1.4))),
            stretch=round(float(generator.uniform(0.75, 1.35)), 2),
            tract_scale=round(float(generator.uniform(0.84, 1.2)), 3),
        )
    return found


def speak(voice: FliteVoice, text: str, sample_rate: int) -> np.ndarray:
    """The words, (N,) float32 in [-1, 1]."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "a.wav"
        # what changes all frequencies changes the duration, too
        stretch = voice.stretch * voice.tract_scale
        settings = [f"duration_stretch={stretch:.3f}", f"int_f0_target_mean={voice.pitch}"]
        options = [word for setting in settings for word in ("--setf", setting)]
        command = [voice.program, "-voice", voice.voice, *options, "-t", text, "-o", str(wav)]
        subprocess.run(command, check=True, capture_output=True)
        samples, rate = read_wav(wav)
    return np.clip(resample(samples, round(rate * voice.tract_scale / 50) * 50, sample_rate, voice.voice), -1, 1)
