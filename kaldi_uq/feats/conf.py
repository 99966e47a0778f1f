"""Kaldi's configuration files, ``conf/mfcc.conf`` and ``conf/fbank.conf``: one ``--option=value`` a line.

Also the options that a recipe leaves beside its models: ``cmvn_opts``, ``delta_opts``, ``splice_opts``.

Source: Kaldi ``ParseOptions::ReadConfigFile`` (``src/util/parse-options.cc``).
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import TypeVar

from kaldi_uq.errors import DataError
from kaldi_uq.feats.config import FbankConfig, MfccConfig
from kaldi_uq.io.reading import text_lines

_ConfT = TypeVar("_ConfT", MfccConfig, FbankConfig)
_TRUE, _FALSE = ("true", "t", "1", ""), ("false", "f", "0")

_PROGRAMS: dict[type[MfccConfig] | type[FbankConfig], str] = {
    MfccConfig: "compute-mfcc-feats",
    FbankConfig: "compute-fbank-feats",
}

# Further options of these programs, and the values with which they have no effect.  VTLN needs a warp factor,
# which only a command line gives, so that its two frequencies have no effect whatever they are.
_WITHOUT_EFFECT = {
    "allow-downsample": _FALSE,
    "allow-upsample": _FALSE,
    "debug-mel": _FALSE,
    "max-feature-vectors": ("-1",),
    "min-duration": ("0", "0.0"),
    "output-format": ("kaldi",),
    "subtract-mean": _FALSE,
    "use-power": _TRUE,
    "vtln-high": None,
    "vtln-low": None,
}


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")


def convert(text: str, kind: object) -> bool | int | float | str:
    """Convert as Kaldi does; a ValueError says what is expected."""
    if kind in ("bool", bool):
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise ValueError("true or false")
    if kind in ("str", str):
        return text
    if kind in ("int", int):
        try:
            return int(text)
        except ValueError:
            raise ValueError("an integer") from None
    try:
        number = float(text)
    except ValueError:
        raise ValueError("a number") from None
    if not math.isfinite(number):
        raise ValueError("a finite number")
    return number


def _parse_line(
    text: str, where: str, config: type[MfccConfig] | type[FbankConfig]
) -> tuple[str, bool | int | float | str] | None:
    """The field and value of one line without its comment, None if it has no effect."""
    fields = {f.name: f.type for f in dataclasses.fields(config)}
    match = re.fullmatch(r"--([^=\s]+)\s*(=(.*))?", text)
    if not match:
        raise DataError(f"{where}: expected --option=value, found {text!r}")
    name = match[1].lower().replace("_", "-")
    value, field = (match[3] or "").strip(), name.replace("-", "_")
    if name in _WITHOUT_EFFECT:
        neutral = _WITHOUT_EFFECT[name]
        if neutral is None or value.lower() in neutral:
            return None
        raise DataError(f"{where}: --{name}={value} is not supported; remove it or set --{name}={neutral[0]}")
    if field not in fields:
        known = ", ".join(map(_option, fields))
        raise DataError(f"{where}: unknown option --{name}; known are {known}")
    if (match[2] and not value) or (not match[2] and fields[field] not in ("bool", bool)):
        raise DataError(f"{where}: --{name} has no value; write --{name}=VALUE")
    try:
        return field, convert(value, fields[field])
    except ValueError as error:
        raise DataError(f"{where}: --{name} must be {error}, got {value!r}") from None


def read_mfcc_conf(path: str | os.PathLike[str]) -> MfccConfig:
    """Read the options of ``compute-mfcc-feats``.

    As in Kaldi, ``#`` begins a comment, ``_`` in a name stands for ``-``, ``--flag`` alone is true, and the last
    line that names an option counts.

    Args:
        path: the file, UTF-8.

    Raises:
        DataError: the file is missing, or a line has an unknown option or a value that cannot work.
    """
    return _read_conf(path, MfccConfig)


def read_fbank_conf(path: str | os.PathLike[str]) -> FbankConfig:
    """Read the options of ``compute-fbank-feats``; as :func:`read_mfcc_conf`."""
    return _read_conf(path, FbankConfig)


def _read_conf(path: str | os.PathLike[str], config: type[_ConfT]) -> _ConfT:
    values: dict[str, bool | int | float | str] = {}
    places: dict[str, int] = {}
    for number, line in text_lines(path, hint=f"; it should hold the options of {_PROGRAMS[config]}"):
        text = line.split("#", 1)[0].strip()
        parsed = _parse_line(text, f"{path}:{number}", config) if text else None
        if parsed:
            values[parsed[0]] = parsed[1]
            places[parsed[0]] = number
    try:
        return config(**values)  # type: ignore[arg-type]
    except ValueError as error:
        # The message begins with the field, or names several; the first that the file sets is the line to look at.
        named = [name for name in re.findall(r"\w+", str(error)) if name in places]
        where = f"{path}:{places[named[0]]}" if named else f"{path}"
        raise DataError(f"{where}: {error}") from None
