"""Detector files: plain JSON that is checked value by value and can never run code."""

from __future__ import annotations

import os
from typing import Any

from kaldi_uq.detector.base import OneClassDetector
from kaldi_uq.detector.density import IsolationForestDetector, KernelDensityDetector
from kaldi_uq.detector.fields import read_number, require_fields
from kaldi_uq.detector.gaussian import GaussianDetector, MultivariateGaussianDetector
from kaldi_uq.errors import DataError
from kaldi_uq.io.files import read_json, write_json

FORMAT = "kaldi-uq-detector"
VERSION = 1
_CLASSES: tuple[type[OneClassDetector], ...] = (
    GaussianDetector,
    MultivariateGaussianDetector,
    KernelDensityDetector,
    IsolationForestDetector,
)
KINDS: dict[str, type[OneClassDetector]] = {cls.kind: cls for cls in _CLASSES}


def save_detector(detector: OneClassDetector, path: str | os.PathLike[str]) -> None:
    """Write a fitted detector, with its threshold if it has one, atomically."""
    write_json(
        path,
        {
            "format": FORMAT,
            "version": VERSION,
            "kind": detector.kind,
            "statistics": list(detector.statistics),
            "fpr": detector.fpr,
            "threshold": detector.threshold,
            "model": detector.state(),
        },
    )


def load_detector(path: str | os.PathLike[str]) -> OneClassDetector:
    """Read a detector written by :func:`save_detector`.

    Raises:
        DataError: the file is missing, is not a detector, or holds a value that no fitted detector has.
    """
    try:
        content = read_json(path)
    except (RecursionError, ValueError):  # lists nested too deep, or an integer of too many digits
        raise DataError(f"{path}: not a detector file") from None
    try:
        return _from_content(content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _from_content(content: Any) -> OneClassDetector:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f'not a detector file: expected an object with "format": "{FORMAT}"')
    if content.get("version") != VERSION:
        raise DataError(f"version {content.get('version')!r:.40} of the detector format; this release reads {VERSION}")
    require_fields(content, ("format", "version", "kind", "statistics", "fpr", "threshold", "model"))
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
    return detector
