"""utils/parse_options.sh and script.sh: Kaldi's contract, values that are data and never code, help from comments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPO, RunScript

UTILS = REPO / "utils"


SCRIPT = """#!/usr/bin/env bash
set -euo pipefail
opt_name=default
nj=4
flag=false
empty=
cmd=run.pl
help_message="Usage: x.sh\\n e.g.: x.sh 100%s"
. "{utils}/parse_options.sh"
printf '%s\\n' "opt_name=$opt_name" "nj=$nj" "flag=$flag" "empty=$empty" "cmd=$cmd" "args=$#:$*"
"""


@pytest.fixture
def parse(tmp_path: Path, run_script: RunScript):
    """A function that runs a script with options; returns status, variables, errors."""
    script = tmp_path / "x.sh"
    script.write_text(SCRIPT.replace("{utils}", str(UTILS)))

    def run(*words: str) -> tuple[int, dict[str, str], str]:
        done = run_script("bash", script, *words)
        lines = [line.partition("=") for line in done.stdout.splitlines()]
        return done.returncode, {name: value for name, _, value in lines}, done.stderr

    return run


def test_options_set_variables_and_leave_the_arguments(parse) -> None:
    status, variables, _ = parse("--opt-name", "value", "--nj", "8", "data/train", "--nj", "9")
    assert status == 0
    assert variables["opt_name"] == "value"
    assert variables["nj"] == "8"
    assert variables["args"] == "3:data/train --nj 9"


def test_defaults_stay_without_options(parse) -> None:
    assert parse()[1] == {
        "opt_name": "default", "nj": "4", "flag": "false", "empty": "", "cmd": "run.pl", "args": "0:",
    }  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        "$(touch pwned)",
        "`touch pwned`",
        "; touch pwned",
        "a' 'b \"c\" $HOME",
        "2  blanks",
        "a\\nb",
        "-1",
        "*",
        "%s",
        "",
    ],
)
@pytest.mark.parametrize("form", ["two words", "equals"])
def test_values_stay_literal(parse, tmp_path: Path, value: str, form: str) -> None:
    words = ["--opt-name", value] if form == "two words" else [f"--opt-name={value}"]
    status, variables, errors = parse(*words, "arg")
    assert status == 0, errors
    assert variables["opt_name"] == value
    assert variables["args"] == "1:arg"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["--x$(touch pwned)", "--opt_name[$(touch pwned)]", "--a;touch pwned", "--", "---"])
def test_names_are_never_evaluated(parse, tmp_path: Path, name: str) -> None:
    status, variables, _ = parse(name, "value")
    assert status == (0 if name == "--" else 1)
    assert not variables or variables["args"] == "1:value"  # -- ends the options
    assert not (tmp_path / "pwned").exists()


def test_subscript_with_a_command_is_refused_where_the_script_would_do_arithmetic(parse, tmp_path: Path) -> None:
    status, _, errors = parse("--nj", "a[$(touch pwned)]")
    assert status == 1
    assert "--nj is a number" in errors
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["--unknown", "--PATH", "--IFS", "--BASH-ENV", "--Opt-name", "--opt.name"])
def test_unknown_option_is_one_line_and_exits_1(parse, name: str) -> None:
    status, variables, errors = parse(name, "x")
    assert (status, variables) == (1, {})
    assert errors.count("\n") == 1
    assert f"unknown option {name}" in errors


@pytest.mark.parametrize("value, status", [("true", 0), ("false", 0), ("yes", 1), ("1", 1), ("", 1)])
def test_boolean_takes_only_true_and_false(parse, value: str, status: int) -> None:
    result, variables, errors = parse("--flag", value)
    assert result == status
    assert variables["flag"] == value if status == 0 else "true or false" in errors


@pytest.mark.parametrize("words", [["--nj"], ["--nj", "--flag", "true"], ["--flag", "true", "--nj"], ["--config"]])
def test_option_without_a_value_is_an_error(parse, words: list[str]) -> None:
    status, _, errors = parse(*words)
    assert status == 1
    assert "has no value" in errors


def test_value_that_begins_with_dashes_is_a_value_unless_it_is_an_option(parse) -> None:
    assert parse("--opt-name", "--beam 13 --x 1")[1]["opt_name"] == "--beam 13 --x 1"
    assert parse("--opt-name=--nj")[1]["opt_name"] == "--nj"


def test_empty_cmd_is_an_error(parse) -> None:
    assert parse("--cmd", "")[0] == 1


def test_help_prints_the_message_with_its_line_ends(parse, run_script: RunScript, tmp_path: Path) -> None:
    done = run_script("bash", tmp_path / "x.sh", "--help")
    assert done.returncode == 0
    assert done.stdout == "Usage: x.sh\n e.g.: x.sh 100%s\n"


def test_config_is_data_and_the_command_line_wins(parse, tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_text(
        "# a comment\n\n--opt-name=$(touch pwned); touch pwned\n"
        "nj=7   # as before\n  empty='a # b'  # quoted\nflag=true"
    )
    status, variables, errors = parse("--nj", "9", "--config", "x.conf", "arg")
    assert status == 0, errors
    assert variables["opt_name"] == "$(touch pwned); touch pwned"
    assert variables["nj"] == "9"
    assert variables["empty"] == "a # b"
    assert variables["flag"] == "true"
    assert variables["args"] == "1:arg"
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("nj=4\nunknown=1\n", "x.conf:2: unknown option --unknown"),
        ("touch pwned\n", "x.conf:1: expected opt=value"),
        ("flag=maybe\n", "x.conf:1: option --flag is true or false"),
    ],
)
def test_bad_config_is_named_with_its_line(parse, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.conf").write_text(text)
    status, _, errors = parse("--config", "x.conf")
    assert status == 1
    assert message in errors
    assert not (tmp_path / "pwned").exists()


def test_config_from_another_system_is_read_as_it_is_meant(parse, tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_bytes(b"\xef\xbb\xbfnj=7\r\n--flag=true\r\n")
    status, variables, errors = parse("--config", "x.conf")
    assert (status, errors) == (0, "")
    assert (variables["nj"], variables["flag"]) == ("7", "true")


def test_missing_config_is_an_error(parse) -> None:
    assert "nowhere.conf: no such file" in parse("--config", "nowhere.conf")[2]


COMMENTED = """#!/usr/bin/env bash
# What it does.
#
# Usage: $0 [options] <dir>
#  e.g.: $0 --nj 4 \\
#          data/train
# Writes <dir>/x.
set -euo pipefail
here=$PWD

