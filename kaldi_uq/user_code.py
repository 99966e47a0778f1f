"""Code of the user's own, which a command runs because its command line names it: ``FILE.py:NAME``.

Never call this with a name that comes from a data or a model file: importing a file runs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from kaldi_uq.errors import UsageError

# What a mistake in somebody's code raises.  Errors of this package pass through, as they say what is wrong themselves.
_MISTAKES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError,
)  # fmt: skip
_PREFIX = "_user_code_"  # of the modules' names


def is_any_loaded() -> bool:
    """Whether this process has run such code."""
    return any(name.startswith(_PREFIX) for name in sys.modules)


def split_name(text: str) -> tuple[Path, str]:
    """The file and the name of ``FILE.py:NAME``.

    Raises:
        UsageError: the text has another form, or there is no such file.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not name.isidentifier():
        raise UsageError(f"expected FILE.py:NAME, got {text!r}")
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    return path, name


def load_object(text: str) -> Any:
    """Import a Python file that the user names, and take an object out of it.

    The file is imported once, unless it changes; it can import the files beside it.

    Args:
        text: ``FILE.py:NAME``.

    Raises:
        UsageError: no such file, an import that fails, or no such name in the file.
    """
    path, name = split_name(text)
    module = _import(path)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise UsageError(f"{path}: there is no {name!r} in it; it defines {', '.join(own) or 'nothing'}")
    return getattr(module, name)


@contextlib.contextmanager
def mistakes_named(what: str) -> Iterator[None]:
    """Turn a mistake in the user's code into one line: what failed, with which error, and where.

    Args:
        what: noun that the message begins with.

    Raises:
        UsageError: the code in the block raised an error of Python's or PyTorch's.
    """
    try:
        yield
    except _MISTAKES as error:
        message = " ".join(str(error).split())
        raise UsageError(f"{what} failed with {type(error).__name__}: {message}{_place(error)}") from error


def _import(path: Path) -> ModuleType:
    place = path.resolve()
    key = hashlib.sha256(str(place).encode() + place.read_bytes()).hexdigest()[:12]  # a file that changes is read again
    name = f"{_PREFIX}{key}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None and spec.loader is not None  # of a file that ends in .py
    module = importlib.util.module_from_spec(spec)
    if str(place.parent) not in sys.path:
        sys.path.append(str(place.parent))  # last, so that a neighbour hides no installed package
    sys.modules[name] = module
    try:
        with mistakes_named(f"{path}: the import"):
            spec.loader.exec_module(module)
    except UsageError:
        del sys.modules[name]
        raise
    return module


def _place(error: BaseException) -> str:
    """The last line of the user's files that the error went through."""
    files = {getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if _PREFIX in name}
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
