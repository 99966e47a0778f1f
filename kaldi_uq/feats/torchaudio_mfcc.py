"""The paper's features: torchaudio's MFCC of peak-normalised audio."""

from __future__ import annotations

import warnings
from typing import overload

import torch
from torch import Tensor, nn

from kaldi_uq.errors import MissingDependencyError
from kaldi_uq.feats.framing import check_batch, in_parts, reflect_ends, valid_mask
from kaldi_uq.feats.sizes import Sizes
from kaldi_uq.feats.spectrum import filter_power, windowed_frames

FRAME_LENGTH_S = 0.025
# AmplitudeToDB of torchaudio: floor of the power, and dynamic range below the utterance's loudest mel energy.
POWER_FLOOR = 1e-10
TOP_DB = 80.0


def peak_normalise(wav: Tensor, num_samples: Tensor) -> Tensor:
    """Divide each utterance by its largest absolute sample; silence stays silence.

    Args:
        wav: waveforms, ``(B, N)``.
        num_samples: number of samples of each utterance, ``(B,)`` int64.

    Returns:
        ``(B, N)``, 0 in padded samples; differentiable through the peak too.

    Source: the paper's code, ``x / max |x|`` before the features.
    """
    wav = wav.masked_fill(~valid_mask(num_samples, wav.shape[1]), 0)
    peak = wav.abs().amax(dim=1, keepdim=True)
    return wav / torch.where(peak > 0, peak, torch.ones_like(peak))


class TorchaudioMfcc(nn.Module):
    """The features that ``torchaudio.transforms.MFCC`` gives for each utterance alone, for a padded batch.

    Frames of 25 ms every 12.5 ms, centred, with the waveform mirrored at each utterance's own ends; 128 mel bins in dB,
    no more than 80 dB below the utterance's maximum.  torchaudio itself would mirror at the end of the padding and take
    that maximum over the whole batch.

    Args:
        sample_rate: sample rate in Hz.
        num_ceps: number of cepstra per frame, from C0.

    Raises:
        MissingDependencyError: torchaudio cannot be imported.

    Source: section 4.1 of the paper and its code; ``torchaudio.transforms.MFCC``.
    """

    window: Tensor
    filters: Tensor
    transform: Tensor

    def __init__(self, sample_rate: int = 16000, num_ceps: int = 13) -> None:
        super().__init__()
        try:
            import torchaudio
        except (ImportError, OSError) as error:  # OSError: torchaudio was built for another torch
            raise MissingDependencyError(
                f"the torchaudio front end needs torchaudio of torch's release, {torch.__version__}, and it cannot be "
                f"imported ({error}); run: pip install 'kaldi-uq[torchaudio]', which brings a pair of one release"
            ) from error
        self.sample_rate = sample_rate
        self.fft_size = int(sample_rate * FRAME_LENGTH_S)
        if self.fft_size < 4:
            raise ValueError(f"sample_rate {sample_rate} Hz is too low for frames of 25 ms")
        self.shift = self.fft_size // 2
        self.frame_shift_s = self.shift / sample_rate
        self.output_dim = num_ceps
        self.min_samples = self.fft_size // 2 + 1  # the mirror image takes as many samples on each side
        with warnings.catch_warnings():
            # With 128 mel bins and so short a frame some bins get no frequency, in the paper's features too.
            warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
            mfcc = torchaudio.transforms.MFCC(
                sample_rate, num_ceps, melkwargs={"n_fft": self.fft_size, "hop_length": self.shift}
            )
        self.register_buffer("window", mfcc.MelSpectrogram.spectrogram.window, persistent=False)
        self.register_buffer("filters", mfcc.MelSpectrogram.mel_scale.fb, persistent=False)
        self.register_buffer("transform", mfcc.dct_mat, persistent=False)

    @overload
    def num_frames(self, num_samples: int) -> int: ...
    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...
    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Number of frames of ``num_samples`` samples, an integer or an int64 tensor; 0 below ``min_samples``."""
        frames = (num_samples - self.fft_size % 2) // self.shift + 1
        return frames * (num_samples >= self.min_samples)

    def forward(self, wav: Tensor, num_samples: Tensor | Sizes) -> tuple[Tensor, Tensor]:
        """Compute the features.

        Args:
            wav: waveforms, ``(B, N)`` float32 or float64 in [-1, 1]; the features get its dtype.
            num_samples: number of samples of each utterance, ``(B,)`` int64.

        Returns:
            Features ``(B, T, num_ceps)``, 0 in padded frames, and the number of frames ``(B,)`` int64.

        Raises:
            ValueError: an utterance is shorter than ``min_samples``, or the shapes do not fit.
        """
        sizes = check_batch(wav, num_samples, self.min_samples)
        num_samples, longest = sizes.num_samples, sizes.longest
        lengths = self.num_frames(num_samples)
        size = self.num_frames(longest)
        return in_parts(self._part, wav[:, :longest], num_samples, lengths, size), lengths

    def _part(self, wav: Tensor, num_samples: Tensor, lengths: Tensor, size: int) -> Tensor:
        half = self.fft_size // 2
        signal = reflect_ends(peak_normalise(wav, num_samples), num_samples, half, half, repeat_edge=False)
        frames, _ = windowed_frames(
            signal,
            self.window.to(wav.dtype),
            count=size,
            shift=self.shift,
            fft_size=self.fft_size,
        )
        power = filter_power(frames, self.filters.to(wav.dtype))
        decibel = 10.0 * power.clamp_min(POWER_FLOOR).log10()
        padding = ~valid_mask(lengths, size).unsqueeze(-1)
        loudest = decibel.masked_fill(padding, -torch.inf).amax(dim=(1, 2), keepdim=True)
        ceps = torch.maximum(decibel, loudest - TOP_DB) @ self.transform.to(wav.dtype)
        return ceps.masked_fill(padding, 0)
