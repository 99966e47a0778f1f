"""An attack whose batches several jobs share: the same files as of one job, also after jobs that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import sharded
from tests.recipe import Recipe, error_line, make_recipe
from tests.sharded import attack

pytestmark = pytest.mark.long

# a grid of one machine, for arrays alone: it kills the job that $KILL names at once
GRID = r"""#!/usr/bin/env bash
array=$1 log=$2 failed=0
shift 2
for ((job = 1; job <= ${array#JOB=1:}; job++)); do
  words=("${@//JOB/$job}")
  "${words[@]}" >"${log//JOB/$job}" 2>&1 &
  [[ $job != "${KILL:-}" ]] || kill -KILL $!
  wait $!
  status=$?
  echo "# Finished at some time with status $status" >>"${log//JOB/$job}"
  ((status == 0)) || ((++failed))
done
((failed == 0)) || { echo "grid: $failed failed, log is in ${log//JOB/*}" >&2; exit 1; }
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, script_env: dict[str, str]) -> Recipe:
    """A recipe with a model, and the attack of one job in ``exp/whole``."""
    recipe = make_recipe(tmp_path_factory.mktemp("sharded") / "recipe", script_env)
    sharded.prepare(recipe)
    done = attack(recipe, "whole")
    assert done.returncode == 0, done.stderr
    assert sharded.batches(recipe, "whole") == list(range(sharded.NUM_BATCHES))
    return recipe


def test_three_jobs_make_the_files_of_one(recipe: Recipe) -> None:
    done = attack(recipe, "three", "--nj", "3")
    assert done.returncode == 0, done.stderr
    said = [(recipe.path / f"exp/three/log/attack.{job}.log").read_text() for job in (1, 2, 3)]
    assert [f"shard {job}/3: {count} of 4" in said[job - 1] for job, count in ((1, 2), (2, 1), (3, 1))] == [True] * 3
    assert sharded.differences(recipe, "whole", "three") == []


def test_killed_job_is_named_in_one_line_and_the_next_run_makes_its_batches_alone(
    recipe: Recipe, tmp_path: Path
) -> None:
    grid = tmp_path / "grid.sh"
    grid.write_text(GRID)
    grid.chmod(0o755)
    done = recipe.run(*sharded.command("killed", "--nj", "3", "--cmd", grid), KILL="2")
    line = error_line(done)
    assert line == "steps/uq/attack.sh: error: 1 of 3 jobs failed: exp/killed/log/attack.2.log: killed by SIGKILL"
    assert sharded.batches(recipe, "killed") == [0, 2, 3]
    assert not (recipe.path / "exp/killed/results.jsonl").exists()
    made = sharded.inodes(recipe, "killed")
    assert attack(recipe, "killed").returncode == 0
    again = sharded.inodes(recipe, "killed")
    assert made.items() < again.items()
    assert sharded.differences(recipe, "whole", "killed") == []
