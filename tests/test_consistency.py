"""Rejection by consistency: the search near an utterance, its statistic as others are, the attack that knows it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kaldi_uq as uq
from kaldi_uq.attacks.config import ConsistentConfig, SearchConfig
from kaldi_uq.attacks.consistency import consistency, model_search
from kaldi_uq.attacks.consistent import Consistent, Nearby
from kaldi_uq.attacks.constraints import LInf
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.cli.main import main
from kaldi_uq.detector import GaussianDetector, fit_detectors
from kaldi_uq.detector.judge import judge
from kaldi_uq.errors import ModelFileError
from kaldi_uq.io.waves import pad
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.results.word_errors import align_words
from tests import tiny
from tests.toy import FRAME, ToyRecogniser, toy_waves

EPS = 0.2  # of attacks: the words are loud tones, and the floor is high
RADIUS = 0.02


def radii(who: ToyRecogniser, wave: np.ndarray) -> np.ndarray:
    """Within which distance each frame of the toy, which is linear, keeps its class: (T,)."""
    weights = who.model.weights.double()
    frames = torch.from_numpy(wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)).double()
    logits = frames @ weights.T
    best = logits.argmax(1)
    leads = logits.gather(1, best[:, None]) - logits
    norms = (weights[best][:, None] - weights[None]).abs().sum(2)
    return torch.where(norms > 0, leads / norms, torch.inf).amin(1).numpy()


def test_words_change_where_they_can_and_never_within_the_distance_of_a_linear_recogniser() -> None:
    who = ToyRecogniser()
    for utt, wave in toy_waves().items():
        near, far = radii(who, wave).min(), radii(who, wave).max()
        kept = consistency(who, {utt: wave}, eps=0.95 * float(near))[utt]
        assert kept.errors == 0 and kept.worst == kept.words and 0 < kept.value < 0.5  # every frame keeps a lead
        lost = consistency(who, {utt: wave}, eps=1.2 * float(far))[utt]
        assert lost.errors == align_words(lost.words, lost.worst).errors > 0
        assert lost.errors < lost.value < lost.errors + 1
        assert lost.value - lost.errors > 0.5  # the lead is lost


def test_it_hears_the_words_of_the_recogniser_and_grows_with_the_radius() -> None:
    who, waves = ToyRecogniser(), toy_waves()
    heard = who.hear(waves)
    before = dict.fromkeys(waves, 0.0)
    for eps in (1 / 40000, 0.02, 0.1):
        for utt, one in consistency(who, waves, eps=eps).items():
            assert one.words == heard[utt].words
            assert one.value > before[utt] or one.value == eps // (1 / 32768)  # less than a step: nothing to search
            before[utt] = one.value


def test_an_utterance_does_not_depend_on_the_batch_and_a_seed_gives_the_same_again() -> None:
    who, waves = ToyRecogniser(), toy_waves()
    config = SearchConfig(eps=0.03, num_starts=3, num_steps=6)
    together = consistency(who, waves, config)
    assert consistency(who, waves, config) == together == consistency(who, waves, config, alone=True)
    for utt, wave in waves.items():
        assert consistency(who, {utt: wave}, config)[utt] == together[utt]
    short = dataclasses.replace(config, num_steps=1)
    assert consistency(who, waves, short, seed=1) != consistency(who, waves, short)


def test_silence_is_searched_too() -> None:
    """Where no word is heard there is nothing to align: the classes of the frames are what is kept."""
    who = ToyRecogniser()
    weights = who.model.weights
    quiet = (0.05 * torch.linalg.pinv(weights)[:, 0]).repeat(6).numpy()  # class 0, the blank, in every frame
    found = consistency(who, {"a": quiet}, eps=0.05)["a"]
    assert found.words == () and found.errors == len(found.worst) > 0


def test_the_radius_goes_by_the_level_of_what_is_played() -> None:
    who, wave = ToyRecogniser(), toy_waves()["utt0"]
    level = float(np.sqrt(np.mean(wave.astype(np.float64) ** 2)))
    loud = consistency(who, {"a": wave}, eps=0.02, eps_level=level / 2)["a"]
    assert loud == consistency(who, {"a": wave}, eps=0.04)["a"] != consistency(who, {"a": wave}, eps=0.02)["a"]


def test_losses_of_whole_utterances_are_refused() -> None:
    with pytest.raises(ValueError, match="loss ctc is not of frames"):
        consistency(ToyRecogniser(), toy_waves(), loss="ctc")


def test_the_points_go_where_the_loss_is_larger_and_the_stall_is_the_gradients_own() -> None:
    """Against the closed form of a quadratic loss, (x - 1)^2 of each sample."""
    wav, sizes = torch.zeros(1, 4), torch.tensor([4])
    within = LInf(wav, sizes, 0.25)
    delta = torch.tensor([[0.5, 0.0, 1.5, 2.0]])

    def shares(at: torch.Tensor) -> torch.Tensor:
        return (at - 1).square()

    nearby = Nearby(torch.zeros(2, 1, 4), within, weight=torch.tensor([0.5]), stall=torch.zeros(1))
    loss, slope = nearby(shares, delta)
    torch.testing.assert_close(loss, 1.5 * shares(delta).sum(1))
    torch.testing.assert_close(slope, 1.5 * 2 * (delta - 1))
    torch.testing.assert_close(nearby.points, (0.0625 * (delta - 1).sign()).expand(2, 1, 4))
    for _ in range(9):
        nearby(shares, delta)
    assert float(nearby.points.abs().max()) == 0.25
    loss, slope = Nearby(torch.zeros(1, 1, 4), within, weight=torch.zeros(1), stall=torch.tensor([3.0]))(shares, delta)
    rise = 0.25 * 2 * (delta - 1).abs().sum(1)  # within the radius, to first order
    torch.testing.assert_close(loss, shares(delta).sum(1) + 3 * rise)
    torch.testing.assert_close(slope, 2 * (delta - 1) + 3 * 0.25 * 2 * (delta - 1).sign())


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> tiny.TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("consistency"))


@pytest.fixture(scope="module")
def robust(system: tiny.TinySystem) -> Recogniser:
    """The network behind a floor louder than what the search may add."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "FRONT_END", dataclasses.replace(tiny.FRONT_END, noise_floor=0.03))
        return system.recogniser(system.train("dnn"))


