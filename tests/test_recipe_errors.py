"""The digit recipe in the hands of a user who makes mistakes: one clear line, status 1, and nothing half-written.

One file: each test spoils a copy of the same small run, which takes a minute to make.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from kaldi_uq.cli.main import COMMANDS, command_parser, main
from kaldi_uq.cli.options import non_negative_int
from kaldi_uq.io.datadir import read_table
from tests.recipe import LIMIT_S, REPO, TINY_OPTIONS, Recipe, error_line, heed_interrupts, make_recipe, wait_for

pytestmark = pytest.mark.long

ATTACK_DIR = "exp/dnn/attack_pgd_eps0.02"
TINY = TINY_OPTIONS


def snapshot(*folders: Path) -> dict[Path, bytes]:
    """All files but logs, parts of split directories and locks, with their contents."""
    skip = {"log", "split2", "split2utt"}
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if not skip & set(path.parts) and path.suffix != ".lock"}


@pytest.fixture
def recipe(tiny_recipe: Recipe, tmp_path: Path) -> Recipe:
    """A finished recipe to break."""
    return tiny_recipe.clone(tmp_path / "recipe")


@pytest.fixture
def fresh(script_env: dict[str, str], tmp_path: Path) -> Recipe:
    """A recipe that has not run."""
    return make_recipe(tmp_path / "fresh", script_env)


@pytest.fixture
def refuse(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs a command in the recipe directory and returns its one line of error."""
    monkeypatch.chdir(recipe.path)

    def run(*words: object) -> str:
        capsys.readouterr()
        before = snapshot(recipe.path / "data", recipe.path / "exp")
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:  # of the parser
            status = error.code  # type: ignore[assignment]
        assert status == 1
        assert snapshot(recipe.path / "data", recipe.path / "exp") == before, "something was written"
        lines = capsys.readouterr().err.splitlines()
        assert [": error: " in line for line in lines].count(True) == 1
        assert lines[-1].startswith(f"kaldi-uq {words[0]}: error: ")
        return lines[-1].partition(": error: ")[2]

    return run


ATTACK = ["nnet-attack", "--lang-dir", "data/lang"]
ATTACK_PLACES = ["data/attack", "exp/dnn", "exp/dnn/graph", ATTACK_DIR]


# --- the corpus


@pytest.mark.parametrize("corpus", ["fsdd", "tidigits"])
@pytest.mark.parametrize(
    "make, message",
    [
        (None, "{corpus_dir}: no such directory"),
        (lambda path: path.mkdir(), "{corpus_dir}: "),
        (lambda path: path.write_text("x"), "{corpus_dir}: no such directory"),
    ],
    ids=["missing", "empty", "file"],
)
def test_corpus_that_is_not_there_is_named(
    fresh: Recipe, tmp_path: Path, corpus: str, make: Callable[[Path], None] | None, message: str
) -> None:
    corpus_dir = tmp_path / "my corpora"
    if make:
        make(corpus_dir)
    line = error_line(fresh.run("./run.sh", "--corpus", corpus, "--corpus-dir", corpus_dir))
    assert message.format(corpus_dir=corpus_dir) in line
    assert not list(fresh.path.rglob("wav.scp"))


def test_corpus_without_its_directory_names_the_option(fresh: Recipe) -> None:
    assert "--corpus fsdd needs --corpus-dir" in error_line(fresh.run("./run.sh", "--corpus", "fsdd"))
    assert not (fresh.path / "runs").exists()


def test_stage_8_without_being_asked_for_is_refused(fresh: Recipe) -> None:
    for options in (["--stage", "8"], ["--stop-stage", "8"]):
        assert "stage 8 needs --sceptic true or --preset full" in error_line(fresh.run("./run.sh", *options))
    assert not (fresh.path / "runs").exists()


# --- waveforms


def _truncated(path: Path, rate: int, samples: np.ndarray) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _nan(path: Path, rate: int, samples: np.ndarray) -> None:
    changed = (samples / 32768).astype(np.float32)
    changed[123] = np.nan
    wavfile.write(path, rate, changed)


