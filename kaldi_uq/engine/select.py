"""The one place where the engine is chosen.

``pykaldi`` is experimental: written against the source of PyKaldi 0.2.2 (commit bfbf78f), not run with it.  It is
never chosen by itself, only by ``--engine pykaldi``.
"""

from __future__ import annotations

from kaldi_uq.engine.base import Engine, EngineOptions
from kaldi_uq.engine.config import ENGINES as ENGINES
from kaldi_uq.engine.config import engine_name as engine_name


def select_engine(requested: str | None = None, options: EngineOptions | None = None) -> Engine:
    """Make the engine.  A broken ``KALDI_ROOT`` is an error, never a silent fall-back.

    Args:
        requested: name of the engine; ``None``: the one that ``KALDI_ROOT`` decides.
        options: how the engine runs jobs, if it runs any, and whether it keeps lattices.

    Raises:
        EngineError: the engine cannot work here.
    """
    name = engine_name(requested)
    if name == "embedded":
        from kaldi_uq.engine.embedded.engine import EmbeddedEngine

        return EmbeddedEngine(options)
    if name == "pykaldi":
        from kaldi_uq.engine.pykaldi import PyKaldiEngine

        return PyKaldiEngine()
    from kaldi_uq.engine.binaries.engine import KaldiEngine

    return KaldiEngine(options)
