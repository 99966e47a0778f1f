"""Faster and slower speech, and its alignment: more voices and more ways to say a word than were recorded.

Source: Ko et al. 2015, "Audio augmentation for speech recognition"; here the factor is drawn anew for each minibatch.
"""

from __future__ import annotations

import torch
from scipy.fft import next_fast_len
from torch import Tensor


class Speed:
    """Resampling that makes speech ``factor`` times as fast and as high, as ``sox speed`` does.

    Args:
        factor: above 1 for faster speech; it is met to about a hundredth, so that the transforms are fast.
        longest: samples of the longest utterance of the minibatch.

    >>> tone = torch.sin(torch.arange(1000) * 0.1)[None]
    >>> speed = Speed(1.25, 1000)
    >>> sizes = speed.num_samples(torch.tensor([1000]))
    >>> faster = speed(tone, sizes)
    >>> sizes.item(), bool((faster[0, 200:600] - torch.sin(torch.arange(200, 600) * 0.125)).abs().max() < 0.01)
    (800, True)
    """

    def __init__(self, factor: float, longest: int) -> None:
        self.before = next_fast_len(longest, real=True)
        self.after = next_fast_len(max(round(self.before / factor), 1), real=True)

    def num_samples(self, num_samples: Tensor) -> Tensor:
        """How many samples utterances of so many have then, (B,) int64."""
        return num_samples * self.after // self.before

    def __call__(self, wav: Tensor, num_samples: Tensor) -> Tensor:
        """The waveforms at the other speed.

        Args:
            wav: (B, N) float32, zeros after the end of each utterance.
            num_samples: (B,) int64, as many of each as are wanted.

        Returns:
            (B, max(num_samples)) float32, zeros after the end of each utterance.
        """
        size = int(num_samples.max())
        changed = torch.fft.irfft(torch.fft.rfft(wav, n=self.before), n=self.after) * (self.after / self.before)
        changed = torch.nn.functional.pad(changed, (0, max(size - self.after, 0)))[:, :size]
        places = torch.arange(size, device=wav.device)
        return changed.masked_fill(places >= num_samples.to(wav.device)[:, None], 0.0)


def stretch(values: Tensor, lengths: Tensor, wanted: Tensor, size: int) -> Tensor:
    """What each frame of an utterance has, for the same utterance in another number of frames.

    Args:
        values: (B, T) of any dtype.
        lengths: (B,) int64, frames of each.
        wanted: (B,) int64, frames that it is to have.
        size: the most of these.

    Returns:
        (B, size), 0 in padded frames.

    >>> stretch(torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([2, 3]), torch.tensor([4, 2]), 4).tolist()
    [[1, 1, 2, 2], [3, 4, 0, 0]]
    """
    frames = torch.arange(size, device=values.device)
    places = (frames * lengths[:, None]) // wanted[:, None]
    return values.gather(1, places.clamp(max=values.shape[1] - 1)).masked_fill(frames >= wanted[:, None], 0)
