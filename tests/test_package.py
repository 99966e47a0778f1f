"""The wheel and the source distribution: built, looked through, and used where no clone is."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kaldi_uq
from kaldi_uq.cli.main import COMMANDS
from kaldi_uq.scripts import recipes
from tests.conftest import REPO, RunScript
from tests.recipe import LIMIT_S

pytestmark = pytest.mark.long

Run = Callable[..., "subprocess.CompletedProcess[str]"]

BUILD = "import sys, setuptools.build_meta as b; place = sys.argv[1]; b.build_sdist(place); b.build_wheel(place)"
WHEEL_ONLY = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
# what a clone has beside its files
NO_SOURCE = (".git", ".venv", "build", "dist", "*.egg-info", "runs", "exp", "data", "__pycache__", ".*_cache")
ONLY_IN_A_CLONE = ("utils/make_env.sh", "utils/make_lock.sh")


def python(*words: object, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of both, built without a network, from a copy of the clone in a path with a blank."""
    place = tmp_path_factory.mktemp("a package")
    shutil.copytree(REPO, place / "source", symlinks=True, ignore=shutil.ignore_patterns(*NO_SOURCE))
    (place / "source/recipes/tidigits/exp").mkdir()  # what a run leaves is no part of the package
    (place / "source/recipes/tidigits/exp/notes.txt").touch()
    python("-c", BUILD, place / "dist", cwd=place / "source")
    return place / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def env(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment with the wheel, and what it needs from the environment of the tests."""
    place = tmp_path_factory.mktemp("some where") / "an env"
    python("-m", "venv", "--without-pip", place, cwd=place.parent)
    # whatever kaldi_uq the environment of the tests has, of the same version as it is
    install = ("install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel)
    python("-m", "pip", "--python", place / "bin/python3", *install, cwd=place.parent)
    (site,) = place.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "others.pth").write_text("".join(f"{path}\n" for path in others))
    return place


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs a command as a stranger's shell does: nothing of the tests' environment is in sight."""

    def stranger(*command: object, cwd: Path = tmp_path, **further: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **further},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    return stranger


def test_the_wheel_has_every_script_configuration_and_recipe_as_they_are(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {info.filename: info for info in archive.infolist()}
        shared = {name.removeprefix("kaldi_uq/share/") for name in held if name.startswith("kaldi_uq/share/")}
        sources = {
            str(path.relative_to(REPO))
            for top in ("steps", "utils", "local", "recipes")
            for path in (REPO / top).rglob("*")
            if path.is_file() and not {"results", "runs", "data", "exp", "__pycache__"} & set(path.parts)
        }
        # rglob follows no links to folders; those of a recipe are made where it is used
        sources = {name for name in sources if not re.match(r"recipes/\w+/(steps|utils)/", name)}
        assert shared == {name for name in sources if not name.endswith("/RESULTS")} - set(ONLY_IN_A_CLONE)
        assert len(shared) > 100 and {f"recipes/{name}/run.sh" for name in recipes()} <= shared
        for name in shared:
            info = held[f"kaldi_uq/share/{name}"]
            assert archive.read(info) == (REPO / name).read_bytes(), name
            assert bool(info.external_attr >> 16 & 0o100) == os.access(REPO / name, os.X_OK), name
        modules = {str(path.relative_to(REPO)) for path in (REPO / "kaldi_uq").rglob("*.py")}
        assert modules | {"kaldi_uq/py.typed", "kaldi_uq/report/page.html.j2"} <= set(held)
        assert {name.partition("/")[0] for name in held} == {"kaldi_uq", f"kaldi_uq-{kaldi_uq.__version__}.dist-info"}


def test_what_the_wheel_says_of_itself(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        said: Any = email.message_from_bytes(archive.read(name))
    assert (said["Name"], said["Version"]) == ("kaldi-uq", kaldi_uq.__version__)
    extras = {
        "kaldi",
        "synth",
        "report",
        "torchaudio",
        "all",
        "quality",
        "bench",
        "dev",
        "supply",
        "completion",
        "docs",
        "large",
    }
    assert set(said.get_all("Provides-Extra")) == extras
    needed = [line for line in said.get_all("Requires-Dist") if "extra ==" not in line]
    assert len(needed) >= 10
    assert [line for line in needed if "==" in line] == ["kaldi-io==0.9.8"]  # the rest is loose
    assert "Typing :: Typed" in said.get_all("Classifier") and said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload().startswith("# kaldi_uq")
    assert said.get_all("Project-URL") is None and said["Home-page"] is None  # no address that does not exist


def test_the_source_distribution_makes_the_same_wheel(dist: Path, wheel: Path, tmp_path: Path) -> None:
    (source,) = dist.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    assert names >= {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "SECURITY.md", "pyproject.toml"}
    assert not [name for name in names if name.startswith(("tests", "bench", "recipes/tidigits/results"))]
    python("-c", WHEEL_ONLY, tmp_path / "again", cwd=tmp_path / source.name.removesuffix(".tar.gz"))
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(tmp_path / "again" / wheel.name) as second:
        assert set(first.namelist()) == set(second.namelist())
        for name in first.namelist():
            assert name.endswith(("/RECORD", "/METADATA")) or first.read(name) == second.read(name), name


def test_every_command_has_its_help(env: Path, run: Run) -> None:
    code = (
        "import sys\nfrom kaldi_uq.cli.main import COMMANDS, main\nfor command in COMMANDS:\n"
        "    try: main([command, '--help'])\n    except SystemExit as done: assert not done.code, command\n"
        "import kaldi_uq; print(kaldi_uq.__file__)"
    )
    done = run(env / "bin/python3", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(str(env)) and done.stdout.count("usage: kaldi-uq ") == len(COMMANDS)
    assert run(env / "bin/kaldi-uq", "--version").stdout == f"kaldi-uq {kaldi_uq.__version__}\n"


def test_attacks_have_their_names(env: Path, run: Run, tmp_path: Path) -> None:
    code = "import kaldi_uq as uq; print(len(uq.attacks.presets()), uq.attacks.PGD.paper().config.num_steps)"
    assert run(env / "bin/python3", "-c", code).stdout == f"{len(kaldi_uq.attacks.presets())} 40\n"


@pytest.mark.parametrize("recipe", recipes())
def test_each_recipe_is_written_and_finds_its_environment(recipe: str, env: Path, run: Run, tmp_path: Path) -> None:
    place = tmp_path / "my recipe"
    done = run(env / "bin/kaldi-uq", "init", "my recipe", "--recipe", recipe)
    assert (done.returncode, done.stderr) == (0, "")
    done = run("./run.sh", "--help", cwd=place)
    assert done.returncode == 0 and "--seed" in done.stdout
    found = run("bash", "-c", ". ./path.sh && type -P python3 && kaldi-uq --version", cwd=place)
    assert found.stdout == f"{env}/bin/python3\nkaldi-uq {kaldi_uq.__version__}\n", found.stderr
    done = run("./run.sh", "--models", "x", cwd=place)  # the kinds of models are read from the package
    if recipe in ("tidigits", "commands"):
        assert "--models must be one of bnn dnn dropout ensemble, got 'x'" in done.stderr


def test_a_recipe_runs(env: Path, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="pip install espeakng-loader")
    assert run(env / "bin/kaldi-uq", "init", "my digits").returncode == 0
    corpus = "--num-train 6 --num-fit 2 --num-test 2 --num-attack 2"
    done = run("./run.sh", "--stop-stage", "0", "--corpus-opts", corpus, cwd=tmp_path / "my digits")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len((tmp_path / "my digits/data/train/wav.scp").read_text().splitlines()) == 6
    assert (tmp_path / "my digits/data/lang/L.fst").is_file()


def test_a_recipe_of_kaldis_needs_nothing_but_the_link(env: Path, run: Run, tmp_path: Path) -> None:
    place = tmp_path / "mini librispeech"
    place.mkdir()
    (place / "path.sh").write_text("export LC_ALL=C\nexport PATH=$PWD/utils:$PATH\n")
    (place / "steps").mkdir()
    shutil.copytree(
        REPO / "utils", place / "utils", ignore=shutil.ignore_patterns("env.sh", "script.sh", "check_env.py")
    )
    assert run(env / "bin/kaldi-uq", "link", place).returncode == 0
    (place / "exp/score").mkdir(parents=True)
    (place / "exp/score/results.jsonl").write_text("")
    done = run("uq/fit_detector.sh", "exp", "exp/score", cwd=place)
    assert done.returncode == 1  # no scores in it, as the command says: it was found, and run by its own Python
    assert "kaldi-uq fit-detector: error: " in done.stderr
    assert str(env) in run("bash", "-c", ". uq/../../utils/recipe_env.sh && type -P python3", cwd=place).stdout


def test_doctor_says_how_to_begin_without_a_clone(env: Path, run: Run) -> None:
    pytest.importorskip("espeakng_loader", reason="pip install espeakng-loader")
    done = run(env / "bin/kaldi-uq", "doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "The default recipe can run: kaldi-uq init digits && cd digits && ./run.sh"


def test_one_version(run_script: RunScript) -> None:
    """Written in the package alone; the first heading of the changes is that of it."""
    assert re.findall(r"^## (\S+)$", (REPO / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == kaldi_uq.__version__
    for name in ("setup.py", "CITATION.cff", "pyproject.toml"):
        assert kaldi_uq.__version__ not in (REPO / name).read_text()
