"""What a network trained by CTC is asked before it is believed: its tokens, its blank, and what it gives."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kaldi_uq.errors import one_line
from kaldi_uq.nnet.sequence import SequenceModel

log = logging.getLogger(__name__)

SHOWN = 60  # tokens that a message lists
_BLANKS = ("<blank>", "<blk>")  # what is called so is nothing else
_SUM_TOLERANCE = 1e-3  # of probabilities, which may be of half precision


def checked_tokens(tokens: Sequence[str]) -> tuple[str, ...]:
    """The tokens, of which there are several, no two the same.

    Raises:
        TypeError: one string, or one that is no string.
        ValueError: a token is there twice.
    """
    if isinstance(tokens, str):
        raise TypeError(f"tokens must be a list of names, got one string; of single characters: list({tokens[:9]!r})")
    found = tuple(tokens)
    for number, token in enumerate(found):
        if not isinstance(token, str):
            raise TypeError(f"tokens must be names, strings, got {token!r} ({type(token).__name__}) at index {number}")
    twice = [token for token in found if found.count(token) > 1] if len(set(found)) < len(found) else []
    if twice:
        raise ValueError(f"token {twice[0]!r} is there twice")
    return found


def blank_index(blank: int | str, tokens: Sequence[str]) -> int:
    """The index of the blank.

    Raises:
        ValueError: no token, or a token of another index is called blank.
    """
    if isinstance(blank, str):
        if blank not in tokens:
            raise ValueError(f"blank {blank!r} is no token; there are {' '.join(tokens[:SHOWN])}")
        index = tokens.index(blank)
    elif not 0 <= blank < len(tokens):
        raise ValueError(f"blank must be the index of one of {len(tokens)} tokens, got {blank}")
    else:
        index = blank
    if tokens[index] in (*_BLANKS, "<pad>"):
        return index
    for name in _BLANKS:
        if name in tokens:
            raise ValueError(
                f"blank is {index}, the token {tokens[index]!r}, but token {tokens.index(name)} is called {name}: "
                f"say blank={name!r}"
            )
    if "<pad>" in tokens:
        where = tokens.index("<pad>")
        log.warning(
            "blank is %d, the token %r; if it is <pad>, token %d, as often, say blank='<pad>'",
            index,
            tokens[index],
            where,
        )
    return index


@contextlib.contextmanager
def probed(given: str) -> Iterator[None]:
    """A context for the first pass through a module, in which its own errors say what it was called with.

    Raises:
        ValueError: for whatever the module raises, but a ``ValueError`` or too little memory.
    """
    try:
        yield
    except (ValueError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # a user's module raises whatever it likes: all of it is told, and chained
        raise ValueError(
            f"the module was called with {given} and raised: {type(error).__name__}: {one_line(str(error))}; it must "
            "take waveforms (B, N)"
        ) from error


@contextlib.contextmanager
def outputs_of(model: nn.Module) -> Iterator[list[Any]]:
    """A context with the list of what the modules in the wrappers of a model give in it."""
    given: list[Any] = []
    modules = [wrapper.module for wrapper in model.modules() if isinstance(wrapper, SequenceModel)]
    hooks = [module.register_forward_hook(lambda module, args, output: given.append(output)) for module in modules]
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()


def require_logits(given: Sequence[Any]) -> None:
    """Refuse outputs that are probabilities: their logarithm would be taken for that of others.

    Raises:
        ValueError: one is.
    """
    for output in given:
        if not isinstance(output, Tensor) or output.shape[-1] < 2:
            continue
        inside = bool(((output >= 0) & (output <= 1)).all())
        if inside and bool(((output.float().sum(-1) - 1).abs() < _SUM_TOLERANCE).all()):
            raise ValueError(
                "the module gives probabilities, expected logits or log-probabilities: leave its softmax out, or give "
                "log_softmax"
            )
