"""How far a long computation is: a bar on a terminal, and in a log file now and then a line."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

LOG_EVERY_S = 60.0  # seconds between two lines of a log

ItemT = TypeVar("ItemT")


class Progress:
    """Counts what is done, to be used in a ``with`` statement.

    Standard error says which it is: a terminal gets a bar, anything else no character of one.

    Attributes:
        total: how many there are, which may be set late; ``None`` if it is not known.

    Args:
        desc: what is done.
        unit: what is counted.
        total: how many there are.
        quiet: say nothing, as for a few.
    """

    def __init__(self, desc: str, unit: str, total: int | None = None, *, quiet: bool = False) -> None:
        self.total = total
        self._desc, self._unit, self._quiet = desc, unit, quiet
        self._done, self._said = 0, time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=self._desc, unit=self._unit, total=self.total, mininterval=0.5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1) -> None:
        """Count some more."""
        self._done += count
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update(count)
        elif not self._quiet and time.monotonic() - self._said >= LOG_EVERY_S:
            self._said = time.monotonic()
            of = "" if self.total is None else f" of {self.total}"
            logging.getLogger(__name__).info("%s: %d%s %s", self._desc, self._done, of, self._unit)


def progressing(items: Iterable[ItemT], desc: str, unit: str, total: int | None = None) -> Iterator[ItemT]:
    """The items, one after the other, counted when they are done with."""
    with Progress(desc, unit, total) as progress:
        for item in items:
            yield item
            progress.update()