BAD_WAVES: dict[str, tuple[Callable[[Path, int, np.ndarray], None], str]] = {
    "truncated": (_truncated, "truncated: the header promises"),
    "stereo": (lambda p, r, x: wavfile.write(p, r, np.stack([x, x], 1)), "2 channels, expected 1"),
    "rate": (lambda p, r, x: wavfile.write(p, r // 2, x), "sample rate 8000 Hz, expected 16000 Hz"),
    "silent": (lambda p, r, x: wavfile.write(p, r, np.zeros_like(x)), "samples are zero"),
    "nan": (_nan, "NaN or infinite, the first at 123"),
    "short": (lambda p, r, x: wavfile.write(p, r, x[2000:2399]), "has 399 samples (0.025 s), the shortest"),
    "empty": (lambda p, r, x: p.write_bytes(b""), "not a WAV file"),
    "missing": (lambda p, r, x: p.unlink(), "no such file"),
}


def spoil(recipe: Recipe, name: str, kind: str) -> str:
    """Spoil the third waveform of a set; its path as wav.scp has it."""
    path = list(read_table(recipe.path / "data" / name / "wav.scp").values())[2]
    rate, samples = wavfile.read(recipe.path / path)
    BAD_WAVES[kind][0](recipe.path / path, rate, samples)
    return path


@pytest.mark.parametrize("kind", BAD_WAVES)
def test_bad_waveform_is_refused_by_every_command_that_reads_it(
    recipe: Recipe, refuse: Callable[..., str], kind: str
) -> None:
    path = spoil(recipe, "attack", kind)
    config = ("--mfcc-config", "conf/mfcc_16k.conf")
    for words in (
        ("compute-mfcc", *config, "data/attack", "data/mfcc/x.ark", "data/mfcc/x.scp"),
        ("nnet-decode", "data/attack", "exp/dnn", "exp/dnn/graph", "exp/dnn/score_x"),
        ("nnet-forward", "data/attack", "exp/dnn", "exp/dnn/x.ark", "exp/dnn/x.scp"),
        ("nnet-train", *config, "data/attack", "data/lang", "exp/mono_ali", "exp/x"),
        (*ATTACK, *ATTACK_PLACES),
    ):
        line = refuse(*words)
        assert line.startswith(f"{path}: ")
        assert BAD_WAVES[kind][1] in line


def test_bad_training_waveform_stops_stage_1_and_leaves_no_features_as_if_whole(recipe: Recipe) -> None:
    path = spoil(recipe, "train", "truncated")
    line = error_line(recipe.run("./run.sh", *TINY, "--stage", 1))
    assert line.startswith(f"kaldi-uq compute-mfcc: error: {path}: truncated")
    assert not (recipe.path / "data/train/feats.scp").exists()
    line = error_line(recipe.run("./run.sh", *TINY, "--stage", 2))
    assert "data/train/feats.scp: no such file in runs/" in line
    assert "; stage 1 makes it" in line


def test_bad_waveform_to_attack_stops_stage_6_and_changes_nothing(recipe: Recipe) -> None:
    path = spoil(recipe, "attack", "nan")
    before = snapshot(recipe.path / "exp/dnn")
    line = error_line(recipe.run("./run.sh", *TINY, "--stage", 6, "--model-jobs", 1))
    assert line.startswith(f"kaldi-uq nnet-attack: error: {path}: ")
    assert snapshot(recipe.path / "exp/dnn") == before


def test_short_waveform_goes_as_the_message_says(recipe: Recipe, refuse: Callable[..., str]) -> None:
    spoil(recipe, "attack", "short")
    line = refuse(*ATTACK, *ATTACK_PLACES)
    assert line.endswith("delete its line in wav.scp and run utils/fix_data_dir.sh data/attack")
    scp = recipe.path / "data/attack/wav.scp"
    lines = scp.read_text().splitlines(keepends=True)
    scp.write_text("".join(lines[:2] + lines[3:]))
    assert recipe.run("utils/fix_data_dir.sh", "data/attack").returncode == 0
    assert main([*ATTACK, *ATTACK_PLACES]) == 0
    assert len(read_table(recipe.path / ATTACK_DIR / "wav.scp")) == 5
    assert len(list((recipe.path / ATTACK_DIR / "wav").iterdir())) == 5  # the sixth went with its line


# --- tables and texts


def test_tables_that_disagree_are_named_with_the_remedy(recipe: Recipe, refuse: Callable[..., str]) -> None:
    scp = recipe.path / "data/train/wav.scp"
    lines = scp.read_text().splitlines(keepends=True)
    scp.write_text("".join(lines[:4] + lines[5:]))
    utt = lines[4].split()[0]
    remedy = "run utils/fix_data_dir.sh data/train"
    missing = f"data/train/wav.scp: recording '{utt}' of utt2spk not in it; {remedy}"
    line = error_line(recipe.run("steps/make_mfcc.sh", "--mfcc-config", "conf/mfcc_16k.conf", "data/train"))
    assert line == f"kaldi-uq validate-data: error: {missing}"
    train = ("nnet-train", "--mfcc-config", "conf/mfcc_16k.conf", "data/train", "data/lang", "exp/mono_ali", "exp/x")
    for words in (("train-mono", "data/train", "data/lang", "exp/x"), train):
        assert refuse(*words) == f"data/train/utt2spk:5: utterance '{utt}' is not in wav.scp; {remedy}"


@pytest.mark.parametrize("word", ["eleven", "<s>", "#0"])
def test_word_outside_the_lexicon_is_refused_where_no_word_stands_for_it(
    recipe: Recipe, refuse: Callable[..., str], word: str
) -> None:
    text = recipe.path / "data/train/text"
    lines = text.read_text().splitlines()
    utt = lines[6].split()[0]
    text.write_text("\n".join([*lines[:6], f"{lines[6]} {word}", *lines[7:]]) + "\n")
    for name in ("oov.txt", "oov.int"):
        (recipe.path / "data/lang" / name).unlink()
    for words in (
        ("train-mono", "data/train", "data/lang", "exp/x"),
        ("align-gmm", "data/train", "data/lang", "exp/mono", "exp/x/ali.1.gz"),
    ):
        line = refuse(*words)
        where = f"data/train/text: utterance '{utt}': word '{word}' is not in data/lang/words.txt"
        assert line.startswith(f"{where}, which knows <SIL>, eight, five, four, nine, oh, one, seven, six, three, ")
    line = error_line(recipe.run("local/prepare_dict.py", "data/train/text", "data/local/new"))
    assert f"data/train/text:7: utterance '{utt}': word '{word}' is not in the lexicon, which has oh zero" in line
    assert not (recipe.path / "data/local/new").exists()


# --- targets and options of the attack


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t | {"{0}": "seven " * 40}, "utterance '{0}' needs at least 400 frames, the audio has "),
        (lambda t: t | {"{1}": "one eleven"}, "{1}: word 'eleven' is not in data/lang/words.txt"),
        (lambda t: t | {"{1}": "<s>"}, "{1}: word '<s>' is not in data/lang/words.txt"),
        (lambda t: t | {"{0}": None}, "no target for utterance '{0}' (1 are missing); add a line"),
        (lambda t: t | {"{0}": ""}, "my targets:1: expected '<key> <value>'"),
        (lambda t: {}, "my targets: empty"),
    ],
    ids=["too long", "unknown word", "symbol", "missing", "no words", "empty"],
)
def test_bad_target_is_refused_and_the_earlier_attack_stays(
    recipe: Recipe, refuse: Callable[..., str], change: Callable[[dict[str, str]], dict[str, str]], message: str
) -> None:
    utts = list(read_table(recipe.path / "data/attack/text"))
    targets: dict[str, str | None] = dict.fromkeys(utts, "two")
    targets |= {key.format(*utts): words for key, words in change({}).items()}
    if not change({}):
        targets = {}
    table = "".join(f"{utt} {words}\n" for utt, words in targets.items() if words is not None)
    (recipe.path / "my targets").write_text(table)
    line = refuse(*ATTACK, "--target-text", "my targets", *ATTACK_PLACES)
    assert message.format(*utts) in line
    assert line.startswith("my targets")


