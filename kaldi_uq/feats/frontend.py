"""The front end of a model: waveform, features, CMVN, derivatives, normalisation, context."""

from __future__ import annotations

from collections.abc import Iterator
from typing import overload

import torch
from torch import Tensor, nn

from kaldi_uq.feats import framing
from kaldi_uq.feats.cmvn import GlobalNorm, apply_cmvn, utterance_cmvn
from kaldi_uq.feats.config import MAX_INPUT_DIM, FrontEndConfig
from kaldi_uq.feats.deltas import Deltas
from kaldi_uq.feats.level import scale_to_level, to_level
from kaldi_uq.feats.mfcc import Fbank, Mfcc
from kaldi_uq.feats.packing import Packing
from kaldi_uq.feats.splice import splice, splice_frames
from kaldi_uq.feats.torchaudio_mfcc import TorchaudioMfcc


class FrontEnd(nn.Module):
    """From a padded batch of waveforms to the input of the network, differentiable all the way.

    The order is Kaldi's: level (if one is set), cepstra (or filter banks), CMVN, derivatives, then normalisation with
    the training set's statistics, then context.  Of ``config.mfcc`` the kind ``torchaudio`` uses only
    ``sample_frequency`` and ``num_ceps``; its frames are the paper's.

    Args:
        config: the kind of features and what is done to them.

    Raises:
        MissingDependencyError: the kind is ``torchaudio`` and that cannot be imported.
        ValueError: options of the features that cannot work together.

    Attributes:
        feature_dim: dimension before context frames are added.
        output_dim: dimension of the network's input.
        frame_shift_s: frame shift in seconds.
        sample_rate: sample rate of the waveform in Hz.
        min_samples: number of samples of the shortest waveform that has a frame.
        norm: the normalisation; ``norm.set_stats(mean, std)`` before training.
    """

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config
        rate = config.base.sample_frequency
        self.sample_rate = int(rate)
        if self.sample_rate != rate:
            raise ValueError(f"sample_frequency must be a whole number of Hz, got {rate}")
        self.cepstra: Mfcc | Fbank | TorchaudioMfcc
        if config.kind != "torchaudio":
            floor = config.noise_floor
            self.cepstra = (
                Fbank(config.fbank, noise_floor=floor)
                if config.kind == "fbank"
                else Mfcc(config.mfcc, noise_floor=floor)
            )
            self.frame_shift_s = self.cepstra.shift / self.sample_rate
        else:
            self.cepstra = TorchaudioMfcc(self.sample_rate, config.mfcc.num_ceps)
            self.frame_shift_s = self.cepstra.frame_shift_s
        self.deltas = Deltas(config.delta_order, config.delta_window, repeated=config.kind == "torchaudio")
        self.min_samples = self.cepstra.min_samples
        self.feature_dim = self.cepstra.output_dim * (config.delta_order + 1)
        self.output_dim = self.feature_dim * (config.left_context + 1 + config.right_context)
        if self.output_dim > MAX_INPUT_DIM:
            raise ValueError(
                f"left_context {config.left_context} and right_context {config.right_context} of {self.feature_dim} "
                f"features make {self.output_dim} inputs of the network, more than {MAX_INPUT_DIM}"
            )
        self.norm = GlobalNorm(self.feature_dim)

    @overload
    def num_frames(self, num_samples: int) -> int: ...
    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...
    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Number of frames of ``num_samples`` samples, an integer or an int64 tensor; 0 below ``min_samples``."""
        if not isinstance(self.cepstra, TorchaudioMfcc):
            return framing.num_frames(num_samples, self.config.base)
        return self.cepstra.num_frames(num_samples)

    def cepstra_of(self, wav: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Cepstra, or filter banks, ``(B, T, D)`` and lengths ``(B,)``: what CMVN statistics are gathered from."""
        if self.config.level:
            framing.check_batch(wav, num_samples, self.min_samples)
            wav = to_level(wav, num_samples, self.config.level)
        return self.cepstra(wav, num_samples)  # type: ignore[no-any-return]

    def long_cepstra(self, samples: framing.Samples) -> Tensor:
        """The cepstra ``(1, T, D)`` of one long utterance, of which a stretch is in memory at a time."""
        if isinstance(self.cepstra, TorchaudioMfcc):  # takes the whole
            wav = torch.as_tensor(samples[:]).to(self.norm.mean.device)[None]
            return self.cepstra_of(wav, torch.tensor([len(samples)]))[0]
        level = self.config.level
        return self.cepstra.of_long(samples, scale_to_level(samples, level) if level else 1.0)

    def windows(self, samples: framing.Samples, *, cmvn_stats: Tensor | None = None) -> Iterator[Tensor]:
        """The network's input for one utterance, a window of frames after the other, equal to that of :meth:`forward`.

        Level and statistics are those of the whole utterance, and every window is computed with the frames around it
        that its derivatives and its context reach.

        Args:
            samples: the utterance.
            cmvn_stats: as of :meth:`features`.

        Yields:
            ``(1, t, output_dim)``, without gradients.
        """
        feats = self.long_cepstra(samples)
        feats = self._normalised(feats, torch.tensor([feats.shape[1]], device=feats.device), cmvn_stats)
        config, size = self.config, feats.shape[1]
        reach = config.delta_order * config.delta_window + max(config.left_context, config.right_context)
        for start, stop in framing.windows_of(size):
            begin, end = max(0, start - reach), min(size, stop + reach)
            part, count = feats[:, begin:end], torch.tensor([end - begin], device=feats.device)
            spliced = self.splice(self.norm(self.deltas(part, count), count), count)
            yield spliced[:, start - begin : stop - begin]

    def features(self, wav: Tensor, num_samples: Tensor, *, cmvn_stats: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute normalised features, without context.

        Args:
            wav: waveforms, ``(B, N)`` float32 in [-1, 1].
            num_samples: number of samples of each utterance, ``(B,)`` int64.
            cmvn_stats: statistics of each utterance's speaker, ``(B, 2, D + 1)`` or ``(2, D + 1)``, float64, D the
                number of cepstra or filters; None unless the configuration has ``cmvn="speaker"``.

        Returns:
            ``(B, T, feature_dim)``, 0 in padded frames, and lengths ``(B,)`` int64.

        Raises:
            ValueError: an utterance is too short, shapes do not fit, or ``cmvn_stats`` does not go with the
                configuration.
            DataError: the statistics are of less than one frame.
        """
        feats, lengths = self.cepstra_of(wav, num_samples)
        feats = self._normalised(feats, lengths, cmvn_stats)
        return self.norm(self.deltas(feats, lengths), lengths), lengths

    def _normalised(self, feats: Tensor, lengths: Tensor, cmvn_stats: Tensor | None) -> Tensor:
        """Cepstra (B, T, D) after CMVN; arguments and errors as of :meth:`features`."""
        cmvn, norm_vars = self.config.cmvn, self.config.norm_vars
        if (cmvn == "speaker") != (cmvn_stats is not None):
            state = "missing" if cmvn_stats is None else "given"
            raise ValueError(f"cmvn_stats {state}, but the front end has cmvn={cmvn!r}; only 'speaker' takes them")
        if cmvn_stats is not None:
            return apply_cmvn(feats, lengths, cmvn_stats, norm_vars=norm_vars)
        return utterance_cmvn(feats, lengths, norm_vars=norm_vars) if cmvn == "utterance" else feats

    def splice(self, feats: Tensor, lengths: Tensor) -> Tensor:
        """Add context frames: ``(B, T, feature_dim) -> (B, T, output_dim)``."""
        return splice(feats, lengths, self.config.left_context, self.config.right_context)

    def splice_packed(self, feats: Tensor, lengths: Tensor) -> tuple[Tensor, Packing]:
        """Add context frames and leave the padding out: (F, output_dim), and where in the batch the frames are."""
        packing = Packing.of(lengths, feats.shape[1])
        left, right = self.config.left_context, self.config.right_context
        return splice_frames(feats, lengths, packing.index, left=left, right=right), packing

    def packed(
        self, wav: Tensor, num_samples: Tensor, *, cmvn_stats: Tensor | None = None
    ) -> tuple[Tensor, Packing, Tensor]:
        """Compute the network's input of the frames that are no padding; it takes the arguments of :meth:`features`.

        Returns:
            ``(F, output_dim)``, utterance after utterance, where in the batch they are, and lengths ``(B,)`` int64.
        """
        feats, lengths = self.features(wav, num_samples, cmvn_stats=cmvn_stats)
        return *self.splice_packed(feats, lengths), lengths

    def forward(self, wav: Tensor, num_samples: Tensor, *, cmvn_stats: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the network's input; it takes the arguments of :meth:`features`.

        Returns:
            ``(B, T, output_dim)``, 0 in padded frames, and lengths ``(B,)`` int64.
        """
        feats, lengths = self.features(wav, num_samples, cmvn_stats=cmvn_stats)
        return self.splice(feats, lengths), lengths
