#!/usr/bin/env python3
"""Write the dictionary directory of the digit recipe.

--lexicon words: each word is one phone, a whole-word HMM with as many states as the paper's recogniser has (95 with
"oh").  --lexicon phones: English phones, 3 states each, 5 for silence.  Only words that the training text holds are
included, so that a corpus without "oh" gets no HMM that was never trained.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kaldi_uq.cli.parser import OneLineParser, ParagraphFormatter
from kaldi_uq.errors import DataError, KaldiUqError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.files import write_text

SILENCE_WORD, SILENCE_PHONE = "<SIL>", "sil"

# Emitting states of the whole-word HMMs; with one state of silence, 95 in all (paper, section 4.1).
NUM_STATES = {
    "oh": 6, "zero": 10, "one": 10, "two": 6, "three": 9, "four": 9, "five": 9, "six": 10, "seven": 10, "eight": 6,
    "nine": 9,
}  # fmt: skip

PRONUNCIATIONS = {
    "oh": "ow", "zero": "z ih r ow", "one": "w ah n", "two": "t uw", "three": "th r iy", "four": "f ao r",
    "five": "f ay v", "six": "s ih k s", "seven": "s eh v ah n", "eight": "ey t", "nine": "n ay n",
}  # fmt: skip


def write_dict(words: list[str], lexicon: str, out: Path) -> None:
    """Write the directory for these words."""
    if lexicon == "words":
        pronunciations = {word: word for word in words}
        states = {SILENCE_PHONE: 1} | {word: NUM_STATES[word] for word in words}
        write_text(out / "num_states.txt", "".join(f"{phone} {count}\n" for phone, count in states.items()))
    else:
        pronunciations = {word: PRONUNCIATIONS[word] for word in words}
        (out / "num_states.txt").unlink(missing_ok=True)
    phones = list(dict.fromkeys(phone for word in words for phone in pronunciations[word].split()))
    write_text(out / "silence_phones.txt", f"{SILENCE_PHONE}\n")
    write_text(out / "optional_silence.txt", f"{SILENCE_PHONE}\n")
    write_text(out / "nonsilence_phones.txt", "".join(f"{phone}\n" for phone in sorted(phones)))
    write_text(out / "extra_questions.txt", "")
    write_text(out / "words.txt", "".join(f"{word}\n" for word in words))
    lines = [f"{SILENCE_WORD} {SILENCE_PHONE}", *(f"{word} {pronunciations[word]}" for word in words)]
    write_text(out / "lexicon.txt", "\n".join(lines) + "\n")


def words_of(text_path: Path) -> list[str]:
    """The digits that a text holds, sorted.

    Raises:
        DataError: a word that is not a digit; the message names the line.
    """
    found = set()
    for number, (utt, text) in enumerate(read_table(text_path).items(), 1):
        for word in text.split():
            if word not in NUM_STATES:
                raise DataError(
                    f"{text_path}:{number}: utterance {utt!r}: word {word!r} is not in the lexicon, which has "
                    f"{' '.join(NUM_STATES)}; correct the text"
                )
            found.add(word)
    return sorted(found)


def main() -> int:
    parser = OneLineParser(description=__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("--lexicon", choices=("words", "phones"), default="words", help="[words]")
    parser.add_argument("text", type=Path, metavar="TRAINING-TEXT")
    parser.add_argument("dict_dir", type=Path, metavar="DICT-DIR")
    args = parser.parse_args()
    try:
        write_dict(words_of(args.text), args.lexicon, args.dict_dir)
    except (KaldiUqError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
