"""Every script of steps, local and utils: its help, its usage, unknown options, missing inputs."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import RunScript
from tests.recipe import LIMIT_S, REPO, Recipe, error_line

SOURCED = {
    f"utils/{name}.sh" for name in ("env", "parse_options", "recipe_env", "script", "stages", "triphones")
}  # by other scripts


def _scripts() -> list[str]:
    found = [
        path
        for pattern in ("steps/*.sh", "steps/uq/*.sh", "local/*.sh", "utils/*.sh", "utils/*.pl")
        for path in REPO.glob(pattern)
    ]
    return sorted({str(path.relative_to(REPO)) for path in found} - SOURCED) + [
        f"recipes/{name}/run.sh" for name in ("commands", "end_to_end", "large_vocabulary", "own_model", "tidigits")
    ]


SCRIPTS = _scripts()

# so many arguments are never right
TOO_MANY = ["a", "b", "c", "d", "e", "f", "g"]


def test_all_scripts_are_here() -> None:
    assert {"steps/make_mfcc.sh", "steps/uq/train.sh", "local/attack.sh", "utils/mkgraph.sh"} <= set(SCRIPTS)
    assert len(SCRIPTS) >= 20


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A directory with links to the scripts, as a recipe directory has them, and nothing else: no path.sh, no data."""
    for name in ("local", "steps", "utils", "recipes"):
        (tmp_path / name).symlink_to(REPO / name)
    return tmp_path


