"""The attack that knows the detector: its penalty, its search for lambda, and what it does to a whole recogniser.

One file: penalty, search and attack are checked on the same trained recogniser, which takes seconds to make.
"""

from __future__ import annotations

import argparse
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

from kaldi_uq.attacks.adaptive import Adaptive, LambdaSearch, Penalised
from kaldi_uq.attacks.batch import Batch
from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.attacks.directory import craft, evasion, score_examples
from kaldi_uq.attacks.goal import CrossEntropy, Say
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.attacks.sentries import Sentries
from kaldi_uq.cli.attack_options import detectors_to_pass
from kaldi_uq.cli.main import main
from kaldi_uq.detector import GaussianDetector, JointDetector, OneClassDetector, fit_detectors, save_detectors
from kaldi_uq.errors import DataError, UsageError
from kaldi_uq.io import waves as io_waves
from kaldi_uq.io.wav import read_wav
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.results.word_errors import align_words
from kaldi_uq.uncertainty import measures_from_draws, utterance_statistics
from tests import tiny
from tests.tiny import write_set

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


def detectors_of(benign: Mapping[str, np.ndarray], options: AdaptiveConfig) -> list[OneClassDetector]:
    """Gaussians as the defender fits them, of the statistics and the sides of a configuration."""
    sides = {"one": (False,), "two": (True,), "both": (True, False)}[options.sided]
    return [
        GaussianDetector(two_sided=two_sided, statistic=name).fit(benign).calibrate(options.fpr, benign)
        for name in options.names
        for two_sided in sides
    ]


def sentries_of(benign: Mapping[str, np.ndarray], options: AdaptiveConfig) -> Sentries:
    return Sentries.of(detectors_of(benign, options), aim=options.aim)


class TestPenalty:
    @pytest.mark.long
    @pytest.mark.parametrize("sided", ["one", "two", "both"])
    @pytest.mark.parametrize("statistic", [*STATISTICS, ",".join(STATISTICS)])
    def test_gradient_is_that_of_finite_differences(self, statistic: str, sided: str) -> None:
        sentries = sentries_of(benign_statistics(scale=0.3), AdaptiveConfig(statistics=statistic, sided=sided))

        def penalty(logits: Tensor) -> Tensor:
            return sentries.penalty(logits.log_softmax(-1), LENGTHS)

        logits = random_draws(99, 2.0).requires_grad_(True)
        assert (penalty(logits) > 0).all() or sided == "one"
        assert torch.autograd.gradcheck(penalty, logits, atol=1e-4)

    @pytest.mark.parametrize("scale", [0.1, 4.0])  # less certain than benign speech, and more
    @pytest.mark.long
    def test_of_the_joint_detector_it_has_the_gradient_that_leads_back_to_the_aim(self, scale: float) -> None:
        benign = benign_statistics()
        sentries = Sentries.of([JointDetector().fit(benign).calibrate(0.01)])

        def penalty(logits: Tensor) -> Tensor:
            return sentries.penalty(logits.log_softmax(-1), LENGTHS)

        logits = random_draws(98, scale).requires_grad_(True)
        before = penalty(logits)
        assert (before > 0).all() and torch.autograd.gradcheck(penalty, logits, atol=1e-4, rtol=1e-2)
        optimiser = torch.optim.Adam([logits], lr=0.03)
        for _ in range(300):
            optimiser.zero_grad()
            penalty(logits).sum().backward()
            optimiser.step()
        assert (sentries.excess(statistics_of(logits.detach().log_softmax(-1))) <= 0).all()

    @pytest.mark.long
    @pytest.mark.parametrize("sided", ["one", "two", "both"])
    def test_it_is_zero_at_the_aim_and_below_and_grows_above(self, sided: str) -> None:
        benign = benign_statistics()
        for statistic in STATISTICS:
            sentries = sentries_of(benign, AdaptiveConfig(statistics=statistic, sided=sided))
            for seed in range(30):
                draws = random_draws(seed).log_softmax(-1)
                aimed = sentries.excess(statistics_of(draws), aim=True)
                penalty = sentries.penalty(draws, LENGTHS)
                assert (penalty[aimed > 0] > 0).all()
                is_frames = not statistic.startswith("mean") and statistic != "q95_mutual_information"
                if is_frames or statistic.startswith("mean"):  # some frames lie above a quantile
                    assert (penalty[aimed <= 0] == 0).all()

    def test_padding_has_no_part_in_it(self) -> None:
        sentries = sentries_of(benign_statistics(scale=0.3), AdaptiveConfig(statistics=",".join(STATISTICS)))
        logits = random_draws(5, 2.0)
        other = logits.clone()
        other[:, 1, 6:] = 7.0 * random_draws(6)[:, 1, 6:]
        assert torch.equal(
            sentries.penalty(logits.log_softmax(-1), LENGTHS), sentries.penalty(other.log_softmax(-1), LENGTHS)
        )

    def test_of_a_maximum_it_reaches_every_frame_above_the_aim(self) -> None:
        benign = benign_statistics(scale=6.0)  # certain, so that all frames of uncertain audio are above
        sentries = sentries_of(benign, AdaptiveConfig(statistics="max_predictive_entropy", aim=0.01))
        logits = random_draws(3, 0.5).requires_grad_(True)
        (slope,) = torch.autograd.grad(sentries.penalty(logits.log_softmax(-1), LENGTHS).sum(), logits)
        assert (slope[:, 0].abs().sum((0, 2)) > 0).all()

    def test_a_two_sided_detector_is_not_passed_by_certainty(self) -> None:
        benign = benign_statistics(scale=0.3)
        for sided, certain in (("one", 0.0), ("two", 1.0)):
            sentries = sentries_of(benign, AdaptiveConfig(statistics="max_predictive_entropy", sided=sided))
            draws = (100.0 * torch.eye(5, dtype=torch.float64)[torch.zeros(3, 2, 9, dtype=torch.long)]).log_softmax(-1)
            assert ((sentries.penalty(draws, LENGTHS) > 0) == bool(certain)).all()
            assert ((sentries.excess(statistics_of(draws)) > 0) == bool(certain)).all()


