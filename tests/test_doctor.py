"""kaldi-uq doctor: what it finds, what it says, and whether its exit status can be relied on."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest

from kaldi_uq.cli import doctor
from kaldi_uq.cli.main import main
from kaldi_uq.engine.binaries.jobs import PROGRAMS
from tests.conftest import REPO, RunScript
from tests.kaldi import fake_kaldi
from tests.recipe import LIMIT_S

pytestmark = pytest.mark.long


def requirements(name: str) -> dict[str, str]:
    """A list of requirements of setup.py: distribution -> specifier."""
    for node in ast.walk(ast.parse((REPO / "setup.py").read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            words = [e.value for e in node.value.elts if isinstance(e, ast.Constant)]  # type: ignore[attr-defined]
            return {re.split(r"[=<>]", word)[0]: word for word in words}
    raise AssertionError(name)


def test_pins_are_those_of_setup_py() -> None:
    needed = requirements("REQUIRES") | requirements("KALDI") | requirements("SYNTH") | requirements("REPORT")
    assert set(doctor.PACKAGES) == set(needed)
    for distribution, (_, pin) in doctor.PACKAGES.items():
        assert (needed[distribution] == f"{distribution}=={pin}") == (pin is not None)


def test_environment_check_looks_for_the_modules_of_setup_py() -> None:
    text = (REPO / "utils" / "check_env.py").read_text()
    lists = {
        ast.unparse(node.targets[0]): {e.value for e in node.value.elts if isinstance(e, ast.Constant)}
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
    }
    assert lists["MODULES"] == {"kaldi_uq"} | {doctor.PACKAGES[name][0] for name in requirements("REQUIRES")}
    assert lists["WHEELS"] == {doctor.PACKAGES[name][0] for name in requirements("KALDI")}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where everything is in order, without the seconds that it takes to find out."""
    monkeypatch.delenv("KALDI_ROOT", raising=False)
    monkeypatch.setattr(doctor, "_torch", lambda: iter(()))
    monkeypatch.setattr(doctor, "_kaldi_pair", lambda: None)


