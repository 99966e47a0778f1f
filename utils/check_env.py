"""Whether the Python that runs this file has the package and what it needs.

usage: python3 utils/check_env.py [--import]

Prints the first thing that is wrong and exits with status 1.  Without --import the modules are only looked for, which
takes a few hundredths of a second; with it they are imported.  The working directory is not searched: a checkout counts
only if it is installed or on PYTHONPATH.
"""

import contextlib
import importlib
import importlib.util
import io
import sys

# What the default recipe imports; a test holds this list and setup.py together.
MODULES = (
    "kaldi_uq",
    "torch",
    "torchaudio",
    "kaldi_hmm_gmm",  # before kaldifst: with releases that do not match, the other order never returns
    "kaldifst",
    "kaldi_io",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "tqdm",
    "safetensors",
    "soundfile",
    "threadpoolctl",
)


def problem(really_import):
    """The first problem, in one line, or None."""
    if sys.version_info < (3, 10):
        return "Python %d.%d is too old, 3.10 is the oldest that is supported" % sys.version_info[:2]
    for name in MODULES:
        if importlib.util.find_spec(name) is None:
            return "module %s is missing" % name
    for name in MODULES if really_import else ():
        try:
            banner = io.StringIO()  # kaldi_io prints one
            with contextlib.redirect_stdout(banner), contextlib.redirect_stderr(banner):
                importlib.import_module(name)
        except (ImportError, OSError, AttributeError, RuntimeError) as error:  # OSError: a shared library
            return "module %s does not import: %s" % (name, " ".join(str(error).split()))
    return None


def main():
    """Check, say, exit."""
    if "--help" in sys.argv[1:]:
        print((__doc__ or "").strip())
        return 0
    if [a for a in sys.argv[1:] if a != "--import"]:
        sys.stderr.write("usage: python3 utils/check_env.py [--import]\n")
        return 1
    sys.path[:] = [entry for entry in sys.path[1:] if entry]  # [0] is the directory of this file
    found = problem("--import" in sys.argv[1:])
    if found:
        print(found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