def test_missing_targets_file_is_named_by_the_script(recipe: Recipe) -> None:
    before = snapshot(recipe.path / "exp")
    assert error_line(recipe.run("local/attack.sh", "--target-text", "nowhere")).endswith(
        "error: nowhere: no such file"
    )
    assert snapshot(recipe.path / "exp") == before


@pytest.mark.parametrize("eps", ["-0.01", "abc", "1.5", "nan", "0.02,0.05"])
def test_eps_that_is_no_bound_is_refused_before_anything_runs(recipe: Recipe, eps: str) -> None:
    before = snapshot(recipe.path / "exp")
    for words in (("./run.sh", *TINY, "--eps", eps), ("local/attack.sh", "--eps", eps)):
        line = error_line(recipe.run(*words))
        assert line.endswith(f"--eps must be a number in [0, 1] (full scale is 1), got '{eps}'")
    assert snapshot(recipe.path / "exp") == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--eps", "1.5"], "eps must be a number in [0, 1]"),
        (["--eps", "x"], "argument --eps: expected a finite number, got 'x'"),
        (["--seed", "-1"], "seed must be >= 0, got -1"),
        (["--num-steps", "0"], "num_steps must be >= 1, got 0"),
        (["--num-utts", "7"], "data/attack: 6 utterances, --num-utts asks for 7"),
        (["--num-utts", "-1"], "argument --num-utts: expected a whole number, 0 or more, got '-1'"),
        (["--num-draws", "3"], "num_draws 3: exp/dnn is not random, leave the option out"),
        (["--device", "tpu"], "device must be cpu or cuda, got 'tpu'"),
        (["--step-rule", "big"], "there is no step rule 'big'; there are apgd, cosine, fixed"),
        (["--config", "nowhere"], "nowhere: no such file (--config)"),
        (["--acwt", "nan"], "argument --acwt: expected a finite number, got 'nan'"),
    ],
)
def test_option_out_of_range_is_named_and_the_earlier_attack_stays(
    refuse: Callable[..., str], options: list[str], message: str
) -> None:
    assert refuse(*ATTACK, *options, *ATTACK_PLACES).startswith(message)


