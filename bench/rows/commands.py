"""Commands as they are typed: start-up, a verdict on one file, the recipe, the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import Case, Facts, Row, Setting

REPO = Path(__file__).resolve().parents[2]

Work = Callable[[], Facts]


def start_up(setting: Setting, *, byte_code: bool) -> Work:
    """``--help`` of every command, of a copy of the package that has, or is kept from having, byte code."""
    from kaldi_uq.cli.main import COMMANDS

    root = Path(tempfile.mkdtemp(dir=setting.work))
    shutil.copytree(REPO / "kaldi_uq", root / "kaldi_uq", ignore=shutil.ignore_patterns("__pycache__"))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(root), **({} if byte_code else {"PYTHONDONTWRITEBYTECODE": "1"})}
    names = [*COMMANDS][: max(2, setting.num_utts)]

    def work() -> Facts:
        seconds = {}
        for name in names:
            began = time.perf_counter()
            _python(["-m", "kaldi_uq", name, "--help"], root, env)
            seconds[name] = round(time.perf_counter() - began, 4)
        slowest = max(seconds, key=lambda name: seconds[name])
        return {"units": len(seconds), "slowest": f"{slowest} {seconds[slowest]:.2f} s", "commands": seconds}

    if byte_code:
        work()  # which writes it
    return work


def python(setting: Setting, code: str) -> Work:
    """The interpreter alone, or with what a command cannot do without."""

    def work() -> Facts:
        _python(["-c", code], REPO, dict(os.environ))
        return {}

    return work


def detect(setting: Setting) -> Work:
    """``kaldi-uq detect`` on the first file of the recipe's test set."""
    recipe = Path(setting.recipe_dir).resolve()
    model_dir = next((path.parent for path in sorted(recipe.glob("exp/*/detector"))), None)
    if model_dir is None:
        raise FileNotFoundError(f"{recipe}/exp/*/detector: no such directory; stage 7 of the recipe makes it")
    wav = (recipe / "data/test/wav.scp").read_text().split()[1]
    env = {**os.environ, "PYTHONPATH": str(REPO)}

    def work() -> Facts:
        _python(["-m", "kaldi_uq", "detect", str(model_dir), wav], recipe, env, statuses=(0, 1, 2))
        return {}

    return work


def recipe(setting: Setting) -> Work:
    """The seconds of each stage, as the recipe itself has recorded them: nothing is run."""
    stages = json.loads((Path(setting.recipe_dir) / "exp/results.json").read_text())["timing_s"]
    seconds = {name: value for name, value in stages.items() if name.startswith("stage")}

    def work() -> Facts:
        return {"seconds": [sum(seconds.values())], "peak_mb": 0.0, "stages": seconds}

    return work


def suite(setting: Setting) -> Work:
    """The tests, as ``make test`` runs them."""
    env = {**os.environ, "PYTHONPATH": str(REPO)}

    def work() -> Facts:
        _python(["-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile"], REPO, env)
        return {}

    return work


def _python(arguments: list[str], cwd: Path, env: dict[str, str], statuses: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode not in statuses:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()[-300:]}")


ROWS = (
    Row(
        "start-up",
        "kaldi-uq COMMAND --help, seconds a command, all commands",
        (
            Case("with byte code", lambda setting: start_up(setting, byte_code=True), in_children=True),
            Case("without byte code", lambda setting: start_up(setting, byte_code=False), in_children=True),
            Case("python3 alone", lambda setting: python(setting, "pass"), in_children=True),
        ),
    ),
    Row(
        "detect",
        "kaldi-uq detect on one file",
        (
            Case("kaldi_uq", detect, needs=("recipe",), in_children=True),
            Case("python3, import torch", lambda setting: python(setting, "import torch"), in_children=True),
        ),
    ),
    Row(
        "recipe",
        "the default recipe, as it recorded itself",
        (Case("kaldi_uq", recipe, needs=("recipe",)),),
    ),
    Row(
        "suite",
        "the tests",
        (Case("kaldi_uq", suite, in_children=True),),
        optional=True,
    ),
)
