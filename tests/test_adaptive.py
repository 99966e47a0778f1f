"""The attack that knows the detector: its penalty, its search for lambda, and what it does to a whole recogniser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kaldi_uq.attacks import craft
from kaldi_uq.attacks.adaptive import Adaptive, LambdaSearch, Sentries
from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.craft import Attacker
from kaldi_uq.attacks.evaluation import evaluate_examples, evasion
from kaldi_uq.attacks.methods import make_strategy
from kaldi_uq.attacks.problem import Problem, plain
from kaldi_uq.cli.main import main
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import DataError
from kaldi_uq.io import waves as io_waves
from kaldi_uq.io.wav import read_wav
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.scores import decode_waves
from kaldi_uq.results.word_errors import align_words
from kaldi_uq.uncertainty import measures_from_draws, utterance_statistics
from tests import tiny
from tests.test_detect_command import train, write_set

EPS = 0.1  # the words are loud tones
CONFIG = AttackConfig(eps=EPS, num_steps=20, realign_every=10, judge_every=10)
STATISTICS = ("max_predictive_entropy", "mean_akld", "q95_mutual_information", "max_variance")
LENGTHS = torch.tensor([9, 6])

Place = tuple[tiny.TinySystem, Path]


def random_draws(seed: int = 0, scale: float = 1.0) -> Tensor:
    """Logits (3, 2, 9, 5) in float64."""
    return scale * torch.randn(3, 2, 9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def statistics_of(draws: Tensor) -> dict[str, Tensor]:
    return utterance_statistics(measures_from_draws([draws]), LENGTHS)


def benign_statistics(num_sets: int = 40, scale: float = 1.0) -> dict[str, np.ndarray]:
    tables = [statistics_of(random_draws(seed, scale).log_softmax(-1)) for seed in range(num_sets)]
    return {name: torch.cat([table[name] for table in tables]).numpy() for name in tables[0]}


class TestPenalty:
    @pytest.mark.parametrize("sided", ["one", "two", "both"])
    @pytest.mark.parametrize("statistic", [*STATISTICS, ",".join(STATISTICS)])
    def test_gradient_is_that_of_finite_differences(self, statistic: str, sided: str) -> None:
        sentries = Sentries.fit(benign_statistics(scale=0.3), AdaptiveConfig(statistics=statistic, sided=sided))

        def penalty(logits: Tensor) -> Tensor:
            return sentries.penalty(logits.log_softmax(-1), LENGTHS)

        logits = random_draws(99, 2.0).requires_grad_(True)
        assert (penalty(logits) > 0).all() or sided == "one"
        assert torch.autograd.gradcheck(penalty, logits, atol=1e-4)

    @pytest.mark.parametrize("sided", ["one", "two", "both"])
    def test_it_is_zero_at_the_aim_and_below_and_grows_above(self, sided: str) -> None:
        benign = benign_statistics()
        for statistic in STATISTICS:
            sentries = Sentries.fit(benign, AdaptiveConfig(statistics=statistic, sided=sided))
            for seed in range(30):
                draws = random_draws(seed).log_softmax(-1)
                aimed = sentries.excess(statistics_of(draws), aim=True)
                penalty = sentries.penalty(draws, LENGTHS)
                assert (penalty[aimed > 0] > 0).all()
                is_frames = not statistic.startswith("mean") and statistic != "q95_mutual_information"
                if is_frames or statistic.startswith("mean"):  # some frames lie above a quantile
                    assert (penalty[aimed <= 0] == 0).all()

    def test_padding_has_no_part_in_it(self) -> None:
        sentries = Sentries.fit(benign_statistics(scale=0.3), AdaptiveConfig(statistics=",".join(STATISTICS)))
        logits = random_draws(5, 2.0)
        other = logits.clone()
        other[:, 1, 6:] = 7.0 * random_draws(6)[:, 1, 6:]
        assert torch.equal(
            sentries.penalty(logits.log_softmax(-1), LENGTHS), sentries.penalty(other.log_softmax(-1), LENGTHS)
        )

    def test_of_a_maximum_it_reaches_every_frame_above_the_aim(self) -> None:
        benign = benign_statistics(scale=6.0)  # certain, so that all frames of uncertain audio are above
        sentries = Sentries.fit(benign, AdaptiveConfig(statistics="max_predictive_entropy", aim=0.01))
        logits = random_draws(3, 0.5).requires_grad_(True)
        (slope,) = torch.autograd.grad(sentries.penalty(logits.log_softmax(-1), LENGTHS).sum(), logits)
        assert (slope[:, 0].abs().sum((0, 2)) > 0).all()

    def test_a_two_sided_detector_is_not_passed_by_certainty(self) -> None:
        benign = benign_statistics(scale=0.3)
        for sided, certain in (("one", 0.0), ("two", 1.0)):
            sentries = Sentries.fit(benign, AdaptiveConfig(statistics="max_predictive_entropy", sided=sided))
            draws = (100.0 * torch.eye(5, dtype=torch.float64)[torch.zeros(3, 2, 9, dtype=torch.long)]).log_softmax(-1)
            assert ((sentries.penalty(draws, LENGTHS) > 0) == bool(certain)).all()
            assert ((sentries.excess(statistics_of(draws)) > 0) == bool(certain)).all()


class TestSentries:
    def test_they_decide_as_the_detectors_of_the_defender(self) -> None:
        benign = benign_statistics()
        sentries = Sentries.fit(benign, AdaptiveConfig(statistics=",".join(STATISTICS), sided="both", fpr=0.03))
        assert len(sentries.members) == 2 * len(STATISTICS)
        table = {name: torch.from_numpy(values) for name, values in benign.items()}
        passes = sentries.excess(table) <= 0
        for row in range(len(passes)):
            record = sentries.record({name: float(values[row]) for name, values in benign.items()})
            caught = any(m.detector.is_attack(benign)[row] for m in sentries.members)
            assert bool(passes[row]) == record["passes"] == (record["excess"] <= 0) == (not caught)
        assert 0 < int((~passes).sum()) < len(passes) / 4

    def test_all_stands_for_every_statistic_and_an_unknown_one_is_named(self) -> None:
        benign = benign_statistics()
        assert len(Sentries.fit(benign, AdaptiveConfig(statistics="all")).members) == len(benign)
        with pytest.raises(DataError, match="the model has no statistic 'max_akldd'; it has max_predictive_entropy, "):
            Sentries.fit(benign, AdaptiveConfig(statistics="max_akldd"))

    def test_aim_is_never_above_the_threshold(self) -> None:
        config = AdaptiveConfig(statistics="max_akld", fpr=0.4, aim=0.9)
        (member,) = Sentries.fit(benign_statistics(), config).members
        assert member.aim == member.threshold


class TestLambdaSearch:
    def weights(self, *outcomes: bool, **options: float) -> list[float]:
        """Lambda of one utterance in each round after the first one."""
        search = LambdaSearch(1, AdaptiveConfig(**{"lambda_start": 1.0, **options}), torch.device("cpu"))  # type: ignore[arg-type]
        found = []
        for reached in outcomes:
            search.update(torch.tensor([0]), torch.tensor([reached]))
            found.append(search.weight.item())
        return found

    def test_it_grows_while_the_target_is_reached_up_to_the_largest(self) -> None:
        assert self.weights(True, True, True, True, lambda_start=0.5, lambda_max=40.0) == [0.5, 5.0, 40.0, 40.0]

    def test_it_shrinks_while_the_target_is_lost(self) -> None:
        assert self.weights(True, False, False) == pytest.approx([1.0, 0.1, 0.01])

    def test_without_the_target_there_is_no_penalty(self) -> None:
        assert self.weights(False, False, True, True) == [0.0, 0.0, 1.0, 10.0]

    def test_it_closes_in_between(self) -> None:
        found = self.weights(True, True, False, True, False)
        assert found == pytest.approx([1.0, 10.0, 10**0.5, 10**0.75, 10**0.625])

    def test_utterances_do_not_share_it(self) -> None:
        search = LambdaSearch(3, AdaptiveConfig(lambda_start=1.0), torch.device("cpu"))
        search.update(torch.tensor([2, 0]), torch.tensor([True, False]))
        assert search.weight.tolist() == [0.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A recogniser with exp/<kind> of a trained network, and the statistics of clean audio."""
    folder = tmp_path_factory.mktemp("adaptive")
    system = tiny.make_system(folder)
    benign, text = tiny.make_waves(40, seed=77)
    for kind in ("dnn", "ensemble", "dropout", "bnn"):
        model_dir = folder / "exp" / kind
        model = train(system, kind)
        model.save(model_dir / "final.safetensors")
        for name in ("final.mdl", "tree"):
            shutil.copy(system.mono / name, model_dir)
        shutil.copytree(system.graph, model_dir / "graph")
        _, statistics = decode_waves(
            model, benign, system.engine, model_dir, model_dir / "graph", DecodeConfig(), seed=5
        )
        (model_dir / "score_fit").mkdir()
        with open(model_dir / "score_fit/results.jsonl", "w", encoding="utf-8") as stream:
            for utt, values in statistics.items():
                errors = align_words(text[utt], text[utt]).counts()
                line = {"utt": utt, "text": " ".join(text[utt]), "hypothesis": "", "errors": errors}
                stream.write(json.dumps(line | {"statistics": values}) + "\n")
    write_set(folder / "speech", *speech())
    return system, folder / "exp"


