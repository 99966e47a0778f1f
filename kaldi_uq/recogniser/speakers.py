"""What a model's front end is told of speakers: their CMVN statistics and their fMLLR transforms.

Statistics come from ``cmvn.scp`` or from the speakers' waveforms, transforms from the directory that a step of Kaldi's
left them in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.feats.adaptation import NOTHING, Adaptation, BatchAdaptation
from kaldi_uq.feats.cmvn_stats import accumulate_cmvn_stats
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.transforms import affine
from kaldi_uq.io.ark import read_matrix
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.feats_dir import cmvn_stats
from kaldi_uq.io.transforms import read_transforms
from kaldi_uq.io.waves import wave_batches

log = logging.getLogger(__name__)

SOURCES = ("auto", "scp", "waves")


@dataclass(frozen=True)
class Sources:
    """Where what is known of the speakers of a data directory comes from.

    Attributes:
        cmvn_from: see :func:`speaker_stats`.
        transform_dir: directory with the ``trans.*`` of this data, for a front end with fMLLR.
    """

    cmvn_from: str = "auto"
    transform_dir: Path | None = None


DEFAULT_SOURCES = Sources()


def adaptations(
    front_end: FrontEnd,
    data: DataDir,
    waves: Mapping[str, np.ndarray],
    sources: Sources,
    *,
    allow_pipes: bool = False,
) -> dict[str, Adaptation]:
    """What a front end is told of the utterances of a directory.

    Args:
        front_end: the front end.
        data: the directory.
        waves: its waveforms; all of them where statistics of speakers are computed from them.
        sources: where it comes from.
        allow_pipes: run pipes in ``cmvn.scp``.

    Returns:
        utt -> what is known; empty for a front end that takes nothing.

    Raises:
        DataError: something is missing or does not fit the front end.
        UsageError: a directory of transforms for a front end without, or none for one with fMLLR.
    """
    config = front_end.config
    stats: dict[str, np.ndarray] = {}
    transforms: dict[str, np.ndarray] = {}
    if config.fmllr != (sources.transform_dir is not None):
        raise UsageError(
            "this model was trained on features with fMLLR: give the directory with the trans.* of this data, "
            "--transform-dir DIR"
            if config.fmllr
            else f"--transform-dir {sources.transform_dir}: this model was trained without fMLLR; leave it out"
        )
    if sources.transform_dir is not None:
        transforms = fmllr_transforms(front_end, sources.transform_dir, data.utt2spk)
    if config.cmvn == "speaker":
        stats = speaker_stats(front_end, data, waves, source=sources.cmvn_from, allow_pipes=allow_pipes)
    if not config.takes_adaptation:
        return {}
    return {utt: Adaptation(stats.get(utt), transforms.get(utt)) for utt in data.utts}


def adaptations_of_waves(
    front_end: FrontEnd, waves: Mapping[str, np.ndarray], fmllr: np.ndarray | None
) -> dict[str, Adaptation]:
    """What a front end is told of utterances of which there is no more than the audio.

    Args:
        front_end: the front end.
        waves: utt -> (N,) float32, each taken for a speaker of its own.
        fmllr: the transform of all of them.

    Raises:
        DataError: the front end takes a transform, and there is none.
    """
    if front_end.config.fmllr and fmllr is None:
        raise DataError(
            f"{next(iter(waves))}: this model was trained on features with fMLLR, and the transform of the speaker is "
            "not known; name it with --transform-dir DIR --speaker SPK"
        )
    stats: dict[str, np.ndarray] = {}
    if front_end.config.cmvn == "speaker":
        stats = stats_of_waves(front_end, waves, {utt: utt for utt in waves})
    return {utt: Adaptation(stats.get(utt), fmllr) for utt in waves}


def batch_adaptation(front_end: FrontEnd, known: Mapping[str, Adaptation], utts: Sequence[str]) -> BatchAdaptation:
    """What a front end is told of a batch of utterances.

    Args:
        front_end: the front end; nothing is looked up for one that takes nothing.
        known: utt -> what is known of it.
        utts: the utterances.

    Raises:
        DataError: an utterance that ``known`` lacks.
    """
    config = front_end.config
    if not config.takes_adaptation:
        return NOTHING
    missing = [utt for utt in utts if utt not in known]
    if missing:
        what, how = ("fMLLR transform", "--transform-dir") if config.fmllr else ("CMVN statistics", "--cmvn speaker")
        raise DataError(
            f"utterance {missing[0]!r}: no {what} of its speaker, which this model's front end needs ({how})"
        )
    return BatchAdaptation.of([known[utt] for utt in utts], front_end.norm.mean.device)


def fmllr_transforms(front_end: FrontEnd, directory: Path, utt2spk: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Transforms of a directory for a front end.

    Args:
        front_end: it takes transforms.
        directory: with ``trans.*``; a ``final.mat`` in it, or in the directory of its model, must be the front end's.
        utt2spk: utt -> spk, of the utterances that are wanted.

    Returns:
        utt -> (F, F + 1) float32.

    Raises:
        DataError: missing, damaged, or for other features.
    """
    dim = front_end.feature_dim
    _check_lda(front_end, directory)
    found = {}
    for utt, matrix in read_transforms(directory, utt2spk).items():
        where = f"{directory}: transform of {utt2spk[utt]!r}"
        found[utt] = affine(matrix, dim, where)
        if len(found[utt]) != dim:
            raise DataError(f"{where} has {len(found[utt])} rows, the front end's features have {dim} dimensions")
    return found


