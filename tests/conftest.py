"""What several test modules need: the place of the repository, a way to run its scripts, the real recordings."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kaldi_uq.cli.preloaded import PLACE, THREADS
from kaldi_uq.engine.base import SystemBuilder
from tests.kaldi import Kaldi
from tests.recipe import LIMIT_S, REPO, TINY_OPTIONS, Recipe, make_recipe

# Small tensors: more threads only get into each other's way.  Before torch is imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# The embedded engine is what is tested, whatever is set, but where a test asks for Kaldi itself.
# Processes that share the tests are started with this environment, and find it under the other name.
KALDI_ROOT = os.environ.pop("KALDI_ROOT", "") or os.environ.get("KALDI_UQ_TESTS_KALDI_ROOT", "")
if KALDI_ROOT:
    os.environ["KALDI_UQ_TESTS_KALDI_ROOT"] = KALDI_ROOT

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session", autouse=True)
def volatile_files() -> Iterator[None]:
    """Files of tests need not outlast a power failure: nobody waits for the disk, tens of thousands of times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def plain_env() -> dict[str, str]:
    """Environment in which the scripts use the Python that runs the tests, whether the package is installed or not."""
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(REPO / "utils" / "bin"), str(Path(sys.executable).parent), env.get("PATH", "")])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPO), env.get("PYTHONPATH", "")]))
    # utils/env.sh takes this as the choice that a calling script has made already
    env["KALDI_UQ_ENV"] = f"{REPO}:{Path(sys.executable).parent / 'python3'}"
    env["LC_ALL"] = "C"
    env.pop(PLACE, None)
    return env


@pytest.fixture(scope="session")
def script_env(plain_env: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same, in which the commands begin as copies of a process that has imported the libraries once for all tests.

    A test of what a process of its own does, such as of its memory, wants ``plain_env``.
    """
    # not below the directory of the tests, whose name may be too long for a socket
    socket = Path(tempfile.mkdtemp(), "socket")
    env = {name: text for name, text in plain_env.items() if name != THREADS}  # which each command says for itself
    server = subprocess.Popen(["kaldi-uq", "preload", str(socket)], env=env, stdin=subprocess.DEVNULL)
    yield {**plain_env, PLACE: str(socket)}
    server.terminate()
    server.wait(LIMIT_S)


@pytest.fixture
def run_script(script_env: dict[str, str], tmp_path: Path) -> RunScript:
    """A function that runs a command in an empty directory and returns its status, output and errors as text."""

    def run(
        *command: str | Path,
        stdin: str = "",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            input=stdin,
            cwd=cwd or tmp_path,
            env={**script_env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def fsdd_dir() -> Path:
    """A clone of the Free Spoken Digit Dataset; the tests that need it are skipped without one."""
    place = os.environ.get("KALDI_UQ_FSDD")
    if not place:
        pytest.skip("KALDI_UQ_FSDD is not set (a clone of the Free Spoken Digit Dataset)")
    return Path(place)


@pytest.fixture(scope="session")
def kaldi() -> Kaldi:
    """A built Kaldi; the tests that need it are skipped without one."""
    if not KALDI_ROOT:
        pytest.skip("KALDI_ROOT is not set")
    return Kaldi(Path(KALDI_ROOT))


@pytest.fixture(scope="session")
def kaldi_engine(kaldi: Kaldi) -> SystemBuilder:
    """The engine on Kaldi's programs, with two jobs."""
    return kaldi.engine()


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory, script_env: dict[str, str]) -> Recipe:
    """The recipe after all its stages on a tiny synthetic corpus: to be read; ``clone`` it to change it."""
    pytest.importorskip("espeakng_loader", reason="pip install espeakng-loader")
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # where all workers find the one run
    with open(place / "tiny_recipe.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recipe = Recipe(place / "my recipe", script_env)
        if not (recipe.root / "done").exists():
            shutil.rmtree(recipe.root, ignore_errors=True)  # a run that failed, for every worker that asks
            make_recipe(recipe.root, script_env).run_sh(*TINY_OPTIONS)
            (recipe.root / "done").touch()
    return recipe


@pytest.fixture
def registries() -> Iterator[None]:
    """The named parts of the package; what a test adds to them is taken out again."""
    from kaldi_uq import uncertainty
    from kaldi_uq.attacks.attack import ATTACKS
    from kaldi_uq.attacks.constraints import CONSTRAINTS
    from kaldi_uq.attacks.goal import LOSSES
    from kaldi_uq.attacks.steps import STEP_RULES
    from kaldi_uq.detector import base as detector_base

    parts = (ATTACKS, CONSTRAINTS, LOSSES, STEP_RULES)
    for registry in parts:
        registry.names()  # those of the package are there before
    kept: list[Any] = [registry._parts for registry in parts]
    kept += [uncertainty.AGGREGATES, uncertainty.ADDED_MEASURES, uncertainty.NEED_DRAWS, detector_base.KINDS]
    before = [table.copy() for table in kept]
    yield
    for table, content in zip(kept, before, strict=True):
        table.clear()
        table.update(content)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a whole recipe; long files come first, so that no worker is alone with one at the end."""
    for item in items:
        if {"tiny_recipe", "triphones"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("long")
    long_files = {item.path for item in items if item.get_closest_marker("long")}
    of_recipe = {item.path for item in items if "tiny_recipe" in getattr(item, "fixturenames", ())}
    first = min(of_recipe, default=None)  # makes the recipe; meanwhile the other workers have files that need none

    def turn(item: pytest.Item) -> int:
        if item.path in of_recipe:
            return 0 if item.path == first else 2
        return 1 if item.path in long_files else 3

    items.sort(key=turn)
