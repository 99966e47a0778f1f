"""Decode a data directory with a GMM system: the words of the best path, one line an utterance."""

from __future__ import annotations

import argparse
from pathlib import Path

from kaldi_uq.cli.gmm_options import GmmInput, add_gmm_arguments
from kaldi_uq.cli.options import add_lattices, directory
from kaldi_uq.config import config_from
from kaldi_uq.engine.config import DecodeConfig
from kaldi_uq.io.datadir import write_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data_dir", type=directory, metavar="DATA-DIR", help="data directory, with feats.scp and cmvn.scp"
    )
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR", help="GMM system, such as exp/mono")
    parser.add_argument("graph_dir", type=directory, metavar="GRAPH-DIR", help="decoding graph, such as exp/mono/graph")
    parser.add_argument("hypotheses", type=Path, metavar="TEXT", help="table of hypotheses to write")
    add_lattices(parser)
    add_gmm_arguments(parser, DecodeConfig)


def run(args: argparse.Namespace) -> None:
    config = config_from(args, DecodeConfig)
    source = GmmInput.read(args, args.hypotheses.parent, need_text=False)
    found = source.engine.decode_gmm(args.model_dir, args.graph_dir, source.features(), config)
    write_table(args.hypotheses, {utt: " ".join(found[utt].words) if utt in found else "" for utt in source.data.utts})
