"""Align a data directory with a GMM system: one ali.JOB.gz."""

from __future__ import annotations

import argparse
from pathlib import Path

from kaldi_uq.cli.gmm_options import GmmInput, add_gmm_arguments, report_aligned
from kaldi_uq.cli.options import directory
from kaldi_uq.config import config_from
from kaldi_uq.engine.config import DecodeConfig
from kaldi_uq.errors import AlignmentError
from kaldi_uq.io.lang import Lang


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data_dir", type=directory, metavar="DATA-DIR", help="data directory, with feats.scp, cmvn.scp and text"
    )
    parser.add_argument("lang_dir", type=directory, metavar="LANG-DIR", help="language directory, such as data/lang")
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR", help="GMM system, such as exp/mono")
    parser.add_argument("ali", type=Path, metavar="ALI", help="archive to write, for example exp/mono_ali/ali.1.gz")
    parser.add_argument(
        "--max-failed",
        type=float,
        default=0.05,
        metavar="X",
        help="share of the utterances that may fail to align before it is an error, 0 to 1 [0.05]",
    )
    add_gmm_arguments(parser, DecodeConfig)


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.io.ark import write_alignments

    config = config_from(args, DecodeConfig)
    source = GmmInput.read(args, args.ali.parent)
    data, lang = source.data, Lang.read(args.lang_dir)
    lang.check_phones(args.model_dir)
    transcripts = lang.transcripts(data, map_oov=True)
    alignments = source.engine.align_gmm(args.model_dir, lang, source.features(), transcripts, config)
    failed = [utt for utt in data.utts if utt not in alignments]
    if len(failed) > args.max_failed * len(data.utts):
        raise AlignmentError(
            f"{args.data_dir}: {len(failed)} of {len(data.utts)} utterances cannot be aligned with their text "
            f"({', '.join(failed[:5])} ...): are they long enough for it? --max-failed allows more"
        )
    write_alignments(args.ali, {utt: alignments[utt] for utt in data.utts if utt in alignments})
    report_aligned("align-gmm", data, alignments)
