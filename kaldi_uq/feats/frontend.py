"""The front end of a model: waveform, features, CMVN, derivatives or LDA, fMLLR, normalisation, context."""

from __future__ import annotations

from collections.abc import Iterator
from typing import overload

import torch
from torch import Tensor, nn

from kaldi_uq.feats import framing
from kaldi_uq.feats.adaptation import NOTHING, BatchAdaptation
from kaldi_uq.feats.cmvn import GlobalNorm, apply_cmvn, utterance_cmvn
from kaldi_uq.feats.config import MAX_INPUT_DIM, FrontEndConfig
from kaldi_uq.feats.deltas import Deltas
from kaldi_uq.feats.level import scale_to_level, to_level
from kaldi_uq.feats.mfcc import Fbank, Mfcc
from kaldi_uq.feats.packing import Packing
from kaldi_uq.feats.sizes import Sizes
from kaldi_uq.feats.splice import gather_spliced, splice, splice_frames
from kaldi_uq.feats.torchaudio_mfcc import TorchaudioMfcc
from kaldi_uq.feats.transforms import FixedTransform, transform


class FrontEnd(nn.Module):
    """From a padded batch of waveforms to the input of the network, differentiable all the way.

    The order is Kaldi's: level (if one is set), cepstra (or filter banks), CMVN, derivatives (or splicing and LDA),
    fMLLR, then normalisation with the training set's statistics, then context.  Of ``config.mfcc`` the kind
    ``torchaudio`` uses only ``sample_frequency`` and ``num_ceps``; its frames are the paper's.

    Args:
        config: the kind of features and what is done to them.

    Raises:
        MissingDependencyError: the kind is ``torchaudio`` and that cannot be imported.
        ValueError: options of the features that cannot work together.

    Attributes:
        acoustic_dim: dimension of the features of the audio.
        feature_dim: dimension before context frames are added, with the i-vector at the end if there is one.
        output_dim: dimension of the network's input.
        frame_shift_s: frame shift of the model's output in seconds.
        factor: F, ``config.frame_subsampling_factor``: the output has a frame for every F-th of the features.
        sample_rate: sample rate of the waveform in Hz.
        min_samples: number of samples of the shortest waveform that has a frame.
        lda: the matrix of ``final.mat``, None without; ``lda.set_matrix(matrix, where)`` before training.
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
        self.factor = config.frame_subsampling_factor
        self.frame_shift_s *= self.factor
        self.deltas = Deltas(config.delta_order, config.delta_window, repeated=config.kind == "torchaudio")
        self.min_samples = self.cepstra.min_samples
        spliced_dim = self.cepstra.output_dim * (config.splice_left + 1 + config.splice_right)
        if config.lda_dim > spliced_dim:
            raise ValueError(f"lda_dim {config.lda_dim}: the spliced features have only {spliced_dim} dimensions")
        self.lda = FixedTransform(spliced_dim, config.lda_dim) if config.lda_dim else None
        self.acoustic_dim = config.lda_dim or self.cepstra.output_dim * (config.delta_order + 1)
        self.feature_dim = self.acoustic_dim + config.ivector_dim
        self.output_dim = self.acoustic_dim * (config.left_context + 1 + config.right_context) + config.ivector_dim
        if self.output_dim > MAX_INPUT_DIM:
            raise ValueError(
                f"left_context {config.left_context} and right_context {config.right_context} of {self.acoustic_dim} "
                f"features make {self.output_dim} inputs of the network, more than {MAX_INPUT_DIM}"
            )
        self.norm = GlobalNorm(self.feature_dim)

    @overload
    def num_frames(self, num_samples: int) -> int: ...
    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...
    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Number of frames that the model gives for ``num_samples`` samples; 0 below ``min_samples``.

        Args:
            num_samples: an integer or an int64 tensor.
        """
        return self.thinned(self.num_feature_frames(num_samples))

    @overload
    def num_feature_frames(self, num_samples: int) -> int: ...
    @overload
    def num_feature_frames(self, num_samples: Tensor) -> Tensor: ...
    def num_feature_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Number of frames of the features of so many samples; 0 below ``min_samples``."""
        if not isinstance(self.cepstra, TorchaudioMfcc):
            return framing.num_frames(num_samples, self.config.base)
        return self.cepstra.num_frames(num_samples)

    @overload
    def thinned(self, frames: int) -> int: ...
    @overload
    def thinned(self, frames: Tensor) -> Tensor: ...
    def thinned(self, frames: int | Tensor) -> int | Tensor:
        """Number of frames of the output for so many frames of the features.

        Source: Kaldi ``src/nnet3/nnet-am-decodable-simple.cc``.
        """
        return (frames + self.factor - 1) // self.factor

    def cepstra_of(self, wav: Tensor, num_samples: Tensor | Sizes) -> tuple[Tensor, Tensor]:
        """Cepstra, or filter banks, ``(B, T, D)`` and lengths ``(B,)``: what CMVN statistics are gathered from."""
        if self.config.level:
            num_samples = framing.check_batch(wav, num_samples, self.min_samples)
            wav = to_level(wav, num_samples.num_samples, self.config.level)
        return self.cepstra(wav, num_samples)  # type: ignore[no-any-return]

    def long_cepstra(self, samples: framing.Samples) -> Tensor:
        """The cepstra ``(1, T, D)`` of one long utterance, of which a stretch is in memory at a time."""
        if isinstance(self.cepstra, TorchaudioMfcc):  # takes the whole
            wav = torch.as_tensor(samples[:]).to(self.norm.mean.device)[None]
            return self.cepstra_of(wav, torch.tensor([len(samples)]))[0]
        level = self.config.level
        return self.cepstra.of_long(samples, scale_to_level(samples, level) if level else 1.0)

    def windows(self, samples: framing.Samples, *, adaptation: BatchAdaptation = NOTHING) -> Iterator[Tensor]:
        """The network's input for the frames of one utterance's output, a window after the other, as of :meth:`packed`.

        Level and statistics are those of the whole utterance, and every window is computed with the frames around it
        that its derivatives and its context reach.

        Args:
            samples: the utterance.
            adaptation: as of :meth:`features`.

        Yields:
            ``(1, t, output_dim)``, without gradients; no window without a frame.
        """
        self._check(adaptation)
        feats = self.long_cepstra(samples)
        config, size = self.config, feats.shape[1]
        feats = self._normalised(feats, torch.tensor([size], device=feats.device), adaptation)
        reach = config.delta_order * config.delta_window + max(config.left_context, config.right_context)
        reach += max(config.splice_left, config.splice_right)
        for start, stop in framing.windows_of(size):
            begin, end = max(0, start - reach), min(size, stop + reach)
            part, count = feats[:, begin:end], torch.tensor([end - begin], device=feats.device)
            spliced = self.splice(self._features_of(part, count, adaptation, first=begin), count)
            first = -(-start // self.factor) * self.factor
            if first < stop:
                yield spliced[:, first - begin : stop - begin : self.factor]

    def features(
        self, wav: Tensor, num_samples: Tensor | Sizes, *, adaptation: BatchAdaptation = NOTHING
    ) -> tuple[Tensor, Tensor]:
        """Compute normalised features, without context.

        Args:
            wav: waveforms, ``(B, N)`` float32 in [-1, 1].
            num_samples: number of samples of each utterance, ``(B,)`` int64, or :class:`.sizes.Sizes`.
            adaptation: what is known of each utterance's speaker: statistics if the configuration has
                ``cmvn="speaker"``, transforms if it has ``fmllr``, i-vectors of ``ivector_dim``, and nothing else.

        Returns:
            ``(B, T, feature_dim)``, 0 in padded frames, and lengths ``(B,)`` int64.

        Raises:
            ValueError: an utterance is too short, shapes do not fit, or ``adaptation`` does not go with the
                configuration.
            DataError: the statistics are of less than one frame.
        """
        self._check(adaptation)
        feats, lengths = self.cepstra_of(wav, num_samples)
        return self._features_of(self._normalised(feats, lengths, adaptation), lengths, adaptation), lengths

    def _check(self, adaptation: BatchAdaptation) -> None:
        """Refuse what does not go with the configuration; errors as of :meth:`features`."""
        cmvn = self.config.cmvn
        if (cmvn == "speaker") != (adaptation.cmvn_stats is not None):
            state = "missing" if adaptation.cmvn_stats is None else "given"
            raise ValueError(f"cmvn_stats {state}, but the front end has cmvn={cmvn!r}; only 'speaker' takes them")
        if self.config.fmllr != (adaptation.fmllr is not None):
            state = "missing" if adaptation.fmllr is None else "given"
            raise ValueError(f"fMLLR transforms {state}, but the front end has fmllr={self.config.fmllr}")
        given = 0 if adaptation.ivectors is None else adaptation.ivectors.shape[-1]
        if given != self.config.ivector_dim:
            raise ValueError(f"i-vectors of {given} dimensions, but the front end takes {self.config.ivector_dim}")

    def _normalised(self, feats: Tensor, lengths: Tensor, adaptation: BatchAdaptation) -> Tensor:
        """Cepstra (B, T, D) after CMVN."""
        norm_vars = self.config.norm_vars
        if adaptation.cmvn_stats is not None:
            return apply_cmvn(feats, lengths, adaptation.cmvn_stats, norm_vars=norm_vars)
        return utterance_cmvn(feats, lengths, norm_vars=norm_vars) if self.config.cmvn == "utterance" else feats

    def _features_of(self, feats: Tensor, lengths: Tensor, adaptation: BatchAdaptation, *, first: int = 0) -> Tensor:
        """What becomes of cepstra (B, T, D) after CMVN, (B, T, feature_dim); their first frame is number ``first``."""
        if self.lda is not None:
            feats = self.lda(splice(feats, lengths, self.config.splice_left, self.config.splice_right), lengths)
        else:
            feats = self.deltas(feats, lengths)
        if adaptation.fmllr is not None:
            feats = transform(feats, lengths, adaptation.fmllr)
        ivectors = adaptation.ivectors_at(first, feats.shape[1])
        if ivectors is not None:
            feats = torch.cat([feats, ivectors.to(feats)], dim=-1)
        return self.norm(feats, lengths)  # type: ignore[no-any-return]

    def splice(self, feats: Tensor, lengths: Tensor) -> Tensor:
        """Add context frames: ``(B, T, feature_dim) -> (B, T, output_dim)``."""
        own, ivectors = self._parts(feats)
        spliced = splice(own, lengths, self.config.left_context, self.config.right_context)
        return spliced if ivectors is None else torch.cat([spliced, ivectors], dim=-1)

    def _parts(self, feats: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (..., feature_dim) without the i-vector, and the i-vector, ``None`` if there is none."""
        if not self.config.ivector_dim:
            return feats, None
        return feats[..., : self.acoustic_dim].contiguous(), feats[..., self.acoustic_dim :]

    def splice_packed(self, feats: Tensor, lengths: Tensor, packing: Packing | None = None) -> tuple[Tensor, Packing]:
        """Add context frames to those of the output: (F, output_dim), and where in its batch they are, without padding.

        Args:
            feats: (B, T, feature_dim).
            lengths: (B,) int64, frames of the features.
            packing: where the frames are, if that is known.
        """
        packing = packing or Packing.of(self.thinned(lengths), self.thinned(feats.shape[1]))
        index = packing.index
        if self.factor > 1:
            index = index // packing.size * feats.shape[1] + index % packing.size * self.factor
        left, right = self.config.left_context, self.config.right_context
        own, ivectors = self._parts(feats)
        spliced = splice_frames(own, lengths, index, left=left, right=right)
        if ivectors is not None:
            spliced = torch.cat([spliced, ivectors.flatten(0, 1)[index]], dim=-1)
        return spliced, packing

    def gather_spliced(self, feats: Tensor, start: Tensor, end: Tensor, index: Tensor) -> Tensor:
        """Add context to chosen frames (K, output_dim); the arguments are those of :func:`.splice.gather_spliced`."""
        left, right = self.config.left_context, self.config.right_context
        if not self.config.ivector_dim:
            return gather_spliced(feats, start, end, index, left=left, right=right)
        spliced = gather_spliced(feats[:, : self.acoustic_dim], start, end, index, left=left, right=right)
        return torch.cat([spliced, feats[index, self.acoustic_dim :]], dim=-1)

    def packing(self, sizes: Sizes) -> Packing:
        """Where in its batch the frames of the output are."""
        frames = self.num_frames(sizes.num_samples)
        return Packing.of(frames, self.num_frames(sizes.longest))

    def packed(
        self,
        wav: Tensor,
        num_samples: Tensor | Sizes,
        *,
        adaptation: BatchAdaptation = NOTHING,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Packing, Tensor]:
        """Compute the input of a network that reads frame by frame.

        Args:
            wav, num_samples, adaptation: as of :meth:`features`.
            packing: that of these sizes, where it is known.

        Returns:
            ``(F, output_dim)`` of the output's frames, without padding, utterance after utterance, where in the batch
            they are, and lengths ``(B,)`` int64 of the output.
        """
        feats, lengths = self.features(wav, num_samples, adaptation=adaptation)
        return *self.splice_packed(feats, lengths, packing), self.thinned(lengths)

    def forward(
        self, wav: Tensor, num_samples: Tensor | Sizes, *, adaptation: BatchAdaptation = NOTHING
    ) -> tuple[Tensor, Tensor]:
        """Compute the input of a network that reads whole utterances; it takes the arguments of :meth:`features`.

        Returns:
            ``(B, T, output_dim)`` of every frame of the features, 0 in padded frames, and their numbers ``(B,)`` int64.
        """
        feats, lengths = self.features(wav, num_samples, adaptation=adaptation)
        return self.splice(feats, lengths), lengths
