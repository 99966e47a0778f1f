"""The committed results: RESULTS and the README say what the committed results hold, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.report.build import numbers
from kaldi_uq.report.run import Run
from kaldi_uq.results.names import CHECKS, model_name
from kaldi_uq.results.names import PAPER_STATISTIC as PAPER
from kaldi_uq.results.table import Results

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes/tidigits"
COMMANDS = {
    "synth_full": "run.sh --preset full --model-jobs 4 --nj 12",
    "fsdd_full": "run.sh --preset full --model-jobs 4 --nj 12 --corpus fsdd --corpus-dir DIR",
}
WORDS = (
    "run.sh --models 'dnn ensemble dropout bnn' --attacks 'pgd paper-pgd' --corpus-opts '--num-fit 200 --num-test 200 "
    "--num-attack 60' --nj 12 --model-jobs 4"
)
LEVEL = "--models 'dnn ensemble' --eps '0.01 0.02' --eps-level 0.05 --model-jobs 4 --nj 12"
ROBUST = {
    "synth_robust": f"run.sh --preset full {LEVEL}",
    "fsdd_robust": f"run.sh --preset full {LEVEL} --corpus fsdd --corpus-dir DIR",
}
# directory of results.json.gz -> the command that made them, which opens their part of RESULTS
RUNS = {RECIPE / "results" / run: command for run, command in (COMMANDS | ROBUST).items()}
RUNS[ROOT / "recipes/commands/results"] = WORDS
RUNS[ROOT / "recipes/large_vocabulary/results"] = (
    "run.sh --preset full --attacks 'pgd paper-pgd adaptive adaptive-all-joint' --nj 12 --model-jobs 4"
)


def results(run: str) -> dict[str, Any]:
    return Results(RECIPE / "results" / run / "results.json").read()


@pytest.fixture(scope="module")
def reports() -> dict[Path, dict[str, str]]:
    """What ``kaldi-uq report`` makes of each directory of committed results, by the names of its files."""
    contents = {directory: Results(directory / "results.json").read() for directory in RUNS}
    return {directory: numbers(Run(contents[directory]), command=command) for directory, command in RUNS.items()}


def test_committed_files_are_those_of_the_report(reports: dict[Path, dict[str, str]]) -> None:
    """After a change: write the files that ``kaldi-uq report`` makes of each run to its directory and to RESULTS."""
    texts: dict[Path, list[str]] = {}
    for directory, report in reports.items():
        recipe = ROOT / "recipes" / directory.relative_to(ROOT / "recipes").parts[0]
        texts.setdefault(recipe, []).append(report["RESULTS"])
        kept = {path.name for path in directory.iterdir() if path.suffix != ".png"}
        assert kept == {*report, "results.json.gz"} - {"RESULTS"}
        for name in kept - {"results.json.gz"}:
            assert report[name] == (directory / name).read_text(), f"{directory / name}"
    for recipe, parts in texts.items():
        assert (recipe / "RESULTS").read_text(encoding="utf-8") == "\n".join(parts), recipe


def test_command_makes_them_of_a_committed_directory(reports: dict[Path, dict[str, str]], tmp_path: Path) -> None:
    directory = ROOT / "recipes/commands/results"
    assert main(["report", "--command", RUNS[directory], str(directory), str(tmp_path)]) == 0
    for name, text in reports[directory].items():
        assert (tmp_path / name).read_text() == text


def test_results_file_is_a_page_that_a_person_reads(reports: dict[Path, dict[str, str]]) -> None:
    for directory, report in reports.items():
        lines = report["RESULTS"].splitlines()
        assert lines[0] == f"# {RUNS[directory]}" and len(lines) <= 150, directory


def test_committed_figures_are_those_that_the_readme_shows() -> None:
    shown = re.findall(r"!\[[^\]]+\]\((.*?\.png)\)", (RECIPE / "README.md").read_text())
    kept = {path for path in (ROOT / "recipes").rglob("*.png") if "runs" not in path.parts}  # those of a run here
    assert {RECIPE / name for name in shown} == kept


def test_results_of_the_commands_recipe_are_of_all_models() -> None:
    content = Results(ROOT / "recipes/commands/results/results.json").read()
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
    """The four models of the paper under bounds that are absolute, the robust ones under bounds at a level."""
    paper, robust = results("fsdd_full"), results("fsdd_robust")
    hardened = [f"{model}-robust" for model in ("dnn", "ensemble")]
    knows = "adaptive-max_predictive_entropy"

    def of(content: dict[str, Any], section: str, attack: str, value: str) -> dict[str, float]:
        return {
            row["model"]: row[value]
            for row in content[section]
            if (row["attack"], row["eps"]) == (attack, 0.02) and row.get("statistic", PAPER) == PAPER
        }

    def line(label: str, left: dict[str, float], right: dict[str, float]) -> str:
        values = [left.get(m) for m in MODEL_KINDS] + [right.get(m) for m in hardened]
        return f"| {label} |" + "".join(" |" if value is None else f" {value:.3f} |" for value in values)

    clean = [{m: content["clean"][m]["accuracy"] for m in content["clean"]} for content in (paper, robust)]
    expected = [
        line("clean speech: words right", *clean),
        line(
            "the paper's attack: heard as the attacker wants", of(paper, "attacks", "paper-pgd", "target_success"), {}
        ),
        line("... the paper's detector: AUROC", of(paper, "detection", "paper-pgd", "auroc"), {}),
        line(
            "a better attack, `pgd`: heard as the attacker wants",
            of(paper, "attacks", "pgd", "target_success"),
            of(robust, "attacks", "pgd-level0.05", "target_success"),
        ),
        line("... the paper's detector: AUROC", of(paper, "detection", "pgd", "auroc"), {}),
        line(
            "five starts of 1000 steps, `strongest` (of 200): the same",
            {},
            of(robust, "attacks", "strongest-level0.05", "target_success"),
        ),
        line(
            "one that knows the detector: heard and passed",
            of(paper, "attacks", knows, "evasion"),
            of(robust, "worst", "worst-known-level0.05", "evasion"),
        ),
    ]
    text = (ROOT / "README.md").read_text()
    heads = " | ".join(map(model_name, [*MODEL_KINDS, *hardened]))
    table = text[text.index(f"| | {heads} |\n") :].split("\n\n")[0].splitlines()
    assert table[2:] == expected


def test_table_of_the_large_vocabulary_holds_the_numbers_of_its_results() -> None:
    large = Results(ROOT / "recipes/large_vocabulary/results/results.json").read()
    digits, models = results("synth_full"), ("tdnn", "ensemble", "dropout", "bnn")
    robust = [f"{model}-robust" for model in models]
    knows, knows_all = "adaptive-max_predictive_entropy", "adaptive-all-joint"

    def values(content: dict[str, Any], section: str, attack: str, value: str) -> dict[str, float]:
        return {
            row["model"]: row[value]
            for row in content[section]
            if (row["attack"], row["eps"]) == (attack, 0.02) and row.get("statistic", PAPER) == PAPER
        }

    def line(label: str, here: dict[str, float], digits_after: int, of: Iterable[str] = robust, more: str = "") -> str:
        shown = [f" {here[name]:.{digits_after}f}" if name in here else " not tried" for name in of]
        return f"| {label} |{' |'.join(shown)} |{more}"

    def beside(label: str, section: str, attack: str, value: str, digits_after: int) -> str:
        there = [values(digits, section, attack, value)[name] for name in MODEL_KINDS]
        of_digits = " to ".join(f"{f(there):.{digits_after}f}" for f in (min, max))
        return line(label, values(large, section, attack, value), digits_after, models, f" {of_digits} |")

    clean = {model: row["accuracy"] for model, row in large["clean"].items()}
    of_digits = [digits["clean"][model]["accuracy"] for model in MODEL_KINDS]
    gate = Run(large).gate
    caught = gate[gate["attack"] == "pgd"].set_index("model")["caught"].to_dict()
    words = "clean speech: words right"
    expected = [
        line(words, clean, 3, models, f" {min(of_digits):.3f} to {max(of_digits):.3f} |"),
        beside("the paper's attack: heard as the attacker wants", "attacks", "paper-pgd", "target_success", 2),
        beside("... the paper's detector: AUROC", "detection", "paper-pgd", "auroc", 3),
        beside("a better attack, `pgd`: heard as the attacker wants", "attacks", "pgd", "target_success", 2),
        beside("... the paper's detector: AUROC", "detection", "pgd", "auroc", 3),
        beside("one that knows the paper's detector: heard and passed", "attacks", knows, "evasion", 2),
        line(
            "one that knows all statistics: heard and passed",
            values(large, "attacks", knows_all, "evasion"),
            *(2, models, " |"),
        ),
        line(words, clean, 3),
        line(
            "the paper's attack: heard as the attacker wants",
            values(large, "attacks", "paper-pgd", "target_success"),
            2,
        ),
        line("... the paper's detector: AUROC", values(large, "detection", "paper-pgd", "auroc"), 3),
        line("`pgd`: heard as the attacker wants", values(large, "attacks", "pgd", "target_success"), 2),
        line("... of these, the default detector catches", caught, 2),
        line("one that knows the paper's detector: heard and passed", values(large, "attacks", knows, "evasion"), 2),
        line("one that knows all statistics: heard and passed", values(large, "attacks", knows_all, "evasion"), 2),
    ]
    text = (ROOT / "recipes/large_vocabulary/README.md").read_text(encoding="utf-8")
    assert [row for row in expected if f"{row}\n" not in text] == []
