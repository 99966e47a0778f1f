"""``results.jsonl``: one line an utterance, for benign sets and for attacks."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kaldi_uq.errors import DataError
from kaldi_uq.io.files import read_json_lines
from kaldi_uq.results.word_errors import ErrorRate

FloatArray = npt.NDArray[np.float64]
_ATTACK_DIR = re.compile(r"attack_(?P<attack>.+)_eps(?P<eps>[0-9]+(\.[0-9]+)?(e-?[0-9]+)?)")


@dataclass(frozen=True)
class BenignRecord:
    """A benign utterance as a model recognised and measured it.

    Args:
        utt: utterance id.
        text, hypothesis: what was said, what was recognised.
        errors: counts against ``text``.
        statistics: uncertainty statistics of the utterance by name.
    """

    utt: str
    text: str
    hypothesis: str
    errors: ErrorRate
    statistics: dict[str, float]


@dataclass(frozen=True)
class AttackRecord:
    """An attacked utterance.

    Args:
        utt: utterance id.
        eps: bound of the perturbation, full scale 1.
        target, original, hypothesis: what the attacker wants recognised (empty if nothing in particular), what was
            said, what was recognised.
        target_errors, original_errors: counts against ``target`` (None without one) and against ``original``.
        snr_db: signal to perturbation ratio; None if there is no perturbation.
        statistics: uncertainty statistics of the utterance by name.
        movable: whether there was anything that the attack was allowed to change: eps was a step of 16-bit audio.
        passes: whether the detectors that the attack knows pass it; None if it knows none.
    """

    utt: str
    eps: float
    target: str
    original: str
    hypothesis: str
    target_errors: ErrorRate | None
    original_errors: ErrorRate
    snr_db: float | None
    statistics: dict[str, float]
    movable: bool = True
    passes: bool | None = None

    @property
    def success(self) -> bool:
        """Whether the recogniser wrote down the target word for word; without one, anything but what was said.

        An utterance that could not be attacked is none that fell.
        """
        if not self.movable:
            return False
        if self.target_errors is None:
            return self.original_errors.errors > 0
        return self.target_errors.errors == 0


def read_benign(path: str | os.PathLike[str]) -> list[BenignRecord]:
    """Read the ``results.jsonl`` of a benign set.

    Raises:
        DataError: the file is missing, or a line lacks a field; the message has the line number.
    """
    return [
        BenignRecord(
            utt=line.text("utt"),
            text=line.text("text"),
            hypothesis=line.text("hypothesis"),
            errors=line.errors("errors"),
            statistics=line.statistics(),
        )
        for line in _lines(Path(path))
    ]


def read_attacked(path: str | os.PathLike[str]) -> list[AttackRecord]:
    """Read the ``results.jsonl`` of an attack directory.

    Raises:
        DataError: the file is missing, or a line lacks a field; the message has the line number.
    """
    return [
        AttackRecord(
            utt=line.text("utt"),
            eps=line.number("eps"),
            target=line.text("target") if line.has("target") else "",
            original=line.text("original"),
            hypothesis=line.text("hypothesis"),
            target_errors=line.errors("target_errors") if line.has("target_errors") else None,
            original_errors=line.errors("original_errors"),
            # JSON has no infinity, but Python writes and reads one
            snr_db=line.number("snr_db") if line.values.get("snr_db") not in (None, math.inf) else None,
            statistics=line.statistics(),
            movable=movable(line.values),
            passes=bool(line.values["passes"]) if line.has("passes") else None,
        )
        for line in _lines(Path(path))
    ]


def movable(line: Mapping[str, Any]) -> bool:
    """Whether the attack of a line was allowed to change anything; one with eps 0 is a baseline that counts as it is.

    >>> movable({"eps": 0.02, "eps_used": 0.0}), movable({"eps": 0.02}), movable({"eps": 0.0, "eps_used": 0.0})
    (False, True, True)
    """
    return bool(line.get("eps") == 0 or line.get("eps_used") != 0)


def by_speaker(
    records: Iterable[BenignRecord | AttackRecord], utt2spk: Mapping[str, str]
) -> dict[str, dict[str, float | None]]:
    """What a set of utterances comes to for each speaker, in alphabetical order.

    Args:
        records: all of a benign set, or all of an attack.
        utt2spk: utt -> speaker.

    Returns:
        speaker -> ``num_utts``, and of an attack ``success``, the share of utterances that have what it wants, and
        ``snr_db_mean`` (``None``: nothing was added), of a benign set ``accuracy`` of the words (``None``: no word was
        spoken).

    Raises:
        DataError: an utterance without a speaker.
    """
    grouped: dict[str, list[BenignRecord | AttackRecord]] = {}
    for record in records:
        if record.utt not in utt2spk:
            raise DataError(f"utt2spk has no utterance {record.utt!r}, which results.jsonl holds")
        grouped.setdefault(utt2spk[record.utt], []).append(record)
    found: dict[str, dict[str, float | None]] = {}
    for spk in sorted(grouped):
        row: dict[str, float | None] = {"num_utts": len(grouped[spk])}
        attacked = [record for record in grouped[spk] if isinstance(record, AttackRecord)]
        if attacked:
            snr = [record.snr_db for record in attacked if record.snr_db is not None]
            row["success"] = float(np.mean([record.success for record in attacked]))
            row["snr_db_mean"] = float(np.mean(snr)) if snr else None
        else:
            rate = sum((r.errors for r in grouped[spk] if isinstance(r, BenignRecord)), ErrorRate())
            row["accuracy"] = rate.accuracy if rate.num_words else None
        found[spk] = row
    return found


def accuracy_interval(rates: Sequence[ErrorRate], *, num_bootstrap: int = 1000) -> list[float]:
    """The 95 % interval of the word accuracy of a set: percentiles of resamples of whole utterances.

    The words of an utterance are not independent of each other, utterances are.

    Args:
        rates: one an utterance, at least one with a word.
        num_bootstrap: resamples; the same rates always have the same.

    Returns:
        [low, high].

    >>> accuracy_interval([ErrorRate(num_words=3, num_utts=1)] * 5)
    [1.0, 1.0]
    """
    counts = np.array([(rate.errors, rate.num_words) for rate in rates])
    picks = np.random.default_rng(0).integers(len(counts), size=(num_bootstrap, len(counts)))
    errors, words = counts[picks].sum(axis=1).T
    found = 1 - errors[words > 0] / words[words > 0]
    return [float(edge) for edge in np.quantile(found, (0.025, 0.975))]


class Measured(Protocol):
    """What has statistics: a record of this module, or a :class:`kaldi_uq.recogniser.base.Heard`."""

    @property
    def statistics(self) -> dict[str, float]: ...


def statistics_table(records: Iterable[Measured]) -> dict[str, FloatArray]:
    """Statistics by name, ``(B,)`` each, in the order of the records.

    Args:
        records: records of one model, such as ``recogniser.hear(waves).values()``.

    Raises:
        DataError: two utterances do not have the same statistics.
    """
    rows = [record.statistics for record in records]
    for number, row in enumerate(rows):
        different = sorted(set(row) ^ set(rows[0]))
        if different:
            names = [getattr(record, "utt", index) for index, record in enumerate(records)]
            raise DataError(
                f"utterances {names[0]!r} and {names[number]!r} do not have the same statistics ({different[0]!r} is "
                "in one only); score them again in one run"
            )
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in (rows[0] if rows else ())}


def attack_of(attack_dir: str | os.PathLike[str]) -> tuple[str, float]:
    """Attack and eps, from the name of an attack directory.

    Raises:
        DataError: it is not named ``attack_<name>_eps<eps>``.

    >>> attack_of("exp/dnn/attack_pgd_eps0.02")
    ('pgd', 0.02)
    """
    match = _ATTACK_DIR.fullmatch(Path(os.path.abspath(attack_dir)).name)
    if not match:
        raise DataError(f"{attack_dir}: expected a directory named attack_<name>_eps<eps>, such as attack_pgd_eps0.02")
    return match["attack"], float(match["eps"])


def attack_dirs(model_dir: str | os.PathLike[str]) -> list[tuple[str, float, Path]]:
    """The attack directories of a model that hold results: attack, eps and path, sorted.

    ``attack_pgd_eps0.02`` is attack ``pgd``, eps 0.02.
    """
    found = []
    for path in Path(model_dir).glob("attack_*"):
        match = _ATTACK_DIR.fullmatch(path.name)
        if match and (path / "results.jsonl").is_file():
            found.append((match["attack"], float(match["eps"]), path))
    return sorted(found)


class _Line:
    """One JSON object with its place, for messages."""

    def __init__(self, where: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise DataError(f"{where}: expected a JSON object")
        self.where, self.values = where, values

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def _typed(self, name: str, kind: type | tuple[type, ...], what: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"{self.where}: field {name!r} must be {what}, found {value!r:.60}")
        return value

    def text(self, name: str) -> str:
        return str(self._typed(name, str, "a text"))

    def number(self, name: str) -> float:
        value = self._typed(name, (int, float), "a number")
        try:
            value = float(value)
        except OverflowError:  # an integer beyond every float
            value = math.inf
        if not math.isfinite(value):
            raise DataError(f"{self.where}: field {name!r} is {value}; score that utterance again or leave it out")
        return value

    def errors(self, name: str) -> ErrorRate:
        try:
            return ErrorRate.from_counts(self._typed(name, dict, "an object of counts"))
        except ValueError as error:
            raise DataError(f"{self.where}: field {name!r}: {error}") from None

    def statistics(self) -> dict[str, float]:
        inner = _Line(f"{self.where}: statistics", self._typed("statistics", dict, "an object of numbers"))
        return {name: inner.number(name) for name in inner.values}


def _lines(path: Path) -> Iterator[_Line]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    seen: set[str] = set()
    for number, values in read_json_lines(path):
        line = _Line(f"{path}:{number}", values)
        if line.text("utt") in seen:
            raise DataError(f"{line.where}: utterance {line.text('utt')!r} is there twice")
        seen.add(line.text("utt"))
        yield line
