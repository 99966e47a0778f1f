"""The committed results: RESULTS and the README say what the committed results.json files hold, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.report.summary import results_text
from kaldi_uq.results.names import CHECKS
from kaldi_uq.results.names import PAPER_STATISTIC as PAPER
from kaldi_uq.results.table import Results

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes/tidigits"
COMMANDS = {
    "synth_full": "run.sh --preset full --model-jobs 4 --nj 12",
    "fsdd_full": "run.sh --preset full --model-jobs 4 --nj 12 --corpus fsdd --corpus-dir DIR",
}


def results(run: str) -> dict[str, Any]:
    return Results(RECIPE / "results" / run / "results.json").read()


def test_results_file_is_made_from_the_results() -> None:
    """After a change of the tables: write what this compares with to recipes/tidigits/RESULTS."""
    texts = [results_text(results(run), command=command) for run, command in COMMANDS.items()]
    assert (RECIPE / "RESULTS").read_text(encoding="utf-8") == "\n\n".join(texts)


def test_results_file_of_the_commands_recipe_is_made_from_its_results() -> None:
    recipe = ROOT / "recipes/commands"
    content = Results(recipe / "results/results.json").read()
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
    detected = {(r["model"], r["attack"], r["eps"], r["statistic"]) for r in content["detection"]}
    for model in MODEL_KINDS:
        assert content["clean"][model]["num_utts"] == 1000
        for attack in ("pgd", "paper-pgd"):
            for eps in (0.0, 0.005, *(round(0.01 * step, 2) for step in range(1, 11))):
                assert found[model, attack, eps]["num_utts"] == (1000 if eps in (0.02, 0.05) else 100)
        for name in (
            "pgd-10",
            "pgd-25",
            "pgd-50",
            "pgd-100",
            "pgd-2x",
            "pgd-restarts",
            "fgsm",
            "nes",
            "psychoacoustic",
        ):
            assert found[model, name, 0.02]["num_utts"] == 100
        known = ["max_predictive_entropy", "mean_predictive_entropy"]
        known += [] if model == "dnn" else ["max_mutual_information", "max_akld"]
        for eps in (0.005, 0.01, 0.02, 0.05):
            assert (model, "pgd", eps, "max_predictive_entropy") in detected
            for statistic in known:
                assert (model, f"adaptive-{statistic}", eps, statistic) in detected
            assert model == "dnn" or (model, "adaptive-all", eps) in found
        assert {r["source"] for r in content["transfer"] if r["model"] == model} == set(MODEL_KINDS)
        kinds = [
            r["kind"] for r in content["negatives"] if (r["model"], r["statistic"], r["sided"]) == (model, PAPER, "two")
        ]
        assert {kind: kinds.count(kind) for kind in kinds} == {
            "clean": 1,
            "white": 4,
            "babble": 4,
            "reverb": 3,
            "uniform": 2,
        }
        of_several = set(list(CHECKS)[list(CHECKS).index("success_grows_with_eps") :])
        assert set(content["checks"][model]) >= of_several - (
            {"rescoring_agrees"} if model in ("dnn", "ensemble") else set()
        )


@pytest.mark.parametrize("run", COMMANDS)
def test_attacks_of_the_results_did_what_they_claim(run: str) -> None:
    content = results(run)
    for row in content["attacks"]:
        failed = {name for name, check in row["checks"].items() if not check["passed"]}
        # a step of 0.01 is larger than a small eps: there the loss of the paper's attack need not fall
        allowed = {"loss_falls"} if (row["attack"], row["eps"] <= 0.01) == ("paper-pgd", True) else set()
        assert failed <= allowed, (row["model"], row["attack"], row["eps"])
    strong = {r["eps"]: r["target_accuracy"] for r in content["attacks"] if (r["model"], r["attack"]) == ("dnn", "pgd")}
    assert strong[0.02] >= 0.97 and strong[0.05] >= 0.99


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
