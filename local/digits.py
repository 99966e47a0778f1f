"""What the digit corpora share: words, sets, random strings, and an utterance put together from pieces of speech.

Imported by the prepare_*.py scripts beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.signal import lfilter

from kaldi_uq.io.wav import to_int16

# One letter a word, as in the file names of TIDIGITS: 1z23a.wav is "one zero two three", first production.
WORDS = {"o": "oh", "z": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six"} | {
    "7": "seven", "8": "eight", "9": "nine"
}  # fmt: skip

SETS = ("train", "fit", "test", "attack")

# A TIDIGITS speaker reads 22 single digits and 11 strings each of 2, 3, 4, 5 and 7: no string has 6.
LENGTHS = (1, 1, 2, 3, 4, 5, 7)

Counts = dict[str, int]


@dataclass(frozen=True)
class Utterance:
    """One utterance of the plan: where it goes, what is said, and what its waveform is made from."""

    set_name: str
    utt: str
    spk: str
    code: str  # letters of WORDS
    source: Any  # for the script's render function

    @property
    def text(self) -> str:
        """The words."""
        return " ".join(WORDS[letter] for letter in self.code)


def random_generator(*names: object) -> np.random.Generator:
    """A generator of its own for each combination of names (the seed is one of them).

    Then neither the order of the work nor the number of processes changes a result.
    """
    text = "/".join(map(str, names))
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))


def random_code(generator: np.random.Generator, letters: str) -> str:
    """A random digit string with TIDIGITS' lengths: 1, 2, 3, 4, 5 or 7 letters, single digits twice as often."""
    length = LENGTHS[int(generator.integers(len(LENGTHS)))]
    return "".join(letters[int(i)] for i in generator.integers(len(letters), size=length))


def plan_strings(
    set_name: str,
    speakers: Sequence[str],
    count: int,
    letters: str,
    *,
    productions: dict[str, int],
    generator: np.random.Generator,
) -> list[Utterance]:
    """Random strings, the same number of each speaker (give or take one); ``source`` is left empty.

    Utterances are named as in TIDIGITS: speaker, string, and a letter for the production: ``m07-1z2a``.

    Args:
        set_name: the set.
        speakers: its speakers, who take turns.
        count: number of utterances.
        letters: the digits to choose from.
        productions: how often each speaker has said each string so far; counted on here, so that sets with the same
            speakers have no utterance id in common.
        generator: draws the strings.
    """
    utterances = []
    for index in range(count):
        spk = speakers[index % len(speakers)]
        code = random_code(generator, letters)
        name = f"{spk}-{code}"
        productions[name] = productions.get(name, 0) + 1
        utterances.append(Utterance(set_name, name + _production(productions[name]), spk, code, None))
    return utterances


def _production(number: int) -> str:
    """1 -> a, 26 -> z, 27 -> aa."""
    letters = ""
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def join(
    segments: Sequence[np.ndarray],
    sample_rate: int,
    *,
    generator: np.random.Generator,
    snr_db: tuple[float, float] = (30.0, 45.0),
    pause_s: tuple[float, float] = (0.05, 0.3),
    edge_s: tuple[float, float] = (0.1, 0.3),
    peak: tuple[float, float] | None = None,
) -> np.ndarray:
    """An utterance of pieces of speech: silence before, between and after, a noise floor, a level.

    Args:
        segments: (N,) float each, any scale; cut here to where speech begins and ends.
        sample_rate: Hz.
        generator: draws the pauses, the noise and its colour, and the level, all uniform in the ranges that follow.
        snr_db: power of the speech over that of the noise.  Without noise there would be digital silence, whose log
            energy is the floor of a feature and nothing that a microphone gives.
        pause_s, edge_s: silences between the pieces and at both ends, seconds.
        peak: range of the largest absolute sample, on the [-1, 1] scale; ``None`` keeps the level of the pieces.

    Returns:
        (N,) int16.
    """
    pieces = [_faded(_trimmed(segment, sample_rate), sample_rate) for segment in segments]
    power = sum(float(np.sum(piece**2)) for piece in pieces) / sum(map(len, pieces))
    parts = [_silence(generator, edge_s, sample_rate)]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        parts += [piece, _silence(generator, edge_s if last else pause_s, sample_rate)]
    samples = np.concatenate(parts)
    # Rooms and amplifiers are louder at low frequencies: white noise through one pole.
    noise = lfilter([1.0], [1.0, -float(generator.uniform(0.0, 0.9))], generator.standard_normal(len(samples)))
    noise_power = power * 10 ** (-float(generator.uniform(*snr_db)) / 10)
    samples += noise * np.sqrt(noise_power / np.mean(noise**2))
    if peak is not None:
        samples *= float(generator.uniform(*peak)) / np.max(np.abs(samples))
    return to_int16(samples)


def _silence(generator: np.random.Generator, range_s: tuple[float, float], sample_rate: int) -> np.ndarray:
    return np.zeros(round(float(generator.uniform(*range_s)) * sample_rate))


def _trimmed(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Without the silence at the ends: from 10 ms before the first to 10 ms after the last audible sample."""
    samples = np.asarray(samples, np.float64)
    # 1/200 of the peak, -46 dB, is below the weakest fricative of the digits.
    audible = np.flatnonzero(np.abs(samples) > np.max(np.abs(samples)) / 200)
    margin = sample_rate // 100
    return samples[max(0, audible[0] - margin) : audible[-1] + margin]


def _faded(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """With 3 ms ramps at the ends: a cut must not click."""
    length = min(sample_rate * 3 // 1000, len(samples) // 2)
    envelope = np.ones(len(samples))
    envelope[:length] = np.linspace(0.0, 1.0, length)
    envelope[len(samples) - length :] = np.linspace(1.0, 0.0, length)
    return samples * envelope
