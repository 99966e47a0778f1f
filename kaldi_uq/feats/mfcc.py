"""Kaldi's MFCC and filter-bank features with gradients that reach the waveform."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from kaldi_uq.feats import framing, melbanks
from kaldi_uq.feats.config import FbankConfig, MfccConfig
from kaldi_uq.feats.framing import num_frames
from kaldi_uq.feats.sizes import Sizes
from kaldi_uq.feats.spectrum import filter_power, windowed_frames

__all__ = ["Fbank", "Mfcc", "num_frames"]

# Kaldi computes on 16-bit sample values.  This is the only place where that scale appears.
INT16_SCALE = 32768.0
# Kaldi's floor for energies before the logarithm.
ENERGY_EPS = torch.finfo(torch.float32).eps

# Samples of which the noise's energy is computed together: the transforms of a frame of 2 s would not fit the memory.
IMPULSES_AT_ONCE = 1024


class _KaldiFeatures(nn.Module, abc.ABC):
    """Common part of MFCC and filter-bank features: everything up to mel energies and the frame's energy."""

    window: Tensor
    filters: Tensor
    mel_noise: Tensor  # (num_mel_bins,), what the noise floor adds to the mel energies
    energy_noise: Tensor  # (), and to the energy of a frame

    def __init__(self, config: MfccConfig | FbankConfig, *, noise_floor: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.noise_floor = noise_floor
        self.shift = framing.window_shift(config)
        self.fft_size = framing.padded_window_size(config)
        self.min_samples = framing.min_samples(config)
        filters = melbanks.mel_filters(config)
        if config.use_energy and not config.raw_energy:
            filters = torch.cat([filters, melbanks.windowed_energy_filter(self.fft_size)], dim=1)
        # The configuration determines the tables, therefore they stay out of the state_dict.
        self.register_buffer("window", melbanks.analysis_window(config), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        mel_noise, energy_noise = self._noise()
        self.register_buffer("mel_noise", mel_noise, persistent=False)
        self.register_buffer("energy_noise", energy_noise, persistent=False)

    def _noise(self) -> tuple[Tensor, Tensor]:
        """The mean energies (num_mel_bins,) and () that white noise of the level of the floor has in a frame.

        Noise of independent samples adds up sample by sample: the mean energy behind any linear map is the sum of what
        the map makes of each sample alone.
        """
        size, mel_bins = len(self.window), self.config.num_mel_bins
        mel, energy = torch.zeros(mel_bins, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for start in range(0, size if self.noise_floor else 0, IMPULSES_AT_ONCE):
            count = min(IMPULSES_AT_ONCE, size - start)
            impulses = torch.zeros(count, size, dtype=torch.float64)
            impulses.diagonal(start).fill_(self.noise_floor * INT16_SCALE)
            of_mel, of_energy = self._energies(impulses, 1)
            mel += of_mel[:, 0].sum(0)
            energy += 0.0 if of_energy is None else of_energy[:, 0].sum(0)
        return mel.float(), energy.float()

    def _energies(self, signal: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
        """Mel energies (B, T, num_mel_bins) and the frames' energies (B, T), if they are used, of ``size`` frames."""
        config = self.config
        frames, energy = windowed_frames(
            signal,
            self.window.to(signal.dtype),
            count=size,
            shift=self.shift,
            fft_size=self.fft_size,
            preemphasis=config.preemphasis_coefficient,
            remove_dc=config.remove_dc_offset,
            with_energy=config.use_energy and config.raw_energy,
        )
        mel = filter_power(frames, self.filters.to(signal.dtype))
        if config.use_energy and energy is None:
            mel, energy = mel[..., :-1], mel[..., -1]
        return mel, energy

    def forward(self, wav: Tensor, num_samples: Tensor | Sizes) -> tuple[Tensor, Tensor]:
        """Compute the features.

        Args:
            wav: waveforms, ``(B, N)`` float32 or float64 in [-1, 1]; the features get its dtype.
            num_samples: number of valid samples of each utterance, ``(B,)`` int64.

        Returns:
            Features ``(B, T, D)``, 0 in padded frames, and the number of frames ``(B,)`` int64.

        Raises:
            ValueError: an utterance is too short for one frame, or the shapes do not fit.
        """
        sizes = framing.check_batch(wav, num_samples, self.min_samples)
        num_samples, longest = sizes.num_samples, sizes.longest
        lengths = num_frames(num_samples, self.config)
        size = num_frames(longest, self.config)
        if len(wav) == 1 and size > framing.LONG_FRAMES and not wav.requires_grad:
            return self.of_long(wav[0, :longest]), lengths
        return framing.in_parts(self._part, wav[:, :longest], num_samples, lengths, size), lengths

    def of_long(self, samples: framing.Samples, scale: float = 1.0) -> Tensor:
        """The features of one utterance, of one window of frames after the other, without gradients.

        Args:
            samples: the utterance, with at least one frame.
            scale: what the samples are multiplied with.

        Returns:
            ``(1, T, D)``.
        """
        size, device = num_frames(len(samples), self.config), self.window.device
        feats = torch.empty(0)
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            for start, stop in framing.windows_of(size):
                signal = framing.stretch_of(samples, self.config, start, stop).to(device)[None] * scale * INT16_SCALE
                part = self._features(signal, stop - start)
                if not start:
                    feats = part.new_empty(1, size, part.shape[2])
                feats[:, start:stop] = part
        return feats

    def _part(self, wav: Tensor, num_samples: Tensor, lengths: Tensor, size: int) -> Tensor:
        config = self.config
        signal = framing.scaled(wav, num_samples, INT16_SCALE)
        length = len(self.window)
        if not config.snip_edges:
            first = framing.first_sample(config)
            beyond = max(0, length - length // 2 - self.shift + 2 * (self.shift // 2))
            signal = framing.reflect_ends(signal, num_samples, max(0, -first), beyond, repeat_edge=True)
            signal = signal[:, max(0, first) :]
        feats = self._features(signal, size)
        return feats.masked_fill(~framing.valid_mask(lengths, size).unsqueeze(-1), 0)

    def _features(self, signal: Tensor, size: int) -> Tensor:
        """The features (B, size, D) of the frames of a signal on the 16-bit scale."""
        mel, energy = self._energies(signal, size)
        if self.noise_floor:
            mel = mel + self.mel_noise.to(mel.dtype)
            energy = None if energy is None else energy + self.energy_noise.to(mel.dtype)
        log_energy = None
        if energy is not None:
            log_energy = energy.clamp_min(max(ENERGY_EPS, self.config.energy_floor)).log().unsqueeze(-1)
        return self._compose(mel, log_energy)

    @abc.abstractmethod
    def _compose(self, mel: Tensor, log_energy: Tensor | None) -> Tensor:
        """The features (B, T, D) from mel energies (B, T, num_mel_bins) and the log energy (B, T, 1), if it is used."""


class Mfcc(_KaldiFeatures):
    """Mel-frequency cepstra as Kaldi's ``compute-mfcc-feats`` makes them, without dither.

    Args:
        config: Kaldi's options.
        noise_floor: root mean square, full scale 1, of white noise whose mean energy is added to each mel energy and to
            the energy of the frame; 0: Kaldi's values.

    Raises:
        ValueError: options that cannot work together, such as more mel bins than the spectrum can fill.

    Source: Kaldi ``src/feat/feature-mfcc.cc``.
    """

    transform: Tensor

    def __init__(self, config: MfccConfig, *, noise_floor: float = 0.0) -> None:
        super().__init__(config, noise_floor=noise_floor)
        self.output_dim = config.num_ceps
        transform = melbanks.cepstral_transform(config)
        self.energy_first = config.use_energy and not config.htk_compat
        if config.use_energy:
            transform = transform[:, 1:]  # the energy takes the place of C0
        elif config.htk_compat:
            transform = torch.cat([transform[:, 1:], transform[:, :1] * 2**0.5], dim=1)
        self.register_buffer("transform", transform.contiguous(), persistent=False)

    def _compose(self, mel: Tensor, log_energy: Tensor | None) -> Tensor:
        ceps = mel.clamp_min(ENERGY_EPS).log() @ self.transform.to(mel.dtype)
        if log_energy is None:
            return ceps
        return torch.cat([log_energy, ceps] if self.energy_first else [ceps, log_energy], dim=-1)


class Fbank(_KaldiFeatures):
    """Mel filter-bank energies as Kaldi's ``compute-fbank-feats`` makes them, without dither.

    Args:
        config: Kaldi's options.
        noise_floor: root mean square, full scale 1, of white noise whose mean energy is added to each mel energy and to
            the energy of the frame; 0: Kaldi's values.

    Raises:
        ValueError: options that cannot work together, such as more mel bins than the spectrum can fill.

    Source: Kaldi ``src/feat/feature-fbank.cc``.
    """

    def __init__(self, config: FbankConfig, *, noise_floor: float = 0.0) -> None:
        super().__init__(config, noise_floor=noise_floor)
        self.use_log = config.use_log_fbank
        self.energy_first = not config.htk_compat
        self.output_dim = config.num_mel_bins + int(config.use_energy)

    def _compose(self, mel: Tensor, log_energy: Tensor | None) -> Tensor:
        if self.use_log:
            mel = mel.clamp_min(ENERGY_EPS).log()
        if log_energy is None:
            return mel
        return torch.cat([log_energy, mel] if self.energy_first else [mel, log_energy], dim=-1)
