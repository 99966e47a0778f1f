"""The attack that succeeds first and hides afterwards, on a whole small recogniser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kaldi_uq.attacks.craft import Attacker
from kaldi_uq.attacks.evaluation import evaluate_examples
from kaldi_uq.attacks.methods import make_strategy
from kaldi_uq.attacks.problem import Strategy, plain
from kaldi_uq.attacks.psychoacoustic import hide

from kaldi_uq.attacks.config import AdaptiveConfig, AttackConfig
from kaldi_uq.audio.quality import measure_all
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.io.wav import read_wav
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.training.config import TrainConfig
from tests import tiny

CONFIG = AttackConfig(
    eps=0.1, num_steps=60, step_rule="apgd", realign_every=10, judge_every=5, early_stop=True, hide_steps=40
)
OTHER = {"one": "two", "two": "three", "three": "one"}
Waves = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=["dnn", "dropout"])
def attacker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Attacker:
    """On a trained network."""
    folder = tmp_path_factory.mktemp(request.param)
    system = tiny.make_system(folder, num_utts=24)
    out = folder / request.param
    config = TrainConfig(num_epochs=8, num_viterbi_epochs=1, batch_size=32, learning_rate=0.01)
    system.trainer(out, HybridModel(tiny.FRONT_END, system.network(request.param)), config).run()
    system.engine.make_graph(system.lang, out, out / "graph", **tiny.GRAPH_SCALES)
    model = HybridModel.load(out)
    return Attacker.of_recipe(model, system.engine, out, system.lang, DecodeConfig(), graph_dir=out / "graph")


def attack(
    attacker: Attacker, out: Path, config: AttackConfig, strategy: Strategy
) -> tuple[Waves, Waves, dict[str, dict[str, Any]]]:
    """Originals, attacked waveforms and records."""
    waves, text = tiny.make_waves(6, seed=31)
    # one word is another one: random targets are beyond so small a recogniser
    targets = {utt: [OTHER[words[0]], *words[1:]] for utt, words in text.items()}
    records = attacker.craft(waves, text, config, out, targets=targets, strategy=strategy)
    return waves, {utt: read_wav(out / "wav" / f"{utt}.wav")[0] for utt in waves}, records


def ratio_db(original: np.ndarray, attacked: np.ndarray) -> float:
    found = measure_all([original], [attacked], tiny.RATE)[0]["masking_margin_db"]
    assert found is not None
    return found


def test_success_is_kept_and_what_was_added_is_better_hidden(attacker: Attacker, tmp_path: Path) -> None:
    waves, first, _ = attack(attacker, tmp_path / "first", replace(CONFIG, hide_steps=0), plain)
    _, hidden, records = attack(attacker, tmp_path / "hidden", CONFIG, hide)
    succeeded = [utt for utt in waves if records[utt]["masking_margin_db_first"] is not None]
    assert len(succeeded) >= 4
    before, after = ([ratio_db(waves[utt], attacked[utt]) for utt in succeeded] for attacked in (first, hidden))
    if not attacker.recogniser.model.network.is_random:  # else the first phase has had other draws
        assert before == pytest.approx([records[utt]["masking_margin_db_first"] for utt in succeeded], abs=0.1)
        assert all(b >= a for b, a in zip(before, after, strict=True))
    assert np.mean(before) - np.mean(after) > 3
    assert max(float(np.abs(hidden[utt] - waves[utt]).max()) for utt in waves) <= CONFIG.eps
    who = attacker.recogniser
    assert who.graph_dir is not None
    targets = {utt: records[utt]["target"] for utt in waves}
    text = {utt: ["one"] for utt in waves}
    lines = evaluate_examples(
        who.model, who.engine, who.model_dir, who.graph_dir, who.decode, waves, hidden, targets, text, seed=7
    )
    heard = {line["utt"]: line["target_success"] for line in lines}
    # on the edge of success the three draws of this small random model do not always agree with three others
    lost = sum(not heard[utt] for utt in succeeded)
    assert lost <= (len(succeeded) // 2 if who.model.network.is_random else 0)


def test_what_cannot_be_reached_is_left_as_the_first_phase_left_it(attacker: Attacker, tmp_path: Path) -> None:
    config = replace(CONFIG, eps=1e-4, num_steps=2, judge_every=1)
    _, first, _ = attack(attacker, tmp_path / "first", replace(config, hide_steps=0), plain)
    _, hidden, records = attack(attacker, tmp_path / "hidden", config, hide)
    lost = [utt for utt in first if records[utt]["masking_margin_db_first"] is None]
    assert len(lost) >= 4
    assert all(records[utt]["steps"] == 2 for utt in lost)
    if not attacker.recogniser.model.network.is_random:
        assert all(np.array_equal(first[utt], hidden[utt]) for utt in lost)


def test_configuration_chooses_it_and_one_strategy_only() -> None:
    assert make_strategy(CONFIG, AdaptiveConfig()) is hide
    with pytest.raises(ValueError, match=r"black box \(nes_pairs\) or psychoacoustic \(hide_steps\)"):
        make_strategy(replace(CONFIG, nes_pairs=5), AdaptiveConfig())
