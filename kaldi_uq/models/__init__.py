"""Models that come with the package: whatever takes the directory of a model takes one of these.

>>> from kaldi_uq.models import DIGITS
>>> (DIGITS / "final.safetensors").is_file()
True
"""

from pathlib import Path

# Digit strings in English, oh and zero to nine; 16 kHz.  MODEL_CARD.md in it says what it was made of, what it can
# do and what it is not for.
DIGITS = Path(__file__).resolve().parent / "digits"

STARTER = "the digit model of the package"  # the name of DIGITS in messages
