"""Configuration of a training."""

from __future__ import annotations

from dataclasses import dataclass

from kaldi_uq.config import Config, one_of, require

UTTERANCE_BATCH = 2000  # batch_size for a network that reads whole utterances, unless another one is asked for
ROBUST_BATCH = 10000  # batch_size in adversarial training, likewise


@dataclass(frozen=True)
class TrainConfig(Config):
    """Training on an alignment (section 4.1 of the paper).

    ``num_epochs`` on the given alignment, then ``num_viterbi_epochs``, each after a realignment with the network's own
    posteriors.  With ``average`` the model has the average of the weights over the last steps: about 1 / (1 - average)
    of them count.
    """

    num_epochs: int = 3
    num_viterbi_epochs: int = 3
    batch_size: int = 256  # frames; of whole utterances so many at most, with padding
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4  # exponential decay towards it over all epochs
    weight_decay: float = 0.0
    num_train_samples: int = 0  # draws per training example; 0: the model's default (dropout 10, bnn 1)
    max_grad_norm: float = 5.0
    average: float = 0.0  # share of the last average in an exponential average of the weights; 0: the last weights
    min_steps: int = 0  # steps that a training on little data has at least: an epoch is then several passes over it
    seed: int = 0

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

    ``robust_eps`` is for speech of root mean square ``robust_level``, and is scaled to the level of each utterance;
    with ``robust_level`` 0 it is absolute.  ``robust_loss`` ``trades`` adds to the loss of the clean speech
    ``robust_weight`` times the divergence of the posteriors under attack from those without; ``plain`` is the loss of
    the attacked speech alone.

    Source: Madry et al. 2018 (plain); Zhang et al. 2019, "Theoretically principled trade-off between robustness and
    accuracy" (trades).
    """

    robust_eps: float = 0.0  # largest change of a sample, full scale 1; 0: ordinary training
    robust_level: float = 0.05  # root mean square of speech that robust_eps is for; 0: of any
    robust_loss: str = "trades"
    robust_weight: float = 4.0  # of the divergence; trades only
    robust_steps: int = 6  # of the attack on a minibatch
    robust_step_size: float = 0.25  # share of eps
    robust_targeted: float = 0.5  # share of the minibatches attacked towards another utterance's alignment
    robust_after: int = 0  # epochs of ordinary training before
    robust_ramp: float = 0.3  # share of the adversarial training in which eps grows to robust_eps
    robust_gain_db: float = 6.0  # utterances are made louder or softer at random by up to so much

    def __post_init__(self) -> None:
        require(0 <= self.robust_eps <= 1, f"robust_eps must be in [0, 1] (0: none), got {self.robust_eps}")
        require(0 <= self.robust_level <= 1, f"robust_level must be in [0, 1], got {self.robust_level}")
        one_of("robust_loss", self.robust_loss, ("trades", "plain"))
        require(self.robust_weight > 0, f"robust_weight must be positive, got {self.robust_weight}")
        require(self.robust_steps >= 1, f"robust_steps must be >= 1, got {self.robust_steps}")
        require(self.robust_step_size > 0, f"robust_step_size must be positive, got {self.robust_step_size}")
        require(0 <= self.robust_targeted <= 1, f"robust_targeted must be in [0, 1], got {self.robust_targeted}")
        require(self.robust_after >= 0, f"robust_after must be >= 0, got {self.robust_after}")
        require(0 <= self.robust_ramp <= 1, f"robust_ramp must be in [0, 1], got {self.robust_ramp}")
        require(0 <= self.robust_gain_db <= 40, f"robust_gain_db must be in [0, 40], got {self.robust_gain_db}")
