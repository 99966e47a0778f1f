"""One attacked utterance to look at and to listen to."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kaldi_uq.report.style import ATTACKED, BENIGN, INK, ORANGE, new_figure, tidy
from kaldi_uq.results.names import model_name

Words = Sequence[tuple[str, float, float]]


@dataclass(frozen=True, eq=False)
class Example:
    """An utterance before and after an attack.

    Args:
        utt: utterance id.
        model: model kind attacked.
        attack: attack name.
        eps: bound of the perturbation, full scale 1.
        rate: samples per second.
        original_samples: ``(N,)`` float in [-1, 1].
        attacked_samples: ``(N,)`` float in [-1, 1].
        original: what was said.
        target: the attacker's text.
        hypothesis: what was recognised in the attacked audio.
        attacked_entropy: ``(T,)`` predictive entropy of each frame of the attacked audio, nats.
        original_entropy: ``(T,)`` the same of the original audio; empty if not measured.
        frame_shift_s: seconds from frame to frame.
        original_words, target_words, hypothesis_words: (word, start, end) in seconds; the original's on the original
            audio, the target's and the hypothesis's on the attacked.
        snr_db: signal to perturbation ratio, or None.
    """

    utt: str
    model: str
    attack: str
    eps: float
    rate: int
    original_samples: npt.ArrayLike
    attacked_samples: npt.ArrayLike
    original: str
    target: str
    hypothesis: str
    attacked_entropy: npt.ArrayLike
    original_entropy: npt.ArrayLike = ()
    frame_shift_s: float = 0.01
    original_words: Words = field(default_factory=tuple)
    target_words: Words = field(default_factory=tuple)
    hypothesis_words: Words = field(default_factory=tuple)
    snr_db: float | None = None

    @property
    def slug(self) -> str:
        """A name for its files."""
        name = f"example_{self.model}_{self.attack}_eps{self.eps:g}_{self.utt}"
        return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def wav_bytes(samples: npt.ArrayLike, rate: int) -> bytes:
    """A 16-bit mono WAV file of samples in [-1, 1]; what is beyond is clipped."""
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"samples must be (N,), got shape {values.shape}")
    pcm = np.clip(np.rint(values * 32768), -32768, 32767).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.tobytes())
    return stream.getvalue()


def log_spectrogram(samples: npt.ArrayLike, rate: int, *, range_db: float = 70.0) -> npt.NDArray[np.float64]:
    """Power in decibels, ``(bins, frames)``, 0 at the loudest cell and ``-range_db`` at the floor.

    Windows of 25 ms every 5 ms, centred, so that column k is at k * 5 ms.
    """
    values = np.asarray(samples, dtype=np.float64)
    width, shift = int(0.025 * rate), int(0.005 * rate)
    padded = np.pad(values, (width // 2, width))
    frames = np.lib.stride_tricks.sliding_window_view(padded, width)[: len(values) : shift]
    size = 1 << (width - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hanning(width), 2 * size, axis=1)) ** 2
    decibels = 10 * np.log10(np.maximum(power / max(power.max(), 1e-30), 10 ** (-range_db / 10)))
    return np.asarray(decibels.T, dtype=np.float64)


def entropy_figure(example: Example) -> Figure:
    """Entropy over time: spectrogram of the attacked audio, predictive entropy of each frame, words on one time axis.

    Vertical lines mark where the words of the hypothesis begin, so that a rise in entropy can be set beside a word.
    """
    samples = np.asarray(example.attacked_samples, dtype=np.float64)
    seconds = len(samples) / example.rate
    strips = [
        ("said", example.original_words, BENIGN),
        ("target", example.target_words, ORANGE),
        ("heard", example.hypothesis_words, ATTACKED),
    ]
    strips = [strip for strip in strips if strip[1]]
    figure = new_figure(7.6, 4.2 + 0.3 * len(strips))
    heights = [2.2, 2.0] + [0.34 * len(strips)] * bool(strips)
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    top, middle = panels[0], panels[1]
    picture = log_spectrogram(samples, example.rate)
    top.imshow(
        picture, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, example.rate / 2000),
        interpolation="nearest",
    )  # fmt: skip
    title = f"{example.utt}: {model_name(example.model)} under {example.attack}, eps {example.eps:g}"
    tidy(top, ylabel="kHz", title=title, grid=False)
    _draw_entropy(middle, example)
    tidy(middle, ylabel="predictive\nentropy, nats")
    for axes in (top, middle):
        for _, start, _ in example.hypothesis_words:
            axes.axvline(start, color="white" if axes is top else INK, linewidth=0.7, linestyle=":")
    if strips:
        _draw_words(panels[2], strips)
    panels[-1].set_xlabel("seconds", color=INK)
    top.set_xlim(0, seconds)
    return figure


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
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8.5, loc="upper right", ncols=2)


def _draw_words(axes: Axes, strips: Sequence[tuple[str, Words, str]]) -> None:
    """One row of boxes a text, the first on top."""
    for row, (_, words, colour) in enumerate(reversed(strips)):
        spans = [(start, end - start) for _, start, end in words]
        axes.broken_barh(spans, (row + 0.08, 0.84), facecolor=colour, alpha=0.25, edgecolor=colour, linewidth=1.0)
        for word, start, end in words:
            axes.text(
                (start + end) / 2, row + 0.5, word, ha="center", va="center", fontsize=8.5, color=INK, clip_on=True
            )
    tidy(axes, grid=False)
    axes.set_ylim(0, len(strips))
    axes.set_yticks(np.arange(len(strips)) + 0.5, [name for name, _, _ in reversed(strips)])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