def _check_lda(front_end: FrontEnd, directory: Path) -> None:
    """Refuse transforms that were estimated behind another ``final.mat`` than the front end's.

    A directory of alignments has a copy of the matrix, one of decoding lies in the directory of its model.
    """
    if front_end.lda is None:
        return
    places = [place / "final.mat" for place in (directory, directory.parent) if (place / "final.mat").is_file()]
    known = front_end.lda.matrix.cpu().numpy()
    if places and not any(_is_matrix(path, known) for path in places):
        raise DataError(
            f"{places[0]}: another matrix than the final.mat that this model was trained with, so the transforms in "
            f"{directory} do not fit it; name a directory of the system whose alignments it was trained on"
        )


def _is_matrix(path: Path, known: np.ndarray) -> bool:
    matrix = read_matrix(str(path))
    matrix = matrix if matrix.shape == known.shape else np.pad(matrix, ((0, 0), (0, 1)))
    return matrix.shape == known.shape and np.allclose(matrix, known, rtol=1e-5, atol=1e-6)


def stats_of_waves(
    front_end: FrontEnd, waves: Mapping[str, np.ndarray], utt2spk: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Statistics of every speaker from the waveforms.

    Args:
        front_end: its cepstra, or filter banks, are what is counted.
        waves: utt -> (N,) float32 in [-1, 1].
        utt2spk: utt -> spk; a speaker's statistics are of the utterances in ``waves``.

    Returns:
        spk -> (2, D + 1) float64, the same whatever the batches are.
    """
    device = front_end.norm.mean.device
    stats: dict[str, np.ndarray] = {}
    per_utt: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for batch in wave_batches(dict(waves)):
            feats, lengths = front_end.cepstra_of(
                torch.from_numpy(batch.wav).to(device), torch.from_numpy(batch.num_samples).to(device)
            )
            for utt, length, values in zip(batch.utts, lengths.tolist(), feats.cpu().numpy(), strict=True):
                per_utt[utt] = accumulate_cmvn_stats(values[:length])
    for utt in waves:  # sums in the order of the directory
        spk = utt2spk[utt]
        stats[spk] = stats[spk] + per_utt[utt] if spk in stats else per_utt[utt]
    return stats


def speaker_stats(
    front_end: FrontEnd,
    data: DataDir,
    waves: Mapping[str, np.ndarray],
    *,
    source: str = "auto",
    allow_pipes: bool = False,
) -> dict[str, np.ndarray]:
    """Statistics for every utterance of a directory.

    Args:
        front_end: the model's front end.
        data: the directory.
        waves: its waveforms.
        source: ``scp``: ``cmvn.scp`` of the directory, made with the same feature options as the model's; ``waves``:
            the waveforms; ``auto``: ``cmvn.scp`` if it is there for all speakers and of the model's dimension.
        allow_pipes: run pipes in ``cmvn.scp``.

    Returns:
        utt -> (2, D + 1) float64.

    Raises:
        DataError: with ``scp``, there are none, or they are of another dimension.
    """
    expected = front_end.cepstra.output_dim + 1
    problem = ""
    changed = front_end.config.level or front_end.config.noise_floor
    if source != "waves" and changed:
        problem = f"{data.path / 'cmvn.scp'}: statistics of features without the model's level and noise floor"
    elif source != "waves":
        spks = set(data.utt2spk.values())
        missing = spks - set(data.cmvn_scp)
        if missing:
            problem = f"{data.path / 'cmvn.scp'}: no statistics of speaker {min(missing)!r}"
        else:
            stats = cmvn_stats(data, allow_pipes=allow_pipes)
            sizes = {values.shape[1] for values in stats.values()}
            if sizes == {expected}:
                return {utt: stats[data.utt2spk[utt]] for utt in data.utts}
            problem = (
                f"{data.path / 'cmvn.scp'}: statistics of {min(sizes) - 1} dimensions, the front end has {expected - 1}"
            )
    if problem:
        if source == "scp":
            raise DataError(f"{problem}; compute them with the feature options of the model, or pass --cmvn-from waves")
        if data.cmvn_scp:
            log.info("%s: computed from the waveforms instead", problem)
    found = stats_of_waves(front_end, waves, data.utt2spk)
    return {utt: found[data.utt2spk[utt]] for utt in waves}
