"""What the commands around Gaussian mixture systems share: their options, and a data directory with its transcripts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from kaldi_uq.cli.options import add_engine, add_jobs, add_pipes, engine_of, start_logging
from kaldi_uq.config import Config, add_config_file, add_config_flags
from kaldi_uq.engine.base import Engine
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.feats_dir import gmm_features


def add_gmm_arguments(parser: argparse.ArgumentParser, config: type[Config]) -> None:
    """Add pipes, engine, jobs, and the flags of the configuration."""
    add_pipes(parser)
    add_engine(parser)
    add_jobs(parser)
    add_config_file(parser, config)
    add_config_flags(parser, config)


@dataclass(frozen=True)
class GmmInput:
    """The engine that was asked for, and the data directory that it works on."""

    engine: Engine
    data: DataDir
    allow_pipes: bool

    @classmethod
    def read(cls, args: argparse.Namespace, work_dir: Path, *, need_text: bool = True) -> GmmInput:
        """Start the log and read ``args.data_dir``; ``work_dir`` is for the engine's own logs and lattices.

        Raises:
            DataError: a file of the directory is missing, or is not what it should be.
        """
        start_logging()
        threadpool_limits(1)  # many small products: threads would only wait for each other
        engine = engine_of(args, work_dir)
        need = ("utt2spk", "feats.scp", "cmvn.scp", *(("text",) if need_text else ()))
        return cls(engine, DataDir.read(args.data_dir, need=need), args.allow_pipes)

    def features(self) -> Iterator[tuple[str, np.ndarray]]:
        """Features of each utterance, (T, 3 D) float32: speaker mean subtracted, derivatives appended."""
        return gmm_features(self.data, allow_pipes=self.allow_pipes)
