"""What a Kaldi recipe does to its features: the ``cmvn_opts``, ``delta_opts`` and ``splice_opts`` beside its models.

``steps/train_*.sh`` of Kaldi write them into the directory of a GMM system, ``steps/align_*.sh`` copy them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from kaldi_uq.errors import DataError
from kaldi_uq.feats.conf import convert
from kaldi_uq.io.reading import text_lines

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
    ``final.mat``, the recipe splices frames instead of adding derivatives; the transform itself (LDA, MLLT) is not
    applied, because the network is to learn its own.

    Args:
        directory: a directory such as ``exp/tri3_ali``.

    Returns:
        field -> value; empty if the directory has none of the files.

    Raises:
        DataError: an option that is not supported, or a value that cannot be; names the file.

    Source: Kaldi ``egs/wsj/s5/steps/train_deltas.sh``, ``train_lda_mllt.sh``.
    """
    cmvn, deltas, splice = (_options(Path(directory) / name, known) for name, known in _KNOWN.items())
    found: dict[str, Any] = {}
    if cmvn is not None:
        means, variances = cmvn.get("norm_means", True), cmvn.get("norm_vars", False)
        if variances and not means:
            raise DataError(f"{directory}/cmvn_opts: --norm-vars without --norm-means, which Kaldi has not either")
        found |= {"cmvn": "speaker" if means else "none", "norm_vars": variances}
    found |= deltas or {}
    if (Path(directory) / "final.mat").is_file():
        found |= {"delta_order": 0} | (splice or {})
    return found


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
