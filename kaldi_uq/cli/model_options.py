"""What the commands around a hybrid model share: its directory, its device, the waveforms for it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from kaldi_uq.cli.options import add_engine, add_pipes, directory, non_negative_int
from kaldi_uq.config import Config, add_config_file, add_config_flags
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import ModelFileError, UsageError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.files import digest
from kaldi_uq.io.waves import read_waves, waves_digest
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel, select_device
from kaldi_uq.recogniser.speakers import SOURCES, speaker_stats, speakers_digest


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what computing with a model needs: device, draws, and whether pipes are run."""
    parser.add_argument("--device", default="", help="cpu or cuda; default: cuda if there is one")
    parser.add_argument(
        "--num-draws", type=non_negative_int, default=0, help="draws of a random model; 0: the model's default"
    )
    add_pipes(parser)


def add_cmvn_source(parser: argparse.ArgumentParser) -> None:
    """Add ``--cmvn-from``."""
    parser.add_argument(
        "--cmvn-from",
        choices=SOURCES,
        default="auto",
        help="CMVN statistics of the speakers, for a model with --cmvn speaker: of DATA-DIR/cmvn.scp, or computed from "
        "the speaker's waveforms; auto: of cmvn.scp if it fits the model's features [auto]",
    )


def add_model_arguments(parser: argparse.ArgumentParser, *configs: type[Config]) -> None:
    """Add what decoding with a model needs: device, draws, engine, and the flags of the configurations."""
    add_network_arguments(parser)
    add_engine(parser)
    add_config_file(parser, DecodeConfig, *configs)
    every: tuple[type[Config], ...] = (DecodeConfig, *configs)
    for config in every:
        add_config_flags(parser, config)


def add_data_and_graph(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments DATA-DIR, MODEL-DIR, GRAPH-DIR."""
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR")
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR")
    parser.add_argument("graph_dir", type=directory, metavar="GRAPH-DIR", help="directory with HCLG.fst")
    add_cmvn_source(parser)


def load_model(args: argparse.Namespace) -> HybridModel:
    """The model on its device.

    Raises:
        UsageError: draws are asked for and the model is not random.
    """
    use_all_cores()
    model = HybridModel.load(args.model_dir, select_device(args.device))
    if args.num_draws > 1 and not model.network.is_random:
        raise UsageError(f"--num-draws {args.num_draws}: {args.model_dir} is not random, leave the option out")
    return model


def use_all_cores() -> None:
    """As many threads as cores, unless OMP_NUM_THREADS says otherwise: batches are computed by one process."""
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def decoding_inputs(args: argparse.Namespace) -> list[Path]:
    """The files of MODEL-DIR and GRAPH-DIR that a decoding depends on.

    Raises:
        ModelFileError: one is missing.
    """
    model = [args.model_dir / name for name in (MODEL_FILE, "final.mdl", "tree")]
    graph = [args.graph_dir / name for name in ("HCLG.fst", "words.txt")]
    for paths, script in ((model, "steps/uq/train.sh"), (graph, "utils/mkgraph.sh")):
        for path in paths:
            if not path.is_file():
                raise ModelFileError(f"{path}: no such file; {script} makes it (stage 4 of the recipe)")
    return [*model, *graph]


def waves_of(
    data: DataDir, model: HybridModel, *, allow_pipes: bool = False, cmvn_from: str = "auto"
) -> dict[str, np.ndarray]:
    """The waveforms, checked against the model's sample rate and shortest input.

    A model that normalises by speaker is told the statistics of these utterances.

    Args:
        data: the directory, with or without ``segments``.
        model: the model that is to hear them.
        allow_pipes: run the lines of tables that are commands.
        cmvn_from: where statistics come from; see :func:`kaldi_uq.recogniser.speakers.speaker_stats`.
    """
    front_end = model.front_end
    waves = read_waves(
        data, sample_rate=front_end.sample_rate, min_samples=front_end.min_samples, allow_pipes=allow_pipes
    )
    if model.needs_speakers:
        model.set_speakers(speaker_stats(front_end, data, waves, source=cmvn_from, allow_pipes=allow_pipes))
    return waves


def audio_digest(model: HybridModel, waves: dict[str, np.ndarray]) -> str:
    """What a model's output depends on beside its file: the samples and, where they count, the speakers' statistics."""
    speakers = model.cmvn_stats_of(list(waves))
    if speakers is None:
        return waves_digest(waves)
    stats = dict(zip(waves, speakers.cpu().numpy(), strict=True))
    return digest(waves_digest(waves), speakers_digest(stats))


def model_name(model_dir: Path) -> str:
    """The name under which results are filed: the directory's, ``exp/dnn`` is ``dnn``."""
    return Path(os.path.abspath(model_dir)).name
