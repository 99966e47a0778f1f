"""Imports point down only: the layers of the package, read from its source."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPO

PACKAGE = REPO / "kaldi_uq"

# layer (a module or a package) -> what its modules may import of kaldi_uq; itself is always allowed
BASE = ("config", "errors", "progress")
MODEL = ("recogniser", "nnet", "feats", "uncertainty", "engine.base", "io", *BASE)  # for users of recognisers
LAYERS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "config": ("errors", "io.reading"),
    "progress": (),
    "workers": ("errors",),
    "user_code": ("errors",),
    "scripts": ("errors",),
    "io": BASE,
    "uncertainty": BASE,
    "feats": ("io", *BASE),
    "nnet": BASE,
    "audio": ("feats", "io", *BASE),
    "lattice": ("io", *BASE),
    "engine": ("lattice", "workers", "io", *BASE),
    "language": ("io", "engine.base", *BASE),
    "recogniser": ("user_code", "lattice", "language", "engine", *MODEL),
    "results": ("lattice", "io", "nnet.config", *BASE),
    "certificate": (*MODEL, "language"),
    "training": ("engine", *MODEL),
    "detector": ("results", *MODEL),
    "attacks": ("registry", "scripts", "detector", "language", "audio", "results", *MODEL),
    "report": ("detector", "recogniser", "audio", "results", "workers", "nnet.config", "io", *BASE),
    "cli": ("",),  # everything
    "__main__": ("cli",),
    "registry": ("errors",),
    "models": (),
    "": ("",),  # kaldi_uq/__init__.py: the names of the face, imported when they are used
}

# (module, what it imports) -> why a rule does not hold there
EXCEPTIONS: dict[tuple[str, str], str] = {}

# wheels that only one place knows -> that place
WHEELS = {
    "kaldi_io": ("io.ark",),
    "tqdm": ("progress",),  # which writes no bar into a log file
    "argcomplete": ("cli.completion",),
    "kaldifst": ("engine.embedded",),
    "kaldi_hmm_gmm": ("engine.embedded",),
    "kaldi": ("engine.pykaldi",),  # the module of PyKaldi
}

# modules that start processes -> why
PROCESSES = {
    "engine.binaries.jobs": "Kaldi's programs, through the command that runs jobs",
    "io.pipes": "pipes of wav.scp and feats.scp, with the user's leave; sph2pipe for the shorten audio of TIDIGITS",
    "workers": "work that holds Python's lock: the search of the wheels, figures",
    "cli.doctor": "a wheel that does not fit the other crashes the interpreter that tries it",
}
FORKS = {"cli.copies": "commands of one run that need not import the libraries each for itself"}
# what a message of the library never names: it is read beside any recipe, whose own scripts name their stages
OF_ONE_RECIPE = re.compile(r"\bstages?\s+(\d|of (a|the) recipe)|--stage\b|\brun\.sh\b|(?<![\w/])(local|recipes)/\w")

MAX_PARAMETERS = 9
STARTS_PROCESSES = {"subprocess", "multiprocessing", "concurrent.futures", "pty"}


@functools.cache
def modules() -> list[tuple[str, ast.Module]]:
    """Every module of the package as (name without the package, syntax tree)."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found.append((name, ast.parse(path.read_text(encoding="utf-8"))))
    return found


@functools.cache
def imports(tree: ast.Module) -> tuple[str, ...]:
    """Full names of what a module imports, within functions too."""
    return tuple(_imports(tree))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = (REPO / Path(*full.split("."))).with_suffix(".py").is_file()
                is_package = (REPO / Path(*full.split("."))).is_dir()
                yield full if is_module or is_package else str(node.module)


def within(name: str, group: str) -> bool:
    """Whether a module belongs to a group; the group "" is the whole package."""
    return not group or name == group or name.startswith(f"{group}.")


def layer_of(name: str) -> str:
    layer = name.partition(".")[0]
    assert layer in LAYERS, f"kaldi_uq.{name}: not in the layers of this test; say what it may import"
    return layer


def test_imports_point_down_only() -> None:
    problems, used = [], set()
    for name, tree in modules():
        layer = layer_of(name)
        for full in imports(tree):
            top, _, inner = full.partition(".")
            if top == "kaldi_uq" and inner:
                layer_of(inner)
                if (name, inner) in EXCEPTIONS:
                    used.add((name, inner))
                elif not within(inner, layer or "-") and not any(within(inner, group) for group in LAYERS[layer]):
                    problems.append(f"kaldi_uq.{name} imports {full}")
            elif top in WHEELS and not any(within(name, place) for place in WHEELS[top]):
                problems.append(f"kaldi_uq.{name} imports {full}, which is for {' and '.join(WHEELS[top])}")
            elif any(within(full, start) for start in STARTS_PROCESSES) and name not in PROCESSES:
                problems.append(f"kaldi_uq.{name} imports {full}: processes start only in {', '.join(PROCESSES)}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                forks = node.attr in ("fork", "forkpty") and name not in FORKS
                if forks or node.attr in ("system", "popen") or node.attr.startswith(("exec", "spawn", "posix_spawn")):
                    problems.append(f"kaldi_uq.{name} calls os.{node.attr}")
    assert problems == []
    assert used == set(EXCEPTIONS)  # no exception that is not needed any more
    names = {name for name, _ in modules()}
    assert set(PROCESSES) | set(FORKS) | {place for places in WHEELS.values() for place in places} <= names


def test_no_two_modules_import_each_other() -> None:
    """Neither directly nor around, inside a package either, and whether the import stands in a function or not."""
    names = {name for name, _ in modules()}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for name, tree in modules():
        for full in imports(tree):
            inner = full.partition(".")[2]
            if full.startswith("kaldi_uq.") and inner in names and inner != name:
                graph[name].add(inner)
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for inner in sorted(graph[name]):
                visit(inner, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_no_function_has_more_than_nine_parameters() -> None:
    """Beside self and cls; the generated constructors of configurations have no source."""
    found = []
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                count = sum(p is not None and p.arg not in ("self", "cls") for p in parameters)
                if count > MAX_PARAMETERS:
                    found.append(f"kaldi_uq.{name}, line {node.lineno}: {node.name} has {count} parameters")
    assert found == []


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """The strings of a module that are no docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {id(node.body[0].value) for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node


def test_no_message_below_the_commands_names_a_stage_or_a_script_of_one_recipe() -> None:
    assert all(
        OF_ONE_RECIPE.search(text) for text in ("stage 4 makes it", "(stages 5 and 7)", "see run.sh", "local/x.sh")
    )
    assert not any(map(OF_ONE_RECIPE.search, ("steps/uq/train.sh makes it", "data/local/dict", "a stage", "locally")))
    found = []
    for name, tree in modules():
        for text in texts(tree):
            # scripts: its subject is the files of recipes
            match = None if within(name, "cli") or name == "scripts" else OF_ONE_RECIPE.search(text.value)
            if match:
                found.append(f"kaldi_uq.{name}, line {text.lineno}: {text.value!r}")
    assert found == []


def test_report_imports_follow_the_list_of_its_files() -> None:
    """The docstring of the room names every file of it, each above those that import it."""
    (room,) = (tree for name, tree in modules() if name == "report")
    listed = re.findall(r":mod:`\.(\w+)`", ast.get_docstring(room) or "")
    trees = {name.partition(".")[2]: tree for name, tree in modules() if name.startswith("report.")}
    assert sorted(listed) == sorted(trees)
    for place, name in enumerate(listed):
        inside = {full.split(".")[2] for full in imports(trees[name]) if full.startswith("kaldi_uq.report.")}
        assert inside <= set(listed[:place]), name
