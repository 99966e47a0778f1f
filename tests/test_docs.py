"""The documentation: it is built without a warning, misses no option and no name, and its tutorial runs."""

from __future__ import annotations

import html
import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import kaldi_uq as uq
from kaldi_uq.cli.main import COMMANDS
from kaldi_uq.nnet.config import MODEL_KINDS
from kaldi_uq.report import paper
from kaldi_uq.results.table import Results
from tests.recipe import REPO, Recipe

DOCS = REPO / "docs"
NOTEBOOK = DOCS / "tutorial.ipynb"
CORPORA = ("synth", "fsdd")
STEPS = sorted((REPO / "steps/uq").glob("*.sh"))
needs_sphinx = pytest.mark.skipif(importlib.util.find_spec("myst_nb") is None, reason="pip install -e .[docs]")


# What is written -----------------------------------------------------------------------------------------------------


def options_of(step: Path) -> set[str]:
    """The options of a step: the variables with a comment, before its help is made."""
    head = step.read_text().partition("script.sh")[0]
    found = re.findall(r"^([a-z][a-z_]*)=[^#]*# ", head, re.MULTILINE)
    return {f"--{name.replace('_', '-')}" for name in found}


def rows_of(section: str) -> list[list[str]]:
    """The cells of the tables of a section."""
    lines = [line for line in section.splitlines() if line.startswith("| `--")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.stem)
def test_kaldi_page_explains_each_option_of_a_step_and_no_other(step: Path) -> None:
    text = (DOCS / "kaldi.md").read_text().partition("## Options")[2]
    common, _, _ = text.partition("### `uq/")
    own = text.partition(f"### `uq/{step.name}`")[2].partition("\n### ")[0]
    name = {"fit_detector": "fit"}.get(step.stem, step.stem)
    of_several = [cells for cells in rows_of(common) if cells[1] == "all" or name in cells[1].split(", ")]
    assert all(all(cells[:3]) for cells in of_several + rows_of(own))
    shown = [option for cells in of_several + rows_of(own) for option in re.findall(r"`(--[a-z-]+)`", cells[0])]
    assert sorted(shown) == sorted(options_of(step))


def test_api_page_has_every_name_of_the_face() -> None:
    text = (DOCS / "api.rst").read_text()
    shown = set(re.findall(r"^\.\. (?:auto\w+|py:data):: kaldi_uq\.([\w.]+)", text, re.MULTILINE))
    assert set(uq.__all__) - {"attacks", "models"} <= shown
    assert "models.DIGITS" in shown
    assert {f"attacks.{name}" for name in uq.attacks.__all__} <= shown


def test_notebook_is_committed_without_what_the_build_makes() -> None:
    nbformat = pytest.importorskip("nbformat", reason="pip install -e .[docs]")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 10
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert NOTEBOOK.stat().st_size < 20_000


def test_what_the_results_page_says_in_words_is_so() -> None:
    """What reproduces and what does not, in docs/results.md: a change of the results may need other words there."""
    synth, fsdd = (Results(REPO / f"recipes/tidigits/results/{name}_full/results.json").read() for name in CORPORA)

    def area(run: Mapping[str, Any], model: str, statistic: str, eps: float) -> float:
        wanted = ("paper-pgd", model, statistic, eps)
        (row,) = (r for r in run["detection"] if (r["attack"], r["model"], r["statistic"], r["eps"]) == wanted)
        return float(row["auroc"])

    def reached(run: Mapping[str, Any], attack: str, eps: float) -> dict[str, float]:
        return {r["model"]: r["target_success"] for r in run["attacks"] if (r["attack"], r["eps"]) == (attack, eps)}

    entropy = "max_predictive_entropy"
    for eps, published in paper.AUROC.items():
        for model in MODEL_KINDS:
            assert abs(area(synth, model, entropy, eps) - published[model][entropy]) < 0.05
        for model in ("ensemble", "dropout", "bnn"):
            others = [area(synth, model, name, eps) for name in paper.MEASURES if name != entropy]
            assert area(synth, model, entropy, eps) > max(others)
            assert area(fsdd, model, "max_mutual_information", eps) > area(fsdd, model, entropy, eps)
        assert area(fsdd, "dnn", entropy, eps) < 0.6
        assert max(area(fsdd, model, entropy, eps) for model in ("ensemble", "bnn")) < 0.9
        for run in (synth, fsdd):
            assert max(reached(run, "paper-pgd", 0.02).values()) < 0.25
            strong = reached(run, "pgd", eps)
            assert 0.7 < strong.pop("dropout") < 0.9 and min(strong.values()) > 0.85
    assert all(area(fsdd, model, "mean_predictive_entropy", 0.02) > 0.99 for model in MODEL_KINDS)
    for run in (synth, fsdd):
        assert all(run["clean"][model]["accuracy"] > paper.CLEAN_ACCURACY[model] - 0.005 for model in MODEL_KINDS)


