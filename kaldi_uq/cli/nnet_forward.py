"""Write the log-likelihoods of a hybrid model, log P(pdf | x) - log P(pdf), unscaled, as a Kaldi archive.

latgen-faster-mapped and align-compiled-mapped read it.  --log-post writes log P(pdf | x).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kaldi_uq.cli.model_options import add_cmvn_source, add_network_arguments, load_model, waves_of
from kaldi_uq.cli.options import directory, non_negative_int, start_logging
from kaldi_uq.io.ark import MatrixWriter
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.recogniser.scores import score_waves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR")
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR")
    parser.add_argument("ark", type=Path, metavar="ARK")
    parser.add_argument("scp", type=Path, metavar="SCP")
    parser.add_argument("--log-post", action="store_true", help="without dividing by the priors")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the draws [0]")
    add_network_arguments(parser)
    add_cmvn_source(parser)


def run(args: argparse.Namespace) -> None:
    start_logging()
    model = load_model(args)
    data = DataDir.read(args.data_dir)
    prior = model.log_prior.cpu().numpy()
    waves = waves_of(data, model, allow_pipes=args.allow_pipes, cmvn_from=args.cmvn_from)
    scores = score_waves(model, waves, num_draws=args.num_draws or None, seed=args.seed)
    found = {utt: s.loglikes + prior if args.log_post else s.loglikes for utt, s in scores}
    with MatrixWriter(args.ark, args.scp) as writer:
        for utt in data.utts:
            writer.write(utt, found[utt])
