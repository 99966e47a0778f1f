"""Pictures of single utterances: spectrograms, entropy over time, words, and what the audio masks of an attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from kaldi_uq.audio.masking import LOUDEST_DB, ShortTime, margin, masking_threshold, unit_of_sound
from kaldi_uq.report.examples import Example, Perturbed, Words
from kaldi_uq.report.style import ATTACKED, BENIGN, INK, ORANGE, new_figure, tidy
from kaldi_uq.results.names import model_name

LEVELS_DB = {"vmin": 0.0, "vmax": LOUDEST_DB, "cmap": "magma"}  # colours of levels, dB SPL
EXCESS_DB = {"vmin": -40.0, "vmax": 40.0, "cmap": "RdBu_r"}  # of what is above and below the threshold


def entropy_figure(example: Example) -> Figure:
    """Spectrograms of original and attacked audio, predictive entropy of each frame and words, on one time axis.

    Vertical lines mark where the words of the hypothesis begin, so that a rise in entropy can be set beside a word.
    """
    strips = [
        ("said", example.original_words, BENIGN),
        ("target", example.target_words, ORANGE),
        ("heard", example.hypothesis_words, ATTACKED),
    ]
    strips = [strip for strip in strips if strip[1]]
    is_measured = bool(np.size(example.attacked_entropy))
    count = 1 + example.compare
    heights = [1.7] * (count + is_measured) + [0.34 * len(strips)] * bool(strips)
    figure = new_figure(7.6, 0.5 + 1.7 * (count + is_measured) + 0.3 * len(strips))
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False).ravel()
    sounds = (("original", example.original_samples), ("attacked", example.attacked_samples))
    unit = unit_of_sound(_spectrum(example.original_samples, example.rate), example.rate)  # of both
    for axes, (name, samples) in zip(panels, sounds[-count:], strict=False):
        spectrum = _spectrum(samples, example.rate)
        image = _draw(axes, spectrum / unit, example.rate, np.size(samples), **LEVELS_DB)
        title = f"{name} audio: {example.utt}"
        if name == "attacked":
            title += f", {model_name(example.model)} under {example.attack}, eps {example.eps:g}"
        tidy(axes, ylabel="frequency, kHz", title=title, grid=False)
    figure.colorbar(image, ax=panels[:count], label="level, dB SPL", aspect=25)
    if is_measured:
        _draw_entropy(panels[count], example)
    for axes, colour in zip(panels[count - 1 : count + is_measured], ("white", INK), strict=False):
        for _, start, _ in example.hypothesis_words:
            axes.axvline(start, color=colour, linewidth=0.7, linestyle=":")
    if strips:
        _draw_words(panels[-1], strips)
    panels[-1].set_xlabel("time, seconds", color=INK)
    return figure


def perturbation_figure(example: Perturbed) -> Figure:
    """Spectrograms on one colour scale: the audio and what it masks, and what each attack adds to it.

    Levels are in dB SPL, 96 for the loudest cell of the audio, the threshold's too; beside each perturbation is how far
    it lies above (red) or below (blue) the masking threshold.
    """
    rate, wav = example.rate, _tensor(example.original)
    spectrum = _spectrum(example.original, rate)
    unit, threshold = unit_of_sound(spectrum, rate), masking_threshold(wav, rate)
    figure = new_figure(9.0, 1.2 + 1.9 * (1 + len(example.attacked)))
    panels = figure.subplots(1 + len(example.attacked), 2, sharex=True, sharey=True, squeeze=False)

    def draw(axes: Axes, ratio: torch.Tensor, title: str, colours: Mapping[str, Any] = LEVELS_DB) -> AxesImage:
        tidy(axes, title=title, grid=False)
        axes.title.set_fontsize(9.5)
        return _draw(axes, ratio, rate, wav.shape[1], **colours)

    level = excess = draw(panels[0, 0], spectrum / unit, "original")
    draw(panels[0, 1], threshold / unit, "masking threshold of the original")
    for (left, right), (name, samples) in zip(panels[1:], example.attacked.items(), strict=True):
        delta = _tensor(np.asarray(samples, dtype=np.float64) - np.asarray(example.original, dtype=np.float64))
        added = ShortTime(rate).analyse(delta).abs()
        draw(left, added / unit, f"added by {name}")
        found = margin(delta, threshold, torch.tensor([wav.shape[1]]), rate)
        text = f"against the threshold: {float(found.share_above):.0%} above, mean {float(found.mean_db):+.1f} dB"
        excess = draw(right, added / threshold, text, EXCESS_DB)
    for axes in panels[:, 0]:
        axes.set_ylabel("frequency, kHz", color=INK)
    for axes in panels[-1]:
        axes.set_xlabel("time, seconds", color=INK)
    sides = [(level, 0, "dB SPL")] + [(excess, 1, "dB over the masking threshold")] * bool(example.attacked)
    for image, column, label in sides:
        figure.colorbar(image, ax=panels[:, column], location="bottom", label=label, aspect=40, shrink=0.9)
    title = f"{example.utt}: {model_name(example.model)}"
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return figure


def _tensor(samples: npt.ArrayLike) -> torch.Tensor:
    return torch.from_numpy(np.asarray(samples, dtype=np.float32))[None]


def _spectrum(samples: npt.ArrayLike, rate: int) -> torch.Tensor:
    return ShortTime(rate).analyse(_tensor(samples)).abs()


def _draw(axes: Axes, ratio: torch.Tensor, rate: int, size: int, **colours: Any) -> AxesImage:
    """(1, K, F) magnitudes in decibels over the seconds of ``size`` samples."""
    frames = ShortTime(rate)
    # nothing at all is at the lower end of any scale
    picture = 20.0 * np.log10(np.maximum(ratio[0].numpy().astype(np.float64).T, 1e-10))
    # the first window ends one hop into the audio; a column is as wide as a hop, around the middle of its window
    begin = (frames.hop - frames.width / 2 - frames.hop / 2) / rate
    extent = (begin, begin + picture.shape[1] * frames.hop / rate, 0.0, rate / 2000)
    image = axes.imshow(
        picture, origin="lower", aspect="auto", extent=extent, interpolation="nearest", **colours
    )  # fmt: skip
    axes.set_xlim(0, size / rate)
    return image


def _draw_entropy(axes: Axes, example: Example) -> None:
    lines = (
        ("attacked", example.attacked_entropy, ATTACKED, "-"),
        ("original", example.original_entropy, BENIGN, "--"),
    )
    for name, values, colour, line in lines:
        entropy = np.asarray(values, dtype=np.float64)
        if len(entropy):
            time_s = (np.arange(len(entropy)) + 0.5) * example.frame_shift_s
            axes.plot(time_s, entropy, color=colour, linestyle=line, linewidth=1.4, label=name)
    tidy(axes, ylabel="predictive\nentropy, nats")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=8.5, loc="upper right", ncols=2)


def _draw_words(axes: Axes, strips: Sequence[tuple[str, Words, str]]) -> None:
    """One row of boxes a text, the first on top."""
    for row, (_, words, colour) in enumerate(reversed(strips)):
        spans = [(start, end - start) for _, start, end in words]
        axes.broken_barh(spans, (row + 0.08, 0.84), facecolor=colour, alpha=0.25, edgecolor=colour, linewidth=1.0)
        for word, start, end in words:
            centre: dict[str, Any] = {"ha": "center", "va": "center", "clip_on": True}
            axes.text((start + end) / 2, row + 0.5, word, fontsize=8.5, color=INK, **centre)
    tidy(axes, grid=False)
    axes.set_ylim(0, len(strips))
    axes.set_yticks(np.arange(len(strips)) + 0.5, [name for name, _, _ in reversed(strips)])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
