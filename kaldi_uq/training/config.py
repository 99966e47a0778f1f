"""Configuration of a training."""

from __future__ import annotations

from dataclasses import dataclass

from kaldi_uq.config import Config, require

UTTERANCE_BATCH = 2000  # batch_size for a network that reads whole utterances, unless another one is asked for


@dataclass(frozen=True)
class TrainConfig(Config):
    """Training on an alignment (section 4.1 of the paper).

    ``num_epochs`` on the given alignment, then ``num_viterbi_epochs``, each after a realignment with the network's own
    posteriors.
    """

    num_epochs: int = 3
    num_viterbi_epochs: int = 3
    batch_size: int = 256  # frames; of whole utterances so many at most, with padding
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4  # exponential decay towards it over all epochs
    weight_decay: float = 0.0
    num_train_samples: int = 0  # draws per training example; 0: the model's default (dropout 10, bnn 1)
    max_grad_norm: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.num_epochs >= 1, f"num_epochs must be >= 1, got {self.num_epochs}")
        require(self.num_viterbi_epochs >= 0, f"num_viterbi_epochs must be >= 0, got {self.num_viterbi_epochs}")
        require(self.batch_size >= 1, f"batch_size must be >= 1, got {self.batch_size}")
        require(self.seed >= 0, f"seed must be >= 0, got {self.seed}")
        require(self.learning_rate > 0 and self.final_learning_rate > 0, "learning rates must be positive")
