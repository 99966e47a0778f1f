"""The scripts of utils/: Kaldi's argument contracts, and what they do with bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPO, RunScript

UTILS = REPO / "utils"
SOURCED = {"env.sh", "parse_options.sh", "recipe_env.sh", "script.sh", "stages.sh", "triphones.sh"}
SCRIPTS = sorted(p.name for p in UTILS.iterdir() if p.suffix in (".sh", ".pl") and p.name not in SOURCED)
TOO_FEW = {"run.pl": ["x.log"]}  # it takes any number of arguments from two on


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_exits_0_and_shows_a_usage(script: str, run_script: RunScript) -> None:
    # in a recipe's directory, where scripts are called, and with no environment chosen: --help needs none
    done = run_script(UTILS / script, "--help", cwd=REPO / "recipes" / "tidigits", env={"KALDI_UQ_ENV": ""})
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
    assert "e.g." in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_number_of_arguments_exits_1_with_the_usage(script: str, run_script: RunScript) -> None:
    words = TOO_FEW.get(script, list("abcdefghi"))
    done = run_script(UTILS / script, *words, cwd=REPO / "recipes" / "tidigits")
    assert done.returncode == 1
    assert "Usage" in done.stderr


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s not in ("run.pl", "make_env.sh") and "2" not in s])
def test_unknown_option_exits_1_and_is_named(script: str, run_script: RunScript) -> None:
    done = run_script(UTILS / script, "--no-such-option", "x", cwd=REPO / "recipes" / "tidigits")
    assert done.returncode == 1
    assert "unknown option --no-such-option" in done.stderr


@pytest.fixture
def words_txt(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("<eps> 0\n<UNK> 1\noh 2\none 3\n")
    return path


def test_sym2int_and_int2sym_are_inverse_on_a_field_range(run_script: RunScript, words_txt: Path) -> None:
    text = "oh one oh\none\noh oh one one\n"
    integers = run_script(UTILS / "sym2int.pl", "-f", "2-3", words_txt, stdin=text)
    assert integers.stdout == "oh 3 2\none\noh 2 3 one\n"
    back = run_script(UTILS / "int2sym.pl", "-f", "2-3", words_txt, stdin=integers.stdout)
    assert back.stdout == text


def test_sym2int_maps_unknown_words_and_says_so(run_script: RunScript, words_txt: Path) -> None:
    done = run_script(UTILS / "sym2int.pl", "--map-oov", "<UNK>", "-f", "2-", words_txt, stdin="u1 oh six\n")
    assert done.stdout == "u1 2 1\n"
    assert "replaced 1 symbols" in done.stderr
    assert "six" in done.stderr


@pytest.mark.parametrize(
    "words, text, message",
    [
        (["sym2int.pl", "words.txt"], "oh\nsix\n", "standard input:2: 'six' (field 1) is not in words.txt"),
        (["sym2int.pl", "--map-oov", "<no>", "words.txt"], "", "'<no>' is not in words.txt"),
        (["sym2int.pl", "-f", "0", "words.txt"], "", "-f takes"),
        (["sym2int.pl", "nowhere.txt"], "", "nowhere.txt"),
        (["int2sym.pl", "words.txt"], "9\n", "standard input:1: 9 (field 1) is not in words.txt"),
        (["int2sym.pl", "words.txt"], "x\n", "'x' (field 1) is not an integer"),
        (["utt2spk_to_spk2utt.pl"], "a s\na s\n", "standard input:2: utterance 'a' stands twice"),
        (["utt2spk_to_spk2utt.pl"], "a\n", "expected '<utt> <spk>'"),
        (["spk2utt_to_utt2spk.pl"], "s a\nt a\n", "utterance 'a' stands twice"),
    ],
)
def test_bad_input_is_named_with_its_line(
    run_script: RunScript, words_txt: Path, words: list[str], text: str, message: str
) -> None:
    done = run_script(UTILS / words[0], *words[1:], stdin=text)
    assert done.returncode == 1
    assert message in done.stderr


def test_utt2spk_and_spk2utt_are_inverse(run_script: RunScript) -> None:
    utt2spk = "a1 a\na2 a\nb1 b\n"
    spk2utt = run_script(UTILS / "utt2spk_to_spk2utt.pl", stdin=utt2spk).stdout
    assert spk2utt == "a a1 a2\nb b1\n"
    assert run_script(UTILS / "spk2utt_to_utt2spk.pl", "-", stdin=spk2utt).stdout == utt2spk


def test_tables_may_begin_with_a_byte_order_mark(run_script: RunScript, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\ufeff<eps> 0\none 1\n", encoding="utf-8")
    done = run_script(UTILS / "utt2spk_to_spk2utt.pl", stdin="\ufeffu1\ts\r\nu2 s\r\n")
    assert (done.stdout, done.stderr) == ("s u1 u2\n", "")
    done = run_script(UTILS / "spk2utt_to_utt2spk.pl", stdin="\ufeffs u1 u2\r\n")
    assert done.stdout == "u1 s\nu2 s\n"
    done = run_script(UTILS / "sym2int.pl", "words.txt", stdin="\ufeff<eps> one\r\n")
    assert done.stdout == "0 1\n"
    assert run_script(UTILS / "int2sym.pl", "words.txt", stdin="\ufeff0 1\n").stdout == "<eps> one\n"
