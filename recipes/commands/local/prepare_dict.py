#!/usr/bin/env python3
"""Write the dictionary directory of the commands recipe, from the synthesiser's own phonemes.

espeak-ng says, in the phonetic alphabet, how each training sentence is spoken in the accent of its speaker.  These
symbols are mapped to 40 English phones (table PHONES), the sentence's phones are aligned with those of its words spoken
alone, and what falls to a word is a pronunciation of it: so the weak forms of running speech are in the lexicon too.
Pronunciations heard in at least a tenth of a word's occurrences are kept, four at most.  Words that no training
sentence holds get those of the word alone.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from dictionary import Phones, write_dict
from grammar import Grammar
from prepare_synth import ACCENTS, synthesizer

from kaldi_uq.audio.synth import Voice
from kaldi_uq.cli.parser import OneLineParser, ParagraphFormatter
from kaldi_uq.errors import DataError, KaldiUqError
from kaldi_uq.io.datadir import read_table

SILENCE_WORD, SILENCE_PHONE = "<SIL>", "sil"
MIN_SHARE, MAX_PRONUNCIATIONS = 0.1, 4

# Phonetic alphabet -> phones, the longest match first.  Stress is dropped; the accents' vowels fall together where an
# English lexicon has one name for them, and the acoustic models learn the difference.
PHONES = {
    "p": "p", "b": "b", "t": "t", "d": "d", "k": "k", "ɡ": "g", "f": "f", "v": "v", "s": "s", "z": "z", "h": "h",
    "m": "m", "n": "n", "ŋ": "ng", "l": "l", "w": "w", "j": "y", "ɹ": "r", "r": "r", "ʃ": "sh", "ʒ": "zh", "θ": "th",
    "ð": "dh", "tʃ": "ch", "dʒ": "jh", "ɾ": "dx", "ʔ": "t", "t̪": "t", "ʍ": "w", "n̩": "ah n", "l̩": "ah l", "ʲ": "y",
    "iː": "iy", "i": "iy", "ɪ": "ih", "ᵻ": "ih", "ɛ": "eh", "e": "eh", "æ": "ae", "a": "ae", "ɑː": "aa", "ɑ": "aa",
    "aː": "aa", "a:": "aa", "aa": "aa", "ɒ": "ao", "ɔː": "ao", "ɔ": "ao", "o": "ao", "ʌ": "ah", "ɐ": "ah", "ə": "ah",
    "ɜː": "er", "ɜ": "er", "ɚ": "er", "əɪ": "er", "eɪ": "ey", "eː": "ey", "aɪ": "ay", "oʊ": "ow", "əʊ": "ow",
    "oː": "ow", "ʌʊ": "ow", "aʊ": "aw", "æʊ": "aw", "ʌʉ": "aw", "ɔɪ": "oy", "oɪ": "oy", "uː": "uw", "u": "uw",
    "ʉː": "uw", "ʉ": "uw", "əu": "uw", "ʊ": "uh", "ɑə": "aa", "ɔə": "ao", "oə": "ao", "iə": "iy ah", "eə": "eh ah",
    "ɛə": "eh ah", "ʊə": "uh ah",
}  # fmt: skip
_LONGEST = max(map(len, PHONES))
_IGNORED = "ˈˌː: "


def phones_of(ipa: str) -> Phones:
    """Phones of a text in the phonetic alphabet.

    Raises:
        DataError: a symbol that the table does not have.

    >>> phones_of("tˈɜːn ɒn")
    ('t', 'er', 'n', 'ao', 'n')
    """
    found: list[str] = []
    ipa = ipa.replace("ˈ", "").replace("ˌ", "")
    while ipa:
        size = next((n for n in range(_LONGEST, 0, -1) if ipa[:n] in PHONES), 0)
        if size:
            found += PHONES[ipa[:size]].split()
        elif ipa[0] not in _IGNORED:
            raise DataError(f"no phone for {ipa[0]!r} (U+{ord(ipa[0]):04X}) in {ipa!r}: add it to PHONES")
        ipa = ipa[max(size, 1) :]
    return tuple(found)


@cache
def spoken(text: str, accent: str) -> Phones:
    """Phones of a text in an accent."""
    return phones_of(synthesizer().phonemes(text, voice=Voice(accent=accent), ipa=True))


def divide(words: Sequence[Phones], sentence: Phones) -> list[Phones]:
    """Divide the phones of a sentence among its words, whose phones alone are known, with the fewest differences.

    >>> divide([("t", "uw"), ("n", "ay", "n")], ("t", "ah", "n", "ay", "n"))
    [('t', 'ah'), ('n', 'ay', 'n')]
    """
    # Edit distance, a phone of the words at a time: to each prefix of the sentence, cost and the word of each phone
    best: list[tuple[int, tuple[int, ...]]] = [(j, (0,) * j) for j in range(len(sentence) + 1)]
    for number, phone in ((number, phone) for number, phones in enumerate(words) for phone in phones):
        above, best = best, [(best[0][0] + 1, ())]
        for j, other in enumerate(sentence):
            choices = (
                (above[j][0] + (phone != other), (*above[j][1], number)),  # the two belong together
                (above[j + 1][0] + 1, above[j + 1][1]),  # the word's phone is not spoken
                (best[j][0] + 1, (*best[j][1], number)),  # what is spoken is no phone of the word
            )
            best.append(min(choices, key=lambda choice: choice[0]))
    owners = best[-1][1]
    return [tuple(p for p, owner in zip(sentence, owners, strict=True) if owner == n) for n in range(len(words))]


def pronunciations(sentences: Iterable[tuple[str, str]], words: Sequence[str]) -> dict[str, list[Phones]]:
    """Word -> its pronunciations, the most frequent first.

    Args:
        sentences: (text, accent) pairs.
        words: the vocabulary.
    """
    heard: dict[str, Counter[Phones]] = {word: Counter() for word in words}
    for text, accent in sentences:
        parts = divide([spoken(word, accent) for word in text.split()], spoken(text, accent))
        for word, phones in zip(text.split(), parts, strict=True):
            if phones:
                heard[word][phones] += 1
    for word, counts in heard.items():
        if not counts:
            counts.update(spoken(word, accent) for accent in ACCENTS)
    return {
        word: [
            phones
            for phones, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_PRONUNCIATIONS]
            if count >= MIN_SHARE * counts.total()
        ]
        for word, counts in heard.items()
    }


def main() -> int:
    """Entry point; returns the exit status."""
    parser = OneLineParser(description=__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("--max-sentences", type=int, default=1500, help="of the training text to listen to [1500]")
    parser.add_argument("data_dir", type=Path, metavar="TRAIN-DIR")
    parser.add_argument("spk2accent", type=Path, metavar="SPK2ACCENT", help="accent of each speaker")
    parser.add_argument("dict_dir", type=Path, metavar="DICT-DIR")
    args = parser.parse_args()
    try:
        text, utt2spk = read_table(args.data_dir / "text"), read_table(args.data_dir / "utt2spk")
        accents = read_table(args.spk2accent)
        chosen = sorted(text)[:: max(1, len(text) // args.max_sentences)]
        words = Grammar(Path(__file__).with_name("grammar.txt")).words
        lexicon = pronunciations(((text[utt], accents[utt2spk[utt]]) for utt in chosen), words)
        write_dict(lexicon, {SILENCE_WORD: SILENCE_PHONE}, args.dict_dir)
    except (KaldiUqError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
