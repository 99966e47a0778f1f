"""Mistakes on a command line: one line, which names the nearest thing there is, and a help that exists."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kaldi_uq.attacks.attack import ATTACKS
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.cli.main import COMMANDS, main
from kaldi_uq.config import read_option_file
from kaldi_uq.errors import UsageError, did_you_mean
from tests.conftest import RunScript


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line that is wrong is answered with: one line."""
    try:
        status = main(words)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.endswith("\n")
    return err.rstrip("\n")


@pytest.mark.parametrize(
    "words, message",
    [
        (["dettect"], "there is no command 'dettect'; did you mean 'detect'?"),
        (["nnet_attack"], "there is no command 'nnet_attack'; did you mean 'nnet-attack'?"),
        (["xyzzy"], "there is no command 'xyzzy' (see kaldi-uq --help)"),
        (["--versoin"], "there is no option --versoin; did you mean '--version'?"),
        (["detect", "--jsn", "x"], "there is no option --jsn; did you mean '--json'?"),
        (["detect", "--max_mb=3"], "there is no option --max_mb; did you mean '--max-mb'?"),
        (["attack", "-eps", "0.1"], "there is no option -eps; did you mean '--eps'?"),
        (["nnet-train", "--robust-epz", "1"], "there is no option --robust-epz; did you mean '--robust-eps'?"),
        (["attack", "--way", "selectiv"], "--way: expected one of penalty, orthogonal, selective, got 'selectiv'; did"),
        (["attack", "--sided", "three"], "argument --sided: expected one of one, two, both, got 'three' (see"),
        (["detect", "--engine", "kaldy"], "got 'kaldy'; did you mean 'kaldi'?"),
        (["detect", "--frame-quantile", "0.98"], "expected one of 0.5, 0.9, 0.95, 0.99, 0.995, 0.999, got 0.98"),
        (["attack", "--eps"], "argument --eps: expected one argument"),
        (["attack", "--num-steps", "many"], "argument --num-steps: expected a whole number, got 'many'"),
        (["attack", "--random-start", "yes"], "argument --random-start: expected true or false, got 'yes'"),
        (["nnet-decode"], "the following arguments are required: DATA-DIR"),
        (["nnet-decode", "{file}", "a", "b", "c"], "argument DATA-DIR: {file}: not a directory"),
        (["nnet-decode", "{file}.none", "a", "b", "c"], "argument DATA-DIR: {file}.none: no such directory"),
        (["nnet-decode", "--nj", "0"], "argument --nj: expected a whole number above 0, got '0'"),
        (["completion", "bsh"], "got 'bsh'; did you mean 'bash'?"),
    ],
)
def test_mistake_is_answered_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a file"
    file.touch()
    line = said([word.format(file=file) for word in words], capsys)
    assert message.format(file=file) in line
    assert "see kaldi-uq" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_help_that_a_message_points_to_is_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = said([command, "--no-such-option"], capsys)
    (where,) = re.findall(r"\(see kaldi-uq (.*)\)$", line)
    assert where == f"{command} --help"
    with pytest.raises(SystemExit) as exit_:
        main(where.split())
    assert exit_.value.code == 0


def test_value_that_looks_like_an_option_and_what_follows_two_dashes_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-eps", "0.020", "--option=eps"]) == 0
    assert main(["check-eps", "--", "0.020"]) == 0
    assert capsys.readouterr().out == "0.02\n0.02\n"
    assert "check-eps" in said(["check-eps", "--", "--no-such"], capsys)


def test_abbreviation_of_an_option_is_no_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-eps", "0.020", "--opt", "eps"]) == 0


def test_directory_where_a_file_is_wanted_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["frame-shift", "{}"], ["score-text", "{}", "{}"], ["train-lm", "{}", "{}", "out.arpa"]):
        line = said([word.format(tmp_path) for word in words], capsys)
        assert str(tmp_path) in line
        assert "Is a directory" in line or "directory" in line


def test_names_in_files_and_of_parts_have_a_nearest_too(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("--num-stepz=3\n")
    with pytest.raises(UsageError, match=r"c:1: unknown option --num-stepz; .*; did you mean '--num-steps'\?"):
        read_option_file(tmp_path / "c", {"num_steps": int, "eps": float})
    with pytest.raises(ValueError, match=r"there is no attack 'blackbox'; .*; did you mean 'black_box'\?"):
        ATTACKS.get("blackbox")
    with pytest.raises(ValueError, match=r"AttackConfig has no field epz; .*; did you mean 'eps'\?"):
        AttackConfig.from_dict({"epz": 3})


def test_nearest_of_nothing_and_of_a_very_long_word_is_nothing() -> None:
    assert did_you_mean("x", []) == ""
    assert did_you_mean("y" * 1_000_000, ["detect"]) == ""


def test_closed_output_is_no_error_of_its_own(run_script: RunScript) -> None:
    done = run_script("bash", "-c", "python3 -m kaldi_uq --all | head -n 1; python3 -m kaldi_uq --all >&-")
    assert done.stdout.startswith("usage: kaldi-uq ")
    assert "Traceback" not in done.stderr
    assert os.linesep.join(done.stderr.splitlines()).count("Error") == 0
