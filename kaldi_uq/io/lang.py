"""Symbol tables and language directories (``data/lang``)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir, read_table
from kaldi_uq.io.files import atomic_write, read_integers, read_lines

RESERVED_WORDS = ("<eps>", "#0", "<s>", "</s>")  # symbols of the FSTs, in words.txt and in no lexicon


def read_symbols(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read ``words.txt`` or ``phones.txt``: symbol -> integer.

    Raises:
        DataError: missing, or a line that is not ``symbol integer``.
    """
    table = read_table(path, check_sorted=False)
    try:
        return {symbol: int(value) for symbol, value in table.items()}
    except ValueError as error:
        raise DataError(f"{path}: expected '<symbol> <integer>' on each line ({error})") from None


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
        words = read_symbols(path / "words.txt")
        return cls(
            path=path,
            words=words,
            phones=read_symbols(path / "phones.txt"),
            disambig=disambig,
            oov=_oov(path, words),
        )

    @property
    def id_to_word(self) -> dict[int, str]:
        """Integer -> word."""
        return {index: word for word, index in self.words.items()}

    def transcripts(self, data: DataDir, *, map_oov: bool = False) -> dict[str, list[int]]:
        """Integers of the words of every utterance.

        Args:
            data: the directory.
            map_oov: map unknown words to the oov word, as Kaldi's recipes do.

        Raises:
            DataError: a word is not in the lexicon; names the file and the utterance.
        """
        text = data.path / "text"
        return {
            utt: self.word_ids(data.words(utt), where=f"{text}: utterance {utt!r}", map_oov=map_oov)
            for utt in data.utts
        }

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
            if word in self.words and word not in RESERVED_WORDS:
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
            if name == "oov.txt":
                return content
            found = [word for word, number in words.items() if content == str(number)]
            if not found:
                raise DataError(f"{path / name}: expected the integer of a word of words.txt, found {content!r:.60}")
            return found[0]
    return None
