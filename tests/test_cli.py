"""The command kaldi-uq: help without heavy imports, errors of one line, exit statuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kaldi_uq.cli import main as dispatcher
from kaldi_uq.cli.main import COMMANDS, FIRST, main
from kaldi_uq.errors import DataError, ModelFileError
from tests.conftest import REPO, RunScript
from tests.recipe import LIMIT_S


def test_top_level_help_lists_what_a_person_types_and_imports_no_package(run_script: RunScript) -> None:
    code = (
        "import sys\nfrom kaldi_uq.cli.main import main\n"
        "try:\n main(['--help'])\nexcept SystemExit as e:\n assert e.code == 0\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'numpy', 'scipy', 'kaldifst'}))"
    )
    done = run_script("python3", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.count("\n") < 40
    for name, (_, group, summary) in COMMANDS.items():
        assert (f"  {name} " in done.stdout and summary in done.stdout) == (group == FIRST)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_each_command_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert f"kaldi-uq {name}" in out
    assert "--debug" in out


HELP_OF_EVERY_COMMAND = """
import importlib.abc, sys
import kaldi_uq
assert not {"torch", "numpy"} & set(sys.modules), "import kaldi_uq imports more than itself"

HEAVY = {"torch", "torchaudio", "numpy", "scipy", "sklearn", "matplotlib", "pandas", "jinja2", "kaldifst"}
HEAVY |= {"kaldi_hmm_gmm", "tqdm", "argcomplete"}

class Forbidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Forbidden())
from kaldi_uq.cli.main import COMMANDS, main
for command in COMMANDS:
    try:
        main([command, "--help"])
    except ImportError as error:
        print(f"kaldi-uq {command} --help: {error}", file=sys.stderr)
    except SystemExit as done:
        assert done.code == 0, command
"""


def test_help_of_every_command_needs_neither_torch_nor_numpy(run_script: RunScript) -> None:
    done = run_script("python3", "-c", HELP_OF_EVERY_COMMAND)
    assert (done.returncode, done.stderr) == (0, "")
    for name in COMMANDS:
        assert f"usage: kaldi-uq {name} " in done.stdout


ENVIRONMENT_WITHOUT_GPU = """
import sys

sys.modules["torch"] = None
from kaldi_uq.cli import record
from kaldi_uq.cli.main import main

record.GPU_DRIVERS = ()
sys.exit(main(["record", "results.json", "--environment", "--engine", "embedded"]))
"""


def test_environment_of_a_run_is_recorded_without_torch_where_no_gpu_can_be(
    run_script: RunScript, tmp_path: Path
) -> None:
    done = run_script("python3", "-c", ENVIRONMENT_WITHOUT_GPU)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["environment"]["device"] == "cpu"


def test_device_of_a_run_is_what_torch_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr("kaldi_uq.cli.record.GPU_DRIVERS", ("/",))
    words = ["record", str(tmp_path / "results.json"), "--environment", "--engine", "embedded"]
    assert main(words) == 0
    device = json.loads((tmp_path / "results.json").read_text())["environment"]["device"]
    assert device == (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
    assert main([*words, "--device", "tpu"]) == 1
    assert "device must be cpu or cuda, got 'tpu'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["no-such-command"], "no-such-command"),
        (["doctor", "--no-such-option"], "--no-such-option"),
        (["validate-data"], "DATA-DIR"),
        (["validate-data", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_mistake_is_one_line_and_status_1(run_script: RunScript, words: list[str], message: str) -> None:
    done = run_script("python3", "-m", "kaldi_uq", *words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_no_command_prints_help(run_script: RunScript) -> None:
    done = run_script("python3", "-m", "kaldi_uq")
    assert done.returncode == 0
    assert done.stdout == run_script("python3", "-m", "kaldi_uq", "--help").stdout


def test_all_lists_every_command_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--all"]) == 0
    out = capsys.readouterr().out
    for name, (_, group, summary) in COMMANDS.items():
        assert f"\n{group}:\n" in out
        assert re.search(rf"^  {name} +{re.escape(summary)}$", out.partition(f"\n{group}:\n")[2], re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


def test_version_is_that_of_the_package(run_script: RunScript) -> None:
    from kaldi_uq import __version__

    assert run_script("kaldi-uq", "--version").stdout == f"kaldi-uq {__version__}\n"
    lines = run_script("kaldi-uq", "-v").stdout.splitlines()
    assert lines[0].startswith(f"kaldi-uq {__version__} in /")
    assert [line.split()[0] for line in lines[1:4]] == ["python", "torch", "torchaudio"]
    assert lines[-1].startswith("KALDI_ROOT ")


class _Failing:
    """A command whose run() raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def add_arguments(self, parser: object) -> None: ...

    def run(self, args: object) -> int:
        raise self.error


