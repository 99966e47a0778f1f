"""Whether the Python that runs this file has the package and what it needs.

usage: python3 utils/check_env.py [--import] [--package DIR]

Prints the first thing that is wrong and exits with status 1.  Without --import the modules are only looked for, which
takes a few hundredths of a second; with it they are imported.  With --package the package has to be the one in DIR, and
the wheels of the decoder, one of its extras, may be missing.  The working directory is not searched: a checkout counts
only if it is installed or on PYTHONPATH.
"""

import contextlib
import importlib
import importlib.util
import io
import os
import sys

# What the default recipe imports; a test holds these lists and setup.py together.
WHEELS = ("kaldi_hmm_gmm", "kaldifst")  # in this order: with releases that do not match, the other never returns
MODULES = (
    "kaldi_uq",
    "torch",
    *WHEELS,
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


def problem(really_import, package=None):
    """The first problem, in one line, or None."""
    if sys.version_info < (3, 10):
        return "Python %d.%d is too old, 3.10 is the oldest that is supported" % sys.version_info[:2]
    modules = [name for name in MODULES if package is None or name not in WHEELS]
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return "module %s is missing" % name
        if name == "kaldi_uq" and package is not None:
            found = os.path.dirname(spec.origin or "")
            if os.path.realpath(found) != os.path.realpath(package):
                return "its kaldi_uq is another copy, in %s" % found
    for name in modules if really_import else ():
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
    rest = [a for a in sys.argv[1:] if a != "--import"]
    if rest and (len(rest) != 2 or rest[0] != "--package"):
        sys.stderr.write("usage: python3 utils/check_env.py [--import] [--package DIR]\n")
        return 1
    sys.path[:] = [entry for entry in sys.path[1:] if entry]  # [0] is the directory of this file
    found = problem("--import" in sys.argv[1:], rest[1] if rest else None)
    if found:
        print(found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
