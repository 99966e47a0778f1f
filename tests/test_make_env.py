"""utils/make_env.sh and env.sh: one environment, made once, in any place, whatever happens meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import RunScript
from tests.recipe import LIMIT_S, REPO, wait_for

UTILS = REPO / "utils"


# What stands for a Python: it answers what make_env.sh asks, and "installs" by writing a line into a log.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
  --version) echo "Python 3.12.0" ;;
  *version_info*) ;;
  *'import venv, ensurepip'*) exit ${NO_VENV:-0} ;;
  *'-m venv'*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python3" ;;
  *'-m virtualenv'*) exit 1 ;;
  *'pip --version'*) ;;
  *'pip install'*) echo "$TMPDIR|$*" >>"$PWD/pip.log"; sleep "${PIP_SLEEP:-0}"; exit "${PIP_STATUS:-0}" ;;
  # as with a file that is no Python
  *'-m compileall '*' -- '*) echo "${@: -2}" >>"${0%/.venv/*}/compile.log"; sleep "${COMPILE_SLEEP:-0}"; exit 1 ;;
  */check_env.py*)
    [[ $0 == */.venv/* || -n ${ACTIVE_IS_COMPLETE:-} ]] || exit 1
    [[ ! -e ${BROKEN:-} ]] || { rm "$BROKEN"; echo "module torch does not import"; exit 1; } ;;
  *) exit 9 ;;
esac
"""


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def fresh(tmp_path: Path):
    """A repository in a path with blanks, a machine whose only Python is a fake one, and a way to run scripts there."""
    root, machine = tmp_path / "a new place", tmp_path / "machine"
    (root / "utils").mkdir(parents=True)
    machine.mkdir()
    for name in ("env.sh", "make_env.sh", "check_env.py"):
        (root / "utils" / name).write_bytes((UTILS / name).read_bytes())
        (root / "utils" / name).chmod(0o755)
    (root / "setup.py").write_text("# what is needed\n")
    for name in ("python3", *(f"python3.{minor}" for minor in range(10, 15))):
        (machine / name).write_text(FAKE_PYTHON)
        (machine / name).chmod(0o755)
    (machine / "df").write_text("#!/bin/sh\necho head\necho x x x ${FREE_KB:-99000000}\n")
    (machine / "df").chmod(0o755)

    class Fresh:
        venv = root / ".venv"
        env = {"PATH": f"{machine}:/usr/bin:/bin", "HOME": str(tmp_path)}

        @staticmethod
        def popen(command: list[str], **env: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                command, cwd=tmp_path, env={**Fresh.env, **env}, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

        @staticmethod
        def make(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
            process = Fresh.popen(["bash", str(root / "utils/make_env.sh"), *options], **env)
            out, err = process.communicate(timeout=LIMIT_S)
            return subprocess.CompletedProcess([], process.returncode, out, err)

        @staticmethod
        def source(**env: str) -> subprocess.CompletedProcess[str]:
            command = f'set -euo pipefail; . "{root}/utils/env.sh"; type -P python3; set +u; . "{root}/utils/env.sh"'
            process = Fresh.popen(["bash", "-c", command], **env)
            out, err = process.communicate(timeout=LIMIT_S)
            return subprocess.CompletedProcess([], process.returncode, out, err)

        @staticmethod
        def installations() -> int:
            return len(_lines(root / "pip.log"))

        @staticmethod
        def compilations() -> list[str]:
            return _lines(root / "compile.log")

        setup = root / "setup.py"
        machine_python = machine / "python3"

    return Fresh


def test_environment_is_made_once_and_again_when_setup_changes(fresh) -> None:
    first = fresh.make()
    assert first.returncode == 0, first.stderr
    assert "GB" in first.stdout  # says how large
    assert (fresh.venv / ".done").read_text() == f"{fresh.venv.parent}\n# what is needed\n"
    assert "is complete" in fresh.make().stdout
    assert fresh.installations() == 1
    fresh.setup.write_text("# something else is needed\n")
    assert fresh.make().returncode == 0
    assert fresh.installations() == 2


def test_killed_installation_is_completed_by_the_next_call(fresh) -> None:
    process = fresh.popen(["bash", str(fresh.venv.parent / "utils/make_env.sh")], PIP_SLEEP="600")
    wait_for(lambda: fresh.installations() > 0)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (fresh.venv / ".done").exists()
    assert (fresh.venv / "tmp").is_dir()
    again = fresh.make()
    assert again.returncode == 0, again.stderr
    assert "going on" in again.stdout
    assert sorted(p.name for p in fresh.venv.iterdir()) == [".compiled", ".done", "bin"]


def test_byte_code_is_made_once_of_what_is_installed_and_of_the_checkout(fresh) -> None:
    assert fresh.make().returncode == 0
    assert fresh.make().returncode == 0
    assert fresh.source().stderr == ""
    assert fresh.compilations() == [f"{fresh.venv}/lib {fresh.venv.parent}/kaldi_uq"]


def test_environment_without_byte_code_is_compiled_and_not_installed_again(fresh) -> None:
    process = fresh.popen(["bash", str(fresh.venv.parent / "utils/make_env.sh")], COMPILE_SLEEP="600")
    wait_for(lambda: len(fresh.compilations()) > 0)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert (fresh.venv / ".done").exists()
    assert not (fresh.venv / ".compiled").exists()
    done = fresh.source()
    assert "compiling" in done.stderr
    assert done.stdout == f"{fresh.venv}/bin/python3\n"
    assert (fresh.installations(), len(fresh.compilations())) == (1, 2)


def test_installation_that_only_looks_whole_is_made_anew(fresh, tmp_path: Path) -> None:
    for installations in (2, 4):  # from nothing, and after a change of setup.py
        (tmp_path / "broken").write_text("")
        done = fresh.make(BROKEN=str(tmp_path / "broken"))
        assert done.returncode == 0, done.stderr
        assert "module torch does not import; making" in done.stdout
        assert fresh.installations() == installations
        fresh.setup.write_text("# changed\n")


def test_failed_installation_leaves_no_stamp(fresh) -> None:
    done = fresh.make(PIP_STATUS="1")
    assert done.returncode == 1
    assert "again to go on" in done.stderr
    assert not (fresh.venv / ".done").exists()


def test_missing_venv_module_and_old_python_are_one_clear_line(fresh) -> None:
    done = fresh.make(NO_VENV="1")
    if "virtualenv" not in os.listdir("/usr/bin"):
        assert done.returncode == 1
        assert "apt install python3-venv" in done.stderr
    for python in fresh.machine_python.parent.glob("python3*"):
        python.write_text("#!/bin/sh\necho Python 3.9.1\nexit 1\n")
    done = fresh.make()
    assert done.returncode == 1
    assert "no Python 3.10 to 3.14" in done.stderr
    assert "3.9.1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_full_disk_is_said_before_anything_is_made(fresh) -> None:
    done = fresh.make(FREE_KB="3000000")
    assert done.returncode == 1
    assert "3 GB free" in done.stderr
    assert not fresh.venv.exists()


def test_venv_of_somebody_else_is_not_deleted(fresh) -> None:
    fresh.venv.mkdir()
    (fresh.venv / "precious").write_text("x")
    done = fresh.make()
    assert done.returncode == 1
    assert (fresh.venv / "precious").exists()


def test_sourcing_makes_the_environment_and_then_only_uses_it(fresh) -> None:
    first = fresh.source()
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{fresh.venv}/bin/python3\n"  # what make_env.sh says is on standard error
    second = fresh.source()
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert fresh.installations() == 1


def test_active_environment_that_has_everything_is_used_as_it_is(fresh) -> None:
    for active in ({}, {"PYTHONPATH": "/somewhere"}):
        done = fresh.source(ACTIVE_IS_COMPLETE="1", **active)
        assert done.stdout == f"{fresh.machine_python}\n"
        assert not fresh.venv.exists()
    assert "used as it is" in fresh.make(ACTIVE_IS_COMPLETE="1").stdout


def test_active_environment_goes_before_venv_only_if_it_is_complete(fresh) -> None:
    assert fresh.make().returncode == 0
    assert fresh.source(VIRTUAL_ENV="/x", ACTIVE_IS_COMPLETE="1").stdout == f"{fresh.machine_python}\n"
    assert fresh.source(VIRTUAL_ENV="/x").stdout == f"{fresh.venv}/bin/python3\n"


def test_failure_to_make_the_environment_stops_a_script(fresh) -> None:
    done = fresh.source(PIP_STATUS="1")
    assert done.returncode == 1
    assert done.stdout == ""


def test_check_env_does_not_count_the_working_directory(run_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "kaldi_uq").mkdir()
    (tmp_path / "kaldi_uq/__init__.py").write_text("")
    done = run_script("python3", "-S", UTILS / "check_env.py", env={"PYTHONPATH": ""})
    assert done.returncode == 1
    assert done.stdout == "module kaldi_uq is missing\n"


class TestLocked:
    """An option: nothing of the default depends on the lock, whose hashes a local build of torch does not have."""

    def arguments(self, fresh) -> list[str]:
        return [line.partition(" pip install ")[2] for line in _lines(fresh.venv.parent / "pip.log")]

    def test_the_default_knows_no_lock(self, fresh) -> None:
        (fresh.venv.parent / "requirements.lock").write_text("torch==0\n")
        assert fresh.make().returncode == 0
        assert self.arguments(fresh) == ["--no-input --disable-pip-version-check --no-compile -e .[dev]"]

    def test_hashes_are_required_of_everything(self, fresh) -> None:
        done = fresh.make("--locked", ACTIVE_IS_COMPLETE="yes")  # asked for, it is made all the same
        assert done.returncode == 0, done.stderr
        packages, ours = self.arguments(fresh)
        assert packages.endswith("--require-hashes --no-deps -r requirements.lock")
        assert ours.endswith("--no-deps --no-build-isolation -e .")
        assert "is complete" in fresh.make("--locked").stdout
        assert fresh.installations() == 2

    def test_a_failure_is_one(self, fresh) -> None:
        done = fresh.make("--locked", PIP_STATUS="1")
        assert done.returncode == 1 and "pip could not install" in done.stderr
        assert fresh.installations() == 1  # nothing after what failed
        assert not (fresh.venv / ".done").exists()


class TestTheLock:
    TEXT = (REPO / "requirements.lock").read_text()
    PINS = re.findall(r"^([a-z0-9-]+)==(\S+)", TEXT, re.MULTILINE)

    def test_every_package_has_one_release_and_hashes(self) -> None:
        blocks = re.split(r"^(?=[^\s#])", self.TEXT, flags=re.MULTILINE)[1:]
        assert len(blocks) == len(self.PINS) > 50
        assert [block for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}$", block, re.MULTILINE)] == []

    def test_no_address_of_an_index(self) -> None:
        assert re.findall(r"://|^\s*--(?!hash)\S+|\w\.(?:org|com|io|net)\b", self.TEXT, re.MULTILINE) == []

    def test_it_holds_what_setup_py_pins(self) -> None:
        pinned = re.findall(r'"([a-z0-9-]+)==([^"]+)"', (REPO / "setup.py").read_text().partition("BENCH = ")[0])
        assert len(pinned) >= 4
        for name, release in pinned:
            if name != "pesq":  # of an extra that the development environment lacks
                assert (name, release) in self.PINS


class TestRecordedPython:
    """In a clone: what kaldi-uq init wrote into a path.sh."""

    def test_it_goes_before_venv_and_after_an_active_one(self, fresh, tmp_path: Path) -> None:
        assert fresh.make().returncode == 0
        recorded = tmp_path / "x y" / ".venv" / "bin" / "python3"  # where the stand-in calls itself complete
        recorded.parent.mkdir(parents=True)
        recorded.write_text(FAKE_PYTHON)
        recorded.chmod(0o755)
        python = {"KALDI_UQ_PYTHON": str(recorded)}
        assert fresh.source(**python).stdout == f"{recorded}\n"
        assert fresh.source(**python, VIRTUAL_ENV="/x", ACTIVE_IS_COMPLETE="1").stdout == f"{fresh.machine_python}\n"
        recorded.unlink()
        assert fresh.source(**python).stdout == f"{fresh.venv}/bin/python3\n"


# A Python whose package is the one in $THIS, or another one
NAMED_PYTHON = """#!/usr/bin/env bash
case "$*" in
  *check_env.py\\ --package\\ *) grep -qxF "$0" "$THIS" || { echo "module torch is missing"; exit 1; } ;;
  *check_env.py) grep -qxF "$0" "$OTHER" ;;
  *) exit 9 ;;
esac
"""


class TestInstalled:
    """env.sh of an installed package: these scripts belong to one environment, which it finds from anywhere."""

    @pytest.fixture
    def choose(self, tmp_path: Path):
        """A function: which python3 is on PATH after sourcing, if the named ones have this package, or another one."""
        root = tmp_path / "an env"
        utils = root / "lib/python3.12/site-packages/kaldi_uq/share/utils"
        utils.mkdir(parents=True)
        for name in ("env.sh", "check_env.py"):
            (utils / name).write_bytes((UTILS / name).read_bytes())
        pythons = {
            "path": tmp_path / "machine/python3",
            "recorded": tmp_path / "re corded/bin/python3",
            "own": root / "bin/python3",
        }
        for python in pythons.values():
            python.parent.mkdir(parents=True)
            python.write_text(NAMED_PYTHON)
            python.chmod(0o755)
        (root / "pyvenv.cfg").touch()

        def run(this: str = "", other: str = "", **env: str) -> tuple[str, str]:
            for name, chosen in (("this", this), ("other", other)):
                (tmp_path / name).write_text("".join(f"{pythons[c]}\n" for c in chosen.split()))
            script = f'set -euo pipefail; . "{utils}/env.sh"; type -P python3; echo "${{VIRTUAL_ENV:-none}}"'
            done = subprocess.run(
                ["bash", "-c", script],
                env={
                    "PATH": f"{tmp_path}/machine:/usr/bin:/bin",
                    "THIS": str(tmp_path / "this"),
                    "OTHER": str(tmp_path / "other"),
                    "KALDI_UQ_PYTHON": str(pythons["recorded"]),
                    **env,
                },
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            if done.returncode:
                assert done.stdout == "" and done.stderr.count("\n") == 1
                return "", done.stderr
            python, venv = done.stdout.splitlines()
            return next(name for name, path in pythons.items() if str(path) == python), venv

        return run

    @pytest.mark.parametrize(
        "this, other, chosen",
        [
            ("path recorded own", "", "path"),
            ("recorded own", "path", "recorded"),
            ("own", "path", "own"),
            ("", "path", "path"),
        ],
    )
    def test_the_first_with_this_package_is_used(self, choose, this: str, other: str, chosen: str) -> None:
        assert choose(this, other)[0] == chosen
        assert choose(this, other, VIRTUAL_ENV="/some/other")[0] == chosen

    def test_its_environment_is_the_active_one_then(self, choose, tmp_path: Path) -> None:
        assert choose("own", VIRTUAL_ENV="/some/other") == ("own", f"{tmp_path}/an env")
        assert choose("recorded", VIRTUAL_ENV="/some/other") == ("recorded", "none")  # which is no venv
        assert choose("path", VIRTUAL_ENV="/some/other") == ("path", "/some/other")

    def test_none_is_one_line_that_says_what_is_missing(self, choose) -> None:
        chosen, said = choose()
        assert chosen == ""
        assert "utils/env.sh: error: no Python here has this package and all it needs (" in said
        assert "module torch is missing" in said and "kaldi-uq link ." in said


def test_check_env_knows_this_package_from_another(run_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(REPO)
    for place in (REPO / "kaldi_uq", tmp_path / "link/kaldi_uq"):
        assert run_script("python3", UTILS / "check_env.py", "--package", place).returncode == 0
    done = run_script("python3", UTILS / "check_env.py", "--package", tmp_path)
    assert (done.returncode, done.stdout) == (1, f"its kaldi_uq is another copy, in {REPO}/kaldi_uq\n")
    for words in (["--package"], ["--packages", "x"], ["x"]):
        done = run_script("python3", UTILS / "check_env.py", *words)
        assert (done.returncode, done.stderr[:6]) == (1, "usage:")