def report(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    status = main(["doctor", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["can_run"] == (status == 0)
    return status, {check["name"]: check for check in answer["checks"]}


def test_this_environment_can_run_the_recipe(run_script: RunScript) -> None:
    done = run_script("kaldi-uq", "doctor", env={"KALDI_ROOT": "", "COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok       kaldi-hmm-gmm with kaldifst" in done.stdout
    assert "ok       engine: embedded (KALDI_ROOT is not set)" in done.stdout
    for line in done.stdout.splitlines():
        assert len(line) <= 80 or " " not in line.strip() or line.startswith("         run: ")  # to be copied
    statuses = {line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")}
    assert statuses <= {"ok", "optional", "The"}


@pytest.mark.parametrize("module", ["torch", "kaldi_hmm_gmm", "espeakng_loader", "safetensors"])
@pytest.mark.usefixtures("quick")
def test_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    find: Callable[..., ModuleSpec | None] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    status, checks = report(capsys)
    assert status == 1
    (name,) = [name for name, (m, _) in doctor.PACKAGES.items() if m == module]
    pin = doctor.PACKAGES[name][1]
    assert checks[name]["status"] == "missing"
    assert checks[name]["remedy"] == f"python3 -m pip install {name}" + (f"=={pin}" if pin else "")


@pytest.mark.usefixtures("quick")
def test_missing_perl_stops_the_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: None if tool == "perl" else f"/bin/{tool}")
    status, checks = report(capsys)
    assert (status, checks["perl"]["status"], checks["perl"]["remedy"]) == (1, "missing", "apt install perl")


@pytest.mark.usefixtures("quick")
def test_full_disk_stops_the_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=3e8))
    status, checks = report(capsys)
    assert (status, checks["free disk"]["status"]) == (1, "wrong")
    assert checks["free disk"]["found"].startswith("0.3 GB")


@pytest.mark.usefixtures("quick")
def test_broken_kaldi_root_is_an_error_and_no_fall_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for root, why in ((tmp_path / "nowhere", "no such directory"), (tmp_path, "no built Kaldi there")):
        monkeypatch.setenv("KALDI_ROOT", str(root))
        status, checks = report(capsys)
        assert status == 1
        assert checks["engine kaldi"]["status"] == "wrong"
        assert why in checks["engine kaldi"]["found"]
        assert "engine" not in checks


@pytest.mark.usefixtures("quick")
def test_programs_that_kaldi_lacks_are_named_with_the_command_that_builds_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fake_kaldi(tmp_path)
    monkeypatch.setenv("KALDI_ROOT", str(tmp_path))
    status, checks = report(capsys)
    assert (status, checks["engine kaldi"]["status"]) == (0, "ok")
    assert checks["engine"]["found"] == f"kaldi (KALDI_ROOT={tmp_path}): kaldi 5.5.99"
    for name in ("src/gmmbin/gmm-est", "src/latbin/lattice-1best"):
        (tmp_path / name).unlink()
    status, checks = report(capsys)
    assert (status, checks["engine kaldi"]["status"]) == (1, "wrong")
    assert "programs are missing: gmm-est, lattice-1best" in checks["engine kaldi"]["found"]
    assert checks["engine kaldi"]["remedy"] == f"make -C {tmp_path}/src gmmbin && make -C {tmp_path}/src latbin"


@pytest.mark.usefixtures("quick")
def test_kaldi_that_is_built_in_part_is_not_ok(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fake_kaldi(tmp_path)
    monkeypatch.setenv("KALDI_ROOT", str(tmp_path))
    shutil.rmtree(tmp_path / "src/latbin")
    _, checks = report(capsys)
    lacking = sorted(name for name, place in PROGRAMS.items() if place == "src/latbin")
    assert checks["engine kaldi"]["status"] == "wrong" and "engine" not in checks
    assert checks["engine kaldi"]["found"].endswith(
        f"{len(lacking)} of {len(PROGRAMS)} programs are missing: {', '.join(lacking)}"
    )
    lost = "error while loading shared libraries: libkaldi-lat.so: cannot open shared object file"
    fake_kaldi(tmp_path, {name: f"echo '{lost}' >&2; exit 127" for name in lacking})
    (tmp_path / "src/bin/tree-info").write_bytes(b"\x7fELF")  # cut off
    _, checks = report(capsys)
    assert checks["engine kaldi"]["status"] == "wrong" and "engine" not in checks
    broken = ", ".join([*lacking, "tree-info"])
    assert checks["engine kaldi"]["found"].endswith(f"programs do not start: {broken} ({lost})")
    assert checks["engine kaldi"]["remedy"] == f"make -C {tmp_path}/src latbin && make -C {tmp_path}/src bin"


def test_wheels_that_do_not_match_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KALDI_ROOT", raising=False)
    monkeypatch.setattr(doctor, "_torch", lambda: iter(()))
    for test, why in (
        ("raise TypeError('incompatible constructor arguments')", "TypeError: incompatible constructor arguments"),
        ("import time; time.sleep(600)", "no answer within 0.5 s"),
        ("import os; os.abort()", "exit status -6"),
    ):
        monkeypatch.setattr(doctor, "PAIR_TEST", test)
        monkeypatch.setattr(doctor, "PAIR_TIMEOUT_S", 0.5 if "sleep" in test else LIMIT_S)
        status, checks = report(capsys)
        check = checks["kaldi-hmm-gmm with kaldifst"]
        assert (status, check["status"]) == (1, "wrong")
        assert why in check["found"]
        assert check["remedy"] == "python3 -m pip install kaldi-hmm-gmm==1.1.4 kaldifst==1.7.17"


@pytest.mark.usefixtures("quick")
def test_corpora_that_the_environment_names_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("KALDI_UQ_FSDD", str(tmp_path))
    status, checks = report(capsys)
    assert (status, checks["corpus fsdd"]["status"]) == (0, "optional")  # the default recipe does not need it
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "0_george_0.wav").write_bytes(b"")
    assert report(capsys)[1]["corpus fsdd"]["status"] == "ok"


def test_no_module_of_another_licence_is_loaded(run_script: RunScript) -> None:
    code = (
        "import sys\nfrom kaldi_uq.cli.main import main\nmain(['doctor', '--json'])\n"
        "sys.exit('espeakng_loader' in sys.modules)"
    )
    assert run_script(sys.executable, "-c", code, env={"KALDI_ROOT": ""}).returncode == 0


@pytest.mark.parametrize("missing", [True, False])
def test_torchaudio_is_optional_and_of_the_release_of_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: bool
) -> None:
    import torch

    monkeypatch.setattr(doctor, "_kaldi_pair", lambda: None)
    if missing:
        find: Callable[..., ModuleSpec | None] = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == "torchaudio" else find(n, *rest))
    else:  # as a wheel that was made for another torch
        monkeypatch.setattr(doctor, "_import", lambda m: "OSError: undefined symbol" if m == "torchaudio" else "")
    status, checks = report(capsys)
    assert (status, checks["torchaudio"]["status"]) == (0, "optional")
    assert checks["torchaudio"]["found"].startswith(
        "not installed; for" if missing else "OSError: undefined symbol; for"
    )
    assert checks["torchaudio"]["found"].endswith(f"of the release of torch, {torch.__version__}")
    assert checks["torchaudio"]["remedy"] == "python3 -m pip install 'kaldi-uq[torchaudio]'"


def test_without_the_wheels_the_engine_says_which_extra_has_them(run_script: RunScript) -> None:
    code = (
        "import sys\nsys.modules['kaldi_hmm_gmm'] = sys.modules['kaldifst'] = None\n"
        "from kaldi_uq.engine.select import select_engine\nfrom kaldi_uq.errors import EngineError\n"
        "try: select_engine('embedded')\nexcept EngineError as error: print(error)"
    )
    said = run_script(sys.executable, "-c", code).stdout
    assert "needs kaldi-hmm-gmm and kaldifst" in said and "pip install 'kaldi-uq[kaldi]'" in said
