"""Killed at any moment, a recipe that is run again ends as one that nobody disturbed.

``KALDI_UQ_KILLS`` sets how many kills there are, ``KALDI_UQ_KILLS_SEED`` when they happen.
"""

from __future__ import annotations

import filecmp
import itertools
import os
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.recipe import TINY_OPTIONS, Recipe, make_recipe

KILLS = int(os.environ.get("KALDI_UQ_KILLS", 200))
SEED = int(os.environ.get("KALDI_UQ_KILLS_SEED", 0))
ROUND = 40  # kills of one recipe, before it is compared
START_S = 1.5  # what a script and the interpreter take before a stage begins to work

# what tells of times, of what was done rather than what came of it, or of a process
_OTHER = {"log", "q", "report", "results.json"}
_LOG = re.compile(r"\.log(\.[0-9]+)?$")  # and that of a run before
_SPLIT = re.compile(r"split[0-9]+(utt)?")  # for jobs; with those tables that there are at the time


def outcome(recipe: Recipe) -> dict[str, Path]:
    """Every file that a run leaves and that must not depend on how often it was killed."""
    found = {}
    for top in ("data", "exp"):
        root = (recipe.path / top).resolve()
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            hidden = path.name.startswith(".") and path.name != ".sha256"
            other = _OTHER & set(name.parts) or any(map(_SPLIT.fullmatch, name.parts))
            if path.is_file() and not hidden and not other and not _LOG.search(path.name):
                found[f"{top}/{name}"] = path
    return found


def assert_same_outcome(recipe: Recipe, undisturbed: Recipe) -> None:
    ours, theirs = outcome(recipe), outcome(undisturbed)
    assert ours.keys() == theirs.keys()
    different = [name for name, path in ours.items() if not filecmp.cmp(path, theirs[name], shallow=False)]
    assert different == []
    assert recipe.results() == undisturbed.results()


@pytest.mark.slow
@pytest.mark.parametrize("number", range((KILLS + ROUND - 1) // ROUND))
def test_killed_recipe_ends_as_one_that_was_not(
    number: int, tiny_recipe: Recipe, tmp_path: Path, plain_env: dict[str, str]
) -> None:
    rng = random.Random(f"{SEED} {number}")
    seconds = tiny_recipe.timings()
    wanted = Counter(itertools.islice(itertools.cycle(seconds), min(ROUND, KILLS - number * ROUND)))
    recipe = make_recipe(tmp_path / "my recipe", plain_env)
    killed = dict.fromkeys(seconds, 0)
    for stage, previous in zip(seconds, [None, *seconds], strict=False):
        if previous is not None:
            recipe.run_sh(*TINY_OPTIONS, "--stop-stage", previous)
        for _ in range(wanted[stage]):
            moment = rng.uniform(0, START_S + seconds[stage])
            command = ("./run.sh", *TINY_OPTIONS, "--stage", stage, "--stop-stage", stage)
            killed[stage] += recipe.kill_after(moment, *command)
    recipe.run_sh(*TINY_OPTIONS)
    print(f"killed at work, by stage: {killed}")
    assert_same_outcome(recipe, tiny_recipe)
