"""Train a monophone GMM system: final.mdl, tree and ali.1.gz."""

from __future__ import annotations

import argparse
from pathlib import Path

from kaldi_uq.cli.gmm_options import GmmInput, add_gmm_arguments, report_aligned
from kaldi_uq.cli.options import directory
from kaldi_uq.config import config_from
from kaldi_uq.engine.config import MonoConfig
from kaldi_uq.io.lang import Lang


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data_dir", type=directory, metavar="DATA-DIR", help="data directory, with feats.scp, cmvn.scp and text"
    )
    parser.add_argument("lang_dir", type=directory, metavar="LANG-DIR", help="language directory, such as data/lang")
    parser.add_argument("exp_dir", type=Path, metavar="EXP-DIR", help="directory to write, such as exp/mono")
    add_gmm_arguments(parser, MonoConfig)


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.engine.base import builder_of
    from kaldi_uq.io.ark import read_alignments

    config = config_from(args, MonoConfig)
    source = GmmInput.read(args, args.exp_dir)
    builder = builder_of(source.engine)
    lang = Lang.read(args.lang_dir)
    transcripts = source.transcripts(lang)
    builder.train_mono(source.stored_features(), transcripts, lang, args.exp_dir, config)
    report_aligned("train-mono", source.data, read_alignments(args.exp_dir))
