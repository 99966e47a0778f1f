"""A built Kaldi, for tests that compare with it: its programs, its scripts, the engine on them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kaldi_uq.engine.base import EngineOptions, SystemBuilder
from kaldi_uq.engine.binaries.jobs import PROGRAMS
from kaldi_uq.io.kaldi_model import TransitionTable
from tests.recipe import LIMIT_S


@dataclass(frozen=True)
class Kaldi:
    """A Kaldi whose programs have been built.

    Attributes:
        root: what ``KALDI_ROOT`` names.
    """

    root: Path

    @property
    def env(self) -> dict[str, str]:
        """Environment in which its programs and scripts find each other."""
        places = [str(self.root / place) for place in dict.fromkeys(PROGRAMS.values())]
        scripts = [str(self.recipe / "utils")]
        path = os.pathsep.join([*places, *scripts, os.environ["PATH"]])
        return {**os.environ, "KALDI_ROOT": str(self.root), "PATH": path, "LC_ALL": "C"}

    @property
    def recipe(self) -> Path:
        """The recipe that has the scripts of all others: ``steps`` and ``utils``."""
        return self.root / "egs/wsj/s5"

    def run(self, *command: object, cwd: Path | None = None) -> str:
        """Run a program or script; its output.  A failure is one of the test."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        said = done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{said[-3000:]}"
        return done.stdout.decode()

    def shell(self, line: str, cwd: Path | None = None) -> str:
        """Run a line of shell."""
        return self.run("bash", "-c", f"set -euo pipefail; {line}", cwd=cwd)

    def engine(self, options: EngineOptions | None = None) -> SystemBuilder:
        """The engine on its programs."""
        from kaldi_uq.engine.binaries.engine import KaldiEngine

        before = os.environ.get("KALDI_ROOT")
        os.environ["KALDI_ROOT"] = str(self.root)
        try:
            return KaldiEngine(options or EngineOptions(nj=2))
        finally:
            del os.environ["KALDI_ROOT"]
            if before is not None:
                os.environ["KALDI_ROOT"] = before


def fake_kaldi(root: Path, programs: Mapping[str, str] | None = None) -> None:
    """Make the outline of a built Kaldi: programs that are lines of shell, by default such as do nothing."""
    for name, place in PROGRAMS.items():
        path = root / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{(programs or {}).get(name, 'exit 0')}\n")
        path.chmod(0o755)
    (root / "src/.version").write_text("5.5.99\n")


def read_text_matrices(text: str) -> dict[str, np.ndarray]:
    """The matrices of a text archive (``ark,t``)."""
    return {
        key: np.array([line.split() for line in body.strip().splitlines()], dtype=np.float64)
        for key, body in re.findall(r"^(\S+)\s+\[([^\]]*)\]", text, re.MULTILINE)
    }


def read_text_vectors(text: str) -> dict[str, list[int]]:
    """The integer vectors of a text archive."""
    return {line.split()[0]: [int(word) for word in line.split()[1:]] for line in text.splitlines()}


def tid_to_phone(table: TransitionTable) -> np.ndarray:
    """(num_transition_ids + 1,) the phone of each transition-id; entry 0 is unused."""
    counts = [len(table.topology.entry(phone)[state].transitions) for phone, state, *_ in table.tuples]
    return np.concatenate([[0], np.repeat([phone for phone, *_ in table.tuples], counts)])
