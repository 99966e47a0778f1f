"""Attacks by name, as configuration files describe them: ``pgd``, ``paper-pgd``, ``decoder-margin``, ...

The files are those of the digit recipe, which the package brings; this is the one place where a preset's options stand.

>>> preset("paper-pgd", eps=0.05).config.num_steps
40
>>> preset("strong")
Traceback (most recent call last):
ValueError: no attack preset 'strong': there are adaptive, ... untargeted; did you mean 'strongest'?
"""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaldi_uq.attacks.config import ATTACK_CONFIGS, AdaptiveConfig
from kaldi_uq.config import Config, read_option_file
from kaldi_uq.errors import did_you_mean
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.scripts import share

if TYPE_CHECKING:  # names and files need no torch
    from kaldi_uq.attacks.attack import Attack
    from kaldi_uq.detector import OneClassDetector

PAPER = "paper-pgd"

# what else has a file in conf: features and acoustic models
_NO_ATTACKS = re.compile("|".join(["mfcc.*", "fbank.*", "robust.*", *map(re.escape, MODEL_KINDS)]))


def attack_files(conf: Path) -> dict[str, Path]:
    """The attacks that have a file in a directory ``conf``, the paper's in ``conf/paper``: name -> file."""
    found = {path.stem: path for path in sorted(conf.glob("*.conf")) if not _NO_ATTACKS.fullmatch(path.stem)}
    paper = conf / "paper" / "pgd.conf"
    return {**found, PAPER: paper} if paper.is_file() else found


def presets() -> tuple[str, ...]:
    """Names of the attacks that the package brings, in alphabetical order."""
    return tuple(sorted(attack_files(_conf())))


def preset_file(name: str) -> Path:
    """The file of a preset.

    Raises:
        ValueError: there is none; the message has the nearest name and all.
    """
    known = attack_files(_conf())
    if name not in known:
        raise ValueError(f"no attack preset {name!r}: there are {', '.join(sorted(known))}{did_you_mean(name, known)}")
    return known[name]


def preset_options(name: str) -> dict[str, Any]:
    """What a preset sets: fields of the ``ATTACK_CONFIGS``, with their values.

    Raises:
        ValueError: there is no such preset.
    """
    return _read(preset_file(name))


def knows_detectors(file: Path) -> bool:
    """Whether the attack of a file has to pass detectors."""
    return bool(_SEARCH & set(_read(file)))


def preset(name: str, *, detectors: Sequence[OneClassDetector] = (), **options: Any) -> Attack:
    """The attack of a preset.

    Args:
        name: one of :func:`presets`.
        detectors: those to pass, with a threshold, of a preset that knows them.
        options: further fields of its configuration, such as ``eps``; they win.

    Raises:
        ValueError: there is no such preset, an option is out of range, or detectors are missing or not known.
        TypeError: an option that the attack does not have.
    """
    from kaldi_uq.attacks.adaptive import Adaptive
    from kaldi_uq.attacks.attack import ATTACKS

    values = {**preset_options(name), **options}
    if knows_detectors(preset_file(name)):
        if not detectors:
            raise ValueError(f"preset {name} knows the detectors that it has to pass: name them, detectors=[...]")
        search = AdaptiveConfig(**{n: v for n, v in values.items() if n in _SEARCH})
        return Adaptive(detectors, search=search, **{n: v for n, v in values.items() if n not in _SEARCH})
    if detectors:
        raise ValueError(f"preset {name} knows no detector: leave detectors out, or take preset adaptive")
    kinds = [ATTACKS.get("pgd"), *(ATTACKS.get(n) for n in ATTACKS.names() if ATTACKS.get(n).asked_by)]
    kind = next(k for k in kinds if set(preset_options(name)) <= _names(k.Config))
    return kind(**values)


def _read(file: Path) -> dict[str, Any]:
    return read_option_file(file, {n: typing.get_type_hints(c)[n] for c in ATTACK_CONFIGS for n in _names(c)})


def _names(config: type[Config]) -> set[str]:
    return {field.name for field in fields(config)}


def _conf() -> Path:
    return share().joinpath("recipes", "tidigits", "conf")


_SEARCH = _names(AdaptiveConfig)
