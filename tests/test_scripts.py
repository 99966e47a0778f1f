"""kaldi-uq init and link: what they write, what they refuse, and that nothing is ever written half."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from kaldi_uq import scripts
from kaldi_uq.cli.init import RECIPES
from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.scripts import LINKED, link_scripts, recipes, write_recipe
from tests.conftest import REPO, RunScript

PYTHON = "/some where/bin/python3"


# runs each program of a directory with --help, and imports the modules beside them; says the names of all
IMPORT_ALL = """
import contextlib, importlib, io, os, pathlib, runpy, sys
local = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(local))
for path in sorted(local.glob("*.py")):
    if "__main__" in path.read_text():
        sys.argv = [str(path), "--help"]
        try:
            with contextlib.redirect_stdout(io.StringIO()) as said:
                runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            assert not end.code and "usage: " in said.getvalue(), path
        else:
            raise AssertionError(f"{path} has no --help")
    else:
        importlib.import_module(path.stem)
    print(path.name)
"""


def installed_share(share: Path) -> Path:
    """The scripts as a wheel brings them: links to files are files, links to folders are left out."""

    def left_out(folder: str, found: list[str]) -> list[str]:
        links = [name for name in found if Path(folder, name).is_symlink() and Path(folder, name).is_dir()]
        return [*links, *({"results", "runs", "data", "exp", "__pycache__"} & set(found))]

    for name in ("local", "steps", "utils", "recipes"):
        shutil.copytree(REPO / name, share / name, ignore=left_out)
    return share


def names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a command that fails."""
    assert main([str(word) for word in words]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err


class TestInit:
    def test_the_recipes_of_the_help_are_all(self) -> None:
        assert set(RECIPES) == set(recipes()) == names(REPO / "recipes")

    @pytest.mark.parametrize("name", RECIPES)
    def test_copies_are_the_users_and_links_lead_into_the_package(self, name: str, tmp_path: Path) -> None:
        source, target = REPO / "recipes" / name, tmp_path / "my recipe"
        write_recipe(name, target, PYTHON)
        assert names(tmp_path) == {"my recipe"}
        for path in target.rglob("*"):
            assert path.is_symlink() == (path.parent == target and path.name in LINKED), path
            if path.is_file() and path != target / "path.sh":
                assert path.read_bytes() == (source / path.relative_to(target)).read_bytes()
                assert os.access(path, os.X_OK) == os.access(source / path.relative_to(target), os.X_OK)
        for link in LINKED:
            assert (target / link).is_absolute() and (target / link).resolve() == (source / link).resolve()
        assert names(target) >= {"run.sh", "path.sh", "conf", "README.md", *LINKED}
        assert not names(target) & {"RESULTS", "results", "runs", "data", "exp", "__pycache__"}
        assert f"\nexport KALDI_UQ_PYTHON='{PYTHON}'\n. utils/env.sh\n" in (target / "path.sh").read_text()

    @pytest.mark.parametrize("name", RECIPES)
    def test_run_sh_is_found_to_run(self, name: str, tmp_path: Path, run_script: RunScript) -> None:
        write_recipe(name, tmp_path / "my recipe", sys.executable)
        done = run_script(tmp_path / "my recipe/run.sh", "--help")
        assert (done.returncode, done.stderr.count("\n")) == (0, 1) and "--seed" in done.stdout

    def test_the_command_says_what_to_type_next(self, tmp_path: Path, run_script: RunScript) -> None:
        done = run_script("kaldi-uq", "init", "my digits")
        assert (done.returncode, done.stdout) == (0, "my digits: recipe tidigits; next: cd 'my digits' && ./run.sh\n")
        recorded = (tmp_path / "my digits/path.sh").read_text().partition("KALDI_UQ_PYTHON=")[2].partition("\n")[0]
        assert run_script("bash", "-c", f"{recorded} -c pass").returncode == 0
        again = run_script("kaldi-uq", "init", "my digits")
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)
        assert "my digits: not empty (it has README.md, cmd.sh, conf, ...)" in again.stderr

    def test_an_empty_directory_is_filled_and_stays_the_same(self, tmp_path: Path) -> None:
        place = tmp_path / "here"
        place.mkdir(0o700)
        before = place.stat()
        write_recipe("own_model", place, PYTHON)
        after = place.stat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
        assert names(place) == {"README.md", "conf", "path.sh", "run.sh", "tdnn.py", *LINKED}

    def test_what_is_in_the_way_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full/thesis.tex").touch()
        (tmp_path / "file").touch()
        (tmp_path / "nowhere").symlink_to("gone")
        before = names(tmp_path)
        assert "full: not empty (it has thesis.tex)" in error_of(capsys, "init", tmp_path / "full")
        assert "file: not a directory" in error_of(capsys, "init", tmp_path / "file")
        assert "nowhere: not a directory" in error_of(capsys, "init", tmp_path / "nowhere")
        assert "none: no such directory" in error_of(capsys, "init", tmp_path / "none/digits")
        assert "cannot be written" in error_of(capsys, "init", "/proc/digits")
        assert names(tmp_path) == before and names(tmp_path / "full") == {"thesis.tex"}

    def test_an_unknown_recipe_has_a_nearest(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = error_of(capsys, "init", tmp_path / "x", "--recipe", "end-to-end")
        assert (
            "no recipe 'end-to-end': there are commands, end_to_end, large_vocabulary, own_model, starter, tidigits"
            in said
        )
        assert "; did you mean 'end_to_end'?" in said
        with pytest.raises(UsageError, match="no recipe '': there are commands"):
            write_recipe("", tmp_path / "x", PYTHON)
        with pytest.raises(UsageError, match="no recipe"):
            write_recipe("../recipes/tidigits", tmp_path / "x", PYTHON)
        assert names(tmp_path) == set()

    @pytest.mark.parametrize("exists", [False, True])
    @pytest.mark.parametrize("step", ["copyfile", "rename"])
    def test_a_failure_in_the_middle_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool, step: str
    ) -> None:
        target = tmp_path / "digits"
        if exists:
            target.mkdir()
        left = [2 if exists or step == "copyfile" else 0]
        whole = {"copyfile": shutil.copyfile, "rename": Path.rename}[step]

        def fails(*args: object) -> object:
            if not left[0]:
                raise OSError(28, "No space left on device")
            left[0] -= 1
            return whole(*args)  # type: ignore[operator]

        monkeypatch.setattr(shutil if step == "copyfile" else Path, step, fails)
        with pytest.raises(DataError, match="digits: cannot be written: No space left on device"):
            write_recipe("tidigits", target, PYTHON)
        assert names(tmp_path) == ({"digits"} if exists else set())
        assert not exists or names(target) == set()

    def test_read_only_scripts_give_a_directory_that_can_be_edited(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        share = tmp_path / "share"
        for name in ("local", "steps", "utils", "recipes/own_model"):
            shutil.copytree(REPO / name, share / name, symlinks=True)
        for path in sorted(share.rglob("*"), reverse=True):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o555)
        monkeypatch.setattr(scripts, "share", lambda: share)
        write_recipe("own_model", tmp_path / "mine", PYTHON)
        made = [path for path in (tmp_path / "mine").rglob("*") if not path.is_symlink()]
        assert len(made) > 5 and all(path.stat().st_mode & stat.S_IWUSR for path in made)
        for path in share.rglob("*"):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | stat.S_IWUSR)  # for whoever clears up

    def test_a_recipe_that_needs_an_extra_says_so_before_anything_is_made(
        self, tmp_path: Path, run_script: RunScript
    ) -> None:
        (tmp_path / "without").mkdir()
        (tmp_path / "without/sitecustomize.py").write_text(
            "import importlib.util as u\nfind = u.find_spec\n"
            "u.find_spec = lambda name, *rest: None if name == 'torchaudio' else find(name, *rest)\n"
        )
        write_recipe("end_to_end", tmp_path / "mine", PYTHON)
        before = names(tmp_path / "mine")
        path = f"{tmp_path}/without:{REPO}"
        done = run_script("./run.sh", cwd=tmp_path / "mine", env={"PYTHONPATH": path})
        assert done.returncode == 1
        assert done.stderr.endswith("error: net.py needs torchaudio: pip install 'kaldi-uq[torchaudio]'\n")
        assert names(tmp_path / "mine") == before

    @pytest.mark.long
    @pytest.mark.parametrize("name", RECIPES)
    def test_every_program_of_local_finds_what_it_imports(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_script: RunScript
    ) -> None:
        share = installed_share(tmp_path / "an installation")
        monkeypatch.setattr(scripts, "share", lambda: share)
        write_recipe(name, tmp_path / "mine", PYTHON)
        local = tmp_path / "mine/local"
        assert not (share / "recipes" / name / "local").is_symlink() and local.resolve().is_relative_to(share)
        assert {path.name for path in local.glob("prepare_*.py")}
        done = run_script(sys.executable, "-c", IMPORT_ALL, local)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert len(done.stdout.split()) == len(list(local.glob("*.py")))

    def test_what_a_clone_has_beside_the_recipe_is_not_copied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        share = tmp_path / "clone"
        for name in ("local", "steps", "utils", "recipes/own_model"):
            shutil.copytree(REPO / name, share / name, symlinks=True)
        monkeypatch.setattr(scripts, "share", lambda: share)
        write_recipe("own_model", tmp_path / "before", PYTHON)
        recipe = share / "recipes/own_model"
        (recipe / "benign/deep").mkdir(parents=True)
        for name in ("benign/deep/1.wav", "some.wav", ".hidden", "RESULTS", "x.tmp"):
            (recipe / name).touch()
        (recipe / "uq").symlink_to("steps/uq")
        (recipe / "runs").mkdir()
        (recipe / "runs/notes.txt").touch()
        write_recipe("own_model", tmp_path / "after", PYTHON)
        made = [tmp_path / "before", tmp_path / "after"]
        before, after = ({path.relative_to(place) for path in place.rglob("*")} for place in made)
        assert after == before

    def test_an_installation_without_scripts_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scripts, "__file__", str(tmp_path / "kaldi_uq/scripts.py"))
        with pytest.raises(DataError, match=r"kaldi_uq/share: no such directory, .* install it again"):
            write_recipe("tidigits", tmp_path / "x", PYTHON)


