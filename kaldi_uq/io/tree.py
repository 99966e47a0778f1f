"""Kaldi's ``tree`` file: read as bytes, and checked before Kaldi's own code gets them.

That code believes what it reads: a damaged size makes it reserve gigabytes, or never return.

Source of the format: Kaldi ``src/tree/context-dep.cc``, ``src/tree/event-map.cc``.
"""

from __future__ import annotations

import os
from pathlib import Path

from kaldi_uq.errors import ModelFileError
from kaldi_uq.io.token_stream import TokenReader

_SMALLEST_MAP = 5  # bytes: "NULL "


def read_tree_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a binary ``tree`` file after its header.

    Raises:
        ModelFileError: missing, in text mode, or damaged.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; steps/train_mono.sh makes it (stage 2 of the recipe)") from None
    reader = TokenReader(data, Path(path), "a tree")
    if data.startswith(b"ContextDependency"):
        raise ModelFileError(f"{path}: a text-mode tree; make it binary with Kaldi's copy-tree")
    if not reader.binary:
        raise reader.fail("no binary header")
    reader.expect("ContextDependency")
    width, central = reader.integer(), reader.integer()
    if not 0 <= central < width:
        raise reader.fail(f"context width {width}, central position {central}")
    if reader.expect("ToPdf", "ToLength") == "ToLength":  # old trees
        _check_map(reader)
        reader.expect("ToPdf")
    pdfs = _check_map(reader)
    if not pdfs or not all(0 <= pdf < len(pdfs) for pdf in pdfs):
        raise reader.fail("the pdf-ids are not numbered from 0")
    reader.expect("EndContextDependency")
    return data[2:]


def _check_map(reader: TokenReader) -> list[int]:
    """Walk over an event map; returns the answers of its leaves."""
    answers = []
    pending = ["map"]
    while pending:
        wanted = pending.pop()
        if wanted != "map":
            reader.expect(wanted)
            continue
        kind = reader.expect("CE", "TE", "SE", "NULL")
        if kind == "CE":
            answers.append(reader.integer())
        elif kind == "TE":
            reader.integer()  # the position that the table asks for
            size = reader.unsigned()
            if size * _SMALLEST_MAP > len(reader.data) - reader.at:
                raise reader.fail(f"a table of {size}")
            reader.expect("(")
            pending += [")", *["map"] * size]
        elif kind == "SE":
            reader.integer()
            reader.integers()
            reader.expect("{")
            pending += ["}", "map", "map"]
    return answers
