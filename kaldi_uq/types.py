"""Configurations as frozen dataclasses: what a model, a training, an attack or a decoding is made of.

The flags of a command carry the field names of its configuration (``step_size`` is ``--step-size``), and a test holds
the two together.  ``to_dict`` and ``from_dict`` are the only way into and out of files: plain JSON, unknown names are
an error.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

ConfigT = TypeVar("ConfigT", bound="Config")


@dataclass(frozen=True)
class Config:
    """Base of the configurations: conversion to and from plain dictionaries."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[ConfigT], values: dict[str, Any]) -> ConfigT:
        """Build the configuration from a dictionary.

        Raises:
            ValueError: a name that the configuration does not have, or a value out of range.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__} must be names with values, got {values!r}")
        names = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(names))}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")


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

    def __post_init__(self) -> None:
        _require(self.sample_frequency > 0, f"sample_frequency must be positive, got {self.sample_frequency}")
        _require(self.frame_length > 0 and self.frame_shift > 0, "frame_length and frame_shift must be positive")
        _require(
            self.dither == 0.0,
            f"dither must be 0, got {self.dither}: random features have no meaningful gradient; set --dither=0",
        )
        windows = ("povey", "hanning", "hamming", "rectangular", "blackman", "sine")
        _require(self.window_type in windows, f"window_type must be one of {windows}, got {self.window_type!r}")
        _require(
            0 <= self.preemphasis_coefficient <= 1,
            f"preemphasis_coefficient must be in [0, 1], got {self.preemphasis_coefficient}",
        )
        _require(self.num_mel_bins >= 3, f"num_mel_bins must be >= 3, got {self.num_mel_bins}")

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

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
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

    ``kind`` is ``kaldi`` (Kaldi's MFCC, options ``mfcc``), ``fbank`` (Kaldi's filter banks, options ``fbank``) or
    ``torchaudio`` (the paper's: torchaudio's MFCC on peak-normalised audio).  ``cmvn`` is ``none``, ``utterance`` (mean
    of the utterance itself, differentiable) or ``speaker`` (given statistics, Kaldi's ``apply-cmvn --utt2spk``);
    ``norm_vars`` divides by the deviation too.  After the deltas every dimension is normalised with the mean and
    deviation of the training set, which the model file carries.
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

    def __post_init__(self) -> None:
        kinds = ("kaldi", "fbank", "torchaudio")
        _require(self.kind in kinds, f"frontend must be kaldi, fbank or torchaudio, got {self.kind!r}")
        _require(
            self.cmvn in ("none", "utterance", "speaker"), f"cmvn must be none, utterance or speaker: {self.cmvn!r}"
        )
        _require(self.left_context >= 0 and self.right_context >= 0, "left_context and right_context must be >= 0")
        _require(self.delta_order >= 0 and self.delta_window > 0, "delta_order must be >= 0, delta_window > 0")

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


MODEL_KINDS = ("dnn", "ensemble", "dropout", "bnn")


@dataclass(frozen=True)
class ModelConfig(Config):
    """An acoustic model: its kind and sizes.  The defaults are the paper's (section 4.1)."""

    kind: str = "dnn"
    input_dim: int = 351
    num_pdfs: int = 95
    hidden_dims: tuple[int, ...] = (100, 100)
    num_members: int = 5  # ensemble only: T of the paper
    num_samples: int = 0  # draws at test; 0: the kind's default (dropout 100, bnn 5)
    dropout: float = 0.5  # dropout only
    init_log_var: float = -9.0  # bnn only: initial log-variance of rows and columns

    def __post_init__(self) -> None:
        _require(self.kind in MODEL_KINDS, f"model must be one of {', '.join(MODEL_KINDS)}, got {self.kind!r}")
        _require(self.num_members >= 1, f"num_members must be >= 1, got {self.num_members}")
        _require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        _require(self.num_samples >= 0, f"num_samples must be >= 0, got {self.num_samples}")
        sizes_make_sense = len(self.hidden_dims) >= 1 and min(self.hidden_dims) >= 1
        _require(sizes_make_sense, f"hidden_dims must be layer sizes of at least 1, got {self.hidden_dims}")


@dataclass(frozen=True)
class TrainConfig(Config):
    """Training on the frames of an alignment (section 4.1 of the paper).

    ``num_epochs`` on the given alignment, then ``num_viterbi_epochs``, each after a realignment with the network's own
    posteriors.
    """

    num_epochs: int = 3
    num_viterbi_epochs: int = 3
    batch_size: int = 256  # frames
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4  # exponential decay towards it over all epochs
    weight_decay: float = 0.0
    num_train_samples: int = 0  # sub-networks or draws per training example; 0: the kind's default (dropout 10, bnn 1)
    max_grad_norm: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.num_epochs >= 1, f"num_epochs must be >= 1, got {self.num_epochs}")
        _require(self.num_viterbi_epochs >= 0, f"num_viterbi_epochs must be >= 0, got {self.num_viterbi_epochs}")
        _require(self.batch_size >= 1, f"batch_size must be >= 1, got {self.batch_size}")
        _require(self.seed >= 0, f"seed must be >= 0, got {self.seed}")
        _require(self.learning_rate > 0 and self.final_learning_rate > 0, "learning rates must be positive")


