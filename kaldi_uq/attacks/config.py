"""Configurations of attacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from kaldi_uq.config import Config, one_of, require

WAYS = ("penalty", "orthogonal", "selective")  # of an attack that knows the detector
STARTS = ("noise", "zero", "speech")

# title -> fields, for the help of a command
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "how much the audio may change": ("eps", "eps_level", "constraint", "rms", "snr_db", "masking_db"),
    "what the attack wants": ("untargeted", "num_targets", "loss"),
    "how it searches": ("num_steps", "step_rule", "step_size", "momentum", "realign_every", "judge_every")
    + ("early_stop", "seed"),
    "where it starts": ("random_start", "start", "num_starts"),
    "attack on a random model": ("eot_samples", "eot_draws"),
}


@dataclass(frozen=True)
class AttackConfig(Config):
    """An attack at the waveform; each field is one part of it, and the defaults are the strong choice.

    The defaults were measured on the recipe's models: 200 steps reach what 400 reach to a point or two, realigned
    targets are worth tens of points at small eps, and ten draws of a random model in a gradient 2 to 10 points.  The
    paper's attack (cleverhans 2.1.0, ``MadryEtAl``) is ``step_rule`` fixed, ``step_size`` 0.01, ``num_steps`` 40,
    whatever eps is, one draw, and targets aligned once.  FGSM is ``num_steps`` 1 and ``random_start`` false.

    An utterance whose eps, scaled by ``eps_level``, is less than a step of 16-bit audio stays as it is.

    Attributes:
        eps: largest change of a sample, full scale 1 (0 to 1; one step of 16-bit audio is 0.00003)
        eps_level: root mean square of the speech that eps is for, full scale 1: eps, ``rms`` and ``step_size`` are
            scaled by the level of each utterance, so that quiet speech is attacked at the SNR that loud speech is; 0:
            eps is the same for all
        constraint: what bounds the change beside eps: linf nothing else, l2 its root mean square (``rms``), snr its
            power against that of the audio (``snr_db``), masking its spectrum by what the audio masks
            (``masking_db``)
        rms: with ``constraint`` l2: root mean square of the change, full scale 1
        snr_db: with ``constraint`` snr: power of the audio over that of the change, dB
        masking_db: with ``constraint`` masking: how far above the masking threshold the change may be, dB
        loss: what is minimised: cross_entropy or margin of each frame, ctc of the whole text, logit_match the
            distance to a real utterance of the target, decoder_margin the lead of other texts in the decoder
        untargeted: away from what is spoken, instead of towards a target
        num_steps: gradient steps
        step_rule: apgd halves the step of an utterance where it no longer helps, cosine decays it to nearly 0, fixed
            keeps it
        step_size: first step, full scale 1, of ``constraint`` linf; 0: with ``step_rule`` apgd twice eps, but at most
            0.1, with the others eps/8, and all of eps if there is one step
        momentum: share of the last direction that stays in the next, 0 to 1 (MI-FGSM has 1); not with ``step_rule``
            apgd, which has its own
        random_start: false: the first start is the audio itself
        start: where a start begins: noise, zero (the audio itself) or speech (the target in the voices of donors,
            laid over the audio); several with commas are taken in turn
        num_starts: starts; the decoder's best result is kept, and what succeeds is not started again
        num_targets: random targets of an utterance, each attacked on its own; the decoder's best result is kept
        realign_every: after every so many steps the target is aligned again with what the model hears by then; 0:
            never
        judge_every: after every so many steps the decoder looks, and its best result is kept; 0: only at the end of a
            start, where there are several
        early_stop: leave an utterance as soon as the decoder writes what is wanted; it looks every 20 steps then
        eot_samples: draws of a random model that one gradient averages over
        eot_draws: fresh: other draws in each step; fixed: the same in all
        seed: seed of random targets, starts and draws
    """

    eps: float = 0.02
    eps_level: float = 0.0
    constraint: str = "linf"
    rms: float = 0.005
    snr_db: float = 25.0
    masking_db: float = 0.0
    loss: str = "cross_entropy"
    untargeted: bool = False
    num_steps: int = 200
    step_rule: str = "apgd"
    step_size: float = 0.0
    momentum: float = 0.0
    random_start: bool = True
    start: str = "noise"
    num_starts: int = 1
    num_targets: int = 1
    realign_every: int = 25
    judge_every: int = 0
    early_stop: bool = False
    eot_samples: int = 10
    eot_draws: str = "fresh"
    seed: int = 0

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = _GROUPS
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "constraint": ("linf", "l2", "snr", "masking"),
        "loss": ("cross_entropy", "margin", "ctc", "logit_match", "decoder_margin"),
        "step_rule": ("apgd", "cosine", "fixed"),
        "eot_draws": ("fresh", "fixed"),
    }
    OPEN: ClassVar[frozenset[str]] = frozenset({"constraint", "loss", "step_rule"})

    def __post_init__(self) -> None:
        require(0 <= self.eps <= 1, f"eps must be a number in [0, 1] (full scale is 1), got {self.eps}")
        require(0 <= self.eps_level <= 1, f"eps_level must be in [0, 1] (0: eps is absolute), got {self.eps_level}")
        require(0 < self.rms <= 1, f"rms must be in (0, 1], got {self.rms}")
        require(-100 <= self.snr_db <= 200, f"snr_db must be in [-100, 200], got {self.snr_db}")
        require(-100 <= self.masking_db <= 100, f"masking_db must be in [-100, 100], got {self.masking_db}")
        require(self.num_steps >= 1, f"num_steps must be >= 1, got {self.num_steps}")
        require(self.step_size >= 0, f"step_size must be >= 0 (0: by the step rule), got {self.step_size}")
        require(
            self.step_size == 0 or self.constraint == "linf",
            f"step_size is in full scale, which is the unit of constraint linf alone; leave it 0 for {self.constraint}",
        )
        require(0 <= self.momentum <= 1, f"momentum must be in [0, 1], got {self.momentum}")
        require(
            not (self.momentum and self.step_rule == "apgd"),
            "apgd has a momentum of its own: leave momentum 0, or set step_rule to fixed or cosine",
        )
        for start in self.start.split(","):
            one_of("start", start, STARTS)
        require(
            self.random_start or self.start == "noise",
            f"random_start false is start zero: leave it out, or start {self.start}",
        )
        require(self.num_starts >= 1, f"num_starts must be >= 1, got {self.num_starts}")
        require(self.num_targets >= 1, f"num_targets must be >= 1, got {self.num_targets}")
        require(
            self.num_targets == 1 or not self.untargeted, "num_targets is of targets, and an untargeted attack has none"
        )
        require(self.realign_every >= 0, f"realign_every must be >= 0, got {self.realign_every}")
        require(self.judge_every >= 0, f"judge_every must be >= 0, got {self.judge_every}")
        require(self.eot_samples >= 1, f"eot_samples must be >= 1, got {self.eot_samples}")
        self.require_choices()
        require(
            self.eot_draws == "fresh" or not (self.early_stop or self.num_starts > 1 or self.num_targets > 1),
            "eot_draws fixed is for a whole batch: early_stop, num_starts and num_targets leave utterances out, and "
            "the others would have new draws",
        )
        require(self.seed >= 0, f"seed must be >= 0, got {self.seed}")

    @property
    def needs_judge(self) -> bool:
        """Whether the decoder takes part."""
        return self.looks_every > 0 or self.num_starts > 1 or self.num_targets > 1

    def start_of(self, number: int) -> str:
        """Where a start begins: noise, zero or speech."""
        if not (self.random_start or number):
            return "zero"
        starts = self.start.split(",")
        return starts[number % len(starts)]

    @property
    def looks_every(self) -> int:
        """Steps between two looks of the decoder; with 0 there is none before the end of a start."""
        return self.judge_every or (20 if self.early_stop else 0)


@dataclass(frozen=True)
class HidingConfig(AttackConfig):
    """The attack, and then steps that hide what it added (:mod:`kaldi_uq.attacks.hiding`).

    Attributes:
        hide_steps: after the attack, so many steps that hide the change below the masking threshold of the audio and
            keep the success; 0: none
    """

    hide_steps: int = 0

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {**_GROUPS, "hiding the change": ("hide_steps",)}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hide_steps >= 0, f"hide_steps must be >= 0, got {self.hide_steps}")
        require(
            not (self.hide_steps and self.eot_draws == "fixed"),
            "eot_draws fixed is for a whole batch: hide_steps leaves utterances out, and the others would have new "
            "draws",
        )
        require(
            not (self.hide_steps and self.constraint != "linf"),
            f"hide_steps has a bound on the spectrum of its own, beside eps: it cannot keep that of {self.constraint}",
        )


@dataclass(frozen=True)
class BlackBoxConfig(AttackConfig):
    """The attack by queries alone (:mod:`kaldi_uq.attacks.black_box`).

    Attributes:
        nes_pairs: estimate each gradient from so many pairs of queries; 0: take the model's own gradient
        nes_sigma: standard deviation of the queries' noise, full scale 1
        nes_context: frames to each side of a sample that it may act on; 0: all frames
    """

    nes_pairs: int = 0
    nes_sigma: float = 0.01
    nes_context: int = 10

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **_GROUPS,
        "attack by queries, without gradients": ("nes_pairs", "nes_sigma", "nes_context"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.nes_pairs >= 0, f"nes_pairs must be >= 0, got {self.nes_pairs}")
        require(0 < self.nes_sigma <= 1, f"nes_sigma must be in (0, 1], got {self.nes_sigma}")
        require(self.nes_context >= 0, f"nes_context must be >= 0, got {self.nes_context}")


@dataclass(frozen=True)
class SearchConfig(Config):
    """A search for what is heard as something else near given audio (:mod:`kaldi_uq.attacks.consistency`).

    It is an attack without a target of Auto-PGD, of the audio as it is played, which begins at the audio itself and,
    with several starts, at noise.  The decoder looks at the middle and at the end of each start.

    The margin never stops to have a gradient, which the cross-entropy does where a network is certain.

    Attributes:
        eps: radius of the search, full scale 1 (0 to 1): half of the eps of the attacks that are to be refused
        eps_level: root mean square of the speech that eps is for, as of the attacks; 0: eps is the same for all
        loss: what is minimised, as of an attack
        num_steps: gradient steps of a start
        num_starts: starts: the first one at the audio itself, further ones at noise
        seed: seed of the noise and of the draws of a random model
    """

    eps: float = 0.01
    eps_level: float = 0.0
    loss: str = "margin"
    num_steps: int = 20
    num_starts: int = 2
    seed: int = 0

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "the search": ("eps", "eps_level", "loss", "num_steps", "num_starts", "seed")
    }
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {"loss": AttackConfig.CHOICES["loss"]}
    OPEN: ClassVar[frozenset[str]] = frozenset({"loss"})

    def __post_init__(self) -> None:
        self.attack  # noqa: B018 (its checks are those of the values)

    @property
    def attack(self) -> AttackConfig:
        """The attack that it is."""
        return AttackConfig(
            **self.to_dict(),
            untargeted=True,
            start="zero,noise",
            realign_every=0,
            judge_every=max(1, self.num_steps // 2),
        )


@dataclass(frozen=True)
class ConsistentConfig(AttackConfig):
    """The attack that knows of a search near what is played (:mod:`kaldi_uq.attacks.consistent`).

    The defender's search has the level of the attack, ``eps_level``.

    Attributes:
        search_eps: radius of the defender's search, full scale 1, which the result has to pass; 0: no search
        search_steps: gradient steps of a start of that search
        search_starts: starts of that search
        search_words: so many words may change near audio that passes
        hold_rounds: rounds after the attack, in which the target is held at points nearby, too
        hold_steps: gradient steps of each of these rounds
        nearby: points near the result at which the target is held
        nearby_weight: weight of their mean loss, against that of the result
        stall: weight of a loss that leaves the search a small gradient to begin with; not of a random model
    """

    search_eps: float = 0.0
    search_steps: int = 20
    search_starts: int = 2
    search_words: int = 0
    hold_rounds: int = 4
    hold_steps: int = 100
    nearby: int = 2
    nearby_weight: float = 2.0
    stall: float = 0.0

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **_GROUPS,
        "passing a defender who searches near the audio (nnet-consistency)": (
            *("search_eps", "search_steps", "search_starts", "search_words", "hold_rounds", "hold_steps"),
            *("nearby", "nearby_weight", "stall"),
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.search_eps <= 1, f"search_eps must be in [0, 1] (0: no search), got {self.search_eps}")
        require(self.search_steps >= 1, f"search_steps must be >= 1, got {self.search_steps}")
        require(self.search_starts >= 1, f"search_starts must be >= 1, got {self.search_starts}")
        require(self.search_words >= 0, f"search_words must be >= 0, got {self.search_words}")
        require(self.hold_rounds >= 0, f"hold_rounds must be >= 0, got {self.hold_rounds}")
        require(self.hold_steps >= 1, f"hold_steps must be >= 1, got {self.hold_steps}")
        require(self.nearby >= 1, f"nearby must be >= 1, got {self.nearby}")
        require(self.nearby_weight >= 0, f"nearby_weight must be >= 0, got {self.nearby_weight}")
        require(self.stall >= 0, f"stall must be >= 0, got {self.stall}")

    @property
    def search(self) -> SearchConfig:
        """The defender's search."""
        return SearchConfig(
            eps=self.search_eps, eps_level=self.eps_level, num_steps=self.search_steps, num_starts=self.search_starts
        )


