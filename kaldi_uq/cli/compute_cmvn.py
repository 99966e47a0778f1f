"""Accumulate cepstral mean and variance statistics per speaker, as Kaldi's compute-cmvn-stats does."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from kaldi_uq.cli.options import directory
from kaldi_uq.feats.cmvn_stats import accumulate_cmvn_stats
from kaldi_uq.io.ark import MatrixWriter, read_matrix
from kaldi_uq.io.datadir import DataDir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR")
    parser.add_argument("ark", type=Path, metavar="ARK")
    parser.add_argument("scp", type=Path, metavar="SCP")


def run(args: argparse.Namespace) -> None:
    data = DataDir.read(args.data_dir, need=("utt2spk", "feats.scp"))
    with MatrixWriter(args.ark, args.scp) as writer:
        for spk, utts in data.spk2utt.items():
            stats = [accumulate_cmvn_stats(read_matrix(data.feats_scp[utt])) for utt in utts]
            writer.write(spk, np.sum(stats, axis=0))