def speech() -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    return tiny.make_waves(6, seed=31)


def benign_of(place: Place, kind: str) -> dict[str, np.ndarray]:
    lines = [json.loads(line) for line in open(place[1] / kind / "score_fit/results.jsonl", encoding="utf-8")]
    return {name: np.array([line["statistics"][name] for line in lines]) for name in lines[0]["statistics"]}


def attacker_of(place: Place, kind: str) -> Attacker:
    model_dir = place[1] / kind
    model = HybridModel.load(model_dir)
    system = place[0]
    return Attacker.of_recipe(
        model, system.engine, model_dir, system.lang, DecodeConfig(), graph_dir=model_dir / "graph"
    )


def lines_of(
    place: Place,
    kind: str,
    out: Path,
    config: AttackConfig,
    adaptive: AdaptiveConfig,
    *,
    knows: bool = True,
    targets: dict[str, list[str]] | None = None,
) -> list[dict[str, Any]]:
    """Attack, listen to the files with other draws, and ask the detectors."""
    attacker, (waves, text) = attacker_of(place, kind), speech()
    sentries = Sentries.fit(benign_of(place, kind), adaptive)
    strategy = Adaptive(sentries, adaptive) if knows else plain
    records = attacker.craft(waves, text, config, out, targets=targets, strategy=strategy)
    who = attacker.recogniser
    assert who.graph_dir is not None
    lines = evaluate_examples(
        who.model, who.engine, who.model_dir, who.graph_dir, who.decode, waves, heard(out),
        {utt: record["target"] for utt, record in records.items()}, text, seed=9,
    )  # fmt: skip
    return [{**records[line["utt"]], **line, **sentries.record(line["statistics"])} for line in lines]