def test_what_is_filed_as_the_papers_attack_has_the_papers_parameters(recipe: Recipe) -> None:
    before = snapshot(recipe.path / "exp")
    other = ("local/attack.sh", "--attack", "paper-pgd", "--attack-opts", "--num-steps 2")
    for options in ((), ("--name", "paper-pgd")):
        line = error_line(recipe.run(*other, *options))
        assert line.endswith("with --attack-opts '--num-steps 2' it is not the paper's attack; give it a --name")
    assert "--name is of letters" in error_line(recipe.run(*other, "--name", "../x"))
    assert snapshot(recipe.path / "exp") == before
    assert recipe.run(*other, "--name", "two-steps").returncode == 0
    assert {row["attack"] for row in recipe.results()["attacks"]} == {"pgd", "paper-pgd", "two-steps"}


# --- options that do not exist


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_unknown_option_of_every_command_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # "." is a directory for all arguments that must be one
    parser, _ = command_parser(command)
    words = []
    for action in parser._actions:
        value = (
            next(iter(action.choices))
            if action.choices
            else "1"
            if action.type in (int, float, non_negative_int)
            else "."
        )
        if not action.option_strings:
            words += [value] if action.nargs in (None, argparse.ONE_OR_MORE) else []
        elif action.required:
            words += [action.option_strings[0], value]
    with pytest.raises(SystemExit) as exit_:
        main([command, "--no-such-option", *words])
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    said = f"kaldi-uq {command}: error: there is no option --no-such-option"
    assert re.fullmatch(rf"{said}(; did you mean '--option'\?)? \(see kaldi-uq {command} --help\)\n", error)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--no-such-option", "1"], "unknown option --no-such-option (see ./run.sh --help)"),
        (["--corpus", "timit"], "--corpus must be one of synth fsdd tidigits, got 'timit'"),
        (["--models", "dnn tdnn"], "--models must be one of bnn dnn dropout ensemble, got 'tdnn'"),
        (["--models", "dnn dnn"], "--models names dnn twice"),
        (["--nj", "0"], "--nj, --model-jobs and --attack-jobs must be at least 1"),
        (["--seed", "-1"], "--seed must be a whole number, got '-1'"),
        (["--stage", "08"], "--stage must be a whole number, got '08'"),
        (["--stage", "10"], "--stage 10: the last stage is 9"),
        (["--stage", "5", "--stop-stage", "4"], "--stop-stage 4 is before --stage 5"),
        (["--engine", "julius"], "--engine must be one of embedded kaldi, got 'julius'"),
        (["--held-out-speakers", "theo"], "--held-out-speakers is for --corpus fsdd"),
    ],
)
def test_wrong_option_of_run_sh_is_refused_before_anything_is_made(
    fresh: Recipe, options: list[str], message: str
) -> None:
    assert message in error_line(fresh.run("./run.sh", *options))
    assert not (fresh.path / "runs").exists()


