"""Accumulate cepstral mean and variance statistics per speaker, as Kaldi's compute-cmvn-stats does.

With --engine kaldi that program does it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kaldi_uq.cli.options import add_engine, add_jobs, add_pipes, directory, engine_options
from kaldi_uq.engine.config import engine_name
from kaldi_uq.io.datadir import DataDir

if TYPE_CHECKING:  # --help needs no numpy
    import numpy as np


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data_dir", type=directory, metavar="DATA-DIR", help="data directory, with feats.scp and spk2utt"
    )
    parser.add_argument("ark", type=Path, metavar="ARK", help="archive to write")
    parser.add_argument("scp", type=Path, metavar="SCP", help="index of the archive to write, cmvn.scp")
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="where --engine kaldi writes logs [where ARK is]")
    add_pipes(parser)
    add_engine(parser)
    add_jobs(parser)


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from kaldi_uq.feats.cmvn_stats import accumulate_cmvn_stats
    from kaldi_uq.io.ark import MatrixWriter
    from kaldi_uq.io.feats_dir import features

    data = DataDir.read(args.data_dir, need=("utt2spk", "feats.scp"))
    found = features(data, allow_pipes=args.allow_pipes)
    if engine_name(args.engine) == "kaldi":
        from kaldi_uq.engine.binaries.feats import compute_cmvn
        from kaldi_uq.engine.binaries.jobs import Jobs, KaldiRoot

        options = engine_options(args, args.log_dir or args.ark.parent)
        compute_cmvn(Jobs(KaldiRoot.find(), options), found, data.spk2utt, args.ark, args.scp)
        return
    total: dict[str, np.ndarray] = {}
    for utt, feats in found:
        spk = data.utt2spk[utt]
        total[spk] = total.get(spk, np.zeros(())) + accumulate_cmvn_stats(feats)
    with MatrixWriter(args.ark, args.scp) as writer:
        for spk in data.spk2utt:
            writer.write(spk, total[spk])
