"""Benign but hard audio: white noise, babble, reverberation, other levels, and random noise as large as an attack.

A detector that merely notices that something was added flags these too.  All functions keep the length and give audio
on the 16-bit grid.  Nothing clips: where speech and noise together exceed full scale both are scaled down, which leaves
the SNR as it is; uniform noise, whose bound a factor would change, is instead limited to the room that full scale
leaves, as an attack is.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kaldi_uq.audio.loudness import snr_db
from kaldi_uq.audio.names import DRR_DB as DRR_DB
from kaldi_uq.audio.names import KINDS as KINDS
from kaldi_uq.audio.names import NUM_TALKERS as NUM_TALKERS
from kaldi_uq.errors import DataError
from kaldi_uq.io.wav import INT16_SCALE, on_grid

REFLECTION_DELAY_S = 0.0025  # from the direct sound to the first reflection: most of a metre of detour

RESPONSE_S = 0.05  # length of what a microphone's response leaves behind a sound

_LARGEST = 1.0 - 1.0 / INT16_SCALE
_SNR_TOLERANCE_DB = 0.1
_DECAY_DB = 75.0  # decay after which the impulse response is cut off

Wave = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Disturbed:
    """Audio with a disturbance.

    Attributes:
        wav: waveform, (N,) float32 on the 16-bit grid.
        gain: factor on speech and disturbance that keeps them from clipping; 1 if there was room.
        snr_db: power of the speech over the power of everything added, measured after rounding, dB; ``None`` for
            reverberation and another level, which are no noise, and if nothing was added.
    """

    wav: Wave
    gain: float
    snr_db: float | None


def disturb(
    waves: Mapping[str, Wave],
    utt2spk: Mapping[str, str],
    kind: str,
    level: float,
    *,
    sample_rate: float,
    num_talkers: int = NUM_TALKERS,
    drr_db: float = DRR_DB,
    seed: int = 0,
) -> Iterator[tuple[str, Disturbed]]:
    """Disturb each utterance, one after the other.

    What is added depends on seed, kind and utterance id; for one utterance, louder noise is the same noise louder.  The
    order and the number of the utterances play no part, except that the talkers of a babble come from among them.

    Args:
        waves: utt -> waveform, (N,) float32 in [-1, 1].
        utt2spk: utt -> spk, for each of the utterances.
        kind: kind of disturbance, one of ``KINDS``.
        level: SNR in dB (white, babble), RT60 in seconds (reverb), gain in dB (gain), eps (uniform).
        sample_rate: sample rate in Hz.
        num_talkers: number of talkers; babble only.
        drr_db: direct over reverberant energy in dB; reverb only.
        seed: seed for everything random.

    Yields:
        (utt, disturbed audio), in the order of ``waves``.

    Raises:
        DataError: too few other speakers for a babble, or noise below the resolution of 16-bit audio.
        ValueError: an unknown kind or a level out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    talkers = Talkers(utt2spk, seed=seed)
    for utt, wav in waves.items():
        generator = np.random.default_rng([seed, zlib.crc32(kind.encode()), zlib.crc32(utt.encode())])
        try:
            if kind == "white":
                yield utt, white_noise(wav, level, generator=generator)
            elif kind == "babble":
                others = [waves[u] for u in talkers.choose(utt, num_talkers)]
                yield utt, babble(wav, others, level, generator=generator)
            elif kind == "reverb":
                yield utt, reverberate(wav, level, sample_rate, drr_db=drr_db, generator=generator)
            elif kind == "gain":
                yield utt, amplify(wav, level)
            else:
                yield utt, uniform_noise(wav, level, generator=generator)
        except DataError as error:
            raise DataError(f"utterance {utt!r}: {error}") from None


def white_noise(wav: Wave, snr_db: float, *, generator: np.random.Generator) -> Disturbed:
    """Add Gaussian white noise.

    Args:
        wav: waveform, (N,) float32 in [-1, 1], not silent.
        snr_db: power of all of ``wav`` over the power of the noise, dB.
        generator: source of the noise.
    """
    return _add(wav, generator.standard_normal(len(wav)), snr_db)


def babble(wav: Wave, talkers: Sequence[Wave], snr_db: float, *, generator: np.random.Generator) -> Disturbed:
    """Add other utterances, all equally loud, each repeated from a random point on if it is shorter.

    Args:
        wav: waveform, (N,) float32 in [-1, 1], not silent.
        talkers: waveforms of the others, of any length, not silent.
        snr_db: power of all of ``wav`` over the power of the sum of the others, dB.
        generator: source of the points at which the others begin.
    """
    if not talkers:
        raise ValueError("a babble needs at least one talker")
    noise = np.zeros(len(wav))
    for talker in talkers:
        start = int(generator.integers(len(talker)))
        noise += np.take(talker / _rms(talker), np.arange(start, start + len(wav)), mode="wrap")
    return _add(wav, noise, snr_db)


