"""Random sentences of a grammar, such as the ``G.fst`` of a recipe: targets of an attack that mean something.

``GrammarSentences.sample`` takes the arguments of ``random_target``, which strings words together, and can replace it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kaldi_uq.errors import AlignmentError, DataError
from kaldi_uq.io.fst import FstArrays, read_fst_arrays
from kaldi_uq.io.fst_checks import Labels
from kaldi_uq.io.lang import RESERVED_WORDS, Lang

NUM_TRIES = 200  # number of sentences drawn for an utterance before it counts as too short


class GrammarSentences:
    """Random paths through a grammar, each arc by its probability.

    In a language model with back-off the probabilities of a state and of the back-off arc sum to more than 1; they are
    scaled to 1, so that backed-off words come a little too often.

    Args:
        grammar: acceptor of words, as ``G.fst``; its input labels are words, except ``#0`` and 0.
        id_to_word: integer -> word.
        max_words: largest number of words; longer paths are given up.
    """

    def __init__(self, grammar: FstArrays, id_to_word: Mapping[int, str], *, max_words: int = 40) -> None:
        if grammar.start < 0:
            raise ValueError("grammar must have a state, got an empty FST")
        self.grammar, self.max_words = grammar, max_words
        self.id_to_word = {i: word for i, word in id_to_word.items() if i and word not in RESERVED_WORDS}
        self._choices: dict[int, np.ndarray] = {}

    @classmethod
    def of_lang(cls, lang: Lang, *, max_words: int = 40) -> GrammarSentences:
        """The grammar of a language directory.

        Raises:
            DataError: ``G.fst`` is missing, damaged or empty.
        """
        path = Path(lang.path) / "G.fst"
        try:
            words = Labels(lang.words.values(), "words of words.txt")
            return cls(read_fst_arrays(path, inputs=words, outputs=words), lang.id_to_word, max_words=max_words)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None

    def sample(
        self,
        utt: str,
        original: Sequence[str],
        num_frames: int,
        words: Mapping[str, int],
        *,
        seed: int,
        attempt: int = 0,
    ) -> list[str]:
        """A random sentence that the audio can hold and that is not the original text.

        Args:
            utt: the utterance; its choice does not depend on other utterances.
            original: the words that are spoken.
            num_frames: number of frames of the utterance.
            words: word -> its shortest duration in frames; sentences with other words are not taken.
            seed: seed for the choice.
            attempt: number of the attempt; another one gives another choice for the same utterance.

        Raises:
            AlignmentError: no sentence was short enough.
        """
        rng = np.random.default_rng([seed, attempt, zlib.crc32(utt.encode())])
        shortest = 0
        for _ in range(NUM_TRIES):
            sentence = self.draw(rng)
            if not sentence or sentence == list(original) or any(word not in words for word in sentence):
                continue
            needed = sum(words[word] for word in sentence)
            if needed <= num_frames:
                return sentence
            shortest = min(shortest or needed, needed)
        raise AlignmentError(
            f"utterance {utt!r}: none of {NUM_TRIES} random sentences fits into its {num_frames} frames"
            + (f" (the shortest takes {shortest})" if shortest else ": no sentence has only words of the lexicon")
            + "; leave the utterance out of the attack set, or give targets with --target-text"
        )

    def draw(self, rng: np.random.Generator) -> list[str]:
        """One random sentence; empty if this draw led nowhere."""
        state, words = self.grammar.start, list[str]()
        for _ in range(4 * self.max_words):  # with room for arcs without a word
            limits = self._limits(state)
            if not len(limits):
                return []
            choice = int(np.searchsorted(limits, rng.uniform(0, limits[-1]), side="right"))
            arcs = self.grammar.arcs_of(state)
            if choice >= len(arcs):
                return words
            label = int(arcs["ilabel"][choice])
            if label in self.id_to_word:
                words.append(self.id_to_word[label])
                if len(words) > self.max_words:
                    return []
            state = int(arcs["nextstate"][choice])
        return []

    def _limits(self, state: int) -> np.ndarray:
        """Cumulative probabilities of a state's arcs and, last, of ending there."""
        if state not in self._choices:
            costs = self.grammar.arcs_of(state)["weight"].astype(np.float64)
            final = float(self.grammar.finals[state])
            costs = np.append(costs, final) if np.isfinite(final) else costs
            self._choices[state] = np.cumsum(np.exp(costs.min() - costs)) if len(costs) else costs
        return self._choices[state]
