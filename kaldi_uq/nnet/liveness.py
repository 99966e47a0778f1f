"""Do the draws of a wrapped module differ?  Dropout that drops nothing gives no mutual information, and no error."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

log = logging.getLogger(__name__)

_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


@contextlib.contextmanager
def watched(module: nn.Module, layers: Sequence[nn.Module]) -> Iterator[None]:
    """Watch one pass through ``module``, which is to happen in the block.

    Args:
        module: the module.
        layers: its layers that drop units, switched on.

    Raises:
        ValueError: the pass called ``F.dropout`` or its like switched off, or none of ``layers``.
    """
    called: list[nn.Module] = []
    hooks = [layer.register_forward_pre_hook(lambda layer, _: called.append(layer)) for layer in layers]
    try:
        with _Functions() as functions:
            yield
    finally:
        for hook in hooks:
            hook.remove()
    name = type(module).__name__
    if functions.off:
        raise ValueError(
            f"{name} calls {functions.off[0]} with training=False, which drops nothing at test: only layers are "
            "switched on; put nn.Dropout or its like in its place"
        )
    if not called:
        raise ValueError(
            f"{name} has dropout layers and calls none of them, so all draws would be equal; call them in its "
            "forward(), or use ensemble() or vmg()"
        )


class _Functions(TorchFunctionMode):
    """Notes in ``off`` the dropout functions that are called and told to drop nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.off: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FUNCTIONS:
            call = inspect.signature(func).bind(*args, **kwargs)
            call.apply_defaults()
            if call.arguments["p"] > 0 and not call.arguments["training"]:
                self.off.append(f"F.{func.__name__}(p={call.arguments['p']:g})")
        return func(*args, **kwargs)


def warn_of_equal_draws(chunks: Iterator[Tensor], what: str) -> Iterator[Tensor]:
    """Pass on logits ``(m, B, T, C)``, and warn after the last if there were several draws, all of them equal.

    Args:
        chunks: the draws.
        what: what gave them and what to do, for the message.
    """
    first: Tensor | None = None
    count, differ = 0, False
    for chunk in chunks:
        first = chunk[:1].detach() if first is None else first
        count += len(chunk)
        differ = differ or not torch.equal(chunk.detach(), first.expand_as(chunk))
        yield chunk
    if count > 1 and not differ:
        log.warning("all %d draws are equal, so the model is certain of itself at all times: %s", count, what)
