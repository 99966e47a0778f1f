"""Made-up results of a run, small enough to check every number of a report against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kaldi_uq.report.examples import Example
from kaldi_uq.results.table import Results
from kaldi_uq.results.word_errors import ErrorRate

COMMAND = "recipes/tidigits/run.sh --preset mini --seed 0"
NUM_UTTS = 40
PGD_AREAS = {"dnn": 0.61, "ensemble": 0.97}


def benign_line(number: int, **statistics: float) -> dict[str, Any]:
    return {
        "utt": f"test{number:03d}",
        "text": "one two",
        "hypothesis": "one two",
        "errors": {"ins": 0, "del": 0, "sub": 0, "num_words": 2},
        "statistics": statistics,
    }


def attack_line(number: int, eps: float, **statistics: float) -> dict[str, Any]:
    return {
        "utt": f"test{number:03d}",
        "eps": eps,
        "target": "six",
        "original": "one two",
        "hypothesis": "six",
        "target_errors": {"ins": 0, "del": 0, "sub": 0, "num_words": 1},
        "original_errors": {"ins": 0, "del": 1, "sub": 1, "num_words": 2},
        "snr_db": 21.5,
        "statistics": statistics,
    }


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def sample(seed: int, shift: float, num_utts: int = NUM_UTTS) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "max_predictive_entropy": generator.normal(2 + shift, 0.5, num_utts),
        "mean_predictive_entropy": generator.normal(0.3 + 0.2 * shift, 0.1, num_utts),
    }


def attack_row(model: str, attack: str, eps: float, target: float | None = 0.8) -> dict[str, Any]:
    return {
        "model": model,
        "attack": attack,
        "eps": eps,
        "num_utts": NUM_UTTS,
        "target_accuracy": target,
        "original_accuracy": -0.125,
        "snr_db_mean": 21.46,
        "checks": [],
    }


def detection_row(model: str, attack: str, eps: float, statistic: str, area: float, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "attack": attack,
        "eps": eps,
        "statistic": statistic,
        "auroc": area,
        "auroc_ci95": [area - 0.01, min(1.0, area + 0.01)],
        "tpr_at_fpr_1pct": 0.25,
        **more,
    }


def fill(results: Results) -> None:
    """Two models; a weak attack, a strong one and one without a target that nothing here knows by name."""
    results.set_environment({"seed": 0, "engine": "embedded", "device": "cpu"})
    results.add_timing("train", 12.3456)
    for model in ("ensemble", "dnn"):
        results.set_clean(model, ErrorRate(1, 2, 3, 1000, 300))
        for eps in (0.02, 0.05):
            results.add_attack(attack_row(model, "pgd", eps))
        results.add_attack(attack_row(model, "paper-pgd", 0.02, target=0.26))
        results.add_attack(attack_row(model, "mine", 0.02, target=None))
        for statistic in ("mean_predictive_entropy", "max_predictive_entropy"):
            area = PGD_AREAS[model] if statistic.startswith("max") else 0.985
            results.add_detection(
                [
                    detection_row(model, "pgd", 0.02, statistic, area),
                    detection_row(model, "paper-pgd", 0.02, statistic, 0.993),
                    detection_row(model, "mine", 0.02, statistic, 0.55),
                    detection_row(model, "pgd", 0.02, statistic, 0.314, detector="kde", sided="two"),
                ]
            )


def write_exp(path: Path) -> Path:
    """An ``exp`` with results and with the lines of one attack on one model."""
    fill(Results(path / "results.json"))
    for name, seed in (("fit", 1), ("test", 2)):
        table = sample(seed, 0.0)
        lines = [benign_line(i, **{k: float(v[i]) for k, v in table.items()}) for i in range(NUM_UTTS)]
        write_lines(path / "dnn" / f"score_{name}" / "results.jsonl", lines)
    table = sample(3, 1.0)
    lines = [attack_line(i, 0.02, **{k: float(v[i]) for k, v in table.items()}) for i in range(NUM_UTTS)]
    write_lines(path / "dnn" / "attack_pgd_eps0.02" / "results.jsonl", lines)
    return path


def make_example(**changes: Any) -> Example:
    rate = 8000
    time_s = np.arange(rate) / rate
    values: dict[str, Any] = {
        "utt": "test<003>",
        "model": "dnn",
        "attack": "pgd",
        "eps": 0.02,
        "rate": rate,
        "original_samples": 0.5 * np.sin(2 * np.pi * 440 * time_s),
        "attacked_samples": 0.5 * np.sin(2 * np.pi * 440 * time_s) + 0.02,
        "original": "one & two",
        "target": "six",
        "hypothesis": "six",
        "attacked_entropy": np.linspace(0, 2, 98),
        "original_entropy": np.linspace(1, 0, 98),
        "original_words": [("one", 0.1, 0.4), ("two", 0.5, 0.9)],
        "hypothesis_words": [("six", 0.2, 0.8)],
        "snr_db": 23.4,
    }
    return Example(**{**values, **changes})
