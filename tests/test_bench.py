"""The benchmarks run and write their table; no time is asserted."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import measure as measuring
from bench import run, table
from bench.many import many_utterances
from bench.measure import Case, Figure, Row, Setting, measure
from bench.rows import all_rows, scale
from bench.viterbi import ViterbiGraph
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.fst import ARC, FstArrays
from kaldi_uq.io.waves import read_waves
from tests import tiny

SMALLEST = ("--num-utts", "2", "--num-steps", "2", "--repeats", "1", "--device", "cpu")


def nothing(_: Setting) -> Any:
    return lambda: {"units": 2, "colour": "red"}


def test_smallest_row_runs_and_the_table_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--only", "mfcc-gradient, ensemble", *SMALLEST, "--out", str(tmp_path)], alone=False) == 0
    page = (tmp_path / "RESULTS.md").read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith(("| mfcc-gradient", "| ensemble"))]
    assert [line[0].strip("| ") for line in lines] == ["mfcc-gradient", "mfcc-gradient", "ensemble"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["machine"]) >= {"date", "processor", "versions", "commit"}
    ours = results["rows"]["mfcc-gradient"]["kaldi_uq"]
    assert len(ours["seconds"]) == len(ours["cpu_seconds"]) == 1 and ours["seconds"][0] > 0 and ours["peak_mb"] > 50
    assert results["rows"]["ensemble"].keys() == {"one network", "ensemble of five"}
    assert "mfcc-gradient (cpu), kaldi_uq: " in capsys.readouterr().err


@pytest.mark.parametrize("row", ["pgd", "pgd-scale", "draws", "train", "train-robust"])
def test_our_own_cases_run(row: str, tmp_path: Path) -> None:
    """The first case of each row, on two utterances."""
    (found,) = [r for r in all_rows() if r.name == row]
    figure = measure(found.cases[0], Setting(str(tmp_path), num_utts=2, num_steps=2, repeats=1))
    assert not figure.missing and figure.seconds[0] > 0


def test_list_names_every_row_and_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [row.name for row in all_rows()]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("only", ["fast", "pgd,fast", ","])
def test_a_wrong_row_is_one_line_that_names_the_others(only: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--only", only]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--only {only}: no such row" in line and "mfcc-gradient" in line


def test_rows_are_chosen_by_the_beginning_of_their_names() -> None:
    assert [row.name for row in run.chosen("scale-d*, pgd")] == [
        f"scale-{name}" for name in scale.STEPS if name[0] == "d"
    ] + ["pgd"]


def test_steps_of_a_scale_name_what_they_read_and_what_they_replace() -> None:
    for name, step in scale.STEPS.items():
        earlier = list(scale.STEPS)[: list(scale.STEPS).index(name)]
        assert set(step.after) <= set(earlier), name  # a run of all measures each once
        assert not {path for other in earlier for path in scale.STEPS[other].makes} & set(step.makes), name


def test_a_step_is_measured_as_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale.Crowd, "_make", have_data)
    hungry = 'python3 -c \'from pathlib import Path; Path("made").mkdir(); x = b"1" * 10**8\' {wavs}'
    monkeypatch.setitem(scale.STEPS, "eat", scale.Step(hungry, (), ("made",)))
    monkeypatch.setitem(scale.STEPS, "fail", scale.Step("python3 -c 'raise SystemExit(\"no food\")'", ("eat",)))
    setting = Setting(str(tmp_path), num_utts=5, repeats=1, recipe_dir=str(tmp_path))
    work = scale.measured(setting, name="eat", times=4)
    for _ in range(2):  # what is there is taken away before
        facts = work()
        assert facts["utterances"] == 20 and facts["peak_mb"] > 95 and facts["seconds"][0] > 0
    with pytest.raises(RuntimeError, match="python3: no food"):
        scale.measured(setting, name="fail", times=4)()


def have_data(crowd: scale.Crowd, _: Path) -> None:
    (crowd.path / "data/many").mkdir(parents=True)
    (crowd.path / "data/many/wav.scp").write_text("a-0 data/a.wav\n")


def test_many_utterances_are_a_data_directory_of_one_word_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waves, text = tiny.make_waves(6)
    words = {utt: said[:1] if utt == "utt01" or utt == "utt03" else ["one", "two"] for utt, said in text.items()}
    assert set(words) >= {"utt01", "utt03"}
    tiny.write_set(tmp_path / "recipe/data/train", waves, words)
    monkeypatch.chdir(tmp_path)
    assert many_utterances(tmp_path / "recipe", tmp_path / "out/data/many", 7) == tiny.RATE
    monkeypatch.chdir(tmp_path / "out")
    data = DataDir.read("data/many")
    assert len(data.utts) == 7 and {len(data.words(utt)) for utt in data.utts} == {1}
    read = read_waves(data, sample_rate=tiny.RATE)
    assert len({wave.tobytes() for wave in read.values()}) == 7


def test_wrong_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--recipe-dir", str(tmp_path)]) == 1
    assert "no exp/dnn/final.safetensors there" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        run.main(["--num-utts", "0"])
    assert end.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_rows_and_cases_have_names_of_their_own() -> None:
    names = [row.name for row in all_rows()]
    assert len(set(names)) == len(names)
    for row in all_rows():
        cases = [case.name for case in row.cases]
        assert len(set(cases)) == len(cases)
        assert not row.cases[0].aim  # a ratio is of another case
        for case in row.cases:
            assert not case.aim or isinstance(table.meets(1.0, case.aim), bool)
    asked = [row.name for row in all_rows() if row not in run.chosen("")]
    assert asked == ["suite", *(row.name for row in run.chosen("scale-*"))]


@pytest.mark.parametrize(
    "case, said",
    [
        (Case("x", nothing, "no-such-package"), "not installed (pip install -e .[bench])"),
        (Case("x", nothing, needs=("no-such-package",)), "not installed (pip install -e .[bench])"),
        (Case("x", nothing, needs=("kaldi",)), "not installed (KALDI_ROOT is not set)"),
        (Case("x", nothing, needs=("system", "kaldi")), "no recogniser"),
        (Case("x", nothing, needs=("recipe",)), "no recipe that has run (--recipe-dir)"),
    ],
)
def test_what_is_missing_is_said_and_is_no_error(case: Case, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KALDI_ROOT", raising=False)
    figure = measure(case, Setting("work"))
    assert figure.missing.startswith(said) and not figure.seconds
    ours = Case("ours", nothing)
    (line,) = table.lines_of("row", Row("row", "what", (ours, case)), {"ours": Figure((1.0,)), "x": figure})
    assert figure.missing in line and line[4] == "1" and line[6] == ""


def test_units_divide_and_a_short_first_run_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.cycle([0.0, 4.0])  # every run takes four seconds
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    figure = measure(Case("x", nothing), Setting("work", repeats=2))
    assert figure.seconds == (2.0, 2.0) and figure.facts == {"colour": "red"}
    monkeypatch.setattr(measuring, "WARM_S", 3.0)  # now the first is long enough to count
    monkeypatch.setattr(measuring, "ENOUGH_S", 5.0)  # and after the second it is enough
    assert len(measure(Case("x", nothing), Setting("work", repeats=9)).seconds) == 2


def test_first_case_is_measured_last_and_knows_the_others() -> None:
    seen: dict[str, Any] = {}

    def ours(setting: Setting) -> Any:
        seen.update(setting.known)
        return lambda: {}

    row = Row("row", "what", (Case("ours", ours), Case("other", nothing)))
    figures = run.measure_row(row, Setting("work", repeats=1), alone=False)
    assert list(figures) == ["ours", "other"] and seen == {"other": {"colour": "red"}}


def test_a_process_of_its_own_measures_or_says_what_failed(tmp_path: Path) -> None:
    (row,) = [row for row in all_rows() if row.name == "start-up"]
    alone = run.isolated(row, row.cases[-1], Setting(str(tmp_path), repeats=1))
    assert alone.seconds and 1 < alone.peak_mb < 100  # of the interpreter that it started
    (row,) = [row for row in all_rows() if row.name == "recipe"]
    lost = run.isolated(row, row.cases[0], Setting(str(tmp_path), recipe_dir=str(tmp_path / "none")))
    assert lost.missing.startswith("failed: FileNotFoundError") and "results.json" in lost.missing


def test_a_failed_case_fails_the_run_but_not_the_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("bad", "what", (Case("x", nothing),)), Row("good", "what", (Case("x", nothing),))]
    monkeypatch.setattr(run, "all_rows", lambda: rows)
    monkeypatch.setattr(
        run, "isolated", lambda row, *_: Figure(missing="failed: why") if row.name == "bad" else Figure((1.0,))
    )
    assert run.main([*SMALLEST, "--out", str(tmp_path)]) == 1
    assert "bench: error: bad failed" in capsys.readouterr().err
    page = (tmp_path / "RESULTS.md").read_text()
    assert "failed: why" in page and "| good | what | x |" in page


def test_lines_of_the_table() -> None:
    first, other = Case("ours", nothing), Case("theirs", nothing, aim=">= 4")
    row = Row("row", "what", (first, other))
    mine = Figure((0.5, 1.0, 0.6), peak_mb=500, work_mb=20, facts={"result": "a", "steps": 7}, version="1.0")
    theirs = Figure((3.0,), peak_mb=600, gpu_mb=70, facts={"result": "b", "share": 0.51234})
    (line,) = table.lines_of("row", row, {"ours": mine, "theirs": theirs})
    assert line == (
        *("row", "what", "ours 1.0", "theirs", "0.6 (0.5-1)", "3", "5.00", ">= 4", "500 (+20)", "600, GPU 70"),
        "first: steps 7; other: share 0.512; results differ",
    )
    slower = Figure((1.2,), facts={"result": "a"})
    (line,) = table.lines_of("row", row, {"ours": mine, "theirs": slower})
    assert line[6:8] == ("2.00", ">= 4 (missed)") and line[-1].endswith("same result")
    (line,) = table.lines_of("row", Row("row", "what", (first,)), {"ours": mine})
    assert len(line) == len(table.HEAD) and line[3] == line[5] == ""


def test_numpy_search_finds_the_best_of_all_paths() -> None:
    """Against every path of a graph with arcs that take no frame, one after another too."""
    rng = np.random.default_rng(0)
    # from, to, label in, label out
    shape = [(0, 1, 1, 7), (0, 2, 2, 8), (1, 1, 1, 0), (1, 3, 0, 9), (2, 3, 0, 0), (3, 4, 0, 6), (4, 0, 0, 0)]
    shape += [(3, 4, 3, 5), (2, 2, 3, 0), (4, 4, 2, 4)]
    for _ in range(20):
        arcs = sorted((a, b, i, o, float(rng.uniform(0.1, 3))) for a, b, i, o in shape)
        counts = np.bincount([a for a, *_ in arcs], minlength=5)
        fst = FstArrays(
            0,
            np.array([np.inf, np.inf, 1.0, np.inf, 0.5], np.float32),
            np.concatenate([[0], np.cumsum(counts)]),
            np.array([(i, o, w, b) for _, b, i, o, w in arcs], ARC),
        )
        scores = rng.normal(size=(4, 3)).astype(np.float32)
        best = (-np.inf, (), ())
        stack: list[tuple[int, int, float, tuple[int, ...], tuple[int, ...], int]] = [(0, 0, 0.0, (), (), 0)]
        while stack:
            state, frame, score, inputs, outputs, silent = stack.pop()
            if frame == 4:
                best = max(best, (score - float(fst.finals[state]), inputs, outputs))
            for arc in fst.arcs_of(state):
                label, word = int(arc["ilabel"]), int(arc["olabel"])
                words = (*outputs, word) if word else outputs
                if label and frame < 4:
                    gain = float(scores[frame, label - 1]) - float(arc["weight"])
                    stack.append((int(arc["nextstate"]), frame + 1, score + gain, (*inputs, label), words, 0))
                elif not label and silent < 5:
                    stack.append(
                        (int(arc["nextstate"]), frame, score - float(arc["weight"]), inputs, words, silent + 1)
                    )
        labels, words = ViterbiGraph(fst, np.array([0, 0, 1, 2])).search(scores)
        assert (tuple(labels.tolist()), tuple(words.tolist())) == best[1:]
