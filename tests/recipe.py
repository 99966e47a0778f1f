"""A recipe in a directory of its own, for tests that run it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]

# so small that all stages take a minute
TINY_OPTIONS = ("--corpus-opts", "--num-train 60 --num-fit 12 --num-test 12 --num-attack 6")

Done = subprocess.CompletedProcess

LIMIT_S = 3600  # of a command that takes minutes at most on an idle machine: what takes longer hangs


def wait_for(condition: Callable[[], object], process: subprocess.Popen[Any] | None = None) -> None:
    """Wait until the condition holds; an error if it does not come to hold, or if the process ends before."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert process is None or process.poll() is None, "the command ended before the condition held"
        assert time.monotonic() < deadline, "the condition does not come to hold"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def heed_interrupts() -> None:
    """In a child, as ``preexec_fn``: SIGINT ends it, also if the tests run in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Recipe:
    """A copy of a recipe; ``local``, ``steps`` and ``utils`` are those of the repository.

    Attributes:
        root: stands for the root of the repository.
        env: environment of the commands.
        name: the recipe.
    """

    root: Path
    env: Mapping[str, str]
    name: str = "tidigits"

    @property
    def path(self) -> Path:
        """The recipe directory."""
        return self.root / "recipes" / self.name

    def run(self, *command: object, cwd: Path | None = None, **env: str) -> Done[str]:
        """Run a command in the recipe directory."""
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.path,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def run_sh(self, *options: object, **env: str) -> Done[str]:
        """Run ``run.sh``; an error is a failure of the test."""
        done = self.run("./run.sh", *options, **env)
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    def results(self) -> dict[str, Any]:
        """``exp/results.json`` without what a rerun changes."""
        content: dict[str, Any] = json.loads((self.path / "exp/results.json").read_text())
        return {name: section for name, section in content.items() if name not in ("timing_s", "stages")}

    def timings(self) -> dict[int, float]:
        """Seconds that each stage took."""
        content: dict[str, Any] = json.loads((self.path / "exp/results.json").read_text())
        return {int(name.removeprefix("stage")): seconds for name, seconds in sorted(content["timing_s"].items())}

    def forget_stages(self) -> None:
        """Let the next run do every stage again, as far as the steps of a stage find something to do."""
        for stamp in self.path.glob("runs/*/.stage.*.json"):
            stamp.unlink()

    def clone(self, root: Path) -> Recipe:
        """A copy with all data and results."""
        shutil.copytree(self.root, root, symlinks=True)
        return Recipe(root, self.env, self.name)

    def run_until(self, condition: Callable[[], bool], *command: object) -> None:
        """Start a command in the recipe directory and, once the condition holds, kill it and all that it started."""
        process = self._start(*command)
        wait_for(condition, process)
        _kill_session(process)

    def kill_after(self, seconds: float, *command: object) -> bool:
        """Start a command and kill it and all that it started after some time; returns whether it was still at work."""
        process = self._start(*command)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        at_work = process.poll() is None
        _kill_session(process)
        return at_work

    def _start(self, *command: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=self.path,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def make_recipe(root: Path, env: Mapping[str, str], name: str = "tidigits") -> Recipe:
    """A recipe that has not run yet."""
    recipe = Recipe(root, env, name)
    ours = shutil.ignore_patterns("data", "exp", "runs", "results")
    shutil.copytree(REPO / "recipes" / name, recipe.path, symlinks=True, ignore=ours)
    if name != "tidigits":  # whose configurations others link to
        (root / "recipes/tidigits").symlink_to(REPO / "recipes/tidigits")
    for name in ("local", "steps", "utils"):
        (root / name).symlink_to(REPO / name)
    return recipe


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, and all that it started."""
    while pids := _session(process.pid):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()


def _session(leader: int) -> list[int]:
    """The living processes of a session: jobs have process groups of their own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, *_, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def error_line(done: Done[str]) -> str:
    """The one line of a failed command that says what is wrong.

    Lines that begin with the name of a script are the trace of what ran; run.pl says where the log is.
    """
    assert done.returncode == 1, f"status {done.returncode}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert len(errors) == 1, done.stderr[-3000:]
    assert done.stderr.splitlines()[-1] == errors[0]
    return errors[0]
