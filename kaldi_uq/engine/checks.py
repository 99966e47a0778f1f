"""What every engine checks beside its files, and how it says what is wrong: scores, features, failed alignments."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kaldi_uq.engine.blocks import blocks_of
from kaldi_uq.errors import AlignmentError, EngineError
from kaldi_uq.io.lang import Lang

log = logging.getLogger(__name__)


def check_scores(utt: str, scores: np.ndarray, num_pdfs: int, model_dir: Path) -> None:
    """Refuse log-likelihoods that are not those of the model's pdfs.

    Raises:
        EngineError: another shape than (T, num_pdfs), or NaN.
    """
    if scores.ndim != 2 or scores.shape[1] != num_pdfs:
        raise wrong_scores(utt, scores.shape, num_pdfs, model_dir)
    if np.isnan(scores).any():
        raise nan_scores(utt)


def wrong_scores(utt: str, shape: tuple[int, ...], num_pdfs: int, model: Path | str) -> EngineError:
    """The error of scores of another shape than (T, num_pdfs)."""
    return EngineError(
        f"{utt}: scores are {shape}, expected (frames, {num_pdfs}), the pdfs of {model}; "
        "take network and HMM from one directory"
    )


def nan_scores(utt: str) -> EngineError:
    """The error of scores that are NaN."""
    return EngineError(f"{utt}: the acoustic model gives NaN; train it again, with a smaller learning rate")


def check_failures(utts: Sequence[str], aligned: Collection[str], max_failed: float) -> None:
    """Log the utterances that have no alignment.

    Raises:
        AlignmentError: they are a larger share than ``max_failed``.
    """
    failed = [utt for utt in utts if utt not in aligned]
    if failed:
        names = ", ".join(failed[:5]) + (" ..." if len(failed) > 5 else "")
        if len(failed) > max_failed * len(utts):
            raise AlignmentError(
                f"{len(failed)} of {len(utts)} utterances cannot be aligned with their text ({names}), more than "
                f"{max_failed:.0%}: are they long enough for it, and is the text theirs?"
            )
        log.warning(
            "%d of %d utterances cannot be aligned and are left out of this pass: %s", len(failed), len(utts), names
        )


def check_features(feats: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the features over all frames, (D,) float64 each.

    Raises:
        EngineError: a dimension is constant, so that no Gaussian can be fitted to it.
    """
    lengths = {utt: len(frames) for utt, frames in feats.items()}
    total = sum(lengths.values())

    def blocks() -> Iterator[np.ndarray]:
        return (np.concatenate([feats[utt] for utt in block]) for block in blocks_of(lengths))

    mean = sum(frames.sum(0, dtype=np.float64) for frames in blocks()) / total
    variance = sum(np.square(frames - mean).sum(0) for frames in blocks()) / total
    if np.any(variance < 1e-10):
        raise EngineError(f"feature dimension {int(np.argmin(variance))} is constant over the data; check the features")
    return mean, variance


def no_path(lang: Lang, words: Sequence[int]) -> EngineError:
    """The error of a text with a word that the lexicon cannot spell."""
    text = " ".join(lang.id_to_word.get(word, str(word)) for word in words)
    return EngineError(f"{lang.path / 'L.fst'}: no path for the text {text!r}: each word must be in the lexicon")


def last_line(error: BaseException) -> str:
    """What a C++ error says, without the places in the source that its other lines name."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[-1].split()) if lines else type(error).__name__
