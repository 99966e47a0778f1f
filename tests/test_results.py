"""The committed results: RESULTS and the README say what the committed results.json files hold, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kaldi_uq.io.files import read_json
from kaldi_uq.report.summary import results_text
from kaldi_uq.types import MODEL_KINDS

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes/tidigits"
COMMANDS = {
    "synth_full": "run.sh --preset full --model-jobs 4 --nj 12",
    "fsdd_full": "run.sh --preset full --model-jobs 4 --nj 12 --corpus fsdd --corpus-dir DIR",
}


def results(run: str) -> dict[str, Any]:
    content = read_json(RECIPE / "results" / run / "results.json")
    assert isinstance(content, dict)
    return content


def test_results_file_is_made_from_the_results() -> None:
    """After a change of the tables: write what this compares with to recipes/tidigits/RESULTS."""
    texts = [results_text(results(run), command=command) for run, command in COMMANDS.items()]
    assert (RECIPE / "RESULTS").read_text(encoding="utf-8") == "\n\n".join(texts)


def test_results_file_of_the_commands_recipe_is_made_from_its_results() -> None:
    recipe = ROOT / "recipes/commands"
    content = read_json(recipe / "results/results.json")
    text = (recipe / "RESULTS").read_text(encoding="utf-8")
    command = text.splitlines()[0].removeprefix("# ")
    assert command.startswith("run.sh --models 'dnn ensemble dropout bnn'")
    assert text == results_text(content, command=command)
    assert {(row["model"], row["attack"]) for row in content["attacks"]} == {
        (model, attack) for model in MODEL_KINDS for attack in ("pgd", "paper-pgd")
    }


@pytest.mark.parametrize("run", COMMANDS)
def test_results_hold_the_whole_experiment(run: str) -> None:
    content = results(run)
    found = {(r["model"], r["attack"], r["eps"]): r for r in content["attacks"]}
    for model in MODEL_KINDS:
        assert content["clean"][model]["num_utts"] == 1000
        for step in range(11):
            row = found[model, "paper-pgd", round(0.01 * step, 2)]
            assert row["num_utts"] == (1000 if step in (2, 5) else 100)
        for eps in (0.005, 0.01, 0.02, 0.05):
            assert found[model, "pgd", eps]["num_utts"] == 100
    for (model, attack, eps), row in found.items():
        assert all(check["passed"] for check in row["checks"].values()), (model, attack, eps)


def test_readme_table_holds_the_numbers_of_the_results() -> None:
    content = results("fsdd_full")
    attacks = {(r["attack"], r["model"]): r["target_accuracy"] for r in content["attacks"] if r["eps"] == 0.02}
    knows = "adaptive-max_predictive_entropy"
    evasion = {r["model"]: r["evasion"] for r in content["attacks"] if (r["attack"], r["eps"]) == (knows, 0.02)}
    auroc: dict[tuple[str, str], dict[str, float]] = {}
    for row in content["detection"]:
        if row["eps"] == 0.02:
            auroc.setdefault((row["attack"], row["model"]), {})[row["statistic"]] = row["auroc"]

    def line(label: str, values: list[float]) -> str:
        return f"| {label} | " + " | ".join(f"{value:.3f}" for value in values) + " |"

    def area(attack: str, statistic: str) -> list[float]:
        return [auroc[attack, model][statistic] for model in MODEL_KINDS]

    expected = [
        line("paper's attack: target accuracy", [attacks["paper-pgd", m] for m in MODEL_KINDS]),
        line(
            "paper's detector, maximum entropy", [auroc["paper-pgd", m]["max_predictive_entropy"] for m in MODEL_KINDS]
        ),
        line("mean entropy", [auroc["paper-pgd", m]["mean_predictive_entropy"] for m in MODEL_KINDS]),
        line("strong attack: target accuracy", [attacks["pgd", m] for m in MODEL_KINDS]),
        line("paper's detector, maximum entropy", area("pgd", "max_predictive_entropy")),
        line("best statistic, chosen afterwards", [max(auroc["pgd", m].values()) for m in MODEL_KINDS]),
        line("adaptive attack: target reached and detector passed", [evasion[m] for m in MODEL_KINDS]),
        line("paper's detector, maximum entropy", area(knows, "max_predictive_entropy")),
    ]
    table = re.findall(
        r"^\| (?:paper's|mean|strong|best|adaptive).*\|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert table == expected