# --- stages out of order


@pytest.mark.parametrize(
    "stage, missing, made_by",
    [
        (1, "data/train/wav.scp", 0),
        (2, "data/lang/L.fst", 0),
        (4, "data/train/wav.scp", 0),
        (9, "exp/dnn/score_test/results.jsonl", 5),
    ],
)
def test_stage_out_of_order_names_the_file_and_the_stage_that_makes_it(
    fresh: Recipe, stage: int, missing: str, made_by: int
) -> None:
    line = error_line(fresh.run("./run.sh", "--stage", stage))
    where = f"{missing}: no such file in runs/synth_mini"
    assert line.endswith(f"{where}; stage {made_by} makes it: the same command with --stage {made_by}")
    assert not (fresh.path / "exp/report").exists()


@pytest.mark.parametrize(
    "stage, missing, made_by",
    [
        (3, "exp/mono/final.mdl", 2),
        (4, "exp/mono_ali/num_jobs", 2),
        (6, "exp/dnn/final.safetensors", 4),
        (7, "exp/dnn/attack_pgd_eps0.02/results.jsonl", 6),
    ],
)
def test_stage_whose_input_is_gone_names_it(recipe: Recipe, stage: int, missing: str, made_by: int) -> None:
    (recipe.path / missing).unlink()
    line = error_line(recipe.run("./run.sh", *TINY, "--stage", stage))
    assert f"{missing}: no such file in runs/synth_mini_" in line
    assert f"; stage {made_by} makes it" in line


# --- a full disk, as the kernel tells it when a file may not grow


