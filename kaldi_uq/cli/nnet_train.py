"""Train a hybrid acoustic model (DNN, deep ensemble, Monte Carlo dropout, Bayesian network, your own) on alignments.

The front end follows the recipe that made the alignments: its mfcc.conf or fbank.conf, and what Kaldi leaves in
ALI-DIR: cmvn_opts, delta_opts; final.mat (LDA+MLLT) behind frames spliced by splice_opts; trans.* (fMLLR).  Flags win
over these files.  final.mat goes into the model file; the transforms belong to the speakers, and every later command
takes those of its own data with --transform-dir.  What ALI-DIR says and is not supported is an error by name: raw
fMLLR, fMPE, online CMVN.  Alignments of nnet3 and chain models, with a frame_subsampling_factor, make a model of that
frame rate; those of a chain system's tree have no such file, and need --frame-subsampling-factor 3.

A network of your own (--network FILE.py:NAME) is what the Python function NAME of FILE.py returns for (input_dim,
num_pdfs): a torch module from features (B, T, D) to logits (B, T, C), or what a wrapper of kaldi_uq.nnet makes of one.
It gets no context frames unless flags ask for them, and is trained on whole utterances.

--robust-eps asks for adversarial training, which every kind of network can have: see conf/robust.conf of the recipe.

Writes final.safetensors (network, front end, priors), final.mdl and tree (the HMM with its transition probabilities
after Viterbi training).  A killed run resumes after its last epoch.

Several processes that torchrun starts, on one machine or several that see the same files, share the training:

  torchrun --nproc-per-node 4 -m kaldi_uq nnet-train ...

Each takes its share of every minibatch, on a GPU of its own (NCCL) or on the CPU (gloo), and the gradients are added
up: --batch-size is that of all together, and the model is that of one process but for rounding.  Of a network that
draws at random each process draws for itself, and batch normalisation takes the statistics of each process's share.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaldi_uq.cli.model_options import add_cmvn_source, add_device, add_ivector_dir, use_all_cores
from kaldi_uq.cli.options import (
    add_audio,
    add_engine,
    add_jobs,
    add_max_bad,
    directory,
    engine_of,
    positive_int,
    read_data,
    start_logging,
)
from kaldi_uq.cli.parser import SPEAKERS
from kaldi_uq.config import Config, add_config_file, add_config_flags, config_from, flag, group_of
from kaldi_uq.engine.config import DecodeConfig
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.feats.conf import read_fbank_conf, read_mfcc_conf
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.recipe_opts import LDA_FILE, read_recipe_opts, read_subsampling
from kaldi_uq.io.files import DoneStamp
from kaldi_uq.io.lang import Lang
from kaldi_uq.nnet.config import FORMER_FIELDS, ModelConfig, config_class, kind_names
from kaldi_uq.training.config import ROBUST_BATCH, UTTERANCE_BATCH, RobustConfig, TrainConfig
from kaldi_uq.user_code import load_object, split_name

if TYPE_CHECKING:  # --help needs no torch
    from kaldi_uq.nnet.base import AcousticModel
    from kaldi_uq.recogniser.hybrid import HybridModel
    from kaldi_uq.training.parallel import Workers

# fields of the front end that the directories of alignments, transforms and i-vectors determine
OF_DIRECTORIES = (
    "splice_left", "splice_right", "lda_dim", "fmllr", "ivector_dim", "ivector_extractor"
)  # fmt: skip
SMALL_BATCH = 1 << 17  # values of the widest layer in a minibatch, below which one thread trains faster than several

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR", help="data directory, with wav.scp and text")
    parser.add_argument(
        "lang_dir",
        type=directory,
        metavar="LANG-DIR",
        help="language directory, with G.fst unless there are no Viterbi epochs",
    )
    parser.add_argument(
        "ali_dir", type=directory, metavar="ALI-DIR", help="alignments of DATA-DIR: ali.*.gz, final.mdl, tree"
    )
    parser.add_argument("exp_dir", type=Path, metavar="EXP-DIR", help="directory to write, such as exp/dnn")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", choices=kind_names(), help="kind of model [dnn]")
    which.add_argument("--network", metavar="FILE.py:NAME", help="network of your own instead; the named file is run")
    features = parser.add_mutually_exclusive_group()
    features.add_argument("--mfcc-config", metavar="FILE", help="Kaldi's conf/mfcc.conf")
    features.add_argument("--fbank-config", metavar="FILE", help="Kaldi's conf/fbank.conf: filter banks, no cepstra")
    parser.add_argument(
        "--frontend", choices=("kaldi", "torchaudio"), default="kaldi", help="torchaudio: the paper's MFCC [kaldi]"
    )
    parser.add_argument(
        "--opts-dir",
        metavar="DIR",
        help="directory with cmvn_opts, delta_opts, splice_opts, final.mat and trans.*, or none [ALI-DIR]",
    )
    group_of(parser, SPEAKERS).add_argument(
        "--transform-dir", metavar="DIR", help="directory with fMLLR transforms of DATA-DIR, or none [OPTS-DIR, if any]"
    )
    add_ivector_dir(parser)
    add_audio(parser)
    add_max_bad(parser)
    add_cmvn_source(parser)
    parser.add_argument(
        "--memory-mb",
        type=positive_int,
        default=1000,
        metavar="N",
        help="hold features in memory up to so many million bytes; more are in a file of EXP-DIR that has no name and "
        "is gone with the training; changes no result [1000]",
    )
    add_device(parser)
    add_engine(parser)
    add_jobs(parser)
    kinds = map(config_class, kind_names())
    configs: tuple[type[Config], ...] = (ModelConfig, *kinds, TrainConfig, RobustConfig, FrontEndConfig, DecodeConfig)
    # from --model, --frontend, --mfcc-config, --fbank-config and the alignments
    elsewhere = {"kind", "input_dim", "num_pdfs", "mfcc", "fbank", *OF_DIRECTORIES}
    add_config_file(parser, *configs, skip=elsewhere)
    for config in configs:
        add_config_flags(parser, config, skip=elsewhere)
        if issubclass(config, ModelConfig):
            elsewhere |= _names(config)  # a kind adds the fields that it has beyond those of the others


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.training.parallel import joined

    start_logging()
    with joined(args.device) as workers:
        _train(args, workers)


def _train(args: argparse.Namespace, workers: Workers) -> None:
    import torch

    from kaldi_uq.feats.adaptation import adaptations_digest
    from kaldi_uq.io.ark import read_alignments, read_matrix
    from kaldi_uq.io.kaldi_model import read_transitions
    from kaldi_uq.io.waves import read_waves, waves_digest
    from kaldi_uq.recogniser.hybrid import MODEL_FILE
    from kaldi_uq.recogniser.speakers import Sources, adaptations
    from kaldi_uq.training.trainer import Trainer, TrainingInputs

    args.job += workers.rank * args.nj  # each process has jobs of its own
    engine = engine_of(args, args.exp_dir)
    frontend, place = _frontend(args)
    lang = Lang.read(args.lang_dir)
    lang.check_phones(args.ali_dir)
    transitions = read_transitions(args.ali_dir / "final.mdl")
    model, network = _model(args, frontend, transitions.num_pdfs)
    lda_file = place / LDA_FILE
    if model.front_end.lda is not None:
        model.front_end.lda.set_matrix(read_matrix(str(lda_file)), str(lda_file))
    robust, decode = config_from(args, RobustConfig), config_from(args, DecodeConfig)
    utterances = {} if model.network.frame_wise else {"batch_size": UTTERANCE_BATCH}
    utterances = {"batch_size": ROBUST_BATCH} if robust.robust_eps else utterances
    config = config_from(args, TrainConfig, beneath=utterances)
    if robust.robust_eps or not _has_small_batches(model.network, config.batch_size):
        use_all_cores()
    else:
        torch.set_num_threads(1)
    if config.num_viterbi_epochs and not (args.lang_dir / "G.fst").is_file():
        raise DataError(
            f"{args.lang_dir / 'G.fst'}: no such file; take the language directory of the recipe's tests (such as "
            "data/lang_test_tgsmall), or pass --num-viterbi-epochs 0"
        )
    rate, shortest = model.front_end.sample_rate, model.front_end.min_samples
    data = read_data(
        *(args, args.exp_dir),
        need=("wav.scp", "utt2spk", "text"),
        sample_rate=rate,
        min_samples=shortest,
        write=workers.rank == 0,
    )
    waves = read_waves(
        data, sample_rate=rate, min_samples=shortest, allow_pipes=args.allow_pipes, resample=args.resample
    )
    transform_dir = Path(args.transform_dir or place) if frontend.fmllr else None
    sources = Sources(args.cmvn_from, transform_dir, args.online_ivector_dir)
    speakers = adaptations(model.front_end, data, waves, sources, allow_pipes=args.allow_pipes)
    inputs = [args.ali_dir / "final.mdl", args.data_dir / "text", *sorted(args.ali_dir.glob("ali.*.gz"))]
    inputs += [args.lang_dir / "G.fst"] if config.num_viterbi_epochs else []
    options: dict[str, Any] = {c.__class__.__name__: c.to_dict() for c in (frontend, config, robust, decode)}
    options["ModelConfig"] = network
    inputs += [lda_file] if frontend.lda_dim else []
    if args.network:
        inputs.append(split_name(args.network)[0])
    options["audio"] = waves_digest(waves)
    options["speakers"] = adaptations_digest(speakers)
    stamp = DoneStamp(args.exp_dir, "train", options=options, inputs=inputs)
    for what, value in (
        (f"audio in {args.data_dir}", options["audio"]),
        ("statistics, transforms or i-vectors of speakers", options["speakers"]),
        (f"options, or files in {args.ali_dir}, {args.lang_dir} or {args.data_dir}", stamp.key),
    ):
        workers.same(value, what)

    def is_done() -> bool:
        if stamp.is_current() and (args.exp_dir / MODEL_FILE).is_file():
            print(f"kaldi-uq nnet-train: {args.exp_dir / MODEL_FILE} is up to date")
            return True
        stamp.clear()
        return False

    if workers.of_first(is_done):
        return
    training = TrainingInputs(
        waves=waves,
        text={utt: data.words(utt) for utt in data.utts},
        alis=read_alignments(args.ali_dir),
        ali_shift_s=frontend.base.frame_shift_s * frontend.frame_subsampling_factor,
        tid_to_pdf=transitions.tid_to_pdf,
        ali_dir=args.ali_dir,
        lang=lang,
        speakers=speakers,
        memory_bytes=args.memory_mb * 1_000_000,
    )
    workers.of_first(lambda: args.exp_dir.mkdir(parents=True, exist_ok=True))
    workers.same(args.exp_dir.is_dir(), f"directories {args.exp_dir}, which some do not see")
    trainer = Trainer(
        args.exp_dir,
        model.to(workers.device(args.device)),
        training,
        engine,
        config=config,
        decode=decode,
        robust=robust,
        key=stamp.key,
        workers=workers,
    )
    trainer.run()

    def end() -> None:
        stamp.write()
        what = f"{args.network or model.kind}, {transitions.num_pdfs} pdfs"
        print(f"kaldi-uq nnet-train: {args.exp_dir / MODEL_FILE}: {what}")

    workers.of_first(end)


def _model(args: argparse.Namespace, frontend: FrontEndConfig, num_pdfs: int) -> tuple[HybridModel, dict[str, Any]]:
    """The model with its initial weights, and the stamp's entry for its network; options that it lacks are refused."""
    from kaldi_uq.feats.frontend import FrontEnd
    from kaldi_uq.recogniser.hybrid import HybridModel

    seed = config_from(args, TrainConfig).seed
    kind = args.model or "dnn"
    chosen = None if args.network else config_class(kind)
    every = set().union(*(_names(config_class(kind)) for kind in kind_names()))
    others = every - (_names(chosen) if chosen else set())
    args.known_fields = {name: type_ for name, type_ in args.known_fields.items() if name not in others}  # of the file
    for name in sorted(others):
        if getattr(args, name, None) is not None:
            which = "--network" if args.network else f"--model {kind}"
            raise UsageError(f"{flag(name)} is no option of {which}; leave it out")
    if chosen is None:
        model = HybridModel.from_factory(frontend, load_object(args.network), num_pdfs, seed=seed)
        return model, {"network": split_name(args.network)[1]}
    network = config_from(args, chosen, input_dim=FrontEnd(frontend).output_dim, num_pdfs=num_pdfs)
    # with all fields of former versions, as in the stamps of models that exist
    return HybridModel(frontend, network, seed=seed), {**FORMER_FIELDS, **network.to_dict()}


