"""Named parts: attacks, constraints, step rules, losses.  A part enters next to its own code, and nowhere else."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from kaldi_uq.errors import did_you_mean

PartT = TypeVar("PartT")


class Registry(Generic[PartT]):
    """Parts of one sort by their names.

    Args:
        what: the sort, for messages, such as "attack".
        package: the package whose modules register parts; they are imported when a name is first looked up.

    >>> fruit: Registry[type] = Registry("fruit")
    >>> @fruit.register("apple")
    ... class Apple: ...
    >>> fruit.get("apple").__name__
    'Apple'
    >>> fruit.get("pear")
    Traceback (most recent call last):
    ValueError: there is no fruit 'pear'; there are apple
    """

    def __init__(self, what: str, package: str = "") -> None:
        self._what, self._package = what, package
        self._parts: dict[str, PartT] = {}

    def register(self, name: str) -> Callable[[PartT], PartT]:
        """Decorator that gives a part its name; a name that is taken already is an error."""

        def enter(part: PartT) -> PartT:
            known = self._parts.setdefault(name, part)
            # the same part again, where its module is imported twice
            if known is not part and _place(known) != _place(part):
                raise ValueError(f"there is already a {self._what} {name!r}: choose another name")
            self._parts[name] = part
            return part

        return enter

    def get(self, name: str) -> PartT:
        """The part of a name.

        Raises:
            ValueError: there is none; the message lists those there are.
        """
        if name not in self._parts:
            names = self.names()
            if name not in self._parts:
                near = did_you_mean(name, names)
                raise ValueError(f"there is no {self._what} {name!r:.60}; there are {', '.join(names)}{near}")
        return self._parts[name]

    def names(self) -> tuple[str, ...]:
        """All names, in alphabetical order."""
        self._import_package()
        return tuple(sorted(self._parts))

    def _import_package(self) -> None:
        if self._package:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._package = ""


def _place(part: Any) -> tuple[str, str]:
    return getattr(part, "__module__", ""), getattr(part, "__qualname__", repr(part))
