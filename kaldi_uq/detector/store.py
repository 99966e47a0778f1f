"""Detector files: plain JSON that is checked value by value and can never run code."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from kaldi_uq.detector.base import KINDS, QUANTILES, STD_FLOOR, OneClassDetector
from kaldi_uq.detector.fields import read_matrix, read_number, require_fields
from kaldi_uq.detector.normal import FILE_NAME as FRAME_QUANTILES
from kaldi_uq.errors import DataError, did_you_mean
from kaldi_uq.io.files import read_json, write_json
from kaldi_uq.results.names import DETECTOR_DIR, GATE

log = logging.getLogger(__name__)

FORMAT = "kaldi-uq-detector"
VERSION = 1
FIELDS = ("format", "version", "kind", "statistics", "fpr", "threshold", "model")
BENIGN_FIELDS = {"mean": "benign_mean", "std": "benign_std", "scores": "benign_scores"}  # -> attribute


def save_detector(detector: OneClassDetector, path: str | os.PathLike[str]) -> None:
    """Write a fitted detector, with its threshold if it has one, atomically.

    Raises:
        ValueError: the class of the detector has no ``@register``, so that nobody could load the file.
    """
    if KINDS.get(detector.kind) is not type(detector):
        raise ValueError(f"{type(detector).__name__} is not registered: put @register above the class")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": detector.kind,
        "statistics": list(detector.statistics),
        "fpr": detector.fpr,
        "threshold": detector.threshold,
        "model": detector.state(),
    }
    if len(detector.benign_scores):  # not of a detector that was read from a file without them
        content["benign"] = {field: getattr(detector, name).tolist() for field, name in BENIGN_FIELDS.items()}
    write_json(path, content)


def load_detector(path: str | os.PathLike[str], statistic: str = "") -> OneClassDetector:
    """Read a detector written by :func:`save_detector`.

    Args:
        path: its file, or a model directory such as ``exp/dnn``, which has several.
        statistic: name of the detector of a directory; default: that of :func:`default_detector`.

    Raises:
        DataError: the file is missing, is not a detector, or holds a value that no fitted detector has.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "detector" / f"{statistic}.json" if statistic else default_detector(path)
        if not path.is_file():
            raise DataError(f"{path}: no such detector; kaldi-uq fit-detector makes it of benign speech")
    content = read_json(path)
    try:
        return _from_content(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def default_detector(model_dir: str | os.PathLike[str], recommended: str = "") -> Path:
    """The file of the detector that judges by default: of all statistics together.

    A directory that was fitted before there was this detector has that of the recommended statistic, which is taken
    instead; the log says so.

    Args:
        model_dir: such as ``exp/dnn``; whether it has any detector is not checked.
        recommended: name of that statistic; default: by the kind of model, of a network from elsewhere
            ``mean_predictive_entropy``.
    """
    folder = Path(model_dir) / "detector"
    path = folder / f"{GATE}.json"
    if path.is_file():
        return path
    other = folder / f"{recommended or _recommended(Path(model_dir))}.json"
    if not other.is_file():
        return path
    log.warning("%s: no such detector; %s, of one statistic, judges instead: fit again for it", path, other.name)
    return other


def choose_detector(model_dir: Path, statistic: str | None = None, *, recommended: str = "") -> Path:
    """The file of a model's detector by its name, or of the one that judges by default.

    Raises:
        DataError: there is none; the message says which there are.
    """
    folder = model_dir / DETECTOR_DIR
    path = folder / f"{statistic}.json" if statistic else default_detector(model_dir, recommended)
    if path.is_file() and path.parent == folder:
        return path
    found = sorted(p.stem for p in folder.glob("*.json") if p.name != FRAME_QUANTILES)
    there = f"; there are {', '.join(found)}{did_you_mean(path.stem, found)}" if found else ""
    raise DataError(f"{path}: no such detector; kaldi-uq fit-detector makes it of benign speech{there}")


def _recommended(model_dir: Path) -> str:
    """The statistic that is recommended for the model of a directory, by its kind."""
    from kaldi_uq.nnet.config import model_class
    from kaldi_uq.recogniser.hybrid import kind_of

    kind = kind_of(model_dir)
    return model_class(kind).recommended_statistic if kind else "mean_predictive_entropy"


def _from_content(content: Any) -> OneClassDetector:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f'not a detector file: expected an object with "format": "{FORMAT}"')
    if content.get("version") != VERSION:
        raise DataError(f"version {content.get('version')!r:.40} of the detector format; this release reads {VERSION}")
    require_fields(content, (*FIELDS, "benign") if "benign" in content else FIELDS)
    kind, statistics, model = content["kind"], content["statistics"], content["model"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise DataError(f"field 'kind' must be one of {', '.join(KINDS)}, got {kind!r:.40}")
    if not isinstance(statistics, list) or not statistics or not all(isinstance(name, str) for name in statistics):
        raise DataError("field 'statistics' must be a list of names")
    if len(set(statistics)) != len(statistics):
        raise DataError("field 'statistics' names a statistic twice")
    if not isinstance(model, dict):
        raise DataError("field 'model' must be an object")
    detector = KINDS[kind].from_state(statistics, model)
    if (content["fpr"] is None) != (content["threshold"] is None):
        raise DataError("fields 'fpr' and 'threshold' must both be numbers or both be null")
    if content["threshold"] is not None:
        detector.fpr = read_number(content, "fpr", low=0.0, high=1.0)
        detector.threshold = read_number(content, "threshold")
    if "benign" in content:
        _read_benign(detector, content["benign"])
    else:  # early releases did not keep it
        detector.describe_again()
    return detector


def _read_benign(detector: OneClassDetector, benign: Any) -> None:
    if not isinstance(benign, dict):
        raise DataError("field 'benign' must be an object")
    require_fields(benign, tuple(BENIGN_FIELDS))
    for field, attribute in BENIGN_FIELDS.items():
        size = len(QUANTILES) if field == "scores" else len(detector.statistics)
        setattr(detector, attribute, read_matrix(benign, field, (size,)))
    if (detector.benign_std < STD_FLOOR).any():
        raise DataError(f"field 'std' must be >= {STD_FLOOR}, got {detector.benign_std.min()}")
