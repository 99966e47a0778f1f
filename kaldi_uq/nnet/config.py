"""Configuration of an acoustic model."""

from __future__ import annotations

from dataclasses import dataclass

from kaldi_uq.config import Config, require

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
        require(self.kind in MODEL_KINDS, f"model must be one of {', '.join(MODEL_KINDS)}, got {self.kind!r}")
        require(self.num_members >= 1, f"num_members must be >= 1, got {self.num_members}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")
        require(self.num_samples >= 0, f"num_samples must be >= 0, got {self.num_samples}")
        sizes_make_sense = len(self.hidden_dims) >= 1 and min(self.hidden_dims) >= 1
        require(sizes_make_sense, f"hidden_dims must be layer sizes of at least 1, got {self.hidden_dims}")
