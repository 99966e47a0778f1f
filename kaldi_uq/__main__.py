"""``python -m kaldi_uq COMMAND``: the same as the console script ``kaldi-uq``."""

import sys

from kaldi_uq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