class TestPenalised:
    def test_penalty_is_added_with_the_weight_of_each_utterance(self) -> None:
        sentries = sentries_of(benign_statistics(scale=0.3), AdaptiveConfig(statistics="max_predictive_entropy"))
        draws, weight = random_draws(5, 2.0).log_softmax(-1), torch.tensor([0.0, 3.0], dtype=torch.float64)
        goal = CrossEntropy(torch.zeros(2, 9, dtype=torch.int64), LENGTHS)
        both = Penalised(goal, sentries, weight)
        rows = torch.arange(2)
        added = both.shares(draws, rows) - goal.shares(draws, rows)
        torch.testing.assert_close(added.sum(1), weight * sentries.penalty(draws, LENGTHS))
        assert added[1, :6].abs().min() > 0
        assert not added[1, 6:].any()

    def test_part_of_a_batch_keeps_its_weight_and_its_targets(self) -> None:
        sentries = sentries_of(benign_statistics(scale=0.3), AdaptiveConfig(statistics="max_predictive_entropy"))
        draws = random_draws(5, 2.0).log_softmax(-1)
        goal = CrossEntropy(torch.randint(5, (2, 9)), LENGTHS)
        both = Penalised(goal, sentries, torch.tensor([1.0, 3.0]))
        rows = torch.tensor([1])
        expected = both.shares(draws[:, rows], rows)
        torch.testing.assert_close(both.select(rows).shares(draws[:, rows], torch.tensor([0])), expected)

    def test_it_follows_as_its_goal_does(self) -> None:
        class Following(CrossEntropy):
            follows = True
            seen = 0

            def follow(self, log_mean_post: Tensor, rows: Tensor) -> None:
                self.seen += len(rows)

        sentries = sentries_of(benign_statistics(), AdaptiveConfig(statistics="max_variance"))
        goals = [kind(torch.zeros(2, 9, dtype=torch.int64), LENGTHS) for kind in (CrossEntropy, Following)]
        assert [Penalised(goal, sentries, torch.zeros(2)).follows for goal in goals] == [False, True]
        Penalised(goals[1], sentries, torch.zeros(2)).follow(torch.zeros(2, 9, 5), torch.arange(2))
        assert goals[1].seen == 2