class Talkers:
    """Chooses utterances of other speakers by hashes, so that another utterance in the directory changes few choices.

    Every utterance has a place on a ring, by its hash.  A choice is the next place behind a point that is the hash of
    whom it is for: all choices together take no longer than to sort the utterances (consistent hashing; Karger et al.,
    "Consistent hashing and random trees", 1997).

    Args:
        utt2spk: utt -> spk.
        seed: seed for the choices.
    """

    def __init__(self, utt2spk: Mapping[str, str], *, seed: int) -> None:
        self._utt2spk, self._seed = utt2spk, seed
        self._places = sorted((self._hash(utt), utt) for utt in utt2spk)
        self._num_utts = Counter(utt2spk.values())
        speakers = [utt2spk[utt] for _, utt in self._places]
        # steps from a place to the next one of another speaker: behind as many of one speaker no choice gets slow
        self._steps = [1] * len(speakers)
        for place in range(2 * len(speakers) - 2, -1, -1):  # twice round, as the ring has no end
            here, after = place % len(speakers), (place + 1) % len(speakers)
            if speakers[here] == speakers[after] and self._steps[after] < len(speakers):
                self._steps[here] = self._steps[after] + 1

    def _hash(self, *words: str | int) -> bytes:
        # a checksum would do for a seed, but not here: it maps similar names to similar numbers
        return hashlib.blake2b(" ".join(map(str, (self._seed, *words))).encode()).digest()

    def choose(self, utt: str, count: int) -> list[str]:
        """Choose ``count`` utterances of other speakers than that of ``utt``.

        Raises:
            DataError: other speakers have fewer utterances.
        """
        own = self._utt2spk[utt]
        others = len(self._utt2spk) - self._num_utts[own]
        if others < count:
            raise DataError(
                f"a babble of {count} talkers needs as many utterances of other speakers than {own!r}, found {others}; "
                "use a larger data directory or a smaller --num-talkers"
            )
        chosen: dict[str, None] = {}
        for number in range(count):
            place = bisect.bisect(self._places, (self._hash(utt, number), ""))
            while True:
                place %= len(self._places)
                other = self._places[place][1]
                if self._utt2spk[other] == own:
                    place += self._steps[place]
                elif other in chosen:
                    place += 1
                else:
                    break
            chosen[other] = None
        return list(chosen)


def reverberate(
    wav: Wave, rt60_s: float, sample_rate: float, *, drr_db: float = DRR_DB, generator: np.random.Generator
) -> Disturbed:
    """Place the talker in a room; length and loudness stay, and the direct sound stays where it was.

    Args:
        wav: waveform, (N,) float32 in [-1, 1], not silent.
        rt60_s, sample_rate, drr_db, generator: arguments of :func:`room_impulse_response`.
    """
    response = room_impulse_response(rt60_s, sample_rate, drr_db=drr_db, generator=generator)
    size = len(wav) + len(response) - 1
    wet: FloatArray = np.fft.irfft(np.fft.rfft(wav, size) * np.fft.rfft(response, size), size)[: len(wav)]
    wet *= _rms(wav) / _rms(wet)
    output, gain = _fit(wet)
    return Disturbed(output, gain, None)


def room_impulse_response(
    rt60_s: float, sample_rate: float, *, drr_db: float = DRR_DB, generator: np.random.Generator
) -> FloatArray:
    """An impulse response: the direct sound, then noise whose energy falls by 60 dB in ``rt60_s``.

    Args:
        rt60_s: reverberation time in seconds.
        sample_rate: sample rate in Hz.
        drr_db: energy of the direct sound over the energy of the rest, dB.
        generator: source of the noise.

    Returns:
        (K,) float64 of energy 1; the direct sound is its first sample, so that it delays nothing.

    Source: Polack, "La transmission de l'energie sonore dans les salles", 1988 (the statistical model of the tail).
    """
    if not 0 < rt60_s <= 10:
        raise ValueError(f"rt60 must be in (0, 10] seconds, got {rt60_s}")
    size = max(1, math.ceil(rt60_s * _DECAY_DB / 60.0 * sample_rate))
    time = np.arange(size) / sample_rate
    tail = generator.standard_normal(size) * 10.0 ** (-3.0 * time / rt60_s)
    tail *= 10.0 ** (-drr_db / 20.0) / math.sqrt(float(np.sum(tail**2)))
    gap = np.zeros(max(0, round(REFLECTION_DELAY_S * sample_rate) - 1))
    response = np.concatenate([[1.0], gap, tail])
    return np.asarray(response / math.sqrt(float(np.sum(response**2))), dtype=np.float64)


