"""Decode a data directory with a GMM system: the words of the best path, one line an utterance."""

from __future__ import annotations

import argparse
from pathlib import Path

from threadpoolctl import threadpool_limits

from kaldi_uq.cli.options import (
    add_config_file,
    add_config_flags,
    add_engine,
    add_jobs,
    add_lattices,
    add_pipes,
    config_from,
    directory,
    engine_of,
    start_logging,
)
from kaldi_uq.io.datadir import DataDir, write_table
from kaldi_uq.io.feats_dir import gmm_features
from kaldi_uq.types import DecodeConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR")
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR")
    parser.add_argument("graph_dir", type=directory, metavar="GRAPH-DIR")
    parser.add_argument("hypotheses", type=Path, metavar="TEXT", help="table of hypotheses to write")
    add_pipes(parser)
    add_engine(parser)
    add_jobs(parser)
    add_lattices(parser)
    add_config_file(parser, DecodeConfig)
    add_config_flags(parser, DecodeConfig)


def run(args: argparse.Namespace) -> None:
    start_logging()
    threadpool_limits(1)  # many small products: threads would only wait for each other
    engine = engine_of(args, args.hypotheses.parent)
    data = DataDir.read(args.data_dir, need=("utt2spk", "feats.scp", "cmvn.scp"))
    config = config_from(args, DecodeConfig)
    found = engine.decode_gmm(args.model_dir, args.graph_dir, gmm_features(data, allow_pipes=args.allow_pipes), config)
    write_table(args.hypotheses, {utt: " ".join(found[utt].words) if utt in found else "" for utt in data.utts})
