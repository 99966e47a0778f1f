"""What the commands around a recogniser share: which one it is, its device, its data."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kaldi_uq.cli.options import add_audio, add_engine, directory, engine_of, non_negative_int, read_data, shard_of
from kaldi_uq.cli.parser import CODE, MODEL, SPEAKERS
from kaldi_uq.config import Config, add_config_file, add_flags_once, config_from, group_of, suggest
from kaldi_uq.engine.config import DecodeConfig
from kaldi_uq.errors import ModelFileError, UsageError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.models import DIGITS, STARTER
from kaldi_uq.user_code import load_object, mistakes_named, split_name

if TYPE_CHECKING:  # no command's --help needs torch
    from kaldi_uq.recogniser.base import BaseRecogniser
    from kaldi_uq.recogniser.speakers import Sources

CMVN_SOURCES = ("auto", "scp", "waves")
STDIN = "-"


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what computing with a model needs: which it is, device and draws."""
    code = group_of(parser, CODE)
    which = code.add_mutually_exclusive_group()
    which.add_argument(
        "--network",
        metavar="FILE.py:NAME",
        help="MODEL-DIR holds weights of this network: a function (input_dim, num_pdfs) that builds it",
    )
    which.add_argument(
        "--recogniser",
        metavar="FILE.py:NAME",
        help="a recogniser of another sort: a function that gets MODEL-DIR and returns it (such as a "
        "kaldi_uq.CtcRecogniser); GRAPH-DIR and LANG-DIR are - then",
    )
    add_device(parser)
    group_of(parser, MODEL).add_argument(
        "--num-draws",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="draws of a random model (dropout, bnn); 0: the model's default [0]",
    )


def add_model_and_files(parser: argparse.ArgumentParser, files: str) -> None:
    """Add ``[MODEL-DIR] [WAV ...]``; :func:`take_model_dir` tells them apart.

    Args:
        parser: the parser.
        files: help of the files.
    """
    parser.add_argument(
        "wavs",
        nargs="*",
        metavar="[MODEL-DIR] WAV",
        help=f"MODEL-DIR, such as exp/dnn, if the first one is a directory [{STARTER}]; then {files}",
    )


def take_model_dir(args: argparse.Namespace, program: str) -> None:
    """Set ``args.model_dir``: the first of ``args.wavs``, if that is a directory, else the model of the package.

    Raises:
        UsageError: the first one is nothing at all: perhaps a directory that was meant, and another model would judge.
    """
    args.is_starter = False
    first = args.wavs[0] if args.wavs else ""
    if first and os.path.isdir(first):
        args.model_dir, args.wavs = directory(first), args.wavs[1:]
        return
    if first and first != STDIN and not os.path.exists(first):
        raise UsageError(f"{first}: no such file or directory; expected MODEL-DIR, or an audio file for {STARTER}")
    if args.recogniser or args.network:
        raise UsageError("--recogniser and --network need MODEL-DIR before the audio files")
    args.model_dir = starter_dir(program)
    args.is_starter = True


def starter_dir(program: str) -> Path:
    """The directory of the model that comes with the package; says on standard error that it is used."""
    print(f"{program}: {STARTER} listens, as no MODEL-DIR is given: {DIGITS}", file=sys.stderr)
    return DIGITS


def stdin_stream(wavs: Sequence[str]) -> IO[bytes] | None:
    """Standard input, if one of the files stands for it.

    Raises:
        UsageError: more than one does, or it is closed.
    """
    count = sum(wav == STDIN for wav in wavs)
    if count > 1:
        raise UsageError(f"{STDIN}: standard input holds one file, and can be read once")
    if count and sys.stdin is None:
        raise UsageError(f"{STDIN}: standard input is closed")
    return sys.stdin.buffer if count else None


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    action = group_of(parser, MODEL).add_argument(
        "--device", default="", metavar="NAME", help="cpu or cuda, also cuda:1 [cuda if there is one]"
    )
    suggest(action, ("cpu", "cuda"))


