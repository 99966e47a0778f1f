"""What a Kaldi recipe does to its features: ``cmvn_opts``, ``delta_opts``, ``splice_opts``, ``final.mat``, ``trans.*``.

``steps/train_*.sh`` of Kaldi write them into the directory of a GMM system, ``steps/align_*.sh`` copy them.  What is
done to features and not supported here is refused by the name of the file that says it.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from kaldi_uq.errors import DataError
from kaldi_uq.feats.conf import convert
from kaldi_uq.io.files import read_integers
from kaldi_uq.io.reading import text_lines

log = logging.getLogger(__name__)

LDA_FILE = "final.mat"
SUBSAMPLING_FILE = "frame_subsampling_factor"
SPLICE_DEFAULT = 4  # of Kaldi's splice-feats, on each side

# files that say what is done to features in a way that is not supported here
_REFUSED = {
    "raw_trans.1": "raw fMLLR (steps/align_raw_fmllr.sh)",
    "final.fmpe": "fMPE (steps/train_mmi_fmmi.sh)",
    "online_cmvn": "online CMVN (apply-cmvn-online)",
    "online_cmvn_opts": "online CMVN (apply-cmvn-online)",
    "final.feature_transform": "the input transform of a network of nnet1 (steps/nnet)",
}
# files that belong to features, and change nothing of those that are trained on here
_WITHOUT_EFFECT = {"full.mat": "the dimensions that LDA leaves out, which only raw fMLLR and projection take"}

# file -> option -> type of its value, or the only values that change nothing (None: all of them); others are refused
_KNOWN: dict[str, dict[str, Any]] = {
    "cmvn_opts": {
        "norm-means": bool,
        "norm-vars": bool,
        "reverse": ("false", "f", "0"),
        "utt2spk": None,
        "skip-dims": ("",),
    },
    "delta_opts": {"delta-window": int, "delta-order": int, "truncate": ("0",)},
    "splice_opts": {"left-context": int, "right-context": int},
}


def read_recipe_opts(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Fields of a ``FrontEndConfig`` that a recipe's directory determines.

    ``cmvn_opts``, which every GMM system of Kaldi has, stands for statistics of the speaker.  Where there is
    ``final.mat``, the features are of Kaldi's type "lda": spliced by ``splice_opts`` and transformed, without
    derivatives.  Where there are ``trans.*``, fMLLR follows.

    Args:
        directory: a directory such as ``exp/tri3_ali``.

    Returns:
        field -> value; empty if the directory has none of the files.

    Raises:
        DataError: an option that is not supported, or a value that cannot be; names the file.

    Source: Kaldi ``egs/wsj/s5/steps/train_deltas.sh``, ``train_lda_mllt.sh``, ``align_fmllr.sh``.
    """
    from kaldi_uq.io.ark import read_matrix
    from kaldi_uq.io.transforms import has_transforms

    folder = Path(directory)
    for name, what in _REFUSED.items():
        if (folder / name).exists():
            raise DataError(
                f"{folder / name}: {what} is not supported here; choose the front end with options and --opts-dir none"
            )
    for name, what in _WITHOUT_EFFECT.items():
        if (folder / name).exists():
            log.info("%s: has no effect here: %s", folder / name, what)
    cmvn, deltas, splice = (_options(folder / name, known) for name, known in _KNOWN.items())
    found: dict[str, Any] = {}
    if cmvn is not None:
        means, variances = cmvn.get("norm_means", True), cmvn.get("norm_vars", False)
        if variances and not means:
            raise DataError(f"{directory}/cmvn_opts: --norm-vars without --norm-means, which Kaldi has not either")
        found |= {"cmvn": "speaker" if means else "none", "norm_vars": variances}
    found |= deltas or {}
    if (folder / "delta_order").is_file():  # of nnet2
        found["delta_order"] = _integer(folder / "delta_order")
    if (folder / LDA_FILE).is_file():
        splice = splice or {}
        found |= {
            "delta_order": 0,
            "splice_left": splice.get("left_context", SPLICE_DEFAULT),
            "splice_right": splice.get("right_context", SPLICE_DEFAULT),
            "lda_dim": len(read_matrix(str(folder / LDA_FILE))),
        }
    if has_transforms(folder):
        found["fmllr"] = True
    return found


def read_subsampling(directory: str | os.PathLike[str]) -> int:
    """How many frames of the features an alignment has one label for: 1, or what ``frame_subsampling_factor`` says.

    Args:
        directory: alignments, such as those of an nnet3 or a chain model (factor 3).

    Raises:
        DataError: the file holds anything but one positive number.
    """
    path = Path(directory) / SUBSAMPLING_FILE
    factor = _integer(path) if path.is_file() else 1
    if factor < 1:
        raise DataError(f"{path}: expected a positive number, found {factor}")
    return factor


def _integer(path: Path) -> int:
    values = read_integers(path)
    if len(values) != 1:
        raise DataError(f"{path}: expected one integer, found {len(values)}")
    return values[0]


def _options(path: Path, known: dict[str, Any]) -> dict[str, Any] | None:
    """The options of a file as fields, without those that change nothing; ``None`` if there is no file."""
    if not path.exists():
        return None
    words = [word for _, line in text_lines(path) for word in line.split()]
    values: dict[str, Any] = {}
    for word in words:
        match = re.fullmatch(r"--([^=]+)(?:=(.*))?", word)
        name = match[1].lower().replace("_", "-") if match else ""
        if not match or name not in known:
            names = ", ".join(f"--{option}" for option in known)
            raise DataError(f"{path}: expected --option=value, of {names}; found {word!r}")
        value, kind = match[2] or "", known[name]
        if isinstance(kind, type):
            try:
                values[name.replace("-", "_")] = convert(value, kind)
            except ValueError as error:
                raise DataError(f"{path}: --{name} must be {error}, got {value!r}") from None
        elif kind is not None and value.lower() not in kind:
            raise DataError(
                f"{path}: {word} is not supported here; choose the front end with options and --opts-dir none"
            )
    return values
