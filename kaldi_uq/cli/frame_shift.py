"""Print the frame shift, in seconds, of a feature configuration."""

from __future__ import annotations

import argparse

from kaldi_uq.feats.conf import read_mfcc_conf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mfcc_config", metavar="FILE", help="Kaldi's conf/mfcc.conf")


def run(args: argparse.Namespace) -> None:
    print(f"{read_mfcc_conf(args.mfcc_config).frame_shift_s:g}")
