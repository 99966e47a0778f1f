"""Target texts: which ones an utterance can hold, and random ones."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from kaldi_uq.errors import AlignmentError, DataError
from kaldi_uq.io.files import read_integers
from kaldi_uq.io.kaldi_model import Topology
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.reading import text_lines

MAX_TARGET_WORDS = 5  # section 4.2 of the paper: a random length between 1 and 5


def read_pronunciations(lang: Lang) -> dict[str, list[tuple[int, ...]]]:
    """Word -> its pronunciations as phone-ids, from ``phones/align_lexicon.int``.

    Raises:
        DataError: the file is missing or malformed.
    """
    path = lang.path / "phones/align_lexicon.int"
    id_to_word = lang.id_to_word
    pronunciations: dict[str, list[tuple[int, ...]]] = {}
    for number, line in text_lines(path, hint="; utils/prepare_lang.sh makes it"):
        try:
            _, word, *phones = (int(value) for value in line.split())
            pronunciations.setdefault(id_to_word[word], []).append(tuple(phones))
        except (ValueError, KeyError):
            raise DataError(
                f"{path}:{number}: expected '<word-id> <word-id> <phone-id> ...' with ids of words.txt"
            ) from None
    return pronunciations


def min_word_frames(lang: Lang, topology: Topology) -> dict[str, int]:
    """The fewest frames that each word can last."""
    return {
        word: min(sum(topology.min_frames(p) for p in phones) for phones in prons)
        for word, prons in read_pronunciations(lang).items()
    }


def target_words(lang: Lang, topology: Topology) -> dict[str, int]:
    """The words that a random target may hold, and their shortest durations in frames: no symbols, no silence."""
    silence = set(read_integers(lang.path / "phones/silence.int"))
    prons = read_pronunciations(lang)
    frames = min_word_frames(lang, topology)
    return {
        word: frames[word]
        for word in prons
        if word != "<eps>" and word != lang.oov and not any(set(phones) <= silence for phones in prons[word])
    }


def random_target(
    utt: str, original: Sequence[str], num_frames: int, words: Mapping[str, int], *, seed: int, attempt: int = 0
) -> list[str]:
    """A random target text: 1 to 5 words, no longer than the audio can hold, and not the original text.

    Args:
        utt: makes the choice independent of the other utterances.
        original: the words that are spoken.
        num_frames: frames of the utterance.
        words: word -> its shortest duration in frames.
        seed: seed of the choice.
        attempt: another choice for the same utterance.

    Raises:
        AlignmentError: the utterance is too short for any other word.

    Source: section 4.2 of the paper.
    """
    rng = np.random.default_rng([seed, attempt, zlib.crc32(utt.encode())])
    names = sorted(words)
    short_enough = [w for w in names if words[w] <= num_frames and [w] != list(original)]
    if not short_enough:
        raise AlignmentError(
            f"utterance {utt!r}: {num_frames} frames are too few for any target word (the shortest takes "
            f"{min(words.values())}); leave it out of the attack set"
        )
    for _ in range(100):
        size = int(rng.integers(1, MAX_TARGET_WORDS + 1))
        target = [names[i] for i in rng.integers(0, len(names), size)]
        if sum(words[w] for w in target) <= num_frames and target != list(original):
            return target
    return [short_enough[int(rng.integers(len(short_enough)))]]


def check_target(utt: str, target: Sequence[str], num_frames: int, shortest: Mapping[str, int], where: str) -> None:
    """Refuse a target that the audio cannot hold.

    Raises:
        AlignmentError: names the utterance, what the target needs and what there is.
        DataError: the target is empty.
    """
    if not target:
        raise DataError(f"{where}: the target of utterance {utt!r} is empty")
    needed = sum(shortest.get(word, 1) for word in target)
    if needed > num_frames:
        raise AlignmentError(
            f"{where}: target {' '.join(target)!r} of utterance {utt!r} needs at least {needed} frames, "
            f"the audio has {num_frames}; choose a shorter target"
        )