def _names(config: type[ModelConfig]) -> set[str]:
    return {field.name for field in fields(config)}


def _frontend(args: argparse.Namespace) -> tuple[FrontEndConfig, Path]:
    """The front end, and the recipe's directory: flags and --config win over what that says, it over the defaults."""
    from kaldi_uq.io.ivectors import IvectorDir

    features: dict[str, Any] = {"kind": args.frontend}
    if args.fbank_config:
        if args.frontend != "kaldi":
            raise UsageError("--fbank-config is for --frontend kaldi")
        features |= {"kind": "fbank", "fbank": read_fbank_conf(args.fbank_config)}
    elif args.mfcc_config:
        features["mfcc"] = read_mfcc_conf(args.mfcc_config)
    else:
        raise UsageError("give the features of the model: --mfcc-config FILE, or --fbank-config FILE")
    if args.online_ivector_dir:
        ivectors = IvectorDir.open(args.online_ivector_dir)
        features |= {"ivector_dim": ivectors.dim, "ivector_extractor": ivectors.extractor}
    place = Path(args.opts_dir or args.ali_dir)
    recipe = {} if args.opts_dir == "none" else read_recipe_opts(place)
    factor = read_subsampling(args.ali_dir)
    if factor > 1:  # of the alignments, whatever the features are
        recipe["frame_subsampling_factor"] = factor
    if args.transform_dir:
        recipe["fmllr"] = args.transform_dir != "none"
    context = {"left_context": 0, "right_context": 0} if args.network else {}  # it looks at neighbours itself
    if recipe:
        shown = " ".join(f"{name}={str(value).lower()}" for name, value in recipe.items())
        log.info("%s: the recipe has %s; flags win over it, and --opts-dir none leaves it out", place, shown)
    return config_from(args, FrontEndConfig, beneath={**recipe, **context}, **features), place


def _has_small_batches(network: AcousticModel, batch_size: int) -> bool:
    """Whether threads would wait for each other longer than they compute: on two cores it takes half as long again."""
    from kaldi_uq.nnet.base import FrameModel

    return isinstance(network, FrameModel) and batch_size * max(network.config.hidden_dims) < SMALL_BATCH
