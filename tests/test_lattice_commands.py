"""Lattices from the command line: made, scored over language model weights, measured, and judged by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import read_table
from kaldi_uq.io.lattice import read_lattices, write_lattices
from kaldi_uq.lattice.posteriors import LATTICE_STATISTICS
from kaldi_uq.results.lattice_scores import rescored, scores_of, weightings, write_scores
from kaldi_uq.results.utterances import read_benign
from tests.lattices import make_lattice
from tests.tiny import TinySystem, make_system, make_waves, write_set


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with dnn/ (model, graph, scores with lattices), fit/ and lang/."""
    folder = tmp_path_factory.mktemp("lattices")
    system: TinySystem = make_system(folder)
    system.train().save(folder / "dnn/final.safetensors")
    for name in ("final.mdl", "tree"):
        shutil.copy(system.mono / name, folder / "dnn")
    shutil.copytree(system.graph, folder / "dnn/graph")
    write_set(folder / "fit", *make_waves(12, seed=1))
    options = ["--lattices", "--lattice-statistics", "--lattice-beam", "8"]
    assert main(["nnet-decode", *options, *decoding(folder, "score_fit")]) == 0
    return folder


def decoding(folder: Path, out: str) -> list[str]:
    return [str(folder / name) for name in ("fit", "dnn", "dnn/graph", f"dnn/{out}")]


def score(folder: Path, *options: str) -> int:
    places = (folder / "fit", folder / "dnn/graph", folder / "dnn/score_fit")
    return main(["score-lattices", *options, *map(str, places)])


class TestDecode:
    def test_lattices_and_statistics_are_beside_what_was_there_before(self, place: Path) -> None:
        records = read_benign(place / "dnn/score_fit/results.jsonl")
        found = dict(read_lattices(place / "dnn/score_fit/lat.1.gz"))
        assert sorted(found) == sorted(record.utt for record in records)
        assert all(set(LATTICE_STATISTICS) < set(record.statistics) for record in records)
        assert main(["nnet-decode", *decoding(place, "score_plain")]) == 0
        assert not list((place / "dnn/score_plain").glob("lat.*"))
        for record, plain in zip(records, read_benign(place / "dnn/score_plain/results.jsonl"), strict=True):
            assert record.hypothesis == plain.hypothesis
            left = {name: value for name, value in record.statistics.items() if name not in LATTICE_STATISTICS}
            assert left == plain.statistics

    @pytest.mark.long
    def test_lattices_that_are_gone_are_made_again(self, place: Path) -> None:
        words = ["nnet-decode", "--lattices", *decoding(place, "score_again")]
        archive = place / "dnn/score_again/lat.1.gz"
        assert main(words) == 0
        first = archive.read_bytes()
        archive.unlink()
        assert main(words) == 0
        assert archive.read_bytes() == first

    def test_beam_must_be_positive(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["nnet-decode", "--lattice-beam", "0", *decoding(place, "bad")]) == 1
        assert "beams must be positive" in capsys.readouterr().err


