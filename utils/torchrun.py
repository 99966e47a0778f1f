#!/usr/bin/env python3
"""torchrun, with one line of error: a process that fails has said why itself, one that is killed is named here.

Usage: python3 utils/torchrun.py [options of torchrun] --no-python <program> [<arg> ...]
"""

import logging
import os
import signal
import sys


def run() -> int:
    """Run torchrun; its exit status."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what it does itself, with a warning
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # or each lost connection is a page; read at the import
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import main

    logging.disable(logging.CRITICAL)
    try:
        main(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            tell(f"process {rank + 1} was killed by {signal.Signals(-failure.exitcode).name}, and the others ended")
        return 1
    except RendezvousError as error:
        tell(f"no connection with torchrun on another machine; its log says why ({type(error).__name__})")
        return 1
    except SignalException as end:
        return 128 + int(end.sigval)
    return 0


def tell(message: str) -> None:
    """Print an error."""
    start = "\n" if sys.stderr.isatty() else ""  # the line may have a progress bar of a process
    print(f"{start}torchrun: error: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run())