def add_cmvn_source(parser: argparse.ArgumentParser) -> None:
    """Add ``--cmvn-from``."""
    group_of(parser, SPEAKERS).add_argument(
        "--cmvn-from",
        choices=CMVN_SOURCES,
        default="auto",
        help="CMVN statistics of the speakers, for a model with --cmvn speaker: of DATA-DIR/cmvn.scp, or computed from "
        "the speaker's waveforms; auto: of cmvn.scp if it fits the model's features [auto]",
    )


def add_speaker_sources(parser: argparse.ArgumentParser) -> None:
    """Add where a data directory's speakers are known from."""
    add_cmvn_source(parser)
    group_of(parser, SPEAKERS).add_argument(
        "--transform-dir",
        type=directory,
        metavar="DIR",
        help="fMLLR transforms of the speakers, for a model trained on alignments that have some: trans.* of DATA-DIR, "
        "as steps/decode_fmllr.sh and steps/align_fmllr.sh leave them",
    )
    add_ivector_dir(parser)


def add_ivector_dir(parser: argparse.ArgumentParser) -> None:
    """Add ``--online-ivector-dir``."""
    group_of(parser, SPEAKERS).add_argument(
        "--online-ivector-dir",
        type=directory,
        metavar="DIR",
        help="i-vectors that the network's input has, for a model trained with such: ivector_online.scp and "
        "ivector_period, as steps/online/nnet2/extract_ivectors_online.sh leaves them",
    )


def sources_of(args: argparse.Namespace) -> Sources:
    """What :func:`add_speaker_sources` or :func:`add_speaker` added."""
    from kaldi_uq.recogniser.speakers import Sources

    found = {"transform_dir": args.transform_dir, "ivector_dir": args.online_ivector_dir}
    return Sources(cmvn_from=args.cmvn_from, **found) if hasattr(args, "cmvn_from") else Sources(**found)


def add_speaker(parser: argparse.ArgumentParser) -> None:
    """Add who speaks in WAV files: ``--speaker`` and the directories in which he is looked up."""
    group_of(parser, SPEAKERS).add_argument(
        "--transform-dir",
        type=directory,
        metavar="DIR",
        help="for a model trained on features with fMLLR: directory with the trans.* of the speaker",
    )
    add_ivector_dir(parser)
    group_of(parser, SPEAKERS).add_argument(
        "--speaker",
        metavar="SPK",
        help="who speaks in all of the files, as these directories name him: a speaker, or for i-vectors an utterance",
    )


def add_model_arguments(parser: argparse.ArgumentParser, *configs: type[Config]) -> None:
    """Add what decoding with a model needs: device, draws, engine, and the flags of the configurations."""
    add_network_arguments(parser)
    add_engine(parser)
    add_config_file(parser, DecodeConfig, *configs)
    add_flags_once(parser, *configs, DecodeConfig)


def add_data_and_graph(parser: argparse.ArgumentParser) -> None:
    """Add the positional arguments DATA-DIR, MODEL-DIR, GRAPH-DIR."""
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR", help="data directory, with wav.scp and text")
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR", help="model, such as exp/dnn")
    parser.add_argument(
        "graph_dir", type=directory_or_none, metavar="GRAPH-DIR", help="decoding graph, such as exp/dnn/graph"
    )
    add_speaker_sources(parser)
    add_audio(parser)


def read_data_for(args: argparse.Namespace, recogniser: BaseRecogniser, out: Path, *, text: bool = False) -> DataDir:
    """The data directory of a command, as its recogniser can use it; see :func:`kaldi_uq.cli.options.read_data`.

    Args:
        args: with ``data_dir``, ``max_bad`` and ``allow_pipes``.
        recogniser: what will listen.
        out: the output directory or archive.
        text: the directory must have transcripts.
    """
    need = ("wav.scp", "utt2spk", *(("text",) if text else ()))
    rate, shortest = recogniser.sample_rate, recogniser.min_samples
    return read_data(args, out, need=need, sample_rate=rate, min_samples=shortest)


