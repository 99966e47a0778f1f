"""The masking threshold of an utterance: how loud a disturbance may be, in each cell of time and frequency, unheard.

The psychoacoustic model 1 of MPEG-1, as attacks on recognisers use it: spectrum in dB SPL, tonal and noise maskers,
decimation, spreading over critical bands, sum of the powers with the absolute threshold of hearing.  The loudest cell
of an utterance is set to 96 dB SPL, a listener who turns the volume up: that makes the threshold lower, not higher.

Everything is constant data for an attack: no gradient goes through it.

Source: ISO/IEC 11172-3 annex D (model 1: maskers, decimation, masking indices); Schoenherr et al. 2019, "Adversarial
attacks against automatic speech recognition systems via psychoacoustic hiding"; Qin et al. 2019, "Imperceptible,
robust, and targeted adversarial examples for automatic speech recognition" (normalisation, two-slope spreading).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kaldi_uq.feats.spectrum import overlap_add

LOUDEST_DB = 96.0  # level of the loudest cell of an utterance, dB SPL
WINDOW_S = 0.032  # about the resolution in frequency for which MPEG-1 states its neighbourhoods of a tone
HOPS = 4  # hops in a window; with a Hann window a tight frame: synthesis is exact
HALF_BARK = 0.5  # the weaker one of two tones that are closer masks nothing
TONE_DB = 7.0  # how far a tone rises above its surroundings, dB
# A tone must stand out from bins at these distances, below these frequencies (Hz).
TONE_DISTANCES = ((2700.0, (2,)), (5500.0, (2, 3)), (math.inf, (2, 3, 4, 5, 6)))
# Edges of the critical bands, Hz (Zwicker 1961).
BANDS = (
    0, 100, 200, 300, 400, 510, 630, 770, 920, 1080, 1270, 1480, 1720, 2000, 2320, 2700, 3150, 3700, 4400, 5300, 6400,
    7700, 9500, 12000, 15500, 24000,
)  # fmt: skip


def bark(hertz: Tensor) -> Tensor:
    """Critical band rate.

    >>> [round(v, 1) for v in bark(torch.tensor([100.0, 1000.0, 4000.0])).tolist()]
    [1.0, 8.5, 17.3]

    Source: Zwicker and Terhardt 1980.
    """
    return 13.0 * torch.atan(0.00076 * hertz) + 3.5 * torch.atan((hertz / 7500.0) ** 2)


def threshold_in_quiet(hertz: Tensor) -> Tensor:
    """The absolute threshold of hearing, dB SPL; below 50 Hz its value at 50 Hz.

    Below 50 Hz the formula would allow a rumble nearly as loud as the speech, which no listener hears and no
    loudspeaker plays.

    Source: Terhardt 1979.
    """
    khz = hertz.clamp(min=50.0) / 1000.0
    return 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4


@dataclass(frozen=True)
class ShortTime:
    """Short-time spectra with exact resynthesis: Hann windows of about 32 ms, a quarter of a window apart.

    Every sample lies in four windows, the first and the last too, so that a spectrum says all about the signal and
    does not depend on the padding of a batch.

    Attributes:
        rate: sample rate in Hz.
    """

    rate: float

    @property
    def width(self) -> int:
        """Samples of a window, a power of two."""
        return 1 << round(math.log2(WINDOW_S * self.rate))

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return self.width // HOPS

    def num_frames(self, num_samples: int) -> int:
        """Number of windows that hold at least one of the samples."""
        return (num_samples - 1) // self.hop + HOPS

    def window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.width, dtype=like.dtype, device=like.device)

    def hertz(self, like: Tensor) -> Tensor:
        """(F,) the frequency of each bin."""
        return torch.arange(self.width // 2 + 1, dtype=like.dtype, device=like.device) * (self.rate / self.width)

    def analyse(self, signal: Tensor) -> Tensor:
        """(B, N) -> (B, K, F) complex; a sine of amplitude a has magnitude a * width / 4 in its bin."""
        size = signal.shape[1]
        before = self.width - self.hop
        after = (self.num_frames(size) - 1) * self.hop + self.width - before - size
        frames = torch.nn.functional.pad(signal, (before, after)).unfold(1, self.width, self.hop)
        return torch.fft.rfft(frames * self.window(signal))

    def synthesise(self, spectrum: Tensor, size: int) -> Tensor:
        """(B, K, F) -> (B, size), the signal whose spectrum is nearest, in the sense of least squares."""
        frames = torch.fft.irfft(spectrum, n=self.width)
        frames = frames * (self.window(frames) / (1.5 * HOPS / 4))  # the squared windows sum to 3/8 of the overlap
        before = self.width - self.hop
        return overlap_add(frames, self.hop, before + size)[:, before:]


def masking_threshold(wav: Tensor, rate: float) -> Tensor:
    """The magnitude that a disturbance may have, in each cell of the short-time spectrum, to be masked.

    Args:
        wav: waveforms, (B, N) in [-1, 1], zeros behind the end of each utterance.
        rate: sample rate in Hz.

    Returns:
        (B, K, F) magnitudes, on the scale of ``ShortTime(rate).analyse``.
    """
    with torch.no_grad():
        magnitude = ShortTime(rate).analyse(wav).abs()
        return unit_of_sound(magnitude, rate) * 10.0 ** (threshold_db(magnitude, rate) / 20.0)


@dataclass(frozen=True)
class Margin:
    """A disturbance compared with the masking threshold; ``(B,)`` each, -inf and 0 if there is no disturbance.

    Attributes:
        mean_db: mean over the cells of (power / power of the threshold), in dB: the noise-to-mask ratio.
        max_db: the same ratio in the cell where it is largest, in dB.
        share_above: share of the cells above the threshold.

    Source: noise-to-mask ratio: ITU-R BS.1387, section 4.5.
    """

    mean_db: Tensor
    max_db: Tensor
    share_above: Tensor


def margin(delta: Tensor, threshold: Tensor, num_samples: Tensor, rate: float) -> Margin:
    """Measure disturbances (B, N) against the thresholds (B, K, F) of their utterances of ``num_samples`` (B,)."""
    frames = ShortTime(rate)
    with torch.no_grad():
        ratio = (frames.analyse(delta).abs() / threshold) ** 2
        counts = (num_samples - 1) // frames.hop + HOPS
        valid = torch.arange(ratio.shape[1], device=delta.device) < counts[:, None]
        ratio = ratio * valid[:, :, None]
        cells = counts * ratio.shape[2]
        return Margin(
            10.0 * torch.log10(ratio.sum((1, 2)) / cells),
            10.0 * torch.log10(ratio.amax((1, 2))),
            (ratio > 1.0).sum((1, 2)) / cells,
        )


def unit_of_sound(magnitude: Tensor, rate: float) -> Tensor:
    """(B, 1, 1) the magnitude that stands for 0 dB SPL in each utterance; (B, K, F) ``magnitude`` of the original.

    The loudest cell is 96 dB SPL.  In digital silence a sine of full scale is: nothing else is known of its level.
    """
    full_scale = ShortTime(rate).width / 4
    loudest = magnitude.amax((1, 2), keepdim=True)
    return torch.where(loudest > 0, loudest, full_scale) * 10.0 ** (-LOUDEST_DB / 20.0)


def threshold_db(magnitude: Tensor, rate: float) -> Tensor:
    """The global masking threshold in dB SPL: (B, K, F) of the spectrum's magnitudes (B, K, F)."""
    hertz = ShortTime(rate).hertz(magnitude)
    place, quiet = bark(hertz), threshold_in_quiet(hertz)
    power = (magnitude / unit_of_sound(magnitude, rate)) ** 2
    tones, noises, places = _maskers(power, hertz, rate)
    power_of_quiet = 10.0 ** (quiet / 10.0)
    tones = _decimate(torch.where(tones >= power_of_quiet, tones, 0.0), place)
    noises = torch.where(noises >= power_of_quiet[places], noises, 0.0)
    total = power_of_quiet.expand_as(power).clone()
    half_barks = (place / HALF_BARK).floor().long()  # one tone is left in each at most
    _add_spread(total, tones, place, half_barks, place, index=lambda z: -6.025 - 0.275 * z)
    bands = torch.arange(len(places), device=places.device)
    _add_spread(total, noises, place[places], bands, place, index=lambda z: -2.025 - 0.175 * z)
    return 10.0 * torch.log10(total)