@pytest.fixture(scope="module")
def fragile(system: tiny.TinySystem) -> Recogniser:
    return system.recogniser(system.train("dnn"))


def speech(num_utts: int, seed: int = 5) -> dict[str, np.ndarray]:
    return tiny.make_waves(num_utts, seed)[0]


@pytest.mark.long
def test_stall_makes_the_gradient_smaller_with_which_a_search_begins(fragile: Recogniser) -> None:
    """Through a front end that can be differentiated once."""
    waves = speech(3)
    batch = pad(waves, tuple(waves))
    wav, sizes = torch.from_numpy(batch.wav), torch.from_numpy(batch.num_samples)
    passes, within = fragile.passes(sizes, batch.utts), LInf(wav, sizes, 0.004)

    def shares(perturbation: torch.Tensor) -> torch.Tensor:
        return -passes(wav + perturbation)[0, :, :, 1]

    def rise(delta: torch.Tensor) -> torch.Tensor:
        at = delta.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(shares(at).sum(), at)
        return slope.abs().sum(1)

    ends = []
    for stall in (torch.ones(3), torch.zeros(3)):
        gradient = Nearby(torch.zeros(1, *wav.shape), within, weight=torch.zeros(3), stall=stall)
        delta = torch.zeros_like(wav)
        for _ in range(20):
            delta = within.project(delta - 0.0004 * gradient(shares, delta)[1].sign())
        ends.append(rise(delta))
    assert (ends[0] < ends[1]).all(), ends