# What is built -------------------------------------------------------------------------------------------------------


def build(out: Path, env: Mapping[str, str], *options: str) -> None:
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", *options, "-b", "html", str(DOCS), str(out)]
    done = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def text_of(page: Path) -> str:
    """What a page says, without marks."""
    article = re.search(r"<article.*?</article>", page.read_text(), re.DOTALL)
    assert article
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", article[0])).split())


@pytest.fixture(scope="module")
def pages(script_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, with the tutorial as it is committed."""
    out = tmp_path_factory.mktemp("docs") / "the pages"
    build(out, script_env, "-D", "nb_execution_mode=off")
    return out


@needs_sphinx
@pytest.mark.long
def test_pages_are_built_without_a_warning_and_hold_what_is_generated(pages: Path) -> None:
    commands = (pages / "commands.html").read_text()
    assert all(f'id="kaldi-uq-{name}"' in commands for name in COMMANDS)
    assert "--fail-on-attack" in commands and "exit with status 2 if a file is an attack" in commands
    results = text_of(pages / "results.html")
    run = Results(REPO / "recipes/tidigits/results/fsdd_full/results.json").read()
    for row in run["attacks"]:
        if (row["eps"], row["attack"]) == (0.02, "pgd"):
            assert f"{row['target_success']:.3f} / " in results
    assert all(f"{value:.3f}" in results for value in paper.CLEAN_ACCURACY.values())
    assert "Within 0.05 of the paper's AUROC" in results
    robust = text_of(pages / "robust.html")
    content = Results(REPO / "recipes/tidigits/results/fsdd_robust/results.json").read()
    assert all(f"{one['accuracy']:.3f}" in robust for name, one in content["clean"].items() if "robust" in name)
    api = (pages / "api.html").read_text()
    assert all(f'id="kaldi_uq.{name}"' in api for name in set(uq.__all__) - {"attacks", "models", "__version__"})
    assert "Be heard as a text" in api


@needs_sphinx
@pytest.mark.long
def test_pages_fetch_nothing_from_elsewhere(pages: Path) -> None:
    for page in pages.glob("*.html"):
        fetched = re.findall(r'<(?:script|link|img|audio|source)[^>]*(?:src|href)="(https?:[^"]*)"', page.read_text())
        assert not fetched, page


# The tutorial --------------------------------------------------------------------------------------------------------


def run_notebook(place: Path, env: Mapping[str, str], *replace: tuple[str, str]) -> Any:
    """The notebook after it has run on the models of a recipe directory."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        for old, new in replace:
            cell.source = cell.source.replace(old, new)
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(DOCS)}})
    inline = "module://matplotlib_inline.backend_inline"  # the tests have a backend that draws nothing
    client.execute(env={**env, "KALDI_UQ_TUTORIAL": str(place), "MPLBACKEND": inline})
    return notebook


def printed(notebook: Any) -> str:
    """What the cells print."""
    return "".join(
        one.text for cell in notebook.cells for one in cell.get("outputs", []) if one.output_type == "stream"
    )


@needs_sphinx
def test_tutorial_runs_on_a_tiny_recipe(tiny_recipe: Recipe) -> None:
    few = ("eps=0.02)", "eps=0.02, num_steps=3, eot_samples=1)")
    search = ("Adaptive([", "Adaptive(search=uq.attacks.AdaptiveConfig(num_rounds=2, round_steps=2), detectors=[")
    notebook = run_notebook(tiny_recipe.path, tiny_recipe.env, few, search)
    shown = [one for cell in notebook.cells for one in cell.get("outputs", []) if one.output_type == "display_data"]
    assert sum("text/html" in one.data for one in shown) >= 4  # audio
    assert sum("image/png" in one.data for one in shown) == 2
    assert printed(notebook).count("reach their target") == 4


@needs_sphinx
@pytest.mark.slow
def test_built_tutorial_shows_an_attack_that_a_robust_model_refuses(script_env: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "the pages/html"
    build(out, script_env, "-D", f"nb_execution_cache_path={tmp_path / 'notebooks'}")
    said = text_of(out / "tutorial.html")
    counts = re.findall(r"(\d+) of (\d+) reach their target, (\d+) of these pass the detector", said)
    (blind, adaptive, robust, _), total = [int(reached) for reached, *_ in counts], int(counts[0][1])
    assert blind >= 0.5 * total and adaptive >= 0.5 * total
    assert robust <= 0.5 * blind
    assert int(counts[1][2]) >= int(counts[0][2])  # who knows the detector passes it at least as often
    assert (out / "tutorial.html").read_text().count("<audio") >= 4
