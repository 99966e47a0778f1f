"""Word errors of lattices over a range of language model weights and word insertion penalties, as Kaldi's score.sh.

A decoding directory gets ``wer_<lmwt>_<penalty>`` for each pair, and in ``scoring_kaldi`` the reference
(``test_filt.txt``), the texts (``penalty_<penalty>/<lmwt>.txt``) and the best of the rates (``best_wer``).  The one
difference from Kaldi: an utterance without a lattice counts as one in which no word was found, and is not passed over.

Source: Kaldi ``egs/wsj/s5/steps/scoring/score_kaldi_wer.sh``, ``src/bin/compute-wer.cc``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import write_table
from kaldi_uq.io.files import write_text
from kaldi_uq.io.lattice import Lattice
from kaldi_uq.lattice.paths import best_paths
from kaldi_uq.results.word_errors import ErrorRate, score_texts

FOLDER = "scoring_kaldi"
Weighting = tuple[int, str]  # language model weight, and word insertion penalty as the user writes it
Texts = dict[str, str]  # utt -> words


@dataclass(frozen=True)
class Scores:
    """Word errors of one weighting.

    Attributes:
        rate: summed over the utterances.
        wrong: utterances with an error.
        missing: utterances without a lattice.
    """

    rate: ErrorRate
    wrong: int
    missing: int

    def text(self) -> str:
        """What ``compute-wer`` prints.

        >>> print(Scores(ErrorRate(1, 0, 2, 10, 4), 2, 0).text(), end="")
        %WER 30.00 [ 3 / 10, 1 ins, 0 del, 2 sub ]
        %SER 50.00 [ 2 / 4 ]
        Scored 4 sentences, 0 not present in hyp.
        """
        num = self.rate.num_utts
        sentences = f"%SER {100 * self.wrong / num:.2f} [ {self.wrong} / {num} ]"
        return f"{self.rate.kaldi_line()}\n{sentences}\nScored {num} sentences, {self.missing} not present in hyp.\n"


def weightings(min_lmwt: int, max_lmwt: int, penalties: Sequence[str]) -> list[Weighting]:
    """All pairs, in the order in which the first of equally good ones is the best."""
    return [(lmwt, penalty) for penalty in penalties for lmwt in range(min_lmwt, max_lmwt + 1)]


def rescored(
    lattices: Iterable[tuple[str, Lattice]], pairs: Sequence[Weighting], id_to_word: Mapping[int, str]
) -> dict[Weighting, Texts]:
    """The best words of every lattice under every weighting; the acoustic costs are divided by the weight.

    Args:
        lattices: (utt, lattice) with unscaled costs; one at a time is in memory.
        pairs: the weightings.
        id_to_word: integer -> word.

    Raises:
        DataError: a word that the table lacks.
    """
    weights = [(1.0, 1.0 / lmwt, float(penalty)) for lmwt, penalty in pairs]
    found: dict[Weighting, Texts] = {pair: {} for pair in pairs}
    for utt, lattice in lattices:
        for pair, path in zip(pairs, best_paths(lattice, weights), strict=True):
            words = path.words if path else ()
            unknown = [word for word in words if word not in id_to_word]
            if unknown:
                raise DataError(f"utterance {utt!r:.60}: its lattice has word {unknown[0]}, which words.txt lacks")
            found[pair][utt] = " ".join(id_to_word[word] for word in words)
    return found


def scores_of(refs: Mapping[str, str], hyps: Mapping[str, str]) -> Scores:
    """Errors of texts; an utterance that is missing in ``hyps`` has no words."""
    total, by_utt = score_texts(refs, {utt: hyps.get(utt, "") for utt in refs})
    wrong = sum(rate.errors > 0 for rate in by_utt.values())
    return Scores(total, wrong, sum(utt not in hyps for utt in refs))


def write_scores(directory: Path, refs: Mapping[str, str], found: Mapping[Weighting, Texts]) -> str:
    """Write the files of this module; those of an earlier scoring go.

    Args:
        directory: the decoding directory.
        refs: reference text of each utterance.
        found: what :func:`rescored` gives.

    Returns:
        the line of ``best_wer``: the best rate, and the file that it is from.
    """
    for old in directory.glob("wer_*_*"):
        old.unlink()
    write_table(directory / FOLDER / "test_filt.txt", dict(refs))
    scores = {}
    for (lmwt, penalty), texts in found.items():
        write_table(directory / FOLDER / f"penalty_{penalty}" / f"{lmwt}.txt", texts)
        scores[directory / f"wer_{lmwt}_{penalty}"] = scores_of(refs, texts)
    for path, score in scores.items():
        write_text(path, score.text())
    best = min(scores, key=lambda path: scores[path].rate.errors)
    line = f"{scores[best].rate.kaldi_line()} {best}"
    write_text(directory / FOLDER / "best_wer", f"{line}\n")
    return line