def amplify(wav: Wave, gain_db: float) -> Disturbed:
    """Speech at another level: what a distant or a loud speaker is to a recogniser.

    Args:
        wav: waveform, (N,) float32 in [-1, 1].
        gain_db: gain in dB; where it would clip, there is less of it, which ``gain`` tells.

    Raises:
        DataError: nothing is left in 16-bit audio.
    """
    wanted = 10.0 ** (gain_db / 20.0)
    output, room = _fit(wav * wanted)
    if not np.any(output):
        raise DataError(f"of a gain of {gain_db:g} dB 16-bit audio leaves nothing; choose a higher one")
    return Disturbed(output, room, None)


def microphone(wav: Wave, depth_db: float, sample_rate: float, *, generator: np.random.Generator) -> Disturbed:
    """Speech through another microphone: a random smooth frequency response; loudness and timing stay.

    Args:
        wav: waveform, (N,) float32 in [-1, 1], not silent.
        depth_db: standard deviation of the gain over all frequencies and microphones, dB.
        sample_rate: sample rate in Hz.
        generator: source of the response: four cosines of random size over the mel scale, the slowest a tilt.
    """
    if not 0 <= depth_db <= 40:
        raise ValueError(f"the depth of a response must be in [0, 40] dB, got {depth_db:g}")
    size = len(wav) + round(RESPONSE_S * sample_rate)  # no end of the audio reaches the other
    mel = np.log1p(np.fft.rfftfreq(size, 1 / sample_rate) / 700.0)
    waves = np.cos(np.pi * np.arange(1, 5)[:, None] * mel / mel[-1])
    gain_db = depth_db / math.sqrt(2.0) * generator.standard_normal(4) @ waves
    wet: FloatArray = np.fft.irfft(np.fft.rfft(wav, size) * 10.0 ** (gain_db / 20.0), size)[: len(wav)]
    wet *= _rms(wav) / _rms(wet)
    output, gain = _fit(wet)
    return Disturbed(output, gain, None)


def uniform_noise(wav: Wave, eps: float, *, generator: np.random.Generator) -> Disturbed:
    """Add independent noise between -eps and eps to every sample: what an attack of that eps may do, without a purpose.

    Args:
        wav: waveform, (N,) float32 in [-1, 1].
        eps: bound of the change of a sample, full scale 1; kept exactly, after rounding too.
        generator: source of the noise.
    """
    if not 0 <= eps <= 1:
        raise ValueError(f"eps must be in [0, 1] (full scale is 1), got {eps}")
    steps = math.floor(eps * INT16_SCALE + 1e-6)
    original = on_grid(wav)
    noise = generator.integers(-steps, steps, size=len(wav), endpoint=True) / INT16_SCALE
    output = on_grid(np.clip(original + noise, -1.0, _LARGEST))
    return Disturbed(output, 1.0, snr_db(original, output))


def _add(wav: Wave, noise: FloatArray, wanted_db: float) -> Disturbed:
    """Speech plus noise at an SNR."""
    noise = noise * (_rms(wav) / _rms(noise) * 10.0 ** (-wanted_db / 20.0))
    output, gain = _fit(wav + noise)
    measured = snr_db(wav * gain, output)
    if measured is None or abs(measured - wanted_db) > _SNR_TOLERANCE_DB:
        raise DataError(
            f"an SNR of {wanted_db:g} dB is not possible in 16-bit audio of this loudness "
            f"({20 * math.log10(_rms(wav)):.1f} dB of full scale); choose a lower one"
        )
    return Disturbed(output, gain, measured)


def _fit(wav: FloatArray) -> tuple[Wave, float]:
    """The waveform on the 16-bit grid, scaled down if it exceeds full scale, and the factor of that."""
    peak = float(np.max(np.abs(wav)))
    gain = min(1.0, _LARGEST / peak)
    return on_grid(wav * gain), gain


def _rms(wav: npt.NDArray[np.floating]) -> float:
    value = math.sqrt(float(np.mean(np.square(wav, dtype=np.float64))))
    if value == 0:
        raise DataError("the audio is silent: an SNR means nothing; remove the utterance")
    return value
