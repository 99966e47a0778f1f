"""How a corpus gets onto the disk: the options that the corpora share, resuming, parallel work, tables, stamp.

Imported by the prepare_*.py scripts beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from digits import SETS, Counts
from tqdm import tqdm

from kaldi_uq.cli.main import interrupted
from kaldi_uq.cli.parser import OneLineParser, ParagraphFormatter
from kaldi_uq.errors import DataError, KaldiUqError, UsageError
from kaldi_uq.io.datadir import write_data_dir, write_table
from kaldi_uq.io.files import DoneStamp, digest, read_json, write_json
from kaldi_uq.io.wav import read_wav, write_wav


class Utterance(Protocol):
    """What is asked of an utterance of a plan: where it goes, who speaks, and the words."""

    @property
    def set_name(self) -> str: ...

    @property
    def utt(self) -> str: ...

    @property
    def spk(self) -> str: ...

    @property
    def text(self) -> str: ...


Render = Callable[[Any], np.ndarray]  # of an utterance

# Part of the options: to be raised when a change of the code changes the waveforms of the same options.
VERSION = 2


def make_parser(description: str | None, presets: Mapping[str, Counts]) -> OneLineParser:
    """A parser with the options that all the corpora have."""
    parser = OneLineParser(description=description, formatter_class=ParagraphFormatter)
    parser.add_argument("out", metavar="<out-data-dir>", help="gets train, fit, test, attack and wav; e.g. data")
    sizes = "; ".join(f"{name}: {' '.join(str(counts[s]) for s in SETS)}" for name, counts in presets.items())
    parser.add_argument(
        "--preset", choices=sorted(presets), default="mini", help=f"size of {', '.join(SETS)} ({sizes}; default mini)"
    )
    for name in SETS:
        parser.add_argument(f"--num-{name}", type=int, metavar="N", help=f"size of {name}, not the preset's")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default 0)")
    parser.add_argument(
        "--nj", type=int, default=len(os.sched_getaffinity(0)), help="processes; changes no result (default all CPUs)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def counts_of(args: argparse.Namespace, presets: Mapping[str, Counts]) -> Counts:
    """Utterances of each set: the preset's, or those of the --num options."""
    if args.nj < 1:
        raise UsageError(f"--nj must be 1 or more, got {args.nj}")
    if args.seed < 0:
        raise UsageError(f"--seed must be 0 or more, got {args.seed}")
    counts = dict(presets[args.preset])
    for name in SETS:
        value = getattr(args, f"num_{name}")
        if value is not None:
            if value < 1:
                raise UsageError(f"--num-{name} must be 1 or more, got {value}")
            counts[name] = value
    return counts


