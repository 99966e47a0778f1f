"""What a model's front end is told of speakers: their CMVN statistics, their fMLLR transforms, i-vectors.

Statistics come from ``cmvn.scp`` or from the speakers' waveforms, transforms and i-vectors from the directories that
steps of Kaldi left them in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.feats import framing
from kaldi_uq.feats.adaptation import NOTHING, Adaptation, BatchAdaptation
from kaldi_uq.feats.cmvn_stats import accumulate_cmvn_stats
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.feats.transforms import affine
from kaldi_uq.io.ark import read_matrix
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.feats_dir import cmvn_stats
from kaldi_uq.io.ivectors import IvectorDir
from kaldi_uq.io.transforms import read_transforms
from kaldi_uq.io.waves import Waves, wave_batches

log = logging.getLogger(__name__)

SOURCES = ("auto", "scp", "waves")


@dataclass(frozen=True)
class Sources:
    """Where what is known of the speakers of a data directory comes from.

    Attributes:
        cmvn_from: see :func:`speaker_stats`.
        transform_dir: directory with the ``trans.*`` of this data, for a front end with fMLLR.
        ivector_dir: directory with the ``ivector_online.scp`` of this data, for a front end with i-vectors.
    """

    cmvn_from: str = "auto"
    transform_dir: Path | None = None
    ivector_dir: Path | None = None

    def check(self, front_end: FrontEnd) -> None:
        """Refuse a directory that the front end does not ask for, or none where it does.

        Raises:
            UsageError: names the option.
        """
        config = front_end.config
        for wanted, given, option, what in (
            (config.fmllr, self.transform_dir, "--transform-dir", "fMLLR transforms (trans.*)"),
            (config.ivector_dim > 0, self.ivector_dir, "--online-ivector-dir", "i-vectors (ivector_online.scp)"),
        ):
            if wanted and given is None:
                raise UsageError(f"this model was trained with {what}: give those of this speech, {option} DIR")
            if given is not None and not wanted:
                raise UsageError(f"{option} {given}: this model was trained without {what}; leave it out")


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
    sources.check(front_end)
    if not config.takes_adaptation:
        return {}
    stats: dict[str, np.ndarray] = {}
    given = given_adaptations(front_end, sources, data.utt2spk)
    if config.cmvn == "speaker":
        stats = speaker_stats(front_end, data, waves, source=sources.cmvn_from, allow_pipes=allow_pipes)
    lengths = Waves.of(waves).lengths
    for utt, adaptation in given.items():
        if adaptation.ivectors is not None and utt in waves:
            _check_ivectors(utt, adaptation, front_end.num_feature_frames(lengths[utt]))
    return {utt: replace(given[utt], cmvn_stats=stats.get(utt)) for utt in data.utts}


def given_adaptations(front_end: FrontEnd, sources: Sources, utt2spk: Mapping[str, str]) -> dict[str, Adaptation]:
    """What directories tell a front end of utterances: all but CMVN statistics.

    Args:
        front_end: the front end.
        sources: with the directories that it asks for.
        utt2spk: utt -> spk, of the utterances that are wanted.

    Raises:
        DataError: something is missing or does not fit the front end.
    """
    transforms: dict[str, np.ndarray] = {}
    ivectors: dict[str, np.ndarray] = {}
    period = 1
    if sources.transform_dir is not None:
        transforms = fmllr_transforms(front_end, sources.transform_dir, utt2spk)
    if sources.ivector_dir is not None:
        folder = IvectorDir.open(sources.ivector_dir)
        period, ivectors = folder.period, _ivectors(front_end.config, folder, utt2spk)
    return {
        utt: Adaptation(fmllr=transforms.get(utt), ivectors=ivectors.get(utt), ivector_period=period) for utt in utt2spk
    }


def _ivectors(config: FrontEndConfig, folder: IvectorDir, utts: Iterable[str]) -> dict[str, np.ndarray]:
    """The i-vectors of utterances, of the dimension and the extractor of the front end."""
    if folder.extractor and config.ivector_extractor not in ("", folder.extractor):
        raise DataError(
            f"{folder.path}/final.ie.id: i-vectors of another extractor ({folder.extractor}) than those that the model "
            f"was trained with ({config.ivector_extractor})"
        )
    found = folder.read(utts)
    for utt, values in found.items():
        if values.shape[1] != config.ivector_dim:
            raise DataError(
                f"{folder.path}: utterance {utt!r}: i-vectors of {values.shape[1]} dimensions, the model was trained "
                f"with {config.ivector_dim}"
            )
    return found


def _check_ivectors(utt: str, adaptation: Adaptation, num_frames: int) -> None:
    """Refuse i-vectors of other audio: of a period too few or too many, as paste-feats of Kaldi tolerates, is none."""
    assert adaptation.ivectors is not None
    count, period = len(adaptation.ivectors), adaptation.ivector_period
    if abs(count * period - num_frames) > period:
        raise DataError(
            f"utterance {utt!r}: {count} i-vectors, one every {period} frames, but the utterance has {num_frames} "
            "frames; extract them again for this audio"
        )


def adaptations_of_waves(
    front_end: FrontEnd, waves: Mapping[str, framing.Samples], given: Adaptation | None
) -> dict[str, Adaptation]:
    """What a front end is told of utterances of which there is no more than the audio.

    Args:
        front_end: the front end.
        waves: utt -> the samples, each taken for a speaker of its own.
        given: what is known of all of them: a transform, i-vectors.

    Raises:
        DataError: the front end takes such, and nothing is known.
    """
    config = front_end.config
    if given is None and (config.fmllr or config.ivector_dim):
        what, option = _needed(config)
        raise DataError(
            f"{next(iter(waves))}: no {what} of its speaker, with which this model was trained; say where to find it "
            f"with {option} DIR --speaker SPK"
        )
    stats: dict[str, np.ndarray] = {}
    if config.cmvn == "speaker":
        stats = stats_of_waves(front_end, waves, {utt: utt for utt in waves})
    return {utt: replace(given or Adaptation(), cmvn_stats=stats.get(utt)) for utt in waves}


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
        what, how = _needed(config)
        raise DataError(
            f"utterance {missing[0]!r}: no {what} of its speaker, which this model's front end needs ({how})"
        )
    return BatchAdaptation.of([known[utt] for utt in utts], front_end.norm.mean.device)


def _needed(config: FrontEndConfig) -> tuple[str, str]:
    """What a front end must be told of a speaker, and the option that has to do with it; for messages."""
    if config.fmllr:
        return "fMLLR transform", "--transform-dir"
    return ("i-vectors", "--online-ivector-dir") if config.ivector_dim else ("CMVN statistics", "--cmvn speaker")


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
    dim = front_end.acoustic_dim
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
    front_end: FrontEnd, waves: Mapping[str, framing.Samples], utt2spk: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Statistics of every speaker from the waveforms.

    Args:
        front_end: its cepstra, or filter banks, are what is counted.
        waves: utt -> the samples.
        utt2spk: utt -> spk; a speaker's statistics are of the utterances in ``waves``.

    Returns:
        spk -> (2, D + 1) float64, the same whatever the batches are.
    """
    device = front_end.norm.mean.device
    stats: dict[str, np.ndarray] = {}
    per_utt: dict[str, np.ndarray] = {}
    waves = Waves.of(waves)
    is_long = {utt: front_end.num_feature_frames(n) > framing.LONG_FRAMES for utt, n in waves.lengths.items()}
    long, short = ([utt for utt in waves if is_long[utt] == which] for which in (True, False))
    with torch.no_grad():
        for utt in long:
            per_utt[utt] = accumulate_cmvn_stats(front_end.long_cepstra(waves[utt])[0].cpu().numpy())
        for batch in wave_batches(waves.subset(short)):
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
        log.info("%s: computed from the waveforms instead", problem)
    found = stats_of_waves(front_end, waves, data.utt2spk)
    return {utt: found[data.utt2spk[utt]] for utt in waves}
