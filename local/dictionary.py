"""The dictionary directory of a lexicon.

Imported by the prepare_*.py scripts of the recipes that have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kaldi_uq.io.files import write_text

Phones = tuple[str, ...]


def write_dict(lexicon: Mapping[str, Sequence[Phones]], silences: Mapping[str, str], out: Path) -> None:
    """Write the directory and print its size.

    Args:
        lexicon: word -> its pronunciations.
        silences: word that is no speech -> its phone; the first phone is the optional silence between words.
        out: the directory.
    """
    phones = sorted({phone for prons in lexicon.values() for pron in prons for phone in pron})
    silence = list(dict.fromkeys(silences.values()))
    write_text(out / "silence_phones.txt", "".join(f"{phone}\n" for phone in silence))
    write_text(out / "optional_silence.txt", f"{silence[0]}\n")
    write_text(out / "nonsilence_phones.txt", "".join(f"{phone}\n" for phone in phones))
    write_text(out / "extra_questions.txt", "")
    lines = [f"{word} {phone}" for word, phone in silences.items()]
    lines += [f"{word} {' '.join(pron)}" for word in sorted(lexicon) for pron in lexicon[word]]
    write_text(out / "lexicon.txt", "\n".join(lines) + "\n")
    entries = len(lines) - len(silences)
    print(f"{out}: {len(lexicon)} words, {entries / len(lexicon):.2f} pronunciations a word, {len(phones)} phones")
