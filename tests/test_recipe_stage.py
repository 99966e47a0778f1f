"""Which stages of a recipe a second run skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.cli.recipe_stage import TO_BE_DONE


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose stages 0 and 1 are done, with the options --seed 1."""
    monkeypatch.chdir(tmp_path)
    for place in ("conf", "runs/mini/data", "runs/mini/exp/log"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "conf/mfcc.conf").write_text("--num-ceps=13\n")
    do(0, "data/wav.scp")
    do(1, "exp/final.mdl", "exp/log/train.log", "exp/results.json", "exp/.step.lock")
    return tmp_path


def stage(number: int, *words: str, action: str = "--begin") -> int:
    return main(["recipe-stage", action, "runs/mini", str(number), "--", *(words or ("--seed", "1"))])


def do(number: int, *files: str) -> None:
    assert stage(number) == TO_BE_DONE
    for name in files:
        Path("runs/mini", name).write_text(name)
    assert stage(number, action="--end") == 0


def test_what_is_done_is_not_done_again(recipe: Path) -> None:
    assert stage(0) == 0
    assert stage(1) == 0
    assert stage(2) == TO_BE_DONE


@pytest.mark.parametrize("name", ["exp/log/train.log", "exp/results.json", "exp/.step.lock", "exp/new"])
def test_logs_results_and_files_of_others_may_change(recipe: Path, name: str) -> None:
    (recipe / "runs/mini" / name).write_text("changed")
    assert stage(1) == 0


@pytest.mark.parametrize("change", ["removed", "longer", "newer"])
def test_a_file_of_the_stage_that_changed(recipe: Path, change: str) -> None:
    path = recipe / "runs/mini/exp/final.mdl"
    if change == "removed":
        path.unlink()
    elif change == "longer":
        path.write_text("longer than before")
    else:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert stage(0) == 0
    assert stage(1) == TO_BE_DONE


def test_a_file_of_an_earlier_stage_that_is_gone(recipe: Path) -> None:
    (recipe / "runs/mini/data/wav.scp").unlink()
    assert stage(1) == TO_BE_DONE


def test_a_file_that_a_later_stage_has_written_again(recipe: Path) -> None:
    do(2, "exp/final.mdl")
    assert [stage(number) for number in range(3)] == [0, 0, 0]


def test_options_configuration_and_code_decide(recipe: Path) -> None:
    assert stage(1, "--seed", "2") == TO_BE_DONE
    do(1)
    (recipe / "conf/mfcc.conf").write_text("--num-ceps=20\n")
    assert stage(0) == TO_BE_DONE


def test_a_file_that_an_option_names_counts_by_its_content(recipe: Path) -> None:
    (recipe / "own.conf").write_text("one")
    assert stage(2, "own.conf") == TO_BE_DONE
    assert stage(2, "own.conf", action="--end") == 0
    assert stage(2, "own.conf") == 0
    (recipe / "own.conf").write_text("two")
    assert stage(2, "own.conf") == TO_BE_DONE


def test_after_an_earlier_stage_that_was_done_again(recipe: Path) -> None:
    (recipe / "runs/mini/data/wav.scp").unlink()
    do(0, "data/wav.scp")
    assert stage(1) == TO_BE_DONE


def test_killed_in_the_middle(recipe: Path) -> None:
    assert stage(1, "--seed", "2") == TO_BE_DONE  # begins, and never ends
    assert stage(1) == TO_BE_DONE


@pytest.mark.parametrize("content", ["", "[]", "{}", "no json", '{"key": 1, "files": 2}'])
def test_a_damaged_stamp(recipe: Path, content: str) -> None:
    (recipe / "runs/mini/.stage.1.json").write_text(content)
    assert stage(1) == TO_BE_DONE


def test_neither_beginning_nor_end(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe-stage", "runs/mini", "0"]) == 1
    assert "give --begin or --end" in capsys.readouterr().err
