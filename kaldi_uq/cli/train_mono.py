"""Train a monophone GMM system: final.mdl, tree and ali.1.gz."""

from __future__ import annotations

import argparse
from pathlib import Path

from threadpoolctl import threadpool_limits

from kaldi_uq.cli.options import (
    add_config_file,
    add_config_flags,
    add_engine,
    add_jobs,
    add_pipes,
    config_from,
    directory,
    engine_of,
    start_logging,
)
from kaldi_uq.engine.base import MonoConfig
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.feats_dir import gmm_features
from kaldi_uq.io.lang import Lang


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR")
    parser.add_argument("lang_dir", type=directory, metavar="LANG-DIR")
    parser.add_argument("exp_dir", type=Path, metavar="EXP-DIR")
    add_pipes(parser)
    add_engine(parser)
    add_jobs(parser)
    add_config_file(parser, MonoConfig)
    add_config_flags(parser, MonoConfig)


def run(args: argparse.Namespace) -> None:
    start_logging()
    threadpool_limits(1)  # many small products: threads would only wait for each other
    engine = engine_of(args, args.exp_dir)
    data = DataDir.read(args.data_dir, need=("utt2spk", "text", "feats.scp", "cmvn.scp"))
    lang = Lang.read(args.lang_dir)
    transcripts = lang.transcripts(data)
    engine.train_mono(
        dict(gmm_features(data, allow_pipes=args.allow_pipes)),
        transcripts,
        lang,
        args.exp_dir,
        config_from(args, MonoConfig),
    )
