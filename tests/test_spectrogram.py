"""The picture of a perturbation beside what the audio masks: what is in it is where it should be."""

from __future__ import annotations

import numpy as np
import pytest

from kaldi_uq.report.spectrogram import EXCESS_DB, LEVELS_DB, perturbation_figure
from kaldi_uq.report.style import png_bytes

RATE = 8000


def waves() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A tone of 1 kHz in the second half second; a faint one of 1 kHz there, and one of 3 kHz where all is silent."""
    time = np.arange(RATE) / RATE
    late = time >= 0.5
    original = 0.5 * np.sin(2 * np.pi * 1000 * time) * late
    hidden = original + 0.005 * np.cos(2 * np.pi * 1000 * time) * late
    heard = original + 0.005 * np.sin(2 * np.pi * 3000 * time) * ~late
    return original, {"hidden": hidden, "heard": heard}


def test_time_frequency_and_level_are_those_of_the_audio() -> None:
    figure = perturbation_figure(*waves(), RATE, title="utt")
    panel = figure.axes[0]
    picture = np.asarray(panel.images[0].get_array())
    left, right, low, high = panel.images[0].get_extent()
    assert (low, high) == (0, 4)
    time = left + (np.arange(picture.shape[1]) + 0.5) * (right - left) / picture.shape[1]
    assert picture[32].max() == pytest.approx(96, abs=0.1)  # 1 kHz
    assert picture[32, (time > 0.52) & (time < 0.98)].min() > 90 and picture[32, time < 0.48].max() < 0
    for axes in figure.axes[:6]:
        assert axes.get_xlim() == (0, 1)


def test_levels_have_one_scale_and_the_excess_one_around_zero() -> None:
    figure = perturbation_figure(*waves(), RATE)
    panels = figure.axes[:6]
    limits = [panel.images[0].get_clim() for panel in panels]
    levels, excess = LEVELS_DB, (-EXCESS_DB, EXCESS_DB)
    assert limits == [levels, levels, levels, excess, levels, excess]


def test_heading_says_how_much_is_above_the_threshold() -> None:
    panels = perturbation_figure(*waves(), RATE).axes
    assert panels[3].get_title(loc="left").startswith("against the threshold: 0% above, mean -")
    assert ", mean +" in panels[5].get_title(loc="left")
    assert np.asarray(panels[3].images[0].get_array()).max() < 0 < np.asarray(panels[5].images[0].get_array()).max()


def test_same_input_gives_the_same_bytes() -> None:
    original, attacked = waves()
    figures = [perturbation_figure(original, {"hidden": attacked["hidden"]}, RATE) for _ in range(2)]
    assert png_bytes(figures[0]) == png_bytes(figures[1])
