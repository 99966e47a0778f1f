"""What an attack adds to an utterance, beside what the utterance masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from kaldi_uq.audio.masking import LOUDEST_DB, ShortTime, margin, masking_threshold, unit_of_sound
from kaldi_uq.report.style import INK, new_figure, tidy

FloatArray = npt.NDArray[np.float64]
LEVELS_DB = (0.0, LOUDEST_DB)  # of the colours, dB SPL
EXCESS_DB = 40.0  # at both ends of the colours of what is above and below the threshold


@dataclass(frozen=True, eq=False)
class Perturbed:
    """An utterance under several attacks.

    Args:
        utt: utterance id.
        model: model kind attacked.
        rate: samples per second.
        original: ``(N,)`` float in [-1, 1].
        attacked: name of the attack -> ``(N,)``.
    """

    utt: str
    model: str
    rate: int
    original: npt.ArrayLike
    attacked: Mapping[str, npt.ArrayLike]


def perturbation_figure(
    original: npt.ArrayLike, attacked: Mapping[str, npt.ArrayLike], rate: int, *, title: str = ""
) -> Figure:
    """Spectrograms on one colour scale: the audio and what it masks, and what each attack adds to it.

    Levels are in dB SPL, 96 for the loudest cell of the audio, the threshold's too; beside each perturbation is how far
    it lies above (red) or below (blue) the masking threshold.

    Args:
        original: (N,) in [-1, 1].
        attacked: name of the attack -> (N,) in [-1, 1].
        rate: samples per second.
        title: heading, such as the utterance.
    """
    wave = torch.from_numpy(np.asarray(original, dtype=np.float32))[None]
    frames = ShortTime(rate)
    spectrum = frames.analyse(wave).abs()
    unit, threshold = unit_of_sound(spectrum, rate), masking_threshold(wave, rate)
    figure = new_figure(9.0, 1.2 + 1.9 * (1 + len(attacked)))
    panels = figure.subplots(1 + len(attacked), 2, sharex=True, sharey=True, squeeze=False)
    seconds = wave.shape[1] / rate
    level = _draw(panels[0, 0], _decibels(spectrum / unit), frames, seconds, "original")
    _draw(panels[0, 1], _decibels(threshold / unit), frames, seconds, "masking threshold of the original")
    excess = level
    for (left, right), (name, samples) in zip(panels[1:], attacked.items(), strict=True):
        delta = torch.from_numpy(np.asarray(samples, dtype=np.float64) - np.asarray(original, dtype=np.float64))
        delta = delta.to(wave)[None]
        added = frames.analyse(delta).abs()
        _draw(left, _decibels(added / unit), frames, seconds, f"added by {name}")
        found = margin(delta, threshold, torch.tensor([wave.shape[1]]), rate)
        text = f"against the threshold: {float(found.share_above):.0%} above, mean {float(found.mean_db):+.1f} dB"
        excess = _draw(
            right, _decibels(added / threshold), frames, seconds, text, vmin=-EXCESS_DB, vmax=EXCESS_DB, cmap="RdBu_r"
        )
    for axes in panels[:, 0]:
        axes.set_ylabel("kHz", color=INK)
    for axes in panels[-1]:
        axes.set_xlabel("seconds", color=INK)
    figure.colorbar(level, ax=panels[:, 0], location="bottom", label="dB SPL", aspect=40, shrink=0.9)
    if attacked:
        label = "dB over the masking threshold"
        figure.colorbar(excess, ax=panels[:, 1], location="bottom", label=label, aspect=40, shrink=0.9)
    if title:
        figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def _decibels(ratio: torch.Tensor) -> FloatArray:
    """(1, K, F) magnitudes to (F, K) decibels; nothing at all is at the lower end of any scale."""
    return np.asarray(20.0 * np.log10(np.maximum(ratio[0].numpy().astype(np.float64).T, 1e-10)))


def _draw(
    axes: Axes,
    picture: FloatArray,
    frames: ShortTime,
    seconds: float,
    title: str,
    *,
    vmin: float = LEVELS_DB[0],
    vmax: float = LEVELS_DB[1],
    cmap: str = "magma",
) -> AxesImage:
    # the first window ends one hop into the audio; a column is as wide as a hop, around the middle of its window
    begin = (frames.hop - frames.width / 2 - frames.hop / 2) / frames.rate
    extent = (begin, begin + picture.shape[1] * frames.hop / frames.rate, 0.0, frames.rate / 2000)
    image = axes.imshow(
        picture, origin="lower", aspect="auto", cmap=cmap, vmin=vmin, vmax=vmax, extent=extent, interpolation="nearest"
    )
    tidy(axes, title=title, grid=False)
    axes.title.set_fontsize(9.5)
    axes.set_xlim(0, seconds)
    return image
