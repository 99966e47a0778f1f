"""The worst case over attacks: utterances that any of them reaches, by target words, with exact intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import AttackRecord, attack_of, read_attacked
from kaldi_uq.results.word_errors import align_words
from kaldi_uq.results.worst_case import interval, read_attacks, worst_case


def line(utt: str, target: str | None, hypothesis: str, *, eps: float = 0.02, **more: Any) -> dict[str, Any]:
    """A line of results.jsonl; "seven" is spoken."""
    heard = hypothesis.split()
    targets = {} if target is None else {"target": target, "target_errors": align_words(target.split(), heard).counts()}
    errors = align_words(["seven"], heard).counts()
    said = {"utt": utt, "original": "seven", "hypothesis": hypothesis, "original_errors": errors, "statistics": {}}
    return {**said, "eps": eps, "snr_db": 20.0, **targets, **more}


def write(folder: Path, name: str, *lines: dict[str, Any]) -> Path:
    path = folder / name / "results.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path.parent


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    write(
        tmp_path,
        "exp/dnn/attack_pgd_eps0.02",
        line("a", "one", "one"),
        line("b", "one two", "one"),
        line("c", "two", "seven"),
        line("d", "one two", "seven"),
    )
    write(
        tmp_path,
        "exp/dnn/attack_ten_eps0.02",
        line("a", "two", "seven"),
        line("b", "two", "two"),  # another target, of another length
        line("c", "two", "one"),
        line("d", "two one", "two one", passes=False),
    )
    write(
        tmp_path,
        "exp/dnn/attack_adaptive-x_eps0.02",
        line("a", "one", "one", passes=True),
        line("c", "two", "two", passes=False),
    )
    write(tmp_path, "exp/dnn/attack_untargeted_eps0.02", line("a", None, "one"), line("b", None, "seven"))
    return tmp_path / "exp/dnn"


def records(exp: Path, *names: str) -> dict[str, list[AttackRecord]]:
    return {name: read_attacked(exp / f"attack_{name}_eps0.02/results.jsonl") for name in names}


@pytest.mark.parametrize("count, total", [(0, 4), (4, 100), (38, 500), (84, 1000), (7, 7), (3, 6)])
def test_bounds_are_the_shares_that_leave_a_tail_of_a_fortieth(count: int, total: int) -> None:
    low, high = interval(count, total)
    assert low <= count / total <= high
    assert (binom.sf(count - 1, total, low) if count else 0.025) == pytest.approx(0.025)
    assert (binom.cdf(count, total, high) if count < total else 0.025) == pytest.approx(0.025)


def test_interval_covers_as_often_as_it_says() -> None:
    for share in (0.02, 0.1, 0.5):
        covered = [low <= share <= high for low, high in (interval(count, 60) for count in range(61))]
        assert sum(binom.pmf(count, 60, share) for count in range(61) if covered[count]) >= 0.95
    for count, total in ((1, 0), (-1, 4), (5, 4)):
        with pytest.raises(ValueError, match="a share is of at least one utterance"):
            interval(count, total)


def test_utterance_is_lost_if_any_attack_reached_its_own_target(exp: Path) -> None:
    assert worst_case(records(exp, "pgd"))["success"] == 0.25
    row = worst_case(records(exp, "pgd", "ten"))
    assert (row["num_utts"], row["success"]) == (4, 0.75)
    assert row["success_ci95"] == list(interval(3, 4))
    assert row["attacks"] == [
        {"attack": "pgd", "num_utts": 4, "success": 0.25},
        {"attack": "ten", "num_utts": 4, "success": 0.5},
    ]
    # an utterance counts for each length that was wanted of it: b and d for one or two words as the attack has it
    parts = {part["num_words"]: (part["num_utts"], part["success"]) for part in row["by_words"]}
    assert parts == {1: (3, 2 / 3), 2: (2, 0.5)}
    assert row["by_words"][1]["success_ci95"] == list(interval(1, 2))


def test_detectors_have_to_be_passed_where_an_attack_knows_them(exp: Path) -> None:
    assert "evasion" not in worst_case(records(exp, "pgd"))
    row = worst_case(records(exp, "pgd", "adaptive-x"))
    assert row["success"] == 0.5  # of a, b, c, d
    assert (row["evasion"], row["evasion_ci95"], row["evasion_num_utts"]) == (
        0.5,
        list(interval(1, 2)),
        2,
    )  # of a and c: c is caught


def test_attacks_without_targets_are_counted_by_themselves(exp: Path) -> None:
    row = worst_case(records(exp, "untargeted"))
    assert (row["success"], "by_words" in row) == (0.5, False)
    with pytest.raises(ValueError, match="attacks with targets and attacks without are different claims"):
        worst_case(records(exp, "pgd", "untargeted"))
    with pytest.raises(ValueError, match="no attacked utterance"):
        worst_case({})


def test_directories_are_of_one_model_and_one_eps(exp: Path, tmp_path: Path) -> None:
    pgd = exp / "attack_pgd_eps0.02"
    other = write(tmp_path, "exp/bnn/attack_pgd2_eps0.02", line("a", "one", "one"))
    louder = write(tmp_path, "exp/dnn/attack_loud_eps0.05", line("a", "one", "one", eps=0.05))
    empty = write(tmp_path, "exp/dnn/attack_none_eps0.02")
    moved = write(tmp_path, "exp/dnn/transfer_dnn-robust_pgd_eps0.02", line("a", "one", "one"))
    assert list(read_attacks([pgd, moved])[2]) == ["pgd", "transfer_dnn-robust_pgd"]
    for wrong, message in (
        (other, "is of model dnn, .* of bnn: the worst case is of one model"),
        (louder, "the worst case is of one eps"),
        (pgd, "there are two attacks 'pgd'"),
        (empty, "empty; attack again"),
        (tmp_path, "no such file"),
    ):
        with pytest.raises(DataError, match=message):
            read_attacks([pgd, wrong])


def test_command_prints_and_records_one_row(exp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(exp / f"attack_{name}_eps0.02") for name in ("pgd", "ten", "adaptive-x")]
    assert attack_of(names[0]) == ("pgd", 0.02)
    for count in (2, 3):  # the second run replaces the row of the first
        assert main(["worst-case", "--results", str(tmp_path / "results.json"), *names[:count]]) == 0
    said = capsys.readouterr().out.splitlines()[-7:]
    assert said[0] == "dnn worst eps 0.02: 1.000 [0.398, 1.000] of 4 utterances"
    assert said[1].startswith("  targets of 1 word: 1.000 ") and said[2].startswith("  targets of 2 words: 0.500 ")
    assert said[3].startswith("  and pass the detectors: 0.333 [") and said[3].endswith("of 3 utterances")
    assert said[4] == "  pgd alone: 0.250 of 4 utterances"
    (row,) = Results(tmp_path / "results.json").read()["worst"]
    assert (row["model"], row["attack"], row["eps"], row["success"]) == ("dnn", "worst", 0.02, 1.0)
    assert [one["attack"] for one in row["attacks"]] == ["pgd", "ten", "adaptive-x"]
    assert main(["worst-case", "--name", "two", "--results", str(tmp_path / "results.json"), *names[:2]]) == 0
    assert [r["attack"] for r in Results(tmp_path / "results.json").read()["worst"]] == ["two", "worst"]
    capsys.readouterr()
    assert main(["worst-case", names[0], names[0]]) == 1
    assert "there are two attacks 'pgd'" in capsys.readouterr().err
