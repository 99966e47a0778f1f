"""What a Kaldi recipe does to its features: the ``cmvn_opts``, ``delta_opts`` and ``splice_opts`` beside its models.

``steps/train_*.sh`` of Kaldi write them into the directory of a GMM system, ``steps/align_*.sh`` copy them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from kaldi_uq.errors import DataError

_BOOLEANS = {"true": True, "t": True, "1": True, "": True, "false": False, "f": False, "0": False}

# option -> the only values that change nothing; others are refused
_CMVN = {"norm-means": None, "norm-vars": None, "reverse": (False,), "utt2spk": None, "skip-dims": ("",)}
_DELTA = {"delta-window": None, "delta-order": None, "truncate": ("0",)}
_SPLICE = {"left-context": None, "right-context": None}


def read_recipe_opts(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Fields of a ``FrontEndConfig`` that a recipe's directory determines.

    ``cmvn_opts``, which every GMM system of Kaldi has, stands for statistics of the speaker.  Where there is
    ``final.mat``, the recipe splices frames instead of adding derivatives; the transform itself (LDA, MLLT) is not
    applied, because the network is to learn its own.

    Args:
        directory: such as ``exp/tri3_ali``.

    Returns:
        field -> value; empty if the directory has none of the files.

    Raises:
        DataError: an option that is not supported, or a value that cannot be; names the file.

    Source: Kaldi ``egs/wsj/s5/steps/train_deltas.sh``, ``train_lda_mllt.sh``.
    """
    directory = Path(directory)
    found: dict[str, Any] = {}
    cmvn = _options(directory / "cmvn_opts", _CMVN)
    if cmvn is not None:
        means, variances = (_flag(directory / "cmvn_opts", cmvn, name) for name in ("norm-means", "norm-vars"))
        if means is False and variances:
            raise DataError(f"{directory / 'cmvn_opts'}: --norm-vars without --norm-means, which Kaldi has not either")
        found |= {"cmvn": "none" if means is False else "speaker", "norm_vars": bool(variances)}
    deltas = _options(directory / "delta_opts", _DELTA)
    if deltas is not None:
        found |= _numbers(
            directory / "delta_opts", deltas, {"delta-order": "delta_order", "delta-window": "delta_window"}
        )
    splice = _options(directory / "splice_opts", _SPLICE)
    if (directory / "final.mat").is_file():
        names = {"left-context": "left_context", "right-context": "right_context"}
        found |= {"delta_order": 0} | _numbers(directory / "splice_opts", splice or {}, names)
    return found


def _options(path: Path, known: dict[str, Any]) -> dict[str, str] | None:
    """``--name=value`` words of a file, or ``None`` if there is no file."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error})") from None
    values: dict[str, str] = {}
    for word in words:
        match = re.fullmatch(r"--([^=]+)(?:=(.*))?", word)
        name = match[1].lower().replace("_", "-") if match else ""
        if not match or name not in known:
            names = ", ".join(f"--{option}" for option in known)
            raise DataError(f"{path}: expected --option=value, of {names}; found {word!r}")
        values[name] = match[2] or ""
        allowed = known[name]
        value: Any = _BOOLEANS.get(values[name].lower(), values[name]) if allowed == (False,) else values[name]
        if allowed is not None and value not in allowed:
            raise DataError(
                f"{path}: {word} is not supported here; choose the front end with options and --opts-dir none"
            )
    return values


def _flag(path: Path, values: dict[str, str], name: str) -> bool | None:
    if name not in values:
        return None
    try:
        return _BOOLEANS[values[name].lower()]
    except KeyError:
        raise DataError(f"{path}: --{name} must be true or false, got {values[name]!r}") from None


def _numbers(path: Path, values: dict[str, str], names: dict[str, str]) -> dict[str, int]:
    found = {}
    for option, field in names.items():
        if option in values:
            if not values[option].isdigit():
                raise DataError(f"{path}: --{option} must be a whole number, got {values[option]!r}")
            found[field] = int(values[option])
    return found