def test_a_robust_network_keeps_its_words_and_a_fragile_one_does_not(robust: Recogniser, fragile: Recogniser) -> None:
    waves = speech(8)
    errors = {who: [one.errors for one in consistency(who, waves, eps=RADIUS).values()] for who in (robust, fragile)}
    assert sum(e > 0 for e in errors[robust]) <= 1  # 0 here, and 8 of the other
    assert sum(e > 0 for e in errors[fragile]) >= 6


@pytest.mark.long
def test_attacks_are_refused_and_the_one_that_knows_is_more_consistent(robust: Recogniser) -> None:
    waves, targets = speech(8), {}
    for utt, heard in robust.hear(waves).items():
        targets[utt] = ["two"] if list(heard.words or ()) != ["two"] else ["one"]
    plain = PGD(eps=EPS, num_steps=30)(robust, waves, uq.Say(targets))
    options = {"search_eps": RADIUS, "hold_rounds": 2, "hold_steps": 20}
    knows = Consistent(eps=EPS, num_steps=30, **options)(robust, waves, uq.Say(targets))
    values = {}
    for name, made in (("clean", waves), ("plain", plain.waves), ("knows", knows.waves)):
        found = consistency(robust, made, eps=RADIUS)
        values[name] = {utt: one.value for utt, one in found.items()}
    reached = [
        utt
        for utt in waves
        if all(list(made.hear({utt: one.waves[utt]})[utt].words or ()) == targets[utt]
               for made, one in ((robust, plain), (robust, knows)))
    ]  # fmt: skip
    assert len(reached) >= 6
    table = {name: np.array([row[utt] for utt in reached]) for name, row in values.items()}
    assert (table["plain"] >= 1).mean() > (table["clean"] >= 1).mean() + 0.4  # the fixed rule: no word may change
    assert (table["knows"] <= table["plain"]).all() and table["knows"].mean() < table["plain"].mean() - 0.3
    for utt, record in knows.records.items():
        assert record["passes"] == (record["consistency"] < 1)
        assert np.abs(knows.waves[utt] - knows.originals[utt]).max() <= EPS


def test_the_attack_that_knows_needs_a_radius_and_a_target(fragile: Recogniser) -> None:
    with pytest.raises(ValueError, match="needs its radius"):
        Consistent()
    waves = speech(1)
    with pytest.raises(ValueError, match="holds a target"):
        Consistent(search_eps=RADIUS, num_steps=1)(fragile, waves, uq.Untargeted())


@pytest.mark.parametrize(
    ("options", "expected"), [({"stall": 1.0}, "leave it 0 for this model"), ({"eot_draws": "fixed"}, "must be fresh")]
)
def test_draws_would_hide_what_the_attack_that_knows_looks_at(
    system: tiny.TinySystem, options: dict[str, Any], expected: str
) -> None:
    who, waves = system.recogniser(HybridModel(tiny.FRONT_END, system.network("dropout"))), speech(1)
    attack = Consistent(search_eps=RADIUS, num_steps=1, **options)
    with pytest.raises(ValueError, match=expected):
        attack(who, waves, uq.Say(dict.fromkeys(waves, "two")))


def test_the_statistic_is_judged_as_others_are_but_not_together_with_them(fragile: Recogniser) -> None:
    benign = {"max_predictive_entropy": np.arange(30.0), "consistency": np.linspace(0.1, 0.4, 30)}
    found = fit_detectors(benign, 0.1)
    assert found["all-joint"].statistics == ("max_predictive_entropy",)
    detector = found["consistency-one-sided"]
    assert isinstance(detector, GaussianDetector)
    waves = speech(2)
    measured = {utt: one.statistics for utt, one in uq.consistency(fragile, waves, eps=RADIUS).items()}
    verdicts = judge(fragile, detector, waves, measured=measured)
    assert [v.attack for v in verdicts.values()] == [row["consistency"] > 0.38 for row in measured.values()]
    with pytest.raises(ModelFileError, match="the detector looks at 'consistency'"):
        judge(fragile, detector, waves)


