"""Read damaged files in a process whose memory and time are limited; a crash ends it, and the file is still there.

The input of a reader with a number is a function of the seed, so that one that fails can be read again:
``python -m tests.fuzz.worker DIRECTORY --only READER --first NUMBER --count 1``.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

from kaldi_uq.errors import KaldiUqError, printable
from tests.fuzz.mutate import mutate
from tests.fuzz.readers import Reader, make_readers

MEMORY = 1 << 30  # bytes, beyond what the process needs before it reads the first file
SECONDS = 20  # processor time for one input
WAIT_S = 300  # time for one input, of what waits instead of working, such as for a pipe
LONGEST_MESSAGE = 1500  # characters; tables of known options are long
_KEPT = 3  # inputs of one problem of one reader


def problem_of(reader: Reader) -> str:
    """What is wrong with the way in which a file is refused; empty if it is read, or refused as it should be."""
    try:
        reader.read()
    except KaldiUqError as error:
        message = str(error)
        if str(reader.about) not in message:
            return f"the message does not name the file: {type(error).__name__}: {message[:300]!r}"
        if message != printable(message) or len(message) > LONGEST_MESSAGE:
            return f"the message is not one line of text: {message[:300]!r} ({len(message)} characters)"
    except reader.also as error:
        if str(reader.about) not in f"{error} {getattr(error, 'filename', '')}":
            return f"the message does not name the file: {type(error).__name__}: {str(error)[:300]!r}"
    except Exception as error:  # noqa: BLE001 - which exceptions there are is the question
        place = traceback.extract_tb(error.__traceback__)[-1]
        ours = [entry for entry in traceback.extract_tb(error.__traceback__) if "kaldi_uq" in entry.filename]
        where = " < ".join(f"{Path(e.filename).name}:{e.lineno}" for e in (place, *reversed(ours[-2:])))
        return f"{type(error).__name__} at {where}: {str(error)[:200]!r}"
    return ""


def input_of(reader: Reader, seed: int, number: int) -> bytes:
    """The damaged file with this number."""
    rng = random.Random(f"{seed} {reader.name} {number}")
    return reader.pack(mutate(rng, rng.choice(reader.samples)))


def run(reader: Reader, out: Path, seed: int, numbers: range) -> tuple[dict[str, int], int]:
    """Read damaged files.

    Returns:
        problems with the number of the input, and how many files were read without an error.
    """
    problems: dict[str, int] = {}
    kinds: dict[str, int] = {}
    num_read = 0
    with open(out / "progress", "w", encoding="utf-8") as progress:
        for number in numbers:
            data = input_of(reader, seed, number)
            progress.seek(0)
            progress.write(f"{reader.name} {number:12d}\n")
            progress.flush()
            reader.path.write_bytes(data)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # both end the process if they are not set again
            signal.setitimer(signal.ITIMER_REAL, WAIT_S)
            problem = problem_of(reader)
            num_read += not problem
            kind = re.sub("'.*|[0-9]+", "", problem)
            if problem and kinds.setdefault(kind, 0) < _KEPT:
                kinds[kind] += 1
                (out / f"{reader.name}-{number}").write_bytes(data)
                problems[problem] = number
    for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
        signal.setitimer(timer, 0)
    reader.path.write_bytes(reader.pack(reader.samples[0]))
    return problems, num_read


def limit_memory() -> None:
    """Let the process have ``MEMORY`` more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="for the files, problems.jsonl and the inputs of problems")
    parser.add_argument("--count", type=int, default=20_000, help="inputs over all readers")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a regular expression of names of readers")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("error", RuntimeWarning)  # of NumPy: a number that overflows, or is none
    readers = [reader for reader in make_readers(args.directory / "files") if re.search(args.only, reader.name)]
    for reader in readers:
        for sample in reversed(reader.samples):
            reader.path.write_bytes(reader.pack(sample))
            reader.read()  # the files are good, and what is imported late is imported
    limit_memory()
    numbers = range(args.first, args.first + max(1, args.count // len(readers)))
    with open(args.directory / "problems.jsonl", "w", encoding="utf-8") as stream:
        for reader in readers:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            problems, num_read = run(reader, args.directory, args.seed, numbers)
            for problem, number in problems.items():
                stream.write(json.dumps({"reader": reader.name, "number": number, "problem": problem}) + "\n")
            seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
            print(f"{reader.name}: {num_read} of {len(numbers)} as they should be, {seconds:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
