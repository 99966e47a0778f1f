"""CMVN statistics of speakers for a model's front end: from ``cmvn.scp``, or from the speakers' waveforms."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import numpy as np
import torch

from kaldi_uq.errors import DataError
from kaldi_uq.feats import framing
from kaldi_uq.feats.cmvn_stats import accumulate_cmvn_stats
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.feats_dir import cmvn_stats
from kaldi_uq.io.waves import wave_batches

log = logging.getLogger(__name__)

SOURCES = ("auto", "scp", "waves")


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
    long = [utt for utt, wave in waves.items() if front_end.num_frames(len(wave)) > framing.LONG_FRAMES]
    short = {utt: np.asarray(wave) for utt, wave in waves.items() if utt not in long}
    with torch.no_grad():
        for utt in long:
            per_utt[utt] = accumulate_cmvn_stats(front_end.long_cepstra(waves[utt])[0].cpu().numpy())
        for batch in wave_batches(short):
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


def speakers_digest(stats: Mapping[str, np.ndarray]) -> str:
    """SHA-256, in hex, of the statistics: what a step's output depends on."""
    checksum = hashlib.sha256()
    for utt, values in stats.items():
        checksum.update(f"{utt} {values.shape}\n".encode())
        checksum.update(np.ascontiguousarray(values, np.float64).data)
    return checksum.hexdigest()
