"""What the READMEs and the documentation tell a reader to type exists and works."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kaldi_uq.cli.main import COMMANDS, command_parser
from kaldi_uq.io.datadir import read_table
from tests.recipe import LIMIT_S, REPO, TINY_OPTIONS, Recipe

pytestmark = pytest.mark.long

DOCS = sorted(str(path.relative_to(REPO)) for path in REPO.glob("docs/*.md"))
READMES = ["README.md", *DOCS, *sorted(str(path.relative_to(REPO)) for path in REPO.glob("recipes/*/README.md"))]
RECIPE = REPO / "recipes/tidigits"

# options whose values are options of another command
INNER = {
    "--corpus-opts": "local/prepare_synth.py",
    "--train-opts": "kaldi-uq nnet-train",
    "--attack-opts": "kaldi-uq nnet-attack",
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class Block:
    """A fenced block of a README."""

    readme: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.readme}:{self.line}"

    def commands(self) -> Iterator[tuple[Path, list[str]]]:
        """The commands and the directory that each is typed in."""
        place = REPO if self.readme in ("README.md", *DOCS) or "recipes/" in self.text else (REPO / self.readme).parent
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            if words[0] == "cd":
                place = REPO / words[1]
                assert place.is_dir(), line
            else:
                yield place, words


def blocks(readme: str) -> list[Block]:
    found = []
    lines = (REPO / readme).read_text().splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    for begin, end in zip(fences[::2], fences[1::2], strict=True):
        found.append(Block(readme, begin + 1, lines[begin][3:], "\n".join(lines[begin + 1 : end]) + "\n"))
    return found


BLOCKS = [block for readme in READMES for block in blocks(readme)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
# typed in a recipe of Kaldi's, with what is there
KALDI = [block for block in BLOCKS if block.language == "bash" and block.readme in DOCS]
KALDIS_OWN = ("steps/decode_fmllr.sh",)


@pytest.fixture(scope="module")
def options_of(script_env: dict[str, str]) -> Callable[[str], set[str]]:
    """The options of a script, by its path in the repository or a recipe, or of ``kaldi-uq <command>``."""

    @functools.cache
    def options(program: str) -> set[str]:
        if program.startswith("kaldi-uq "):
            return set(command_parser(program.split()[1])[0]._option_string_actions)
        path = REPO / program if (REPO / program).exists() else RECIPE / program
        place = path.parent if path.name == "run.sh" else RECIPE
        command = [str(path.resolve()), "--help"]
        done = subprocess.run(command, cwd=place, env=script_env, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
        return set(OPTION.findall(done.stdout))

    return options


@pytest.mark.parametrize("block", SHELL + KALDI, ids=str)
def test_commands_and_their_options_exist(block: Block, options_of: Callable[[str], set[str]]) -> None:
    commands = list(block.commands())
    assert commands
    for place, words in commands:
        if words[0] in KALDIS_OWN:
            continue
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (REPO / "Makefile").read_text(), re.MULTILINE)
            continue
        if words[0] == ".":
            assert (RECIPE / words[1]).is_file()
            continue
        if words[0] == "kaldi-uq":
            program = f"kaldi-uq {words[1]}"
            assert words[1] in COMMANDS
        else:
            name = (
                words[0].replace("uq/", "steps/uq/", 1) if words[0].startswith("uq/") else words[0]
            )  # the link of a recipe
            path = place / name if (place / name).exists() else RECIPE / name
            assert path.is_file(), f"{block}: {words[0]} does not exist"
            program = str(path.relative_to(REPO))
        given = {word.partition("=")[0] for word in words if word.startswith("--") and " " not in word}
        assert given <= options_of(program), f"{block}: {program}"
        for option, value in itertools.pairwise(words):
            if option in INNER:
                assert set(OPTION.findall(value)) <= options_of(INNER[option]), f"{block}: {value}"


@pytest.mark.parametrize("readme", READMES)
def test_options_and_files_named_in_the_text_exist(readme: str, options_of: Callable[[str], set[str]]) -> None:
    text = re.sub(r"^```.*?^```", "", (REPO / readme).read_text(), flags=re.MULTILINE | re.DOTALL)
    code = re.findall(r"`([^`]+)`", text)
    scripts = [
        "recipes/tidigits/run.sh",
        "recipes/own_model/run.sh",
        "recipes/end_to_end/run.sh",
        "recipes/starter/run.sh",
        "recipes/large_vocabulary/run.sh",
        *("local/attack.sh", "local/detect.sh", "steps/uq/decode.sh", "steps/uq/attack.sh", "utils/make_env.sh"),
        *("steps/uq/train.sh", "steps/uq/forward.sh"),
    ]
    scripts += [str(path.relative_to(REPO)) for path in (REPO / "local").glob("prepare_*.py")]
    scripts += [str(path.relative_to(REPO)) for path in (REPO / "utils").glob("*_data_dir.sh")]
    programs = [s for s in scripts if (REPO / s).exists()] + [f"kaldi-uq {name}" for name in COMMANDS]
    known = set().union(*map(options_of, programs)) | {"--help"}
    for span in code:
        assert set(OPTION.findall(span)) <= known, span
        name = span.split()[0]
        if re.match(r"(conf|local|steps|utils|kaldi_uq|recipes)/", name) and not re.search(r"[<>*{}]|mine", name):
            places = (REPO, RECIPE, (REPO / readme).parent, REPO / "kaldi_uq/nnet")
            assert any((place / name).exists() for place in places), span


def test_tables_of_what_a_run_leaves_name_what_is_there(tiny_recipe: Recipe) -> None:
    section = (REPO / "docs/files.md").read_text()
    section += (RECIPE / "README.md").read_text().partition("## Stages")[2].partition("## ")[0]
    values = {"<model>": "dnn", "<set>": "test", "<attack>": "pgd", "<eps>": "0.02"}
    found = 0
    for span in re.findall(r"`([^`]+)`", section):
        for name, value in values.items():
            span = span.replace(name, value)
        if not re.match(r"(data|exp)/", span):
            continue
        choices = re.search(r"\{(.*?)\}", span)
        for choice in choices[1].split(",") if choices else [""]:
            path = span.replace(choices[0], choice) if choices else span
            assert list(tiny_recipe.path.glob(path)), path
            found += 1
    assert found >= 20


def test_tiny_run_of_the_readme_is_the_one_that_the_tests_make() -> None:
    assert f'./run.sh {TINY_OPTIONS[0]} "{TINY_OPTIONS[1]}"\n' in (RECIPE / "README.md").read_text()


@pytest.fixture(scope="module")
def working_recipe(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A finished recipe that the commands may change, with the names that "In your own Kaldi recipe" uses."""
    recipe = tiny_recipe.clone(tmp_path_factory.mktemp("readme") / "recipe")
    (recipe.path / "uq").symlink_to("steps/uq")
    (recipe.path / "conf/mfcc.conf").symlink_to("mfcc_16k.conf")
    (recipe.path / "exp/tri_ali").symlink_to("mono_ali")
    audio = {name: list(read_table(recipe.path / f"data/{name}/wav.scp").values()) for name in ("fit", "test")}
    (recipe.path / "benign").mkdir()
    for number, wav in enumerate(audio["fit"]):
        (recipe.path / f"benign/{number}.wav").symlink_to(recipe.path / wav)
    (recipe.path / "some.wav").symlink_to(
        recipe.path / max(audio["test"], key=lambda wav: (recipe.path / wav).stat().st_size)
    )
    return recipe


RUNNABLE = [
    block
    for block in SHELL
    if block.readme in ("README.md", *DOCS, "recipes/tidigits/README.md")
    and not re.search(r"run\.sh|^make", block.text, re.M)
]


@pytest.mark.parametrize("block", RUNNABLE, ids=str)
def test_commands_run_as_they_are_printed(block: Block, working_recipe: Recipe) -> None:
    script = "set -euo pipefail\n" + block.text.replace("cd recipes/tidigits\n", "")
    done = working_recipe.run("bash", "-c", script)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=str)
def test_python_block_runs(block: Block, working_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(working_recipe.path)
    exec(compile(block.text, str(block), "exec", dont_inherit=True), {"__name__": "readme"})