def heard(out: Path) -> dict[str, np.ndarray]:
    return {path.stem: read_wav(path, expected_rate=tiny.RATE)[0] for path in sorted((out / "wav").iterdir())}


class TestAttack:
    @pytest.mark.parametrize(
        "kind, statistics, sided, eps",
        [
            ("dnn", "mean_predictive_entropy", "two", 0.1),
            ("dnn", "max_predictive_entropy", "both", 0.1),
            ("ensemble", "max_mutual_information", "two", 0.05),
        ],
    )
    def test_it_passes_more_often_than_the_attack_that_does_not_know_the_detector(
        self, place: Place, tmp_path: Path, kind: str, statistics: str, sided: str, eps: float
    ) -> None:
        adaptive = AdaptiveConfig(statistics=statistics, sided=sided, num_rounds=4, round_steps=30)
        config = replace(CONFIG, num_steps=60, eps=eps)
        blind = lines_of(place, kind, tmp_path / "blind", config, adaptive, knows=False)
        lines = lines_of(place, kind, tmp_path / "adaptive", config, adaptive)
        assert evasion(lines) > evasion(blind)
        for one, other in zip(heard(tmp_path / "adaptive").values(), speech()[0].values(), strict=True):
            assert np.abs(one - other).max() <= eps

    @pytest.mark.parametrize("kind, statistic", [("bnn", "mean_akld"), ("dropout", "mean_mutual_information")])
    def test_random_models_are_attacked_through_several_draws(
        self, place: Place, tmp_path: Path, kind: str, statistic: str
    ) -> None:
        # a detector that calls a fifth of the clean audio an attack
        adaptive = AdaptiveConfig(
            statistics=statistic, sided="one", fpr=0.2, aim=0.2, num_rounds=5, round_steps=40, num_scorings=2
        )
        config = replace(CONFIG, num_steps=60, eot_samples=10, eps=0.3)
        targets = {utt: [*words[:-1], "two"] for utt, words in speech()[1].items()}  # near, so that they are reached
        blind = lines_of(place, kind, tmp_path / "blind", config, adaptive, knows=False, targets=targets)
        lines = lines_of(place, kind, tmp_path / "adaptive", config, adaptive, targets=targets)
        assert evasion(lines) >= evasion(blind)
        assert np.mean([x["excess"] for x in lines]) < np.mean([x["excess"] for x in blind]) - 0.5
        with pytest.raises(ValueError, match=r"is of several draws: set eot_samples to 2 or more"):
            lines_of(place, kind, tmp_path / "one", replace(config, eot_samples=1), adaptive)

    def test_it_stops_where_all_is_reached_and_says_what_it_did(self, place: Place, tmp_path: Path) -> None:
        adaptive = AdaptiveConfig(statistics="mean_predictive_entropy", num_rounds=4, round_steps=20)
        lines = lines_of(place, "dnn", tmp_path, CONFIG, adaptive)
        for line in lines:
            assert line["steps"] == CONFIG.num_steps + (line["rounds"] - 1) * adaptive.round_steps
            assert 1 <= line["rounds"] <= 4
            assert line["passes"] == (line["excess"] <= 0)
            assert line["lambda"] == 0 or line["rounds"] > 1
        assert len({line["rounds"] for line in lines}) > 1

    @pytest.mark.parametrize("change", ["constant", "elsewhere"])
    def test_a_detector_that_cannot_be_passed_ends_cleanly(self, place: Place, tmp_path: Path, change: str) -> None:
        benign = benign_of(place, "dnn")
        adaptive = AdaptiveConfig(statistics="max_predictive_entropy", num_rounds=3, round_steps=5, lambda_max=20.0)
        values = benign["max_predictive_entropy"]
        benign["max_predictive_entropy"] = 0 * values + 0.1 if change == "constant" else values - 50.0
        attacker, (waves, text) = attacker_of(place, "dnn"), speech()
        strategy = Adaptive(Sentries.fit(benign, adaptive), adaptive)
        records = attacker.craft(waves, text, CONFIG, tmp_path, strategy=strategy)
        for record in records.values():
            assert record["rounds"] == 3
            assert not record["passes"]
            assert record["excess"] > 0
            json.dumps(record, allow_nan=False)

    def test_nothing_to_change_is_no_error(self, place: Place, tmp_path: Path) -> None:
        adaptive = AdaptiveConfig(statistics="max_predictive_entropy", num_rounds=2)
        lines_of(place, "dnn", tmp_path, replace(CONFIG, eps=0.0), adaptive)
        for utt, wave in heard(tmp_path).items():
            assert np.array_equal(wave, speech()[0][utt])

    @pytest.mark.parametrize("kind", ["dnn", "bnn"])
    def test_a_killed_run_resumes_to_the_same_files(
        self, place: Place, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(craft, "wave_batches", lambda waves: io_waves.wave_batches(waves, max_samples=20000))
        adaptive = AdaptiveConfig(statistics="max_predictive_entropy", num_rounds=2, round_steps=4)
        config = replace(CONFIG, num_steps=4, judge_every=2, eot_samples=2 if kind == "bnn" else 1)
        whole = lines_of(place, kind, tmp_path / "whole", config, adaptive)
        assert len(list((tmp_path / "whole/parts").iterdir())) > 1
        calls: list[int] = []
        original = Adaptive.__call__

        def killed(strategy: Adaptive, problem: Problem) -> Any:
            calls.append(len(problem.utts))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(strategy, problem)

        monkeypatch.setattr(Adaptive, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            lines_of(place, kind, tmp_path / "killed", config, adaptive)
        assert lines_of(place, kind, tmp_path / "killed", config, adaptive) == whole
        assert len(calls) == 1 + len(list((tmp_path / "whole/parts").iterdir()))
        one, other = heard(tmp_path / "whole"), heard(tmp_path / "killed")
        assert all(np.array_equal(one[utt], other[utt]) for utt in one)


def test_an_attack_is_not_black_box_and_adaptive_at_once() -> None:
    sentries = Sentries.fit(benign_statistics(), AdaptiveConfig(statistics="max_akld"))
    with pytest.raises(ValueError, match="leave one of them out"):
        make_strategy(AttackConfig(nes_pairs=3), AdaptiveConfig(), sentries)


class TestCommand:
    WORDS = ("--eps", "0.1", "--num-steps", "4", "--judge-every", "2", "--num-rounds", "2", "--round-steps", "4")

    def run(self, place: Place, out: Path, *options: str) -> int:
        system, exp = place
        words = ["nnet-attack", "--lang-dir", str(system.lang.path), *self.WORDS, *options]
        return main([*words, str(exp.parent / "speech"), str(exp / "dnn"), str(exp / "dnn/graph"), str(out)])

    def lines(self, out: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]

    def test_lines_say_what_the_detectors_decide_about_the_files(self, place: Place, tmp_path: Path) -> None:
        results = tmp_path / "results.json"
        options = ("--statistics", "mean_predictive_entropy", "--attack", "adaptive-x", "--results", str(results))
        assert self.run(place, tmp_path / "attack", *options) == 0
        sentries = Sentries.fit(benign_of(place, "dnn"), AdaptiveConfig(statistics="mean_predictive_entropy"))
        lines = self.lines(tmp_path / "attack")
        for line in lines:
            decided: Mapping[str, Any] = sentries.record(line["statistics"])
            assert {name: line[name] for name in decided} == decided
            assert {"lambda", "rounds", "steps"} <= set(line)
        (row,) = json.loads(results.read_text())["attacks"]
        assert row["evasion"] == evasion(lines)
        assert row["adaptive"]["statistics"] == "mean_predictive_entropy"

    def test_another_search_or_another_fit_is_another_attack(self, place: Place, tmp_path: Path) -> None:
        fit = tmp_path / "fit.jsonl"
        shutil.copy(place[1] / "dnn/score_fit/results.jsonl", fit)
        options = ["--statistics", "mean_predictive_entropy", "--fit", str(fit)]
        stamps = []
        for change in ("", "", "rounds", "fit"):
            options += ["--num-rounds", "1"] if change == "rounds" else []
            if change == "fit":
                fit.write_text("".join(fit.read_text().splitlines(keepends=True)[:-1]))
            assert self.run(place, tmp_path / "attack", *options) == 0
            stamps.append((tmp_path / "attack/.done.attack").stat().st_mtime_ns)
        assert stamps[0] == stamps[1]
        assert len(set(stamps)) == 3

    @pytest.mark.parametrize(
        "options, message",
        [
            (["--statistics", "max_akld"], "the model has no statistic 'max_akld'; it has max_predictive_entropy"),
            (["--statistics", "all", "--fit", "nowhere"], "nowhere: no such file"),
            (["--statistics", "all", "--sided", "three"], "sided must be one, two or both, got 'three'"),
            (["--statistics", "all", "--nes-pairs", "2"], "leave one of them out"),
        ],
    )
    def test_a_mistake_is_named_before_any_work(
        self, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
    ) -> None:
        assert self.run(place, tmp_path / "attack", *options) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "attack/wav").exists()
