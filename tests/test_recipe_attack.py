"""What a recipe's attack is called, which configuration and options it has; the recipe's tables of attacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaldi_uq.cli.main import main
from tests.conftest import RunScript
from tests.recipe import REPO


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A function that runs the command in the digit recipe; returns status and what it says."""
    monkeypatch.chdir(REPO / "recipes/tidigits")

    def run(*words: str) -> tuple[int, str]:
        status = main(["recipe-attack", *words])
        said = capsys.readouterr()
        return status, said.err.partition(": error: ")[2].strip() if status else said.out.strip()

    return run


@pytest.mark.parametrize(
    "words, answer",
    [
        (["pgd"], "pgd conf/pgd.conf"),
        (["fgsm", "--name=", "--statistics=", "--attack-opts="], "fgsm conf/fgsm.conf"),
        (["paper-pgd"], "paper-pgd conf/paper/pgd.conf"),
        (["paper-pgd", "--eot-samples=2"], "paper-pgd-eot2 conf/paper/pgd.conf --eot-samples 2"),
        (["pgd", "--name=x", "--attack-opts=--num-steps 9"], "x conf/pgd.conf --num-steps 9"),
        (["adaptive"], "adaptive-max_predictive_entropy conf/adaptive.conf --statistics max_predictive_entropy"),
        (["adaptive", "--statistics=all-joint"], "adaptive-all-joint conf/adaptive.conf --statistics all-joint"),
        (
            ["adaptive", "--statistics=a,b", "--eot-samples=3", "--attack-opts=--num-rounds 2"],
            "adaptive-a+b-eot3 conf/adaptive.conf --statistics a,b --num-rounds 2 --eot-samples 3",
        ),
        (["orthogonal"], "orthogonal-max_predictive_entropy conf/orthogonal.conf --statistics max_predictive_entropy"),
        (["selective", "--statistics=a"], "selective-a conf/selective.conf --statistics a"),
        (["adaptive", "--statistics=a", "--fpr=0.01"], "adaptive-a conf/adaptive.conf --statistics a --fpr 0.01"),
        (
            ["adaptive", "--statistics=a", "--fpr=0.05", "--eps-level=0.050"],
            "adaptive-a-fpr0.05-level0.05 conf/adaptive.conf --statistics a --fpr 0.05",
        ),
        (
            ["adaptive", "--statistics=a", "--name=x-fpr0.05", "--fpr=0.05"],
            "x-fpr0.05 conf/adaptive.conf --statistics a --fpr 0.05",
        ),
        (["pgd", "--eps-level=0.05", "--name=x"], "x-level0.05 conf/pgd.conf"),
        (["pgd", "--eps-level=0"], "pgd conf/pgd.conf"),
    ],
)
def test_name_configuration_and_options(ask, words: list[str], answer: str) -> None:
    assert ask(*words) == (0, answer)


@pytest.mark.parametrize(
    "words, message",
    [
        (["pdg"], "conf/pdg.conf: no such file; --attack must be one of adaptive, black-box, "),
        (["dnn"], "conf/dnn.conf: no such file; --attack must be one of adaptive, "),  # a model's
        (["pgd", "--statistics=max_akld"], "--statistics is for --attack adaptive or orthogonal or selective, which"),
        (["pgd", "--fpr=0.05"], "--fpr is for --attack adaptive or orthogonal or selective, which knows the detector"),
        (["adaptive", "--fpr=2"], "--fpr must be in (0, 1), got 2.0"),
        (["pgd", "--eps-level=-1"], "--eps-level must be in [0, 1] (0: eps is absolute), got -1.0"),
        (["adaptive", "--statistics=a;b"], "--statistics must be names separated by commas, got 'a;b'"),
        (
            ["paper-pgd", "--attack-opts=--num-steps 2"],
            "with --attack-opts '--num-steps 2' it is not the paper's attack;",
        ),
        (["pgd", "--name=../x"], "--name is of letters, digits and . _ + -, got '../x'"),
    ],
)
def test_what_cannot_be_is_refused(ask, words: list[str], message: str) -> None:
    status, said = ask(*words)
    assert status == 1
    assert said.startswith(message)


TABLE = """
# name   eps        utterances  models       detect  options
pgd      0.02,0.05  all         all          yes
pgd      none       100         all          no
pgd-eot  0.02       100         dropout,bnn  no      --attack pgd --attack-opts=--eot-samples=1
"""


