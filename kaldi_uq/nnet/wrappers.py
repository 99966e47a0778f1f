"""Any PyTorch module from features ``(B, T, D)`` to logits ``(B, T, C)`` as a model that knows its uncertainty.

``deterministic``, ``mc_dropout``, ``ensemble`` and ``vmg`` take a user's network and give the interface of
``AcousticModel``; training reads sequences ``(B, T, D)`` with a mask, because the network may look at neighbours.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from kaldi_uq.nnet.base import AcousticModel
from kaldi_uq.nnet.kinds.ensemble import member_seeds
from kaldi_uq.nnet.sequence import (
    TRANSFORMER_LAYERS,
    SequenceDropout,
    SequenceEnsemble,
    SequenceModel,
    SequenceVmg,
    dropout_layers,
    probability_name,
    seeded,
)
from kaldi_uq.nnet.vmg_conv import VmgConv1d, VmgConv2d
from kaldi_uq.nnet.vmg_linear import VmgLinear


def deterministic(module: nn.Module, *, num_pdfs: int = 0) -> SequenceModel:
    """The module as it is, one member: predictive entropy is its only measure.

    The weights are those of ``module``, which is not changed; see :class:`.sequence.SequenceModel` for the modes.
    """
    _check_module(module)
    return SequenceModel(module, num_pdfs=num_pdfs)


def mc_dropout(
    module: nn.Module, *, p: float | None = None, num_samples: int = 100, num_pdfs: int = 0
) -> SequenceDropout:
    """Keep the dropout of ``module`` active at test.

    Dropout modules, stacks of recurrent layers with ``dropout`` and attention with ``dropout`` count.  The weights are
    those of ``module``, so that training one trains the other; its modes and its dropout are set for each pass only,
    so that it stays as it is and may have other wrappers, with another ``p``, too.

    Args:
        module: features ``(B, T, D)`` to logits ``(B, T, C)``.
        p: dropout probability of all these layers in this wrapper; None keeps theirs.
        num_samples: draws at test.
        num_pdfs: C, if it is to be checked.

    Raises:
        ValueError: no layer drops anything, or ``p`` is not in (0, 1).  At the first draw: the module calls none of its
            dropout layers, or ``F.dropout``, which no wrapper can switch on.
    """
    if p is not None and not 0.0 < p < 1.0:
        raise ValueError(f"p must be in (0, 1), got {p}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be >= 1, got {num_samples}")
    _check_module(module)
    layers = [layer for layer in dropout_layers(module) if not isinstance(layer, TRANSFORMER_LAYERS)]
    if not layers:
        single = [m for m in module.modules() if isinstance(m, nn.RNNBase) and m.dropout > 0]
        but = f" (that of a one-layer nn.{type(single[0]).__name__} drops nothing)" if single else ""
        raise ValueError(
            f"{type(module).__name__} has no dropout layers{but}, so all draws would be equal; "
            "add nn.Dropout to it, or use ensemble() or vmg()"
        )
    if p is None and all(getattr(layer, probability_name(layer)) == 0 for layer in layers):
        raise ValueError(f"the dropout layers of {type(module).__name__} have probability 0; give p, such as p=0.5")
    return SequenceDropout(module, num_samples=num_samples, p=p, num_pdfs=num_pdfs)


def _check_module(module: object) -> None:
    """Refuse what is no network; also one that has a wrapper already.

    Raises:
        TypeError: it is.
    """
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise TypeError(f"expected a network, got the class {module.__name__}: call it, {module.__name__}(...)")
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected an nn.Module, got {type(module).__name__}")
    if isinstance(module, AcousticModel):
        raise TypeError(f"expected a network without a wrapper, got a {type(module).__name__}: give the module in it")


def ensemble(
    factory: Callable[[], nn.Module] | Sequence[nn.Module],
    num_members: int | None = None,
    seed: int | None = None,
    *,
    num_pdfs: int = 0,
) -> SequenceEnsemble:
    """Independent networks: from one constructor, each with initial weights of its own, or those that you have trained.

    The posteriors of a frame are averaged.  CTC networks that were trained apart say a token at different frames, so
    that the average says fewer tokens than any member does: look at the word error rate first (``docs/ctc.md``).

    Args:
        factory: builds a module on the CPU; called once a member, with the global CPU generator seeded for it.  Or a
            sequence of modules, whose weights are shared and which are not changed.
        num_members: how many, M; of a sequence its length, and best left out.
        seed: seed of the initial weights: member m depends on ``seed`` and m only.  None draws one from PyTorch's
            global generator.  None for a sequence.
        num_pdfs: C, if it is to be checked.

    Raises:
        ValueError: fewer than one member, another number or a seed with a sequence, or two members with equal weights.
        TypeError: the factory gives the same module twice, or no module.
    """
    if isinstance(factory, Sequence | nn.ModuleList):
        return SequenceEnsemble(_given(list(factory), num_members, seed), num_pdfs=num_pdfs)
    if isinstance(factory, nn.Module) or not callable(factory):
        given = type(factory).__name__
        raise TypeError(f"expected a function that builds a network, or a list of networks; got one {given}")
    if num_members is None:
        raise TypeError("say num_members: how many networks the factory is to build")
    if num_members < 1:
        raise ValueError(f"num_members must be >= 1, got {num_members}")
    if seed is None:
        seed = int(torch.randint(2**63 - 1, ()))
    modules = []
    for member_seed in member_seeds(seed, num_members):
        with seeded(torch.Generator().manual_seed(member_seed), torch.device("cpu")):
            modules.append(factory())
    if not all(isinstance(module, nn.Module) for module in modules) or len({id(m) for m in modules}) < num_members:
        raise TypeError("factory must build a new nn.Module at every call, such as lambda: MyNet(dim=40)")
    _check_different(
        modules, "factory must draw new weights at every call: no copy of a module, no torch.manual_seed() in it"
    )
    return SequenceEnsemble(modules, num_pdfs=num_pdfs)


def _given(modules: list[nn.Module], num_members: int | None, seed: int | None) -> list[nn.Module]:
    """The members that are there already, checked."""
    if not modules:
        raise ValueError("an ensemble needs at least one member, got an empty sequence")
    if num_members not in (None, len(modules)):
        raise ValueError(f"num_members is {num_members}, but {len(modules)} networks are given: leave it out")
    if seed is not None:
        raise ValueError("seed is of the initial weights that a factory draws: leave it out with networks")
    for module in modules:
        _check_module(module)
    _check_different(modules, "give each network once")
    return modules


def _check_different(modules: Sequence[nn.Module], what_to_do: str) -> None:
    for (i, first), (k, second) in itertools.combinations(enumerate(modules, 1), 2):
        if _equal_weights(first, second):
            raise ValueError(f"members {i} and {k} have equal weights, so they are one network; {what_to_do}")


def _equal_weights(first: nn.Module, second: nn.Module) -> bool:
    tensors = [[*module.parameters(), *module.buffers()] for module in (first, second)]
    return len(tensors[0]) == len(tensors[1]) and all(map(torch.equal, *tensors))


def vmg(module: nn.Module, *, init_log_var: float = -9.0, num_samples: int = 5, num_pdfs: int = 0) -> SequenceVmg:
    """A Bayesian copy of ``module``: its linear layers and convolutions get matrix-Gaussian weights.

    ``nn.Linear``, ``nn.Conv1d`` and ``nn.Conv2d`` are replaced, their weights become the means; other layers keep point
    estimates.  ``module`` is not changed.

    Args:
        module: features ``(B, T, D)`` to logits ``(B, T, C)``.
        init_log_var: initial log-variance of rows and columns.
        num_samples: draws at test.
        num_pdfs: C, if it is to be checked.

    Raises:
        ValueError: nothing can be replaced, or a transformer layer would read its linear layers' weights directly.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be >= 1, got {num_samples}")
    _check_module(module)
    if any(isinstance(m, TRANSFORMER_LAYERS) for m in module.modules()):
        raise ValueError(
            "nn.TransformerEncoderLayer and nn.TransformerDecoderLayer use their weights without calling their layers; "
            "write the block with nn.MultiheadAttention and nn.Linear, or use mc_dropout() or ensemble()"
        )
    replaced: dict[nn.Module, nn.Module] = {}
    copied = copy.deepcopy(module)
    root = nn.ModuleDict({"module": copied})  # so that a module that is itself a layer is replaced too
    for parent in list(root.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and type(child) in (nn.Linear, nn.Conv1d, nn.Conv2d):
                if child not in replaced:  # a layer that is used twice stays one layer
                    replaced[child] = _to_vmg(child, init_log_var)
                parent._modules[name] = replaced[child]
    if not replaced:
        raise ValueError(f"{type(module).__name__} has no nn.Linear, nn.Conv1d or nn.Conv2d to make Bayesian")
    return SequenceVmg(root["module"], num_samples=num_samples, num_pdfs=num_pdfs)


def _to_vmg(layer: nn.Module, init_log_var: float) -> nn.Module:
    if isinstance(layer, nn.Conv1d):
        return VmgConv1d.from_conv(layer, init_log_var=init_log_var)
    if isinstance(layer, nn.Conv2d):
        return VmgConv2d.from_conv(layer, init_log_var=init_log_var)
    assert isinstance(layer, nn.Linear)
    new = VmgLinear(layer.in_features, layer.out_features, bias=layer.bias is not None, init_log_var=init_log_var).to(
        layer.weight
    )
    with torch.no_grad():
        new.mean[: layer.in_features] = layer.weight.t()
        if layer.bias is not None:
            new.mean[layer.in_features] = layer.bias
    return new
