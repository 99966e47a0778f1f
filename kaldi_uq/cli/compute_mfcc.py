"""Compute Kaldi's MFCC features of a data directory into an archive; with --engine kaldi by compute-mfcc-feats.

Utterances are computed one by one, so that no split into jobs can change a value.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kaldi_uq.cli.options import add_audio, add_engine, add_jobs, add_max_bad, directory, engine_options, read_data
from kaldi_uq.engine.config import engine_name
from kaldi_uq.feats.conf import read_mfcc_conf
from kaldi_uq.io.datadir import write_table
from kaldi_uq.progress import progressing

if TYPE_CHECKING:  # --help needs no numpy
    import numpy as np


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR", help="data directory, with wav.scp")
    parser.add_argument("ark", type=Path, metavar="ARK", help="archive to write; the scp names it as given here")
    parser.add_argument("scp", type=Path, metavar="SCP", help="index of the archive to write, feats.scp")
    parser.add_argument("--mfcc-config", required=True, metavar="FILE", help="Kaldi's conf/mfcc.conf")
    parser.add_argument("--num-frames", metavar="FILE", help="also write utt2num_frames here")
    parser.add_argument("--compress", action="store_true", help="write Kaldi's compressed matrices, a byte a value")
    add_audio(parser)
    add_max_bad(parser)
    add_engine(parser)
    add_jobs(parser)


def run(args: argparse.Namespace) -> None:
    import torch

    from kaldi_uq.feats.mfcc import Mfcc
    from kaldi_uq.io.ark import MatrixWriter
    from kaldi_uq.io.waves import read_waves

    torch.set_num_threads(1)
    config = read_mfcc_conf(args.mfcc_config)
    mfcc = Mfcc(config)
    rate, shortest = config.sample_frequency, mfcc.min_samples
    data = read_data(args, args.ark, sample_rate=rate, min_samples=shortest)
    waves = read_waves(
        data, sample_rate=rate, min_samples=shortest, allow_pipes=args.allow_pipes, resample=args.resample
    )
    if engine_name(args.engine) == "kaldi":
        _run_kaldi(args, waves, rate)
        return
    num_frames = {}
    with torch.no_grad(), MatrixWriter(args.ark, args.scp, compressed=args.compress) as writer:
        for utt, wav in progressing(waves.items(), "MFCC", "utterances", len(waves)):
            feats, _ = mfcc(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))
            writer.write(utt, feats[0].numpy())
            num_frames[utt] = str(feats.shape[1])
    if args.num_frames:
        write_table(args.num_frames, num_frames)


def _run_kaldi(args: argparse.Namespace, waves: Mapping[str, np.ndarray], sample_rate: float) -> None:
    from kaldi_uq.engine.binaries.feats import compute_features
    from kaldi_uq.engine.binaries.jobs import Jobs, KaldiRoot

    num_frames = Path(args.num_frames) if args.num_frames else None
    options = engine_options(args, (num_frames or args.ark).parent)
    compute_features(
        Jobs(KaldiRoot.find(), options),
        waves,
        Path(args.mfcc_config),
        args.ark,
        args.scp,
        sample_rate=sample_rate,
        num_frames=num_frames,
        compress=args.compress,
    )