def with_file_limit(recipe: Recipe, kilobytes: int, *command: object) -> str:
    """The line of error of a command whose files may have so many kilobytes, and no temporary files left."""
    limited = ["bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "limited", *map(str, command)]
    line = error_line(recipe.run(*limited))
    assert not [path for path in recipe.path.rglob("*") if path.name.endswith(".tmp")]
    assert line.endswith(": File too large")
    return line


def test_full_disk_leaves_no_short_feature_archive(recipe: Recipe) -> None:
    for path in (recipe.path / "data/mfcc").iterdir():
        path.unlink()
    make_mfcc = ("steps/make_mfcc.sh", "--mfcc-config", "conf/mfcc_16k.conf", "--nj", 1)
    line = with_file_limit(recipe, 64, *make_mfcc, "data/train", "log", "data/mfcc")
    assert "data/mfcc/raw_mfcc_train.1.ark: " in line
    assert not list((recipe.path / "data/mfcc").iterdir())
    assert not (recipe.path / "data/train/feats.scp").exists()


def test_full_disk_leaves_no_short_waveform_of_an_attack(recipe: Recipe) -> None:
    shutil.rmtree(recipe.path / ATTACK_DIR)
    assert f"{ATTACK_DIR}/wav/" in with_file_limit(recipe, 16, "local/attack.sh")
    assert not list((recipe.path / ATTACK_DIR / "wav").iterdir())
    for name in ("results.jsonl", "wav.scp", ".done.attack"):
        assert not (recipe.path / ATTACK_DIR / name).exists()


def test_full_disk_leaves_results_json_as_it_was(recipe: Recipe) -> None:
    before = (recipe.path / "exp/results.json").read_bytes()
    assert "exp/results.json: " in with_file_limit(recipe, len(before) // 2048, "local/detect.sh", "--seed", 3)
    assert (recipe.path / "exp/results.json").read_bytes() == before


def test_full_disk_leaves_no_short_model(recipe: Recipe) -> None:
    shutil.rmtree(recipe.path / "exp/dnn")
    train = ("steps/uq/train.sh", "--train-config", "conf/dnn.conf", "--mfcc-config", "conf/mfcc_16k.conf")
    places = ("data/train", "data/lang", "exp/mono_ali", "exp/dnn")
    assert "exp/dnn/checkpoint.pt: " in with_file_limit(recipe, 100, *train, *places)
    assert [path.name for path in (recipe.path / "exp/dnn").iterdir()] == ["log"]


# --- the engine


def test_broken_kaldi_root_is_named_and_an_option_overrides_it(recipe: Recipe) -> None:
    broken = {"KALDI_ROOT": "/no such/kaldi"}
    line = error_line(recipe.run("./run.sh", *TINY, **broken))
    assert "KALDI_ROOT" in line
    assert "/no such/kaldi" in line
    assert "--engine embedded" in line
    recipe.run_sh(*TINY, "--engine", "embedded", "--stage", 3, "--stop-stage", 3, **broken)


# --- names with blanks


def test_repository_in_a_directory_with_a_blank(script_env: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "my repository"
    for name in ("kaldi_uq", "local", "steps", "utils"):
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "recipes").mkdir()
    shutil.copy(REPO / "setup.py", root)
    shutil.copytree(
        REPO / "recipes/tidigits",
        root / "recipes/tidigits",
        symlinks=True,
        ignore=shutil.ignore_patterns("data", "exp", "runs"),
    )
    env = {name: value for name, value in script_env.items() if name not in ("KALDI_UQ_ENV", "VIRTUAL_ENV")}
    recipe = Recipe(root, env | {"PYTHONPATH": str(root)})
    few = "--num-train 4 --num-fit 1 --num-test 2 --num-attack 1"
    done = recipe.run(root / "recipes/tidigits/run.sh", "--corpus-opts", few, "--stop-stage", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(read_table(recipe.path / "data/train/feats.scp")) == 4
    assert not (root / ".venv").exists()


# --- killed in the middle


def test_killed_corpus_preparation_is_completed(tiny_recipe: Recipe, fresh: Recipe) -> None:
    fresh.run_until(lambda: len(list(fresh.path.glob("runs/*/data/wav/train/*.wav"))) > 20, "./run.sh", *TINY)
    fresh.run_sh(*TINY, "--stop-stage", 0)
    names = ["spk2voice", *(f"lang/{name}" for name in ("L.fst", "G.fst", "topo", "words.txt", "phones.txt"))]
    names += [f"{s}/{n}" for s in ("train", "fit", "test", "attack") for n in ("text", "wav.scp", "utt2spk", "utt2dur")]
    for name in names:
        assert (fresh.path / "data" / name).read_bytes() == (tiny_recipe.path / "data" / name).read_bytes(), name
    waves = {path.relative_to(tiny_recipe.path): path for path in tiny_recipe.path.glob("data/wav/*/*.wav")}
    assert {path.relative_to(fresh.path) for path in fresh.path.glob("data/wav/*/*")} == waves.keys()
    for name, path in waves.items():
        assert (fresh.path / name).read_bytes() == path.read_bytes(), name


def test_killed_training_resumes_to_the_same_model(tiny_recipe: Recipe, recipe: Recipe) -> None:
    shutil.rmtree(recipe.path / "exp/dnn")
    options = (*TINY, "--stage", 4, "--stop-stage", 4)
    recipe.run_until((recipe.path / "exp/dnn/checkpoint.pt").is_file, "./run.sh", *options)
    assert not (recipe.path / "exp/dnn/final.safetensors").exists()
    recipe.run_sh(*options)
    assert "resuming after epoch" in (recipe.path / "exp/dnn/log/train.log").read_text()
    for name in ("final.safetensors", "final.mdl", "tree", "graph/HCLG.fst", "history.json"):
        assert (recipe.path / "exp/dnn" / name).read_bytes() == (tiny_recipe.path / "exp/dnn" / name).read_bytes(), name


def test_killed_attack_is_completed(tiny_recipe: Recipe, recipe: Recipe) -> None:
    attacks = [f"exp/dnn/attack_{name}_eps0.02" for name in ("pgd", "paper-pgd")]
    for folder in attacks:
        shutil.rmtree(recipe.path / folder)
    options = (*TINY, "--stage", 6, "--stop-stage", 6)
    recipe.run_until(lambda: len(list(recipe.path.glob("exp/dnn/attack_pgd*/wav/*.wav"))) > 2, "./run.sh", *options)
    assert not list(recipe.path.glob("exp/dnn/attack_*/results.jsonl"))
    recipe.run_sh(*options)
    assert recipe.results() == tiny_recipe.results()
    for folder in attacks:
        waves = [f"wav/{utt}.wav" for utt in read_table(recipe.path / folder / "text")]
        for name in ("results.jsonl", "target_text", *waves):
            ours, theirs = recipe.path / folder / name, tiny_recipe.path / folder / name
            assert ours.read_bytes() == theirs.read_bytes(), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_run_and_all_that_it_started(recipe: Recipe, number: signal.Signals) -> None:
    shutil.rmtree(recipe.path / "exp/dnn")
    errors = recipe.root / "errors"
    with open(errors, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            ["./run.sh", *TINY, "--stage", "4"],
            cwd=recipe.path,
            env=recipe.env,
            stdin=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )
    log = recipe.path / "exp/dnn/log/train.log"
    wait_for(lambda: log.is_file() and "engine embedded" in log.read_text())
    os.killpg(process.pid, number)  # what Ctrl-C does, and a batch system
    assert process.wait(timeout=LIMIT_S) == -number
    wait_for(lambda: f"run.pl: ended by {number.name}" in errors.read_text())
    assert "Traceback" not in errors.read_text()
    recipe_lock_is_free = ["flock", "-n", "runs/.lock", "true"]
    wait_for(lambda: recipe.run(*recipe_lock_is_free).returncode == 0)


def test_second_run_at_the_same_time_is_refused(recipe: Recipe) -> None:
    recipe.forget_stages()
    first = subprocess.Popen(
        ["./run.sh", *TINY, "--stage", "9"],
        cwd=recipe.path,
        env=recipe.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stderr
    for line in first.stderr:
        if line.startswith("=== stage 9"):
            break
    line = error_line(recipe.run("./run.sh", *TINY, "--stage", 9))
    assert f"another run.sh is at work in {recipe.path}" in line
    first.stderr.read()
    assert first.wait(timeout=LIMIT_S) == 0


def test_interrupted_command_is_one_line_and_no_traceback(recipe: Recipe) -> None:
    code = "import os, signal, kaldi_uq.cli.frame_shift as m, kaldi_uq.cli.main as c\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in a job in the background
    code += "m.run = lambda args: os.kill(os.getpid(), signal.SIGINT)\nc.main(['frame-shift', 'x'])"
    done = recipe.run(sys.executable, "-c", code)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "kaldi-uq frame-shift: interrupted\n"
