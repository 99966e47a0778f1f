"""Symbol tables and language directories (``data/lang``)."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir, read_table
from kaldi_uq.io.files import atomic_write, read_integers, read_lines

log = logging.getLogger(__name__)

MAX_LABEL = 2**31 - 1  # of an arc in OpenFst's files
RESERVED_WORDS = ("<eps>", "#0", "<s>", "</s>")  # symbols of the FSTs, in words.txt and in no lexicon


def read_symbols(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read ``words.txt`` or ``phones.txt``: symbol -> integer.

    Raises:
        DataError: missing, or a line that is not ``symbol integer``; an integer below 0, beyond the labels of an FST,
            or of two symbols.
    """
    table = read_table(path, check_sorted=False)
    symbols: dict[int, str] = {}
    for symbol, value in table.items():
        number = int(value) if value.isascii() and value.isdigit() and len(value) <= len(str(MAX_LABEL)) else -1
        if not 0 <= number <= MAX_LABEL:
            raise DataError(
                f"{path}: expected '<symbol> <integer>' on each line, found {value!r:.40} after {symbol!r:.40}"
            )
        if number in symbols:
            raise DataError(
                f"{path}: {symbol!r:.40} and {symbols[number]!r:.40} have the same integer {number}; make it again"
            )
        symbols[number] = symbol
    return {symbol: number for number, symbol in symbols.items()}


def write_symbols(path: str | os.PathLike[str], symbols: Iterable[str]) -> dict[str, int]:
    """Write a symbol table, numbered from 0, and return it."""
    table = {symbol: index for index, symbol in enumerate(symbols)}
    with atomic_write(path) as stream:
        stream.writelines(f"{symbol} {index}\n" for symbol, index in table.items())
    return table


@dataclass(frozen=True)
class Lang:
    """What alignment and graph building need of a language directory.

    Attributes:
        path: the directory.
        words, phones: symbol -> integer.
        disambig: integers of the disambiguation symbols among the phones (``phones/disambig.int``).
        oov: the word that stands for words outside the lexicon, of ``oov.txt`` or ``oov.int``; ``None`` without them.
    """

    path: Path
    words: dict[str, int]
    phones: dict[str, int]
    disambig: tuple[int, ...]
    oov: str | None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Lang:
        """Read a directory.

        Raises:
            DataError: a file is missing or malformed.
        """
        path = Path(path)
        for name in ("words.txt", "phones.txt", "topo", "L.fst", "phones/disambig.int"):
            if not (path / name).is_file():
                raise DataError(f"{path / name}: no such file; utils/prepare_lang.sh makes it")
        disambig = tuple(read_integers(path / "phones/disambig.int"))
        words, phones = (read_symbols(path / name) for name in ("words.txt", "phones.txt"))
        unknown = sorted(set(disambig) - set(phones.values()))
        if unknown:
            raise DataError(f"{path / 'phones/disambig.int'}: {unknown[0]} is not in phones.txt; make both again")
        return cls(
            path=path,
            words=words,
            phones=phones,
            disambig=disambig,
            oov=_oov(path, words),
        )

    @property
    def id_to_word(self) -> dict[int, str]:
        """Integer -> word."""
        return {index: word for word, index in self.words.items()}

    def check_phones(self, model_dir: str | os.PathLike[str]) -> None:
        """Refuse a system of other phones, if its directory has the ``phones.txt`` that Kaldi's steps copy there.

        Its alignments and pdfs would be read as those of other phones.  Symbols for disambiguation may differ: with
        another lexicon of the same phones there are more of them, or fewer.

        Raises:
            DataError: names the first phone that has another integer in either table.
        """
        path = Path(model_dir) / "phones.txt"
        if not path.is_file():
            return
        ours, theirs = self.phones, read_symbols(path)
        both = (phone for phone in {**ours, **theirs} if not phone.startswith("#"))
        for phone in both:
            if ours.get(phone) != theirs.get(phone):
                found, expected = (table.get(phone, "missing") for table in (ours, theirs))
                raise DataError(
                    f"{self.path / 'phones.txt'}: {phone!r:.60} is {found}, in {path} it is {expected}; take the "
                    "language directory that this system was trained with, or one that was made from it"
                )

    def transcripts(self, data: DataDir, *, map_oov: bool = False) -> dict[str, list[int]]:
        """Integers of the words of every utterance.

        Args:
            data: the directory.
            map_oov: map unknown words to the oov word, as Kaldi's recipes do, with a warning that names them.

        Raises:
            DataError: a word is not in the lexicon, and not mapped; names the file and the utterance.
        """
        text = data.path / "text"
        if map_oov and self.oov is not None:
            self._warn_of_unknown(Counter(word for utt in data.utts for word in data.words(utt)), text)
        return {
            utt: self.word_ids(data.words(utt), where=f"{text}: utterance {utt!r}", map_oov=map_oov)
            for utt in data.utts
        }

    def _knows(self, word: str) -> bool:
        return word in self.words and word not in RESERVED_WORDS

    def _warn_of_unknown(self, counts: Counter[str], text: Path) -> None:
        unknown = {word: count for word, count in counts.most_common() if not self._knows(word)}
        if not unknown:
            return
        names = ", ".join(f"{word} ({count})" for word, count in itertools.islice(unknown.items(), 10))
        names += ", ..." if len(unknown) > 10 else ""
        log.warning(
            "%s: %d of %d words are not in %s and read as %s: %s",
            text,
            sum(unknown.values()),
            counts.total(),
            self.path / "words.txt",
            self.oov,
            names,
        )

    def word_ids(self, words: Sequence[str], *, where: str, map_oov: bool = False) -> list[int]:
        """Integers of a word sequence.

        Args:
            words: the words.
            where: file and utterance, for the message.
            map_oov: map unknown words to the oov word, as Kaldi's ``sym2int.pl --map-oov`` does.

        Raises:
            DataError: a word is not in the lexicon.
        """
        ids = []
        for word in words:
            if self._knows(word):
                ids.append(self.words[word])
            elif map_oov and self.oov is not None:
                ids.append(self.words[self.oov])
            else:
                known = [w for w in self.words if w not in RESERVED_WORDS and w != self.oov]
                few = f", which knows {', '.join(known)}" if len(known) <= 20 else ""
                raise DataError(
                    f"{where}: word {word!r:.60} is not in {self.path / 'words.txt'}{few}; correct the text or the "
                    "lexicon"
                )
        return ids


def _oov(path: Path, words: dict[str, int]) -> str | None:
    """The word for what is not in the lexicon."""
    for name in ("oov.txt", "oov.int"):
        if (path / name).is_file():
            content = " ".join(line for _, line in read_lines(path / name))
            if name == "oov.txt" and content in words:
                return content
            found = [word for word, number in words.items() if name == "oov.int" and content == str(number)]
            if not found:
                expected = "a word" if name == "oov.txt" else "the integer of a word"
                raise DataError(f"{path / name}: expected {expected} of words.txt, found {content!r:.60}")
            return found[0]
    return None
