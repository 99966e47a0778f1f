"""What holds on every engine holds on the pykaldi engine, with a stand-in of PyKaldi that decodes and aligns."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from kaldi_uq.engine.base import SystemBuilder
from kaldi_uq.engine.select import select_engine
from kaldi_uq.io.fst import read_fst_arrays
from tests import pykaldi, tiny
from tests.test_engine_pykaldi import forget_engine
from tests.test_engines import TestAlign, TestDecode, TestTransitions, loglikes
from tests.tiny import TinySystem

__all__ = ["TestAlign", "TestDecode", "TestTransitions", "loglikes"]  # the tests that run here, too


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinySystem]:
    """A recogniser made by the embedded engine, on which the pykaldi engine works."""
    made = tiny.make_system(tmp_path_factory.mktemp("pykaldi"))
    with pytest.MonkeyPatch.context() as patch:
        for name, module in pykaldi.modules().items():
            patch.setitem(sys.modules, name, module)
        forget_engine()
        made.engine = cast(SystemBuilder, select_engine("pykaldi"))  # it makes no models and graphs
        yield made
    forget_engine()


def test_compiled_fst_is_that_of_the_embedded_engine(system: TinySystem, tmp_path: Path) -> None:
    text = "0 1 3 1 0.5\n0 2 2 4\n1 2 1 1\n2 0.25"
    for engine in (system.engine, tiny.EmbeddedEngine()):
        engine.compile_fst(text, tmp_path / f"{engine.name}.fst", sort="ilabel")
    ours, theirs = (read_fst_arrays(tmp_path / f"{name}.fst") for name in ("pykaldi", "embedded"))
    assert ours.start == theirs.start
    for field in ("arcs", "offsets", "finals"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field
    assert ours.arcs["ilabel"].tolist() == [2, 3, 1]
