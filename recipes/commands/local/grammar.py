"""Random sentences of a grammar in a text file.

A line ``<name> = alternative | alternative`` says what a name stands for; an alternative is words and names.  A line
that begins with ``|`` goes on with the rule before it; ``#`` begins a comment.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from kaldi_uq.errors import DataError

START = "<sentence>"
_RULE = re.compile(r"(<[a-z ]+>)\s*=\s*(.*)")
_TOKEN = re.compile(r"<[a-z ]+>|[a-z']+")


class Grammar:
    """A grammar without recursion.

    Attributes:
        rules: name -> alternatives, each a tuple of words and names.

    Raises:
        DataError: a malformed line, a name without a rule, or a rule that leads back to itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rules: dict[str, list[tuple[str, ...]]] = {}
        name = ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            if found := _RULE.fullmatch(line):
                name, line = found.groups()
                if name in self.rules:
                    raise DataError(f"{path}:{number}: a second rule for {name}")
                self.rules[name] = []
            elif not (name and line.startswith("|")):
                raise DataError(f"{path}:{number}: expected '<name> = ...' or '| ...', found {line!r}")
            for text in filter(None, map(str.strip, line.split("|"))):
                if _TOKEN.sub("", text).strip():
                    raise DataError(f"{path}:{number}: expected words of a to z and <names>, found {text!r}")
                self.rules[name].append(tuple(_TOKEN.findall(text)))
        self._words: set[str] = set()
        self._check(START, ())

    def _check(self, name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise DataError(f"{self.path}: {name} leads back to itself: {' '.join((*above, name))}")
        if not self.rules.get(name):
            raise DataError(f"{self.path}: no rule for {name}" + (f", which {above[-1]} names" if above else ""))
        for token in (token for alternative in self.rules[name] for token in alternative):
            if token in self.rules or token.startswith("<"):
                self._check(token, (*above, name))
            else:
                self._words.add(token)

    @property
    def words(self) -> list[str]:
        """All words that a sentence can hold, sorted."""
        return sorted(self._words)

    def sentence(self, generator: np.random.Generator, name: str = START) -> list[str]:
        """Words of a random sentence: every alternative of a name is as likely as the others."""
        alternatives = self.rules[name]
        words: list[str] = []
        for token in alternatives[int(generator.integers(len(alternatives)))]:
            words += self.sentence(generator, token) if token in self.rules else [token]
        return words

    def sentences(self, count: int, generator: np.random.Generator, max_words: int = 10) -> list[tuple[str, ...]]:
        """Different random sentences, in a random order.

        Raises:
            DataError: the grammar does not have so many.
        """
        found: dict[tuple[str, ...], None] = {}
        for _ in range(100 * count):
            if len(found) == count:
                return list(found)
            words = tuple(self.sentence(generator))
            if len(words) <= max_words:
                found[words] = None
        raise DataError(f"{self.path}: {count} different sentences are more than the grammar gives easily")
