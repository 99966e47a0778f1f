"""The one interface of every acoustic model: log-posteriors with the draws or members on axis 0.

A deterministic network is a model with one member, so that the engine, the attacks and the uncertainty measures never
ask which kind they hold.  A subclass supplies ``_iter_logits`` and, where it has one, a Kullback-Leibler term.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaldi_uq.nnet.config import ModelConfig, model_class

ModelT = TypeVar("ModelT", bound="FrameModel")

# Elements of the widest activation that one chunk of draws may hold.  On a CPU the chunk should stay in the cache; on a
# GPU it should be large enough to hide the launches and small beside the memory.
CHUNK_ELEMENTS_CPU = 1 << 18
CHUNK_ELEMENTS_CUDA = 1 << 26


class AcousticModel(nn.Module, ABC):
    """A network, or several, from features to log P(pdf | x).

    Attributes:
        num_pdfs: C, the number of classes; 0 when a wrapped module has not stated it.
        is_random: whether two calls differ: draws of weights or of dropout masks.
        frame_wise: True if every output frame depends on its own input vector only (spliced frames), so that training
            takes frames in any order; False if the network reads whole sequences.
        default_num_samples: M at test when ``num_samples`` is None.
        default_num_train_samples: draws per training example when ``num_samples`` is None.
        num_members: M of an ensemble, whose loss is the sum over members; a frame-wise one is trained with a minibatch
            for each member.  0 for any other model.
        recommended_statistic: the one statistic to detect with, where a directory has no detector of all of them: it
            found both of the recipe's attacks in a model of this kind.  Where there are draws or members, their
            disagreement also shows the attacks that leave the mean more certain than benign speech.
    """

    num_pdfs: int = 0
    is_random: bool = False
    frame_wise: bool = True
    default_num_samples: int = 1
    default_num_train_samples: int = 1
    num_members: int = 0
    recommended_statistic: str = "mean_predictive_entropy"

    @property
    def kind(self) -> str:
        """Name of the kind; of a network that no configuration describes, the name of its class."""
        return type(self).__name__

    @abstractmethod
    def _iter_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """Yield logits ``(m, B, T, C)``, ``num_samples`` of them altogether; ``chunk`` None chooses m by memory."""

    def kl(self) -> Tensor:
        """KL divergence, in nats, of the distribution of the weights from its prior; 0 for a network without one."""
        return torch.zeros(())

    def iter_log_post(
        self,
        x: Tensor,
        *,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        chunk: int | None = None,
    ) -> Iterator[Tensor]:
        """Log-posteriors in chunks of draws, so that a hundred draws of a large batch are never stored together.

        What is drawn does not depend on ``chunk``, and the first k draws do not depend on ``num_samples``.

        Args:
            x: features ``(B, T, D)``, or waveforms ``(B, N)`` for a module that reads these; float.
            num_samples: M; None stands for ``default_num_samples``.  Only a random model can have another number.
            generator: source of the draws, on the device of ``x``; None for PyTorch's default generator.
            chunk: draws per chunk; None chooses it by the size of the batch.

        Returns:
            An iterator over float tensors ``(m, B, T, C)``, in the order of the draws, differentiable in ``x``.

        Raises:
            ValueError: a wrong shape or number of draws, or a generator of another device.
        """
        if x.dim() != 3 and (self.frame_wise or x.dim() != 2):  # a whole sequence may be a waveform
            raise ValueError(f"features must be (B, T, D), got {tuple(x.shape)}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be >= 1, got {chunk}")
        self._check_input(x)
        check_generator(generator, x.device)
        count = self._count_draws(num_samples, self.default_num_samples)
        return (F.log_softmax(logits, dim=-1) for logits in self._iter_logits(x, count, chunk, generator))

    def log_post(
        self, x: Tensor, *, num_samples: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Log-posteriors of all draws or members, in nats.

        Args and Raises: as for ``iter_log_post``, which gives the same values for the same state of the generator.

        Returns:
            ``(M, B, T, C)``, float, differentiable in ``x``.
        """
        return concatenate(self.iter_log_post(x, num_samples=num_samples, generator=generator))

    def forward(self, x: Tensor, *, num_samples: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Logarithm of the predictive mean: log of the average posterior over draws.

        Exact where probabilities underflow: nothing leaves the logarithmic domain.

        Args and Raises: as for ``iter_log_post``.

        Returns:
            ``(B, T, C)``, float, differentiable in ``x``.

        Source: section 2.2 of the paper, p(y|x) = (1/T) sum_t p(y|x, theta_t).
        """
        total: Tensor | None = None
        count = 0
        for log_post in self.iter_log_post(x, num_samples=num_samples, generator=generator):
            count += log_post.shape[0]
            part = log_post.logsumexp(0) if log_post.shape[0] > 1 else log_post[0]
            total = part if total is None else torch.logaddexp(total, part)
        assert total is not None  # at least one draw, checked above
        return total - math.log(count) if count > 1 else total

    def training_loss(
        self,
        x: Tensor,
        pdfs: Tensor,
        *,
        num_frames_total: int,
        mask: Tensor | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Loss of one minibatch, per frame, in nats.

        The cross-entropy is averaged over draws, so that its gradient is the average gradient of the sub-networks; a
        model with a distribution over its weights adds KL / ``num_frames_total``, which makes the loss the negative
        evidence lower bound per frame.

        Args:
            x: frames ``(F, D)`` for a frame-wise model, or sequences ``(B, T, D)``.
            pdfs: int64, ``(F,)`` or ``(B, T)``.
            num_frames_total: frames of the whole training set: the weight of the KL term is its reciprocal.
            mask: bool like ``pdfs``, False at padded frames; None: every frame counts.
            num_samples: draws per example; None stands for ``default_num_train_samples``.
            generator: source of the draws, on the device of ``x``.

        Returns:
            A scalar.

        Source: eq. 2 of the paper; section 4.1.
        """
        if num_frames_total < 1:
            raise ValueError(f"num_frames_total must be >= 1, got {num_frames_total}")
        check_generator(generator, x.device)
        draws = self._count_draws(num_samples, self.default_num_train_samples)
        sequences = x.unsqueeze(0) if x.dim() == 2 else x
        self._check_input(sequences)
        logits = concatenate(self._iter_logits(sequences, draws, draws, generator))
        return cross_entropy(logits.reshape(draws, *x.shape[:-1], -1), pdfs, mask) + self.kl() / num_frames_total

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Scale the gradients so that the norm of all of them together is at most ``max_norm``.

        Returns:
            The norms before clipping, one for each independently trained network: ``(1,)`` or ``(M,)``.
        """
        return nn.utils.clip_grad_norm_(self.parameters(), max_norm).reshape(1)

    def _check_input(self, x: Tensor) -> None:
        """Raise ValueError if sequences ``(B, T, D)`` do not fit the network."""

    def _count_draws(self, num_samples: int | None, default: int) -> int:
        if num_samples is None:
            return default
        if self.is_random:
            if num_samples < 1:
                raise ValueError(f"num_samples must be >= 1, got {num_samples}")
        elif num_samples != default:
            raise ValueError(f"{type(self).__name__} is not random: num_samples must be {default}, got {num_samples}")
        return num_samples


class FrameModel(AcousticModel):
    """A model that a configuration describes wholly, on spliced frames: the base of the kinds of the registry.

    A kind is a subclass with the decorator ``kaldi_uq.nnet.config.register``.

    Args:
        config: sizes and options, an instance of ``config_class``.

    Attributes:
        config_class: configuration of the kind, which states the kind's name.
    """

    config_class: ClassVar[type[ModelConfig]]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.num_pdfs = config.num_pdfs
        if self.is_random and config.num_samples:
            self.default_num_samples = config.num_samples

    @classmethod
    def build(cls: type[ModelT], config: ModelConfig, seed: int) -> ModelT:
        """A model with initial weights; most kinds draw them from one CPU generator."""
        return cls(config, generator=torch.Generator().manual_seed(seed))  # type: ignore[call-arg]

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return self.config.kind

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 3 or x.shape[-1] != self.config.input_dim:
            raise ValueError(f"features must be (B, T, {self.config.input_dim}), got {tuple(x.shape)}")


def build_model(config: ModelConfig, *, seed: int = 0) -> FrameModel:
    """A model with initial weights that are a pure function of ``config`` and ``seed``.

    The weights are drawn on the CPU, whatever device the model moves to; global generators are not touched.

    Args:
        config: configuration of any kind.
        seed: seed of the initial weights; an ensemble derives one for each member.
    """
    model: FrameModel = model_class(config.kind).build(config, seed)
    return model


def model_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Names and shapes of the arrays of a model of one of the package's kinds, without the memory for them."""
    with torch.device("meta"):
        return {name: value.shape for name, value in build_model(config).state_dict().items()}


def layer_sizes(config: ModelConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of each layer.

    >>> layer_sizes(ModelConfig(input_dim=351, hidden_dims=(100, 100), num_pdfs=95))
    [(351, 100), (100, 100), (100, 95)]
    """
    sizes = [config.input_dim, *config.hidden_dims, config.num_pdfs]
    return list(itertools.pairwise(sizes))


def choose_chunk(num_samples: int, num_frames: int, width: int, device: torch.device, chunk: int | None) -> int:
    """How many draws to compute together: ``chunk`` if it is given, else as many as the element budget allows."""
    budget = CHUNK_ELEMENTS_CUDA if device.type == "cuda" else CHUNK_ELEMENTS_CPU
    return min(num_samples, chunk or max(1, budget // max(1, num_frames * width)))


def chunk_sizes(num_samples: int, chunk: int) -> Iterator[int]:
    """Sizes of successive chunks.

    >>> list(chunk_sizes(5, 2))
    [2, 2, 1]
    """
    for start in range(0, num_samples, chunk):
        yield min(chunk, num_samples - start)


def concatenate(chunks: Iterator[Tensor]) -> Tensor:
    """Join chunks on axis 0, without a copy when there is only one."""
    parts = list(chunks)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def cross_entropy(logits: Tensor, pdfs: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of ``pdfs (...)`` under ``logits (M, ..., C)``, over draws and unmasked frames."""
    if pdfs.shape != logits.shape[1:-1]:
        raise ValueError(f"pdfs must be {tuple(logits.shape[1:-1])}, one for each frame, got {tuple(pdfs.shape)}")
    if mask is not None:
        if mask.shape != pdfs.shape or mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool {tuple(pdfs.shape)}, got {mask.dtype} {tuple(mask.shape)}")
        logits, pdfs = logits[:, mask], pdfs[mask]
    return F.cross_entropy(logits.flatten(0, -2), pdfs.expand(logits.shape[:-1]).flatten())


def check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    """Raise ValueError unless ``generator`` is None or draws on ``device``."""
    if generator is not None and generator.device.type != device.type:
        raise ValueError(
            f"the generator is on {generator.device}, the features on {device}: use torch.Generator('{device}')"
        )