def run_bare(bare: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run with neither Python nor Kaldi on the path."""
    tools = bare / "tools"
    tools.mkdir()
    for name in ("bash", "perl", "env", "basename", "dirname", "cat"):
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    env = {"PATH": str(tools), "LC_ALL": "C"}
    command = [f"./{script}", *words]
    return subprocess.run(command, cwd=bare, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_neither_data_nor_python_nor_kaldi_and_fits_80_columns(script: str, bare: Path) -> None:
    done = run_bare(bare, script, "--help")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Usage: ")
    assert any(line.lstrip().startswith("e.g.: ") for line in lines)
    # as it is typed: without the ./ of this test, and run.sh in its directory
    assert not [line for line in lines if len(re.sub(r"recipes/\w+/", "./", line.replace("./", ""))) > 80]
    assert sorted(path.name for path in bare.iterdir()) == ["local", "recipes", "steps", "tools", "utils"]


@pytest.mark.parametrize("script", ["local/attack.sh", "local/detect.sh", "local/check_attacks.sh"])
def test_outside_of_a_recipe_directory_one_line_says_where_to_go(script: str, bare: Path) -> None:
    done = run_bare(bare, script)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        f"./{script}: error: there is no path.sh in {bare}; run it in the directory of a recipe"
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_number_of_arguments_shows_the_usage(script: str, bare: Path) -> None:
    if script == "utils/run.pl":
        done = run_bare(bare, script, "JOB=1:2")  # it takes any number but not too few
    else:
        done = run_bare(bare, script, *TOO_MANY)
    assert done.returncode == 1
    assert done.stdout == ""
    usage = next(line for line in done.stderr.splitlines() if line.startswith("Usage: "))
    assert Path(script).name in usage


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s not in ("utils/run.pl", "utils/make_env.sh")])
def test_unknown_option_is_named(script: str, bare: Path) -> None:
    done = run_bare(bare, script, "--no-such-option", "1", "x")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    if script.endswith("2spk.pl") or script.endswith("2utt.pl"):  # they have no options: an argument too many
        assert "Usage: " in done.stderr
    else:
        assert re.search(r"(error: unknown option --no-such-option\b)", last), done.stderr


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.startswith(("steps/", "local/", "recipes/"))])
def test_every_option_in_the_help_exists_and_every_option_is_in_the_help(script: str, bare: Path) -> None:
    text = (REPO / script).read_text()
    defaults = re.split(r"^help_message=|^[^#]*script\.sh", text, maxsplit=1, flags=re.MULTILINE)[0]
    variables = re.findall(r"^([a-z][a-z_]*)=", defaults, re.MULTILINE)
    options = {"--" + name.replace("_", "-") for name in variables if name not in ("called_from", "here")}
    message = run_bare(bare, script, "--help").stdout
    left_column = [re.split(r"\s{2,}", line.strip())[0] for line in message.splitlines() if line.startswith("  --")]
    shown = {option for column in left_column for option in re.findall(r"(?<![\w\"-])--[a-z][a-z-]*", column)}
    assert shown == options
    assert all(" " in column for column in left_column), "an option without what its value is"


# --- inputs that are missing


@dataclass(frozen=True)
class Step:
    """A step, the command that works, and the inputs that it must look for itself."""

    script: str
    words: str
    inputs: tuple[str, ...]


DATA = ("data/test/wav.scp", "data/test/text")
FEATS = ("data/train/feats.scp", "data/train/cmvn.scp")
GMM = ("exp/mono/final.mdl", "exp/mono/tree")
MODEL = ("exp/dnn/final.safetensors", "exp/dnn/graph/HCLG.fst")
STEPS = (
    Step(
        "steps/make_mfcc.sh",
        "--mfcc-config conf/mfcc_16k.conf data/test log mfcc",
        ("data/test/wav.scp", "data/test/utt2spk", "conf/mfcc_16k.conf", "data/test/spk2utt"),
    ),
    Step("steps/compute_cmvn_stats.sh", "data/test log mfcc", ("data/test/feats.scp", "data/test/utt2spk")),
    Step(
        "steps/train_mono.sh",
        "data/train data/lang exp/new",
        (*FEATS, "data/train/text", "data/lang/L.fst", "data/lang/topo", "data/lang/words.txt"),
    ),
    Step(
        "steps/align_si.sh",
        "data/train data/lang exp/mono exp/new",
        (*FEATS, *GMM, "data/lang/L.fst", "data/train/text"),
    ),
    Step(
        "steps/decode.sh",
        "exp/mono/graph data/test exp/mono/decode_new",
        ("data/test/feats.scp", "data/test/cmvn.scp", "exp/mono/final.mdl", "exp/mono/graph/HCLG.fst"),
    ),
    Step("local/score.sh", "data/test exp/mono/decode_test", ("data/test/text",)),
    Step(
        "utils/mkgraph.sh",
        "data/lang exp/mono exp/new",
        ("data/lang/G.fst", "data/lang/L_disambig.fst", "data/lang/phones/disambig.int", *GMM),
    ),
    Step(
        "utils/prepare_lang.sh",
        "--word-loop data/local/dict/words.txt data/local/dict <SIL> tmp new",
        tuple(f"data/local/dict/{name}.txt" for name in ("lexicon", "silence_phones", "optional_silence", "words")),
    ),
    Step(
        "steps/uq/train.sh",
        "--mfcc-config conf/mfcc_16k.conf --train-config conf/dnn.conf data/train data/lang exp/mono_ali exp/new",
        (
            *("data/train/wav.scp", "data/train/text", "data/lang/G.fst", "conf/mfcc_16k.conf", "conf/dnn.conf"),
            *(f"exp/mono_ali/{name}" for name in ("final.mdl", "tree", "ali.1.gz", "ali.2.gz", "num_jobs")),
        ),
    ),
    Step("steps/uq/decode.sh", "exp/dnn/graph data/test exp/dnn exp/new", (*DATA, *MODEL)),
    Step("steps/uq/forward.sh", "data/test exp/dnn exp/new", ("data/test/wav.scp", "exp/dnn/final.safetensors")),
    Step(
        "steps/uq/attack.sh",
        "--attack-config conf/pgd.conf --target-text data/test/text data/test data/lang exp/dnn exp/dnn/graph exp/new",
        (*DATA, *MODEL, "data/lang/L.fst", "conf/pgd.conf"),
    ),
    Step("steps/uq/fit_detector.sh", "exp/dnn exp/dnn/score_fit", ("exp/dnn/score_fit/results.jsonl",)),
    Step(
        "steps/uq/detect.sh",
        "--results new.json exp/dnn exp/dnn/score_fit exp/dnn/score_test exp/dnn/attack_pgd_eps0.02",
        tuple(f"exp/dnn/{name}/results.jsonl" for name in ("score_fit", "score_test", "attack_pgd_eps0.02")),
    ),
    Step("local/attack.sh", "--model dnn", (*MODEL, "data/attack/wav.scp", "conf/pgd.conf")),
    Step("local/detect.sh", "--model dnn", ("exp/dnn/score_fit/results.jsonl",)),
    Step(
        "local/check_attacks.sh",
        "--model dnn",
        ("exp/dnn/final.safetensors", "data/attack/wav.scp", "conf/pgd.conf", "conf/nes.conf"),
    ),
)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.script)
def test_missing_input_is_named_in_one_line(step: Step, tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.clone(tmp_path / "recipe")
    for name in step.inputs:
        path = recipe.path / name
        moved = path.rename(path.with_name("away"))
        line = error_line(recipe.run(step.script, *step.words.split()))
        assert f"{name}: no such file" in line
        assert not list(recipe.path.glob("exp/new/[a-km-z]*")), "something was made"  # all but exp/new/log
        moved.rename(path)


def test_missing_part_of_the_hypotheses_is_said(tiny_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "decode").mkdir()
    line = error_line(tiny_recipe.run("local/score.sh", "data/test", tmp_path / "decode"))
    assert line == f"local/score.sh: error: {tmp_path}/decode has no hypotheses; steps/decode.sh makes them"


@pytest.mark.parametrize("script", ["steps/make_mfcc.sh", "steps/align_si.sh", "steps/decode.sh"])
@pytest.mark.parametrize("nj", ["0", "two", "-1"])
def test_number_of_jobs_must_be_one(script: str, nj: str, tiny_recipe: Recipe, tmp_path: Path) -> None:
    words = next(step.words for step in STEPS if step.script == script).split()
    line = error_line(tiny_recipe.run(script, "--nj", nj, *words))
    assert line == f"{script}: error: --nj must be a whole number above 0, got '{nj}'"


def test_attack_directory_with_another_name_needs_the_options(tiny_recipe: Recipe) -> None:
    places = ("exp/dnn", "exp/dnn/score_fit", "exp/dnn/score_test", "exp/dnn/score_test")
    line = error_line(tiny_recipe.run("steps/uq/detect.sh", *places))
    assert line.endswith("exp/dnn/score_test: not named attack_<name>_eps<eps>; say both with --attack and --eps")


def test_failed_job_shows_its_one_line_of_error_and_not_its_log(run_script: RunScript, tmp_path: Path) -> None:
    bar = r"printf 'x: 0%%\rx: 50%%\rx: 100%%\n'; echo 'kaldi-uq x: error: a.wav: bad' >&2; exit 1"
    done = run_script(REPO / "utils/run.pl", "log/x.log", "bash", "-c", bar)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["run.pl: job failed, log is in log/x.log", "kaldi-uq x: error: a.wav: bad"]
    done = run_script(REPO / "utils/run.pl", "log/x.log", "bash", "-c", bar.replace("error", "failure"))
    lines = ["run.pl: log/x.log ends with", "  x: 100%", "  kaldi-uq x: failure: a.wav: bad"]
    assert done.stderr.splitlines()[1:] == lines


@pytest.mark.parametrize("array", [False, True], ids=["job", "array"])
@pytest.mark.parametrize("ours", [False, True], ids=["run.pl of Kaldi", "run.pl of ours"])
def test_step_says_why_its_job_failed_whatever_runs_it(
    run_script: RunScript, tmp_path: Path, ours: bool, array: bool
) -> None:
    (tmp_path / "utils").symlink_to(REPO / "utils")  # the words of a command are split at blanks
    cmd = "utils/run.pl"
    if not ours:  # as those of Kaldi, it names the log and no more; with an option of its own
        cmd = "./terse.pl --mem 1G"
        (tmp_path / "terse.pl").write_text(
            f'#!/usr/bin/env bash\nshift 2\n"{REPO}/utils/run.pl" "$@" 2>&1 | grep "logs* " >&2\nexit 1\n'
        )
        (tmp_path / "terse.pl").chmod(0o755)
    (tmp_path / "step.sh").write_text(
        f'set -euo pipefail\ncmd="{cmd}"\n. utils/script.sh\nrun_jobs "$@"\necho not reached\n'
    )
    body = r"printf 'x: 0%%\rkaldi-uq x: error: a.wav: bad\n' >&2; exit 1"
    words = ("JOB=1:2", "a log/x.JOB.log") if array else ("a log/x.log",)
    done = run_script("bash", "step.sh", *words, "bash", "-c", body)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].endswith("kaldi-uq x: error: a.wav: bad")
    assert sum(line.endswith("kaldi-uq x: error: a.wav: bad") for line in done.stderr.splitlines()) == 1
