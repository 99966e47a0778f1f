"""Features: from the waveform to the network's input, batched, with gradients that reach the waveform.

Every module takes padded tensors with ``num_samples`` or ``lengths`` and reads no padded value: what an utterance gives
does not depend on its batch.  Padded frames of an output are exactly 0.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaldi_uq.feats.frontend import FrontEnd
    from kaldi_uq.feats.mfcc import Fbank, Mfcc

__all__ = ["Fbank", "FrontEnd", "Mfcc"]

_MODULES = {"Fbank": "mfcc", "FrontEnd": "frontend", "Mfcc": "mfcc"}


def __getattr__(name: str) -> Any:
    """Import a class when it is asked for: what reads a configuration or adds up statistics needs no PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
