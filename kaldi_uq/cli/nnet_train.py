"""Train a hybrid acoustic model (DNN, deep ensemble, Monte Carlo dropout, Bayesian network) on alignments.

Writes final.safetensors (network, front end, priors), final.mdl and tree (the HMM with its transition probabilities
after Viterbi training).  A killed run resumes after its last epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kaldi_uq.cli.model_options import use_all_cores
from kaldi_uq.cli.options import (
    add_config_file,
    add_config_flags,
    add_engine,
    config_from,
    directory,
    engine_of,
    start_logging,
)
from kaldi_uq.feats.conf import read_mfcc_conf
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.hybrid import MODEL_FILE, select_device
from kaldi_uq.io.ark import read_alignments
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.files import DoneStamp
from kaldi_uq.io.kaldi_model import read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.waves import read_waves, waves_digest
from kaldi_uq.train import Trainer, TrainingInputs
from kaldi_uq.types import MODEL_KINDS, DecodeConfig, FrontEndConfig, ModelConfig, TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR")
    parser.add_argument("lang_dir", type=directory, metavar="LANG-DIR", help="with G.fst, for the Viterbi epochs")
    parser.add_argument("ali_dir", type=directory, metavar="ALI-DIR", help="ali.*.gz, final.mdl, tree")
    parser.add_argument("exp_dir", type=Path, metavar="EXP-DIR")
    parser.add_argument("--model", choices=MODEL_KINDS, default="dnn")
    parser.add_argument("--mfcc-config", required=True, metavar="FILE", help="Kaldi's conf/mfcc.conf")
    parser.add_argument("--frontend", choices=("kaldi", "torchaudio"), default="kaldi", help="[kaldi]")
    parser.add_argument("--device", default="", help="cpu or cuda; default: cuda if there is one")
    add_engine(parser)
    configs = (ModelConfig, TrainConfig, FrontEndConfig, DecodeConfig)
    elsewhere = ("kind", "input_dim", "num_pdfs", "mfcc")  # from --model, --frontend, --mfcc-config and the alignments
    add_config_file(parser, *configs, skip=elsewhere)
    for config in configs:
        add_config_flags(parser, config, skip=elsewhere)


def run(args: argparse.Namespace) -> None:
    start_logging()
    use_all_cores()
    engine = engine_of(args)
    mfcc = read_mfcc_conf(args.mfcc_config)
    frontend = config_from(args, FrontEndConfig, kind=args.frontend, mfcc=mfcc)
    front_end = FrontEnd(frontend)
    transitions = read_transitions(args.ali_dir / "final.mdl")
    network = config_from(
        args, ModelConfig, kind=args.model, input_dim=front_end.output_dim, num_pdfs=transitions.num_pdfs
    )
    config, decode = config_from(args, TrainConfig), config_from(args, DecodeConfig)
    data = DataDir.read(args.data_dir, need=("wav.scp", "utt2spk", "text"))
    waves = read_waves(data, sample_rate=front_end.sample_rate, min_samples=front_end.min_samples)
    inputs = [args.ali_dir / "final.mdl", args.data_dir / "text", args.lang_dir / "G.fst"]
    inputs += sorted(args.ali_dir.glob("ali.*.gz"))
    options: dict[str, Any] = {c.__class__.__name__: c.to_dict() for c in (frontend, network, config, decode)}
    options["audio"] = waves_digest(waves)
    stamp = DoneStamp(args.exp_dir, "train", options=options, inputs=inputs)
    if stamp.is_current() and (args.exp_dir / MODEL_FILE).is_file():
        print(f"kaldi-uq nnet-train: {args.exp_dir / MODEL_FILE} is up to date")
        return
    stamp.clear()
    training = TrainingInputs(
        waves=waves,
        text={utt: data.words(utt) for utt in data.utts},
        alis=read_alignments(args.ali_dir),
        ali_shift_s=mfcc.frame_shift_s,
        tid_to_pdf=transitions.tid_to_pdf,
        ali_dir=args.ali_dir,
        lang=Lang.read(args.lang_dir),
    )
    args.exp_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        args.exp_dir,
        training,
        engine,
        frontend=frontend,
        network=network,
        config=config,
        decode=decode,
        device=select_device(args.device),
        key=stamp.key,
    )
    trainer.run()
    stamp.write()
    print(f"kaldi-uq nnet-train: {args.exp_dir / MODEL_FILE}: {args.model}, {transitions.num_pdfs} pdfs")
