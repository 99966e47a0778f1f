"""The shell scripts, configurations and recipes that the package brings, and directories that use them.

In a clone they are its folders ``steps``, ``utils``, ``local`` and ``recipes``; a wheel has the same below
``kaldi_uq/share``, put there when it is built.  A recipe directory has copies of what its user edits (``run.sh``,
``conf``, ``cmd.sh``, ``path.sh``) and absolute links to the rest: scripts and package are of one release, and stay so
when ``pip`` upgrades them in place.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kaldi_uq.errors import DataError, UsageError, did_you_mean

LINKED = ("local", "steps", "utils")  # folders of a recipe that stay in the package
_NOT_COPIED = (*LINKED, "data", "exp", "results", "runs")  # by a clone's own runs, which may be large
_COPIED_KINDS = {".conf", ".md", ".py", ".sh", ".txt"}
_STEPS_UQ = Path("steps", "uq")
_VARIABLE = "KALDI_UQ_PYTHON"  # in path.sh, for utils/env.sh
_PATH_SH = """# The Python that this directory was made with; one that is active and has the package goes before it.
# If the links steps, utils and local lead nowhere, because that is gone, another Python's "kaldi-uq link ." mends them.
export {variable}={python}
"""


def share() -> Path:
    """The directory that has ``steps``, ``utils``, ``local`` and ``recipes``: absolute, links not followed.

    Raises:
        DataError: it is not there, because the installation is not whole.
    """
    package = Path(__file__).absolute().parent
    for place in (package / "share", package.parent):
        if (place / _STEPS_UQ).is_dir() and (place / "recipes").is_dir():
            return place
    raise DataError(
        f"{package / 'share'}: no such directory, expected the package's shell scripts; install it again: "
        "python3 -m pip install --force-reinstall --no-deps kaldi-uq"
    )


def is_clone() -> bool:
    """Whether the scripts are those of a clone, whose ``utils/env.sh`` can make an environment."""
    return (share() / "setup.py").is_file()


def recipes() -> tuple[str, ...]:
    """Names of the recipes that :func:`write_recipe` knows, in alphabetical order."""
    return tuple(sorted(path.parent.name for path in (share() / "recipes").glob("*/run.sh")))


def write_recipe(name: str, target: Path, python: str) -> None:
    """Write a directory with a recipe that can run.  It is made beside its place and then moved there, or not at all.

    Args:
        name: one of :func:`recipes`.
        target: the directory: new, or empty.
        python: path of the interpreter that its ``path.sh`` finds.

    Raises:
        UsageError: there is no such recipe.
        DataError: the directory is not empty, or cannot be made.
    """
    if name not in recipes():
        raise UsageError(f"no recipe {name!r}: there are {', '.join(recipes())}{did_you_mean(name, recipes())}")
    target = Path(os.path.abspath(target))
    _check_empty(target)
    try:
        with _staged(target) as stage:
            _fill(stage, share() / "recipes" / name, python)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror}; choose another place") from None


def _check_empty(target: Path) -> None:
    if not target.parent.is_dir():
        raise DataError(f"{target.parent}: no such directory; make it first")
    if target.is_dir():
        found = sorted(path.name for path in target.iterdir())
        if found:
            more = ", ..." if len(found) > 3 else ""
            raise DataError(
                f"{target}: not empty (it has {', '.join(found[:3])}{more}), expected a new or an empty directory; "
                "choose another name"
            )
    elif target.exists() or target.is_symlink():
        raise DataError(f"{target}: not a directory; choose another name")


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A directory to fill, whose contents are moved to ``target`` afterwards; nothing of them stays if that fails."""
    exists = target.is_dir()
    stage = (target if exists else target.parent) / f".{target.name}.{secrets.token_hex(4)}.tmp"
    stage.mkdir()
    moved: list[Path] = []
    try:
        yield stage
        if not exists:
            stage.rename(target)
            return
        # The directory stays the one that it is: a shell may be in it.  run.sh comes last.
        for path in sorted(stage.iterdir(), key=lambda path: path.name == "run.sh"):
            moved.append(path.rename(target / path.name))
        stage.rmdir()
    except BaseException:
        for path in moved:
            _remove(path)
        _remove(stage)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _fill(stage: Path, recipe: Path, python: str) -> None:
    _copy(recipe, stage)
    path_sh = stage / "path.sh"
    text = path_sh.read_text(encoding="utf-8")
    end = ". utils/env.sh\n"
    assert text.endswith(end), f"{recipe}/path.sh does not end with {end!r}"
    own = _PATH_SH.format(variable=_VARIABLE, python=shlex.quote(python))
    path_sh.write_text(text.removesuffix(end) + own + end, encoding="utf-8", errors="surrogateescape")
    for name in LINKED:
        place = recipe / name
        is_its_own = place.is_dir() and not place.is_symlink()
        (stage / name).symlink_to(place if is_its_own else recipe.parents[1] / name)


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a directory, links to files followed; what may be executed stays so, and all can be written."""
    for path in sorted(source.iterdir()):
        if path.name in _NOT_COPIED:
            continue
        if path.is_dir() and not path.is_symlink():
            _copy(path, target / path.name)
        elif path.is_file() and path.suffix in _COPIED_KINDS:
            target.mkdir(exist_ok=True)
            shutil.copyfile(path, target / path.name)
            if path.stat().st_mode & stat.S_IXUSR:
                mode = (target / path.name).stat().st_mode
                (target / path.name).chmod(mode | (mode & 0o444) >> 2)  # for whoever may read it


def link_scripts(recipe: Path) -> dict[str, Path]:
    """Link this package's scripts into a directory; what is linked already is left, or renewed.

    A recipe of Kaldi's gets ``uq`` beside its ``steps``.  In a directory of :func:`write_recipe`, whose links may lead
    to an installation that is gone, these lead to this one afterwards.

    Args:
        recipe: the directory.

    Returns:
        the links that are new or changed: name -> where it leads.

    Raises:
        DataError: no recipe directory, something else in the place of a link, or it cannot be written.
    """
    wanted = _own_links(recipe)
    if not wanted:
        for name in ("path.sh", "utils"):
            if not (recipe / name).exists():
                raise DataError(f"{recipe / name}: no such file, expected a Kaldi recipe with path.sh, steps and utils")
        wanted = {"uq": share() / _STEPS_UQ}
        _check_replaceable(recipe / "uq")
    changed = {name: place for name, place in wanted.items() if _leads_to(recipe / name) != place}
    try:
        for name, place in changed.items():
            new = recipe / f".{name}.{secrets.token_hex(4)}.tmp"
            new.symlink_to(place)
            new.replace(recipe / name)
    except OSError as error:
        raise DataError(f"{recipe}: cannot be written: {error.strerror}") from None
    return changed


def _leads_to(link: Path) -> Path | None:
    return Path(os.readlink(link)) if link.is_symlink() else None


def _own_links(recipe: Path) -> dict[str, Path]:
    """Of a directory that :func:`write_recipe` made: its links and where they should lead; empty of any other."""
    path_sh = recipe / "path.sh"
    if not path_sh.is_file() or _VARIABLE not in path_sh.read_text(encoding="utf-8", errors="replace"):
        return {}
    steps = _leads_to(recipe / "steps")
    if steps is None or not steps.is_absolute():
        return {}
    old = {name: place for name in LINKED if (place := _leads_to(recipe / name)) is not None}
    return {name: share() / at.relative_to(steps.parent) for name, at in old.items() if at.is_relative_to(steps.parent)}


def _check_replaceable(uq: Path) -> None:
    """Refuse what is no link to the scripts of some installation of this package, or of one that is gone."""
    old = _leads_to(uq)
    if old is None and not uq.exists():
        return
    if old is None:
        raise DataError(f"{uq}: in the way, expected nothing or a link to steps/uq; move it away")
    if old.parts[-2:] != _STEPS_UQ.parts or (uq.exists() and not (uq / "attack.sh").is_file()):
        raise DataError(f"{uq}: a link to {old} is in the way, expected nothing or a link to steps/uq; move it away")
