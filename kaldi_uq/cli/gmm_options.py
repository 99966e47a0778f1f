"""What the commands around Gaussian mixture systems share: their options, and a data directory with its transcripts."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kaldi_uq.cli.options import add_engine, add_jobs, add_pipes, engine_of, start_logging
from kaldi_uq.config import Config, add_config_file, add_config_flags
from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.lang import Lang

if TYPE_CHECKING:  # --help needs no numpy
    import numpy as np

    from kaldi_uq.engine.base import Engine


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
        from threadpoolctl import threadpool_limits

        start_logging()
        threadpool_limits(1)  # many small products: threads would only wait for each other
        engine = engine_of(args, work_dir)
        need = ("utt2spk", "feats.scp", "cmvn.scp", *(("text",) if need_text else ()))
        return cls(engine, DataDir.read(args.data_dir, need=need), args.allow_pipes)

    def features(self) -> Iterator[tuple[str, np.ndarray]]:
        """Features of each utterance, (T, 3 D) float32: speaker mean subtracted, derivatives appended."""
        from kaldi_uq.io.feats_dir import gmm_features

        return gmm_features(self.data, allow_pipes=self.allow_pipes)

    def stored_features(self) -> Mapping[str, np.ndarray]:
        """The same in a temporary file, for what reads them again and again."""
        from kaldi_uq.io.spool import Spool

        stored = Spool()
        for utt, feats in self.features():
            stored.put(utt, feats)
        return stored

    def transcripts(self, lang: Lang) -> dict[str, list[int]]:
        """Word-ids of each utterance to train on; words that ``lang`` does not know become its oov word.

        Raises:
            DataError: a word is not in the lexicon and there is no oov word, or no word at all is in the lexicon.
        """
        transcripts = lang.transcripts(self.data, map_oov=True)
        said = {word for utt in self.data.utts for word in self.data.words(utt)}
        if said and said.isdisjoint(lang.words):
            raise DataError(
                f"{self.data.path / 'text'}: none of its words ({', '.join(sorted(said)[:5])} ...) is in "
                f"{lang.path / 'words.txt'}; are they written alike, in capitals or not?"
            )
        return transcripts


def report_aligned(command: str, data: DataDir, aligned: Collection[str]) -> None:
    """Print how many utterances were aligned and which were not, which the scripts look for in the log."""
    failed = [utt for utt in data.utts if utt not in aligned]
    names = " ".join(failed[:20])
    print(f"kaldi-uq {command}: {len(data.utts) - len(failed)} utterances aligned, {len(failed)} failed {names}")
