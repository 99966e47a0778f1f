"""How a waveform is cut into frames: their number and place, what lies beyond the ends, and which frames are padding.

Source: Kaldi ``src/feat/feature-window.{h,cc}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, overload

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kaldi_uq.feats.config import FrameConfig
from kaldi_uq.feats.sizes import Sizes


def _ms_to_samples(sample_frequency: float, duration_ms: float) -> int:
    # Kaldi keeps both options in single precision, multiplies in double precision and cuts the fraction off.
    return int(float(np.float32(sample_frequency)) * 0.001 * float(np.float32(duration_ms)))


def window_size(config: FrameConfig) -> int:
    """Samples in a frame.

    Raises:
        ValueError: fewer than two, for which no window is defined.
    """
    size = _ms_to_samples(config.sample_frequency, config.frame_length)
    if size < 2:
        raise ValueError(
            f"frame_length {config.frame_length} ms at {config.sample_frequency} Hz is {size} samples; need at least 2"
        )
    return size


def window_shift(config: FrameConfig) -> int:
    """Samples from the start of a frame to the start of the next.

    Raises:
        ValueError: less than one.
    """
    shift = _ms_to_samples(config.sample_frequency, config.frame_shift)
    if shift < 1:
        raise ValueError(f"frame_shift {config.frame_shift} ms at {config.sample_frequency} Hz is less than a sample")
    return shift


def padded_window_size(config: FrameConfig) -> int:
    """Points of the Fourier transform: the frame, rounded up to a power of two if so configured.

    Raises:
        ValueError: an odd number, which Kaldi refuses too.
    """
    size = window_size(config)
    if config.round_to_power_of_two:
        return int(1 << (size - 1).bit_length())
    if size % 2:
        raise ValueError(f"a frame of {size} samples is odd; set round_to_power_of_two or another frame_length")
    return size


def first_sample(config: FrameConfig) -> int:
    """The sample at which frame 0 begins; negative if that lies before the start of the waveform."""
    return 0 if config.snip_edges else window_shift(config) // 2 - window_size(config) // 2


def min_samples(config: FrameConfig) -> int:
    """The shortest waveform that has a frame, in samples.

    >>> min_samples(FrameConfig())
    400
    """
    shift = window_shift(config)
    return window_size(config) if config.snip_edges else shift - shift // 2


# On a CPU a batch is worked on in parts of about this many frames: their spectra stay in the cache, which halves the
# time of a batch of 100 utterances.
CPU_FRAMES_PER_PART = 1024
# A longer utterance, of more than five minutes, is worked on in windows of frames where no gradient is asked for: the
# spectra of an hour take gigabytes.  The features are the same, but for the rounding of matrix products.
LONG_FRAMES = 1 << 15
WINDOW_FRAMES = 1 << 11


@overload
def num_frames(num_samples: int, config: FrameConfig) -> int: ...
@overload
def num_frames(num_samples: Tensor, config: FrameConfig) -> Tensor: ...
def num_frames(num_samples: int | Tensor, config: FrameConfig) -> int | Tensor:
    """Number of frames that Kaldi makes of ``num_samples`` samples; 0 if there are too few for one.

    Args:
        num_samples: number of samples, an integer or an int64 tensor of any shape.
        config: options of the frames.

    Source: Kaldi ``NumFrames`` (``feature-window.cc``), the whole signal being there.

    >>> num_frames(16000, FrameConfig()), num_frames(16000, FrameConfig(snip_edges=False))
    (98, 100)
    """
    shift = window_shift(config)
    if config.snip_edges:
        frames = (num_samples - window_size(config)) // shift + 1
    else:
        frames = (num_samples + shift // 2) // shift
    return frames.clamp_min(0) if isinstance(frames, Tensor) else max(frames, 0)


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """``(B, size)`` bool, True where the position is below ``lengths (B,)``."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(-1)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def _of(wav: Tensor, num_samples: Tensor, scale: float) -> Tensor:
        wav = wav * scale
        if wav.device.type != "cpu":
            return wav.masked_fill_(~valid_mask(num_samples, wav.shape[1]), 0)
        for row, count in zip(wav, num_samples.tolist(), strict=True):  # a mask takes as long as all samples
            row[count:] = 0
        return wav

    @staticmethod
    def forward(ctx: Any, wav: Tensor, num_samples: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(num_samples)
        ctx.scale = scale
        return _Scaled._of(wav, num_samples, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (num_samples,) = ctx.saved_tensors
        return _Scaled._of(grad, num_samples, ctx.scale), None, None


def scaled(wav: Tensor, num_samples: Tensor, scale: float) -> Tensor:
    """The valid samples of waveforms ``(B, N)``, multiplied with a number; 0 in padded samples.

    ``num_samples (B,)`` is int64, on the device of ``wav``.

    >>> scaled(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2]), 10.0).tolist()
    [[10.0, 20.0, 0.0]]
    """
    return _Scaled.apply(wav, num_samples, scale)  # type: ignore[no-untyped-call, no-any-return]


def check_batch(wav: Tensor, num_samples: Tensor | Sizes, minimum: int) -> Sizes:
    """Check a padded batch of waveforms.

    Args:
        wav: waveforms, ``(B, N)`` float32 or float64.
        num_samples: number of samples of each utterance, ``(B,)`` int64, between ``minimum`` and N.
        minimum: number of samples of the shortest utterance that has a frame.

    Returns:
        ``num_samples``, on the CPU and on the device of ``wav``.

    Raises:
        TypeError: ``wav`` or ``num_samples`` has another dtype.
        ValueError: the shapes do not fit, or an utterance is too short or longer than the tensor.
    """
    if wav.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"wav must be float32 or float64 in [-1, 1], got {wav.dtype}")
    sizes = Sizes.of(num_samples, wav.device)
    if wav.dim() != 2 or sizes.num_samples.shape != wav.shape[:1] or not len(wav):
        raise ValueError(
            f"wav must be (B, N) and num_samples (B,), got {tuple(wav.shape)} and {tuple(sizes.num_samples.shape)}"
        )
    counts = sizes.counts
    shortest, longest = min(counts), max(counts)
    if shortest < minimum:
        raise ValueError(
            f"utterance {counts.index(shortest)} of the batch has {shortest} samples, too short for one frame: "
            f"at least {minimum} samples are needed; leave it out"
        )
    if longest > wav.shape[1]:
        raise ValueError(
            f"utterance {counts.index(longest)} of the batch has {longest} samples, but wav holds {wav.shape[1]}"
        )
    return sizes


def reflect_ends(wav: Tensor, num_samples: Tensor, left: int, right: int, *, repeat_edge: bool) -> Tensor:
    """Continue each utterance beyond its own two ends by its mirror image, as often as it takes.

    Args:
        wav: waveforms, ``(B, N)``; values beyond ``num_samples`` are not read.
        num_samples: number of samples of each utterance, ``(B,)`` int64.
        left: number of samples to put before each utterance.
        right: number of samples to put after the last valid one of each utterance.
        repeat_edge: True mirrors between the samples, so that the last one comes twice (Kaldi); False mirrors at the
            last one (``torch.nn.functional.pad(mode="reflect")``).

    Returns:
        ``(B, left + N + right)``.  Sample ``n`` of an utterance is at ``left + n``.
    """
    num_samples = num_samples.unsqueeze(-1)

    def mirrored(position: Tensor) -> Tensor:
        period = 2 * num_samples if repeat_edge else (2 * num_samples - 2).clamp_min(1)
        phase = position % period
        return torch.minimum(phase, period - phase - int(repeat_edge))

    extended = wav
    if left > 0:
        before = torch.arange(-left, 0, device=wav.device).expand(len(wav), -1)
        extended = torch.cat([wav.gather(1, mirrored(before)), wav], dim=1)
    if right > 0:
        after = num_samples + torch.arange(right, device=wav.device)
        extended = torch.nn.functional.pad(extended, (0, right))
        extended = extended.scatter(1, after + left, wav.gather(1, mirrored(after)))
    return extended


class Samples(Protocol):
    """The samples (N,) of an utterance, float32 in [-1, 1]: an array, a tensor, or a recording that is still a file."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: slice, /) -> np.ndarray | Tensor: ...


def stretch_of(samples: Samples, config: FrameConfig, start: int, stop: int) -> Tensor:
    """The samples of some frames of an utterance, mirrored beyond its ends as Kaldi does; no others are read.

    Args:
        samples: the utterance, N samples.
        config: options of the frames.
        start, stop: the frames, ``start`` to ``stop - 1``.

    Returns:
        ``(n,)``; the first frame begins at sample 0.
    """
    shift, size = window_shift(config), len(samples)
    first = first_sample(config) + start * shift
    end = first + (stop - start - 1) * shift + window_size(config)
    if 0 <= first and end <= size:
        return torch.as_tensor(samples[first:end])
    phase = torch.arange(first, end) % (2 * size)
    places = torch.minimum(phase, 2 * size - 1 - phase)
    near = int(places.min())
    stretch = torch.as_tensor(samples[near : int(places.max()) + 1])
    return stretch[(places - near).to(stretch.device)]


def windows_of(size: int) -> Iterator[tuple[int, int]]:
    """Windows of ``size`` frames: the first of each, and that behind it."""
    for start in range(0, size, WINDOW_FRAMES):
        yield start, min(start + WINDOW_FRAMES, size)


def in_parts(
    function: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    wav: Tensor,
    num_samples: Tensor,
    lengths: Tensor,
    size: int,
) -> Tensor:
    """Call ``function(wav, num_samples, lengths, size)`` on a few utterances at a time and join what it returns.

    On a CPU a part is as long as its longest utterance: a batch that is sorted by length then has little padding.

    Args:
        function: function that gives ``(B, size, D)`` for any part of the batch.
        wav: waveforms, ``(B, N)``.
        num_samples: number of samples of each utterance, ``(B,)`` int64, on the device of ``wav``.
        lengths: number of frames of each utterance, ``(B,)`` int64, on the same device.
        size: number of frames of the longest utterance of the whole batch.
    """
    # Half precision has not enough range for energies on the 16-bit scale.
    with torch.autocast(wav.device.type, enabled=False):
        if wav.device.type != "cpu":
            return function(wav, num_samples, lengths, size)
        frames, samples = lengths.tolist(), num_samples.tolist()
        rows_of_parts = _rows_of_parts(frames)
        # split, not sliced: the gradient of a slice is as large as the whole batch
        waves = wav.split([rows.stop - rows.start for rows in rows_of_parts])
        parts = []
        for rows, some in zip(rows_of_parts, waves, strict=True):
            width, longest = max(samples[rows]), max(frames[rows])
            part = function(some[:, :width], num_samples[rows], lengths[rows], longest)
            parts.append(torch.nn.functional.pad(part, (0, 0, 0, size - longest)))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rows_of_parts(frames: list[int]) -> list[slice]:
    """Successive utterances together, as many as CPU_FRAMES_PER_PART holds with their padding, and at least one.

    >>> _rows_of_parts([600, 500, 500, 24, 2000])
    [slice(0, 1, None), slice(1, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    parts, begin, longest = [], 0, 0
    for row, count in enumerate(frames):
        longest = max(longest, count)
        if row > begin and longest * (row + 1 - begin) > CPU_FRAMES_PER_PART:
            parts.append(slice(begin, row))
            begin, longest = row, count
    return [*parts, slice(begin, len(frames))]
