"""Acoustic models that know their uncertainty, behind the interface of ``base.AcousticModel``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaldi_uq.nnet.base import AcousticModel, build_model
    from kaldi_uq.nnet.wrappers import deterministic, ensemble, mc_dropout, vmg

__all__ = ["AcousticModel", "build_model", "deterministic", "ensemble", "mc_dropout", "vmg"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: what lists the names of the kinds needs no PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "base" if name in ("AcousticModel", "build_model") else "wrappers"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
