"""Who speaks where torchrun has started several processes of a command and they fail."""

from __future__ import annotations

import os
import sys
import time

PATIENCE_S = 5.0  # torchrun ends the processes that are left a tenth of a second after it has seen one fail


def is_one_of_several() -> bool:
    """Whether torchrun has started this process and others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE") != "1"


def let_others_speak(*, is_lost: bool = False) -> None:
    """Let the first of the processes on this machine say what is wrong with all of them, or the lost one with it.

    If another one fails too, torchrun ends this one while it waits.

    Args:
        is_lost: it is another process that failed, which has said why if it could.
    """
    if is_one_of_several() and (is_lost or os.environ.get("LOCAL_RANK") != "0"):
        time.sleep(PATIENCE_S)
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the line may have a progress bar of the first process
