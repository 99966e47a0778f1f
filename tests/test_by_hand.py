"""What an attack or a detection by hand ends with: a command that makes the page anew, and works as it stands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kaldi_uq.results.table import Results
from tests import report
from tests.conftest import RunScript
from tests.recipe import LIMIT_S, REPO, Recipe

SCRIPT = """#!/usr/bin/env bash
# Something by hand.
#
# Usage: $0
set -euo pipefail

. utils/script.sh
PATH=$PWD/bin:$PATH
tell_page "exp of mine/results.json"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with a step, with a program kaldi-uq that says how it was called, and with results."""
    (tmp_path / "utils").symlink_to(REPO / "utils")
    for name, text in (("step.sh", SCRIPT), ("bin/kaldi-uq", '#!/bin/sh\nprintf "<%s>" "$@"\n')):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "exp of mine").mkdir()
    (tmp_path / "exp of mine/results.json").write_text("{}")
    return tmp_path


def printed(stderr: str) -> str:
    """The command of the last line."""
    script, marker, command = stderr.splitlines()[-1].partition(": to see it on the page: ")
    assert script and marker
    return command


def test_last_line_is_a_command_that_works_as_it_stands(folder: Path, run_script: RunScript) -> None:
    command = printed(run_script("./step.sh", cwd=folder).stderr)
    assert command.startswith("/")  # the caller has no kaldi-uq, or another one
    done = run_script("bash", "-c", command, cwd=folder)
    assert done.stdout == "<report><--num-examples><0><exp of mine><exp of mine/report>"
    (folder / "data/attack").mkdir(parents=True)
    (folder / "data/attack/wav.scp").touch()
    command = printed(run_script("./step.sh", cwd=folder).stderr)
    assert run_script("bash", "-c", command, cwd=folder).stdout == "<report><exp of mine><exp of mine/report>"


def test_caller_who_has_kaldi_uq_types_its_name(folder: Path, script_env: dict[str, str]) -> None:
    done = subprocess.run(
        ["./step.sh"],
        cwd=folder,
        env={**script_env, "PATH": f"{folder}/bin:{script_env['PATH']}"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert printed(done.stderr).startswith("kaldi-uq report ")


def test_only_the_script_that_was_called_by_hand_says_it(folder: Path, run_script: RunScript) -> None:
    (folder / "outer.sh").write_text(SCRIPT.replace("tell_page", "./step.sh\ntell_page"))
    (folder / "outer.sh").chmod(0o755)
    assert run_script("./outer.sh", cwd=folder).stderr.count("to see it on the page") == 1


def test_without_results_there_is_no_page_to_speak_of(folder: Path, run_script: RunScript) -> None:
    (folder / "exp of mine/results.json").unlink()
    assert "page" not in run_script("./step.sh", cwd=folder).stderr


@pytest.mark.long
def test_page_of_detections_alone_is_made(tmp_path: Path, run_script: RunScript) -> None:
    """As in a Kaldi recipe whose attacks were not recorded, by uq/detect.sh."""
    (tmp_path / "exp").mkdir()
    results = Results(tmp_path / "exp/results.json")
    results.add_detection([report.detection_row("dnn", "pgd", 0.02, "max_predictive_entropy", 0.9)])
    done = run_script("python3", "-m", "kaldi_uq", "report", "--num-examples", "0", "exp", "exp/report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "exp/report/report.html").is_file()


def test_detection_by_hand_in_a_recipe_refreshes_its_page(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.clone(tmp_path / "copy of it")
    page = recipe.path / "exp/report/report.html"
    page.unlink(missing_ok=True)
    done = recipe.run("local/detect.sh", "--model", "dnn", "--eps", "0.02")
    assert done.returncode == 0, done.stderr
    made = recipe.run("bash", "-c", printed(done.stderr))
    assert made.returncode == 0, made.stderr
    assert page.is_file()
    logs = list((recipe.path / "exp").rglob("log/*.log*"))
    assert logs and not [path for path in logs if b"\r" in path.read_bytes()]
    assert (recipe.path / "exp/dnn/detector/log/attack_pgd_eps0.02.log.1").is_file()