def run_script(parser: OneLineParser, work: Callable[[argparse.Namespace], None]) -> int:
    """Parse, work, and turn an error into one line and exit status 1."""
    args = parser.parse_args()
    print(parser.prog, *sys.argv[1:], file=sys.stderr)
    try:
        work(args)
    except KeyboardInterrupt:
        interrupted(parser.prog)
    except (KaldiUqError, OSError, ValueError) as error:
        if args.debug:
            raise
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def write_corpus(
    out: str | os.PathLike[str],
    utterances: Sequence[Utterance],
    render: Render,
    *,
    sample_rate: int,
    options: dict[str, Any],
    nj: int,
    tables: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Make the waveforms that are not there yet, then the data directories, then the stamp.

    Args:
        out: the data directory of the corpus.
        utterances: the plan.
        render: makes (N,) int16 of an utterance; a function that can be pickled, and depends on nothing else.
        sample_rate: Hz.
        options: JSON-able values that determine plan and waveforms, the name of the corpus among them.
        nj: processes.
        tables: further files for ``out``, name -> table.
    """
    out = Path(out)
    options = options | {"sample_rate": sample_rate, "version": VERSION}
    wavs = {u.utt: out / "wav" / u.set_name / f"{u.utt}.wav" for u in utterances}
    if len(wavs) < len(utterances):
        raise ValueError("two utterances have the same id")
    # One name for all corpora: whoever prepares another one in the same place makes this one out of date.  The tables
    # hold the path of the directory as it was given; the waveforms do not depend on it.
    stamp = DoneStamp(out, "corpus", options=options | {"out": str(out)})
    if stamp.is_current() and all(path.is_file() for path in wavs.values()):
        print(f"{out}: done before with the same options, nothing to do")
        return
    _clear_other_options(out, options)
    stamp.clear()
    whole = {utt: _num_samples(path, sample_rate) for utt, path in wavs.items()}
    todo = [u for u in utterances if not whole[u.utt]]
    if len(todo) < len(utterances):
        print(f"{out}: {len(utterances) - len(todo)} of {len(utterances)} waveforms are there, with the same options")
    jobs = [(u, str(wavs[u.utt])) for u in todo]
    made = _parallel(functools.partial(_make_wav, render, sample_rate), jobs, nj)
    for utt, length in tqdm(made, total=len(jobs), desc=str(options["corpus"]), unit="utt", disable=None):
        whole[utt] = length
    for set_name in SETS:
        chosen = [u for u in utterances if u.set_name == set_name]
        write_data_dir(
            out / set_name,
            wav_scp={u.utt: str(wavs[u.utt]) for u in chosen},
            text={u.utt: u.text for u in chosen},
            utt2spk={u.utt: u.spk for u in chosen},
            utt2dur={u.utt: whole[u.utt] / sample_rate for u in chosen},
        )
    for name, table in (tables or {}).items():
        write_table(out / name, table)
    stamp.write()
    for set_name in SETS:
        chosen = [u for u in utterances if u.set_name == set_name]
        hours = sum(whole[u.utt] for u in chosen) / sample_rate / 3600
        print(f"{out / set_name}: {len(chosen)} utterances, {len({u.spk for u in chosen})} speakers, {hours:.2f} hours")


def _make_wav(render: Render, sample_rate: int, job: tuple[Utterance, str]) -> tuple[str, int]:
    utterance, path = job
    samples = render(utterance)
    write_wav(path, samples, sample_rate)
    return utterance.utt, len(samples)


def _parallel(function: Callable[[Any], Any], jobs: Sequence[Any], nj: int) -> Iterator[Any]:
    if nj == 1 or len(jobs) < 2:
        yield from map(function, jobs)
        return
    # Fresh interpreters: a fork would copy whatever threads and libraries this process has by now.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(nj, len(jobs)), mp_context=context, initializer=_end_with_parent) as pool:
        try:
            yield from pool.map(function, jobs, chunksize=max(1, min(32, len(jobs) // (4 * nj))))
        except BrokenProcessPool:
            raise KaldiUqError("a worker process was killed (out of memory?); run again, with a smaller --nj") from None


def _end_with_parent() -> None:
    """In a worker: end when the process that started it has ended, which a worker that waits for work cannot see."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _num_samples(path: Path, sample_rate: int) -> int:
    """Length of a waveform that an earlier run wrote; 0 if there is none, or no whole one."""
    try:
        return len(read_wav(path, expected_rate=sample_rate)[0])
    except DataError:
        return 0


def _clear_other_options(out: Path, options: dict[str, Any]) -> None:
    """Remove what a run with other options made: its waveforms and tables, and what was computed from them."""
    record = out / "wav" / "options.json"
    key = digest(options)
    previous = read_json(record).get("key") if record.is_file() else None
    # Names that start with a dot and end in .tmp are what a killed atomic write leaves.
    leftovers = [path for name in SETS for path in (out / "wav" / name).glob(".*.tmp")]
    if previous != key:
        for name in SETS:
            if previous is None and (out / name / "wav.scp").exists():
                raise DataError(f"{out / name}: was made by something else; remove it or choose another directory")
            leftovers += (out / "wav" / name).glob("*.wav")
            for pattern in ("wav.scp", "text", "spk2utt", "utt2*", "feats.scp", "cmvn.scp", ".done.*"):
                leftovers += (out / name).glob(pattern)
            for split in (out / name).glob("split[0-9]*"):
                shutil.rmtree(split)
    for path in leftovers:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    write_json(record, {"key": key, "options": json.loads(json.dumps(options))})