def test_table_of_attacks_is_one_call_a_model_and_bound(run_script: RunScript, tmp_path: Path) -> None:
    code = '. "$1"; say() { cat; echo "$#: $*"; }; for m in $models; do each_attack say $m "$2"; done'
    bash, env = ("bash", REPO / "utils/stages.sh", TABLE), {"models": "dnn bnn", "model_jobs": "2"}
    done = run_script("bash", "-euc", code, *bash, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "5: dnn pgd 0.02 all yes",
        "5: dnn pgd 0.05 all yes",
        "5: bnn pgd 0.02 all yes",
        "5: bnn pgd 0.05 all yes",
        "8: bnn pgd-eot 0.02 100 no --attack pgd --attack-opts=--eot-samples=1",
    ]
    failing = code.replace("echo", "false; echo")
    assert run_script("bash", "-euc", failing, *bash, env=env).returncode == 1


def test_where_more_may_be_at_work_than_there_are_models_attacks_are(run_script: RunScript, tmp_path: Path) -> None:
    code = """
. "$1"
models="dnn" model_jobs=2
meet() { touch "$3"; until [ -e 0.02 ] && [ -e 0.05 ]; do sleep 0.01; done; [ "$3" != "$other" ]; echo "$3"; }
each_attack meet dnn "$2"
echo after
"""
    bash = ("bash", "-euc", code, "bash", REPO / "utils/stages.sh", TABLE)
    done = run_script(*bash, cwd=tmp_path, env={"other": ""})
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, ["0.02", "0.05", "after"])
    done = run_script(*bash, cwd=tmp_path, env={"other": "0.02"})  # whose attack fails
    assert (done.returncode, done.stdout) == (1, "0.05\n")


@pytest.mark.parametrize(
    "here, options, expected",
    [
        ("0\n1\n2", {}, ["a: 0,1,2", "b: 1,2,0", "c: 2,0,1", "d: 0,1,2"]),
        ("0\n1\n2", {"CUDA_VISIBLE_DEVICES": "2,5"}, ["a: 2,5", "b: 5,2", "c: 2,5", "d: 5,2"]),
        ("0\n1", {"CUDA_VISIBLE_DEVICES": ""}, ["a: ", "b: ", "c: ", "d: "]),
        ("0\n1", {"CUDA_VISIBLE_DEVICES": "1"}, ["a: 1", "b: 1", "c: 1", "d: 1"]),
        ("0\n1", {"device": "cuda"}, ["a: 0,1", "b: 1,0", "c: 0,1", "d: 1,0"]),
        ("0\n1", {"device": "cpu"}, ["a: all", "b: all", "c: all", "d: all"]),
        ("0\n1", {"device": "cuda:1"}, ["a: all", "b: all", "c: all", "d: all"]),
        ("0", {}, ["a: all", "b: all", "c: all", "d: all"]),
        ("NVIDIA-SMI has failed\nCheck the driver", {}, ["a: all", "b: all", "c: all", "d: all"]),
        (None, {}, ["a: all", "b: all", "c: all", "d: all"]),
    ],
)
def test_models_take_turns_on_the_gpus(
    run_script: RunScript, tmp_path: Path, here: str | None, options: dict[str, str], expected: list[str]
) -> None:
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("exit 127\n" if here is None else f"printf '{here}\\n'\n")
    program.chmod(0o755)
    code = """
. "$1"
PATH=$2:$PATH models="a b c d" model_jobs=1
[ -n "$is_set" ] || unset CUDA_VISIBLE_DEVICES
say() { echo "$1: ${CUDA_VISIBLE_DEVICES-all}"; }
each_model say
"""
    bash = ("bash", "-euo", "pipefail", "-c", code, "bash", REPO / "utils/stages.sh", program.parent)
    done = run_script(*bash, env={**options, "is_set": "yes" if "CUDA_VISIBLE_DEVICES" in options else ""})
    assert (done.returncode, done.stderr, done.stdout.splitlines()) == (0, "", expected)


def test_attacks_at_a_time_take_turns_on_the_gpus(run_script: RunScript) -> None:
    code = """
. "$1"
models="a b" model_jobs=4 CUDA_VISIBLE_DEVICES=0,1
say() { echo "$1 $3: $CUDA_VISIBLE_DEVICES"; }
work() { each_attack say "$1" "$table"; }
each_model work
"""
    done = run_script("bash", "-euc", code, "bash", REPO / "utils/stages.sh", env={"table": TABLE})
    expected = ["a 0.02: 0,1", "a 0.05: 1,0", "b 0.02: 1,0", "b 0.05: 0,1"]
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, expected)