nj=4              # <n>: parallel jobs
flag=false        # true|false: whether to * or not
empty=            # <file>: nothing by default
engine=           # embedded|kaldi [by KALDI_ROOT]
words="a b"       # "<word> ...": words whose explanation is so long that it takes more than one line, and its comment
                  # has two
one_long_name=x   # first|second

. "{utils}/script.sh"
# a comment
later=1           # <n>: no option
[ $# -eq 1 ] || usage
printf '%s\\n' "${script_args[*]}" "${engine_opts[*]}" "${model_opts[*]}" "$1"
"""

HELP = """Usage: x.sh [options] <dir>
 e.g.: x.sh --nj 4 \\
         data/train
Writes <dir>/x.
Options:
  --nj <n>                  parallel jobs [4]
  --flag true|false         whether to * or not [false]
  --empty <file>            nothing by default
  --engine embedded|kaldi   [by KALDI_ROOT]
  --words "<word> ..."      words whose explanation is so long that it takes
                            more than one line, and its comment has two [a b]
  --one-long-name first|second
                            [x]
"""


@pytest.fixture
def commented(tmp_path: Path, run_script: RunScript):
    """A function that runs a script whose help are its comments."""
    script = tmp_path / "x.sh"
    script.write_text(COMMENTED.replace("{utils}", str(UTILS)))
    return lambda *words: run_script("bash", "x.sh", *words)


def test_comments_are_the_help(commented) -> None:
    done = commented("--nj", "8", "--help")
    assert (done.returncode, done.stdout) == (0, HELP)
    done = commented("--nj", "8")
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"x.sh --nj 8\n{HELP}",
    )  # defaults, not what was given


def test_script_has_its_words_and_the_options_that_commands_share(commented) -> None:
    done = commented("--engine", "kaldi", "--nj=8", "data")
    assert (done.returncode, done.stderr) == (0, "x.sh --engine kaldi --nj=8 data\n")
    assert done.stdout == "--engine kaldi --nj=8 data\n--engine kaldi\n--engine kaldi\ndata\n"
    assert commented("--later", "2", "data").returncode == 1
