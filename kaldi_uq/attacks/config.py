"""Configurations of attacks."""

from __future__ import annotations

from dataclasses import dataclass

from kaldi_uq.config import Config, one_of, require

WAYS = ("penalty", "orthogonal", "selective")  # of an attack that knows the detector


@dataclass(frozen=True)
class AttackConfig(Config):
    """An attack at the waveform; each field is one part of it, and the defaults are the strong choice.

    ``eps`` caps the change of every sample under each constraint: ``linf`` has no other bound, ``l2`` bounds the root
    mean square of the perturbation (``rms``), ``snr`` its power against that of the audio (``snr_db``), ``masking`` its
    spectrum by what the audio masks, plus ``masking_db``.

    ``eps_level`` > 0 makes eps one for speech of that root mean square: each utterance has eps times its own root mean
    square over ``eps_level``, and with it ``rms``, ``step_size`` and the random start are scaled, so that quiet speech
    is attacked at the SNR that loud speech is.  One whose eps is less than a step of 16-bit audio stays as it is.

    ``apgd`` halves the step of an utterance where it no longer helps, ``cosine`` decays it to nearly 0, ``fixed`` keeps
    it.  ``step_size`` 0 stands for the strong choice: with ``apgd`` twice eps, but at most 0.1, with the others eps/8,
    and the whole way if there is one step (FGSM: ``num_steps 1``, no random start).  ``realign_every`` k > 0 realigns
    the target with the current posteriors every k steps.  ``judge_every`` k > 0 lets the decoder look every k steps and
    keeps the best candidate.

    The defaults were measured on the recipe's models: 200 steps reach what 400 reach to a point or two, realigned
    targets are worth tens of points at small eps, and ten draws of a random model in a gradient 2 to 10 points.  The
    paper's attack (cleverhans 2.1.0, ``MadryEtAl``) is ``step_rule fixed``, ``step_size 0.01``, ``num_steps 40``,
    whatever eps is, one draw, and targets aligned once.

    ``start`` is where a start begins: ``noise``, ``zero`` (the audio itself), or ``speech`` (the target in the voices
    of donors, laid over the audio); several with commas are taken in turn by successive starts.
    """

    eps: float = 0.02
    eps_level: float = 0.0  # root mean square of the speech that eps is meant for, full scale 1; 0: eps is absolute
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
    random_start: bool = True  # false: the first start is zero
    start: str = "noise"
    num_starts: int = 1  # the judge's best is kept; what succeeds is not started again
    num_targets: int = 1  # random targets of an utterance, an attack each; the judge's best is kept
    realign_every: int = 25  # the frames of a target are a choice: follow the posteriors; 0: never
    judge_every: int = 0  # 0: at the end of each start, where there are several; every 20 steps to stop early
    early_stop: bool = False  # leave an utterance as soon as the decoder writes what is wanted
    eot_samples: int = 10  # draws of a random model that one gradient averages over
    eot_draws: str = "fresh"  # new draws in each step, or the same in all (fixed)
    seed: int = 0

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
            one_of("start", start, ("noise", "zero", "speech"))
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
        one_of("eot_draws", self.eot_draws, ("fresh", "fixed"))
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
        """Steps between two looks of the decoder; 0: none before the end of a start."""
        return self.judge_every or (20 if self.early_stop else 0)


@dataclass(frozen=True)
class HidingConfig(AttackConfig):
    """The attack, and then steps that hide what it added (:mod:`kaldi_uq.attacks.hiding`)."""

    hide_steps: int = 0  # k > 0: then k steps that hide the perturbation below the masking threshold, success kept

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
    """The attack by queries alone (:mod:`kaldi_uq.attacks.black_box`)."""

    nes_pairs: int = 0  # k > 0: the gradient is estimated from 2k queries a step
    nes_sigma: float = 0.01  # deviation of the queries' noise, full scale 1
    nes_context: int = 10  # frames to each side of a sample that it may act on; 0: all frames

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

    ``eps`` is the defender's radius: half of the eps of the attacks that are to be refused, and at the same
    ``eps_level``.  The margin never stops to have a gradient, which the cross-entropy does where a network is certain.
    """

    eps: float = 0.01
    eps_level: float = 0.0  # as of :class:`AttackConfig`
    loss: str = "margin"
    num_steps: int = 20
    num_starts: int = 2
    seed: int = 0

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
    """

    search_eps: float = 0.0  # > 0: the radius of the defender's search, which is to be passed
    search_steps: int = 20
    search_starts: int = 2
    search_words: int = 0  # so many may change near audio that passes
    hold_rounds: int = 4  # after the attack of num_steps
    hold_steps: int = 100  # of each of these rounds
    nearby: int = 2  # points near the example at which the target is held, too
    nearby_weight: float = 2.0  # of their mean loss, against that of the example
    stall: float = 0.0  # weight of a small gradient for the search to begin with

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

    Of the ways, ``penalty`` minimises the sum of the target's loss and the detectors' penalty, with a weight that is
    searched; ``selective`` descends the loss of an utterance while its target is not reached, and else the penalty;
    ``orthogonal`` does the same along the part of that gradient that is orthogonal to the other.

    The detectors are fitted and calibrated as the defender's are.  ``aim`` is the share of benign scores below the
    score that is aimed at.  Nothing is gained from being less suspicious than half of the clean speech; stopping just
    below the threshold would be enough to pass once, but an example of a random model has to pass again.
    """

    statistics: str = ""  # of the detectors to pass, separated by commas; all: every statistic of the model
    sided: str = "two"  # the detectors' form; both: one-sided and two-sided ones have to be passed
    fpr: float = 0.01  # false-positive rate of their thresholds on the set that they are fitted on
    aim: float = 0.5
    way: str = "penalty"
    num_rounds: int = 6  # the first one is the attack without penalty, of num_steps
    round_steps: int = 100  # of each later round
    num_scorings: int = 4  # of a random model: an example is as good as the worst of them
    lambda_start: float = 0.5  # weight of the penalty in the second round
    lambda_max: float = 1e4

    def __post_init__(self) -> None:
        require(len(set(self.names)) == len(self.names), f"statistics names one twice: {self.statistics!r}")
        one_of("sided", self.sided, ("one", "two", "both"))
        one_of("way", self.way, WAYS)
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
