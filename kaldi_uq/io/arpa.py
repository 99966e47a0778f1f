"""ARPA files of backoff n-gram models, plain or gzipped."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import atomic_write
from kaldi_uq.io.reading import text_lines

BEGIN, END = "<s>", "</s>"


@dataclass(frozen=True)
class NgramModel:
    """A backoff model of words.

    Attributes:
        orders: one table for each order: n-gram -> (log10 probability, log10 backoff weight or 0).
    """

    orders: tuple[dict[tuple[str, ...], tuple[float, float]], ...]

    def log10_prob(self, words: tuple[str, ...]) -> float:
        """log10 P(last word | the others); ``-inf`` for a word that the model does not know."""
        words = words[-len(self.orders) :]
        if words in self.orders[len(words) - 1]:
            return self.orders[len(words) - 1][words][0]
        if len(words) == 1:
            return float("-inf")
        history = words[:-1]
        backoff = self.orders[len(history) - 1].get(history, (0.0, 0.0))[1]
        return backoff + self.log10_prob(words[1:])


def read_arpa(path: str | os.PathLike[str]) -> NgramModel:
    """Read an ARPA file.

    Raises:
        DataError: missing, malformed, or cut off; names the line.
    """
    return _parse(_Lines(Path(path)))


class _Lines:
    """The lines that are not empty, and the place of the current one for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        for number, line in text_lines(self._path):
            self._number = number
            if line.strip():
                yield line.strip()

    def fail(self, message: str) -> DataError:
        return DataError(f"{self._path}:{self._number}: {message}")


def _parse(lines: _Lines) -> NgramModel:
    counts: list[int] = []
    orders: list[dict[tuple[str, ...], tuple[float, float]]] = []
    section = -1  # -1: before \data\; 0: the counts; n: the n-grams
    for line in lines:
        if section == -1:
            section = 0 if line == "\\data\\" else -1  # everything before it is a comment
        elif line == "\\end\\":
            orders += [{}] * (len(counts) - len(orders))  # an order without n-grams may have no section
            if [len(order) for order in orders] != counts:
                found = ", ".join(str(len(order)) for order in orders)
                raise lines.fail(f"the header promises {', '.join(map(str, counts))} n-grams, found {found}")
            while orders and not orders[-1]:  # SRILM writes 'ngram 3=0' where all trigrams were pruned
                orders.pop()
            if not orders or not all(orders):
                found = ", ".join(map(str, counts)) or "no"
                raise lines.fail(f"the model has {found} n-grams, expected some of every order")
            return NgramModel(tuple(orders))
        elif section == 0 and line.startswith("ngram "):
            order, equals, count = line.removeprefix("ngram ").partition("=")
            if not equals or order.strip() != str(len(counts) + 1) or not re.fullmatch("[0-9]{1,18}", count.strip()):
                raise lines.fail(f"expected 'ngram {len(counts) + 1}=<count>', found {line!r}")
            counts.append(int(count))
        elif line.startswith("\\"):
            section += 1
            if line != f"\\{section}-grams:" or section > len(counts):
                raise lines.fail(f"expected '\\{section}-grams:' of {len(counts)} orders or '\\end\\', found {line!r}")
            orders.append({})
        elif section == 0:
            raise lines.fail(f"expected 'ngram {len(counts) + 1}=<count>' or '\\1-grams:', found {line!r}")
        else:
            fields = line.split()
            try:
                values = float(fields[0]), float(fields[section + 1]) if len(fields) > section + 1 else 0.0
            except ValueError:
                values = math.nan, 0.0
            if not section + 1 <= len(fields) <= section + 2 or any(map(math.isnan, values)) or math.inf in values:
                raise lines.fail(f"expected '<log10 probability> {'<word> ' * section}[<backoff>]', found {line!r}")
            words = tuple(fields[1 : section + 1])
            if words in orders[-1]:
                raise lines.fail(f"n-gram {' '.join(words)!r} stands twice")
            orders[-1][words] = values
    raise lines.fail("the file ends before '\\end\\'" if section >= 0 else "no line '\\data\\'")


def write_arpa(path: str | os.PathLike[str], model: NgramModel) -> None:
    """Write an ARPA file, n-grams sorted."""
    with atomic_write(path) as stream:
        stream.write("\\data\\\n")
        for order, ngrams in enumerate(model.orders, 1):
            stream.write(f"ngram {order}={len(ngrams)}\n")
        for order, ngrams in enumerate(model.orders, 1):
            stream.write(f"\n\\{order}-grams:\n")
            for words, (log_prob, backoff) in sorted(ngrams.items()):
                tail = f"\t{backoff:.6f}" if order < len(model.orders) and words[-1] != END else ""
                stream.write(f"{log_prob:.6f}\t{' '.join(words)}{tail}\n")
        stream.write("\n\\end\\\n")
