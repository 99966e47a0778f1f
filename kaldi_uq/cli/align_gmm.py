"""Align a data directory with a GMM system: one ali.JOB.gz."""

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
from kaldi_uq.errors import AlignmentError
from kaldi_uq.io.ark import write_alignments
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.feats_dir import gmm_features
from kaldi_uq.io.lang import Lang
from kaldi_uq.types import DecodeConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR")
    parser.add_argument("lang_dir", type=directory, metavar="LANG-DIR")
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR")
    parser.add_argument("ali", type=Path, metavar="ALI", help="archive to write, for example exp/mono_ali/ali.1.gz")
    parser.add_argument("--max-failed", type=float, default=0.05, help="share of utterances that may fail [0.05]")
    add_pipes(parser)
    add_engine(parser)
    add_jobs(parser)
    add_config_file(parser, DecodeConfig)
    add_config_flags(parser, DecodeConfig)


def run(args: argparse.Namespace) -> None:
    start_logging()
    threadpool_limits(1)  # many small products: threads would only wait for each other
    engine = engine_of(args, args.ali.parent)
    data = DataDir.read(args.data_dir, need=("utt2spk", "text", "feats.scp", "cmvn.scp"))
    lang = Lang.read(args.lang_dir)
    transcripts = lang.transcripts(data)
    config = config_from(args, DecodeConfig)
    alignments = engine.align_gmm(
        args.model_dir, lang, gmm_features(data, allow_pipes=args.allow_pipes), transcripts, config
    )
    failed = [utt for utt in data.utts if utt not in alignments]
    if len(failed) > args.max_failed * len(data.utts):
        raise AlignmentError(
            f"{args.data_dir}: {len(failed)} of {len(data.utts)} utterances cannot be aligned with their text "
            f"({', '.join(failed[:5])} ...): are they long enough for it? --max-failed allows more"
        )
    write_alignments(args.ali, {utt: alignments[utt] for utt in data.utts if utt in alignments})
    print(f"kaldi-uq align-gmm: {len(alignments)} utterances aligned, {len(failed)} failed {' '.join(failed[:20])}")
