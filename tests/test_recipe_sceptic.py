"""Stage 8 of the digit recipe: what a sceptical reviewer asks, answered in the results and on the report's page."""

from __future__ import annotations

from pathlib import Path

from tests.recipe import TINY_OPTIONS, Recipe


def test_stage_8_answers_in_the_results_and_on_the_page(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.clone(tmp_path / "my recipe")
    assert "checks" not in {name for name, rows in recipe.results().items() if rows}
    recipe.run_sh(*TINY_OPTIONS, "--stage", 8, "--sceptic", "true", "--robust", "false")
    results = recipe.results()
    attacks = {(row["attack"], row["eps"]): row for row in results["attacks"] if row["model"] == "dnn"}
    for name in ("adaptive-max_predictive_entropy", "psychoacoustic", "fgsm", "nes", "pgd-2x", "pgd-restarts"):
        assert attacks[name, 0.02]["checks"]["eps_respected"]["passed"]
    assert 0 <= attacks["adaptive-max_predictive_entropy", 0.02]["evasion"] <= 1
    assert attacks["psychoacoustic", 0.02]["masking_margin_db_mean"] < attacks["pgd", 0.02]["masking_margin_db_mean"]
    assert {row["kind"] for row in results["negatives"]} == {"clean", "white", "babble", "reverb", "gain", "uniform"}
    checks = results["checks"]["dnn"]
    assert {"eps_respected", "gradient_correct", "success_grows_with_eps", "white_box_beats_black_box"} <= set(checks)
    page = (recipe.path / "exp/report/report.html").read_text()
    for part in (
        "Attacks that know the detector",
        "False alarms on benign but hard audio",
        "Checks of the attacks",
        "Can the attacks be heard",
    ):
        assert part in page
