"""Configuration of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from kaldi_uq.config import Config, require

UTTERANCE_BATCH = 2000  # batch_size for a network that reads whole utterances, unless another one is asked for
ROBUST_BATCH = 10000  # batch_size in adversarial training, likewise


@dataclass(frozen=True)
class TrainConfig(Config):
    """Training on an alignment (section 4.1 of the paper).

    Attributes:
        num_epochs: epochs on the given alignment
        num_viterbi_epochs: epochs after these, each after a realignment with the network's own posteriors
        batch_size: frames of a minibatch; of a network that reads whole utterances so many at most, with padding, and
            2000 unless the option is given, 10000 in adversarial training
        learning_rate: learning rate at the beginning (Adam)
        final_learning_rate: learning rate at the end; it decays exponentially over all epochs
        weight_decay: weight of the squared weights in the loss
        num_train_samples: draws of a random model per training example; 0: the model's default (dropout 10, bnn 1)
        max_grad_norm: longer gradients are shortened to this norm
        average: the model has an exponential average of the weights, of about 1 / (1 - this) last steps; 0: the last
            weights
        min_steps: steps that a training on little data has at least: an epoch is several passes over it then
        seed: seed of the initial weights, the order of the frames and the draws
    """

    num_epochs: int = 3
    num_viterbi_epochs: int = 3
    batch_size: int = 256
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4
    weight_decay: float = 0.0
    num_train_samples: int = 0
    max_grad_norm: float = 5.0
    average: float = 0.0
    min_steps: int = 0
    seed: int = 0

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "training": ("num_epochs", "num_viterbi_epochs", "batch_size", "learning_rate", "final_learning_rate")
        + ("weight_decay", "num_train_samples", "max_grad_norm", "average", "min_steps", "seed")
    }

    def __post_init__(self) -> None:
        require(self.num_epochs >= 1, f"num_epochs must be >= 1, got {self.num_epochs}")
        require(self.num_viterbi_epochs >= 0, f"num_viterbi_epochs must be >= 0, got {self.num_viterbi_epochs}")
        require(self.batch_size >= 1, f"batch_size must be >= 1, got {self.batch_size}")
        require(0 <= self.average < 1, f"average must be in [0, 1), got {self.average}")
        require(self.min_steps >= 0, f"min_steps must be >= 0, got {self.min_steps}")
        require(self.seed >= 0, f"seed must be >= 0, got {self.seed}")
        require(self.learning_rate > 0 and self.final_learning_rate > 0, "learning rates must be positive")


@dataclass(frozen=True)
class RobustConfig(Config):
    """Adversarial training: each minibatch of whole utterances is attacked at the waveform while the network learns.

    Source: Madry et al. 2018 (plain); Zhang et al. 2019, "Theoretically principled trade-off between robustness and
    accuracy" (trades).

    Attributes:
        robust_eps: largest change of a sample in training, full scale 1 (0 to 1); 0: ordinary training
        robust_level: root mean square of the speech that ``robust_eps`` is for, full scale 1, and scaled by the level
            of each utterance; 0: ``robust_eps`` is the same for all
        robust_loss: trades adds to the loss of the clean speech how far the posteriors under attack are from those
            without; plain is the loss of the attacked speech alone
        robust_weight: weight of what trades adds
        robust_steps: gradient steps of the attack on a minibatch
        robust_step_size: size of such a step, as a share of eps
        robust_targeted: share of the minibatches attacked towards another utterance's alignment, 0 to 1; the others
            are attacked away from what is spoken
        robust_after: epochs of ordinary training before
        robust_ramp: share of the adversarial training in which eps grows to ``robust_eps``, 0 to 1
        robust_gain_db: utterances are made louder or softer at random by up to so much, dB (0 to 40)
        robust_speed: minibatches are made faster or slower at random, and higher or lower with it, by up to this share
            (0 to 1, such as 0.1; 0: not); neither this nor the gain is for a front end that is told of the speakers
    """

    robust_eps: float = 0.0
    robust_level: float = 0.05
    robust_loss: str = "trades"
    robust_weight: float = 4.0
    robust_steps: int = 6
    robust_step_size: float = 0.25
    robust_targeted: float = 0.5
    robust_after: int = 0
    robust_ramp: float = 0.3
    robust_gain_db: float = 6.0
    robust_speed: float = 0.0

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "adversarial training": ("robust_eps", "robust_level", "robust_loss", "robust_weight", "robust_steps")
        + ("robust_step_size", "robust_targeted", "robust_after", "robust_ramp", "robust_gain_db", "robust_speed")
    }
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {"robust_loss": ("trades", "plain")}

    def __post_init__(self) -> None:
        require(0 <= self.robust_eps <= 1, f"robust_eps must be in [0, 1] (0: none), got {self.robust_eps}")
        require(0 <= self.robust_level <= 1, f"robust_level must be in [0, 1], got {self.robust_level}")
        self.require_choices()
        require(self.robust_weight > 0, f"robust_weight must be positive, got {self.robust_weight}")
        require(self.robust_steps >= 1, f"robust_steps must be >= 1, got {self.robust_steps}")
        require(self.robust_step_size > 0, f"robust_step_size must be positive, got {self.robust_step_size}")
        require(0 <= self.robust_targeted <= 1, f"robust_targeted must be in [0, 1], got {self.robust_targeted}")
        require(self.robust_after >= 0, f"robust_after must be >= 0, got {self.robust_after}")
        require(0 <= self.robust_ramp <= 1, f"robust_ramp must be in [0, 1], got {self.robust_ramp}")
        require(0 <= self.robust_gain_db <= 40, f"robust_gain_db must be in [0, 40], got {self.robust_gain_db}")
        require(0 <= self.robust_speed < 1, f"robust_speed must be in [0, 1), got {self.robust_speed}")
