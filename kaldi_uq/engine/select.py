"""The one place where the engine is chosen."""

from __future__ import annotations

import os

from kaldi_uq.engine.base import Engine
from kaldi_uq.errors import EngineError

ENGINES = ("embedded", "kaldi")


def engine_name(requested: str | None = None) -> str:
    """Which engine runs: ``requested`` if given, else ``kaldi`` if ``KALDI_ROOT`` is set, else ``embedded``.

    Raises:
        EngineError: an unknown name.
    """
    if requested:
        if requested not in ENGINES:
            raise EngineError(f"--engine must be one of {', '.join(ENGINES)}, got {requested!r}")
        return requested
    return "kaldi" if os.environ.get("KALDI_ROOT") else "embedded"


def select_engine(requested: str | None = None) -> Engine:
    """Make the engine.  A broken ``KALDI_ROOT`` is an error, never a silent fall-back.

    Raises:
        EngineError: the engine cannot work here.
    """
    if engine_name(requested) == "embedded":
        from kaldi_uq.engine.embedded import EmbeddedEngine

        return EmbeddedEngine()
    chosen_by = f"--engine {requested}" if requested else f"KALDI_ROOT is set ({os.environ['KALDI_ROOT']})"
    raise EngineError(
        f"{chosen_by}: the engine on Kaldi's binaries is not part of this version; pass --engine embedded"
        + ("" if requested else ", or unset KALDI_ROOT")
    )
