"""Stage 8 of the digit recipe: what a sceptical reviewer asks, answered in the results and on the report's page."""

from __future__ import annotations

import pytest

from tests.recipe import TINY_OPTIONS, Recipe, error_line


@pytest.fixture(scope="module")
def questioned(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe after stage 8."""
    recipe = tiny_recipe.clone(tmp_path_factory.mktemp("sceptic") / "my recipe")
    assert "checks" not in {name for name, rows in recipe.results().items() if rows}
    recipe.run_sh(*TINY_OPTIONS, "--stage", 8, "--sceptic", "true", "--robust", "false")
    return recipe


def test_stage_8_answers_in_the_results_and_on_the_page(questioned: Recipe) -> None:
    results = questioned.results()
    attacks = {(row["attack"], row["eps"]): row for row in results["attacks"] if row["model"] == "dnn"}
    for name in ("adaptive-max_predictive_entropy", "psychoacoustic", "fgsm", "nes", "pgd-2x", "pgd-restarts"):
        assert attacks[name, 0.02]["checks"]["eps_respected"]["passed"]
    assert 0 <= attacks["adaptive-max_predictive_entropy", 0.02]["evasion"] <= 1
    assert attacks["psychoacoustic", 0.02]["masking_margin_db_mean"] < attacks["pgd", 0.02]["masking_margin_db_mean"]
    assert {row["kind"] for row in results["negatives"]} == {"clean", "white", "babble", "reverb", "gain", "uniform"}
    checks = results["checks"]["dnn"]
    assert {"eps_respected", "gradient_correct", "success_grows_with_eps", "white_box_beats_black_box"} <= set(checks)
    page = (questioned.path / "exp/report/report.html").read_text()
    for part in (
        "Attacks that know the detector",
        "False alarms on benign but hard audio",
        "Checks of the attacks",
        "Can the attacks be heard",
    ):
        assert part in page


def test_script_measures_further_levels_and_what_it_measures_again_stays(questioned: Recipe) -> None:
    def rows_of(*, new: bool) -> list[dict[str, object]]:
        rows = questioned.results()["negatives"]
        return [row for row in rows if ((row["kind"], row["level"]) in (("white", 20), ("white", 0))) == new]

    first = rows_of(new=False)
    # stage 8 has measured the clean audio and the uniform noise already
    options = ["--white", "20 0", "--babble", "", "--reverb", "", "--gain", ""]
    done = questioned.run("local/negatives.sh", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert rows_of(new=False) == first
    rows = [row for row in [*first, *rows_of(new=True)] if row["sided"] == "two"]
    kinds = {(row["kind"], row["level"]) for row in rows}
    noises = {("white", 20), ("white", 10), ("white", 0), ("babble", 10), ("reverb", 0.5), ("gain", -20)}
    assert kinds >= {("clean", 0), *noises, ("uniform", 0.02)}
    for row in rows:
        attacks = {(entry["attack"], entry["eps"]) for entry in row["auroc"]}
        assert attacks >= {("pgd", 0.02), ("paper-pgd", 0.02)}
    accuracy = {(row["kind"], row["level"]): row["accuracy"] for row in rows}
    assert accuracy["white", 0] < min(accuracy["white", 20], accuracy["clean", 0])
    assert accuracy["clean", 0] == questioned.results()["clean"]["dnn"]["accuracy"]
    assert "stage 5 of run.sh makes it" in error_line(questioned.run("local/negatives.sh", "--fit", "data/train"))