@dataclass(frozen=True)
class DecodeConfig(Config):
    """Viterbi decoding and alignment.  ``acwt`` scales the unscaled log-likelihoods, once, here."""

    acwt: float = 0.1
    beam: float = 13.0
    max_active: int = 7000
    align_beam: float = 200.0
    retry_beam: float = 0.0  # 0: no second pass
    transition_scale: float = 1.0  # alignment only: the decoding graph has its own
    self_loop_scale: float = 0.1

    def __post_init__(self) -> None:
        _require(self.acwt > 0, f"acwt must be positive, got {self.acwt}")
        _require(self.beam > 0 and self.align_beam > 0, "beams must be positive")


CONSTRAINTS = ("linf", "l2", "snr", "masking")
STEP_RULES = ("cosine", "fixed", "apgd")
LOSSES = ("cross_entropy", "margin")


@dataclass(frozen=True)
class AttackConfig(Config):
    """An attack at the waveform; each field is one part of it, and the defaults are the strong choice.

    ``eps`` caps the change of every sample under each constraint: ``linf`` has no other bound, ``l2`` bounds the root
    mean square of the perturbation (``rms``), ``snr`` its power against that of the audio (``snr_db``), ``masking`` its
    spectrum by what the audio masks, plus ``masking_db``.

    ``apgd`` halves the step of an utterance where it no longer helps, ``cosine`` decays it to nearly 0, ``fixed`` keeps
    it.  ``step_size`` 0 stands for the strong choice: with ``apgd`` twice eps, but at most 0.1, with the others eps/8,
    and the whole way if there is one step (FGSM: ``num_steps 1``, no random start).  ``realign_every`` k > 0 realigns
    the target with the current posteriors every k steps.  ``judge_every`` k > 0 lets the decoder look every k steps and
    keeps the best candidate.

    The defaults were measured on the recipe's models: 200 steps reach what 400 reach to a point or two, realigned
    targets are worth tens of points at small eps, and ten draws of a random model in a gradient 2 to 10 points.  The
    paper's attack (cleverhans 2.1.0, ``MadryEtAl``) is ``step_rule fixed``, ``step_size 0.01``, ``num_steps 40``,
    whatever eps is, one draw, and targets aligned once.
    """

    eps: float = 0.02
    constraint: str = "linf"
    rms: float = 0.005  # l2 only: root mean square of the perturbation, full scale 1
    snr_db: float = 25.0  # snr only
    masking_db: float = 0.0  # masking only: how far above the masking threshold the perturbation may be
    loss: str = "cross_entropy"
    untargeted: bool = False  # away from what is spoken, instead of towards a target
    num_steps: int = 200
    step_rule: str = "apgd"
    step_size: float = 0.0
    momentum: float = 0.0  # share of the last direction that stays in the next (MI-FGSM: 1, with fixed steps)
    random_start: bool = True
    num_starts: int = 1  # the judge's best is kept; what succeeds is not started again
    realign_every: int = 25  # the frames of a target are a choice: follow the posteriors; 0: never
    judge_every: int = 0  # 0: at the end of each start, where there are several; every 20 steps to stop early
    early_stop: bool = False  # leave an utterance as soon as the decoder writes what is wanted
    eot_samples: int = 10  # draws of a random model that one gradient averages over
    eot_draws: str = "fresh"  # new draws in each step, or the same in all (fixed)
    hide_steps: int = 0  # k > 0: then k steps that hide the perturbation below the masking threshold, success kept
    nes_pairs: int = 0  # k > 0: black box, the gradient estimated from 2k queries a step (kaldi_uq.attacks.black_box)
    nes_sigma: float = 0.01  # black box only: deviation of the queries' noise, full scale 1
    nes_context: int = 10  # black box only: frames to each side of a sample that it may act on; 0: all frames
    seed: int = 0

    def __post_init__(self) -> None:
        _require(0 <= self.eps <= 1, f"eps must be a number in [0, 1] (full scale is 1), got {self.eps}")
        _one_of("constraint", self.constraint, CONSTRAINTS)
        _require(0 < self.rms <= 1, f"rms must be in (0, 1], got {self.rms}")
        _require(-100 <= self.snr_db <= 200, f"snr_db must be in [-100, 200], got {self.snr_db}")
        _require(-100 <= self.masking_db <= 100, f"masking_db must be in [-100, 100], got {self.masking_db}")
        _one_of("loss", self.loss, LOSSES)
        _require(self.num_steps >= 1, f"num_steps must be >= 1, got {self.num_steps}")
        _one_of("step_rule", self.step_rule, STEP_RULES)
        _require(self.step_size >= 0, f"step_size must be >= 0 (0: by the step rule), got {self.step_size}")
        _require(
            self.step_size == 0 or self.constraint == "linf",
            f"step_size is in full scale, which is the unit of constraint linf alone; leave it 0 for {self.constraint}",
        )
        _require(0 <= self.momentum <= 1, f"momentum must be in [0, 1], got {self.momentum}")
        _require(
            not (self.momentum and self.step_rule == "apgd"),
            "apgd has a momentum of its own: leave momentum 0, or set step_rule to fixed or cosine",
        )
        _require(self.num_starts >= 1, f"num_starts must be >= 1, got {self.num_starts}")
        _require(self.realign_every >= 0, f"realign_every must be >= 0, got {self.realign_every}")
        _require(self.judge_every >= 0, f"judge_every must be >= 0, got {self.judge_every}")
        _require(self.eot_samples >= 1, f"eot_samples must be >= 1, got {self.eot_samples}")
        _one_of("eot_draws", self.eot_draws, ("fresh", "fixed"))
        _require(
            self.eot_draws == "fresh" or not (self.early_stop or self.num_starts > 1 or self.hide_steps),
            "eot_draws fixed is for a whole batch: early_stop, num_starts and hide_steps leave utterances out, and the "
            "others would have new draws",
        )
        _require(self.hide_steps >= 0, f"hide_steps must be >= 0, got {self.hide_steps}")
        _require(
            not (self.hide_steps and self.constraint != "linf"),
            f"hide_steps has a bound on the spectrum of its own, beside eps: it cannot keep that of {self.constraint}",
        )
        _require(self.nes_pairs >= 0, f"nes_pairs must be >= 0, got {self.nes_pairs}")
        _require(0 < self.nes_sigma <= 1, f"nes_sigma must be in (0, 1], got {self.nes_sigma}")
        _require(self.nes_context >= 0, f"nes_context must be >= 0, got {self.nes_context}")
        _require(self.seed >= 0, f"seed must be >= 0, got {self.seed}")

    @property
    def needs_judge(self) -> bool:
        """Whether the decoder takes part."""
        return self.looks_every > 0 or self.num_starts > 1

    @property
    def looks_every(self) -> int:
        """Steps between two looks of the decoder; 0: none before the end of a start."""
        return self.judge_every or (20 if self.early_stop else 0)


