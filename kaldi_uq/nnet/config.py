"""Configuration of an acoustic model, and the registry of the kinds of models.

A kind is one class with its configuration.  The classes of the package are the modules of ``kaldi_uq.nnet.kinds``: the
name of the file is the name of the kind, and the file is imported when the class is asked for.  Their configurations
stand here, so that the names and the options of the kinds need no PyTorch.  :func:`register` adds a class from
anywhere, which brings its configuration along.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from kaldi_uq.config import Config, Limits, require

ClassT = TypeVar("ClassT", bound=type[Any])

_PAPER = ("dnn", "ensemble", "dropout", "bnn")  # in the order of its tables; further kinds follow by name
_FOUND = {module.name for module in pkgutil.iter_modules([str(Path(__file__).with_name("kinds"))])}
MODEL_KINDS: tuple[str, ...] = (*_PAPER, *sorted(_FOUND - set(_PAPER)))  # the kinds of the package

# Model files once held these fields whatever the kind, with these values unless the kind used them.
FORMER_FIELDS: Mapping[str, Any] = {"num_members": 5, "dropout": 0.5, "init_log_var": -9.0}

MAX_LAYERS = 200
MAX_WEIGHTS = 10**9  # of a network with all its members: 4 GB
_LIMITS: Limits = {
    "input_dim": (1, 100_000),
    "num_pdfs": (1, 200_000),  # recipes have up to ten thousand
    "hidden_dims": (1, 100_000),
    "num_samples": (0, 10_000),
}

_classes: dict[str, Any] = {}  # name -> class, of the kinds that have been imported


@dataclass(frozen=True)
class ModelConfig(Config):
    """What every kind of acoustic model has; a kind derives its own configuration.  The defaults are the paper's (4.1).

    Attributes:
        kind: name of the kind, which the class of the configuration states
        input_dim: features of a frame that the network sees
        num_pdfs: outputs of the network, which are the pdfs of the HMM
        hidden_dims: sizes of the hidden layers
        num_samples: draws of a random model when it is used; 0: the kind's default (dropout 100, bnn 5)
    """

    kind: ClassVar[str]

    input_dim: int = 351
    num_pdfs: int = 95
    hidden_dims: tuple[int, ...] = (100, 100)
    num_samples: int = 0

    LIMITS: ClassVar[Limits] = _LIMITS
    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "the network": ("hidden_dims", "num_samples", "num_members", "dropout", "init_log_var")
    }

    def __post_init__(self) -> None:
        count = len(self.hidden_dims)
        require(1 <= count <= MAX_LAYERS, f"hidden_dims must be the sizes of 1 to {MAX_LAYERS} layers, got {count}")
        self.require_within_limits()
        count = self.num_weights
        require(count <= MAX_WEIGHTS, f"hidden_dims make {count} weights, more than {MAX_WEIGHTS}")

    @property
    def num_networks(self) -> int:
        """Networks of these sizes that the model holds."""
        return 1

    @property
    def num_weights(self) -> int:
        """Weights of all connections: the least that a model of these sizes has."""
        sizes = (self.input_dim, *self.hidden_dims, self.num_pdfs)
        return self.num_networks * sum(a * b for a, b in itertools.pairwise(sizes))

    def to_dict(self) -> dict[str, Any]:
        """The fields and the kind."""
        return {"kind": self.kind, **super().to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:  # type: ignore[override]
        """Build the configuration of the kind that ``values`` name.

        Raises:
            ValueError: an unknown kind, a name that its configuration does not have, or a value out of range.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__} must be names with values, got {values!r}")
        config = config_class(values.get("kind", "dnn"))
        ignored = {"kind", *FORMER_FIELDS} - {field.name for field in fields(config)}
        found: ModelConfig = super(ModelConfig, config).from_dict({k: v for k, v in values.items() if k not in ignored})
        return found


@dataclass(frozen=True)
class DnnConfig(ModelConfig):
    """A deterministic network: nothing but its sizes."""

    kind: ClassVar[str] = "dnn"


@dataclass(frozen=True)
class EnsembleConfig(ModelConfig):
    """A deep ensemble.

    Attributes:
        num_members: of an ensemble: its networks
    """

    kind: ClassVar[str] = "ensemble"

    num_members: int = 5  # T of the paper

    LIMITS: ClassVar[Limits] = {**_LIMITS, "num_members": (1, 1000)}

    @property
    def num_networks(self) -> int:
        return self.num_members


@dataclass(frozen=True)
class DropoutConfig(ModelConfig):
    """A network with dropout at test.

    Attributes:
        dropout: of kind dropout: probability of leaving out a unit, above 0, below 1
    """

    kind: ClassVar[str] = "dropout"

    dropout: float = 0.5

    LIMITS: ClassVar[Limits] = {**_LIMITS, "dropout": (0, 1)}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 < self.dropout < 1,
            f"dropout must be in (0, 1), got {self.dropout}; without, all draws are equal: kind dnn is that network",
        )


@dataclass(frozen=True)
class BnnConfig(ModelConfig):
    """A Bayesian network.

    Attributes:
        init_log_var: of kind bnn: logarithm of the variance of the weights' rows and columns at the beginning
    """

    kind: ClassVar[str] = "bnn"

    init_log_var: float = -9.0

    LIMITS: ClassVar[Limits] = {**_LIMITS, "init_log_var": (-60, 20)}  # the variances are floats


# name -> configuration, of the kinds of the package
_CONFIGS: dict[str, type[ModelConfig]] = {c.kind: c for c in (DnnConfig, EnsembleConfig, DropoutConfig, BnnConfig)}


def register(model: ClassT) -> ClassT:
    """Add a kind: a decorator of its class, a ``FrameModel`` whose ``config_class`` states the name.

    Raises:
        ValueError: the name stands for another class.
    """
    kind = model.config_class.kind
    package = f"{__package__}.kinds.{kind}"
    known = _classes.get(kind, model)
    taken = kind in MODEL_KINDS and model.__module__ != package
    taken |= (known.__module__, known.__qualname__) != (model.__module__, model.__qualname__)  # else a file read again
    require(not taken, f"{model.__qualname__}: there is another kind {kind!r} already; choose another name")
    _classes[kind] = model
    return model


def kind_names() -> tuple[str, ...]:
    """Names of the kinds: those of the package, then those that were registered."""
    return (*MODEL_KINDS, *(kind for kind in _classes if kind not in MODEL_KINDS))


def model_class(kind: str) -> Any:
    """The class of a kind, a ``FrameModel``.

    Raises:
        ValueError: there is no such kind.
    """
    if kind in MODEL_KINDS:
        importlib.import_module(f"{__package__}.kinds.{kind}")
    require(kind in _classes, f"model must be one of {', '.join(kind_names())}, got {kind!r}")
    return _classes[kind]


def config_class(kind: str) -> type[ModelConfig]:
    """The configuration of a kind; for the kinds of the package PyTorch is not imported.

    Raises:
        ValueError: there is no such kind.
    """
    found: type[ModelConfig] = _CONFIGS[kind] if kind in _CONFIGS else model_class(kind).config_class
    return found
