#!/usr/bin/env python3
"""torchrun, with what a log is for: a process that fails says why itself, one that is killed is named in one line.

Usage: python3 utils/torchrun.py [options of torchrun] --no-python <program> [<arg> ...]
"""

import logging
import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def run() -> int:
    """Run torchrun; its exit status."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what it does itself, with a warning
    logging.disable(logging.CRITICAL)
    try:
        main(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            # the line may have a progress bar of a process
            print(f"\ntorchrun: error: process {rank + 1} was killed by {name}, and the others ended", file=sys.stderr)
        return 1
    except SignalException as end:
        return 128 + int(end.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(run())