def _maskers(power: Tensor, hertz: Tensor, rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Powers of the tones (B, K, F) and of the noise (B, K, bands) in each critical band; the bins (bands,) of these.

    A tone has the power of its three bins.  The bins around it belong to no masker; the rest of a band is one noise
    masker, at the bin that is nearest to the geometric mean of the band's edges.
    """
    size = power.shape[2]

    def shifted(values: Tensor, distance: int) -> Tensor:
        """The values of the bins ``distance`` further up; zero beyond the edges."""
        moved = torch.zeros_like(values)
        if distance >= 0:
            moved[..., : size - distance] = values[..., distance:]
        else:
            moved[..., -distance:] = values[..., : size + distance]
        return moved

    is_tone = (power > shifted(power, -1)) & (power >= shifted(power, 1))
    is_tone[..., :2] = is_tone[..., -2:] = False  # too near to the edge to be compared with their surroundings
    factor = 10.0 ** (TONE_DB / 10.0)
    for distance in TONE_DISTANCES[-1][1]:
        both = power >= factor * torch.maximum(shifted(power, -distance), shifted(power, distance))
        is_tone &= both | ~_counts(distance, hertz)
    taken = is_tone.clone()
    for distance in (1, *TONE_DISTANCES[-1][1]):
        reaching = is_tone & _counts(distance, hertz)
        taken |= shifted(reaching, -distance) | shifted(reaching, distance)
    tones = torch.where(is_tone, power + shifted(power, -1) + shifted(power, 1), 0.0)
    edges = [edge for edge in BANDS if edge < rate / 2]
    edges.append(math.ceil(rate / 2) + 1)
    band = torch.bucketize(hertz, torch.tensor(edges[1:], dtype=hertz.dtype, device=hertz.device), right=True)
    members = torch.nn.functional.one_hot(band, len(edges) - 1).to(power.dtype)
    noises = torch.where(taken, 0.0, power) @ members
    tops = [*edges[1:-1], rate / 2]
    centres = [math.sqrt(max(low, 25) * top) for low, top in zip(edges[:-1], tops, strict=True)]
    places = torch.tensor([min(round(c * 2 * (size - 1) / rate), size - 1) for c in centres], device=power.device)
    return tones, noises, places


def _counts(distance: int, hertz: Tensor) -> Tensor:
    """(F,) the bins at which a neighbour at this distance belongs to a tone."""
    counts = torch.zeros_like(hertz, dtype=torch.bool)
    low = 0.0
    for high, distances in TONE_DISTANCES:
        counts |= (hertz >= low) & (hertz < high) & (distance == 1 or distance in distances)
        low = high
    return counts


def _decimate(tones: Tensor, place: Tensor) -> Tensor:
    """Without the tones that have a stronger one within half a Bark; of equal ones the lower stays."""
    size, (utts, frames, bins) = len(place), tones.nonzero(as_tuple=True)  # few of the cells
    power, is_lost = tones[utts, frames, bins], torch.zeros_like(bins, dtype=torch.bool)
    for distance in range(1, size):
        near = place[distance:] - place[:-distance] < HALF_BARK
        if not bool(near.any()):
            break
        below = torch.nn.functional.pad(near, (distance, 0))[bins]  # whether the bin has a neighbour there
        above = torch.nn.functional.pad(near, (0, distance))[bins]
        is_lost |= below & (tones[utts, frames, (bins - distance).clamp(min=0)] >= power)
        is_lost |= above & (tones[utts, frames, (bins + distance).clamp(max=size - 1)] > power)
    return tones.index_put((utts, frames, bins), power.masked_fill(is_lost, 0.0))


def _add_spread(
    total: Tensor,
    maskers: Tensor,
    masker_place: Tensor,
    groups: Tensor,
    place: Tensor,
    *,
    index: Callable[[Tensor], Tensor],
) -> None:
    """Add to ``total`` (B, K, F) the powers that the maskers (B, K, J) at ``masker_place`` (J,) Bark hide.

    27 dB a Bark below the masker, and above it 27 dB less 0.37 dB for each dB of the masker over 40 dB: loud sounds
    mask upward.  ``groups`` (J,) are sets of maskers of which one at most is not 0; ``index`` is the distance, in dB,
    of the threshold from the masker at the masker's own place.
    """
    offset = 10.0 ** (index(masker_place) / 10.0)
    away = place[None, :] - masker_place[:, None]  # (J, F)
    below = torch.where(away < 0, 10.0 ** (2.7 * away), 0.0) * offset[:, None]
    total += maskers @ below
    # upward the slope depends on the level: a pass for each group
    for group in groups.unique().tolist():
        inside = (groups == group).nonzero()[:, 0]
        level, which = maskers[..., inside].max(-1)
        heard = level.nonzero(as_tuple=True)  # tones are rare: most cells of most groups have none
        level, where = level[heard][:, None], masker_place[inside][which[heard]][:, None]  # (R, 1)
        slope = -27.0 + 0.37 * (10.0 * torch.log10(level.clamp(min=1e-30)) - 40.0).clamp(0.0, LOUDEST_DB - 40.0)
        first = int((place < masker_place[inside].min()).sum())
        distance = place[first:] - where if len(inside) > 1 else (place[first:] - masker_place[inside])[None]
        spread = (distance.clamp(min=0.0) * (slope * (math.log(10.0) / 10.0))).exp_()
        spread.mul_(level * 10.0 ** (index(where) / 10.0))
        if len(inside) > 1:  # some of the first bins may lie below the masker
            spread.masked_fill_(distance < 0, 0.0)
        total[..., first:][heard] += spread
