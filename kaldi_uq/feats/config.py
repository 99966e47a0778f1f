"""Configurations of the features and of the front end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from kaldi_uq.config import Config, Limits, require

# The filters are a table of half as many rows as a frame's spectrum has points: of a frame of 2 s at 16 kHz.  With the
# largest number of filters it takes 64 MB.
MAX_FRAME_SAMPLES = 1 << 15
MAX_INPUT_DIM = 100_000  # of a network: 256 frames of 390 features
_FRAME_LIMITS: Limits = {
    "sample_frequency": (1, 1e6),  # Hz; audio for bats has 500 kHz
    "frame_length": (0.001, 1e4),  # ms
    "frame_shift": (0.001, 1e4),  # ms
    "dither": (0, 0),  # has a message of its own
    "preemphasis_coefficient": (0, 1),
    "blackman_coeff": (0, 1),
    "num_mel_bins": (3, 500),  # recipes have 23 to 128
    "low_freq": (0, 5e5),  # Hz
    "high_freq": (-5e5, 5e5),
    "energy_floor": (0, 1e12),  # energies on the 16-bit scale
}


@dataclass(frozen=True)
class FrameConfig(Config):
    """Options that Kaldi's ``compute-mfcc-feats`` and ``compute-fbank-feats`` share, with Kaldi's names and defaults.

    Only ``dither`` has another default, 0: it would make features random, and a gradient through them meaningless.

    Source: Kaldi ``src/feat/feature-window.h``, ``mel-computations.h``.
    """

    sample_frequency: float = 16000.0  # Hz
    frame_length: float = 25.0  # ms
    frame_shift: float = 10.0  # ms
    dither: float = 0.0
    preemphasis_coefficient: float = 0.97
    remove_dc_offset: bool = True
    window_type: str = "povey"
    blackman_coeff: float = 0.42
    round_to_power_of_two: bool = True
    snip_edges: bool = True
    num_mel_bins: int = 23
    low_freq: float = 20.0  # Hz
    high_freq: float = 0.0  # Hz; 0 or negative: offset from the Nyquist frequency
    energy_floor: float = 0.0
    raw_energy: bool = True
    htk_compat: bool = False

    LIMITS: ClassVar[Limits] = _FRAME_LIMITS

    def __post_init__(self) -> None:
        require(
            self.dither == 0.0,
            f"dither must be 0, got {self.dither}: random features have no meaningful gradient; set --dither=0",
        )
        self.require_within_limits()
        samples = self.sample_frequency * self.frame_length / 1000
        require(
            samples <= MAX_FRAME_SAMPLES,
            f"frame_length {self.frame_length:g} ms at sample_frequency {self.sample_frequency:g} is {samples:.0f} "
            f"samples, more than {MAX_FRAME_SAMPLES}",
        )
        windows = ("povey", "hanning", "hamming", "rectangular", "blackman", "sine")
        require(self.window_type in windows, f"window_type must be one of {windows}, got {self.window_type!r}")

    @property
    def nyquist(self) -> float:
        """Half the sample frequency, Hz."""
        return self.sample_frequency / 2

    @property
    def frame_shift_s(self) -> float:
        """Frame shift in seconds."""
        return self.frame_shift / 1000.0


@dataclass(frozen=True)
class MfccConfig(FrameConfig):
    """Options of Kaldi's ``compute-mfcc-feats``, with Kaldi's defaults.

    Source: Kaldi ``src/feat/feature-mfcc.h``.
    """

    num_ceps: int = 13
    use_energy: bool = True
    cepstral_lifter: float = 22.0

    LIMITS: ClassVar[Limits] = {**_FRAME_LIMITS, "num_ceps": (1, 500), "cepstral_lifter": (0, 1e4)}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            1 <= self.num_ceps <= self.num_mel_bins,
            f"num_ceps must be between 1 and num_mel_bins ({self.num_mel_bins}), got {self.num_ceps}",
        )


@dataclass(frozen=True)
class FbankConfig(FrameConfig):
    """Options of Kaldi's ``compute-fbank-feats``, with Kaldi's defaults; always of the power spectrum.

    Source: Kaldi ``src/feat/feature-fbank.h``.
    """

    use_energy: bool = False
    use_log_fbank: bool = True


@dataclass(frozen=True)
class FrontEndConfig(Config):
    """From the waveform to the input of the network.

    The base features first; then CMVN; then derivatives, or Kaldi's feature type "lda": ``splice_left`` and
    ``splice_right`` frames beside each one, and from there to ``lda_dim`` dimensions by ``final.mat``, which the model
    file carries.  fMLLR then applies the transform of the speaker, which belongs to the data.  At last every dimension
    is normalised with the mean and deviation of the training set, which the model file carries.

    A perturbation of lower power than ``noise_floor`` moves the logarithms of the energies little.

    Attributes:
        kind: kaldi (Kaldi's MFCC), fbank (Kaldi's filter banks) or torchaudio (the paper's: torchaudio's MFCC on
            peak-normalised audio)
        mfcc: options of Kaldi's MFCC
        fbank: options of Kaldi's filter banks
        cmvn: which mean is subtracted: none, utterance (that of the utterance itself, differentiable) or speaker
            (given statistics, as Kaldi's apply-cmvn --utt2spk)
        norm_vars: divide by the standard deviation, too
        delta_order: derivatives that are appended: 2 are deltas and delta-deltas; 0: none
        delta_window: frames to each side that a derivative looks at
        left_context: frames before each one that the network sees
        right_context: frames after each one that the network sees
        level: root mean square, full scale 1, to which every utterance is scaled first, so that quiet speech is not
            lost below ``noise_floor``; 0: not scaled
        noise_floor: root mean square, full scale 1, of white noise whose mean energy is added to every energy:
            dithering without randomness; 0: none
        splice_left: frames before each one that final.mat sees
        splice_right: frames after each one that final.mat sees
        lda_dim: dimensions that final.mat makes (LDA+MLLT); 0: no final.mat
        fmllr: apply the fMLLR transform of the speaker
        frame_subsampling_factor: the model has an output for every so many frames of the features only, as nnet3 and
            chain models of Kaldi, which have 3
        ivector_dim: dimensions of the i-vector of the moment that is appended to the network's input; 0: none
        ivector_extractor: id of what extracted the i-vectors of the training
    """

    kind: str = "kaldi"
    mfcc: MfccConfig = MfccConfig()
    fbank: FbankConfig = FbankConfig()
    cmvn: str = "none"
    norm_vars: bool = False
    delta_order: int = 2
    delta_window: int = 2
    left_context: int = 4
    right_context: int = 4
    level: float = 0.0
    noise_floor: float = 0.0
    splice_left: int = 0
    splice_right: int = 0
    lda_dim: int = 0
    fmllr: bool = False
    frame_subsampling_factor: int = 1
    ivector_dim: int = 0
    ivector_extractor: str = ""

    LIMITS: ClassVar[Limits] = {
        "delta_order": (0, 10),  # Kaldi's recipes have 2
        "delta_window": (1, 100),
        "left_context": (0, 1000),  # frames; recipes have up to 20
        "right_context": (0, 1000),
        "level": (0, 1),  # root mean squares, full scale 1
        "noise_floor": (0, 1),
        "splice_left": (0, 100),
        "splice_right": (0, 100),
        "lda_dim": (0, 500),  # Kaldi's recipes have 40
        "frame_subsampling_factor": (1, 100),  # chain models have 3
        "ivector_dim": (0, 5000),  # Kaldi's recipes have 100
    }
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "from the features to the network": ("cmvn", "norm_vars", "delta_order", "delta_window", "left_context")
        + ("right_context", "level", "noise_floor", "frame_subsampling_factor")
    }
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {"cmvn": ("none", "utterance", "speaker")}

    def __post_init__(self) -> None:
        kinds = ("kaldi", "fbank", "torchaudio")
        require(self.kind in kinds, f"frontend must be kaldi, fbank or torchaudio, got {self.kind!r}")
        self.require_choices()
        self.require_within_limits()
        require(
            not (self.noise_floor and self.kind == "torchaudio"),
            "noise_floor is for Kaldi's features (frontend kaldi or fbank), whose energies it is added to",
        )

        require(
            not (self.lda_dim and self.delta_order),
            f"delta_order {self.delta_order}: features have derivatives or final.mat, not both; set --delta-order 0",
        )
        require(
            bool(self.lda_dim) or not (self.splice_left or self.splice_right),
            "splice_left and splice_right are for features with final.mat; a network's own context is left_context "
            "and right_context",
        )
        require(
            not ((self.lda_dim or self.fmllr or self.ivector_dim) and self.kind == "torchaudio"),
            "final.mat, fMLLR and i-vectors are for Kaldi's features: choose --frontend kaldi, or --opts-dir none",
        )

    @property
    def takes_adaptation(self) -> bool:
        """Whether something must be known of each utterance beside its audio, such as statistics or a transform."""
        return self.cmvn == "speaker" or self.fmllr or self.ivector_dim > 0

    @property
    def base(self) -> MfccConfig | FbankConfig:
        """Options of the features that all else is made from."""
        return self.fbank if self.kind == "fbank" else self.mfcc

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FrontEndConfig:
        parts: tuple[tuple[str, type[MfccConfig] | type[FbankConfig]], ...] = (
            ("mfcc", MfccConfig),
            ("fbank", FbankConfig),
        )
        for name, kind in parts:
            if isinstance(values, dict) and not isinstance(values.get(name, kind()), kind):
                values = {**values, name: kind.from_dict(values[name])}
        return super().from_dict(values)
