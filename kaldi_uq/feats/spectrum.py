"""From the waveform to mel energies: two differentiable functions with backward passes written by hand.

Autograd's own way through these steps keeps every intermediate ``(B, T, frame)`` tensor, runs the backward of ``rfft``
as a complex transform of twice the needed size, and scatters the gradient of the overlapping frames sample by sample.
Here the frames are cut again from the waveform in the backward pass, the transform is the real inverse one, and
overlapping frames are added as whole blocks of one frame shift.  Both functions are differentiable once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def overlap_add(frames: Tensor, shift: int, size: int) -> Tensor:
    """Add overlapping frames into a signal; the adjoint of cutting a signal into frames.

    Args:
        frames: frames, ``(B, T, L)``; frame ``t`` begins at sample ``t * shift``.
        shift: samples from one frame to the next.
        size: number of samples of the result; frames must not reach further.

    Returns:
        ``(B, size)``.
    """
    batch, count, length = frames.shape
    num_blocks = math.ceil(length / shift)
    rows = max(count + num_blocks - 1, math.ceil(size / shift))
    out = frames.new_zeros(batch, rows, shift)
    for block in range(num_blocks):  # a handful: the overlap of the frames, not their number
        part = frames[:, :, block * shift : (block + 1) * shift]
        out[:, block : block + count, : part.shape[2]] += part
    return out.view(batch, -1)[:, :size]


class _WindowedFrames(torch.autograd.Function):
    @staticmethod
    def _centred(signal: Tensor, length: int, shift: int, count: int | None, remove_dc: bool) -> Tensor:
        frames = signal.unfold(1, length, shift)[:, :count]
        return frames - frames.mean(-1, keepdim=True) if remove_dc else frames

    @staticmethod
    def forward(
        ctx: Any,
        signal: Tensor,
        window: Tensor,
        shift: int,
        fft_size: int,
        count: int | None,
        preemphasis: float,
        remove_dc: bool,
        with_energy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        length = len(window)
        ctx.save_for_backward(signal, window)
        ctx.options = (shift, count, preemphasis, remove_dc, with_energy)
        frames = _WindowedFrames._centred(signal, length, shift, count, remove_dc)
        energy = torch.linalg.vecdot(frames, frames) if with_energy else None
        out = signal.new_empty(*frames.shape[:2], fft_size)
        out[..., length:] = 0
        body = out[..., :length]
        torch.mul(frames, window, out=body)
        if preemphasis:
            # Sample 0 has no predecessor in its frame; Kaldi subtracts from it a part of itself.
            body[..., 1:].addcmul_(frames[..., :-1], window[1:], value=-preemphasis)
            body[..., 0] *= 1 - preemphasis
        return out, energy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_energy: Tensor | None) -> tuple[Tensor | None, ...]:
        signal, window = ctx.saved_tensors
        shift, count, preemphasis, remove_dc, with_energy = ctx.options
        length = len(window)
        grad = grad[..., :length]
        out = grad * window
        if preemphasis:
            out[..., :-1].addcmul_(grad[..., 1:], window[1:], value=-preemphasis)
            out[..., 0].sub_(grad[..., 0] * window[0], alpha=preemphasis)
        if with_energy and grad_energy is not None:
            frames = _WindowedFrames._centred(signal, length, shift, count, remove_dc)
            out.addcmul_(frames, 2 * grad_energy.unsqueeze(-1))
        if remove_dc:
            out -= out.mean(-1, keepdim=True)
        return overlap_add(out, shift, signal.shape[1]), None, None, None, None, None, None, None


def windowed_frames(
    signal: Tensor,
    window: Tensor,
    *,
    shift: int,
    fft_size: int,
    count: int | None = None,
    preemphasis: float = 0.0,
    remove_dc: bool = False,
    with_energy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Cut a signal into frames and prepare them for the Fourier transform.

    Args:
        signal: signals, ``(B, N)``; the first frame begins at sample 0.
        window: window function, ``(L,)``, of the signal's dtype and on its device.
        shift: samples from one frame to the next.
        fft_size: size of the Fourier transform, at least L; zeros fill the frame up.
        count: number of frames T, at most as many as the signal holds; None: all of these.
        preemphasis: coefficient of the filter ``x[n] - c x[n-1]`` inside each frame; 0 leaves it out.
        remove_dc: subtract each frame's mean first.
        with_energy: also return each frame's sum of squares, taken before pre-emphasis and window.

    Returns:
        The windowed frames ``(B, T, fft_size)``, and the energies ``(B, T)`` or None.

    Source: Kaldi ``ProcessWindow`` (``feature-window.cc``).
    """
    return _WindowedFrames.apply(  # type: ignore[no-untyped-call, no-any-return]
        signal, window, shift, fft_size, count, preemphasis, remove_dc, with_energy
    )


class _FilterPower(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, filters: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames)
        ctx.save_for_backward(spectrum, filters)
        ctx.fft_size = frames.shape[-1]
        # real and imaginary parts together, as they lie in memory
        squares = torch.view_as_real(spectrum).square()
        return (squares[..., 0] + squares[..., 1]) @ filters

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        spectrum, filters = ctx.saved_tensors
        # The real inverse transform counts every inner bin twice, which is the factor 2 of the square's derivative;
        # the bins that are their own mirror image (0 and, of an even size, the last) get that factor here.
        filters = filters.clone()
        filters[0] *= 2
        if ctx.fft_size % 2 == 0:
            filters[-1] *= 2
        # Each bin's weight twice, for its real and its imaginary part: a product of real numbers, not of complex ones.
        weights = (grad @ filters.repeat_interleave(2, 0).t()).view(*spectrum.shape, 2)
        weighted = torch.view_as_complex(weights.mul_(torch.view_as_real(spectrum)))
        return torch.fft.irfft(weighted, n=ctx.fft_size, norm="forward"), None


def filter_power(frames: Tensor, filters: Tensor) -> Tensor:
    """Power spectrum of each frame, summed with the weights of each filter.

    Args:
        frames: windowed frames, ``(B, T, P)``, P the size of the Fourier transform.
        filters: weights of the filters, ``(P // 2 + 1, M)``, without gradient.

    Returns:
        ``(B, T, M)``.
    """
    return _FilterPower.apply(frames, filters)  # type: ignore[no-untyped-call, no-any-return]
