"""Compute Kaldi's MFCC features of a data directory into an archive.

Utterances are computed one by one, so that no split into jobs can change a value.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from kaldi_uq.cli.options import directory
from kaldi_uq.feats.conf import read_mfcc_conf
from kaldi_uq.feats.mfcc import Mfcc
from kaldi_uq.io.ark import MatrixWriter
from kaldi_uq.io.datadir import DataDir, write_table
from kaldi_uq.io.waves import read_waves


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR")
    parser.add_argument("ark", type=Path, metavar="ARK", help="archive to write; the scp names it as given here")
    parser.add_argument("scp", type=Path, metavar="SCP")
    parser.add_argument("--mfcc-config", required=True, metavar="FILE", help="Kaldi's conf/mfcc.conf")
    parser.add_argument("--num-frames", metavar="FILE", help="also write utt2num_frames here")


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    config = read_mfcc_conf(args.mfcc_config)
    mfcc = Mfcc(config)
    data = DataDir.read(args.data_dir)
    waves = read_waves(data, sample_rate=config.sample_frequency, min_samples=mfcc.min_samples)
    num_frames = {}
    with torch.no_grad(), MatrixWriter(args.ark, args.scp) as writer:
        for utt, wav in tqdm(waves.items(), desc="MFCC", unit="utt"):
            feats, _ = mfcc(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))
            writer.write(utt, feats[0].numpy())
            num_frames[utt] = str(feats.shape[1])
    if args.num_frames:
        write_table(args.num_frames, num_frames)
