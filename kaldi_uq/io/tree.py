"""Kaldi's ``tree`` file, binary or text: checked before Kaldi's own code gets it.

That code believes what it reads: a damaged size makes it reserve gigabytes, or never return, and a set out of order or
a key outside the context crash it.

Source of the format: Kaldi ``src/tree/context-dep.cc``, ``src/tree/event-map.cc``.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from kaldi_uq.errors import ModelFileError
from kaldi_uq.io.event_map import PDF_CLASS
from kaldi_uq.io.token_stream import TokenReader, int_bytes, int_vector, unsigned_bytes

_SMALLEST_MAP = 5  # bytes: "NULL "
MAX_WIDTH = 15  # phones; Kaldi's recipes have 1 to 3, and phones in so wide a context are never seen twice
MAX_DEPTH = 500  # questions on the way to a leaf; Kaldi's code calls itself for each, and recipes' trees have tens


def read_tree_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a ``tree`` file in its binary form, without the header.

    Raises:
        ModelFileError: missing or damaged.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ModelFileError(
            f"{path}: no such file; training of a GMM system, such as steps/train_mono.sh, makes it"
        ) from None
    reader = TokenReader(data, Path(path), "a tree")
    if not reader.binary and not data.lstrip().startswith(b"ContextDependency"):
        raise reader.fail("no binary header, and no 'ContextDependency' as in a text file")
    return _copy_tree(reader)


def _copy_tree(reader: TokenReader) -> bytes:
    reader.expect("ContextDependency")
    width, central = reader.integer(), reader.integer()
    if not 0 <= central < width <= MAX_WIDTH:
        raise reader.fail(f"context width {width}, central position {central}")
    out = [b"ContextDependency ", int_bytes(width), int_bytes(central)]
    if reader.expect("ToPdf", "ToLength") == "ToLength":  # old trees
        out.append(b"ToLength ")
        _copy_map(reader, out, width)
        reader.expect("ToPdf")
    out.append(b"ToPdf ")
    pdfs = set(_copy_map(reader, out, width))
    if not pdfs or pdfs != set(range(len(pdfs))):
        raise reader.fail("the pdf-ids are not numbered from 0")
    reader.expect("EndContextDependency")
    if reader.rest().strip():
        raise reader.fail("more behind the end of the tree")
    out.append(b"EndContextDependency ")
    return b"".join(out)


def _copy_map(reader: TokenReader, out: list[bytes], width: int) -> list[int]:
    """Walk over an event map and append its binary form; returns the answers of its leaves."""
    answers = []
    pending = ["map"]
    depth = 0
    while pending:
        wanted = pending.pop()
        if wanted != "map":
            depth -= 1
            out.append(f"{reader.expect(wanted)} ".encode())
            continue
        kind = reader.expect("CE", "TE", "SE", "NULL")
        out.append(f"{kind} ".encode())
        if kind == "CE":
            answers.append(reader.integer())
            out.append(int_bytes(answers[-1]))
        elif kind == "TE":
            depth += 1
            out.append(int_bytes(_key(reader, width)))
            size = reader.unsigned()
            if size * _SMALLEST_MAP > len(reader.data) - reader.at:
                raise reader.fail(f"a table of {size}")
            reader.expect("(")
            out += [unsigned_bytes(size), b"( "]
            pending += [")", *["map"] * size]
        elif kind == "SE":
            depth += 1
            out.append(int_bytes(_key(reader, width)))
            values = reader.integers()
            if not values or any(a >= b for a, b in itertools.pairwise(values)):
                raise reader.fail("a question's values are none, or are not in order")
            out.append(int_vector(values))
            reader.expect("{")
            out.append(b"{ ")
            pending += ["}", "map", "map"]
        if depth > MAX_DEPTH:
            raise reader.fail(f"more than {MAX_DEPTH} questions, one in the other")
    return answers


def _key(reader: TokenReader, width: int) -> int:
    """What a table or a question asks for: a position in the context, or the pdf class."""
    key = reader.integer()
    if not PDF_CLASS <= key < width:
        raise reader.fail(f"a question about position {key} of a context of {width} phones")
    return key