@dataclass(frozen=True)
class AdaptiveConfig(Config):
    """What an attack that knows the detector does about it; without ``statistics`` the attack knows of none.

    The detectors are fitted and calibrated as the defender's are.  Nothing is gained from being less suspicious than
    half of the clean speech; stopping just below the threshold would be enough to pass once, but an example of a
    random model has to pass again.

    Attributes:
        statistics: names of the detectors to pass, separated by commas; all: every statistic of the model; left out:
            the attack knows of no detector
        sided: form of the detectors: one-sided, two-sided, or both have to be passed
        fpr: false-positive rate of their thresholds on the benign speech that they are fitted on, above 0, below 1
        aim: share of benign scores below the score that is aimed at, above 0, below 1
        way: penalty minimises the target's loss plus a weighted penalty of the detectors; selective descends the loss
            while the target is not reached, and else the penalty; orthogonal does so along the part of that gradient
            that is orthogonal to the other
        num_rounds: rounds; the first one is the attack without penalty, of all its steps
        round_steps: gradient steps of each later round
        num_scorings: of a random model: how often an example is judged; it is as good as the worst of them
        lambda_start: weight of the penalty in the second round
        lambda_max: largest weight of the penalty
    """

    statistics: str = ""
    sided: str = "two"
    fpr: float = 0.01
    aim: float = 0.5
    way: str = "penalty"
    num_rounds: int = 6
    round_steps: int = 100
    num_scorings: int = 4
    lambda_start: float = 0.5
    lambda_max: float = 1e4

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "passing detectors that the attack knows": (
            *("statistics", "sided", "fpr", "aim", "way", "num_rounds", "round_steps", "num_scorings"),
            *("lambda_start", "lambda_max"),
        )
    }
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {"sided": ("one", "two", "both"), "way": WAYS}

    def __post_init__(self) -> None:
        require(len(set(self.names)) == len(self.names), f"statistics names one twice: {self.statistics!r}")
        self.require_choices()
        require(0 < self.fpr < 1, f"fpr must be in (0, 1), got {self.fpr}")
        require(0 < self.aim < 1, f"aim must be in (0, 1), got {self.aim}")
        require(self.num_rounds >= 1, f"num_rounds must be >= 1, got {self.num_rounds}")
        require(self.num_scorings >= 1, f"num_scorings must be >= 1, got {self.num_scorings}")
        require(self.round_steps >= 1, f"round_steps must be >= 1, got {self.round_steps}")
        require(self.lambda_start > 0, f"lambda_start must be positive, got {self.lambda_start}")
        require(self.lambda_max >= self.lambda_start, f"lambda_max must be >= lambda_start, got {self.lambda_max}")

    @property
    def names(self) -> tuple[str, ...]:
        """The statistics, one by one."""
        return tuple(name.strip() for name in self.statistics.split(",") if name.strip())


# every configuration that options or a file of an attack may fill; the attacks' own ones, and that of the search
OWN_CONFIGS: tuple[type[AttackConfig], ...] = (AttackConfig, HidingConfig, BlackBoxConfig, ConsistentConfig)
ATTACK_CONFIGS: tuple[type[Config], ...] = (*OWN_CONFIGS, AdaptiveConfig)