class TestSentries:
    def test_they_decide_as_the_detectors_of_the_defender(self) -> None:
        benign = benign_statistics()
        sentries = sentries_of(benign, AdaptiveConfig(statistics=",".join(STATISTICS), sided="both", fpr=0.03))
        assert len(sentries.members) == 2 * len(STATISTICS)
        table = {name: torch.from_numpy(values) for name, values in benign.items()}
        passes = sentries.excess(table) <= 0
        for row in range(len(passes)):
            record = sentries.record({name: float(values[row]) for name, values in benign.items()})
            caught = any(m.detector.is_attack(benign)[row] for m in sentries.members)
            assert bool(passes[row]) == record["passes"] == (record["excess"] <= 0) == (not caught)
        assert 0 < int((~passes).sum()) < len(passes) / 4

    def test_there_has_to_be_one_with_a_threshold(self) -> None:
        with pytest.raises(ValueError, match="needs at least one detector"):
            Sentries.of([])
        with pytest.raises(ValueError, match=r"GaussianDetector has no threshold; call calibrate\(\) first"):
            Sentries.of([GaussianDetector().fit([1.0, 2.0, 3.0])])

    def test_aim_is_never_above_the_threshold(self) -> None:
        config = AdaptiveConfig(statistics="max_akld", fpr=0.4, aim=0.9)
        (member,) = sentries_of(benign_statistics(), config).members
        assert member.aim == member.detector.threshold


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
        model_dir = system.write_model(system.train(kind), folder / "exp" / kind)
        (model_dir / "score_fit").mkdir()
        with open(model_dir / "score_fit/results.jsonl", "w", encoding="utf-8") as stream:
            for utt, one in recogniser_of((system, folder / "exp"), kind).hear(benign, seed=5).items():
                errors = align_words(text[utt], text[utt]).counts()
                line = {"utt": utt, "text": " ".join(text[utt]), "hypothesis": "", "errors": errors}
                stream.write(json.dumps(line | {"statistics": one.statistics}) + "\n")
    write_set(folder / "speech", *speech())
    return system, folder / "exp"


@pytest.fixture
def copy(place: Place, tmp_path: Path) -> Place:
    """A copy of exp/dnn, to change."""
    shutil.copytree(place[1] / "dnn", tmp_path / "copy/exp/dnn")
    write_set(tmp_path / "copy/speech", *speech())
    return place[0], tmp_path / "copy/exp"


def speech() -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    return tiny.make_waves(6, seed=31)


def benign_of(place: Place, kind: str) -> dict[str, np.ndarray]:
    lines = [json.loads(line) for line in open(place[1] / kind / "score_fit/results.jsonl", encoding="utf-8")]
    return {name: np.array([line["statistics"][name] for line in lines]) for name in lines[0]["statistics"]}


def recogniser_of(place: Place, kind: str) -> Recogniser:
    return Recogniser.load(place[1] / kind, lang_dir=place[0].lang.path, engine=place[0].engine, device="cpu")


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
    recogniser, (waves, text) = recogniser_of(place, kind), speech()
    detectors = detectors_of(benign_of(place, kind), adaptive)
    attack = Adaptive(detectors, config, search=adaptive)
    made = craft(attack if knows else PGD(config), recogniser, waves, Say(targets, spoken=text), out)
    wanted = {utt: record["target"] for utt, record in made.records.items()}
    lines = score_examples(recogniser, waves, made.waves, wanted, text, seed=9)
    return [{**made.records[line["utt"]], **line, **attack.record(line["statistics"])} for line in lines]


def heard(out: Path) -> dict[str, np.ndarray]:
    return {path.stem: read_wav(path, expected_rate=tiny.RATE)[0] for path in sorted((out / "wav").iterdir())}


