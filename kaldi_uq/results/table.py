"""``exp/results.json``: one file that every stage adds its numbers to, and its compressed form for safekeeping."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import read_json, write_json
from kaldi_uq.results.names import attack_key, check_key, detector_key, model_key, statistic_key
from kaldi_uq.results.word_errors import ErrorRate

Row = Mapping[str, Any]
# what every row of a section has, in this order; further fields are kept behind them
_DETECTION = ("model", "attack", "eps", "statistic", "auroc", "auroc_ci95", "tpr_at_fpr_1pct")
FIELDS = {
    "attacks": ("model", "attack", "eps", "num_utts", "target_accuracy", "original_accuracy", "snr_db_mean", "checks"),
    "detection": _DETECTION,
    "detection_other": _DETECTION,
    "transfer": (
        "source", "model", "attack", "eps", "num_utts", "target_accuracy", "target_success", "original_accuracy"
    ),
    "worst": ("model", "attack", "eps", "num_utts", "attacks", "success", "success_ci95"),
    "negatives": (
        "model", "kind", "level", "num_utts", "accuracy", "statistic", "sided", "fpr", "fpr_at_threshold", "auroc"
    ),
    "certified": ("model", "eps", "num_utts", "against_target", "against_any", "right"),
}  # fmt: skip
_CHECK_FIELDS = ("passed", "value", "limit", "remedy")
_SECTIONS: dict[str, type] = {
    "environment": dict, "timing_s": dict, "stages": dict, "clean": dict, **dict.fromkeys(FIELDS, list), "checks": dict
}  # fmt: skip
_DEFAULT_DETECTOR = ("gaussian", "two")


class Results:
    """Reads and updates ``results.json``.

    Every method reads the file, changes it and moves the new one into place while it holds a lock, so that stages of
    several processes can add to it.  A row replaces the row of the same key, and rows are kept in one order, so that
    a rerun gives the same file but for its timings.

    ``detection`` holds the rows of the paper's detector, the two-sided Gaussian, one a model, attack, eps and
    statistic.  Rows of other detectors are kept in ``detection_other``, with the same fields.

    Args:
        path: the file; it need not exist yet.  Where only ``<path>.gz`` exists, as :meth:`pack` makes it, that is read.

    Raises:
        DataError: the file exists but does not have these sections.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.packed = self.path.with_name(f"{self.path.name}.gz")
        self.read()

    def exists(self) -> bool:
        """Whether there is a file, compressed or not."""
        return self.path.is_file() or self.packed.is_file()

    def read(self) -> dict[str, Any]:
        """The whole content; the sections are there even if the file is not."""
        packed = not self.path.exists() and self.packed.exists()
        content = read_json(self.packed if packed else self.path, finite=True) if packed or self.path.exists() else {}
        if not isinstance(content, dict):
            raise DataError(f"{self.path}: expected a JSON object, found {type(content).__name__}")
        for name, kind in _SECTIONS.items():
            if not isinstance(content.setdefault(name, kind()), kind):
                raise DataError(f"{self.path}: section {name!r} must be a {kind.__name__}; remove the file and rerun")
        return content

    def pack(self) -> bytes:
        """The content as ``results.json.gz``: every number as it is, no white space, no date."""
        text = json.dumps(self.read(), separators=(",", ":"), allow_nan=False)
        return gzip.compress(text.encode(), mtime=0)

    def set_environment(self, environment: Row) -> None:
        """Replace the environment."""
        with self._update() as content:
            content["environment"] = {key: environment[key] for key in sorted(environment)}

    def add_timing(self, stage: str, seconds: float, *, name: str = "", finished: str = "") -> None:
        """Set the wall-clock seconds of a stage, what it does, and when it was finished (ISO 8601)."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"seconds of stage {stage!r} must be finite and >= 0, got {seconds}")
        self._set("timing_s", stage, round(float(seconds), 3), str)
        if name or finished:
            self._set("stages", stage, {"name": name, "finished": finished}, str)

    def set_clean(self, model: str, rate: ErrorRate, by_speaker: Mapping[str, Row] | None = None) -> None:
        """Set a model's accuracy on the benign test set, and that of each speaker (:func:`by_speaker`)."""
        more = {"by_speaker": {spk: dict(row) for spk, row in by_speaker.items()}} if by_speaker else {}
        self._set("clean", model, rate.to_dict() | more, model_key)

    def add_attack(self, row: Row) -> None:
        """Add an attack's row, or replace the one of the same model, attack and eps.

        With a row that differs goes all that was measured on the earlier examples: detection, transfer, negatives and
        the model's checks.

        Args:
            row: ``model``, ``attack``, ``eps``, ``num_utts``, ``target_accuracy`` (None: no target),
                ``original_accuracy``, ``snr_db_mean`` (infinite or None where nothing was added; stored as null),
                ``checks``; further fields are kept.
        """
        checked = _checked(row, "attacks")
        if checked["snr_db_mean"] is not None and math.isinf(checked["snr_db_mean"]):
            checked["snr_db_mean"] = None  # JSON has no infinity
        with self._update() as content:
            earlier = next((r for r in content["attacks"] if _attack_key(r) == _attack_key(checked)), None)
            if earlier is not None and earlier != json.loads(json.dumps(checked)):
                _forget(content, checked)
            content["attacks"] = _upsert(content["attacks"], [checked], _attack_key)

    def add_detection(
        self,
        rows: Iterable[Row],
        *,
        model: str | None = None,
        attack: str | None = None,
        eps: float | None = None,
    ) -> None:
        """Add detection rows, or replace those of the same model, attack, eps, statistic, detector and side.

        Args:
            rows: as :func:`kaldi_uq.detector.evaluate_detection` gives them.  Without ``detector`` and ``sided`` a
                row counts as the paper's.
            model, attack, eps: set in every row if given.
        """
        given = {"model": model, "attack": attack, "eps": eps}
        common = {name: value for name, value in given.items() if value is not None}
        default = dict(zip(("detector", "sided"), _DEFAULT_DETECTOR, strict=True))
        checked = [_checked({**default, **row, **common}, "detection") for row in rows]
        with self._update() as content:
            for section, is_default in (("detection", True), ("detection_other", False)):
                mine = [r for r in checked if ((r["detector"], r["sided"]) == _DEFAULT_DETECTOR) == is_default]
                content[section] = _upsert(content[section], mine, _detection_key)

    def add_transfer(self, row: Row) -> None:
        """Add what the examples of one model do to another, or replace the row of the same two, attack and eps.

        Args:
            row: ``source`` (the model that was attacked), ``model`` (that listens; the source itself is a row too),
                ``attack``, ``eps``, ``num_utts``, ``target_accuracy`` and ``target_success`` (None: no target),
                ``original_accuracy``; further fields are kept.
        """
        checked = _checked(row, "transfer")
        with self._update() as content:
            content["transfer"] = _upsert(content["transfer"], [checked], _transfer_key)

    def add_worst(self, row: Row) -> None:
        """Add a worst case over attacks, or replace the row of the same model, name and eps.

        Args:
            row: ``model``, ``attack`` (the name of the worst case), ``eps``, and what
                :func:`kaldi_uq.results.worst_case.worst_case` gives.
        """
        checked = _checked(row, "worst")
        with self._update() as content:
            content["worst"] = _upsert(content["worst"], [checked], _attack_key)

    def add_negatives(self, rows: Iterable[Row]) -> None:
        """Add rows of benign but hard audio, or replace those of the same model, kind, level, statistic and side.

        Args:
            rows: ``model``, ``kind`` (white, babble, reverb, gain, uniform, or clean: the undisturbed set), ``level``
                (SNR in dB, RT60 in seconds, gain in dB, or eps; 0 for clean), ``num_utts``, ``accuracy`` (of the
                words), ``statistic``, ``sided``, ``fpr`` (that the threshold is for), ``fpr_at_threshold`` (share of
                these utterances above the threshold), ``auroc``: a list of ``{"attack", "eps", "auroc"}``, how well
                the score tells each attack from this audio; further fields are kept.
        """
        checked = [_checked(row, "negatives") for row in rows]
        with self._update() as content:
            content["negatives"] = _upsert(content["negatives"], checked, _negatives_key)

    def add_certified(self, rows: Iterable[Row]) -> None:
        """Add shares of certified utterances, or replace those of the same model and eps.

        Args:
            rows: ``model``, ``eps``, ``num_utts``, ``against_target`` (share of utterances of which no change within
                eps makes the recogniser write the target), ``against_any`` (that it always writes the same), ``right``
                (and that is what is spoken); further fields are kept.
        """
        checked = [_checked(row, "certified") for row in rows]
        with self._update() as content:
            content["certified"] = _upsert(content["certified"], checked, _certified_key)

    def set_checks(self, model: str, checks: Mapping[str, Row]) -> None:
        """Set what the checks over all attacks on a model say: name -> ``passed``, ``value``, ``limit``, ``remedy``."""
        for name, check in checks.items():
            missing = [field for field in _CHECK_FIELDS if field not in check]
            if missing:
                raise ValueError(f"check {name!r} of model {model!r} has no {', '.join(missing)}")
        self._set("checks", model, {name: dict(checks[name]) for name in sorted(checks, key=check_key)}, model_key)

    def _set(self, section: str, name: str, value: Any, key: Callable[[str], Any]) -> None:
        with self._update() as content:
            entries = {**content[section], name: value}
            content[section] = {name: entries[name] for name in sorted(entries, key=key)}

    @contextlib.contextmanager
    def _update(self) -> Iterator[dict[str, Any]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A file of its own: the results file is replaced, and a lock on the old one would lock nobody out.
        with open(self.path.with_name(f".{self.path.name}.lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self.read()
            yield content
            write_json(self.path, content)


def _checked(row: Row, section: str) -> dict[str, Any]:
    fields, what = FIELDS[section], section.removesuffix("s")
    missing = [field for field in fields if field not in row]
    if missing:
        raise ValueError(f"{what} row has no {', '.join(missing)}; it has {', '.join(sorted(row))}")
    for field, value in row.items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{what} row of model {row['model']!r}: {field} is NaN")
    checked = dict(row) | {field: float(row[field]) for field in ("eps", "level") if field in fields}
    return {field: checked[field] for field in (*fields, *sorted(set(checked) - set(fields)))}


def _forget(content: dict[str, Any], attack: Row) -> None:
    """Remove what was measured on the examples of an attack."""
    model, name, eps = attack["model"], attack["attack"], attack["eps"]
    for section, whose in (("detection", "model"), ("detection_other", "model"), ("transfer", "source")):
        content[section] = [r for r in content[section] if (r[whose], r["attack"], r["eps"]) != (model, name, eps)]
    for row in content["negatives"]:
        if row["model"] == model:
            row["auroc"] = [entry for entry in row["auroc"] if (entry["attack"], entry["eps"]) != (name, eps)]
    content["checks"].pop(model, None)


def _attack_key(row: Row) -> Any:
    return model_key(row["model"]), attack_key(row["attack"]), row["eps"]


def _detection_key(row: Row) -> Any:
    return *_attack_key(row), statistic_key(row["statistic"]), detector_key(row)


def _transfer_key(row: Row) -> Any:
    return model_key(row["source"]), *_attack_key(row)


def _negatives_key(row: Row) -> Any:
    return model_key(row["model"]), row["kind"], row["level"], statistic_key(row["statistic"]), row["sided"]


def _certified_key(row: Row) -> Any:
    return model_key(row["model"]), row["eps"]


def _upsert(rows: list[dict[str, Any]], new: list[dict[str, Any]], key: Callable[[Row], Any]) -> list[dict[str, Any]]:
    by_key = {key(row): row for row in (*rows, *new)}
    return [by_key[k] for k in sorted(by_key)]