@dataclass(frozen=True)
class AdaptiveConfig(Config):
    """What an attack that knows the detector does about it; without ``statistics`` the attack knows of none.

    The detectors are fitted and calibrated as the defender's are.  ``aim`` is the share of benign scores below the
    score that is aimed at.  Nothing is gained from being less suspicious than half of the clean speech; stopping just
    below the threshold would be enough to pass once, but an example of a random model has to pass again.
    """

    statistics: str = ""  # of the detectors to pass, separated by commas; all: every statistic of the model
    sided: str = "two"  # the detectors' form; both: one-sided and two-sided ones have to be passed
    fpr: float = 0.01  # false-positive rate of their thresholds on the set that they are fitted on
    aim: float = 0.5
    num_rounds: int = 6  # the first one is the attack without penalty, of num_steps
    round_steps: int = 100  # of each later round
    num_scorings: int = 4  # of a random model: an example is as good as the worst of them
    lambda_start: float = 0.5  # weight of the penalty in the second round
    lambda_max: float = 1e4

    def __post_init__(self) -> None:
        _require(len(set(self.names)) == len(self.names), f"statistics names one twice: {self.statistics!r}")
        _one_of("sided", self.sided, ("one", "two", "both"))
        _require(0 < self.fpr < 1, f"fpr must be in (0, 1), got {self.fpr}")
        _require(0 < self.aim < 1, f"aim must be in (0, 1), got {self.aim}")
        _require(self.num_rounds >= 1, f"num_rounds must be >= 1, got {self.num_rounds}")
        _require(self.num_scorings >= 1, f"num_scorings must be >= 1, got {self.num_scorings}")
        _require(self.round_steps >= 1, f"round_steps must be >= 1, got {self.round_steps}")
        _require(self.lambda_start > 0, f"lambda_start must be positive, got {self.lambda_start}")
        _require(self.lambda_max >= self.lambda_start, f"lambda_max must be >= lambda_start, got {self.lambda_max}")

    @property
    def names(self) -> tuple[str, ...]:
        """The statistics, one by one."""
        return tuple(name.strip() for name in self.statistics.split(",") if name.strip())
