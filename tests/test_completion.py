"""Completion in the shell, asked as a shell asks it: through the variables of argcomplete."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from kaldi_uq.cli.main import COMMANDS, main
from tests.conftest import RunScript

pytest.importorskip("argcomplete", reason="pip install 'kaldi-uq[completion]'")

# what a shell must not wait for at each press of a key
COMPLETE = """
import importlib.abc, sys
class Forbidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "numpy", "scipy", "kaldifst", "tqdm"}:
            raise ImportError(f"{name} is imported")
sys.meta_path.insert(0, Forbidden())
from kaldi_uq.cli.main import main
main([])
"""


@pytest.fixture
def complete(run_script: RunScript, tmp_path: Path):  # type: ignore[no-untyped-def]  # a function
    """A function that tells what a command line may go on with."""

    def ask(line: str) -> list[str]:
        script = f"{shlex.quote(sys.executable)} -c {shlex.quote(COMPLETE)} 8>&1 9>/dev/null >/dev/null"
        env = {
            "COMP_LINE": line,
            "COMP_POINT": str(len(line.encode())),
            "COMP_TYPE": "9",
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_SHELL": "bash",
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        }
        done = run_script("bash", "-c", script, env=env, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split("\n") if done.stdout else []

    return ask


def test_commands_are_completed(complete) -> None:  # type: ignore[no-untyped-def]
    assert complete("kaldi-uq det") == ["detect"]
    assert set(complete("kaldi-uq ")) >= set(COMMANDS)
    assert sorted(complete("kaldi-uq nnet-de")) == ["nnet-decode", "nnet-detect"]
    assert "--version" in complete("kaldi-uq --v")


@pytest.mark.long
def test_options_and_choices_are_completed(complete) -> None:  # type: ignore[no-untyped-def]
    assert complete("kaldi-uq detect --js") == ["--json"]
    assert sorted(complete("kaldi-uq nnet-train --robust-l")) == ["--robust-level", "--robust-loss"]
    assert complete("kaldi-uq nnet-attack --constraint ") == ["linf", "l2", "snr", "masking"]
    assert complete("kaldi-uq nnet-attack --sided t") == ["two"]
    assert complete("kaldi-uq nnet-attack --untargeted ") == ["true", "false"]
    assert complete("kaldi-uq detect --device cu") == ["cuda"]
    assert complete("kaldi-uq attack --method psy") == ["psychoacoustic"]
    assert "bnn" in complete("kaldi-uq nnet-train --model ")
    assert complete("kaldi-uq completion z") == ["zsh"]


@pytest.mark.long
def test_paths_are_completed_and_numbers_are_not(complete, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "model_dir").mkdir()
    (tmp_path / "model.wav").touch()
    assert complete("kaldi-uq attack --model-dir mod") == ["model_dir/"]
    assert sorted(complete("kaldi-uq detect mod")) == ["model.wav", "model_dir/"]  # MODEL-DIR or WAV
    assert sorted(complete("kaldi-uq detect model_dir mod")) == ["model.wav", "model_dir/"]  # WAV
    assert complete("kaldi-uq nnet-attack --config model.") == ["model.wav"]
    assert complete("kaldi-uq detect --beam mod") == []
    assert complete("kaldi-uq nnet-attack --num-steps mod") == []


def test_command_prints_what_the_shell_reads(run_script: RunScript, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    code = capsys.readouterr().out
    assert "kaldi-uq" in code
    done = run_script("bash", "-c", f"{code}\ncomplete -p kaldi-uq")
    assert (done.returncode, done.stderr) == (0, "")
    assert "kaldi-uq" in done.stdout
    assert main(["completion"]) == 0
    assert capsys.readouterr().out == code


def test_without_the_package_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert main(["completion"]) == 1
    assert capsys.readouterr().err.endswith("run: python3 -m pip install 'kaldi-uq[completion]'\n")
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    assert main([]) == 1
    assert "argcomplete is not installed" in capsys.readouterr().err
