"""Acoustic models around a user's module that reads whole sequences; ``wrappers`` makes them.

A user's module draws from PyTorch's global generators.  While it runs, these are seeded from the generator that was
passed, and afterwards they are as they were.  So are the modes of its layers and its dropout: a wrapper shares the
weights of the module and nothing else, and several wrappers of one module do not feel each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from kaldi_uq.nnet.base import AcousticModel, check_generator, chunk_sizes, cross_entropy
from kaldi_uq.nnet.liveness import warn_of_equal_draws, watched
from kaldi_uq.nnet.vmg_conv import VmgConv
from kaldi_uq.nnet.vmg_linear import VmgLinear

TRANSFORMER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class SequenceModel(AcousticModel):
    """A deterministic module, M = 1; base of the other wrappers.

    In evaluation mode, which is the wrapper's own and at first that of the module, the layers are in it for each pass,
    whatever mode the module is in; in training mode they are as they were set.

    Args:
        module: features ``(B, T, D)`` to logits ``(B, T, C)``, with as many frames out as in; or waveforms ``(B, N)``
            to logits with any number of frames.
        num_pdfs: C, if it is to be checked against what the module gives.

    Attributes:
        module: the user's module itself, whose weights are shared.
    """

    frame_wise = False

    def __init__(self, module: nn.Module, *, num_pdfs: int = 0) -> None:
        super().__init__()
        self.module = module
        self.num_pdfs = num_pdfs
        self.training = module.training

    def _iter_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        for m in chunk_sizes(num_samples, chunk or 1):
            logits = []
            for _ in range(m):
                with seeded(generator, x.device):
                    logits.append(self._check_logits(self._run(x), x))
            yield torch.stack(logits)

    def _run(self, x: Tensor) -> Any:
        with layers_set(self.module, evaluating=not self.training):
            return self.module(x)

    def _check_logits(self, logits: Any, x: Tensor) -> Tensor:
        if not isinstance(logits, Tensor):
            raise ValueError(f"the module must give one tensor of logits, got {type(logits).__name__}")
        axes = 2 if x.dim() == 3 else 1  # from a waveform any number of frames is made
        fits = logits.dim() == 3 and logits.shape[:axes] == x.shape[:axes]
        if not fits or self.num_pdfs not in (0, logits.shape[-1]):
            expected = (*x.shape[:2], self.num_pdfs or "C") if axes == 2 else (len(x), "T", self.num_pdfs or "C")
            raise ValueError(f"the module must give logits {expected}, got {tuple(logits.shape)}")
        return logits


class SequenceDropout(SequenceModel):
    """A module whose dropout stays active at test; made with ``mc_dropout``."""

    is_random = True
    recommended_statistic = "mean_akld"

    def __init__(self, module: nn.Module, *, num_samples: int, p: float | None = None, num_pdfs: int = 0) -> None:
        super().__init__(module, num_pdfs=num_pdfs)
        self.default_num_samples = num_samples
        self._p = p
        self._is_watched = self._is_compared = False

    def _iter_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        chunks = super()._iter_logits(x, num_samples, chunk, generator)
        if self._is_compared or num_samples == 1:
            return chunks
        self._is_compared = True
        what = f"the dropout of {type(self.module).__name__} has no influence on what it gives; give a larger p"
        return warn_of_equal_draws(chunks, what)

    def _run(self, x: Tensor) -> Any:
        layers = dropout_layers(self.module)
        with layers_set(self.module, evaluating=not self.training, dropping=layers, p=self._p):
            if self._is_watched:
                return self.module(x)
            with watched(self.module, layers):
                logits = self.module(x)
        self._is_watched = True
        return logits


class SequenceEnsemble(AcousticModel):
    """Modules trained independently; made with ``ensemble``."""

    frame_wise = False
    recommended_statistic = "max_mutual_information"

    def __init__(self, modules: Sequence[nn.Module], *, num_pdfs: int = 0) -> None:
        super().__init__()
        self.members = nn.ModuleList(SequenceModel(module, num_pdfs=num_pdfs) for module in modules)
        self.num_pdfs = num_pdfs
        self.num_members = self.default_num_samples = self.default_num_train_samples = len(self.members)
        self._is_compared = False

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
        """Sum over members of their cross-entropy.

        Args:
            x, pdfs, mask: sequences ``(B, T, D)`` for all members, or ``(M, B, T, D)``, a minibatch for each; ``pdfs``
                and ``mask`` without the last axis.

        Other arguments and Returns: as in ``AcousticModel.training_loss``.
        """
        count = self._count_draws(num_samples, self.default_num_train_samples)
        if x.dim() == 3:
            x, pdfs = x.expand(count, *x.shape), pdfs.expand(count, *pdfs.shape)
            mask = None if mask is None else mask.expand(count, *mask.shape)
        if x.dim() != 4 or len(x) != count:
            raise ValueError(f"features must be (B, T, D) or ({count}, B, T, D), got {tuple(x.shape)}")
        losses = []
        for index, features in enumerate(x):
            logits = next(self._member_logits(index, features, generator))
            losses.append(cross_entropy(logits, pdfs[index], None if mask is None else mask[index]))
        return torch.stack(losses).sum()

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Clip each member by the norm of its own gradients; returns the norms ``(M,)``."""
        return torch.stack([nn.utils.clip_grad_norm_(member.parameters(), max_norm) for member in self.members])

    def _member_logits(self, index: int, x: Tensor, generator: torch.Generator | None) -> Iterator[Tensor]:
        member = self.members[index]
        assert isinstance(member, SequenceModel)
        return member._iter_logits(x, 1, None, generator)

    def _iter_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        chunks = self._all_logits(x, num_samples, chunk, generator)
        if self._is_compared or num_samples == 1:
            return chunks
        self._is_compared = True
        return warn_of_equal_draws(chunks, "the members give the same; train them from initial weights of their own")

    def _all_logits(
        self, x: Tensor, num_samples: int, chunk: int | None, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        start = 0
        for m in chunk_sizes(num_samples, chunk or 1):
            parts = [next(self._member_logits(index, x, generator)) for index in range(start, start + m)]
            yield torch.cat(parts)
            start += m


class SequenceVmg(SequenceModel):
    """A module with matrix-Gaussian layers; made with ``vmg``."""

    is_random = True
    recommended_statistic = "q95_mutual_information"

    def __init__(self, module: nn.Module, *, num_samples: int, num_pdfs: int = 0) -> None:
        super().__init__(module, num_pdfs=num_pdfs)
        self.default_num_samples = num_samples

    def kl(self) -> Tensor:
        """KL divergence of all matrix-Gaussian layers from the standard normal prior, in nats."""
        layers = [m for m in self.module.modules() if isinstance(m, VmgLinear | VmgConv)]
        return torch.stack([layer.kl() for layer in layers]).sum()


@contextlib.contextmanager
def seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's global generators from ``generator`` for the length of the block, then restore them.

    None leaves them alone.  On a GPU that of ``device`` is seeded as well as the CPU's.
    """
    if generator is None:
        yield
        return
    check_generator(generator, device)
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def layers_set(
    module: nn.Module, *, evaluating: bool, dropping: Sequence[nn.Module] = (), p: float | None = None
) -> Iterator[None]:
    """Set layers of a user's module for the length of the block, then put back all that was changed.

    Args:
        module: the module; its methods ``train`` and ``eval`` are not called.
        evaluating: whether all other layers are in evaluation mode, or as they are.
        dropping: layers of :func:`dropout_layers` that drop.
        p: their dropout probability; ``None`` for their own.
    """
    changed: list[tuple[nn.Module, str, Any]] = []

    def put(layer: nn.Module, name: str, value: object) -> None:
        old = getattr(layer, name)
        if old != value:
            changed.append((layer, name, old))
            setattr(layer, name, value)

    drop = set(dropping)
    try:
        for layer in module.modules() if evaluating else ():
            # cuDNN has a gradient of a recurrent layer only in training mode, which changes nothing without dropout
            put(layer, "training", layer in drop or (isinstance(layer, nn.RNNBase) and not layer.dropout))
        for layer in dropping:
            put(layer, "training", True)
            if p is not None and not isinstance(layer, TRANSFORMER_LAYERS):
                put(layer, probability_name(layer), p)
        yield
    finally:
        for layer, name, value in reversed(changed):
            setattr(layer, name, value)


def probability_name(layer: nn.Module) -> str:
    """The attribute that has the dropout probability of a layer that is no transformer layer."""
    return "p" if isinstance(layer, _DropoutNd) else "dropout"


def dropout_layers(module: nn.Module) -> list[nn.Module]:
    """Layers whose training mode means dropout and nothing else.

    A transformer layer is among them although its dropout layers are found by themselves: in evaluation mode it may
    take a path that skips them.
    """
    found = []
    for layer in module.modules():
        recurrent = isinstance(layer, nn.RNNBase) and layer.dropout > 0 and layer.num_layers > 1  # drops between layers
        if recurrent or isinstance(layer, (_DropoutNd, nn.MultiheadAttention, *TRANSFORMER_LAYERS)):
            found.append(layer)
    return found
