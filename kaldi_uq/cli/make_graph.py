"""Compose the decoding graph HCLG.fst from a language directory and a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from kaldi_uq.cli.options import add_engine, add_jobs, directory, engine_of, start_logging
from kaldi_uq.io.lang import Lang


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lang_dir", type=directory, metavar="LANG-DIR", help="language directory, with L.fst and G.fst")
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR", help="model, with final.mdl and tree")
    parser.add_argument("graph_dir", type=Path, metavar="GRAPH-DIR", help="directory to write, such as exp/mono/graph")
    parser.add_argument(
        "--transition-scale", type=float, default=1.0, metavar="X", help="weight of the transition probabilities [1]"
    )
    parser.add_argument(
        "--self-loop-scale",
        type=float,
        default=0.1,
        metavar="X",
        help="weight of the self-loops' probabilities; 1 for the HMM of a chain model [0.1]",
    )
    add_engine(parser)
    add_jobs(parser)


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.engine.base import builder_of

    start_logging()
    lang = Lang.read(args.lang_dir)
    lang.check_phones(args.model_dir)
    builder_of(engine_of(args, args.graph_dir)).make_graph(
        lang,
        args.model_dir,
        args.graph_dir,
        transition_scale=args.transition_scale,
        self_loop_scale=args.self_loop_scale,
    )