@pytest.fixture
def s5(tmp_path: Path) -> Path:
    """A recipe of Kaldi's, as far as link looks at it."""
    place = tmp_path / "mini librispeech/s5"
    place.mkdir(parents=True)
    (place / "path.sh").write_text("export LC_ALL=C\n")
    for name in ("steps", "utils"):
        (tmp_path / name).mkdir()
        (place / name).symlink_to(tmp_path / name)
    return place


class TestLink:
    def test_uq_leads_to_the_scripts_and_a_second_call_changes_nothing(
        self, s5: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["link", str(s5)]) == 0
        assert capsys.readouterr().out == f"{s5}/uq -> {REPO}/steps/uq\n"
        assert names(s5) == {"path.sh", "steps", "utils", "uq"} and (s5 / "uq/train.sh").is_file()
        inode = (s5 / "uq").lstat().st_ino
        assert main(["link", str(s5)]) == 0
        assert capsys.readouterr().out == f"{s5}: linked already\n"
        assert (s5 / "uq").lstat().st_ino == inode

    @pytest.mark.parametrize(
        "old", ["/gone/lib/python3.9/site-packages/kaldi_uq/share/steps/uq", "{tmp}/other/steps/uq"]
    )
    def test_link_of_another_installation_is_renewed(self, s5: Path, tmp_path: Path, old: str) -> None:
        (tmp_path / "other/steps/uq").mkdir(parents=True)
        (tmp_path / "other/steps/uq/attack.sh").touch()
        (s5 / "uq").symlink_to(old.format(tmp=tmp_path))
        assert link_scripts(s5) == {"uq": REPO / "steps/uq"}
        assert os.readlink(s5 / "uq") == str(REPO / "steps/uq")
        assert names(s5) == {"path.sh", "steps", "utils", "uq"}

    def test_what_is_in_the_way_is_named_and_left(
        self, s5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "somebodys/steps/uq").mkdir(parents=True)
        for target in ("../elsewhere", tmp_path / "somebodys/steps/uq"):
            (s5 / "uq").symlink_to(target)
            assert f"uq: a link to {target} is in the way, expected nothing" in error_of(capsys, "link", s5)
            assert os.readlink(s5 / "uq") == str(target)
            (s5 / "uq").unlink()
        (s5 / "uq").mkdir()
        assert "uq: in the way, expected nothing or a link to steps/uq" in error_of(capsys, "link", s5)
        assert names(s5) == {"path.sh", "steps", "utils", "uq"}

    def test_only_a_recipe_is_linked(self, tmp_path: Path, run_script: RunScript) -> None:
        for place, said in (
            (tmp_path, "path.sh: no such file, expected a Kaldi recipe"),
            ("no", "no: no such directory"),
        ):
            done = run_script("kaldi-uq", "link", str(place))
            assert (done.returncode, done.stderr.count("\n")) == (1, 1) and said in done.stderr
        assert names(tmp_path) == set()

    @pytest.mark.parametrize("name, local", [("tidigits", "local"), ("commands", "recipes/commands/local")])
    def test_directory_of_init_is_led_to_this_installation(self, tmp_path: Path, name: str, local: str) -> None:
        write_recipe(name, tmp_path / "digits", PYTHON)
        assert link_scripts(tmp_path / "digits") == {}
        for link, place in (("steps", "steps"), ("utils", "utils"), ("local", local)):
            (tmp_path / "digits" / link).unlink()
            (tmp_path / "digits" / link).symlink_to(Path("/gone/kaldi_uq/share", place))
        before = names(tmp_path / "digits")
        assert link_scripts(tmp_path / "digits") == {
            "local": REPO / local,
            "steps": REPO / "steps",
            "utils": REPO / "utils",
        }
        assert names(tmp_path / "digits") == before and (tmp_path / "digits/utils/env.sh").is_file()

    def test_local_of_ones_own_is_left(self, tmp_path: Path) -> None:
        write_recipe("tidigits", tmp_path / "digits", PYTHON)
        for link in LINKED:
            (tmp_path / "digits" / link).unlink()
        (tmp_path / "digits/local").mkdir()
        for link in ("steps", "utils"):
            (tmp_path / "digits" / link).symlink_to(Path("/gone/share", link))
        assert set(link_scripts(tmp_path / "digits")) == {"steps", "utils"}
        assert not (tmp_path / "digits/local").is_symlink()

    def test_link_that_cannot_be_written_is_one_error(self, s5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*args: object, **kwargs: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "symlink_to", fails)
        with pytest.raises(DataError, match="s5: cannot be written: Permission denied"):
            link_scripts(s5)