@pytest.mark.parametrize(
    "error, message",
    [
        (DataError("data/x:3: bad,\n  very"), "kaldi-uq doctor: error: data/x:3: bad, very\n"),
        (FileNotFoundError(2, "No such file or directory", "x.ark"), "x.ark: No such file or directory\n"),
        (ValueError("eps must be small"), "error: eps must be small\n"),
        (MemoryError(), "kaldi-uq doctor: error: out of memory (--debug shows where)\n"),
        (MemoryError("Unable to allocate 3 TiB"), "out of memory: Unable to allocate 3 TiB (--debug shows where)\n"),
        (RuntimeError("mat1 and\n  mat2" + " x" * 999), " x x ... (--debug shows where)\n"),
        (RecursionError("too deep"), "error: RecursionError: too deep (--debug shows where)\n"),
    ],
)
def test_error_is_one_line_and_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, message: str
) -> None:
    monkeypatch.setattr(dispatcher.importlib, "import_module", lambda name: _Failing(error))
    assert main(["doctor"]) == 1
    captured = capsys.readouterr().err
    assert captured.endswith(message)
    assert captured.count("\n") == 1
    with pytest.raises(type(error)):
        main(["doctor", "--debug"])


def test_unforeseen_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher.importlib, "import_module", lambda name: _Failing(KeyError("bug")))
    with pytest.raises(KeyError):
        main(["doctor"])


@pytest.mark.parametrize("words", [["--help"], ["doctor", "--help"], ["validate-data", "{data}"]])
def test_reader_that_goes_away_causes_no_message(script_env: dict[str, str], tmp_path: Path, words: list[str]) -> None:
    for name in ("utt2spk", "spk2utt", "wav.scp", "text", "feats.scp"):
        (tmp_path / name).write_text("a a\n")
    command = [sys.executable, "-m", "kaldi_uq", *(word.format(data=tmp_path) for word in words)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=script_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()  # before anything can have been written
    errors = process.stderr.read()
    process.wait(timeout=LIMIT_S)
    assert "roken pipe" not in errors
    assert "Traceback" not in errors


def test_console_script_of_setup_py_exists() -> None:
    assert '"kaldi-uq = kaldi_uq.cli.main:main"' in (REPO / "setup.py").read_text()


@pytest.mark.parametrize(
    "message, shown",
    [
        ("a  b/x.wav: no such file", "a  b/x.wav: no such file"),  # a name as it is
        ("x: expected 1\n    found 2 \n", "x: expected 1 found 2"),
        ("x\ty: \x1b[2J \x7f", "x\\x09y: \\x1b[2J \\x7f"),
        ("x: 'one\u00a0two' \ud800 \u202e", "x: 'one\u00a0two' \\ud800 \\u202e"),
        ("x: größer, 語", "x: größer, 語"),
    ],
)
def test_message_is_one_line_that_a_terminal_shows(message: str, shown: str) -> None:
    assert str(DataError(message)) == shown
    assert str(ModelFileError(f"in {DataError(message)}")) == f"in {shown}"  # not escaped twice


def test_of_a_message_that_quotes_a_whole_file_beginning_and_end_are_left() -> None:
    shown = str(DataError(f"a.conf:3: unknown option {'[' * 100_000}; remove it"))
    assert shown.startswith("a.conf:3: unknown option [[[") and shown.endswith("[[[; remove it")
    assert 900 < len(shown) < 1100