@pytest.mark.long
def test_commands_add_it_to_scores_fit_it_and_judge_with_it(
    system: tiny.TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waves, text = tiny.make_waves(6, 9)
    data = tiny.write_set(tmp_path / "data", waves, text)
    model = system.write_model(system.train("dnn"), tmp_path / "dnn")
    scores = tmp_path / "dnn/score_fit"
    common = [str(data), str(model), str(model / "graph")]
    assert main(["nnet-decode", *common, str(scores)]) == 0
    search = ["nnet-consistency", *common, str(scores), "--eps", "0.0005", "--num-steps", "6"]
    assert main(search) == 0
    assert "more than 0 words change in" in capsys.readouterr().out
    lines = [json.loads(line) for line in (scores / "results.jsonl").read_text().splitlines()]
    config = SearchConfig(eps=0.0005, num_steps=6)
    assert model_search(model) == config
    expected = consistency(Recogniser.load(model), waves, config)
    assert {line["utt"]: line["statistics"]["consistency"] for line in lines} == {
        utt: one.value for utt, one in expected.items()
    }
    assert main(search[:-4]) == 0  # the options are the model's
    assert main([*search[:-4], "--eps", "0.1"]) == 1
    assert "other options: eps 0.0005, not 0.1" in capsys.readouterr().err
    lang = ["--lang-dir", str(system.lang.path)]
    attack = ["nnet-attack", *common, str(model / "attack_x_eps0.1"), *lang, "--eps", "0.1"]
    attack += ["--num-steps", "5", "--search-eps", "0.0005", "--hold-rounds", "1", "--hold-steps", "3"]
    assert main(attack) == 0
    assert "evasion" in capsys.readouterr().out
    folder = str(model / "attack_x_eps0.1")
    assert main(["nnet-consistency", folder, *common[1:], folder]) == 0
    assert main(["fit-detector", str(model), "--scored", str(scores / "results.jsonl")]) == 0
    results = tmp_path / "results.json"
    measure = ["nnet-detect", "--benign", str(scores / "results.jsonl"), "--attacked", f"{folder}/results.jsonl"]
    measure += ["--model", "dnn", "--attack", "x", "--eps", "0.1", "--results", str(results)]
    assert main([*measure, "--detector-dir", str(model / "detector")]) == 0
    assert "consistency" in results.read_text()
    capsys.readouterr()
    wav = str(data / "wav/utt00.wav")
    assert main(["detect", str(model), wav, "--statistic", "consistency-one-sided", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    alone = consistency(Recogniser.load(model), {"": waves["utt00"]}, config)[""]
    assert said["value"] == pytest.approx(alone.value, rel=0.1)  # signs of gradients may round otherwise
    assert main(["detect", str(model), wav]) == 0  # all statistics do without it
    (model / "consistency.json").unlink()
    assert main(["detect", str(model), wav, "--statistic", "consistency-one-sided"]) == 1
    assert "nnet-consistency writes it" in capsys.readouterr().err
    known = ["attack", wav, "--model-dir", str(model), "--target-text", "one", "--out", str(tmp_path / "o.wav")]
    assert main([*known, *lang, "--statistics", "consistency"]) == 1
    assert "--search-eps passes it" in capsys.readouterr().err


def test_the_preset_of_a_recipe_is_of_this_attack() -> None:
    from kaldi_uq.config import read_option_file
    from tests.conftest import REPO

    path = REPO / "recipes/tidigits/conf/consistent.conf"
    known = {f.name: {"str": str, "float": float, "int": int, "bool": bool}[str(f.type)]
             for f in dataclasses.fields(ConsistentConfig)}  # fmt: skip
    assert Consistent(**read_option_file(path, known)).own.search.eps == 0.01
