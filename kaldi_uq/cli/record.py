"""Record in results.json how a run was made: its environment and the seconds that its stages took."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from datetime import datetime, timezone
from pathlib import Path

from kaldi_uq import __version__
from kaldi_uq.cli.model_options import add_device
from kaldi_uq.cli.options import add_engine, engine_of, non_negative_int
from kaldi_uq.errors import UsageError
from kaldi_uq.io.files import read_json
from kaldi_uq.results.table import Results
from kaldi_uq.results.word_errors import ErrorRate

# what is there where PyTorch could find a GPU: NVIDIA's driver, that of Windows for Linux in it, and AMD's
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, metavar="RESULTS-JSON", help="results.json to add to")
    parser.add_argument("--timing", action="append", default=[], metavar="STAGE=SECONDS", help="seconds of a stage")
    parser.add_argument("--finished", default="", metavar="NAME", help="with --timing: what these stages do, done now")
    parser.add_argument("--environment", action="store_true", help="record engine, versions, device, seed and options")
    parser.add_argument("--clean", action="append", default=[], metavar="NAME=WER-JSON", help="clean score of a system")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="option of the run")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the run [0]")
    add_device(parser)
    add_engine(parser)


def run(args: argparse.Namespace) -> None:
    results = Results(args.results)
    if args.environment:
        engine = engine_of(args)
        names = ("torch", "torchaudio", "numpy", "scikit-learn")
        versions = {name: importlib.metadata.version(name) for name in names}
        results.set_environment(
            {
                "engine": engine.name,
                "versions": {"kaldi_uq": __version__, "python": platform.python_version()}
                | versions
                | engine.versions(),
                "device": _device(args.device),
                "seed": args.seed,
                "options": dict(_pair(text) for text in args.option),
            }
        )
    for text in args.clean:
        name, path = _pair(text)
        counts = read_json(path)
        results.set_clean(name, ErrorRate.from_counts(counts, num_utts=counts["num_utts"]))
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    for text in args.timing:
        stage, seconds = _pair(text)
        try:
            results.add_timing(stage, float(seconds), name=args.finished, finished=now if args.finished else "")
        except ValueError:
            raise UsageError(f"--timing {text}: expected STAGE=SECONDS") from None


def _device(requested: str) -> str:
    """Name of the device of a run; PyTorch, which takes a second to import, is asked where there is a choice."""
    if requested == "cpu" or (not requested and not any(os.path.exists(driver) for driver in GPU_DRIVERS)):
        return "cpu"
    import torch

    from kaldi_uq.recogniser.hybrid import select_device

    return torch.cuda.get_device_name() if select_device(requested).type == "cuda" else "cpu"


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"expected NAME=VALUE, got {text!r}")
    return name, value