class TestAttack:
    @pytest.mark.long
    @pytest.mark.parametrize(
        "kind, statistics, sided, eps, way",
        [
            ("dnn", "mean_predictive_entropy", "two", 0.1, "penalty"),
            ("dnn", "mean_predictive_entropy", "two", 0.1, "orthogonal"),
            ("dnn", "max_predictive_entropy", "both", 0.1, "penalty"),
            ("ensemble", "max_mutual_information", "two", 0.05, "penalty"),
            ("ensemble", "max_mutual_information,max_predictive_entropy", "two", 0.05, "selective"),
        ],
    )
    def test_it_passes_more_often_than_the_attack_that_does_not_know_the_detector(
        self, place: Place, tmp_path: Path, kind: str, statistics: str, sided: str, eps: float, way: str
    ) -> None:
        adaptive = AdaptiveConfig(statistics=statistics, sided=sided, num_rounds=4, round_steps=30, way=way)
        config = replace(CONFIG, num_steps=60, eps=eps)
        blind = lines_of(place, kind, tmp_path / "blind", config, adaptive, knows=False)
        lines = lines_of(place, kind, tmp_path / "adaptive", config, adaptive)
        assert evasion(lines) > evasion(blind)
        for one, other in zip(heard(tmp_path / "adaptive").values(), speech()[0].values(), strict=True):
            assert np.abs(one - other).max() <= eps

    @pytest.mark.parametrize(
        "kind, statistic, way",
        [
            ("bnn", "mean_akld", "penalty"),
            ("dropout", "mean_mutual_information", "penalty"),
            ("dropout", "mean_mutual_information", "selective"),
        ],
    )
    @pytest.mark.long
    def test_random_models_are_attacked_through_several_draws(
        self, place: Place, tmp_path: Path, kind: str, statistic: str, way: str
    ) -> None:
        # a detector that calls a fifth of the clean audio an attack
        adaptive = AdaptiveConfig(
            statistics=statistic, sided="one", fpr=0.2, aim=0.2, num_rounds=5, round_steps=40, num_scorings=2, way=way
        )
        config = replace(CONFIG, num_steps=60, eot_samples=10, eps=0.3)
        targets = {utt: [*words[:-1], "two"] for utt, words in speech()[1].items()}  # near, so that they are reached
        blind = lines_of(place, kind, tmp_path / "blind", config, adaptive, knows=False, targets=targets)
        lines = lines_of(place, kind, tmp_path / "adaptive", config, adaptive, targets=targets)
        assert evasion(lines) >= evasion(blind)
        assert np.mean([x["excess"] for x in lines]) < np.mean([x["excess"] for x in blind]) - 0.5
        with pytest.raises(ValueError, match=r"is of several draws: set eot_samples to 2 or more"):
            lines_of(place, kind, tmp_path / "one", replace(config, eot_samples=1), adaptive)

    @pytest.mark.long
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
    def test_a_detector_that_cannot_be_passed_ends_cleanly(self, place: Place, change: str) -> None:
        benign = benign_of(place, "dnn")
        adaptive = AdaptiveConfig(statistics="max_predictive_entropy", num_rounds=3, round_steps=5, lambda_max=20.0)
        values = benign["max_predictive_entropy"]
        benign["max_predictive_entropy"] = 0 * values + 0.1 if change == "constant" else values - 50.0
        waves, text = speech()
        attack = Adaptive(detectors_of(benign, adaptive), CONFIG, search=adaptive)
        made = attack(recogniser_of(place, "dnn"), waves, Say(spoken=text))
        for record in made.records.values():
            assert record["rounds"] == 3
            assert not record["passes"]
            assert record["excess"] > 0
            json.dumps(record, allow_nan=False)

    def test_nothing_to_change_is_no_error(self, place: Place, tmp_path: Path) -> None:
        adaptive = AdaptiveConfig(statistics="max_predictive_entropy", num_rounds=2)
        lines_of(place, "dnn", tmp_path, replace(CONFIG, eps=0.0), adaptive)
        for utt, wave in heard(tmp_path).items():
            assert np.array_equal(wave, speech()[0][utt])

    @pytest.mark.long
    @pytest.mark.parametrize("kind", ["dnn", "bnn"])
    def test_a_killed_run_resumes_to_the_same_files(
        self, place: Place, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def plan(_: BaseRecogniser, waves: Mapping[str, np.ndarray]) -> Any:
            return io_waves.plan_waves(waves, max_samples=20000)

        monkeypatch.setattr(BaseRecogniser, "plan", plan)
        adaptive = AdaptiveConfig(statistics="max_predictive_entropy", num_rounds=2, round_steps=4)
        config = replace(CONFIG, num_steps=4, judge_every=2, eot_samples=2 if kind == "bnn" else 1)
        whole = lines_of(place, kind, tmp_path / "whole", config, adaptive)
        assert len(list((tmp_path / "whole/parts").iterdir())) > 1
        calls: list[int] = []
        original = Adaptive.on_batch

        def killed(attack: Adaptive, batch: Batch) -> Any:
            calls.append(len(batch.utts))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return original(attack, batch)

        monkeypatch.setattr(Adaptive, "on_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            lines_of(place, kind, tmp_path / "killed", config, adaptive)
        assert lines_of(place, kind, tmp_path / "killed", config, adaptive) == whole
        assert len(calls) == 1 + len(list((tmp_path / "whole/parts").iterdir()))
        one, other = heard(tmp_path / "whole"), heard(tmp_path / "killed")
        assert all(np.array_equal(one[utt], other[utt]) for utt in one)


class TestDetectorsToPass:
    def chosen(self, place: Place, fit: Path | None, adaptive: AdaptiveConfig) -> list[OneClassDetector]:
        return detectors_to_pass(argparse.Namespace(model_dir=place[1] / "dnn", fit=fit), adaptive)

    def test_they_are_those_that_the_defender_fits_on_the_same_scores(self, place: Place) -> None:
        fit, benign = place[1] / "dnn/score_fit/results.jsonl", benign_of(place, "dnn")
        options = AdaptiveConfig(statistics="max_predictive_entropy,mean_expected_entropy", sided="both", fpr=0.05)
        found, expected = self.chosen(place, fit, options), detectors_of(benign, options)
        assert [(d.statistics, d.sided, d.threshold) for d in found] == [
            (d.statistics, d.sided, d.threshold) for d in expected
        ]
        assert all(one.benign_score(0.5) == other.benign_score(0.5) for one, other in zip(found, expected, strict=True))

    def test_all_stands_for_every_statistic_and_an_unknown_one_is_named(self, place: Place) -> None:
        fit, benign = place[1] / "dnn/score_fit/results.jsonl", benign_of(place, "dnn")
        assert [d.statistics for d in self.chosen(place, fit, AdaptiveConfig(statistics="all"))] == [
            (name,) for name in benign
        ]
        with pytest.raises(DataError, match=r"results\.jsonl: no detector 'max_akld'; there are max_predictive_ent"):
            self.chosen(place, fit, AdaptiveConfig(statistics="max_akld"))

    def test_those_of_the_model_are_taken_where_no_scores_are_named(self, copy: Place) -> None:
        save_detectors(copy[1] / "dnn/detector", fit_detectors(benign_of(copy, "dnn"), 0.02))
        (joint,) = self.chosen(copy, None, AdaptiveConfig(statistics="all-joint", fpr=0.02))
        assert isinstance(joint, JointDetector)
        (kde,) = self.chosen(copy, None, AdaptiveConfig(statistics="all-kde", fpr=0.02))
        assert kde.kind == "kde"
        (gaussian,) = self.chosen(copy, None, AdaptiveConfig(statistics="max_predictive_entropy", fpr=0.02))
        assert (gaussian.kind, gaussian.sided) == ("gaussian", "two")
        with pytest.raises(UsageError, match=r"false-positive rate of 0\.02, --fpr asks for 0\.01"):
            self.chosen(copy, None, AdaptiveConfig(statistics="all"))


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
        fit = str(place[1] / "dnn/score_fit/results.jsonl")
        options = ("--statistics", "mean_predictive_entropy", "--fit", fit, "--attack", "adaptive-x")
        options += ("--results", str(results), "--way", "selective", "--eps-level", "0.05")
        assert self.run(place, tmp_path / "attack", *options) == 0
        sentries = sentries_of(benign_of(place, "dnn"), AdaptiveConfig(statistics="mean_predictive_entropy"))
        lines = self.lines(tmp_path / "attack")
        for line in lines:
            decided: Mapping[str, Any] = sentries.record(line["statistics"])
            assert {name: line[name] for name in decided} == decided
            assert {"lambda", "rounds", "steps"} <= set(line)
        (row,) = json.loads(results.read_text())["attacks"]
        assert row["evasion"] == evasion(lines)
        assert row["adaptive"]["statistics"] == "mean_predictive_entropy"
        assert (row["adaptive"]["way"], row["fpr"], row["eps_level"]) == ("selective", 0.01, 0.05)
        assert all(line["eps"] == 0.1 != line["eps_used"] > 0 for line in lines)
        assert sum(of["num_utts"] for of in row["by_speaker"].values()) == len(lines)

    @pytest.mark.long
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

    def test_other_detectors_of_the_model_are_another_attack(self, copy: Place, tmp_path: Path) -> None:
        benign = benign_of(copy, "dnn")
        stamps = []
        for number in (40, 40, 30):
            few = {name: values[:number] for name, values in benign.items()}
            save_detectors(copy[1] / "dnn/detector", fit_detectors(few, compare=False))
            assert self.run(copy, tmp_path / "attack", "--statistics", "mean_predictive_entropy") == 0
            stamps.append((tmp_path / "attack/.done.attack").stat().st_mtime_ns)
        assert stamps[0] == stamps[1] != stamps[2]

    @pytest.mark.parametrize(
        "options, message",
        [
            (["--statistics", "max_akld", "--fit", "FIT"], "no detector 'max_akld'; there are max_predictive_entropy"),
            (["--statistics", "all", "--fit", "nowhere"], "nowhere: no such file"),
            (["--statistics", "all", "--nes-pairs", "2"], "adaptive (statistics) or black_box (nes_pairs): leave one"),
        ],
    )
    def test_a_mistake_is_named_before_any_work(
        self, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
    ) -> None:
        fit = str(place[1] / "dnn/score_fit/results.jsonl")
        assert self.run(place, tmp_path / "attack", *(fit if word == "FIT" else word for word in options)) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "attack/wav").exists()