class TestScore:
    def test_files_are_those_of_kaldi(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert score(place, "--min-lmwt", "8", "--max-lmwt", "10", "--word-ins-penalty", "0.0,0.5") == 0
        out = place / "dnn/score_fit"
        assert sorted(path.name for path in out.glob("wer_*")) == sorted(
            f"wer_{lmwt}_{penalty}" for lmwt in (8, 9, 10) for penalty in ("0.0", "0.5")
        )
        best = (out / "scoring_kaldi/best_wer").read_text().strip()
        assert capsys.readouterr().out.strip() == best
        assert best.startswith("%WER ") and best.split()[-1] == str(out / "wer_8_0.0")
        assert (out / "scoring_kaldi/test_filt.txt").read_text() == (place / "fit/text").read_text()
        # 1/10 is the scale that decoding had
        heard = read_table(out / "scoring_kaldi/penalty_0.0/10.txt", allow_empty=True)
        assert heard == read_table(out / "hypotheses", allow_empty=True)
        assert (out / "wer_10_0.0").read_text().splitlines()[2] == "Scored 12 sentences, 0 not present in hyp."

    def test_an_earlier_scoring_is_replaced(self, place: Path) -> None:
        assert score(place, "--min-lmwt", "3", "--max-lmwt", "3", "--word-ins-penalty", "2") == 0
        assert [path.name for path in (place / "dnn/score_fit").glob("wer_*")] == ["wer_3_2"]

    @pytest.mark.parametrize(
        "options, message",
        [
            (("--min-lmwt", "5", "--max-lmwt", "4"), "--min-lmwt 5 is larger than --max-lmwt 4"),
            (("--min-lmwt", "0"), "expected a whole number above 0"),
            (("--word-ins-penalty", "0.0,x"), "expected numbers separated by commas, got '0.0,x'"),
            (("--word-ins-penalty", "../1"), "expected numbers separated by commas"),
            (("--word-ins-penalty", "nan"), "expected numbers separated by commas"),
        ],
    )
    def test_options(
        self, place: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        try:
            status: object = score(place, *options)
        except SystemExit as stop:
            status = stop.code
        assert status == 1
        assert message in capsys.readouterr().err

    def test_no_lattices(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        places = map(str, (place / "fit", place / "dnn/graph", place / "fit"))
        assert main(["score-lattices", *places]) == 1
        assert "no lat.*.gz" in capsys.readouterr().err


class TestRescoring:
    LATTICES = [
        # the first word is likelier by the graph, the second by the acoustics
        ("a", make_lattice([(0, 1, 1, 1.0, 30.0, [1]), (0, 1, 2, 2.0, 20.0, [1])], {1: (0, 0)})),
        # one word against two
        ("b", make_lattice([(0, 2, 1, 2.0, 0.0, [1]), (0, 1, 1, 1.0, 0.0, [1]), (1, 2, 2, 0.5, 0.0, [])], {2: (0, 0)})),
    ]
    WORDS = {1: "one", 2: "two"}

    def test_weights_and_penalties(self) -> None:
        found = rescored(self.LATTICES, weightings(5, 15, ["0.0", "1.0"]), self.WORDS)
        assert [found[lmwt, "0.0"]["a"] for lmwt in (5, 9, 11, 15)] == ["two", "two", "one", "one"]
        assert [found[5, penalty]["b"] for penalty in ("0.0", "1.0")] == ["one two", "one"]

    def test_an_utterance_without_a_lattice_has_no_words(self) -> None:
        found = scores_of({"a": "two", "c": "one one"}, {"a": "two"})
        assert (found.rate.deletions, found.wrong, found.missing) == (2, 1, 1)

    def test_first_of_equally_good_ones_is_the_best(self, tmp_path: Path) -> None:
        refs = {"a": "two", "b": "one two"}
        line = write_scores(tmp_path, refs, rescored(self.LATTICES, weightings(8, 12, ["0.0", "1.0"]), self.WORDS))
        assert line == f"%WER 0.00 [ 0 / 3, 0 ins, 0 del, 0 sub ] {tmp_path / 'wer_8_0.0'}"
        assert (tmp_path / "wer_11_1.0").read_text() == (
            "%WER 66.67 [ 2 / 3, 0 ins, 1 del, 1 sub ]\n%SER 100.00 [ 2 / 2 ]\n"
            "Scored 2 sentences, 0 not present in hyp.\n"
        )

    def test_unknown_word(self, tmp_path: Path) -> None:
        write_lattices(tmp_path / "lat.1.gz", self.LATTICES)
        with pytest.raises(DataError, match=r"'a': its lattice has word 2, which words\.txt lacks"):
            rescored(read_lattices(tmp_path / "lat.1.gz"), [(5, "0.0")], {1: "one"})


class TestDetectors:
    def test_detectors_of_lattices_judge_alone(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model = place / "dnn"
        fit_from_scores(place)
        joint = json.loads((model / "detector/all-joint.json").read_text())
        assert not set(LATTICE_STATISTICS) & set(joint["statistics"])
        wav = sorted((place / "fit/wav").glob("*.wav"))[0]
        words = ["detect", "--json", "--statistic", "lattice_entropy-one-sided", "--lattice-beam", "8"]
        capsys.readouterr()
        assert main([*words, str(model), str(wav)]) == 0
        found = json.loads(capsys.readouterr().out)
        (record,) = [r for r in read_benign(model / "score_fit/results.jsonl") if r.utt == wav.stem]
        assert found["value"] == pytest.approx(record.statistics["lattice_entropy"], rel=1e-3, abs=1e-6)

    def test_a_detector_of_lattices_without_a_graph_is_an_error(
        self, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fit_from_scores(place)
        copy = tmp_path / "dnn"
        shutil.copytree(place / "dnn", copy)
        shutil.rmtree(copy / "graph")
        wav = sorted((place / "fit/wav").glob("*.wav"))[0]
        assert main(["detect", "--statistic", "lattice_depth", str(copy), str(wav)]) == 1
        assert "lattice_depth.json looks at lattices" in capsys.readouterr().err

    def test_no_attack_follows_a_gradient_to_a_lattice(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fit_from_scores(place)
        places = [str(place / name) for name in ("fit", "dnn", "dnn/graph", "dnn/attack")]
        words = ["nnet-attack", "--lang-dir", str(place / "lang"), "--statistics", "lattice_entropy", *places]
        assert main(words) == 1
        assert "--statistics lattice_entropy: a lattice tells it" in capsys.readouterr().err

    def test_attacked_audio_is_measured_too(self, place: Path) -> None:
        places = [str(place / name) for name in ("fit", "dnn", "dnn/graph", "dnn/attack_fgsm_eps0.02")]
        words = [
            "nnet-attack",
            "--lang-dir",
            str(place / "lang"),
            "--num-utts",
            "2",
            "--eps",
            "0.02",
            "--num-steps",
            "1",
        ]
        assert main([*words, "--lattice-statistics", *places]) == 0
        lines = (place / "dnn/attack_fgsm_eps0.02/results.jsonl").read_text().splitlines()
        for line in lines:
            statistics = json.loads(line)["statistics"]
            assert all(np.isfinite(statistics[name]) for name in LATTICE_STATISTICS)


def fit_from_scores(place: Path) -> None:
    from kaldi_uq.detector.fit import fit_detectors, save_detectors
    from kaldi_uq.results.utterances import statistics_table

    records = read_benign(place / "dnn/score_fit/results.jsonl")
    save_detectors(place / "dnn/detector", fit_detectors(statistics_table(records)))