def directory_or_none(text: str) -> Path | None:
    """An argparse type: an existing directory, or ``-`` for none."""
    return None if text == "-" else directory(text)


def open_recogniser(
    args: argparse.Namespace, *, work_dir: Path | None = None, words: bool = True, num_draws: int | None = None
) -> BaseRecogniser:
    """Open the recogniser of a command, on its device.

    Args:
        args: with what :func:`add_network_arguments` adds and ``model_dir``; ``graph_dir``, ``lang_dir`` and the
            engine if the command has them, and what :func:`add_speaker` adds if it has that.
        work_dir: the command's output directory, for logs and lattices of an engine that runs jobs.
        words: whether the command needs words.
        num_draws: draws, instead of ``args.num_draws``.

    Raises:
        ModelFileError: a file is missing.
        UsageError: draws are asked for and the model is not random, or the named code fails.
    """
    from kaldi_uq.recogniser.base import BaseRecogniser
    from kaldi_uq.recogniser.recogniser import Recogniser

    use_all_cores()
    draws = args.num_draws if num_draws is None else num_draws
    speaker = getattr(args, "speaker", None)
    if hasattr(args, "speaker") and (speaker is None) == bool(args.transform_dir or args.online_ivector_dir):
        raise UsageError(
            "--speaker and --transform-dir (or --online-ivector-dir) go together: who, and looked up where"
        )
    if args.recogniser:
        make = load_object(args.recogniser)
        with mistakes_named(args.recogniser):
            recogniser = make if isinstance(make, BaseRecogniser) else make(args.model_dir)
        if not isinstance(recogniser, BaseRecogniser):
            raise UsageError(f"{args.recogniser}: expected a recogniser, got {type(recogniser).__name__}")
        if speaker:
            raise UsageError(f"--speaker: {args.recogniser} is told nothing of speakers; leave it out")
        recogniser.code = split_name(args.recogniser)[0]
        recogniser.num_draws = draws or recogniser.num_draws
        if getattr(args, "lattice_statistics", False):
            raise UsageError("--lattice-statistics is for a hybrid model: other recognisers make no lattices")
        return recogniser
    try:
        recogniser = Recogniser.load(
            args.model_dir,
            graph_dir=getattr(args, "graph_dir", None),
            lang_dir=getattr(args, "lang_dir", None),
            engine=engine_of(args, work_dir) if hasattr(args, "engine") else None,
            device=_device(args),
            decode=config_from(args, DecodeConfig) if hasattr(args, "known_fields") else None,
            num_draws=draws or None,
            network=load_object(args.network) if args.network else None,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    recogniser.lattice_statistics = getattr(args, "lattice_statistics", False)
    if args.network:
        recogniser.code = split_name(args.network)[0]
    if words and recogniser.why_no_words:
        raise ModelFileError(recogniser.why_no_words)
    return recogniser.of_speaker(sources_of(args), speaker) if speaker else recogniser


def _device(args: argparse.Namespace) -> str:
    """The device that is asked for; shards without one of their own take turns on the GPUs of a machine."""
    import torch

    shard, requested = shard_of(args) if getattr(args, "shard", None) else None, str(args.device)
    if shard is None or requested not in ("", "cuda") or torch.cuda.device_count() < 2:
        return requested
    return f"cuda:{(shard.number - 1) % torch.cuda.device_count()}"


def use_all_cores() -> None:
    """As many threads as cores, unless OMP_NUM_THREADS says otherwise: batches are computed by one process."""
    import torch

    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def model_name(model_dir: Path) -> str:
    """The name under which results are filed: the directory's, ``exp/dnn`` is ``dnn``."""
    return Path(os.path.abspath(model_dir)).name
